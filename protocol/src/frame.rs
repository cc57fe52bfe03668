//! The modification log byte by byte: segment header and framed, checksummed entries (`docs/formats/log.md`).

use crate::{FileSetId, HostId, Outcome, ProtocolError, Record, limits};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"IMZO-LOG";
const VERSION: u16 = 1;

/// Length of [`SegmentHeader`]'s encoding.
pub const SEGMENT_HEADER_BYTES: usize = 48;
/// Length of the header of an entry: body length (u32 LE), CRC-32C of the body (u32 LE).
pub const ENTRY_HEADER_BYTES: usize = 8;

/// What a segment file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose log.
    pub fileset: FileSetId,
    /// The host whose records these are.
    pub host: HostId,
    /// No record in this segment has a lower number.
    pub first: u64,
}

impl SegmentHeader {
    /// Magic (8), version (u16 LE), zero (u16), host (u32 LE), file set (16), first number (u64 LE), zero (4),
    /// CRC-32C of all before it (u32 LE).
    pub fn to_bytes(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.host.get().to_le_bytes());
        out[16..32].copy_from_slice(self.fileset.as_bytes());
        out[32..40].copy_from_slice(&self.first.to_le_bytes());
        let crc = crc32c::crc32c(&out[..44]);
        out[44..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads what [`SegmentHeader::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProtocolError> {
        const WHAT: &str = "a log segment's header";
        let bytes: &[u8; SEGMENT_HEADER_BYTES] = bytes.first_chunk().ok_or(ProtocolError::Truncated(WHAT))?;
        if &bytes[..8] != MAGIC {
            return Err(ProtocolError::malformed(WHAT, "this is not a modification log"));
        }
        if crc32c::crc32c(&bytes[..44]) != le_u32(&bytes[44..48]) {
            return Err(ProtocolError::Checksum(WHAT));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(ProtocolError::Version { what: WHAT, got: version, known: "1" });
        }
        let mut fileset = [0; 16];
        fileset.copy_from_slice(&bytes[16..32]);
        let mut first = [0; 8];
        first.copy_from_slice(&bytes[32..40]);
        Ok(Self {
            fileset: FileSetId::from_bytes(fileset),
            host: HostId::new(le_u32(&bytes[12..16]))?,
            first: u64::from_le_bytes(first),
        })
    }
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b))
}

/// One entry of the log: a record, or how an earlier one ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogEntry {
    /// An operation, before it is done.
    Record(Record),
    /// How it ended.
    Outcome(Outcome),
}

/// Appends `entry`, framed, to `out`.
///
/// # Errors
/// [`ProtocolError::TooLong`] beyond [`limits::LOG_ENTRY_BYTES`]; `out` is as before then.
pub fn encode_entry(entry: &LogEntry, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    let start = out.len();
    out.extend_from_slice(&[0; ENTRY_HEADER_BYTES]);
    let body = start + ENTRY_HEADER_BYTES;
    struct Tail<'a>(&'a mut Vec<u8>);
    impl Extend<u8> for Tail<'_> {
        fn extend<T: IntoIterator<Item = u8>>(&mut self, iter: T) {
            self.0.extend(iter);
        }
    }
    let encoded = postcard::to_extend(entry, Tail(out)).map(|_| ());
    let len = out.len() - body;
    let error = match encoded {
        Err(why) => Some(ProtocolError::malformed("a log entry", why)),
        Ok(()) if len > limits::LOG_ENTRY_BYTES => {
            Some(ProtocolError::TooLong { what: "a log entry", got: len, limit: limits::LOG_ENTRY_BYTES })
        }
        Ok(()) => None,
    };
    if let Some(error) = error {
        out.truncate(start);
        return Err(error);
    }
    let crc = crc32c::crc32c(&out[body..]);
    out[start..start + 4].copy_from_slice(&(len as u32).to_le_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Decodes the entry at the beginning of `bytes`, and says how many bytes it took.
///
/// # Errors
/// [`ProtocolError::Truncated`] if more bytes are needed (a torn tail, when there are none);
/// [`ProtocolError::Checksum`], [`ProtocolError::TooLong`] and [`ProtocolError::Malformed`] if they are damaged.
pub fn decode_entry(bytes: &[u8]) -> Result<(LogEntry, usize), ProtocolError> {
    const WHAT: &str = "a log entry";
    let header: &[u8; ENTRY_HEADER_BYTES] = bytes.first_chunk().ok_or(ProtocolError::Truncated(WHAT))?;
    let len = le_u32(&header[..4]) as usize;
    if len > limits::LOG_ENTRY_BYTES {
        return Err(ProtocolError::TooLong { what: WHAT, got: len, limit: limits::LOG_ENTRY_BYTES });
    }
    if len == 0 {
        return Err(ProtocolError::malformed(WHAT, "it is empty"));
    }
    let body = bytes[ENTRY_HEADER_BYTES..].get(..len).ok_or(ProtocolError::Truncated(WHAT))?;
    if crc32c::crc32c(body) != le_u32(&header[4..]) {
        return Err(ProtocolError::Checksum(WHAT));
    }
    let (entry, rest) = postcard::take_from_bytes(body).map_err(|why| ProtocolError::malformed(WHAT, why))?;
    if !rest.is_empty() {
        return Err(ProtocolError::malformed(WHAT, "bytes follow it"));
    }
    Ok((entry, ENTRY_HEADER_BYTES + len))
}
