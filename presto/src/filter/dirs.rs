//! Open directories: a bounded cache, the only state that the filter keeps about objects that are not open.

use crate::{
    filter::{
        error::{Error, Result},
        identity,
    },
    sys::{Bottom, XattrTarget},
};
use nix::fcntl::OFlag;
use protocol::{Handle, HostId, ObjectId, limits};
use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    pub(crate) handle: Handle,
    pub(crate) id: ObjectId,
    /// Held by who reads entries: the position belongs to the descriptor.
    pub(crate) reading: Mutex<()>,
    used: AtomicU64,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The cache.
#[derive(Debug)]
pub(crate) struct Dirs {
    open: Mutex<HashMap<u64, Arc<Dir>>>,
    clock: AtomicU64,
    /// Counts what was forgotten: who opened a directory before that must not keep it after.
    forgotten: AtomicU64,
    host: HostId,
    /// Names may be absent (a client's cache).
    on_demand: bool,
}

impl Dirs {
    pub(crate) fn new(host: HostId, on_demand: bool) -> Self {
        let (clock, forgotten) = Default::default();
        Self { open: Mutex::default(), clock, forgotten, host, on_demand }
    }

    /// The directory, from the cache or opened.
    ///
    /// # Errors
    /// [`Error::Absent`] if its names are not here; such a one is not kept.
    pub(crate) fn get(&self, bottom: &Bottom, handle: Handle) -> Result<Arc<Dir>> {
        if let Some(dir) = self.cached(handle) {
            return Ok(dir);
        }
        let forgotten = self.forgotten.load(Ordering::SeqCst);
        let fd = bottom.open(handle, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        if self.on_demand && identity::is_absent(XattrTarget::fd(&fd))? {
            return Err(Error::Absent(handle));
        }
        let id = if handle == bottom.root_handle {
            ObjectId::ROOT
        } else {
            id_or_adopt(XattrTarget::fd(&fd), self.host, || Ok(handle))?
        };
        let dir = Arc::new(Dir { fd, handle, id, reading: Mutex::new(()), used: AtomicU64::new(self.now()) });
        let mut table = self.table();
        if self.on_demand && self.forgotten.load(Ordering::SeqCst) != forgotten {
            return Ok(dir);
        }
        if table.len() >= limits::DIRECTORY_CACHE {
            evict(&mut table);
        }
        Ok(table.entry(handle.0).or_insert(dir).clone())
    }

    /// The directory, if it is in the cache.
    pub(crate) fn cached(&self, handle: Handle) -> Option<Arc<Dir>> {
        let dir = self.table().get(&handle.0)?.clone();
        dir.used.store(self.now(), Ordering::Relaxed);
        Some(dir)
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Closes a directory that was removed or changed by others.
    pub(crate) fn forget(&self, handle: Handle) {
        let mut table = self.table();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        table.remove(&handle.0);
    }

    /// Closes all.
    pub(crate) fn forget_all(&self) {
        let mut table = self.table();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        table.clear();
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Dir>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the quarter that was not used for longest.
fn evict(table: &mut HashMap<u64, Arc<Dir>>) {
    let mut ages: Vec<u64> = table.values().map(|dir| dir.used.load(Ordering::Relaxed)).collect();
    let quarter = ages.len() / 4;
    let (_, bound, _) = ages.select_nth_unstable(quarter);
    let bound = *bound;
    table.retain(|_, dir| dir.used.load(Ordering::Relaxed) > bound);
}

/// An object's id; one that has none is given one, which depends only on its handle.
pub(crate) fn id_or_adopt(
    target: XattrTarget<'_>,
    host: HostId,
    handle: impl FnOnce() -> Result<Handle>,
) -> Result<ObjectId> {
    if let Some(id) = identity::read(target)? {
        return Ok(id);
    }
    let id = identity::adopted(host, handle()?);
    tracing::debug!(%id, "adopted an object without identity");
    identity::write(target, id)?;
    Ok(id)
}
