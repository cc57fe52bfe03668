//! What a comparison changes, as a repair shipment: records that all stand at one place of the history each, and force
//! what they say.

use lento_store::{Staged, StagedFile};
use protocol::{Cred, FileSetId, HostId, ObjectId, Op, Position, Record, Settled, Shipment, Timestamp};
use std::collections::BTreeMap;

/// Changes that are committed together, in order of their positions, and within one in the order given.
#[derive(Default)]
pub(super) struct Batch {
    parts: BTreeMap<Position, Part>,
    records: usize,
    pub(super) staged: Staged,
}

#[derive(Default)]
struct Part {
    records: Vec<Record>,
    settled: BTreeMap<ObjectId, Settled>,
}

impl Batch {
    /// Adds one operation, with what the objects are afterwards that it touches.
    pub(super) fn push<'a>(&mut self, at: Position, op: Op, settled: impl IntoIterator<Item = &'a Settled>) {
        let part = self.parts.entry(at).or_default();
        let record = Record {
            number: at.number,
            epoch: at.epoch,
            finished: 0,
            time: Timestamp::default(),
            cred: Cred { uid: 0, gid: 0, pid: 0 },
            op,
        };
        part.records.push(record);
        self.records += 1;
        for settled in settled {
            part.settled.entry(settled.id).or_insert_with(|| settled.clone());
        }
    }

    /// Adds a staged content.
    pub(super) fn stage(&mut self, id: ObjectId, file: StagedFile) {
        self.staged.insert(id, file);
    }

    pub(super) fn len(&self) -> usize {
        self.records
    }

    /// The shipments, as if `source` had written them, and the contents that they need.
    pub(super) fn into_shipments(self, fileset: FileSetId, source: HostId) -> (Vec<Shipment>, Staged) {
        let shipments = self.parts.into_iter().map(|(at, part)| Shipment {
            fileset,
            after: at,
            upto: at,
            writer: source,
            records: part.records,
            settled: part.settled.into_values().collect(),
        });
        (shipments.collect(), self.staged)
    }
}

/// The operation that makes an object where it is listed.
pub(super) fn creation(settled: &Settled, parent: ObjectId, name: protocol::Name) -> Op {
    use protocol::Kind;
    let id = settled.id;
    let mode = settled.attr.kind.mode_bits() | u32::from(settled.attr.mode);
    match settled.attr.kind {
        Kind::File => Op::Create { parent, name, id, mode },
        Kind::Directory => Op::Mkdir { parent, name, id, mode },
        Kind::Symlink => Op::Symlink { parent, name, id, target: settled.target.clone() },
        _ => Op::Mknod { parent, name, id, mode, rdev: settled.attr.rdev },
    }
}
