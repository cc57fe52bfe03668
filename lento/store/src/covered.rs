//! The way to a directory that a mount covers which nobody serves, without taking that mount away.

use crate::sys;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Opens the directory of a store that a mount covers, in the mount in which that directory lies.
///
/// # Errors
/// `EXDEV` if what is covered is itself a mount, of another file system: then it cannot be reached, and what is found
/// is no store. Else what the system says.
pub fn open_covered(dir: &Path) -> io::Result<OwnedFd> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let parent = open(parent, flags, Mode::empty())?;
    // A copy of the parent's mount has nothing mounted in it.
    let bare = sys::clone_mount(parent.as_fd())?;
    let found = openat(&bare, name, flags | OFlag::O_NOFOLLOW, Mode::empty())?;
    if openat(&found, ".intermezzo", flags | OFlag::O_NOFOLLOW, Mode::empty()).is_err() {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    // The same directory once more, in the mount that everybody sees: by which mount it was last used is remembered.
    let (handle, _) = sys::handle_of(found.as_fd())?;
    sys::open_handle(parent.as_fd(), handle, flags)
}
