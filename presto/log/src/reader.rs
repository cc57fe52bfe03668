//! The reading end of a log: it follows a writer in another process.

use crate::{
    LogError,
    segment::{self, Scan, Step},
};
use nix::fcntl::OFlag;
use protocol::{Done, LogEntry, Outcome, ProtocolError, Record, limits};
use std::{collections::VecDeque, os::fd::OwnedFd};

/// A record and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The record.
    pub record: Record,
    /// Done, or cancelled with an errno: then it never happened.
    pub outcome: Result<Done, i32>,
    /// Bytes of the record in the log.
    pub bytes: usize,
}

/// What [`Reader::read`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadResult {
    /// Finished records after the number asked for, in order, perhaps none. More may be there already when the
    /// bounds of the call were reached.
    Entries(Vec<Finished>),
    /// The number asked for precedes what is kept.
    TooOld {
        /// The first number that is kept.
        first_available: u64,
    },
}

/// A record that was read, and how it ended as far as is known.
#[derive(Debug)]
struct Waiting {
    record: Record,
    bytes: usize,
    outcome: Option<Result<Done, i32>>,
}

/// Follows a log from any record on. Several readers and one writer do not disturb each other.
#[derive(Debug)]
pub struct Reader {
    dir: OwnedFd,
    scan: Option<Scan>,
    /// Number of the last record handed out (or asked for).
    after: u64,
    /// Number of the last record seen in the file.
    seen: u64,
    waiting: VecDeque<Waiting>,
}

impl Reader {
    /// A reader of the log in `dir`. Nothing is read yet; the log may be empty.
    pub fn open(dir: OwnedFd) -> Self {
        Self { dir, scan: None, after: 0, seen: 0, waiting: VecDeque::new() }
    }

    /// The first number that is kept; `None` while the log is empty.
    pub fn first_available(&self) -> Result<Option<u64>, LogError> {
        Ok(segment::list(&self.dir)?.first().copied())
    }

    /// The finished records after number `after`, at most `max_records` and about `max_bytes` of them, but at least
    /// one if there is one. It stops before the first record that is not finished. Going on where the last call ended
    /// is cheap; any other number makes it look for the segment again.
    ///
    /// Numbers may have gaps after a power loss. A reader that stands before a gap whose segment was trimmed gets
    /// [`ReadResult::TooOld`]: after a power loss trees are compared anyway.
    ///
    /// # Errors
    /// [`LogError::Damaged`] and [`LogError::Torn`] stay until the log is mended; the next call tries again.
    pub fn read(&mut self, after: u64, max_records: usize, max_bytes: usize) -> Result<ReadResult, LogError> {
        if (after != self.after || self.scan.is_none())
            && let Some(first_available) = self.seek(after)?
        {
            return Ok(ReadResult::TooOld { first_available });
        }
        let mut out = Vec::new();
        let mut bytes = 0;
        loop {
            while self.waiting.front().is_some_and(|w| w.outcome.is_some()) {
                if out.len() >= max_records || (bytes >= max_bytes && !out.is_empty()) {
                    return Ok(ReadResult::Entries(out));
                }
                if let Some(Waiting { record, bytes: len, outcome: Some(outcome) }) = self.waiting.pop_front() {
                    bytes += len;
                    self.after = record.number;
                    out.push(Finished { record, outcome, bytes: len });
                }
            }
            match self.step() {
                Ok(Progress::Entry) => {}
                Ok(Progress::End) => return Ok(ReadResult::Entries(out)),
                Ok(Progress::Lost { .. }) if !out.is_empty() => return Ok(ReadResult::Entries(out)),
                Ok(Progress::Lost { first_available }) => {
                    self.scan = None;
                    return Ok(ReadResult::TooOld { first_available });
                }
                // What was read before the damage is handed out first; the next call meets it again.
                Err(_) if !out.is_empty() => return Ok(ReadResult::Entries(out)),
                Err(error) => {
                    self.scan = None;
                    return Err(error);
                }
            }
        }
    }

    /// Finds the segment that has the record after `after`. `Some(first)` if it is gone.
    fn seek(&mut self, after: u64) -> Result<Option<u64>, LogError> {
        self.waiting.clear();
        (self.after, self.seen, self.scan) = (after, after, None);
        // The segment found may be trimmed before it is opened: then the list is read again.
        loop {
            let firsts = segment::list(&self.dir)?;
            let Some(&oldest) = firsts.first() else { return Ok(None) };
            if oldest > after + 1 {
                return Ok(Some(oldest));
            }
            let first = firsts.iter().rev().find(|f| **f <= after + 1).copied().unwrap_or(oldest);
            match self.open_segment(first) {
                Ok(scan) => {
                    self.scan = scan;
                    return Ok(None);
                }
                Err(LogError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn open_segment(&self, first: u64) -> Result<Option<Scan>, LogError> {
        let (scan, header) = Scan::begin(segment::open(&self.dir, first, OFlag::O_RDONLY)?, first)?;
        match header {
            Ok(_) => Ok(Some(scan)),
            Err(ProtocolError::Truncated(_)) => Ok(None),
            Err(source) => Err(LogError::Damaged { file: segment::name(first), offset: 0, source }),
        }
    }

    fn step(&mut self) -> Result<Progress, LogError> {
        let Some(scan) = &mut self.scan else { return Ok(Progress::End) };
        let end = match scan.next()? {
            Step::Entry(entry, len) => {
                self.take(*entry, len);
                return Ok(Progress::Entry);
            }
            end => end,
        };
        let current = scan.first;
        let Some(next) = segment::list(&self.dir)?.into_iter().find(|first| *first > current) else {
            return match end {
                // A whole entry whose checksum is wrong does not come right by waiting.
                Step::Bad(source) => {
                    let (file, offset) = (segment::name(current), scan.offset);
                    Err(LogError::Torn { file, offset, source })
                }
                _ => Ok(Progress::End),
            };
        };
        // This segment is complete now that there is a next one, but may have grown before that.
        match scan.next()? {
            Step::Entry(entry, len) => {
                self.take(*entry, len);
                return Ok(Progress::Entry);
            }
            Step::End { torn: false } => {}
            Step::End { torn: true } => return Err(self.damaged(ProtocolError::Truncated("a log entry"))),
            Step::Bad(source) => return Err(self.damaged(source)),
        }
        if next > self.seen + 1 && next - self.seen < limits::LOG_GAP_RECORDS {
            return Ok(Progress::Lost { first_available: next });
        }
        match self.open_segment(next)? {
            Some(scan) => self.scan = Some(scan),
            None => return Ok(Progress::End),
        }
        Ok(Progress::Entry)
    }

    fn damaged(&self, source: ProtocolError) -> LogError {
        let (first, offset) = self.scan.as_ref().map_or((0, 0), |scan| (scan.first, scan.offset));
        LogError::Damaged { file: segment::name(first), offset, source }
    }

    fn take(&mut self, entry: LogEntry, len: usize) {
        match entry {
            LogEntry::Record(record) => {
                self.seen = self.seen.max(record.number);
                if record.number > self.after {
                    self.waiting.push_back(Waiting { record, bytes: len, outcome: None });
                }
            }
            LogEntry::Outcome(Outcome { number, result }) => {
                if let Ok(at) = self.waiting.binary_search_by_key(&number, |w| w.record.number) {
                    self.waiting[at].outcome = Some(result);
                }
            }
        }
    }
}

enum Progress {
    Entry,
    End,
    Lost { first_available: u64 },
}
