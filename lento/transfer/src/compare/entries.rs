//! What is listed, one directory after the other, and what it means for what is here.

use super::{
    Awaited, Comparer, Deferred, Directory, Entries,
    batch::creation,
    local::{Local, open_directory, read_directory},
};
use crate::error::{Fault, TransferError};
use lento_store::{Identity, StoreError};
use nix::fcntl::OFlag;
use protocol::{Kind, Listing, ListingEntry, Name, ObjectId, Op, Settled};
use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::AsFd,
};

impl Comparer {
    pub(super) fn listing(&mut self, listing: Listing) -> Result<(), TransferError> {
        let Listing { directory, entries, last } = listing;
        if let [ListingEntry { is_root: true, settled, .. }] = &entries[..] {
            self.root(settled)?;
            self.progress.listed_all = self.open == 0;
            return Ok(());
        }
        self.open(directory)?;
        // What is in its place, and what can be moved to a free one, comes first, so that it is out of the way.
        let here: HashSet<ObjectId> = entries.iter().map(|entry| entry.settled.id).collect();
        let mut later = Vec::new();
        for entry in entries {
            if entry.is_root {
                return Err(self.misbehaved(directory, "it listed a root among the entries of a directory"));
            }
            let id = entry.settled.id;
            let again = !self.listed.insert(id);
            if again && entry.settled.attr.kind == Kind::Directory || id == self.root || id == ObjectId::ROOT {
                return Err(self.misbehaved(id, "it listed a directory twice"));
            }
            self.progress.listed += 1;
            if let Some(entry) = self.in_place(directory, entry, again)? {
                later.push((entry, again));
            }
        }
        if self.names(directory).is_some_and(|names| !names.is_empty()) {
            // What is here already, elsewhere, makes room by moving.
            let mut known = Vec::with_capacity(later.len());
            for (entry, _) in &later {
                known.push(self.store.object_stamp(entry.settled.id)?.is_some());
            }
            let mut known = known.into_iter();
            later.sort_by_cached_key(|_| !known.next().unwrap_or(false));
        }
        for (entry, again) in later {
            self.place(directory, entry, again, &here)?;
        }
        if last && let Some(known) = self.directories.get_mut(&directory) {
            self.open -= 1;
            let state = std::mem::replace(&mut known.state, Entries::Done);
            if let Entries::Read(rest) = state {
                self.extras.extend(rest.into_keys().map(|name| (directory, name)));
            }
        }
        self.progress.listed_all = self.open == 0;
        Ok(())
    }

    fn root(&mut self, settled: &Settled) -> Result<(), TransferError> {
        if settled.id != self.root || !self.listed.insert(settled.id) {
            return Err(self.misbehaved(settled.id, "it listed a root that was not asked for"));
        }
        self.progress.listed += 1;
        match self.store.open_object(self.root, OFlag::O_PATH) {
            Ok(fd) => {
                let local = self.read_local(&fd, self.root)?;
                self.known(settled, Entries::Unread, false);
                self.compare(settled, &local)
            }
            Err(StoreError::NotFound(_)) if self.root != ObjectId::ROOT => {
                // Made in a directory that there is not, it goes to limbo: the record that presupposes it gives it a name.
                let nowhere = ObjectId::new(self.root.host, u64::MAX);
                self.make(nowhere, Name::new(b"missing")?, settled.clone());
                Ok(())
            }
            Err(why) => Err(why.into()),
        }
    }

    fn read_local(&self, fd: &impl AsFd, id: ObjectId) -> Result<Local, TransferError> {
        Local::read(&self.store, fd.as_fd()).map_err(|why| TransferError::io(format!("reading object {id}"), why))
    }

    /// Reads what is here of a directory whose entries are listed.
    fn open(&mut self, id: ObjectId) -> Result<(), TransferError> {
        let state = match self.directories.get(&id).map(|directory| &directory.state) {
            None | Some(Entries::Done) => {
                return Err(
                    self.misbehaved(id, "it listed entries of a directory that it had not listed, or had ended")
                );
            }
            Some(Entries::Unread) => {
                // It may have been moved, or made known, by what is not committed yet.
                self.flush()?;
                Entries::Read(read_directory(&self.store, id)?)
            }
            Some(_) => return Ok(()),
        };
        if let Some(directory) = self.directories.get_mut(&id) {
            directory.state = state;
        }
        Ok(())
    }

    fn names(&mut self, directory: ObjectId) -> Option<&mut HashMap<Name, Local>> {
        match self.directories.get_mut(&directory).map(|directory| &mut directory.state) {
            Some(Entries::Read(names)) => Some(names),
            _ => None,
        }
    }

    /// Deals with an entry that is here already; gives back all others.
    fn in_place(
        &mut self,
        directory: ObjectId,
        entry: ListingEntry,
        again: bool,
    ) -> Result<Option<ListingEntry>, TransferError> {
        let ListingEntry { name, settled, .. } = &entry;
        let Some(names) = self.names(directory) else { return Ok(Some(entry)) };
        if !names.get(name).is_some_and(|local| local.id == Some(settled.id) && local.is_alike(settled)) {
            return Ok(Some(entry));
        }
        let Some(local) = names.remove(name) else { return Ok(Some(entry)) };
        if again {
            return Ok(None);
        }
        if self.store.object_stamp(settled.id)?.is_none() {
            // The index has lost it.
            self.push(self.at(), creation(settled, directory, name.clone()), &[settled]);
        }
        self.known(settled, Entries::Unread, self.is_late(directory));
        self.compare(settled, &local)?;
        Ok(None)
    }

    /// Remembers a directory.
    fn known(&mut self, settled: &Settled, state: Entries, late: bool) {
        if settled.attr.kind == Kind::Directory && (self.options.names_only.is_none() || settled.id == self.root) {
            self.open += 1;
            self.directories.insert(settled.id, Directory { settled: settled.clone(), state, late });
        }
    }

    /// Compares an object with what is here of it.
    fn compare(&mut self, settled: &Settled, local: &Local) -> Result<(), TransferError> {
        let stamp = self.store.object_stamp(settled.id)?;
        let same = stamp.as_ref() == Some(&settled.stamp);
        let same = same && !(self.options.distrust && local.attr.kind == Kind::File && settled.attr.size > 0);
        if local.attr.kind == Kind::File && !(same && local.has_version(settled.attr.size, settled.attr.mtime)) {
            self.want(settled, true, Vec::new(), false);
        } else if !same || local.differs(settled) {
            self.touch(settled);
        }
        Ok(())
    }

    fn want(&mut self, settled: &Settled, exists: bool, places: Vec<(ObjectId, Name)>, deferred: bool) {
        if self.options.names_only.is_some() {
            let (id, size, mtime) = (settled.id, settled.attr.size, settled.attr.mtime);
            return self.push(self.at(), Op::Store { id, size, mtime }, &[settled]);
        }
        self.progress.wanted.0 += 1;
        self.progress.wanted.1 += settled.attr.size;
        self.wanted.push(settled.id);
        self.awaited.insert(settled.id, Awaited { settled: settled.clone(), exists, places, deferred });
    }

    /// Deals with an entry that is not here.
    fn place(
        &mut self,
        directory: ObjectId,
        entry: ListingEntry,
        again: bool,
        here: &HashSet<ObjectId>,
    ) -> Result<(), TransferError> {
        let ListingEntry { name, settled, .. } = entry;
        if again && self.awaited.get(&settled.id).is_some_and(|awaited| !awaited.exists) {
            // One more name of a file that is yet to be made.
            let free = self.claim(directory, &name);
            if let Some(awaited) = self.awaited.get_mut(&settled.id) {
                awaited.places.push((directory, name));
                if !free && !std::mem::replace(&mut awaited.deferred, true) {
                    self.deferred.push(Deferred::Content(settled.id));
                }
            }
            return Ok(());
        }
        let nowhere = self.fresh && !again;
        if let Some(local) = if nowhere { None } else { self.elsewhere(&settled)? } {
            self.report.moved += u64::from(!again);
            let link = Op::Link { id: settled.id, parent: directory, name: name.clone() };
            let at_once = self.force(directory, &name, link, &settled);
            if at_once
                && settled.attr.kind == Kind::Directory
                && let Some(names) = self.names(directory)
            {
                // It leaves its old name free, if that is in the same directory.
                names.retain(|_, local| local.id != Some(settled.id));
            }
            if !again {
                self.known(&settled, Entries::Unread, !at_once || self.is_late(directory));
                self.compare(&settled, &local)?;
            }
            return Ok(());
        }
        if again {
            // Its first name waits for the end, or for the next commit.
            self.claim(directory, &name);
            let link = Op::Link { id: settled.id, parent: directory, name };
            self.deferred.push(Deferred::Op(Box::new((link, settled))));
            return Ok(());
        }
        if let Some(local) = self.adopt(directory, &name, &settled, here)? {
            self.report.adopted += 1;
            self.push(self.at(), creation(&settled, directory, name), &[&settled]);
            self.known(&settled, Entries::Unread, self.is_late(directory));
            if settled.attr.kind == Kind::File {
                self.want(&settled, true, Vec::new(), false);
            } else if local.differs(&settled) {
                self.touch(&settled);
            }
            return Ok(());
        }
        self.make(directory, name, settled);
        Ok(())
    }

    /// Says that the source has this name, and whether it can be made at once: its directory is here, and nothing else
    /// has the name.
    fn claim(&mut self, directory: ObjectId, name: &Name) -> bool {
        match self.directories.get_mut(&directory).map(|directory| &mut directory.state) {
            Some(Entries::Read(names)) => {
                let taken = names.remove(name).is_some();
                if taken {
                    self.in_the_way.push((directory, name.clone()));
                }
                !taken
            }
            Some(Entries::Deferred | Entries::Unread | Entries::Done) => false,
            // It is being made, or is that of a missing root.
            Some(Entries::New) | None => true,
        }
    }

    /// An object that is here, but not where it is listed.
    fn elsewhere(&mut self, settled: &Settled) -> Result<Option<Local>, TransferError> {
        let fd = match self.store.open_object(settled.id, OFlag::O_PATH) {
            Ok(fd) => fd,
            Err(StoreError::NotFound(_)) => return Ok(None),
            Err(why) => return Err(why.into()),
        };
        let local = self.read_local(&fd, settled.id)?;
        Ok(local.is_alike(settled).then_some(local))
    }

    /// Makes a name, at once if that is possible, else at the end; says which.
    fn force(&mut self, directory: ObjectId, name: &Name, op: Op, settled: &Settled) -> bool {
        let moves = matches!(op, Op::Link { .. }) && settled.attr.kind == Kind::Directory;
        let late = moves && self.is_late(directory);
        let at_once = self.claim(directory, name) && !late;
        if at_once {
            self.push(self.at(), op, &[settled]);
        } else {
            self.deferred.push(Deferred::Op(Box::new((op, settled.clone()))));
        }
        at_once
    }

    fn is_late(&self, directory: ObjectId) -> bool {
        self.directories.get(&directory).is_some_and(|directory| directory.late)
    }

    /// Makes a new object; a file with content when that has come.
    fn make(&mut self, directory: ObjectId, name: Name, settled: Settled) {
        self.report.created += 1;
        if settled.attr.kind == Kind::File && settled.attr.size > 0 && self.options.names_only.is_none() {
            let deferred = !self.claim(directory, &name);
            if deferred {
                self.deferred.push(Deferred::Content(settled.id));
            }
            self.want(&settled, false, vec![(directory, name)], deferred);
            return;
        }
        let op = creation(&settled, directory, name.clone());
        let at_once = self.force(directory, &name, op, &settled);
        let (state, late) = if at_once { (Entries::New, self.is_late(directory)) } else { (Entries::Deferred, true) };
        self.known(&settled, state, late);
    }

    /// Gives what is here under the same name the identity that is listed, if nothing else is known to claim it: a
    /// directory that was filled by other means is not copied again, and a file that was replaced is made from its
    /// predecessor.
    fn adopt(
        &mut self,
        directory: ObjectId,
        name: &Name,
        settled: &Settled,
        here: &HashSet<ObjectId>,
    ) -> Result<Option<Local>, TransferError> {
        let listed = |comparer: &Self, id: &ObjectId| here.contains(id) || comparer.listed.contains(id);
        let adoptable = match &self.directories.get(&directory).map(|directory| &directory.state) {
            Some(Entries::Read(names)) => names.get(name).is_some_and(|local| {
                local.is_alike(settled)
                    && !local.id.is_some_and(|id| listed(self, &id))
                    && (local.links == 1 || local.attr.kind == Kind::Directory)
            }),
            _ => false,
        };
        if !adoptable {
            return Ok(None);
        }
        let Some(local) = self.names(directory).and_then(|names| names.remove(name)) else { return Ok(None) };
        let failed = |why: io::Error| {
            TransferError::io(format!("giving {name} in directory {directory} its identity"), Fault::from(why).0)
        };
        let dir = open_directory(&self.store, directory)?;
        let bottom = self.store.bottom();
        let fd = bottom.open_at(dir.as_fd(), name, OFlag::O_PATH).map_err(failed)?;
        bottom.set_identity(fd.as_fd(), &Identity::new(settled.id)).map_err(failed)?;
        Ok(Some(local))
    }
}
