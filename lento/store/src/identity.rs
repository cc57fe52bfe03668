//! The identity of an object, in its extended attribute `trusted.intermezzo` (`docs/formats/store.md`).

use protocol::{ObjectId, ProtocolError, Timestamp, VersionStamp};
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
const WHAT: &str = "an object's identity";

/// What the identity attribute of an object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Which object it is.
    pub id: ObjectId,
    /// The version that Lento last committed, if it did. It holds only while size and mtime are those in it: what
    /// applications change later is told by the log and the index alone.
    pub committed: Option<CommittedVersion>,
}

/// A version that was committed together with its stamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedVersion {
    /// Its stamp.
    pub stamp: VersionStamp,
    /// Its size in bytes; 0 for all but regular files.
    pub size: u64,
    /// Its time of modification.
    pub mtime: Timestamp,
}

impl Identity {
    /// An identity without a committed version, as Presto gives it to what applications create.
    pub const fn new(id: ObjectId) -> Self {
        Self { id, committed: None }
    }

    /// Version (1 byte), id (12 bytes), then the postcard of the committed version, if there is one.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.id.to_bytes());
        match &self.committed {
            Some(version) => postcard::to_extend(version, out).expect("a vector takes all that is written to it"),
            None => out,
        }
    }

    /// Reads what [`Identity::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`ProtocolError`] if the bytes are not an identity of a known version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let (version, rest) = bytes.split_first().ok_or(ProtocolError::Truncated(WHAT))?;
        if *version != VERSION {
            return Err(ProtocolError::Version { what: WHAT, got: (*version).into(), known: "1" });
        }
        let id = ObjectId::from_bytes(rest)?;
        let committed = match rest.get(ObjectId::BYTES..) {
            None | Some([]) => None,
            Some(tail) => Some(
                postcard::from_bytes(tail)
                    .map_err(|why| ProtocolError::Malformed { what: WHAT, why: why.to_string() })?,
            ),
        };
        Ok(Self { id, committed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::HostId;

    fn id() -> ObjectId {
        ObjectId::new(HostId::new(7).expect("7 is not 0"), 0x0102)
    }

    #[test]
    fn golden_bytes() {
        let plain = Identity::new(id());
        assert_eq!(plain.to_bytes(), [1, 7, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        let stamp = VersionStamp::default().touched(id().host, 300);
        let mtime = Timestamp { secs: 5, nanos: 6 };
        let full = Identity { id: id(), committed: Some(CommittedVersion { stamp, size: 200, mtime }) };
        let tail = [1, 7, 0xac, 2, 1, 7, 0xc8, 1, 10, 6];
        assert_eq!(full.to_bytes(), [&plain.to_bytes()[..], &tail].concat());
        assert_eq!(Identity::from_bytes(&full.to_bytes()), Ok(full));
        assert_eq!(Identity::from_bytes(&plain.to_bytes()), Ok(plain));
    }

    #[test]
    fn damaged_identities_are_refused() {
        let good = Identity::new(id()).to_bytes();
        assert!(Identity::from_bytes(&[]).is_err());
        assert!(Identity::from_bytes(&good[..12]).is_err());
        assert!(Identity::from_bytes(&[&[2], &good[1..]].concat()).is_err());
        assert!(Identity::from_bytes(&[&good[..], &[9, 9]].concat()).is_err());
        assert!(Identity::from_bytes(&[1; 1 + 4]).is_err());
    }
}
