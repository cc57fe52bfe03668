//! Names that cannot be illegal: of directory entries, hosts and file sets (style rule 7, design D15).

use crate::{ProtocolError, limits};
use serde::{Deserialize, Serialize};
use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, str::FromStr};

/// The name of one directory entry: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`. Any other byte is kept exactly.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name(#[serde(with = "serde_bytes_box")] Box<[u8]>);

impl Name {
    /// The directory at the root of every store that belongs to InterMezzo; hidden in the mount, refused from peers.
    pub const RESERVED: &'static [u8] = b".intermezzo";

    /// Checks `bytes`.
    pub fn new(bytes: &[u8]) -> Result<Self, ProtocolError> {
        match bytes {
            b"" => Err(ProtocolError::IllegalName("it is empty")),
            b"." | b".." => Err(ProtocolError::IllegalName("it is . or ..")),
            _ if bytes.len() > limits::NAME_BYTES => Err(ProtocolError::IllegalName("it is longer than 255 bytes")),
            _ if bytes.contains(&b'/') => Err(ProtocolError::IllegalName("it holds a /")),
            _ if bytes.contains(&0) => Err(ProtocolError::IllegalName("it holds a NUL")),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the system calls take it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// Whether this is InterMezzo's own directory, which may not be named in the root of a file set.
    pub fn is_reserved(&self) -> bool {
        &*self.0 == Self::RESERVED
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes: Vec<u8> = serde_bytes_box::deserialize_vec(deserializer)?;
        Self::new(&bytes).map_err(serde::de::Error::custom)
    }
}

/// Bytes as serde's byte strings: length and bytes, not a sequence of integers.
pub(crate) mod serde_bytes_box {
    use serde::{Deserializer, Serializer, de::Visitor};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: From<Vec<u8>>>(deserializer: D) -> Result<T, D::Error> {
        deserialize_vec(deserializer).map(T::from)
    }

    pub(crate) fn deserialize_vec<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, v: &[u8]) -> Result<Vec<u8>, E> {
                Ok(v.to_vec())
            }
            fn visit_byte_buf<E>(self, v: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(v)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ProtocolError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                let first = s.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                let rest = s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
                if first && rest && s.len() <= limits::LABEL_BYTES {
                    Ok(Self(s.to_owned()))
                } else {
                    Err(ProtocolError::IllegalLabel(s.to_owned()))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ProtocolError;
            fn try_from(s: String) -> Result<Self, Self::Error> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(label: $name) -> Self {
                label.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

label!(
    /// The name of a file set, unique in its cluster.
    FileSetName
);
label!(
    /// The name of a host, unique in its cluster.
    HostName
);
