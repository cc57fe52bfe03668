//! Figures for people: how many objects, how long the log, how much a peer lacks.

use crate::error::StoreError;
use crate::history::open_log;
use crate::store::Store;
use modlog::{LogError, ReadResult, Reader};
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use protocol::{Op, Position, Timestamp};
use std::os::fd::AsFd;

/// Records read at once.
const READ: (usize, usize) = (4096, 4 << 20);

/// What a peer lacks of this host's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// Records, without those that are cancelled or only of local use.
    pub records: u64,
    /// Bytes of the contents that they announce.
    pub bytes: u64,
    /// When the first of them was made.
    pub oldest: Option<Timestamp>,
}

impl Store {
    /// Objects in the index. Linear in their number: for people, not for programs in a loop.
    pub fn objects(&self) -> Result<u64, StoreError> {
        self.look_up(|index| index.count_objects())
    }

    /// Contents that were kept aside. Read through the bottom: a mount over the store hides them, and asking it could
    /// wait for somebody who waits for the caller.
    pub fn conflicts(&self) -> u64 {
        self.bottom.read_dir(self.bottom.conflicts()).map_or(0, |entries| entries.count() as u64)
    }

    /// Bytes of this host's own log on disk.
    pub fn log_bytes(&self) -> Result<u64, StoreError> {
        let what = "reading the log's directory";
        let dir = open_log(&self.bottom, None)?;
        let mut sum = 0;
        for entry in self.bottom.read_dir(dir.as_fd()).map_err(StoreError::io(what))? {
            let entry = entry.map_err(StoreError::io(what))?;
            // A segment may be trimmed while it is looked at.
            if let Ok(stat) = fstatat(&dir, entry.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                sum += u64::try_from(stat.st_size).unwrap_or(0);
            }
        }
        Ok(sum)
    }

    /// If this host's own log is longer than `bound` bytes: up to which number it may go to be well within it again, if
    /// peers that lack more are to be brought up by comparison. Nothing goes that was not absorbed.
    pub fn log_excess(&self, bound: u64) -> Result<Option<u64>, StoreError> {
        let what = "reading the log's directory";
        let dir = open_log(&self.bottom, None)?;
        let mut segments = Vec::new();
        for entry in self.bottom.read_dir(dir.as_fd()).map_err(StoreError::io(what))? {
            let entry = entry.map_err(StoreError::io(what))?;
            let first = std::str::from_utf8(entry.name.as_bytes()).ok().and_then(|name| name.strip_suffix(".log"));
            if let (Some(first), Ok(stat)) = (
                first.and_then(|first| first.parse::<u64>().ok()),
                fstatat(&dir, entry.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW),
            ) {
                segments.push((first, u64::try_from(stat.st_size).unwrap_or(0)));
            }
        }
        segments.sort_unstable();
        let mut total: u64 = segments.iter().map(|(_, size)| size).sum();
        if total <= bound {
            return Ok(None);
        }
        let absorbed = self.absorbed_number();
        let mut upto = None;
        for pair in segments.windows(2) {
            if total <= bound / 4 * 3 || pair[1].0 > absorbed + 1 {
                break;
            }
            total -= pair[0].1;
            upto = Some(pair[1].0 - 1);
        }
        Ok(upto)
    }

    /// What a peer that stands at `after` lacks of this host's own log. Reads that part of the log.
    pub fn pending(&self, after: Position) -> Result<Pending, StoreError> {
        let me = self.config.host;
        let failed = |why: LogError| StoreError::Log { host: me, why: why.to_string() };
        let mut pending = Pending::default();
        let mut epoch = after.epoch;
        let mut from = loop {
            match self.look_up(|index| index.epoch_from(epoch))? {
                None => return Ok(pending),
                Some(found) if found.writer == me && found.epoch == after.epoch => break after.number,
                Some(found) if found.writer == me => break found.first.saturating_sub(1),
                Some(found) => epoch = found.epoch + 1,
            }
        };
        let mut reader = Reader::open(open_log(&self.bottom, None)?);
        loop {
            let entries = match reader.read(from, READ.0, READ.1).map_err(failed)? {
                ReadResult::TooOld { first_available } => {
                    from = first_available.saturating_sub(1);
                    continue;
                }
                ReadResult::Entries(entries) if entries.is_empty() => return Ok(pending),
                ReadResult::Entries(entries) => entries,
            };
            for entry in entries {
                from = entry.record.number;
                if entry.outcome.is_err() || matches!(entry.record.op, Op::Intend { .. } | Op::Noop) {
                    continue;
                }
                pending.records += 1;
                pending.oldest.get_or_insert(entry.record.time);
                if let Op::Store { size, .. } = entry.record.op {
                    pending.bytes += size;
                }
            }
        }
    }
}
