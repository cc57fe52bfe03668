//! Open directories of one commit, the least recently used closed first.

use protocol::{Handle, ObjectId};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Most directories kept open.
const CAPACITY: usize = 256;

/// An open directory.
#[derive(Clone)]
pub(super) struct Dir {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) handle: Handle,
}

/// The cache; a directory that is renamed stays valid in it.
#[derive(Default)]
pub(super) struct Dirs {
    open: HashMap<ObjectId, (u64, Dir)>,
    clock: u64,
}

impl Dirs {
    pub(super) fn get(&mut self, id: ObjectId) -> Option<Dir> {
        self.clock += 1;
        let (used, dir) = self.open.get_mut(&id)?;
        *used = self.clock;
        Some(dir.clone())
    }

    pub(super) fn put(&mut self, id: ObjectId, dir: Dir) {
        if self.open.len() >= CAPACITY
            && let Some(oldest) = self.open.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id)
        {
            self.open.remove(&oldest);
        }
        self.clock += 1;
        self.open.insert(id, (self.clock, dir));
    }

    pub(super) fn remove(&mut self, id: ObjectId) {
        self.open.remove(&id);
    }
}
