//! Extended attributes by descriptor or directory entry, without InterMezzo's own.

use nix::errno::Errno;
use protocol::Xattr;
use std::{
    ffi::{CStr, CString, OsStr},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    ptr,
};

/// Those of an open file or directory.
pub(crate) fn of_file(fd: BorrowedFd<'_>) -> Result<Vec<Xattr>, Errno> {
    let raw = fd.as_raw_fd();
    // SAFETY: the pointers are to buffers of the lengths given, or null with length 0; the descriptor is borrowed.
    let list = |buffer: *mut u8, len| unsafe { libc::flistxattr(raw, buffer.cast(), len) };
    // SAFETY: as above; the name is a C string.
    let get = |name: &CStr, buffer: *mut u8, len| unsafe { libc::fgetxattr(raw, name.as_ptr(), buffer.cast(), len) };
    collect(list, get)
}

/// Those of the entry `name` of `dir`, whatever it is; a symbolic link is not followed.
pub(crate) fn of_entry(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<Xattr>, Errno> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    // SAFETY: path and name are C strings, the buffers have the lengths given.
    let list = |buffer: *mut u8, len| unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), len) };
    // SAFETY: as above.
    let get = |name: &CStr, buffer: *mut u8, len| unsafe {
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.cast(), len)
    };
    collect(list, get)
}

fn collect(
    list: impl Fn(*mut u8, usize) -> isize,
    get: impl Fn(&CStr, *mut u8, usize) -> isize,
) -> Result<Vec<Xattr>, Errno> {
    let names = match sized(|buffer, len| list(buffer, len)) {
        Ok(names) => names,
        Err(Errno::ENOTSUP) => return Ok(Vec::new()),
        Err(why) => return Err(why),
    };
    let mut out = Vec::new();
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(c_name) = CStr::from_bytes_with_nul(name) else { continue };
        if c_name.to_bytes().starts_with(Xattr::IDENTITY.as_bytes()) {
            continue;
        }
        match sized(|buffer, len| get(c_name, buffer, len)) {
            Ok(value) => out.push(Xattr { name: c_name.to_bytes().to_vec(), value }),
            // Removed since the names were listed.
            Err(Errno::ENODATA) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(out)
}

/// Calls until the buffer is large enough for an answer that may grow meanwhile.
fn sized(call: impl Fn(*mut u8, usize) -> isize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        let got = Errno::result(call(buffer.as_mut_ptr(), buffer.len()));
        match got {
            Ok(len) => {
                buffer.truncate(len as usize);
                return Ok(buffer);
            }
            Err(Errno::ERANGE) => {
                let len = Errno::result(call(ptr::null_mut(), 0))? as usize;
                buffer = vec![0; len.max(buffer.len() * 2)];
            }
            Err(why) => return Err(why),
        }
    }
}
