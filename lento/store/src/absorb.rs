//! Absorption: this host's own log, written by Presto, is read into the index.

use crate::error::StoreError;
use crate::history::open_log;
use crate::index::{KnownVersion, Row};
use crate::rows::Rows;
use crate::store::{ABSORBED, ABSORBED_EPOCH, Store, Writer, lock};
use modlog::{Finished, LogError, ReadResult};
use nix::fcntl::OFlag;
use protocol::{Done, Handle, HostId, Kind, Name, ObjectId, Op, Position, Record, limits};
use std::collections::BTreeSet;
use std::os::fd::AsFd;

/// Records, and bytes of them, that are absorbed in one transaction.
const BATCH_RECORDS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;

/// The first and last record of each of consecutive epochs.
#[derive(Default)]
pub(crate) struct Extents(Vec<(u64, u64, u64)>);

impl Extents {
    pub(crate) fn add(&mut self, at: Position) {
        match self.0.last_mut() {
            Some((epoch, _, last)) if *epoch == at.epoch => *last = at.number,
            _ => self.0.push((at.epoch, at.number, at.number)),
        }
    }

    pub(crate) fn write(&self, index: &crate::index::Index, writer: HostId) -> Result<(), StoreError> {
        self.0.iter().try_for_each(|(epoch, first, last)| index.extend_epoch(*epoch, writer, *first, *last))
    }
}

/// The objects that an operation gives a new version, the directories whose entries it changes included.
pub(crate) fn touched(op: &Op) -> impl Iterator<Item = ObjectId> {
    let other = match op {
        Op::Rename { other, .. } => *other,
        _ => None,
    };
    let object = if matches!(op, Op::Intend { .. }) { None } else { op.object() };
    [object, op.parents()[0], op.parents()[1], other].into_iter().flatten()
}

impl Store {
    /// Reads this host's own log beyond what was absorbed before, and enters what it says into the index: new
    /// objects, stamps, versions of contents, removals. Returns the position of the last record absorbed, which is the
    /// tail of this host's log as far as records are finished.
    ///
    /// # Errors
    /// [`StoreError::LogGap`] if records were trimmed before they were absorbed; [`StoreError::LogTorn`].
    pub fn absorb(&self) -> Result<Position, StoreError> {
        self.absorb_into(&mut lock(&self.writer), true)
    }

    /// The files whose content this host's own log stored after a number, each once.
    pub fn stored_since(&self, after: u64) -> Result<BTreeSet<ObjectId>, StoreError> {
        let host = self.config.host;
        let failed = |why: LogError| StoreError::Log { host, why: why.to_string() };
        let mut log = modlog::Reader::open(open_log(&self.bottom, None)?);
        let (mut at, mut stored) = (after, BTreeSet::new());
        loop {
            match log.read(at, BATCH_RECORDS, BATCH_BYTES).map_err(failed)? {
                ReadResult::TooOld { first_available } => at = first_available - 1,
                ReadResult::Entries(entries) => {
                    let Some(last) = entries.last() else { return Ok(stored) };
                    at = last.record.number;
                    stored.extend(entries.iter().filter_map(|entry| match &entry.record.op {
                        Op::Store { id, .. } => Some(*id),
                        _ => None,
                    }));
                }
            }
        }
    }

    /// As [`Store::absorb`], of a log that perhaps nobody has opened since a loss of power: a torn end is its end.
    pub fn absorb_torn(&self) -> Result<Position, StoreError> {
        let mut writer = lock(&self.writer);
        match self.absorb_into(&mut writer, true) {
            Err(StoreError::LogTorn(_)) => Ok(writer.absorbed),
            other => other,
        }
    }

    pub(crate) fn absorb_into(&self, writer: &mut Writer, places: bool) -> Result<Position, StoreError> {
        let host = self.config.host;
        loop {
            let read = writer.own.read(writer.absorbed.number, BATCH_RECORDS, BATCH_BYTES);
            let failed = |why: LogError| match why {
                LogError::Torn { .. } => StoreError::LogTorn(why.to_string()),
                why => StoreError::Log { host, why: why.to_string() },
            };
            let entries = match read.map_err(failed)? {
                ReadResult::Entries(entries) => entries,
                // All that was before went with the power, and numbers begin anew beyond a gap.
                ReadResult::TooOld { first_available }
                    if first_available - writer.absorbed.number > limits::LOG_GAP_RECORDS / 2 =>
                {
                    writer.absorbed.number = first_available - 1;
                    continue;
                }
                ReadResult::TooOld { first_available } => {
                    return Err(StoreError::LogGap { absorbed: writer.absorbed.number, first_available });
                }
            };
            let Some(last) = entries.last() else { return Ok(writer.absorbed) };
            let tail = last.record.position();
            writer.index.transaction(false, |index| {
                let mut rows = Rows::new(index);
                let mut extents = Extents::default();
                for Finished { record, outcome, .. } in &entries {
                    extents.add(record.position());
                    if let Ok(done) = outcome {
                        self.absorb_record(&mut rows, record, done, places)?;
                        if let (true, Op::Store { id, size, .. }) = (self.config.on_demand, &record.op) {
                            self.note_cached(index, *id, *size)?;
                        }
                    }
                }
                rows.flush()?;
                extents.write(index, host)?;
                index.set_number(ABSORBED, tail.number)?;
                index.set_number(ABSORBED_EPOCH, tail.epoch)
            })?;
            writer.absorbed = tail;
        }
    }

    /// Enters one record. Unless `places`, the index was just made from the objects as they are, and only stamps and
    /// versions are wanting.
    fn absorb_record(&self, rows: &mut Rows<'_>, record: &Record, done: &Done, places: bool) -> Result<(), StoreError> {
        if places {
            self.absorb_place(rows, record, done)?;
        }
        for id in touched(&record.op) {
            if let Some(row) = rows.get_mut(id)? {
                row.stamp = row.stamp.touched(self.config.host, record.number);
            }
        }
        let as_of = record.position();
        match &record.op {
            Op::Store { id, size, mtime } => {
                if let Some(row) = rows.get_mut(*id)? {
                    row.version = Some(KnownVersion { as_of, size: *size, mtime: *mtime });
                }
            }
            Op::Setattr { id, change, .. } if change.mtime.is_some() => {
                // What the clock said when the time was set to "now" is known only afterwards.
                let mtime = done.attr.map(|attr| attr.mtime).or(change.mtime);
                if let (Some(version), Some(mtime)) = (rows.get_mut(*id)?.and_then(|row| row.version.as_mut()), mtime) {
                    (version.as_of, version.mtime) = (as_of, mtime);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Where objects are after a record: what it created, moved, and removed.
    fn absorb_place(&self, rows: &mut Rows<'_>, record: &Record, done: &Done) -> Result<(), StoreError> {
        match &record.op {
            Op::Create { parent, name, id, .. }
            | Op::Mkdir { parent, name, id, .. }
            | Op::Symlink { parent, name, id, .. }
            | Op::Mknod { parent, name, id, .. } => {
                let Some(handle) = self.created(rows, *id, done.handle, (*parent, name))? else { return Ok(()) };
                let version = done.attr.filter(|attr| attr.kind == Kind::File).map(|attr| KnownVersion {
                    as_of: record.position(),
                    size: attr.size,
                    mtime: attr.mtime,
                });
                let place = Some((*parent, name.clone()));
                rows.put(*id, Row { handle, stamp: Default::default(), version, place });
            }
            Op::Link { id, parent, name } => {
                if let Some(row) = rows.get_mut(*id)? {
                    row.place = Some((*parent, name.clone()));
                }
            }
            Op::Unlink { parent, name, id } | Op::Rmdir { parent, name, id } => {
                self.absorb_removal(rows, *id, (*parent, name))?;
            }
            // Two names of one file: the system call does nothing.
            Op::Rename { id, other, exchange: false, .. } if *other == Some(*id) => {}
            Op::Rename { id, parent, name, to_parent, to_name, other, exchange } => {
                if let Some(row) = rows.get_mut(*id)? {
                    row.place = Some((*to_parent, to_name.clone()));
                }
                match other {
                    Some(other) if *exchange => {
                        if let Some(row) = rows.get_mut(*other)? {
                            row.place = Some((*parent, name.clone()));
                        }
                    }
                    Some(other) => self.absorb_removal(rows, *other, (*to_parent, to_name))?,
                    None => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The handle of an object that was created: as the outcome told, else that of the entry, if it is still there.
    fn created(
        &self,
        rows: &mut Rows<'_>,
        id: ObjectId,
        told: Option<Handle>,
        (parent, name): (ObjectId, &Name),
    ) -> Result<Option<Handle>, StoreError> {
        if told.is_some() {
            return Ok(told);
        }
        let Some(parent) = rows.get(parent)?.map(|row| row.handle) else { return Ok(None) };
        let Ok(dir) = self.bottom.open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY) else { return Ok(None) };
        let Ok(fd) = self.bottom.open_at(dir.as_fd(), name, OFlag::O_PATH) else { return Ok(None) };
        if !self.is_object(fd.as_fd(), id)? {
            return Ok(None);
        }
        self.bottom.handle(fd.as_fd()).map(Some).map_err(StoreError::io(format!("examining object {id}")))
    }

    /// An entry was removed: with its last link the object goes.
    fn absorb_removal(
        &self,
        rows: &mut Rows<'_>,
        id: ObjectId,
        (parent, name): (ObjectId, &Name),
    ) -> Result<(), StoreError> {
        let Some(handle) = rows.get(id)?.map(|row| row.handle) else { return Ok(()) };
        let exists = match self.bottom.open(handle, OFlag::O_PATH) {
            Ok(fd) => self.bottom.stat(fd.as_fd()).is_ok_and(|stat| stat.st_nlink > 0),
            Err(_) => false,
        };
        if !exists {
            rows.remove(id);
        } else if let Some(row) = rows.get_mut(id)?
            && row.place.as_ref().is_some_and(|(p, n)| (*p, n) == (parent, name))
        {
            row.place = None;
        }
        Ok(())
    }
}
