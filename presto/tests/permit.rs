//! Permits, parked requests, interrupts, the doorbell, and a Lento that dies.

mod stand;

use protocol::{Downcall, Op, Upcall};
use stand::{Stand, lento::PATIENCE, words};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    process::{Command, Stdio},
    sync::mpsc,
    time::Instant,
};

/// Waits until something is so, or fails with what it waited for.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "{what} never was so");
        std::thread::yield_now();
    }
}

#[test]
fn a_change_without_the_permit_waits_for_it_and_reads_do_not() {
    let mut stand = Stand::new(&[]);
    fs::write(stand.store.join("old"), "here").expect("put into the bottom");
    assert_eq!(fs::read(stand.path("old")).expect("reading needs no permit"), b"here");
    let (path, (done, result)) = (stand.path("new"), mpsc::channel());
    let writing = std::thread::spawn(move || done.send(fs::write(path, "x").map_err(|e| e.raw_os_error())));
    stand.lento().wait(|u| matches!(u, Upcall::GetPermit).then_some(()));
    assert!(result.try_recv().is_err());
    assert!(!stand.store.join("new").exists());
    stand.lento().send(&Downcall::Grant { epoch: 5 });
    assert_eq!(result.recv_timeout(PATIENCE).expect("done"), Ok(()));
    writing.join().expect("ended").expect("told");
    until("the store is logged", || words(&stand.synced_log()).contains(&"store"));
    assert!(stand.log().iter().all(|e| e.record.epoch == 5));
}

#[test]
fn a_waiting_program_can_be_interrupted_and_killed() {
    let mut stand = Stand::new(&[]);
    for signal in [nix::sys::signal::SIGINT, nix::sys::signal::SIGKILL] {
        for program in ["touch", "mkdir"] {
            // Whoever runs the tests in the background may ignore SIGINT, and the program would inherit that.
            let mut child = Command::new("env")
                .args(["--default-signal=INT", program])
                .arg(stand.path(&format!("{program}-{signal}")))
                .stderr(Stdio::null())
                .spawn()
                .expect("it starts");
            if program == "touch" && signal == nix::sys::signal::SIGINT {
                stand.lento().wait(|u| matches!(u, Upcall::GetPermit).then_some(()));
            }
            let pid = child.id();
            until("the program waits in the kernel", || {
                fs::read_to_string(format!("/proc/{pid}/wchan"))
                    .is_ok_and(|w| w.contains("fuse") || w.contains("request_wait"))
                    || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") D "))
            });
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).expect("it is there");
            let start = Instant::now();
            let status = child.wait().expect("it is ours");
            assert!(!status.success());
            assert!(start.elapsed().as_secs() < 5, "it hung for {:?}", start.elapsed());
        }
    }
    // What was interrupted has not happened, and the mount works on.
    stand.grant(1);
    assert_eq!(fs::read_dir(&stand.mount).expect("listed").count(), 0);
}

#[test]
fn a_soft_mount_gives_up_with_a_timeout() {
    let stand = Stand::new(&["--soft", "1"]);
    let error = File::create(stand.path("x")).expect_err("no permit comes");
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
}

#[test]
fn giving_the_permit_back_tells_of_open_files_and_a_later_close_asks_for_it_again() {
    let mut stand = Stand::writing(&[]);
    let mut file = File::create(stand.path("f")).expect("created");
    file.write_all(b"one").expect("written");
    let last = stand.lento().revoke();
    let log = stand.log();
    let store = log.iter().rev().find(|e| matches!(e.record.op, Op::Store { .. })).expect("the open file is told of");
    assert!(matches!(store.record.op, Op::Store { size: 3, .. }));
    assert_eq!(log.last().expect("there are records").record.number, last);
    file.write_all(b"two").expect("the open file can be written to");
    drop(file);
    stand.lento().grant_when_asked(9);
    until("the rest is told", || {
        stand.synced_log().iter().any(|e| matches!(e.record.op, Op::Store { size: 6, .. }) && e.record.epoch == 9)
    });
}

#[test]
fn the_doorbell_rings_once_when_armed_and_only_for_what_is_finished() {
    let mut stand = Stand::writing(&[]);
    let seen = stand.synced_log().last().map_or(0, |e| e.record.number);
    stand.lento().send(&Downcall::Arm { seen });
    fs::create_dir(stand.path("d")).expect("made");
    let rung = stand.lento().wait(|u| if let Upcall::Advanced { last } = u { Some(*last) } else { None });
    assert!(rung > seen);
    let read = stand.log();
    assert!(read.iter().any(|e| e.record.number == rung), "what it rang for can be read");
    for n in 0..10 {
        fs::create_dir(stand.path(&format!("d{n}"))).expect("made");
    }
    stand.lento().send(&Downcall::Synced);
    stand.lento().wait(|u| matches!(u, Upcall::LogSynced { .. }).then_some(()));
    assert!(!stand.lento().seen.iter().any(|u| matches!(u, Upcall::Advanced { .. })), "it rang unarmed");
    stand.lento().send(&Downcall::Arm { seen: rung });
    stand.lento().wait(|u| matches!(u, Upcall::Advanced { last } if *last > rung).then_some(()));
}

#[test]
fn close_rings_the_doorbell_within_milliseconds() {
    let mut stand = Stand::writing(&[]);
    let mut times = Vec::new();
    for n in 0..50 {
        let mut file = File::create(stand.path(&format!("f{n}"))).expect("created");
        file.write_all(b"x").expect("written");
        let seen = stand.synced_log().last().map_or(0, |e| e.record.number);
        stand.lento().send(&Downcall::Arm { seen });
        // Asking for the log made it tell what was written so far: the close needs something of its own to tell.
        file.write_all(b"y").expect("written");
        let start = Instant::now();
        drop(file);
        stand.lento().wait(|u| matches!(u, Upcall::Advanced { .. }).then_some(()));
        times.push(start.elapsed());
    }
    times.sort();
    assert!(times[25].as_millis() < 5, "median {:?}", times[25]);
}

#[test]
fn lento_may_die_and_come_back_while_the_mount_works_on_with_its_permit() {
    let mut stand = Stand::writing(&[]);
    stand.lento = None;
    fs::write(stand.path("while-away"), "x").expect("the permit is kept");
    stand.reconnect();
    match &stand.lento().hello {
        Upcall::Hello { permit: Some(1), last, lost_after: None, .. } => assert!(*last > 0),
        other => panic!("{other:?}"),
    }
    assert!(words(&stand.synced_log()).contains(&"create"));
}

#[test]
fn the_hello_carries_the_bottom_although_the_mount_covers_it() {
    let mut stand = Stand::writing(&[]);
    fs::write(stand.path("f"), "x").expect("written");
    let bottom = stand.lento().bottom.try_clone().expect("duplicated");
    let found = nix::sys::stat::fstatat(&bottom, "f", nix::fcntl::AtFlags::empty()).expect("it is in the bottom");
    assert_eq!(found.st_size, 1);
    assert!(nix::sys::stat::fstatat(&bottom, ".intermezzo/log", nix::fcntl::AtFlags::empty()).is_ok());
}

#[test]
fn an_invalidation_is_answered_even_while_a_request_waits_in_that_directory() {
    let mut stand = Stand::writing(&[]);
    fs::write(stand.path("f"), "old").expect("written");
    assert!(!stand.path("g").exists(), "and the kernel remembers that");
    stand.lento().revoke();
    let path = stand.path("parked");
    let parked = std::thread::spawn(move || File::create(path).map(drop));
    stand.lento().wait(|u| matches!(u, Upcall::GetPermit).then_some(()));
    fs::write(stand.store.join("g"), "new").expect("Lento puts a file into the bottom");
    fs::remove_file(stand.store.join("f")).expect("and removes another");
    let root = stand.handle_of("");
    let name = |n: &[u8]| protocol::Name::new(n).expect("legal");
    stand.lento().send(&Downcall::Invalidate {
        token: 77,
        entries: vec![(root, name(b"g")), (root, name(b"f"))],
        objects: vec![root],
        replaced: vec![],
    });
    stand.lento().wait(|u| matches!(u, Upcall::Invalidated { token: 77 }).then_some(()));
    // The waiting request holds the directory's lock in the kernel: others look there after it.
    stand.lento().send(&Downcall::Grant { epoch: 2 });
    parked.join().expect("ended").expect("created");
    assert_eq!(fs::read(stand.path("g")).expect("it appeared"), b"new");
    assert!(!stand.path("f").exists(), "it went");
}

#[test]
fn what_is_written_to_a_replaced_inode_is_saved() {
    let mut stand = Stand::writing(&[]);
    let path = stand.path("f");
    fs::write(&path, "base").expect("written");
    let mut open = OpenOptions::new().append(true).open(&path).expect("opened");
    open.write_all(b" mine").expect("written");
    stand.lento().revoke();
    let handle = stand.handle_of("f");
    let staged = stand.store.join(".intermezzo/staged");
    fs::write(&staged, "theirs").expect("staged");
    fs::rename(&staged, stand.store.join("f")).expect("renamed over it");
    let root = stand.handle_of("");
    let entries = vec![(root, protocol::Name::new(b"f").expect("legal"))];
    stand.lento().send(&Downcall::Invalidate { token: 1, entries, objects: vec![], replaced: vec![handle] });
    stand.lento().wait(|u| matches!(u, Upcall::Invalidated { token: 1 }).then_some(()));
    open.write_all(b" too late").expect("the descriptor goes on working");
    drop(open);
    let saved = stand.lento().wait(|u| if let Upcall::Orphaned { saved } = u { Some(saved.clone()) } else { None });
    let copy = stand.store.join(".intermezzo/conflicts").join(saved.as_os_str());
    assert_eq!(fs::read(copy).expect("it is kept"), b"base mine too late");
    assert_eq!(fs::read(&path).expect("the other one has the name"), b"theirs");
}
