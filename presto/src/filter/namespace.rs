//! Changes of directory entries. Each is done as the caller, and gives what it creates an identity before it replies.

use super::{Caller, DONE, Dir, Entry, Error, Filter, Opened, Result, identity};
use crate::{
    permit::Pass,
    sys::{As, Umask, XattrTarget, as_caller, c_string, check, stat_fd},
};
use nix::{errno::Errno, unistd::UnlinkatFlags};
use protocol::{Done, Name, ObjectId, Op};
use std::{
    ffi::{CStr, CString},
    fs::File,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// Flags of `rename` that are passed on.
const RENAME_KNOWN: u32 = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE;

/// What a created object is to look like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewMode {
    pub(crate) mode: u32,
    pub(crate) umask: u32,
}

impl Filter {
    /// What the four operations that create an object and do not open it have in common.
    fn make(
        &self,
        pass: &Pass<'_>,
        caller: Caller,
        parent: u64,
        name: &[u8],
        op: impl FnOnce(ObjectId, Name, ObjectId) -> Op,
        work: impl FnOnce(&Dir, &CStr) -> std::result::Result<(), Errno>,
    ) -> Result<Entry> {
        let dir = self.dir(parent)?;
        let name = self.checked(&dir, name)?;
        let path = c_string(name.as_bytes())?;
        let record = |number| op(dir.id, name, ObjectId::new(self.host, number));
        self.record(pass, caller, record, |number| {
            {
                let _acting = as_caller(As { uid: caller.uid, gid: caller.gid });
                work(&dir, &path)?;
            }
            identity::write(XattrTarget::entry(&*dir, &path), ObjectId::new(self.host, number))?;
            let entry = self.entry(&dir, &path)?;
            let handle = Some(self.handle(entry.node));
            self.note_known(entry.node, &entry.stat);
            Ok((entry, Done { handle, attr: Some(entry.stat.attr()) }))
        })
    }

    /// `MKDIR`.
    pub(crate) fn mkdir(
        &self,
        pass: &Pass<'_>,
        caller: Caller,
        parent: u64,
        name: &[u8],
        new: NewMode,
    ) -> Result<Entry> {
        let op = |parent, name, id| Op::Mkdir { parent, name, id, mode: new.mode };
        self.make(pass, caller, parent, name, op, |dir, path| {
            Umask::set(new.umask)?;
            // SAFETY: the path is valid for the call.
            check(unsafe { libc::mkdirat(dir.as_fd().as_raw_fd(), path.as_ptr(), new.mode) }.into()).map(drop)
        })
    }

    /// `MKNOD`.
    pub(crate) fn mknod(
        &self,
        pass: &Pass<'_>,
        caller: Caller,
        parent: u64,
        name: &[u8],
        new: NewMode,
        rdev: u64,
    ) -> Result<Entry> {
        let op = |parent, name, id| Op::Mknod { parent, name, id, mode: new.mode, rdev };
        self.make(pass, caller, parent, name, op, |dir, path| {
            Umask::set(new.umask)?;
            // SAFETY: the path is valid for the call.
            check(unsafe { libc::mknodat(dir.as_fd().as_raw_fd(), path.as_ptr(), new.mode, rdev) }.into()).map(drop)
        })
    }

    /// `SYMLINK`.
    pub(crate) fn symlink(
        &self,
        pass: &Pass<'_>,
        caller: Caller,
        parent: u64,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry> {
        let to = c_string(target)?;
        let op = |parent, name, id| Op::Symlink { parent, name, id, target: target.to_vec() };
        self.make(pass, caller, parent, name, op, |dir, path| {
            // SAFETY: both paths are valid for the call.
            check(unsafe { libc::symlinkat(to.as_ptr(), dir.as_fd().as_raw_fd(), path.as_ptr()) }.into()).map(drop)
        })
    }

    /// `CREATE`: makes and opens a file, or opens the one that is there meanwhile.
    pub(crate) fn create(
        &self,
        pass: &Pass<'_>,
        caller: Caller,
        parent: u64,
        name: &[u8],
        new: NewMode,
        flags: i32,
    ) -> Result<(Entry, Opened)> {
        let dir = self.dir(parent)?;
        let checked = self.checked(&dir, name)?;
        let path = c_string(name)?;
        let op =
            |number| Op::Create { parent: dir.id, name: checked, id: ObjectId::new(self.host, number), mode: new.mode };
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let made = self.record(pass, caller, op, |number| {
            let file = {
                let _acting = as_caller(As { uid: caller.uid, gid: caller.gid });
                Umask::set(new.umask)?;
                create_file(&dir, &path, new.mode)?
            };
            let id = ObjectId::new(self.host, number);
            identity::write(XattrTarget::fd(&file), id)?;
            let handle = self.bottom.handle_of(&file, c"")?;
            let stat = stat_fd(&file)?;
            self.with_cache(|cache| {
                cache.writing(id);
                cache.opened(handle);
            });
            let opened = self.files.insert_created(handle, id, file, writes, &*self.passthrough);
            let done = Done { handle: Some(handle), attr: Some(stat.attr()) };
            Ok(((Entry { node: self.node(handle), stat }, opened), done))
        });
        match made {
            Err(Error::Bottom(Errno::EEXIST)) if flags & libc::O_EXCL == 0 => {
                let entry = self.entry(&dir, &path)?;
                if !entry.stat.is_file() {
                    return Err(Errno::EEXIST.into());
                }
                let opened = self.open_for_writing(pass, caller, entry.node, flags)?;
                Ok((Entry { stat: self.getattr(entry.node)?, ..entry }, opened))
            }
            Ok((entry, opened)) if !writes => {
                // Nobody will close it as a writer: what there is to say of its content is said now.
                self.store_created(pass, caller, &opened, &entry.stat)?;
                Ok((entry, opened))
            }
            other => other,
        }
    }

    /// `LINK`.
    pub(crate) fn link(&self, pass: &Pass<'_>, caller: Caller, node: u64, parent: u64, name: &[u8]) -> Result<Entry> {
        let dir = self.dir(parent)?;
        let name = self.checked(&dir, name)?;
        let path = c_string(name.as_bytes())?;
        let handle = self.handle(node);
        let fd = self.path_fd(handle)?;
        let id = self.id_of_path(&fd, handle)?;
        let op = |_| Op::Link { id, parent: dir.id, name };
        self.record(pass, caller, op, |_| {
            let (from, to) = (fd.as_raw_fd(), dir.as_fd().as_raw_fd());
            // SAFETY: both paths are valid for the call.
            let linked = unsafe { libc::linkat(from, c"".as_ptr(), to, path.as_ptr(), libc::AT_EMPTY_PATH) };
            check(linked.into())?;
            let stat = stat_fd(&fd)?;
            Ok((Entry { node, stat }, Done { handle: None, attr: Some(stat.attr()) }))
        })
    }

    /// `UNLINK`.
    pub(crate) fn unlink(&self, pass: &Pass<'_>, caller: Caller, parent: u64, name: &[u8]) -> Result<()> {
        let dir = self.dir(parent)?;
        let name = self.checked(&dir, name)?;
        let path = c_string(name.as_bytes())?;
        let id = self.id_at(&dir, &path)?;
        let op = |_| Op::Unlink { parent: dir.id, name, id };
        self.record(pass, caller, op, |_| {
            nix::unistd::unlinkat(&*dir, path.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            Ok(((), DONE))
        })
    }

    /// `RMDIR`.
    pub(crate) fn rmdir(&self, pass: &Pass<'_>, caller: Caller, parent: u64, name: &[u8]) -> Result<()> {
        let dir = self.dir(parent)?;
        let name = self.checked(&dir, name)?;
        let path = c_string(name.as_bytes())?;
        let removed = self.bottom.handle_of(&*dir, &path)?;
        self.require_names(&dir, &path)?;
        let id = self.id_at(&dir, &path)?;
        let op = |_| Op::Rmdir { parent: dir.id, name, id };
        self.record(pass, caller, op, |_| {
            nix::unistd::unlinkat(&*dir, path.as_c_str(), UnlinkatFlags::RemoveDir)?;
            Ok(((), DONE))
        })?;
        self.dirs.forget(removed);
        Ok(())
    }

    /// `RENAME`, with `NOREPLACE` and `EXCHANGE`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn rename(
        &self,
        pass: &Pass<'_>,
        caller: Caller,
        parent: u64,
        name: &[u8],
        to_parent: u64,
        to_name: &[u8],
        flags: u32,
    ) -> Result<()> {
        if flags & !RENAME_KNOWN != 0 {
            return Err(Errno::EINVAL.into());
        }
        let (dir, to_dir) = (self.dir(parent)?, self.dir(to_parent)?);
        let (name, to_name) = (self.checked(&dir, name)?, self.checked(&to_dir, to_name)?);
        let (path, to_path) = (c_string(name.as_bytes())?, c_string(to_name.as_bytes())?);
        let id = self.id_at(&dir, &path)?;
        let other = self.replaced_id(&to_dir, &to_path)?;
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        if other == Some(id) && flags == 0 {
            // Two links of one file: rename does nothing, so there is nothing to record.
            return Ok(());
        }
        if other.is_some() && !exchange {
            self.require_names(&to_dir, &to_path)?;
        }
        let op = |_| Op::Rename { id, parent: dir.id, name, to_parent: to_dir.id, to_name, other, exchange };
        self.record(pass, caller, op, |_| {
            // SAFETY: both paths are valid for the call.
            check(unsafe {
                let (from, to) = (dir.as_fd().as_raw_fd(), to_dir.as_fd().as_raw_fd());
                libc::syscall(libc::SYS_renameat2, from, path.as_ptr(), to, to_path.as_ptr(), flags)
            })?;
            Ok(((), DONE))
        })
    }

    fn replaced_id(&self, dir: &Dir, path: &CString) -> Result<Option<ObjectId>> {
        match self.id_at(dir, path) {
            Ok(id) => Ok(Some(id)),
            Err(Error::Bottom(Errno::ENOENT)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn create_file(dir: &Dir, path: &CStr, mode: u32) -> Result<File> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the path is valid for the call.
    let fd = check(unsafe { libc::openat(dir.as_fd().as_raw_fd(), path.as_ptr(), flags, mode & 0o7777) }.into())?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}
