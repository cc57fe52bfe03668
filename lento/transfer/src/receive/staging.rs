//! Files in `.intermezzo/staging`: complete ones under names of their own, unfinished ones as `<object>.part`.

use super::part::Old;
use crate::{error::Fault, io::hash_prefix};
use lento_store::{KnownVersion, Store};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat},
    sys::stat::{Mode, fstat},
    unistd::{UnlinkatFlags, unlinkat},
};
use protocol::{Handle, Kind, Name, ObjectId, Settled, Timestamp};
use std::{
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
    sync::atomic::{AtomicU64, Ordering},
    thread::JoinHandle,
};

/// Files of less than this are sent whole, and are not kept when their transfer is interrupted.
pub(super) const LARGE: u64 = 1 << 20;

/// Files of at least this may be appended to in place: copying a smaller one costs little.
const APPEND_MIN: u64 = 8 << 20;

/// Tells complete files of this process apart; files that an earlier process left are replaced.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// A name for one more complete content of an object.
fn fresh_name(id: ObjectId) -> Result<Name, Errno> {
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    Name::new(format!("{id}-{serial}").as_bytes()).map_err(|_| Errno::EINVAL)
}

fn part_name(id: ObjectId) -> String {
    format!("{id}.part")
}

const CREATE: OFlag = OFlag::O_RDWR.union(OFlag::O_CREAT).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// A file in the staging directory that is being written.
#[derive(Debug)]
pub(super) struct Growing {
    file: Flock<File>,
    name: Name,
    /// Whether it has the name by which an interrupted transfer of its object is found.
    resumable: bool,
}

impl Growing {
    /// Creates an empty file, under the name of a part unless another transfer of that object writes that.
    pub(super) fn create(staging: BorrowedFd<'_>, id: ObjectId) -> Result<Self, Errno> {
        if let Some(part) = Self::part(staging, id, true)? {
            // ext4 writes a file that was ever cut to nothing to the disk when it is closed, and we would wait for that.
            if fstat(&*part.file)?.st_size > 0 {
                part.file.set_len(0).map_err(|e| Fault::from(e).0)?;
            }
            return Ok(part);
        }
        Self::fresh(staging, id)
    }

    /// Creates an empty file under a name of its own: it cannot be resumed.
    pub(super) fn fresh(staging: BorrowedFd<'_>, id: ObjectId) -> Result<Self, Errno> {
        let name = fresh_name(id)?;
        let file = openat(staging, name.as_os_str(), CREATE | OFlag::O_TRUNC, MODE)?;
        let file = Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock).map_err(|(_, why)| why)?;
        Ok(Self { file, name, resumable: false })
    }

    /// What an interrupted transfer left, if it is large and no other transfer goes on with it.
    pub(super) fn resumable(staging: BorrowedFd<'_>, id: ObjectId) -> Result<Option<(Self, u64)>, Errno> {
        let Some(part) = Self::part(staging, id, false)? else { return Ok(None) };
        let size = fstat(&*part.file)?.st_size as u64;
        Ok((size >= LARGE).then_some((part, size)))
    }

    fn part(staging: BorrowedFd<'_>, id: ObjectId, create: bool) -> Result<Option<Self>, Errno> {
        let name = part_name(id);
        let flags = if create { CREATE } else { CREATE.difference(OFlag::O_CREAT) };
        let file = match openat(staging, name.as_str(), flags, MODE) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(why) => return Err(why),
        };
        let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        // It may have been renamed or removed by who held the lock before.
        if fstat(&*file)?.st_nlink == 0 || !is_at(staging, &name, &file)? {
            return Ok(None);
        }
        let name = Name::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
        Ok(Some(Self { file, name, resumable: true }))
    }

    /// Another descriptor of the same file and lock.
    pub(super) fn file(&self) -> Result<File, Errno> {
        self.file.try_clone().map_err(|e| Fault::from(e).0)
    }

    /// Gives the complete file a name of its own.
    pub(super) fn complete(self, staging: BorrowedFd<'_>, id: ObjectId) -> Result<Name, Errno> {
        let name = fresh_name(id)?;
        renameat(staging, self.name.as_os_str(), staging, name.as_os_str())?;
        Ok(name)
    }

    /// Removes it, unless it is worth being resumed.
    pub(super) fn give_up(self, staging: BorrowedFd<'_>, keep: bool) {
        if !(keep && self.resumable) {
            remove(staging, &self.name);
        }
    }
}

fn is_at(staging: BorrowedFd<'_>, name: &str, file: &File) -> Result<bool, Errno> {
    match nix::sys::stat::fstatat(staging, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(stat.st_ino == fstat(file)?.st_ino),
        Err(Errno::ENOENT) => Ok(false),
        Err(why) => Err(why),
    }
}

/// Writes a small complete content; of a `new` object with all that is said of it, and tells its handle then.
pub(super) fn write_small(
    store: &Store,
    id: ObjectId,
    bytes: &[u8],
    new: Option<&Settled>,
) -> Result<(Name, Option<Handle>), Errno> {
    let staging = store.bottom().staging();
    let name = fresh_name(id)?;
    let file = File::from(openat(staging, name.as_os_str(), CREATE | OFlag::O_TRUNC, MODE)?);
    let ready = || new.map(|settled| store.make_ready(file.as_fd(), bytes.len() as u64, settled)).transpose();
    match file.write_all_at(bytes, 0).and_then(|()| ready()) {
        Ok(ready) => Ok((name, ready)),
        Err(why) => {
            remove(staging, &name);
            Err(Fault::from(why).0)
        }
    }
}

/// Removes a file of the staging directory; if that fails it is swept away with the next start.
pub(super) fn remove(staging: BorrowedFd<'_>, name: &Name) {
    if let Err(why) = unlinkat(staging, name.as_os_str(), UnlinkatFlags::NoRemoveDir)
        && why != Errno::ENOENT
    {
        tracing::warn!(%name, %why, "a staged file could not be removed");
    }
}

/// Removes what interrupted transfers of an object left.
pub(super) fn remove_part(staging: BorrowedFd<'_>, id: ObjectId) {
    if let Ok(Some(part)) = Growing::part(staging, id, false) {
        part.give_up(staging, false);
    }
}

/// Makes a complete file durable.
pub(super) fn sync(staging: BorrowedFd<'_>, name: &Name) -> Result<(), Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(staging, name.as_os_str(), flags, Mode::empty())?;
    nix::unistd::fsync(&file)
}

/// The version of a file that is here, of at least `least` bytes, with its time of modification.
pub(super) fn old_version(store: &Store, id: ObjectId, least: u64) -> Option<(Old, Timestamp)> {
    let fd = store.open_object(id, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NOATIME).ok()?;
    if store.config().on_demand && store.bottom().is_absent(fd.as_fd()).unwrap_or(true) {
        return None;
    }
    let attr = store.bottom().attr(fd.as_fd()).ok()?;
    (attr.kind == Kind::File && attr.size >= least).then(|| (Old { file: File::from(fd), size: attr.size }, attr.mtime))
}

/// The bytes of an old version, hashed, so that what follows them can be added: ready, or being done meanwhile.
pub(super) enum Hashed {
    Ready(Box<blake3::Hasher>),
    Running(JoinHandle<Option<Box<blake3::Hasher>>>),
}

impl Hashed {
    /// Waits until it is done; `None` if the version could not be read, or is not that of which `hash` is.
    pub(super) fn wait(self, hash: &[u8; 32]) -> Option<Box<blake3::Hasher>> {
        let hasher = match self {
            Self::Ready(hasher) => hasher,
            Self::Running(thread) => thread.join().ok()??,
        };
        (hasher.finalize() == *hash).then_some(hasher)
    }
}

/// What the peer is told of an old version.
pub(super) struct OldHash {
    pub(super) hash: [u8; 32],
    /// For a version that may be appended to.
    pub(super) hashed: Option<Hashed>,
}

/// The hash of the old version: remembered, or made now. Where it is remembered and the version may be appended to, it
/// is hashed `in_background`, while the peer does the same with its own. Nothing is looked up unless `remembered` hashes are believed.
pub(super) fn hash_of_old(
    store: &Store,
    id: ObjectId,
    old: Old,
    mtime: Timestamp,
    (in_background, remembered): (bool, bool),
) -> Option<OldHash> {
    let Old { file, size } = old;
    let is_version = |version: KnownVersion| (version.size, version.mtime) == (size, mtime);
    let appendable = size >= APPEND_MIN && store.version(id).ok().flatten().is_some_and(is_version);
    let all = move |file: &File| {
        let mut hasher = Box::new(blake3::Hasher::new());
        hash_prefix(file, size, &mut hasher).unwrap_or(false).then_some(hasher)
    };
    if remembered && let Ok(Some(hash)) = store.hash_of(id, size, mtime) {
        let running = (appendable && in_background).then(|| Hashed::Running(std::thread::spawn(move || all(&file))));
        return Some(OldHash { hash, hashed: running });
    }
    let hasher = all(&file)?;
    let hash = hasher.finalize().into();
    let unchanged = store.bottom().attr(file.as_fd()).is_ok_and(|attr| (attr.size, attr.mtime) == (size, mtime));
    if unchanged
        && size >= LARGE
        && let Err(why) = store.remember_hash(id, size, mtime, &hash)
    {
        tracing::debug!(%id, %why, "a hash could not be remembered");
    }
    Some(OldHash { hash, hashed: (appendable && unchanged).then_some(Hashed::Ready(hasher)) })
}
