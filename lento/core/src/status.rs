//! What `lento status` and `lento wait` look at.

use crate::fileset::FileSet;
use crate::link::Copying;
use crate::mine::{Mine, Presto};
use protocol::{HostId, Position};

/// How a file set stands on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSetStatus {
    /// The server with the authoritative copy.
    pub holder: HostId,
    /// The end of this host's own log.
    pub tail: Position,
    /// The end of the history, whoever wrote it, as far as it is here.
    pub history_end: Position,
    /// The permit.
    pub permit: PermitStatus,
    /// Each peer: the holder, or all replicators.
    pub links: Vec<LinkStatus>,
    /// Recoveries from a loss of power.
    pub incarnation: u64,
}

/// The permit, as this host knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermitStatus {
    /// Its epoch, if it is here.
    pub here: Option<u64>,
    /// A word for the state here: none, asked, arriving, held, revoking, draining.
    pub state: &'static str,
    /// Who has it; known to the holder.
    pub owner: Option<HostId>,
    /// Who waits for it; known to the holder, and the local wish.
    pub waiting: Vec<HostId>,
    /// Whether a Presto is connected.
    pub presto_up: bool,
    /// Whether that Presto may write.
    pub granted: bool,
}

/// One peer of a file set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// Who.
    pub peer: HostId,
    /// Whether a connection stands.
    pub up: bool,
    /// Whether the logs continue one another; if not, a comparison is due or under way.
    pub in_step: bool,
    /// Whether a comparison is due or under way here.
    pub copying: bool,
    /// At a client: the permit was taken from it, and what the peer has not got of its log, from `acked` on, is not taken
    /// any more.
    pub lost: bool,
    /// How far the peer has what this host ships, visibly and durably.
    pub acked: Position,
    /// The same, durably.
    pub durable: Position,
    /// Why the peer does not go on, in its own words; empty if it does.
    pub peer_stalled: String,
    /// What comes from the peer.
    pub apply: ApplyStatus,
}

/// What comes from a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyStatus {
    /// All up to here is visible here.
    pub applied: Position,
    /// All up to here survives a loss of power.
    pub durable: Position,
    /// Shipments received and not yet applied.
    pub queued: usize,
    /// Why it does not go on; empty if it does.
    pub stalled: String,
}

impl FileSetStatus {
    pub(crate) fn of(set: &FileSet) -> Self {
        let state = match set.mine.state {
            Mine::None => "none",
            Mine::Asked => "asked",
            Mine::Arriving { .. } => "arriving",
            Mine::Held { .. } => "held",
            Mine::Revoking { .. } => "revoking",
            Mine::Draining { .. } => "draining",
        };
        let mut waiting: Vec<HostId> = set.permits.waiters().collect();
        if set.mine.wanted && !waiting.contains(&set.me) {
            waiting.push(set.me);
        }
        let links = set.links.iter().map(|(peer, link)| LinkStatus {
            peer: *peer,
            up: link.up,
            in_step: set.in_step(*peer),
            copying: link.copy != Copying::Not,
            lost: link.lost.is_some(),
            acked: link.ship.acked,
            durable: link.ship.durable,
            peer_stalled: link.ship.stalled.clone(),
            apply: ApplyStatus {
                applied: link.apply.applied,
                durable: link.apply.durable,
                queued: link.apply.queued(),
                stalled: link.apply.stalled.clone(),
            },
        });
        Self {
            holder: set.saved.holder,
            tail: set.tail,
            history_end: set.history_end(),
            permit: PermitStatus {
                here: set.mine.epoch(),
                state,
                owner: set.is_holder().then_some(set.saved.owner),
                waiting,
                presto_up: matches!(set.mine.presto, Presto::Up { .. }),
                granted: set.mine.presto == (Presto::Up { granted: true }),
            },
            links: links.collect(),
            incarnation: set.saved.incarnation,
        }
    }
}
