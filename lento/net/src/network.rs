//! The network of one host: it listens, calls, and knows who is connected.

use crate::{
    Connection, Identity, NetConfig, NetError, NetEvent, Refusals, Session,
    handshake::{self, NoConnection},
    listener,
    refusals::{Counter, RefusalKind, Refused},
    registry::Registry,
    tls,
};
use protocol::{HostId, Message, Request};
use rustls::{ClientConfig, ServerConfig};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a shutdown waits for connections to say goodbye.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// What the network's tasks share.
pub(crate) struct Core {
    pub(crate) identity: Arc<Identity>,
    pub(crate) config: NetConfig,
    pub(crate) events: mpsc::Sender<NetEvent>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) refusals: Counter,
    pub(crate) server_tls: Arc<ServerConfig>,
    pub(crate) client_tls: Arc<ClientConfig>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// This host's network: connections to other hosts of its cluster. Made by [`Network::start`] within a tokio runtime;
/// what happens comes out of the channel given there. When it is dropped, it shuts down without waiting.
pub struct Network {
    core: Arc<Core>,
    local: SocketAddr,
}

impl Network {
    /// Listens on the identity's address, with the default bounds.
    ///
    /// # Errors
    /// [`NetError::Listen`] if the address cannot be listened on; [`NetError::Tls`] if a certificate is unusable.
    pub async fn start(identity: Arc<Identity>, events: mpsc::Sender<NetEvent>) -> Result<Self, NetError> {
        Self::start_with(identity, NetConfig::default(), events).await
    }

    /// The same with other bounds.
    pub async fn start_with(
        identity: Arc<Identity>,
        config: NetConfig,
        events: mpsc::Sender<NetEvent>,
    ) -> Result<Self, NetError> {
        let failed = |why: std::io::Error| NetError::Listen { address: identity.listen.clone(), why: why.to_string() };
        let listener = TcpListener::bind(&identity.listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let core = Arc::new(Core {
            registry: Registry::new(identity.host, config.handshake_timeout, config.connections_per_host),
            server_tls: tls::server(&identity)?,
            client_tls: tls::client(&identity)?,
            identity,
            config,
            events,
            refusals: Counter::default(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        core.tasks.spawn(listener::run(core.clone(), listener));
        Ok(Self { core, local })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Tries once to connect to a host. Ends with [`NetEvent::Up`] or [`NetEvent::ConnectFailed`]; does nothing if the
    /// host is connected, or being called, already.
    pub fn connect(&self, host: HostId, address: &str) {
        let core = self.core.clone();
        let address = address.to_owned();
        self.core.tasks.spawn(async move { dial(&core, host, &address).await });
    }

    /// Queues a message: see [`Connection::send`].
    ///
    /// # Errors
    /// Also [`NetError::NotConnected`].
    pub fn send(&self, host: HostId, message: &Message) -> Result<(), NetError> {
        self.connection(host).ok_or(NetError::NotConnected(host))?.send(message)
    }

    /// Sends a request: see [`Connection::request`].
    ///
    /// # Errors
    /// Also [`NetError::NotConnected`].
    pub fn request(&self, host: HostId, request: &Request) -> Result<Session, NetError> {
        self.connection(host).ok_or(NetError::NotConnected(host))?.request(request)
    }

    /// The connection to a host, if there is one. Its [`NetEvent::Up`] may still be on its way.
    pub fn connection(&self, host: HostId) -> Option<Connection> {
        self.core.registry.active(host)
    }

    /// Peers refused so far.
    pub fn refusals(&self) -> Refusals {
        self.core.refusals.get()
    }

    /// Closes all connections, each after its control queue was written, and waits up to two seconds for that.
    pub async fn shutdown(self) {
        self.stop();
        let _ = timeout(SHUTDOWN, self.core.tasks.wait()).await;
    }

    fn stop(&self) {
        self.core.shutdown.cancel();
        self.core.registry.all().iter().for_each(Connection::close);
        self.core.tasks.close();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn dial(core: &Arc<Core>, host: HostId, address: &str) {
    let called = tokio::select! {
        () = core.shutdown.cancelled() => return,
        called = timeout(core.config.handshake_timeout, handshake::call(core, host, address)) => called,
    };
    let refused = match called {
        Ok(Ok(mut established)) => {
            let peer = established.peer_address();
            return established.serve(core, peer).await;
        }
        Ok(Err(NoConnection::Duplicate)) => return,
        Ok(Err(NoConnection::Refused(refused))) => refused,
        Err(_) => Refused::new(RefusalKind::Silent, "it did not answer in time"),
    };
    // The peer's own call may have been taken meanwhile: then ours was refused as the second, and nothing failed.
    if core.registry.active(host).is_none() {
        let reason = format!("cannot connect to host {host} at {address}: {}", refused.why);
        tracing::debug!(%host, address, reason = refused.why, "call failed");
        let _ = core.events.send(NetEvent::ConnectFailed { host, reason }).await;
    }
}
