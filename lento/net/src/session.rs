//! A request of this host's, while it is answered.

use crate::{NetError, connection::Shared, connection::message_packet, outbound::cost, sessions::Asked};
use protocol::{Act, Message, Packet, PacketKind, Reply, Request, SessionToken};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::{mpsc, oneshot};

/// The asker's end of a session. When it and its [`DataReceiver`] are both dropped, or the receiver before the end of
/// the data, the request is given up (EndOfRequest).
#[derive(Debug)]
pub struct Session {
    reply: oneshot::Receiver<Reply>,
    data: Option<DataReceiver>,
    open: Arc<Open>,
}

/// Ends the session when the last of its holders goes.
#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    token: SessionToken,
}

impl Open {
    fn give_up(&self) {
        let peer = self.shared.sessions().give_up(self.token);
        if let Some(peer) = peer {
            let act = Act { from: self.token, to: peer };
            self.shared.send_quietly(Ok(Packet { kind: PacketKind::EndOfRequest, act, body: Vec::new() }));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Session {
    pub(crate) fn open(shared: Arc<Shared>, request: &Request) -> Result<Self, NetError> {
        let body = request.to_body()?;
        let (answer, reply) = oneshot::channel();
        let (produce, bodies) = mpsc::unbounded_channel();
        let complete = Arc::new(AtomicBool::new(false));
        let asked = Asked {
            peer: SessionToken::DISPATCHER,
            reply: Some(answer),
            data: Some(produce),
            complete: complete.clone(),
            window: 0,
        };
        let host = shared.host;
        let (token, grant) = {
            let mut sessions = shared.sessions();
            (sessions.ask(asked).ok_or(NetError::TooManySessions(host))?, sessions.grant())
        };
        let open = Arc::new(Open { shared: shared.clone(), token });
        let act = Act { from: token, to: SessionToken::DISPATCHER };
        shared.send(Packet { kind: PacketKind::Request, act, body })?;
        let data = DataReceiver { bodies, complete, taken: 0, grant, open: open.clone() };
        Ok(Self { reply, data: Some(data), open })
    }

    /// The reply; it is the last that comes of a session, after all data. Cancel-safe; call it until it returns.
    ///
    /// # Errors
    /// [`NetError::Closed`] when the connection ended first.
    pub async fn reply(&mut self) -> Result<Reply, NetError> {
        let host = self.open.shared.host;
        (&mut self.reply).await.map_err(|_| NetError::Closed(host))
    }

    /// The bulk data of the answer; it may be consumed in another task or thread. `None` the second time.
    pub fn data(&mut self) -> Option<DataReceiver> {
        self.data.take()
    }
}

/// The bulk data that answers a request. The peer sends as fast as bodies are taken, within
/// [`protocol::limits::TRANSFER_CREDIT_BYTES`]; a slow consumer holds up nobody else.
#[derive(Debug)]
pub struct DataReceiver {
    bodies: mpsc::UnboundedReceiver<Vec<u8>>,
    complete: Arc<AtomicBool>,
    taken: usize,
    grant: usize,
    open: Arc<Open>,
}

impl DataReceiver {
    /// The next data packet's body; `None` after the last (the reply tells whether the answer is whole). Cancel-safe.
    ///
    /// # Errors
    /// [`NetError::Closed`] when the connection ended before the data did.
    pub async fn recv(&mut self) -> Result<Option<Vec<u8>>, NetError> {
        let body = self.bodies.recv().await;
        self.took(body)
    }

    /// The same, from a thread that may block.
    pub fn blocking_recv(&mut self) -> Result<Option<Vec<u8>>, NetError> {
        let body = self.bodies.blocking_recv();
        self.took(body)
    }

    fn took(&mut self, body: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, NetError> {
        let Some(body) = body else {
            return if self.complete.load(Ordering::Acquire) { Ok(None) } else { Err(self.closed()) };
        };
        self.taken += cost(&body);
        if self.taken >= self.grant && !self.complete.load(Ordering::Acquire) {
            let bytes = std::mem::take(&mut self.taken);
            let peer = self.open.shared.sessions().widen(self.open.token, bytes);
            if let (Some(to), Ok(bytes)) = (peer, u32::try_from(bytes)) {
                let act = Act { from: self.open.token, to };
                self.open.shared.send_quietly(message_packet(&Message::Credit { bytes }, act));
            }
        }
        Ok(Some(body))
    }

    fn closed(&self) -> NetError {
        NetError::Closed(self.open.shared.host)
    }
}

impl Drop for DataReceiver {
    fn drop(&mut self) {
        if !self.complete.load(Ordering::Acquire) {
            self.open.give_up();
        }
    }
}
