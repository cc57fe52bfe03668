//! Everything that the mind is told.

use super::files::FileSetConfig;
use lento_cli::control::{ControlEvent, ControlRequest, Failure};
use lento_core::Event;
use lento_store::Store;
use protocol::{Downcall, FileSetId, Upcall};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Events for one client of the command socket.
pub(super) type Answers = mpsc::Sender<ControlEvent>;

/// One thing that happened.
#[derive(Debug)]
pub(super) enum Input {
    /// For the core.
    Event(Event),
    /// A Presto connected and said hello.
    PrestoHello(PrestoHello),
    /// It says something.
    Upcall {
        /// Whose.
        fileset: FileSetId,
        /// Of which connection.
        connection: u64,
        /// What.
        upcall: Upcall,
    },
    /// Its connection is gone.
    PrestoGone {
        /// Whose.
        fileset: FileSetId,
        /// Which connection.
        connection: u64,
    },
    /// The mount's supervisor tells of its process.
    Mount {
        /// Whose.
        fileset: FileSetId,
        /// What.
        news: MountNews,
    },
    /// A store is open, and a file set can go to work.
    Opened(Box<Opened>),
    /// A command of the user.
    Control {
        /// What.
        request: ControlRequest,
        /// Where the answers go.
        answers: Answers,
    },
    /// A command that was begun elsewhere needs something done by the mind.
    Call(Call),
    /// Records were seen in a comparison or transfer, for `status`.
    Progress {
        /// Of which file set.
        fileset: FileSetId,
        /// How far; `None` when it ended.
        progress: Option<lento_cli::control::Progress>,
    },
    /// The daemon ends.
    Stop,
}

/// A Presto that said hello.
#[derive(Debug)]
pub(super) struct PrestoHello {
    pub(super) connection: u64,
    pub(super) fileset: FileSetId,
    pub(super) pid: u32,
    pub(super) permit: Option<u64>,
    pub(super) lost_after: Option<u64>,
    pub(super) bottom: OwnedFd,
    pub(super) downcalls: mpsc::Sender<Downcall>,
}

/// News of a mount.
#[derive(Debug)]
pub(super) enum MountNews {
    /// Presto serves.
    Ready { pid: u32 },
    /// Presto ended, and is started again.
    Died { why: String },
    /// It cannot be mounted for now; it is tried again.
    Failed { why: String },
    /// It was unmounted as asked.
    Ended,
}

/// A store that was opened, adopted or made.
pub(super) struct Opened {
    pub(super) config: FileSetConfig,
    pub(super) result: Result<OpenStore, Failure>,
    /// The command that waits for it.
    pub(super) answers: Option<(Then, Answers)>,
}

/// What the command that waits for a store waits for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing.
    Done,
    /// The mount.
    Mount,
    /// The whole copy, and the mount after that.
    Copy,
}

/// What is needed to go to work with it.
pub(super) struct OpenStore {
    pub(super) store: Arc<Store>,
    pub(super) saved: lento_core::Saved,
    pub(super) tail: protocol::Position,
    pub(super) applied: std::collections::BTreeMap<protocol::HostId, protocol::Position>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({})", self.config.name)
    }
}

/// Something that a command's task asks of the mind.
pub(super) enum Call {
    /// The core's view of a file set.
    Status { fileset: FileSetId, reply: oneshot::Sender<Option<lento_core::FileSetStatus>> },
    /// Make a Presto's log complete and durable; answered with its last record. `None`: there is no Presto.
    Flush { fileset: FileSetId, reply: oneshot::Sender<Option<u64>> },
    /// Answered when every peer has applied all up to the position (and, of a replicator, the holder has).
    Reached { fileset: FileSetId, position: protocol::Position, reply: oneshot::Sender<()> },
    /// Whatever the closure does with the mind.
    Do(Box<dyn FnOnce(&mut super::mind::Mind) + Send + Sync>),
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Status { .. } => "Status",
            Self::Flush { .. } => "Flush",
            Self::Reached { .. } => "Reached",
            Self::Do(_) => "Do",
        })
    }
}
