//! One peer of one file set: what is shipped to it, what it ships, and whether the two trees are in step.

use crate::{apply::Apply, ship::Ship};
use protocol::{FileSetState, Position};

/// The link to one peer.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// Whether a connection stands.
    pub(crate) up: bool,
    /// What the peer said of itself on this connection.
    pub(crate) peer: Option<FileSetState>,
    pub(crate) ship: Ship,
    pub(crate) apply: Apply,
    pub(crate) copy: Copying,
    /// At the holder: the epoch whose end was asked for on this connection.
    pub(crate) recalled: Option<u64>,
    /// Since when there is no connection; the beginning, if there was none.
    pub(crate) down_since_ms: u64,
    /// At a client: the permit of this epoch was taken, and the holder's tree is to be taken up.
    pub(crate) lost: Option<u64>,
    /// At the holder: the peer ships on from here when this host stands here.
    pub(crate) skipping_to: Option<Position>,
}

/// Taking over the peer's whole tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copying {
    /// Not needed, or not yet known to be.
    Not,
    /// Needed: what this host wrote must be with the peer first.
    Draining,
    /// Under way.
    Comparing,
    /// It failed: tried again at this time.
    Pausing {
        /// When.
        until_ms: u64,
    },
}

impl Link {
    pub(crate) fn new(applied: Position) -> Self {
        Self {
            up: false,
            peer: None,
            ship: Ship::default(),
            apply: Apply::new(applied),
            copy: Copying::Not,
            recalled: None,
            down_since_ms: 0,
            lost: None,
            skipping_to: None,
        }
    }

    pub(crate) fn handle_up(&mut self) {
        self.handle_down();
        self.up = true;
    }

    pub(crate) fn handle_down(&mut self) {
        self.up = false;
        self.peer = None;
        self.ship.close();
        let applied = self.apply.applied;
        self.apply.reset(applied);
        self.recalled = None;
        self.lost = None;
        self.skipping_to = None;
        if self.copy != Copying::Comparing {
            self.copy = Copying::Not;
        }
    }
}
