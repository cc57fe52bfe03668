//! One file set of this host: its links, its permit, and the one place where all of them are moved on.

use crate::apply::Step as ApplyStep;
use crate::link::{Copying, Link};
use crate::mine::{Mine, MyPermit, PermitStep};
use crate::permits::{Permits, TableStep};
use crate::{Action, Saved};
use protocol::{Downcall, FileSetId, FileSetState, HostId, Message, Position, limits};
use std::collections::{BTreeMap, VecDeque};

/// What [`crate::Engine::add_fileset`] needs.
#[derive(Debug, Clone)]
pub struct FileSetSetup {
    /// Which.
    pub fileset: FileSetId,
    /// The state that was saved, or a new one.
    pub saved: Saved,
    /// The end of this host's own log.
    pub tail: Position,
    /// How far each peer's history is applied, by the index.
    pub applied: BTreeMap<HostId, Position>,
    /// Whether a Presto is expected to connect.
    pub mounted: bool,
}

/// A file set's state.
#[derive(Debug)]
pub(crate) struct FileSet {
    pub(crate) id: FileSetId,
    pub(crate) me: HostId,
    pub(crate) saved: Saved,
    pub(crate) tail: Position,
    pub(crate) links: BTreeMap<HostId, Link>,
    pub(crate) mine: MyPermit,
    pub(crate) permits: Permits,
    pub(crate) absorbing: Absorbing,
    /// Whether Presto has said what became of the log, or there is none: before that this host cannot tell anybody how
    /// it stands, as it may have lost records with the power.
    pub(crate) known: bool,
    /// Set while a sync is under way: the end of this host's own log that it makes durable.
    pub(crate) syncing: Option<Position>,
    /// All of this host's own log up to here survives a loss of power.
    pub(crate) tail_durable: Position,
    pub(crate) next_sync_ms: u64,
    /// The log may go up to here; what was last said to the shell.
    pub(crate) trimmed: Position,
}

/// Whether the index is being brought up to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absorbing {
    Idle,
    Running,
    /// The log grew while it ran.
    RunningAgain,
}

impl FileSet {
    pub(crate) fn new(me: HostId, setup: FileSetSetup) -> Self {
        let peers: Vec<HostId> = if setup.saved.holder == me {
            setup.saved.replicators.iter().copied().collect()
        } else {
            vec![setup.saved.holder]
        };
        let link = |host: &HostId| Link::new(setup.applied.get(host).copied().unwrap_or_default());
        Self {
            id: setup.fileset,
            me,
            mine: MyPermit::new(setup.saved.mine, setup.mounted),
            saved: setup.saved,
            tail: setup.tail,
            links: peers.iter().map(|host| (*host, link(host))).collect(),
            permits: Permits::default(),
            absorbing: Absorbing::Idle,
            known: !setup.mounted,
            syncing: None,
            tail_durable: Position::START,
            next_sync_ms: 0,
            trimmed: Position::START,
        }
    }

    pub(crate) fn is_holder(&self) -> bool {
        self.saved.holder == self.me
    }

    /// The end of the history as this host knows it.
    pub(crate) fn history_end(&self) -> Position {
        self.links.values().map(|link| link.apply.applied).fold(self.tail, Position::max)
    }

    pub(crate) fn state_for(&self, peer: HostId) -> FileSetState {
        FileSetState {
            fileset: self.id,
            incarnation: self.saved.incarnation,
            in_step_with: self
                .saved
                .in_step
                .filter(|(_, own)| *own == self.saved.incarnation)
                .map(|(theirs, _)| theirs),
            applied: self.links.get(&peer).map_or(Position::START, |link| link.apply.applied),
            tail: self.tail,
            permit: self.mine.epoch(),
            lost: self.lost_for(peer),
        }
    }

    pub(crate) fn save(&mut self, out: &mut VecDeque<Action>) {
        self.saved.mine = self.mine.epoch();
        out.push_back(Action::Save { fileset: self.id, saved: self.saved.clone() });
    }

    /// Whoever hears a state ships from its `applied` on: what is queued here comes again.
    pub(crate) fn send_state(&mut self, to: HostId, out: &mut VecDeque<Action>) {
        let known = self.known;
        let Some(link) = self.links.get_mut(&to).filter(|link| known && link.up) else { return };
        let applied = link.apply.applied;
        link.apply.reset(applied);
        out.push_back(Action::Send { to, message: Message::State(self.state_for(to)) });
    }

    /// Whether this host's copy and `peer`'s continue one another's logs.
    pub(crate) fn in_step(&self, peer: HostId) -> bool {
        let Some(theirs) = self.links.get(&peer).and_then(|link| link.peer.as_ref()) else { return false };
        if self.is_holder() {
            theirs.in_step_with == Some(self.saved.incarnation)
        } else {
            self.saved.in_step == Some((theirs.incarnation, self.saved.incarnation))
        }
    }

    /// Moves everything on as far as it goes without another event.
    pub(crate) fn advance(&mut self, now_ms: u64, out: &mut VecDeque<Action>) {
        if self.lease_end().is_some_and(|at| at <= now_ms) {
            self.take_permit(out);
        }
        self.advance_permit_table(out);
        self.advance_my_permit(now_ms, out);
        // A permit that came home may go on to another waiter, and the local one may wait too.
        self.advance_permit_table(out);
        self.advance_my_permit(now_ms, out);
        let peers: Vec<HostId> = self.links.keys().copied().collect();
        for peer in peers {
            self.advance_copy(peer, now_ms, out);
            self.advance_ship(peer, out);
            if self.advance_apply(peer, now_ms, out) {
                // A comparison became necessary: the permit must go first.
                self.advance_my_permit(now_ms, out);
                self.advance_copy(peer, now_ms, out);
            }
        }
        self.advance_sync(now_ms, out);
        self.advance_trim(out);
    }

    /// Whether a tree is being taken over: nothing may be written here meanwhile, unless this is the holder.
    fn copying(&self) -> bool {
        self.links.values().any(|link| link.copy != Copying::Not)
    }

    fn advance_permit_table(&mut self, out: &mut VecDeque<Action>) {
        // While the holder takes over a replicator's tree nobody is given the permit: what he wrote would be undone.
        if !self.is_holder() || self.copying() {
            return;
        }
        loop {
            let home = self.saved.owner == self.me && matches!(self.mine.state, Mine::None | Mine::Asked);
            if home && !self.all_durable() && self.permits.waiters().next().is_some() {
                // An epoch is durable before the next one begins: what the next one builds on is not lost, and nothing
                // of the old one is replayed after a loss of power to undo what the new one did.
                self.next_sync_ms = 0;
                return;
            }
            let links = &self.links;
            let applied = |host: HostId| links.get(&host).map_or(Position::START, |link| link.apply.applied);
            match self.permits.poll(self.saved.owner, home, applied) {
                None => return,
                Some(TableStep::Home) => {
                    self.saved.owner = self.me;
                    self.save(out);
                }
                Some(TableStep::Give(host)) => {
                    self.saved.epoch += 1;
                    self.saved.owner = host;
                    self.save(out);
                    self.give(host, out);
                }
                Some(TableStep::Repeat(host)) => self.give(host, out),
                Some(TableStep::Recall(owner)) if owner == self.me => {
                    self.mine.recalled = true;
                    return;
                }
                Some(TableStep::Recall(owner)) => {
                    let (fileset, epoch) = (self.id, self.saved.epoch);
                    if let Some(link) = self.links.get_mut(&owner)
                        && link.up
                        && link.recalled != Some(epoch)
                    {
                        link.recalled = Some(epoch);
                        out.push_back(Action::Send { to: owner, message: Message::Revoke { fileset, epoch } });
                    }
                    return;
                }
            }
        }
    }

    fn give(&mut self, host: HostId, out: &mut VecDeque<Action>) {
        let (epoch, after) = (self.saved.epoch, self.history_end());
        if host == self.me {
            self.mine.handle_granted(epoch, after);
        } else {
            out.push_back(Action::GrantPermit { to: host, fileset: self.id, epoch, after });
        }
    }

    fn advance_my_permit(&mut self, now_ms: u64, out: &mut VecDeque<Action>) {
        loop {
            if matches!(self.mine.state, Mine::Draining { .. }) && self.absorbing != Absorbing::Idle {
                // Where the log ends is not known before it was read: the epoch ends there.
                return;
            }
            let (applied, may_ask) = if self.is_holder() {
                (self.history_end(), true)
            } else {
                let holder = self.saved.holder;
                let link = self.links.get(&holder);
                (link.map_or(Position::START, |l| l.apply.applied), self.in_step(holder) && !self.copying())
            };
            if !self.is_holder()
                && self.copying()
                && matches!(self.mine.state, Mine::Arriving { .. } | Mine::Held { .. })
            {
                self.mine.recalled = true;
            }
            let Some(step) = self.mine.poll(now_ms, applied, self.tail, may_ask) else { return };
            let fileset = self.id;
            let downcall = |downcall| Action::Downcall { fileset, downcall };
            match step {
                PermitStep::Ask if self.is_holder() => self.permits.handle_request(self.me),
                PermitStep::Ask => {
                    out.push_back(Action::RequestPermit { to: self.saved.holder, fileset, ask: self.mine.asks })
                }
                PermitStep::Keep { epoch } => {
                    self.saved.epoch = self.saved.epoch.max(epoch);
                    self.save(out);
                }
                PermitStep::Grant { epoch } => out.push_back(downcall(Downcall::Grant { epoch })),
                PermitStep::Revoke => out.push_back(downcall(Downcall::Revoke)),
                PermitStep::Absorb => self.absorb(out),
                PermitStep::GiveBack { epoch } => {
                    self.save(out);
                    if !self.is_holder() {
                        let last = self.tail;
                        let message = Message::Released { fileset, epoch, last };
                        out.push_back(Action::Send { to: self.saved.holder, message });
                    }
                }
            }
        }
    }

    pub(crate) fn absorb(&mut self, out: &mut VecDeque<Action>) {
        self.absorbing = match self.absorbing {
            Absorbing::Idle => {
                out.push_back(Action::Absorb(self.id));
                Absorbing::Running
            }
            Absorbing::Running | Absorbing::RunningAgain => Absorbing::RunningAgain,
        };
    }

    fn advance_ship(&mut self, peer: HostId, out: &mut VecDeque<Action>) {
        // What a replicator wrote is not kept for it, yet its position must pass it; the holder needs no such word.
        let end = if self.is_holder() { self.history_end() } else { Position::START };
        let Some(link) = self.links.get_mut(&peer) else { return };
        if let Some((after, read)) = link.ship.poll_read(end) {
            out.push_back(Action::ReadHistory { fileset: self.id, to: peer, after, read });
        }
    }

    /// Returns whether a comparison has become necessary.
    fn advance_apply(&mut self, peer: HostId, now_ms: u64, out: &mut VecDeque<Action>) -> bool {
        let fileset = self.id;
        let Some(link) = self.links.get_mut(&peer) else { return false };
        if !link.up || link.copy != Copying::Not {
            return false;
        }
        let from = peer;
        match link.apply.poll(now_ms) {
            None if link.apply.poll_ship_more() => {
                out.push_back(Action::Send { to: peer, message: Message::ShipMore { fileset } });
            }
            None => {}
            Some(ApplyStep::Stage(wanted)) => {
                // One request names a bounded number of objects; the shell splits.
                out.push_back(Action::Stage { fileset, from, wanted });
            }
            Some(ApplyStep::Commit(shipments)) => out.push_back(Action::Commit { fileset, from, shipments }),
            Some(ApplyStep::FetchMissing(objects)) => out.push_back(Action::FetchMissing { fileset, from, objects }),
            Some(ApplyStep::Compare) => {
                self.need_copy(peer, out);
                return true;
            }
        }
        false
    }

    pub(crate) fn tell_stalled(&self, peer: HostId, out: &mut VecDeque<Action>) {
        if let Some(link) = self.links.get(&peer)
            && link.up
        {
            let message = Message::Stalled { fileset: self.id, reason: link.apply.stalled.clone() };
            out.push_back(Action::Send { to: peer, message });
        }
    }

    pub(crate) fn tell_applied(&self, peer: HostId, out: &mut VecDeque<Action>) {
        if let Some(link) = self.links.get(&peer)
            && link.up
        {
            let message = Message::Applied {
                fileset: self.id,
                applied: link.apply.applied,
                durable: link.apply.durable.min(link.apply.applied),
            };
            out.push_back(Action::Send { to: peer, message });
        }
    }

    /// Whether something was applied that a loss of power would take back.
    fn unsynced(&self) -> bool {
        self.links.values().any(|link| link.apply.durable < link.apply.applied)
    }

    fn all_durable(&self) -> bool {
        self.tail_durable >= self.tail && !self.unsynced()
    }

    fn advance_sync(&mut self, now_ms: u64, out: &mut VecDeque<Action>) {
        let wanted = self.unsynced() || (self.next_sync_ms == 0 && !self.all_durable());
        if wanted && self.syncing.is_none() && self.next_sync_ms <= now_ms {
            self.syncing = Some(self.tail);
            for link in self.links.values_mut() {
                link.apply.syncing = Some(link.apply.applied);
            }
            out.push_back(Action::Sync(self.id));
        }
    }

    /// Everything that all peers have durably may go from the log. What replicators that are away lack is bounded by
    /// the log's own limit, not here.
    fn advance_trim(&mut self, out: &mut VecDeque<Action>) {
        let needed = self.links.values().map(|link| link.ship.durable).min();
        // A peer may have what this host forgot with its index, or lost with the power.
        let end = self.history_end();
        let upto = needed.map_or(end, |needed| needed.min(end));
        if upto > self.trimmed {
            self.trimmed = upto;
            out.push_back(Action::Trim { fileset: self.id, upto });
        }
    }

    pub(crate) fn timeout(&self) -> Option<u64> {
        let links = self.links.values().filter(|link| link.up).flat_map(|link| {
            let pause = match link.copy {
                Copying::Pausing { until_ms } => Some(until_ms),
                _ => None,
            };
            [link.apply.timeout().filter(|_| link.copy == Copying::Not), pause]
        });
        let sync = (self.unsynced() && self.syncing.is_none()).then_some(self.next_sync_ms);
        links.chain([self.mine.timeout(), sync, self.lease_end()]).flatten().min()
    }

    /// The time at which the next sync may begin, set when one ended.
    pub(crate) fn schedule_sync(&mut self, now_ms: u64) {
        self.next_sync_ms = now_ms + limits::SYNC_INTERVAL_MS;
    }
}
