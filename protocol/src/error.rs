//! What can be wrong with bytes or words from outside.

use crate::limits;

/// A value from a disk, a peer or a person that this crate refuses. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A directory entry's name is empty, too long, `.`/`..`, or holds `/` or NUL.
    #[error("illegal name: {0}")]
    IllegalName(&'static str),
    /// The name of a host or file set is not `[a-z0-9][a-z0-9._-]*` of at most 64 bytes.
    #[error("illegal label {0:?}: use 1 to {max} of a-z, 0-9, '.', '_', '-', beginning with a letter or digit", max = limits::LABEL_BYTES)]
    IllegalLabel(String),
    /// An id that is zero or not of the right form.
    #[error("illegal id: {0}")]
    IllegalId(String),
    /// Something longer than its bound.
    #[error("{what} is {got} long, the limit is {limit}")]
    TooLong {
        /// What was too long.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The bound, from [`limits`].
        limit: usize,
    },
    /// The bytes end before the value does.
    #[error("{0} ends too early")]
    Truncated(&'static str),
    /// A checksum does not match: the bytes were damaged.
    #[error("{0} is damaged: its checksum does not match")]
    Checksum(&'static str),
    /// The bytes are not a value of this type.
    #[error("{what} cannot be decoded: {why}")]
    Malformed {
        /// What was being decoded.
        what: &'static str,
        /// What the decoder said.
        why: String,
    },
    /// A format or protocol version that this program does not know.
    #[error("{what} has version {got}; this program reads {known}")]
    Version {
        /// What carries the version.
        what: &'static str,
        /// The version met.
        got: u16,
        /// The versions known.
        known: &'static str,
    },
}

impl ProtocolError {
    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }
}
