//! Hostile peers, full disks, and what it costs.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use lento_store::{Bottom, CommitError, Store, StoreError};
use protocol::{Name, ObjectId, Op, Position, Shipment, Timestamp, Xattr};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

fn name(n: &str) -> Name {
    Name::new(n.as_bytes()).unwrap()
}

/// A good history, and what each of these changes makes of it.
#[test]
fn hostile_shipments_are_refused_and_change_nothing() {
    let mut source = Source::new(Side::adopt(1, |_| {}));
    source.create("file", b"content");
    source.mkdir("dir");
    let replica = Side::create(2);
    let good = source.shipments(Position::START, 4096).remove(0);
    let id = ObjectId::new(host(1), 99);
    let with = |op: Op| {
        let mut bad: Shipment = good.clone();
        bad.records[0].op = op;
        bad
    };
    let root = ObjectId::ROOT;
    let xattr = |name: &[u8]| {
        let mut bad = good.clone();
        bad.settled[0].xattrs = vec![Xattr { name: name.to_vec(), value: vec![1] }];
        bad
    };
    let mut cases = vec![
        with(Op::Create { parent: root, name: name(".intermezzo"), id, mode: 0 }),
        with(Op::Symlink { parent: root, name: name(".intermezzo"), id, target: b"/etc".to_vec() }),
        with(Op::Unlink { parent: root, name: name(".intermezzo"), id }),
        with(Op::Rename {
            id,
            parent: root,
            name: name(".intermezzo"),
            to_parent: root,
            to_name: name("x"),
            other: None,
            exchange: false,
        }),
        with(Op::Rmdir { parent: root, name: name("x"), id: root }),
        with(Op::Link { id: root, parent: root, name: name("x") }),
        with(Op::Mkdir { parent: root, name: name("x"), id: root, mode: 0 }),
        with(Op::Symlink { parent: root, name: name("x"), id, target: b"a\0b".to_vec() }),
        with(Op::Symlink { parent: root, name: name("x"), id, target: Vec::new() }),
        with(Op::Mknod { parent: root, name: name("x"), id, mode: 0o040_755, rdev: 0 }),
        xattr(b"trusted.intermezzo"),
        xattr(b"trusted.intermezzo.more"),
        xattr(b""),
        good.clone(),
        good.clone(),
        good.clone(),
        good.clone(),
    ];
    let last = cases.len();
    cases[last - 1].fileset = protocol::FileSetId::from_bytes([9; 16]);
    cases[last - 2].writer = host(2);
    cases[last - 3].records[0].number = 1 << 40;
    cases[last - 4].settled[0].attr.mode = 0o170_777;
    let staged = source.stage(&replica, std::slice::from_ref(&good));
    for (n, case) in cases.into_iter().enumerate() {
        let refused = replica.store.commit(&[case], &staged);
        assert!(matches!(refused, Err(CommitError::Peer(_))), "case {n}: {refused:?}");
        assert_eq!(tree(&replica.root).len(), 1, "case {n}");
    }
    replica.store.commit(&[good], &staged).unwrap();
    assert_eq!(tree(&replica.root).len(), 3);
}

/// A symbolic link in the place of a directory leads nowhere: directories are reached by id only.
#[test]
fn a_symbolic_link_is_never_followed() {
    let mut source = Source::new(Side::adopt(1, |_| {}));
    source.mkdir("dir");
    let replica = Side::create(2);
    source.push(&replica, &source.shipments(Position::START, 9)).unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::rename(replica.root.join("dir"), replica.root.join("moved")).unwrap();
    std::os::unix::fs::symlink(outside.path(), replica.root.join("dir")).unwrap();
    source.create("dir/file", b"x");
    let after = replica.store.applied().unwrap()[&host(1)];
    source.push(&replica, &source.shipments(after, 9)).unwrap();
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
    assert_eq!(fs::read(replica.root.join("moved/file")).unwrap(), b"x");
}

/// A small ext4 on a loop device, unmounted when dropped.
struct SmallDisk {
    home: tempfile::TempDir,
}

impl SmallDisk {
    fn new(kib: u64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let image = home.path().join("image");
        fs::File::create(&image).unwrap().set_len(kib << 10).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-I", "256"]).arg(&image));
        fs::create_dir(home.path().join("mnt")).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(home.path().join("mnt")));
        Self { home }
    }

    fn mnt(&self) -> std::path::PathBuf {
        self.home.path().join("mnt")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(self.mnt()));
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn a_full_disk_stops_a_commit_that_succeeds_when_there_is_room() {
    let disk = SmallDisk::new(8 << 10);
    let root = disk.mnt();
    let store = Store::create(bottom(&root), config(disk.home.path(), 2)).unwrap();
    let index = tempfile::tempdir().unwrap();
    let replica = Side { home: index, root: root.clone(), store: store.into() };
    let mut source = Source::new(Side::adopt(1, |_| {}));
    source.mkdir("dir");
    source.create("dir/kept", b"kept");
    source.push(&replica, &source.shipments(Position::START, 4096)).unwrap();
    let after = replica.store.applied().unwrap()[&host(1)];
    // More directories and long links than the disk has blocks for, with contents between them.
    for n in 0..300 {
        source.mkdir(&format!("dir/{n}"));
        source.create(&format!("dir/{n}/file"), &[n as u8; 10]);
        source.symlink(&format!("dir/{n}/link"), &"t".repeat(200));
    }
    source.write("dir/kept", b"newer");
    let shipments = source.shipments(after, 4096);
    let ballast = root.join(".intermezzo/ballast");
    let mut staged = None;
    for _ in 0..2 {
        staged = Some(source.stage(&replica, &shipments));
        let free = replica.store.bottom().free_bytes().unwrap();
        fs::write(&ballast, vec![1; usize::try_from(free).unwrap() - (200 << 10)]).unwrap();
        let full = replica.store.commit(&shipments, staged.as_ref().unwrap());
        assert!(matches!(full, Err(CommitError::NoSpace)), "{:?}", full.err());
        assert_eq!(replica.store.applied().unwrap()[&host(1)], after);
        assert_eq!(fs::read(root.join("dir/kept")).unwrap(), b"kept");
        fs::remove_file(&ballast).unwrap();
    }
    // The same group, with the same staged files, some of which are in place already.
    replica.store.commit(&shipments, staged.as_ref().unwrap()).unwrap();
    assert_same(&source.side, &replica);
    assert_clean(&replica);
}

#[test]
fn a_disk_without_inodes_is_told_from_one_without_blocks() {
    let disk = SmallDisk::new(8 << 10);
    let root = disk.mnt();
    let store = Store::create(bottom(&root), config(disk.home.path(), 2)).unwrap();
    let index = tempfile::tempdir().unwrap();
    let replica = Side { home: index, root: root.clone(), store: store.into() };
    let mut source = Source::new(Side::adopt(1, |_| {}));
    source.create("file", b"needs an inode");
    let shipments = source.shipments(Position::START, 4096);
    let staged = source.stage(&replica, &shipments);
    assert!(!replica.store.bottom().shortage().contains("inodes"));

    let ballast = root.join(".intermezzo/ballast");
    fs::create_dir(&ballast).unwrap();
    let full = (0..).find_map(|n| fs::File::create(ballast.join(format!("{n}"))).err()).unwrap();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    assert!(replica.store.bottom().free_bytes().unwrap() > 1 << 20, "it is blocks that are short");
    assert!(replica.store.bottom().shortage().contains("inodes"), "{}", replica.store.bottom().shortage());
    fs::remove_dir_all(&ballast).unwrap();
    replica.store.commit(&shipments, &staged).unwrap();
}

/// Prints what absorbing, reading and committing the untarring of 8,000 files costs. Run it with `--release`.
#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_8000_files() {
    let base = std::env::var_os("MEASURE_DIR");
    let mut source = Source::new(Side::adopt(1, |_| {}));
    for dir in 0..80 {
        source.mkdir(&format!("d{dir}"));
        for file in 0..100 {
            let path = format!("d{dir}/f{file}");
            source.create(&path, &[7; 3000]);
            source.utimes(&path, Timestamp { secs: 1_000_000 + file, nanos: 0 });
            source.chmod(&path, 0o600);
        }
    }
    let begin = Instant::now();
    source.side.store.absorb().unwrap();
    println!("absorb {:?}", begin.elapsed());
    let begin = Instant::now();
    let shipments = source.shipments(Position::START, 4096);
    println!("history {:?} in {} shipments", begin.elapsed(), shipments.len());
    let mut replica = Side::create(2);
    if let Some(base) = base {
        let root = Path::new(&base).join("root");
        fs::create_dir(&root).unwrap();
        let root_fd = open_dir(&root);
        let store = Store::create(Bottom::new(root_fd).unwrap().into(), config(Path::new(&base), 2)).unwrap();
        replica = Side { home: tempfile::tempdir().unwrap(), root, store: store.into() };
    }
    let staged: Vec<_> = shipments.iter().map(|s| source.stage(&replica, std::slice::from_ref(s))).collect();
    let begin = Instant::now();
    for (shipment, staged) in shipments.iter().zip(&staged) {
        replica.store.commit(std::slice::from_ref(shipment), staged).unwrap();
    }
    println!("commit {:?}", begin.elapsed());
    assert_same(&source.side, &replica);
}

#[test]
fn what_a_killed_transfer_left_in_staging_is_swept_but_parts_stay() {
    let side = Side::create(2);
    let staging = side.root.join(".intermezzo/staging");
    fs::write(staging.join("1.5-77"), "whole").unwrap();
    fs::write(staging.join("1.6.part"), "part").unwrap();
    fs::create_dir(staging.join(".new")).unwrap();
    let side = side.reopen();
    let left: Vec<_> =
        fs::read_dir(side.root.join(".intermezzo/staging")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["1.6.part"]);
}

/// A loss of power may leave a hole before the end of the log: the store must open, or nothing would start the Presto
/// that cuts it.
#[test]
fn a_store_opens_over_a_log_that_a_loss_of_power_has_torn() {
    let mut source = Source::new(Side::adopt(1, |_| {}));
    source.create("before", b"x");
    let whole = source.side.store.absorb().unwrap();
    source.create("after", b"y");
    let log = source.path(".intermezzo/log").join(format!("{:020}.log", 1));
    let intact = fs::read(&log).unwrap();
    source.create("later", b"z");
    let mut torn = fs::read(&log).unwrap();
    // The middle of what was written since was lost, what followed was not.
    let hole = intact.len()..intact.len() + 40;
    torn[hole].fill(0);
    fs::write(&log, &torn).unwrap();
    let Source { side, log: writer, .. } = source;
    drop(writer);
    let side = side.reopen();
    let tail = side.store.absorb_torn().unwrap();
    assert!(tail > whole && matches!(side.store.absorb(), Err(StoreError::LogTorn(_))), "{tail}");
    let options = modlog::Options::new(common::FILESET, host(1));
    let (log, recovered) = modlog::Writer::open(open_dir(&side.root.join(".intermezzo/log")), options).unwrap();
    assert!(recovered.cut_bytes > 0 && log.last() == tail.number);
    assert_eq!(side.store.absorb().unwrap(), tail);
}
