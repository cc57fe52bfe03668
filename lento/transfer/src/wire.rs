//! [`protocol::Content`] with borrowed bytes: the same encoding, without a copy of the content on either end.

use protocol::{Coding, Position, ProtocolError, limits};
use serde::{Deserialize, Serialize, Serializer};

const WHAT: &str = "an item of content";

/// What an item costs beyond its bytes: tags and numbers of at most ten bytes each.
pub(crate) const ITEM_OVERHEAD: usize = 64;

/// One item; see [`protocol::Content`], whose variants and fields these are, in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Item<'a> {
    Small {
        index: u32,
        #[serde(serialize_with = "as_bytes", borrow)]
        bytes: &'a [u8],
        as_of: Position,
    },
    Begin {
        index: u32,
        size: u64,
        coding: Coding,
    },
    Chunk {
        index: u32,
        zstd: Option<u32>,
        #[serde(serialize_with = "as_bytes", borrow)]
        bytes: &'a [u8],
    },
    Hole {
        index: u32,
        bytes: u64,
    },
    End {
        index: u32,
        hash: [u8; 32],
        as_of: Position,
    },
    Differs {
        index: u32,
    },
    Changed {
        index: u32,
    },
    Gone {
        index: u32,
    },
    Failed {
        index: u32,
        errno: i32,
    },
}

fn as_bytes<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl<'a> Item<'a> {
    /// Appends it to a data packet's body.
    pub(crate) fn append_to(&self, body: Vec<u8>) -> Result<Vec<u8>, ProtocolError> {
        postcard::to_extend(self, body).map_err(|why| ProtocolError::Malformed { what: WHAT, why: why.to_string() })
    }

    /// Takes the first item off a data packet's body, `None` at its end, and holds it to the bounds of the wire.
    pub(crate) fn take_from(bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, ProtocolError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (item, rest) = postcard::take_from_bytes::<Self>(bytes)
            .map_err(|why| ProtocolError::Malformed { what: WHAT, why: why.to_string() })?;
        let (what, got, limit) = match &item {
            Self::Small { bytes, .. } => ("a small file", bytes.len(), limits::INLINE_CONTENT_BYTES as usize),
            Self::Chunk { zstd, bytes, .. } => {
                ("a chunk", zstd.map_or(bytes.len(), |n| bytes.len().max(n as usize)), limits::DATA_CHUNK_BYTES)
            }
            _ => return Ok(Some((item, rest))),
        };
        if got > limit { Err(ProtocolError::TooLong { what, got, limit }) } else { Ok(Some((item, rest))) }
    }

    /// The place of its object in the request's list.
    pub(crate) fn index(&self) -> u32 {
        match self {
            Self::Small { index, .. }
            | Self::Begin { index, .. }
            | Self::Chunk { index, .. }
            | Self::Hole { index, .. }
            | Self::End { index, .. }
            | Self::Differs { index }
            | Self::Changed { index }
            | Self::Gone { index }
            | Self::Failed { index, .. } => *index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::Content;

    fn any_content() -> impl Strategy<Value = Content> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        let at = || (any::<u64>(), any::<u64>()).prop_map(|(e, n)| Position::new(e, n));
        let index = any::<u32>();
        prop_oneof![
            (index, bytes(), at()).prop_map(|(index, bytes, as_of)| Content::Small { index, bytes, as_of }),
            (index, any::<u64>(), proptest::option::of(any::<u64>())).prop_map(|(index, size, from)| Content::Begin {
                index,
                size,
                coding: from.map_or(Coding::Delta, Coding::From)
            }),
            (index, proptest::option::of(0_u32..99_999), bytes()).prop_map(|(index, zstd, bytes)| Content::Chunk {
                index,
                zstd,
                bytes
            }),
            (index, any::<u64>()).prop_map(|(index, bytes)| Content::Hole { index, bytes }),
            (index, any::<[u8; 32]>(), at()).prop_map(|(index, hash, as_of)| Content::End { index, hash, as_of }),
            index.prop_map(|index| Content::Differs { index }),
            index.prop_map(|index| Content::Changed { index }),
            index.prop_map(|index| Content::Gone { index }),
            (index, any::<i32>()).prop_map(|(index, errno)| Content::Failed { index, errno }),
        ]
    }

    proptest! {
        #[test]
        fn items_are_encoded_as_the_protocol_says(contents in proptest::collection::vec(any_content(), 1..5)) {
            let mut body = Vec::new();
            for content in &contents {
                content.append_to(&mut body).expect("it is within the bounds");
            }
            let mut again = Vec::new();
            let mut rest = &body[..];
            while let Some((item, tail)) = Item::take_from(rest).expect("what the protocol wrote is read") {
                again = item.append_to(again).expect("memory is all it needs");
                rest = tail;
            }
            prop_assert_eq!(again, body);
        }

        #[test]
        fn garbage_is_an_error_or_an_item_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut rest = &bytes[..];
            while let Ok(Some((_, tail))) = Item::take_from(rest) {
                rest = tail;
            }
        }
    }

    #[test]
    fn a_chunk_that_promises_to_grow_beyond_the_limit_is_refused() {
        let bomb = Item::Chunk { index: 0, zstd: Some(1 << 30), bytes: b"tiny" };
        let body = bomb.append_to(Vec::new()).expect("it is small");
        assert!(matches!(Item::take_from(&body), Err(ProtocolError::TooLong { .. })));
    }
}
