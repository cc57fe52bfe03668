//! The end of a comparison: what had to wait is done, and what the source does not have is removed.

use super::{
    CompareReport, Comparer, Deferred,
    contents::Arrived,
    local::{Local, open_directory},
};
use crate::{
    error::{Fault, TransferError},
    list::open_entry,
};
use lento_store::{DirEntry, StoreError};
use nix::{
    errno::Errno,
    fcntl::{OFlag, RenameFlags, openat, renameat2},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};
use protocol::{Kind, Name, ObjectId, Op, Position};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Removals that are committed at once.
const BATCH_RECORDS: usize = 4096;

impl Comparer {
    /// Ends the comparison: the listing was complete, the source stood at `after` when it began to list, and every
    /// content that was wanted was given to [`Comparer::content`] or cannot be had.
    ///
    /// # Errors
    /// [`TransferError::Misbehaved`] if the listing was not complete: nothing is removed then;
    /// [`TransferError::Commit`] and [`TransferError::Io`] if the tree cannot be brought to what was listed.
    pub fn finish(mut self, after: Position) -> Result<CompareReport, TransferError> {
        let incomplete =
            self.directories.iter().find(|(_, directory)| !matches!(directory.state, super::Entries::Done));
        if let Some((id, _)) = incomplete {
            return Err(self.misbehaved(*id, "it ended the listing before it had ended this directory"));
        }
        if !self.listed.contains(&self.root) {
            return Err(self.misbehaved(self.root, "it listed nothing: the object is gone there"));
        }
        self.do_deferred()?;
        self.remove_extras()?;
        self.empty_limbo()?;
        self.set_times()?;
        let wanting: Vec<ObjectId> = self.awaited.keys().copied().collect();
        for id in wanting {
            if !self.report.failed.iter().any(|(failed, _)| *failed == id) {
                self.report.failed.push((id, 0));
            }
        }
        if self.report.failed.is_empty() && self.root == ObjectId::ROOT && self.options.names_only.is_none() {
            self.store.set_applied(self.source, after)?;
        }
        Ok(std::mem::take(&mut self.report))
    }

    /// Does what had to wait until all was listed: what has the names now goes into limbo, where commit finds it by id;
    /// then come the directories, each after the one that it is in, then all else.
    fn do_deferred(&mut self) -> Result<(), TransferError> {
        self.clear_the_way()?;
        let (directories, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.deferred)
            .into_iter()
            .partition(|deferred| matches!(deferred, Deferred::Op(op) if op.1.attr.kind == Kind::Directory));
        for deferred in directories.into_iter().chain(others) {
            match deferred {
                Deferred::Op(op) => {
                    let (op, settled) = *op;
                    self.push(self.at(), op, &[&settled]);
                }
                Deferred::Content(id) => {
                    if let Some(arrived) = self.held.remove(&id)
                        && let Some(awaited) = self.awaited.remove(&id)
                    {
                        self.arrived(awaited, arrived)?;
                    }
                }
            }
        }
        self.flush()
    }

    /// Moves what has names that the source gives to something else into limbo.
    fn clear_the_way(&mut self) -> Result<(), TransferError> {
        let limbo = self.limbo()?;
        for (serial, (directory, name)) in std::mem::take(&mut self.in_the_way).into_iter().enumerate() {
            let dir = open_directory(&self.store, directory)?;
            let failed =
                |errno| TransferError::io(format!("moving {name} in directory {directory} out of the way"), errno);
            let mut attempt = serial;
            loop {
                let aside = format!("compare-{attempt}");
                match renameat2(&dir, name.as_os_str(), &limbo, aside.as_str(), RenameFlags::RENAME_NOREPLACE) {
                    // It was moved to its own place meanwhile.
                    Ok(()) | Err(Errno::ENOENT) => break,
                    Err(Errno::EEXIST) => attempt += 1,
                    Err(errno) => return Err(failed(errno)),
                }
            }
            let handle = self.store.bottom().handle(dir.as_fd()).map_err(|why| failed(Fault::from(why).0))?;
            self.report.invalidate.entries.push((handle, name));
        }
        Ok(())
    }

    fn limbo(&self) -> Result<OwnedFd, TransferError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(self.store.bottom().private(), "limbo", flags, Mode::empty())
            .map_err(|errno| TransferError::io("opening .intermezzo/limbo", errno))
    }

    /// Removes what is left in limbo, of this comparison or of one that was interrupted, and that the source does not
    /// have.
    fn empty_limbo(&mut self) -> Result<(), TransferError> {
        if self.root != ObjectId::ROOT || self.options.names_only.is_some() {
            // What is there may be below another root.
            return Ok(());
        }
        let limbo = self.limbo()?;
        let failed = |why: io::Error| TransferError::io("emptying .intermezzo/limbo", why);
        for entry in self.store.bottom().read_dir(limbo.as_fd()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            self.remove_extra(None, &limbo, &entry.name)?;
        }
        self.flush()
    }

    /// Gives directories their times that were changed by what left them, or by contents that came into them.
    fn set_times(&mut self) -> Result<(), TransferError> {
        let mut late = Vec::new();
        for (id, directory) in &self.directories {
            let fd = match self.store.open_object(*id, OFlag::O_PATH) {
                Ok(fd) => fd,
                Err(StoreError::NotFound(_)) => continue,
                Err(why) => return Err(why.into()),
            };
            let attr = self.store.bottom().attr(fd.as_fd());
            let attr = attr.map_err(|why| TransferError::io(format!("examining directory {id}"), why))?;
            if attr.mtime != directory.settled.attr.mtime {
                late.push(directory.settled.clone());
            }
        }
        late.iter().for_each(|settled| self.touch(settled));
        self.flush()
    }

    /// Removes entries that the source does not have, with all below them but what the source has elsewhere.
    fn remove_extras(&mut self) -> Result<(), TransferError> {
        for (directory, name) in std::mem::take(&mut self.extras) {
            let dir = match open_directory(&self.store, directory) {
                Ok(dir) => dir,
                Err(TransferError::Store(StoreError::NotFound(_))) => continue,
                Err(why) => return Err(why),
            };
            self.remove_extra(Some(directory), &dir, &name)?;
            if self.batch.len() >= BATCH_RECORDS {
                self.flush()?;
            }
        }
        self.flush()
    }

    /// Removes an entry; a directory from the bottom up, without recursion.
    fn remove_extra(&mut self, directory: Option<ObjectId>, dir: &OwnedFd, name: &Name) -> Result<(), TransferError> {
        struct Level {
            /// The directory, unless it has no identity.
            id: Option<ObjectId>,
            dir: OwnedFd,
            name: Name,
            below: Vec<DirEntry>,
        }
        let failed =
            |why: io::Error| TransferError::io(format!("removing {name}, which the source does not have"), why);
        let top = DirEntry { name: name.clone(), kind: None, ino: 0 };
        let dir = dir.try_clone().map_err(failed)?;
        let mut levels = vec![Level { id: directory, dir, name: name.clone(), below: vec![top] }];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.below.pop() else {
                let Some(done) = levels.pop() else { break };
                if let Some(above) = levels.last() {
                    self.remove_entry(above.id, above.dir.as_fd(), &done.name, done.id, true)?;
                }
                continue;
            };
            let Some(fd) = open_entry(&self.store, level.dir.as_fd(), &entry).map_err(failed)? else { continue };
            let local = Local::read(&self.store, fd.as_fd()).map_err(failed)?;
            if local.attr.kind == Kind::Directory {
                if local.id.is_some_and(|id| self.listed.contains(&id)) {
                    continue;
                }
                let dir = self
                    .store
                    .bottom()
                    .open_at(level.dir.as_fd(), &entry.name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
                    .map_err(failed)?;
                let below = self.store.bottom().read_dir(dir.as_fd()).map_err(failed)?;
                let below = below.collect::<io::Result<Vec<_>>>().map_err(failed)?;
                levels.push(Level { id: local.id, dir, name: entry.name, below });
                continue;
            }
            let (id, parent) = (local.id, level.dir.as_fd());
            let listed = id.is_some_and(|id| self.listed.contains(&id));
            if listed && local.links == 1 {
                // Its only name: nothing of the source's is ever removed with it.
                continue;
            }
            if local.attr.kind == Kind::File && local.links == 1 {
                let file = self.store.bottom().open_at(parent, &entry.name, OFlag::O_RDONLY).map_err(failed)?;
                let file = File::from(file);
                if self.is_loser(id, &file, None)? {
                    self.keep(&file)?;
                }
            }
            let above = level.id;
            let dir = level.dir.try_clone().map_err(failed)?;
            self.remove_entry(above, dir.as_fd(), &entry.name, id, false)?;
        }
        Ok(())
    }

    /// Removes one entry: by a record, so that the index follows, or at once where there is no identity for that.
    fn remove_entry(
        &mut self,
        parent: Option<ObjectId>,
        dir: BorrowedFd<'_>,
        name: &Name,
        id: Option<ObjectId>,
        directory: bool,
    ) -> Result<(), TransferError> {
        self.report.removed += u64::from(!id.is_some_and(|id| self.listed.contains(&id)));
        if let (Some(parent), Some(id)) = (parent, id) {
            let name = name.clone();
            let op = if directory { Op::Rmdir { parent, name, id } } else { Op::Unlink { parent, name, id } };
            self.push(self.at(), op, &[]);
            return Ok(());
        }
        // What is below it may yet wait to be committed.
        self.flush()?;
        let flag = if directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        match unlinkat(dir, name.as_os_str(), flag) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(TransferError::io(format!("removing {name}"), errno)),
        }
        let handle = self
            .store
            .bottom()
            .handle(dir)
            .map_err(|why| TransferError::io("examining a directory", Fault::from(why).0))?;
        self.report.invalidate.entries.push((handle, name.clone()));
        if let Some(settled) =
            parent.and_then(|parent| self.directories.get(&parent)).map(|known| known.settled.clone())
        {
            self.touch(&settled);
        }
        Ok(())
    }
}

impl Drop for Comparer {
    /// Contents that found no place are removed.
    fn drop(&mut self) {
        for arrived in self.held.values() {
            if let Arrived::New(_, file) = arrived {
                crate::receive::remove_staged(&self.store, file);
            }
        }
    }
}
