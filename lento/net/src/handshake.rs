//! From a TCP connection to one of the cluster's: TLS, then hello both ways, within one time limit.

use crate::{
    connection::{Connection, Shared, message_packet, run},
    events::NetEvent,
    network::Core,
    outbound::Framed,
    reader::PacketSource,
    redeem,
    refusals::{RefusalKind, Refused},
    registry::{Counted, Dialled, Verdict},
    tls, writer,
};
use protocol::{Act, HostId, Message, Packet, PacketKind, Request, SessionToken, limits, version};
use socket2::{SockRef, TcpKeepalive};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{io::BufReader, net::TcpStream};
use tokio_rustls::{TlsConnector, TlsStream};

/// rustls reads 4 KiB at a time: the buffer makes that one system call for many.
pub(crate) type Stream = TlsStream<BufReader<TcpStream>>;

const SOCKET_READ_BYTES: usize = 256 * 1024;
/// Bytes that the kernel may hold unsent: what a control packet can be stuck behind.
const UNSENT_BYTES: u32 = 512 * 1024;

/// Sets what every connection has: no delay, keepalive, and an end when the peer acknowledges nothing.
pub(crate) fn prepare(tcp: TcpStream, silence: Duration) -> io::Result<BufReader<TcpStream>> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(&tcp);
    let interval = (silence / 4).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(interval).with_interval(interval).with_retries(4))?;
    socket.set_tcp_user_timeout(Some(silence))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    Ok(BufReader::with_capacity(SOCKET_READ_BYTES, tcp))
}

/// A peer whose certificate and hello were verified, and whose connection stays.
pub(crate) struct Established {
    pub(crate) connection: Connection,
    source: PacketSource<Stream>,
    after: Option<tokio_util::sync::CancellationToken>,
    counted: Counted,
}

/// How a call ended, if not with a connection.
pub(crate) enum NoConnection {
    /// There is another one, or another call under way; nobody is to blame.
    Duplicate,
    Refused(Refused),
}

impl<E: Into<Refused>> From<E> for NoConnection {
    fn from(why: E) -> Self {
        Self::Refused(why.into())
    }
}

/// Queues of TLS: a whole batch is encrypted before the socket is asked to take it.
pub(crate) fn wrap(mut stream: Stream) -> Stream {
    let limit = Some(2 * limits::WRITE_BATCH_BYTES);
    match &mut stream {
        TlsStream::Client(stream) => stream.get_mut().1.set_buffer_limit(limit),
        TlsStream::Server(stream) => stream.get_mut().1.set_buffer_limit(limit),
    }
    stream
}

/// Calls `host` at `address`.
pub(crate) async fn call(core: &Arc<Core>, host: HostId, address: &str) -> Result<Established, NoConnection> {
    let Some(dial) = core.registry.dial(host) else { return Err(NoConnection::Duplicate) };
    let tcp = TcpStream::connect(address).await?;
    let tcp = prepare(tcp, core.config.peer_silence)?;
    let name =
        tls::server_name(host, core.identity.cluster).map_err(|why| Refused::new(RefusalKind::BadCertificate, why))?;
    let stream = TlsConnector::from(core.client_tls.clone()).connect(name, tcp).await?;
    let counted = count(core, host)?;
    if !dial.hello() {
        return Err(NoConnection::Duplicate);
    }
    let mut source = PacketSource::new(wrap(stream.into()), core.config.handshake_timeout, usize::MAX);
    say_hello(core, &mut source).await?;
    hear_hello(&mut source, host).await?;
    // `dial` is held until the connection is in the registry.
    establish(core, host, Dialled::ByUs, source, counted).await
}

/// Answers a peer that called and whose certificate is that of `host`; `None` if all that it wanted was to redeem a
/// ticket.
pub(crate) async fn answer(
    core: &Arc<Core>,
    host: HostId,
    stream: Stream,
    address: SocketAddr,
) -> Result<Option<Established>, NoConnection> {
    if host == core.identity.host {
        return Err(Refused::new(RefusalKind::BadCertificate, "it has this host's own certificate").into());
    }
    let counted = count(core, host)?;
    let mut source = PacketSource::new(stream, core.config.handshake_timeout, usize::MAX);
    let packet = first_packet(&mut source).await;
    if let Ok(packet) = &packet
        && let Some(secret) = ticket_secret(packet)
    {
        redeem::serve(core, host, source, packet, secret, address).await?;
        return Ok(None);
    }
    if let Err(refused) = packet.and_then(|packet| check_hello(&packet, host)) {
        if refused.kind == RefusalKind::Version {
            // So that the other host can say why, too.
            say_hello(core, &mut source).await?;
        }
        // A host of the cluster that goes away before its hello has found that our own call had come first.
        return Err(if refused.kind == RefusalKind::Lost { NoConnection::Duplicate } else { refused.into() });
    }
    let mut established = establish(core, host, Dialled::ByThem, source, counted).await?;
    if let Err(why) = say_hello(core, &mut established.source).await {
        core.registry.remove(host, established.connection.id());
        established.connection.0.finished.cancel();
        return Err(why.into());
    }
    Ok(Some(established))
}

fn count(core: &Arc<Core>, host: HostId) -> Result<Counted, Refused> {
    core.registry
        .count(host)
        .ok_or_else(|| Refused::new(RefusalKind::TooManyConnections, format!("host {host} has too many connections")))
}

async fn say_hello(core: &Core, source: &mut PacketSource<Stream>) -> io::Result<()> {
    let hello = Message::Hello { versions: version::WIRE, host: core.identity.host, filesets: Vec::new() };
    let packet = message_packet(&hello, Act::default()).map_err(io::Error::other)?;
    send(source.stream_mut(), packet).await
}

/// Writes one packet.
pub(crate) async fn send(stream: &mut Stream, packet: Packet) -> io::Result<()> {
    let header = packet.header().map_err(io::Error::other)?;
    writer::write(stream, &[Framed { header, body: packet.body }]).await
}

async fn hear_hello(source: &mut PacketSource<Stream>, expected: HostId) -> Result<(), Refused> {
    check_hello(&first_packet(source).await?, expected)
}

async fn first_packet(source: &mut PacketSource<Stream>) -> Result<Packet, Refused> {
    source.next().await?.ok_or_else(|| Refused::new(RefusalKind::Lost, "it closed before its hello"))
}

/// The secret, if the packet is a request to redeem a ticket.
fn ticket_secret(packet: &Packet) -> Option<Vec<u8>> {
    let is_request = packet.kind == PacketKind::Request && packet.act.to == SessionToken::DISPATCHER;
    match Request::from_body(&packet.body) {
        Ok(Request::Redeem { secret }) if is_request => Some(secret),
        _ => None,
    }
}

fn check_hello(packet: &Packet, expected: HostId) -> Result<(), Refused> {
    let protocol = |why: String| Refused::new(RefusalKind::Protocol, why);
    if packet.kind != PacketKind::Message || packet.act != Act::default() {
        return Err(protocol("its first packet is not a hello".into()));
    }
    match Message::from_body(&packet.body).map_err(|why| protocol(why.to_string()))? {
        Message::Hello { versions, host, .. } => {
            version::negotiate(version::WIRE, versions).map_err(|why| Refused::new(RefusalKind::Version, why))?;
            if host == expected {
                Ok(())
            } else {
                Err(protocol(format!("it says that it is host {host}, its certificate that it is host {expected}")))
            }
        }
        _ => Err(protocol("its first message is not a hello".into())),
    }
}

async fn establish(
    core: &Arc<Core>,
    host: HostId,
    dialled: Dialled,
    source: PacketSource<Stream>,
    counted: Counted,
) -> Result<Established, NoConnection> {
    let connection = Connection(Arc::new(Shared::new(host, core.config.clone())));
    loop {
        match core.registry.establish(&connection, dialled) {
            Verdict::Stays { after } => return Ok(Established { connection, source, after, counted }),
            Verdict::Duplicate => return Err(NoConnection::Duplicate),
            Verdict::Later(over) => over.cancelled().await,
        }
    }
}

impl Established {
    /// The peer's address, as far as the socket still knows it.
    pub(crate) fn peer_address(&mut self) -> SocketAddr {
        let tcp = self.source.stream_mut().get_ref().0.get_ref();
        tcp.peer_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Serves the connection until it ends. The daemon is told of both, after the end of the connection before it.
    pub(crate) async fn serve(self, core: &Arc<Core>, address: SocketAddr) {
        let Self { connection, source, after, counted } = self;
        let (host, id) = (connection.host(), connection.id());
        // A shutdown closes what is in the registry; what came there later sees that it has begun.
        if core.shutdown.is_cancelled() {
            connection.close();
        }
        if let Some(after) = after {
            after.cancelled().await;
        }
        tracing::info!(%host, %address, "connected");
        let (source, write_half) = source.split(core.config.peer_silence);
        let up = NetEvent::Up { host, connection: connection.clone() };
        let reason = match core.events.send(up).await {
            Ok(()) => run(connection.0.clone(), source, write_half, core.events.clone()).await,
            Err(_) => crate::DownReason::Local,
        };
        drop(counted);
        core.registry.remove(host, id);
        if let crate::DownReason::Misbehaved(why) = &reason {
            core.refusals.note(address, &Refused::new(RefusalKind::Protocol, why));
        }
        tracing::info!(%host, %address, %reason, "disconnected");
        // The daemon may be gone, and care no more.
        let _ = core.events.send(NetEvent::Down { host, connection: id, reason }).await;
        connection.0.finished.cancel();
    }
}
