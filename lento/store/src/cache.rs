//! What a client's cache holds: bytes, what was used last, and what is pinned.

use crate::commit::set_size;
use crate::demand::try_lock;
use crate::error::StoreError;
use crate::index::Index;
use crate::store::{Store, lock};
use crate::sys;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use protocol::{Handle, Kind, ObjectId};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// A cache in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheUse {
    /// Files whose content is here.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Objects that are pinned.
    pub pinned: u64,
}

impl Store {
    /// Bytes of the contents that are in the cache.
    pub fn cached_bytes(&self) -> u64 {
        self.cached.load(Ordering::Acquire)
    }

    /// The cache in numbers.
    pub fn cache_use(&self) -> Result<CacheUse, StoreError> {
        self.look_up(|index| {
            let (files, bytes) = index.cached_sum()?;
            Ok(CacheUse { files, bytes, pinned: index.count_pinned()? })
        })
    }

    /// Notes that the content of a file is here; it is the last that was used.
    pub(crate) fn note_cached(&self, index: &Index, id: ObjectId, bytes: u64) -> Result<(), StoreError> {
        let before = index.put_cached(id, bytes)?;
        self.cached.fetch_add(bytes, Ordering::AcqRel);
        self.cached.fetch_sub(before, Ordering::AcqRel);
        Ok(())
    }

    /// Notes that it is not here any more.
    pub(crate) fn note_lost(&self, index: &Index, id: ObjectId) -> Result<(), StoreError> {
        self.cached.fetch_sub(index.remove_cached(id)?, Ordering::AcqRel);
        Ok(())
    }

    /// Files whose content may go, those first that were not used for longest, until they have `bytes` together; at most
    /// `most`. What is pinned is none of them; what has not been reintegrated Presto keeps.
    pub fn coldest(&self, bytes: u64, most: usize) -> Result<Vec<Handle>, StoreError> {
        let writer = lock(&self.writer);
        let (mut found, mut sum) = (Vec::new(), 0);
        for (id, size, handle) in writer.index.coldest(most)? {
            match handle {
                Some(handle) if self.bottom.open(handle, OFlag::O_PATH).is_ok() => {
                    found.push(handle);
                    sum += size;
                }
                // It was removed since.
                _ => self.note_lost(&writer.index, id)?,
            }
            if sum >= bytes {
                break;
            }
        }
        Ok(found)
    }

    /// Gives back the room of contents that Presto has marked as absent.
    pub fn drop_contents(&self, handles: &[Handle]) -> Result<(), StoreError> {
        let what = "giving back the room of a content";
        // The marks are on the disk before the contents go.
        self.bottom.sync().map_err(StoreError::io(what))?;
        let writer = lock(&self.writer);
        for handle in handles {
            let Ok(fd) = self.bottom.open(*handle, OFlag::O_RDWR) else { continue };
            // One that is being filled, or emptied, is let be.
            let Some(fd) = try_lock(fd).map_err(StoreError::io(what))? else { continue };
            let attr = self.bottom.attr(fd.as_fd()).map_err(StoreError::io(what))?;
            if attr.kind != Kind::File || !self.bottom.is_absent(fd.as_fd()).map_err(StoreError::io(what))? {
                continue;
            }
            let length = i64::try_from(attr.size).unwrap_or(i64::MAX);
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match fallocate(&*fd, flags, 0, length.max(1)) {
                // ext2 and ext3 cannot.
                Err(nix::Error::EOPNOTSUPP) => set_size(fd.as_fd(), 0).and_then(|()| set_size(fd.as_fd(), attr.size)),
                other => other.map_err(Into::into),
            }
            .map_err(StoreError::io(what))?;
            sys::set_mtime(fd.as_fd(), attr.mtime).map_err(StoreError::io(what))?;
            if let Some(identity) = self.bottom.identity(fd.as_fd()).map_err(StoreError::io(what))? {
                self.note_lost(&writer.index, identity.id)?;
            }
        }
        Ok(())
    }

    /// Notes that contents are in use: others go before them.
    pub fn warm(&self, handles: &[Handle]) -> Result<(), StoreError> {
        let writer = lock(&self.writer);
        for handle in handles {
            if let Some(id) = self.id_at(*handle)? {
                writer.index.warm(id)?;
            }
        }
        Ok(())
    }

    /// Pins objects, so that they stay and are fetched as soon as they change, or unpins them.
    pub fn pin(&self, handles: &[Handle], pinned: bool) -> Result<(), StoreError> {
        let writer = lock(&self.writer);
        writer.index.transaction(false, |index| {
            for handle in handles {
                if let Some(id) = self.id_at(*handle)? {
                    index.pin(id, pinned)?;
                }
            }
            Ok(())
        })
    }

    /// Those that are not pinned.
    pub fn unpinned(&self, handles: &[Handle]) -> Result<Vec<Handle>, StoreError> {
        let mut free = Vec::with_capacity(handles.len());
        for handle in handles {
            let pinned = match self.id_at(*handle)? {
                Some(id) => self.look_up(|index| index.is_pinned(id))?,
                None => false,
            };
            if !pinned {
                free.push(*handle);
            }
        }
        Ok(free)
    }

    /// The object that an inode is of.
    fn id_at(&self, handle: Handle) -> Result<Option<ObjectId>, StoreError> {
        let Ok(fd) = self.bottom.open(handle, OFlag::O_PATH) else { return Ok(None) };
        let identity = self.bottom.identity(fd.as_fd()).map_err(StoreError::io("reading an identity"))?;
        Ok(identity.map(|identity| identity.id))
    }
}
