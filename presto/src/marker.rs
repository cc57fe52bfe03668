//! `.intermezzo/mounted`: tells the next Presto how this one ended.

use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

const NAME: &str = "mounted";
/// `STATX_MNT_ID_UNIQUE`, Linux 6.8.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// How the last Presto on this store ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastEnd {
    /// There was none.
    Never,
    /// It unmounted.
    Clean,
    /// It died, and the system went on: nothing that was done is lost.
    ProcessCrash,
    /// The system went down, or the bottom was mounted anew: what was not on disk is lost.
    PowerLoss,
}

/// The marker file.
#[derive(Debug)]
pub(crate) struct Marker {
    private: OwnedFd,
    boot: String,
    mount: u64,
}

impl Marker {
    /// `private` is the store's `.intermezzo`.
    pub(crate) fn new(private: OwnedFd) -> std::io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let mount = mount_id(&private)?;
        Ok(Self { private, boot, mount })
    }

    /// How the last one ended.
    pub(crate) fn last_end(&self) -> std::io::Result<LastEnd> {
        let mut text = String::new();
        match nix::fcntl::openat(&self.private, NAME, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => File::from(fd).read_to_string(&mut text)?,
            Err(Errno::ENOENT) => return Ok(LastEnd::Never),
            Err(error) => return Err(error.into()),
        };
        Ok(judge(&text, &self.boot, self.mount))
    }

    /// Makes it durable that a Presto is at work here (`clean` is false), or ended well.
    pub(crate) fn set(&self, clean: bool) -> std::io::Result<()> {
        let text = format!("boot {}\nmount {}\nclean {}\n", self.boot, self.mount, if clean { "yes" } else { "no" });
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o600);
        let mut file = File::from(nix::fcntl::openat(&self.private, "mounted.new", flags, mode)?);
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        nix::fcntl::renameat(&self.private, "mounted.new", &self.private, NAME)?;
        nix::unistd::fsync(&self.private)?;
        Ok(())
    }
}

fn judge(text: &str, boot: &str, mount: u64) -> LastEnd {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    if field("clean") == Some("yes") {
        return LastEnd::Clean;
    }
    let same_mount = field("mount").and_then(|m| m.parse().ok()) == Some(mount);
    if field("boot") == Some(boot) && same_mount { LastEnd::ProcessCrash } else { LastEnd::PowerLoss }
}

/// A number of the bottom's mount that is not used again while the system is up; 0 where the kernel lacks it.
fn mount_id(fd: &impl AsFd) -> std::io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the kernel fills the structure; the path is a static string.
    let stat = unsafe {
        let raw = fd.as_fd().as_raw_fd();
        crate::sys::check(
            libc::statx(raw, c"".as_ptr(), libc::AT_EMPTY_PATH, STATX_MNT_ID_UNIQUE, stat.as_mut_ptr()).into(),
        )?;
        stat.assume_init()
    };
    Ok(if stat.stx_mask & STATX_MNT_ID_UNIQUE != 0 { stat.stx_mnt_id } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_tells_a_crash_of_the_process_from_a_loss_of_power() {
        let text = |clean| format!("boot b1\nmount 7\nclean {clean}\n");
        assert_eq!(judge(&text("yes"), "b2", 9), LastEnd::Clean);
        assert_eq!(judge(&text("no"), "b1", 7), LastEnd::ProcessCrash);
        assert_eq!(judge(&text("no"), "b2", 7), LastEnd::PowerLoss);
        assert_eq!(judge(&text("no"), "b1", 8), LastEnd::PowerLoss);
        assert_eq!(judge("", "b1", 7), LastEnd::PowerLoss);
    }
}
