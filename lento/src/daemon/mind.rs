//! The one owner of the daemon's state: takes an input, tells the core, performs what the core wants done.

use super::files::{self, FileSetConfig};
use super::fileset::{FileSet, Presto};
use super::input::{Call, Input, MountNews, OpenStore, Opened, PrestoHello};
use super::mount::{self, Mount};
use super::waiters::Waiters;
use lento_cli::control::{ControlEvent, Failure, MountState};
use lento_core::{Engine, Event, FileSetSetup, PrestoEvent};
use lento_net::{Identity, NetEvent, Network, Responder};
use protocol::{Downcall, FileSetId, FileSetName, HostId, Upcall};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// Everything that the daemon knows.
pub(super) struct Mind {
    pub(super) home: PathBuf,
    pub(super) identity: Arc<Identity>,
    pub(super) network: Network,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) engine: Engine,
    pub(super) filesets: BTreeMap<FileSetId, FileSet>,
    /// Requests for permits that are not answered yet.
    pub(super) permit_requests: BTreeMap<(FileSetId, HostId), Responder>,
    pub(super) waiters: Waiters,
    pub(super) peers: BTreeMap<HostId, PeerView>,
    /// Commands that wait for a connection to a host.
    pub(super) connecting: Vec<(HostId, oneshot::Sender<Result<(), String>>)>,
    pub(super) started: Instant,
}

/// What is known of the connection to a host.
pub(super) struct PeerView {
    pub(super) since: Instant,
    pub(super) last_error: Option<(Instant, String)>,
}

impl Mind {
    pub(super) fn new(
        home: &Path,
        identity: Arc<Identity>,
        network: Network,
        inputs: mpsc::Sender<Input>,
    ) -> anyhow::Result<Self> {
        let engine = Engine::new(identity.host);
        let filesets = files::load(home)?.into_iter().map(|config| (config.id, FileSet::new(config))).collect();
        Ok(Self {
            home: home.to_owned(),
            identity,
            network,
            inputs,
            engine,
            filesets,
            permit_requests: BTreeMap::new(),
            waiters: Waiters::default(),
            peers: BTreeMap::new(),
            connecting: Vec::new(),
            started: Instant::now(),
        })
    }

    fn now_ms(&self) -> u64 {
        // The core takes 0 for "long ago".
        u64::try_from(self.started.elapsed().as_millis()).map_or(u64::MAX, |ms| ms + 1)
    }

    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut net: mpsc::Receiver<NetEvent>) {
        let all: Vec<FileSetId> = self.filesets.keys().copied().collect();
        all.into_iter().for_each(|id| self.resume(id));
        loop {
            self.perform_all();
            let deadline = self.engine.poll_timeout().map(|at| {
                let ahead = at.saturating_sub(self.now_ms());
                tokio::time::Instant::now() + std::time::Duration::from_millis(ahead)
            });
            let tick = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(Input::Stop) | None => break,
                    Some(input) => self.take(input),
                },
                Some(event) = net.recv() => self.take_net(event),
                () = tick => self.tell(Event::Tick),
            }
        }
        self.network.shutdown().await;
    }

    pub(super) fn tell(&mut self, event: Event) {
        let now = self.now_ms();
        self.engine.handle(now, event);
    }

    fn perform_all(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            self.perform(action);
        }
        if !self.waiters.is_empty() {
            let mut waiters = std::mem::take(&mut self.waiters);
            waiters.settle(|fileset| self.engine.status(fileset), |fileset, peer| self.is_client(fileset, peer));
            self.waiters = waiters;
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => {
                let grown = match &event {
                    Event::Absorbed { fileset, .. } => Some(*fileset),
                    _ => None,
                };
                self.tell(event);
                if let Some(fileset) = grown {
                    self.bound_cache(fileset);
                }
            }
            Input::PrestoHello(hello) => self.take_hello(hello),
            Input::Upcall { fileset, connection, upcall } => {
                let current = self.presto(fileset).is_some_and(|presto| presto.connection == connection);
                if current {
                    self.take_upcall(fileset, upcall);
                }
            }
            Input::PrestoGone { fileset, connection } => {
                let Some(set) = self.filesets.get_mut(&fileset) else { return };
                if set.presto.as_ref().is_some_and(|presto| presto.connection == connection) {
                    set.lose_presto();
                    set.early.clear();
                    self.tell(Event::Presto { fileset, event: PrestoEvent::Down });
                }
            }
            Input::Mount { fileset, news } => self.take_mount_news(fileset, news),
            Input::Opened(opened) => self.take_opened(*opened),
            Input::Control { request, answers } => self.command(request, answers),
            Input::Call(call) => self.take_call(call),
            Input::Progress { fileset, progress } => {
                if let Some(set) = self.filesets.get_mut(&fileset) {
                    set.last_progress = progress.clone().or(set.last_progress.take());
                    set.progress = progress;
                }
            }
            // Handled by the loop.
            Input::Stop => {}
        }
    }

    fn take_call(&mut self, call: Call) {
        match call {
            Call::Status { fileset, reply } => drop(reply.send(self.engine.status(fileset))),
            Call::Flush { fileset, reply } => match self.filesets.get_mut(&fileset) {
                Some(set) if set.presto.is_some() => {
                    set.flushing.push_back(reply);
                    self.downcall(fileset, Downcall::Synced);
                }
                _ => drop(reply.send(None)),
            },
            Call::Reached { fileset, position, reply } => self.waiters.add(fileset, position, reply),
            Call::Do(f) => f(self),
        }
    }
}

/// # File sets
impl Mind {
    pub(super) fn by_name(&self, name: &FileSetName) -> Option<FileSetId> {
        self.filesets.values().find(|set| set.config.name == *name).map(|set| set.config.id)
    }

    /// Keeps the list of file sets; a failure is told, and the list is written with the next change.
    pub(super) fn save_filesets(&mut self) -> Result<(), Failure> {
        let list: Vec<FileSetConfig> = self.filesets.values().map(|set| set.config.clone()).collect();
        files::store(&self.home, list).map_err(|why| super::error::failed(format!("{why:#}")))
    }

    /// Takes up a file set when the daemon starts: its Presto may be alive, and then has the bottom.
    fn resume(&mut self, id: FileSetId) {
        let Some(set) = self.filesets.get_mut(&id) else { return };
        if set.config.mounted {
            if mount::living_presto(&self.home, id).is_some() {
                // It hands over the bottom with its hello.
                self.start_mount(id);
                return;
            }
            self.begin_open(id);
        } else {
            self.begin_open(id);
        }
    }

    pub(super) fn begin_open(&mut self, id: FileSetId) {
        let Some(set) = self.filesets.get(&id) else { return };
        super::control::open::open_from_path(&self.home, self.identity.host, set.config.clone(), self.inputs.clone());
    }

    fn take_opened(&mut self, opened: Opened) {
        let Opened { config, result, answers } = opened;
        let id = config.id;
        if answers.is_none() && !self.filesets.contains_key(&id) {
            // It was taken out meanwhile: removed, or its index is being made anew.
            return;
        }
        match result {
            Ok(open) => {
                let (mount_now, copying) = (config.mounted, config.copying);
                self.filesets.entry(id).or_insert_with(|| FileSet::new(config));
                self.go_to_work(id, open);
                self.fetch_wanted(id);
                let early = self.filesets.get_mut(&id).map(|set| std::mem::take(&mut set.early)).unwrap_or_default();
                for event in early {
                    self.tell(Event::Presto { fileset: id, event });
                }
                if mount_now && self.filesets.get(&id).is_some_and(|set| set.mount.keeper.is_none()) {
                    self.start_mount(id);
                }
                if let Some((then, answers)) = answers {
                    self.finish_opening(id, then, answers);
                } else if copying {
                    // The daemon that began the copy ended; its command did, too.
                    self.await_copy(id, mpsc::channel(1).0);
                }
            }
            Err(failure) => {
                if let Some(set) = self.filesets.get_mut(&id) {
                    set.fail(failure.message.clone());
                    // A disk may come late: it is tried again.
                    let (home, host, config) = (self.home.clone(), self.identity.host, set.config.clone());
                    let inputs = self.inputs.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                        super::control::open::open_from_path(&home, host, config, inputs);
                    });
                }
                if let Some((_, answers)) = answers {
                    let _ = answers.try_send(ControlEvent::Failed(failure));
                }
            }
        }
    }

    fn go_to_work(&mut self, id: FileSetId, open: OpenStore) {
        let Some(set) = self.filesets.get_mut(&id) else { return };
        if set.store.is_some() {
            return;
        }
        if let Ok(bottom) = open.store.bottom().root().try_clone_to_owned() {
            let _ = set.bottom.set(bottom);
        }
        set.store = Some(open.store);
        let mounted = set.config.mounted;
        let setup = FileSetSetup { fileset: id, saved: open.saved, tail: open.tail, applied: open.applied, mounted };
        let now = self.now_ms();
        self.engine.add_fileset(now, setup);
        self.keep_received(id);
        tracing::info!(fileset = %self.filesets[&id].config.name, "at work");
    }

    /// A holder keeps what one replicator wrote for the others.
    pub(super) fn keep_received(&mut self, id: FileSetId) {
        let several = self.engine.status(id).is_some_and(|s| s.holder == self.identity.host && s.links.len() > 1);
        if let Some(set) = self.filesets.get_mut(&id)
            && let Some(store) = &set.store
            && let Err(why) = store.keep_received(several)
        {
            set.fail(why.to_string());
        }
    }

    pub(super) fn start_mount(&mut self, id: FileSetId) {
        let Some(set) = self.filesets.get_mut(&id) else { return };
        let mount = Mount {
            home: self.home.clone(),
            host: self.identity.host,
            config: set.config.clone(),
            bottom: set.bottom.clone(),
        };
        set.mount.state = MountState::Starting;
        set.mount.keeper = Some(mount::keep(mount, self.inputs.clone()));
    }

    pub(super) fn presto(&self, fileset: FileSetId) -> Option<&Presto> {
        self.filesets.get(&fileset).and_then(|set| set.presto.as_ref())
    }

    pub(super) fn downcall(&mut self, fileset: FileSetId, downcall: Downcall) {
        let Some(set) = self.filesets.get_mut(&fileset) else { return };
        let Some(presto) = &set.presto else { return };
        if presto.downcalls.try_send(downcall).is_err() {
            // It takes nothing any more: it says hello again, and all is told anew.
            set.lose_presto();
            set.fail("presto does not take its messages; its connection is closed");
            self.tell(Event::Presto { fileset, event: PrestoEvent::Down });
        }
    }

    fn take_hello(&mut self, hello: PrestoHello) {
        let PrestoHello { connection, fileset, pid, permit, lost_after, bottom, downcalls } = hello;
        let Some(set) = self.filesets.get_mut(&fileset) else {
            tracing::warn!(%fileset, pid, "a Presto of a file set that is not on this host");
            return;
        };
        set.lose_presto();
        set.presto = Some(Presto { connection, downcalls });
        set.mount.pid = Some(pid);
        if set.reintegrated > 0 {
            let upto = set.reintegrated;
            self.downcall(fileset, Downcall::Reintegrated { upto });
        }
        let Some(set) = self.filesets.get_mut(&fileset) else { return };
        if set.store.is_none() {
            // The daemon was started anew over a living mount: only Presto can reach the bottom.
            let config = set.config.clone();
            let inputs = self.inputs.clone();
            set.early = vec![PrestoEvent::Up { permit, lost_after }];
            super::control::open::open_from_fd(&self.home, self.identity.host, config, bottom, inputs);
            return;
        }
        self.tell(Event::Presto { fileset, event: PrestoEvent::Up { permit, lost_after } });
    }

    fn take_upcall(&mut self, fileset: FileSetId, upcall: Upcall) {
        let event = match upcall {
            Upcall::Hello { .. } => return,
            Upcall::GetPermit => PrestoEvent::WantsPermit,
            Upcall::Released { last } => PrestoEvent::Released { last },
            Upcall::Advanced { .. } => PrestoEvent::Advanced,
            Upcall::LogFailed { errno } => {
                let why = format!("the modification log cannot be written: {}", nix::Error::from_raw(errno).desc());
                if let Some(set) = self.filesets.get_mut(&fileset) {
                    set.fail(why);
                }
                return;
            }
            Upcall::LogSynced { last } => {
                if let Some(reply) = self.filesets.get_mut(&fileset).and_then(|set| set.flushing.pop_front()) {
                    let _ = reply.send(Some(last));
                }
                return;
            }
            Upcall::Invalidated { token } => {
                if let Some(set) = self.filesets.get(&fileset) {
                    set.forgetting.end(token);
                }
                return;
            }
            Upcall::Fetch { object } => return self.want(fileset, object),
            Upcall::Forgo { object } => return self.forgo(fileset, object),
            Upcall::Evicted { evicted, kept } => return self.evicted(fileset, evicted, kept),
            Upcall::Orphaned { saved } => {
                if let Some(set) = self.filesets.get_mut(&fileset) {
                    let dir = set.config.store.join(".intermezzo/conflicts");
                    set.fail(format!(
                        "a file was replaced while a program here went on writing to it; what it wrote is kept as {saved} in {}",
                        dir.display()
                    ));
                }
                return;
            }
        };
        match self.filesets.get_mut(&fileset) {
            Some(set) if set.store.is_none() => set.early.push(event),
            _ => self.tell(Event::Presto { fileset, event }),
        }
    }

    fn take_mount_news(&mut self, fileset: FileSetId, news: MountNews) {
        let Some(set) = self.filesets.get_mut(&fileset) else { return };
        match news {
            MountNews::Ready { pid } => {
                set.mount.state = MountState::Mounted;
                set.mount.pid = Some(pid);
                set.mount.waiting.drain(..).for_each(|reply| drop(reply.send(Ok(()))));
            }
            MountNews::Died { why } => {
                set.mount.state = MountState::Starting;
                set.mount.pid = None;
                set.mount.restarts += 1;
                set.fail(why);
                if set.store.is_none() {
                    // It died before it could hand over the bottom, which its death has uncovered.
                    self.begin_open(fileset);
                }
            }
            MountNews::Failed { why } => {
                set.mount.state = MountState::Failed;
                set.mount.pid = None;
                set.mount.waiting.drain(..).for_each(|reply| drop(reply.send(Err(why.clone()))));
                set.fail(why);
            }
            MountNews::Ended => {
                set.mount.state = MountState::Unmounted;
                set.mount.pid = None;
                set.mount.keeper = None;
                set.lose_presto();
                let mount = &mut set.mount;
                mount.waiting.drain(..).chain(mount.ending.drain(..)).for_each(|reply| drop(reply.send(Ok(()))));
                self.tell(Event::Presto { fileset, event: PrestoEvent::Absent });
            }
        }
    }
}
