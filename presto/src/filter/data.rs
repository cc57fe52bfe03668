//! Opening and closing files, and operations on their content that the kernel does not do by passthrough.

use super::{Caller, Error, Filter, Opened, Result, openfiles::OpenFile};
use crate::{
    permit::Pass,
    sys::{check, stat_fd, without_fsetid},
};
use nix::{errno::Errno, fcntl::OFlag};
use protocol::{Done, Handle, Op};
use std::{
    fs::File,
    os::{fd::AsRawFd, unix::fs::FileExt},
    sync::Arc,
};

/// setuid and setgid.
const SET_ID_BITS: u32 = 0o6000;

impl Filter {
    /// `OPEN` for reading: needs no permit.
    pub(crate) fn open_for_reading(&self, node: u64) -> Result<Opened> {
        let handle = self.handle(node);
        let file = self.files.enter(handle);
        let mut state = file.state();
        let prepared = match state.file {
            Some(_) => Ok(()),
            None => self.present(handle, OFlag::O_RDONLY).map(|opened| {
                state.backing = self.passthrough.open(&opened);
                state.file = Some(Arc::new(opened));
            }),
        };
        let backing = state.backing;
        drop(state);
        match prepared {
            Ok(()) => {
                self.with_cache(|cache| cache.opened(handle));
                Ok(Opened { file, backing })
            }
            Err(error) => {
                self.leave_unopened(file);
                Err(error)
            }
        }
    }

    /// Opens a file, whose content must be here.
    fn present(&self, handle: Handle, flags: OFlag) -> Result<File> {
        let opened = self.bottom.open_file(handle, flags)?;
        if self.lacks_content(&opened)? {
            return Err(Error::Absent(handle));
        }
        Ok(opened)
    }

    /// A file that was entered, and not opened after all. Others may have opened and released it meanwhile.
    pub(super) fn leave_unopened(&self, file: Arc<OpenFile>) {
        if let Some((_, true)) = self.files.leave(file.handle) {
            let backing = file.state().backing.take();
            if let Some(backing) = backing {
                self.passthrough.close(backing);
            }
        }
    }

    /// `OPEN` for writing, or with `O_TRUNC`.
    pub(crate) fn open_for_writing(&self, pass: &Pass<'_>, caller: Caller, node: u64, flags: i32) -> Result<Opened> {
        let file = self.files.enter(self.handle(node));
        match self.prepare_writing(pass, caller, &file, flags) {
            Ok(backing) => {
                self.with_cache(|cache| cache.opened(file.handle));
                Ok(Opened { file, backing })
            }
            Err(error) => {
                self.leave_unopened(file);
                Err(error)
            }
        }
    }

    fn prepare_writing(&self, pass: &Pass<'_>, caller: Caller, file: &OpenFile, flags: i32) -> Result<Option<u32>> {
        let mut state = file.state();
        let opened = match &state.file {
            Some(opened) if state.writable => opened.clone(),
            _ => Arc::new(self.bottom.open_file(file.handle, OFlag::O_RDWR)?),
        };
        let truncates = flags & libc::O_TRUNC != 0;
        let emptying = match state.file.is_none() && self.lacks_content(&*opened)? {
            true if truncates => Some(self.lock_absent(&*opened, file.handle)?),
            true => return Err(Error::Absent(file.handle)),
            false => None,
        };
        let id = match state.id {
            Some(id) => id,
            None => self.id_of(&*opened, file.handle)?,
        };
        state.id = Some(id);
        let stat = stat_fd(&*opened)?;
        if !state.announced {
            let done = Done { handle: Some(file.handle), attr: None };
            self.note(pass, caller, Op::Intend { id, handle: file.handle }, done)?;
            self.with_cache(|cache| cache.writing(id));
            state.announced = true;
            state.stored = Some(super::openfiles::Version::of(&stat));
        }
        // Where there are no bits to clear the capability makes no difference, and changing it costs.
        let drop_fsetid = caller.uid != 0 || stat.mode() & SET_ID_BITS == 0;
        if emptying.is_some() {
            // Before anybody sees it as open: until this is done its content is not here.
            empty(&opened, drop_fsetid)?;
            self.now_present(&*opened)?;
        }
        if state.backing.is_none() {
            state.backing = self.passthrough.open(&opened);
        }
        state.file = Some(opened.clone());
        state.writable = true;
        if truncates && emptying.is_none() {
            empty(&opened, drop_fsetid)?;
        }
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        state.writers += u32::from(writes);
        let backing = state.backing;
        drop(state);
        if !writes {
            // O_RDONLY | O_TRUNC: no writer will close it.
            self.store_if_changed(pass, caller, file)?;
        }
        Ok(backing)
    }

    /// `RELEASE` of a handle; `writes` says whether it was open for writing. The store that is due waits for the
    /// permit, if it has to, without the caller.
    pub(crate) fn release(self: &Arc<Self>, caller: Caller, node: u64, writes: bool) {
        let Some((file, last)) = self.files.leave(self.handle(node)) else { return };
        let mut state = file.state();
        state.writers -= u32::from(writes && state.writers > 0);
        let due = state.announced && state.writers == 0;
        let backing = if last { state.backing.take() } else { None };
        drop(state);
        if let Some(backing) = backing {
            self.passthrough.close(backing);
        }
        if due {
            self.store_last(caller, file);
        }
    }

    fn opened(&self, node: u64) -> Result<Arc<File>> {
        let file = self.files.get(self.handle(node)).and_then(|file| file.file());
        file.ok_or(Error::Bottom(Errno::EBADF))
    }

    /// `READ`, where passthrough is not available.
    pub(crate) fn read(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let file = self.opened(node)?;
        let mut got = 0;
        while got < buffer.len() {
            match file.read_at(&mut buffer[got..], offset + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) => return Err(from_io(&e)),
            }
        }
        Ok(got)
    }

    /// `WRITE`, where passthrough is not available.
    pub(crate) fn write(&self, caller: Caller, node: u64, offset: u64, data: &[u8]) -> Result<usize> {
        let file = self.opened(node)?;
        let write = || file.write_at(data, offset).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)));
        Ok(without_fsetid(caller.uid != 0, write)?)
    }

    /// `FALLOCATE`, all modes.
    pub(crate) fn fallocate(&self, caller: Caller, node: u64, mode: i32, offset: u64, length: u64) -> Result<()> {
        let file = self.opened(node)?;
        let (offset, length) = (signed(offset)?, signed(length)?);
        // SAFETY: plain integers.
        let work = || check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) }.into());
        Ok(without_fsetid(caller.uid != 0, work).map(drop)?)
    }

    /// `LSEEK` with `SEEK_HOLE` and `SEEK_DATA`.
    pub(crate) fn lseek(&self, node: u64, offset: i64, whence: i32) -> Result<i64> {
        let file = self.opened(node)?;
        // SAFETY: plain integers. The position of this descriptor is used for nothing else.
        Ok(check(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })?)
    }

    /// `COPY_FILE_RANGE`.
    pub(crate) fn copy_file_range(
        &self,
        caller: Caller,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
    ) -> Result<usize> {
        let (source, target) = (self.opened(from.0)?, self.opened(to.0)?);
        let (mut source_at, mut target_at) = (signed(from.1)?, signed(to.1)?);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let work = || {
            // SAFETY: both offsets are valid for the call.
            check(unsafe {
                let (source, target) = (source.as_raw_fd(), target.as_raw_fd());
                libc::copy_file_range(source, &mut source_at, target, &mut target_at, length, 0)
            } as i64)
        };
        Ok(without_fsetid(caller.uid != 0, work)? as usize)
    }

    /// `FSYNC`: the file, and then what the log says of it, are durable when this returns.
    pub(crate) fn fsync_file(&self, node: u64, data_only: bool) -> Result<()> {
        let file = self.opened(node)?;
        // The log's pages first: then the commit that the file causes is the only one.
        self.journal.write_out()?;
        let synced = if data_only { file.sync_data() } else { file.sync_all() };
        synced.map_err(|e| from_io(&e))?;
        self.journal.sync()?;
        Ok(())
    }

    /// Whether `FSYNC` of a file has something to say in the log, for which the permit is needed.
    pub(crate) fn is_written(&self, node: u64) -> bool {
        self.files.get(self.handle(node)).is_some_and(|file| file.state().announced)
    }

    /// Says in the log what an open file contains, if that changed.
    pub(crate) fn store_open(&self, pass: &Pass<'_>, caller: Caller, node: u64) -> Result<()> {
        match self.files.get(self.handle(node)) {
            Some(file) => self.store_if_changed(pass, caller, &file),
            None => Ok(()),
        }
    }

    /// `FSYNCDIR`.
    pub(crate) fn fsync_dir(&self, node: u64) -> Result<()> {
        match self.dir(node) {
            Ok(dir) => nix::unistd::fsync(&*dir)?,
            // What of it is here is made durable.
            Err(Error::Absent(dir)) => {
                nix::unistd::fsync(self.bottom.open(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)?
            }
            Err(error) => return Err(error),
        }
        self.journal.sync()?;
        Ok(())
    }

    /// Whether the kernel must ask for attributes each time it needs them: it does not notice when the bottom clears
    /// setuid and setgid bits.
    pub(crate) fn may_lose_bits(mode: u32) -> bool {
        mode & libc::S_IFMT == libc::S_IFREG && mode & SET_ID_BITS != 0
    }
}

/// Truncates a file to nothing.
fn empty(file: &File, drop_fsetid: bool) -> Result<()> {
    // SAFETY: plain integers.
    let truncate = || check(unsafe { libc::ftruncate(file.as_raw_fd(), 0) }.into());
    Ok(without_fsetid(drop_fsetid, truncate).map(drop)?)
}

fn signed(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Errno::EINVAL.into())
}

fn from_io(error: &std::io::Error) -> Error {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)).into()
}
