//! Putting the mount into its place, beneath a dead one if there is one, and taking it away.

use crate::sys::{FuseMount, NODEV, NOEXEC, NOSUID, Place, RDONLY};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::statvfs::FsFlags,
};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// What the mount does not let programs do: as the bottom is mounted, and nothing be changed if it is `read_only`.
pub(crate) fn attributes(store: &OwnedFd, read_only: bool) -> libc::c_uint {
    let flags = nix::sys::statvfs::fstatvfs(store).map(|s| s.flags()).unwrap_or(FsFlags::ST_NOSUID | FsFlags::ST_NODEV);
    [(FsFlags::ST_NOSUID, NOSUID), (FsFlags::ST_NODEV, NODEV), (FsFlags::ST_NOEXEC, NOEXEC)]
        .into_iter()
        .filter(|(flag, _)| flags.contains(*flag))
        .fold(if read_only { RDONLY } else { 0 }, |all, (_, attribute)| all | attribute)
}

/// A mount, unmounted when dropped, if it is not by then.
pub(crate) struct Mounted {
    /// Its device, which fails when the file system is gone.
    device: OwnedFd,
    at: PathBuf,
}

impl Mounted {
    /// Mounts what was made and is served over `device`.
    pub(crate) fn new(made: &FuseMount, device: OwnedFd, at: PathBuf) -> Result<Self, Errno> {
        attach(made, &at)?;
        Ok(Self { device, at })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut fds = [PollFd::new(self.device.as_fd(), PollFlags::empty())];
        let gone = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
            && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
        if !gone && let Err(error) = umount2(&self.at, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH) {
            tracing::warn!(%error, "the mount could not be taken away");
        }
    }
}

/// Whether a FUSE file system is on top that nobody serves. Attributes may be cached; figures of the file system never
/// are.
fn is_dead(mount: &Path) -> bool {
    matches!(nix::sys::statfs::statfs(mount), Err(Errno::ENOTCONN))
}

/// Mounts. What nobody serves any more is replaced without ever baring what it covers, where programs would write
/// unnoticed: the new mount comes beneath it, and then it is taken away.
fn attach(made: &FuseMount, mount: &Path) -> Result<(), Errno> {
    let detach = || umount2(mount, MntFlags::MNT_DETACH);
    if is_dead(mount) {
        match made.attach(mount, Place::Beneath) {
            Ok(()) => return detach(),
            Err(error) => {
                tracing::warn!(%error, "the mount cannot come beneath a dead one: the store is bare for a moment");
                while is_dead(mount) {
                    detach()?;
                }
            }
        }
    }
    made.attach(mount, Place::Top)
}
