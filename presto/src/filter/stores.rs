//! Telling the log what files contain: at the last close, at fsync, after a truncate, and while they stay open.

use super::{
    Caller, Filter, Opened, Result,
    ondemand::is_untold,
    openfiles::{OpenFile, State, Version},
};
use crate::{
    permit::Pass,
    sys::{Stat, stat_fd},
};
use modlog::LogError;
use protocol::{Done, Handle, Name, ObjectId, Op};
use std::{
    fs::File,
    os::fd::AsRawFd,
    sync::{Arc, atomic::Ordering},
};

/// A file that was replaced under its name while it was open, and changed after that.
#[derive(Debug, Clone)]
pub(crate) struct Replaced {
    pub(crate) file: Arc<File>,
    pub(crate) id: ObjectId,
}

impl Filter {
    /// Appends a store.
    fn store(&self, pass: &Pass<'_>, caller: Caller, id: ObjectId, stat: &Stat) -> Result<()> {
        let op = Op::Store { id, size: stat.size(), mtime: stat.mtime() };
        let number = self.note(pass, caller, op, Done { handle: None, attr: Some(stat.attr()) })?;
        self.with_cache(|cache| cache.stored(id, number));
        Ok(())
    }

    /// Appends a store of an open file, if its content changed since the last one.
    pub(super) fn store_if_changed(&self, pass: &Pass<'_>, caller: Caller, file: &OpenFile) -> Result<()> {
        let mut state = file.state();
        self.store_state(pass, caller, &mut state)
    }

    fn store_state(&self, pass: &Pass<'_>, caller: Caller, state: &mut State) -> Result<()> {
        let (Some(opened), Some(id)) = (&state.file, state.id) else { return Ok(()) };
        let _told = self.told.lock(id);
        let stat = stat_fd(&**opened)?;
        let version = Version::of(&stat);
        // What has no name any more is nobody's concern, and what was replaced is not the object any more.
        if state.stored == Some(version) || stat.0.st_nlink == 0 || state.replaced.is_some() {
            return Ok(());
        }
        self.store(pass, caller, id, &stat)?;
        state.stored = Some(version);
        Ok(())
    }

    /// The last writer closed a file. Its store is appended when the permit is here; it is never dropped.
    pub(super) fn store_last(self: &Arc<Self>, caller: Caller, file: Arc<OpenFile>) {
        self.save_if_replaced(&file);
        if let Some(pass) = self.gate.enter() {
            return self.store_and_close(&pass, caller, &file);
        }
        let changed = {
            let state = file.state();
            match state.file.as_ref().map(|opened| stat_fd(&**opened)) {
                Some(Ok(stat)) => state.stored != Some(Version::of(&stat)),
                _ => false,
            }
        };
        if !changed {
            self.close_writing(&file);
            return;
        }
        let filter = self.clone();
        self.closing.fetch_add(1, Ordering::SeqCst);
        self.gate.run(0, move |pass| {
            // Refused only when the mount ends: recovery finds the file in the log as open, and looks at it.
            if let Ok(pass) = pass {
                filter.store_and_close(pass, caller, &file);
            }
            filter.closing.fetch_sub(1, Ordering::SeqCst);
        });
    }

    fn store_and_close(&self, pass: &Pass<'_>, caller: Caller, file: &OpenFile) {
        match self.store_if_changed(pass, caller, file) {
            Ok(()) => self.close_writing(file),
            Err(error) => {
                tracing::warn!(%error, handle = ?file.handle, "a closed file could not be logged; recovery will do it");
            }
        }
    }

    /// Nothing more is to be said of a file, if nobody opened it for writing meanwhile.
    fn close_writing(&self, file: &OpenFile) {
        let mut state = file.state();
        if state.writers > 0 || !state.announced {
            return;
        }
        state.announced = false;
        if let Some(id) = state.id {
            self.journal.closed(id);
            self.with_cache(|cache| cache.told(id));
        }
    }

    /// A file created by an open that does not write.
    pub(super) fn store_created(&self, pass: &Pass<'_>, caller: Caller, opened: &Opened, stat: &Stat) -> Result<()> {
        let mut state = opened.file.state();
        if let Some(id) = state.id {
            self.store(pass, caller, id, stat)?;
            state.stored = Some(Version::of(stat));
        }
        drop(state);
        self.close_writing(&opened.file);
        Ok(())
    }

    /// A file's size was set.
    pub(super) fn store_truncated(
        &self,
        pass: &Pass<'_>,
        caller: Caller,
        id: ObjectId,
        open: Option<&OpenFile>,
        stat: &Stat,
    ) -> Result<()> {
        if stat.0.st_nlink == 0 {
            return Ok(());
        }
        let state = open.map(OpenFile::state);
        self.store(pass, caller, id, stat)?;
        if let Some(mut state) = state.filter(|state| state.announced) {
            state.stored = Some(Version::of(stat));
        }
        Ok(())
    }

    /// Tells the log of all files that are open for writing and changed; the permit is about to go.
    pub(crate) fn store_all(&self, pass: &Pass<'_>) {
        for file in self.files.written() {
            start_writeback(&file);
            if let Err(error) = self.store_if_changed(pass, Caller::PRESTO, &file) {
                tracing::warn!(%error, handle = ?file.handle, "an open file could not be logged");
            }
        }
    }

    /// Makes the log tell of all that was written until now, files that are open or were just closed included, and
    /// makes it durable. Without the permit that waits for it, if there is something to tell.
    pub(crate) fn complete(self: &Arc<Self>, done: impl FnOnce(std::result::Result<u64, LogError>) + Send + 'static) {
        // Answers are told apart by their order only.
        if self.completing.load(Ordering::SeqCst) == 0 && !self.has_untold() {
            return done(self.journal.sync());
        }
        let filter = self.clone();
        self.completing.fetch_add(1, Ordering::SeqCst);
        self.gate.run(0, move |pass| {
            // Refused only when the mount ends, and with it the connection: then nobody waits for the answer.
            if let Ok(pass) = pass {
                filter.store_all(pass);
                done(filter.journal.sync());
            }
            filter.completing.fetch_sub(1, Ordering::SeqCst);
        });
    }

    fn has_untold(&self) -> bool {
        self.closing.load(Ordering::SeqCst) > 0 || self.files.written().iter().any(|file| is_untold(file))
    }

    /// The same as [`Filter::store_all`] at an interval, for files that stay open; those that find the permit gone wait for it.
    pub(crate) fn store_long_open(self: &Arc<Self>) {
        for file in self.files.written() {
            start_writeback(&file);
            self.save_if_replaced(&file);
            if !self.is_store_due(&file) {
                continue;
            }
            let filter = self.clone();
            self.gate.run(0, move |pass| {
                file.state().store_parked = false;
                let Ok(pass) = pass else { return };
                if let Err(error) = filter.store_if_changed(pass, Caller::PRESTO, &file) {
                    tracing::warn!(%error, handle = ?file.handle, "an open file could not be logged");
                }
            });
        }
    }

    /// Whether an open file changed; then it is marked as having a store on its way.
    fn is_store_due(&self, file: &OpenFile) -> bool {
        let mut state = file.state();
        let Some(Ok(stat)) = state.file.as_ref().map(|opened| stat_fd(&**opened)) else { return false };
        let due = state.writers > 0
            && state.stored != Some(Version::of(&stat))
            && state.replaced.is_none()
            && stat.0.st_nlink > 0;
        due && !std::mem::replace(&mut state.store_parked, true)
    }

    /// Another inode took the place of this one, with content from another host.
    pub(crate) fn mark_replaced(&self, handle: Handle) {
        let Some(file) = self.files.get(handle) else { return };
        let mut state = file.state();
        if let Some(Ok(stat)) = state.file.as_ref().map(|opened| stat_fd(&**opened))
            && state.announced
        {
            state.replaced = Some(Version::of(&stat));
        }
    }

    /// Saves what was written to an inode after it was replaced, where nobody would find it.
    fn save_if_replaced(&self, file: &OpenFile) {
        let replaced = {
            let mut state = file.state();
            let (Some(at), Some(opened), Some(id)) = (state.replaced, state.file.clone(), state.id) else { return };
            let Ok(stat) = stat_fd(&*opened) else { return };
            // The change of its link count touched ctime: only content counts.
            if (stat.size(), stat.mtime()) == (at.size, at.mtime) {
                return;
            }
            state.replaced = Some(Version::of(&stat));
            Replaced { file: opened, id }
        };
        (self.orphans)(replaced);
    }
}

/// Starts writing out what is dirty. Pages that an application maps and writes to again after that count as changed
/// again: without it a file written through a mapping would keep its time of modification.
fn start_writeback(file: &OpenFile) {
    if let Some(opened) = file.file() {
        // SAFETY: plain integers.
        unsafe { libc::sync_file_range(opened.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

/// Name of the copy of a replaced file.
pub(crate) fn orphan_name(id: ObjectId) -> Name {
    let now = crate::sys::now();
    let text = format!("{id}-{}.{:09}", now.secs, now.nanos);
    Name::new(text.as_bytes()).expect("digits, dots and dashes of bounded length make a legal name")
}
