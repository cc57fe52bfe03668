//! A client's cache: whatever was fetched of it, and whenever, is what the source has.
#![allow(clippy::unwrap_used)]

#[path = "../../store/tests/common/mod.rs"]
mod common;

use common::steps::{Step, act};
use common::*;
use lento_store::{CommitError, Filled, Staged, Store};
use lento_transfer::{CompareOptions, Comparer, Fetched, Receiver, TransferError, list, serve};
use proptest::prelude::*;
use protocol::{Kind, ObjectId, Position, Shipment};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A listing on its way.
struct OnItsWay {
    id: ObjectId,
    bodies: Vec<Vec<u8>>,
    after: Position,
}

fn is_absent(side: &Side, path: &Path) -> bool {
    let file = File::open(path).unwrap();
    side.store.bottom().is_absent(file.as_fd()).unwrap()
}

/// Directories and files of a cache that lack something and can be reached.
fn absent(side: &Side) -> (Vec<ObjectId>, Vec<ObjectId>) {
    let (mut directories, mut files) = (Vec::new(), Vec::new());
    for (path, kind) in reachable(side) {
        let id = || side.id(path.strip_prefix(&side.root).unwrap().to_str().unwrap());
        match kind {
            Kind::Directory if is_absent(side, &path) => directories.push(id()),
            Kind::File if is_absent(side, &path) => files.push(id()),
            _ => {}
        }
    }
    // One that has several names is one file.
    files.sort();
    files.dedup();
    (directories, files)
}

/// All that a program can see of a cache without fetching anything.
fn reachable(side: &Side) -> Vec<(PathBuf, Kind)> {
    let mut found = vec![(side.root.clone(), Kind::Directory)];
    let mut next = 0;
    while let Some((path, kind)) = found.get(next).cloned() {
        next += 1;
        if kind == Kind::Directory && !is_absent(side, &path) {
            for entry in fs::read_dir(&path).unwrap().map(Result::unwrap).filter(|e| e.file_name() != ".intermezzo") {
                let kind = Kind::from_mode(entry.metadata().unwrap().mode()).unwrap();
                found.push((entry.path(), kind));
            }
        }
    }
    found
}

fn ask(source: &Source, client: &Side, id: ObjectId) -> OnItsWay {
    assert!(client.store.begin_listing(id));
    let mut bodies = Vec::new();
    let after = list(&source.side.store, id, false, &mut |body| {
        bodies.push(body);
        Ok(())
    });
    OnItsWay { id, bodies, after: after.unwrap() }
}

/// Whether the names are here now.
fn arrive(source: &Source, client: &Side, listing: OnItsWay) -> bool {
    let OnItsWay { id, bodies, after } = listing;
    if bodies.is_empty() {
        client.store.give_up_listing(id);
        return false;
    }
    let options = CompareOptions { names_only: Some(after), ..CompareOptions::default() };
    let mut comparer = Comparer::new(client.store.clone(), id, source.side.store.config().host, options);
    let taken = bodies.iter().try_for_each(|body| comparer.take(body));
    let report = match taken.and_then(|()| comparer.finish(after)) {
        Ok(report) => report,
        Err(TransferError::Commit(CommitError::Overtaken(_))) => {
            client.store.give_up_listing(id);
            return false;
        }
        Err(why) => panic!("{why}"),
    };
    assert!(report.failed.is_empty() && report.kept.is_empty(), "{report:?}");
    client.store.end_listing(id).unwrap().is_some()
}

fn fetch(source: &Source, client: &Side, ids: &[ObjectId]) -> Vec<(ObjectId, Filled)> {
    let mut receiver = Receiver::new(client.store.clone(), ids.to_vec()).without_sync();
    while let Some(wanted) = receiver.next_round().unwrap() {
        let mut bodies = Vec::new();
        serve(&source.side.store, &wanted, true, &mut |body| {
            bodies.push(body);
            Ok(())
        })
        .unwrap();
        bodies.iter().for_each(|body| receiver.take(body).unwrap());
    }
    let staged: Vec<_> = receiver
        .finish()
        .into_iter()
        .filter_map(|(id, fetched)| match fetched {
            Fetched::Staged { as_of, file } => Some((id, as_of, file)),
            Fetched::Gone | Fetched::Changed => None,
            other => panic!("{other:?}"),
        })
        .collect();
    client.store.fill(&staged).unwrap()
}

/// What can be seen of a cache is what the source has.
fn assert_true(source: &Source, client: &Side) {
    let seen = reachable(client);
    for (path, kind) in &seen {
        let below = path.strip_prefix(&client.root).unwrap();
        let there = source.side.root.join(below);
        let (mine, theirs) = (fs::symlink_metadata(path).unwrap(), fs::symlink_metadata(&there));
        let theirs = theirs.unwrap_or_else(|why| panic!("{} is only in the cache: {why}", below.display()));
        let of = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
        // The attributes of the root come with its names, all others with those of their directory.
        if below != Path::new("") || !is_absent(client, path) {
            assert_eq!(of(&mine), of(&theirs), "{}", below.display());
        }
        match kind {
            Kind::Directory if !is_absent(client, path) => {
                let names = |dir: &Path| -> BTreeMap<_, _> {
                    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
                    entries.filter(|name| name != ".intermezzo").map(|name| (name, ())).collect()
                };
                assert_eq!(names(path), names(&there), "names in {}", below.display());
            }
            Kind::File => {
                assert_eq!(mine.len(), theirs.len(), "{}", below.display());
                if !is_absent(client, path) {
                    assert_eq!(fs::read(path).unwrap(), fs::read(&there).unwrap(), "{}", below.display());
                }
            }
            Kind::Symlink => assert_eq!(fs::read_link(path).unwrap(), fs::read_link(&there).unwrap()),
            _ => {}
        }
    }
}

fn commit(client: &Side, shipments: &[Shipment]) {
    client.store.commit(shipments, &Staged::default()).unwrap();
}

#[test]
fn names_come_without_contents_and_contents_into_the_same_inode() {
    let mut source = Source::new(Side::adopt(1, |root| {
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(root.join("d/f"), vec![7; 300_000]).unwrap();
        fs::write(root.join("d/empty"), b"").unwrap();
        fs::write(root.join("d/e/deep"), b"deep").unwrap();
    }));
    let client = Side::client(2);
    assert!(is_absent(&client, &client.root));
    assert!(arrive(&source, &client, ask(&source, &client, ObjectId::ROOT)));
    assert!(!is_absent(&client, &client.root) && is_absent(&client, &client.root.join("d")));
    let d = client.id("d");
    assert!(arrive(&source, &client, ask(&source, &client, d)));
    let file = client.root.join("d/f");
    let stub = fs::metadata(&file).unwrap();
    assert_eq!((stub.len(), stub.blocks(), is_absent(&client, &file)), (300_000, 0, true));
    assert!(!is_absent(&client, &client.root.join("d/empty")));
    assert!(is_absent(&client, &client.root.join("d/e")), "what is below was not asked for");
    let filled = fetch(&source, &client, &[client.id("d/f")]);
    assert!(matches!(filled[..], [(_, Filled::Done(_))]), "{filled:?}");
    let whole = fs::metadata(&file).unwrap();
    assert_eq!((whole.ino(), whole.mtime_nsec()), (stub.ino(), stub.mtime_nsec()));
    assert_true(&source, &client);
    // Changed at the source: who has it open keeps what he has, and who opens it now finds that it must be fetched.
    let mut open = File::open(&file).unwrap();
    source.write("d/f", b"new");
    commit(&client, &source.shipments(Position::START, 100));
    let mut old = Vec::new();
    std::io::Read::read_to_end(&mut open, &mut old).unwrap();
    assert_eq!(old, vec![7; 300_000]);
    assert!(is_absent(&client, &file));
    assert_eq!(fs::metadata(&file).unwrap().len(), 3);
    assert_true(&source, &client);
    assert!(matches!(fetch(&source, &client, &[client.id("d/f")])[..], [(_, Filled::Done(_))]));
    assert_eq!(fs::read(&file).unwrap(), b"new");
}

#[test]
fn a_file_that_is_filled_twice_at_once_does_not_wait_for_itself() {
    let source = Source::new(Side::adopt(1, |root| fs::write(root.join("f"), b"content").unwrap()));
    let client = Side::client(2);
    assert!(arrive(&source, &client, ask(&source, &client, ObjectId::ROOT)));
    let id = client.id("f");
    let filled = fetch(&source, &client, &[id, id]);
    let done = filled.iter().filter(|(_, filled)| matches!(filled, Filled::Done(_))).count();
    assert_eq!((done, filled.len()), (1, 2), "{filled:?}");
    assert_eq!(fs::read(client.root.join("f")).unwrap(), b"content");
}

#[test]
fn a_content_newer_than_its_attributes_waits_for_the_records() {
    let mut source = Source::new(Side::adopt(1, |root| fs::write(root.join("f"), b"old").unwrap()));
    let client = Side::client(2);
    assert!(arrive(&source, &client, ask(&source, &client, ObjectId::ROOT)));
    source.write("f", b"newer");
    source.shipments(Position::START, 100);
    let filled = fetch(&source, &client, &[client.id("f")]);
    assert!(matches!(filled[..], [(_, Filled::Newer(_))]), "{filled:?}");
    assert!(is_absent(&client, &client.root.join("f")));
    commit(&client, &source.shipments(Position::START, 100));
    assert!(matches!(fetch(&source, &client, &[client.id("f")])[..], [(_, Filled::Done(_))]));
    assert_eq!(fs::read(client.root.join("f")).unwrap(), b"newer");
}

#[test]
fn an_index_made_anew_knows_what_is_cached_and_what_is_pinned() {
    let source = Source::new(Side::adopt(1, |root| {
        fs::write(root.join("here"), b"fetched").unwrap();
        fs::write(root.join("absent"), b"not fetched").unwrap();
        fs::write(root.join("empty"), b"").unwrap();
    }));
    let client = Side::client(2);
    assert!(arrive(&source, &client, ask(&source, &client, ObjectId::ROOT)));
    let filled = fetch(&source, &client, &[client.id("here")]);
    let [(_, Filled::Done(here))] = filled[..] else { panic!("{filled:?}") };
    client.store.pin(&[here.handle], true).unwrap();
    let before = client.store.cache_use().unwrap();
    let Side { home: _home, store, .. } = client;
    let (config, bottom) = (store.config().clone(), store.bottom().clone());
    drop(store);
    let (anew, _) = Store::rebuild(bottom, config, &mut |_| {}).unwrap();
    assert_eq!(anew.cache_use().unwrap(), before);
    assert_eq!((before.files, before.bytes, before.pinned, anew.cached_bytes()), (1, 7, 1, 7));
}

#[test]
fn a_listing_that_a_record_overtook_is_not_taken_for_complete() {
    let mut source = Source::new(Side::adopt(1, |_| {}));
    let client = Side::client(2);
    let late = ask(&source, &client, ObjectId::ROOT);
    source.create("x", b"x");
    commit(&client, &source.shipments(Position::START, 100));
    assert!(!arrive(&source, &client, late));
    assert!(is_absent(&client, &client.root));
    assert!(arrive(&source, &client, ask(&source, &client, ObjectId::ROOT)));
    assert_true(&source, &client);
}

#[test]
fn names_that_are_doubted_are_asked_for_again_and_contents_that_are_the_same_stay() {
    let mut source = Source::new(Side::adopt(1, |root| {
        fs::write(root.join("same"), b"same").unwrap();
        fs::write(root.join("other"), b"other").unwrap();
        fs::write(root.join("gone"), b"gone").unwrap();
    }));
    let client = Side::client(2);
    assert!(arrive(&source, &client, ask(&source, &client, ObjectId::ROOT)));
    fetch(&source, &client, &["same", "other", "gone"].map(|name| client.id(name)));
    source.write("other", b"changed");
    source.unlink("gone");
    source.create("new", b"new");
    source.shipments(Position::START, 100);
    client.store.forget_names().unwrap();
    assert!(is_absent(&client, &client.root));
    assert!(arrive(&source, &client, ask(&source, &client, ObjectId::ROOT)));
    assert_true(&source, &client);
    assert!(!is_absent(&client, &client.root.join("same")) && is_absent(&client, &client.root.join("other")));
}

/// One turn: operations at the source, then what the client does.
type Turn = (Vec<Step>, u8, u8);

fn run(turns: Vec<Turn>) {
    let mut source = Source::new(Side::adopt(1, |_| {}));
    let client = Side::client(2);
    let mut at = Position::START;
    let mut late: Option<OnItsWay> = None;
    for (steps, what, which) in turns {
        for step in steps {
            act(&mut source, step);
        }
        let (directories, files) = absent(&client);
        if what & 1 != 0
            && late.is_none()
            && let Some(id) = directories.get(usize::from(which) % directories.len().max(1))
        {
            late = Some(ask(&source, &client, *id));
        }
        if what & 2 != 0 {
            for shipment in source.shipments(at, usize::from(which % 7) + 1) {
                at = shipment.upto;
                commit(&client, &[shipment]);
                if which & 8 != 0 {
                    break;
                }
            }
        }
        if what & 4 != 0
            && let Some(listing) = late.take()
        {
            arrive(&source, &client, listing);
        }
        if what & 8 != 0 {
            fetch(&source, &client, &files);
        }
        if what & 0x70 == 0x70 {
            // As after a log that does not reach back.
            client.store.forget_names().unwrap();
            at = source.side.store.absorb().unwrap();
        }
    }
    if let Some(listing) = late {
        arrive(&source, &client, listing);
    }
    commit(&client, &source.shipments(at, 4096));
    assert_true(&source, &client);
    // All of it, in the end.
    loop {
        let (directories, files) = absent(&client);
        if directories.is_empty() && files.is_empty() {
            break;
        }
        for id in directories {
            assert!(arrive(&source, &client, ask(&source, &client, id)));
        }
        for (id, filled) in fetch(&source, &client, &files) {
            assert!(matches!(filled, Filled::Done(_)), "{id}: {filled:?}");
        }
        assert_true(&source, &client);
    }
    assert_eq!(tree(&source.side.root), tree(&client.root));
}

/// A history that once went wrong.
#[test]
fn what_moved_out_of_a_directory_that_was_listed_after_that_is_found_where_it_moved_to() {
    run(vec![
        (vec![(200, 0, 56, 0)], 0, 0),
        (vec![(22, 44, 19, 0), (9, 0, 3, 0), (0, 56, 19, 0), (241, 0, 0, 0)], 18, 0),
        (vec![(36, 103, 106, 0), (0, 0, 142, 0)], 0, 0),
        (vec![], 237, 0),
        (vec![(182, 30, 127, 0)], 0, 0),
        (vec![(108, 136, 39, 0)], 46, 10),
        (vec![(243, 8, 0, 132), (48, 0, 0, 0)], 237, 0),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cache_is_true_whatever_was_fetched_when(
        turns in proptest::collection::vec((proptest::collection::vec(any::<Step>(), 0..12), any::<u8>(), any::<u8>()), 1..20),
    ) {
        run(turns);
    }
}
