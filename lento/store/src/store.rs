//! [`Store`]: objects by id, the versions that are known of them, and what the core keeps here.

use crate::Bottom;
use crate::error::StoreError;
use crate::history::open_log;
use crate::index::{Index, KnownVersion, Row};
use nix::fcntl::OFlag;
use protocol::{FileSetId, HostId, Kind, Name, ObjectId, Position, Settled, Timestamp, VersionStamp};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// In `meta`: the last record of the own log that was absorbed, and its epoch.
pub(crate) const ABSORBED: &str = "absorbed";
pub(crate) const ABSORBED_EPOCH: &str = "absorbed_epoch";

/// What a store is of, and where its index lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// The file set.
    pub fileset: FileSetId,
    /// This host.
    pub host: HostId,
    /// The index, an SQLite file; its directory exists. It may be deleted at any time that the store is not open:
    /// [`Store::rebuild`] makes it anew.
    pub index: PathBuf,
    /// Whether records that peers sent are kept for other peers. See [`Store::keep_received`].
    pub keep_received: bool,
    /// Whether this is a client's cache: names and contents come when they are used.
    pub on_demand: bool,
}

/// A file set on disk.
///
/// # Locks
/// Order: `outbox`, `writer`, `reader`; one may be taken while those before it are held, never the reverse.
pub struct Store {
    pub(crate) bottom: Arc<Bottom>,
    pub(crate) config: StoreConfig,
    /// What [`Store::keep_received`] says now.
    pub(crate) keeping: AtomicBool,
    /// Whether a copy is being made that is not synced.
    pub(crate) copying: AtomicBool,
    /// Bytes of the contents in a client's cache.
    pub(crate) cached: AtomicU64,
    /// Held for the whole of [`Store::history`].
    pub(crate) outbox: Mutex<Outbox>,
    /// Held for the whole of a commit, an absorption, and all that changes the index.
    pub(crate) writer: Mutex<Writer>,
    /// For look-ups that must not wait for a commit: SQLite in WAL mode lets them read what was committed before.
    reader: Mutex<Index>,
}

/// What changes the index, under its lock.
pub(crate) struct Writer {
    pub(crate) index: Index,
    /// This host's own log, for [`Store::absorb`].
    pub(crate) own: modlog::Reader,
    /// Last record of this host's own log that was absorbed.
    pub(crate) absorbed: Position,
    /// The logs of received records that are open.
    pub(crate) received: BTreeMap<HostId, modlog::Writer>,
    /// Staged files that a commit which failed later had put into place already: it is tried again with the same.
    pub(crate) consumed: HashMap<Name, ObjectId>,
    /// Whether something may lie in limbo.
    pub(crate) limbo: bool,
    /// Directories whose names are being asked for.
    pub(crate) listings: HashMap<ObjectId, Asked>,
}

/// What was applied since the names of a directory were asked for.
#[derive(Default)]
pub(crate) struct Asked {
    /// The directory's time of last status change before.
    pub(crate) changed: Option<Timestamp>,
    /// A record was passed over that concerns the names.
    pub(crate) overtaken: bool,
    /// Objects that records touched.
    pub(crate) objects: HashSet<ObjectId>,
}

/// The readers that follow logs for peers, by the peer whose records are left out and the writer of the log: each goes
/// on where it was.
pub(crate) type Outbox = BTreeMap<(Option<HostId>, HostId), modlog::Reader>;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is valid after each statement: a panic elsewhere does not make it less so.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    pub(crate) fn assemble(
        bottom: Arc<Bottom>,
        config: StoreConfig,
        index: Index,
        reader: Index,
    ) -> Result<Self, StoreError> {
        let absorbed = Position::new(index.number(ABSORBED_EPOCH)?, index.number(ABSORBED)?);
        let own = modlog::Reader::open(open_log(&bottom, None)?);
        let cached = index.cached_sum()?.1;
        let unsynced = index.meta(crate::copying::UNSYNCED)?.is_some();
        let writer = Writer {
            index,
            own,
            absorbed,
            received: BTreeMap::new(),
            consumed: HashMap::new(),
            limbo: true,
            listings: HashMap::new(),
        };
        let store = Self {
            bottom,
            keeping: AtomicBool::new(false),
            // Until the copy is known to be complete, no sync makes it good.
            copying: AtomicBool::new(unsynced),
            cached: AtomicU64::new(cached),
            outbox: Mutex::default(),
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            config,
        };
        store.keep_received(store.config.keep_received)?;
        Ok(store)
    }

    /// The bottom, to share.
    pub fn bottom(&self) -> &Arc<Bottom> {
        &self.bottom
    }

    /// What the store was opened with.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    pub(crate) fn absorbed_number(&self) -> u64 {
        lock(&self.writer).absorbed.number
    }

    pub(crate) fn look_up<T>(&self, query: impl FnOnce(&Index) -> Result<T, StoreError>) -> Result<T, StoreError> {
        query(&lock(&self.reader))
    }

    /// Opens an object by its id, after checking that it is the object, and that it is a file or directory unless
    /// `flags` has `O_PATH` (opening a device or a FIFO would have effects).
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such object.
    pub fn open_object(&self, id: ObjectId, flags: OFlag) -> Result<OwnedFd, StoreError> {
        let row = self.look_up(|index| index.object(id))?.ok_or(StoreError::NotFound(id))?;
        let path = self.open_row(id, &row)?.ok_or(StoreError::NotFound(id))?;
        if flags.contains(OFlag::O_PATH) {
            return Ok(path);
        }
        let what = || format!("opening object {id}");
        let kind = self.bottom.attr(path.as_fd()).map_err(StoreError::io(what()))?.kind;
        if !matches!(kind, Kind::File | Kind::Directory) {
            return Err(StoreError::io(what())(std::io::Error::from_raw_os_error(libc::ENXIO)));
        }
        let handle = self.bottom.handle(path.as_fd()).map_err(StoreError::io(what()))?;
        self.bottom.open(handle, flags).map_err(StoreError::io(what()))
    }

    /// Opens (`O_PATH`) what the index says of an object, if that is the object: by handle, or by the entry that named
    /// it when the handle is stale.
    pub(crate) fn open_row(&self, id: ObjectId, row: &Row) -> Result<Option<OwnedFd>, StoreError> {
        let is_it = |fd: &OwnedFd| self.is_object(fd.as_fd(), id);
        match self.bottom.open(row.handle, OFlag::O_PATH) {
            Ok(fd) if is_it(&fd)? => return Ok(Some(fd)),
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) => {}
            Err(e) => return Err(StoreError::io(format!("opening object {id}"))(e)),
        }
        let Some((parent, name)) = &row.place else { return Ok(None) };
        let Some(parent_row) = self.look_up(|index| index.object(*parent))? else { return Ok(None) };
        let Ok(dir) = self.bottom.open(parent_row.handle, OFlag::O_PATH | OFlag::O_DIRECTORY) else { return Ok(None) };
        if !self.is_object(dir.as_fd(), *parent)? {
            return Ok(None);
        }
        match self.bottom.open_at(dir.as_fd(), name, OFlag::O_PATH) {
            Ok(fd) if is_it(&fd)? => Ok(Some(fd)),
            _ => Ok(None),
        }
    }

    /// Whether a descriptor is open on object `id`, and that object still has a name.
    pub(crate) fn is_object(&self, fd: BorrowedFd<'_>, id: ObjectId) -> Result<bool, StoreError> {
        let what = || format!("examining object {id}");
        let identity = self.bottom.identity(fd).map_err(StoreError::io(what()))?;
        Ok(identity.is_some_and(|identity| identity.id == id)
            && self.bottom.stat(fd).map_err(StoreError::io(what()))?.st_nlink > 0)
    }

    /// The version of a file's content that the history tells of: of the last record absorbed or committed that
    /// stored it, or of its adoption. The content may be served only while the file's size and mtime equal those in
    /// it; if they differ, [`Store::absorb`] first, and if they still do, it is being changed.
    pub fn version(&self, id: ObjectId) -> Result<Option<KnownVersion>, StoreError> {
        Ok(self.look_up(|index| index.object(id))?.and_then(|row| row.version))
    }

    /// The BLAKE3 of a file's content, if it was remembered for a file of this size and mtime.
    pub fn hash_of(&self, id: ObjectId, size: u64, mtime: Timestamp) -> Result<Option<[u8; 32]>, StoreError> {
        let found = self.look_up(|index| index.hash(id))?;
        Ok(found.filter(|(s, m, _)| (*s, *m) == (size, mtime)).map(|(_, _, hash)| hash))
    }

    /// Remembers the BLAKE3 of a (large) file's content.
    pub fn remember_hash(&self, id: ObjectId, size: u64, mtime: Timestamp, hash: &[u8; 32]) -> Result<(), StoreError> {
        self.look_up(|index| index.put_hash(id, size, mtime, hash))
    }

    /// The version stamp of an object, as far as records were absorbed and committed.
    pub fn object_stamp(&self, id: ObjectId) -> Result<Option<VersionStamp>, StoreError> {
        Ok(self.look_up(|index| index.object(id))?.map(|row| row.stamp))
    }

    /// An object as it is now: attributes, xattrs, target, and its stamp; `None` if it does not exist.
    pub fn settled(&self, id: ObjectId) -> Result<Option<Settled>, StoreError> {
        let Some(row) = self.look_up(|index| index.object(id))? else { return Ok(None) };
        let Some(fd) = self.open_row(id, &row)? else { return Ok(None) };
        self.settle(id, fd.as_fd(), row.stamp).map(Some).map_err(StoreError::io(format!("reading object {id}")))
    }

    pub(crate) fn settle(&self, id: ObjectId, fd: BorrowedFd<'_>, stamp: VersionStamp) -> std::io::Result<Settled> {
        let attr = self.bottom.attr(fd)?;
        let target = if attr.kind == Kind::Symlink { self.bottom.readlink(fd)? } else { Vec::new() };
        Ok(Settled { id, attr, stamp, xattrs: self.bottom.xattrs(fd)?, target })
    }
}
