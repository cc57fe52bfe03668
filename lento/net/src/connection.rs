//! One connection: what its users hold, and the task that reads it.

use crate::{
    NetConfig, NetError, NetEvent, Session,
    events::DownReason,
    outbound::{Outbound, Unqueued},
    reader::PacketSource,
    sessions::{Inbound, Sessions},
};
use protocol::{Act, HostId, Message, Packet, PacketKind, ProtocolError, Request};
use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

/// Tells connections of one process apart; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What the tasks and users of a connection share. Lock order: `sessions`, then the outbound queues.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: ConnectionId,
    pub(crate) host: HostId,
    pub(crate) config: NetConfig,
    pub(crate) outbound: Outbound,
    sessions: Mutex<Sessions>,
    /// Set when the connection is to end.
    pub(crate) closing: CancellationToken,
    /// Set when it has ended and the daemon was told.
    pub(crate) finished: CancellationToken,
    reason: Mutex<Option<DownReason>>,
}

impl Shared {
    pub(crate) fn new(host: HostId, config: NetConfig) -> Self {
        Self {
            id: ConnectionId::next(),
            host,
            outbound: Outbound::new(config.control_packets, config.control_bytes, config.bulk_bytes),
            sessions: Mutex::new(Sessions::new(&config)),
            config,
            closing: CancellationToken::new(),
            finished: CancellationToken::new(),
            reason: Mutex::default(),
        }
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Ends the connection; the first reason given is the one told.
    pub(crate) fn close(&self, reason: DownReason) {
        self.reason.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(reason);
        self.closing.cancel();
        self.outbound.close(true);
    }

    fn reason(&self) -> DownReason {
        self.reason.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone().unwrap_or(DownReason::Closed)
    }

    /// Queues a control packet. A peer whose queue is full is disconnected.
    pub(crate) fn send(&self, packet: Packet) -> Result<(), NetError> {
        self.outbound.control(packet).map_err(|why| self.unqueued(why))
    }

    /// The same, where the sender cares for no failure: the connection's end is told elsewhere.
    pub(crate) fn send_quietly(&self, packet: Result<Packet, ProtocolError>) {
        if let Ok(packet) = packet {
            let _ = self.send(packet);
        }
    }

    pub(crate) fn unqueued(&self, why: Unqueued) -> NetError {
        match why {
            Unqueued::Closed => NetError::Closed(self.host),
            Unqueued::Illegal(why) => NetError::Protocol(why),
            Unqueued::Full => {
                self.close(DownReason::QueueFull);
                NetError::Full(self.host)
            }
        }
    }
}

/// A packet with `message` in it.
pub(crate) fn message_packet(message: &Message, act: Act) -> Result<Packet, ProtocolError> {
    Ok(Packet { kind: PacketKind::Message, act, body: message.to_body()? })
}

/// A connection to a host, to send on. Cloned freely; it does not keep the connection alive.
#[derive(Debug, Clone)]
pub struct Connection(pub(crate) Arc<Shared>);

impl Connection {
    /// Whom to.
    pub fn host(&self) -> HostId {
        self.0.host
    }

    /// Which.
    pub fn id(&self) -> ConnectionId {
        self.0.id
    }

    /// Queues a message, before all bulk. Messages and requests arrive in the order in which they were queued.
    ///
    /// # Errors
    /// [`NetError::Closed`] when the connection ended; [`NetError::Full`] when the peer takes nothing (the connection
    /// is closed then); [`NetError::Protocol`] when the message is too long.
    pub fn send(&self, message: &Message) -> Result<(), NetError> {
        self.0.send(message_packet(message, Act::default())?)
    }

    /// Sends a request, and opens the session in which it is answered.
    ///
    /// # Errors
    /// As [`Connection::send`], and [`NetError::TooManySessions`].
    pub fn request(&self, request: &Request) -> Result<Session, NetError> {
        Session::open(self.0.clone(), request)
    }

    /// Sessions open now: requests of this host's, and of the peer's. A gauge; 0 at rest.
    pub fn open_sessions(&self) -> (usize, usize) {
        self.0.sessions().open()
    }

    /// Ends the connection: what waits in the control queue is still written, then both sides see it go down.
    pub fn close(&self) {
        self.0.close(DownReason::Local);
    }

    /// Completes when the connection is ending, whoever ended it.
    pub async fn closed(&self) {
        self.0.closing.cancelled().await;
    }
}

/// Reads the connection until it ends, and tells the daemon what comes. Returns why it ended; the caller then tells
/// that too.
pub(crate) async fn run<R, W>(
    shared: Arc<Shared>,
    source: PacketSource<R>,
    write_half: W,
    events: mpsc::Sender<NetEvent>,
) -> DownReason
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let writer = tokio::spawn(crate::writer::run(shared.clone(), write_half));
    let reason = tokio::select! {
        biased;
        () = shared.closing.cancelled() => None,
        reason = read(&shared, source, &events) => Some(reason),
    };
    if let Some(reason) = reason {
        shared.close(reason);
    }
    shared.sessions().fail_all();
    let _ = writer.await;
    shared.outbound.close(false);
    shared.reason()
}

async fn read<R: AsyncRead + Unpin>(
    shared: &Arc<Shared>,
    mut source: PacketSource<R>,
    events: &mpsc::Sender<NetEvent>,
) -> DownReason {
    loop {
        let packet = match source.next().await {
            Ok(Some(packet)) => packet,
            Ok(None) => return DownReason::Closed,
            Err(why) => {
                return match why.kind() {
                    io::ErrorKind::TimedOut => DownReason::Silent,
                    io::ErrorKind::InvalidData => DownReason::Misbehaved(why.to_string()),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => DownReason::Closed,
                    _ => DownReason::Failed(why.to_string()),
                };
            }
        };
        match crate::sessions::dispatch(shared, packet) {
            Ok(Inbound::Handled) => {}
            Ok(Inbound::Event(event)) => {
                if events.send(event).await.is_err() {
                    return DownReason::Local;
                }
            }
            Err(why) => return DownReason::Misbehaved(why),
        }
    }
}
