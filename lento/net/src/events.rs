//! What the network tells the daemon.

use crate::{Connection, ConnectionId, Member, Responder};
use protocol::{Grant, HostId, Message, Request};

/// Comes out of the channel given to [`crate::Network::start`]. For each host, `Up` and `Down` alternate, and messages
/// and requests of a connection come between its two. While the channel is full nothing is read from peers.
#[derive(Debug)]
pub enum NetEvent {
    /// A connection is ready: both ends verified, version agreed. Nothing was said of file sets yet: each side sends
    /// [`Message::State`] for each file set that it shares (the hello's list is empty, as it would be stale).
    Up {
        /// Whom to.
        host: HostId,
        /// To send on.
        connection: Connection,
    },
    /// The connection ended; its sessions failed.
    Down {
        /// Whom to.
        host: HostId,
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: DownReason,
    },
    /// A [`crate::Network::connect`] came to nothing, and no connection to the host is up.
    ConnectFailed {
        /// Whom to.
        host: HostId,
        /// Why, for people.
        reason: String,
    },
    /// A message, but for those that concern the connection itself.
    Message {
        /// From whom.
        host: HostId,
        /// What.
        message: Message,
    },
    /// A request, to be answered through `responder`.
    Request {
        /// From whom.
        host: HostId,
        /// What is asked.
        request: Request,
        /// To answer; dropped unanswered, it says that the request failed.
        responder: Responder,
    },
    /// A host was admitted to the cluster with a ticket; it is among [`crate::Identity::members`] already.
    Joined {
        /// The host.
        member: Member,
        /// The file set that its ticket was for.
        grant: Option<Grant>,
    },
    /// A host that was a member already redeemed a ticket. Comes before the host has the answer.
    Redeemed {
        /// The host.
        member: Member,
        /// The file set that the ticket was for.
        grant: Option<Grant>,
    },
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// The peer closed it.
    #[error("the other host closed the connection")]
    Closed,
    /// Nothing was heard of the peer for too long.
    #[error("the other host was silent for too long")]
    Silent,
    /// The network failed.
    #[error("the connection failed: {0}")]
    Failed(String),
    /// The peer broke the protocol; it is to blame.
    #[error("the other host broke the protocol: {0}")]
    Misbehaved(String),
    /// The peer takes nothing off the connection.
    #[error("the other host does not take what it is sent")]
    QueueFull,
    /// A newer connection to the same host took its place.
    #[error("a newer connection took its place")]
    Replaced,
    /// This host ended it.
    #[error("this host closed the connection")]
    Local,
}
