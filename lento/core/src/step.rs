//! Getting in step (design §4 D6, D11): a copy that cannot be continued by the log is brought up by comparison.
//!
//! The side that takes the other's tree must have given away first what only it has: a replicator gives up its permit and
//! ships its whole log, then compares. The holder compares with a replicator only when that one had the permit for so
//! long that its log does not reach back; then every other replicator must compare too.

use crate::Action;
use crate::fileset::{Absorbing, FileSet};
use crate::link::Copying;
use crate::mine::Mine;
use protocol::{FileSetState, HostId, Message, Position, Shipment, limits};
use std::collections::VecDeque;

impl FileSet {
    /// The copy must be taken anew from `peer`.
    pub(crate) fn need_copy(&mut self, peer: HostId, out: &mut VecDeque<Action>) {
        if self.is_holder() && self.saved.owner != peer {
            // Only who has the permit may be ahead of the holder. A word that came late must not undo what was written
            // since: found by simulation.
            return;
        }
        if !self.is_holder() {
            self.saved.in_step = None;
            self.save(out);
        }
        if let Some(link) = self.links.get_mut(&peer)
            && link.copy == Copying::Not
        {
            link.copy = Copying::Draining;
        }
    }

    /// The log of `peer`, which ends at `tail`, does not reach back to `after`, where this host stood.
    pub(crate) fn handle_peer_too_old(
        &mut self,
        peer: HostId,
        after: Position,
        tail: Position,
        out: &mut VecDeque<Action>,
    ) {
        if !self.is_holder() {
            return self.need_copy(peer, out);
        }
        // Only who has the permit, and wrote under it, is ahead of the holder: taking another's tree would undo what
        // was written since. Each ended epoch was all here before it ended. How far that was is forgotten with an index
        // that is made anew, and a peer that is not told would wait for ever for its log to be taken.
        let ahead = self.saved.owner == peer && tail.epoch == self.saved.epoch;
        let known = tail.epoch <= self.saved.epoch;
        let Some(link) = self.links.get_mut(&peer) else { return };
        let applied = link.apply.applied;
        if after < applied {
            // It does not know yet where this host stands now.
            self.send_state(peer, out);
        } else if ahead {
            self.need_copy(peer, out);
        } else if known && tail > applied {
            // The index, too, must know: others are told to go on from where it says that this host stands.
            let skip = Shipment {
                fileset: self.id,
                after: applied,
                upto: tail,
                writer: peer,
                records: vec![],
                settled: vec![],
            };
            link.apply.handle_shipment(skip);
            link.skipping_to = Some(tail);
        }
    }

    /// A peer says how it stands.
    pub(crate) fn handle_state(&mut self, from: HostId, state: FileSetState, out: &mut VecDeque<Action>) {
        let holder = self.is_holder();
        let Some(link) = self.links.get_mut(&from) else { return };
        let first = link.peer.is_none();
        let (applied, permit, tail) = (state.applied, state.permit, state.tail);
        link.peer = Some(state.clone());
        if !self.known
            || self.handle_taken(from, &state, out)
            || (holder && self.handle_loser(from, first, &state, out))
        {
            return;
        }
        if first || (holder && !self.in_step(from)) {
            // What was sent when the connection came up may have reached a host that had not taken the file set up.
            // Only the holder answers more than once, so that the two do not answer each other for ever.
            self.send_state(from, out);
        }
        if holder && first {
            // Only the first state of a connection tells of the permit: later ones may cross a grant.
            match permit {
                None if self.saved.owner == from => self.permits.handle_returned(from, tail),
                Some(epoch) if self.saved.owner != from => {
                    let message = Message::Revoke { fileset: self.id, epoch };
                    out.push_back(Action::Send { to: from, message });
                }
                Some(epoch) if epoch > self.saved.epoch && epoch < u64::MAX / 2 => {
                    self.saved.epoch = epoch;
                    self.save(out);
                }
                _ => {}
            }
        }
        let in_step = self.in_step(from);
        if !in_step && !holder {
            self.need_copy(from, out);
        }
        if let Some(link) = self.links.get_mut(&from) {
            if in_step || !holder {
                link.ship.open(applied);
            } else {
                link.ship.close();
            }
        }
    }

    pub(crate) fn advance_copy(&mut self, peer: HostId, now_ms: u64, out: &mut VecDeque<Action>) {
        let holder = self.is_holder();
        let Some(link) = self.links.get_mut(&peer) else { return };
        if !link.up {
            return;
        }
        let drained = match link.copy {
            Copying::Not | Copying::Comparing => return,
            Copying::Pausing { until_ms } if until_ms > now_ms => return,
            Copying::Pausing { .. } => true,
            // The holder takes what a replicator has because its own copy is behind it: nothing to give away.
            Copying::Draining if holder => true,
            Copying::Draining if link.lost.is_some() => self.is_rid_of_permit() && self.absorbing == Absorbing::Idle,
            Copying::Draining => {
                matches!(self.mine.state, Mine::None | Mine::Asked)
                    // Where the log ends is not known before it was read.
                    && self.absorbing == Absorbing::Idle
                    && link.ship.is_open()
                    && link.ship.acked >= self.tail
            }
        };
        let Some(link) = self.links.get_mut(&peer) else { return };
        if drained && !link.apply.is_busy() {
            link.copy = Copying::Comparing;
            out.push_back(Action::Compare { fileset: self.id, from: peer });
        }
    }

    pub(crate) fn handle_compared(
        &mut self,
        peer: HostId,
        result: Result<Position, String>,
        now_ms: u64,
        out: &mut VecDeque<Action>,
    ) {
        let holder = self.is_holder();
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.apply.is_fetching_missing() {
            link.apply.handle_missing_fetched(now_ms, result.map(|_| ()));
            self.tell_stalled(peer, out);
            return;
        }
        if link.copy != Copying::Comparing {
            return;
        }
        match result {
            Err(why) => {
                link.apply.stalled = why;
                link.copy = Copying::Pausing { until_ms: now_ms + limits::NO_SPACE_RETRY_MS };
                self.tell_stalled(peer, out);
            }
            Ok(after) => {
                link.copy = Copying::Not;
                // What was taken over is yet to be synced.
                link.apply.reset(after);
                let theirs = link.peer.as_ref().map(|state| state.incarnation);
                if holder {
                    // What was taken over is in no log here: the other replicators, and this one, compare.
                    self.saved.incarnation += 1;
                } else {
                    self.saved.in_step = theirs.map(|theirs| (theirs, self.saved.incarnation));
                    self.saved.gave_up = link.lost.take().or(self.saved.gave_up);
                }
                self.save(out);
                self.tell_everyone(out);
            }
        }
    }

    /// Says the state of this host's copy to all that are connected, and closes what can no longer be continued.
    pub(crate) fn tell_everyone(&mut self, out: &mut VecDeque<Action>) {
        let peers: Vec<HostId> = self.links.keys().copied().collect();
        for peer in peers {
            if self.is_holder()
                && !self.in_step(peer)
                && let Some(link) = self.links.get_mut(&peer)
            {
                link.ship.close();
            }
            self.send_state(peer, out);
        }
    }

    /// The local Presto lost records with the power, up to those after `lost_after`.
    pub(crate) fn handle_lost_power(&mut self, lost_after: u64, out: &mut VecDeque<Action>) {
        if self.saved.lost_after == Some(lost_after) {
            return;
        }
        self.saved.lost_after = Some(lost_after);
        self.saved.incarnation += 1;
        self.save(out);
        self.tell_everyone(out);
        if !self.is_holder() {
            self.need_copy(self.saved.holder, out);
        }
    }

    /// The log here does not reach back to where `peer` stands.
    pub(crate) fn handle_too_old(&mut self, peer: HostId, out: &mut VecDeque<Action>) {
        let (fileset, tail) = (self.id, self.tail);
        if let Some(link) = self.links.get_mut(&peer) {
            let after = link.ship.sent();
            link.ship.close();
            if link.up {
                out.push_back(Action::Send { to: peer, message: Message::TooOld { fileset, after, tail } });
            }
        }
    }
}
