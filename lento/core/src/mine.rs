//! The permit as this host has it (paper: GetPermit, HAS_PERMIT): from the wish of the local Presto to the last record
//! made under it. The holder uses it for itself as every replicator does.

use protocol::{Position, limits};

/// Whether there is a Presto, and what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presto {
    /// Not mounted: nobody writes.
    Absent,
    /// It died; what its last record was is known when it is back.
    Down,
    /// It serves; `granted` if it may write.
    Up {
        /// Whether it has the permit.
        granted: bool,
    },
}

/// The state of the permit here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mine {
    /// Not here.
    None,
    /// Asked for.
    Asked,
    /// On its way: all up to `after` must be applied first.
    Arriving { epoch: u64, after: Position },
    /// Here.
    Held { epoch: u64, since_ms: u64 },
    /// Presto was told to give it back.
    Revoking { epoch: u64 },
    /// Presto gave it back; the index must reach its last record.
    Draining { epoch: u64, last: u64 },
}

/// The permit here, who wants it, and who wants it back.
#[derive(Debug, Clone)]
pub(crate) struct MyPermit {
    pub(crate) state: Mine,
    pub(crate) presto: Presto,
    /// Presto wants to write.
    pub(crate) wanted: bool,
    /// It is wanted back.
    pub(crate) recalled: bool,
    /// How often it was asked for. The answer to an earlier request is not taken: that permit was given back unseen, or
    /// its connection is gone, and the holder may have given it to another host since.
    pub(crate) asks: u64,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PermitStep {
    /// Ask the holder.
    Ask,
    /// It has arrived: keep that durably.
    Keep { epoch: u64 },
    /// Tell Presto that it may write.
    Grant { epoch: u64 },
    /// Tell Presto to give it back.
    Revoke,
    /// Bring the index up to the end of the log.
    Absorb,
    /// It is given back: all of the epoch is in the log and the index.
    GiveBack { epoch: u64 },
}

impl MyPermit {
    pub(crate) fn new(saved: Option<u64>, mounted: bool) -> Self {
        let state = saved.map_or(Mine::None, |epoch| Mine::Held { epoch, since_ms: 0 });
        let presto = if mounted { Presto::Down } else { Presto::Absent };
        Self { state, presto, wanted: false, recalled: false, asks: 0 }
    }

    /// The epoch of the permit while it is usable here.
    pub(crate) fn epoch(&self) -> Option<u64> {
        match self.state {
            Mine::Held { epoch, .. } | Mine::Revoking { epoch } | Mine::Draining { epoch, .. } => Some(epoch),
            Mine::None | Mine::Asked | Mine::Arriving { .. } => None,
        }
    }

    pub(crate) fn handle_presto_up(&mut self, permit: Option<u64>) {
        self.presto = Presto::Up { granted: permit.is_some() };
        self.state = match (self.state, permit) {
            // The request to give it back went to the process that died, or to another life of this one.
            (Mine::Revoking { epoch }, _) => Mine::Held { epoch, since_ms: 0 },
            // It has what it should not have; it is taken back.
            (Mine::None | Mine::Asked | Mine::Arriving { .. }, Some(epoch)) => {
                self.recalled = true;
                Mine::Held { epoch, since_ms: 0 }
            }
            (state, _) => state,
        };
    }

    pub(crate) fn handle_presto_gone(&mut self, absent: bool) {
        self.presto = if absent { Presto::Absent } else { Presto::Down };
        self.wanted = false;
        if let Mine::Revoking { epoch } = self.state {
            self.state = Mine::Held { epoch, since_ms: 0 };
        }
    }

    pub(crate) fn handle_released(&mut self, last: u64) {
        if let Presto::Up { granted } = &mut self.presto {
            *granted = false;
        }
        if let Mine::Revoking { epoch } = self.state {
            self.state = Mine::Draining { epoch, last };
        }
    }

    /// It is not this host's any more: it goes without delay.
    pub(crate) fn recall_at_once(&mut self) {
        self.withdraw();
        self.recalled = self.epoch().is_some() || matches!(self.state, Mine::Arriving { .. });
        if let Mine::Held { since_ms, .. } = &mut self.state {
            *since_ms = 0;
        }
    }

    /// Whether the answer to this request is waited for.
    pub(crate) fn is_awaited(&self, ask: u64) -> bool {
        self.state == Mine::Asked && self.asks == ask
    }

    /// The request that is under way is not to be answered any more.
    pub(crate) fn withdraw(&mut self) {
        if self.state == Mine::Asked {
            self.state = Mine::None;
        }
    }

    pub(crate) fn handle_granted(&mut self, epoch: u64, after: Position) {
        if matches!(self.state, Mine::None | Mine::Asked) {
            self.state = Mine::Arriving { epoch, after };
        }
    }

    /// The connection on which it was asked for, or granted and not yet kept, is gone.
    pub(crate) fn handle_disconnected(&mut self) {
        if matches!(self.state, Mine::Asked | Mine::Arriving { .. }) {
            self.state = Mine::None;
        }
        self.recalled = false;
    }

    /// What to do next, given how far the holder's history is applied here, how far the index has this host's own log,
    /// and whether asking makes sense now. Called until `None`.
    pub(crate) fn poll(&mut self, now_ms: u64, applied: Position, tail: Position, may_ask: bool) -> Option<PermitStep> {
        match self.state {
            Mine::None if self.wanted && may_ask => {
                self.state = Mine::Asked;
                self.asks += 1;
                Some(PermitStep::Ask)
            }
            Mine::Arriving { epoch, .. } if self.recalled => {
                self.state = Mine::None;
                self.recalled = false;
                Some(PermitStep::GiveBack { epoch })
            }
            Mine::Arriving { epoch, after } if applied >= after => {
                self.state = Mine::Held { epoch, since_ms: now_ms };
                Some(PermitStep::Keep { epoch })
            }
            Mine::Held { epoch, .. } if self.recall_due(now_ms) => match self.presto {
                Presto::Up { granted: true } => {
                    self.state = Mine::Revoking { epoch };
                    Some(PermitStep::Revoke)
                }
                Presto::Down => None,
                Presto::Up { granted: false } | Presto::Absent => {
                    self.state = Mine::Draining { epoch, last: 0 };
                    Some(PermitStep::Absorb)
                }
            },
            Mine::Held { epoch, .. } if !self.recalled && self.presto == (Presto::Up { granted: false }) => {
                self.presto = Presto::Up { granted: true };
                self.wanted = false;
                Some(PermitStep::Grant { epoch })
            }
            Mine::Draining { epoch, last } if tail.number >= last => {
                self.state = Mine::None;
                self.recalled = false;
                Some(PermitStep::GiveBack { epoch })
            }
            _ => None,
        }
    }

    fn recall_due(&self, now_ms: u64) -> bool {
        self.recalled && self.timeout().is_some_and(|at| at <= now_ms)
    }

    pub(crate) fn timeout(&self) -> Option<u64> {
        match self.state {
            Mine::Held { since_ms, .. } if self.recalled && self.presto != Presto::Down => {
                // A permit that was kept from an earlier life has `since_ms` 0: it is due at once.
                Some(if since_ms == 0 { 0 } else { since_ms + limits::PERMIT_MIN_HOLD_MS })
            }
            _ => None,
        }
    }
}
