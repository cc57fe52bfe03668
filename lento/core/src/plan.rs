//! Which contents a group of records needs (design D8; log optimisation: what is created and unlinked sends nothing).

use protocol::{ObjectId, Op, Position, Record};
use std::collections::BTreeMap;

/// For each object whose content the records store, and that the records do not themselves make vanish: the position of
/// the last record that stores it.
pub fn last_stores<'a>(records: impl Iterator<Item = &'a Record>) -> BTreeMap<ObjectId, Position> {
    let mut stores = BTreeMap::new();
    // Links of the objects that the records create; of others the count is not known here.
    let mut links: BTreeMap<ObjectId, i64> = BTreeMap::new();
    for record in records {
        match &record.op {
            Op::Store { id, .. } => {
                stores.insert(*id, record.position());
            }
            Op::Create { id, .. } | Op::Mknod { id, .. } => {
                links.insert(*id, 1);
            }
            Op::Link { id, .. } => {
                links.entry(*id).and_modify(|n| *n += 1);
            }
            Op::Unlink { id, .. } | Op::Rename { other: Some(id), exchange: false, .. } => {
                links.entry(*id).and_modify(|n| *n -= 1);
            }
            _ => {}
        }
    }
    stores.retain(|id, _| links.get(id).is_none_or(|n| *n > 0));
    stores
}

/// The objects of [`last_stores`] for which `staged` has no version at least as new.
pub fn content_needed(stores: &BTreeMap<ObjectId, Position>, staged: &BTreeMap<ObjectId, Position>) -> Vec<ObjectId> {
    stores.iter().filter(|(id, stored)| staged.get(id).is_none_or(|as_of| as_of < stored)).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Cred, HostId, Name, Timestamp};

    fn record(number: u64, op: Op) -> Record {
        let cred = Cred { uid: 0, gid: 0, pid: 0 };
        Record { number, epoch: 1, finished: 0, time: Timestamp::default(), cred, op }
    }

    fn id(n: u64) -> ObjectId {
        ObjectId::new(HostId::new(1).expect("not 0"), n)
    }

    #[test]
    fn what_is_created_and_unlinked_needs_no_content() {
        let name = Name::new(b"x").expect("legal");
        let create = |n| record(n, Op::Create { parent: ObjectId::ROOT, name: name.clone(), id: id(n), mode: 0o644 });
        let store = |n, of| record(n, Op::Store { id: id(of), size: 1, mtime: Timestamp::default() });
        let unlink = |n, of| record(n, Op::Unlink { parent: ObjectId::ROOT, name: name.clone(), id: id(of) });
        let link = |n, of| record(n, Op::Link { parent: ObjectId::ROOT, name: name.clone(), id: id(of) });
        let gone = [create(1), store(2, 1), unlink(3, 1)];
        assert!(last_stores(gone.iter()).is_empty());
        let kept = [create(1), store(2, 1), link(3, 1), unlink(4, 1)];
        assert_eq!(last_stores(kept.iter()), BTreeMap::from([(id(1), Position::new(1, 2))]));
        let older = [store(5, 1), unlink(6, 1)];
        assert_eq!(last_stores(older.iter()).len(), 1, "an older object may have more links than the records tell");
    }

    #[test]
    fn a_newer_version_than_the_last_store_serves_too() {
        let stores = BTreeMap::from([(id(1), Position::new(1, 5)), (id(2), Position::new(1, 6))]);
        let staged = BTreeMap::from([(id(1), Position::new(1, 9)), (id(2), Position::new(1, 5))]);
        assert_eq!(content_needed(&stores, &staged), vec![id(2)]);
    }
}
