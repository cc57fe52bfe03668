//! One line of a manifest, its order and its encoding.

use protocol::{Kind, ProtocolError, Timestamp, limits};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

const WHAT: &str = "an entry of a manifest";

/// Longest path in a manifest: what a packet holds, less room for the rest.
pub(crate) const PATH_BYTES: usize = limits::PACKET_BODY_BYTES / 4;

/// One path of a tree, with all that replicas share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Path from the root of the tree, without a leading `/`; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes, of a regular file; else 0.
    pub size: u64,
    /// Device number, of a device; else 0.
    pub rdev: u64,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// For an object with several names, all but the first in order: the first name's path. So linkage is compared.
    pub link: Option<Vec<u8>>,
    /// Target of a symbolic link, else empty.
    pub target: Vec<u8>,
    /// BLAKE3 of names and values of the extended attributes, in order, without InterMezzo's; zeros if there are none.
    pub xattrs: [u8; 32],
    /// BLAKE3 of a regular file's content; zeros for all else, for a further name of the same file, and for what
    /// could not be read.
    pub content: [u8; 32],
    /// Set when something of it could not be read: why. Such an entry equals no other.
    pub errno: Option<i32>,
}

impl ManifestEntry {
    /// Appends it to a data packet's body.
    pub fn append_to(&self, body: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let encoded = postcard::to_stdvec(self).map_err(malformed)?;
        if encoded.len() > limits::PACKET_BODY_BYTES {
            return Err(ProtocolError::TooLong { what: WHAT, got: encoded.len(), limit: limits::PACKET_BODY_BYTES });
        }
        body.extend_from_slice(&encoded);
        Ok(())
    }

    /// Takes the first entry off a data packet's body; `None` at its end.
    pub fn take_from(bytes: &[u8]) -> Result<Option<(Self, &[u8])>, ProtocolError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (entry, rest) = postcard::take_from_bytes::<Self>(bytes).map_err(malformed)?;
        let longest = entry.path.len().max(entry.link.as_ref().map_or(0, Vec::len)).max(entry.target.len());
        if longest > PATH_BYTES {
            return Err(ProtocolError::TooLong { what: "a path", got: longest, limit: PATH_BYTES });
        }
        Ok(Some((entry, rest)))
    }
}

fn malformed(why: postcard::Error) -> ProtocolError {
    ProtocolError::Malformed { what: WHAT, why: why.to_string() }
}

/// The order of a manifest: bytewise by component, a directory before what is in it. `/` sorts before all else.
pub(crate) fn order(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    a.iter().map(rank).cmp(b.iter().map(rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_right_before_its_content() {
        let mut paths: Vec<&[u8]> = vec![b"a-b", b"a/b", b"a", b"", b"a/b/c", b"a.b", b"a/a"];
        paths.sort_by(|a, b| order(a, b));
        assert_eq!(paths, [&b""[..], b"a", b"a/a", b"a/b", b"a/b/c", b"a-b", b"a.b"]);
    }
}
