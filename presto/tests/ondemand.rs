//! A client's mount: what is absent is asked for and waited for, what is here is not, and what is evicted becomes absent.

mod audit;
mod stand;

use nix::sys::signal::Signal;
use protocol::{Downcall, Handle, Op, Upcall, Xattr};
use stand::{Stand, lento::PATIENCE, words};
use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Instant,
};

const CLIENT: &[&str] = &["--on-demand"];

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

fn name(name: &str) -> CString {
    CString::new(name).expect("no NUL")
}

fn set(path: &Path, attribute: &str, value: &[u8]) -> i32 {
    // SAFETY: all pointers are valid for the call, and the length is the value's.
    unsafe { libc::lsetxattr(c(path).as_ptr(), name(attribute).as_ptr(), value.as_ptr().cast(), value.len(), 0) }
}

fn remove(path: &Path, attribute: &str) -> i32 {
    // SAFETY: both strings are valid for the call.
    unsafe { libc::lremovexattr(c(path).as_ptr(), name(attribute).as_ptr()) }
}

fn get(path: &Path, attribute: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    // SAFETY: all pointers are valid for the call, and the length is the buffer's.
    let length =
        unsafe { libc::lgetxattr(c(path).as_ptr(), name(attribute).as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

/// What the mount says of an object.
fn state(stand: &Stand, path: &str) -> String {
    String::from_utf8(get(&stand.path(path), "user.intermezzo.state").expect("every object has a state")).expect("text")
}

/// As Lento does it, in the bottom.
fn mark_absent(path: &Path) {
    assert_eq!(set(path, Xattr::ABSENT, &[1]), 0);
}

fn mark_present(path: &Path) {
    assert_eq!(remove(path, Xattr::ABSENT), 0);
}

fn is_absent(path: &Path) -> bool {
    get(path, Xattr::ABSENT).is_some()
}

/// An object that others know.
fn give_id(path: &Path, counter: u64) {
    let mut value = vec![1, 7, 0, 0, 0];
    value.extend_from_slice(&counter.to_le_bytes());
    assert_eq!(set(path, Xattr::IDENTITY, &value), 0);
}

/// A file of which only the attributes are here.
fn stub(path: &Path, size: u64, counter: u64) {
    File::create(path).expect("created").set_len(size).expect("sparse");
    give_id(path, counter);
    mark_absent(path);
}

/// A client's mount whose root has all its names: a file `f` with `content`, of which only attributes are here.
fn with_stub(content: &[u8]) -> Stand {
    Stand::prepared(CLIENT, |store| stub(&store.join("f"), content.len() as u64, 1))
}

/// As Lento does it when the content has come.
fn fill(stand: &mut Stand, path: &str, content: &[u8]) {
    let object = stand.handle_of(path);
    fs::write(stand.store.join(path), content).expect("filled");
    mark_present(&stand.store.join(path));
    stand.lento().send(&Downcall::Fetched { object, errno: 0 });
}

fn wait_for_fetch(stand: &mut Stand) -> Handle {
    stand.lento().wait(|u| if let Upcall::Fetch { object } = u { Some(*object) } else { None })
}

/// Nothing was asked for until now: Presto answers in order.
fn assert_nothing_asked(stand: &mut Stand) {
    stand.lento().send(&Downcall::Synced);
    stand.lento().wait(|u| matches!(u, Upcall::LogSynced { .. }).then_some(()));
    let asked = |u: &&Upcall| matches!(u, Upcall::Fetch { .. } | Upcall::Forgo { .. });
    assert_eq!(stand.lento().seen.iter().filter(asked).count(), 0, "{:?}", stand.lento().seen);
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (done, result) = mpsc::channel();
    // Who started it may have failed meanwhile.
    std::thread::spawn(move || drop(done.send(work())));
    result
}

fn evict(stand: &mut Stand, names: &[&str]) -> (Vec<Handle>, Vec<Handle>) {
    let objects = names.iter().map(|name| stand.handle_of(name)).collect();
    stand.lento().send(&Downcall::Evict { objects });
    stand.lento().wait(|u| match u {
        Upcall::Evicted { evicted, kept } => Some((evicted.clone(), kept.clone())),
        _ => None,
    })
}

fn program(arguments: &[&str], path: &Path) -> Child {
    // Whoever runs the tests in the background may ignore SIGINT, and the program would inherit that.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").args(arguments).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("it starts")
}

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
    // What was opened lately is spared once.
    assert_eq!(evict(&mut stand, &["open", "read"]), (vec![read], vec![expected_kept[0]]));
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
    let names: std::collections::HashMap<Handle, String> =
        (0..FILES).map(|n| (stand.handle_of(&format!("f{n}")), format!("f{n}"))).collect();
    for n in 0..FILES {
        let object = wait_for_fetch(&mut stand);
        fill(&mut stand, &names[&object].clone(), &[n as u8]);
    }
    for read in reading {
        assert_eq!(read.recv_timeout(PATIENCE).expect("it goes on").expect("read").len(), 1);
    }
}
