//! Contents in a commit: a staged file takes the place of the old inode, or is copied into it if that has several names.

use super::Commit;
use super::dirs::Dir;
use crate::bottom::{c_name, open_name};
use crate::error::{CommitError, StoreError};
use crate::index::Copy;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, copy_file_range, fallocate, renameat};
use nix::unistd::{Whence, fsync, ftruncate, lseek};
use protocol::{Name, ObjectId, Position, limits};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes that are in two places at most while a content is moved.
const MOVED_AT_ONCE: i64 = 16 << 20;

impl Commit<'_> {
    /// Opens the staged content of an object. `None` if there is none, or it is in place already.
    pub(super) fn open_staged(&self, id: ObjectId) -> Result<Option<(OwnedFd, CString)>, CommitError> {
        let Some(file) = self.staged.get(id) else { return Ok(None) };
        let what = || format!("opening staged file {} of object {id}", file.name);
        let name = c_name(&file.name);
        let fd = match open_name(self.store.bottom.staging(), &name, OFlag::O_RDONLY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.consumed.get(&file.name) == Some(&id) => {
                return Ok(None);
            }
            other => other.map_err(StoreError::io(what()))?,
        };
        let size = self.attr(fd.as_fd())?.size;
        if size != file.size {
            let why = format!("it has {size} bytes instead of {}", file.size);
            return Err(StoreError::io(what())(io::Error::new(io::ErrorKind::InvalidData, why)).into());
        }
        Ok(Some((fd, name)))
    }

    /// Puts the staged content of an object that exists into place.
    pub(super) fn store_content(&mut self, id: ObjectId) -> Result<(), CommitError> {
        if self.made.contains(&id) {
            return Ok(());
        }
        let Some((staged, source)) = self.open_staged(id)? else { return Ok(()) };
        if !self.group.settled.contains_key(&id) {
            return Ok(());
        }
        let Some(old) = self.find(id)? else { return Ok(()) };
        let stat = self.store.bottom.stat(old.as_fd()).map_err(StoreError::io(format!("examining object {id}")))?;
        let handle = self.handle(old.as_fd())?;
        let at = self.group.stored.get(&id).map_or(Position::START, |(_, at)| *at);
        let mut place: Option<(ObjectId, Dir, Name)> = None;
        if stat.st_nlink == 1
            && let Some((parent, name)) = self.rows.get(id)?.and_then(|row| row.place.clone())
            && let Some(dir) = self.dir(parent)?
            && let Some(entry) = self.entry(&dir, &name)?
            && self.handle(entry.as_fd())? == handle
        {
            place = Some((parent, dir, name));
        }
        let start = self.staged.get(id).map_or(0, |file| file.start);
        if start > 0 && !self.goes_on_from(id, old.as_fd(), start)? {
            return Err(CommitError::NotStaged(vec![id]));
        }
        let place = place.filter(|_| start == 0);
        let Some((parent, dir, name)) = place else { return self.copy_into(id, &staged, handle, at) };
        self.outfit(id, staged.as_fd(), at, true)?;
        self.keeping_mtime(Some(parent), dir.fd.as_fd(), |commit| {
            renameat(commit.store.bottom.staging(), &*source, &dir.fd, name.as_os_str())
                .map_err(StoreError::io(format!("putting the content of object {id} into place")))
        })?;
        self.dressed.insert(id);
        self.invalidate.entries.push((dir.handle, name));
        self.invalidate.replaced.push(handle);
        Ok(self.consume(id)?)
    }

    /// Whether the staged content goes on from the version that is here, or that was begun to be appended to.
    fn goes_on_from(&mut self, id: ObjectId, old: BorrowedFd<'_>, start: u64) -> Result<bool, CommitError> {
        let attr = self.attr(old)?;
        let version = self.rows.get(id)?.and_then(|row| row.version);
        if version.is_some_and(|version| (version.size, version.mtime) == (attr.size, attr.mtime)) && attr.size == start
        {
            return Ok(true);
        }
        let staged = self.staged.get(id).map(|file| &file.name);
        Ok(self.index.copies()?.iter().any(|copy| copy.id == id && Some(&copy.staged) == staged))
    }

    /// Copies the staged content into the inode: other names must go on naming it, or it is just appended to (a large
    /// file is not written anew for a few bytes; what readers may see half of is the end of it). A crash in the middle is made
    /// good when the store is opened again: the intent is in the index, durably, first.
    fn copy_into(
        &mut self,
        id: ObjectId,
        staged: &OwnedFd,
        handle: protocol::Handle,
        at: Position,
    ) -> Result<(), CommitError> {
        let Some(settled) = self.group.settled.get(&id).copied() else { return Ok(()) };
        let Some(file) = self.staged.get(id) else { return Ok(()) };
        let copy = Copy { id, staged: file.name.clone(), mtime: settled.attr.mtime, start: file.start };
        self.index.transaction(true, |index| index.put_copy(&copy))?;
        self.copied.push(id);
        let what = || format!("copying the content of object {id} into its inode");
        let target = self.store.bottom.open(handle, OFlag::O_WRONLY).map_err(StoreError::io(what()))?;
        copy_content(staged.as_fd(), target.as_fd(), copy.start).map_err(StoreError::io(what()))?;
        fsync(&target).map_err(StoreError::io(what()))?;
        self.outfit(id, target.as_fd(), at, false)?;
        self.dressed.insert(id);
        self.invalidate.objects.push(handle);
        Ok(self.consume(id)?)
    }

    /// Changes entries of a directory that the records do not change: it keeps its mtime.
    pub(super) fn keeping_mtime<T>(
        &self,
        dir: Option<ObjectId>,
        fd: BorrowedFd<'_>,
        work: impl FnOnce(&Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if dir.is_some_and(|dir| self.group.settled.contains_key(&dir)) {
            return work(self);
        }
        let before = self.attr(fd)?.mtime;
        let result = work(self)?;
        sys::set_mtime(fd, before).map_err(StoreError::io("keeping the mtime of a directory"))?;
        Ok(result)
    }

    /// Notes that a staged file is in place, and remembers the hash of a large one.
    pub(super) fn consume(&mut self, id: ObjectId) -> Result<(), StoreError> {
        let Some(file) = self.staged.get(id) else { return Ok(()) };
        self.consumed.insert(file.name.clone(), id);
        if file.size > limits::INLINE_CONTENT_BYTES
            && let Some(version) = self.rows.get(id)?.and_then(|row| row.version)
        {
            self.index.put_hash(id, version.size, version.mtime, &file.hash)?;
        }
        Ok(())
    }
}

/// Makes the content of `to` from `start` on that of `from`, holes included.
pub(crate) fn copy_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64) -> io::Result<()> {
    let end = nix::sys::stat::fstat(from)?.st_size;
    let mut at = start.try_into().unwrap_or(end);
    while at < end {
        let data = match lseek(from, at, Whence::SeekData) {
            Ok(data) => data,
            Err(Errno::ENXIO) => end,
            Err(errno) => return Err(errno.into()),
        };
        if data > at {
            punch(to, at, data)?;
        }
        if data >= end {
            break;
        }
        let hole = lseek(from, data, Whence::SeekHole)?.min(end);
        copy_range(from, to, data, hole)?;
        at = hole;
    }
    Ok(ftruncate(to, end)?)
}

/// Makes the content of `to` that of `from`, which has nothing but holes afterwards: there is room for one of them only.
pub(crate) fn move_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let end = nix::sys::stat::fstat(from)?.st_size;
    if end <= MOVED_AT_ONCE {
        return copy_content(from, to, 0);
    }
    let mut at = 0;
    while at < end {
        let data = match lseek(from, at, Whence::SeekData) {
            Ok(data) => data,
            Err(Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let until = lseek(from, data, Whence::SeekHole)?.min(data + MOVED_AT_ONCE).min(end);
        copy_range(from, to, data, until)?;
        punch(from, data, until)?;
        at = until;
    }
    Ok(ftruncate(to, end)?)
}

/// Makes a hole, as far as the file reaches.
fn punch(to: BorrowedFd<'_>, from: i64, until: i64) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(to, flags, from, until - from) {
        // ext2 and ext3 cannot: what is behind is cut off, and grows again as zeros.
        Err(Errno::EOPNOTSUPP) => Ok(ftruncate(to, from)?),
        other => Ok(other?),
    }
}

fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: i64, end: i64) -> io::Result<()> {
    let (mut source, mut target) = (start, start);
    while source < end {
        let len = usize::try_from(end - source).unwrap_or(usize::MAX);
        if copy_file_range(from, Some(&mut source), to, Some(&mut target), len)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
    }
    Ok(())
}
