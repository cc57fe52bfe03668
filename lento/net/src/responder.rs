//! A request of a peer's, while this host answers it.

use crate::{
    NetError,
    connection::Shared,
    outbound::{Unqueued, cost},
    sessions::Flow,
};
use protocol::{Act, HostId, Packet, PacketKind, Refusal, Reply};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Answers one request: any number of [`Responder::data`], then [`Responder::end_of_data`] if there was any, then
/// [`Responder::reply`], which is the last. Dropped without a reply, it refuses the request.
#[derive(Debug)]
pub struct Responder {
    shared: Arc<Shared>,
    act: Act,
    flow: Arc<Flow>,
    sent_data: AtomicBool,
    ended: AtomicBool,
    replied: bool,
    runtime: tokio::runtime::Handle,
}

impl Responder {
    pub(crate) fn new(shared: Arc<Shared>, act: Act, flow: Arc<Flow>) -> Self {
        Self {
            shared,
            act,
            flow,
            sent_data: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            replied: false,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Who asked.
    pub fn host(&self) -> HostId {
        self.shared.host
    }

    fn packet(&self, kind: PacketKind, body: Vec<u8>) -> Packet {
        Packet { kind, act: self.act, body }
    }

    /// Sends a data packet with `body`, when the consumer has given credit for it and there is room in the queue.
    /// Dropped while it waits, it has sent nothing.
    ///
    /// # Errors
    /// [`NetError::Cancelled`] when the asker gave up or the connection ended; [`NetError::Protocol`] when the body is
    /// longer than [`protocol::limits::PACKET_BODY_BYTES`].
    pub async fn data(&self, body: Vec<u8>) -> Result<(), NetError> {
        let packet = self.packet(PacketKind::Data, body);
        packet.header()?;
        let bytes = cost(&packet.body);
        let permits = u32::try_from(bytes).map_err(|_| NetError::Cancelled)?;
        let credit = self.flow.credit.acquire_many(permits).await.map_err(|_| NetError::Cancelled)?;
        // Counted before the packet can be answered with credit.
        self.flow.in_flight.fetch_add(bytes, Ordering::AcqRel);
        let uncount = Uncount { flow: &self.flow, bytes };
        self.sent_data.store(true, Ordering::Release);
        self.shared.outbound.bulk(packet).await.map_err(|why| match why {
            Unqueued::Illegal(why) => NetError::Protocol(why),
            Unqueued::Closed | Unqueued::Full => NetError::Cancelled,
        })?;
        std::mem::forget(uncount);
        credit.forget();
        Ok(())
    }

    /// The same, from a thread that may block (not from an async task).
    pub fn blocking_data(&self, body: Vec<u8>) -> Result<(), NetError> {
        self.runtime.block_on(self.data(body))
    }

    /// Says that all data was sent.
    pub fn end_of_data(&self) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            // It fails only if the connection ended, which its users are told.
            let _ = self.shared.outbound.after_bulk(self.packet(PacketKind::EndOfData, Vec::new()));
        }
    }

    /// Answers the request, after the data, of which there is no more.
    ///
    /// # Errors
    /// [`NetError::Closed`] when the connection ended; [`NetError::Protocol`] when the reply is too long.
    pub fn reply(mut self, reply: &Reply) -> Result<(), NetError> {
        self.answer(reply)
    }

    fn answer(&mut self, reply: &Reply) -> Result<(), NetError> {
        let packet = self.packet(PacketKind::Reply, reply.to_body()?);
        self.replied = true;
        if self.flow.cancelled.is_cancelled() {
            return Ok(());
        }
        if self.sent_data.load(Ordering::Acquire) || self.ended.load(Ordering::Acquire) {
            self.end_of_data();
            // Behind the data, which it must not overtake.
            self.shared.outbound.after_bulk(packet).map_err(|why| self.shared.unqueued(why))
        } else {
            self.shared.send(packet)
        }
    }

    /// Completes when the asker gave the request up, or the connection ended.
    pub async fn cancelled(&self) {
        self.flow.cancelled.cancelled().await;
    }

    /// Whether it did.
    pub fn is_cancelled(&self) -> bool {
        self.flow.cancelled.is_cancelled()
    }
}

/// Takes back what was counted for a packet that was not sent.
struct Uncount<'a> {
    flow: &'a Flow,
    bytes: usize,
}

impl Drop for Uncount<'_> {
    fn drop(&mut self) {
        self.flow.in_flight.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.replied {
            let refusal = Refusal::Failed("the request was dropped there".into());
            let _ = self.answer(&Reply::Refused(refusal));
        }
    }
}
