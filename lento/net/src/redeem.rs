//! A ticket redeemed by a host that is a member of the cluster already: for access to one more file set.

use crate::{
    Identity, IdentityError, Member, NetEvent, Ticket, certs,
    handshake::Stream,
    join::{Unanswered, ask, blocking, call, reply_and_close, verdict},
    network::Core,
    reader::PacketSource,
    refusals::Refused,
    tls,
};
use protocol::{Grant, HostId, Packet, Reply, Request};
use std::{net::SocketAddr, sync::Arc};
use tokio::task::spawn_blocking;

/// What a member has from a ticket.
#[derive(Debug)]
pub struct Redeemed {
    /// The host that invited it.
    pub inviter: Member,
    /// The file set that the ticket was for.
    pub grant: Option<Grant>,
}

/// Redeems `ticket` for the host of `identity`, which keeps its certificate. Its daemon may be running: connections that
/// it has stay. If the answer is lost on the way, the same call succeeds later.
///
/// # Errors
/// [`IdentityError::OtherCluster`] and [`IdentityError::OwnTicket`], for which nothing was sent;
/// [`IdentityError::Refused`] says why the inviter refused; [`IdentityError::NotSent`] that the ticket is unused;
/// [`IdentityError::MaybeRedeemed`] that it may not be.
pub async fn redeem(identity: &Identity, ticket: &Ticket) -> Result<Redeemed, IdentityError> {
    if certs::fingerprint(&identity.authority) != ticket.authority {
        let (home, name) = (identity.home().to_owned(), identity.name.to_string());
        return Err(IdentityError::OtherCluster { home, name });
    }
    if ticket.inviter == identity.host {
        return Err(IdentityError::OwnTicket);
    }
    ticket.check_time()?;
    let address = || ticket.address.clone();
    let maybe = |why: String| IdentityError::MaybeRedeemed { address: address(), why };
    let request = Request::Redeem { secret: ticket.secret.to_vec() };
    let reply = ask(reach(identity, ticket), &request).await.map_err(|why| match why {
        Unanswered::NotSent(why) => IdentityError::NotSent { address: address(), why },
        Unanswered::Lost(why) => maybe(why),
    })?;
    let (inviter, grant) = match reply {
        Reply::Redeemed { inviter, grant } if inviter.0 == ticket.inviter => (inviter, grant),
        Reply::Refused(refusal) => return Err(IdentityError::Refused(refusal)),
        _ => return Err(maybe("its answer makes no sense".into())),
    };
    let inviter = Member { host: inviter.0, name: inviter.1, address: inviter.2 };
    let (home, member) = (identity.home().to_owned(), inviter.clone());
    blocking(move || Identity::load(&home)?.put_member(member))
        .await
        .map_err(|why| maybe(format!("what came of it could not be stored: {why}")))?;
    Ok(Redeemed { inviter, grant })
}

async fn reach(identity: &Identity, ticket: &Ticket) -> Result<Stream, String> {
    let config = tls::client(identity).map_err(|why| why.to_string())?;
    let name = tls::server_name(ticket.inviter, identity.cluster).map_err(|why| why.to_string())?;
    call(&ticket.address, config, name).await.map_err(|why| why.to_string())
}

/// The inviter's side: `host`, whose certificate was verified, sent a ticket in the place of its hello.
pub(crate) async fn serve(
    core: &Arc<Core>,
    host: HostId,
    mut source: PacketSource<Stream>,
    packet: &Packet,
    secret: Vec<u8>,
    address: SocketAddr,
) -> Result<(), Refused> {
    let identity = core.identity.clone();
    let redeemed = spawn_blocking(move || identity.redeem_for_member(host, &secret)).await;
    let (reply, result) = verdict(redeemed);
    // Told before it is answered: what the host asks for next comes after it.
    if let (Ok(member), Reply::Redeemed { grant, .. }) = (&result, &reply) {
        tracing::info!(%host, name = %member.name, %address, "redeemed a ticket");
        let event = NetEvent::Redeemed { member: member.clone(), grant: grant.clone() };
        let _ = core.events.send(event).await;
    }
    reply_and_close(&mut source, packet.act.from, &reply).await?;
    result.map(drop)
}
