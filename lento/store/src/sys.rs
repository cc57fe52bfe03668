//! The system calls that neither std nor nix wraps as the store needs them. All work on descriptors and single names.

use nix::fcntl::OFlag;
use protocol::Handle;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Bytes of an ext4 file handle: inode number and generation (design D2).
const HANDLE_BYTES: u32 = 8;
/// `FILEID_INO32_GEN`, the type of ext4's handles.
const HANDLE_TYPE: i32 = 1;

#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    body: [u32; 2],
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The handle of the object that `fd` is open on (`O_PATH` suffices), and the id of the mount it was reached through.
///
/// # Errors
/// `EOVERFLOW` or `EOPNOTSUPP` where handles are not ext4's eight bytes.
pub(crate) fn handle_of(fd: BorrowedFd<'_>) -> io::Result<(Handle, i32)> {
    let mut raw = RawHandle { bytes: HANDLE_BYTES, kind: 0, body: [0; 2] };
    let mut mount = 0;
    // SAFETY: `raw` has the layout of a `file_handle` with room for the eight bytes that it announces; the name is an
    // empty C string; both pointers live through the call.
    check(unsafe {
        libc::name_to_handle_at(
            fd.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut raw).cast::<libc::file_handle>(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    })?;
    if raw.bytes != HANDLE_BYTES || raw.kind != HANDLE_TYPE {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok((Handle::new(raw.body[0], raw.body[1]), mount))
}

/// Opens an object by its handle, on the file system of `mount`. Every flag of `open` may be used.
pub(crate) fn open_handle(mount: BorrowedFd<'_>, handle: Handle, flags: OFlag) -> io::Result<OwnedFd> {
    let mut raw = RawHandle { bytes: HANDLE_BYTES, kind: HANDLE_TYPE, body: [handle.ino(), handle.generation()] };
    // SAFETY: as in `handle_of`; the kernel validates the handle itself.
    let fd = check(unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut raw).cast::<libc::file_handle>(),
            (flags | OFlag::O_CLOEXEC).bits(),
        )
    })?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A copy of the mount in which `dir` lies, from there on, without what is mounted inside.
pub(crate) fn clone_mount(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// Of `<linux/mount.h>`; with `O_CLOEXEC` and `AT_EMPTY_PATH` as elsewhere.
    const OPEN_TREE_CLONE: libc::c_int = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_EMPTY_PATH;
    // SAFETY: the path is an empty C string.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), c"".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned a new descriptor that nobody else owns; descriptors fit an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The path below `/proc/self/fd` by which calls without an `AT_EMPTY_PATH` form reach the object of an `O_PATH`
/// descriptor: a magic link, which leads to just that object, a symbolic link included.
fn proc_path(fd: RawFd) -> CString {
    CString::new(format!("/proc/self/fd/{fd}")).expect("digits and slashes hold no NUL")
}

/// Runs `direct` on the descriptor, and `by_path` on its `/proc` path if the descriptor is `O_PATH`.
fn either(
    fd: BorrowedFd<'_>,
    direct: impl FnOnce(RawFd) -> isize,
    by_path: impl FnOnce(*const libc::c_char) -> isize,
) -> io::Result<usize> {
    let mut result = direct(fd.as_raw_fd());
    if result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EBADF) {
        result = by_path(proc_path(fd.as_raw_fd()).as_ptr());
    }
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result.unsigned_abs()) }
}

/// Reads an extended attribute into `buffer`; its length.
pub(crate) fn get_xattr(fd: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    let (to, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    either(
        fd,
        // SAFETY: `to` points to `len` writable bytes, `name` is a C string, both live through the call.
        |fd| unsafe { libc::fgetxattr(fd, name.as_ptr(), to, len) },
        // SAFETY: the same, and `path` is a C string that lives through the call.
        |path| unsafe { libc::getxattr(path, name.as_ptr(), to, len) },
    )
}

/// Lists the names of extended attributes, each ended by NUL, into `buffer`; the length of the list.
pub(crate) fn list_xattrs(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (to, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    either(
        fd,
        // SAFETY: `to` points to `len` writable bytes that live through the call.
        |fd| unsafe { libc::flistxattr(fd, to, len) },
        // SAFETY: the same, and `path` is a C string that lives through the call.
        |path| unsafe { libc::listxattr(path, to, len) },
    )
}

/// Sets an extended attribute.
pub(crate) fn set_xattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    let (from, len) = (value.as_ptr().cast(), value.len());
    either(
        fd,
        // SAFETY: `from` points to `len` readable bytes, `name` is a C string, both live through the call.
        |fd| unsafe { libc::fsetxattr(fd, name.as_ptr(), from, len, 0) as isize },
        // SAFETY: the same, and `path` is a C string that lives through the call.
        |path| unsafe { libc::setxattr(path, name.as_ptr(), from, len, 0) as isize },
    )
    .map(drop)
}

/// Removes an extended attribute.
pub(crate) fn remove_xattr(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    either(
        fd,
        // SAFETY: `name` is a C string that lives through the call.
        |fd| unsafe { libc::fremovexattr(fd, name.as_ptr()) as isize },
        // SAFETY: the same, and `path` is a C string that lives through the call.
        |path| unsafe { libc::removexattr(path, name.as_ptr()) as isize },
    )
    .map(drop)
}

/// Sets permission bits, whatever the umask.
pub(crate) fn chmod(fd: BorrowedFd<'_>, mode: u16) -> io::Result<()> {
    either(
        fd,
        // SAFETY: no pointers are passed.
        |fd| unsafe { libc::fchmod(fd, mode.into()) as isize },
        // SAFETY: `path` is a C string that lives through the call.
        |path| unsafe { libc::chmod(path, mode.into()) as isize },
    )
    .map(drop)
}

/// Sets owner and group; works on `O_PATH` descriptors.
pub(crate) fn chown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: the name is an empty C string.
    check(unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) }).map(drop)
}

/// Sets the time of modification and leaves the time of access; works on `O_PATH` descriptors.
pub(crate) fn set_mtime(fd: BorrowedFd<'_>, mtime: protocol::Timestamp) -> io::Result<()> {
    let times = [
        libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        libc::timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    ];
    // SAFETY: `times` is the array of two that the call reads; the name is an empty C string.
    check(unsafe { libc::utimensat(fd.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) }).map(drop)
}

/// Gives the object of `fd` one more name. Needs `CAP_DAC_READ_SEARCH`, and an object that still has a name.
pub(crate) fn link_fd(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both names are C strings that live through the call.
    check(unsafe { libc::linkat(fd.as_raw_fd(), c"".as_ptr(), dir.as_raw_fd(), name.as_ptr(), libc::AT_EMPTY_PATH) })
        .map(drop)
}
