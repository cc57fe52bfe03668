//! Walks over a whole file set: adoption, rebuilding of the index, and taking all identities away.

use crate::bottom::Bottom;
use crate::error::StoreError;
use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;
use protocol::{Handle, Kind, Name, ObjectId};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

/// One entry that a walk came by.
pub(crate) struct Found<'a> {
    /// The directory it is in.
    pub(crate) parent: ObjectId,
    /// Its name there.
    pub(crate) name: &'a Name,
    /// Open with `O_PATH`.
    pub(crate) fd: BorrowedFd<'a>,
    /// Its handle.
    pub(crate) handle: Handle,
    /// Its attributes.
    pub(crate) stat: FileStat,
}

/// Visits every entry below the root but `.intermezzo`; an object with several links comes several times. `visit` says
/// which object it is. Memory is used for directories that are yet to be read only.
pub(crate) fn walk(
    bottom: &Bottom,
    mut visit: impl FnMut(&Found<'_>) -> Result<ObjectId, StoreError>,
) -> Result<(), StoreError> {
    let mut directories = vec![(ObjectId::ROOT, bottom.root_handle())];
    while let Some((parent, handle)) = directories.pop() {
        let what = || format!("reading directory {parent}");
        let dir = match bottom.open(handle, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(dir) => dir,
            // It was removed since it was found.
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) => continue,
            Err(e) => return Err(StoreError::io(what())(e)),
        };
        for entry in bottom.read_dir(dir.as_fd()).map_err(StoreError::io(what()))? {
            let name = entry.map_err(StoreError::io(what()))?.name;
            let failed = |e: io::Error| match e.raw_os_error() {
                Some(libc::EXDEV) => StoreError::SubMount { path: shown(dir.as_fd(), &name) },
                _ => StoreError::io(format!("examining {:?}", shown(dir.as_fd(), &name)))(e),
            };
            let fd = match bottom.open_at(dir.as_fd(), &name, OFlag::O_PATH) {
                Ok(fd) => fd,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(e)),
            };
            let handle = bottom.handle(fd.as_fd()).map_err(failed)?;
            let stat = bottom.stat(fd.as_fd()).map_err(failed)?;
            let directory = Kind::from_mode(stat.st_mode) == Some(Kind::Directory);
            let id = visit(&Found { parent, name: &name, fd: fd.as_fd(), handle, stat })?;
            if directory {
                directories.push((id, handle));
            }
        }
    }
    Ok(())
}

/// An entry's path, for messages only.
pub(crate) fn shown(dir: BorrowedFd<'_>, name: &Name) -> PathBuf {
    shown_path(dir).join(name.as_os_str())
}

/// An open object's path, for messages only.
pub(crate) fn shown_path(fd: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// Removes a directory's whole content, symbolic links themselves and not what they point to.
pub(crate) fn remove_below(dir: BorrowedFd<'_>) -> io::Result<()> {
    use crate::bottom::{c_name, open_dir};
    use nix::unistd::{UnlinkatFlags, unlinkat};
    // Depth first with one descriptor a level would end at the limit of descriptors, so what is deep is moved up.
    loop {
        let mut deep = Vec::new();
        for entry in nix::dir::Dir::from_fd(open_dir(dir, c".")?)?.into_iter() {
            let entry = entry?;
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else { continue };
            match unlinkat(dir, &*c_name(&name), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(nix::Error::ENOENT) => {}
                Err(nix::Error::EISDIR) => match unlinkat(dir, &*c_name(&name), UnlinkatFlags::RemoveDir) {
                    Ok(()) | Err(nix::Error::ENOENT) => {}
                    Err(nix::Error::ENOTEMPTY) => deep.push(name),
                    Err(errno) => return Err(errno.into()),
                },
                Err(errno) => return Err(errno.into()),
            }
        }
        if deep.is_empty() {
            return Ok(());
        }
        for name in deep {
            raise_directories(dir, &name)?;
        }
    }
}

/// Removes what is not a directory in `dir/name`, and moves its sub-directories up into `dir`.
fn raise_directories(dir: BorrowedFd<'_>, name: &Name) -> io::Result<()> {
    use crate::bottom::{c_name, open_dir};
    use nix::fcntl::{RenameFlags, renameat2};
    use nix::unistd::{UnlinkatFlags, unlinkat};
    let inner = open_dir(dir, &c_name(name))?;
    let mut serial = 0_u64;
    for entry in nix::dir::Dir::from_fd(open_dir(inner.as_fd(), c".")?)?.into_iter() {
        let entry = entry?;
        let Ok(child) = Name::new(entry.file_name().to_bytes()) else { continue };
        let child = c_name(&child);
        match unlinkat(inner.as_fd(), &*child, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => {}
            Err(nix::Error::EISDIR) => loop {
                let raised = format!("raised-{serial}");
                serial += 1;
                match renameat2(&inner, &*child, dir, raised.as_str(), RenameFlags::RENAME_NOREPLACE) {
                    Ok(()) => break,
                    Err(nix::Error::EEXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
            },
            Err(errno) => return Err(errno.into()),
        }
    }
    match unlinkat(dir, &*c_name(name), UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT | nix::Error::ENOTEMPTY) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
