//! A client's mount: what is absent is asked for and waited for, and what is here is not.

mod client;
mod stand;

use client::*;
use nix::sys::signal::Signal;
use protocol::{Downcall, Handle, Op, Timestamp, Upcall};
use stand::{Stand, lento::PATIENCE, words};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    time::Instant,
};

#[test]
fn an_absent_root_is_fetched_once_for_all_who_wait_for_it() {
    let mut stand = Stand::prepared(CLIENT, mark_absent);
    let root = stand.handle_of("");
    let path = |name: &str| -> PathBuf { stand.path(name) };
    let (here, there, gone, mount) = (path("here"), path("there"), path("gone"), stand.mount.clone());
    let looked = spawn(move || fs::metadata(here).map(|m| m.len()).map_err(|e| e.kind()));
    assert_eq!(wait_for_fetch(&mut stand), root);
    let waiting = [spawn(move || fs::read_to_string(there)), spawn(move || fs::read_to_string(gone))];
    let listed = spawn(move || {
        let mut names: Vec<_> =
            fs::read_dir(mount).expect("listed").map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        names
    });
    assert!(looked.try_recv().is_err() && listed.try_recv().is_err());
    fs::write(stand.store.join("here"), "12345").expect("filled");
    fs::write(stand.store.join("there"), "content").expect("filled");
    mark_present(&stand.store);
    stand.lento().send(&Downcall::Fetched { object: root, errno: 0 });
    assert_eq!(looked.recv_timeout(PATIENCE).expect("it goes on"), Ok(5));
    assert_eq!(waiting[0].recv_timeout(PATIENCE).expect("it goes on").expect("read"), "content");
    let error = waiting[1].recv_timeout(PATIENCE).expect("it goes on").expect_err("there is no such file");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(listed.recv_timeout(PATIENCE).expect("it goes on"), ["here", "there"]);
    // Who came after the answer found all of it here; who came before shared one question.
    assert_nothing_asked(&mut stand);
}

#[test]
fn changes_in_an_absent_directory_wait_for_its_names_and_then_for_the_permit() {
    let mut stand = Stand::prepared(CLIENT, |store| {
        fs::create_dir(store.join("d")).expect("made");
        give_id(&store.join("d"), 1);
        mark_absent(&store.join("d"));
    });
    let path = stand.path("d/new");
    let made =
        spawn(move || OpenOptions::new().write(true).create_new(true).open(path).map(drop).map_err(|e| e.kind()));
    let object = wait_for_fetch(&mut stand);
    assert_eq!(object, stand.handle_of("d"));
    assert!(!stand.lento().seen.iter().any(|u| matches!(u, Upcall::GetPermit)), "{:?}", stand.lento().seen);
    fs::write(stand.store.join("d/new"), "theirs").expect("filled");
    mark_present(&stand.store.join("d"));
    stand.lento().send(&Downcall::Fetched { object, errno: 0 });
    assert_eq!(made.recv_timeout(PATIENCE).expect("it goes on"), Err(std::io::ErrorKind::AlreadyExists));
    let path = stand.path("d/other");
    let made = spawn(move || fs::write(path, "mine"));
    stand.lento().grant_when_asked(4);
    made.recv_timeout(PATIENCE).expect("it goes on").expect("made");
    assert_nothing_asked(&mut stand);
}

#[test]
fn a_directory_whose_names_are_absent_is_neither_removed_nor_replaced_as_if_it_were_empty() {
    let mut stand = Stand::prepared(CLIENT, |store| {
        for (n, name) in ["full", "empty", "mine"].iter().enumerate() {
            fs::create_dir(store.join(name)).expect("made");
            give_id(&store.join(name), n as u64 + 1);
        }
        mark_absent(&store.join("full"));
        mark_absent(&store.join("empty"));
    });
    stand.grant(1);
    let (full, mine) = (stand.path("full"), stand.path("mine"));
    let removed = spawn({
        let full = full.clone();
        move || fs::remove_dir(full).map_err(|e| e.kind())
    });
    assert_eq!(wait_for_fetch(&mut stand), stand.handle_of("full"));
    fs::write(stand.store.join("full/f"), "x").expect("filled");
    mark_present(&stand.store.join("full"));
    let object = stand.handle_of("full");
    stand.lento().send(&Downcall::Fetched { object, errno: 0 });
    assert_eq!(removed.recv_timeout(PATIENCE).expect("it goes on"), Err(std::io::ErrorKind::DirectoryNotEmpty));
    let empty = stand.path("empty");
    let replaced = spawn(move || fs::rename(mine, empty));
    let object = wait_for_fetch(&mut stand);
    assert_eq!(object, stand.handle_of("empty"));
    mark_present(&stand.store.join("empty"));
    stand.lento().send(&Downcall::Fetched { object, errno: 0 });
    replaced.recv_timeout(PATIENCE).expect("it goes on").expect("it was empty");
}

#[test]
fn opening_an_absent_file_waits_for_its_content() {
    let mut stand = with_stub(b"the content");
    assert_eq!(fs::metadata(stand.path("f")).expect("attributes are here").len(), 11);
    assert_eq!(state(&stand, "f"), "absent");
    assert_nothing_asked(&mut stand);
    let path = stand.path("f");
    let read = spawn(move || fs::read_to_string(path));
    assert_eq!(wait_for_fetch(&mut stand), stand.handle_of("f"));
    assert!(read.try_recv().is_err());
    fill(&mut stand, "f", b"the content");
    assert_eq!(read.recv_timeout(PATIENCE).expect("it goes on").expect("read"), "the content");
    assert_eq!(state(&stand, "f"), "cached");
    assert_eq!(fs::read_to_string(stand.path("f")).expect("it is here now"), "the content");
    assert_nothing_asked(&mut stand);
}

#[test]
fn a_file_that_is_filled_did_not_change_for_programs_and_a_real_change_is_seen() {
    let mut stand = with_stub(b"the content");
    let before = times(&fs::metadata(stand.path("f")).expect("attributes are here"));
    let path = stand.path("f");
    let opened = spawn(move || File::open(path));
    wait_for_fetch(&mut stand);
    fill_unseen(&mut stand, "f", |_, bottom| fs::write(bottom, b"the content").expect("filled"));
    let mut file = opened.recv_timeout(PATIENCE).expect("it goes on").expect("opened");
    let told = |file: &File| times(&file.metadata().expect("attributes"));
    assert_eq!(told(&file), before);
    let mut content = String::new();
    file.read_to_string(&mut content).expect("read");
    assert_eq!((content.as_str(), told(&file)), ("the content", before));
    // Listed with attributes, and asked for in spite of what the kernel has.
    let listed = fs::read_dir(&stand.mount).expect("listed").next().expect("it is there").expect("an entry");
    assert_eq!(times(&listed.metadata().expect("attributes")), before);
    assert_eq!(asked_anew(&stand.path("f")), before);
    stand.grant(1);
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("set");
    let truth = times(&fs::metadata(stand.store.join("f")).expect("it is there"));
    assert!(truth.0 > before.0);
    assert_eq!((told(&file), asked_anew(&stand.path("f"))), (truth, truth));
}

#[test]
fn what_the_kernel_saw_in_the_middle_of_a_fill_is_forgotten_when_it_ends() {
    let mut stand = with_stub(b"the content");
    let before = times(&fs::metadata(stand.path("f")).expect("attributes are here"));
    let path = stand.path("f");
    let opened = spawn(move || File::open(path).and_then(|file| file.metadata()));
    wait_for_fetch(&mut stand);
    fill_unseen(&mut stand, "f", |stand, bottom| {
        fs::write(bottom, b"the").expect("half of it");
        assert_ne!(asked_anew(&stand.path("f")), before);
        assert_eq!(fs::metadata(stand.path("f")).expect("as it was told").len(), 3);
        fs::write(bottom, b"the content").expect("filled");
    });
    let found = opened.recv_timeout(PATIENCE).expect("it goes on").expect("opened");
    assert_eq!((times(&found), found.len()), (before, 11));
}

#[test]
fn a_directory_whose_names_came_did_not_change_for_programs() {
    let mut stand = Stand::prepared(CLIENT, |store| {
        fs::create_dir(store.join("d")).expect("made");
        give_id(&store.join("d"), 1);
        mark_absent(&store.join("d"));
    });
    let path = stand.path("d");
    let before = times(&fs::metadata(&path).expect("attributes are here"));
    let listed = spawn({
        let path = path.clone();
        move || fs::read_dir(path).expect("listed").map(|e| e.expect("an entry").file_name()).collect::<Vec<_>>()
    });
    wait_for_fetch(&mut stand);
    fill_unseen(&mut stand, "d", |_, bottom| fs::write(bottom.join("f"), "x").expect("made"));
    assert_eq!(listed.recv_timeout(PATIENCE).expect("it goes on"), ["f"]);
    assert_eq!(times(&fs::metadata(&path).expect("attributes")), before);
    assert_eq!(asked_anew(&path), before);
    stand.grant(1);
    fs::write(path.join("g"), "mine").expect("made");
    let truth = times(&fs::metadata(stand.store.join("d")).expect("it is there"));
    assert!(truth.0 > before.0);
    assert_eq!(times(&fs::metadata(&path).expect("attributes")), truth);
}

#[test]
fn a_mount_that_is_not_a_clients_tells_the_truth() {
    let mut stand = Stand::prepared(&[], |store| fs::write(store.join("f"), "x").expect("made"));
    let truth = times(&fs::metadata(stand.store.join("f")).expect("it is there"));
    let before = Timestamp { secs: truth.0.secs - 100, nanos: 0 };
    let object = stand.handle_of("f");
    stand.lento().send(&Downcall::Filled { objects: vec![(object, before, truth.0)] });
    // Downcalls are done in order.
    stand.synced_log();
    assert_eq!(asked_anew(&stand.path("f")), truth);
}

#[test]
fn writing_into_an_absent_file_waits_without_keeping_the_permit() {
    let mut stand = with_stub(b"old");
    stand.grant(1);
    let path = stand.path("f");
    let written = spawn(move || OpenOptions::new().append(true).open(path)?.write_all(b" and new"));
    wait_for_fetch(&mut stand);
    stand.lento().revoke();
    fill(&mut stand, "f", b"old");
    stand.lento().grant_when_asked(2);
    written.recv_timeout(PATIENCE).expect("it goes on").expect("written");
    assert_eq!(fs::read(stand.path("f")).expect("read"), b"old and new");
}

#[test]
fn emptying_an_absent_file_asks_for_nothing() {
    for truncate in [
        (|path| File::create(path).map(drop)) as fn(PathBuf) -> std::io::Result<()>,
        |path| nix::unistd::truncate(&path, 0).map_err(Into::into),
        |path| OpenOptions::new().write(true).truncate(true).open(path)?.write_all(b""),
    ] {
        let mut stand = with_stub(b"old");
        stand.grant(1);
        truncate(stand.path("f")).expect("done");
        assert!(!is_absent(&stand.store.join("f")));
        assert_eq!(fs::read(stand.path("f")).expect("read"), b"");
        assert_eq!(state(&stand, "f"), "modified");
        assert_nothing_asked(&mut stand);
        let log = stand.synced_log();
        assert!(log.iter().any(|e| matches!(e.record.op, Op::Store { size: 0, .. })), "{:?}", words(&log));
    }
}

#[test]
fn emptying_a_file_that_is_being_filled_waits_until_it_is() {
    let mut stand = with_stub(b"old");
    stand.grant(1);
    // As Lento does it while it fills the file.
    let filling = File::options().write(true).open(stand.store.join("f")).expect("opened");
    let locked = nix::fcntl::Flock::lock(filling, nix::fcntl::FlockArg::LockExclusive).expect("locked");
    let path = stand.path("f");
    let written = spawn(move || fs::write(path, "mine"));
    wait_for_fetch(&mut stand);
    (&*locked).write_all(b"old").expect("filled");
    mark_present(&stand.store.join("f"));
    drop(locked);
    let object = stand.handle_of("f");
    stand.lento().send(&Downcall::Fetched { object, errno: 0 });
    written.recv_timeout(PATIENCE).expect("it goes on").expect("written");
    assert_eq!(fs::read(stand.path("f")).expect("read"), b"mine");
}

#[test]
fn cutting_an_absent_file_short_waits_for_its_content() {
    let mut stand = with_stub(b"0123456789");
    stand.grant(1);
    let path = stand.path("f");
    let cut = spawn(move || nix::unistd::truncate(&path, 4));
    wait_for_fetch(&mut stand);
    fill(&mut stand, "f", b"0123456789");
    cut.recv_timeout(PATIENCE).expect("it goes on").expect("cut");
    assert_eq!(fs::read(stand.path("f")).expect("read"), b"0123");
}

#[test]
fn attributes_of_what_is_absent_can_be_changed() {
    let mut stand = with_stub(b"old");
    stand.grant(1);
    let path = stand.path("f");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("set");
    assert_eq!(set(&path, "user.colour", b"blue"), 0);
    fs::rename(&path, stand.path("g")).expect("renamed");
    fs::hard_link(stand.path("g"), stand.path("h")).expect("linked");
    fs::remove_file(stand.path("g")).expect("removed");
    assert_eq!(state(&stand, "h"), "absent");
    assert_nothing_asked(&mut stand);
}

#[test]
fn who_waits_can_be_interrupted_and_what_nobody_waits_for_is_forgone() {
    let mut stand = with_stub(b"old");
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut one = program(&["cat"], &stand.path("f"));
        let object = wait_for_fetch(&mut stand);
        let mut two = program(&["tac"], &stand.path("f"));
        let start = Instant::now();
        for child in [&mut two, &mut one] {
            // The second one may not be there yet: then it is interrupted before it waits.
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).expect("it is there");
            assert_eq!(child.wait().expect("it is ours").signal(), Some(signal as i32));
        }
        assert!(start.elapsed().as_secs() < 5, "it hung for {:?}", start.elapsed());
        stand.lento().wait(|u| matches!(u, Upcall::Forgo { object: gone } if *gone == object).then_some(()));
    }
    // Late, and for nobody; and the next one asks anew.
    let object = stand.handle_of("f");
    stand.lento().send(&Downcall::Fetched { object, errno: 0 });
    let path = stand.path("f");
    let read = spawn(move || fs::read_to_string(path));
    assert_eq!(wait_for_fetch(&mut stand), object);
    fill(&mut stand, "f", b"new");
    assert_eq!(read.recv_timeout(PATIENCE).expect("it goes on").expect("read"), "new");
}

#[test]
fn a_soft_mount_gives_up_waiting_for_a_fetch() {
    let mut stand = Stand::prepared(&["--on-demand", "--soft", "1"], |store| stub(&store.join("f"), 3, 1));
    let error = File::open(stand.path("f")).expect_err("nothing comes");
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    stand.lento().wait(|u| matches!(u, Upcall::Forgo { .. }).then_some(()));
}

#[test]
fn an_error_of_a_fetch_is_passed_on() {
    let mut stand = with_stub(b"old");
    let path = stand.path("f");
    let opened = spawn(move || File::open(path).map(drop).map_err(|e| e.raw_os_error()));
    let object = wait_for_fetch(&mut stand);
    stand.lento().send(&Downcall::Fetched { object, errno: libc::EHOSTUNREACH });
    assert_eq!(opened.recv_timeout(PATIENCE).expect("it ends"), Err(Some(libc::EHOSTUNREACH)));
}

#[test]
fn a_file_that_was_replaced_instead_of_filled_is_looked_up_again() {
    let mut stand = with_stub(b"old");
    let path = stand.path("f");
    let read = spawn(move || fs::read_to_string(path));
    let object = wait_for_fetch(&mut stand);
    let staged = stand.store.join(".intermezzo/staged");
    fs::write(&staged, "another inode").expect("staged");
    give_id(&staged, 1);
    fs::rename(&staged, stand.store.join("f")).expect("renamed over it");
    stand.lento().send(&Downcall::Fetched { object, errno: libc::ESTALE });
    assert_eq!(read.recv_timeout(PATIENCE).expect("it goes on").expect("read"), "another inode");
}

#[test]
fn a_new_lento_is_told_of_all_that_is_waited_for() {
    let mut stand = Stand::prepared(CLIENT, |store| {
        stub(&store.join("f"), 1, 1);
        stub(&store.join("g"), 1, 2);
    });
    let (f, g) = (stand.path("f"), stand.path("g"));
    let read = [spawn(move || fs::read(f)), spawn(move || fs::read(g))];
    let mut before = [wait_for_fetch(&mut stand), wait_for_fetch(&mut stand)];
    stand.lento = None;
    stand.reconnect();
    let mut after = [wait_for_fetch(&mut stand), wait_for_fetch(&mut stand)];
    before.sort();
    after.sort();
    assert_eq!(before, after);
    fill(&mut stand, "f", b"1");
    fill(&mut stand, "g", b"2");
    for (read, content) in read.iter().zip([b"1", b"2"]) {
        assert_eq!(read.recv_timeout(PATIENCE).expect("it goes on").expect("read"), content);
    }
}

#[test]
fn a_mount_for_reading_refuses_changes_and_asks_for_nothing() {
    let mut stand = Stand::prepared(&["--on-demand", "--read-only"], |store| {
        fs::write(store.join("f"), "content").expect("made");
    });
    assert_eq!(fs::read(stand.path("f")).expect("read"), b"content");
    for error in [
        fs::write(stand.path("f"), "x").expect_err("refused"),
        fs::create_dir(stand.path("d")).expect_err("refused"),
        fs::remove_file(stand.path("f")).expect_err("refused"),
    ] {
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }
    assert_nothing_asked(&mut stand);
    assert!(!stand.lento().seen.iter().any(|u| matches!(u, Upcall::GetPermit)));
}

#[test]
fn many_files_wait_at_once_and_all_come() {
    const FILES: usize = 400;
    let mut stand = Stand::prepared(CLIENT, |store| {
        for n in 0..FILES {
            stub(&store.join(format!("f{n}")), 1, n as u64 + 1);
        }
    });
    let reading: Vec<_> = (0..FILES)
        .map(|n| {
            let path = stand.path(&format!("f{n}"));
            spawn(move || fs::read(path))
        })
        .collect();
    let names: HashMap<Handle, String> =
        (0..FILES).map(|n| (stand.handle_of(&format!("f{n}")), format!("f{n}"))).collect();
    for n in 0..FILES {
        let object = wait_for_fetch(&mut stand);
        fill(&mut stand, &names[&object].clone(), &[n as u8]);
    }
    for read in reading {
        assert_eq!(read.recv_timeout(PATIENCE).expect("it goes on").expect("read").len(), 1);
    }
}
