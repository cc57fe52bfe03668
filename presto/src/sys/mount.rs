//! Mounting with the newer system calls, which can put a mount beneath another one.

use super::{c_string, check};
use nix::errno::Errno;
use std::{
    ffi::CStr,
    fs::File,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::Path,
    ptr::null,
};

// Of <linux/mount.h>; libc has only some of them.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
/// Linux 6.5.
const MOVE_MOUNT_BENEATH: libc::c_uint = 0x200;
/// Attributes of a mount: what it does not let programs do.
pub(crate) const RDONLY: libc::c_uint = 1;
/// See `mount(8)`: `nosuid`.
pub(crate) const NOSUID: libc::c_uint = 2;
/// No devices.
pub(crate) const NODEV: libc::c_uint = 4;
/// No programs.
pub(crate) const NOEXEC: libc::c_uint = 8;

/// Where among what is mounted at a place already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On top, where it is seen at once.
    Top,
    /// Beneath what is on top: it is seen when that goes.
    Beneath,
}

/// A FUSE file system that is made, and not mounted anywhere yet.
#[derive(Debug)]
pub(crate) struct FuseMount(OwnedFd);

impl FuseMount {
    /// Makes a file system whose requests are read from the descriptor that is returned with it. The kernel checks
    /// permissions, and all users may use it; `attributes` are [`NOSUID`], [`NODEV`], [`NOEXEC`].
    pub(crate) fn new(source: &str, subtype: &str, attributes: libc::c_uint) -> std::io::Result<(Self, OwnedFd)> {
        let device: OwnedFd =
            File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/fuse")?.into();
        // SAFETY: the name is a static C string.
        let context = unsafe { made(libc::syscall(libc::SYS_fsopen, c"fuse".as_ptr(), FSOPEN_CLOEXEC)) }?;
        let set = |key: &CStr, value: &str| {
            let value = c_string(value.as_bytes())?;
            configure(&context, FSCONFIG_SET_STRING, Some(key), Some(&value))
        };
        set(c"source", source)?;
        set(c"subtype", subtype)?;
        set(c"fd", &device.as_raw_fd().to_string())?;
        // A directory.
        set(c"rootmode", "40000")?;
        set(c"user_id", &nix::unistd::getuid().to_string())?;
        set(c"group_id", &nix::unistd::getgid().to_string())?;
        configure(&context, FSCONFIG_SET_FLAG, Some(c"default_permissions"), None)?;
        configure(&context, FSCONFIG_SET_FLAG, Some(c"allow_other"), None)?;
        configure(&context, FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: it takes a descriptor and two numbers.
        let mount =
            unsafe { made(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes)) }?;
        Ok((Self(mount), device))
    }

    /// Mounts it. It stays mounted when `self` goes.
    ///
    /// # Errors
    /// `EINVAL` if it cannot be put beneath what is there, as before Linux 6.5.
    pub(crate) fn attach(&self, at: &Path, place: Place) -> Result<(), Errno> {
        let at = c_string(at.as_os_str().as_bytes())?;
        let beneath = if place == Place::Beneath { MOVE_MOUNT_BENEATH } else { 0 };
        // SAFETY: both paths are C strings that live through the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                at.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH | beneath,
            )
        };
        check(result).map(drop)
    }
}

fn configure(context: &OwnedFd, command: libc::c_uint, key: Option<&CStr>, value: Option<&CStr>) -> Result<(), Errno> {
    let pointer = |text: Option<&CStr>| text.map_or(null(), CStr::as_ptr);
    // SAFETY: key and value are null, where the command takes none, or C strings that live through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(key), pointer(value), 0) };
    check(result).map(drop)
}

/// The descriptor that a system call has made.
///
/// # Safety
/// `result` is what a system call returned that makes a descriptor for the caller, or -1.
unsafe fn made(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = check(result)?;
    // SAFETY: the caller says so; descriptors fit an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}
