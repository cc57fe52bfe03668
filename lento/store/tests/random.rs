//! Random operations at a source, shipped in random pieces, make the same tree at a replica, however often.
#![allow(clippy::unwrap_used)]

mod common;

use common::steps::{Step, act};
use common::*;
use lento_store::CommitError;
use proptest::prelude::*;
use protocol::{Position, Shipment};

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
