//! One large content on its way into the staging directory.

use crate::{
    delta::{Patch, PatchError, Target},
    error::Fault,
    io::{PIECE, hash_zeros, next_data, read_exact_at},
};
use nix::errno::Errno;
use protocol::limits;
use std::{fs::File, os::unix::fs::FileExt};

/// Why a content is given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PartError {
    /// The peer sent what no honest one sends.
    Misbehaved(&'static str),
    /// The bytes are not those that the hash is of. An honest peer's delta or rest leads here if the local version
    /// changed meanwhile, or two blocks have the same short hash.
    WrongHash,
    /// The local disk failed, or is full.
    Failed(Errno),
}

impl From<Errno> for PartError {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

impl From<std::io::Error> for PartError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(Fault::from(error).0)
    }
}

/// The version that is here, from which a delta or a rest takes bytes.
#[derive(Debug)]
pub(crate) struct Old {
    pub(crate) file: File,
    pub(crate) size: u64,
}

/// A file that grows from its beginning to its end; its length is always that of what was received so far, so that
/// an interrupted one can be resumed.
#[derive(Debug)]
pub(crate) struct Part {
    sink: Sink,
    patch: Option<Patch>,
}

#[derive(Debug)]
struct Sink {
    file: File,
    /// The length that it shall have.
    size: u64,
    /// The length that it has.
    at: u64,
    hasher: blake3::Hasher,
    old: Option<Old>,
}

impl Part {
    /// Continues `file`, of which `at` bytes are there and in `hasher`, up to `size`.
    pub(crate) fn resume(file: File, at: u64, hasher: blake3::Hasher, size: u64) -> Self {
        Self { sink: Sink { file, size, at, hasher, old: None }, patch: None }
    }

    /// Begins `file`, which is empty, with the first `prefix` bytes of `old`.
    pub(crate) fn after(file: File, old: Old, prefix: u64, size: u64) -> Result<Self, PartError> {
        let mut sink = Sink { file, size, at: 0, hasher: blake3::Hasher::new(), old: Some(old) };
        sink.copy(0, prefix)?;
        sink.old = None;
        Ok(Self { sink, patch: None })
    }

    /// Begins `file`, which is empty, to be made by a delta to `old`.
    pub(crate) fn delta(file: File, old: Old, size: u64) -> Self {
        let sink = Sink { file, size, at: 0, hasher: blake3::Hasher::new(), old: Some(old) };
        Self { sink, patch: Some(Patch::new()) }
    }

    /// Takes bytes of the content or of the delta.
    pub(crate) fn chunk(&mut self, bytes: &[u8]) -> Result<(), PartError> {
        match &mut self.patch {
            None => self.sink.literal(bytes),
            Some(patch) => patch.push(bytes, &mut self.sink).map_err(|why| match why {
                PatchError::Malformed(why) => PartError::Misbehaved(why),
                PatchError::Target(why) => why,
            }),
        }
    }

    /// Takes a run of zeros.
    pub(crate) fn hole(&mut self, len: u64) -> Result<(), PartError> {
        if self.patch.is_some() {
            return Err(PartError::Misbehaved("it sent a hole in a delta"));
        }
        self.sink.zeros(len)
    }

    /// Bytes that are there.
    pub(crate) fn len(&self) -> u64 {
        self.sink.at
    }

    /// Checks that the content is complete and is what `hash` is of; its size.
    pub(crate) fn end(&self, hash: &[u8; 32]) -> Result<u64, PartError> {
        if self.sink.at != self.sink.size || self.patch.as_ref().is_some_and(|patch| !patch.is_complete()) {
            return Err(PartError::Misbehaved("it ended a file before all of it was sent"));
        }
        if self.sink.hasher.finalize() != *hash {
            return Err(PartError::WrongHash);
        }
        Ok(self.sink.size)
    }
}

impl Sink {
    fn check(&self, len: u64) -> Result<(), PartError> {
        if self.size - self.at < len {
            return Err(PartError::Misbehaved("it sent more of a file than it had announced"));
        }
        Ok(())
    }

    fn zeros(&mut self, len: u64) -> Result<(), PartError> {
        self.check(len)?;
        self.file.set_len(self.at + len)?;
        hash_zeros(len, &mut self.hasher);
        self.at += len;
        Ok(())
    }
}

impl Target for Sink {
    type Error = PartError;

    fn literal(&mut self, bytes: &[u8]) -> Result<(), PartError> {
        self.check(bytes.len() as u64)?;
        self.file.write_all_at(bytes, self.at)?;
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Copies from the old version; what is a hole there is one here.
    fn copy(&mut self, offset: u64, len: u64) -> Result<(), PartError> {
        self.check(len)?;
        let Some(old) = self.old.take() else { return Err(PartError::Misbehaved("it copies from nothing")) };
        let copied = self.copy_from(&old, offset, len);
        self.old = Some(old);
        copied
    }
}

impl Sink {
    fn copy_from(&mut self, old: &Old, offset: u64, len: u64) -> Result<(), PartError> {
        let Some(end) = offset.checked_add(len).filter(|end| *end <= old.size) else {
            return Err(PartError::Misbehaved("it copies from beyond the end of the version that is here"));
        };
        let mut buffer = vec![0; PIECE.min(len as usize)];
        let mut at = offset;
        while at < end {
            let data = next_data(&old.file, at, end)?;
            if data.start > at {
                self.zeros(data.start - at)?;
            }
            at = data.start;
            while at < data.end {
                let len = PIECE.min((data.end - at) as usize);
                match read_exact_at(&old.file, &mut buffer[..len], at) {
                    // Somebody cut it meanwhile: the hash cannot come out right.
                    Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Err(PartError::WrongHash),
                    other => other?,
                }
                self.literal(&buffer[..len])?;
                at += len as u64;
            }
        }
        Ok(())
    }
}

/// Decompresses chunks into a buffer of its own, never beyond what a chunk may hold.
#[derive(Default)]
pub(crate) struct Inflate {
    decoder: Option<zstd::bulk::Decompressor<'static>>,
    out: Vec<u8>,
}

impl Inflate {
    /// The bytes of a chunk that claims to decompress to `len` bytes.
    pub(crate) fn chunk<'a>(&'a mut self, zstd: Option<u32>, bytes: &'a [u8]) -> Result<&'a [u8], PartError> {
        let Some(len) = zstd else { return Ok(bytes) };
        let len = len as usize;
        if len > limits::DATA_CHUNK_BYTES {
            return Err(PartError::Misbehaved("it sent a chunk that grows beyond the limit"));
        }
        if self.decoder.is_none() {
            self.decoder = Some(zstd::bulk::Decompressor::new()?);
        }
        self.out.resize(len, 0);
        let decoder = self.decoder.as_mut().ok_or(PartError::Failed(Errno::ENOMEM))?;
        match decoder.decompress_to_buffer(bytes, &mut self.out[..]) {
            Ok(got) if got == len => Ok(&self.out),
            _ => Err(PartError::Misbehaved("it sent a chunk that does not decompress to the length it told")),
        }
    }
}
