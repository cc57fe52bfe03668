//! Extended attributes by descriptor and name, of any kind of object.

use super::{c_string, check};
use nix::errno::Errno;
use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::atomic::{AtomicBool, Ordering},
};

const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;
const SYS_REMOVEXATTRAT: libc::c_long = 466;

/// Cleared when the kernel (before Linux 6.13) turns out to lack the `*xattrat` calls.
static HAVE_XATTRAT: AtomicBool = AtomicBool::new(true);

/// `struct xattr_args`.
#[repr(C)]
struct Args {
    value: u64,
    size: u32,
    flags: u32,
}

/// Whose attributes: an entry of a directory, or what a descriptor refers to if the name is empty.
#[derive(Clone, Copy)]
pub(crate) struct XattrTarget<'a> {
    dir: BorrowedFd<'a>,
    name: &'a CStr,
    /// The descriptor was opened with `O_PATH`: these calls refuse it, and take only its path in `/proc`.
    by_path: bool,
}

impl<'a> XattrTarget<'a> {
    /// An entry of a directory; a symbolic link is not followed.
    pub(crate) fn entry(dir: &'a impl AsFd, name: &'a CStr) -> Self {
        Self { dir: dir.as_fd(), name, by_path: false }
    }

    /// An open object.
    pub(crate) fn fd(fd: &'a impl AsFd) -> Self {
        Self { dir: fd.as_fd(), name: c"", by_path: false }
    }

    /// An object opened with `O_PATH`.
    pub(crate) fn path_fd(fd: &'a impl AsFd) -> Self {
        Self { by_path: true, ..Self::fd(fd) }
    }

    fn flags(&self) -> i32 {
        libc::AT_SYMLINK_NOFOLLOW | if self.name.is_empty() { libc::AT_EMPTY_PATH } else { 0 }
    }

    /// A path for kernels without the `*xattrat` calls, and whether a final link is to be followed.
    fn path(&self) -> Result<(std::ffi::CString, bool), Errno> {
        let mut path = format!("/proc/self/fd/{}", self.dir.as_raw_fd()).into_bytes();
        if self.name.is_empty() {
            return Ok((c_string(&path)?, true));
        }
        path.push(b'/');
        path.extend_from_slice(self.name.to_bytes());
        Ok((c_string(&path)?, false))
    }
}

/// Runs the new call, or the old one by path where the kernel lacks it.
fn either(
    target: XattrTarget<'_>,
    new: impl FnOnce() -> libc::c_long,
    old: impl FnOnce() -> Result<libc::c_long, Errno>,
) -> Result<usize, Errno> {
    if !target.by_path && HAVE_XATTRAT.load(Ordering::Relaxed) {
        match check(new()) {
            Err(Errno::ENOSYS) => HAVE_XATTRAT.store(false, Ordering::Relaxed),
            other => return other.map(|n| n as usize),
        }
    }
    old().map(|n| n as usize)
}

/// Reads an attribute into `value`; returns its length. An empty `value` asks for the length.
pub(crate) fn get_xattr(target: XattrTarget<'_>, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
    let args = Args { value: value.as_mut_ptr() as u64, size: value.len() as u32, flags: 0 };
    either(
        target,
        // SAFETY: `args` describes `value`, which outlives the call.
        || unsafe {
            let (dir, path) = (target.dir.as_raw_fd(), target.name.as_ptr());
            libc::syscall(SYS_GETXATTRAT, dir, path, target.flags(), name.as_ptr(), &args, size_of::<Args>())
        },
        || {
            let (path, follow) = target.path()?;
            let call = if follow { libc::getxattr } else { libc::lgetxattr };
            // SAFETY: the pointers are valid for the call and the length is that of `value`.
            check(unsafe { call(path.as_ptr(), name.as_ptr(), args.value as *mut libc::c_void, value.len()) } as i64)
        },
    )
}

/// Sets an attribute; `flags` are `XATTR_CREATE`, `XATTR_REPLACE` or 0.
pub(crate) fn set_xattr(target: XattrTarget<'_>, name: &CStr, value: &[u8], flags: i32) -> Result<(), Errno> {
    let args = Args { value: value.as_ptr() as u64, size: value.len() as u32, flags: flags as u32 };
    either(
        target,
        // SAFETY: `args` describes `value`, which outlives the call.
        || unsafe {
            let (dir, path) = (target.dir.as_raw_fd(), target.name.as_ptr());
            libc::syscall(SYS_SETXATTRAT, dir, path, target.flags(), name.as_ptr(), &args, size_of::<Args>())
        },
        || {
            let (path, follow) = target.path()?;
            let call = if follow { libc::setxattr } else { libc::lsetxattr };
            let data = args.value as *const libc::c_void;
            // SAFETY: the pointers are valid for the call and the length is that of `value`.
            check(unsafe { call(path.as_ptr(), name.as_ptr(), data, value.len(), flags) }.into())
        },
    )
    .map(drop)
}

/// Reads the NUL-separated names into `list`; returns their length. An empty `list` asks for the length.
pub(crate) fn list_xattrs(target: XattrTarget<'_>, list: &mut [u8]) -> Result<usize, Errno> {
    either(
        target,
        // SAFETY: the list's pointer and length belong together.
        || unsafe {
            let (dir, path) = (target.dir.as_raw_fd(), target.name.as_ptr());
            libc::syscall(SYS_LISTXATTRAT, dir, path, target.flags(), list.as_ptr(), list.len())
        },
        || {
            let (path, follow) = target.path()?;
            let call = if follow { libc::listxattr } else { libc::llistxattr };
            // SAFETY: the list's pointer and length belong together.
            check(unsafe { call(path.as_ptr(), list.as_ptr() as *mut libc::c_char, list.len()) } as i64)
        },
    )
}

/// Removes an attribute.
pub(crate) fn remove_xattr(target: XattrTarget<'_>, name: &CStr) -> Result<(), Errno> {
    either(
        target,
        // SAFETY: the pointers are valid for the call.
        || unsafe {
            let (dir, path) = (target.dir.as_raw_fd(), target.name.as_ptr());
            libc::syscall(SYS_REMOVEXATTRAT, dir, path, target.flags(), name.as_ptr())
        },
        || {
            let (path, follow) = target.path()?;
            let call = if follow { libc::removexattr } else { libc::lremovexattr };
            // SAFETY: the pointers are valid for the call.
            check(unsafe { call(path.as_ptr(), name.as_ptr()) }.into())
        },
    )
    .map(drop)
}
