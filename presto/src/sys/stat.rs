//! Attributes of the bottom's inodes.

use super::check;
use nix::errno::Errno;
use protocol::{Attr, Kind, Timestamp};
use std::{
    ffi::CStr,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd},
};

/// What `fstat` tells.
#[derive(Clone, Copy)]
pub(crate) struct Stat(pub(crate) libc::stat);

impl std::fmt::Debug for Stat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "inode {} mode {:o} size {}", self.0.st_ino, self.0.st_mode, self.0.st_size)
    }
}

impl Stat {
    pub(crate) fn mode(&self) -> u32 {
        self.0.st_mode
    }
    pub(crate) fn size(&self) -> u64 {
        self.0.st_size as u64
    }
    pub(crate) fn ino(&self) -> u64 {
        self.0.st_ino
    }
    pub(crate) fn kind(&self) -> Kind {
        Kind::from_mode(self.0.st_mode).expect("the kernel gives no other types")
    }
    pub(crate) fn is_dir(&self) -> bool {
        self.0.st_mode & libc::S_IFMT == libc::S_IFDIR
    }
    pub(crate) fn is_file(&self) -> bool {
        self.0.st_mode & libc::S_IFMT == libc::S_IFREG
    }
    pub(crate) fn mtime(&self) -> Timestamp {
        Timestamp { secs: self.0.st_mtime, nanos: self.0.st_mtime_nsec as u32 }
    }
    pub(crate) fn atime(&self) -> Timestamp {
        Timestamp { secs: self.0.st_atime, nanos: self.0.st_atime_nsec as u32 }
    }
    pub(crate) fn ctime(&self) -> Timestamp {
        Timestamp { secs: self.0.st_ctime, nanos: self.0.st_ctime_nsec as u32 }
    }

    /// The same, but for the time of the last status change.
    pub(crate) fn with_ctime(mut self, time: Timestamp) -> Self {
        self.0.st_ctime = time.secs;
        self.0.st_ctime_nsec = time.nanos.into();
        self
    }

    /// What of it replicas share.
    pub(crate) fn attr(&self) -> Attr {
        let kind = self.kind();
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        Attr {
            kind,
            mode: (self.0.st_mode & 0o7777) as u16,
            uid: self.0.st_uid,
            gid: self.0.st_gid,
            size: if kind == Kind::File { self.size() } else { 0 },
            rdev: if device { self.0.st_rdev } else { 0 },
            mtime: self.mtime(),
        }
    }
}

/// Attributes of an open object; `O_PATH` will do.
pub(crate) fn stat_fd(fd: impl AsFd) -> Result<Stat, Errno> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: the kernel fills the structure if it returns 0.
    unsafe {
        check(libc::fstat(fd.as_fd().as_raw_fd(), stat.as_mut_ptr()).into())?;
        Ok(Stat(stat.assume_init()))
    }
}

/// Attributes of an entry; symbolic links are not followed.
pub(crate) fn stat_at(dir: impl AsFd, name: &CStr) -> Result<Stat, Errno> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: the kernel fills the structure if it returns 0.
    unsafe {
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        check(libc::fstatat(dir.as_fd().as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), flags).into())?;
        Ok(Stat(stat.assume_init()))
    }
}

/// Sets permission bits through any descriptor, `O_PATH` too.
pub(crate) fn chmod(fd: impl AsFd, mode: u32) -> Result<(), Errno> {
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: plain integers and a static string.
    let result = check(unsafe { libc::syscall(libc::SYS_fchmodat2, raw, c"".as_ptr(), mode, libc::AT_EMPTY_PATH) });
    match result {
        // Before Linux 6.6.
        Err(Errno::ENOSYS) => {
            let path = super::c_string(format!("/proc/self/fd/{raw}").as_bytes())?;
            // SAFETY: the path is valid for the call.
            check(unsafe { libc::chmod(path.as_ptr(), mode) }.into()).map(drop)
        }
        other => other.map(drop),
    }
}

/// Sets times of access and modification through any descriptor; `None` leaves one as it is.
pub(crate) fn set_times(fd: impl AsFd, atime: Option<Timestamp>, mtime: Option<Timestamp>) -> Result<(), Errno> {
    let spec = |time: Option<Timestamp>| match time {
        Some(t) => libc::timespec { tv_sec: t.secs, tv_nsec: t.nanos.into() },
        None => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
    };
    let times = [spec(atime), spec(mtime)];
    // SAFETY: the array has two elements, as the call wants.
    let result = unsafe { libc::utimensat(fd.as_fd().as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) };
    check(result.into()).map(drop)
}

/// The time that the kernel would stamp a change with now.
pub(crate) fn now() -> Timestamp {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is valid; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut time) };
    Timestamp { secs: time.tv_sec, nanos: time.tv_nsec as u32 }
}
