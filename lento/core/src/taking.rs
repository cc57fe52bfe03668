//! Taking the permit from a client that is away (design D10: leases): others do not wait for it longer than its lease.
//!
//! What it wrote under that epoch and had not shipped is never applied. It hears of it with the holder's first word, keeps the
//! contents aside that nobody else has, takes up the holder's tree, and says so; then its log counts from its end.

use crate::Action;
use crate::fileset::FileSet;
use crate::link::Copying;
use crate::mine::Mine;
use protocol::{FileSetState, HostId, Shipment, limits};
use std::collections::VecDeque;

impl FileSet {
    /// When the lease of an owner that is away ends, if somebody waits.
    pub(crate) fn lease_end(&self) -> Option<u64> {
        let owner = self.saved.owner;
        let leased = self.is_holder() && owner != self.me && self.saved.clients.contains(&owner);
        let link = self.links.get(&owner).filter(|link| leased && !link.up)?;
        self.permits.waiters().next()?;
        Some(link.down_since_ms + limits::PERMIT_LEASE_MS)
    }

    /// Takes the permit back from an owner that is away.
    pub(crate) fn take_permit(&mut self, out: &mut VecDeque<Action>) {
        let (owner, epoch) = (self.saved.owner, self.saved.epoch);
        if !self.is_holder() || owner == self.me {
            return;
        }
        self.saved.lost.insert(owner, epoch);
        self.saved.owner = self.me;
        self.permits.handle_taken();
        if let Some(link) = self.links.get_mut(&owner) {
            // What it shipped and is not applied is not taken any more, either.
            let applied = link.apply.applied;
            link.apply.reset(applied);
            link.ship.close();
        }
        self.save(out);
        self.send_state(owner, out);
    }

    /// Whether a host has yet to hear, and to say, that its permit was taken.
    pub(crate) fn has_lost(&self, host: HostId) -> bool {
        self.saved.lost.contains_key(&host)
    }

    /// At the holder: what such a host says. Returns whether there is nothing else to say to it for now.
    pub(crate) fn handle_loser(
        &mut self,
        from: HostId,
        first: bool,
        state: &FileSetState,
        out: &mut VecDeque<Action>,
    ) -> bool {
        let Some(epoch) = self.saved.lost.get(&from).copied() else { return false };
        if state.lost != Some(epoch) || state.permit.is_some() {
            if first {
                self.send_state(from, out);
            }
            return true;
        }
        self.saved.lost.remove(&from);
        self.save(out);
        if let Some(link) = self.links.get_mut(&from)
            && state.tail > link.apply.applied
        {
            let (after, upto) = (link.apply.applied, state.tail);
            let skip = Shipment { fileset: self.id, after, upto, writer: from, records: vec![], settled: vec![] };
            link.apply.handle_shipment(skip);
            link.skipping_to = Some(upto);
        } else {
            self.send_state(from, out);
        }
        false
    }

    /// At a client: the holder took the permit of an epoch. Returns whether that is news.
    pub(crate) fn handle_taken(&mut self, from: HostId, state: &FileSetState, out: &mut VecDeque<Action>) -> bool {
        let Some(epoch) = state.lost.filter(|_| !self.is_holder()) else { return false };
        if self.saved.gave_up == Some(epoch) {
            return false;
        }
        self.mine.recall_at_once();
        self.saved.in_step = None;
        self.save(out);
        if let Some(link) = self.links.get_mut(&from) {
            link.ship.close();
            link.ship.acked = state.applied;
            link.lost = Some(epoch);
            if link.copy == Copying::Not {
                link.copy = Copying::Draining;
            }
        }
        true
    }

    /// Whether a client that lost its permit has none of it left, so that it can take up the holder's tree.
    pub(crate) fn is_rid_of_permit(&self) -> bool {
        matches!(self.mine.state, Mine::None | Mine::Asked)
    }

    /// What is said of it to `peer`: see [`FileSetState::lost`].
    pub(crate) fn lost_for(&self, peer: HostId) -> Option<u64> {
        if self.is_holder() { self.saved.lost.get(&peer).copied() } else { self.saved.gave_up }
    }
}
