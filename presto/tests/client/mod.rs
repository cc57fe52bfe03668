//! What the tests of a client's mount share: objects that are absent, and Lento's part in fetching them.
#![allow(dead_code, unreachable_pub)]

use crate::stand::Stand;
use protocol::{Downcall, Handle, Timestamp, Upcall, Xattr};
use std::{
    ffi::CString,
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
};

pub const CLIENT: &[&str] = &["--on-demand"];

pub fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

pub fn name(name: &str) -> CString {
    CString::new(name).expect("no NUL")
}

pub fn set(path: &Path, attribute: &str, value: &[u8]) -> i32 {
    // SAFETY: all pointers are valid for the call, and the length is the value's.
    unsafe { libc::lsetxattr(c(path).as_ptr(), name(attribute).as_ptr(), value.as_ptr().cast(), value.len(), 0) }
}

pub fn remove(path: &Path, attribute: &str) -> i32 {
    // SAFETY: both strings are valid for the call.
    unsafe { libc::lremovexattr(c(path).as_ptr(), name(attribute).as_ptr()) }
}

pub fn get(path: &Path, attribute: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    // SAFETY: all pointers are valid for the call, and the length is the buffer's.
    let length =
        unsafe { libc::lgetxattr(c(path).as_ptr(), name(attribute).as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

/// What the mount says of an object.
pub fn state(stand: &Stand, path: &str) -> String {
    String::from_utf8(get(&stand.path(path), "user.intermezzo.state").expect("every object has a state")).expect("text")
}

/// As Lento does it, in the bottom.
pub fn mark_absent(path: &Path) {
    assert_eq!(set(path, Xattr::ABSENT, &[1]), 0);
}

pub fn mark_present(path: &Path) {
    assert_eq!(remove(path, Xattr::ABSENT), 0);
}

pub fn is_absent(path: &Path) -> bool {
    get(path, Xattr::ABSENT).is_some()
}

/// An object that others know.
pub fn give_id(path: &Path, counter: u64) {
    let mut value = vec![1, 7, 0, 0, 0];
    value.extend_from_slice(&counter.to_le_bytes());
    assert_eq!(set(path, Xattr::IDENTITY, &value), 0);
}

/// A file of which only the attributes are here.
pub fn stub(path: &Path, size: u64, counter: u64) {
    File::create(path).expect("created").set_len(size).expect("sparse");
    give_id(path, counter);
    mark_absent(path);
}

/// A client's mount whose root has all its names: a file `f` with `content`, of which only attributes are here.
pub fn with_stub(content: &[u8]) -> Stand {
    Stand::prepared(CLIENT, |store| stub(&store.join("f"), content.len() as u64, 1))
}

/// As Lento does it when the content has come.
pub fn fill(stand: &mut Stand, path: &str, content: &[u8]) {
    let object = stand.handle_of(path);
    fs::write(stand.store.join(path), content).expect("filled");
    mark_present(&stand.store.join(path));
    stand.lento().send(&Downcall::Fetched { object, errno: 0 });
}

pub fn wait_for_fetch(stand: &mut Stand) -> Handle {
    stand.lento().wait(|u| if let Upcall::Fetch { object } = u { Some(*object) } else { None })
}

/// Nothing was asked for until now: Presto answers in order.
pub fn assert_nothing_asked(stand: &mut Stand) {
    stand.lento().send(&Downcall::Synced);
    stand.lento().wait(|u| matches!(u, Upcall::LogSynced { .. }).then_some(()));
    let asked = |u: &&Upcall| matches!(u, Upcall::Fetch { .. } | Upcall::Forgo { .. });
    assert_eq!(stand.lento().seen.iter().filter(asked).count(), 0, "{:?}", stand.lento().seen);
}

pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (done, result) = mpsc::channel();
    // Who started it may have failed meanwhile.
    std::thread::spawn(move || drop(done.send(work())));
    result
}

pub fn evict(stand: &mut Stand, names: &[&str]) -> (Vec<Handle>, Vec<Handle>) {
    let objects = names.iter().map(|name| stand.handle_of(name)).collect();
    stand.lento().send(&Downcall::Evict { objects });
    stand.lento().wait(|u| match u {
        Upcall::Evicted { evicted, kept } => Some((evicted.clone(), kept.clone())),
        _ => None,
    })
}

pub fn program(arguments: &[&str], path: &Path) -> Child {
    // Whoever runs the tests in the background may ignore SIGINT, and the program would inherit that.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").args(arguments).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("it starts")
}

/// Time of the last status change, and of the last modification.
pub fn times(found: &fs::Metadata) -> (Timestamp, Timestamp) {
    let at = |secs, nanos: i64| Timestamp { secs, nanos: nanos as u32 };
    (at(found.ctime(), found.ctime_nsec()), at(found.mtime(), found.mtime_nsec()))
}

/// The same, from Presto, whatever the kernel believes.
pub fn asked_anew(path: &Path) -> (Timestamp, Timestamp) {
    let mut found = std::mem::MaybeUninit::<libc::statx>::uninit();
    let (path, flags) = (c(path), libc::AT_STATX_FORCE_SYNC | libc::AT_SYMLINK_NOFOLLOW);
    // SAFETY: the path is valid for the call, and the kernel fills the structure if it returns 0.
    let found = unsafe {
        let result = libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_BASIC_STATS, found.as_mut_ptr());
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        found.assume_init()
    };
    let at = |time: libc::statx_timestamp| Timestamp { secs: time.tv_sec, nanos: time.tv_nsec };
    (at(found.stx_ctime), at(found.stx_mtime))
}

/// As Lento does it when names or content have come, so that programs see no change: `bring` brings them.
pub fn fill_unseen(stand: &mut Stand, path: &str, bring: impl FnOnce(&mut Stand, &Path)) {
    let (object, bottom) = (stand.handle_of(path), stand.store.join(path));
    let was = fs::symlink_metadata(&bottom).expect("it is there");
    bring(stand, &bottom);
    File::open(&bottom).expect("opened").set_modified(was.modified().expect("a time")).expect("set back");
    mark_present(&bottom);
    let (before, after) = (times(&was).0, times(&fs::symlink_metadata(&bottom).expect("it is there")).0);
    assert!(before < after, "there is nothing to hide");
    stand.lento().send(&Downcall::Filled { objects: vec![(object, before, after)] });
    stand.lento().send(&Downcall::Fetched { object, errno: 0 });
}
