//! Many objects looked up at once: a statement costs little, the locks around a single one a lot.

use crate::error::StoreError;
use crate::index::{KnownVersion, Row};
use crate::store::Store;
use nix::fcntl::OFlag;
use protocol::{ObjectId, VersionStamp};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

/// What the index said of some objects when they were looked up.
pub struct Ahead(HashMap<ObjectId, Row>);

impl Ahead {
    /// As [`Store::object_stamp`] was.
    pub fn stamp(&self, id: ObjectId) -> Option<&VersionStamp> {
        self.0.get(&id).map(|row| &row.stamp)
    }
}

impl Store {
    /// Looks objects up, all on one state of the index.
    pub fn look_ahead(&self, ids: impl Iterator<Item = ObjectId>) -> Result<Ahead, StoreError> {
        let mut rows = HashMap::new();
        self.look_up(|index| {
            index.snapshot(|index| {
                for id in ids {
                    if let Some(row) = index.object(id)? {
                        rows.insert(id, row);
                    }
                }
                Ok(())
            })
        })?;
        Ok(Ahead(rows))
    }

    /// Opens for reading a regular file that was looked up, if its content may be served: with the version
    /// that it is of. `None` in all other cases, which [`Store::open_object`] and [`Store::version`] tell apart.
    pub fn open_version(&self, id: ObjectId, ahead: &Ahead) -> Option<(OwnedFd, KnownVersion)> {
        let row = ahead.0.get(&id)?;
        // A handle names one inode for ever, and one that has a version is of a regular file.
        let version = row.version?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOATIME;
        let fd = self.bottom.open(row.handle, flags).ok()?;
        let identity = self.bottom.identity(fd.as_fd()).ok()??;
        let stat = self.bottom.stat(fd.as_fd()).ok()?;
        let attr = crate::bottom::attr_of(&stat);
        let is_version = (attr.size, attr.mtime) == (version.size, version.mtime);
        (identity.id == id && stat.st_nlink > 0 && is_version).then_some((fd, version))
    }
}
