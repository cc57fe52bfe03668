//! Reading directories and links.

use super::{Entry, Filter, Result};
use crate::sys::{c_string, check};
use nix::errno::Errno;
use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd},
    sync::PoisonError,
};

/// Bytes of entries read from the bottom at once.
const CHUNK_BYTES: usize = 32 * 1024;
/// The position that ext4 says follows the last entry.
const END: i64 = i64::MAX;
/// Offset of the name in `struct linux_dirent64`.
const NAME_OFFSET: usize = 19;

/// One entry as the bottom lists it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed<'a> {
    pub(crate) name: &'a CStr,
    /// `DT_…`.
    pub(crate) kind: u8,
    /// Where the next one begins.
    pub(crate) next: u64,
    /// Inode number in the bottom.
    pub(crate) ino: u64,
}

impl Listed<'_> {
    pub(crate) fn is_dot(&self) -> bool {
        matches!(self.name.to_bytes(), b"." | b"..")
    }
}

impl Filter {
    /// Gives the entries of a directory from `offset` on to `each`, until that says that it is full.
    pub(crate) fn list(
        &self,
        node: u64,
        offset: u64,
        mut each: impl FnMut(Listed<'_>, &dyn Fn() -> Result<Entry>) -> bool,
    ) -> Result<()> {
        let dir = self.dir(node)?;
        let fd = dir.as_fd().as_raw_fd();
        let mut buffer = [0_u8; CHUNK_BYTES];
        let mut position = offset as i64;
        // ext4 must not be asked what follows its end: a descriptor for which that is the first question answers that
        // there is nothing from the beginning on either, from then on.
        while position != END {
            let length = {
                let _reading = dir.reading.lock().unwrap_or_else(PoisonError::into_inner);
                // SAFETY: plain integers.
                check(unsafe { libc::lseek(fd, position, libc::SEEK_SET) })?;
                // SAFETY: the buffer and its length belong together.
                check(unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) })? as usize
            };
            if length == 0 {
                return Ok(());
            }
            let mut rest = &buffer[..length];
            while let Some((listed, after)) = parse(rest) {
                rest = after;
                position = listed.next as i64;
                if self.is_reserved(&dir, listed.name.to_bytes()) {
                    continue;
                }
                if each(listed, &|| self.entry(&dir, listed.name)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Node id for a plain listing, which FUSE wants as inode number.
    pub(crate) fn node_of(&self, parent: u64, name: &CStr) -> Result<u64> {
        let dir = self.dir(parent)?;
        Ok(self.node(self.bottom.handle_of(&*dir, name)?))
    }

    /// `READLINK`.
    pub(crate) fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        let fd = self.path_fd(self.handle(node))?;
        let mut target = vec![0; protocol::limits::SYMLINK_BYTES + 1];
        let empty = c_string(b"")?;
        // SAFETY: the buffer and its length belong together.
        let length =
            check(
                unsafe { libc::readlinkat(fd.as_raw_fd(), empty.as_ptr(), target.as_mut_ptr().cast(), target.len()) }
                    as i64,
            )?;
        target.truncate(length as usize);
        if target.len() > protocol::limits::SYMLINK_BYTES {
            return Err(Errno::ENAMETOOLONG.into());
        }
        Ok(target)
    }
}

/// The first entry of a buffer of `getdents64`, and what follows it.
fn parse(buffer: &[u8]) -> Option<(Listed<'_>, &[u8])> {
    let number = |at: usize| Some(u64::from_ne_bytes(buffer.get(at..at + 8)?.try_into().ok()?));
    let length = usize::from(u16::from_ne_bytes(buffer.get(16..18)?.try_into().ok()?));
    let name = CStr::from_bytes_until_nul(buffer.get(NAME_OFFSET..length)?).ok()?;
    let listed = Listed { name, kind: buffer[18], next: number(8)?, ino: number(0)? };
    Some((listed, &buffer[length..]))
}
