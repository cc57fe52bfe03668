//! The bottom: the native directory of a file set, worked on by descriptor and file handle only (design D9).

use crate::error::StoreError;
use crate::{Identity, sys};
use nix::dir::{Dir, OwningIter, Type};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode};
use protocol::{Attr, Handle, Kind, Name, Timestamp, Xattr, limits};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The identity attribute's name as system calls take it.
const IDENTITY: &CStr = c"trusted.intermezzo";
/// Longest identity: version, id and a stamp of [`limits::STAMP_ENTRIES`] entries, with room to spare.
const IDENTITY_BYTES: usize = 512;

/// A native directory on ext2, ext3 or ext4. Holds a few descriptors and no other state; share it freely.
///
/// Nothing here follows a symbolic link, leaves the directory by a name, or crosses a mount.
#[derive(Debug)]
pub struct Bottom {
    root: OwnedFd,
    handle: Handle,
    mount: i32,
    private: OwnedFd,
    staging: OwnedFd,
    conflicts: OwnedFd,
    limbo: OwnedFd,
}

/// An entry of a directory, as `getdents` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Name,
    /// What it is, where the file system says so (ext4 does).
    pub kind: Option<Kind>,
    /// Its inode number.
    pub ino: u64,
}

/// Entries of a directory but `.` and `..`, and `.intermezzo` in the root; see [`Bottom::read_dir`].
pub struct ReadDir {
    entries: OwningIter,
    root: bool,
}

impl Bottom {
    /// Takes a directory as bottom, and makes `.intermezzo/{log,staging,conflicts,limbo}` in it, all of mode 0700.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] if the file system's handles are not ext4's eight bytes.
    pub fn new(root: OwnedFd) -> Result<Self, StoreError> {
        // Opened again, since a descriptor that is O_PATH cannot anchor open_by_handle_at.
        let root = open_dir(root.as_fd(), c".").map_err(StoreError::io("opening the store's directory"))?;
        let (handle, mount) = sys::handle_of(root.as_fd()).map_err(|why| StoreError::Unsupported { why })?;
        sys::open_handle(root.as_fd(), handle, OFlag::O_PATH).map_err(|why| StoreError::Unsupported { why })?;
        let private = make_dir(root.as_fd(), c".intermezzo")?;
        make_dir(private.as_fd(), c"log")?;
        let staging = make_dir(private.as_fd(), c"staging")?;
        let conflicts = make_dir(private.as_fd(), c"conflicts")?;
        let limbo = make_dir(private.as_fd(), c"limbo")?;
        Ok(Self { root, handle, mount, private, staging, conflicts, limbo })
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The root directory's handle.
    pub const fn root_handle(&self) -> Handle {
        self.handle
    }

    /// `.intermezzo`.
    pub fn private(&self) -> BorrowedFd<'_> {
        self.private.as_fd()
    }

    /// `.intermezzo/staging`: contents on their way in.
    pub fn staging(&self) -> BorrowedFd<'_> {
        self.staging.as_fd()
    }

    /// `.intermezzo/conflicts`: versions kept aside for people.
    pub fn conflicts(&self) -> BorrowedFd<'_> {
        self.conflicts.as_fd()
    }

    /// `.intermezzo/limbo`: objects that a commit moved out of the way until it is done.
    pub(crate) fn limbo(&self) -> BorrowedFd<'_> {
        self.limbo.as_fd()
    }

    /// Opens an object by handle; any flag of `open`, `O_PATH` too. Whether it is the object that was meant is for the
    /// caller to check: see [`Bottom::identity`].
    ///
    /// # Errors
    /// `ESTALE` when it is gone.
    pub fn open(&self, handle: Handle, flags: OFlag) -> io::Result<OwnedFd> {
        sys::open_handle(self.root(), handle, flags)
    }

    /// Opens an entry of a directory, itself and not what it points to.
    ///
    /// # Errors
    /// `EXDEV` if something is mounted there; `ELOOP` for a symbolic link, unless `flags` has `O_PATH`.
    pub fn open_at(&self, dir: BorrowedFd<'_>, name: &Name, flags: OFlag) -> io::Result<OwnedFd> {
        open_name(dir, &c_name(name), flags)
    }

    /// What an entry of a directory names: its handle and attributes.
    ///
    /// # Errors
    /// `ENOENT` if there is no such entry, `EXDEV` if something is mounted there.
    pub fn lookup(&self, dir: BorrowedFd<'_>, name: &Name) -> io::Result<(Handle, Attr)> {
        let fd = self.open_at(dir, name, OFlag::O_PATH)?;
        Ok((self.handle(fd.as_fd())?, self.attr(fd.as_fd())?))
    }

    /// The handle of what a descriptor is open on.
    ///
    /// # Errors
    /// `EXDEV` if it was reached through another mount than the root.
    pub fn handle(&self, fd: BorrowedFd<'_>) -> io::Result<Handle> {
        let (handle, mount) = sys::handle_of(fd)?;
        if mount == self.mount { Ok(handle) } else { Err(io::Error::from_raw_os_error(libc::EXDEV)) }
    }

    /// The attributes that replicas share; a descriptor that is `O_PATH` will do.
    pub fn attr(&self, fd: BorrowedFd<'_>) -> io::Result<Attr> {
        Ok(attr_of(&self.stat(fd)?))
    }

    /// All that `fstat` tells.
    pub(crate) fn stat(&self, fd: BorrowedFd<'_>) -> io::Result<FileStat> {
        Ok(nix::sys::stat::fstat(fd)?)
    }

    /// All extended attributes but InterMezzo's own, sorted by name; a descriptor that is `O_PATH` will do.
    pub fn xattrs(&self, fd: BorrowedFd<'_>) -> io::Result<Vec<Xattr>> {
        let mut small = [0; 1024];
        let mut large = Vec::new();
        let names = match sys::list_xattrs(fd, &mut small) {
            Ok(len) => &small[..len],
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) => {
                large.resize(limits::XATTR_VALUE_BYTES, 0);
                let len = sys::list_xattrs(fd, &mut large)?;
                &large[..len]
            }
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => &[],
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for name in names.split_inclusive(|b| *b == 0) {
            let Ok(c_name) = CStr::from_bytes_with_nul(name) else { continue };
            if c_name.to_bytes().starts_with(Xattr::IDENTITY.as_bytes()) {
                continue;
            }
            match xattr_value(fd, c_name) {
                Ok(value) => found.push(Xattr { name: c_name.to_bytes().to_vec(), value }),
                // Removed between the two calls.
                Err(e) if e.raw_os_error() == Some(libc::ENODATA) => {}
                Err(e) => return Err(e),
            }
        }
        found.sort();
        Ok(found)
    }

    /// The identity of what a descriptor (`O_PATH` will do) is open on; `None` if it has none, or one that cannot be
    /// read, which is as good as none.
    pub fn identity(&self, fd: BorrowedFd<'_>) -> io::Result<Option<Identity>> {
        let mut buffer = [0; IDENTITY_BYTES];
        match sys::get_xattr(fd, IDENTITY, &mut buffer) {
            Ok(len) => Ok(Identity::from_bytes(&buffer[..len]).ok()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::ERANGE)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes the identity attribute. This changes the object's ctime: never do it to an object that applications
    /// see and that Lento does not change anyway.
    pub fn set_identity(&self, fd: BorrowedFd<'_>, identity: &Identity) -> io::Result<()> {
        sys::set_xattr(fd, IDENTITY, &identity.to_bytes())
    }

    /// Takes the identity attribute away.
    pub(crate) fn clear_identity(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        match sys::remove_xattr(fd, IDENTITY) {
            Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(()),
            other => other,
        }
    }

    /// Reads a directory from its beginning, whatever else reads through the same descriptor (which may be `O_PATH`).
    /// In the root, `.intermezzo` is left out.
    pub fn read_dir(&self, dir: BorrowedFd<'_>) -> io::Result<ReadDir> {
        let own = open_dir(dir, c".")?;
        let root = sys::handle_of(own.as_fd())?.0 == self.handle;
        Ok(ReadDir { entries: Dir::from_fd(own)?.into_iter(), root })
    }

    /// Where a symbolic link points to; the descriptor is `O_PATH`.
    pub fn readlink(&self, fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt;
        Ok(nix::fcntl::readlinkat(fd, OsStr::new(""))?.into_vec())
    }

    /// Makes all that was changed on the bottom's file system durable (`syncfs`).
    pub fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(self.root())?)
    }

    /// Bytes that are free on the bottom's file system, for root.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::fstatvfs(self.root())?;
        Ok(stat.blocks_free() * stat.fragment_size())
    }

    /// After `ENOSPC`, of what there is too little on the bottom's file system, for people.
    pub fn shortage(&self) -> &'static str {
        match nix::sys::statvfs::fstatvfs(self.root()) {
            Ok(stat) => shortage_of(stat.files(), stat.files_free()),
            Err(_) => NO_SPACE,
        }
    }
}

const NO_SPACE: &str = "no space left on the disk of the store";

/// File systems without a table of inodes have 0 in all.
fn shortage_of(inodes: u64, free: u64) -> &'static str {
    if inodes > 0 && free == 0 {
        "no inodes left on the disk of the store (`df -i`): remove files there, or make it anew with more"
    } else {
        NO_SPACE
    }
}

impl Iterator for ReadDir {
    type Item = io::Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.entries.next()? {
                Ok(entry) => entry,
                Err(errno) => return Some(Err(errno.into())),
            };
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else { continue };
            if self.root && name.is_reserved() {
                continue;
            }
            return Some(Ok(DirEntry { name, kind: entry.file_type().map(kind_of), ino: entry.ino() }));
        }
    }
}

fn kind_of(kind: Type) -> Kind {
    match kind {
        Type::File => Kind::File,
        Type::Directory => Kind::Directory,
        Type::Symlink => Kind::Symlink,
        Type::Fifo => Kind::Fifo,
        Type::Socket => Kind::Socket,
        Type::CharacterDevice => Kind::CharDevice,
        Type::BlockDevice => Kind::BlockDevice,
    }
}

/// The shared attributes in what `fstat` tells.
pub(crate) fn attr_of(stat: &FileStat) -> Attr {
    // The kernel gives no other types than those of `Kind`.
    let kind = Kind::from_mode(stat.st_mode).unwrap_or(Kind::File);
    let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    Attr {
        kind,
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if kind == Kind::File { stat.st_size.unsigned_abs() } else { 0 },
        rdev: if device { stat.st_rdev } else { 0 },
        mtime: Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
    }
}

fn xattr_value(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<u8>> {
    let mut small = [0; 512];
    match sys::get_xattr(fd, name, &mut small) {
        Ok(len) => Ok(small[..len].to_vec()),
        Err(e) if e.raw_os_error() == Some(libc::ERANGE) => {
            let mut large = vec![0; limits::XATTR_VALUE_BYTES];
            let len = sys::get_xattr(fd, name, &mut large)?;
            large.truncate(len);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}

/// A name as system calls take it.
pub(crate) fn c_name(name: &Name) -> CString {
    CString::new(name.as_bytes()).expect("a Name holds no NUL")
}

/// Opens one name in a directory: no symbolic link, no magic link, no way out, no mount.
pub(crate) fn open_name(dir: BorrowedFd<'_>, name: &CStr, flags: OFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    loop {
        match openat2(dir, name, how) {
            // The kernel could not rule out a race with a rename: it asks to be called again.
            Err(nix::Error::EAGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens a directory below `dir` for reading.
pub(crate) fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    open_name(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

/// Opens a directory of InterMezzo's own below `dir`, and makes it first if it is not there.
pub(crate) fn make_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, StoreError> {
    let what = || format!("making the directory {name:?} of the store");
    match nix::sys::stat::mkdirat(dir, name, Mode::S_IRWXU) {
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(errno) => return Err(StoreError::io(what())(errno)),
    }
    let made = open_dir(dir, name).map_err(StoreError::io(what()))?;
    sys::chmod(made.as_fd(), 0o700).map_err(StoreError::io(what()))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::{NO_SPACE, shortage_of};

    #[test]
    fn it_is_told_which_of_both_is_short() {
        assert!(shortage_of(1000, 0).contains("inodes"));
        assert_eq!(shortage_of(1000, 1), NO_SPACE);
        assert_eq!(shortage_of(0, 0), NO_SPACE);
    }
}
