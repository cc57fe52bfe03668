//! The bottom's tree, seen by recovery: directories by id, entries with their ids, and a walk over all objects.

use crate::{
    filter::{Error, Result, identity},
    sys::{Bottom, Stat, XattrTarget, c_string, stat_at},
};
use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::OFlag,
    sys::stat::Mode,
};
use protocol::{Handle, HostId, Name, ObjectId};
use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
};

/// An entry as it is in the bottom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) handle: Handle,
    pub(super) stat: Stat,
    /// `None` if the object has no identity yet.
    pub(super) id: Option<ObjectId>,
}

/// Is told of each object: its directory, open and by id, its name there, and what it is.
pub(super) type Visit<'v> = dyn FnMut((&OwnedFd, ObjectId), &Name, &Found) -> Result<()> + 'v;

/// The tree.
pub(super) struct Tree<'a> {
    pub(super) bottom: &'a Bottom,
    pub(super) host: HostId,
    /// All directories by id, once they were needed.
    directories: Option<HashMap<ObjectId, Handle>>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(bottom: &'a Bottom, host: HostId) -> Self {
        Self { bottom, host, directories: None }
    }

    /// The id of an object opened with `O_PATH`.
    pub(super) fn id_of(&self, fd: &OwnedFd) -> Result<Option<ObjectId>> {
        identity::read(XattrTarget::path_fd(fd))
    }

    /// A directory by its id; `None` if there is none.
    pub(super) fn directory(&mut self, id: ObjectId) -> Result<Option<OwnedFd>> {
        if id == ObjectId::ROOT {
            return Ok(Some(self.open_dir(self.bottom.root_handle)?));
        }
        if self.directories.is_none() {
            let mut found = HashMap::new();
            self.walk(false, &mut |_, _, entry: &Found| {
                if let Some(id) = entry.id {
                    found.insert(id, entry.handle);
                }
                Ok(())
            })?;
            self.directories = Some(found);
        }
        let handle = self.directories.as_ref().and_then(|all| all.get(&id)).copied();
        handle.map(|handle| self.open_dir(handle)).transpose()
    }

    /// Whether an entry's object is absent but for its attributes (a client's cache).
    pub(super) fn is_absent(&self, dir: &OwnedFd, name: &[u8]) -> Result<bool> {
        identity::is_absent(XattrTarget::entry(dir, &c_string(name)?))
    }

    /// Whether the names in a directory are absent: then one that is not there may still exist.
    pub(super) fn lacks_names(&self, dir: &OwnedFd) -> Result<bool> {
        identity::is_absent(XattrTarget::fd(dir))
    }

    /// A directory was made known to be somewhere.
    pub(super) fn note_directory(&mut self, id: ObjectId, handle: Handle) {
        if let Some(all) = &mut self.directories {
            all.insert(id, handle);
        }
    }

    fn open_dir(&self, handle: Handle) -> Result<OwnedFd> {
        Ok(self.bottom.open(handle, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)
    }

    /// What an entry names now.
    pub(super) fn entry(&self, dir: &OwnedFd, name: &[u8]) -> Result<Option<Found>> {
        let name = c_string(name)?;
        let handle = match self.bottom.handle_of(dir, &name) {
            Ok(handle) => handle,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let id = identity::read(XattrTarget::entry(dir, &name))?;
        Ok(Some(Found { handle, stat: stat_at(dir, &name)?, id }))
    }

    /// Where a symbolic link points to.
    pub(super) fn target(&self, link: Handle) -> Result<Vec<u8>> {
        let fd = self.bottom.open(link, OFlag::O_PATH)?;
        let target = nix::fcntl::readlinkat(&fd, "")?;
        Ok(std::os::unix::ffi::OsStringExt::into_vec(target))
    }

    /// Gives an entry's object its identity.
    pub(super) fn give_id(&self, dir: &OwnedFd, name: &[u8], id: ObjectId) -> Result<()> {
        identity::write(XattrTarget::entry(dir, &c_string(name)?), id)
    }

    /// Visits every object but the root, directories before what is in them, with the directory (open, and its id) and
    /// the name that it was found under. With `files` false only directories.
    pub(super) fn walk(&self, files: bool, visit: &mut Visit<'_>) -> Result<()> {
        // By handle, not by descriptor: as deep and wide as the tree may be, one directory is open at a time.
        let mut todo = vec![(self.bottom.root_handle, ObjectId::ROOT)];
        while let Some((handle, id)) = todo.pop() {
            let dir = match self.open_dir(handle) {
                Ok(dir) => dir,
                Err(Error::Bottom(Errno::ESTALE)) => continue,
                Err(error) => return Err(error),
            };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let mut stream = Dir::openat(dir.as_fd(), ".", flags, Mode::empty())?;
            for listed in stream.iter() {
                let listed = listed?;
                let bytes = listed.file_name().to_bytes();
                let reserved = id == ObjectId::ROOT && bytes == Name::RESERVED;
                let is_dir = listed.file_type() == Some(Type::Directory);
                if reserved || !(files || is_dir) {
                    continue;
                }
                // "." and ".." are no names.
                let Ok(name) = Name::new(bytes) else { continue };
                let Some(found) = self.entry(&dir, bytes)? else { continue };
                visit((&dir, id), &name, &found)?;
                if is_dir {
                    // A directory that `visit` gave an id to is read again for it.
                    let id = found.id.unwrap_or_else(|| identity::adopted(self.host, found.handle));
                    todo.push((found.handle, id));
                }
            }
        }
        Ok(())
    }
}
