//! The merged history: this host's own log and the logs received from others, in order of position, as shipments.

use crate::absorb::touched;
use crate::bottom::{Bottom, make_dir, open_dir};
use crate::error::StoreError;
use crate::index::Epoch;
use crate::store::{Outbox, Store, lock};
use modlog::{Finished, ReadResult};
use protocol::{
    HostId, Name, ObjectId, Op, PACKET_HEADER_BYTES, Position, Record, Settled, Shipment, VersionStamp, limits,
};
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

/// Room in a packet for all of a shipment but its records and settled attributes.
const ENVELOPE_BYTES: usize = 256;

/// What comes after a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum History {
    /// Records; ask again from its `upto`.
    Shipment(Shipment),
    /// Nothing that the asker needs, up to this position.
    UpToDate(Position),
    /// What comes next is not kept any more: the trees must be compared.
    TooOld,
}

/// The name of the directory with the log of `host`, `None` for this host's own.
fn log_name(host: Option<HostId>) -> CString {
    let name = host.map_or("log".to_owned(), |host| format!("from-{host}"));
    CString::new(name).expect("letters and digits hold no NUL")
}

/// Which host's log a directory in `.intermezzo` holds.
pub(crate) fn log_of(name: &Name) -> Option<HostId> {
    std::str::from_utf8(name.as_bytes()).ok()?.strip_prefix("from-")?.parse().ok()
}

/// Opens the directory of a log, making it if it is not there.
pub(crate) fn open_log(bottom: &Bottom, host: Option<HostId>) -> Result<OwnedFd, StoreError> {
    let name = log_name(host);
    match open_dir(bottom.private(), &name) {
        Ok(dir) => Ok(dir),
        Err(_) => make_dir(bottom.private(), &name),
    }
}

fn encoded_len<T: Serialize>(value: &T) -> usize {
    postcard::serialize_with_flavor(value, postcard::ser_flavors::Size::default())
        .expect("counting bytes cannot fail for types that serialize")
}

/// A shipment that grows record by record.
struct Draft {
    writer: HostId,
    records: Vec<Record>,
    settled: Vec<Settled>,
    /// For each touched object the last record that touched it, and its place in `settled` if it exists.
    objects: HashMap<ObjectId, (u64, Option<usize>)>,
    record_bytes: usize,
    settled_bytes: usize,
}

impl Draft {
    fn new(writer: HostId) -> Self {
        let objects = HashMap::new();
        Self { writer, records: Vec::new(), settled: Vec::new(), objects, record_bytes: 0, settled_bytes: 0 }
    }

    /// Adds a record with what it touches. `false`, and nothing is added, if there is no room.
    fn add(&mut self, store: &Store, record: &Record, max: usize) -> Result<bool, StoreError> {
        let record_bytes = self.record_bytes + encoded_len(record);
        if self.records.len() >= max || (record_bytes > limits::SHIPMENT_BYTES && !self.records.is_empty()) {
            return Ok(false);
        }
        let mut settled_bytes = self.settled_bytes;
        let mut new: Vec<(ObjectId, Option<Settled>)> = Vec::new();
        for id in touched(&record.op) {
            if !self.objects.contains_key(&id) && new.iter().all(|(seen, _)| *seen != id) {
                let settled = store.settled(id)?;
                settled_bytes += settled.as_ref().map_or(0, encoded_len);
                new.push((id, settled));
            }
        }
        let room = limits::PACKET_BODY_BYTES - PACKET_HEADER_BYTES - ENVELOPE_BYTES;
        if record_bytes + settled_bytes > room {
            return if self.records.is_empty() { Err(StoreError::TooLarge(record.position())) } else { Ok(false) };
        }
        (self.record_bytes, self.settled_bytes) = (record_bytes, settled_bytes);
        for (id, settled) in new {
            let place = settled.map(|settled| {
                self.settled.push(settled);
                self.settled.len() - 1
            });
            self.objects.insert(id, (0, place));
        }
        for id in touched(&record.op) {
            if let Some((last, _)) = self.objects.get_mut(&id) {
                *last = record.number;
            }
        }
        self.records.push(record.clone());
        Ok(true)
    }

    fn finish(mut self, store: &Store, after: Position, upto: Position) -> Shipment {
        for (last, place) in self.objects.values() {
            if let Some(settled) = place.and_then(|place| self.settled.get_mut(place))
                && (settled.stamp.updater() != Some(self.writer) || settled.stamp.of(self.writer) != *last)
            {
                // It was touched again after these records: its stamp now must not be given to the version that the
                // receiver makes from them. This one names the version too, and no later one.
                settled.stamp = VersionStamp::default().touched(self.writer, *last);
            }
        }
        let fileset = store.config.fileset;
        Shipment { fileset, after, upto, writer: self.writer, records: self.records, settled: self.settled }
    }
}

impl Store {
    /// The history after a position, less what was cancelled, opens for writing (they matter to this host only), and
    /// what `skip_writer` wrote, which it has. A shipment holds records of one writer, at most `max` of them and within
    /// [`limits`]; what they touched is as it is now. Absorbs first.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if a single record with what it touches cannot be shipped.
    pub fn history(&self, after: Position, skip_writer: Option<HostId>, max: usize) -> Result<History, StoreError> {
        let mut outbox = lock(&self.outbox);
        self.absorb()?;
        if after < self.history_floor()? {
            return Ok(History::TooOld);
        }
        let max = max.clamp(1, limits::SHIPMENT_RECORDS);
        let mut cursor = after;
        let mut draft: Option<Draft> = None;
        let mut from = after.epoch;
        while let Some(epoch) = self.look_up(|index| index.epoch_from(from))? {
            from = epoch.epoch + 1;
            let begin = if epoch.epoch == cursor.epoch { cursor.number.max(epoch.first - 1) } else { epoch.first - 1 };
            if begin >= epoch.last {
                continue;
            }
            let others = epoch.writer != self.config.host;
            if Some(epoch.writer) == skip_writer || (others && !self.keeping.load(Ordering::Acquire)) {
                cursor = Position::new(epoch.epoch, epoch.last);
                continue;
            }
            if draft.as_ref().is_some_and(|draft| draft.writer != epoch.writer && !draft.records.is_empty()) {
                break;
            }
            let mut current = draft.take().unwrap_or_else(|| Draft::new(epoch.writer));
            current.writer = epoch.writer;
            let key = (skip_writer, epoch.writer);
            let read = self.read_epoch(&mut outbox, key, epoch, begin, &mut current, max)?;
            draft = Some(current);
            match read {
                Read::TooOld if draft.as_ref().is_none_or(|draft| draft.records.is_empty()) => {
                    return Ok(History::TooOld);
                }
                Read::TooOld => break,
                Read::Full(at) => {
                    cursor = cursor.max(at);
                    break;
                }
                Read::End => cursor = Position::new(epoch.epoch, epoch.last),
            }
        }
        Ok(match draft.filter(|draft| !draft.records.is_empty()) {
            Some(draft) => History::Shipment(draft.finish(self, after, cursor)),
            None => History::UpToDate(cursor),
        })
    }

    /// Adds the records of one epoch after number `begin`.
    fn read_epoch(
        &self,
        outbox: &mut Outbox,
        key: (Option<HostId>, HostId),
        epoch: Epoch,
        begin: u64,
        draft: &mut Draft,
        max: usize,
    ) -> Result<Read, StoreError> {
        let host = key.1;
        let own = host == self.config.host;
        let failed = |why: modlog::LogError| StoreError::Log { host, why: why.to_string() };
        let reader = match outbox.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(modlog::Reader::open(open_log(&self.bottom, (!own).then_some(host))?))
            }
        };
        let (mut after, mut at) = (begin, begin);
        while after < epoch.last {
            let entries = match reader.read(after, 512, limits::SHIPMENT_BYTES).map_err(failed)? {
                ReadResult::Entries(entries) => entries,
                // Numbers have gaps in a received log, where records were left out by the sender; the reader takes
                // one at a change of segment for a loss. The log is trimmed under this store's lock only.
                ReadResult::TooOld { first_available }
                    if !own && reader.first_available().map_err(failed)?.is_some_and(|first| first <= after + 1) =>
                {
                    after = first_available - 1;
                    continue;
                }
                ReadResult::TooOld { .. } => return Ok(Read::TooOld),
            };
            let Some(last) = entries.last() else { break };
            after = last.record.number;
            for Finished { record, outcome, .. } in &entries {
                if record.number > epoch.last {
                    break;
                }
                if outcome.is_ok() && !matches!(record.op, Op::Intend { .. }) && !draft.add(self, record, max)? {
                    return Ok(Read::Full(Position::new(epoch.epoch, at)));
                }
                at = record.number;
            }
        }
        Ok(Read::End)
    }
}

/// How the reading of an epoch ended.
enum Read {
    /// All of it is in the draft.
    End,
    /// The draft is full; all up to this position is in it.
    Full(Position),
    /// It is not kept any more.
    TooOld,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("config", &self.config).finish_non_exhaustive()
    }
}

const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Store>();
};
