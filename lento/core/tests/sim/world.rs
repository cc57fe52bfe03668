//! N hosts, a network, virtual time, faults, and the invariants.

use crate::host::Host;
use crate::rng::Rng;
use lento_core::{Action, CommitResult, Event, Saved};
use protocol::{Downcall, FileSetId, HostId, Message, ObjectId, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash};

/// What may go wrong, in per mille a step.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub cut: u64,
    pub kill_lento: u64,
    pub kill_presto: u64,
    pub power: u64,
    /// The holder's log forgets what replicators that are away have not seen.
    pub overflow: u64,
    /// The index of a host is made anew: `lento fsck --rebuild`.
    pub rebuild: u64,
}

/// Something that will happen.
#[derive(Debug, Clone)]
pub(crate) enum Due {
    Engine { host: usize, life: u64, event: Event },
    Deliver { from: usize, to: usize, connection: u64, message: Message },
    PermitRequest { from: usize, to: usize, connection: u64, ask: u64 },
    Down { host: usize, peer: usize, connection: u64 },
    Stage { host: usize, life: u64, from: usize, wanted: Vec<ObjectId> },
    Copy { host: usize, life: u64, from: usize, after: Position, objects: Option<Vec<ObjectId>> },
    Downcall { host: usize, downcall: Downcall },
    Write { host: usize },
    StartLento { host: usize },
    StartPresto { host: usize },
    Tick { host: usize },
    Heal { from: usize, to: usize },
}

pub(crate) struct World {
    pub now_ms: u64,
    pub rng: Rng,
    pub hosts: Vec<Host>,
    pub fileset: FileSetId,
    pub(crate) faults: Faults,
    pub(crate) queue: BTreeMap<(u64, u64), Due>,
    pub(crate) serial: u64,
    /// The connection that each end of a pair believes in.
    pub(crate) connections: BTreeMap<(usize, usize), u64>,
    /// When the last message of a direction arrives: one connection keeps order.
    pub(crate) arrival: BTreeMap<(usize, usize), u64>,
    pub(crate) cuts: BTreeSet<(usize, usize)>,
    /// Of each host, the request for the permit that an answer would go to.
    pub(crate) asks: BTreeMap<HostId, u64>,
    /// The tree after each record, as its writer had it.
    pub(crate) truth: BTreeMap<Position, u64>,
    /// The tree after the last record of all, while no loss of power has made that open.
    pub(crate) last: Option<(Position, u64)>,
    /// For each object: the newest content that was made durable by its writer.
    pub(crate) durable: BTreeMap<ObjectId, u64>,
    pub(crate) unlinked: BTreeSet<ObjectId>,
    /// Who wrote each content.
    pub(crate) writers: BTreeMap<u64, usize>,
    pub(crate) token: u64,
    /// Tells every event and action on standard error: `INTERMEZZO_TRACE=1`, with one seed.
    pub(crate) trace: bool,
    pub counts: BTreeMap<&'static str, u64>,
    pub digest: DefaultHasher,
}

impl World {
    pub(crate) fn new(seed: u64, hosts: usize, faults: Faults) -> Self {
        let fileset = FileSetId::from_bytes([7; 16]);
        let id = |n: usize| HostId::new(n as u32 + 1).expect("not 0");
        let mut world = Self {
            now_ms: 1,
            rng: Rng::new(seed),
            hosts: (0..hosts).map(|n| Host::new(id(n), Saved::held_by(id(0), id(n)))).collect(),
            fileset,
            faults,
            queue: BTreeMap::new(),
            serial: 0,
            connections: BTreeMap::new(),
            arrival: BTreeMap::new(),
            cuts: BTreeSet::new(),
            asks: BTreeMap::new(),
            truth: BTreeMap::new(),
            last: None,
            durable: BTreeMap::new(),
            unlinked: BTreeSet::new(),
            writers: BTreeMap::new(),
            token: 0,
            trace: std::env::var_os("INTERMEZZO_TRACE").is_some(),
            counts: BTreeMap::new(),
            digest: DefaultHasher::new(),
        };
        world.hosts[0].saved.replicators = (1..hosts).map(id).collect();
        for host in 0..hosts {
            world.schedule(0, Due::StartLento { host });
            world.schedule(5, Due::Write { host });
        }
        world
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn schedule(&mut self, after_ms: u64, due: Due) {
        self.serial += 1;
        self.queue.insert((self.now_ms + after_ms, self.serial), due);
    }

    pub(crate) fn index(&self, host: HostId) -> usize {
        host.get() as usize - 1
    }

    /// One thing happens. `false`: nothing is left to happen.
    pub(crate) fn step(&mut self) -> bool {
        let Some(((at, _), due)) = self.queue.pop_first() else { return false };
        self.now_ms = self.now_ms.max(at);
        let line = format!("{due:?}");
        if self.trace {
            eprintln!("{} {}", self.now_ms, &line[..line.len().min(900)]);
        }
        (self.now_ms, line).hash(&mut self.digest);
        self.happen(due);
        for host in 0..self.hosts.len() {
            self.drain(host);
        }
        self.check_permits();
        true
    }

    pub(crate) fn happen(&mut self, due: Due) {
        match due {
            Due::Engine { host, life, event } => {
                if self.hosts[host].life == life {
                    self.tell(host, event);
                }
            }
            Due::PermitRequest { from, to, connection, ask } => {
                if self.connections.get(&(to, from)) == Some(&connection) && !self.cuts.contains(&(from, to)) {
                    let from = self.hosts[from].id;
                    self.asks.insert(from, ask);
                    self.tell(to, Event::PermitRequested { from, fileset: self.fileset });
                }
            }
            Due::Deliver { from, to, connection, message } => {
                if self.connections.get(&(to, from)) == Some(&connection) && !self.cuts.contains(&(from, to)) {
                    let from = self.hosts[from].id;
                    self.tell(to, Event::Received { from, message });
                }
            }
            Due::Down { host, peer, connection } => {
                if self.connections.get(&(host, peer)) == Some(&connection) {
                    self.connections.remove(&(host, peer));
                    let peer = self.hosts[peer].id;
                    self.tell(host, Event::PeerDown(peer));
                }
            }
            Due::Stage { host, life, from, wanted } => self.stage(host, life, from, wanted),
            Due::Copy { host, life, from, after, objects } => self.copy(host, life, from, after, objects),
            Due::Downcall { host, downcall } => self.downcall(host, downcall),
            Due::Write { host } => self.write_soon(host),
            Due::StartLento { host } => {
                if self.hosts[host].engine.is_none() {
                    let (now, fileset) = (self.now_ms, self.fileset);
                    self.hosts[host].start_lento(fileset, now);
                    if self.hosts[host].presto.up {
                        let event = self.hosts[host].hello();
                        self.tell(host, Event::Presto { fileset, event });
                    }
                }
            }
            Due::StartPresto { host } => {
                self.hosts[host].presto.up = true;
                let (event, fileset) = (self.hosts[host].hello(), self.fileset);
                self.tell(host, Event::Presto { fileset, event });
            }
            Due::Tick { host } => {
                self.hosts[host].tick_at = None;
                self.tell(host, Event::Tick);
            }
            Due::Heal { from, to } => {
                self.cuts.remove(&(from, to));
            }
        }
    }

    pub(crate) fn tell(&mut self, host: usize, event: Event) {
        let now = self.now_ms;
        if let Some(engine) = &mut self.hosts[host].engine {
            engine.handle(now, event);
        }
    }

    pub(crate) fn tell_later(&mut self, host: usize, delay_ms: u64, event: Event) {
        let life = self.hosts[host].life;
        self.schedule(delay_ms, Due::Engine { host, life, event });
    }

    pub(crate) fn drain(&mut self, host: usize) {
        while let Some(action) = self.hosts[host].engine.as_mut().and_then(|engine| engine.poll_action()) {
            self.perform(host, action);
        }
        let timeout = self.hosts[host].engine.as_ref().and_then(|engine| engine.poll_timeout());
        if let Some(at) = timeout
            && self.hosts[host].tick_at.is_none_or(|tick| tick > at)
        {
            self.hosts[host].tick_at = Some(at);
            self.schedule(at.saturating_sub(self.now_ms).max(1), Due::Tick { host });
        }
    }

    pub(crate) fn perform(&mut self, host: usize, action: Action) {
        if self.trace {
            let line = format!("{action:?}");
            eprintln!("    {host}: {}", &line[..line.len().min(900)]);
        }
        let fileset = self.fileset;
        let life = self.hosts[host].life;
        match action {
            Action::Connect(peer) => self.connect(host, peer),
            Action::Disconnect { host: peer, reason } => {
                panic!("host {host} found that {peer} misbehaved: {reason}");
            }
            Action::Send { to, message } => self.send(host, self.index(to), message),
            Action::RequestPermit { to, ask, .. } => {
                let to = self.index(to);
                if let Some(connection) = self.connections.get(&(host, to)).copied() {
                    let delay = self.arrival(host, to);
                    self.schedule(delay, Due::PermitRequest { from: host, to, connection, ask });
                }
            }
            Action::GrantPermit { to, epoch, after, .. } => {
                self.count("grants to replicators");
                let ask = self.asks.get(&to).copied().unwrap_or_default();
                let from = self.hosts[host].id;
                self.send_reply(host, self.index(to), Event::PermitGranted { from, fileset, ask, epoch, after });
            }
            Action::Downcall { downcall, .. } => {
                // One channel, which keeps order.
                let last = &mut self.hosts[host].downcall_at;
                *last = (self.now_ms + self.rng.below(3)).max(*last);
                let delay = *last - self.now_ms;
                self.schedule(delay, Due::Downcall { host, downcall });
            }
            Action::Save { saved, .. } => self.hosts[host].saved = saved,
            Action::Absorb(_) => {
                let tail = self.hosts[host].model.tail(self.hosts[host].id);
                let delay = self.rng.below(3);
                self.tell_later(host, delay, Event::Absorbed { fileset, tail });
            }
            Action::ReadHistory { to, after, read, .. } => {
                let max = 1 + self.rng.below(6) as usize;
                let result = self.hosts[host].model.history(fileset, after, to, max);
                let delay = self.rng.below(3);
                self.tell_later(host, delay, Event::History { fileset, to, read, result });
            }
            Action::Stage { from, wanted, .. } => {
                let (from, delay) = (self.index(from), self.rng.below(8));
                self.schedule(delay, Due::Stage { host, life, from, wanted });
            }
            Action::Commit { from, shipments, .. } => {
                // As the daemon: what one replicator wrote is kept for others, if there are any.
                let keep = host == 0 && self.hosts.len() > 2;
                let result = self.hosts[host].model.commit(from, keep, &shipments);
                if result == CommitResult::Done {
                    self.count("commits");
                    self.check_prefix(host, &shipments);
                }
                let delay = self.rng.below(5);
                self.tell_later(host, delay, Event::Committed { fileset, from, result });
            }
            Action::Sync(_) => {
                self.sync(host);
                let delay = self.rng.below(20);
                self.tell_later(host, delay, Event::Synced { fileset, result: Ok(()) });
            }
            Action::Compare { from, .. } => self.begin_copy(host, from, None),
            Action::FetchMissing { from, objects, .. } => self.begin_copy(host, from, Some(objects)),
            Action::Trim { upto, .. } => self.hosts[host].model.trim(upto),
        }
    }
}
