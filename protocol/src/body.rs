//! The bodies of packets as bytes, and their bounds, which both ends enforce.

use crate::{Content, Listing, Message, ProtocolError, Reply, Request, Settled, Xattr, limits};
use serde::{Serialize, de::DeserializeOwned};

macro_rules! body {
    ($type:ty, $what:literal) => {
        impl $type {
            /// Postcard, for a packet's body.
            pub fn to_body(&self) -> Result<Vec<u8>, ProtocolError> {
                to_body(self, $what)
            }
            /// Reads a packet's body and checks its bounds.
            pub fn from_body(bytes: &[u8]) -> Result<Self, ProtocolError> {
                let value: Self = from_body(bytes, $what)?;
                value.check()?;
                Ok(value)
            }
        }
    };
}
body!(Request, "a request");
body!(Reply, "a reply");
body!(Message, "a message");

macro_rules! items {
    ($type:ty, $what:literal) => {
        impl $type {
            /// Appends this item to a data packet's body.
            pub fn append_to(&self, body: &mut Vec<u8>) -> Result<(), ProtocolError> {
                let encoded = to_body(self, $what)?;
                body.extend_from_slice(&encoded);
                Ok(())
            }
            /// Takes the first item off a data packet's body; `None` at its end.
            pub fn take_from<'a>(bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, ProtocolError> {
                if bytes.is_empty() {
                    return Ok(None);
                }
                let (item, rest): (Self, &'a [u8]) =
                    postcard::take_from_bytes(bytes).map_err(|why| ProtocolError::malformed($what, why))?;
                item.check()?;
                Ok(Some((item, rest)))
            }
        }
    };
}
items!(Content, "an item of content");
items!(Listing, "an item of a listing");

fn to_body<T: Serialize>(value: &T, what: &'static str) -> Result<Vec<u8>, ProtocolError> {
    let body = postcard::to_stdvec(value).map_err(|why| ProtocolError::malformed(what, why))?;
    bound(what, body.len(), limits::PACKET_BODY_BYTES)?;
    Ok(body)
}

fn from_body<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, ProtocolError> {
    bound(what, bytes.len(), limits::PACKET_BODY_BYTES)?;
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(ProtocolError::malformed(what, "bytes follow it")),
        Err(why) => Err(ProtocolError::malformed(what, why)),
    }
}

fn bound(what: &'static str, got: usize, limit: usize) -> Result<(), ProtocolError> {
    if got > limit { Err(ProtocolError::TooLong { what, got, limit }) } else { Ok(()) }
}

impl Request {
    fn check(&self) -> Result<(), ProtocolError> {
        match self {
            Self::Fetch { wanted, .. } => bound("a list of wanted objects", wanted.len(), limits::FETCH_OBJECTS),
            Self::Redeem { secret } => bound("a ticket's secret", secret.len(), 1024),
            Self::Join { listen, secret, .. } => bound("a join request", listen.len() + secret.len(), 1024),
            _ => Ok(()),
        }
    }
}

impl Reply {
    fn check(&self) -> Result<(), ProtocolError> {
        Ok(())
    }
}

impl Message {
    fn check(&self) -> Result<(), ProtocolError> {
        match self {
            Self::Shipment(shipment) => {
                bound("a shipment", shipment.records.len(), limits::SHIPMENT_RECORDS)?;
                if shipment.upto < shipment.after {
                    return Err(ProtocolError::malformed("a shipment", "it ends before it begins"));
                }
                shipment.settled.iter().try_for_each(Settled::check)
            }
            _ => Ok(()),
        }
    }
}

impl Content {
    fn check(&self) -> Result<(), ProtocolError> {
        match self {
            Self::Small { bytes, .. } => bound("a small file", bytes.len(), limits::INLINE_CONTENT_BYTES as usize),
            Self::Chunk { zstd, bytes, .. } => {
                bound("a chunk", zstd.map_or(bytes.len(), |n| bytes.len().max(n as usize)), limits::DATA_CHUNK_BYTES)
            }
            _ => Ok(()),
        }
    }
}

impl Listing {
    fn check(&self) -> Result<(), ProtocolError> {
        bound("a listing", self.entries.len(), limits::LISTING_ENTRIES)?;
        self.entries.iter().try_for_each(|entry| entry.settled.check())
    }
}

impl Settled {
    fn check(&self) -> Result<(), ProtocolError> {
        bound("a set of xattrs", self.xattrs.len(), limits::XATTRS)?;
        bound("a symbolic link's target", self.target.len(), limits::SYMLINK_BYTES)?;
        self.xattrs.iter().try_for_each(Xattr::check)
    }
}
