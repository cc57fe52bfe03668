//! What is likely to be wanted next in a client's cache: the neighbours of what is wanted now.

use crate::error::StoreError;
use crate::store::Store;
use nix::fcntl::OFlag;
use protocol::{Kind, Name, ObjectId};
use std::os::fd::AsFd;

/// Entries of one directory that are looked at.
const LOOKED_AT: usize = 8192;

/// How much is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Objects at most.
    pub objects: usize,
    /// Bytes of files at most, all together.
    pub bytes: u64,
    /// Bytes of one file at most.
    pub largest: u64,
}

impl Store {
    /// The directory in which an object was last seen.
    pub fn parent(&self, id: ObjectId) -> Result<Option<ObjectId>, StoreError> {
        Ok(self.place(id)?.map(|(parent, _)| parent))
    }

    fn place(&self, id: ObjectId) -> Result<Option<(ObjectId, Name)>, StoreError> {
        Ok(self.look_up(|index| index.object(id))?.and_then(|row| row.place))
    }

    /// The directories that are in a directory, in the order in which programs read it: those after `from`.
    pub fn directories_after(&self, directory: ObjectId, from: ObjectId) -> Result<Vec<ObjectId>, StoreError> {
        let what = || format!("looking for directories in directory {directory}");
        let first = self.place(from)?.map(|(_, name)| name);
        let dir = self.open_object(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME)?;
        let entries = self.bottom.read_dir(dir.as_fd()).map_err(StoreError::io(what()))?;
        let mut after: Vec<Name> = entries
            .filter_map(Result::ok)
            .take(LOOKED_AT)
            .filter(|entry| entry.kind == Some(Kind::Directory))
            .map(|entry| entry.name)
            .collect();
        let turn = first.and_then(|first| after.iter().position(|name| *name == first)).map_or(0, |at| at + 1);
        let mut found = Vec::new();
        for name in after.drain(turn..) {
            let Ok(fd) = self.bottom.open_at(dir.as_fd(), &name, OFlag::O_PATH) else { continue };
            let identity = self.bottom.identity(fd.as_fd()).map_err(StoreError::io(what()))?;
            found.extend(identity.map(|identity| identity.id));
        }
        Ok(found)
    }

    /// Objects of a kind that are absent in a directory, in the order in which programs read it: those after `from`,
    /// if that is in it, come first. With each its size in bytes.
    pub fn absent_in(
        &self,
        directory: ObjectId,
        from: Option<ObjectId>,
        kind: Kind,
        bounds: Bounds,
    ) -> Result<Vec<(ObjectId, u64)>, StoreError> {
        let what = || format!("looking for what is absent in directory {directory}");
        let first = from.map(|id| self.place(id)).transpose()?.flatten().map(|(_, name)| name);
        let dir = self.open_object(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME)?;
        let entries = self.bottom.read_dir(dir.as_fd()).map_err(StoreError::io(what()))?;
        let mut names: Vec<Name> = entries
            .filter_map(Result::ok)
            .take(LOOKED_AT)
            .filter(|entry| entry.kind.is_none_or(|found| found == kind))
            .map(|entry| entry.name)
            .collect();
        let turn = first.and_then(|first| names.iter().position(|name| *name == first)).map_or(0, |at| at + 1);
        names.rotate_left(turn);
        let (mut found, mut bytes) = (Vec::new(), 0);
        for name in names {
            if found.len() >= bounds.objects || bytes >= bounds.bytes {
                break;
            }
            let Ok(fd) = self.bottom.open_at(dir.as_fd(), &name, OFlag::O_PATH) else { continue };
            let attr = self.bottom.attr(fd.as_fd()).map_err(StoreError::io(what()))?;
            if attr.kind != kind
                || attr.size > bounds.largest
                || !self.bottom.is_absent(fd.as_fd()).map_err(StoreError::io(what()))?
            {
                continue;
            }
            let Some(identity) = self.bottom.identity(fd.as_fd()).map_err(StoreError::io(what()))? else { continue };
            bytes += attr.size;
            found.push((identity.id, attr.size));
        }
        Ok(found)
    }
}
