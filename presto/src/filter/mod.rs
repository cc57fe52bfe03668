//! The filter: operations on the bottom, each with its record in the log. Knows nothing of FUSE's messages.

mod attrs;
mod cache;
mod data;
mod dirs;
mod error;
mod filled;
pub(crate) mod identity;
mod listing;
mod namespace;
mod ondemand;
mod openfiles;
mod stores;
mod xattrs;

pub(crate) use attrs::{SetAttr, When};
pub(crate) use cache::Cache;
pub(crate) use error::{Error, Result};
pub(crate) use listing::Listed;
pub(crate) use namespace::NewMode;
pub(crate) use openfiles::Opened;
pub(crate) use stores::{Replaced, orphan_name};

use crate::{
    absent::WaitingRoom,
    journal::Journal,
    permit::{Gate, Pass},
    sys::{Bottom, Stat, XattrTarget, set_fsetid, stat_at, stat_fd},
};
use dirs::{Dir, Dirs};
use nix::{errno::Errno, fcntl::OFlag};
use openfiles::OpenFiles;
use protocol::{Cred, Done, Handle, HostId, Name, ObjectId, Op};
use std::{
    ffi::CStr,
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicUsize},
};

/// FUSE's number of the root.
const ROOT_NODE: u64 = 1;

/// Kernel passthrough, as the transport offers it: a backing id makes reads and writes go to a file directly.
pub(crate) trait Passthrough: Send + Sync {
    /// Registers a file; `None` where the kernel cannot.
    fn open(&self, file: &std::fs::File) -> Option<u32>;
    /// Gives an id back.
    fn close(&self, id: u32);
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
}

impl Caller {
    /// Presto itself.
    pub(crate) const PRESTO: Self = Self { uid: 0, gid: 0, pid: 0 };

    fn cred(self) -> Cred {
        Cred { uid: self.uid, gid: self.gid, pid: self.pid }
    }
}

/// An object as FUSE names it, and its attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) node: u64,
    pub(crate) stat: Stat,
}

/// Locks under which what the log says of a file's times is true when it is said: a store looks at the file and is
/// appended under its lock, and the setting of a time is appended and done under it. Without them a store could tell, last,
/// the time from before it was set, and no version of the file would ever match the log. Several objects share one.
struct Told([std::sync::Mutex<()>; 64]);

impl Default for Told {
    fn default() -> Self {
        Self(std::array::from_fn(|_| std::sync::Mutex::default()))
    }
}

impl Told {
    fn lock(&self, id: protocol::ObjectId) -> std::sync::MutexGuard<'_, ()> {
        let place = (id.counter % self.0.len() as u64) as usize;
        // There is nothing behind it that a panic could have left half done.
        self.0[place].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The filter over one file set. Shared by all threads.
pub(crate) struct Filter {
    pub(crate) bottom: Bottom,
    pub(crate) host: HostId,
    pub(crate) journal: Journal,
    pub(crate) gate: Gate,
    /// Requests that wait for what is absent.
    pub(crate) room: WaitingRoom,
    /// On a client's mount only, whose bottom may lack names and contents.
    pub(crate) cache: Option<Cache>,
    dirs: Dirs,
    pub(crate) files: OpenFiles,
    passthrough: Box<dyn Passthrough>,
    /// Told of content that was written to an inode after another one took its place.
    orphans: Box<dyn Fn(Replaced) + Send + Sync>,
    /// Order: a file's state, then this.
    told: Told,
    /// Closed files whose last store waits for the permit.
    closing: AtomicUsize,
    /// Requests to tell of all, that wait for the permit.
    completing: AtomicUsize,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").field("bottom", &self.bottom).field("host", &self.host).finish_non_exhaustive()
    }
}

impl Filter {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        bottom: Bottom,
        host: HostId,
        journal: Journal,
        gate: Gate,
        room: WaitingRoom,
        cache: Option<Cache>,
        passthrough: Box<dyn Passthrough>,
        orphans: Box<dyn Fn(Replaced) + Send + Sync>,
    ) -> Self {
        Self {
            bottom,
            host,
            journal,
            gate,
            room,
            dirs: Dirs::new(host, cache.is_some()),
            cache,
            files: OpenFiles::default(),
            passthrough,
            orphans,
            told: Told::default(),
            closing: AtomicUsize::new(0),
            completing: AtomicUsize::new(0),
        }
    }

    /// The inode that FUSE means by a node id.
    pub(crate) fn handle(&self, node: u64) -> Handle {
        if node == ROOT_NODE { self.bottom.root_handle } else { Handle(node) }
    }

    /// The node id of an inode.
    pub(crate) fn node(&self, handle: Handle) -> u64 {
        if handle == self.bottom.root_handle { ROOT_NODE } else { handle.0 }
    }

    fn dir(&self, node: u64) -> Result<Arc<Dir>> {
        self.dirs.get(&self.bottom, self.handle(node))
    }

    /// Forgets descriptors of directories that Lento changed.
    pub(crate) fn forget_dir(&self, handle: Handle) {
        self.dirs.forget(handle);
    }

    /// Whether an entry is InterMezzo's own.
    fn is_reserved(&self, dir: &Dir, name: &[u8]) -> bool {
        name == Name::RESERVED && dir.handle == self.bottom.root_handle
    }

    /// A name that may be used in a directory.
    fn checked(&self, dir: &Dir, name: &[u8]) -> Result<Name> {
        if self.is_reserved(dir, name) {
            return Err(Error::Reserved);
        }
        Name::new(name).map_err(|_| {
            if name.len() > protocol::limits::NAME_BYTES { Errno::ENAMETOOLONG } else { Errno::EINVAL }.into()
        })
    }

    /// Any descriptor of an object, for calls that take `O_PATH`.
    fn path_fd(&self, handle: Handle) -> Result<OwnedFd> {
        Ok(self.bottom.open(handle, OFlag::O_PATH)?)
    }

    /// Handle and attributes of an entry.
    fn entry(&self, dir: &Dir, name: &CStr) -> Result<Entry> {
        // Two calls: somebody may replace the entry in between, then they do not agree.
        for _ in 0..100 {
            let handle = self.bottom.handle_of(dir, name)?;
            let stat = stat_at(dir, name)?;
            if stat.ino() == u64::from(handle.ino()) {
                return Ok(Entry { node: self.node(handle), stat: self.as_shown(handle, stat) });
            }
        }
        Err(Error::Gone)
    }

    /// The id of an entry's object.
    fn id_at(&self, dir: &Dir, name: &CStr) -> Result<ObjectId> {
        dirs::id_or_adopt(XattrTarget::entry(dir, name), self.host, || Ok(self.bottom.handle_of(dir, name)?))
    }

    /// The id of an object opened with `O_PATH`.
    fn id_of_path(&self, fd: &OwnedFd, handle: Handle) -> Result<ObjectId> {
        if handle == self.bottom.root_handle {
            return Ok(ObjectId::ROOT);
        }
        dirs::id_or_adopt(XattrTarget::path_fd(fd), self.host, || Ok(handle))
    }

    /// The id of an open object.
    fn id_of(&self, fd: &impl std::os::fd::AsFd, handle: Handle) -> Result<ObjectId> {
        if handle == self.bottom.root_handle {
            return Ok(ObjectId::ROOT);
        }
        dirs::id_or_adopt(XattrTarget::fd(fd), self.host, || Ok(handle))
    }

    /// Appends the record of a change, does it with all capabilities, and appends how it ended.
    fn record<T>(
        &self,
        pass: &Pass<'_>,
        caller: Caller,
        op: impl FnOnce(u64) -> Op,
        work: impl FnOnce(u64) -> Result<(T, Done)>,
    ) -> Result<T> {
        set_fsetid(true)?;
        let number = self.journal.append(pass, caller.cred(), op)?;
        match work(number) {
            Ok((value, done)) => {
                self.journal.finish(number, Ok(done));
                Ok(value)
            }
            Err(error) => {
                self.journal.finish(number, Err(error.errno()));
                Err(error)
            }
        }
    }

    /// Appends a record of what needs no work, or is done. Returns its number.
    fn note(&self, pass: &Pass<'_>, caller: Caller, op: Op, done: Done) -> Result<u64> {
        let number = self.journal.append(pass, caller.cred(), |_| op)?;
        self.journal.finish(number, Ok(done));
        Ok(number)
    }

    /// `LOOKUP`: `None` if there is no such entry.
    pub(crate) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Entry>> {
        let dir = self.dir(parent)?;
        if self.is_reserved(&dir, name) {
            return Ok(None);
        }
        match self.entry(&dir, &crate::sys::c_string(name)?) {
            Ok(entry) => {
                self.note_known(entry.node, &entry.stat);
                Ok(Some(entry))
            }
            Err(Error::Bottom(Errno::ENOENT)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Attributes of an object.
    pub(crate) fn getattr(&self, node: u64) -> Result<Stat> {
        let handle = self.handle(node);
        Ok(self.as_shown(handle, self.true_attributes(handle)?))
    }

    fn true_attributes(&self, handle: Handle) -> Result<Stat> {
        if let Some(stat) = self.files.stat(handle) {
            return stat;
        }
        // The kernel asks for a directory's attributes before each change in it.
        if let Some(dir) = self.dirs.cached(handle) {
            return Ok(stat_fd(&*dir)?);
        }
        Ok(stat_fd(self.path_fd(handle)?)?)
    }
}

/// An outcome that says nothing more than that it is done.
const DONE: Done = Done { handle: None, attr: None };
