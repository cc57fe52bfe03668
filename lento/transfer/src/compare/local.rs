//! What is here of a directory that is being compared.

use crate::{error::TransferError, list::open_entry};
use lento_store::Store;
use nix::{fcntl::OFlag, sys::stat::fstat};
use protocol::{Attr, Kind, Name, ObjectId, Settled, Xattr};
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// An object that is here.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) id: Option<ObjectId>,
    pub(super) attr: Attr,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) target: Vec<u8>,
    pub(super) links: u64,
}

impl Local {
    pub(super) fn read(store: &Store, fd: BorrowedFd<'_>) -> io::Result<Self> {
        let bottom = store.bottom();
        let attr = bottom.attr(fd)?;
        Ok(Self {
            id: bottom.identity(fd)?.map(|identity| identity.id),
            xattrs: bottom.xattrs(fd)?,
            target: if attr.kind == Kind::Symlink { bottom.readlink(fd)? } else { Vec::new() },
            links: fstat(fd)?.st_nlink,
            attr,
        })
    }

    /// Whether it can become what is listed without being made anew: what is fixed when an object is made is the same.
    pub(super) fn is_alike(&self, settled: &Settled) -> bool {
        (self.attr.kind, self.attr.rdev) == (settled.attr.kind, settled.attr.rdev) && self.target == settled.target
    }

    /// Whether it has other attributes than what is listed; content and a file's time of modification apart.
    pub(super) fn differs(&self, settled: &Settled) -> bool {
        let of = |attr: &Attr| (attr.mode, attr.uid, attr.gid);
        let mode = if self.attr.kind == Kind::Symlink {
            (self.attr.uid, self.attr.gid) != (settled.attr.uid, settled.attr.gid)
        } else {
            of(&self.attr) != of(&settled.attr)
        };
        let mtime = self.attr.kind != Kind::File && self.attr.mtime != settled.attr.mtime;
        mode || mtime || self.xattrs != settled.xattrs
    }

    pub(super) fn has_version(&self, size: u64, mtime: protocol::Timestamp) -> bool {
        (self.attr.size, self.attr.mtime) == (size, mtime)
    }
}

/// Opens a directory by id.
pub(super) fn open_directory(store: &Store, id: ObjectId) -> Result<OwnedFd, TransferError> {
    Ok(store.open_object(id, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME)?)
}

/// Everything that is in a directory here.
pub(super) fn read_directory(store: &Store, id: ObjectId) -> Result<HashMap<Name, Local>, TransferError> {
    let dir = open_directory(store, id)?;
    let failed = |why: io::Error| TransferError::io(format!("reading directory {id}"), why);
    let mut found = HashMap::new();
    for entry in store.bottom().read_dir(dir.as_fd()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(fd) = open_entry(store, dir.as_fd(), &entry).map_err(failed)? {
            found.insert(entry.name, Local::read(store, fd.as_fd()).map_err(failed)?);
        }
    }
    Ok(found)
}
