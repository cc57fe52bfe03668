//! Lists a tree for a peer (FetchDir, recursive): names, ids, stamps and attributes, no content.

use crate::{
    error::{Emit, TransferError},
    packer::Packer,
};
use lento_store::{DirEntry, Store, StoreError};
use nix::{errno::Errno, fcntl::OFlag};
use protocol::{Handle, Kind, Listing, ListingEntry, Name, ObjectId, Position, Settled, VersionStamp, limits};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// What an entry takes in a packet beyond its name, target and extended attributes, about.
const ENTRY_BYTES: usize = 96;
/// Entries whose stamps are looked up at once.
const GROUP: usize = 1024;

/// Emits, as bodies of data packets, the [`Listing`] of `root` and what is in it, if `deep` all below it, each directory
/// before what is in it; a root that does not exist has an empty listing. What vanishes meanwhile is left out. Returns where this store's history
/// stood before listing began: a log replayed from there on makes the listing exact.
///
/// # Errors
/// [`TransferError::Stopped`] if `emit` says so, [`TransferError::Store`] and [`TransferError::Io`] if reading fails.
pub fn list(store: &Store, root: ObjectId, deep: bool, emit: &mut Emit<'_>) -> Result<Position, TransferError> {
    let own = store.absorb()?;
    let after = store.applied()?.values().copied().fold(own, Position::max);
    let mut lister = Lister { store, packer: Packer::new(emit), entries: Vec::new(), bytes: 0 };
    let fd = match store.open_object(root, OFlag::O_PATH) {
        Ok(fd) => fd,
        Err(StoreError::NotFound(_)) => return Ok(after),
        Err(why) => return Err(why.into()),
    };
    let (mut settled, handle) = lister.examine(fd.as_fd(), root)?;
    settled.stamp = store.object_stamp(root)?.unwrap_or_default();
    let mut directories = Vec::new();
    if settled.attr.kind == Kind::Directory {
        directories.push((root, handle));
    }
    let name = Name::new(b"root")?;
    lister.add(ObjectId::ROOT, ListingEntry { name, is_root: true, settled })?;
    lister.item(ObjectId::ROOT, true)?;
    while let Some((id, handle)) = directories.pop() {
        lister.directory(id, handle, &mut directories)?;
        if !deep {
            break;
        }
    }
    lister.packer.finish()?;
    Ok(after)
}

struct Lister<'a, 'e> {
    store: &'a Store,
    packer: Packer<'a, 'e>,
    /// Entries of the item that is being filled, and about how many bytes they take.
    entries: Vec<ListingEntry>,
    bytes: usize,
}

impl Lister<'_, '_> {
    fn directory(
        &mut self,
        id: ObjectId,
        handle: Handle,
        directories: &mut Vec<(ObjectId, Handle)>,
    ) -> Result<(), TransferError> {
        let failed = |why: io::Error| TransferError::io(format!("listing directory {id}"), why);
        let bottom = self.store.bottom();
        let dir = match bottom.open(handle, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME) {
            Ok(dir) => dir,
            Err(why) if is_gone(&why) => return self.item(id, true),
            Err(why) => return Err(failed(why)),
        };
        let read = bottom.read_dir(dir.as_fd()).map_err(failed)?;
        let mut names = read.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        // In the order in which inodes lie on the disk, which is also a good one to make them in.
        names.sort_unstable_by_key(|entry| entry.ino);
        for group in names.chunks(GROUP) {
            self.group(id, dir.as_fd(), group, directories)?;
        }
        self.item(id, true)
    }

    /// Lists some entries of a directory.
    fn group(
        &mut self,
        id: ObjectId,
        dir: BorrowedFd<'_>,
        names: &[DirEntry],
        directories: &mut Vec<(ObjectId, Handle)>,
    ) -> Result<(), TransferError> {
        let failed = |why: io::Error| TransferError::io(format!("listing directory {id}"), why);
        let mut found = Vec::with_capacity(names.len());
        for entry in names {
            let fd = match open_entry(self.store, dir, entry) {
                Ok(Some(fd)) => fd,
                Ok(None) => continue,
                Err(why) => return Err(failed(why)),
            };
            match self.identify(fd.as_fd()) {
                Ok(Some(child)) => {
                    let (settled, handle) = self.examine(fd.as_fd(), child)?;
                    if settled.attr.kind == Kind::Directory {
                        directories.push((child, handle));
                    }
                    found.push(ListingEntry { name: entry.name.clone(), is_root: false, settled });
                }
                Ok(None) => {
                    tracing::warn!(directory = %id, name = %entry.name, "an object without identity is not listed")
                }
                Err(why) => return Err(failed(why)),
            }
        }
        let ahead = self.store.look_ahead(found.iter().map(|entry| entry.settled.id))?;
        for mut entry in found {
            entry.settled.stamp = ahead.stamp(entry.settled.id).cloned().unwrap_or_default();
            self.add(id, entry)?;
        }
        Ok(())
    }

    fn identify(&self, fd: BorrowedFd<'_>) -> io::Result<Option<ObjectId>> {
        Ok(self.store.bottom().identity(fd)?.map(|identity| identity.id))
    }

    /// All of an object but its stamp.
    fn examine(&self, fd: BorrowedFd<'_>, id: ObjectId) -> Result<(Settled, Handle), TransferError> {
        let bottom = self.store.bottom();
        let read = || -> io::Result<_> {
            let attr = bottom.attr(fd)?;
            let target = if attr.kind == Kind::Symlink { bottom.readlink(fd)? } else { Vec::new() };
            // The handle is needed to go down only.
            let handle = if attr.kind == Kind::Directory { bottom.handle(fd)? } else { Handle(0) };
            Ok((attr, bottom.xattrs(fd)?, target, handle))
        };
        let (attr, xattrs, target, handle) =
            read().map_err(|why| TransferError::io(format!("reading object {id}"), why))?;
        Ok((Settled { id, attr, stamp: VersionStamp::default(), xattrs, target }, handle))
    }

    /// Adds an entry of `directory`; an item is closed when it has grown to its bounds.
    fn add(&mut self, directory: ObjectId, entry: ListingEntry) -> Result<(), TransferError> {
        let xattrs = entry.settled.xattrs.iter().map(|x| x.name.len() + x.value.len() + 8).sum::<usize>();
        let bytes = ENTRY_BYTES + entry.name.as_bytes().len() + entry.settled.target.len() + xattrs;
        if bytes > limits::PACKET_BODY_BYTES / 2 || entry.settled.xattrs.len() > limits::XATTRS {
            return Err(TransferError::io(
                format!("listing the extended attributes of object {}", entry.settled.id),
                Errno::E2BIG,
            ));
        }
        if self.entries.len() == limits::LISTING_ENTRIES || self.bytes + bytes > limits::DATA_CHUNK_BYTES {
            self.item(directory, false)?;
        }
        self.entries.push(entry);
        self.bytes += bytes;
        Ok(())
    }

    fn item(&mut self, directory: ObjectId, last: bool) -> Result<(), TransferError> {
        let entries = std::mem::take(&mut self.entries);
        self.bytes = 0;
        let mut encoded = Vec::new();
        Listing { directory, entries, last }.append_to(&mut encoded)?;
        self.packer.push_encoded(&encoded)
    }
}

fn is_gone(why: &io::Error) -> bool {
    matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
}

/// Opens an entry so that its attributes can be read at the least cost: files and directories for reading, which makes
/// `fgetxattr` work, all else by path. `None` if it is gone, or something is mounted there.
pub(crate) fn open_entry(store: &Store, dir: BorrowedFd<'_>, entry: &DirEntry) -> io::Result<Option<OwnedFd>> {
    let flags = match entry.kind {
        Some(Kind::File) => OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOATIME,
        Some(Kind::Directory) => OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME,
        _ => OFlag::O_PATH,
    };
    let opened = match store.bottom().open_at(dir, &entry.name, flags) {
        // It became something else since the directory was read.
        Err(why) if matches!(why.raw_os_error(), Some(libc::ELOOP | libc::ENXIO | libc::ENOTDIR | libc::ETXTBSY)) => {
            store.bottom().open_at(dir, &entry.name, OFlag::O_PATH)
        }
        opened => opened,
    };
    match opened {
        Ok(fd) => Ok(Some(fd)),
        Err(why) if is_gone(&why) => Ok(None),
        Err(why) if why.raw_os_error() == Some(libc::EXDEV) => {
            tracing::warn!(name = %entry.name, "what is mounted inside the store is left out");
            Ok(None)
        }
        Err(why) => Err(why),
    }
}
