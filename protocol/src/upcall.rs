//! The channel between Presto and Lento, a Unix stream socket on which Lento listens (`docs/formats/upcall.md`).
//!
//! A frame is a body length (u32 LE) and a postcard body. Presto connects, sends [`Upcall::Hello`] with the descriptor
//! of its bottom directory attached (`SCM_RIGHTS`), and goes on; when the connection is lost it connects again and says
//! hello again. Requests are few and independent, so none needs a number.

use crate::{FileSetId, Handle, Name, ProtocolError, Timestamp, limits};
use serde::{Deserialize, Serialize};

/// Version of this channel's messages; both ends must have the same, as they are installed together.
pub(crate) const VERSION: u16 = 3;

/// Bytes before a body.
pub const UPCALL_FRAME_HEADER_BYTES: usize = 4;

/// Presto to Lento.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upcall {
    /// First message of a connection. The bottom's descriptor is attached.
    Hello {
        /// [`crate::version::UPCALL`].
        version: u16,
        /// The file set mounted.
        fileset: FileSetId,
        /// Process id of Presto.
        pid: u32,
        /// The epoch of the permit that it holds, if any: it outlives Lento.
        permit: Option<u64>,
        /// The last record in its log.
        last: u64,
        /// Set when the log was last written before a crash of the system: the number of the last record that
        /// survived. Recovery by comparison is due (design D6).
        lost_after: Option<u64>,
    },
    /// Somebody wants to change something and the permit is not here. Sent once, until granted or refused.
    GetPermit,
    /// The permit is given back: no operation is in flight, and all are in the log up to `last`.
    Released {
        /// The last record made under it.
        last: u64,
    },
    /// The doorbell: the log grew beyond the `seen` of the last [`Downcall::Arm`], and `last` is finished.
    Advanced {
        /// The last record; all up to it are finished.
        last: u64,
    },
    /// The log could not be written: changes are refused with `ENOSPC` or `EIO` until it can be again.
    LogFailed {
        /// errno.
        errno: i32,
    },
    /// Answer to [`Downcall::Synced`].
    LogSynced {
        /// Every record up to it is durable.
        last: u64,
    },
    /// Answer to [`Downcall::Invalidate`] and [`Downcall::InvalidateAll`], when the kernel has dropped what was named.
    Invalidated {
        /// Its token.
        token: u64,
    },
    /// FetchFile or FetchDir (paper: "Journaling updates and filtering access"): requests wait for the content of a file, or
    /// the names of a directory, that has [`crate::Xattr::ABSENT`]. Said once until answered by [`Downcall::Fetched`], and again after a
    /// hello while anybody waits.
    Fetch {
        /// The object.
        object: Handle,
    },
    /// Nobody waits for it any more.
    Forgo {
        /// The object.
        object: Handle,
    },
    /// Answer to [`Downcall::Evict`].
    Evicted {
        /// These have [`crate::Xattr::ABSENT`] now; their content is still there, to be punched out.
        evicted: Vec<Handle>,
        /// These are in use, or were lately.
        kept: Vec<Handle>,
    },
    /// A file that was replaced while open for writing here was changed after that; its content was saved.
    Orphaned {
        /// Name of the copy below `.intermezzo/conflicts`.
        saved: Name,
    },
}

/// Lento to Presto.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Downcall {
    /// The permit is here until it is revoked.
    Grant {
        /// The epoch in which records are made from now.
        epoch: u64,
    },
    /// Give the permit back when operations in flight have ended; answered by [`Upcall::Released`].
    Revoke,
    /// Ring when the log grows beyond `seen`; at once, if it has.
    Arm {
        /// The last record that Lento read.
        seen: u64,
    },
    /// Segments in which no record is later than `upto` may go: everybody who needs them has them durably.
    Trim {
        /// Record number.
        upto: u64,
    },
    /// Make the log tell of all that was written until now, and make it durable; answered, when the permit is here if
    /// that is needed, by [`Upcall::LogSynced`].
    Synced,
    /// Lento changed the bottom: have the kernel forget what it cached. Answered by [`Upcall::Invalidated`].
    Invalidate {
        /// Comes back in the answer.
        token: u64,
        /// Directory entries that appeared, changed or went.
        entries: Vec<(Handle, Name)>,
        /// Objects whose attributes or content changed.
        objects: Vec<Handle>,
        /// Files whose inode was replaced: whoever still writes to one of them writes to an orphan.
        replaced: Vec<Handle>,
    },
    /// As [`Downcall::Invalidate`], of all there is, but for files that are open: every directory may want its names anew.
    InvalidateAll {
        /// Comes back in the answer.
        token: u64,
    },
    /// Names or contents were brought here, of objects that are the same to programs before and after. Said before
    /// [`Downcall::Fetched`].
    Filled {
        /// The objects, and each one's time of last status change before and after.
        objects: Vec<(Handle, Timestamp, Timestamp)>,
    },
    /// Answer to [`Upcall::Fetch`]: what waits for the object is tried again, or fails.
    Fetched {
        /// The object.
        object: Handle,
        /// 0, or the errno with which waiting requests fail. `ESTALE`: the object has another inode by now, and is
        /// to be looked up again.
        errno: i32,
    },
    /// Marks files as absent, unless they are open, or were opened since they were last named here; answered by
    /// [`Upcall::Evicted`].
    Evict {
        /// Files whose content is the holder's, at most as many as fit a message.
        objects: Vec<Handle>,
    },
    /// All that this host's log says up to here is reintegrated.
    Reintegrated {
        /// Record number.
        upto: u64,
    },
    /// Unmount and end. Parked requests fail with `EIO`.
    Shutdown,
}

fn encode<T: Serialize>(message: &T, what: &'static str) -> Result<Vec<u8>, ProtocolError> {
    let mut out = postcard::to_extend(message, vec![0; UPCALL_FRAME_HEADER_BYTES])
        .map_err(|why| ProtocolError::malformed(what, why))?;
    let got = out.len() - UPCALL_FRAME_HEADER_BYTES;
    if got > limits::UPCALL_BYTES {
        return Err(ProtocolError::TooLong { what, got, limit: limits::UPCALL_BYTES });
    }
    out[..UPCALL_FRAME_HEADER_BYTES].copy_from_slice(&(got as u32).to_le_bytes());
    Ok(out)
}

/// A frame with `upcall` in it.
pub fn encode_upcall(upcall: &Upcall) -> Result<Vec<u8>, ProtocolError> {
    encode(upcall, "an upcall")
}

/// A frame with `downcall` in it.
pub fn encode_downcall(downcall: &Downcall) -> Result<Vec<u8>, ProtocolError> {
    encode(downcall, "a downcall")
}

/// Cuts a byte stream into messages: [`UpcallReader::push`] bytes in, then [`UpcallReader::next`] until `None`.
#[derive(Debug, Default)]
pub struct UpcallReader {
    buffer: Vec<u8>,
    start: usize,
}

impl UpcallReader {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, an [`Upcall`] or a [`Downcall`] by what the caller asks for.
    #[allow(clippy::should_implement_trait)]
    pub fn next<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>, ProtocolError> {
        const WHAT: &str = "a message of the upcall channel";
        let bytes = &self.buffer[self.start..];
        let Some(header) = bytes.first_chunk::<UPCALL_FRAME_HEADER_BYTES>() else { return Ok(None) };
        let len = u32::from_le_bytes(*header) as usize;
        if len > limits::UPCALL_BYTES {
            return Err(ProtocolError::TooLong { what: WHAT, got: len, limit: limits::UPCALL_BYTES });
        }
        let Some(body) = bytes[UPCALL_FRAME_HEADER_BYTES..].get(..len) else { return Ok(None) };
        let message = postcard::from_bytes(body).map_err(|why| ProtocolError::malformed(WHAT, why))?;
        self.start += UPCALL_FRAME_HEADER_BYTES + len;
        Ok(Some(message))
    }
}
