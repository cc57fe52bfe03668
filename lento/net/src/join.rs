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
use protocol::{Act, FileSetName, HostName, Packet, PacketKind, Refusal, Reply, Request, SessionToken, limits};
use rustls::pki_types::CertificateDer;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::spawn_blocking, time::timeout};
use tokio_rustls::TlsConnector;

/// What a host has after it joined.
#[derive(Debug)]
pub struct Joined {
    /// Its new identity, stored in its home.
    pub identity: Identity,
    /// The host that invited it.
    pub inviter: Member,
    /// The file set that the ticket was for.
    pub fileset: Option<FileSetName>,
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
    let reply = ask(ticket, &request).await?;
    let Reply::Joined { host, certificate, authority, inviter, fileset } = reply else {
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
        Ok(identity) => Ok(Joined { identity, inviter, fileset }),
        Err(why) => Err(maybe_used(ticket, format!("what came of it could not be stored: {why}"))),
    }
}

fn maybe_used(ticket: &Ticket, why: impl ToString) -> IdentityError {
    IdentityError::MaybeUsed { address: ticket.address.clone(), why: why.to_string() }
}

async fn blocking<T: Send + 'static>(
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

/// Sends the request to the host that the ticket names, once it has proved to be that host.
async fn ask(ticket: &Ticket, request: &Request) -> Result<Reply, IdentityError> {
    let limit = Duration::from_millis(limits::HANDSHAKE_TIMEOUT_MS);
    let not_sent = |why: String| IdentityError::NotSent { address: ticket.address.clone(), why };
    let mut stream = match timeout(limit, reach(ticket)).await {
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
    let packet = match timeout(limit, exchange).await {
        Ok(Ok(Some(packet))) => packet,
        Ok(Ok(None)) => return Err(maybe_used(ticket, "it closed the connection without an answer")),
        Ok(Err(why)) => return Err(maybe_used(ticket, format!("the connection failed: {why}"))),
        Err(_) => return Err(maybe_used(ticket, "it did not answer in time")),
    };
    if packet.kind != PacketKind::Reply || packet.act.to != JOINER {
        return Err(maybe_used(ticket, "its answer makes no sense"));
    }
    Reply::from_body(&packet.body).map_err(|why| maybe_used(ticket, why))
}

async fn reach(ticket: &Ticket) -> Result<Stream, String> {
    let config = tls::joining(ticket.authority, ticket.inviter).map_err(|why| why.to_string())?;
    let tcp = TcpStream::connect(&ticket.address).await.map_err(|why| why.to_string())?;
    let tcp = handshake::prepare(tcp, Duration::from_millis(limits::PEER_SILENCE_MS)).map_err(|why| why.to_string())?;
    // Any name will do: the verifier knows what to look for.
    let name = rustls::pki_types::ServerName::try_from("join.intermezzo").map_err(|why| why.to_string())?;
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|why| why.to_string())?;
    Ok(stream.into())
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
    let (reply, result) = match redeemed {
        Ok(Ok(Ok((member, reply)))) => (reply, Ok(member)),
        Ok(Ok(Err(refusal))) => {
            let why = refusal.to_string();
            (Reply::Refused(refusal), Err(Refused::new(RefusalKind::Ticket, why)))
        }
        // What failed here is this host's affair; the joiner is told that it did.
        Ok(Err(why)) => failed(why),
        Err(why) => failed(why),
    };
    let body = reply.to_body().map_err(|why| Refused::new(RefusalKind::Protocol, why))?;
    let act = Act { from: SessionToken(1), to: packet.act.from };
    let sent = handshake::send(source.stream_mut(), Packet { kind: PacketKind::Reply, act, body }).await;
    let _ = source.stream_mut().shutdown().await;
    // Admitted is admitted, also if the answer was lost.
    if let (Ok(member), Reply::Joined { fileset, .. }) = (&result, &reply) {
        tracing::info!(host = %member.host, name = %member.name, %address, "admitted to the cluster");
        let event = NetEvent::Joined { member: member.clone(), fileset: fileset.clone() };
        let _ = core.events.send(event).await;
    }
    sent?;
    result.map(drop)
}

fn failed(why: impl ToString) -> (Reply, Result<Member, Refused>) {
    let why = why.to_string();
    tracing::error!(why, "cannot admit a host");
    (Reply::Refused(Refusal::Failed(why.clone())), Err(Refused::new(RefusalKind::Ticket, why)))
}
