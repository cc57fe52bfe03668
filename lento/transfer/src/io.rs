//! Reading and hashing by descriptor.

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

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

/// Reads exactly `buffer`; a file that ends before is `UnexpectedEof`.
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    if read_full_at(file, buffer, at)? == buffer.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Adds the first `size` bytes of `file` to `hasher`; `false` if there are fewer.
pub(crate) fn hash_prefix(file: &File, size: u64, hasher: &mut blake3::Hasher) -> io::Result<bool> {
    let mut buffer = vec![0; PIECE.min(size as usize)];
    let mut at = 0;
    while at < size {
        let len = PIECE.min((size - at) as usize);
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
