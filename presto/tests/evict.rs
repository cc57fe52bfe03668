//! A client's mount: what is evicted and what is kept, the state that it tells, what is forgotten, and crashes.

mod client;
mod stand;

use client::*;
use protocol::{Downcall, Handle, Op, Upcall, Xattr};
use stand::{Stand, lento::PATIENCE, words};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::Instant,
};

#[test]
fn a_file_in_use_is_kept_and_one_that_is_not_is_evicted() {
    let mut stand = Stand::prepared(CLIENT, |store| {
        for (n, name) in ["open", "read", "unread", "known-to-nobody"].iter().enumerate() {
            fs::write(store.join(name), name).expect("made");
            if n < 3 {
                give_id(&store.join(name), n as u64 + 1);
            }
        }
    });
    let mut open = File::open(stand.path("open")).expect("opened");
    fs::read(stand.path("read")).expect("read");
    let all = ["open", "read", "unread", "known-to-nobody"];
    let handle = |name: &str| stand.handle_of(name);
    let (expected_kept, unread, read) =
        (vec![handle("open"), handle("read"), handle("known-to-nobody")], handle("unread"), handle("read"));
    assert_eq!(evict(&mut stand, &all), (vec![unread], expected_kept.clone()));
    // What was opened lately is spared once; what was closed counts as open until the kernel has said so.
    let deadline = Instant::now() + PATIENCE;
    let second = loop {
        let second = evict(&mut stand, &["open", "read"]);
        if !second.0.is_empty() || Instant::now() > deadline {
            break second;
        }
    };
    assert_eq!(second, (vec![read], vec![expected_kept[0]]));
    assert_eq!(state(&stand, "read"), "absent");
    assert_eq!(state(&stand, "open"), "cached");
    let mut content = String::new();
    open.read_to_string(&mut content).expect("read");
    assert_eq!(content, "open");
    let path = stand.path("read");
    let again = spawn(move || fs::read_to_string(path));
    assert_eq!(wait_for_fetch(&mut stand), read);
    fill(&mut stand, "read", b"read");
    assert_eq!(again.recv_timeout(PATIENCE).expect("it goes on").expect("read"), "read");
}

#[test]
fn what_is_not_reintegrated_is_never_evicted() {
    let mut stand = Stand::new(CLIENT);
    stand.grant(1);
    fs::write(stand.path("f"), "mine").expect("written");
    assert_eq!(state(&stand, "f"), "modified");
    let (f, both) = (stand.handle_of("f"), ["f", "f"]);
    assert_eq!(evict(&mut stand, &both), (vec![], vec![f, f]));
    let upto = stand.synced_log().last().expect("records").record.number;
    stand.lento().send(&Downcall::Reintegrated { upto: upto - 1 });
    assert_eq!(evict(&mut stand, &["f"]), (vec![], vec![f]));
    // The log tells it to a new Presto.
    stand.kill();
    stand.start();
    assert_eq!(state(&stand, "f"), "modified");
    assert_eq!(evict(&mut stand, &both), (vec![], vec![f, f]));
    stand.lento().send(&Downcall::Reintegrated { upto });
    assert_eq!(evict(&mut stand, &["f"]), (vec![f], vec![]));
    assert_eq!(state(&stand, "f"), "absent");
}

#[test]
fn a_file_whose_last_store_waits_for_the_permit_is_never_evicted() {
    let mut stand = Stand::new(CLIENT);
    stand.grant(1);
    let mut file = File::create(stand.path("f")).expect("created");
    let upto = stand.lento().revoke();
    stand.lento().send(&Downcall::Reintegrated { upto });
    // Downcalls are done in order: after the answer to this one the first was done.
    stand.synced_log();
    assert_eq!(state(&stand, "f"), "cached");
    file.write_all(b"late").expect("an open file can be written to");
    assert_eq!(state(&stand, "f"), "modified");
    drop(file);
    stand.lento().wait(|u| matches!(u, Upcall::GetPermit).then_some(()));
    assert_eq!(state(&stand, "f"), "modified");
    let f = stand.handle_of("f");
    assert_eq!(evict(&mut stand, &["f", "f"]), (vec![], vec![f, f]));
}

#[test]
fn the_state_can_be_asked_for_and_neither_listed_nor_set() {
    let mut stand = Stand::writing(&[]);
    fs::write(stand.path("f"), "x").expect("written");
    fs::create_dir(stand.path("d")).expect("made");
    assert_eq!(state(&stand, "f"), "local");
    assert_eq!(state(&stand, "d"), "local");
    assert_eq!(set(&stand.path("f"), "user.intermezzo.state", b"x"), -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
    assert_eq!(remove(&stand.path("f"), "user.intermezzo.state"), -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
    let mut small = [0_u8; 2];
    // SAFETY: all pointers are valid for the call, and the length is the buffer's.
    let length = unsafe {
        let (path, state) = (c(&stand.path("f")), name("user.intermezzo.state"));
        libc::lgetxattr(path.as_ptr(), state.as_ptr(), small.as_mut_ptr().cast(), small.len())
    };
    assert_eq!((length, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ERANGE)));
    // SAFETY: an empty list asks for its length.
    let listed = unsafe { libc::llistxattr(c(&stand.path("f")).as_ptr(), std::ptr::null_mut(), 0) };
    assert_eq!(listed, 0);
    let log = stand.synced_log();
    assert!(!words(&log).contains(&"setxattr"), "{:?}", words(&log));
}

#[test]
fn after_all_is_invalidated_names_attributes_and_listings_are_those_of_the_bottom() {
    let mut stand = Stand::prepared(CLIENT, |store| {
        fs::create_dir(store.join("d")).expect("made");
        fs::write(store.join("d/f"), "1").expect("made");
        fs::write(store.join("open"), "open").expect("made");
    });
    let list = |path: PathBuf| {
        let mut names: Vec<_> = fs::read_dir(path).expect("listed").map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let mut open = File::open(stand.path("open")).expect("opened");
    let held = File::open(stand.path("d")).expect("somebody works in it");
    assert_eq!(list(stand.path("d")), ["f"]);
    assert_eq!(list(stand.path("d")), ["f"]);
    assert!(!stand.path("d/g").exists());
    // While nobody can tell Lento: the directory changes, with its time of modification as it was.
    let times = fs::metadata(stand.store.join("d")).expect("attributes").modified().expect("has one");
    fs::write(stand.store.join("d/g"), "22").expect("made");
    fs::write(stand.store.join("d/f"), "333").expect("changed");
    File::open(stand.store.join("d")).expect("opened").set_modified(times).expect("set");
    mark_absent(&stand.store.join("d"));
    stand.lento().send(&Downcall::InvalidateAll { token: 5 });
    stand.lento().wait(|u| matches!(u, Upcall::Invalidated { token: 5 }).then_some(()));
    let directory = stand.path("d");
    let listed = spawn(move || list(directory));
    let object = wait_for_fetch(&mut stand);
    assert_eq!(object, stand.handle_of("d"));
    mark_present(&stand.store.join("d"));
    stand.lento().send(&Downcall::Fetched { object, errno: 0 });
    assert_eq!(listed.recv_timeout(PATIENCE).expect("it goes on"), ["f", "g"]);
    assert_eq!(fs::metadata(stand.path("d/g")).expect("it is there").len(), 2);
    assert_eq!(fs::metadata(stand.path("d/f")).expect("it is there").len(), 3);
    open.seek(SeekFrom::Start(0)).expect("sought");
    let mut content = String::new();
    open.read_to_string(&mut content).expect("an open file stays");
    assert_eq!(content, "open");
    drop(held);
}

#[test]
fn after_a_kill_nothing_is_told_of_what_is_absent() {
    let mut stand = Stand::prepared(CLIENT, |store| {
        stub(&store.join("f"), 5, 1);
        stub(&store.join("without-id"), 5, 2);
        assert_eq!(remove(&store.join("without-id"), Xattr::IDENTITY), 0);
    });
    stand.grant(1);
    let path = stand.path("f");
    let opened = spawn(move || OpenOptions::new().append(true).open(path).map(drop));
    fill_and_wait(&mut stand, &opened);
    // Announced as open for writing, then forgotten by the crash; and evicted by Lento before Presto is back.
    let file = OpenOptions::new().append(true).open(stand.path("f")).expect("opened");
    stand.synced_log();
    stand.kill();
    drop(file);
    File::create(stand.store.join("f")).expect("punched").set_len(5).expect("sparse");
    mark_absent(&stand.store.join("f"));
    stand.start();
    let log = stand.synced_log();
    let told = |e: &&modlog::Finished| matches!(e.record.op, Op::Store { id, .. } if id.host.get() == 7);
    assert_eq!(log.iter().filter(told).count(), 0, "{log:?}");
    assert_eq!(get(&stand.store.join("without-id"), Xattr::IDENTITY), None);
    assert!(is_absent(&stand.store.join("f")));
    let path = stand.path("f");
    let read = spawn(move || fs::read(path));
    assert_eq!(wait_for_fetch(&mut stand), stand.handle_of("f"));
    fill(&mut stand, "f", b"fresh");
    assert_eq!(read.recv_timeout(PATIENCE).expect("it goes on").expect("read"), b"fresh");
}

#[test]
fn after_a_loss_of_power_nothing_is_told_of_what_is_absent() {
    let mut stand = Stand::prepared(CLIENT, |store| {
        fs::create_dir(store.join("d")).expect("made");
        give_id(&store.join("d"), 1);
        stub(&store.join("f"), 5, 2);
        stub(&store.join("without-id"), 5, 3);
        assert_eq!(remove(&store.join("without-id"), Xattr::IDENTITY), 0);
        fs::write(store.join("removed"), "x").expect("made");
        give_id(&store.join("removed"), 4);
    });
    stand.grant(1);
    fs::write(stand.path("d/mine"), "x").expect("written");
    fs::remove_file(stand.path("removed")).expect("removed");
    let before = stand.synced_log().last().expect("records").record.number;
    stand.kill();
    // Lento has the names in a directory asked for again, and puts a file of another host where one was removed.
    fs::remove_file(stand.store.join("d/mine")).expect("removed");
    mark_absent(&stand.store.join("d"));
    stub(&stand.store.join("removed"), 5, 5);
    // As if the system had gone down meanwhile.
    let marker = stand.store.join(".intermezzo/mounted");
    let text = fs::read_to_string(&marker).expect("the marker");
    let boot = text.lines().next().expect("the boot id comes first");
    fs::write(&marker, text.replace(boot, "boot 00000000-0000-0000-0000-000000000000")).expect("changed");
    stand.start();
    assert!(matches!(stand.lento().hello, Upcall::Hello { lost_after: Some(last), .. } if last >= before));
    let told: Vec<_> = stand.synced_log().into_iter().filter(|e| e.record.number > before).collect();
    assert_eq!(words(&told), ["noop"], "{told:?}");
    assert_eq!(get(&stand.store.join("without-id"), Xattr::IDENTITY), None);
}

fn fill_and_wait(stand: &mut Stand, opened: &Receiver<std::io::Result<()>>) {
    wait_for_fetch(stand);
    fill(stand, "f", b"fresh");
    opened.recv_timeout(PATIENCE).expect("it goes on").expect("opened");
}

fn is_punched(file: &File) -> bool {
    let attributes = file.metadata().expect("attributes");
    attributes.len() > 0 && attributes.blocks() == 0
}

/// A Lento that has what it evicted, and gives it back when it is asked for.
struct Holder<'a> {
    stand: &'a mut Stand,
    paths: HashMap<Handle, PathBuf>,
    contents: HashMap<Handle, Vec<u8>>,
    fetched: u32,
}

impl Holder<'_> {
    fn serve(&mut self, until: impl Fn(u32) -> bool) {
        // Twice: the first time those that were opened lately are spared.
        let objects: Vec<_> = self.paths.keys().chain(self.paths.keys()).copied().collect();
        self.stand.lento().send(&Downcall::Evict { objects: objects.clone() });
        while !until(self.fetched) {
            match self.stand.lento().next().expect("presto lives") {
                Upcall::Fetch { object } => self.fill(object),
                Upcall::Evicted { evicted, .. } => {
                    evicted.into_iter().for_each(|object| self.punch(object));
                    self.stand.lento().send(&Downcall::Synced);
                }
                Upcall::LogSynced { last } => {
                    self.stand.lento().send(&Downcall::Reintegrated { upto: last });
                    self.stand.lento().send(&Downcall::Evict { objects: objects.clone() });
                }
                _ => {}
            }
        }
    }

    /// The file, locked, if it is absent still.
    fn absent(&self, object: Handle) -> Option<nix::fcntl::Flock<File>> {
        let path = &self.paths[&object];
        let file = OpenOptions::new().read(true).write(true).open(path).expect("opened");
        let file = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).expect("locked");
        is_absent(path).then_some(file)
    }

    fn punch(&mut self, object: Handle) {
        let Some(file) = self.absent(object) else { return };
        // What is named again while it is absent is punched already.
        if is_punched(&file) {
            return;
        }
        let mut content = Vec::new();
        (&*file).read_to_end(&mut content).expect("read");
        file.set_len(0).expect("punched");
        file.set_len(content.len() as u64).expect("sparse");
        self.contents.insert(object, content);
    }

    fn fill(&mut self, object: Handle) {
        if let Some(file) = self.absent(object) {
            // It may be asked for before it is said to be evicted: then it is still there.
            if is_punched(&file) {
                (&*file).write_all(&self.contents[&object]).expect("filled");
            }
            mark_present(&self.paths[&object]);
            self.fetched += 1;
        }
        self.stand.lento().send(&Downcall::Fetched { object, errno: 0 });
    }
}

#[test]
fn whatever_is_evicted_meanwhile_everybody_reads_what_was_written() {
    const FILES: usize = 6;
    const FETCHES: u32 = 100;
    let mut stand = Stand::prepared(CLIENT, |store| {
        for n in 0..FILES {
            fs::write(store.join(format!("f{n}")), format!("content of {n}")).expect("made");
            give_id(&store.join(format!("f{n}")), n as u64 + 1);
            fs::write(store.join(format!("w{n}")), "").expect("made");
            give_id(&store.join(format!("w{n}")), 100 + n as u64);
        }
    });
    stand.grant(1);
    let enough = Arc::new(AtomicBool::new(false));
    let mut working = Vec::new();
    for n in 0..FILES {
        let (read, written) = (stand.path(&format!("f{n}")), stand.path(&format!("w{n}")));
        let (enough, enough_written) = (enough.clone(), enough.clone());
        working.push(std::thread::spawn(move || {
            while !enough.load(Ordering::Relaxed) {
                assert_eq!(fs::read_to_string(&read).expect("read"), format!("content of {n}"));
            }
        }));
        working.push(std::thread::spawn(move || {
            let mut expected = String::new();
            for time in 0.. {
                if enough_written.load(Ordering::Relaxed) {
                    break;
                }
                if time % 3 == 2 {
                    let line = format!(", {time}");
                    expected.push_str(&line);
                    let mut file = OpenOptions::new().append(true).open(&written).expect("opened");
                    file.write_all(line.as_bytes()).expect("written");
                } else {
                    expected = format!("{time} of {n}");
                    fs::write(&written, &expected).expect("written");
                }
                assert_eq!(fs::read_to_string(&written).expect("read"), expected);
            }
        }));
    }
    let names = (0..FILES).flat_map(|n| [format!("f{n}"), format!("w{n}")]);
    let paths = names.map(|name| (stand.handle_of(&name), stand.store.join(name))).collect();
    let mut holder = Holder { stand: &mut stand, paths, contents: HashMap::new(), fetched: 0 };
    let start = Instant::now();
    holder.serve(|fetched| {
        let done = fetched >= FETCHES || start.elapsed() > PATIENCE;
        enough.fetch_or(done, Ordering::Relaxed);
        working.iter().all(|thread| thread.is_finished())
    });
    assert!(holder.fetched >= FETCHES, "only {} fetched", holder.fetched);
    working.into_iter().for_each(|thread| thread.join().expect("all was as written"));
}
