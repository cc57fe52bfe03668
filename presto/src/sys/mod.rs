//! System calls on the bottom that `std` and `nix` lack or make slower, as safe functions over descriptors.

mod cred;
mod handle;
mod mount;
mod stat;
mod xattr;

pub(crate) use cred::{As, Umask, as_caller, prepare_process, set_fsetid, without_fsetid};
pub(crate) use handle::Bottom;
pub(crate) use mount::{FuseMount, NODEV, NOEXEC, NOSUID, Place};
pub(crate) use stat::{Stat, chmod, now, set_times, stat_at, stat_fd};
pub(crate) use xattr::{XattrTarget, get_xattr, list_xattrs, remove_xattr, set_xattr};

use nix::errno::Errno;
use std::ffi::CString;

/// A name or path as the system calls take it.
///
/// # Errors
/// `EINVAL` if it holds a NUL, which no name from the kernel does.
pub(crate) fn c_string(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

/// The result of a system call that returns -1 on failure.
pub(crate) fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 { Err(Errno::last()) } else { Ok(result) }
}
