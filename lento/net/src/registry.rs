//! Which hosts are connected, and which connection stays when two hosts call each other at once.

use crate::{Connection, ConnectionId};
use protocol::HostId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Which side called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialled {
    ByUs,
    ByThem,
}

#[derive(Debug, Default)]
struct Peer {
    /// A call of ours is under way; set when it is over.
    dialling: Option<CancellationToken>,
    /// Our hello was sent on it: the peer may have taken it already.
    hello_sent: bool,
    active: Option<(Connection, Dialled, Instant)>,
    /// Set when the daemon was told that the last connection went down.
    previous: Option<CancellationToken>,
    connections: usize,
}

/// What becomes of a connection whose hello came.
pub(crate) enum Verdict {
    /// It is the one; `after` is awaited before the daemon is told.
    Stays { after: Option<CancellationToken> },
    /// Another one is.
    Duplicate,
    /// That is seen when our own call is over.
    Later(CancellationToken),
}

/// All peers of this host.
#[derive(Debug)]
pub(crate) struct Registry {
    own: HostId,
    /// For so long after a connection came up may the peer have called without knowing of it.
    overlap: Duration,
    limit: usize,
    peers: Mutex<HashMap<HostId, Peer>>,
}

impl Registry {
    pub(crate) fn new(own: HostId, overlap: Duration, limit: usize) -> Arc<Self> {
        Arc::new(Self { own, overlap, limit, peers: Mutex::default() })
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<HostId, Peer>> {
        self.peers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Begins a call, unless one is under way or there is a connection.
    pub(crate) fn dial(self: &Arc<Self>, host: HostId) -> Option<Dial> {
        let mut peers = self.peers();
        let peer = peers.entry(host).or_default();
        if peer.dialling.is_some() || peer.active.is_some() {
            return None;
        }
        let over = CancellationToken::new();
        peer.dialling = Some(over.clone());
        Some(Dial { registry: self.clone(), host, over })
    }

    /// Counts one more connection of a host, `None` if it has too many.
    pub(crate) fn count(self: &Arc<Self>, host: HostId) -> Option<Counted> {
        let mut peers = self.peers();
        let peer = peers.entry(host).or_default();
        if peer.connections >= self.limit {
            return None;
        }
        peer.connections += 1;
        Some(Counted { registry: self.clone(), host })
    }

    /// A verified hello came on `connection`. Whoever called sends its hello first, so the called side decides, and
    /// its hello tells the caller that its connection stays.
    ///
    /// If both call at once, the connection dialled by the host with the lower id stays: once its own hello is out,
    /// that host lets the other's call wait for what comes of its own. A call that comes though a connection is up means that the peer lost
    /// that one, unless it is so young that the two may have crossed.
    pub(crate) fn establish(&self, connection: &Connection, dialled: Dialled) -> Verdict {
        let host = connection.host();
        let mut peers = self.peers();
        let peer = peers.entry(host).or_default();
        if dialled == Dialled::ByThem && self.own < host {
            let ours_is_young = peer
                .active
                .as_ref()
                .is_some_and(|(_, dialled, since)| *dialled == Dialled::ByUs && since.elapsed() < self.overlap);
            if ours_is_young {
                return Verdict::Duplicate;
            }
            if let (true, Some(over)) = (peer.hello_sent, &peer.dialling) {
                return Verdict::Later(over.clone());
            }
        }
        if let Some((old, ..)) = &peer.active {
            old.0.close(crate::DownReason::Replaced);
        }
        let after = peer.previous.replace(connection.0.finished.clone());
        peer.active = Some((connection.clone(), dialled, Instant::now()));
        Verdict::Stays { after }
    }

    /// The connection is over: the host may be called again.
    pub(crate) fn remove(&self, host: HostId, id: ConnectionId) {
        if let Some(peer) = self.peers().get_mut(&host)
            && peer.active.as_ref().is_some_and(|(connection, ..)| connection.id() == id)
        {
            peer.active = None;
        }
    }

    pub(crate) fn active(&self, host: HostId) -> Option<Connection> {
        self.peers().get(&host).and_then(|peer| peer.active.as_ref()).map(|(connection, ..)| connection.clone())
    }

    pub(crate) fn all(&self) -> Vec<Connection> {
        self.peers().values().filter_map(|peer| peer.active.as_ref()).map(|(c, ..)| c.clone()).collect()
    }
}

/// A call under way; over when dropped.
pub(crate) struct Dial {
    registry: Arc<Registry>,
    host: HostId,
    over: CancellationToken,
}

impl Dial {
    /// Whether to go on: not if the peer's call was taken meanwhile. If so, a hello is about to be sent.
    pub(crate) fn hello(&self) -> bool {
        let mut peers = self.registry.peers();
        let peer = peers.entry(self.host).or_default();
        peer.hello_sent = peer.active.is_none();
        peer.hello_sent
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        let mut peers = self.registry.peers();
        let peer = peers.entry(self.host).or_default();
        peer.dialling = None;
        peer.hello_sent = false;
        drop(peers);
        self.over.cancel();
    }
}

/// One connection of a host, as counted.
pub(crate) struct Counted {
    registry: Arc<Registry>,
    host: HostId,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(peer) = self.registry.peers().get_mut(&self.host) {
            peer.connections -= 1;
        }
    }
}
