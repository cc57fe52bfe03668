//! What the core wants done, done: each action starts something, whose end comes back as an event.

use super::fileset::Forgetting;
use super::input::{Call, Input};
use super::mind::Mind;
use super::{compare, stage};
use lento_core::{Action, CommitResult, Event, HistoryResult};
use lento_store::{CommitError, Committed, History, Store};
use protocol::{Downcall, FileSetId, HostId, Position, Reply, Request, Shipment, limits};
use std::sync::Arc;
use std::time::Duration;

/// Entries and objects in one invalidation, so that it fits a message.
const INVALIDATIONS: usize = 512;
/// How long a Presto that answers may take to have the kernel forget.
const FORGET: Duration = Duration::from_secs(5);
/// Time between two readings of a log that is being written; a change after a pause is told of at once.
const DOORBELL_PAUSE: Duration = Duration::from_millis(3);
/// Pause after something on the disk failed, before the core tries again.
const DISK_PAUSE: Duration = Duration::from_secs(1);

impl Mind {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Connect(host) => self.dial(host),
            Action::Disconnect { host, reason } => {
                tracing::warn!(%host, reason, "peer misbehaved");
                if let Some(connection) = self.network.connection(host) {
                    connection.close();
                }
            }
            Action::Send { to, message } => {
                if let Err(why) = self.network.send(to, &message) {
                    tracing::debug!(%to, %why, "message not sent");
                }
            }
            Action::RequestPermit { to, fileset, ask } => self.request_permit(to, fileset, ask),
            Action::GrantPermit { to, fileset, epoch, after } => {
                if let Some(responder) = self.permit_requests.remove(&(fileset, to)) {
                    let _ = responder.reply(&Reply::Permit { epoch, after });
                }
            }
            Action::Downcall { fileset, downcall: arm @ Downcall::Arm { .. } } => self.arm_soon(fileset, arm),
            Action::Downcall { fileset, downcall } => self.downcall(fileset, downcall),
            Action::Save { fileset, saved } => self.save(fileset, &saved),
            Action::Absorb(fileset) => self.absorb(fileset),
            Action::ReadHistory { fileset, to, after, read } => self.disk(fileset, move |store| {
                let result = match store.history(after, Some(to), limits::SHIPMENT_RECORDS) {
                    Ok(History::Shipment(shipment)) => HistoryResult::Shipment(shipment),
                    Ok(History::UpToDate(upto)) => HistoryResult::UpToDate(upto),
                    Ok(History::TooOld) => HistoryResult::TooOld,
                    Err(why) => {
                        tracing::error!(%fileset, %why, "the history cannot be read");
                        std::thread::sleep(DISK_PAUSE);
                        HistoryResult::Failed(why.to_string())
                    }
                };
                Event::History { fileset, to, read, result }
            }),
            Action::Stage { fileset, from, wanted } => stage::start(self, fileset, from, wanted),
            Action::Commit { fileset, from, shipments } => self.commit(fileset, from, shipments),
            Action::Sync(fileset) => self.disk(fileset, move |store| Event::Synced {
                fileset,
                result: store.sync().map(|_| ()).map_err(|why| why.to_string()),
            }),
            Action::Compare { fileset, from } => compare::start(self, fileset, from, None),
            Action::FetchMissing { fileset, from, objects } => compare::start(self, fileset, from, Some(objects)),
            Action::Trim { fileset, upto } => self.trim(fileset, upto),
        }
    }

    fn absorb(&mut self, fileset: FileSetId) {
        self.measure_log_soon(fileset);
        self.disk(fileset, move |store| {
            let tail = store.absorb();
            if let Err(why) = &tail {
                tracing::error!(%fileset, %why, "the log cannot be read");
                std::thread::sleep(DISK_PAUSE);
            }
            Event::Absorbed { fileset, tail: tail.unwrap_or_default() }
        });
    }

    /// Has Presto ring when the log grows again, a moment later: while much is written it is not read record by record.
    fn arm_soon(&mut self, fileset: FileSetId, arm: Downcall) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            tokio::time::sleep(DOORBELL_PAUSE).await;
            let arm = Call::Do(Box::new(move |mind: &mut Self| mind.downcall(fileset, arm)));
            let _ = inputs.send(Input::Call(arm)).await;
        });
    }

    /// After a log has grown, its length is looked at, once for all that is written meanwhile.
    fn measure_log_soon(&mut self, fileset: FileSetId) {
        let Some(set) = self.filesets.get_mut(&fileset).filter(|set| !set.measuring_log) else { return };
        set.measuring_log = true;
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            tokio::time::sleep(DISK_PAUSE).await;
            let measure = Call::Do(Box::new(move |mind: &mut Self| mind.measure_log(fileset)));
            let _ = inputs.send(Input::Call(measure)).await;
        });
    }

    /// At the holder, has Presto trim a log that is over its bound. A replicator's log stays, however long, until the
    /// holder has it: nothing else tells of what was written there.
    fn measure_log(&mut self, fileset: FileSetId) {
        let holder = self.engine.status(fileset).is_some_and(|status| status.holder == self.identity.host);
        let Some(set) = self.filesets.get_mut(&fileset) else { return };
        set.measuring_log = false;
        let (Some(presto), Some(store), true) = (&set.presto, &set.store, holder) else { return };
        let (downcalls, store) = (presto.downcalls.clone(), store.clone());
        tokio::task::spawn_blocking(move || match store.log_excess(limits::LOG_TOTAL_BYTES) {
            Ok(Some(upto)) => {
                tracing::info!(%fileset, upto, "the log is over its bound: replicas that lack more are compared");
                let _ = downcalls.blocking_send(Downcall::Trim { upto });
            }
            Ok(None) => {}
            Err(why) => tracing::warn!(%fileset, %why, "the log's length is not known"),
        });
    }

    /// Runs something on a file set's store, in a thread that may block; its event comes back.
    fn disk(&mut self, fileset: FileSetId, work: impl FnOnce(&Store) -> Event + Send + 'static) {
        let Some(store) = self.store(fileset) else { return };
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let event = work(&store);
            let _ = inputs.blocking_send(Input::Event(event));
        });
    }

    pub(super) fn store(&self, fileset: FileSetId) -> Option<Arc<Store>> {
        self.filesets.get(&fileset).and_then(|set| set.store.clone())
    }

    fn dial(&mut self, host: HostId) {
        match self.identity.member(host) {
            Ok(Some(member)) => self.network.connect(host, &member.address),
            Ok(None) => self.tell(Event::ConnectFailed(host)),
            Err(why) => {
                tracing::error!(%host, %why, "the list of hosts cannot be read");
                self.tell(Event::ConnectFailed(host));
            }
        }
    }

    fn request_permit(&mut self, to: HostId, fileset: FileSetId, ask: u64) {
        let session = match self.network.request(to, &Request::GetPermit { fileset }) {
            Ok(session) => session,
            // The connection is gone, which the core is being told.
            Err(why) => return tracing::debug!(%to, %why, "permit not asked for"),
        };
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let mut session = session;
            let event = match session.reply().await {
                Ok(Reply::Permit { epoch, after }) => Event::PermitGranted { from: to, fileset, ask, epoch, after },
                Ok(Reply::Refused(_)) => {
                    // Asked again, but not at once.
                    tokio::time::sleep(DISK_PAUSE).await;
                    Event::PermitRefused { from: to, fileset, ask }
                }
                Ok(other) => return tracing::warn!(%to, ?other, "a strange answer to a request for the permit"),
                Err(_) => return,
            };
            let _ = inputs.send(Input::Event(event)).await;
        });
    }

    /// The one action that is done before the next one begins: what it keeps must be durable when they are seen.
    fn save(&mut self, fileset: FileSetId, saved: &lento_core::Saved) {
        let Some(set) = self.filesets.get_mut(&fileset) else { return };
        let Some(store) = &set.store else { return };
        let result = saved
            .to_bytes()
            .map_err(|why| why.to_string())
            .and_then(|state| tokio::task::block_in_place(|| store.save_state(&state)).map_err(|why| why.to_string()));
        if let Err(why) = result {
            set.fail(format!("the state of the permit cannot be kept: {why}"));
        }
    }

    fn trim(&mut self, fileset: FileSetId, upto: Position) {
        let Some(store) = self.store(fileset) else { return };
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || match store.trim(upto) {
            Ok(Some(own)) => {
                let trimmed = Call::Do(Box::new(move |mind: &mut Mind| mind.trimmed(fileset, own)));
                let _ = inputs.blocking_send(Input::Call(trimmed));
            }
            Ok(None) => {}
            Err(why) => tracing::warn!(%fileset, %why, "received records cannot be trimmed"),
        });
    }

    /// All peers have this host's own log durably up to `own`.
    fn trimmed(&mut self, fileset: FileSetId, own: u64) {
        let Some(set) = self.filesets.get_mut(&fileset) else { return };
        if set.config.client.is_some() {
            set.reintegrated = set.reintegrated.max(own);
            self.downcall(fileset, Downcall::Reintegrated { upto: own });
        }
        self.downcall(fileset, Downcall::Trim { upto: own });
    }

    fn commit(&mut self, fileset: FileSetId, from: HostId, shipments: Vec<Shipment>) {
        let Some(set) = self.filesets.get(&fileset) else { return };
        let staged = set.staged.clone();
        let presto = set.presto.as_ref().map(|presto| presto.downcalls.clone());
        let forgetting = set.forgetting.clone();
        self.disk(fileset, move |store| {
            let mut all = staged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mine = all.remove(&from).unwrap_or_default();
            let outcome = store.commit(&shipments, &mine);
            let result = match outcome {
                Ok(committed) => {
                    if let Some(presto) = presto {
                        forget(committed, &presto, store.config().on_demand.then_some(&*forgetting));
                    }
                    CommitResult::Done
                }
                Err(error) => {
                    all.insert(from, mine);
                    commit_failed(error, store)
                }
            };
            Event::Committed { fileset, from, result }
        });
    }
}

fn commit_failed(error: CommitError, store: &Store) -> CommitResult {
    match error {
        CommitError::NoSpace => CommitResult::NoSpace(store.bottom().shortage().to_owned()),
        CommitError::Missing(objects) => CommitResult::Missing(objects),
        CommitError::Peer(why) => CommitResult::Misbehaved(why),
        other => CommitResult::Failed(other.to_string()),
    }
}

/// Has the kernel forget what a commit changed, and on a client waits for it: what the holder takes for acknowledged is
/// seen by no program any more. Presto answers even if an entry's directory is locked by a writer that is parked until this
/// very commit has brought it the permit.
fn forget(committed: Committed, presto: &tokio::sync::mpsc::Sender<Downcall>, wait: Option<&Forgetting>) {
    let empty = committed.invalidate == lento_store::Invalidation::default();
    let Some(forgetting) = wait.filter(|_| !empty) else { return invalidate(committed, presto, 0) };
    let (token, ended) = forgetting.begin();
    invalidate(committed, presto, token);
    // An error is the end of Presto, and of what the kernel knew from it; a Presto that hangs serves nobody.
    let _ = ended.recv_timeout(FORGET);
}

/// Has the kernel forget what was changed behind its caches; the last message has the token. Not waited for.
pub(super) fn invalidate(committed: Committed, presto: &tokio::sync::mpsc::Sender<Downcall>, token: u64) {
    let invalid = committed.invalidate;
    let mut entries = invalid.entries.into_iter().peekable();
    let mut objects = invalid.objects.into_iter().peekable();
    let mut replaced = invalid.replaced.into_iter().peekable();
    while entries.peek().is_some() || objects.peek().is_some() || replaced.peek().is_some() {
        let (some_entries, some_objects) =
            (entries.by_ref().take(INVALIDATIONS).collect(), objects.by_ref().take(INVALIDATIONS).collect());
        let some_replaced = replaced.by_ref().take(INVALIDATIONS).collect();
        let last = entries.peek().is_none() && objects.peek().is_none() && replaced.peek().is_none();
        let downcall = Downcall::Invalidate {
            token: if last { token } else { 0 },
            entries: some_entries,
            objects: some_objects,
            replaced: some_replaced,
        };
        if presto.blocking_send(downcall).is_err() {
            return;
        }
    }
}
