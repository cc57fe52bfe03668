//! Writer and reader on real files: torn tails, damage, rotation, trimming, following, full disks.

use modlog::{LogError, Options, ReadResult, Reader, Writer};
use proptest::prelude::*;
use protocol::{Cred, Done, FileSetId, Handle, HostId, Name, ObjectId, Op, Record, Timestamp};
use std::{fs, os::fd::OwnedFd, path::Path};

const CRED: Cred = Cred { uid: 1, gid: 2, pid: 3 };
const DONE: Result<Done, i32> = Ok(Done { handle: None, attr: None });

fn host() -> HostId {
    HostId::new(7).expect("7 is not 0")
}

fn options() -> Options {
    Options { segment_bytes: 4096, ..Options::new(FileSetId::from_bytes([9; 16]), host()) }
}

fn dir(path: &Path) -> OwnedFd {
    fs::File::open(path).expect("the directory is there").into()
}

fn writer(path: &Path) -> (Writer, modlog::Recovered) {
    Writer::open(dir(path), options()).expect("the log opens")
}

fn create(number: u64) -> Op {
    let name = Name::new(format!("file-{number}").as_bytes()).expect("legal");
    Op::Create { parent: ObjectId::ROOT, name, id: ObjectId::new(host(), number), mode: 0o644 }
}

fn write(writer: &mut Writer, count: u64) {
    for _ in 0..count {
        let number = writer.append(CRED, 1, create).expect("appended");
        writer.outcome(number, Ok(Done { handle: Some(Handle(number)), attr: None }));
        writer.closed(ObjectId::new(host(), number));
    }
    writer.flush().expect("flushed");
}

fn read_all(reader: &mut Reader, after: u64) -> Vec<u64> {
    match reader.read(after, usize::MAX, usize::MAX).expect("readable") {
        ReadResult::Entries(entries) => entries.iter().map(|e| e.record.number).collect(),
        ReadResult::TooOld { first_available } => panic!("too old, there is {first_available}"),
    }
}

fn segments(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .expect("a directory")
        .map(|e| e.expect("an entry").file_name().into_string().expect("utf-8"))
        .filter(|n| n.ends_with(".log"))
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_written_is_read_and_found_again() {
    let tmp = tempfile::tempdir().expect("tmp");
    let (mut w, found) = writer(tmp.path());
    assert_eq!(found, modlog::Recovered::default());
    write(&mut w, 10);
    assert_eq!((w.last(), w.finished()), (10, 10));
    assert_eq!(read_all(&mut Reader::open(dir(tmp.path())), 3), (4..=10).collect::<Vec<_>>());
    drop(w);
    let (w, found) = writer(tmp.path());
    assert_eq!((w.last(), found.last, found.finished, found.epoch, found.cut_bytes), (10, 10, 10, 1, 0));
    assert!(found.unfinished.is_empty());
    assert_eq!(found.open.len(), 10);
    assert_eq!(found.open[4].handle, Some(Handle(5)));
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_nothing_before_it_is_lost() {
    let tmp = tempfile::tempdir().expect("tmp");
    let (mut w, _) = writer(tmp.path());
    write(&mut w, 3);
    let before = w.bytes();
    write(&mut w, 1);
    let whole = fs::read(tmp.path().join(&segments(tmp.path())[0])).expect("the segment");
    for len in 0..whole.len() {
        let torn = tempfile::tempdir().expect("tmp");
        let file = torn.path().join(&segments(tmp.path())[0]);
        fs::write(&file, &whole[..len]).expect("written");
        let (mut w, found) = writer(torn.path());
        assert!(found.last <= 4);
        if len as u64 >= before {
            assert!(found.last >= 3, "cut at {len}");
        }
        let last = found.last;
        write(&mut w, 2);
        let mut reader = Reader::open(dir(torn.path()));
        let open: Vec<u64> = found.unfinished.iter().map(|r| r.number).collect();
        assert!(open.len() <= 1);
        for number in open {
            w.outcome(number, DONE);
        }
        w.flush().expect("flushed");
        assert_eq!(read_all(&mut reader, 0), (1..=last + 2).collect::<Vec<_>>(), "cut at {len}");
    }
}

#[test]
fn a_flipped_bit_is_never_read_as_something_else() {
    let tmp = tempfile::tempdir().expect("tmp");
    let (mut w, _) = writer(tmp.path());
    write(&mut w, 3);
    let name = segments(tmp.path())[0].clone();
    let whole = fs::read(tmp.path().join(&name)).expect("the segment");
    let original = match Reader::open(dir(tmp.path())).read(0, 9, 9999).expect("readable") {
        ReadResult::Entries(entries) => entries,
        ReadResult::TooOld { .. } => panic!("nothing was trimmed"),
    };
    for bit in 0..whole.len() * 8 {
        let flipped = tempfile::tempdir().expect("tmp");
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(flipped.path().join(&name), &bytes).expect("written");
        match Reader::open(dir(flipped.path())).read(0, 9, 9999) {
            Ok(ReadResult::Entries(entries)) => assert_eq!(entries[..], original[..entries.len()], "bit {bit}"),
            Ok(ReadResult::TooOld { .. }) => panic!("bit {bit}"),
            Err(LogError::Damaged { .. } | LogError::Torn { .. }) => {}
            Err(other) => panic!("bit {bit}: {other}"),
        }
    }
}

#[test]
fn damage_in_an_older_segment_is_an_error_that_says_where() {
    let tmp = tempfile::tempdir().expect("tmp");
    let (mut w, _) = writer(tmp.path());
    let unfinished = w.append(CRED, 1, create).expect("appended");
    while segments(tmp.path()).len() < 2 {
        write(&mut w, 1);
    }
    drop(w);
    let first = tmp.path().join(&segments(tmp.path())[0]);
    let mut bytes = fs::read(&first).expect("readable");
    bytes[2000] ^= 1;
    fs::write(&first, bytes).expect("written");
    // The first segment is examined because its first record was never finished.
    assert_eq!(unfinished, 1);
    match Writer::open(dir(tmp.path()), options()) {
        Err(LogError::Damaged { file, offset, .. }) => {
            assert_eq!(file, format!("{:020}.log", 1));
            assert!(offset <= 2000 && offset > 1800);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_of_another_host_is_refused() {
    let tmp = tempfile::tempdir().expect("tmp");
    write(&mut writer(tmp.path()).0, 1);
    let other = Options { host: HostId::new(8).expect("8 is not 0"), ..options() };
    assert!(matches!(Writer::open(dir(tmp.path()), other), Err(LogError::Foreign { .. })));
}

#[test]
fn a_new_segment_repeats_the_open_files_and_trimming_keeps_the_numbers() {
    let tmp = tempfile::tempdir().expect("tmp");
    let (mut w, _) = writer(tmp.path());
    // No number that a record of this test gets: `write` closes what it creates.
    let open = ObjectId::new(host(), 1_000_077);
    let number = w.append(CRED, 1, |_| Op::Intend { id: open, handle: Handle(42) }).expect("appended");
    w.outcome(number, DONE);
    while segments(tmp.path()).len() < 4 {
        write(&mut w, 1);
    }
    let last = w.last();
    let mut reader = Reader::open(dir(tmp.path()));
    assert_eq!(read_all(&mut reader, 0), (1..=last).collect::<Vec<_>>());
    drop(w);
    let (mut w, found) = writer(tmp.path());
    assert!(found.open.iter().any(|o| o.id == open && o.handle == Some(Handle(42))), "{found:?}");
    let firsts: Vec<u64> = segments(tmp.path()).iter().map(|n| n[..20].parse().expect("twenty digits")).collect();
    w.trim(firsts[2] - 2).expect("trimmed");
    assert_eq!(segments(tmp.path()).len(), 3, "a segment with a record above the bound stays");
    w.trim(firsts[2] - 1).expect("trimmed");
    assert_eq!(segments(tmp.path()).len(), 2);
    w.trim(u64::MAX).expect("trimmed");
    assert_eq!(segments(tmp.path()).len(), 1);
    let mut reader = Reader::open(dir(tmp.path()));
    assert_eq!(reader.read(5, 10, 10_000).expect("readable"), ReadResult::TooOld { first_available: firsts[3] });
    write(&mut w, 1);
    assert_eq!(read_all(&mut reader, last), vec![last + 1]);
}

#[test]
fn a_reader_stops_before_the_first_unfinished_record() {
    let tmp = tempfile::tempdir().expect("tmp");
    let (mut w, _) = writer(tmp.path());
    let a = w.append(CRED, 1, create).expect("appended");
    let b = w.append(CRED, 1, create).expect("appended");
    w.outcome(b, DONE);
    w.flush().expect("flushed");
    assert_eq!(w.finished(), 0);
    let mut reader = Reader::open(dir(tmp.path()));
    assert!(read_all(&mut reader, 0).is_empty());
    w.outcome(a, Err(17));
    w.flush().expect("flushed");
    assert_eq!(w.finished(), 2);
    match reader.read(0, 10, 10_000).expect("readable") {
        ReadResult::Entries(entries) => {
            assert_eq!(entries.iter().map(|e| e.outcome).collect::<Vec<_>>(), vec![Err(17), DONE]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_jump_after_a_power_loss_and_the_reader_follows() {
    let tmp = tempfile::tempdir().expect("tmp");
    let (mut w, _) = writer(tmp.path());
    write(&mut w, 2);
    w.skip(protocol::limits::LOG_GAP_RECORDS);
    write(&mut w, 100);
    let gap = protocol::limits::LOG_GAP_RECORDS;
    let expected: Vec<u64> = (1..=2).chain(gap + 3..=gap + 102).collect();
    assert_eq!(read_all(&mut Reader::open(dir(tmp.path())), 0), expected);
}

#[test]
fn a_reader_follows_a_writer_that_rotates_and_trims() {
    let tmp = tempfile::tempdir().expect("tmp");
    let path = tmp.path().to_owned();
    let read_upto = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let progress = read_upto.clone();
    let writing = std::thread::spawn(move || {
        let (mut w, _) = writer(&path);
        for round in 0..2000_u64 {
            let n = w.append(CRED, round, create).expect("appended");
            w.outcome(n, if n % 7 == 0 { Err(2) } else { DONE });
            if round % 3 == 0 {
                w.flush().expect("flushed");
            }
            w.trim(progress.load(std::sync::atomic::Ordering::Acquire)).expect("trimmed");
        }
        w.flush().expect("flushed");
    });
    let mut reader = Reader::open(dir(tmp.path()));
    let mut expected = 1;
    while expected <= 2000 {
        for number in read_all(&mut reader, expected - 1) {
            assert_eq!(number, expected);
            expected += 1;
        }
        read_upto.store(expected - 1, std::sync::atomic::Ordering::Release);
    }
    writing.join().expect("the writer ended well");
    assert!(segments(tmp.path()).len() < 40, "it was trimmed on the way");
}

#[test]
fn received_records_keep_their_numbers() {
    let tmp = tempfile::tempdir().expect("tmp");
    let (mut w, _) = writer(tmp.path());
    for number in [5, 6, 90] {
        let record = Record {
            number,
            epoch: 3,
            finished: number - 1,
            time: Timestamp { secs: 1, nanos: 2 },
            cred: CRED,
            op: create(number),
        };
        w.append_record(&record, DONE).expect("appended");
        assert!(matches!(w.append_record(&record, DONE), Err(LogError::OutOfOrder { .. })));
    }
    w.sync().expect("synced");
    assert_eq!(w.synced(), 90);
    assert_eq!(read_all(&mut Reader::open(dir(tmp.path())), 4), vec![5, 6, 90]);
}

#[test]
fn a_full_disk_leaves_the_log_whole_and_room_to_delete() {
    let tmp = tempfile::tempdir().expect("tmp");
    let small = "size=256k";
    let mounted = nix::mount::mount(Some("none"), tmp.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some(small));
    assert!(mounted.is_ok(), "this test needs root, for a small tmpfs: {mounted:?}");
    let outcome = std::panic::catch_unwind(|| {
        let (mut w, _) = writer(tmp.path());
        write(&mut w, 5);
        let filler = fs::write(tmp.path().join("filler"), vec![1; 1 << 20]);
        assert!(filler.is_err(), "the disk is full");
        // Two segments are reserved: the current one and the next.
        let mut appended = 0;
        let error = loop {
            match w.append(CRED, 1, create) {
                Ok(n) => w.outcome(n, DONE),
                Err(error) => break error,
            }
            appended += 1;
            assert!(appended < 100_000, "it never was full");
        };
        assert_eq!(error.errno(), 28, "{error}");
        assert!(appended > 60, "only {appended} records fitted into the reserve");
        let last = w.last();
        assert_eq!(w.append(CRED, 1, create).expect_err("still full").errno(), 28);
        fs::remove_file(tmp.path().join("filler")).expect("removed");
        write(&mut w, 3);
        assert_eq!(w.last(), last + 3);
        drop(w);
        let (w, found) = writer(tmp.path());
        assert_eq!((w.last(), found.cut_bytes), (last + 3, 0));
        assert_eq!(read_all(&mut Reader::open(dir(tmp.path())), 0), (1..=last + 3).collect::<Vec<_>>());
    });
    nix::mount::umount2(tmp.path(), nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn golden_bytes_of_a_segment() {
    let tmp = tempfile::tempdir().expect("tmp");
    let (mut w, _) = writer(tmp.path());
    let record = Record {
        number: 1,
        epoch: 2,
        finished: 0,
        time: Timestamp { secs: 3, nanos: 4 },
        cred: CRED,
        op: Op::Unlink {
            parent: ObjectId::ROOT,
            name: Name::new(b"ab").expect("legal"),
            id: ObjectId::new(host(), 300),
        },
    };
    w.append_record(&record, Err(2)).expect("appended");
    w.flush().expect("flushed");
    let bytes = fs::read(tmp.path().join(&segments(tmp.path())[0])).expect("readable");
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, include_str!("golden.hex").trim());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_order_of_outcomes_and_reopenings_keeps_every_record(
        steps in proptest::collection::vec((0_u8..5, any::<u16>()), 1..200),
    ) {
        let tmp = tempfile::tempdir().expect("tmp");
        let (mut w, _) = writer(tmp.path());
        let mut unfinished: Vec<u64> = Vec::new();
        let mut expected = Vec::new();
        for (step, pick) in steps {
            match step {
                0..=1 => {
                    let n = w.append(CRED, 1, create).expect("appended");
                    unfinished.push(n);
                    expected.push(n);
                }
                2..=3 if !unfinished.is_empty() => {
                    let n = unfinished.remove(pick as usize % unfinished.len());
                    w.outcome(n, DONE);
                }
                4 => {
                    w.flush().expect("flushed");
                    drop(w);
                    let (again, found) = writer(tmp.path());
                    prop_assert_eq!(found.unfinished.iter().map(|r| r.number).collect::<Vec<_>>(), unfinished.clone());
                    w = again;
                }
                _ => {}
            }
        }
        w.flush().expect("flushed");
        let upto = unfinished.first().map_or(u64::MAX, |n| n - 1);
        expected.retain(|n| *n <= upto);
        prop_assert_eq!(read_all(&mut Reader::open(dir(tmp.path())), 0), expected);
    }
}
