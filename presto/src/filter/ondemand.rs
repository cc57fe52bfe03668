//! The mount of a client, whose bottom is a cache: what is absent, what becomes absent, and what may not.

use super::{Cache, Dir, Filter, Result, identity, openfiles::OpenFile};
use crate::{
    absent::Retry,
    sys::{Locked, Stat, XattrTarget, stat_at, stat_fd},
};
use nix::{errno::Errno, fcntl::OFlag};
use protocol::{Handle, ObjectId};
use std::{ffi::CStr, os::fd::AsFd};

/// The attribute that says how much of an object is here. It exists only where it is asked for: nothing copies it.
pub(super) const STATE: &[u8] = b"user.intermezzo.state";

impl Filter {
    /// Does something with what is known of the cache, if this is a client's mount.
    pub(super) fn with_cache(&self, work: impl FnOnce(&Cache)) {
        if let Some(cache) = &self.cache {
            work(cache);
        }
    }

    /// What programs see of an inode's attributes: as if its names and content had been here all the time. Whatever
    /// changes an inode, and tells its attributes from after that, needs not ask.
    pub(super) fn as_shown(&self, handle: Handle, stat: Stat) -> Stat {
        self.cache.as_ref().map_or(stat, |cache| cache.as_shown(handle, stat))
    }

    /// Has a request of thread `pid` wait until `object` is here.
    pub(crate) fn wait_for(&self, object: Handle, pid: u32, retry: Retry) {
        let is_absent = || match self.path_fd(object) {
            Ok(fd) => identity::is_absent(XattrTarget::path_fd(&fd)).unwrap_or(true),
            // Gone: that is for Lento to say.
            Err(_) => true,
        };
        self.room.wait(object, pid, is_absent, retry);
    }

    /// Whether a file that nobody has open lacks its content. Under the lock of its state: [`Filter::evict`] sets it there.
    pub(super) fn lacks_content(&self, file: &impl AsFd) -> Result<bool> {
        if self.cache.is_none() {
            return Ok(false);
        }
        identity::is_absent(XattrTarget::fd(file))
    }

    /// The right to change a file that lacks its content, against Lento that may be about to fill it.
    ///
    /// # Errors
    /// [`Error::Absent`](super::Error::Absent): it is being filled, and then is to be changed as any other. `ESTALE`:
    /// another inode took its place.
    pub(super) fn lock_absent<'a>(&self, file: &'a impl AsFd, handle: Handle) -> Result<Locked<'a>> {
        let locked = Locked::try_new(file)?.ok_or(super::Error::Absent(handle))?;
        if stat_fd(file)?.0.st_nlink == 0 {
            return Err(Errno::ESTALE.into());
        }
        Ok(locked)
    }

    /// A file that lacked its content was emptied: nothing of it is absent any more. In this order: should the system
    /// go down in between, its old content is fetched again.
    pub(super) fn now_present(&self, file: &impl AsFd) -> Result<()> {
        match identity::clear_absent(XattrTarget::fd(file)) {
            // Filled, between the first look and the lock.
            Err(super::Error::Bottom(Errno::ENODATA)) => Ok(()),
            other => other,
        }
    }

    /// A directory that an operation removes must be known to be empty, which one whose names are absent always seems.
    pub(super) fn require_names(&self, dir: &Dir, name: &CStr) -> Result<()> {
        if self.cache.is_none() {
            return Ok(());
        }
        match stat_at(dir, name) {
            Ok(stat) if stat.is_dir() => self.dirs.get(&self.bottom, self.bottom.handle_of(dir, name)?).map(drop),
            // The operation itself will say what it thinks of it.
            _ => Ok(()),
        }
    }

    /// Nobody needs a file's content any more: says so in the file, unless it is in use, was lately, or is not
    /// known to others yet. Returns whether it is absent now.
    pub(crate) fn evict(&self, handle: Handle) -> bool {
        let Some(cache) = &self.cache else { return false };
        if cache.take_recent(handle) {
            return false;
        }
        let (file, evicted) = match self.files.if_closed(handle, || self.mark_absent(cache, handle)) {
            Some(done) => done,
            None => return false,
        };
        self.leave_unopened(file);
        evicted.unwrap_or_else(|error| {
            tracing::warn!(%error, ?handle, "a file could not be evicted");
            false
        })
    }

    fn mark_absent(&self, cache: &Cache, handle: Handle) -> Result<bool> {
        let fd = match self.bottom.open(handle, OFlag::O_PATH) {
            Ok(fd) => fd,
            Err(Errno::ESTALE) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if !stat_fd(&fd)?.is_file() {
            return Ok(false);
        }
        // Without an identity nobody else can know it.
        let target = XattrTarget::path_fd(&fd);
        let Some(id) = identity::read(target)?.filter(|id| !cache.is_unsent(*id)) else { return Ok(false) };
        identity::set_absent(target)?;
        tracing::trace!(%id, "evicted");
        Ok(true)
    }

    /// What [`STATE`] says of an object.
    pub(super) fn state_of(&self, handle: Handle) -> Result<&'static str> {
        let Some(cache) = &self.cache else { return Ok("local") };
        let fd = self.path_fd(handle)?;
        if identity::is_absent(XattrTarget::path_fd(&fd))? {
            return Ok("absent");
        }
        let id = identity::read(XattrTarget::path_fd(&fd))?;
        let is_modified = |id: ObjectId| match self.files.get(handle) {
            Some(open) => cache.is_stored(id) || is_untold(&open),
            // Closed, and its last store waits for the permit, or is not reintegrated.
            None => cache.is_unsent(id),
        };
        Ok(if id.is_some_and(is_modified) { "modified" } else { "cached" })
    }

    /// The kernel is told of an object: of directories it keeps listings, that it must be made to forget one by one.
    pub(crate) fn note_known(&self, node: u64, stat: &Stat) {
        if stat.is_dir() {
            self.with_cache(|cache| cache.known(node));
        }
    }

    /// The kernel forgets that it was told of a node, so many times.
    pub(crate) fn note_forgotten(&self, node: u64, times: u64) {
        self.with_cache(|cache| cache.forgotten(node, times));
    }

    /// Forgets descriptors of all directories: each may want its names anew. Returns what the kernel may know.
    pub(crate) fn forget_all_dirs(&self) -> Vec<Handle> {
        self.dirs.forget_all();
        let known = self.cache.as_ref().map(Cache::all_known).unwrap_or_default();
        let known = known.into_iter().map(|node| self.handle(node));
        known.chain([self.bottom.root_handle]).collect()
    }
}

/// Whether the log does not tell what an open file contains.
pub(super) fn is_untold(file: &OpenFile) -> bool {
    let state = file.state();
    let stat = state.file.as_ref().and_then(|opened| stat_fd(&**opened).ok());
    stat.is_some_and(|stat| {
        state.announced
            && state.stored != Some(super::openfiles::Version::of(&stat))
            && state.replaced.is_none()
            && stat.0.st_nlink > 0
    })
}
