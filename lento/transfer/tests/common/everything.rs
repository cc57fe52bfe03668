//! A tree with one of everything.

use super::noise;
use nix::{
    sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat},
    sys::time::TimeSpec,
    unistd::{Gid, Uid, fchownat},
};
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::Path,
};

/// One of everything that a tree may hold.
pub fn everything(root: &Path) {
    let at = |path: &str| root.join(path);
    fs::create_dir_all(at("a/b/c")).expect("it is new");
    fs::create_dir(at("empty")).expect("it is new");
    fs::write(at("a/small"), "small").expect("it is written");
    fs::write(at("a/nothing"), "").expect("it is written");
    fs::write(at("a/b/large"), noise(3 << 20, 1)).expect("it is written");
    let sparse = File::create(at("a/sparse")).expect("it is new");
    sparse.set_len(10 << 20).and_then(|()| sparse.write_all_at(b"x", 5 << 20)).expect("it is written");
    fs::hard_link(at("a/small"), at("a/b/c/link")).expect("it is linked");
    fs::hard_link(at("a/nothing"), at("empty/link")).expect("it is linked");
    symlink("../nowhere", at("a/dangling")).expect("it is new");
    symlink("/etc/passwd", at("absolute")).expect("it is new");
    fs::hard_link(at("absolute"), at("a/absolute")).expect("it is linked");
    mknod(&at("fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o640), 0).expect("it is new");
    mknod(&at("socket"), SFlag::S_IFSOCK, Mode::from_bits_truncate(0o600), 0).expect("it is new");
    mknod(&at("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), 0x103).expect("it is new");
    mknod(&at("disk"), SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), 0x701).expect("it is new");
    fs::write(at("x".repeat(255).as_str()), "long name").expect("it is written");
    fs::write(root.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\n\x01")), "odd")
        .expect("it is written");
    fs::set_permissions(at("a/small"), fs::Permissions::from_mode(0o4751)).expect("it is ours");
    fs::set_permissions(at("a/b"), fs::Permissions::from_mode(0o1777)).expect("it is ours");
    set_xattr(&at("a/small"), "user.colour", b"green");
    set_xattr(&at("a/b"), "user.of-a-directory", &[7; 300]);
    for path in ["a/b/large", "a/dangling", "empty", "fifo"] {
        fchownat(
            nix::fcntl::AT_FDCWD,
            &at(path),
            Some(Uid::from_raw(12)),
            Some(Gid::from_raw(34)),
            nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .expect("it is ours");
    }
    for (n, path) in ["a/dangling", "a/small", "fifo", "empty", "a/b", "a", ""].iter().enumerate() {
        let time = TimeSpec::new(1_000_000_000 + n as i64, 123_456_789);
        utimensat(nix::fcntl::AT_FDCWD, &at(path), &time, &time, UtimensatFlags::NoFollowSymlink).expect("it is ours");
    }
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let name = std::ffi::CString::new(name).expect("no NUL");
    // SAFETY: both names are C strings, the value is as long as told, all live through the call.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
