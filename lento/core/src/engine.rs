//! The request dispatcher: every event of a host goes in here, to the file set and the peer that it concerns.

use crate::apply::Taken;
use crate::connector::Connector;
use crate::event::PrestoEvent;
use crate::fileset::{Absorbing, FileSet};
use crate::link::{Copying, Link};
use crate::{Action, CommitResult, Event, FileSetSetup, FileSetStatus, HistoryResult};
use protocol::{Downcall, FileSetId, FileSetState, HostId, Message, Position, Shipment};
use std::collections::{BTreeMap, VecDeque};

/// One host's mind. See the [crate] for the order of calls.
#[derive(Debug)]
pub struct Engine {
    me: HostId,
    peers: BTreeMap<HostId, Connector>,
    filesets: BTreeMap<FileSetId, FileSet>,
    out: VecDeque<Action>,
}

/// # Set-up
impl Engine {
    /// The mind of host `me`, with no file sets.
    pub fn new(me: HostId) -> Self {
        Self { me, peers: BTreeMap::new(), filesets: BTreeMap::new(), out: VecDeque::new() }
    }

    /// Takes up a file set. A replicator dials its holder; the holder is dialled.
    pub fn add_fileset(&mut self, now_ms: u64, setup: FileSetSetup) {
        let holder = setup.saved.holder;
        let mut fileset = FileSet::new(self.me, setup);
        if holder != self.me {
            self.peers.entry(holder).or_insert(Connector::Passive { up: false }).take_over(now_ms);
        }
        fileset.absorb(&mut self.out);
        let id = fileset.id;
        let connected: Vec<HostId> = fileset
            .links
            .keys()
            .copied()
            .filter(|host| self.peers.get(host).is_some_and(|connector| connector.is_up()))
            .collect();
        self.filesets.insert(id, fileset);
        for peer in connected {
            self.link_up(id, peer);
        }
        self.finish(now_ms);
    }

    /// Forgets a file set that was removed from this host.
    pub fn remove_fileset(&mut self, fileset: FileSetId) {
        self.filesets.remove(&fileset);
    }
}

/// # Output
impl Engine {
    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// When [`Event::Tick`] is due, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<u64> {
        let dials = self.peers.values().filter_map(|connector| connector.timeout());
        self.filesets.values().filter_map(FileSet::timeout).chain(dials).min()
    }

    /// How a file set stands.
    pub fn status(&self, fileset: FileSetId) -> Option<FileSetStatus> {
        self.filesets.get(&fileset).map(FileSetStatus::of)
    }

    /// The file sets of this host.
    pub fn filesets(&self) -> impl Iterator<Item = FileSetId> {
        self.filesets.keys().copied()
    }

    /// Whether a connection to `host` stands.
    pub fn is_up(&self, host: HostId) -> bool {
        self.peers.get(&host).is_some_and(|connector| connector.is_up())
    }
}

/// # Input
impl Engine {
    /// Takes in one event. What concerns a file set or a peer that is not known is dropped.
    pub fn handle(&mut self, now_ms: u64, event: Event) {
        match event {
            Event::Tick => {}
            Event::PeerUp(host) => self.handle_peer_up(host),
            Event::PeerDown(host) => self.handle_peer_down(now_ms, host),
            Event::ConnectFailed(host) => {
                if let Some(connector) = self.peers.get_mut(&host) {
                    connector.handle_down(now_ms, self.me);
                }
            }
            Event::Received { from, message } => self.handle_message(from, message),
            Event::PermitRequested { from, fileset } => self.with(fileset, |set, _| {
                if set.is_holder() && set.in_step(from) && !set.has_lost(from) {
                    set.permits.handle_request(from);
                }
            }),
            Event::PermitGranted { from, fileset, ask, epoch, after } => self.with(fileset, |set, _| {
                if set.saved.holder == from && set.mine.is_awaited(ask) {
                    set.mine.handle_granted(epoch, after);
                }
            }),
            Event::PermitRefused { from, fileset, ask } => self.with(fileset, |set, _| {
                if set.saved.holder == from && set.mine.is_awaited(ask) {
                    set.mine.withdraw();
                }
            }),
            Event::ReplicatorAdded { host, fileset, client } => self.handle_replicator_added(host, fileset, client),
            Event::PermitBroken { fileset } => self.with(fileset, |set, out| set.take_permit(out)),
            Event::ReplicatorRemoved { host, fileset } => self.with(fileset, |set, out| {
                set.saved.replicators.remove(&host);
                set.saved.clients.remove(&host);
                set.saved.lost.remove(&host);
                set.links.remove(&host);
                set.permits.handle_down(host);
                if set.saved.owner == host {
                    set.permits.handle_returned(host, Position::START);
                }
                set.save(out);
            }),
            Event::Presto { fileset, event } => self.with(fileset, |set, out| set.handle_presto(event, out)),
            Event::Absorbed { fileset, tail } => self.with(fileset, |set, out| set.handle_absorbed(tail, out)),
            Event::History { fileset, to, read, result } => {
                self.with(fileset, |set, out| set.handle_history(to, read, result, out));
            }
            Event::Staged { fileset, from, results } => self.with(fileset, |set, out| {
                let Some(link) = set.links.get_mut(&from) else { return };
                let before = link.apply.stalled.clone();
                link.apply.handle_staged(now_ms, results);
                if link.apply.stalled != before {
                    set.tell_stalled(from, out);
                }
            }),
            Event::Committed { fileset, from, result } => {
                self.with(fileset, |set, out| set.handle_committed(from, result, now_ms, out));
            }
            Event::Synced { fileset, result } => self.with(fileset, |set, out| set.handle_synced(result, now_ms, out)),
            Event::Compared { fileset, from, result } => {
                self.with(fileset, |set, out| set.handle_compared(from, result, now_ms, out));
            }
        }
        self.finish(now_ms);
    }

    fn with(&mut self, fileset: FileSetId, f: impl FnOnce(&mut FileSet, &mut VecDeque<Action>)) {
        if let Some(set) = self.filesets.get_mut(&fileset) {
            f(set, &mut self.out);
        }
    }

    /// After every event: whatever can go on, goes on.
    fn finish(&mut self, now_ms: u64) {
        for (host, connector) in &mut self.peers {
            if connector.due(now_ms) {
                self.out.push_back(Action::Connect(*host));
            }
        }
        for set in self.filesets.values_mut() {
            set.advance(now_ms, &mut self.out);
        }
    }

    fn handle_peer_up(&mut self, host: HostId) {
        self.peers.entry(host).or_insert(Connector::Passive { up: true }).handle_up();
        let shared: Vec<FileSetId> =
            self.filesets.values().filter(|set| set.links.contains_key(&host)).map(|set| set.id).collect();
        for fileset in shared {
            self.link_up(fileset, host);
        }
    }

    fn link_up(&mut self, fileset: FileSetId, host: HostId) {
        self.with(fileset, |set, out| {
            if let Some(link) = set.links.get_mut(&host) {
                link.handle_up();
                set.send_state(host, out);
            }
        });
    }

    fn handle_peer_down(&mut self, now_ms: u64, host: HostId) {
        if let Some(connector) = self.peers.get_mut(&host) {
            connector.handle_down(now_ms, self.me);
        }
        for set in self.filesets.values_mut() {
            let Some(link) = set.links.get_mut(&host) else { continue };
            link.handle_down();
            link.down_since_ms = now_ms;
            set.permits.handle_down(host);
            if set.saved.holder == host {
                set.mine.handle_disconnected();
            }
        }
    }

    fn handle_replicator_added(&mut self, host: HostId, fileset: FileSetId, client: bool) {
        let up = self.is_up(host);
        self.with(fileset, |set, out| {
            if !set.is_holder() || host == set.me {
                return;
            }
            // Whoever registers anew begins anew: its log, too, begins at the start.
            set.saved.replicators.insert(host);
            if client {
                set.saved.clients.insert(host);
            } else {
                set.saved.clients.remove(&host);
            }
            set.saved.lost.remove(&host);
            set.links.insert(host, Link::new(Position::START));
            set.save(out);
        });
        if up {
            self.link_up(fileset, host);
        }
    }

    fn handle_message(&mut self, from: HostId, message: Message) {
        match message {
            Message::Hello { filesets, .. } => filesets.into_iter().for_each(|state| self.handle_state(from, state)),
            Message::State(state) => self.handle_state(from, state),
            Message::Heartbeat | Message::Credit { .. } => {}
            Message::Shipment(shipment) => self.handle_shipment(from, shipment),
            Message::TooOld { fileset, after, tail } => {
                self.with(fileset, |set, out| set.handle_peer_too_old(from, after, tail, out));
            }
            Message::Applied { fileset, applied, durable } => {
                let mut sane = true;
                self.with(fileset, |set, _| {
                    let end = set.history_end();
                    if let Some(link) = set.links.get_mut(&from) {
                        sane = link.ship.handle_applied(applied, durable, end);
                    }
                });
                if !sane {
                    self.disconnect(from, "it acknowledged what it cannot have");
                }
            }
            Message::ShipMore { fileset } => self.with(fileset, |set, _| {
                if let Some(link) = set.links.get_mut(&from) {
                    link.ship.handle_ship_more();
                }
            }),
            Message::Stalled { fileset, reason } => self.with(fileset, |set, _| {
                if let Some(link) = set.links.get_mut(&from) {
                    link.ship.stalled = reason;
                }
            }),
            Message::Revoke { fileset, epoch } => self.with(fileset, |set, out| set.handle_revoke(from, epoch, out)),
            Message::Released { fileset, epoch, last } => self.with(fileset, |set, _| {
                if set.is_holder() && set.saved.owner == from && set.saved.epoch == epoch {
                    set.permits.handle_returned(from, last);
                }
            }),
        }
    }

    fn handle_state(&mut self, from: HostId, state: FileSetState) {
        self.with(state.fileset, |set, out| set.handle_state(from, state, out));
    }

    fn handle_shipment(&mut self, from: HostId, mut shipment: Shipment) {
        let mut sane = true;
        self.with(shipment.fileset, |set, out| {
            let holder = set.is_holder();
            if set.has_lost(from) {
                return;
            }
            let Some(link) = set.links.get_mut(&from) else { return };
            // A replicator ships what it wrote itself; only the holder forwards what others wrote.
            let foreign = !shipment.records.is_empty() && shipment.writer != from;
            if holder && (foreign || shipment.upto.epoch > set.saved.epoch) {
                sane = false;
            } else if link.copy == Copying::Not {
                if holder {
                    // An epoch is all here before it ends. What comes of an ended one was told anew after a loss of
                    // power, and what others wrote since must not be undone by it: only the position passes.
                    let (current, owner) = (set.saved.epoch, set.saved.owner);
                    shipment.records.retain(|record| owner == from && record.epoch == current);
                }
                match link.apply.handle_shipment(shipment) {
                    Taken::Queued | Taken::Stale => {}
                    Taken::Known => set.tell_applied(from, out),
                    Taken::TooMany => sane = false,
                }
            }
        });
        if !sane {
            self.disconnect(
                from,
                "it shipped more than the window allows, in another host's name, or of an epoch that was not given",
            );
        }
    }

    fn disconnect(&mut self, host: HostId, reason: &str) {
        self.out.push_back(Action::Disconnect { host, reason: reason.to_owned() });
    }
}

/// # What one file set does with an event
impl FileSet {
    fn handle_presto(&mut self, event: PrestoEvent, out: &mut VecDeque<Action>) {
        match event {
            PrestoEvent::Up { permit, lost_after } => {
                self.mine.handle_presto_up(permit);
                if let Some(number) = lost_after {
                    self.handle_lost_power(number, out);
                }
                self.become_known(out);
                self.absorb(out);
            }
            PrestoEvent::Down => self.mine.handle_presto_gone(false),
            PrestoEvent::Absent => {
                self.mine.handle_presto_gone(true);
                self.become_known(out);
                // Its last records may not have been announced.
                self.absorb(out);
            }
            PrestoEvent::WantsPermit => self.mine.wanted = true,
            PrestoEvent::Tires => self.mine.recall_at_once(),
            PrestoEvent::Released { last } => {
                self.mine.handle_released(last);
                self.absorb(out);
            }
            PrestoEvent::Advanced => self.absorb(out),
        }
    }

    /// From now on this host can tell how it stands, and judge how others do.
    fn become_known(&mut self, out: &mut VecDeque<Action>) {
        if self.known {
            return;
        }
        self.known = true;
        self.tell_everyone(out);
        let early: Vec<_> = self.links.iter_mut().filter_map(|(host, link)| Some((*host, link.peer.take()?))).collect();
        for (host, state) in early {
            self.handle_state(host, state, out);
        }
    }

    fn handle_absorbed(&mut self, tail: Position, out: &mut VecDeque<Action>) {
        // A log that could not be read is read again before anything is concluded from where it ends.
        let again = self.absorbing == Absorbing::RunningAgain || tail < self.tail;
        self.absorbing = Absorbing::Idle;
        self.tail = self.tail.max(tail);
        for link in self.links.values_mut() {
            link.ship.handle_growth();
        }
        if again {
            self.absorb(out);
        } else {
            out.push_back(Action::Downcall { fileset: self.id, downcall: Downcall::Arm { seen: self.tail.number } });
        }
    }

    fn handle_history(&mut self, to: HostId, read: u64, result: HistoryResult, out: &mut VecDeque<Action>) {
        let (fileset, me) = (self.id, self.me);
        let Some(link) = self.links.get_mut(&to) else { return };
        if !link.ship.handle_read(read) {
            return;
        }
        let shipment = match result {
            HistoryResult::Shipment(shipment) => {
                link.ship.handle_shipment(shipment.upto);
                Some(shipment)
            }
            HistoryResult::UpToDate(upto) => link.ship.handle_up_to_date(upto).map(|(after, upto)| Shipment {
                fileset,
                after,
                upto,
                writer: me,
                records: vec![],
                settled: vec![],
            }),
            HistoryResult::TooOld => return self.handle_too_old(to, out),
            HistoryResult::Failed(why) => {
                link.ship.handle_read_failed(why);
                return;
            }
        };
        link.ship.handle_read_done();
        if let Some(shipment) = shipment {
            out.push_back(Action::Send { to, message: Message::Shipment(shipment) });
        }
    }

    fn handle_committed(&mut self, from: HostId, result: CommitResult, now_ms: u64, out: &mut VecDeque<Action>) {
        let fileset = self.id;
        let Some(link) = self.links.get_mut(&from) else { return };
        if let CommitResult::Misbehaved(reason) = &result {
            out.push_back(Action::Disconnect { host: from, reason: reason.clone() });
        }
        let (before, stalled) = (link.apply.applied, link.apply.stalled.clone());
        if let Some(crate::apply::Step::FetchMissing(objects)) = link.apply.handle_committed(now_ms, result) {
            out.push_back(Action::FetchMissing { fileset, from, objects });
        }
        let (advanced, changed) = (link.apply.applied > before, link.apply.stalled != stalled);
        if advanced {
            self.tell_applied(from, out);
            for (_, other) in self.links.iter_mut().filter(|(host, _)| **host != from) {
                other.ship.handle_growth();
            }
            // The sender skips what it wrote itself, but its position must pass it.
            if let Some(link) = self.links.get_mut(&from) {
                link.ship.handle_growth();
                if link.skipping_to.take_if(|upto| *upto <= link.apply.applied).is_some() {
                    self.send_state(from, out);
                }
            }
        }
        if changed {
            self.tell_stalled(from, out);
        }
    }

    fn handle_synced(&mut self, result: Result<(), String>, now_ms: u64, out: &mut VecDeque<Action>) {
        self.schedule_sync(now_ms);
        if let (Some(tail), Ok(())) = (self.syncing.take(), &result) {
            self.tail_durable = self.tail_durable.max(tail);
        }
        let mut told = vec![];
        for (host, link) in &mut self.links {
            match (&result, link.apply.syncing.take()) {
                (Ok(()), Some(upto)) => {
                    let upto = upto.min(link.apply.applied);
                    if upto > link.apply.durable {
                        link.apply.durable = upto;
                        told.push(*host);
                    }
                }
                (Err(why), _) => link.apply.stalled.clone_from(why),
                (Ok(()), None) => {}
            }
        }
        told.into_iter().for_each(|host| self.tell_applied(host, out));
    }

    fn handle_revoke(&mut self, from: HostId, epoch: u64, out: &mut VecDeque<Action>) {
        if from != self.saved.holder || self.is_holder() {
            return;
        }
        let arriving = matches!(self.mine.state, crate::mine::Mine::Arriving { epoch: e, .. } if e == epoch);
        if arriving || self.mine.epoch().is_some() {
            self.mine.recalled = true;
        } else {
            // The grant may still be on its way: a reply may be overtaken by a message.
            self.mine.withdraw();
            let last = self.tail;
            out.push_back(Action::Send { to: from, message: Message::Released { fileset: self.id, epoch, last } });
        }
    }
}
