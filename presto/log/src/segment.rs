//! Segment files: names, listing, headers, and a scan entry by entry.

use crate::LogError;
use nix::{dir::Dir, errno::Errno, fcntl::OFlag, sys::stat::Mode};
use protocol::{LogEntry, ProtocolError, SEGMENT_HEADER_BYTES, SegmentHeader, decode_entry};
use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
};

/// Bytes read at once while scanning.
const CHUNK_BYTES: usize = 256 * 1024;

/// Name of the segment whose first number is `first`.
pub(crate) fn name(first: u64) -> String {
    format!("{first:020}.log")
}

/// First numbers of all segments in `dir`, ascending. Other names are ignored.
pub(crate) fn list(dir: impl AsFd) -> Result<Vec<u64>, LogError> {
    let fail = |e: Errno| LogError::io("list", ".", e);
    // A descriptor of its own, as the position of a directory stream is shared by duplicates.
    let mut stream = Dir::openat(dir.as_fd(), ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(fail)?;
    let mut found = Vec::new();
    for entry in stream.iter() {
        let entry = entry.map_err(fail)?;
        if let Some(digits) = entry.file_name().to_bytes().strip_suffix(b".log")
            && digits.len() == 20
            && let Ok(text) = std::str::from_utf8(digits)
            && let Ok(first) = text.parse()
        {
            found.push(first);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Opens the segment that begins with `first`.
pub(crate) fn open(dir: impl AsFd, first: u64, flags: OFlag) -> Result<File, LogError> {
    nix::fcntl::openat(dir, name(first).as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(|e| LogError::io("open", name(first), e))
}

/// A position in a segment, which entries are read from.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) file: File,
    pub(crate) first: u64,
    /// Offset after the last whole entry that was handed out.
    pub(crate) offset: u64,
    buffer: Vec<u8>,
    /// Where in `buffer` the byte at `offset` is.
    at: usize,
}

/// What [`Scan::next`] found.
pub(crate) enum Step {
    /// A whole entry.
    Entry(Box<LogEntry>, usize),
    /// Nothing more at the moment: the bytes end, perhaps in the middle of an entry.
    End {
        /// Whether bytes of an unfinished entry are there.
        torn: bool,
    },
    /// The bytes are not an entry.
    Bad(ProtocolError),
}

impl Scan {
    /// Begins after the header, which is returned. `None` if the header is not whole.
    pub(crate) fn begin(file: File, first: u64) -> Result<(Self, Result<SegmentHeader, ProtocolError>), LogError> {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        let got = read_at(&file, first, &mut header, 0)?;
        let header = SegmentHeader::from_bytes(&header[..got]);
        let scan = Self { file, first, offset: SEGMENT_HEADER_BYTES as u64, buffer: Vec::new(), at: 0 };
        Ok((scan, header))
    }

    /// The next entry. After [`Step::End`] or [`Step::Bad`] the next call reads the file again from the same place.
    pub(crate) fn next(&mut self) -> Result<Step, LogError> {
        match decode_entry(&self.buffer[self.at..]) {
            Ok((entry, len)) => Ok(self.advance(entry, len)),
            // What the buffer lacks, or got wrong while it was being written, the file may have by now.
            Err(_) => {
                let more = self.refill()?;
                match decode_entry(&self.buffer) {
                    Ok((entry, len)) => Ok(self.advance(entry, len)),
                    Err(ProtocolError::Truncated(_)) => Ok(Step::End { torn: more > 0 }),
                    Err(error) => Ok(Step::Bad(error)),
                }
            }
        }
    }

    fn advance(&mut self, entry: LogEntry, len: usize) -> Step {
        self.at += len;
        self.offset += len as u64;
        Step::Entry(Box::new(entry), len)
    }

    fn refill(&mut self) -> Result<usize, LogError> {
        let size = CHUNK_BYTES + protocol::limits::LOG_ENTRY_BYTES;
        self.buffer.resize(size, 0);
        self.at = 0;
        let got = read_at(&self.file, self.first, &mut self.buffer, self.offset);
        self.buffer.truncate(*got.as_ref().unwrap_or(&0));
        got
    }
}

fn read_at(file: &File, first: u64, buffer: &mut [u8], offset: u64) -> Result<usize, LogError> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(LogError::io("read", name(first), e)),
        }
    }
    Ok(got)
}
