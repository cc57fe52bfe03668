//! Sends the content of one open file.

use crate::{
    delta,
    error::{Fault, TransferError},
    io::{append_at, hash_range, hash_zeros, next_data},
    packer::Packer,
    squeeze::Squeeze,
    wire::Item,
};
use nix::errno::Errno;
use protocol::{Coding, Have, limits};
use std::fs::File;

/// So many bytes are hashed at a time without a thought for the receiver that waits.
const STRETCH: u64 = 64 << 20;

/// How sending one file ended, if it was not stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Whole; the hash of its content.
    Whole([u8; 32]),
    /// Its beginning is not what the receiver has; nothing was sent.
    Differs,
    /// It became shorter while it was read.
    Shrunk,
    /// It could not be read.
    Failed(Errno),
}

/// Why sending ends in the middle of a file.
enum Halt {
    Shrunk,
    Failed(Errno),
    Transfer(TransferError),
}

impl From<TransferError> for Halt {
    fn from(error: TransferError) -> Self {
        Self::Transfer(error)
    }
}

impl From<std::io::Error> for Halt {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(Fault::from(error).0)
    }
}

/// A file that is being sent, and how.
pub(crate) struct Sender<'s, 'a, 'e> {
    pub(crate) packer: &'s mut Packer<'a, 'e>,
    pub(crate) squeeze: &'s mut Squeeze,
    pub(crate) index: u32,
    pub(crate) file: &'s File,
    /// Bytes to send; a file that grows meanwhile is cut here and found to have changed afterwards.
    pub(crate) size: u64,
    /// The hash of its content, if it is known already.
    pub(crate) known: Option<[u8; 32]>,
}

impl Sender<'_, '_, '_> {
    /// Sends `Begin` and all that follows but `End`, which is for the caller to send if the file did not change.
    pub(crate) fn send(&mut self, have: &Have) -> Result<Sent, TransferError> {
        let sent = match have {
            Have::Prefix { size, hash } if *size > 0 => self.rest(*size, hash),
            Have::Signature(signature) => self.delta(signature),
            Have::Nothing | Have::Prefix { .. } => self.from(0, blake3::Hasher::new()),
        };
        match sent {
            Ok(sent) => Ok(sent),
            Err(Halt::Shrunk) => Ok(Sent::Shrunk),
            Err(Halt::Failed(errno)) => Ok(Sent::Failed(errno)),
            Err(Halt::Transfer(error)) => Err(error),
        }
    }

    fn begin(&mut self, coding: Coding) -> Result<(), TransferError> {
        self.packer.push(&Item::Begin { index: self.index, size: self.size, coding }, 0)
    }

    /// What follows a prefix that the receiver has.
    fn rest(&mut self, prefix: u64, hash: &[u8; 32]) -> Result<Sent, Halt> {
        if prefix > self.size {
            return Ok(Sent::Differs);
        }
        if prefix == self.size && self.known.is_some_and(|known| known == *hash) {
            self.begin(Coding::From(prefix))?;
            return Ok(Sent::Whole(*hash));
        }
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < prefix {
            let end = prefix.min(at + STRETCH);
            if !hash_range(self.file, at..end, &mut hasher)? {
                return Err(Halt::Shrunk);
            }
            at = end;
            self.packer.still_at_work()?;
        }
        if hasher.finalize() != *hash {
            return Ok(Sent::Differs);
        }
        self.from(prefix, hasher)
    }

    fn from(&mut self, start: u64, mut hasher: blake3::Hasher) -> Result<Sent, Halt> {
        self.begin(Coding::From(start))?;
        let mut scratch = Vec::new();
        let mut at = start;
        while at < self.size {
            let data = next_data(self.file, at, self.size)?;
            if data.start > at {
                let bytes = data.start - at;
                let mut left = bytes;
                while left > 0 {
                    hash_zeros(left.min(STRETCH), &mut hasher);
                    left -= left.min(STRETCH);
                    self.packer.still_at_work()?;
                }
                self.packer.push(&Item::Hole { index: self.index, bytes }, 0)?;
            }
            at = data.start;
            while at < data.end {
                let len = (data.end - at).min(limits::DATA_CHUNK_BYTES as u64) as usize;
                self.read_chunk(at, len, &mut hasher, &mut scratch)?;
                at += len as u64;
            }
        }
        Ok(Sent::Whole(hasher.finalize().into()))
    }

    /// Reads and sends `len` bytes; straight into the packet, if they are not to be compressed.
    fn read_chunk(
        &mut self,
        at: u64,
        len: usize,
        hasher: &mut blake3::Hasher,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Halt> {
        self.squeeze.waited(self.packer.take_waited());
        let file = self.file;
        let mut read = |buffer: &mut Vec<u8>| {
            if append_at(file, buffer, len, at)? < len {
                return Err(Halt::Shrunk);
            }
            hasher.update(&buffer[buffer.len() - len..]);
            Ok(())
        };
        if self.squeeze.is_worth_trying() {
            scratch.clear();
            read(scratch)?;
            return Ok(self.chunk(scratch)?);
        }
        let head = Item::Chunk { index: self.index, zstd: None, bytes: &[] };
        self.packer.push_filled(&head, len, read)?
    }

    /// Sends bytes, compressed if that pays.
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let index = self.index;
        match self.squeeze.compress(bytes) {
            Some(small) => {
                let item = Item::Chunk { index, zstd: Some(bytes.len() as u32), bytes: small };
                self.packer.push(&item, small.len())
            }
            None => self.packer.push(&Item::Chunk { index, zstd: None, bytes }, bytes.len()),
        }
    }

    /// A delta to the receiver's version.
    fn delta(&mut self, signature: &[u8]) -> Result<Sent, Halt> {
        let Some(signature) = delta::parse_signature(signature) else {
            // Not one of ours: a receiver that sends none is served without.
            return self.from(0, blake3::Hasher::new());
        };
        let indexed = signature.index();
        self.begin(Coding::Delta)?;
        let mut hasher = blake3::Hasher::new();
        let (mut window, mut delta) = (Vec::new(), Vec::new());
        for (at, len) in delta::windows(self.size) {
            if !delta::read_window(self.file, at, len, &mut window)? {
                return Err(Halt::Shrunk);
            }
            hasher.update(&window);
            delta.clear();
            delta::diff(&indexed, &window, &mut delta)?;
            self.packer.still_at_work()?;
            for piece in delta.chunks(limits::DATA_CHUNK_BYTES) {
                self.squeeze.waited(self.packer.take_waited());
                if self.squeeze.is_worth_trying() {
                    self.chunk(piece)?;
                } else {
                    let item = Item::Chunk { index: self.index, zstd: None, bytes: piece };
                    self.packer.push(&item, piece.len())?;
                }
            }
        }
        Ok(Sent::Whole(hasher.finalize().into()))
    }
}
