//! A file set as the simulation knows it: a flat directory of files with tokens for content, its logs and its index,
//! with the same duties towards the engine as the real store.

use lento_core::{CommitResult, HistoryResult, StageResult, last_stores};
use protocol::{Cred, FileSetId, HostId, Name, ObjectId, Op, Position, Record, Shipment, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Object {
    pub name: Name,
    /// Content: each write of an application has a token of its own, larger than all before it.
    pub token: u64,
}

/// What survives a crash of Lento; a loss of power takes it back to what was synced.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub tree: BTreeMap<ObjectId, Object>,
    /// Which record stored each object's content.
    pub as_of: BTreeMap<ObjectId, Position>,
    /// Own records, and at the holder what others wrote, each with its content's token.
    pub logs: BTreeMap<HostId, Vec<Record>>,
    /// All up to here was trimmed from the logs.
    pub trimmed: Position,
    pub applied: BTreeMap<HostId, Position>,
    /// Staged contents: version and token.
    pub staged: BTreeMap<ObjectId, (Position, u64)>,
    /// Objects that the source said it does not have: not missing any more.
    pub unavailable: BTreeSet<ObjectId>,
    pub last_number: u64,
}

impl Model {
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.tree.hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn tail(&self, me: HostId) -> Position {
        self.logs.get(&me).and_then(|log| log.last()).map_or(Position::START, Record::position)
    }

    pub(crate) fn history_end(&self, me: HostId) -> Position {
        self.applied.values().copied().fold(self.tail(me), Position::max)
    }

    /// What only the index knew goes: where peers stood, and the versions that they stored.
    pub(crate) fn forget_index(&mut self, me: HostId) {
        self.applied.clear();
        self.staged.clear();
        self.unavailable.clear();
        self.as_of.clear();
        // What others wrote is not kept for anybody any more: all compare.
        self.logs.retain(|host, _| *host == me);
        let before = |record: &Record| Position::new(record.epoch, record.number - 1);
        self.trimmed = self.logs.values().filter_map(|log| log.first().map(before)).max().unwrap_or_default();
        for record in self.logs.get(&me).into_iter().flatten() {
            if let Op::Store { id, .. } = &record.op
                && self.tree.contains_key(id)
            {
                self.as_of.insert(*id, record.position());
            }
        }
    }

    /// An application's operation: its record and its effect.
    pub(crate) fn write(&mut self, me: HostId, epoch: u64, op: Op, token: u64) -> Position {
        self.last_number += 1;
        let number = self.last_number;
        let cred = Cred { uid: 0, gid: 0, pid: 0 };
        let record = Record { number, epoch, finished: number - 1, time: Timestamp::default(), cred, op };
        self.apply_one(&record, Some(token));
        let position = record.position();
        self.logs.entry(me).or_default().push(record);
        position
    }

    /// Idempotent, as the real one.
    fn apply_one(&mut self, record: &Record, token: Option<u64>) {
        match &record.op {
            Op::Create { id, name, .. } => {
                self.tree.entry(*id).or_insert(Object { name: name.clone(), token: 0 });
            }
            Op::Rename { id, to_name, .. } => {
                if let Some(object) = self.tree.get_mut(id) {
                    object.name = to_name.clone();
                }
            }
            Op::Unlink { id, .. } => {
                self.tree.remove(id);
            }
            Op::Store { id, .. } => {
                if let (Some(object), Some(token)) = (self.tree.get_mut(id), token) {
                    object.token = token;
                    self.as_of.insert(*id, record.position());
                }
            }
            _ => {}
        }
    }

    pub(crate) fn history(&self, fileset: FileSetId, after: Position, skip: HostId, max: usize) -> HistoryResult {
        if after < self.trimmed {
            return HistoryResult::TooOld;
        }
        let mut all: Vec<(HostId, &Record)> =
            self.logs.iter().flat_map(|(host, log)| log.iter().map(|r| (*host, r))).collect();
        all.retain(|(_, record)| record.position() > after);
        all.sort_by_key(|(_, record)| record.position());
        let end = all.last().map_or(after, |(_, record)| record.position());
        let Some(first) = all.iter().position(|(host, _)| *host != skip) else { return HistoryResult::UpToDate(end) };
        let writer = all[first].0;
        let records: Vec<Record> =
            all[first..].iter().take_while(|(host, _)| *host == writer).take(max).map(|(_, r)| (*r).clone()).collect();
        let upto = records.last().map_or(after, Record::position);
        HistoryResult::Shipment(Shipment { fileset, after, upto, writer, records, settled: vec![] })
    }

    /// What a source answers to a request for content.
    pub(crate) fn serve(&self, id: ObjectId) -> Result<(Position, u64), StageResult> {
        let object = self.tree.get(&id).ok_or(StageResult::Gone)?;
        Ok((self.as_of.get(&id).copied().unwrap_or_default(), object.token))
    }

    pub(crate) fn commit(&mut self, from: HostId, keep: bool, shipments: &[Shipment]) -> CommitResult {
        let records = || shipments.iter().flat_map(|s| s.records.iter().map(move |r| (s.writer, r)));
        let mut created = BTreeSet::new();
        let mut missing = BTreeSet::new();
        for (_, record) in records() {
            match &record.op {
                Op::Create { id, .. } => {
                    created.insert(*id);
                }
                Op::Rename { id, .. } | Op::Store { id, .. }
                    if !self.tree.contains_key(id) && !created.contains(id) && !self.unavailable.contains(id) =>
                {
                    missing.insert(*id);
                }
                _ => {}
            }
        }
        if !missing.is_empty() {
            return CommitResult::Missing(missing.into_iter().collect());
        }
        let last = last_stores(records().map(|(_, record)| record));
        for (writer, record) in records() {
            let staged = record.op.object().filter(|id| last.get(id) == Some(&record.position()));
            let version = staged.and_then(|id| self.staged.get(&id).copied());
            self.apply_one(record, version.map(|(_, token)| token));
            if let (Some(id), Some((as_of, _))) = (staged, version)
                && self.tree.contains_key(&id)
            {
                self.as_of.insert(id, as_of);
            }
            if keep {
                let log = self.logs.entry(writer).or_default();
                if log.last().is_none_or(|last| last.position() < record.position()) {
                    log.push(record.clone());
                }
            }
        }
        self.staged.retain(|id, _| !last.contains_key(id));
        if let Some(last) = shipments.last() {
            self.applied.insert(from, last.upto);
        }
        CommitResult::Done
    }

    pub(crate) fn trim(&mut self, upto: Position) {
        self.trimmed = self.trimmed.max(upto);
        let trimmed = self.trimmed;
        for log in self.logs.values_mut() {
            // The last record stays, as the last segment does.
            let keep_from = log.iter().position(|r| r.position() > trimmed).unwrap_or(log.len().saturating_sub(1));
            log.drain(..keep_from);
        }
    }
}
