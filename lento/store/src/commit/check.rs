//! What a group of shipments says as a whole, and the refusal of what no honest peer sends.

use crate::absorb::touched;
use crate::error::CommitError;
use protocol::{HostId, Kind, Name, ObjectId, Op, Position, Record, Settled, Shipment};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A group, checked.
pub(super) struct Group<'a> {
    /// The objects that exist after the group, as they are then.
    pub(super) settled: BTreeMap<ObjectId, &'a Settled>,
    /// For each object whose content was stored: the last record that did, and its place among all records.
    pub(super) stored: HashMap<ObjectId, (usize, Position)>,
    /// Objects whose mtime was set, and the last record that did.
    pub(super) timed: HashMap<ObjectId, Position>,
    /// All objects that the records touch.
    pub(super) touched: HashSet<ObjectId>,
    /// Where the group ends.
    pub(super) upto: Position,
}

fn peer(why: impl Into<String>) -> CommitError {
    CommitError::Peer(why.into())
}

impl<'a> Group<'a> {
    /// Checks a group before anything is done.
    pub(super) fn new(
        shipments: &'a [Shipment],
        fileset: protocol::FileSetId,
        host: HostId,
    ) -> Result<Self, CommitError> {
        let mut group = Self {
            settled: BTreeMap::new(),
            stored: HashMap::new(),
            timed: HashMap::new(),
            touched: HashSet::new(),
            upto: Position::START,
        };
        let mut place = 0;
        let mut reached = Position::START;
        for shipment in shipments {
            if shipment.fileset != fileset {
                return Err(peer("its shipment is of another file set"));
            }
            if shipment.writer == host {
                return Err(peer("its shipment has records that this host wrote itself"));
            }
            let repair = is_repair(shipment);
            if shipment.upto < shipment.after || (!repair && shipment.after < reached) {
                return Err(peer("its shipments are not in order"));
            }
            if !repair {
                reached = shipment.upto;
            }
            group.upto = group.upto.max(shipment.upto);
            let mut at = shipment.after;
            let mut ids: HashSet<ObjectId> = HashSet::new();
            for record in &shipment.records {
                let follows = record.position() > at || (repair && record.position() == at);
                if !follows || record.position() > shipment.upto {
                    return Err(peer(format!("its record {} is out of order", record.position())));
                }
                at = record.position();
                check_op(record)?;
                ids.extend(touched(&record.op));
                group.note(record, place);
                place += 1;
            }
            for id in &ids {
                group.settled.remove(id);
            }
            for settled in shipment.settled.iter().filter(|settled| ids.contains(&settled.id)) {
                check_settled(settled)?;
                group.settled.insert(settled.id, settled);
            }
            group.touched.extend(ids);
        }
        Ok(group)
    }

    fn note(&mut self, record: &Record, place: usize) {
        match &record.op {
            Op::Store { id, .. } => drop(self.stored.insert(*id, (place, record.position()))),
            Op::Setattr { id, change, .. } if change.mtime.is_some() => {
                self.timed.insert(*id, record.position());
            }
            _ => {}
        }
    }
}

/// Whether a shipment was made from a listing, to mend a copy: its records all stand where it ends. They are nobody's
/// history, and are not kept.
pub(super) fn is_repair(shipment: &Shipment) -> bool {
    shipment.after == shipment.upto
}

fn check_op(record: &Record) -> Result<(), CommitError> {
    let wrong = |why: &str| Err(peer(format!("its record {} ({}) {why}", record.position(), record.op.word())));
    let reserved = |parent: &ObjectId, name: &Name| *parent == ObjectId::ROOT && name.is_reserved();
    let names = match &record.op {
        Op::Create { parent, name, .. }
        | Op::Mkdir { parent, name, .. }
        | Op::Symlink { parent, name, .. }
        | Op::Mknod { parent, name, .. }
        | Op::Link { parent, name, .. }
        | Op::Unlink { parent, name, .. }
        | Op::Rmdir { parent, name, .. } => reserved(parent, name),
        Op::Rename { parent, name, to_parent, to_name, .. } => reserved(parent, name) || reserved(to_parent, to_name),
        _ => false,
    };
    if names {
        return wrong("names .intermezzo");
    }
    let moves = record.op.parents()[0].is_some();
    let other = matches!(&record.op, Op::Rename { other: Some(ObjectId::ROOT), .. });
    if moves && (record.op.object() == Some(ObjectId::ROOT) || other) {
        return wrong("makes, moves or removes the root");
    }
    match &record.op {
        Op::Symlink { target, .. }
            if target.is_empty() || target.contains(&0) || target.len() > protocol::limits::SYMLINK_BYTES =>
        {
            wrong("has a target that no symbolic link can have")
        }
        Op::Mknod { mode, .. } if matches!(Kind::from_mode(*mode), None | Some(Kind::Directory | Kind::Symlink)) => {
            wrong("has a type that mknod does not make")
        }
        Op::Rename { exchange: true, other: None, .. } => wrong("exchanges with nothing"),
        _ => Ok(()),
    }
}

pub(super) fn check_settled(settled: &Settled) -> Result<(), CommitError> {
    let wrong = |why: &str| Err(peer(format!("what it says of object {} {why}", settled.id)));
    if settled.attr.mode & !0o7777 != 0 || settled.attr.mtime.nanos >= 1_000_000_000 {
        return wrong("is out of range");
    }
    if settled.id == ObjectId::ROOT && settled.attr.kind != Kind::Directory {
        return wrong("makes the root something else than a directory");
    }
    if let Some(Err(why)) = settled.xattrs.iter().map(protocol::Xattr::check).find(Result::is_err) {
        return wrong(&format!("has an extended attribute that is refused: {why}"));
    }
    Ok(())
}
