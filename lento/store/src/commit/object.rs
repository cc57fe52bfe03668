//! Objects in a commit: found by id, and made ready out of sight before they get their name.

use super::Commit;
use super::dirs::Dir;
use crate::bottom::{c_name, open_name};
use crate::error::{CommitError, StoreError};
use crate::identity::{CommittedVersion, Identity};
use crate::index::{KnownVersion, Row};
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use protocol::{Handle, Kind, Name, ObjectId, Position, VersionStamp};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// The name in the staging directory of what is being made ready.
pub(super) const NEW: &CStr = c".new";

/// An entry: its directory and its name.
pub(super) type Place<'a> = (ObjectId, &'a Name);

/// What is to be created.
#[derive(Clone, Copy)]
pub(super) enum New<'a> {
    File,
    Directory,
    /// A directory whose names are not here.
    Unlisted,
    Symlink(&'a [u8]),
    /// A special file: type bits, and device number.
    Node(u32, u64),
}

impl New<'_> {
    fn is_directory(self) -> bool {
        matches!(self, Self::Directory | Self::Unlisted)
    }

    pub(super) fn node(mode: u32, rdev: u64) -> Self {
        if Kind::from_mode(mode) == Some(Kind::File) { Self::File } else { Self::Node(mode & 0o170_000, rdev) }
    }
}

impl Commit<'_> {
    /// An object that exists, open with `O_PATH`: by its handle, else where it was last.
    pub(super) fn find(&mut self, id: ObjectId) -> Result<Option<OwnedFd>, StoreError> {
        let Some(row) = self.rows.get(id)? else { return Ok(None) };
        let (handle, place) = (row.handle, row.place.clone());
        if let Some(fd) = self.open_if(handle, id, OFlag::O_PATH)? {
            return Ok(Some(fd));
        }
        let Some((parent, name)) = place else { return Ok(None) };
        let Some(dir) = self.dir(parent)? else { return Ok(None) };
        let Ok(fd) = self.store.bottom.open_at(dir.fd.as_fd(), &name, OFlag::O_PATH) else { return Ok(None) };
        if !self.store.is_object(fd.as_fd(), id)? {
            return Ok(None);
        }
        let handle = self.handle(fd.as_fd())?;
        if let Some(row) = self.rows.get_mut(id)? {
            row.handle = handle;
        }
        Ok(Some(fd))
    }

    fn open_if(&self, handle: Handle, id: ObjectId, flags: OFlag) -> Result<Option<OwnedFd>, StoreError> {
        match self.store.bottom.open(handle, flags) {
            Ok(fd) => Ok(self.store.is_object(fd.as_fd(), id)?.then_some(fd)),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESTALE | libc::ENOTDIR)) => Ok(None),
            Err(e) => Err(StoreError::io(format!("opening object {id}"))(e)),
        }
    }

    /// A directory that exists, open for reading.
    pub(super) fn dir(&mut self, id: ObjectId) -> Result<Option<Dir>, StoreError> {
        if let Some(dir) = self.dirs.get(id) {
            return Ok(Some(dir));
        }
        let Some(handle) = self.rows.get(id)?.map(|row| row.handle) else { return Ok(None) };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let (fd, handle) = match self.open_if(handle, id, flags)? {
            Some(fd) => (fd, handle),
            None => {
                let Some(path) = self.find(id)? else { return Ok(None) };
                let handle = self.handle(path.as_fd())?;
                match self.open_if(handle, id, flags)? {
                    Some(fd) => (fd, handle),
                    None => return Ok(None),
                }
            }
        };
        let dir = Dir { fd: Arc::new(fd), handle };
        self.dirs.put(id, dir.clone());
        Ok(Some(dir))
    }

    pub(super) fn handle(&self, fd: BorrowedFd<'_>) -> Result<Handle, StoreError> {
        self.store.bottom.handle(fd).map_err(StoreError::io("asking for a file handle"))
    }

    /// What an entry names, open with `O_PATH`.
    pub(super) fn entry(&self, dir: &Dir, name: &Name) -> Result<Option<OwnedFd>, StoreError> {
        match self.store.bottom.open_at(dir.fd.as_fd(), name, OFlag::O_PATH) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io(format!("looking up {name}"))(e)),
        }
    }

    pub(super) fn id_of(&self, fd: BorrowedFd<'_>) -> Result<Option<ObjectId>, StoreError> {
        let identity = self.store.bottom.identity(fd).map_err(StoreError::io("reading an identity"))?;
        Ok(identity.map(|identity| identity.id))
    }

    /// Creates an object, or gives the one that exists this name too.
    pub(super) fn create(
        &mut self,
        id: ObjectId,
        (parent, name): Place<'_>,
        new: New<'_>,
        at: Position,
    ) -> Result<(), CommitError> {
        if self.find(id)?.is_some() {
            return self.link(id, (parent, name));
        }
        // Nobody will ask for it again. A directory may yet have things in it that are moved out.
        if !self.group.settled.contains_key(&id) && !new.is_directory() {
            return Ok(());
        }
        let (prepared, source) = self.prepare(id, new, at)?;
        let Some(dir) = self.dir(parent)? else {
            // Its directory went before this copy was made; it was moved away first, by a record that follows.
            return self.shelve(&source, id);
        };
        loop {
            let staging = self.store.bottom.staging();
            match renameat2(staging, &*source, &dir.fd, name.as_os_str(), RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => break,
                Err(Errno::EEXIST) => {
                    let Some(taken) = self.entry(&dir, name)? else { continue };
                    if self.id_of(taken.as_fd())? == Some(id) {
                        return self.recognize(id, (parent, name), taken, new);
                    }
                    if self.belongs(taken.as_fd())? {
                        return self.shelve(&source, id);
                    }
                    self.set_aside(&dir, name, taken.as_fd())?;
                }
                Err(errno) => return Err(failed(id, name)(errno).into()),
            }
        }
        Ok(self.placed(id, (parent, name), &dir, prepared.filter(|_| new.is_directory()))?)
    }

    /// Notes that what was prepared has its name; a directory is open.
    fn placed(
        &mut self,
        id: ObjectId,
        (parent, name): Place<'_>,
        dir: &Dir,
        directory: Option<OwnedFd>,
    ) -> Result<(), StoreError> {
        if directory.is_none() && self.staged.get(id).is_some() {
            self.made.insert(id);
            self.consume(id)?;
        } else if self.store.config.on_demand {
            self.made.insert(id);
        }
        if let Some(row) = self.rows.get_mut(id)? {
            row.place = Some((parent, name.clone()));
        }
        self.dressed.insert(id);
        self.invalidate.entries.push((dir.handle, name.clone()));
        if let Some(fd) = directory {
            let handle = self.handle(fd.as_fd())?;
            self.dirs.put(id, Dir { fd: Arc::new(fd), handle });
        }
        Ok(())
    }

    /// Puts what was prepared aside, until a record gives it a place.
    fn shelve(&mut self, source: &CStr, id: ObjectId) -> Result<(), CommitError> {
        let what = format!("putting object {id} into .intermezzo/limbo");
        let name = self.limbo_name();
        renameat2(self.store.bottom.staging(), source, self.store.bottom.limbo(), name.as_str(), RenameFlags::empty())
            .map_err(StoreError::io(what))?;
        if let Some(file) = self.staged.get(id) {
            self.consumed.insert(file.name.clone(), id);
        }
        self.dressed.insert(id);
        Ok(())
    }

    /// The object has this name already: an earlier attempt got here, and its index did not.
    fn recognize(
        &mut self,
        id: ObjectId,
        (parent, name): Place<'_>,
        found: OwnedFd,
        new: New<'_>,
    ) -> Result<(), CommitError> {
        let (handle, attr) = (self.handle(found.as_fd())?, self.attr(found.as_fd())?);
        let version = (attr.kind == Kind::File).then_some(KnownVersion {
            as_of: Position::START,
            size: attr.size,
            mtime: attr.mtime,
        });
        let place = Some((parent, name.clone()));
        self.rows.put(id, Row { handle, stamp: VersionStamp::default(), version, place });
        if matches!(new, New::File) { self.store_content(id) } else { Ok(()) }
    }

    pub(super) fn attr(&self, fd: BorrowedFd<'_>) -> Result<protocol::Attr, StoreError> {
        self.store.bottom.attr(fd).map_err(StoreError::io("reading attributes"))
    }

    /// Makes an object ready in the staging directory, with its identity, attributes and content, and enters it into
    /// the rows without a place. Returns its descriptor, if it was not ready before, and its name there.
    fn prepare(&mut self, id: ObjectId, new: New<'_>, at: Position) -> Result<(Option<OwnedFd>, CString), CommitError> {
        if let (New::File, Some(file), Some(settled)) = (new, self.staged.get(id), self.group.settled.get(&id))
            && let Some(handle) = file.ready
        {
            let (name, attr) = (c_name(&file.name), protocol::Attr { size: file.size, ..settled.attr });
            self.enter(id, handle, &attr, settled.stamp.clone(), at)?;
            return Ok((None, name));
        }
        let staged = match new {
            // Bytes that go on from a version that is not here.
            New::File if self.staged.get(id).is_some_and(|file| file.start > 0) => {
                return Err(CommitError::NotStaged(vec![id]));
            }
            New::File => self.open_staged(id)?,
            _ => None,
        };
        let (fd, source) = match staged {
            Some(staged) => staged,
            None => {
                let fd = self.make(id, new)?;
                match new {
                    New::File if self.store.config.on_demand => self.make_stub(id, fd.as_fd())?,
                    New::Unlisted => {
                        let marked = self.store.bottom.set_absent(fd.as_fd());
                        marked.map_err(StoreError::io(format!("marking directory {id} as absent")))?;
                    }
                    _ => {}
                }
                (fd, NEW.to_owned())
            }
        };
        self.outfit(id, fd.as_fd(), at, true)?;
        Ok((Some(fd), source))
    }

    /// Gives a prepared object all that it is to have, and its row.
    ///
    /// `fresh` objects were made in the staging directory and have no xattrs yet.
    pub(super) fn outfit(
        &mut self,
        id: ObjectId,
        fd: BorrowedFd<'_>,
        at: Position,
        fresh: bool,
    ) -> Result<(), CommitError> {
        let settled = self.group.settled.get(&id).copied();
        let mut attr = self.attr(fd)?;
        if let Some(settled) = settled {
            if settled.attr.kind != attr.kind {
                return Err(CommitError::Peer(format!("object {id} is said to be of two different types")));
            }
            self.dress(fd, settled, fresh)?;
            attr = protocol::Attr { size: attr.size, rdev: attr.rdev, ..settled.attr };
        }
        let stamp = settled.map(|settled| settled.stamp.clone()).unwrap_or_default();
        // In a cache the room in the inode is for the mark of what is absent.
        let settled_here = settled.filter(|_| !self.store.config.on_demand);
        let committed =
            settled_here.map(|_| CommittedVersion { stamp: stamp.clone(), size: attr.size, mtime: attr.mtime });
        self.store
            .bottom
            .set_identity(fd, &Identity { id, committed })
            .map_err(StoreError::io(format!("giving object {id} its identity")))?;
        if attr.kind != Kind::Directory && settled.is_some() {
            crate::sys::set_mtime(fd, attr.mtime).map_err(StoreError::io(format!("setting the mtime of {id}")))?;
        }
        let handle = self.handle(fd)?;
        Ok(self.enter(id, handle, &attr, stamp, at)?)
    }

    /// Enters an object that has all it is to have into the rows.
    fn enter(
        &mut self,
        id: ObjectId,
        handle: Handle,
        attr: &protocol::Attr,
        stamp: VersionStamp,
        at: Position,
    ) -> Result<(), StoreError> {
        let as_of = self.group.stored.get(&id).map_or(at, |(_, at)| *at).max(at);
        let as_of = self.group.timed.get(&id).map_or(as_of, |timed| as_of.max(*timed));
        let (size, mtime) = (attr.size, attr.mtime);
        let version = (attr.kind == Kind::File).then_some(KnownVersion { as_of, size, mtime });
        let place = self.rows.get(id)?.and_then(|row| row.place.clone());
        self.rows.put(id, Row { handle, stamp, version, place });
        Ok(())
    }

    /// Makes an object without content in the staging directory.
    pub(super) fn make(&self, id: ObjectId, new: New<'_>) -> Result<OwnedFd, CommitError> {
        let staging = self.store.bottom.staging();
        let private = Mode::S_IRUSR | Mode::S_IWUSR;
        loop {
            let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
            let made = match new {
                New::File => openat(staging, NEW, flags, private).map(Some),
                New::Directory | New::Unlisted => mkdirat(staging, NEW, Mode::S_IRWXU).map(|()| None),
                New::Symlink(target) => symlinkat(OsStr::from_bytes(target), staging, NEW).map(|()| None),
                New::Node(kind, rdev) => {
                    mknodat(staging, NEW, SFlag::from_bits_truncate(kind), private, rdev).map(|()| None)
                }
            };
            match made {
                Ok(Some(fd)) => return Ok(fd),
                Ok(None) => {
                    let flags = match new {
                        New::Directory | New::Unlisted => OFlag::O_RDONLY | OFlag::O_DIRECTORY,
                        _ => OFlag::O_PATH,
                    };
                    return Ok(open_name(staging, NEW, flags).map_err(StoreError::io("opening a new object"))?);
                }
                // Left behind by an attempt that failed.
                Err(Errno::EEXIST) => self.remove_new()?,
                Err(errno) => return Err(StoreError::io(format!("creating object {id}"))(errno).into()),
            }
        }
    }

    fn remove_new(&self) -> Result<(), StoreError> {
        let staging = self.store.bottom.staging();
        let removed = match unlinkat(staging, NEW, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => unlinkat(staging, NEW, UnlinkatFlags::RemoveDir),
            other => other,
        };
        match removed {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(StoreError::io("removing a leftover in .intermezzo/staging")(errno)),
        }
    }
}

pub(super) fn failed(id: ObjectId, name: &Name) -> impl FnOnce(Errno) -> StoreError {
    StoreError::io(format!("putting object {id} at {name}"))
}
