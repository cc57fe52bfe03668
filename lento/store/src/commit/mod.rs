//! Commit: shipments from a peer are applied to the bottom, as one unit, in the order of their records.
//!
//! A record may have been applied before, and a copy that was made while its source changed may hold what later records
//! made. So each record makes what it says true where it is not: an object that is elsewhere is brought to its place.
//! But where another object that belongs there already has the name, it came by a later record, and stays. What does
//! not belong there is put aside into `.intermezzo/limbo` and removed when the group is done; an object whose place is not
//! to be had waits there for a record that has another.

mod attributes;
mod check;
mod content;
mod demand;
mod dirs;
mod object;
mod place;

use crate::Staged;
use crate::absorb::Extents;
use crate::bottom::{c_name, open_dir};
use crate::error::{CommitError, StoreError};
use crate::index::Index;
use crate::rows::Rows;
use crate::store::{Store, Writer, lock};
use crate::walk::remove_below;
use check::{Group, is_repair};
use dirs::Dirs;
use nix::fcntl::OFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};
use protocol::{Handle, HostId, Kind, Name, ObjectId, Op, Position, Record, Shipment};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

pub(crate) use content::{copy_content, move_content};
pub(crate) use demand::set_size;

/// A group that was committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The position up to which everything is visible now.
    pub upto: Position,
    /// What the kernel must forget, for [`protocol::Downcall::Invalidate`] (cut to its bounds).
    pub invalidate: Invalidation,
}

/// What a commit changed in the bottom behind the kernel's caches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Invalidation {
    /// Directory entries that appeared, changed or went: directory and name.
    pub entries: Vec<(Handle, Name)>,
    /// Objects whose attributes or content changed.
    pub objects: Vec<Handle>,
    /// Files that have a new inode: whoever still writes to the old one, this, writes to an orphan.
    pub replaced: Vec<Handle>,
}

/// One commit while it is done.
struct Commit<'a> {
    store: &'a Store,
    index: &'a Index,
    group: Group<'a>,
    staged: &'a Staged,
    rows: Rows<'a>,
    dirs: Dirs,
    /// Staged files that are in place already, in this or an earlier attempt.
    consumed: &'a mut HashMap<Name, ObjectId>,
    /// Objects that have their settled attributes (directories: but for the mtime).
    dressed: HashSet<ObjectId>,
    /// Objects that were made of their staged file, now.
    made: HashSet<ObjectId>,
    /// Objects whose content was copied into their inode.
    copied: Vec<ObjectId>,
    limbo: &'a mut bool,
    /// Counts names in limbo.
    serial: u64,
    /// Whether what is applied comes from a listing.
    repair: bool,
    /// In a client's cache: whether the names of a directory are here.
    complete: HashMap<ObjectId, bool>,
    invalidate: Invalidation,
}

impl Store {
    /// Applies shipments as one unit: namespace changes in the order of their records, contents where the last record
    /// that stored them stands, then attributes, and times of directories last. May be repeated, from any earlier
    /// record on, without effect. Afterwards the index has the settled stamps and the new position.
    ///
    /// A shipment whose `after` equals its `upto` is a repair: its records, made from a listing, all stand at `upto`.
    /// It does not advance the position (see [`Store::set_applied`]).
    ///
    /// # Errors
    /// See [`CommitError`]. After [`CommitError::Peer`], [`CommitError::Missing`] and [`CommitError::NotStaged`]
    /// nothing was changed; after the others a part may be visible, and the same group, with the same staged files,
    /// must be committed again.
    pub fn commit(&self, shipments: &[Shipment], staged: &Staged) -> Result<Committed, CommitError> {
        self.commit_into(&mut lock(&self.writer), shipments, staged)
    }

    pub(crate) fn commit_into(
        &self,
        writer: &mut Writer,
        shipments: &[Shipment],
        staged: &Staged,
    ) -> Result<Committed, CommitError> {
        let group = Group::new(shipments, self.config.fileset, self.config.host)?;
        let upto = group.upto;
        let Writer { index, consumed, limbo, received, listings, .. } = writer;
        let mut commit = Commit {
            store: self,
            index,
            group,
            staged,
            rows: Rows::new(index),
            dirs: Dirs::default(),
            consumed,
            dressed: HashSet::new(),
            made: HashSet::new(),
            copied: Vec::new(),
            limbo,
            serial: 0,
            repair: false,
            complete: HashMap::new(),
            invalidate: Invalidation::default(),
        };
        commit.rows.look_ahead(commit.group.touched.iter().copied())?;
        commit.check_presence(shipments)?;
        if let Err(error) = commit.apply(shipments) {
            // What was done is entered all the same, so that the next attempt finds it.
            if let Err(second) = index.transaction(false, |_| commit.rows.flush()) {
                tracing::debug!(%second, "the index could not follow a commit that failed");
            }
            return Err(error);
        }
        let Commit { mut rows, made, copied, invalidate, complete, group, .. } = commit;
        for (directory, asked) in listings.iter_mut().filter(|_| shipments.iter().any(|shipment| !is_repair(shipment)))
        {
            asked.overtaken |= complete.get(directory) == Some(&false);
            asked.objects.extend(&group.touched);
        }
        let keeping = self.keeping.load(Ordering::Acquire);
        if keeping {
            for shipment in shipments.iter().filter(|shipment| !is_repair(shipment)) {
                self.keep_records(received, shipment.writer, &shipment.records)?;
            }
        }
        index.transaction(false, |index| {
            rows.flush()?;
            copied.iter().try_for_each(|id| index.remove_copy(*id))?;
            if self.config.on_demand {
                staged.iter().try_for_each(|(id, file)| self.note_cached(index, id, file.size))?;
            }
            if keeping {
                enter_epochs(index, shipments)?;
            }
            advance(index, shipments)
        })?;
        consumed.clear();
        self.discard(staged, &made)?;
        Ok(Committed { upto, invalidate })
    }

    /// Deletes what is left of the staged files, of which objects were not `made`.
    fn discard(&self, staged: &Staged, made: &HashSet<ObjectId>) -> Result<(), CommitError> {
        for (_, file) in staged.iter().filter(|(id, _)| !made.contains(id)) {
            match unlinkat(self.bottom.staging(), file.name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(nix::Error::ENOENT) => {}
                Err(errno) => return Err(StoreError::io(format!("removing staged file {}", file.name))(errno).into()),
            }
        }
        Ok(())
    }
}

/// Enters the epochs of records that are kept for other peers.
fn enter_epochs(index: &Index, shipments: &[Shipment]) -> Result<(), StoreError> {
    let mut extents: BTreeMap<HostId, Extents> = BTreeMap::new();
    for shipment in shipments.iter().filter(|shipment| !is_repair(shipment)) {
        let extents = extents.entry(shipment.writer).or_default();
        shipment.records.iter().for_each(|record| extents.add(record.position()));
    }
    extents.iter().try_for_each(|(host, extents)| extents.write(index, *host))
}

/// Enters how far the shipments go.
fn advance(index: &Index, shipments: &[Shipment]) -> Result<(), StoreError> {
    let mut applied: BTreeMap<HostId, (Position, Position)> =
        index.applied()?.into_iter().map(|(writer, applied, durable)| (writer, (applied, durable))).collect();
    for shipment in shipments.iter().filter(|shipment| !is_repair(shipment)) {
        let (position, _) = applied.entry(shipment.writer).or_default();
        *position = (*position).max(shipment.upto);
    }
    applied.iter().try_for_each(|(writer, (position, durable))| index.put_applied(*writer, *position, *durable))
}

impl Commit<'_> {
    /// Refuses a group that presupposes objects or contents that are not here.
    fn check_presence(&mut self, shipments: &[Shipment]) -> Result<(), CommitError> {
        if self.store.config.on_demand {
            return Ok(());
        }
        let mut present: HashSet<ObjectId> = HashSet::new();
        let mut missing = Vec::new();
        for record in shipments.iter().flat_map(|shipment| &shipment.records) {
            let needed = match record.op {
                Op::Unlink { .. } | Op::Rmdir { .. } | Op::Intend { .. } | Op::Noop => [None; 4],
                Op::Rename { id, parent, to_parent, other, exchange: true, .. } => {
                    [Some(id), Some(parent), Some(to_parent), other]
                }
                _ => [record.op.object(), record.op.parents()[0], record.op.parents()[1], None],
            };
            present.extend(record.op.created());
            for id in needed.into_iter().flatten() {
                if present.insert(id) && self.find(id)?.is_none() && self.group.settled.contains_key(&id) {
                    missing.push(id);
                }
            }
        }
        if !missing.is_empty() {
            return Err(CommitError::Missing(missing));
        }
        let wanted = |id: &&ObjectId| self.group.settled.contains_key(id) && self.staged.get(**id).is_none();
        let mut absent: Vec<_> = self.group.stored.keys().filter(wanted).copied().collect();
        if absent.is_empty() {
            return Ok(());
        }
        absent.sort();
        Err(CommitError::NotStaged(absent))
    }

    fn apply(&mut self, shipments: &[Shipment]) -> Result<(), CommitError> {
        let mut place = 0;
        for shipment in shipments {
            self.repair = is_repair(shipment);
            for record in &shipment.records {
                if self.store.config.on_demand {
                    self.apply_on_demand(place, record)?;
                } else {
                    self.apply_here(place, record)?;
                }
                place += 1;
            }
        }
        self.dress_all()?;
        self.empty_limbo()
    }

    fn apply_here(&mut self, place: usize, record: &Record) -> Result<(), CommitError> {
        let at = record.position();
        match &record.op {
            Op::Create { parent, name, id, .. } => self.create(*id, (*parent, name), object::New::File, at),
            Op::Mkdir { parent, name, id, .. } => {
                let unlisted = self.repair && self.store.config.on_demand;
                let new = if unlisted { object::New::Unlisted } else { object::New::Directory };
                self.create(*id, (*parent, name), new, at)
            }
            Op::Symlink { parent, name, id, target } => {
                self.create(*id, (*parent, name), object::New::Symlink(target), at)
            }
            Op::Mknod { parent, name, id, mode, rdev } => {
                self.create(*id, (*parent, name), object::New::node(*mode, *rdev), at)
            }
            Op::Link { id, parent, name } => self.link(*id, (*parent, name)),
            Op::Unlink { parent, name, id } | Op::Rmdir { parent, name, id } => self.remove(*id, (*parent, name)),
            // Two names of one file: the system call does nothing.
            Op::Rename { id, other, .. } if *other == Some(*id) => Ok(()),
            Op::Rename { id, parent, name, to_parent, to_name, other: Some(other), exchange: true } => {
                self.exchange((*id, (*parent, name)), (*other, (*to_parent, to_name)))
            }
            Op::Rename { id, parent, name, to_parent, to_name, other, .. } => {
                self.rename(*id, (*parent, name), (*to_parent, to_name), *other)
            }
            Op::Store { id, .. } if self.group.stored.get(id).is_some_and(|(last, _)| *last == place) => {
                if self.store.config.on_demand && self.staged.get(*id).is_none() {
                    return if self.made.contains(id) { Ok(()) } else { self.lose_content(*id, at) };
                }
                self.store_content(*id)
            }
            Op::Setattr { .. }
            | Op::Setxattr { .. }
            | Op::Removexattr { .. }
            | Op::Intend { .. }
            | Op::Store { .. }
            | Op::Noop => Ok(()),
        }
    }

    /// Removes from limbo what no record will ask for: what the source does not have any more, what has a name by now,
    /// and what never belonged to the file set.
    fn empty_limbo(&mut self) -> Result<(), CommitError> {
        if !*self.limbo {
            return Ok(());
        }
        let what = "emptying .intermezzo/limbo";
        let bottom = &self.store.bottom;
        let mut kept = false;
        for entry in bottom.read_dir(bottom.limbo()).map_err(StoreError::io(what))? {
            let name = entry.map_err(StoreError::io(what))?.name;
            let fd = bottom.open_at(bottom.limbo(), &name, OFlag::O_PATH).map_err(StoreError::io(what))?;
            if self.is_awaited(fd.as_fd())? {
                kept = true;
                continue;
            }
            match unlinkat(bottom.limbo(), name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Err(nix::Error::EISDIR) => {
                    let dir = open_dir(bottom.limbo(), &c_name(&name)).map_err(StoreError::io(what))?;
                    remove_below(dir.as_fd()).map_err(StoreError::io(what))?;
                    unlinkat(bottom.limbo(), name.as_os_str(), UnlinkatFlags::RemoveDir)
                        .map_err(StoreError::io(what))?;
                }
                other => other.map_err(StoreError::io(what))?,
            }
            if let Some(id) = self.id_of(fd.as_fd())?
                && self.find(id)?.is_none()
            {
                self.rows.remove(id);
            }
        }
        *self.limbo = kept;
        Ok(())
    }

    /// Whether an object in limbo will be given a place by records to come.
    fn is_awaited(&mut self, fd: BorrowedFd<'_>) -> Result<bool, CommitError> {
        if self.store.config.on_demand {
            // Where its names are not here, it will be found again when they are asked for.
            return Ok(false);
        }
        let Some(id) = self.id_of(fd)? else { return Ok(false) };
        let stat = self.store.bottom.stat(fd).map_err(StoreError::io("examining an object in limbo"))?;
        let directory = Kind::from_mode(stat.st_mode) == Some(Kind::Directory);
        let gone = self.group.touched.contains(&id) && !self.group.settled.contains_key(&id);
        Ok(!gone && (stat.st_nlink == 1 || directory) && self.belongs(fd)?)
    }
}
