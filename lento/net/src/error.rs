//! What can go wrong with an identity, a ticket or a connection.

use protocol::{HostId, ProtocolError, Refusal};
use std::path::{Path, PathBuf};

/// An identity could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is none yet.
    #[error("{} has no identity: run `lento init` on the first host of a cluster, `lento join TICKET` on others", .0.display())]
    Missing(PathBuf),
    /// There is one already, and it is not overwritten.
    #[error("{} has an identity already (host {host}, {name:?}): use another --home for another host", home.display())]
    Exists {
        /// The home directory.
        home: PathBuf,
        /// Whose identity.
        host: HostId,
        /// Its name.
        name: String,
    },
    /// A file could not be read or written.
    #[error("cannot {what} {}: {why}", path.display())]
    Io {
        /// What was attempted, a verb.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        why: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is damaged: {why}; restore it from a backup, or remove {} and join again", path.display(), path.parent().unwrap_or(path).display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The address to listen on is not `address:port`.
    #[error(
        "{0:?} is not an address to listen on: use ADDRESS:PORT, such as 10.0.0.1:7400, that other hosts can reach"
    )]
    Listen(String),
    /// Only the host with the authority's key can admit others.
    #[error("this host cannot invite: the cluster's authority is on its first host; run `lento invite` there")]
    NotAuthority,
    /// The ticket cannot be read.
    #[error("{0}")]
    Ticket(#[from] TicketError),
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// The inviter refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The inviter could not be reached, or is not who the ticket says; the ticket was not sent.
    #[error("cannot join through {address}: {why}; the ticket was not used")]
    NotSent {
        /// The inviter's address.
        address: String,
        /// Why.
        why: String,
    },
    /// The ticket was sent, and what came of it is not known, or could not be stored.
    #[error(
        "the ticket was sent to {address}, but {why}; it may have been used: run the same command again from the same --home (it is accepted again from this host, with the same name), or remove the home directory and make a new ticket"
    )]
    MaybeUsed {
        /// The inviter's address.
        address: String,
        /// What failed.
        why: String,
    },
    /// A member has sent the ticket, and what came of it is not known, or could not be stored.
    #[error(
        "the ticket was sent to {address}, but {why}; run the same command again (until it expires, the ticket is accepted again from this host), or make a new ticket"
    )]
    MaybeRedeemed {
        /// The inviter's address.
        address: String,
        /// What failed.
        why: String,
    },
    /// A member of one cluster has a ticket of another.
    #[error(
        "the ticket is of another cluster than {}, which is host {name:?}; it was not sent: to have a host in that cluster too, use another --home", home.display()
    )]
    OtherCluster {
        /// The home directory.
        home: PathBuf,
        /// The name of the host whose it is.
        name: String,
    },
    /// The host made the ticket itself.
    #[error("this host made the ticket itself: it is for another host")]
    OwnTicket,
}

impl IdentityError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |why| Self::Io { what, path: path.to_owned(), why }
    }
    pub(crate) fn damaged(path: &Path, why: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.to_string() }
    }
}

/// A ticket's text cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin as tickets do.
    #[error("this is not a ticket: a ticket begins with imz1-")]
    NotATicket,
    /// It begins as a later version's tickets do.
    #[error("this ticket was made by a newer version: upgrade this host")]
    Newer,
    /// Its checksum does not match.
    #[error("the ticket is incomplete or mistyped: copy the whole word")]
    Damaged,
    /// By this host's clock it is too late.
    #[error("the ticket expired {0} s ago by this host's clock: make a new one with `lento invite` (or set the clock)")]
    Expired(u64),
}

/// Something could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// There is no connection to that host now.
    #[error("host {0} is not connected")]
    NotConnected(HostId),
    /// The connection ended.
    #[error("the connection to host {0} ended")]
    Closed(HostId),
    /// The other side gave the session up.
    #[error("the asker gave the request up")]
    Cancelled,
    /// The peer takes nothing off the connection; it is closed.
    #[error("host {0} does not take what it is sent: its queue is full")]
    Full(HostId),
    /// Too many requests are open on the connection.
    #[error("too many open requests to host {0}")]
    TooManySessions(HostId),
    /// What was to be sent is not legal.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The network could not be started.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        why: String,
    },
    /// The identity is not usable for TLS.
    #[error("the certificates of this host are not usable: {0}")]
    Tls(String),
}
