//! What a log says when it is opened again: where it ends, what was under way, and which files were open.

use crate::{
    LogError,
    segment::{self, Scan, Step},
};
use nix::{fcntl::OFlag, unistd::UnlinkatFlags};
use protocol::{Done, FileSetId, Handle, HostId, LogEntry, ObjectId, Op, Outcome, Record, SegmentHeader, Timestamp};
use std::{collections::BTreeMap, os::fd::OwnedFd};

/// A file that was open for writing in the part of the log that was examined. It may have been closed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFile {
    /// The file.
    pub id: ObjectId,
    /// Its local name, if the log tells.
    pub handle: Option<Handle>,
    /// Size and mtime of its last [`Op::Store`], if there was one since.
    pub last_store: Option<(u64, Timestamp)>,
    /// When it was opened, or last stored.
    pub time: Timestamp,
}

/// What [`crate::Writer::open`] found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Number of the last record, 0 if there is none.
    pub last: u64,
    /// The last record's epoch.
    pub epoch: u64,
    /// When the last record was written.
    pub time: Option<Timestamp>,
    /// All records up to this one have outcomes, as far as the examined part tells.
    pub finished: u64,
    /// Records without outcome, in order.
    pub unfinished: Vec<Record>,
    /// Files opened for writing in the examined part.
    pub open: Vec<OpenFile>,
    /// Bytes of an unfinished or damaged entry that were cut off the end.
    pub cut_bytes: u64,
}

/// What the writer goes on from.
pub(crate) struct Tail {
    pub(crate) firsts: Vec<u64>,
    pub(crate) sizes: Vec<u64>,
    pub(crate) recovered: Recovered,
}

/// Examines the end of the log in `dir`, cuts a torn tail.
pub(crate) fn examine(dir: &OwnedFd, fileset: FileSetId, host: HostId) -> Result<Tail, LogError> {
    let mut firsts = segment::list(dir)?;
    let mut cut_bytes = 0;
    while let Some(&last) = firsts.last() {
        if !headless(dir, last)? {
            break;
        }
        nix::unistd::unlinkat(dir, segment::name(last).as_str(), UnlinkatFlags::NoRemoveDir)
            .map_err(|e| LogError::io("remove", segment::name(last), e))?;
        cut_bytes += 1;
        firsts.pop();
    }
    let mut sizes = Vec::with_capacity(firsts.len());
    for &first in &firsts {
        sizes.push(size(&segment::open(dir, first, OFlag::O_RDONLY)?, first)?);
    }
    let mut window = Window::default();
    // Backwards until a segment begins at or before the first record that may be unfinished.
    for (back, &first) in firsts.iter().enumerate().rev() {
        let is_last = back + 1 == firsts.len();
        let (part, cut) = scan_segment(dir, first, is_last, fileset, host)?;
        if is_last {
            sizes[back] -= cut;
            cut_bytes += cut;
        }
        window = part.then(window);
        // A last segment without records says nothing yet of what is finished.
        if window.records > 0 && first <= window.finished.saturating_add(1) {
            break;
        }
    }
    let mut recovered = window.into_recovered(firsts.last().copied());
    recovered.cut_bytes = cut_bytes;
    Ok(Tail { firsts, sizes, recovered })
}

fn size(file: &std::fs::File, first: u64) -> Result<u64, LogError> {
    Ok(file.metadata().map_err(|e| LogError::io("examine", segment::name(first), e))?.len())
}

/// Whether a last segment was being created when the system went down: its header never reached the disk.
fn headless(dir: &OwnedFd, first: u64) -> Result<bool, LogError> {
    let file = segment::open(dir, first, OFlag::O_RDONLY)?;
    let len = size(&file, first)?;
    let mut begin = [0_u8; protocol::SEGMENT_HEADER_BYTES];
    if len < begin.len() as u64 {
        return Ok(true);
    }
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut begin, 0)
        .map_err(|e| LogError::io("read", segment::name(first), e))?;
    Ok(begin.iter().all(|b| *b == 0))
}

fn scan_segment(
    dir: &OwnedFd,
    first: u64,
    is_last: bool,
    fileset: FileSetId,
    host: HostId,
) -> Result<(Window, u64), LogError> {
    let flags = if is_last { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    let (mut scan, header) = Scan::begin(segment::open(dir, first, flags)?, first)?;
    check_header(header, first, fileset, host)?;
    let mut window = Window::default();
    let end = loop {
        match scan.next()? {
            Step::Entry(entry, _) => window.add(*entry),
            Step::End { torn: false } => break None,
            Step::End { torn: true } => break Some(protocol::ProtocolError::Truncated("a log entry")),
            Step::Bad(error) => break Some(error),
        }
    };
    let Some(source) = end else { return Ok((window, 0)) };
    if !is_last {
        return Err(LogError::Damaged { file: segment::name(first), offset: scan.offset, source });
    }
    let cut = size(&scan.file, first)? - scan.offset;
    tracing::info!(segment = first, offset = scan.offset, cut, %source, "cutting the torn end of the log");
    scan.file.set_len(scan.offset).map_err(|e| LogError::io("cut", segment::name(first), e))?;
    Ok((window, cut))
}

pub(crate) fn check_header(
    header: Result<SegmentHeader, protocol::ProtocolError>,
    first: u64,
    fileset: FileSetId,
    host: HostId,
) -> Result<(), LogError> {
    let file = segment::name(first);
    match header {
        Err(source) => Err(LogError::Damaged { file, offset: 0, source }),
        Ok(h) if h.fileset != fileset || h.host != host => {
            Err(LogError::Foreign { file, fileset: h.fileset, host: h.host })
        }
        Ok(_) => Ok(()),
    }
}

/// What a run of entries says. Windows of consecutive segments join with [`Window::then`].
#[derive(Default)]
struct Window {
    records: u64,
    last: u64,
    epoch: u64,
    finished: u64,
    time: Option<Timestamp>,
    unfinished: BTreeMap<u64, Record>,
    outcomes: BTreeMap<u64, Result<Done, i32>>,
    open: BTreeMap<ObjectId, OpenFile>,
}

impl Window {
    fn add(&mut self, entry: LogEntry) {
        match entry {
            LogEntry::Record(record) => {
                self.records += 1;
                self.last = record.number;
                self.epoch = record.epoch;
                self.finished = record.finished;
                self.time = Some(record.time);
                self.note_open(&record);
                self.unfinished.insert(record.number, record);
            }
            LogEntry::Outcome(Outcome { number, result }) => match self.unfinished.remove(&number) {
                Some(record) => self.note_outcome(&record.op, &result),
                None => drop(self.outcomes.insert(number, result)),
            },
        }
    }

    fn note_open(&mut self, record: &Record) {
        let (id, handle, last_store) = match record.op {
            Op::Create { id, .. } => (id, None, None),
            Op::Intend { id, handle } => (id, Some(handle), self.open.get(&id).and_then(|o| o.last_store)),
            Op::Store { id, size, mtime } => match self.open.get(&id) {
                Some(open) => (id, open.handle, Some((size, mtime))),
                None => return,
            },
            _ => return,
        };
        self.open.insert(id, OpenFile { id, handle, last_store, time: record.time });
    }

    fn note_outcome(&mut self, op: &Op, result: &Result<Done, i32>) {
        let Op::Create { id, .. } = op else { return };
        match (self.open.get_mut(id), result) {
            (Some(open), Ok(done)) => open.handle = done.handle,
            (Some(_), Err(_)) => drop(self.open.remove(id)),
            (None, _) => {}
        }
    }

    fn then(mut self, later: Self) -> Self {
        for (number, result) in later.outcomes {
            match self.unfinished.remove(&number) {
                Some(record) => self.note_outcome(&record.op, &result),
                None => drop(self.outcomes.insert(number, result)),
            }
        }
        self.unfinished.extend(later.unfinished);
        for (id, mut open) in later.open {
            if let Some(before) = self.open.get(&id) {
                open.handle = open.handle.or(before.handle);
                open.last_store = open.last_store.or(before.last_store);
            }
            self.open.insert(id, open);
        }
        if later.records > 0 {
            self.records += later.records;
            (self.last, self.epoch, self.finished, self.time) = (later.last, later.epoch, later.finished, later.time);
        }
        self
    }

    fn into_recovered(self, last_segment: Option<u64>) -> Recovered {
        // A segment that was begun promises that all numbers below its first are taken.
        let last = self.last.max(last_segment.map_or(0, |first| first.saturating_sub(1)));
        Recovered {
            last,
            epoch: self.epoch,
            time: self.time,
            finished: self.unfinished.keys().next().map_or(last, |n| n - 1),
            unfinished: self.unfinished.into_values().collect(),
            open: self.open.into_values().collect(),
            cut_bytes: 0,
        }
    }
}
