//! Commit into a client's cache: what concerns directories whose names are not here is passed over, and contents that
//! were not staged are marked as absent.

use super::Commit;
use super::object::{New, Place};
use crate::error::{CommitError, StoreError};
use nix::fcntl::{OFlag, renameat};
use nix::unistd::ftruncate;
use protocol::{Kind, ObjectId, Op, Position, Record};
use std::os::fd::{AsFd, BorrowedFd};

impl Commit<'_> {
    /// Whether the names in a directory are here. If not, it is noted that a record was passed over.
    fn has_names(&mut self, directory: ObjectId) -> Result<bool, StoreError> {
        if self.repair {
            // It is being listed.
            return Ok(true);
        }
        if let Some(known) = self.complete.get(&directory) {
            return Ok(*known);
        }
        let complete = match self.dir(directory)? {
            Some(dir) => {
                let absent = self.store.bottom.is_absent(dir.fd.as_fd());
                !absent.map_err(StoreError::io(format!("examining directory {directory}")))?
            }
            None => false,
        };
        self.complete.insert(directory, complete);
        Ok(complete)
    }

    /// As [`Commit::apply_here`], as far as the directories are here.
    pub(super) fn apply_on_demand(&mut self, place: usize, record: &Record) -> Result<(), CommitError> {
        let [first, second] = record.op.parents();
        let first = first.map(|id| self.has_names(id)).transpose()?;
        let second = second.map(|id| self.has_names(id)).transpose()?;
        match (&record.op, first, second) {
            (_, Some(false), None | Some(false)) => Ok(()),
            (Op::Link { id, parent, name }, ..) => self.link_or_make(*id, (*parent, name), record.position()),
            (Op::Rename { id, other, .. }, ..) if *other == Some(*id) => Ok(()),
            (Op::Rename { id, parent, name, other, exchange, .. }, Some(true), Some(false)) => {
                self.depart(*id, (*parent, name))?;
                match other {
                    Some(other) if *exchange => self.link_or_make(*other, (*parent, name), record.position()),
                    _ => Ok(()),
                }
            }
            (Op::Rename { id, to_parent, to_name, other, .. }, Some(false), Some(true)) => {
                if let Some(other) = other {
                    self.depart(*other, (*to_parent, to_name))?;
                }
                self.link_or_make(*id, (*to_parent, to_name), record.position())
            }
            (Op::Rename { id, parent, name, to_parent, to_name, other, exchange }, Some(true), Some(true)) => {
                let other_here = other.map_or(Ok(true), |other| self.find(other).map(|found| found.is_some()))?;
                if self.find(*id)?.is_some() && (!exchange || other_here) {
                    return self.apply_here(place, record);
                }
                self.move_unknown((*id, (*parent, name)), (*other, (*to_parent, to_name)), *exchange, record.position())
            }
            _ => self.apply_here(place, record),
        }
    }

    /// A rename, or an exchange, of what is not all here: a directory was listed after it, and the other one has not
    /// what came into it.
    fn move_unknown(
        &mut self,
        (id, from): (ObjectId, Place<'_>),
        (other, to): (Option<ObjectId>, Place<'_>),
        exchange: bool,
        at: Position,
    ) -> Result<(), CommitError> {
        let Some(other) = other.filter(|_| exchange) else {
            if let Some(replaced) = other {
                self.depart(replaced, to)?;
            }
            return self.link_or_make(id, to, at);
        };
        // What is here makes room for what is not.
        for (known, from, to) in [(other, to, from), (id, from, to)] {
            if self.find(known)?.is_some() {
                self.rename(known, from, to, None)?;
            }
        }
        self.link_or_make(id, to, at)?;
        self.link_or_make(other, from, at)
    }

    /// Gives an object a name; one that is not here is made as it is at the source.
    fn link_or_make(&mut self, id: ObjectId, place: Place<'_>, at: Position) -> Result<(), CommitError> {
        if self.find(id)?.is_some() {
            return self.link(id, place);
        }
        let Some(settled) = self.group.settled.get(&id).copied() else { return Ok(()) };
        match settled.attr.kind {
            Kind::File => self.create(id, place, New::File, at),
            Kind::Directory => self.create(id, place, New::Unlisted, at),
            Kind::Symlink => self.create(id, place, New::Symlink(&settled.target), at),
            kind => self.create(id, place, New::Node(kind.mode_bits(), settled.attr.rdev), at),
        }
    }

    /// Takes a name from an object that is elsewhere now, where names are not here.
    fn depart(&mut self, id: ObjectId, (parent, name): Place<'_>) -> Result<(), CommitError> {
        let Some(dir) = self.dir(parent)? else { return Ok(()) };
        let Some(fd) = self.entry(&dir, name)? else { return Ok(()) };
        if self.id_of(fd.as_fd())? != Some(id) {
            return Ok(());
        }
        self.leave(id, (&dir, name), fd.as_fd())
    }

    /// Makes a new file, in the staging directory and empty yet, one that lacks its content.
    pub(super) fn make_stub(&self, id: ObjectId, fd: BorrowedFd<'_>) -> Result<(), StoreError> {
        let Some(settled) = self.group.settled.get(&id) else { return Ok(()) };
        if settled.attr.size == 0 {
            return Ok(());
        }
        let what = || format!("marking object {id} as absent");
        self.store.bottom.set_absent(fd).map_err(StoreError::io(what()))?;
        set_size(fd, settled.attr.size).map_err(StoreError::io(what()))
    }

    /// The content of an object that exists was changed, and is not here: whoever has the old one open keeps it.
    pub(super) fn lose_content(&mut self, id: ObjectId, at: Position) -> Result<(), CommitError> {
        let Some(settled) = self.group.settled.get(&id).copied() else { return Ok(()) };
        let Some(old) = self.find(id)? else { return Ok(()) };
        let what = || format!("marking object {id} as absent");
        self.store.note_lost(self.index, id)?;
        let absent = self.store.bottom.is_absent(old.as_fd()).map_err(StoreError::io(what()))?;
        let stat = self.store.bottom.stat(old.as_fd()).map_err(StoreError::io(what()))?;
        let handle = self.handle(old.as_fd())?;
        let place = self.rows.get(id)?.and_then(|row| row.place.clone());
        if !absent
            && stat.st_nlink == 1
            && let Some((parent, name)) = place
            && let Some(dir) = self.dir(parent)?
            && let Some(entry) = self.entry(&dir, &name)?
            && self.handle(entry.as_fd())? == handle
        {
            // Whoever comes by the old inode is sent to look the name up again.
            self.store.bottom.set_absent(old.as_fd()).map_err(StoreError::io(what()))?;
            let new = self.make(id, New::File)?;
            self.make_stub(id, new.as_fd())?;
            self.outfit(id, new.as_fd(), at, true)?;
            self.keeping_mtime(Some(parent), dir.fd.as_fd(), |commit| {
                renameat(commit.store.bottom.staging(), super::object::NEW, &dir.fd, name.as_os_str())
                    .map_err(StoreError::io(what()))
            })?;
            self.dressed.insert(id);
            self.invalidate.entries.push((dir.handle, name));
            self.invalidate.replaced.push(handle);
            return Ok(());
        }
        // Nobody has it open, or it has several names and must keep its inode.
        let target = self.store.bottom.open(handle, OFlag::O_RDWR).map_err(StoreError::io(what()))?;
        if settled.attr.size > 0 {
            self.store.bottom.set_absent(target.as_fd()).map_err(StoreError::io(what()))?;
        }
        set_size(target.as_fd(), 0)
            .and_then(|()| set_size(target.as_fd(), settled.attr.size))
            .map_err(StoreError::io(what()))?;
        self.outfit(id, target.as_fd(), at, false)?;
        if settled.attr.size == 0 {
            self.store.bottom.clear_absent(target.as_fd()).map_err(StoreError::io(what()))?;
        }
        self.dressed.insert(id);
        self.invalidate.objects.push(handle);
        Ok(())
    }
}

/// Makes a file this long; what is added is a hole.
pub(crate) fn set_size(fd: BorrowedFd<'_>, size: u64) -> std::io::Result<()> {
    Ok(ftruncate(fd, size.try_into().map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?)?)
}
