//! The holder's table of one file set's permit: who has it, who waits (paper: GetPermit; design D10).

use protocol::{HostId, Position};
use std::collections::VecDeque;

/// Who waits, and what is awaited from the owner.
#[derive(Debug, Clone, Default)]
pub(crate) struct Permits {
    waiters: VecDeque<HostId>,
    /// The owner gave it back: its history must be applied up to here before the next epoch.
    returning: Option<(HostId, Position)>,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableStep {
    /// Have the owner give it back.
    Recall(HostId),
    /// All of the old epoch is applied: the permit is home.
    Home,
    /// Give it to this host, in a new epoch.
    Give(HostId),
    /// The owner asks again: the grant was lost. Give it the same epoch.
    Repeat(HostId),
}

impl Permits {
    pub(crate) fn handle_request(&mut self, host: HostId) {
        if !self.waiters.contains(&host) {
            self.waiters.push_back(host);
        }
    }

    /// A host that is not connected does not wait.
    pub(crate) fn handle_down(&mut self, host: HostId) {
        self.waiters.retain(|waiter| *waiter != host);
    }

    /// The owner has given it back, having written up to `last`.
    pub(crate) fn handle_returned(&mut self, owner: HostId, last: Position) {
        self.returning = Some((owner, last));
    }

    /// It was taken from the owner: nothing is awaited from that one.
    pub(crate) fn handle_taken(&mut self) {
        self.returning = None;
    }

    pub(crate) fn waiters(&self) -> impl Iterator<Item = HostId> {
        self.waiters.iter().copied()
    }

    /// What to do next. `home` tells whether the owner is this host and does not use it; `applied` is how far a host's
    /// history is applied here.
    pub(crate) fn poll(
        &mut self,
        owner: HostId,
        home: bool,
        applied: impl Fn(HostId) -> Position,
    ) -> Option<TableStep> {
        if let Some((from, last)) = self.returning {
            if applied(from) < last {
                return None;
            }
            self.returning = None;
            return Some(TableStep::Home);
        }
        let first = *self.waiters.front()?;
        if home {
            self.waiters.pop_front();
            return Some(TableStep::Give(first));
        }
        if first == owner {
            self.waiters.pop_front();
            return Some(TableStep::Repeat(first));
        }
        Some(TableStep::Recall(owner))
    }
}
