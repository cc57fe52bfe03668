//! Why an operation of the filter fails.

use crate::permit::Refused;
use modlog::LogError;
use nix::errno::Errno;
use protocol::Handle;

/// What ends an operation without effect. Turned into an errno in the FUSE adapter only.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The bottom refused; the application sees its errno as it would without the filter.
    #[error("the bottom: {0}")]
    Bottom(#[from] Errno),
    /// The log could not be written, so nothing was done to the bottom.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The permit, or what was to be fetched, did not come.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// InterMezzo's own directory or attributes may not be touched through the mount.
    #[error("this name belongs to InterMezzo")]
    Reserved,
    /// Only the attributes of this object are in the cache: its names or its content are to be fetched, and then all
    /// is tried again. Never an application's answer.
    #[error("{0:?} is not in the cache")]
    Absent(Handle),
    /// The object is not there any more.
    #[error("the object is gone")]
    Gone,
}

impl Error {
    /// For the outcome in the log and the reply.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::Bottom(errno) => *errno as i32,
            Self::Log(error) => error.errno(),
            Self::Refused(Refused::Interrupted) => libc::EINTR,
            Self::Refused(Refused::TimedOut) => libc::ETIMEDOUT,
            Self::Refused(Refused::TooMany) => libc::EAGAIN,
            Self::Refused(Refused::Ending) => libc::EIO,
            Self::Reserved => libc::EPERM,
            Self::Absent(_) => libc::EAGAIN,
            Self::Gone => libc::ENOENT,
        }
    }
}

/// Result of an operation.
pub(crate) type Result<T> = std::result::Result<T, Error>;
