//! A first copy is synced once, after its end, and not file by file: nobody uses it before. What a loss of power left of
//! one that was not synced is recognized, and not trusted.

use crate::error::StoreError;
use crate::store::{Store, lock};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

/// In `meta`, durably, before the first content is committed that was not synced, and until a sync after the last: the
/// boot of the system and the mount of the bottom.
pub(crate) const UNSYNCED: &str = "unsynced";
/// `STATX_MNT_ID_UNIQUE`, Linux 6.8: a number that is not used again while the system is up.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

impl Store {
    /// Whether there is nothing in it yet: no object but the root.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.look_up(|index| index.count_objects())? <= 1)
    }

    /// Notes durably that contents will be committed that are not synced. [`Store::sync`] makes that good, but only
    /// after [`Store::end_copy`].
    pub fn begin_copy(&self) -> Result<(), StoreError> {
        self.copying.store(true, Ordering::Release);
        let writer = lock(&self.writer);
        if writer.index.meta(UNSYNCED)?.is_some() {
            return Ok(());
        }
        let here = self.boot_and_mount()?;
        writer.index.transaction(true, |index| index.set_meta(UNSYNCED, here.as_bytes()))
    }

    /// Says that the copy that was begun is complete.
    pub fn end_copy(&self) {
        self.copying.store(false, Ordering::Release);
    }

    /// Whether the system went down, or the bottom was mounted anew, before a copy was synced: its contents may be damaged,
    /// and how far the history was applied is not to be believed. So it is until a copy ended and was synced.
    pub fn copy_was_lost(&self) -> Result<bool, StoreError> {
        let Some(there) = self.look_up(|index| index.meta(UNSYNCED))? else { return Ok(false) };
        Ok(there != self.boot_and_mount()?.as_bytes())
    }

    fn boot_and_mount(&self) -> Result<String, StoreError> {
        let what = "asking which boot of the system this is";
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(StoreError::io(what))?;
        let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
        let root = self.bottom.root().as_raw_fd();
        // SAFETY: the kernel fills the structure, which lives through the call; the path is an empty C string.
        let result =
            unsafe { libc::statx(root, c"".as_ptr(), libc::AT_EMPTY_PATH, STATX_MNT_ID_UNIQUE, stat.as_mut_ptr()) };
        if result < 0 {
            return Err(StoreError::io("asking for the store's mount")(std::io::Error::last_os_error()));
        }
        // SAFETY: all of it was zero, which is valid, before the kernel wrote to it.
        let stat = unsafe { stat.assume_init() };
        let mount = if stat.stx_mask & STATX_MNT_ID_UNIQUE != 0 { stat.stx_mnt_id } else { 0 };
        Ok(format!("{} {mount}", boot.trim()))
    }
}
