//! What can go wrong in a transfer.

use nix::errno::Errno;
use protocol::{ObjectId, ProtocolError};
use std::io;

/// Said by a closure that takes packets: nobody wants more of them (the session ended, the peer is gone).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the transfer was stopped")]
pub struct Stopped;

/// Where data packets go. It may block, which is how a slow peer holds back the sender.
pub type Emit<'a> = dyn FnMut(Vec<u8>) -> Result<(), Stopped> + 'a;

/// Why a transfer ended early. What concerns a single object is not here: it is told in that object's result.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Nobody wants more.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The peer sent bytes that are no items, or items that exceed a bound; its connection is to be closed.
    #[error("the peer sent something that this program refuses: {0}")]
    Protocol(#[from] ProtocolError),
    /// The peer sent what was not asked for, or in the wrong order; its connection is to be closed.
    #[error("the peer misbehaved in the transfer of object {id}: {why}")]
    Misbehaved {
        /// The object that was being transferred, or expected next.
        id: ObjectId,
        /// What it did.
        why: &'static str,
    },
    /// The peer sent data that belongs to no object that was asked for.
    #[error("the peer misbehaved: {0}")]
    Unasked(&'static str),
    /// The local file system failed.
    #[error("{doing} failed: {errno}")]
    Io {
        /// What was attempted, and on what.
        doing: String,
        /// Why it failed.
        errno: Errno,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] lento_store::StoreError),
    /// What was received cannot be committed.
    #[error(transparent)]
    Commit(#[from] lento_store::CommitError),
}

impl TransferError {
    pub(crate) fn io(doing: impl Into<String>, error: impl Into<Fault>) -> Self {
        Self::Io { doing: doing.into(), errno: error.into().0 }
    }
}

/// An errno, from either library's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) Errno);

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self(errno)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}
