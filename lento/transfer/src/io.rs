//! Reading and hashing by descriptor.

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use std::{
    fs::File,
    io,
    ops::Range,
    os::{fd::AsRawFd, unix::fs::FileExt},
};

/// Bytes read at once where the size is free.
pub(crate) const PIECE: usize = 1 << 20;

/// Reads until `buffer` is full or the file ends; how much that was.
pub(crate) fn read_full_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Appends `len` bytes of `file` to `buffer`, straight into memory that was not cleared before; how much that was.
pub(crate) fn append_at(file: &File, buffer: &mut Vec<u8>, len: usize, at: u64) -> io::Result<usize> {
    let start = buffer.len();
    buffer.reserve(len);
    while buffer.len() < start + len {
        let done = buffer.len() - start;
        let room = &mut buffer.spare_capacity_mut()[..len - done];
        // SAFETY: `room` is writable memory of just that length, which lives through the call.
        let got = unsafe {
            libc::pread(file.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), (at + done as u64).cast_signed())
        };
        match usize::try_from(got) {
            Ok(0) => break,
            // SAFETY: the kernel has written the `got` bytes after the end, and there was room for them.
            Ok(got) => unsafe { buffer.set_len(start + done + got) },
            Err(_) => {
                let why = io::Error::last_os_error();
                if why.kind() != io::ErrorKind::Interrupted {
                    return Err(why);
                }
            }
        }
    }
    Ok(buffer.len() - start)
}

/// Reads exactly `buffer`; a file that ends before is `UnexpectedEof`.
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    if read_full_at(file, buffer, at)? == buffer.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Adds the first `size` bytes of `file` to `hasher`; `false` if there are fewer.
pub(crate) fn hash_prefix(file: &File, size: u64, hasher: &mut blake3::Hasher) -> io::Result<bool> {
    hash_range(file, 0..size, hasher)
}

/// Adds a range of `file` to `hasher`; `false` if the file ends before.
pub(crate) fn hash_range(file: &File, range: Range<u64>, hasher: &mut blake3::Hasher) -> io::Result<bool> {
    let mut at = range.start;
    let mut buffer = vec![0; PIECE.min((range.end - at) as usize)];
    while at < range.end {
        let len = PIECE.min((range.end - at) as usize);
        if read_full_at(file, &mut buffer[..len], at)? < len {
            return Ok(false);
        }
        hasher.update(&buffer[..len]);
        at += len as u64;
    }
    Ok(true)
}

/// Adds `len` zeros to `hasher`.
pub(crate) fn hash_zeros(mut len: u64, hasher: &mut blake3::Hasher) {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    while len > 0 {
        let n = len.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..n as usize]);
        len -= n;
    }
}

/// The next run of data of `file` at or after `at`, below `size`; empty at `size` if only a hole is left.
pub(crate) fn next_data(file: &File, at: u64, size: u64) -> io::Result<Range<u64>> {
    let seek = |from: u64, whence| match lseek(file, from as i64, whence) {
        Ok(found) => Ok(Some((found as u64).min(size))),
        Err(Errno::ENXIO) => Ok(None),
        // A file system without holes.
        Err(Errno::EINVAL) => Ok(Some(if matches!(whence, Whence::SeekData) { from } else { size })),
        Err(why) => Err(io::Error::from(why)),
    };
    let Some(start) = seek(at, Whence::SeekData)? else { return Ok(size..size) };
    if start >= size {
        return Ok(size..size);
    }
    let end = seek(start, Whence::SeekHole)?.unwrap_or(size);
    // Never an empty run before the end: whoever loops over runs must get on.
    Ok(start..if end > start { end } else { size })
}
