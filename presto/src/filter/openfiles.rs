//! Files that applications have open: one entry an inode, shared by all its handles.

use super::{Passthrough, Result};
use crate::sys::{Stat, stat_fd};
use protocol::{Handle, ObjectId, Timestamp};
use std::{
    collections::HashMap,
    fs::File,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What tells one version of a file's content from the next, as far as this host can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) size: u64,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
}

impl Version {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self { size: stat.size(), mtime: stat.mtime(), ctime: stat.ctime() }
    }
}

/// State of an open file, under its lock.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Its descriptor in the bottom; `None` only while the first open is under way, or if that failed.
    pub(crate) file: Option<Arc<File>>,
    /// Whether `file` can be written to.
    pub(crate) writable: bool,
    /// Its id; read when first needed.
    pub(crate) id: Option<ObjectId>,
    /// Backing id of kernel passthrough.
    pub(crate) backing: Option<u32>,
    /// Handles open for writing.
    pub(crate) writers: u32,
    /// The log says that it is open for writing.
    pub(crate) announced: bool,
    /// Version that the log knows; `None` if it must be told at close in any case.
    pub(crate) stored: Option<Version>,
    /// A store waits for the permit.
    pub(crate) store_parked: bool,
    /// Version at the moment when the inode was replaced under its name, by what came from another host.
    pub(crate) replaced: Option<Version>,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) handle: Handle,
    state: Mutex<State>,
}

impl OpenFile {
    /// Its state. Lock order: the table, then one open file, then the log.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor, if it is open.
    pub(crate) fn file(&self) -> Option<Arc<File>> {
        self.state().file.clone()
    }

    /// A descriptor of one's own.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd> {
        let file = self.file().ok_or(nix::errno::Errno::EBADF)?;
        Ok(file
            .try_clone()
            .map(OwnedFd::from)
            .map_err(|e| nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(5)))?)
    }

    /// Attributes were set, and logged as such: they do not count as a change of content.
    pub(crate) fn attributes_changed(&self, was: &Stat, is: &Stat) {
        let mut state = self.state();
        if state.stored == Some(Version::of(was)) {
            state.stored = Some(Version::of(is));
        }
    }
}

/// What an open gives to the transport.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) file: Arc<OpenFile>,
    /// For passthrough, where it is available.
    pub(crate) backing: Option<u32>,
}

#[derive(Debug)]
struct Slot {
    file: Arc<OpenFile>,
    opens: u32,
}

/// All open files.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    table: Mutex<HashMap<u64, Slot>>,
}

impl OpenFiles {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Slot>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more handle of an inode.
    pub(crate) fn enter(&self, handle: Handle) -> Arc<OpenFile> {
        let mut table = self.table();
        let slot = table
            .entry(handle.0)
            .or_insert_with(|| Slot { file: Arc::new(OpenFile { handle, state: Mutex::default() }), opens: 0 });
        slot.opens += 1;
        slot.file.clone()
    }

    /// A handle is closed, or could not be opened after all. Returns the file, and whether that was its last handle.
    pub(crate) fn leave(&self, handle: Handle) -> Option<(Arc<OpenFile>, bool)> {
        let mut table = self.table();
        let slot = table.get_mut(&handle.0)?;
        slot.opens -= 1;
        let file = slot.file.clone();
        let last = slot.opens == 0;
        if last {
            table.remove(&handle.0);
        }
        Some((file, last))
    }

    /// Does `work` on an inode that nobody has open or is about to open; who comes meanwhile waits in front of its state.
    /// Returns the file, which is to be left, and what came of it; `None` if somebody was there before.
    pub(crate) fn if_closed<T>(&self, handle: Handle, work: impl FnOnce() -> T) -> Option<(Arc<OpenFile>, T)> {
        let mut table = self.table();
        if table.contains_key(&handle.0) {
            return None;
        }
        let file = Arc::new(OpenFile { handle, state: Mutex::default() });
        table.insert(handle.0, Slot { file: file.clone(), opens: 1 });
        let state = file.state();
        drop(table);
        let done = work();
        drop(state);
        Some((file, done))
    }

    /// The open file of an inode.
    pub(crate) fn get(&self, handle: Handle) -> Option<Arc<OpenFile>> {
        let file = self.table().get(&handle.0).map(|slot| slot.file.clone())?;
        file.file().is_some().then_some(file)
    }

    /// Attributes of an inode, if it is open.
    pub(crate) fn stat(&self, handle: Handle) -> Option<Result<Stat>> {
        let file = self.get(handle)?.file()?;
        Some(stat_fd(&*file).map_err(Into::into))
    }

    /// A file that was just created, with its first handle.
    pub(crate) fn insert_created(
        &self,
        handle: Handle,
        id: ObjectId,
        file: File,
        writes: bool,
        passthrough: &dyn Passthrough,
    ) -> Opened {
        let entry = self.enter(handle);
        let mut state = entry.state();
        state.backing = passthrough.open(&file);
        state.id = Some(id);
        state.file = Some(Arc::new(file));
        state.writable = true;
        state.writers = u32::from(writes);
        state.announced = true;
        let backing = state.backing;
        drop(state);
        Opened { file: entry, backing }
    }

    /// Files that are open for writing.
    pub(crate) fn written(&self) -> Vec<Arc<OpenFile>> {
        let all: Vec<_> = self.table().values().map(|slot| slot.file.clone()).collect();
        all.into_iter().filter(|file| file.state().announced).collect()
    }
}
