//! What the mind keeps through a restart of Lento.

use protocol::HostId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The durable state of one file set. Positions are not in it: they are with the index, which advances them together
/// with the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The server with the authoritative copy.
    pub holder: HostId,
    /// The others that store it; known to the holder.
    pub replicators: BTreeSet<HostId>,
    /// The highest permit epoch that this host has given or was given.
    pub epoch: u64,
    /// At the holder: who has the permit.
    pub owner: HostId,
    /// The epoch of the permit, if it is here.
    pub mine: Option<u64>,
    /// Counts recoveries from a loss of power.
    pub incarnation: u64,
    /// The last loss of power that was counted, by the number of the last record that survived it.
    pub lost_after: Option<u64>,
    /// At a replicator: the incarnations, the holder's and its own, with which its tree was last in step.
    pub in_step: Option<(u64, u64)>,
}

impl Saved {
    /// A new file set, held by `holder`, which has the permit.
    pub fn held_by(holder: HostId, me: HostId) -> Self {
        let epoch = if holder == me { 1 } else { 0 };
        Self {
            holder,
            replicators: BTreeSet::new(),
            epoch,
            owner: holder,
            mine: (holder == me).then_some(epoch),
            incarnation: 1,
            lost_after: None,
            in_step: None,
        }
    }

    /// The index of host `me` was made anew, and what it said of other copies is gone: the trees are to be compared.
    pub fn forget_index(&mut self, me: HostId) {
        self.in_step = None;
        if self.holder == me {
            self.incarnation += 1;
        }
    }
}
