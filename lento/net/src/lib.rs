//! Identity, certificates, tickets and connections: how the hosts of a cluster find out that they may talk, and talk.
//!
//! [`Identity`] is what a host is (its key, its certificate, whom it knows), kept in its home directory; a [`Ticket`]
//! admits one more host to the cluster ([`join()`]). [`Network`] keeps mutually authenticated TLS 1.3 connections to
//! other hosts and carries messages, requests and bulk data over them (`docs/formats/wire.md`,
//! `docs/adr/0001-trust.md`). Whom to call and when to try again is decided elsewhere.

mod certs;
mod config;
mod connection;
mod error;
mod events;
mod files;
mod handshake;
mod identity;
mod join;
mod listener;
mod network;
mod outbound;
mod reader;
mod redeem;
mod refusals;
mod register;
mod registry;
mod responder;
mod session;
mod sessions;
mod ticket;
mod tls;
mod writer;

pub use config::NetConfig;
pub use connection::{Connection, ConnectionId};
pub use error::{IdentityError, NetError, TicketError};
pub use events::{DownReason, NetEvent};
pub use identity::Identity;
pub use join::{Joined, join};
pub use network::Network;
pub use redeem::{Redeemed, redeem};
pub use refusals::{RefusalKind, Refusals};
pub use register::{Member, TicketInfo};
pub use responder::Responder;
pub use session::{DataReceiver, Session};
pub use ticket::Ticket;
