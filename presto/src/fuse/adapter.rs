//! `fuser::Filesystem`: decodes, calls the filter, replies.

use super::{
    again,
    backing::Backing,
    decode::{caller, is_write, when},
    listing,
    reply::{self, empty, written},
};
use crate::{
    filter::{Caller, Error, Filter, NewMode, Result, SetAttr},
    permit::Pass,
    syncer::Syncer,
};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path, sync::Arc, time::SystemTime};

/// What the mount cannot do without.
const REQUIRED: InitFlags = InitFlags::FUSE_POSIX_ACL.union(InitFlags::FUSE_DONT_MASK);

/// What makes it fast, or more like the bottom, where the kernel has it.
const WANTED: [InitFlags; 9] = [
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_MAX_PAGES,
];

/// Requests that the kernel may have under way in the background.
const BACKGROUND_REQUESTS: u16 = 64;

/// The filter behind `/dev/fuse`.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) filter: Arc<Filter>,
    pub(crate) syncer: Arc<Syncer>,
    pub(crate) backing: Backing,
}

impl Adapter {
    /// Does a change that needs the permit, now or when all that it needs is here, and replies.
    fn change<R: Send + 'static, T>(
        &self,
        req: &Request,
        reply: R,
        work: impl Fn(&Filter, &Pass<'_>, Caller) -> Result<T> + Send + 'static,
        answer: impl FnOnce(R, Result<T>) + Send + 'static,
    ) {
        again::change(self.filter.clone(), caller(req), reply, work, answer);
    }

    /// Answers a request that needs no permit with what came of its first attempt; if something was absent, `work` is
    /// made of what it needs to be tried again, when that is here.
    fn settle<R, T, W>(
        &self,
        req: &Request,
        mut reply: R,
        first: impl FnOnce(&Filter, &mut R) -> Result<T>,
        work: impl FnOnce() -> W,
        answer: impl FnOnce(R, Result<T>) + Send + 'static,
    ) where
        R: Send + 'static,
        W: Fn(&Filter, &mut R) -> Result<T> + Send + 'static,
    {
        match first(&self.filter, &mut reply) {
            Err(Error::Absent(object)) => {
                again::again(self.filter.clone(), req.pid(), object, reply, work(), answer);
            }
            result => answer(reply, result),
        }
    }
}

#[allow(clippy::too_many_arguments)]
impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if let Err(lacking) = config.add_capabilities(REQUIRED) {
            return Err(io::Error::other(format!("the kernel's FUSE lacks {lacking:?}; Linux 4.9 or later is needed")));
        }
        for flag in WANTED {
            if config.add_capabilities(flag).is_err() {
                tracing::info!(?flag, "the kernel's FUSE does without");
            }
        }
        if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok() {
            self.backing.enable();
        } else {
            tracing::warn!("no FUSE passthrough in this kernel (Linux 6.9): data goes through Presto");
        }
        // The default is kept where the kernel does not take it.
        let _ = config.set_max_background(BACKGROUND_REQUESTS);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let work = || {
            let name = name.as_bytes().to_vec();
            move |f: &Filter, _: &mut _| f.lookup(parent.0, &name)
        };
        self.settle(req, reply, |f, _| f.lookup(parent.0, name.as_bytes()), work, reply::looked_up);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.filter.note_forgotten(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply::attr(reply, ino.0, self.filter.getattr(ino.0));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { mode, uid, gid, size, atime: atime.map(when), mtime: mtime.map(when) };
        if set.is_empty() {
            return reply::attr(reply, ino.0, self.filter.getattr(ino.0));
        }
        let answer = move |reply, result| reply::attr(reply, ino.0, result);
        self.change(req, reply, move |filter, pass, caller| filter.setattr(pass, caller, ino.0, set), answer);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.filter.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(reply::errno(&error)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let (name, new, rdev) = (name.as_bytes().to_vec(), NewMode { mode, umask }, reply::decode_device(rdev));
        let work = move |f: &Filter, pass: &Pass<'_>, caller| f.mknod(pass, caller, parent.0, &name, new, rdev);
        self.change(req, reply, work, reply::entry);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (name, new) = (name.as_bytes().to_vec(), NewMode { mode, umask });
        let work = move |f: &Filter, pass: &Pass<'_>, caller| f.mkdir(pass, caller, parent.0, &name, new);
        self.change(req, reply, work, reply::entry);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.change(req, reply, move |f, pass, caller| f.unlink(pass, caller, parent.0, &name), empty);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.change(req, reply, move |f, pass, caller| f.rmdir(pass, caller, parent.0, &name), empty);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (link_name.as_bytes().to_vec(), target.as_os_str().as_bytes().to_vec());
        let work = move |f: &Filter, pass: &Pass<'_>, caller| f.symlink(pass, caller, parent.0, &name, &target);
        self.change(req, reply, work, reply::entry);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, to) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        let work = move |filter: &Filter, pass: &Pass<'_>, caller| {
            filter.rename(pass, caller, parent.0, &name, newparent.0, &to, flags.bits())
        };
        self.change(req, reply, work, empty);
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let name = newname.as_bytes().to_vec();
        let work = move |f: &Filter, pass: &Pass<'_>, caller| f.link(pass, caller, ino.0, newparent.0, &name);
        self.change(req, reply, work, reply::entry);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if !is_write(flags.0) && flags.0 & libc::O_TRUNC == 0 {
            let open = move |f: &Filter, _: &mut _| f.open_for_reading(ino.0);
            return self.settle(req, reply, open, || open, reply::opened);
        }
        let work = move |f: &Filter, pass: &Pass<'_>, caller| f.open_for_writing(pass, caller, ino.0, flags.0);
        self.change(req, reply, work, reply::opened);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, new) = (name.as_bytes().to_vec(), NewMode { mode, umask });
        let work = move |f: &Filter, pass: &Pass<'_>, caller| f.create(pass, caller, parent.0, &name, new, flags);
        self.change(req, reply, work, reply::created);
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.filter.release(caller(req), ino.0, is_write(flags.0));
        reply.ok();
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // The release tells what was stored; the kernel need not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, req: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.syncer.sync_file(self.filter.clone(), caller(req), ino.0, datasync, move |result| empty(reply, result));
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.syncer.sync_dir(self.filter.clone(), ino.0, move |result| empty(reply, result));
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; size as usize];
        match self.filter.read(ino.0, offset, &mut buffer) {
            Ok(got) => reply.data(&buffer[..got]),
            Err(error) => reply.error(reply::errno(&error)),
        }
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        written(reply, self.filter.write(caller(req), ino.0, offset, data));
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = move |f: &Filter, _: &Pass<'_>, caller| f.fallocate(caller, ino.0, mode, offset, length);
        self.change(req, reply, work, empty);
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.filter.lseek(ino.0, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(reply::errno(&error)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let work = move |filter: &Filter, _: &Pass<'_>, caller| {
            // The reply has 32 bits for the length.
            let length = len.min(1 << 30);
            filter.copy_file_range(caller, (ino_in.0, offset_in), (ino_out.0, offset_out), length)
        };
        self.change(req, reply, work, written);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // From now on the kernel opens directories by itself, and caches their listings.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let list = move |f: &Filter, reply: &mut _| listing::plain(f, ino.0, offset, reply);
        self.settle(
            req,
            reply,
            list,
            || list,
            |reply, result| match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(reply::errno(&error)),
            },
        );
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let list = move |f: &Filter, reply: &mut _| listing::plus(f, ino.0, offset, reply);
        self.settle(
            req,
            reply,
            list,
            || list,
            |reply, result| match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(reply::errno(&error)),
            },
        );
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.filter.statfs() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(error) => reply.error(reply::errno(&error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let work = move |f: &Filter, pass: &Pass<'_>, caller| f.setxattr(pass, caller, ino.0, &name, &value, flags);
        self.change(req, reply, work, empty);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // Most questions are for `security.capability`, which is small or absent: no allocation for those.
        let mut small = [0_u8; 256];
        let mut large;
        let buffer = if size as usize <= small.len() {
            &mut small[..size as usize]
        } else {
            large = vec![0; size as usize];
            &mut large
        };
        match self.filter.getxattr(ino.0, name.as_bytes(), buffer) {
            Ok(length) if size == 0 => reply.size(length as u32),
            Ok(length) => reply.data(&buffer[..length]),
            Err(error) => reply.error(reply::errno(&error)),
        }
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.filter.listxattr(caller(req), ino.0) {
            Ok(names) if size == 0 => reply.size(names.len() as u32),
            Ok(names) if names.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(names) => reply.data(&names),
            Err(error) => reply.error(reply::errno(&error)),
        }
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.change(req, reply, move |f, pass, caller| f.removexattr(pass, caller, ino.0, &name), empty);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions itself (default_permissions).
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // What changes a file by ioctl (inode flags, extent swaps) would pass by the log.
        reply.error(Errno::ENOTTY);
    }
}
