//! What is to be done with the log and the tree after a crash (design D6).

use crate::{error::MountError, marker::LastEnd, sys::Bottom};
use modlog::{Recovered, Writer};
use protocol::HostId;
use std::os::fd::OwnedFd;

/// Brings log and tree into agreement.
pub(crate) fn recover(
    _bottom: &Bottom,
    _host: HostId,
    _log: &OwnedFd,
    _writer: &mut Writer,
    _recovered: Recovered,
    _end: LastEnd,
) -> Result<Option<u64>, MountError> {
    Ok(None)
}
