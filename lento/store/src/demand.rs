//! A client's cache (design D3, D11): objects of which only attributes are here, and how their names and contents come.
//!
//! Such an object has [`protocol::Xattr::ABSENT`]. What is written into it before that goes is never seen: Presto opens no file and
//! lists no directory that has it.

use crate::bottom::Bottom;
use crate::commit::{Committed, move_content, set_size};
use crate::error::{CommitError, StoreError};
use crate::index::Row;
use crate::staged::{Staged, StagedFile};
use crate::store::{Asked, Store, Writer, lock};
use crate::sys;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::{UnlinkatFlags, unlinkat};
use protocol::{Handle, Kind, Name, ObjectId, Position, Shipment, Timestamp};
use std::collections::hash_map::Entry;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// [`protocol::Xattr::ABSENT`] as system calls take it.
const ABSENT: &CStr = c"trusted.intermezzo.absent";

impl Bottom {
    /// Whether an object lacks its names or its content; a descriptor that is `O_PATH` will do.
    pub fn is_absent(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        match sys::get_xattr(fd, ABSENT, &mut [0; 8]) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(crate) fn set_absent(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        sys::set_xattr(fd, ABSENT, &[1])
    }

    pub(crate) fn clear_absent(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        match sys::remove_xattr(fd, ABSENT) {
            Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(()),
            other => other,
        }
    }
}

/// An object that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanting {
    /// Which.
    pub id: ObjectId,
    /// What it is: [`Kind::File`] or [`Kind::Directory`].
    pub kind: Kind,
    /// Its size in bytes.
    pub size: u64,
    /// Whether anything of it is wanting at all.
    pub absent: bool,
}

/// An object of which names or content were brought here, which is the same to programs as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brought {
    /// Which.
    pub handle: Handle,
    /// Its time of last status change before.
    pub before: Timestamp,
    /// And after.
    pub after: Timestamp,
}

/// What became of a content that was to be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// It is here.
    Done(Brought),
    /// It is of a later version than the attributes that are here: records that were shipped, or will be, tell of it.
    Newer(Position),
    /// The object was changed or removed meanwhile, or has its content.
    Superseded,
}

/// A content that came, and where it goes.
struct Filling<'a> {
    id: ObjectId,
    file: &'a StagedFile,
    row: Row,
    /// Its time of last status change before.
    before: Timestamp,
    /// Locked: Presto empties an absent file without asking, under the same lock.
    target: Flock<File>,
    copied: Result<(), StoreError>,
}

impl Store {
    /// The object that an inode is of, if it is one of the file set's that has a name.
    ///
    /// # Errors
    /// [`StoreError::Io`] with `ESTALE` if the inode is gone, or has lost its place to another one.
    pub fn wanting(&self, handle: Handle) -> Result<Wanting, StoreError> {
        let what = "looking at an object that is waited for";
        let stale = || StoreError::io(what)(io::Error::from_raw_os_error(libc::ESTALE));
        let fd = self.bottom.open(handle, OFlag::O_PATH).map_err(StoreError::io(what))?;
        let attr = self.bottom.attr(fd.as_fd()).map_err(StoreError::io(what))?;
        let absent = self.bottom.is_absent(fd.as_fd()).map_err(StoreError::io(what))?;
        let id = if handle == self.bottom.root_handle() {
            ObjectId::ROOT
        } else {
            self.bottom.identity(fd.as_fd()).map_err(StoreError::io(what))?.ok_or_else(stale)?.id
        };
        let row = self.look_up(|index| index.object(id))?.ok_or_else(stale)?;
        if row.handle != handle && self.bottom.open(row.handle, OFlag::O_PATH).is_ok() {
            return Err(stale());
        }
        Ok(Wanting { id, kind: attr.kind, size: attr.size, absent })
    }

    /// Says that the names of a directory are going to be asked for: records that concern them are noted from now on.
    /// `false` if they are being asked for already.
    pub fn begin_listing(&self, directory: ObjectId) -> bool {
        let examined = self.open_object(directory, OFlag::O_PATH).and_then(|fd| self.changed(fd.as_fd()));
        let changed = examined.ok();
        match lock(&self.writer).listings.entry(directory) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(Asked { changed, ..Asked::default() });
                true
            }
        }
    }

    /// Commits, as [`Store::commit`] does, what was made of the listing of a directory.
    ///
    /// # Errors
    /// [`CommitError::Overtaken`] if records that were applied since [`Store::begin_listing`] say more of these objects.
    pub fn commit_listing(&self, directory: ObjectId, shipments: &[Shipment]) -> Result<Committed, CommitError> {
        let mut writer = lock(&self.writer);
        let older = |asked: &Asked| {
            let mut settled = shipments.iter().flat_map(|shipment| &shipment.settled);
            asked.overtaken || settled.any(|settled| asked.objects.contains(&settled.id))
        };
        if writer.listings.get(&directory).is_none_or(older) {
            return Err(CommitError::Overtaken(directory));
        }
        self.commit_into(&mut writer, shipments, &Staged::default())
    }

    /// Says that the names of a directory are here, as they were asked for: it is not absent any more. `None` if a
    /// record was passed over meanwhile that may change them: then they must be asked for again.
    pub fn end_listing(&self, directory: ObjectId) -> Result<Option<Brought>, StoreError> {
        let mut writer = lock(&self.writer);
        let asked = writer.listings.remove(&directory).filter(|asked| !asked.overtaken);
        let Some(before) = asked.map(|asked| asked.changed) else { return Ok(None) };
        let what = || format!("marking directory {directory} as complete");
        let Some(row) = writer.index.object(directory)? else { return Ok(None) };
        let fd = match self.bottom.open(row.handle, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => fd,
            Err(why) if why.raw_os_error() == Some(libc::ESTALE) => return Ok(None),
            Err(why) => return Err(StoreError::io(what())(why)),
        };
        self.bottom.clear_absent(fd.as_fd()).map_err(StoreError::io(what()))?;
        let after = self.changed(fd.as_fd())?;
        Ok(Some(Brought { handle: row.handle, before: before.unwrap_or(after), after }))
    }

    /// Whether an object that is here lacks its names or its content.
    pub fn is_absent(&self, id: ObjectId) -> Result<bool, StoreError> {
        let fd = self.open_object(id, OFlag::O_PATH)?;
        self.bottom.is_absent(fd.as_fd()).map_err(StoreError::io(format!("examining object {id}")))
    }

    /// Gives up a listing that was begun.
    pub fn give_up_listing(&self, directory: ObjectId) {
        lock(&self.writer).listings.remove(&directory);
    }

    /// Marks every directory as absent: what is in them is asked for again when it is used next. Contents stay, and are
    /// compared then.
    pub fn forget_names(&self) -> Result<(), StoreError> {
        let mut writer = lock(&self.writer);
        writer.listings.values_mut().for_each(|asked| asked.overtaken = true);
        for (id, handle) in writer.index.directories()? {
            let what = || format!("marking directory {id} as absent");
            match self.bottom.open(handle, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
                Ok(fd) => self.bottom.set_absent(fd.as_fd()).map_err(StoreError::io(what()))?,
                Err(why) if matches!(why.raw_os_error(), Some(libc::ESTALE | libc::ENOTDIR | libc::ELOOP)) => {}
                Err(why) => return Err(StoreError::io(what())(why)),
            }
        }
        Ok(())
    }

    /// Has the names of the directory asked for anew in which an object was last seen. Returns that place.
    pub fn doubt_names_around(&self, id: ObjectId) -> Result<Option<(Handle, Name)>, StoreError> {
        let writer = lock(&self.writer);
        let Some((parent, name)) = writer.index.object(id)?.and_then(|row| row.place) else { return Ok(None) };
        let Some(handle) = writer.index.object(parent)?.map(|row| row.handle) else { return Ok(None) };
        let what = || format!("marking directory {parent} as absent");
        match self.bottom.open(handle, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => self.bottom.set_absent(fd.as_fd()).map_err(StoreError::io(what()))?,
            Err(why) if why.raw_os_error() == Some(libc::ESTALE) => return Ok(None),
            Err(why) => return Err(StoreError::io(what())(why)),
        }
        Ok(Some((handle, name)))
    }

    /// Whether a new version of a file is wanted at once: it has other names than the one known, so that its inode
    /// must stay, and may be open.
    pub fn keeps_content(&self, id: ObjectId) -> Result<bool, StoreError> {
        let what = || format!("examining object {id}");
        let Some(row) = self.look_up(|index| index.object(id))? else { return Ok(false) };
        let Some(fd) = self.open_row(id, &row)? else { return Ok(false) };
        if self.look_up(|index| index.is_pinned(id))? {
            return Ok(true);
        }
        let several = self.bottom.stat(fd.as_fd()).map_err(StoreError::io(what()))?.st_nlink > 1;
        Ok(several && !self.bottom.is_absent(fd.as_fd()).map_err(StoreError::io(what()))?)
    }

    /// Puts contents that were staged into the files that lack them; their inodes stay. The staged files are removed.
    pub fn fill(&self, contents: &[(ObjectId, Position, StagedFile)]) -> Result<Vec<(ObjectId, Filled)>, StoreError> {
        let mut results = Vec::with_capacity(contents.len());
        let mut fillings = Vec::with_capacity(contents.len());
        for (id, as_of, file) in contents {
            match self.prepare_filling(*id, *as_of)? {
                Ok((row, target)) => {
                    let before = self.changed(target.as_fd())?;
                    let copied = self.copy_staged(*id, file, &row, &target);
                    fillings.push(Filling { id: *id, file, row, before, target, copied });
                }
                Err(why) => results.push((*id, why)),
            }
            if let Err(why) = unlinkat(self.bottom.staging(), file.name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                tracing::debug!(%why, name = %file.name, "a staged file is left to be swept");
            }
        }
        match &fillings[..] {
            [] => {}
            [one] => nix::unistd::fsync(&*one.target).map_err(StoreError::io("making a content durable"))?,
            _ => self.bottom.sync().map_err(StoreError::io("making contents durable"))?,
        }
        let mut writer = lock(&self.writer);
        // Each file's lock goes when its mark has gone.
        for filling in fillings {
            let id = filling.id;
            results.push((id, self.end_filling(&mut writer, filling)?));
        }
        Ok(results)
    }

    /// The file that lacks a content, if it lacks this one.
    fn prepare_filling(&self, id: ObjectId, as_of: Position) -> Result<Result<(Row, Flock<File>), Filled>, StoreError> {
        let what = || format!("filling in the content of object {id}");
        let Some(row) = self.look_up(|index| index.object(id))? else { return Ok(Err(Filled::Superseded)) };
        let Some(version) = row.version else { return Ok(Err(Filled::Superseded)) };
        if as_of > version.as_of {
            return Ok(Err(Filled::Newer(as_of)));
        }
        let target = match self.bottom.open(row.handle, OFlag::O_RDWR) {
            Ok(target) => match try_lock(target).map_err(StoreError::io(what()))? {
                Some(target) => target,
                None => return Ok(Err(Filled::Superseded)),
            },
            Err(why) if why.raw_os_error() == Some(libc::ESTALE) => return Ok(Err(Filled::Superseded)),
            Err(why) => return Err(StoreError::io(what())(why)),
        };
        if !self.bottom.is_absent(target.as_fd()).map_err(StoreError::io(what()))? {
            return Ok(Err(Filled::Superseded));
        }
        Ok(Ok((row, target)))
    }

    fn copy_staged(&self, id: ObjectId, file: &StagedFile, row: &Row, target: &File) -> Result<(), StoreError> {
        let what = || format!("filling in the content of object {id}");
        let source = self.bottom.open_at(self.bottom.staging(), &file.name, OFlag::O_RDWR);
        let source = source.map_err(StoreError::io(what()))?;
        let copied = move_content(source.as_fd(), target.as_fd());
        if let Some(version) = row.version {
            sys::set_mtime(target.as_fd(), version.mtime).map_err(StoreError::io(what()))?;
        }
        copied.map_err(StoreError::io(what()))
    }

    fn changed(&self, fd: BorrowedFd<'_>) -> Result<Timestamp, StoreError> {
        let stat = self.bottom.stat(fd).map_err(StoreError::io("examining what is brought here"))?;
        Ok(Timestamp { secs: stat.st_ctime, nanos: stat.st_ctime_nsec as u32 })
    }

    /// Removes the mark, if nothing happened to the object meanwhile.
    fn end_filling(&self, writer: &mut Writer, filling: Filling<'_>) -> Result<Filled, StoreError> {
        let Filling { id, file, row, before, target, copied } = filling;
        let what = || format!("filling in the content of object {id}");
        let now = writer.index.object(id)?;
        let version = now.as_ref().filter(|now| now.handle == row.handle).and_then(|now| now.version);
        let Some(version) = version else { return Ok(Filled::Superseded) };
        let restore = || {
            set_size(target.as_fd(), version.size)?;
            sys::set_mtime(target.as_fd(), version.mtime)
        };
        if Some(version) != row.version || version.size != file.size {
            restore().map_err(StoreError::io(what()))?;
            return Ok(Filled::Superseded);
        }
        if let Err(why) = copied {
            restore().map_err(StoreError::io(what()))?;
            return Err(why);
        }
        sys::set_mtime(target.as_fd(), version.mtime).map_err(StoreError::io(what()))?;
        self.bottom.clear_absent(target.as_fd()).map_err(StoreError::io(what()))?;
        self.note_cached(&writer.index, id, file.size)?;
        if file.size > protocol::limits::INLINE_CONTENT_BYTES {
            writer.index.put_hash(id, version.size, version.mtime, &file.hash)?;
        }
        Ok(Filled::Done(Brought { handle: row.handle, before, after: self.changed(target.as_fd())? }))
    }
}

/// Locks an absent file against being emptied by a program meanwhile; `None` if that is being done, or it is being filled.
/// Nobody waits for a lock who has others.
pub(crate) fn try_lock(file: OwnedFd) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock) {
        Ok(locked) => Ok(Some(locked)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}
