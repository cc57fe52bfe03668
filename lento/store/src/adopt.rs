//! How a store begins and ends: adoption of a directory, a new replica, opening, rebuilding, removal.

use crate::bottom::{Bottom, attr_of};
use crate::copying::UNSYNCED;
use crate::error::StoreError;
use crate::identity::{CommittedVersion, Identity};
use crate::index::{Index, KnownVersion, Row};
use crate::store::{Store, StoreConfig};
use crate::walk::{Found, remove_below, walk};
use nix::unistd::{UnlinkatFlags, unlinkat};
use protocol::{Handle, Kind, ObjectId, Position, VersionStamp};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Rows written in one transaction of a walk; progress is told as often.
const BATCH: u64 = 8192;
/// In `meta`: the core's state.
pub(crate) const STATE: &str = "state";

/// What [`Store::rebuild`] found and mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rebuilt {
    /// Objects in the store.
    pub objects: u64,
    /// Objects that had no identity, and were given one.
    pub nameless: u64,
    /// Objects that had the identity of another one (they were copied with all their attributes), and were given one
    /// of their own.
    pub duplicates: u64,
}

impl Store {
    /// Makes a directory with what is in it a file set: everything is given an identity (hard links share one) and
    /// entered into a new index. An adoption that was interrupted is done again from the beginning.
    ///
    /// # Errors
    /// [`StoreError::SubMount`] if something is mounted inside; [`StoreError::InUse`] if there is a log already.
    pub fn adopt(bottom: Arc<Bottom>, config: StoreConfig, progress: &mut dyn FnMut(u64)) -> Result<Self, StoreError> {
        refuse_log(&bottom)?;
        remove_index(&config.index)?;
        let index = Index::open(&config.index, config.fileset, config.host, true)?;
        let mut filler = Filler::begin(&bottom, &index, &config)?;
        filler.root(true)?;
        // Only objects with several links are remembered.
        let mut linked: HashMap<Handle, ObjectId> = HashMap::new();
        walk(&bottom, |found| {
            let several = found.stat.st_nlink > 1 && Kind::from_mode(found.stat.st_mode) != Some(Kind::Directory);
            if let Some(id) = several.then(|| linked.get(&found.handle)).flatten() {
                return Ok(*id);
            }
            let id = filler.give_identity(found)?;
            filler.put(id, found, VersionStamp::default(), progress)?;
            if several {
                linked.insert(found.handle, id);
            }
            Ok(id)
        })?;
        filler.end(progress)?;
        drop(index);
        Self::open(bottom, config)
    }

    /// Makes an empty directory the store of a new replica.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`]; an empty `lost+found` is removed, and `e2fsck` makes it again when it needs it.
    pub fn create(bottom: Arc<Bottom>, config: StoreConfig) -> Result<Self, StoreError> {
        refuse_log(&bottom)?;
        let what = "reading the new replica's directory";
        let mut found = false;
        for entry in bottom.read_dir(bottom.root()).map_err(StoreError::io(what))? {
            let name = entry.map_err(StoreError::io(what))?.name;
            if name.as_bytes() != b"lost+found" {
                return Err(StoreError::NotEmpty(name.to_string()));
            }
            found = true;
        }
        // Fails if it is not empty.
        if found && unlinkat(bottom.root(), "lost+found", UnlinkatFlags::RemoveDir).is_err() {
            return Err(StoreError::NotEmpty("lost+found".to_owned()));
        }
        remove_index(&config.index)?;
        let index = Index::open(&config.index, config.fileset, config.host, true)?;
        let mut filler = Filler::begin(&bottom, &index, &config)?;
        filler.root(true)?;
        filler.end(&mut |_| {})?;
        drop(index);
        if config.on_demand {
            bottom.set_absent(bottom.root()).map_err(StoreError::io("marking the root of the cache as absent"))?;
        }
        Self::open(bottom, config)
    }

    /// Opens a store, and finishes copies of content that a crash interrupted.
    ///
    /// # Errors
    /// [`StoreError::WrongIndex`] if the index is missing or of something else: [`Store::rebuild`] helps.
    pub fn open(bottom: Arc<Bottom>, config: StoreConfig) -> Result<Self, StoreError> {
        let writer = Index::open(&config.index, config.fileset, config.host, false)?;
        let reader = Index::open(&config.index, config.fileset, config.host, false)?;
        let store = Self::assemble(bottom, config, writer, reader)?;
        store.recover()?;
        Ok(store)
    }

    /// Makes the index anew from the identities in the store and from this host's log, and mends identities that are
    /// missing or not unique. What the core saved and what is pinned are kept if the old index can still be read; how far peers' records
    /// were applied is forgotten, and those that were kept for other peers go: all peers must compare.
    pub fn rebuild(
        bottom: Arc<Bottom>,
        config: StoreConfig,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Self, Rebuilt), StoreError> {
        let old = Index::open(&config.index, config.fileset, config.host, false);
        let kept = |old: Index| Ok((old.meta(STATE)?, old.meta(UNSYNCED)?, old.pinned().unwrap_or_default()));
        let (state, unsynced, pinned) = old.and_then(kept).unwrap_or_default();
        let path = suffixed(&config.index, ".new");
        remove_index(&path)?;
        let index = Index::open(&path, config.fileset, config.host, true)?;
        if let Some(state) = state {
            index.set_meta(STATE, &state)?;
        }
        if let Some(unsynced) = unsynced {
            index.set_meta(UNSYNCED, &unsynced)?;
        }
        pinned.into_iter().try_for_each(|id| index.pin(id, true))?;
        let mut filler = Filler::begin(&bottom, &index, &config)?;
        let rebuilt = filler.refill(progress)?;
        // Closing the last connection writes all back into the one file, which then takes the old one's place.
        drop(index);
        remove_index(&config.index)?;
        std::fs::rename(&path, &config.index).map_err(StoreError::io("putting the new index into place"))?;
        let store = Self::open(bottom, config)?;
        store.drop_received()?;
        store.absorb_anew()?;
        // How much of the tree was durable is not known any more: now all of it is.
        store.sync()?;
        Ok((store, rebuilt))
    }

    /// Ends the store: takes all identities and `.intermezzo` away, and leaves the plain files. Versions that were kept
    /// aside in `.intermezzo/conflicts` stay there: the answer says whether there are any. The index file is the
    /// caller's to delete.
    pub fn remove_identity(&self, progress: &mut dyn FnMut(u64)) -> Result<bool, StoreError> {
        let mut objects = 0_u64;
        let what = "taking the identity of an object away";
        walk(&self.bottom, |found| {
            let id = self.bottom.identity(found.fd).map_err(StoreError::io(what))?;
            self.bottom.clear_identity(found.fd).map_err(StoreError::io(what))?;
            objects += 1;
            if objects.is_multiple_of(BATCH) {
                progress(objects);
            }
            Ok(id.map_or(ObjectId::ROOT, |identity| identity.id))
        })?;
        self.bottom.clear_identity(self.bottom.root()).map_err(StoreError::io(what))?;
        progress(objects);
        self.remove_private()
    }

    fn remove_private(&self) -> Result<bool, StoreError> {
        let what = "removing .intermezzo";
        let private = self.bottom.private();
        let mut conflicts = false;
        for entry in self.bottom.read_dir(private).map_err(StoreError::io(what))? {
            let name = entry.map_err(StoreError::io(what))?.name;
            let c_name = crate::bottom::c_name(&name);
            match crate::bottom::open_dir(private, &c_name) {
                Ok(dir) if name.as_bytes() == b"conflicts" => {
                    conflicts = self.bottom.read_dir(dir.as_fd()).map_err(StoreError::io(what))?.next().is_some();
                    if conflicts {
                        continue;
                    }
                }
                Ok(dir) => remove_below(dir.as_fd()).map_err(StoreError::io(what))?,
                Err(_) => {
                    unlinkat(private, &*c_name, UnlinkatFlags::NoRemoveDir).map_err(StoreError::io(what))?;
                    continue;
                }
            }
            unlinkat(private, &*c_name, UnlinkatFlags::RemoveDir).map_err(StoreError::io(what))?;
        }
        if !conflicts {
            unlinkat(self.bottom.root(), ".intermezzo", UnlinkatFlags::RemoveDir).map_err(StoreError::io(what))?;
        }
        Ok(conflicts)
    }
}

/// Fills a new index, a transaction every [`BATCH`] objects.
struct Filler<'a> {
    bottom: &'a Bottom,
    index: &'a Index,
    config: &'a StoreConfig,
    next: u64,
    count: u64,
}

impl<'a> Filler<'a> {
    fn begin(bottom: &'a Bottom, index: &'a Index, config: &'a StoreConfig) -> Result<Self, StoreError> {
        index.db.execute_batch("BEGIN")?;
        Ok(Self { bottom, index, config, next: 0, count: 0 })
    }

    fn root(&mut self, anew: bool) -> Result<(), StoreError> {
        let fd = self.bottom.root();
        let what = || StoreError::io("giving the root directory its identity");
        let known = self.bottom.identity(fd).map_err(what())?;
        let stamp = match known.filter(|identity| !anew && identity.id == ObjectId::ROOT) {
            Some(identity) => self.stamp_of(&identity, &self.bottom.attr(fd).map_err(what())?),
            None => {
                self.bottom.set_identity(fd, &Identity::new(ObjectId::ROOT)).map_err(what())?;
                VersionStamp::default()
            }
        };
        let row = Row { handle: self.bottom.root_handle(), stamp, version: None, place: None };
        self.index.put_object(ObjectId::ROOT, &row)
    }

    /// The stamp in an identity, if it holds for the object as it is.
    fn stamp_of(&self, identity: &Identity, attr: &protocol::Attr) -> VersionStamp {
        match &identity.committed {
            Some(CommittedVersion { stamp, size, mtime }) if (*size, *mtime) == (attr.size, attr.mtime) => {
                stamp.clone()
            }
            _ => VersionStamp::default(),
        }
    }

    /// Gives an object that has none an identity.
    fn give_identity(&mut self, found: &Found<'_>) -> Result<ObjectId, StoreError> {
        let id = ObjectId::new(self.config.host, ObjectId::ADOPTED + self.next);
        self.next += 1;
        self.bottom
            .set_identity(found.fd, &Identity::new(id))
            .map_err(StoreError::io(format!("giving {} in directory {} an identity", found.name, found.parent)))?;
        Ok(id)
    }

    fn put(
        &mut self,
        id: ObjectId,
        found: &Found<'_>,
        stamp: VersionStamp,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        let attr = attr_of(&found.stat);
        let version = (attr.kind == Kind::File).then_some(KnownVersion {
            as_of: Position::START,
            size: attr.size,
            mtime: attr.mtime,
        });
        let place = Some((found.parent, found.name.clone()));
        self.index.put_object(id, &Row { handle: found.handle, stamp, version, place })?;
        self.count += 1;
        if self.count.is_multiple_of(BATCH) {
            self.index.db.execute_batch("COMMIT; BEGIN")?;
            progress(self.count);
        }
        Ok(())
    }

    /// Enters everything by the identity that it has.
    fn refill(&mut self, progress: &mut dyn FnMut(u64)) -> Result<Rebuilt, StoreError> {
        // Above every number given before: adoption counts from 0, and clocks do not go back by objects.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.next = now << 20;
        self.root(false)?;
        let mut rebuilt = Rebuilt::default();
        let bottom = self.bottom;
        walk(bottom, |found| {
            let identity = bottom.identity(found.fd).map_err(StoreError::io("reading an identity"))?;
            let known = match &identity {
                Some(identity) => self.index.object(identity.id)?.map(|row| row.handle),
                None => None,
            };
            let (id, stamp) = match (identity, known) {
                // Another link of it was here before.
                (Some(identity), Some(handle)) if handle == found.handle => return Ok(identity.id),
                (Some(identity), None) => (identity.id, self.stamp_of(&identity, &attr_of(&found.stat))),
                (identity, _) => {
                    *(if identity.is_some() { &mut rebuilt.duplicates } else { &mut rebuilt.nameless }) += 1;
                    (self.give_identity(found)?, VersionStamp::default())
                }
            };
            self.put(id, found, stamp, progress)?;
            self.count_cached(id, found)?;
            Ok(id)
        })?;
        rebuilt.objects = self.count;
        self.end(progress)?;
        Ok(rebuilt)
    }

    /// In a client's cache, enters a content that is here.
    fn count_cached(&self, id: ObjectId, found: &Found<'_>) -> Result<(), StoreError> {
        let attr = attr_of(&found.stat);
        if !self.config.on_demand || attr.kind != Kind::File || attr.size == 0 {
            return Ok(());
        }
        if !self.bottom.is_absent(found.fd).map_err(StoreError::io(format!("examining object {id}")))? {
            self.index.put_cached(id, attr.size)?;
        }
        Ok(())
    }

    fn end(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
        self.index.db.execute_batch("COMMIT")?;
        progress(self.count);
        Ok(())
    }
}

/// A directory with a modification log is in use.
fn refuse_log(bottom: &Bottom) -> Result<(), StoreError> {
    let what = "looking for a modification log";
    let log = crate::bottom::open_dir(bottom.private(), c"log").map_err(StoreError::io(what))?;
    match bottom.read_dir(log.as_fd()).map_err(StoreError::io(what))?.next() {
        None => Ok(()),
        Some(_) => Err(StoreError::InUse),
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Deletes an index with SQLite's files beside it.
fn remove_index(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::remove_file(suffixed(path, suffix)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io(format!("removing the old index {path:?}"))(e));
            }
            _ => {}
        }
    }
    Ok(())
}
