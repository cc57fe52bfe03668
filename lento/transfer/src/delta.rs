//! Rsync deltas over files of any size: signatures and differences are made window by window, and a delta is
//! applied as it arrives, so that no file is ever held in memory.
//!
//! A delta on the wire is the concatenation of one rsync delta a window, each with its own magic and end.

use crate::io::{read_exact_at, read_full_at};
use fast_rsync::{IndexedSignature, Signature, SignatureOptions};
use protocol::limits;
use std::{fs::File, io};

/// Bytes of a file that are compared at once. Matches do not reach over the end of a window, which costs at most
/// one block of literal bytes each.
const WINDOW: usize = 16 << 20;
/// Bytes kept of the strong hash of each block. A collision is found by the hash over the whole content.
const STRONG_BYTES: u32 = 8;
const HEADER_BYTES: usize = 12;
const BLOCK_BYTES: usize = 4 + STRONG_BYTES as usize;
/// Room that a signature leaves in its packet for what is around it.
const SLACK: usize = 32 * 1024;
const MIN_BLOCK: u64 = 2048;
const MAX_BLOCK: u64 = 1 << 20;
const MAGIC: [u8; 4] = 0x7273_0236_u32.to_be_bytes();

/// The block size for a signature of a file of `size` bytes: a power of two, so that blocks that were overwritten in
/// place lie in both sides' windows alike. `None` if no signature fits a packet.
fn block_size(size: u64) -> Option<u32> {
    const BLOCKS: u64 = ((limits::PACKET_BODY_BYTES - SLACK - HEADER_BYTES) / BLOCK_BYTES) as u64;
    let wanted = size.isqrt().max(size.div_ceil(BLOCKS)).max(MIN_BLOCK).next_power_of_two();
    (wanted <= MAX_BLOCK).then_some(wanted as u32)
}

/// How long the signature of a file of `size` bytes is, `None` if none fits a packet.
pub(crate) fn signature_bytes(size: u64) -> Option<usize> {
    Some(size.div_ceil(block_size(size)?.into()) as usize * BLOCK_BYTES + HEADER_BYTES)
}

/// The signature of the first `size` bytes of `file`, `None` if none fits a packet.
pub(crate) fn signature(file: &File, size: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(block_size) = block_size(size) else { return Ok(None) };
    let options = SignatureOptions { block_size, crypto_hash_size: STRONG_BYTES };
    let mut out = Signature::calculate(&[], options).into_serialized();
    let mut window = vec![0; WINDOW.min(size as usize)];
    let mut at = 0;
    while at < size {
        let len = WINDOW.min((size - at) as usize);
        read_exact_at(file, &mut window[..len], at)?;
        out.extend_from_slice(&Signature::calculate(&window[..len], options).serialized()[HEADER_BYTES..]);
        at += len as u64;
    }
    Ok(Some(out))
}

/// A signature from a peer, held to what [`signature`] makes.
pub(crate) fn parse_signature(bytes: &[u8]) -> Option<Signature> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let block = u64::from(word(4)?);
    let sane = (MIN_BLOCK..=MAX_BLOCK).contains(&block)
        && word(8)? == STRONG_BYTES
        && bytes.len() <= limits::PACKET_BODY_BYTES;
    if sane { Signature::deserialize(bytes.to_vec()).ok() } else { None }
}

/// The windows of a file of `size` bytes: where each begins and how long it is.
pub(crate) fn windows(size: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..size).step_by(WINDOW).map(move |at| (at, WINDOW.min((size - at) as usize)))
}

/// Reads a window into `buffer`; `false` if the file is shorter by now.
pub(crate) fn read_window(file: &File, at: u64, len: usize, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.resize(len, 0);
    Ok(read_full_at(file, buffer, at)? == len)
}

/// Appends the delta of one window's bytes to `out`.
pub(crate) fn diff(signature: &IndexedSignature<'_>, window: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    fast_rsync::diff(signature, window, out).map_err(io::Error::other)
}

/// What a delta does, in order of the new content.
pub(crate) trait Target {
    type Error;
    /// The next bytes are these.
    fn literal(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
    /// The next bytes are those of the old content from `offset`.
    fn copy(&mut self, offset: u64, len: u64) -> Result<(), Self::Error>;
}

/// Parses a delta that arrives in pieces.
#[derive(Debug)]
pub(crate) struct Patch {
    state: State,
}

#[derive(Debug)]
enum State {
    /// At the beginning of a window's delta, so many bytes of its magic seen.
    Magic(usize),
    /// An operation begins.
    Op,
    /// The numbers of an operation: widths of offset and length, bytes seen.
    Numbers { offset: usize, len: usize, seen: usize, bytes: [u8; 16] },
    /// So many bytes of a literal are to come.
    Literal(u64),
}

/// Why a delta was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PatchError<E> {
    /// It is not a delta.
    Malformed(&'static str),
    /// The target refused.
    Target(E),
}

impl Patch {
    pub(crate) fn new() -> Self {
        Self { state: State::Magic(0) }
    }

    /// Whether the delta may end here.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.state, State::Magic(0))
    }

    /// Takes the next bytes of the delta.
    pub(crate) fn push<T: Target>(&mut self, mut bytes: &[u8], target: &mut T) -> Result<(), PatchError<T::Error>> {
        while let Some((&first, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Literal(left) => {
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (literal, tail) = bytes.split_at(len);
                    target.literal(literal).map_err(PatchError::Target)?;
                    *left -= len as u64;
                    if *left == 0 {
                        self.state = State::Op;
                    }
                    bytes = tail;
                }
                State::Magic(seen) => {
                    if first != MAGIC[*seen] {
                        return Err(PatchError::Malformed("a delta does not begin as one"));
                    }
                    self.state = if *seen + 1 == MAGIC.len() { State::Op } else { State::Magic(*seen + 1) };
                    bytes = rest;
                }
                State::Op => {
                    self.state = Self::operation(first)?;
                    bytes = rest;
                }
                State::Numbers { offset, len, seen, bytes: numbers } => {
                    numbers[*seen] = first;
                    *seen += 1;
                    if *seen == *offset + *len {
                        let (from, length) = (be(&numbers[..*offset]), be(&numbers[*offset..*seen]));
                        let copies = *offset > 0;
                        self.state = if copies || length == 0 { State::Op } else { State::Literal(length) };
                        if copies {
                            target.copy(from, length).map_err(PatchError::Target)?;
                        }
                    }
                    bytes = rest;
                }
            }
        }
        Ok(())
    }

    fn operation<E>(op: u8) -> Result<State, PatchError<E>> {
        let numbers = |offset, len| State::Numbers { offset, len, seen: 0, bytes: [0; 16] };
        Ok(match op {
            0 => State::Magic(0),
            1..=0x40 => State::Literal(u64::from(op)),
            0x41..=0x44 => numbers(0, 1 << (op - 0x41)),
            0x45..=0x54 => numbers(1 << ((op - 0x45) / 4), 1 << ((op - 0x45) % 4)),
            _ => return Err(PatchError::Malformed("a delta has an unknown operation")),
        })
    }
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    struct Memory<'a> {
        old: &'a [u8],
        new: Vec<u8>,
        literal: usize,
    }

    impl Target for Memory<'_> {
        type Error = &'static str;
        fn literal(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
            self.literal += bytes.len();
            self.new.extend_from_slice(bytes);
            Ok(())
        }
        fn copy(&mut self, offset: u64, len: u64) -> Result<(), Self::Error> {
            let end = offset.checked_add(len).ok_or("overflow")?;
            self.new.extend_from_slice(self.old.get(offset as usize..end as usize).ok_or("beyond the end")?);
            Ok(())
        }
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("it is written");
        file
    }

    fn noise(len: usize, mut seed: u32) -> Vec<u8> {
        std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        })
        .take(len)
        .collect()
    }

    /// New content from old through signature and delta, cut into pieces of `piece`; and how much was literal.
    fn round(old: &[u8], new: &[u8], piece: usize) -> (Vec<u8>, usize) {
        let bytes = signature(&file(old), old.len() as u64).expect("it is read").expect("it fits");
        let signature = parse_signature(&bytes).expect("ours is sane");
        let indexed = signature.index();
        let (source, mut buffer, mut delta) = (file(new), Vec::new(), Vec::new());
        for (at, len) in windows(new.len() as u64) {
            assert!(read_window(&source, at, len, &mut buffer).expect("it is read"));
            diff(&indexed, &buffer, &mut delta).expect("memory is all it needs");
        }
        let mut target = Memory { old, new: Vec::new(), literal: 0 };
        let mut patch = Patch::new();
        for piece in delta.chunks(piece) {
            patch.push(piece, &mut target).expect("the delta is good");
        }
        assert!(patch.is_complete());
        (target.new, target.literal)
    }

    #[test]
    fn a_delta_over_several_windows_rebuilds_the_new_content() {
        let old = noise(2 * WINDOW + 12_345, 1);
        let mut new = old.clone();
        new[WINDOW - 5..WINDOW + 5].copy_from_slice(b"0123456789");
        new.truncate(old.len() - 1000);
        let (rebuilt, literal) = round(&old, &new, 100_000);
        assert!(rebuilt == new);
        assert!(literal < 3 * 16_384, "{literal}");
        new.splice(1000..1000, *b"inserted");
        let (rebuilt, literal) = round(&old, &new, 256 * 1024);
        assert!(rebuilt == new);
        assert!(literal < 8 * 16_384, "{literal}");
    }

    proptest! {
        #[test]
        fn any_edit_survives(len in 0_usize..60_000, at in 0_usize..60_000, cut in 0_usize..9000, put in 0_usize..9000, piece in 1_usize..5000) {
            let old = noise(len, 2);
            let mut new = old.clone();
            let at = at.min(len);
            new.splice(at..(at + cut).min(len), noise(put, 3));
            prop_assert!(round(&old, &new, piece).0 == new);
        }

        #[test]
        fn a_hostile_delta_is_refused_or_harmless(mut delta in proptest::collection::vec(any::<u8>(), 0..200)) {
            if delta.len() > 4 {
                delta[..4].copy_from_slice(&MAGIC);
            }
            let mut target = Memory { old: b"old", new: Vec::new(), literal: 0 };
            let _ = Patch::new().push(&delta, &mut target);
        }
    }

    #[test]
    fn signatures_fit_a_packet_or_are_not_made() {
        for size in [1, 1 << 20, 1 << 30, 5 << 30, 80 << 30] {
            assert!(signature_bytes(size).expect("up to 85 GB fit") <= limits::PACKET_BODY_BYTES - SLACK);
        }
        assert_eq!(signature_bytes(1 << 40), None);
        let of = signature(&file(&[1; 10_000]), 10_000).expect("it is read").expect("it fits");
        assert_eq!(Some(of.len()), signature_bytes(10_000));
    }

    #[test]
    fn a_signature_with_blocks_of_no_length_is_refused() {
        let mut bytes =
            Signature::calculate(b"x", SignatureOptions { block_size: 2048, crypto_hash_size: 8 }).into_serialized();
        assert!(parse_signature(&bytes).is_some());
        bytes[4..8].fill(0);
        assert!(parse_signature(&bytes).is_none());
    }
}
