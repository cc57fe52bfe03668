//! A tree with one of everything that a file system can hold and a copy can get wrong.

use crate::shell::sh;
use anyhow::{Context, Result};
use nix::{
    sys::{
        stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, mkfifo},
};
use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
};

/// How much of what there is by number.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Files in the one large directory.
    pub crowd: usize,
    /// Bytes of the large file.
    pub large_bytes: u64,
    /// Apparent size of the sparse file, of which three blocks are there.
    pub sparse_bytes: u64,
}

const DEPTH: usize = 200;

/// Makes the tree in `root`, which is made too. Every time is set, so two trees made with equal amounts are equal.
pub fn make(root: &Path, amount: Amount) -> Result<()> {
    fs::create_dir(root)?;
    contents(root, amount).context("files")?;
    names(root).context("names")?;
    links(root).context("links")?;
    special(root).context("special files")?;
    attributes(root).context("attributes")?;
    depth(root).context("depth")?;
    let mut serial = 0;
    set_times(root, &mut serial).context("times")
}

fn contents(root: &Path, amount: Amount) -> Result<()> {
    fs::write(root.join("empty"), b"")?;
    fs::write(root.join("one byte"), b"x")?;
    fs::write(root.join("at the bound of inline content"), vec![7; 128 * 1024])?;
    fs::write(root.join("beyond it"), vec![8; 128 * 1024 + 1])?;
    let sparse = File::create(root.join("sparse"))?;
    for at in [0, amount.sparse_bytes / 2 + 3, amount.sparse_bytes - 7] {
        sparse.write_all_at(b"data\0!!", at)?;
    }
    File::create(root.join("only a hole"))?.set_len(50 << 20)?;
    let mut large = File::create(root.join("large"))?;
    let mut block = vec![0_u8; 1 << 20];
    let mut dice = crate::dice::Dice::from_seed(5);
    for _ in 0..amount.large_bytes >> 20 {
        block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&dice.roll().to_le_bytes()));
        large.write_all(&block)?;
    }
    let crowd = root.join("crowd");
    fs::create_dir(&crowd)?;
    (0..amount.crowd).try_for_each(|i| fs::write(crowd.join(format!("file {i}")), i.to_string()))?;
    Ok(())
}

fn names(root: &Path) -> Result<()> {
    let dir = root.join("names");
    fs::create_dir(&dir)?;
    let long = "n".repeat(255);
    let wide = "\u{1f4be}".repeat(63);
    let words: [&[u8]; 12] = [
        long.as_bytes(),
        wide.as_bytes(),
        b"\xff\xfe not UTF-8 \x80",
        b"new\nline",
        b" leading and trailing ",
        b"-rf",
        b"...",
        b".hidden",
        b"back\\slash",
        b"quote'\"`$(id)",
        b"\x01\x1b[31m\x7f",
        // Reserved in the root of a file set only.
        b".intermezzo",
    ];
    for word in words {
        fs::write(dir.join(OsStr::from_bytes(word)), word)?;
    }
    fs::create_dir(dir.join("d".repeat(255)))?;
    Ok(())
}

fn links(root: &Path) -> Result<()> {
    let (one, two) = (root.join("links"), root.join("links/deeper"));
    fs::create_dir_all(&two)?;
    symlink("../empty", one.join("relative"))?;
    symlink("/etc/hostname", one.join("absolute"))?;
    symlink("nowhere at all", one.join("dangling"))?;
    symlink("loop", one.join("loop"))?;
    symlink(OsStr::from_bytes(b"\xff\xfe"), one.join("not UTF-8"))?;
    symlink("t".repeat(4000), one.join("long target"))?;
    std::os::unix::fs::lchown(one.join("dangling"), Some(4711), Some(4712))?;
    fs::write(one.join("first name"), b"one inode, three names")?;
    fs::hard_link(one.join("first name"), two.join("second name"))?;
    fs::hard_link(one.join("first name"), root.join("third name"))?;
    fs::hard_link(one.join("absolute"), two.join("second name of a symlink"))?;
    Ok(())
}

fn special(root: &Path) -> Result<()> {
    let dir = root.join("special");
    fs::create_dir(&dir)?;
    let mode = Mode::from_bits_truncate(0o640);
    mkfifo(&dir.join("fifo"), mode)?;
    mknod(&dir.join("null"), SFlag::S_IFCHR, mode, makedev(1, 3))?;
    mknod(&dir.join("disk"), SFlag::S_IFBLK, mode, makedev(259, 70_000))?;
    drop(UnixListener::bind(dir.join("socket"))?);
    fs::hard_link(dir.join("fifo"), dir.join("fifo again"))?;
    Ok(())
}

fn attributes(root: &Path) -> Result<()> {
    let dir = root.join("attributes");
    fs::create_dir(&dir)?;
    for mode in [0o4755, 0o2755, 0o6711, 0o1644, 0o000, 0o777, 0o400] {
        let file = dir.join(format!("mode {mode:o}"));
        fs::write(&file, b"mode")?;
        // Before the mode: a change of owner takes setuid away.
        std::os::unix::fs::chown(&file, Some(1234), Some(5678))?;
        fs::set_permissions(file, Permissions::from_mode(mode))?;
    }
    fs::write(dir.join("owner without a name"), b"")?;
    let (uid, gid) = (Uid::from_raw(4_000_000_001), Gid::from_raw(4_000_000_002));
    nix::unistd::chown(&dir.join("owner without a name"), Some(uid), Some(gid))?;
    for (name, mode) in [("sticky", 0o1777), ("setgid", 0o2775)] {
        fs::create_dir(dir.join(name))?;
        fs::set_permissions(dir.join(name), Permissions::from_mode(mode))?;
    }
    let script = "cd \"$1\"; touch xattrs acl 'mode 4755'; mkdir acl-default
        setfattr -n user.text -v 'some text' xattrs; setfattr -n user.empty xattrs
        setfattr -n user.binary -v 0x00ff0a00 xattrs; setfattr -n trusted.other -v t xattrs
        setfattr -n user.big -v \"$(head -c 2000 /dev/zero | tr '\\0' b)\" xattrs
        setfattr -n user.on-directory -v d acl-default
        setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 xattrs
        setfattr -h -n trusted.on-symlink -v s ../links/dangling
        setfacl -m u:1000:rw,g:2000:r,u:4000000000:x,m:rwx acl
        setfacl -d -m u:1000:rwx,g::r,o::- acl-default; setfacl -m g:7:rwx acl-default
        mkdir acl-default/inherits; echo inherited > acl-default/file";
    sh(script, [&dir]).ok().context("packages attr and acl are needed").map(|_| ())
}

fn depth(root: &Path) -> Result<()> {
    let mut dir = root.join("deep");
    (0..DEPTH).for_each(|i| dir.push(format!("{i}")));
    fs::create_dir_all(&dir)?;
    Ok(fs::write(dir.join("bottom"), b"deep")?)
}

/// Children before their directories, whose times they change.
fn set_times(path: &Path, serial: &mut i64) -> Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        let mut entries = fs::read_dir(path)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
        entries.sort();
        entries.iter().try_for_each(|entry| set_times(entry, serial))?;
    }
    *serial += 1;
    // Among them times before 1970 and after 2038, and nanoseconds that no coarser clock would keep.
    let seconds = match *serial % 7 {
        0 => -1_000_000 - *serial,
        1 => 5_000_000_000 + *serial,
        _ => 1_500_000_000 + *serial,
    };
    let time = TimeSpec::new(seconds, 123_456_789 + *serial % 1000);
    Ok(utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}
