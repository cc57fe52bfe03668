//! System calls on the bottom that `std` and `nix` lack or make slower, as safe functions over descriptors.

mod cred;
mod handle;
mod mount;
mod stat;
mod xattr;

pub(crate) use cred::{As, Umask, as_caller, prepare_process, set_fsetid, without_fsetid};
pub(crate) use handle::Bottom;
pub(crate) use mount::{FuseMount, NODEV, NOEXEC, NOSUID, Place, RDONLY};
pub(crate) use stat::{Stat, chmod, now, set_times, stat_at, stat_fd};
pub(crate) use xattr::{XattrTarget, get_xattr, list_xattrs, remove_xattr, set_xattr};

use nix::errno::Errno;
use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

/// A name or path as the system calls take it.
///
/// # Errors
/// `EINVAL` if it holds a NUL, which no name from the kernel does.
pub(crate) fn c_string(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

/// A `flock` of an open file, until it is dropped. The file stays open: closing it would not do, where it is shared.
#[derive(Debug)]
pub(crate) struct Locked<'a>(BorrowedFd<'a>);

impl<'a> Locked<'a> {
    /// Takes the exclusive lock; `None` if another process has it.
    pub(crate) fn try_new(file: &'a impl AsFd) -> Result<Option<Self>, Errno> {
        let fd = file.as_fd();
        // SAFETY: plain integers.
        match check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }.into()) {
            Ok(_) => Ok(Some(Self(fd))),
            Err(Errno::EWOULDBLOCK) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: plain integers. It fails for no lock that is held.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
    }
}

/// The result of a system call that returns -1 on failure.
pub(crate) fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 { Err(Errno::last()) } else { Ok(result) }
}
