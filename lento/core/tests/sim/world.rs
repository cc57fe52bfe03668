//! N hosts, a network, virtual time, faults, and the invariants.

use crate::host::Host;
use crate::rng::Rng;
use lento_core::{Action, CommitResult, Event, PrestoEvent, Saved, StageResult};
use protocol::{Downcall, FileSetId, HostId, Message, Name, ObjectId, Op, Position, Timestamp};
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
}

/// Something that will happen.
#[derive(Debug, Clone)]
pub(crate) enum Due {
    Engine { host: usize, life: u64, event: Event },
    Deliver { from: usize, to: usize, connection: u64, message: Message },
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
    faults: Faults,
    queue: BTreeMap<(u64, u64), Due>,
    serial: u64,
    /// The connection that each end of a pair believes in.
    connections: BTreeMap<(usize, usize), u64>,
    /// When the last message of a direction arrives: one connection keeps order.
    arrival: BTreeMap<(usize, usize), u64>,
    cuts: BTreeSet<(usize, usize)>,
    /// The tree after each record, as its writer had it.
    truth: BTreeMap<Position, u64>,
    /// The tree after the last record of all, while no loss of power has made that open.
    last: Option<(Position, u64)>,
    /// For each object: the newest content that was made durable by its writer.
    durable: BTreeMap<ObjectId, u64>,
    unlinked: BTreeSet<ObjectId>,
    /// Who wrote each content.
    writers: BTreeMap<u64, usize>,
    token: u64,
    /// Tells every event and action on standard error: `INTERMEZZO_TRACE=1`, with one seed.
    trace: bool,
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

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn schedule(&mut self, after_ms: u64, due: Due) {
        self.serial += 1;
        self.queue.insert((self.now_ms + after_ms, self.serial), due);
    }

    fn index(&self, host: HostId) -> usize {
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

    fn happen(&mut self, due: Due) {
        match due {
            Due::Engine { host, life, event } => {
                if self.hosts[host].life == life {
                    self.tell(host, event);
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

    fn tell(&mut self, host: usize, event: Event) {
        let now = self.now_ms;
        if let Some(engine) = &mut self.hosts[host].engine {
            engine.handle(now, event);
        }
    }

    fn tell_later(&mut self, host: usize, delay_ms: u64, event: Event) {
        let life = self.hosts[host].life;
        self.schedule(delay_ms, Due::Engine { host, life, event });
    }

    fn drain(&mut self, host: usize) {
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

    fn perform(&mut self, host: usize, action: Action) {
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
            Action::RequestPermit { to, .. } => {
                let from = self.hosts[host].id;
                self.send_event(host, self.index(to), Event::PermitRequested { from, fileset });
            }
            Action::GrantPermit { to, epoch, after, .. } => {
                self.count("grants to replicators");
                let from = self.hosts[host].id;
                self.send_event(host, self.index(to), Event::PermitGranted { from, fileset, epoch, after });
            }
            Action::Downcall { downcall, .. } => {
                let delay = self.rng.below(3);
                self.schedule(delay, Due::Downcall { host, downcall });
            }
            Action::Save { saved, .. } => self.hosts[host].saved = saved,
            Action::Absorb(_) => {
                let tail = self.hosts[host].model.tail(self.hosts[host].id);
                let delay = self.rng.below(3);
                self.tell_later(host, delay, Event::Absorbed { fileset, tail });
            }
            Action::ReadHistory { to, after, .. } => {
                let max = 1 + self.rng.below(6) as usize;
                let result = self.hosts[host].model.history(fileset, after, to, max);
                let delay = self.rng.below(3);
                self.tell_later(host, delay, Event::History { fileset, to, after, result });
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

/// # The network
impl World {
    fn connect(&mut self, host: usize, peer: HostId) {
        let other = self.index(peer);
        let me = self.hosts[host].id;
        let delay = 1 + self.rng.below(5);
        let blocked = self.cuts.contains(&(host, other)) || self.cuts.contains(&(other, host));
        if blocked || self.hosts[other].engine.is_none() {
            return self.tell_later(host, delay, Event::ConnectFailed(peer));
        }
        for (a, b) in [(host, other), (other, host)] {
            if self.connections.remove(&(a, b)).is_some() {
                let gone = self.hosts[b].id;
                self.tell(a, Event::PeerDown(gone));
            }
        }
        self.serial += 1;
        let connection = self.serial;
        self.connections.insert((host, other), connection);
        self.connections.insert((other, host), connection);
        self.tell(other, Event::PeerUp(me));
        self.tell(host, Event::PeerUp(peer));
    }

    /// When something sent now arrives: later than all that was sent before on the same connection.
    fn arrival(&mut self, from: usize, to: usize) -> u64 {
        let at = self.now_ms + 1 + self.rng.below(10);
        let last = self.arrival.entry((from, to)).or_default();
        *last = at.max(*last + 1);
        *last - self.now_ms
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if let Some(connection) = self.connections.get(&(from, to)).copied() {
            let delay = self.arrival(from, to);
            self.schedule(delay, Due::Deliver { from, to, connection, message });
        }
    }

    /// Requests and replies travel like messages; here they are events of the receiver.
    fn send_event(&mut self, from: usize, to: usize, event: Event) {
        if let Some(connection) = self.connections.get(&(from, to)).copied() {
            let delay = self.arrival(from, to);
            if self.connections.get(&(to, from)) == Some(&connection) && !self.cuts.contains(&(from, to)) {
                self.tell_later(to, delay, event);
            }
        }
    }

    fn cut(&mut self, from: usize, to: usize, for_ms: u64) {
        self.cuts.insert((from, to));
        for (host, peer) in [(from, to), (to, from)] {
            if let Some(connection) = self.connections.get(&(host, peer)).copied() {
                let delay = self.rng.below(300);
                self.schedule(delay, Due::Down { host, peer, connection });
            }
        }
        self.schedule(for_ms, Due::Heal { from, to });
    }

    /// The process is gone: its peers see their connections reset.
    fn hang_up(&mut self, host: usize) {
        for peer in 0..self.hosts.len() {
            self.connections.remove(&(host, peer));
            if let Some(connection) = self.connections.get(&(peer, host)).copied() {
                let delay = self.rng.below(50);
                self.schedule(delay, Due::Down { host: peer, peer: host, connection });
            }
        }
    }
}

/// # What the shell does
impl World {
    fn stage(&mut self, host: usize, life: u64, from: usize, wanted: Vec<ObjectId>) {
        if self.hosts[host].life != life {
            return;
        }
        let connected = self.connections.contains_key(&(host, from)) && self.hosts[from].engine.is_some();
        let mut results = BTreeMap::new();
        for id in wanted {
            let result = if !connected {
                StageResult::Failed("not connected".into())
            } else if self.rng.percent(10) {
                StageResult::Changed
            } else {
                match self.hosts[from].model.serve(id) {
                    Ok(version) => {
                        self.hosts[host].model.staged.insert(id, version);
                        StageResult::Staged { as_of: version.0 }
                    }
                    Err(result) => result,
                }
            };
            results.insert(id, result);
        }
        let (from, fileset, delay) = (self.hosts[from].id, self.fileset, self.rng.below(5));
        self.tell_later(host, delay, Event::Staged { fileset, from, results });
    }

    fn begin_copy(&mut self, host: usize, from: HostId, objects: Option<Vec<ObjectId>>) {
        let from = self.index(from);
        let after = self.hosts[from].model.history_end(self.hosts[from].id);
        let (life, delay) = (self.hosts[host].life, 1 + self.rng.below(40));
        self.schedule(delay, Due::Copy { host, life, from, after, objects });
    }

    /// A comparison ends: the tree is that of the source now, its position that of when it began.
    fn copy(&mut self, host: usize, life: u64, from: usize, after: Position, objects: Option<Vec<ObjectId>>) {
        if self.hosts[host].life != life {
            return;
        }
        let (fileset, peer) = (self.fileset, self.hosts[from].id);
        if !self.connections.contains_key(&(host, from)) || self.hosts[from].engine.is_none() || self.rng.percent(5) {
            let result = Err("not connected".to_owned());
            return self.tell(host, Event::Compared { fileset, from: peer, result });
        }
        let source = self.hosts[from].model.clone();
        let end = source.history_end(self.hosts[from].id);
        // A source that is itself ahead of its position passes that on.
        self.hosts[host].fuzzy_until = end.max(self.hosts[from].fuzzy_until);
        match objects {
            Some(objects) => {
                self.count("missing objects fetched");
                for id in objects {
                    match source.tree.get(&id) {
                        Some(object) => {
                            self.hosts[host].model.tree.insert(id, object.clone());
                        }
                        None => {
                            self.hosts[host].model.unavailable.insert(id);
                        }
                    }
                }
            }
            None => {
                self.count("comparisons");
                let model = &mut self.hosts[host].model;
                model.tree = source.tree;
                model.as_of = source.as_of;
                model.applied.insert(peer, after);
                model.unavailable.clear();
                // A comparison ends with a sync.
                self.sync(host);
            }
        }
        self.tell(host, Event::Compared { fileset, from: peer, result: Ok(after) });
    }

    fn sync(&mut self, host: usize) {
        self.hosts[host].synced = self.hosts[host].model.clone();
        // Durable is what its writer had synced; a copy elsewhere may be rolled back with a holder that lost power.
        for (id, object) in &self.hosts[host].model.tree {
            if self.writers.get(&object.token) == Some(&host) {
                let token = self.durable.entry(*id).or_default();
                *token = (*token).max(object.token);
            }
        }
    }

    fn downcall(&mut self, host: usize, downcall: Downcall) {
        let fileset = self.fileset;
        if !self.hosts[host].presto.up {
            return;
        }
        match downcall {
            Downcall::Grant { epoch } => {
                self.hosts[host].presto.permit = Some(epoch);
                self.hosts[host].presto.asked = false;
            }
            Downcall::Revoke => {
                self.hosts[host].presto.permit = None;
                let last = self.hosts[host].model.tail(self.hosts[host].id).number;
                self.tell(host, Event::Presto { fileset, event: PrestoEvent::Released { last } });
            }
            Downcall::Arm { seen } => {
                self.hosts[host].presto.armed = Some(seen);
                self.ring(host);
            }
            _ => {}
        }
    }

    fn ring(&mut self, host: usize) {
        let Host { presto, model, id, .. } = &mut self.hosts[host];
        if presto.armed.is_some_and(|seen| model.tail(*id).number > seen) {
            presto.armed = None;
            let fileset = self.fileset;
            self.tell(host, Event::Presto { fileset, event: PrestoEvent::Advanced });
        }
    }
}

/// # Applications and faults
impl World {
    fn write_soon(&mut self, host: usize) {
        if self.now_ms < crate::BUSY_MS {
            let delay = 1 + self.rng.below(60);
            self.schedule(delay, Due::Write { host });
            self.misfortune();
        }
        if !self.hosts[host].presto.up {
            return;
        }
        match self.hosts[host].presto.permit {
            Some(epoch) => {
                for _ in 0..1 + self.rng.below(4) {
                    self.write(host, epoch);
                }
                self.ring(host);
            }
            None if !self.hosts[host].presto.asked => {
                self.hosts[host].presto.asked = self.hosts[host].engine.is_some();
                let fileset = self.fileset;
                self.tell(host, Event::Presto { fileset, event: PrestoEvent::WantsPermit });
            }
            None => {}
        }
    }

    fn write(&mut self, host: usize, epoch: u64) {
        let me = self.hosts[host].id;
        if let Some((position, digest)) = self.last {
            let seen = self.hosts[host].model.digest();
            assert_eq!(seen, digest, "host {host} writes without having seen {position} (lost update)");
        }
        let existing: Vec<ObjectId> = self.hosts[host].model.tree.keys().copied().collect();
        let pick = (!existing.is_empty()).then(|| existing[self.rng.below(existing.len() as u64) as usize]);
        let name = Name::new(format!("n{}", self.rng.below(1000)).as_bytes()).expect("legal");
        self.token += 1;
        let op = match (self.rng.below(10), pick) {
            (0..=1, Some(id)) => {
                let parent = ObjectId::ROOT;
                let old = self.hosts[host].model.tree[&id].name.clone();
                Op::Rename { id, parent, name: old, to_parent: parent, to_name: name, other: None, exchange: false }
            }
            (2, Some(id)) => {
                self.unlinked.insert(id);
                let name = self.hosts[host].model.tree[&id].name.clone();
                Op::Unlink { parent: ObjectId::ROOT, name, id }
            }
            (3..=6, Some(id)) => Op::Store { id, size: 1, mtime: Timestamp::default() },
            _ => {
                let id = ObjectId::new(me, self.hosts[host].model.last_number + 1);
                Op::Create { parent: ObjectId::ROOT, name, id, mode: 0o644 }
            }
        };
        let token = self.token;
        self.writers.insert(token, host);
        let position = self.hosts[host].model.write(me, epoch, op, token);
        let digest = self.hosts[host].model.digest();
        self.truth.insert(position, digest);
        self.last = Some((position, digest));
        self.count("writes");
    }

    fn misfortune(&mut self) {
        let hosts = self.hosts.len() as u64;
        let (host, other) = (self.rng.below(hosts) as usize, self.rng.below(hosts) as usize);
        let faults = self.faults;
        if self.rng.below(1000) < faults.cut && host != other {
            self.count("cuts");
            let for_ms = 50 + self.rng.below(2000);
            self.cut(host, other, for_ms);
            if self.rng.percent(60) {
                self.cut(other, host, for_ms);
            }
        }
        let pause = 10 + self.rng.below(500);
        if self.rng.below(1000) < faults.kill_lento && self.hosts[host].engine.is_some() {
            self.count("Lento killed");
            self.hosts[host].engine = None;
            self.hosts[host].life += 1;
            self.hang_up(host);
            self.schedule(pause, Due::StartLento { host });
        }
        if self.rng.below(1000) < faults.kill_presto && self.hosts[host].presto.up {
            self.count("Presto killed");
            let lost_after = self.hosts[host].presto.lost_after;
            self.hosts[host].presto = crate::host::Presto { lost_after, ..Default::default() };
            let fileset = self.fileset;
            self.tell(host, Event::Presto { fileset, event: PrestoEvent::Down });
            self.schedule(pause, Due::StartPresto { host });
        }
        if self.rng.below(1000) < faults.power && self.hosts[host].presto.up {
            self.count("power lost");
            self.hosts[host].lose_power();
            self.hosts[host].life += 1;
            self.hang_up(host);
            self.last = None;
            self.schedule(pause, Due::StartLento { host });
            self.schedule(pause + 5, Due::StartPresto { host });
        }
        if self.rng.below(1000) < faults.overflow {
            self.count("log overflowed");
            // The holder may forget what replicators lack; a replicator what the holder lacks, if it owns the permit.
            let upto = self.hosts[host].model.tail(self.hosts[host].id);
            if host == 0 || self.hosts[host].presto.permit.is_some() {
                self.hosts[host].model.trim(upto);
            }
        }
    }
}

/// # Invariants
impl World {
    /// Invariant 5: the permit is exclusive.
    fn check_permits(&self) {
        let holders: Vec<_> = self.hosts.iter().filter(|h| h.presto.permit.is_some()).map(|h| h.id).collect();
        assert!(holders.len() <= 1, "the permit is at {holders:?} at once, at {} ms", self.now_ms);
    }

    /// Invariants 2, 9 and 12: what a host has at a position is what the writer had there.
    fn check_prefix(&mut self, host: usize, shipments: &[protocol::Shipment]) {
        let Some(upto) = shipments.last().map(|s| s.upto) else { return };
        let records = shipments.iter().map(|s| s.records.len()).sum::<usize>();
        if upto < self.hosts[host].fuzzy_until || records == 0 {
            return;
        }
        let Some((position, digest)) = self.truth.range(..=upto).next_back() else { return };
        if shipments.iter().flat_map(|s| &s.records).next_back().map(|r| r.position()) == Some(*position) {
            let model = &self.hosts[host].model;
            assert_eq!(model.digest(), *digest, "host {host} is not at a state that its source had, at {position}");
            self.count("prefixes checked");
        }
    }

    /// Invariants 1, 14, 15: at rest all trees are the same, nothing that was durable is lost, nothing is under way.
    pub(crate) fn check_at_rest(&self) {
        let first = &self.hosts[0].model;
        for host in &self.hosts[1..] {
            let differs = |id: &&ObjectId| host.model.tree.get(*id) != first.tree.get(*id);
            let one = host.model.tree.keys().chain(first.tree.keys()).find(differs);
            let status = |h: &Host| h.engine.as_ref().and_then(|e| e.status(self.fileset));
            assert!(
                one.is_none(),
                "host {} differs from the holder at rest in {one:?}: {:?} there {:?} {:#?} {:#?}",
                host.id,
                one.and_then(|id| host.model.tree.get(id)),
                one.and_then(|id| first.tree.get(id)),
                status(host),
                status(&self.hosts[0])
            );
        }
        if let Some((position, digest)) = self.last {
            assert_eq!(first.digest(), digest, "the trees at rest are not what the last writer had at {position}");
        }
        for (id, token) in &self.durable {
            if !self.unlinked.contains(id) {
                let now = first.tree.get(id).map_or(0, |object| object.token);
                assert!(now >= *token, "object {id} is at content {now}, though {token} was durable");
            }
        }
        for host in &self.hosts {
            let status = host.engine.as_ref().and_then(|e| e.status(self.fileset)).expect("Lento runs at rest");
            for link in status.links {
                assert!(link.up && link.in_step && !link.copying, "host {} is not in step at rest: {link:?}", host.id);
                assert_eq!(link.apply.queued, 0, "host {} has not applied all at rest", host.id);
            }
        }
    }
}
