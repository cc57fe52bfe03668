//! The writing end of a log.

use crate::{
    LogError,
    recover::{self, Recovered},
    segment,
};
use nix::{
    fcntl::{FallocateFlags, OFlag},
    sys::stat::Mode,
    unistd::UnlinkatFlags,
};
use protocol::{
    Cred, Done, FileSetId, Handle, HostId, LogEntry, ObjectId, Op, Outcome, Record, SEGMENT_HEADER_BYTES,
    SegmentHeader, Timestamp, encode_entry, limits,
};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
    time::{SystemTime, UNIX_EPOCH},
};

/// A file that will be the next segment; its blocks are taken already, so that a full disk leaves room to delete.
const SPARE: &str = "spare";

/// Whose log it is, and its bounds.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The file set.
    pub fileset: FileSetId,
    /// The host whose records these are.
    pub host: HostId,
    /// Bytes after which a new segment is begun.
    pub segment_bytes: u64,
}

impl Options {
    /// The bounds of [`limits`].
    pub fn new(fileset: FileSetId, host: HostId) -> Self {
        Self { fileset, host, segment_bytes: limits::LOG_SEGMENT_BYTES }
    }
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    first: u64,
    bytes: u64,
}

/// The one writer of a log. Not to be opened twice.
///
/// [`Writer::append`] is one `pwrite(2)`, which carries also the outcomes queued by [`Writer::outcome`] before it.
/// Nothing is made durable but by [`Writer::sync`] and when a segment is full.
#[derive(Debug)]
pub struct Writer {
    dir: OwnedFd,
    options: Options,
    /// All segments, the last one is `file`.
    segments: VecDeque<Segment>,
    file: Option<File>,
    /// Encoded outcomes that are not written yet.
    pending: Vec<u8>,
    last: u64,
    /// Numbers of records without outcome; in a deque because there are few and most end in order.
    unfinished: VecDeque<u64>,
    open: BTreeMap<ObjectId, Option<Handle>>,
    /// Records that created a file whose handle is not known yet.
    creating: BTreeMap<u64, ObjectId>,
    synced: u64,
    dirty: bool,
    dir_dirty: bool,
    /// A failed write left bytes behind that could not be cut off yet.
    ragged: bool,
}

impl Writer {
    /// Opens the log in `dir`, cuts a torn tail, and says what it found. The log may be empty.
    ///
    /// # Errors
    /// [`LogError::Damaged`] for damage that is not at the end, [`LogError::Foreign`] for a log of another file set
    /// or host, [`LogError::Io`].
    pub fn open(dir: OwnedFd, options: Options) -> Result<(Self, Recovered), LogError> {
        let tail = recover::examine(&dir, options.fileset, options.host)?;
        let segments: VecDeque<_> =
            tail.firsts.iter().zip(&tail.sizes).map(|(&first, &bytes)| Segment { first, bytes }).collect();
        let file = match segments.back() {
            Some(last) => Some(segment::open(&dir, last.first, OFlag::O_WRONLY)?),
            None => None,
        };
        let recovered = tail.recovered;
        let writer = Self {
            dir,
            options,
            segments,
            file,
            pending: Vec::new(),
            last: recovered.last,
            unfinished: recovered.unfinished.iter().map(|r| r.number).collect(),
            open: BTreeMap::new(),
            creating: BTreeMap::new(),
            synced: 0,
            dirty: true,
            dir_dirty: true,
            ragged: false,
        };
        if let (Some(file), Some(last)) = (&writer.file, writer.segments.back()) {
            reserve(file, last.bytes, options.segment_bytes);
        }
        writer.prepare_spare();
        Ok((writer, recovered))
    }

    /// Number of the last record.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// All records up to this number have outcomes, written or queued.
    pub fn finished(&self) -> u64 {
        self.unfinished.front().map_or(self.last, |n| n - 1)
    }

    /// All records up to this number are durable.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Whether something was written since the last [`Writer::sync`], or waits to be.
    pub fn is_dirty(&self) -> bool {
        self.dirty || !self.pending.is_empty()
    }

    /// Appends the record that `op` makes of its number, and writes it. Returns the number.
    ///
    /// # Errors
    /// The log is as before and the number was not used.
    pub fn append(&mut self, cred: Cred, epoch: u64, op: impl FnOnce(u64) -> Op) -> Result<u64, LogError> {
        self.rotate_if_full(epoch)?;
        let number = self.last + 1;
        let record = Record { number, epoch, finished: self.finished(), time: now(), cred, op: op(number) };
        self.write_record(record)?;
        Ok(number)
    }

    /// Appends a record received from its own host, with its outcome, as it came.
    ///
    /// # Errors
    /// [`LogError::OutOfOrder`] if its number is not above the last one; else as [`Writer::append`].
    pub fn append_record(&mut self, record: &Record, result: Result<Done, i32>) -> Result<(), LogError> {
        if record.number <= self.last {
            return Err(LogError::OutOfOrder { got: record.number, last: self.last });
        }
        let before = self.last;
        self.last = record.number - 1;
        let done = self.rotate_if_full(record.epoch).and_then(|()| self.write_record(record.clone()));
        if let Err(error) = done {
            self.last = before;
            return Err(error);
        }
        // Files are not open here: nothing is to be repeated in the next segment.
        self.outcome(record.number, result);
        self.open.clear();
        Ok(())
    }

    fn write_record(&mut self, record: Record) -> Result<(), LogError> {
        let kept = self.pending.len();
        let number = record.number;
        let tracked = match record.op {
            Op::Create { id, .. } => Some((id, None)),
            Op::Intend { id, handle } => Some((id, Some(handle))),
            _ => None,
        };
        encode_entry(&LogEntry::Record(record), &mut self.pending)?;
        if let Err(error) = self.write_pending() {
            self.pending.truncate(kept);
            return Err(error);
        }
        self.last = number;
        self.unfinished.push_back(number);
        if let Some((id, handle)) = tracked {
            self.open.insert(id, handle);
            if handle.is_none() {
                self.creating.insert(number, id);
            }
        }
        Ok(())
    }

    /// Queues how record `number` ended; it is written with the next record, or by [`Writer::flush`].
    pub fn outcome(&mut self, number: u64, result: Result<Done, i32>) {
        if let Some(id) = self.creating.remove(&number) {
            match &result {
                Ok(done) => drop(self.open.insert(id, done.handle)),
                Err(_) => drop(self.open.remove(&id)),
            }
        }
        if let Some(at) = self.unfinished.iter().position(|n| *n == number) {
            self.unfinished.remove(at);
        }
        encode_entry(&LogEntry::Outcome(Outcome { number, result }), &mut self.pending)
            .expect("an outcome has a bounded length, far below the limit of an entry");
    }

    /// Says that a file is no longer open for writing, and need not be announced in the next segment.
    pub fn closed(&mut self, id: ObjectId) {
        self.open.remove(&id);
    }

    /// Writes what is queued.
    ///
    /// # Errors
    /// It stays queued.
    pub fn flush(&mut self) -> Result<(), LogError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            self.begin_segment(self.last + 1)?;
        }
        self.write_pending()
    }

    /// Writes what is queued and makes the whole log durable.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.flush()?;
        if let Some((file, first, upto)) = self.sync_handle()? {
            file.sync_data().map_err(|e| LogError::io("sync", segment::name(first), e))?;
            self.synced_upto(upto);
        }
        Ok(())
    }

    /// For syncing without holding up the writer: what to call `sync_data` on (its segment's first number for
    /// messages), and the number to give to [`Writer::synced_upto`] afterwards. Call [`Writer::flush`] before.
    /// `None` when all is durable.
    pub fn sync_handle(&mut self) -> Result<Option<(File, u64, u64)>, LogError> {
        let (Some(file), Some(segment)) = (&self.file, self.segments.back()) else { return Ok(None) };
        if self.dir_dirty {
            nix::unistd::fsync(&self.dir).map_err(|e| LogError::io("sync", ".", e))?;
            self.dir_dirty = false;
        }
        if !self.dirty {
            return Ok(None);
        }
        let file = file.try_clone().map_err(|e| LogError::io("open", segment::name(segment.first), e))?;
        self.dirty = false;
        Ok(Some((file, segment.first, self.last)))
    }

    /// The segment that is written to, if there is one, opened anew: to have its pages written out ahead of a sync.
    /// An error of that is told to this descriptor, and to the one of [`Writer::sync_handle`] all the same.
    pub fn last_segment(&self) -> Result<Option<File>, LogError> {
        self.segments.back().map(|segment| segment::open(&self.dir, segment.first, OFlag::O_RDONLY)).transpose()
    }

    /// The file of [`Writer::sync_handle`] was synced.
    pub fn synced_upto(&mut self, number: u64) {
        self.synced = self.synced.max(number);
    }

    /// The sync of a [`Writer::sync_handle`] failed, or was not done.
    pub fn sync_failed(&mut self) {
        self.dirty = true;
    }

    /// Numbers that may have been used before a power loss are never used again: the next one is `count` higher.
    pub fn skip(&mut self, count: u64) {
        self.last += count;
    }

    /// Removes the segments in which no record is later than `upto`; never the last one.
    pub fn trim(&mut self, upto: u64) -> Result<(), LogError> {
        while self.segments.get(1).is_some_and(|next| next.first <= upto.saturating_add(1)) {
            self.remove_oldest()?;
        }
        Ok(())
    }

    /// Bytes in all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    fn remove_oldest(&mut self) -> Result<(), LogError> {
        if let Some(oldest) = self.segments.front() {
            let name = segment::name(oldest.first);
            match nix::unistd::unlinkat(&self.dir, name.as_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
                Err(e) => return Err(LogError::io("remove", name, e)),
            }
            self.segments.pop_front();
        }
        Ok(())
    }

    /// Writes `pending` behind the last entry, all or nothing.
    fn write_pending(&mut self) -> Result<(), LogError> {
        let (Some(file), Some(segment)) = (&self.file, self.segments.back_mut()) else {
            return Err(LogError::io("write", "", nix::errno::Errno::EBADF));
        };
        let fail = |e: std::io::Error| LogError::io("write", segment::name(segment.first), e);
        if self.ragged {
            file.set_len(segment.bytes).map_err(fail)?;
            self.ragged = false;
        }
        if let Err(error) = file.write_all_at(&self.pending, segment.bytes) {
            // Bytes that were written are cut off again, or written over by the next attempt.
            self.ragged = file.set_len(segment.bytes).is_err();
            reserve(file, segment.bytes, self.options.segment_bytes);
            return Err(fail(error));
        }
        segment.bytes += self.pending.len() as u64;
        self.pending.clear();
        self.dirty = true;
        Ok(())
    }

    fn rotate_if_full(&mut self, epoch: u64) -> Result<(), LogError> {
        match (&self.file, self.segments.back()) {
            (None, _) => self.begin_segment(self.last + 1),
            (Some(file), Some(s)) if s.bytes >= self.options.segment_bytes => {
                // The old segment is durable before the new one exists, so that damage to it is never a torn tail.
                self.flush()?;
                if let (Some(file), Some(s)) = (&self.file, self.segments.back()) {
                    file.set_len(s.bytes)
                        .and_then(|()| file.sync_data())
                        .map_err(|e| LogError::io("sync", segment::name(s.first), e))?;
                }
                self.synced = self.synced.max(self.last);
                self.begin_segment(self.last + 1)?;
                self.repeat_intents(epoch)
            }
            _ => Ok(()),
        }
    }

    /// Begins segment `first`; all before it is written.
    fn begin_segment(&mut self, first: u64) -> Result<(), LogError> {
        let name = segment::name(first);
        let header = SegmentHeader { fileset: self.options.fileset, host: self.options.host, first }.to_bytes();
        if !self.spare_exists() {
            self.create_spare().map_err(|e| LogError::io("create", &name, e))?;
        }
        let file = nix::fcntl::openat(&self.dir, SPARE, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map(File::from)
            .map_err(|e| LogError::io("create", &name, e))?;
        let written = file.write_all_at(&header, 0);
        written.map_err(|e| LogError::io("write", &name, e))?;
        nix::fcntl::renameat(&self.dir, SPARE, &self.dir, name.as_str())
            .map_err(|e| LogError::io("create", &name, e))?;
        self.file = Some(file);
        self.segments.push_back(Segment { first, bytes: SEGMENT_HEADER_BYTES as u64 });
        (self.dirty, self.dir_dirty, self.ragged) = (true, true, false);
        self.prepare_spare();
        Ok(())
    }

    fn repeat_intents(&mut self, epoch: u64) -> Result<(), LogError> {
        let open: Vec<_> = self.open.iter().filter_map(|(id, handle)| Some((*id, (*handle)?))).collect();
        for (id, handle) in open {
            let number = self.last + 1;
            let op = Op::Intend { id, handle };
            let cred = Cred { uid: 0, gid: 0, pid: 0 };
            self.write_record(Record { number, epoch, finished: self.finished(), time: now(), cred, op })?;
            self.outcome(number, Ok(Done { handle: Some(handle), attr: None }));
        }
        Ok(())
    }

    fn spare_exists(&self) -> bool {
        nix::sys::stat::fstatat(&self.dir, SPARE, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    fn create_spare(&self) -> nix::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let file = File::from(nix::fcntl::openat(&self.dir, SPARE, flags, Mode::from_bits_truncate(0o600))?);
        reserve(&file, 0, self.options.segment_bytes);
        Ok(())
    }

    /// Makes the next segment ready ahead; without it the log still works until the disk is full.
    fn prepare_spare(&self) {
        if !self.spare_exists()
            && let Err(error) = self.create_spare()
        {
            tracing::warn!(%error, "no room for the next log segment");
        }
    }
}

/// Takes blocks for the rest of a segment, where the file system can; a slack above the bound is for the last entry.
fn reserve(file: &File, from: u64, segment_bytes: u64) {
    let until = segment_bytes + segment_bytes / 16;
    if let Some(len) = until.checked_sub(from).filter(|len| *len > 0) {
        let result = nix::fcntl::fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from as i64, len as i64);
        if let Err(error) = result {
            tracing::debug!(%error, "no space reserved for the log");
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
}
