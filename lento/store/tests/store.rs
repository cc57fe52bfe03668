//! Stores made, opened, rebuilt and removed, and simple histories replicated.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use lento_store::{CommitError, History, Store, StoreError};
use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;
use protocol::{ObjectId, Position, Timestamp};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

fn fill(root: &std::path::Path) {
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/one"), "one").unwrap();
    fs::hard_link(root.join("a/one"), root.join("a/b/two")).unwrap();
    std::os::unix::fs::symlink("/nowhere", root.join("dangling")).unwrap();
}

#[test]
fn an_adopted_directory_has_ids_that_survive_a_rebuild() {
    let side = Side::adopt(1, fill);
    assert_eq!(side.id(""), ObjectId::ROOT);
    assert_eq!(side.id("a/one"), side.id("a/b/two"));
    let ids: Vec<_> = ["a", "a/b", "a/one", "dangling"].iter().map(|p| side.id(p)).collect();
    assert!(ids.iter().all(|id| id.counter >= ObjectId::ADOPTED));
    let fd = side.store.open_object(ids[2], OFlag::O_RDONLY).unwrap();
    assert_eq!(side.store.bottom().attr(fd.as_fd()).unwrap().size, 3);
    assert_eq!(side.store.version(ids[2]).unwrap().unwrap().as_of, Position::START);
    assert!(side.store.open_object(ids[3], OFlag::O_RDONLY).is_err(), "a symbolic link has no content to open");
    let side = side.reopen();
    side.store.save_state(b"state").unwrap();

    // Copied with all attributes behind everybody's back, and made behind everybody's back.
    fs::write(side.root.join("copy"), "one").unwrap();
    set_xattr(&side.root.join("copy"), "trusted.intermezzo", &side.identity("a/one").unwrap().to_bytes());
    fs::write(side.root.join("nameless"), "").unwrap();
    let Side { home, root, store } = side;
    drop(store);
    for file in ["index", "index-wal", "index-shm"] {
        let _ = fs::remove_file(home.path().join(file));
    }
    assert!(matches!(Store::open(bottom(&root), config(home.path(), 1)), Err(StoreError::WrongIndex { .. })));
    let (store, rebuilt) = Store::rebuild(bottom(&root), config(home.path(), 1), &mut |_| {}).unwrap();
    assert_eq!((rebuilt.objects, rebuilt.duplicates, rebuilt.nameless), (6, 1, 1));
    let side = Side { home, root, store: store.into() };
    let again: Vec<_> = ["a", "a/b", "dangling"].iter().map(|p| side.id(p)).collect();
    assert_eq!(again, [ids[0], ids[1], ids[3]]);
    let all = ["a", "a/b", "dangling", "nameless", "copy", "a/one"].map(|p| side.id(p));
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 6);
    assert!(all.iter().all(|id| side.store.open_object(*id, OFlag::O_PATH).is_ok()));
}

#[test]
fn a_directory_in_use_or_not_empty_is_refused() {
    let side = Side::adopt(1, fill);
    assert!(matches!(
        Store::create(side.store.bottom().clone(), config(side.home.path(), 1)),
        Err(StoreError::NotEmpty(_))
    ));
    let source = Source::new(side);
    let mut source = source;
    source.noop();
    let again = Store::adopt(source.side.store.bottom().clone(), config(source.side.home.path(), 1), &mut |_| {});
    assert!(matches!(again, Err(StoreError::InUse)), "{again:?}");
}

#[test]
fn a_mount_inside_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let inner = home.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let none: Option<&str> = None;
    nix::mount::mount(Some("none"), &inner, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
    let index = tempfile::tempdir().unwrap();
    let adopted = Store::adopt(bottom(home.path()), config(index.path(), 1), &mut |_| {});
    nix::mount::umount(&inner).unwrap();
    let Err(StoreError::SubMount { path }) = adopted else { panic!("{adopted:?}") };
    assert!(path.ends_with("inner"));
}

#[test]
fn a_file_system_without_ext4_handles_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let none: Option<&str> = None;
    nix::mount::mount(Some("none"), home.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
    let refused = lento_store::Bottom::new(open_dir(home.path()));
    nix::mount::umount(home.path()).unwrap();
    assert!(matches!(refused, Err(StoreError::Unsupported { .. })), "{refused:?}");
}

#[test]
fn removal_leaves_the_plain_files() {
    let side = Side::adopt(1, fill);
    let before: Vec<_> = tree(&side.root).into_keys().collect();
    assert!(!side.store.remove_identity(&mut |_| {}).unwrap());
    assert!(!side.root.join(".intermezzo").exists());
    assert!(side.identity("a/one").is_none() && side.identity("").is_none() && side.identity("dangling").is_none());
    assert_eq!(fs::read(side.root.join("a/b/two")).unwrap(), b"one");
    assert_eq!(before.len(), 6);
}

/// Every kind of object and operation, in one history.
fn write_everything(source: &mut Source) {
    source.mkdir("dir");
    source.create("dir/file", b"content");
    source.create("empty", b"");
    source.symlink("link", "dir/file");
    source.symlink("dangling", "/does/not/exist");
    source.mknod("fifo", SFlag::S_IFIFO, 0);
    source.mknod("null", SFlag::S_IFCHR, nix::sys::stat::makedev(1, 3));
    source.mknod("block", SFlag::S_IFBLK, nix::sys::stat::makedev(7, 200));
    source.mknod("sock", SFlag::S_IFSOCK, 0);
    source.link("dir/file", "hard");
    source.chmod("empty", 0o4755);
    source.chown("empty", 1234, 4321);
    source.chmod("empty", 0o6711);
    source.chown("link", 77, 88);
    source.utimes("link", Timestamp { secs: -5, nanos: 123_456_789 });
    source.utimes("dir/file", Timestamp { secs: 1_000_000_000, nanos: 999_999_999 });
    source.setxattr("dir", "user.colour", b"red");
    source.setxattr("hard", "user.long", &[7; 900]);
    source.setxattr("dir/file", "user.gone", b"x");
    source.removexattr("dir/file", "user.gone");
    source.setxattr("dir/file", "system.posix_acl_access", &acl(1000));
    source.setxattr("dir", "system.posix_acl_default", &acl(1001));
    source.create("dir/inherits", b"acl");
    source.cancel("dir");
    source.mkdir("dir/sub");
    source.utimes("dir", Timestamp { secs: 12345, nanos: 6789 });
    source.create("tmp", b"new");
    source.rename("tmp", "empty", false);
    source.create("x", b"x");
    source.rename("x", "dir", true);
    source.mkdir("gone");
    source.create("gone/file", b"soon");
    source.unlink("gone/file");
    source.rmdir("gone");
}

#[test]
fn every_kind_of_operation_is_replicated_exactly() {
    let mut source = Source::new(Side::adopt(1, |_| {}));
    write_everything(&mut source);
    for max in [4096, 5, 1] {
        let replica = Side::create(2);
        let shipments = source.shipments(Position::START, max);
        for shipment in &shipments {
            let committed = source.push(&replica, std::slice::from_ref(shipment)).unwrap();
            assert_eq!(committed.upto, shipment.upto);
        }
        assert_same(&source.side, &replica);
        assert_clean(&replica);
        let upto = shipments.last().unwrap().upto;
        assert_eq!(replica.store.applied().unwrap()[&host(1)], upto);
        assert_eq!(replica.store.sync().unwrap(), upto);
        assert_eq!(replica.store.durable().unwrap()[&host(1)], upto);
        let id = source.side.id("x/file");
        assert_eq!(replica.store.object_stamp(id).unwrap(), source.side.store.object_stamp(id).unwrap());
        // Any suffix again, shipment by shipment and as one group, changes nothing.
        for first in 0..shipments.len() {
            for shipment in &shipments[first..] {
                source.push(&replica, std::slice::from_ref(shipment)).unwrap();
            }
            assert_same(&source.side, &replica);
            source.push(&replica, &shipments[first..]).unwrap();
            assert_same(&source.side, &replica);
            assert_clean(&replica);
        }
    }
}

#[test]
fn a_replica_rebuilt_knows_its_stamps() {
    let mut source = Source::new(Side::adopt(1, |_| {}));
    write_everything(&mut source);
    let replica = Side::create(2);
    source.push(&replica, &source.shipments(Position::START, 4096)).unwrap();
    let paths = ["x", "x/file", "link", "fifo", "empty", ""];
    let before: Vec<_> = paths.iter().map(|p| replica.store.object_stamp(replica.id(p)).unwrap().unwrap()).collect();
    let Side { home, root, store } = replica;
    drop(store);
    let (store, rebuilt) = Store::rebuild(bottom(&root), config(home.path(), 2), &mut |_| {}).unwrap();
    assert_eq!((rebuilt.nameless, rebuilt.duplicates), (0, 0));
    let replica = Side { home, root, store: store.into() };
    let after: Vec<_> = paths.iter().map(|p| replica.store.object_stamp(replica.id(p)).unwrap().unwrap()).collect();
    assert_eq!(before, after);
    assert!(replica.store.applied().unwrap().is_empty());
    assert_same(&source.side, &replica);
}

#[test]
fn names_of_255_bytes_and_not_utf8_are_kept() {
    let long = "n".repeat(255);
    let mut source = Source::new(Side::adopt(1, |root| {
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff\xfe\n\x01")), "bytes").unwrap();
    }));
    source.create(&long, b"long");
    source.mkdir("ümläut");
    source.rename(&long, &format!("ümläut/{long}"), false);
    let replica = Side::create(2);
    source.push(&replica, &source.shipments(Position::START, 4096)).unwrap();
    assert_eq!(fs::read(replica.root.join("ümläut").join(&long)).unwrap(), b"long");
    assert!(source.side.store.bottom().read_dir(source.side.store.bottom().root()).unwrap().count() == 2);
}

#[test]
fn contents_that_were_not_staged_are_asked_for() {
    let mut source = Source::new(Side::adopt(1, |_| {}));
    source.create("file", b"content");
    let replica = Side::create(2);
    let shipments = source.shipments(Position::START, 4096);
    let refused = replica.store.commit(&shipments, &Default::default());
    assert!(matches!(&refused, Err(CommitError::NotStaged(ids)) if *ids == [source.side.id("file")]), "{refused:?}");
    assert!(!replica.root.join("file").exists());
}

#[test]
fn objects_that_are_missing_are_asked_for_and_come_by_repair() {
    let mut source = Source::new(Side::adopt(1, |root| {
        fs::create_dir(root.join("old")).unwrap();
        fs::write(root.join("old/file"), "adopted").unwrap();
    }));
    source.rename("old", "new", false);
    let replica = Side::create(2);
    let shipments = source.shipments(Position::START, 4096);
    let (dir, file) = (source.side.id("new"), source.side.id("new/file"));
    let refused = source.push(&replica, &shipments);
    assert!(matches!(&refused, Err(CommitError::Missing(ids)) if *ids == [dir]), "{refused:?}");
    // What a listing of it says, as records that stand at its position.
    let at = Position::new(1, 0);
    let record = |op| protocol::Record {
        number: at.number,
        epoch: at.epoch,
        finished: 0,
        time: Timestamp::default(),
        cred: protocol::Cred { uid: 0, gid: 0, pid: 0 },
        op,
    };
    let name = |n: &str| protocol::Name::new(n.as_bytes()).unwrap();
    let settled = |id| source.side.store.settled(id).unwrap().unwrap();
    let attr = settled(file).attr;
    let repair = protocol::Shipment {
        fileset: FILESET,
        after: at,
        upto: at,
        writer: host(1),
        records: vec![
            record(protocol::Op::Mkdir { parent: ObjectId::ROOT, name: name("old"), id: dir, mode: 0 }),
            record(protocol::Op::Create { parent: dir, name: name("file"), id: file, mode: 0 }),
            record(protocol::Op::Store { id: file, size: attr.size, mtime: attr.mtime }),
        ],
        settled: vec![settled(dir), settled(file)],
    };
    let mut staged = source.stage(&replica, &shipments);
    staged.insert(file, stage(&replica, file, b"adopted"));
    let group: Vec<_> = std::iter::once(repair).chain(shipments).collect();
    replica.store.commit(&group, &staged).unwrap();
    assert_eq!(fs::read(replica.root.join("new/file")).unwrap(), b"adopted");
    assert!(!replica.root.join("old").exists());
    assert_eq!(replica.id("new"), dir);
}

#[test]
fn received_records_are_kept_and_shipped_on() {
    let mut source = Source::new(Side::adopt(1, |_| {}));
    write_everything(&mut source);
    let middle = Source::new(Side::create(2));
    let mut middle = middle;
    middle.side.store.keep_received(true).unwrap();
    let shipments = source.shipments(Position::START, 7);
    for shipment in &shipments {
        source.push(&middle.side, std::slice::from_ref(shipment)).unwrap();
    }
    middle.epoch = 2;
    middle.create("mine", b"middle");
    let replica = Side::create(3);
    for shipment in middle.shipments(Position::START, 11) {
        let mut staged = source.stage(&replica, std::slice::from_ref(&shipment));
        if shipment.writer == host(2) {
            staged = middle.stage(&replica, std::slice::from_ref(&shipment));
        }
        replica.store.commit(&[shipment], &staged).unwrap();
    }
    assert_same(&middle.side, &replica);
    // To the source go only the middle's own records.
    let History::Shipment(back) = middle.side.store.history(Position::START, Some(host(1)), 4096).unwrap() else {
        panic!("there are records")
    };
    assert!(back.writer == host(2) && back.records.len() == 2);
    // Its own records are in no replica's history.
    assert_eq!(replica.store.history(Position::START, None, 9).unwrap(), History::UpToDate(Position::START));
    // After trimming, who stands before it is too late.
    let upto = shipments.last().unwrap().upto;
    middle.side.store.trim(upto).unwrap();
    assert_eq!(middle.side.store.history(Position::START, None, 9).unwrap(), History::TooOld);
    assert!(matches!(middle.side.store.history(upto, None, 9).unwrap(), History::Shipment(s) if s.records.len() == 2));
}

#[test]
fn a_file_with_several_names_keeps_its_inode_and_an_interrupted_copy_is_finished() {
    use std::os::unix::fs::MetadataExt;
    let mut source = Source::new(Side::adopt(1, |_| {}));
    source.create("one", b"first version, which is longer than the second");
    source.link("one", "two");
    let replica = Side::create(2);
    let shipments = source.shipments(Position::START, 4096);
    source.push(&replica, &shipments).unwrap();
    let ino = fs::metadata(replica.root.join("one")).unwrap().ino();
    source.write("two", b"second version");
    source.push(&replica, &source.shipments(shipments[0].upto, 4096)).unwrap();
    assert_same(&source.side, &replica);
    assert_eq!(fs::metadata(replica.root.join("two")).unwrap().ino(), ino);

    // As if the machine had stopped in the middle of the copy.
    let id = source.side.id("one");
    let staged = stage(&replica, id, b"third");
    let Side { home, root, store } = replica;
    drop(store);
    let index = rusqlite::Connection::open(home.path().join("index")).unwrap();
    let row = (id.host.get(), id.counter as i64, staged.name.as_bytes(), 5, 6, 0);
    index.execute("INSERT INTO copy VALUES (?1,?2,?3,?4,?5,?6)", row).unwrap();
    drop(index);
    fs::write(root.join("one"), "thi").unwrap();
    let store = Store::open(bottom(&root), config(home.path(), 2)).unwrap();
    assert_eq!(fs::read(root.join("two")).unwrap(), b"third");

    // And in the middle of one that appends.
    let replica = Side { home, root, store: store.into() };
    let staged = stage(&replica, id, b"\0\0\0\0\0 and more");
    let Side { home, root, store } = replica;
    drop(store);
    let index = rusqlite::Connection::open(home.path().join("index")).unwrap();
    let row = (id.host.get(), id.counter as i64, staged.name.as_bytes(), 7, 8, 5);
    index.execute("INSERT INTO copy VALUES (?1,?2,?3,?4,?5,?6)", row).unwrap();
    drop(index);
    fs::write(root.join("one"), "third and").unwrap();
    let store = Store::open(bottom(&root), config(home.path(), 2)).unwrap();
    assert_eq!(fs::read(root.join("two")).unwrap(), b"third and more");
    drop(store);
}

#[test]
fn a_hundred_thousand_names_in_one_directory_move_as_one_record() {
    let mut source = Source::new(Side::adopt(1, |root| {
        fs::create_dir(root.join("big")).unwrap();
        for n in 0..100_000 {
            fs::File::create(root.join(format!("big/file-{n}"))).unwrap();
        }
    }));
    source.rename("big", "moved", false);
    let shipments = source.shipments(Position::START, 4096);
    assert_eq!(shipments.len(), 1);
    assert_eq!(shipments[0].records.len(), 1);
    let id = source.side.id("moved/file-99999");
    assert!(source.side.store.open_object(id, OFlag::O_RDONLY).is_ok());
}

#[test]
fn a_copy_of_another_boot_is_lost_until_one_ended_and_was_synced() {
    let side = Side::create(2);
    assert!(side.store.is_empty().unwrap());
    side.store.begin_copy().unwrap();
    let side = side.reopen();
    assert!(!side.store.copy_was_lost().unwrap(), "the same boot and mount: nothing went");
    let Side { home, root, store } = side;
    let index = store.config().index.clone();
    drop(store);
    let db = rusqlite::Connection::open(index).unwrap();
    db.execute("UPDATE meta SET value = CAST('another 1' AS BLOB) WHERE key = 'unsynced'", []).unwrap();
    drop(db);
    let store = Store::open(bottom(&root), config(home.path(), 2)).unwrap();
    assert!(store.copy_was_lost().unwrap());
    store.begin_copy().unwrap();
    store.sync().unwrap();
    assert!(store.copy_was_lost().unwrap(), "the copy that mends it has not ended");
    store.end_copy();
    store.sync().unwrap();
    assert!(!store.copy_was_lost().unwrap());
}
