//! Hosts for tests, on loopback addresses of their own.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod raw;

use lento_net::{Connection, DownReason, Identity, NetConfig, NetEvent, Network, RefusalKind, Ticket, join};
use protocol::{HostId, Reply, Request};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

/// Nothing on loopback takes this long: what does has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come"),
    }
}

pub fn host(id: u32) -> HostId {
    HostId::new(id).expect("tests use positive ids")
}

/// A free address that no other test uses.
pub fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    let ip = format!("127.{}.{}.{}", 1 + pid % 250, 1 + pid / 250 % 250, n % 250 + 1);
    let probe = std::net::TcpListener::bind((ip.as_str(), 0)).expect("loopback addresses can be listened on");
    format!("{ip}:{}", probe.local_addr().expect("it is bound").port())
}

/// Short times, for tests of what happens when they are over.
pub fn impatient() -> NetConfig {
    NetConfig {
        handshake_timeout: Duration::from_millis(1000),
        heartbeat: Duration::from_millis(200),
        peer_silence: Duration::from_millis(2000),
        ..NetConfig::default()
    }
}

/// One host: its home, its network and what that told.
pub struct Host {
    pub home: TempDir,
    pub identity: Arc<Identity>,
    pub network: Network,
    pub events: mpsc::Receiver<NetEvent>,
}

impl Host {
    pub async fn start(home: TempDir, config: NetConfig) -> Self {
        let identity = Arc::new(Identity::load(home.path()).expect("there is an identity"));
        let (send, events) = mpsc::channel(64);
        let network = Network::start_with(identity.clone(), config, send).await.expect("it listens");
        Self { home, identity, network, events }
    }

    /// The first host of a new cluster.
    pub async fn first(config: NetConfig) -> Self {
        let home = TempDir::new().expect("a directory");
        Identity::init(home.path(), "a".parse().expect("a name"), free_address()).expect("a new identity");
        Self::start(home, config).await
    }

    pub fn ticket(&self) -> Ticket {
        self.identity.invite(None, Duration::from_secs(60)).expect("the first host invites")
    }

    /// Another host, invited by this one.
    pub async fn admit(&mut self, name: &str, config: NetConfig) -> Self {
        let home = TempDir::new().expect("a directory");
        let name = name.parse().expect("a name");
        soon("the answer", join(home.path(), &self.ticket(), name, free_address())).await.expect("a good ticket");
        match self.event().await {
            NetEvent::Joined { .. } => {}
            other => panic!("not joined, but {other:?}"),
        }
        Self::start(home, config).await
    }

    pub fn id(&self) -> HostId {
        self.identity.host
    }

    pub async fn event(&mut self) -> NetEvent {
        soon("an event", self.events.recv()).await.expect("the network runs")
    }

    pub async fn up(&mut self) -> Connection {
        match self.event().await {
            NetEvent::Up { connection, .. } => connection,
            other => panic!("not up, but {other:?}"),
        }
    }

    pub async fn down(&mut self) -> DownReason {
        loop {
            match self.event().await {
                NetEvent::Down { reason, .. } => return reason,
                NetEvent::Message { .. } | NetEvent::Request { .. } => {}
                other => panic!("not down, but {other:?}"),
            }
        }
    }

    pub async fn connect_failed(&mut self) -> String {
        match self.event().await {
            NetEvent::ConnectFailed { reason, .. } => reason,
            other => panic!("no failure, but {other:?}"),
        }
    }

    /// Waits until a peer was refused for this reason, `times` times since the network was started.
    pub async fn refused(&self, kind: RefusalKind, times: u64) {
        let counted = async {
            while self.network.refusals().by_kind.get(&kind).copied().unwrap_or(0) < times {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(PATIENCE, counted).await.is_err() {
            panic!("nobody was refused for {kind:?}: {:?}", self.network.refusals());
        }
    }
}

/// Two hosts of one cluster, not connected.
pub async fn two(config: NetConfig) -> (Host, Host) {
    let mut a = Host::first(config.clone()).await;
    let b = a.admit("b", config).await;
    (a, b)
}

/// Two hosts, `b` having called `a`.
pub async fn connected(config: NetConfig) -> (Host, Host, Connection, Connection) {
    let (mut a, mut b) = two(config).await;
    b.network.connect(a.id(), &a.identity.listen);
    let (to_b, to_a) = (a.up().await, b.up().await);
    (a, b, to_b, to_a)
}

/// A request and its answer: proof that the connection works both ways.
pub async fn ping(from: &Connection, to: &mut Host) {
    let mut session = from.request(&Request::FileSets).expect("the connection is up");
    match to.event().await {
        NetEvent::Request { request: Request::FileSets, responder, .. } => {
            responder.reply(&Reply::FileSets(Vec::new())).expect("the connection is up");
        }
        other => panic!("no request, but {other:?}"),
    }
    assert_eq!(soon("a reply", session.reply()).await, Ok(Reply::FileSets(Vec::new())));
}

pub fn mode(path: PathBuf) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display())).permissions().mode() & 0o7777
}

pub fn files(home: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(home).expect("the home is there").map(|entry| entry.expect("an entry").path()).collect()
}
