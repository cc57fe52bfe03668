//! What can go wrong with a store: storage, index, log, and peers apart.

use protocol::{HostId, ObjectId, Position, ProtocolError};
use std::io;
use std::path::PathBuf;

/// A store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The native file system does not have ext4's handles.
    #[error(
        "this directory is not on ext2, ext3 or ext4 ({why}): a store needs their file handles; choose a directory on ext4"
    )]
    Unsupported {
        /// What the kernel said.
        why: io::Error,
    },
    /// A file system is mounted inside the directory.
    #[error(
        "another file system is mounted on {path:?} inside the store: unmount it, or choose a directory without mounts in it"
    )]
    SubMount {
        /// Where.
        path: PathBuf,
    },
    /// `create` wants an empty directory.
    #[error("the directory is not empty (it holds {0:?}): a new replica needs an empty one")]
    NotEmpty(String),
    /// The directory belongs to a file set already.
    #[error("the directory is the store of a file set already (it has a modification log): remove that file set first")]
    InUse,
    /// The index is of something else, or of another version.
    #[error("the index {path:?} {why}: move it away and run `lento fsck --rebuild`")]
    WrongIndex {
        /// Its path.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// No such object here.
    #[error("there is no object {0} in this store")]
    NotFound(ObjectId),
    /// One record with what it touches does not fit a packet.
    #[error(
        "the record at {0} and the attributes of what it touches do not fit a packet: remove large extended attributes there"
    )]
    TooLarge(Position),
    /// A system call on the bottom failed.
    #[error("{what} failed: {source}")]
    Io {
        /// What was done, on what.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The index could not be read or written.
    #[error("the index failed: {0}; if it is damaged, `lento fsck --rebuild` makes it anew")]
    Index(#[from] rusqlite::Error),
    /// The modification log of a host could not be read or written.
    #[error("the modification log of host {host} failed: {why}")]
    Log {
        /// Whose.
        host: HostId,
        /// What its reader or writer said.
        why: String,
    },
    /// The end of this host's own log is torn, as a loss of power leaves it: Presto cuts it when it is mounted.
    #[error("the modification log of this host ends in what is no record: {0}")]
    LogTorn(String),
    /// The log was trimmed before it was absorbed: it outgrew its bound while the manager was away.
    #[error(
        "the log was read up to record {absorbed}, and begins with {first_available} now: run `lento fsck --rebuild`"
    )]
    LogGap {
        /// Last record that the index knows.
        absorbed: u64,
        /// First record that is left.
        first_available: u64,
    },
    /// Bytes on disk are not what they should be.
    #[error(transparent)]
    Damaged(#[from] ProtocolError),
}

impl StoreError {
    /// For `map_err`: says what was done when a system call failed.
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source: source.into() }
    }

    /// Whether the cause is a full disk or quota.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_no_space(source),
            Self::Index(rusqlite::Error::SqliteFailure(error, _)) => error.code == rusqlite::ErrorCode::DiskFull,
            _ => false,
        }
    }
}

pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// A group of shipments was not committed. It may be tried again: what was done of it already is found and kept.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The disk is full.
    #[error("there is no space left on the store's disk: free some; it goes on by itself then")]
    NoSpace,
    /// Objects that should be here are not: list them at the source, from each id down, and give them to the store.
    #[error("{} objects that the records presuppose are missing here, first {:?}: they must be fetched", .0.len(), .0.first())]
    Missing(Vec<ObjectId>),
    /// Records say that content was stored, and that content was not staged: it must be fetched first.
    #[error("the contents of {} objects were not staged, first {:?}: they must be fetched first", .0.len(), .0.first())]
    NotStaged(Vec<ObjectId>),
    /// What was listed of a directory is older than what was applied meanwhile: list it again. Nothing was changed.
    #[error("records overtook the listing of directory {0}: it is asked for again")]
    Overtaken(ObjectId),
    /// The peer sent what no honest one sends. Nothing was changed.
    #[error("the peer misbehaved: {0}")]
    Peer(String),
    /// Storage failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        if error.is_no_space() { Self::NoSpace } else { Self::Store(error) }
    }
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::from(error).into()
    }
}
