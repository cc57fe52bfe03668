//! What the log tells of contents, for the mount of a client: which of it is reintegrated, Lento says later.

use crate::{error::MountError, filter::Cache};
use modlog::{ReadResult, Reader};
use protocol::{Op, limits};
use std::os::fd::OwnedFd;

/// What is to be known of a cache at first: all that the log, which is written out, says was stored.
pub(crate) fn unsent(log: &OwnedFd) -> Result<Cache, MountError> {
    let cache = Cache::default();
    let mut reader = Reader::open(log.try_clone().map_err(MountError::Session)?);
    let Some(first) = reader.first_available()? else { return Ok(cache) };
    let mut after = first.saturating_sub(1);
    loop {
        let entries = match reader.read(after, limits::SHIPMENT_RECORDS, limits::SHIPMENT_BYTES)? {
            ReadResult::Entries(entries) => entries,
            ReadResult::TooOld { first_available } => {
                return Err(MountError::Recovery(format!("the log begins at {first_available} all of a sudden")));
            }
        };
        let Some(last) = entries.last() else { return Ok(cache) };
        after = last.record.number;
        for entry in entries {
            if let (Op::Store { id, .. }, Ok(_)) = (entry.record.op, entry.outcome) {
                cache.stored(id, entry.record.number);
            }
        }
    }
}
