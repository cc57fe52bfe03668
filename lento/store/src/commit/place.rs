//! Names in a commit: links, removals, renames and exchanges, each forced whatever is there.

use super::Commit;
use super::dirs::Dir;
use super::object::{Place, failed};
use crate::bottom::c_name;
use crate::error::{CommitError, StoreError};
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};
use protocol::{Kind, Name, ObjectId};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

impl Commit<'_> {
    /// Gives an object a name; a directory is moved there.
    pub(super) fn link(&mut self, id: ObjectId, (parent, name): Place<'_>) -> Result<(), CommitError> {
        let Some(fd) = self.find(id)? else { return Ok(()) };
        let Some(dir) = self.dir(parent)? else { return Ok(()) };
        let handle = self.handle(fd.as_fd())?;
        let directory = self.attr(fd.as_fd())?.kind == Kind::Directory;
        if let Some(taken) = self.entry(&dir, name)? {
            if self.handle(taken.as_fd())? == handle {
                return self.moved(id, (parent, name), &dir);
            }
            if self.belongs(taken.as_fd())? || (directory && self.is_above(fd.as_fd(), &dir)?) {
                return Ok(());
            }
            self.set_aside(&dir, name, taken.as_fd())?;
        }
        if !directory {
            sys::link_fd(fd.as_fd(), dir.fd.as_fd(), &c_name(name))
                .map_err(StoreError::io(format!("linking object {id} at {name}")))?;
        } else if !self.move_directory(id, fd.as_fd(), &dir, name)? {
            return Ok(());
        }
        self.moved(id, (parent, name), &dir)
    }

    /// Whether what has a name is an object of the file set, the one inode that has its identity. Then a record that
    /// is yet to come, or to come again, put it there.
    pub(super) fn belongs(&mut self, taken: BorrowedFd<'_>) -> Result<bool, StoreError> {
        let Some(id) = self.id_of(taken)? else { return Ok(false) };
        let handle = self.handle(taken)?;
        Ok(self.rows.get(id)?.is_some_and(|row| row.handle == handle))
    }

    /// Notes an object's new place.
    fn moved(&mut self, id: ObjectId, (parent, name): Place<'_>, dir: &Dir) -> Result<(), CommitError> {
        self.invalidate.entries.push((dir.handle, name.clone()));
        if let Some(row) = self.rows.get_mut(id)? {
            row.place = Some((parent, name.clone()));
        }
        Ok(())
    }

    /// Moves a directory from wherever it is. `false` if that would put it below itself: then it was moved already, and
    /// what is in the way is moved by a record that follows.
    fn move_directory(&mut self, id: ObjectId, fd: BorrowedFd<'_>, to: &Dir, name: &Name) -> Result<bool, CommitError> {
        let what = || format!("finding directory {id} in the one above it");
        let above = nix::fcntl::openat(
            fd,
            "..",
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
        .map_err(StoreError::io(what()))?;
        let ino = self.store.bottom.stat(fd).map_err(StoreError::io(what()))?.st_ino;
        let mut from = None;
        for entry in self.store.bottom.read_dir(above.as_fd()).map_err(StoreError::io(what()))? {
            let entry = entry.map_err(StoreError::io(what()))?;
            if entry.ino == ino {
                from = Some(entry.name);
                break;
            }
        }
        let Some(from) = from else {
            return Err(StoreError::io(what())(io::Error::from(io::ErrorKind::NotFound)).into());
        };
        let above_handle = self.handle(above.as_fd())?;
        let above_id = self.id_of(above.as_fd())?;
        let moved = self.keeping_mtime(above_id, above.as_fd(), |_| {
            match renameat2(&above, from.as_os_str(), &to.fd, name.as_os_str(), RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => Ok(true),
                Err(Errno::EINVAL) => Ok(false),
                Err(errno) => Err(failed(id, name)(errno)),
            }
        })?;
        if moved {
            self.invalidate.entries.push((above_handle, from));
        }
        Ok(moved)
    }

    /// Whether `dir` is `fd` or below it.
    fn is_above(&self, fd: BorrowedFd<'_>, dir: &Dir) -> Result<bool, StoreError> {
        let what = "walking up from a directory";
        let (sought, root) = (self.handle(fd)?, self.store.bottom.root_handle());
        let mut current: OwnedFd = dir.fd.try_clone().map_err(StoreError::io(what))?;
        loop {
            let handle = self.handle(current.as_fd())?;
            if handle == sought {
                return Ok(true);
            }
            if handle == root {
                return Ok(false);
            }
            current = nix::fcntl::openat(
                &current,
                "..",
                OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                nix::sys::stat::Mode::empty(),
            )
            .map_err(StoreError::io(what))?;
        }
    }

    /// Removes an entry, if it names the object.
    pub(super) fn remove(&mut self, id: ObjectId, (parent, name): Place<'_>) -> Result<(), CommitError> {
        let Some(dir) = self.dir(parent)? else { return Ok(()) };
        let Some(fd) = self.entry(&dir, name)? else { return Ok(()) };
        if self.id_of(fd.as_fd())? != Some(id) {
            return Ok(());
        }
        if self.group.settled.contains_key(&id) {
            // It exists at the source, by another name: if it has none here, a record that follows gives it one.
            return self.leave(id, (&dir, name), fd.as_fd());
        }
        let removed = match unlinkat(&dir.fd, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => unlinkat(&dir.fd, name.as_os_str(), UnlinkatFlags::RemoveDir),
            other => other,
        };
        match removed {
            Ok(()) => {}
            // It was empty where the record was made.
            Err(Errno::ENOTEMPTY) => return Ok(self.set_aside(&dir, name, fd.as_fd())?),
            Err(errno) => return Err(StoreError::io(format!("removing {name} in directory {parent}"))(errno).into()),
        }
        self.invalidate.entries.push((dir.handle, name.clone()));
        self.unlinked(id, (parent, name), fd.as_fd())
    }

    /// Notes that an object lost a name, and perhaps its last.
    fn unlinked(&mut self, id: ObjectId, (parent, name): Place<'_>, fd: BorrowedFd<'_>) -> Result<(), CommitError> {
        let stat = self.store.bottom.stat(fd).map_err(StoreError::io(format!("examining object {id}")))?;
        if stat.st_nlink == 0 || Kind::from_mode(stat.st_mode) == Some(Kind::Directory) {
            self.rows.remove(id);
            self.dirs.remove(id);
        } else if let Some(row) = self.rows.get_mut(id)?
            && row.place.as_ref().is_some_and(|(p, n)| (*p, n) == (parent, name))
        {
            row.place = None;
        }
        Ok(())
    }

    /// Moves an entry.
    pub(super) fn rename(
        &mut self,
        id: ObjectId,
        from: Place<'_>,
        to: Place<'_>,
        other: Option<ObjectId>,
    ) -> Result<(), CommitError> {
        let Some(fd) = self.find(id)? else {
            // What it replaced is gone all the same.
            return other.map_or(Ok(()), |other| self.remove(other, to));
        };
        let handle = self.handle(fd.as_fd())?;
        let source = match self.dir(from.0)? {
            Some(dir) => match self.entry(&dir, from.1)? {
                Some(entry) if self.handle(entry.as_fd())? == handle => Some(dir),
                _ => None,
            },
            None => None,
        };
        let Some(target) = self.dir(to.0)? else {
            // The directory went before this copy was made; the object left it by a record that follows.
            return match source {
                Some(dir) => self.leave(id, (&dir, from.1), fd.as_fd()),
                None => Ok(()),
            };
        };
        let Some(source) = source else {
            if let Some(other) = other {
                self.remove(other, to)?;
            }
            return self.link(id, to);
        };
        let taken = self.entry(&target, to.1)?;
        if let Some(taken) = &taken
            && self.handle(taken.as_fd())? == handle
        {
            // Both names are of the object, so the system call would leave both.
            unlinkat(&source.fd, from.1.as_os_str(), UnlinkatFlags::NoRemoveDir)
                .map_err(StoreError::io(format!("removing {}", from.1)))?;
            self.invalidate.entries.push((source.handle, from.1.clone()));
            return self.moved(id, to, &target);
        }
        let replaced = match &taken {
            Some(taken) => other.is_some() && self.id_of(taken.as_fd())? == other,
            None => false,
        };
        if let Some(taken) = &taken {
            if !replaced && self.belongs(taken.as_fd())? {
                return self.leave(id, (&source, from.1), fd.as_fd());
            }
            if let Some(other) = other.filter(|other| replaced && self.group.settled.contains_key(other)) {
                self.leave(other, (&target, to.1), taken.as_fd())?;
            }
        }
        if !self.move_entry(id, (&source, from.1), (&target, to.1), taken.as_ref(), replaced)? {
            return Ok(());
        }
        self.invalidate.entries.push((source.handle, from.1.clone()));
        self.moved(id, to, &target)?;
        if let (Some(taken), Some(other), true) = (taken, other, replaced) {
            self.unlinked(other, to, taken.as_fd())?;
        }
        Ok(())
    }

    /// Takes a name from an object whose new place is not to be had: a record that follows has another for it.
    pub(super) fn leave(
        &mut self,
        id: ObjectId,
        (dir, name): (&Dir, &Name),
        fd: BorrowedFd<'_>,
    ) -> Result<(), CommitError> {
        let stat = self.store.bottom.stat(fd).map_err(StoreError::io(format!("examining object {id}")))?;
        if stat.st_nlink == 1 || Kind::from_mode(stat.st_mode) == Some(Kind::Directory) {
            return Ok(self.set_aside(dir, name, fd)?);
        }
        unlinkat(&dir.fd, name.as_os_str(), UnlinkatFlags::NoRemoveDir)
            .map_err(StoreError::io(format!("removing {name}")))?;
        self.invalidate.entries.push((dir.handle, name.clone()));
        Ok(())
    }

    /// Renames; what has the target's name already is replaced, or put aside. `false` if a directory would come below
    /// itself.
    fn move_entry(
        &mut self,
        id: ObjectId,
        (source, name): (&Dir, &Name),
        (target, to_name): (&Dir, &Name),
        taken: Option<&OwnedFd>,
        replaced: bool,
    ) -> Result<bool, CommitError> {
        let mut flags = if replaced { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        loop {
            match renameat2(&source.fd, name.as_os_str(), &target.fd, to_name.as_os_str(), flags) {
                Ok(()) => return Ok(true),
                Err(Errno::EINVAL) => return Ok(false),
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::EISDIR | Errno::ENOTDIR) if taken.is_some() => {
                    if let Some(taken) = taken {
                        self.set_aside(target, to_name, taken.as_fd())?;
                    }
                    flags = RenameFlags::empty();
                }
                Err(errno) => return Err(failed(id, to_name)(errno).into()),
            }
        }
    }

    /// Exchanges two entries.
    pub(super) fn exchange(
        &mut self,
        (id, from): (ObjectId, Place<'_>),
        (other, to): (ObjectId, Place<'_>),
    ) -> Result<(), CommitError> {
        let (Some(source), Some(target)) = (self.dir(from.0)?, self.dir(to.0)?) else {
            self.rename(id, from, to, None)?;
            self.rename(other, to, from, None)?;
            return self.link(id, to);
        };
        let there = |commit: &Self, dir: &Dir, name: &Name| -> Result<Option<ObjectId>, StoreError> {
            match commit.entry(dir, name)? {
                Some(fd) => commit.id_of(fd.as_fd()),
                None => Ok(None),
            }
        };
        let now = (there(self, &source, from.1)?, there(self, &target, to.1)?);
        if now == (Some(id), Some(other)) {
            let flags = RenameFlags::RENAME_EXCHANGE;
            match renameat2(&source.fd, from.1.as_os_str(), &target.fd, to.1.as_os_str(), flags) {
                Ok(()) => {}
                Err(Errno::EINVAL) => return Ok(()),
                Err(errno) => return Err(failed(id, to.1)(errno).into()),
            }
        } else if now != (Some(other), Some(id)) {
            // Each goes where the exchange put it, unless a later record did better. The first may have to wait in
            // limbo until the second has made room.
            self.rename(id, from, to, None)?;
            self.rename(other, to, from, None)?;
            return self.link(id, to);
        }
        self.moved(id, to, &target)?;
        self.moved(other, from, &source)
    }

    /// A name in limbo that is free.
    pub(super) fn limbo_name(&mut self) -> String {
        *self.limbo = true;
        // Limbo may hold what an earlier group left, so a name that is taken is skipped.
        self.serial += 1;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        format!("{:x}-{}", now.as_nanos(), self.serial)
    }

    /// Moves what an entry names into limbo.
    pub(super) fn set_aside(&mut self, dir: &Dir, name: &Name, taken: BorrowedFd<'_>) -> Result<(), StoreError> {
        loop {
            let aside = self.limbo_name();
            let limbo = self.store.bottom.limbo();
            match renameat2(&dir.fd, name.as_os_str(), limbo, aside.as_str(), RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => break,
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(StoreError::io(format!("moving {name} out of the way"))(errno)),
            }
        }
        self.invalidate.entries.push((dir.handle, name.clone()));
        if let Some(id) = self.id_of(taken)?
            && let Some(row) = self.rows.get_mut(id)?
        {
            row.place = None;
        }
        Ok(())
    }
}
