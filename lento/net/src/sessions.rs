//! The sessions of one connection, and which one each packet is for (the paper's dispatcher).
//!
//! Tokens count up from 1 on each side; 0 is the dispatcher. A packet for a token that was given up is late, not wrong.

use crate::{NetConfig, NetEvent, Responder, connection::Shared, outbound::cost};
use protocol::{Act, Message, Packet, PacketKind, Reply, Request, SessionToken};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// A request of this host's.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The peer's session, known from its first packet on.
    pub(crate) peer: SessionToken,
    pub(crate) reply: Option<oneshot::Sender<Reply>>,
    /// Bounded by `window`; gone after the end of data.
    pub(crate) data: Option<mpsc::UnboundedSender<Vec<u8>>>,
    /// Whether the data came to its end.
    pub(crate) complete: Arc<AtomicBool>,
    /// Bytes that the peer may send before it gets more credit.
    pub(crate) window: usize,
}

/// A request of the peer's.
#[derive(Debug)]
pub(crate) struct Serving {
    peer: SessionToken,
    pub(crate) flow: Arc<Flow>,
}

/// What the one who answers a request shares with the connection.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Bytes that may be sent.
    pub(crate) credit: Semaphore,
    /// Bytes sent for which no credit came back yet.
    pub(crate) in_flight: AtomicUsize,
    /// Set when the asker gave up, or the connection ended.
    pub(crate) cancelled: CancellationToken,
}

impl Flow {
    pub(crate) fn cancel(&self) {
        self.credit.close();
        self.cancelled.cancel();
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Sessions {
    next: u64,
    limit: usize,
    credit: usize,
    failed: bool,
    asked: HashMap<SessionToken, Asked>,
    serving: HashMap<SessionToken, Serving>,
    /// The sessions of `serving` by the peer's tokens: the peer may give up before it knows ours.
    by_peer: HashMap<SessionToken, SessionToken>,
}

/// What came of a packet.
pub(crate) enum Inbound {
    Handled,
    Event(NetEvent),
}

impl Sessions {
    pub(crate) fn new(config: &NetConfig) -> Self {
        Self {
            next: 1,
            limit: config.sessions,
            credit: config.credit_bytes.max(cost(&[]) + protocol::limits::PACKET_BODY_BYTES),
            failed: false,
            asked: HashMap::new(),
            serving: HashMap::new(),
            by_peer: HashMap::new(),
        }
    }

    fn token(&mut self) -> SessionToken {
        let token = SessionToken(self.next);
        self.next += 1;
        token
    }

    /// Adds a request of this host's; `None` when there are too many. The connection may have failed already: then
    /// dropping `asked` says so.
    pub(crate) fn ask(&mut self, asked: Asked) -> Option<SessionToken> {
        if self.asked.len() >= self.limit {
            return None;
        }
        let token = self.token();
        if !self.failed {
            self.asked.insert(token, Asked { window: self.credit, ..asked });
        }
        Some(token)
    }

    /// Forgets a request of this host's; the peer's token, if the session was still open.
    pub(crate) fn give_up(&mut self, token: SessionToken) -> Option<SessionToken> {
        self.asked.remove(&token).map(|asked| asked.peer)
    }

    /// Lets the peer send `bytes` more; its token.
    pub(crate) fn widen(&mut self, token: SessionToken, bytes: usize) -> Option<SessionToken> {
        let asked = self.asked.get_mut(&token)?;
        asked.window += bytes;
        Some(asked.peer)
    }

    /// How much a consumer takes before its peer is given as much again.
    pub(crate) fn grant(&self) -> usize {
        self.credit / 4
    }

    /// Ends all sessions, as the connection has ended.
    pub(crate) fn fail_all(&mut self) {
        self.failed = true;
        self.asked.clear();
        self.by_peer.clear();
        self.serving.drain().for_each(|(_, serving)| serving.flow.cancel());
    }

    /// Sessions open now, of this host's and of the peer's.
    pub(crate) fn open(&self) -> (usize, usize) {
        (self.asked.len(), self.serving.len())
    }

    /// Whether `token` was once given out: what comes for it now is late.
    fn late(&self, token: SessionToken) -> Result<(), String> {
        if token.0 < self.next { Ok(()) } else { Err(format!("there is no session {}", token.0)) }
    }

    fn asked(&mut self, act: Act) -> Result<Option<&mut Asked>, String> {
        if !self.asked.contains_key(&act.to) {
            self.late(act.to)?;
            return Ok(None);
        }
        match self.asked.get_mut(&act.to) {
            Some(asked) if asked.peer == act.from || asked.peer == SessionToken::DISPATCHER => {
                asked.peer = act.from;
                Ok(Some(asked))
            }
            _ => Err("an answer comes from another session".into()),
        }
    }

    fn serve(&mut self, from: SessionToken) -> Result<(SessionToken, Arc<Flow>), String> {
        if from == SessionToken::DISPATCHER || self.by_peer.contains_key(&from) {
            return Err("a request comes from a session that is taken".into());
        }
        if self.serving.len() >= self.limit {
            return Err(format!("more than {} sessions are open", self.limit));
        }
        let token = self.token();
        let flow = Arc::new(Flow {
            credit: Semaphore::new(self.credit),
            in_flight: AtomicUsize::new(0),
            cancelled: CancellationToken::new(),
        });
        if self.failed {
            flow.cancel();
        } else {
            self.serving.insert(token, Serving { peer: from, flow: flow.clone() });
            self.by_peer.insert(from, token);
        }
        Ok((token, flow))
    }

    fn credit(&mut self, act: Act, bytes: usize) -> Result<(), String> {
        let Some(serving) = self.serving.get(&act.to) else { return self.late(act.to) };
        if serving.peer != act.from {
            return Err("credit comes from another session".into());
        }
        let granted =
            serving.flow.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(bytes));
        granted.map_err(|_| "it gives credit for more than was sent".to_string())?;
        serving.flow.credit.add_permits(bytes);
        Ok(())
    }

    fn end_of_request(&mut self, act: Act) -> Result<(), String> {
        let token = match act.to {
            SessionToken::DISPATCHER => self.by_peer.get(&act.from).copied(),
            to => Some(to),
        };
        let Some(token) = token else { return Ok(()) };
        match self.serving.remove(&token) {
            Some(serving) if serving.peer == act.from => {
                self.by_peer.remove(&serving.peer);
                serving.flow.cancel();
                Ok(())
            }
            Some(_) => Err("the end of a request comes from another session".into()),
            None => self.late(token),
        }
    }

    fn reply(&mut self, act: Act, reply: Reply) -> Result<(), String> {
        let Some(asked) = self.asked(act)? else { return Ok(()) };
        // A reply is the last of a session: what data there is has come.
        asked.complete.store(true, Ordering::Release);
        asked.data = None;
        match asked.reply.take() {
            // The asker may care for the data only.
            Some(waiting) => {
                let _ = waiting.send(reply);
                Ok(())
            }
            None => Err("a request is answered twice".into()),
        }
    }

    fn data(&mut self, act: Act, body: Vec<u8>) -> Result<(), String> {
        let Some(asked) = self.asked(act)? else { return Ok(()) };
        asked.window = asked.window.checked_sub(cost(&body)).ok_or("it sends more than it has credit for")?;
        match &asked.data {
            // The consumer may have gone just now: then it has given the session up, or will.
            Some(consumer) => {
                let _ = consumer.send(body);
                Ok(())
            }
            None => Err("data comes after its end".into()),
        }
    }

    fn end_of_data(&mut self, act: Act) -> Result<(), String> {
        let Some(asked) = self.asked(act)? else { return Ok(()) };
        asked.complete.store(true, Ordering::Release);
        asked.data = None;
        Ok(())
    }
}

/// Takes a packet in.
///
/// # Errors
/// The peer broke the protocol: the text says how.
pub(crate) fn dispatch(shared: &Arc<Shared>, packet: Packet) -> Result<Inbound, String> {
    let Packet { kind, act, body } = packet;
    if !body.is_empty() && matches!(kind, PacketKind::EndOfData | PacketKind::EndOfRequest) {
        return Err("the end of something has a body".into());
    }
    match kind {
        PacketKind::Request => return request(shared, act, &body),
        PacketKind::Message => return message(shared, act, &body),
        PacketKind::Reply => {
            let reply = Reply::from_body(&body).map_err(|why| why.to_string())?;
            shared.sessions().reply(act, reply)?;
        }
        PacketKind::Data => shared.sessions().data(act, body)?,
        PacketKind::EndOfData => shared.sessions().end_of_data(act)?,
        PacketKind::EndOfRequest => shared.sessions().end_of_request(act)?,
    }
    Ok(Inbound::Handled)
}

fn request(shared: &Arc<Shared>, act: Act, body: &[u8]) -> Result<Inbound, String> {
    if act.to != SessionToken::DISPATCHER {
        return Err("a request is not for the dispatcher".into());
    }
    let request = Request::from_body(body).map_err(|why| why.to_string())?;
    if matches!(request, Request::Join { .. } | Request::Redeem { .. }) {
        return Err("a ticket is redeemed before the hello, or not at all".into());
    }
    let (token, flow) = shared.sessions().serve(act.from)?;
    let responder = Responder::new(shared.clone(), Act { from: token, to: act.from }, flow);
    Ok(Inbound::Event(NetEvent::Request { host: shared.host, request, responder }))
}

fn message(shared: &Arc<Shared>, act: Act, body: &[u8]) -> Result<Inbound, String> {
    match (Message::from_body(body).map_err(|why| why.to_string())?, act.to) {
        (Message::Credit { bytes }, to) if to != SessionToken::DISPATCHER => {
            shared.sessions().credit(act, bytes as usize)?;
            Ok(Inbound::Handled)
        }
        (Message::Heartbeat, SessionToken::DISPATCHER) => Ok(Inbound::Handled),
        (Message::Hello { .. } | Message::Credit { .. }, _) => Err("a message is out of place".into()),
        (message, SessionToken::DISPATCHER) => Ok(Inbound::Event(NetEvent::Message { host: shared.host, message })),
        _ => Err("a message is not for the dispatcher".into()),
    }
}
