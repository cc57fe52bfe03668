//! Identities: of hosts, clusters, file sets and objects (design D4).

use crate::ProtocolError;
use serde::{Deserialize, Serialize};
use std::{fmt, num::NonZeroU32, str::FromStr};

/// A host of a cluster. Given by the cluster's first host when another one joins; never 0, never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostId(NonZeroU32);

impl HostId {
    /// Checks that `id` is not 0.
    pub fn new(id: u32) -> Result<Self, ProtocolError> {
        NonZeroU32::new(id).map(Self).ok_or_else(|| ProtocolError::IllegalId("host id 0".into()))
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for HostId {
    type Err = ProtocolError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let n = s.parse::<u32>().map_err(|_| ProtocolError::IllegalId(format!("host id {s:?}")))?;
        Self::new(n)
    }
}

macro_rules! sixteen_bytes {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 16]);

        impl $name {
            /// From 16 bytes, which the caller drew at random.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ProtocolError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                let bad = || ProtocolError::IllegalId(format!(concat!($what, " {:?}"), s));
                if s.len() != 32 || !s.is_ascii() {
                    return Err(bad());
                }
                let mut out = [0; 16];
                for (i, byte) in out.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
                }
                Ok(Self(out))
            }
        }
    };
}

sixteen_bytes!(
    /// A file set: a sub-tree that is stored, moved, replicated and permitted as one.
    FileSetId, "file set id"
);
sixteen_bytes!(
    /// A cluster: the hosts that share one certificate authority and one file set location database.
    ClusterId, "cluster id"
);

/// The identity of an object within its file set; never changes and is never reused (design D4).
///
/// Whoever creates an object names it, with no server asked. What an application creates through Presto gets the
/// number of its creating record as counter; what is found in an adopted directory gets [`ObjectId::ADOPTED`] plus a
/// serial number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId {
    /// The host that created or adopted the object.
    pub host: HostId,
    /// That host's counter.
    pub counter: u64,
}

impl ObjectId {
    /// Counters from here on belong to objects that were adopted, not created by a record.
    pub const ADOPTED: u64 = 1 << 63;
    /// Bytes of an id in an extended attribute: host (u32 LE), counter (u64 LE).
    pub const BYTES: usize = 12;

    /// An id from its parts.
    pub const fn new(host: HostId, counter: u64) -> Self {
        Self { host, counter }
    }

    /// The root directory of a file set: counter 0 of host 1, whoever creates it, as each file set has just one.
    pub const ROOT: Self = Self { host: HostId(NonZeroU32::MIN), counter: 0 };

    /// The fixed form: see [`ObjectId::BYTES`].
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..4].copy_from_slice(&self.host.get().to_le_bytes());
        out[4..].copy_from_slice(&self.counter.to_le_bytes());
        out
    }

    /// Reads the fixed form from the beginning of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let short = || ProtocolError::Truncated("an object id");
        let host = bytes.get(..4).and_then(|b| b.try_into().ok()).ok_or_else(short)?;
        let counter = bytes.get(4..12).and_then(|b| b.try_into().ok()).ok_or_else(short)?;
        Ok(Self { host: HostId::new(u32::from_le_bytes(host))?, counter: u64::from_le_bytes(counter) })
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.counter >= Self::ADOPTED {
            write!(f, "{}.a{}", self.host, self.counter - Self::ADOPTED)
        } else {
            write!(f, "{}.{}", self.host, self.counter)
        }
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
