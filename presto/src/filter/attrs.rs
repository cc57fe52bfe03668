//! Setting attributes, and what the file system as a whole tells.

use super::{Caller, Error, Filter, Result, openfiles::OpenFile};
use crate::{
    permit::Pass,
    sys::{self, Stat, stat_fd, without_fsetid},
};
use nix::{errno::Errno, fcntl::OFlag};
use protocol::{AttrChange, Done, Handle, Op, Timestamp};
use std::{
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
};

/// A time to be set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    /// The present.
    Now,
    /// This time.
    At(Timestamp),
}

impl When {
    fn resolve(self) -> Timestamp {
        match self {
            Self::Now => sys::now(),
            Self::At(time) => time,
        }
    }
}

/// What `SETATTR` asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SetAttr {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<When>,
    pub(crate) mtime: Option<When>,
}

impl SetAttr {
    /// Whether nothing is to be set.
    pub(crate) fn is_empty(&self) -> bool {
        self.change() == AttrChange::default()
    }

    fn change(&self) -> AttrChange {
        AttrChange {
            mode: self.mode.map(|mode| (mode & 0o7777) as u16),
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            atime: self.atime.map(When::resolve),
            mtime: self.mtime.map(When::resolve),
        }
    }
}

/// The fields of `change`, as they are in `stat`.
fn before(change: &AttrChange, stat: &Stat) -> AttrChange {
    AttrChange {
        mode: change.mode.map(|_| (stat.mode() & 0o7777) as u16),
        uid: change.uid.map(|_| stat.0.st_uid),
        gid: change.gid.map(|_| stat.0.st_gid),
        size: change.size.map(|_| stat.size()),
        atime: change.atime.map(|_| stat.atime()),
        mtime: change.mtime.map(|_| stat.mtime()),
    }
}

impl Filter {
    /// `SETATTR`: returns the attributes afterwards.
    pub(crate) fn setattr(&self, pass: &Pass<'_>, caller: Caller, node: u64, set: SetAttr) -> Result<Stat> {
        let handle = self.handle(node);
        if set.size.is_none() || self.cache.is_none() {
            return self.set_present(pass, caller, handle, set);
        }
        // In use like an open file, so that it does not become absent meanwhile.
        let file = self.files.enter(handle);
        let truncated = self.truncate(pass, caller, &file, set);
        self.leave_unopened(file);
        truncated
    }

    /// Sets attributes, the size among them, of a file whose content may be absent.
    fn truncate(&self, pass: &Pass<'_>, caller: Caller, file: &OpenFile, set: SetAttr) -> Result<Stat> {
        let state = file.state();
        if state.file.is_none() {
            let content = self.bottom.open_file(file.handle, OFlag::O_WRONLY)?;
            if self.lacks_content(&content)? {
                if set.size != Some(0) {
                    return Err(Error::Absent(file.handle));
                }
                let _locked = self.lock_absent(&content, file.handle)?;
                return self.set_all(pass, caller, file.handle, set, None, true);
            }
        }
        drop(state);
        self.set_present(pass, caller, file.handle, set)
    }

    fn set_present(&self, pass: &Pass<'_>, caller: Caller, handle: Handle, set: SetAttr) -> Result<Stat> {
        self.set_all(pass, caller, handle, set, self.files.get(handle), false)
    }

    fn set_all(
        &self,
        pass: &Pass<'_>,
        caller: Caller,
        handle: Handle,
        set: SetAttr,
        open: Option<Arc<OpenFile>>,
        was_absent: bool,
    ) -> Result<Stat> {
        let fd: std::os::fd::OwnedFd = match (&open, set.size) {
            // A truncate needs a file that is open for writing.
            (Some(file), None) => file.duplicate()?,
            (_, Some(_)) => self.bottom.open(handle, OFlag::O_WRONLY | OFlag::O_NONBLOCK)?,
            (None, None) => self.path_fd(handle)?,
        };
        let was = stat_fd(&fd)?;
        let change = set.change();
        let id = self.id_of_path(&fd, handle)?;
        let op = |_| Op::Setattr { id, change, before: before(&change, &was) };
        let told = self.told.lock(id);
        let stat = self.record(pass, caller, op, |_| {
            apply(&fd, &change, caller)?;
            if was_absent {
                self.now_present(&fd)?;
            }
            let stat = stat_fd(&fd)?;
            Ok((stat, Done { handle: None, attr: Some(stat.attr()) }))
        })?;
        drop(told);
        match change.size {
            Some(_) => self.store_truncated(pass, caller, id, open.as_deref(), &stat)?,
            None => {
                if let Some(file) = open {
                    file.attributes_changed(&was, &stat);
                }
            }
        }
        Ok(stat)
    }

    /// `STATFS`.
    pub(crate) fn statfs(&self) -> Result<libc::statvfs> {
        let mut stat = std::mem::MaybeUninit::uninit();
        // SAFETY: the kernel fills the structure if it returns 0.
        unsafe {
            sys::check(libc::fstatvfs(self.bottom.root.as_raw_fd(), stat.as_mut_ptr()).into())?;
            Ok(stat.assume_init())
        }
    }
}

/// Sets what is to be set: size first, because it changes the times; owner before mode, because it clears bits.
fn apply(fd: &impl AsFd, change: &AttrChange, caller: Caller) -> Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    if let Some(size) = change.size {
        let size = i64::try_from(size).map_err(|_| Error::Bottom(Errno::EFBIG))?;
        // SAFETY: plain integers.
        without_fsetid(caller.uid != 0, || sys::check(unsafe { libc::ftruncate(raw, size) }.into()))?;
    }
    if change.uid.is_some() || change.gid.is_some() {
        let (uid, gid) = (change.uid.unwrap_or(u32::MAX), change.gid.unwrap_or(u32::MAX));
        // SAFETY: plain integers and a static string.
        sys::check(unsafe { libc::fchownat(raw, c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) }.into())?;
    }
    if let Some(mode) = change.mode {
        sys::chmod(fd, mode.into())?;
    }
    if change.atime.is_some() || change.mtime.is_some() {
        sys::set_times(fd, change.atime, change.mtime)?;
    }
    Ok(())
}
