//! After a loss of power: what the log says and the tree lost is taken back, and what the tree kept and the log lost
//! is told anew, by records after a gap in the numbers.
//!
//! What neither tells (an entry whose removal survived and whose record did not) is found by Lento, which compares trees
//! with its peers after each loss of power.

use super::{Recovery, failed, tree::Found};
use crate::error::MountError;
use modlog::{ReadResult, Reader, Recovered};
use protocol::{Done, Name, ObjectId, Op, limits};
use std::{collections::BTreeMap, os::fd::OwnedFd};

/// Operations can be lost for as long as the file system takes to commit them (5 s on ext4 by default, 30 s without a
/// journal), with a margin.
const LOSS_WINDOW_S: i64 = 40;
/// Changes at most this long before the last record are examined; the log is made durable each second.
const SUSPECT_WINDOW_S: i64 = 2;

type Place = (ObjectId, Name);

/// What the last records say of entries.
#[derive(Default)]
struct Expected {
    entries: BTreeMap<Place, Option<ObjectId>>,
    directories: Vec<ObjectId>,
}

impl Expected {
    fn add(&mut self, op: Op) {
        match op {
            Op::Create { parent, name, id, .. }
            | Op::Symlink { parent, name, id, .. }
            | Op::Mknod { parent, name, id, .. }
            | Op::Link { id, parent, name } => drop(self.entries.insert((parent, name), Some(id))),
            Op::Mkdir { parent, name, id, .. } => {
                self.entries.insert((parent, name), Some(id));
                self.directories.push(id);
            }
            Op::Unlink { parent, name, .. } | Op::Rmdir { parent, name, .. } => {
                self.entries.insert((parent, name), None);
            }
            Op::Rename { id, parent, name, to_parent, to_name, other, exchange } => {
                self.entries.insert((parent, name), other.filter(|_| exchange));
                self.entries.insert((to_parent, to_name), Some(id));
            }
            Op::Store { .. }
            | Op::Setattr { .. }
            | Op::Setxattr { .. }
            | Op::Removexattr { .. }
            | Op::Intend { .. }
            | Op::Noop => {}
        }
    }
}

/// Leaves the gap, and tells what is there.
pub(super) fn recover(recovery: &mut Recovery<'_>, recovered: &Recovered, log: &OwnedFd) -> Result<(), MountError> {
    recovery.writer.flush()?;
    let last_time = recovered.time.unwrap_or_default();
    let expected = expected(log, last_time.secs - LOSS_WINDOW_S)?;
    recovery.writer.skip(limits::LOG_GAP_RECORDS);
    recovery.tell(Op::Noop, Done { handle: None, attr: None })?;
    take_back(recovery, &expected)?;
    tell_suspects(recovery, recovered.last, last_time.secs - SUSPECT_WINDOW_S)
}

fn expected(log: &OwnedFd, since_secs: i64) -> Result<Expected, MountError> {
    let mut expected = Expected::default();
    let mut reader = Reader::open(log.try_clone().map_err(MountError::Session)?);
    let Some(first) = reader.first_available()? else { return Ok(expected) };
    let mut after = first.saturating_sub(1);
    loop {
        let entries = match reader.read(after, limits::SHIPMENT_RECORDS, limits::SHIPMENT_BYTES)? {
            ReadResult::Entries(entries) => entries,
            ReadResult::TooOld { first_available } => {
                return Err(MountError::Recovery(format!("the log begins at {first_available} all of a sudden")));
            }
        };
        let Some(last) = entries.last() else { return Ok(expected) };
        after = last.record.number;
        for entry in entries {
            if entry.outcome.is_ok() && entry.record.time.secs >= since_secs {
                expected.add(entry.record.op);
            }
        }
    }
}

/// Entries that should be there and are not, and the reverse.
fn take_back(recovery: &mut Recovery<'_>, expected: &Expected) -> Result<(), MountError> {
    let mut missing: BTreeMap<ObjectId, Vec<Place>> = BTreeMap::new();
    let mut surplus: Vec<(Place, Found, bool)> = Vec::new();
    for (place, id) in &expected.entries {
        let (parent, name) = place;
        let dir = recovery.tree.directory(*parent).map_err(failed)?;
        let found = match &dir {
            // In a client's cache: the names that are here say nothing of those that are not.
            Some(dir) if recovery.tree.lacks_names(dir).map_err(failed)? => continue,
            Some(dir) => recovery.tree.entry(dir, name.as_bytes()).map_err(failed)?,
            None => None,
        };
        let is = found.and_then(|found| found.id);
        if is == *id && found.is_some() == id.is_some() {
            continue;
        }
        if let Some(id) = id {
            missing.entry(*id).or_default().push(place.clone());
        }
        if let (Some(found), Some(dir)) = (found, &dir) {
            let absent = recovery.tree.is_absent(dir, name.as_bytes()).map_err(failed)?;
            surplus.push((place.clone(), found, absent));
        }
    }
    let mut back = Vec::new();
    for (place, found, absent) in surplus {
        // An object that is elsewhere than the log says was renamed, and the rename was lost: it goes back.
        let moved = found.id.and_then(|id| Some((id, missing.get_mut(&id)?.pop()?)));
        match moved {
            Some((id, from)) => back.push((id, from, place)),
            // Lento put it there since: its holder knows it.
            None if absent => {}
            None => tell_object(recovery, &place, &found)?,
        }
    }
    for (id, (parent, name), (to_parent, to_name)) in back {
        let op = Op::Rename { id, parent, name, to_parent, to_name, other: None, exchange: false };
        recovery.tell(op, Done { handle: None, attr: None })?;
    }
    // Inner ones first: a directory can only go when it is empty.
    let mut gone: Vec<(ObjectId, Place)> =
        missing.into_iter().flat_map(|(id, places)| places.into_iter().map(move |place| (id, place))).collect();
    gone.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    for (id, (parent, name)) in gone {
        let op = if expected.directories.contains(&id) {
            Op::Rmdir { parent, name, id }
        } else {
            Op::Unlink { parent, name, id }
        };
        recovery.tell(op, Done { handle: None, attr: None })?;
    }
    Ok(())
}

/// Tells of an object as if it were just made.
fn tell_object(recovery: &mut Recovery<'_>, (parent, name): &Place, found: &Found) -> Result<(), MountError> {
    let Some(id) = found.id else { return Ok(()) };
    let (parent, name, mode) = (*parent, name.clone(), found.stat.mode());
    let done = Done { handle: Some(found.handle), attr: Some(found.stat.attr()) };
    if found.stat.is_dir() {
        return recovery.tell(Op::Mkdir { parent, name, id, mode }, done);
    }
    if found.stat.is_file() {
        recovery.tell(Op::Create { parent, name, id, mode }, done)?;
        return recovery.tell_store(id, &found.stat);
    }
    if found.stat.mode() & libc::S_IFMT == libc::S_IFLNK {
        let target = recovery.tree.target(found.handle).map_err(failed)?;
        return recovery.tell(Op::Symlink { parent, name, id, target }, done);
    }
    recovery.tell(Op::Mknod { parent, name, id, mode, rdev: found.stat.0.st_rdev }, done)
}

/// Objects that changed about when the log ended, and those that the log does not know.
fn tell_suspects(recovery: &mut Recovery<'_>, last: u64, since_secs: i64) -> Result<(), MountError> {
    let mut suspects = Vec::new();
    let host = recovery.tree.host;
    let tree = &recovery.tree;
    let is_unknown = |id: ObjectId| id.host == host && id.counter > last && id.counter < ObjectId::ADOPTED;
    let walked = tree.walk(true, &mut |(dir, parent), name, found| {
        let mut found = *found;
        // What is absent is as its holder knows it, whenever Lento put it here.
        let is_suspect = match found.id {
            None => true,
            Some(id) => is_unknown(id) || found.stat.ctime().secs >= since_secs,
        };
        if !is_suspect || tree.is_absent(dir, name.as_bytes())? {
            return Ok(());
        }
        let unknown = match found.id {
            None => {
                let id = crate::filter::identity::adopted(host, found.handle);
                tree.give_id(dir, name.as_bytes(), id)?;
                found.id = Some(id);
                true
            }
            Some(id) => is_unknown(id),
        };
        suspects.push(((parent, name.clone()), found, unknown));
        Ok(())
    });
    walked.map_err(failed)?;
    for (place, found, unknown) in suspects {
        let Some(id) = found.id else { continue };
        if unknown {
            tell_object(recovery, &place, &found)?;
            continue;
        }
        // Also if its size and time are those that the log tells of: the data may be lost all the same, and whoever has
        // another content under that version would keep it.
        if found.stat.is_file() {
            recovery.tell_store(id, &found.stat)?;
        }
        // Attributes may have changed too; the record makes whoever applies it take them as they are.
        let attr = found.stat.attr();
        let change = protocol::AttrChange {
            mode: (attr.kind != protocol::Kind::Symlink).then_some(attr.mode),
            uid: Some(attr.uid),
            gid: Some(attr.gid),
            ..Default::default()
        };
        let done = Done { handle: None, attr: Some(attr) };
        recovery.tell(Op::Setattr { id, change, before: change }, done)?;
    }
    Ok(())
}
