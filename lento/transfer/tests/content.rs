//! Contents between two stores: every way in which they are sent, and what may go wrong on the way.

mod common;

use common::{Side, noise, overwrite, served, transfer};
use lento_transfer::{Fetched, Receiver, TransferError};
use protocol::{Coding, Content, Have, ObjectId, Position, ProtocolError, Wanted, limits};
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
};

const MIB: usize = 1 << 20;

/// Asserts that one object was fetched, and is the source's; the bytes that went over the wire.
fn fetch_same(source: &Side, to: &Side, path: &str) -> usize {
    let id = source.id(path);
    let (results, wire) = transfer(source, to, &[id]);
    let [(got, Fetched::Staged { file, .. })] = &results[..] else { panic!("{results:?}") };
    assert_eq!(*got, id);
    let content = fs::read(source.path(path)).expect("it is there");
    let staged = fs::read(to.staged(&file.name)).expect("it is staged");
    // What is appended in place has a hole before it.
    let start = file.start as usize;
    assert!(staged.len() == content.len() && staged[start..] == content[start..]);
    assert_eq!((file.size, file.hash), (content.len() as u64, blake3::hash(&content).into()));
    wire
}

fn one_file(bytes: &[u8]) -> Side {
    Side::adopt(1, |root| fs::write(root.join("f"), bytes).expect("it is written"))
}

#[test]
fn empty_small_and_large_contents_arrive() {
    let sizes = [0, 1, 1000, 128 * 1024, 128 * 1024 + 1, 256 * 1024, 3 * MIB + 17];
    let source = Side::adopt(1, |root| {
        for (i, size) in sizes.iter().enumerate() {
            fs::write(root.join(format!("{i}")), noise(*size, i as u64)).expect("it is written");
        }
    });
    let to = Side::create(2);
    for i in 0..sizes.len() {
        fetch_same(&source, &to, &format!("{i}"));
    }
    let ids: Vec<_> = (0..sizes.len()).map(|i| source.id(&format!("{i}"))).collect();
    let (results, _) = transfer(&source, &to, &ids);
    assert!(results.iter().all(|(_, result)| matches!(result, Fetched::Staged { as_of: Position::START, .. })));
}

#[test]
fn ten_thousand_small_files_take_three_rounds_and_few_packets() {
    let source = Side::adopt(1, |root| {
        for i in 0..10_000 {
            fs::write(root.join(format!("{i}")), noise(1024, i)).expect("it is written");
        }
    });
    let to = Side::create(2);
    let ids: Vec<_> = (0..10_000).map(|i| source.id(&format!("{i}"))).collect();
    let mut receiver = Receiver::new(to.store.clone(), ids);
    let (mut rounds, mut packets) = (0, 0);
    while let Some(wanted) = receiver.next_round().expect("the source answers") {
        rounds += 1;
        for body in served(&source, &wanted) {
            packets += 1;
            receiver.take(&body).expect("the source is honest");
        }
    }
    assert!(receiver.finish().iter().all(|(_, result)| matches!(result, Fetched::Staged { .. })));
    assert!(rounds <= 3 && packets <= 45, "{rounds} rounds, {packets} packets");
}

#[test]
fn holes_are_neither_sent_nor_filled() {
    let source = Side::adopt(1, |root| {
        let file = File::create(root.join("f")).expect("it is new");
        file.set_len(64 << 20).expect("it is sparse");
        file.write_all_at(&noise(5000, 1), 20 << 20).expect("it is written");
        file.write_all_at(&noise(5000, 2), 40 << 20).expect("it is written");
    });
    let to = Side::create(2);
    let wire = fetch_same(&source, &to, "f");
    assert!(wire < 40_000, "{wire}");
    let (results, _) = transfer(&source, &to, &[source.id("f")]);
    let [(_, Fetched::Staged { file, .. })] = &results[..] else { panic!("{results:?}") };
    let blocks = fs::metadata(to.staged(&file.name)).expect("it is staged").blocks();
    assert!(blocks * 512 < 100_000, "{blocks}");
}

#[test]
fn an_append_costs_what_was_appended() {
    let mut content = noise(8 * MIB, 1);
    let to = one_file(&content);
    content.extend(noise(MIB, 2));
    let source = one_file(&content);
    let wire = fetch_same(&source, &to, "f");
    assert!((MIB..MIB + 2000).contains(&wire), "{wire}");
    let (results, _) = transfer(&source, &to, &[source.id("f")]);
    let [(_, Fetched::Staged { file, .. })] = &results[..] else { panic!("{results:?}") };
    assert_eq!(file.start, 8 * MIB as u64, "what is here is not copied");
}

#[test]
fn a_smaller_file_is_not_appended_to_in_place() {
    let mut content = noise(2 * MIB, 1);
    let to = one_file(&content);
    content.extend(noise(1000, 2));
    let source = one_file(&content);
    assert!(fetch_same(&source, &to, "f") < 3000);
    let (results, _) = transfer(&source, &to, &[source.id("f")]);
    assert!(matches!(&results[..], [(_, Fetched::Staged { file, .. })] if file.start == 0));
}

#[test]
fn what_changed_here_since_it_was_offered_is_not_appended_to() {
    let mut content = noise(8 * MIB, 1);
    let to = one_file(&content);
    content.extend(noise(MIB, 2));
    let source = one_file(&content);
    let id = source.id("f");
    // Its hash is remembered, so that it is hashed while the source answers.
    transfer(&source, &to, &[id]);
    let mut receiver = Receiver::new(to.store.clone(), vec![id]);
    overwrite(&to.path("f"), 100, b"changed behind the index, and its time was set back");
    let mtime = source_time(&to, id);
    File::open(to.path("f")).and_then(|f| f.set_modified(mtime)).expect("it is ours");
    while let Some(wanted) = receiver.next_round().expect("the source answers") {
        served(&source, &wanted).iter().for_each(|body| receiver.take(body).expect("the source is honest"));
    }
    let results = receiver.finish();
    let [(_, Fetched::Staged { file, .. })] = &results[..] else { panic!("{results:?}") };
    assert_eq!(file.start, 0);
    assert!(fs::read(to.staged(&file.name)).expect("it is staged") == content);
}

/// The time that the index has of a file.
fn source_time(side: &Side, id: ObjectId) -> std::time::SystemTime {
    let version = side.store.version(id).expect("it is read").expect("it is a file");
    std::time::UNIX_EPOCH + std::time::Duration::new(version.mtime.secs as u64, version.mtime.nanos)
}

#[test]
fn a_change_in_the_middle_is_sent_as_a_delta() {
    let mut content = noise(20 * MIB, 1);
    let to = one_file(&content);
    content[5_000_000..5_000_100].fill(7);
    content.splice(10_000_000..10_000_000, *b"some bytes were inserted here");
    let source = one_file(&content);
    let wire = fetch_same(&source, &to, "f");
    assert!(wire < 100_000, "{wire}");
}

#[test]
fn a_file_that_became_shorter_is_sent_as_a_delta() {
    let content = noise(4 * MIB, 1);
    let to = one_file(&content);
    let source = one_file(&content[..3 * MIB]);
    let wire = fetch_same(&source, &to, "f");
    assert!(wire < 20_000, "{wire}");
}

#[test]
fn a_delta_keeps_holes() {
    let fill = |change: bool| {
        move |root: &std::path::Path| {
            let file = File::create(root.join("f")).expect("it is new");
            file.set_len(32 << 20).expect("it is sparse");
            file.write_all_at(&noise(MIB, 1), 8 << 20).expect("it is written");
            if change {
                file.write_all_at(b"changed", 9_000_000).expect("it is written");
            }
        }
    };
    let (source, to) = (Side::adopt(1, fill(true)), Side::adopt(1, fill(false)));
    let wire = fetch_same(&source, &to, "f");
    assert!(wire < 200_000, "{wire}");
    let (results, _) = transfer(&source, &to, &[source.id("f")]);
    let [(_, Fetched::Staged { file, .. })] = &results[..] else { panic!("{results:?}") };
    let blocks = fs::metadata(to.staged(&file.name)).expect("it is staged").blocks();
    assert!(blocks * 512 < 3 * MIB as u64, "{blocks}");
}

#[test]
fn an_interrupted_transfer_goes_on_where_it_was() {
    let source = one_file(&noise(12 * MIB, 1));
    let to = Side::create(2);
    let id = source.id("f");
    let mut receiver = Receiver::new(to.store.clone(), vec![id]);
    let wanted = receiver.next_round().expect("nothing was asked yet").expect("there is something to ask");
    let bodies = served(&source, &wanted);
    for body in &bodies[..bodies.len() * 3 / 4] {
        receiver.take(body).expect("the source is honest");
    }
    assert_eq!(receiver.finish(), [(id, Fetched::Interrupted)]);
    assert_eq!(to.staging_names(), [format!("{id}.part")]);
    let wire = fetch_same(&source, &to, "f");
    assert!(wire < 4 * MIB, "{wire}");
    assert_eq!(to.staging_names().len(), 1, "the part became the content");
}

#[test]
fn a_part_of_another_version_is_thrown_away() {
    let source = one_file(&noise(4 * MIB, 1));
    let to = Side::create(2);
    let part = format!("{}.part", source.id("f"));
    fs::write(to.path(".intermezzo/staging").join(part), noise(2 * MIB, 9)).expect("it is written");
    fetch_same(&source, &to, "f");
    assert_eq!(to.staging_names().len(), 1);
}

#[test]
fn two_transfers_of_one_file_do_not_disturb_each_other() {
    let source = one_file(&noise(3 * MIB, 1));
    let to = Side::create(2);
    let id = source.id("f");
    let mut receivers = [(); 2].map(|()| Receiver::new(to.store.clone(), vec![id]));
    let wanted = receivers.each_mut().map(|r| r.next_round().expect("it begins").expect("it wants something"));
    for body in served(&source, &wanted[0]) {
        receivers.iter_mut().for_each(|r| r.take(&body).expect("the source is honest"));
    }
    for receiver in receivers {
        let results = receiver.finish();
        let [(_, Fetched::Staged { file, .. })] = &results[..] else { panic!("{results:?}") };
        assert!(fs::read(to.staged(&file.name)).expect("it is staged") == noise(3 * MIB, 1));
    }
}

#[test]
fn what_changed_since_its_record_is_not_served() {
    for size in [1000, 2 * MIB] {
        let source = one_file(&noise(size, 1));
        overwrite(&source.path("f"), 10, b"not in the log yet");
        let id = source.id("f");
        assert_eq!(transfer(&source, &Side::create(2), &[id]).0, [(id, Fetched::Changed)]);
    }
}

#[test]
fn what_changes_while_it_is_read_is_not_taken() {
    let source = one_file(&noise(4 * MIB, 1));
    let (to, id) = (Side::create(2), source.id("f"));
    let mut receiver = Receiver::new(to.store.clone(), vec![id]);
    let wanted = receiver.next_round().expect("it begins").expect("it wants something");
    let mut packets = 0;
    lento_transfer::serve(&source.store, &wanted, true, &mut |body| {
        packets += 1;
        if packets == 3 {
            overwrite(&source.path("f"), 0, b"changed behind what was read");
        }
        receiver.take(&body).expect("the source is honest");
        Ok(())
    })
    .expect("the source is sound");
    assert!(packets > 3, "the change came in the middle");
    assert_eq!(receiver.finish(), [(id, Fetched::Changed)]);
}

#[test]
fn what_shrinks_while_it_is_read_is_not_taken() {
    let source = one_file(&noise(4 * MIB, 1));
    let (to, id) = (Side::create(2), source.id("f"));
    let mut receiver = Receiver::new(to.store.clone(), vec![id]);
    let wanted = receiver.next_round().expect("it begins").expect("it wants something");
    let mut cut = false;
    lento_transfer::serve(&source.store, &wanted, true, &mut |body| {
        if !std::mem::replace(&mut cut, true) {
            OpenOptions::new()
                .write(true)
                .open(source.path("f"))
                .and_then(|f| f.set_len(MIB as u64))
                .expect("it is cut");
        }
        receiver.take(&body).expect("the source is honest");
        Ok(())
    })
    .expect("the source is sound");
    assert!(cut);
    assert_eq!(receiver.finish(), [(id, Fetched::Changed)]);
}

#[test]
fn what_is_gone_unknown_or_no_file_is_not_served() {
    let source = Side::adopt(1, |root| {
        fs::write(root.join("f"), "x").expect("it is written");
        fs::create_dir(root.join("d")).expect("it is new");
        std::os::unix::fs::symlink("/etc/passwd", root.join("l")).expect("it is new");
    });
    let (gone, directory) = (source.id("f"), source.id("d"));
    fs::remove_file(source.path("f")).expect("it was there");
    let unknown = ObjectId::new(common::host(9), 99);
    let symlinks: Vec<_> = (0..3).map(|n| ObjectId::new(common::host(1), ObjectId::ADOPTED + n)).collect();
    let to = Side::create(2);
    assert_eq!(transfer(&source, &to, &[gone, unknown]).0, [(gone, Fetched::Gone), (unknown, Fetched::Gone)]);
    assert_eq!(transfer(&source, &to, &[directory]).0, [(directory, Fetched::FailedThere(libc::EISDIR))]);
    for (_, result) in transfer(&source, &to, &symlinks).0 {
        assert!(!matches!(result, Fetched::Staged { .. }), "nothing but files is served: {result:?}");
    }
}

/// A receiver of two files of which nothing is here, and has asked for them.
fn asking(to: &Side) -> Receiver {
    let ids = [1, 2].map(|n| ObjectId::new(common::host(1), n));
    let mut receiver = Receiver::new(to.store.clone(), ids.to_vec());
    receiver.next_round().expect("it begins").expect("it wants something");
    receiver
}

fn body(items: &[Content]) -> Vec<u8> {
    let mut body = Vec::new();
    items.iter().for_each(|item| item.append_to(&mut body).expect("it fits"));
    body
}

#[test]
fn hostile_answers_are_refused_and_leave_nothing() {
    let begin = |index, size, coding| Content::Begin { index, size, coding };
    let whole = |size| begin(0, size, Coding::From(0));
    let chunk = |bytes: &[u8]| Content::Chunk { index: 0, zstd: None, bytes: bytes.to_vec() };
    let end = |hash| Content::End { index: 0, hash, as_of: Position::START };
    let small = |index| Content::Small { index, bytes: vec![1], as_of: Position::START };
    let bomb = zstd::bulk::compress(&vec![0; 10 * MIB], 1).expect("it compresses");
    let hostile: Vec<(&str, Vec<Content>)> = vec![
        ("wrong index", vec![small(1)]),
        ("unasked index", vec![small(7)]),
        ("answered twice", vec![small(0), small(0)]),
        ("more than was asked", vec![small(0), small(1), small(2)]),
        ("chunk without begin", vec![chunk(b"x")]),
        ("hole without begin", vec![Content::Hole { index: 0, bytes: 1 }]),
        ("end without begin", vec![end([0; 32])]),
        ("two begins", vec![whole(10), whole(10)]),
        ("small in the middle", vec![whole(10), small(0)]),
        ("too much", vec![whole(3), chunk(b"1234")]),
        ("hole too large", vec![whole(3), Content::Hole { index: 0, bytes: u64::MAX }]),
        ("too little", vec![whole(3), chunk(b"12"), end(blake3::hash(b"12").into())]),
        ("wrong hash", vec![whole(3), chunk(b"123"), end([0; 32])]),
        ("rest of nothing", vec![begin(0, 10, Coding::From(5))]),
        ("delta to nothing", vec![begin(0, 10, Coding::Delta)]),
        ("differs from nothing", vec![Content::Differs { index: 0 }]),
        ("bomb", vec![whole(10 * MIB as u64), Content::Chunk { index: 0, zstd: Some(1000), bytes: bomb }]),
        ("not zstd", vec![whole(1000), Content::Chunk { index: 0, zstd: Some(1000), bytes: vec![9; 50] }]),
    ];
    let to = Side::create(2);
    for (what, items) in hostile {
        let mut receiver = asking(&to);
        let result = receiver.take(&body(&items));
        assert!(
            matches!(result, Err(TransferError::Misbehaved { .. } | TransferError::Unasked(_))),
            "{what}: {result:?}"
        );
        drop(receiver);
        assert_eq!(to.staging_names(), [""; 0], "{what}");
    }
    let huge = Content::Chunk { index: 0, zstd: Some(limits::DATA_CHUNK_BYTES as u32 + 1), bytes: vec![1] };
    let mut receiver = asking(&to);
    receiver.take(&body(&[whole(10)])).expect("so far it is honest");
    let result = receiver.take(&body(&[huge]));
    assert!(matches!(result, Err(TransferError::Protocol(ProtocolError::TooLong { .. }))), "{result:?}");
    assert!(matches!(asking(&to).take(&[0xff; 30]), Err(TransferError::Protocol(_))));
}

#[test]
fn data_that_ends_too_early_is_found() {
    let to = Side::create(2);
    let mut receiver = asking(&to);
    receiver.take(&body(&[Content::Gone { index: 0 }])).expect("it is honest");
    assert!(matches!(receiver.next_round(), Err(TransferError::Unasked(_))));
    let results: Vec<_> = receiver.finish().into_iter().map(|(_, result)| result).collect();
    assert_eq!(results, [Fetched::Gone, Fetched::Interrupted]);
}

#[test]
fn a_wrong_delta_leads_to_the_whole_file() {
    let to = one_file(&noise(2 * MIB, 1));
    let source = one_file(&noise(2 * MIB, 2));
    let id = source.id("f");
    let mut receiver = Receiver::new(to.store.clone(), vec![id]);
    let first = receiver.next_round().expect("it begins").expect("it wants something");
    assert!(matches!(first[0].have, Have::Prefix { .. }));
    receiver.take(&body(&[Content::Differs { index: 0 }])).expect("it is honest");
    let second = receiver.next_round().expect("all was answered").expect("it asks again");
    assert!(matches!(second[0].have, Have::Signature(_)));
    let delta = [0x72, 0x73, 2, 0x36, 0x46, 0, 0x10, 0, 0];
    let answer = [
        Content::Begin { index: 0, size: 4096, coding: Coding::Delta },
        Content::Chunk { index: 0, zstd: None, bytes: delta.to_vec() },
        Content::End { index: 0, hash: [0; 32], as_of: Position::START },
    ];
    receiver.take(&body(&answer)).expect("a collision of short hashes is nobody's fault");
    let third = receiver.next_round().expect("all was answered").expect("it asks again");
    assert_eq!(third, [Wanted { id, have: Have::Nothing }]);
    served(&source, &third).iter().for_each(|body| receiver.take(body).expect("the source is honest"));
    assert!(matches!(&receiver.finish()[..], [(_, Fetched::Staged { .. })]));
    assert_eq!(to.staging_names().len(), 1);
}

#[test]
fn a_hostile_signature_is_answered_with_the_whole_file() {
    let source = one_file(&noise(2 * MIB, 2));
    let wanted = [Wanted { id: source.id("f"), have: Have::Signature(vec![0; 100]) }];
    let bodies = served(&source, &wanted);
    let first = Content::take_from(&bodies[0]).expect("it decodes").expect("there is one").0;
    assert_eq!(first, Content::Begin { index: 0, size: 2 * MIB as u64, coding: Coding::From(0) });
}

#[test]
fn many_signatures_are_asked_for_in_several_rounds() {
    const FILES: u32 = 48;
    let to = Side::adopt(1, |root| {
        for i in 0..FILES {
            // Large signatures of files that cost nothing.
            File::create(root.join(format!("{i}"))).and_then(|f| f.set_len(4 << 20)).expect("it is sparse");
        }
    });
    let ids: Vec<_> = (0..FILES).map(|i| to.id(&format!("{i}"))).collect();
    let mut receiver = Receiver::new(to.store.clone(), ids);
    let first = receiver.next_round().expect("it begins").expect("it wants something");
    assert_eq!(first.len(), FILES as usize);
    let differs: Vec<_> = (0..FILES).map(|index| Content::Differs { index }).collect();
    receiver.take(&body(&differs)).expect("it is honest");
    let mut asked = Vec::new();
    while let Some(wanted) = receiver.next_round().expect("all was answered") {
        assert!(wanted.iter().all(|w| matches!(w.have, Have::Signature(_))));
        let request = protocol::Request::Fetch { fileset: to.store.config().fileset, wanted: wanted.clone() };
        request.to_body().expect("every round fits a packet");
        let gone: Vec<_> = (0..wanted.len() as u32).map(|index| Content::Gone { index }).collect();
        receiver.take(&body(&gone)).expect("it is honest");
        asked.push(wanted.len());
    }
    assert!(asked.len() == 2 && asked.iter().sum::<usize>() == FILES as usize, "{asked:?}");
}

#[test]
fn a_slow_network_gets_compressed_chunks() {
    let text: Vec<u8> = b"all work and no play makes jack a dull boy\n".iter().cycle().take(4 * MIB).copied().collect();
    let source = one_file(&text);
    let (to, id) = (Side::create(2), source.id("f"));
    let mut receiver = Receiver::new(to.store.clone(), vec![id]);
    let wanted = receiver.next_round().expect("it begins").expect("it wants something");
    let mut wire = 0;
    lento_transfer::serve(&source.store, &wanted, true, &mut |body| {
        wire += body.len();
        // This is the slow network.
        std::thread::sleep(std::time::Duration::from_millis(20));
        receiver.take(&body).expect("the source is honest");
        Ok(())
    })
    .expect("the source is sound");
    assert!(wire < MIB, "{wire}");
    assert!(matches!(&receiver.finish()[..], [(_, Fetched::Staged { .. })]));
}

#[test]
fn stopping_ends_serving() {
    let source = one_file(&noise(4 * MIB, 1));
    let wanted = [Wanted { id: source.id("f"), have: Have::Nothing }];
    let result = lento_transfer::serve(&source.store, &wanted, true, &mut |_| Err(lento_transfer::Stopped));
    assert!(matches!(result, Err(TransferError::Stopped(_))));
}
