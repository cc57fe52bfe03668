//! What waits to be written to one connection: control packets first, then bulk.

use protocol::{PACKET_HEADER_BYTES, Packet, ProtocolError, limits};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};
use tokio::sync::{Notify, Semaphore};

/// Why a packet was not queued.
#[derive(Debug)]
pub(crate) enum Unqueued {
    Closed,
    Full,
    Illegal(ProtocolError),
}

/// A packet with its header made.
#[derive(Debug)]
pub(crate) struct Framed {
    pub(crate) header: [u8; PACKET_HEADER_BYTES],
    pub(crate) body: Vec<u8>,
}

impl Framed {
    fn new(packet: Packet) -> Result<Self, Unqueued> {
        Ok(Self { header: packet.header().map_err(Unqueued::Illegal)?, body: packet.body })
    }
    /// Bytes on the wire; also what a data packet costs of its session's credit.
    pub(crate) fn len(&self) -> usize {
        cost(&self.body)
    }
}

/// Bytes of a packet with that body.
pub(crate) fn cost(body: &[u8]) -> usize {
    PACKET_HEADER_BYTES + body.len()
}

#[derive(Debug, Default)]
struct Queues {
    control: VecDeque<Framed>,
    control_bytes: usize,
    /// With the room that each took and gives back.
    bulk: VecDeque<(Framed, usize)>,
    closed: bool,
}

/// The two queues.
#[derive(Debug)]
pub(crate) struct Outbound {
    queues: Mutex<Queues>,
    wake: Notify,
    room: Semaphore,
    control_packets: usize,
    control_bytes: usize,
}

impl Outbound {
    pub(crate) fn new(control_packets: usize, control_bytes: usize, bulk_bytes: usize) -> Self {
        // A longest packet must fit, or it would wait for ever.
        let bulk_bytes = bulk_bytes.max(PACKET_HEADER_BYTES + limits::PACKET_BODY_BYTES);
        Self {
            queues: Mutex::default(),
            wake: Notify::new(),
            room: Semaphore::new(bulk_bytes),
            control_packets,
            control_bytes,
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Queues a packet that goes before all bulk.
    pub(crate) fn control(&self, packet: Packet) -> Result<(), Unqueued> {
        let packet = Framed::new(packet)?;
        let mut queues = self.queues();
        if queues.closed {
            return Err(Unqueued::Closed);
        }
        if queues.control.len() >= self.control_packets || queues.control_bytes + packet.len() > self.control_bytes {
            return Err(Unqueued::Full);
        }
        queues.control_bytes += packet.len();
        queues.control.push_back(packet);
        drop(queues);
        self.wake.notify_one();
        Ok(())
    }

    /// Queues bulk when there is room for it.
    pub(crate) async fn bulk(&self, packet: Packet) -> Result<(), Unqueued> {
        let packet = Framed::new(packet)?;
        let permits = u32::try_from(packet.len()).map_err(|_| Unqueued::Full)?;
        let room = self.room.acquire_many(permits).await.map_err(|_| Unqueued::Closed)?;
        self.push_bulk(packet, permits as usize)?;
        room.forget();
        Ok(())
    }

    /// Queues what ends a session's data, once a session, so without waiting for room.
    pub(crate) fn after_bulk(&self, packet: Packet) -> Result<(), Unqueued> {
        self.push_bulk(Framed::new(packet)?, 0)
    }

    fn push_bulk(&self, packet: Framed, room: usize) -> Result<(), Unqueued> {
        let mut queues = self.queues();
        if queues.closed {
            return Err(Unqueued::Closed);
        }
        queues.bulk.push_back((packet, room));
        drop(queues);
        self.wake.notify_one();
        Ok(())
    }

    /// The packets to write next, in order, about [`limits::WRITE_BATCH_BYTES`] of them, appended to `batch`.
    /// Returns false when there are none and there will be none. Nothing is lost if it is dropped while it waits.
    pub(crate) async fn next_batch(&self, batch: &mut Vec<Framed>) -> bool {
        loop {
            let closed = self.take(batch);
            if !batch.is_empty() {
                return true;
            }
            if closed {
                return false;
            }
            self.wake.notified().await;
        }
    }

    fn take(&self, batch: &mut Vec<Framed>) -> bool {
        let mut bytes = 0;
        let mut room = 0;
        let mut queues = self.queues();
        while bytes < limits::WRITE_BATCH_BYTES {
            if let Some(packet) = queues.control.pop_front() {
                queues.control_bytes -= packet.len();
                bytes += packet.len();
                batch.push(packet);
            } else if let Some((packet, taken)) = queues.bulk.pop_front() {
                room += taken;
                bytes += packet.len();
                batch.push(packet);
            } else {
                break;
            }
        }
        let closed = queues.closed;
        drop(queues);
        self.room.add_permits(room);
        closed
    }

    /// Takes no more packets. With `flush`, control packets that wait are still written.
    pub(crate) fn close(&self, flush: bool) {
        let mut queues = self.queues();
        queues.closed = true;
        queues.bulk.clear();
        if !flush {
            queues.control.clear();
            queues.control_bytes = 0;
        }
        drop(queues);
        self.room.close();
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Act, PacketKind};

    fn packet(kind: PacketKind, byte: u8, len: usize) -> Packet {
        Packet { kind, act: Act::default(), body: vec![byte; len] }
    }

    #[tokio::test]
    async fn control_goes_before_the_bulk_that_waits() {
        let outbound = Outbound::new(10, 1 << 20, 4 << 20);
        for n in 0..4 {
            outbound.bulk(packet(PacketKind::Data, n, limits::DATA_CHUNK_BYTES)).await.expect("there is room");
        }
        let mut batch = Vec::new();
        assert!(outbound.next_batch(&mut batch).await);
        assert_eq!(batch.len(), 1, "one chunk fills a batch");
        outbound.control(packet(PacketKind::Message, 9, 5)).expect("there is room");
        batch.clear();
        assert!(outbound.next_batch(&mut batch).await);
        assert_eq!(batch[0].body, [9; 5]);
        assert_eq!(batch[1].body[0], 1);
    }

    #[tokio::test]
    async fn queues_are_bounded() {
        let outbound = Outbound::new(2, 1 << 20, 1);
        for _ in 0..2 {
            outbound.control(packet(PacketKind::Message, 0, 5)).expect("there is room");
        }
        assert!(matches!(outbound.control(packet(PacketKind::Message, 0, 5)), Err(Unqueued::Full)));
        outbound.bulk(packet(PacketKind::Data, 0, limits::PACKET_BODY_BYTES)).await.expect("one fits");
        let more = outbound.bulk(packet(PacketKind::Data, 0, 1));
        tokio::pin!(more);
        assert!(futures_pending(more.as_mut()).await, "it waits for room");
        let mut batch = Vec::new();
        assert!(outbound.next_batch(&mut batch).await);
        more.await.expect("there is room now");
        outbound.close(false);
        assert!(matches!(outbound.bulk(packet(PacketKind::Data, 0, 1)).await, Err(Unqueued::Closed)));
    }

    async fn futures_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut future = Some(future);
        std::future::poll_fn(|cx| {
            let pending = future.take().is_some_and(|f| f.poll(cx).is_pending());
            std::task::Poll::Ready(pending)
        })
        .await
    }
}
