//! What the mount must do as ext4 does it, beyond what the POSIX suites look at.

mod audit;
mod stand;

use protocol::Op;
use stand::{Stand, words};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{Read, Seek, SeekFrom, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::Path,
    process::Command,
};

/// Runs a shell command as another user, in a directory that all may enter.
fn as_nobody(command: &str) -> bool {
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", command])
        .status()
        .expect("setpriv is there (util-linux)")
        .success()
}

fn open_to_all(stand: &Stand) {
    for dir in [stand.mount.parent().expect("it has one"), &stand.store, &stand.mount] {
        fs::set_permissions(dir, Permissions::from_mode(0o777)).expect("chmod");
    }
}

#[test]
fn another_users_write_clears_setuid_and_setgid() {
    let stand = Stand::writing(&[]);
    open_to_all(&stand);
    let writes = [
        ("write", "printf x >> F"),
        ("truncate", ": > F"),
        ("size", "truncate -s 1 F"),
        ("allocate", "fallocate -l 8192 F"),
        ("punch", "fallocate -p -o 0 -l 4096 F"),
    ];
    for (name, command) in writes {
        let path = stand.path(name);
        fs::write(&path, vec![b'x'; 10_000]).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o6777)).expect("chmod");
        assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o6777);
        let mut reader = File::open(&path).expect("held open, so that attributes are cached");
        assert!(as_nobody(&command.replace('F', path.to_str().expect("utf-8"))), "{name}");
        assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o777, "{name} must clear the bits");
        reader.read_to_end(&mut Vec::new()).expect("the reader reads on");
    }
}

#[test]
fn roots_own_bits_stay_after_an_open_took_the_capability_from_the_thread() {
    // One thread, so that the one that opened is the one that goes on.
    let stand = Stand::writing(&["--threads", "1"]);
    let (file, dir) = (stand.path("file"), stand.path("dir"));
    let mode = |path: &Path| fs::metadata(path).expect("stat").mode() & 0o7777;
    fs::write(&file, b"opened, and so registered for passthrough").expect("written");
    // A group that root is not in: only CAP_FSETID lets it set the bit.
    std::os::unix::fs::chown(&file, None, Some(1234)).expect("chown");
    fs::set_permissions(&file, Permissions::from_mode(0o6777)).expect("chmod");
    assert_eq!(mode(&file), 0o6777);
    let reader = File::open(&file).expect("opened");
    assert_eq!(File::create(&file).expect("truncated").metadata().expect("stat").len(), 0);
    assert_eq!(mode(&file), 0o6777, "root's truncation clears nothing");
    drop(reader);
    fs::create_dir(&dir).expect("made");
    std::os::unix::fs::chown(&dir, None, Some(1234)).expect("chown");
    drop(File::open(&file).expect("opened"));
    fs::set_permissions(&dir, Permissions::from_mode(0o2777)).expect("chmod");
    assert_eq!(mode(&dir), 0o2777);
    // And the next ordinary user's writes clear them still.
    open_to_all(&stand);
    assert!(as_nobody(&format!("printf x >> {}", file.display())));
    assert_eq!(mode(&file), 0o777);
}

#[test]
fn what_another_user_creates_is_his() {
    let stand = Stand::writing(&[]);
    open_to_all(&stand);
    let dir = stand.path("setgid");
    fs::create_dir(&dir).expect("made");
    std::os::unix::fs::chown(&dir, None, Some(1234)).expect("chown");
    fs::set_permissions(&dir, Permissions::from_mode(0o2777)).expect("chmod");
    let command = "umask 027; cd D && : > f && mkdir d && ln -s x s && mkfifo p && cd .. && : > plain";
    assert!(as_nobody(&command.replace('D', dir.to_str().expect("utf-8"))));
    for (name, gid, mode) in
        [("setgid/f", 1234, 0o640), ("setgid/d", 1234, 0o2750), ("setgid/p", 1234, 0o640), ("plain", 65534, 0o640)]
    {
        let meta = fs::metadata(stand.path(name)).expect("stat");
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (65534, gid, mode), "{name}");
    }
    assert_eq!(fs::symlink_metadata(stand.path("setgid/s")).expect("stat").uid(), 65534);
}

#[test]
fn the_private_directory_and_attribute_are_hidden_and_refused() {
    let stand = Stand::writing(&[]);
    let private = stand.path(".intermezzo");
    assert!(stand.store.join(".intermezzo/log").is_dir());
    assert!(!private.exists());
    assert!(fs::read_dir(&stand.mount).expect("listed").next().is_none());
    fs::write(stand.path("f"), "x").expect("written");
    for error in [
        fs::create_dir(&private).expect_err("mkdir"),
        File::create(&private).map(drop).expect_err("create"),
        fs::rename(stand.path("f"), &private).expect_err("rename"),
        fs::hard_link(stand.path("f"), &private).expect_err("link"),
        symlink("x", &private).expect_err("symlink"),
    ] {
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
    // Elsewhere it is a name like others.
    fs::create_dir_all(stand.path("d/.intermezzo")).expect("only in the root it is special");
    assert!(audit::id_of(&stand.store.join("f")).is_some());
    assert_eq!(audit::id_of(&stand.path("f")), None);
}

#[test]
fn a_shared_mapping_o_direct_and_o_append_work() {
    let stand = Stand::writing(&[]);
    let path = stand.path("f");
    fs::write(&path, vec![0; 8192]).expect("written");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
    // SAFETY: a fresh mapping of a file that is 8192 bytes long; written within that.
    unsafe {
        let (both, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let map = libc::mmap(std::ptr::null_mut(), 8192, both, shared, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(b"mapped".as_ptr(), map.cast::<u8>().add(5000), 6);
        assert_eq!(libc::msync(map, 8192, libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(map, 8192), 0);
    }
    let mut read = [0; 6];
    file.read_exact_at(&mut read, 5000).expect("read");
    assert_eq!(&read, b"mapped");
    let mut append = OpenOptions::new().append(true).open(&path).expect("opened");
    append.write_all(b"end").expect("appended");
    assert_eq!(fs::metadata(&path).expect("stat").len(), 8195);
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).expect("opened directly");
    let mut aligned = vec![0_u8; 8192];
    let offset = aligned.as_ptr().align_offset(4096);
    direct.read_at(&mut aligned[offset..offset + 4096], 0).expect("read directly");
}

/// On ext4 a descriptor that was asked for what follows the end before all else lists nothing from then on.
#[test]
fn a_listing_that_begins_at_its_end_does_not_empty_the_directory() {
    let stand = Stand::prepared(&[], |store| {
        (0..3).for_each(|i| {
            fs::create_dir_all(store.join(format!("dir/{i}"))).expect("made");
        });
    });
    let dir = File::open(stand.path("dir")).expect("opened");
    let mut buffer = [0_u8; 1024];
    // SAFETY: plain integers; the buffer and its length belong together.
    let (position, listed) = unsafe {
        let position = libc::lseek(dir.as_raw_fd(), i64::MAX, libc::SEEK_SET);
        (position, libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()))
    };
    assert_eq!((position, listed), (i64::MAX, 0));
    assert_eq!(fs::read_dir(stand.path("dir")).expect("listed").count(), 3);
}

#[test]
fn holes_are_found_and_punched() {
    let stand = Stand::writing(&[]);
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(stand.path("f")).expect("created");
    file.set_len(1 << 20).expect("extended");
    file.write_all_at(b"data", 512 * 1024).expect("written");
    // SAFETY: plain integers.
    assert_eq!(unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_DATA) }, 512 * 1024);
    assert_eq!(file.seek(SeekFrom::Start(0)).expect("rewound"), 0);
    // SAFETY: plain integers.
    assert_eq!(unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_HOLE) }, 0);
}

#[test]
fn each_kind_of_change_is_in_the_log_and_log_and_tree_agree() {
    let mut stand = Stand::writing(&[]);
    let at = |name: &str| stand.path(name);
    fs::create_dir(at("d")).expect("mkdir");
    fs::write(at("d/f"), "one").expect("write");
    fs::hard_link(at("d/f"), at("g")).expect("link");
    symlink("/nowhere", at("s")).expect("symlink");
    assert!(Command::new("mkfifo").arg(at("p")).status().expect("mkfifo").success());
    fs::rename(at("d"), at("e")).expect("rename");
    fs::set_permissions(at("g"), Permissions::from_mode(0o600)).expect("chmod");
    OpenOptions::new().write(true).open(at("g")).expect("open").set_len(1).expect("truncate");
    set_user_attribute(&at("g"), "user.a", "b");
    fs::create_dir(at("x")).expect("mkdir");
    exchange(&at("e"), &at("x"));
    fs::remove_file(at("s")).expect("unlink");
    fs::remove_dir(at("e")).expect("rmdir");
    let log = stand.synced_log();
    let words = words(&log);
    for word in [
        "mkdir", "create", "store", "link", "symlink", "mknod", "rename", "setattr", "intend", "setxattr", "exchange",
        "unlink", "rmdir",
    ] {
        assert!(words.contains(&word), "no {word} in {words:?}");
    }
    audit::assert_agree(&log, &stand.store);
    let setattr = log.iter().find_map(|e| match &e.record.op {
        Op::Setattr { change, before, .. } if change.mode.is_some() => Some((*change, *before)),
        _ => None,
    });
    let (change, before) = setattr.expect("a chmod");
    assert_eq!((change.mode, before.mode), (Some(0o600), Some(0o644)));
}

fn set_user_attribute(path: &Path, name: &str, value: &str) {
    assert!(Command::new("setfattr").args(["-n", name, "-v", value]).arg(path).status().expect("setfattr").success());
}

fn exchange(a: &Path, b: &Path) {
    let c = |p: &Path| std::ffi::CString::new(p.to_str().expect("utf-8")).expect("no NUL");
    // SAFETY: both paths are valid for the call.
    let result = unsafe {
        let (a, b) = (c(a), c(b));
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            a.as_ptr(),
            libc::AT_FDCWD,
            b.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    assert_eq!(result, 0);
}

#[test]
fn a_file_without_identity_is_adopted_with_one_that_its_handle_determines() {
    let mut stand = Stand::writing(&[]);
    fs::write(stand.store.join("behind"), "x").expect("put in behind our back");
    fs::set_permissions(stand.path("behind"), Permissions::from_mode(0o600)).expect("chmod");
    let id = audit::id_of(&stand.store.join("behind")).expect("it has one now");
    assert!(id.counter > protocol::ObjectId::ADOPTED);
    assert_eq!(id.counter as u32, fs::metadata(stand.store.join("behind")).expect("stat").ino() as u32);
    assert!(words(&stand.synced_log()).contains(&"setattr"));
}

#[test]
fn a_failed_operation_is_cancelled_in_the_log() {
    let mut stand = Stand::writing(&[]);
    fs::create_dir_all(stand.path("d/e")).expect("made");
    fs::remove_dir(stand.path("d")).expect_err("it is not empty");
    let log = stand.synced_log();
    let cancelled: Vec<_> = log.iter().filter(|e| e.outcome.is_err()).collect();
    assert_eq!(cancelled.len(), 1);
    assert_eq!((cancelled[0].record.op.word(), cancelled[0].outcome), ("rmdir", Err(libc::ENOTEMPTY)));
}

#[test]
fn what_was_fsynced_is_durable_with_its_record() {
    let stand = Stand::writing(&[]);
    let mut file = File::create(stand.path("f")).expect("created");
    file.write_all(b"durable").expect("written");
    file.sync_all().expect("synced");
    // Without any other write of the log: the fsync wrote it.
    assert!(stand.log().iter().any(|e| matches!(e.record.op, Op::Store { size: 7, .. })));
}
