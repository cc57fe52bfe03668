//! From FUSE's requests to the filter's terms.

use crate::filter::{Caller, When};
use fuser::{Request, TimeOrNow};
use protocol::Timestamp;
use std::time::UNIX_EPOCH;

pub(super) fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), pid: req.pid() }
}

/// A time as it came from the kernel; `fuser` turns those before 1970 into `1970 - (seconds + nanoseconds)`.
pub(super) fn when(time: TimeOrNow) -> When {
    match time {
        TimeOrNow::Now => When::Now,
        TimeOrNow::SpecificTime(time) => When::At(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                Timestamp { secs: -(before.as_secs() as i64), nanos: before.subsec_nanos() }
            }
        }),
    }
}

pub(super) fn is_write(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}
