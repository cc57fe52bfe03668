//! The modification log as the filter uses it: shared by all threads, with the doorbell that tells Lento of news.

use crate::permit::Pass;
use modlog::{LogError, Writer};
use protocol::{Cred, Done, ObjectId, Op};
use std::{
    os::fd::AsRawFd,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Not armed: nothing is beyond this number.
const NEVER: u64 = u64::MAX;

/// The log's writer behind a lock, and the doorbell.
#[derive(Debug)]
pub(crate) struct Journal {
    writer: Mutex<Writer>,
    /// Ring when the finished part of the log grows beyond this.
    armed: AtomicU64,
    rung: Mutex<bool>,
    bell: Condvar,
    /// errno of the last write if it failed, else 0.
    failed: AtomicI32,
    /// One sync at a time; others find their records durable when it is their turn.
    syncing: Mutex<()>,
}

impl Journal {
    pub(crate) fn new(writer: Writer) -> Self {
        Self {
            writer: Mutex::new(writer),
            armed: AtomicU64::new(NEVER),
            rung: Mutex::new(false),
            bell: Condvar::new(),
            failed: AtomicI32::new(0),
            syncing: Mutex::new(()),
        }
    }

    /// The writer itself. Lock order: after any open file, never before one.
    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic elsewhere cannot leave the writer half changed: it writes first and then notes what it wrote.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record under the permit; `op` makes it of its number.
    pub(crate) fn append(&self, pass: &Pass<'_>, cred: Cred, op: impl FnOnce(u64) -> Op) -> Result<u64, LogError> {
        let appended = self.writer().append(cred, pass.epoch, op);
        match &appended {
            Ok(_) => {
                if self.failed.load(Ordering::Relaxed) != 0 {
                    self.failed.store(0, Ordering::Relaxed);
                }
            }
            Err(error) => self.note_failure(error),
        }
        appended
    }

    /// Says how a record ended.
    pub(crate) fn finish(&self, number: u64, result: Result<Done, i32>) {
        let mut writer = self.writer();
        writer.outcome(number, result);
        self.ring_if_beyond(writer.finished());
    }

    /// A file is no longer open for writing.
    pub(crate) fn closed(&self, id: ObjectId) {
        self.writer().closed(id);
    }

    /// Number of the last record.
    pub(crate) fn last(&self) -> u64 {
        self.writer().last()
    }

    /// Writes what is queued. Says up to where all is finished.
    pub(crate) fn flush(&self) -> Result<u64, LogError> {
        let mut writer = self.writer();
        let flushed = writer.flush();
        flushed.inspect_err(|error| self.note_failure(error))?;
        Ok(writer.finished())
    }

    /// Makes the log durable, without holding up those who append. Says up to where.
    pub(crate) fn sync(&self) -> Result<u64, LogError> {
        let wanted = self.flush_for_sync()?;
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writer = self.writer();
        if writer.synced() >= wanted && !writer.is_dirty() {
            return Ok(writer.synced());
        }
        writer.flush()?;
        let Some((file, _, upto)) = writer.sync_handle()? else { return Ok(writer.last()) };
        drop(writer);
        let synced = file.sync_data();
        let mut writer = self.writer();
        if let Err(source) = synced {
            writer.sync_failed();
            let error = LogError::Io { what: "sync", file: "the last one".into(), source };
            self.note_failure(&error);
            return Err(error);
        }
        writer.synced_upto(upto);
        Ok(upto)
    }

    /// Writes the log's pages out, ahead of a [`Journal::sync`]. What the file system has to note of them then goes
    /// with its next commit, whoever causes that, and the sync finds nothing left to commit.
    pub(crate) fn write_out(&self) -> Result<(), LogError> {
        let mut writer = self.writer();
        writer.flush()?;
        let file = writer.last_segment()?;
        drop(writer);
        let Some(file) = file else { return Ok(()) };
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: plain integers.
        if unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } != 0 {
            // The sync that follows fails too, and says so.
            tracing::debug!(error = %std::io::Error::last_os_error(), "the log could not be written out");
        }
        Ok(())
    }

    fn flush_for_sync(&self) -> Result<u64, LogError> {
        let mut writer = self.writer();
        writer.flush()?;
        Ok(writer.last())
    }

    /// Whether there is something that is not durable.
    pub(crate) fn is_dirty(&self) -> bool {
        self.writer().is_dirty()
    }

    /// Ring when the log grows beyond `seen`; at once if it has.
    pub(crate) fn arm(&self, seen: u64) {
        self.armed.store(seen, Ordering::SeqCst);
        self.ring_if_beyond(self.writer().finished());
    }

    fn ring_if_beyond(&self, finished: u64) {
        if finished > self.armed.load(Ordering::Relaxed) {
            self.armed.store(NEVER, Ordering::Relaxed);
            self.ring();
        }
    }

    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_one();
    }

    fn note_failure(&self, error: &LogError) {
        tracing::warn!(%error, "the log cannot be written; changes are refused");
        if self.failed.swap(error.errno(), Ordering::Relaxed) == 0 {
            self.ring();
        }
    }

    /// errno of the last failed write, if the log cannot be written at the moment.
    pub(crate) fn failure(&self) -> Option<i32> {
        Some(self.failed.load(Ordering::Relaxed)).filter(|errno| *errno != 0)
    }

    /// Waits for the doorbell, at most `limit`. Says whether it was rung.
    pub(crate) fn wait_for_ring(&self, limit: Duration) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) =
            self.bell.wait_timeout_while(rung, limit, |rung| !*rung).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *rung)
    }
}
