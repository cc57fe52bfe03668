//! The six packet kinds and their ACTs (paper: "Lento"; design D12; `docs/formats/wire.md`).

use crate::{ProtocolError, limits};

/// Names a session of one host on one connection; 0 is the request dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionToken(pub u64);

impl SessionToken {
    /// The session that every host has: it takes requests and messages that no session of their own awaits.
    pub const DISPATCHER: Self = Self(0);
}

/// The asynchronous completion token: which session sent a packet and which one it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Act {
    /// Session of the sender, to which answers go.
    pub from: SessionToken,
    /// Session of the receiver.
    pub to: SessionToken,
}

impl Act {
    /// The token of an answer.
    pub const fn reversed(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketKind {
    /// Opens a session at the receiver; body: [`crate::Request`].
    Request = 1,
    /// Needs no answer; body: [`crate::Message`].
    Message = 2,
    /// Answers a request; body: [`crate::Reply`].
    Reply = 3,
    /// Bulk bytes of a session; body: [`crate::Content`]s or [`crate::Listing`]s, one after the other.
    Data = 4,
    /// All data of the session was sent; no body.
    EndOfData = 5,
    /// The requester has done with the session, or gives it up; no body.
    EndOfRequest = 6,
}

impl PacketKind {
    fn from_u8(kind: u8) -> Option<Self> {
        [Self::Request, Self::Message, Self::Reply, Self::Data, Self::EndOfData, Self::EndOfRequest]
            .into_iter()
            .find(|k| *k as u8 == kind)
    }
}

/// Bytes before a packet's body: length of the body (u32 LE), kind (u8), zero (3), `from` (u64 LE), `to` (u64 LE).
pub const PACKET_HEADER_BYTES: usize = 24;

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// What it is.
    pub kind: PacketKind,
    /// Between which sessions.
    pub act: Act,
    /// Postcard, by `kind`; at most [`limits::PACKET_BODY_BYTES`].
    pub body: Vec<u8>,
}

impl Packet {
    /// The header, to be sent before `body`.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] if the body is longer than a peer would accept.
    pub fn header(&self) -> Result<[u8; PACKET_HEADER_BYTES], ProtocolError> {
        let got = self.body.len();
        if got > limits::PACKET_BODY_BYTES {
            return Err(ProtocolError::TooLong { what: "a packet", got, limit: limits::PACKET_BODY_BYTES });
        }
        let mut out = [0; PACKET_HEADER_BYTES];
        out[..4].copy_from_slice(&(got as u32).to_le_bytes());
        out[4] = self.kind as u8;
        out[8..16].copy_from_slice(&self.act.from.0.to_le_bytes());
        out[16..].copy_from_slice(&self.act.to.0.to_le_bytes());
        Ok(out)
    }

    /// Reads a header: the packet without its body, and the body's length.
    pub fn parse_header(bytes: &[u8; PACKET_HEADER_BYTES]) -> Result<(Self, usize), ProtocolError> {
        let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if len > limits::PACKET_BODY_BYTES {
            return Err(ProtocolError::TooLong { what: "a packet", got: len, limit: limits::PACKET_BODY_BYTES });
        }
        let kind = PacketKind::from_u8(bytes[4])
            .ok_or_else(|| ProtocolError::malformed("a packet", format!("there is no kind {}", bytes[4])))?;
        if bytes[5..8] != [0; 3] {
            return Err(ProtocolError::malformed("a packet", "its reserved bytes are not zero"));
        }
        let token = |at: usize| {
            let mut raw = [0; 8];
            raw.copy_from_slice(&bytes[at..at + 8]);
            SessionToken(u64::from_le_bytes(raw))
        };
        Ok((Self { kind, act: Act { from: token(8), to: token(16) }, body: Vec::new() }, len))
    }
}

/// Cuts a byte stream into packets: [`PacketReader::push`] bytes in, then [`PacketReader::next`] until `None`.
#[derive(Debug, Default)]
pub struct PacketReader {
    buffer: Vec<u8>,
    start: usize,
}

impl PacketReader {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > limits::PACKET_BODY_BYTES {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole packet.
    ///
    /// # Errors
    /// The peer misbehaved; the connection is to be closed.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Packet>, ProtocolError> {
        let bytes = &self.buffer[self.start..];
        let Some(header) = bytes.first_chunk::<PACKET_HEADER_BYTES>() else { return Ok(None) };
        let (mut packet, len) = Packet::parse_header(header)?;
        let Some(body) = bytes[PACKET_HEADER_BYTES..].get(..len) else { return Ok(None) };
        packet.body = body.to_vec();
        self.start += PACKET_HEADER_BYTES + len;
        Ok(Some(packet))
    }
}
