//! Packs items into the bodies of data packets, so that many small files share one.

use crate::{
    error::{Emit, TransferError},
    wire::{ITEM_OVERHEAD, Item},
};
use protocol::{ProtocolError, limits};
use std::time::{Duration, Instant};

/// Collects items; emits a body when it holds about [`limits::DATA_CHUNK_BYTES`].
pub(crate) struct Packer<'a, 'e> {
    emit: &'a mut Emit<'e>,
    body: Vec<u8>,
    waited: Duration,
    /// When the last body went.
    sent: Instant,
    /// For so long nothing may go.
    alive: Duration,
}

const CAPACITY: usize = limits::DATA_CHUNK_BYTES + 4 * 1024;

impl<'a, 'e> Packer<'a, 'e> {
    pub(crate) fn new(emit: &'a mut Emit<'e>) -> Self {
        let alive = Duration::from_millis(limits::TRANSFER_ALIVE_MS);
        Self { emit, body: Vec::new(), waited: Duration::ZERO, sent: Instant::now(), alive }
    }

    /// Adds an item that carries `payload` bytes.
    pub(crate) fn push(&mut self, item: &Item<'_>, payload: usize) -> Result<(), TransferError> {
        self.make_room(payload + ITEM_OVERHEAD)?;
        self.body = item.append_to(std::mem::take(&mut self.body))?;
        self.emit_if_full()
    }

    /// Adds bytes that an encoder made elsewhere, whole items only.
    pub(crate) fn push_encoded(&mut self, encoded: &[u8]) -> Result<(), TransferError> {
        let (got, limit) = (encoded.len(), limits::PACKET_BODY_BYTES);
        if got > limit {
            return Err(ProtocolError::TooLong { what: "an item of data", got, limit }.into());
        }
        self.make_room(got)?;
        self.body.extend_from_slice(encoded);
        self.emit_if_full()
    }

    /// Adds an item whose `len` bytes, the last thing in its encoding, `fill` appends. If `fill` fails, nothing was added.
    pub(crate) fn push_filled<E>(
        &mut self,
        head: &Item<'_>,
        len: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Result<(), E>, TransferError> {
        debug_assert!(matches!(head, Item::Chunk { bytes: [], .. }), "only a chunk ends with its bytes");
        self.make_room(len + ITEM_OVERHEAD)?;
        let start = self.body.len();
        let mut body = head.append_to(std::mem::take(&mut self.body))?;
        body.pop();
        let mut rest = len;
        while rest >= 0x80 {
            body.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        body.push(rest as u8);
        let end = body.len() + len;
        let filled = fill(&mut body);
        debug_assert!(filled.is_err() || body.len() == end, "the length was told before");
        if filled.is_err() {
            body.truncate(start);
        }
        self.body = body;
        self.emit_if_full()?;
        Ok(filled)
    }

    /// To be called now and then in work that adds nothing: if nothing went for long, what there is goes, be it an
    /// empty body, so that the receiver does not take the sender for dead.
    pub(crate) fn still_at_work(&mut self) -> Result<(), TransferError> {
        if self.sent.elapsed() >= self.alive { self.emit() } else { Ok(()) }
    }

    /// Emits what is left.
    pub(crate) fn finish(mut self) -> Result<(), TransferError> {
        self.flush()
    }

    /// The time that handing packets over took since this was last asked.
    pub(crate) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    fn make_room(&mut self, bytes: usize) -> Result<(), TransferError> {
        if !self.body.is_empty() && self.body.len() + bytes > CAPACITY {
            self.flush()?;
        }
        if self.body.capacity() == 0 {
            self.body.reserve(CAPACITY.max(bytes));
        }
        Ok(())
    }

    fn emit_if_full(&mut self) -> Result<(), TransferError> {
        if self.body.len() >= limits::DATA_CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), TransferError> {
        if self.body.is_empty() { Ok(()) } else { self.emit() }
    }

    fn emit(&mut self) -> Result<(), TransferError> {
        let started = Instant::now();
        (self.emit)(std::mem::take(&mut self.body))?;
        self.sent = Instant::now();
        self.waited += self.sent - started;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Content, Position};

    #[test]
    fn long_work_without_items_is_told_by_an_empty_body() {
        let mut bodies = Vec::new();
        let mut emit = |body: Vec<u8>| {
            bodies.push(body.len());
            Ok(())
        };
        let mut packer = Packer::new(&mut emit);
        packer.still_at_work().expect("nothing to do yet");
        packer.alive = Duration::ZERO;
        packer.still_at_work().expect("it is emitted");
        packer.push(&Item::Gone { index: 1 }, 0).expect("it fits");
        packer.still_at_work().expect("what there is goes");
        packer.finish().expect("nothing is left");
        assert_eq!(bodies, [0, 2]);
    }

    #[test]
    fn a_chunk_filled_in_place_is_a_chunk() {
        for len in [0, 1, 127, 128, 16_383, 16_384, limits::DATA_CHUNK_BYTES] {
            let mut bodies = Vec::new();
            let mut emit = |body| {
                bodies.push(body);
                Ok(())
            };
            let mut packer = Packer::new(&mut emit);
            let head = Item::Chunk { index: 7, zstd: None, bytes: &[] };
            let filled = packer.push_filled(&head, len, |bytes| -> Result<(), ()> {
                bytes.resize(bytes.len() + len, 3);
                Ok(())
            });
            filled.expect("nobody stops it").expect("it fills");
            packer.finish().expect("nobody stops it");
            let expected = Content::Chunk { index: 7, zstd: None, bytes: vec![3; len] };
            assert_eq!(Content::take_from(&bodies.concat()).expect("it decodes"), Some((expected, &[][..])));
        }
    }

    #[test]
    fn ten_thousand_small_files_are_about_forty_packets() {
        let mut packets = 0;
        let mut emit = |body: Vec<u8>| {
            assert!(body.len() <= limits::PACKET_BODY_BYTES);
            packets += 1;
            Ok(())
        };
        let mut packer = Packer::new(&mut emit);
        for index in 0..10_000 {
            let item = Item::Small { index, bytes: &[1; 1024], as_of: Position::new(1, 20_000) };
            packer.push(&item, 1024).expect("nobody stops it");
        }
        packer.finish().expect("nobody stops it");
        assert!((39..=42).contains(&packets), "{packets}");
    }
}
