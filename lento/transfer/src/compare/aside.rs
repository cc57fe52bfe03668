//! Contents that lose against the source's are kept in `.intermezzo/conflicts` if this host changed them without the
//! source knowing it.

use super::Comparer;
use crate::{
    error::{Fault, TransferError},
    io::{PIECE, next_data, read_exact_at},
};
use lento_store::StoreError;
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{Mode, fchmod, futimens},
    sys::time::TimeSpec,
    unistd::{Gid, Uid, fchown},
};
use protocol::{Attr, Kind, Name, ObjectId, Settled, StampOrder, VersionStamp, limits};
use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt, unix::fs::FileExt},
    path::Path,
};

impl Comparer {
    /// Keeps the content of a file that is about to be replaced, if it has to be kept.
    pub(super) fn keep_loser(&mut self, winner: &Settled) -> Result<(), TransferError> {
        let fd = match self.store.open_object(winner.id, OFlag::O_RDONLY | OFlag::O_NOATIME) {
            Ok(fd) => fd,
            Err(StoreError::NotFound(_)) => return Ok(()),
            Err(why) => return Err(why.into()),
        };
        let file = File::from(fd);
        if self.is_loser(Some(winner.id), &file, Some(&winner.stamp))? { self.keep(&file) } else { Ok(()) }
    }

    /// Keeps the contents of all files aside that this host's own log stored after number `after`: they are not taken by the
    /// source any more, and its tree takes their place.
    ///
    /// # Errors
    /// [`TransferError`] if the log cannot be read, or a file cannot be copied.
    pub fn keep_written(&mut self, after: u64) -> Result<&[Name], TransferError> {
        for id in self.store.stored_since(after)? {
            let file = match self.store.open_object(id, OFlag::O_RDONLY | OFlag::O_NOATIME) {
                Ok(fd) => File::from(fd),
                Err(StoreError::NotFound(_)) => continue,
                Err(why) => return Err(why.into()),
            };
            if self.attr(&file)?.kind == Kind::File && !self.is_absent(&file)? {
                self.keep(&file)?;
            }
        }
        Ok(&self.report.kept)
    }

    /// Whether the content of a file that is replaced by `winner`, or removed, is unknown to the source.
    pub(super) fn is_loser(
        &self,
        id: Option<ObjectId>,
        file: &File,
        winner: Option<&VersionStamp>,
    ) -> Result<bool, TransferError> {
        let attr = self.attr(file)?;
        if attr.kind != Kind::File || attr.size == 0 || self.is_absent(file)? {
            return Ok(false);
        }
        let Some(id) = id.filter(|_| !self.options.keep_losers) else { return Ok(true) };
        let version = self.store.version(id)?;
        if version.is_none_or(|version| (version.size, version.mtime) != (attr.size, attr.mtime)) {
            return Ok(!self.is_as_committed(file, &attr)?);
        }
        let stamp = self.store.object_stamp(id)?.unwrap_or_default();
        Ok(winner.is_some_and(|winner| matches!(stamp.order(winner), StampOrder::Concurrent | StampOrder::Dominates)))
    }

    /// Whether the file is as it was committed last, whatever the index says.
    fn is_as_committed(&self, file: &File, attr: &Attr) -> Result<bool, TransferError> {
        let failed =
            |why: io::Error| TransferError::io("reading the identity of a file that is replaced", Fault::from(why).0);
        let identity = self.store.bottom().identity(file.as_fd()).map_err(failed)?;
        let committed = identity.and_then(|identity| identity.committed);
        Ok(committed.is_some_and(|version| (version.size, version.mtime) == (attr.size, attr.mtime)))
    }

    /// Whether there is no content that could be lost.
    fn is_absent(&self, file: &File) -> Result<bool, TransferError> {
        let failed = |why: io::Error| TransferError::io("examining a file that is replaced", Fault::from(why).0);
        Ok(self.store.config().on_demand && self.store.bottom().is_absent(file.as_fd()).map_err(failed)?)
    }

    fn attr(&self, file: &File) -> Result<Attr, TransferError> {
        let failed = |why: io::Error| TransferError::io("examining a file that is replaced", Fault::from(why).0);
        self.store.bottom().attr(file.as_fd()).map_err(failed)
    }

    /// Copies a file, durably, into the directory of conflicts, under a name made from its path.
    pub(super) fn keep(&mut self, file: &File) -> Result<(), TransferError> {
        let attr = self.attr(file)?;
        let conflicts = self.store.bottom().conflicts();
        let base = conflict_name(&path_of(&self.store, file), self.store.config().host.get());
        let failed = |errno: Errno| TransferError::io("keeping a file aside in .intermezzo/conflicts", errno);
        let mut serial = 0;
        let (name, copy) = loop {
            let name = if serial == 0 { base.clone() } else { [&base[..], format!("~{serial}").as_bytes()].concat() };
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            match openat(conflicts, OsStr::from_bytes(&name), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(fd) => break (Name::new(&name)?, File::from(fd)),
                Err(Errno::EEXIST) => serial += 1,
                Err(errno) => return Err(failed(errno)),
            }
        };
        copy_file(file, &copy, &attr).map_err(|why| failed(Fault::from(why).0))?;
        copy.sync_all().map_err(|why| failed(Fault::from(why).0))?;
        tracing::warn!(%name, "a content that the source does not know was kept aside");
        self.report.kept.push(name);
        Ok(())
    }
}

/// Where a file is, as people know it: for a name only.
fn path_of(store: &lento_store::Store, file: &File) -> Vec<u8> {
    use std::os::fd::{AsRawFd, BorrowedFd};
    let shown =
        |fd: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
    let (path, root) = (shown(file.as_fd()), shown(store.bottom().root()));
    let below: &Path = path.strip_prefix(&root).unwrap_or(&path);
    below.as_os_str().as_bytes().to_vec()
}

/// The name for a copy of what was at `path`: its end, with `:` between the parts, and the host that had it.
fn conflict_name(path: &[u8], host: u32) -> Vec<u8> {
    let suffix = format!("~host{host}");
    let room = limits::NAME_BYTES - suffix.len() - 8;
    let flat: Vec<u8> = path.iter().map(|b| if *b == b'/' { b':' } else { *b }).collect();
    [&flat[flat.len().saturating_sub(room)..], suffix.as_bytes()].concat()
}

fn copy_file(from: &File, to: &File, attr: &Attr) -> io::Result<()> {
    let mut buffer = vec![0; PIECE.min(attr.size as usize)];
    let mut at = 0;
    while at < attr.size {
        let data = next_data(from, at, attr.size)?;
        at = data.start;
        while at < data.end {
            let len = PIECE.min((data.end - at) as usize);
            read_exact_at(from, &mut buffer[..len], at)?;
            to.write_all_at(&buffer[..len], at)?;
            at += len as u64;
        }
    }
    to.set_len(attr.size)?;
    fchown(to, Some(Uid::from_raw(attr.uid)), Some(Gid::from_raw(attr.gid)))?;
    fchmod(to, Mode::from_bits_truncate((attr.mode & 0o777).into()))?;
    let mtime = TimeSpec::new(attr.mtime.secs, attr.mtime.nanos.into());
    futimens(to, &TimeSpec::UTIME_OMIT, &mtime)?;
    Ok(())
}
