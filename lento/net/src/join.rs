//! Joining a cluster with a ticket: the joiner's side, and the inviter's.

use crate::{
    Identity, IdentityError, Member, NetEvent, Ticket, certs, files,
    handshake::{self, Stream},
    identity::{check_address, refuse_existing, store},
    network::Core,
    reader::PacketSource,
    refusals::{RefusalKind, Refused},
    register::Register,
    tls,
};
use protocol::{Act, Grant, HostName, Packet, PacketKind, Refusal, Reply, Request, SessionToken, limits};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::{JoinError, spawn_blocking},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// What a host has after it joined.
#[derive(Debug)]
pub struct Joined {
    /// Its new identity, stored in its home.
    pub identity: Identity,
    /// The host that invited it.
    pub inviter: Member,
    /// The file set that the ticket was for.
    pub grant: Option<Grant>,
}

/// The joiner's token for its one session.
const JOINER: SessionToken = SessionToken(1);

/// Redeems `ticket`: this host, to be called `name` and to listen on `listen`, gets its identity in `home`.
///
/// The key is made here and stays here. If the answer is lost on the way, the same call from the same home succeeds
/// later: the inviter accepts a used ticket from the key and name that used it.
///
/// # Errors
/// [`IdentityError::Refused`] says why the inviter refused; [`IdentityError::NotSent`] that the ticket is unused;
/// [`IdentityError::MaybeUsed`] that it may not be.
pub async fn join(home: &Path, ticket: &Ticket, name: HostName, listen: String) -> Result<Joined, IdentityError> {
    ticket.check_time()?;
    check_address(&listen)?;
    let (home_of_key, key_name) = (home.to_owned(), home.join("key.pem"));
    let csr = blocking(move || prepare(&home_of_key, &key_name)).await?;
    let request = Request::Join { name: name.clone(), listen: listen.clone(), secret: ticket.secret.to_vec(), csr };
    let reply = ask(reach(ticket), &request).await.map_err(|why| match why {
        Unanswered::NotSent(why) => IdentityError::NotSent { address: ticket.address.clone(), why },
        Unanswered::Lost(why) => maybe_used(ticket, why),
    })?;
    let Reply::Joined { host, certificate, authority, inviter, grant } = reply else {
        return Err(match reply {
            Reply::Refused(refusal) => IdentityError::Refused(refusal),
            _ => maybe_used(ticket, "its answer makes no sense"),
        });
    };
    let (certificate, authority) = (CertificateDer::from(certificate), CertificateDer::from(authority));
    let cluster = match certs::subject(&certificate) {
        Some((subject, cluster)) if subject == host && certs::fingerprint(&authority) == ticket.authority => cluster,
        _ => return Err(maybe_used(ticket, "it gave a certificate for another host or cluster")),
    };
    let inviter = Member { host: inviter.0, name: inviter.1, address: inviter.2 };
    let members = vec![Member { host, name: name.clone(), address: listen.clone() }, inviter.clone()];
    let home: PathBuf = home.to_owned();
    let stored = blocking(move || {
        let _lock = files::lock(&home)?;
        refuse_existing(&home)?;
        let register = Register { members, ..Register::default() };
        store(&home, host, name, cluster, listen, &certificate, &authority, &register)?;
        Identity::load(&home)
    });
    match stored.await {
        Ok(identity) => Ok(Joined { identity, inviter, grant }),
        Err(why) => Err(maybe_used(ticket, format!("what came of it could not be stored: {why}"))),
    }
}

fn maybe_used(ticket: &Ticket, why: impl ToString) -> IdentityError {
    IdentityError::MaybeUsed { address: ticket.address.clone(), why: why.to_string() }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IdentityError> + Send + 'static,
) -> Result<T, IdentityError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(why) => Err(IdentityError::Certificate(why.to_string())),
    }
}

/// The request to certify this home's key, which is made if an earlier attempt did not leave one.
fn prepare(home: &Path, key_path: &Path) -> Result<Vec<u8>, IdentityError> {
    files::private_dir(home)?;
    let _lock = files::lock(home)?;
    refuse_existing(home)?;
    let key = if key_path.exists() {
        rcgen::KeyPair::from_pem(&files::read_text(key_path)?).map_err(|why| IdentityError::damaged(key_path, why))?
    } else {
        let key = certs::new_key()?;
        files::write(key_path, key.serialize_pem().as_bytes())?;
        key
    };
    certs::request(&key)
}

/// Why there is no answer to what a ticket was sent with.
pub(crate) enum Unanswered {
    /// It was not sent.
    NotSent(String),
    /// It was.
    Lost(String),
}

/// Sends a request as the first packet to a host that has proved on the way to be the one that is meant.
pub(crate) async fn ask(
    reach: impl Future<Output = Result<Stream, String>>,
    request: &Request,
) -> Result<Reply, Unanswered> {
    let limit = Duration::from_millis(limits::HANDSHAKE_TIMEOUT_MS);
    let not_sent = Unanswered::NotSent;
    let mut stream = match timeout(limit, reach).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(why)) => return Err(not_sent(why)),
        Err(_) => return Err(not_sent("it does not answer".into())),
    };
    let body = request.to_body().map_err(|why| not_sent(why.to_string()))?;
    let act = Act { from: JOINER, to: SessionToken::DISPATCHER };
    let exchange = async {
        handshake::send(&mut stream, Packet { kind: PacketKind::Request, act, body }).await?;
        PacketSource::new(&mut stream, limit, usize::MAX).next().await
    };
    let lost = |why: &str| Unanswered::Lost(why.to_owned());
    let packet = match timeout(limit, exchange).await {
        Ok(Ok(Some(packet))) => packet,
        Ok(Ok(None)) => return Err(lost("it closed the connection without an answer")),
        Ok(Err(why)) => return Err(lost(&format!("the connection failed: {why}"))),
        Err(_) => return Err(lost("it did not answer in time")),
    };
    if packet.kind != PacketKind::Reply || packet.act.to != JOINER {
        return Err(lost("its answer makes no sense"));
    }
    Reply::from_body(&packet.body).map_err(|why| lost(&why.to_string()))
}

async fn reach(ticket: &Ticket) -> Result<Stream, String> {
    let config = tls::joining(ticket.authority, ticket.inviter).map_err(|why| why.to_string())?;
    // Any name will do: the verifier knows what to look for.
    let name = ServerName::try_from("join.intermezzo").map_err(|why| why.to_string())?;
    call(&ticket.address, config, name).await.map_err(|why| why.to_string())
}

/// A connection to `address` whose other end has proved to be `name`.
pub(crate) async fn call(address: &str, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Stream> {
    let tcp = TcpStream::connect(address).await?;
    let tcp = handshake::prepare(tcp, Duration::from_millis(limits::PEER_SILENCE_MS))?;
    Ok(TlsConnector::from(config).connect(name, tcp).await?.into())
}

/// The inviter's side: a caller without a certificate may ask to join, and nothing else.
pub(crate) async fn serve(core: &Arc<Core>, stream: Stream, address: SocketAddr) -> Result<(), Refused> {
    let mut source = PacketSource::new(stream, core.config.handshake_timeout, limits::JOIN_PACKET_BYTES);
    let uncertified = |why: &str| Refused::new(RefusalKind::NoCertificate, why);
    let packet =
        source.next().await?.ok_or_else(|| uncertified("it has no certificate, and closed without asking to join"))?;
    let request = Request::from_body(&packet.body);
    let Ok(Request::Join { name, listen, secret, csr }) = request else {
        return Err(uncertified("it has no certificate, and sent something else than a request to join"));
    };
    if packet.kind != PacketKind::Request || packet.act.to != SessionToken::DISPATCHER {
        return Err(uncertified("it has no certificate, and its packet is not a request"));
    }
    let identity = core.identity.clone();
    let redeemed = spawn_blocking(move || identity.redeem(name, listen, &secret, &csr)).await;
    let (reply, result) = verdict(redeemed);
    let sent = reply_and_close(&mut source, packet.act.from, &reply).await;
    // Admitted is admitted, also if the answer was lost.
    if let (Ok(member), Reply::Joined { grant, .. }) = (&result, &reply) {
        tracing::info!(host = %member.host, name = %member.name, %address, "admitted to the cluster");
        let event = NetEvent::Joined { member: member.clone(), grant: grant.clone() };
        let _ = core.events.send(event).await;
    }
    sent?;
    result.map(drop)
}

/// Sends the one reply that a caller without a session gets.
pub(crate) async fn reply_and_close(
    source: &mut PacketSource<Stream>,
    to: SessionToken,
    reply: &Reply,
) -> Result<(), Refused> {
    let body = reply.to_body().map_err(|why| Refused::new(RefusalKind::Protocol, why))?;
    let act = Act { from: SessionToken(1), to };
    let sent = handshake::send(source.stream_mut(), Packet { kind: PacketKind::Reply, act, body }).await;
    let _ = source.stream_mut().shutdown().await;
    Ok(sent?)
}

/// What came of a ticket: who used it and what it is told, or why it may not.
pub(crate) type Redemption = Result<(Member, Reply), Refusal>;

/// What the redeemer is told, and what is noted here.
pub(crate) fn verdict(
    redeemed: Result<Result<Redemption, IdentityError>, JoinError>,
) -> (Reply, Result<Member, Refused>) {
    match redeemed {
        Ok(Ok(Ok((member, reply)))) => (reply, Ok(member)),
        Ok(Ok(Err(refusal))) => {
            let why = refusal.to_string();
            (Reply::Refused(refusal), Err(Refused::new(RefusalKind::Ticket, why)))
        }
        // What failed here is this host's affair; the other one is told that it did.
        Ok(Err(why)) => failed(why),
        Err(why) => failed(why),
    }
}

fn failed(why: impl ToString) -> (Reply, Result<Member, Refused>) {
    let why = why.to_string();
    tracing::error!(why, "cannot admit a host");
    (Reply::Refused(Refusal::Failed(why.clone())), Err(Refused::new(RefusalKind::Ticket, why)))
}
