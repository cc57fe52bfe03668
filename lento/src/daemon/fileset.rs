//! One file set of this host while the daemon runs: its store, its Presto, its mount, and what is known of them.

use super::demand::Demands;
use super::files::FileSetConfig;
use lento_cli::control::{MountState, Progress};
use lento_core::PrestoEvent;
use lento_store::{Staged, Store};
use protocol::{Downcall, HostId};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

/// The state of one file set.
pub(super) struct FileSet {
    pub(super) config: FileSetConfig,
    /// Open from the beginning of its work; absent while its directory cannot be opened yet.
    pub(super) store: Option<Arc<Store>>,
    /// The bottom of that store, for whoever starts Presto.
    pub(super) bottom: Arc<OnceLock<OwnedFd>>,
    pub(super) presto: Option<Presto>,
    /// What Presto said before the store was open, for the core when it is.
    pub(super) early: Vec<PrestoEvent>,
    pub(super) mount: MountView,
    /// Contents that were fetched and not yet committed, by the peer that they came from.
    pub(super) staged: Arc<Mutex<BTreeMap<HostId, Staged>>>,
    pub(super) progress: Option<Progress>,
    /// The last figures of the last comparison.
    pub(super) last_progress: Option<Progress>,
    pub(super) last_error: Option<(Instant, String)>,
    /// The length of the log will be looked at soon.
    pub(super) measuring_log: bool,
    /// Whoever waits for Presto to have its log durable.
    pub(super) flushing: VecDeque<oneshot::Sender<Option<u64>>>,
    /// On a client: how far its own log is reintegrated.
    pub(super) reintegrated: u64,
    /// On a client: whether contents are being let go.
    pub(super) evicting: bool,
    /// On a client: who waits for what Presto says of an eviction, in the order in which they were asked for.
    pub(super) evictions: VecDeque<Option<oneshot::Sender<()>>>,
    /// On a client: what programs wait for.
    pub(super) demands: Demands,
    /// Commits that wait until the kernel has forgotten what they changed.
    pub(super) forgetting: Arc<Forgetting>,
}

/// Who waits for which [`protocol::Upcall::Invalidated`].
#[derive(Debug, Default)]
pub(super) struct Forgetting(Mutex<(u64, BTreeMap<u64, std::sync::mpsc::Sender<()>>)>);

impl Forgetting {
    fn table(&self) -> std::sync::MutexGuard<'_, (u64, BTreeMap<u64, std::sync::mpsc::Sender<()>>)> {
        // Each statement leaves it whole.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A token for an invalidation, not 0, and its end.
    pub(super) fn begin(&self) -> (u64, std::sync::mpsc::Receiver<()>) {
        let (done, ended) = std::sync::mpsc::channel();
        let mut table = self.table();
        table.0 += 1;
        let token = table.0;
        table.1.insert(token, done);
        (token, ended)
    }

    /// The kernel has forgotten.
    pub(super) fn end(&self, token: u64) {
        if let Some(done) = self.table().1.remove(&token) {
            let _ = done.send(());
        }
    }

    /// Presto is gone, and with it all that the kernel remembered.
    fn end_all(&self) {
        self.table().1.clear();
    }
}

/// A Presto that is connected.
pub(super) struct Presto {
    pub(super) connection: u64,
    pub(super) downcalls: mpsc::Sender<Downcall>,
}

/// The mount as the user sees it.
pub(super) struct MountView {
    pub(super) state: MountState,
    pub(super) pid: Option<u32>,
    pub(super) restarts: u64,
    /// Says stop to the supervisor; absent while nothing is mounted.
    pub(super) keeper: Option<watch::Sender<bool>>,
    /// Whoever waits for the mount to be up.
    pub(super) waiting: Vec<oneshot::Sender<Result<(), String>>>,
    /// Whoever waits for it to be gone.
    pub(super) ending: Vec<oneshot::Sender<Result<(), String>>>,
}

impl FileSet {
    pub(super) fn new(config: FileSetConfig) -> Self {
        Self {
            config,
            store: None,
            bottom: Arc::default(),
            presto: None,
            early: Vec::new(),
            mount: MountView {
                state: MountState::Unmounted,
                pid: None,
                restarts: 0,
                keeper: None,
                waiting: Vec::new(),
                ending: Vec::new(),
            },
            staged: Arc::default(),
            progress: None,
            last_progress: None,
            last_error: None,
            measuring_log: false,
            flushing: VecDeque::new(),
            reintegrated: 0,
            evicting: false,
            evictions: VecDeque::new(),
            demands: Demands::default(),
            forgetting: Arc::default(),
        }
    }

    /// Presto is gone: it answers nobody any more.
    pub(super) fn lose_presto(&mut self) {
        self.presto = None;
        self.evicting = false;
        self.evictions.clear();
        self.demands.begin_anew();
        self.forgetting.end_all();
        for reply in self.flushing.drain(..) {
            let _ = reply.send(None);
        }
    }

    pub(super) fn fail(&mut self, why: impl Into<String>) {
        let why = why.into();
        tracing::warn!(fileset = %self.config.name, why, "something went wrong");
        self.last_error = Some((Instant::now(), why));
    }
}
