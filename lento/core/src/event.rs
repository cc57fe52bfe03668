//! The closed sets of what Lento's mind is told and what it has done (style rule 3).

use crate::Saved;
use protocol::{Downcall, FileSetId, HostId, Message, ObjectId, Position, Shipment};
use std::collections::BTreeMap;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed; nothing else happened.
    Tick,
    /// A connection to a host stands.
    PeerUp(HostId),
    /// It is gone. What was requested over it and not answered never will be.
    PeerDown(HostId),
    /// An attempt to connect failed.
    ConnectFailed(HostId),
    /// A message arrived.
    Received {
        /// From whom; its certificate says so.
        from: HostId,
        /// What it says.
        message: Message,
    },
    /// A host asks for the permit (GetPermit).
    PermitRequested {
        /// Who.
        from: HostId,
        /// Of which file set.
        fileset: FileSetId,
    },
    /// The answer to [`Action::RequestPermit`].
    PermitGranted {
        /// By whom.
        from: HostId,
        /// Of which file set.
        fileset: FileSetId,
        /// Which request it answers: [`Action::RequestPermit`] says.
        ask: u64,
        /// The epoch to write in.
        epoch: u64,
        /// What must be applied before.
        after: Position,
    },
    /// The answer to [`Action::RequestPermit`] is no; it is asked again later.
    PermitRefused {
        /// By whom.
        from: HostId,
        /// Of which file set.
        fileset: FileSetId,
        /// Which request it answers: [`Action::RequestPermit`] says.
        ask: u64,
    },
    /// A host was registered as replicator here.
    ReplicatorAdded {
        /// Who.
        host: HostId,
        /// Of which file set.
        fileset: FileSetId,
        /// Whether it only caches what it uses.
        client: bool,
    },
    /// The permit is taken from a host that is away, whatever it has written.
    PermitBroken {
        /// Of which file set.
        fileset: FileSetId,
    },
    /// A host is no replicator any more.
    ReplicatorRemoved {
        /// Who.
        host: HostId,
        /// Of which file set.
        fileset: FileSetId,
    },
    /// The local Presto of a file set.
    Presto {
        /// Which file set.
        fileset: FileSetId,
        /// What it says.
        event: PrestoEvent,
    },
    /// Answer to [`Action::Absorb`].
    Absorbed {
        /// Which file set.
        fileset: FileSetId,
        /// The last record of this host's log that is finished and known to the index.
        tail: Position,
    },
    /// Answer to [`Action::ReadHistory`].
    History {
        /// Which file set.
        fileset: FileSetId,
        /// For whom it was read.
        to: HostId,
        /// Which read: the number of [`Action::ReadHistory`].
        read: u64,
        /// What was found.
        result: HistoryResult,
    },
    /// Answer to [`Action::Stage`].
    Staged {
        /// Which file set.
        fileset: FileSetId,
        /// From whom.
        from: HostId,
        /// For each object that was wanted.
        results: BTreeMap<ObjectId, StageResult>,
    },
    /// Answer to [`Action::Commit`].
    Committed {
        /// Which file set.
        fileset: FileSetId,
        /// Whose shipments they were.
        from: HostId,
        /// How it went.
        result: CommitResult,
    },
    /// Answer to [`Action::Sync`]: what had been applied when it was asked for is durable. `Err`: it could not be.
    Synced {
        /// Which file set.
        fileset: FileSetId,
        /// Why not.
        result: Result<(), String>,
    },
    /// Answer to [`Action::Compare`] and [`Action::FetchMissing`].
    Compared {
        /// Which file set.
        fileset: FileSetId,
        /// With whom.
        from: HostId,
        /// Where the source stood; or why it failed.
        result: Result<Position, String>,
    },
}

/// What a Presto says, and whether there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrestoEvent {
    /// It said hello.
    Up {
        /// The epoch of the permit that it holds.
        permit: Option<u64>,
        /// Set when it lost records with the power, and logged what survived anew: the last number that survived.
        lost_after: Option<u64>,
    },
    /// It died or hung up, and will be back.
    Down,
    /// The file set is not mounted: nobody writes here.
    Absent,
    /// Somebody wants to write.
    WantsPermit,
    /// The permit is not wanted here any more, though nobody else wants it.
    Tires,
    /// It gave the permit back.
    Released {
        /// The last record made under it.
        last: u64,
    },
    /// The log grew.
    Advanced,
}

/// What a look into the history found.
#[derive(Debug, Clone, PartialEq)]
pub enum HistoryResult {
    /// The next piece.
    Shipment(Shipment),
    /// Nothing that the receiver lacks, up to here.
    UpToDate(Position),
    /// The log does not reach back that far.
    TooOld,
    /// It could not be read.
    Failed(String),
}

/// What became of the content of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageResult {
    /// Complete, verified and durable in the staging directory.
    Staged {
        /// The version.
        as_of: Position,
    },
    /// It is left where it is: this host is a client, and fetches it when it is used.
    Left,
    /// It is being changed: a later record will tell.
    Changed,
    /// It is gone: a later record will tell.
    Gone,
    /// There is no room here: of what there is too little, for people.
    NoSpace(String),
    /// The connection went, or something could not be read or written.
    Failed(String),
}

/// How a commit went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitResult {
    /// All of it is visible.
    Done,
    /// There is no room; nothing is lost, it can be repeated. Of what there is too little, for people.
    NoSpace(String),
    /// These objects should be here and are not.
    Missing(Vec<ObjectId>),
    /// It failed; it can be repeated.
    Failed(String),
    /// The shipment itself is not one that a correct peer sends: nothing more is taken from it.
    Misbehaved(String),
}

/// What is to be done. Actions are performed in order; [`Action::Save`] is durable before the next one begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Try once to connect.
    Connect(HostId),
    /// End the connection with a host that misbehaved.
    Disconnect {
        /// Whom.
        host: HostId,
        /// Why, for the log.
        reason: String,
    },
    /// Send a message.
    Send {
        /// To whom.
        to: HostId,
        /// What.
        message: Message,
    },
    /// Ask the holder for the permit.
    RequestPermit {
        /// The holder.
        to: HostId,
        /// Of which file set.
        fileset: FileSetId,
        /// Comes back with the answer.
        ask: u64,
    },
    /// Answer such a request.
    GrantPermit {
        /// Who asked.
        to: HostId,
        /// Of which file set.
        fileset: FileSetId,
        /// The new epoch.
        epoch: u64,
        /// What it must have applied before.
        after: Position,
    },
    /// Tell the local Presto.
    Downcall {
        /// Of which file set.
        fileset: FileSetId,
        /// What.
        downcall: Downcall,
    },
    /// Keep the state durably.
    Save {
        /// Of which file set.
        fileset: FileSetId,
        /// The state.
        saved: Saved,
    },
    /// Bring the index up to the end of the local log.
    Absorb(FileSetId),
    /// Read the history that `to` lacks.
    ReadHistory {
        /// Of which file set.
        fileset: FileSetId,
        /// For whom: what it wrote itself is left out.
        to: HostId,
        /// Where it stands.
        after: Position,
        /// Comes back with the answer.
        read: u64,
    },
    /// Fetch contents into the staging directory (backfetch).
    Stage {
        /// Of which file set.
        fileset: FileSetId,
        /// From whom.
        from: HostId,
        /// Which objects.
        wanted: Vec<ObjectId>,
    },
    /// Commit shipments as one unit, with the contents staged for them.
    Commit {
        /// Of which file set.
        fileset: FileSetId,
        /// Whose.
        from: HostId,
        /// In order.
        shipments: Vec<Shipment>,
    },
    /// Make durable what was applied.
    Sync(FileSetId),
    /// Take over a peer's whole tree, by comparison.
    Compare {
        /// Of which file set.
        fileset: FileSetId,
        /// Whose tree.
        from: HostId,
    },
    /// Fetch objects that should be here and are not, with all below them.
    FetchMissing {
        /// Of which file set.
        fileset: FileSetId,
        /// From whom.
        from: HostId,
        /// Which.
        objects: Vec<ObjectId>,
    },
    /// Records up to here are not needed any more by anybody.
    Trim {
        /// Of which file set.
        fileset: FileSetId,
        /// A point in the history.
        upto: Position,
    },
}
