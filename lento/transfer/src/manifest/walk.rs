//! Walks a tree in manifest order, without recursion and with one directory's names in memory a level.

use super::entry::{ManifestEntry, PATH_BYTES};
use crate::{
    error::{Emit, Fault, TransferError},
    io,
    packer::Packer,
};
use lento_store::Bottom;
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::stat::{FileStat, Mode, fstat, fstatat},
};
use protocol::{Kind, Name, Timestamp, Xattr};
use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    os::{fd::AsFd, fd::BorrowedFd, unix::ffi::OsStrExt},
    vec,
};

/// Emits, as bodies of data packets, a [`ManifestEntry`] for every path of a store, in order; the root first, without InterMezzo's own directory. What vanishes meanwhile is left out; what cannot be read says so.
///
/// # Errors
/// [`TransferError::Stopped`] if `emit` says so; [`TransferError::Io`] if the root itself cannot be read.
pub fn manifest(bottom: &Bottom, emit: &mut Emit<'_>) -> Result<(), TransferError> {
    let root = bottom.root();
    let failed = |why| TransferError::io("reading the root of the tree for its manifest", why);
    let mut walk = Walk { bottom, packer: Packer::new(emit), links: HashMap::new(), device: 0, path: Vec::new() };
    let stat = fstat(root).map_err(|e| failed(Fault(e)))?;
    walk.device = stat.st_dev;
    let mut entry = plain(Vec::new(), Kind::Directory, &stat);
    let dir = Dir::openat(root, ".", DIRECTORY, Mode::empty()).map_err(|e| failed(Fault(e)))?;
    digest_xattrs(&mut entry, bottom, dir.as_fd());
    walk.emit(&entry)?;
    let names = names(dir, true).map_err(|e| failed(Fault(e)))?;
    let mut levels = vec![names];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            walk.leave();
            continue;
        };
        if let Some(below) = walk.visit(level.dir.as_fd(), &name)? {
            levels.push(below);
        }
    }
    walk.packer.finish()
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A directory that is being walked, and the names in it that are still to come.
struct Level {
    dir: Dir,
    names: vec::IntoIter<Vec<u8>>,
}

fn names(mut dir: Dir, is_root: bool) -> Result<Level, Errno> {
    let mut names = Vec::new();
    for entry in dir.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." && !(is_root && name == Name::RESERVED) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(Level { dir, names: names.into_iter() })
}

struct Walk<'a, 'e> {
    bottom: &'a Bottom,
    packer: Packer<'a, 'e>,
    /// The first path of each object that has several.
    links: HashMap<u64, Vec<u8>>,
    device: u64,
    /// The directory that is being walked.
    path: Vec<u8>,
}

impl Walk<'_, '_> {
    fn emit(&mut self, entry: &ManifestEntry) -> Result<(), TransferError> {
        let mut encoded = Vec::new();
        entry.append_to(&mut encoded)?;
        self.packer.push_encoded(&encoded)
    }

    fn leave(&mut self) {
        let parent = self.path.iter().rposition(|b| *b == b'/').unwrap_or(0);
        self.path.truncate(parent);
    }

    /// Emits the entry `name` of `dir`; what is below it, if it is a directory.
    fn visit(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Level>, TransferError> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        if path.len() > PATH_BYTES {
            return Err(TransferError::io(format!("listing {}…", path[..80].escape_ascii()), Errno::ENAMETOOLONG));
        }
        let os_name = OsStr::from_bytes(name);
        let stat = match fstatat(dir, os_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(None),
            Err(why) => return Err(TransferError::io(format!("examining {}", path.escape_ascii()), why)),
        };
        let Some(kind) = Kind::from_mode(stat.st_mode) else { return Ok(None) };
        if stat.st_dev != self.device {
            // Another file system mounted below is not part of the file set.
            return Ok(None);
        }
        let mut entry = plain(path, kind, &stat);
        if kind != Kind::Directory && stat.st_nlink > 1 {
            match self.links.get(&stat.st_ino) {
                Some(first) => entry.link = Some(first.clone()),
                None => {
                    self.links.insert(stat.st_ino, entry.path.clone());
                }
            }
        }
        let below = match fill(self.bottom, &mut entry, dir, os_name) {
            Ok(below) => below,
            Err(Errno::ENOENT) => return Ok(None),
            Err(why) => {
                entry.errno = Some(why as i32);
                None
            }
        };
        self.emit(&entry)?;
        if below.is_some() {
            self.path = entry.path;
        }
        Ok(below)
    }
}

/// What `stat` alone tells.
fn plain(path: Vec<u8>, kind: Kind, stat: &FileStat) -> ManifestEntry {
    let device = matches!(kind, Kind::BlockDevice | Kind::CharDevice);
    ManifestEntry {
        path,
        kind,
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if kind == Kind::File { stat.st_size as u64 } else { 0 },
        rdev: if device { stat.st_rdev } else { 0 },
        mtime: Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
        link: None,
        target: Vec::new(),
        xattrs: [0; 32],
        content: [0; 32],
        errno: None,
    }
}

/// Adds what must be read: content, target, extended attributes; opens a directory.
fn fill(bottom: &Bottom, entry: &mut ManifestEntry, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Level>, Errno> {
    match entry.kind {
        Kind::Directory => {
            let below = Dir::openat(dir, name, DIRECTORY, Mode::empty())?;
            digest_xattrs(entry, bottom, below.as_fd());
            return names(below, false).map(Some);
        }
        Kind::File => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOATIME | OFlag::O_CLOEXEC;
            let file = File::from(openat(dir, name, flags, Mode::empty())?);
            digest_xattrs(entry, bottom, file.as_fd());
            if entry.link.is_none() {
                let mut hasher = blake3::Hasher::new();
                io::hash_prefix(&file, entry.size, &mut hasher).map_err(|e| Fault::from(e).0)?;
                entry.content = hasher.finalize().into();
            }
        }
        kind => {
            let fd = openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
            if kind == Kind::Symlink {
                entry.target = readlinkat(&fd, "")?.as_bytes().to_vec();
            }
            digest_xattrs(entry, bottom, fd.as_fd());
        }
    }
    Ok(None)
}

fn digest_xattrs(entry: &mut ManifestEntry, bottom: &Bottom, fd: BorrowedFd<'_>) {
    match bottom.xattrs(fd) {
        Ok(xattrs) if xattrs.is_empty() => {}
        Ok(xattrs) => {
            let mut hasher = blake3::Hasher::new();
            for Xattr { name, value } in &xattrs {
                hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
                hasher.update(&(value.len() as u64).to_le_bytes()).update(value);
            }
            entry.xattrs = hasher.finalize().into();
        }
        Err(why) => entry.errno = Some(Fault::from(why).0 as i32),
    }
}
