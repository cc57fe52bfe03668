//! Random operations at a source, shipped in random pieces, make the same tree at a replica, however often.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use lento_store::CommitError;
use nix::sys::stat::SFlag;
use proptest::prelude::*;
use protocol::{Position, Shipment, Timestamp};
use std::fs;

/// One step: which operation, and what it picks its arguments with.
type Step = (u8, u8, u8, u8);

/// Objects as paths: directories (the root is ""), and everything else.
struct Paths {
    dirs: Vec<String>,
    others: Vec<String>,
}

fn paths(source: &Source) -> Paths {
    let mut found = Paths { dirs: vec![String::new()], others: Vec::new() };
    for path in tree(&source.side.root).into_keys().skip(1) {
        let text = path.to_str().unwrap().to_owned();
        if fs::symlink_metadata(source.path(&text)).unwrap().is_dir() {
            found.dirs.push(text);
        } else {
            found.others.push(text);
        }
    }
    found
}

fn pick(list: &[String], n: u8) -> Option<String> {
    (!list.is_empty()).then(|| list[usize::from(n) % list.len()].clone())
}

/// Does one step, if it can be done.
fn act(source: &mut Source, (op, a, b, c): Step) -> Option<()> {
    let Paths { dirs, others } = paths(source);
    let files: Vec<_> =
        others.iter().filter(|p| fs::symlink_metadata(source.path(p)).unwrap().is_file()).cloned().collect();
    let all: Vec<_> = dirs.iter().skip(1).chain(&others).cloned().collect();
    let dir = pick(&dirs, a)?;
    let new = format!("{dir}{}{}", if dir.is_empty() { "" } else { "/" }, ["p", "q", "r", "s"][usize::from(b) % 4]);
    let vacant = fs::symlink_metadata(source.path(&new)).is_err();
    let time = Timestamp { secs: i64::from(a) * 1_000_003, nanos: u32::from(b) * 1_000_007 };
    match op % 18 {
        0 | 1 if vacant => source.create(&new, &vec![c; usize::from(c)]),
        2 | 3 if vacant => source.mkdir(&new),
        4 if vacant => source.symlink(&new, &format!("to/{c}")),
        5 if vacant => source.mknod(&new, if c % 2 == 0 { SFlag::S_IFIFO } else { SFlag::S_IFSOCK }, 0),
        6 if vacant => source.link(&pick(&others, c)?, &new),
        7 => source.unlink(&pick(&others, c)?),
        8 => {
            let gone = pick(&dirs[1..], c)?;
            if fs::read_dir(source.path(&gone)).unwrap().next().is_none() {
                source.rmdir(&gone);
            }
        }
        9..=11 => {
            let from = pick(&all, c)?;
            source.rename(&from, &new, op % 18 == 11 && !vacant);
        }
        12 => source.write(&pick(&files, a)?, &vec![b; usize::from(c) * 7]),
        13 => source.chmod(&pick(&files, a)?, u16::from(b) * 16 + u16::from(c % 16)),
        14 => source.chown(&pick(&all, a)?, b.into(), c.into()),
        15 => source.utimes(&pick(&all, c)?, time),
        16 => source.setxattr(&pick(&dirs[1..], a)?, "user.x", &[b; 5]),
        17 => source.setxattr(&pick(&files, a)?, "system.posix_acl_access", &acl(b.into())),
        _ => return None,
    }
    Some(())
}

/// Commits shipments one by one, joining those whose contents are gone with what follows, as the core does.
fn push_all(source: &Source, replica: &Side, shipments: &[Shipment]) {
    let mut first = 0;
    for end in 1..=shipments.len() {
        match source.push(replica, &shipments[first..end]) {
            Ok(_) => {
                // As after a crash between the bottom and the index.
                source.push(replica, &shipments[first..end]).unwrap();
                first = end;
            }
            Err(CommitError::NotStaged(_)) if end < shipments.len() => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A history that once went wrong.
#[test]
fn an_exchange_with_an_object_that_is_gone_leaves_no_name_behind() {
    run(&[(126, 0, 71, 0), (148, 8, 102, 84), (135, 235, 115, 199), (101, 71, 211, 20), (7, 84, 21, 69)], 25, 18, true);
}

/// A history that once went wrong.
#[test]
fn a_replayed_rename_that_yields_leaves_no_name_behind() {
    let steps = [
        (238, 72, 110, 61),
        (253, 227, 175, 128),
        (2, 15, 141, 83),
        (55, 199, 90, 122),
        (10, 39, 60, 37),
        (4, 247, 163, 254),
        (114, 200, 212, 61),
        (208, 100, 175, 20),
        (60, 192, 255, 130),
        (236, 11, 216, 151),
        (19, 223, 92, 142),
        (31, 180, 179, 54),
    ];
    run(&steps, 28, 12, false);
}

/// Runs a history: after each of `cuts` steps, what is new is shipped in pieces of `max` records, and committed then
/// (`live`) or only at the end.
fn run(steps: &[Step], cut: usize, max: usize, live: bool) {
    let mut source = Source::new(Side::adopt(1, |_| {}));
    let replica = Side::create(2);
    // As the comparison leaves it with which a replica begins.
    set_mtime(&replica.root, source.side.store.settled(protocol::ObjectId::ROOT).unwrap().unwrap().attr.mtime);
    let mut shipments: Vec<Shipment> = Vec::new();
    for piece in steps.chunks(cut) {
        for step in piece {
            act(&mut source, *step);
        }
        let after = shipments.last().map_or(Position::START, |s| s.upto);
        let new = source.shipments(after, max);
        if live {
            push_all(&source, &replica, &new);
            assert_same(&source.side, &replica);
        }
        shipments.extend(new);
    }
    if !live {
        push_all(&source, &replica, &shipments);
    }
    assert_same(&source.side, &replica);
    assert_clean(&replica);
    // From any earlier position on: the source makes the shipments anew.
    for shipment in &shipments {
        push_all(&source, &replica, &source.shipments(shipment.after, max));
        assert_same(&source.side, &replica);
        source.push(&replica, &source.shipments(shipment.after, 4096)).unwrap();
        assert_same(&source.side, &replica);
    }
    assert_clean(&replica);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replicas_are_exact(
        steps in proptest::collection::vec(any::<Step>(), 1..60),
        cut in 1_usize..30,
        max in 1_usize..20,
        live in any::<bool>(),
    ) {
        run(&steps, cut, max, live);
    }
}
