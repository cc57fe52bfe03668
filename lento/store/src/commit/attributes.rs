//! Attributes in a commit: what the source settled is given to objects, and nothing is touched that is right already.

use super::Commit;
use super::check::check_settled;
use crate::bottom::Bottom;
use crate::error::{CommitError, StoreError};
use crate::identity::{CommittedVersion, Identity};
use crate::store::Store;
use crate::sys;
use protocol::{Attr, Handle, Kind, Settled, Xattr};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

impl Commit<'_> {
    /// Gives an object its owner, mode and xattrs; says whether anything differed. `fresh` objects have no xattrs.
    pub(super) fn dress(&self, fd: BorrowedFd<'_>, settled: &Settled, fresh: bool) -> Result<bool, CommitError> {
        let what = StoreError::io(format!("giving object {} its attributes", settled.id));
        Ok(dress(&self.store.bottom, fd, settled, fresh).map_err(what)?)
    }

    /// Gives all settled objects their attributes that have not got them yet, and directories their times last.
    pub(super) fn dress_all(&mut self) -> Result<(), CommitError> {
        let all: Vec<&Settled> = self.group.settled.values().copied().collect();
        for settled in all.iter().filter(|settled| settled.attr.kind != Kind::Directory) {
            if !self.dressed.contains(&settled.id) {
                self.dress_object(settled)?;
            }
        }
        for settled in all.iter().filter(|settled| settled.attr.kind == Kind::Directory) {
            self.dress_object(settled)?;
        }
        Ok(())
    }

    fn dress_object(&mut self, settled: &Settled) -> Result<(), CommitError> {
        let id = settled.id;
        let Some(fd) = self.find(id)? else { return Ok(()) };
        let fd = fd.as_fd();
        let mut now = self.attr(fd)?;
        if now.kind != settled.attr.kind {
            return Err(CommitError::Peer(format!("object {id} is said to be of another type than it is")));
        }
        // Another mtime of a file goes with content that was not stored by these records, unless they set it.
        let timed = self.group.timed.get(&id).copied();
        let time = now.kind != Kind::File || timed.is_some();
        let mut changed = !self.dressed.contains(&id) && self.dress(fd, settled, false)?;
        changed |= time && now.mtime != settled.attr.mtime;
        if time {
            now.mtime = settled.attr.mtime;
        }
        changed |= self.stamp_object(fd, settled, &now, changed)?;
        if time && self.attr(fd)?.mtime != now.mtime {
            sys::set_mtime(fd, now.mtime).map_err(StoreError::io(format!("setting the mtime of object {id}")))?;
            changed = true;
        }
        let handle = self.handle(fd)?;
        if let Some(row) = self.rows.get_mut(id)? {
            row.stamp.clone_from(&settled.stamp);
            row.handle = handle;
            if let (Some(version), Some(at)) = (&mut row.version, timed) {
                (version.as_of, version.mtime) = (version.as_of.max(at), now.mtime);
            }
        }
        if changed {
            self.invalidate.objects.push(handle);
        }
        Ok(())
    }

    /// Writes the stamp beside the identity: for objects that change anyway, and for directories, in which something
    /// did.
    fn stamp_object(
        &self,
        fd: BorrowedFd<'_>,
        settled: &Settled,
        attr: &Attr,
        changed: bool,
    ) -> Result<bool, StoreError> {
        if self.store.config.on_demand || (!changed && attr.kind != Kind::Directory) {
            return Ok(false);
        }
        let what = || StoreError::io(format!("writing the stamp of object {}", settled.id));
        let committed = CommittedVersion { stamp: settled.stamp.clone(), size: attr.size, mtime: attr.mtime };
        let identity = Identity { id: settled.id, committed: Some(committed) };
        if self.store.bottom.identity(fd).map_err(what())?.as_ref() == Some(&identity) {
            return Ok(false);
        }
        self.store.bottom.set_identity(fd, &identity).map_err(what())?;
        Ok(true)
    }
}

/// See [`Commit::dress`].
fn dress(bottom: &Bottom, fd: BorrowedFd<'_>, settled: &Settled, fresh: bool) -> io::Result<bool> {
    let (want, now) = (&settled.attr, bottom.attr(fd)?);
    let owner = (want.uid, want.gid) != (now.uid, now.gid);
    if owner {
        sys::chown(fd, want.uid, want.gid)?;
    }
    // A change of owner takes setuid, setgid and capabilities away.
    let mode = want.kind != Kind::Symlink && (want.mode != now.mode || owner);
    if mode {
        sys::chmod(fd, want.mode)?;
    }
    let have = if fresh && settled.xattrs.is_empty() { Vec::new() } else { bottom.xattrs(fd)? };
    let xattrs = have != settled.xattrs;
    if xattrs {
        exchange_xattrs(fd, &have, &settled.xattrs)?;
        // An access list is part of the mode, and the mode of the list.
        if want.kind != Kind::Symlink && bottom.attr(fd)?.mode != want.mode {
            sys::chmod(fd, want.mode)?;
        }
    }
    Ok(owner || mode || xattrs)
}

impl Store {
    /// Gives a new, complete file of `size` bytes in the staging directory all that `settled` says of its object, and the
    /// object's identity: a commit that finds its handle in [`crate::StagedFile::ready`] only names it. So the threads
    /// that receive contents do most of the work of a commit.
    ///
    /// # Errors
    /// That of the system call that failed; `EINVAL` if what is said of the object is refused.
    pub fn make_ready(&self, file: BorrowedFd<'_>, size: u64, settled: &Settled) -> io::Result<Handle> {
        if settled.attr.kind != Kind::File || check_settled(settled).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        dress(&self.bottom, file, settled, true)?;
        let (stamp, mtime) = (settled.stamp.clone(), settled.attr.mtime);
        let committed = Some(CommittedVersion { stamp, size, mtime });
        self.bottom.set_identity(file, &Identity { id: settled.id, committed })?;
        sys::set_mtime(file, mtime)?;
        self.bottom.handle(file)
    }
}

/// Sets what is wanting or different, and removes what is too much.
fn exchange_xattrs(fd: BorrowedFd<'_>, have: &[Xattr], want: &[Xattr]) -> io::Result<()> {
    let name = |xattr: &Xattr| CString::new(xattr.name.as_slice()).map_err(io::Error::from);
    for xattr in have.iter().filter(|xattr| want.iter().all(|other| other.name != xattr.name)) {
        match sys::remove_xattr(fd, &name(xattr)?) {
            Err(e) if e.raw_os_error() == Some(libc::ENODATA) => {}
            other => other?,
        }
    }
    for xattr in want.iter().filter(|xattr| !have.contains(xattr)) {
        sys::set_xattr(fd, &name(xattr)?, &xattr.value)?;
    }
    Ok(())
}
