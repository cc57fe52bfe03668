//! From the filter's results to FUSE's replies; the only place where errors become numbers for the kernel.

use crate::{
    filter::{Entry, Error, Filter, Opened, Result},
    sys::Stat,
};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite,
};
use protocol::Kind;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the kernel may believe what it was told: Lento has it forget what others change.
pub(super) const TTL: Duration = Duration::from_secs(3600);

/// Handles carry nothing: the node tells which file it is.
const NO_HANDLE: FileHandle = FileHandle(0);

/// The number that the kernel gets.
pub(super) fn errno(error: &Error) -> Errno {
    // The kernel takes ESTALE of a lookup as a reason to look again, and so do we: the object is gone.
    let number = error.errno();
    tracing::trace!(%error, number, "refused");
    Errno::from_i32(number)
}

/// How long attributes may be believed.
pub(super) fn attr_ttl(stat: &Stat) -> Duration {
    if Filter::may_lose_bits(stat.mode()) { Duration::ZERO } else { TTL }
}

fn time(secs: i64, nanos: i64) -> SystemTime {
    let nanos = Duration::from_nanos(nanos as u64);
    match u64::try_from(secs) {
        Ok(secs) => UNIX_EPOCH + Duration::from_secs(secs) + nanos,
        Err(_) => UNIX_EPOCH - Duration::from_secs(secs.unsigned_abs()) + nanos,
    }
}

/// FUSE's type of an object.
pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// FUSE's attributes.
pub(super) fn attributes(node: u64, stat: &Stat) -> FileAttr {
    let s = &stat.0;
    FileAttr {
        ino: INodeNo(node),
        size: s.st_size as u64,
        blocks: s.st_blocks as u64,
        atime: time(s.st_atime, s.st_atime_nsec),
        mtime: time(s.st_mtime, s.st_mtime_nsec),
        ctime: time(s.st_ctime, s.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: file_type(stat.kind()),
        perm: (s.st_mode & 0o7777) as u16,
        nlink: s.st_nlink as u32,
        uid: s.st_uid,
        gid: s.st_gid,
        // FUSE has 32 bits for it, in the kernel's own packing: minor in the low 20 bits but for the major between.
        rdev: encode_device(s.st_rdev),
        blksize: s.st_blksize as u32,
        flags: 0,
    }
}

/// `new_encode_dev` of the kernel.
fn encode_device(device: u64) -> u32 {
    let (major, minor) = (libc::major(device), libc::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The inverse, for `MKNOD`.
pub(super) fn decode_device(device: u32) -> u64 {
    libc::makedev((device & 0xf_ff00) >> 8, (device & 0xff) | ((device >> 12) & 0xf_ff00))
}

pub(super) fn entry(reply: ReplyEntry, result: Result<Entry>) {
    match result {
        Ok(e) => reply.entry_with_ttls(&attr_ttl(&e.stat), &TTL, &attributes(e.node, &e.stat), Generation(0)),
        Err(error) => reply.error(errno(&error)),
    }
}

/// An entry, or that there is none.
pub(super) fn looked_up(reply: ReplyEntry, result: Result<Option<Entry>>) {
    match result {
        Ok(Some(found)) => entry(reply, Ok(found)),
        Ok(None) => absent(reply),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Done, or not.
pub(super) fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// So many bytes.
pub(super) fn written(reply: ReplyWrite, result: Result<usize>) {
    match result {
        Ok(count) => reply.written(count as u32),
        Err(error) => reply.error(errno(&error)),
    }
}

/// There is no such entry, and the kernel may remember that.
fn absent(reply: ReplyEntry) {
    let none = FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    };
    reply.entry(&TTL, &none, Generation(0));
}

pub(super) fn attr(reply: ReplyAttr, node: u64, result: Result<Stat>) {
    match result {
        Ok(stat) => reply.attr(&attr_ttl(&stat), &attributes(node, &stat)),
        Err(error) => reply.error(errno(&error)),
    }
}

/// No request at close: the release tells what was stored.
fn open_flags() -> FopenFlags {
    FopenFlags::FOPEN_NOFLUSH
}

pub(super) fn opened(reply: ReplyOpen, result: Result<Opened>) {
    match result {
        Ok(Opened { backing: Some(id), .. }) => {
            // SAFETY: the filter keeps the id open until the last handle is released; `into_raw` leaves it so.
            let backing = unsafe { reply.wrap_backing(id) };
            reply.opened_passthrough(NO_HANDLE, open_flags(), &backing);
            backing.into_raw();
        }
        Ok(_) => reply.opened(NO_HANDLE, open_flags()),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn created(reply: ReplyCreate, result: Result<(Entry, Opened)>) {
    match result {
        Ok((e, Opened { backing: Some(id), .. })) => {
            // SAFETY: as in `opened`.
            let backing = unsafe { reply.wrap_backing(id) };
            let attributes = attributes(e.node, &e.stat);
            reply.created_passthrough(&TTL, &attributes, Generation(0), NO_HANDLE, open_flags(), &backing);
            backing.into_raw();
        }
        Ok((e, _)) => reply.created(&TTL, &attributes(e.node, &e.stat), Generation(0), NO_HANDLE, open_flags()),
        Err(error) => reply.error(errno(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_way_through_the_kernel() {
        for (major, minor) in [(0, 0), (1, 3), (8, 17), (253, 300), (4095, 0xf_ffff)] {
            let device = libc::makedev(major, minor);
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let t = time(-2, 800_000_000);
        assert_eq!(UNIX_EPOCH.duration_since(t).expect("before 1970"), Duration::from_millis(1200));
    }
}
