//! What `lento status` tells of a host; `--json` prints [`HostStatus`] as it is here.

use super::{ByteText, Progress, WaitPolicy};
use protocol::{FileSetId, FileSetName, HostId, HostName, Position};
use serde::{Deserialize, Serialize};

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub host: HostName,
    /// Its number.
    pub id: HostId,
    /// The address that it listens on.
    pub listen: String,
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// The other hosts that it knows.
    pub peers: Vec<PeerStatus>,
    /// The file sets on it, by name.
    pub filesets: Vec<FileSetStatus>,
    /// Connections refused since the daemon started: no or a foreign certificate, garbage, a wrong ticket.
    pub refusals: u64,
    /// The last of them.
    pub last_refusal: Option<Trouble>,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// How many seconds ago.
    pub ago_s: u64,
    /// What.
    pub text: String,
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub host: HostName,
    /// Its number.
    pub id: HostId,
    /// Where it listens.
    pub address: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// Seconds since it was connected, or since the connection was lost.
    pub since_s: u64,
    /// The last error of the connection.
    pub last_error: Option<Trouble>,
}

/// The part that a host has in a file set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Has the authoritative copy and gives the permit.
    Holder,
    /// Has a replica.
    Replicator,
    /// Caches what it uses.
    Client,
}

/// How a replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// Gets every change as it happens.
    Live,
    /// The first copy is under way.
    Copying,
    /// Trees are compared: after a loss of power, a long absence, or `fsck --rebuild`.
    Comparing,
    /// It cannot go on for now (a full disk), and tries again by itself.
    Stalled,
    /// The host is not connected.
    Disconnected,
}

/// How much a replica has not got yet. All zero: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Lag {
    /// Records.
    pub records: u64,
    /// Bytes of content that they announce.
    pub bytes: u64,
    /// Age of the oldest such record.
    pub seconds: f64,
}

/// A replica: on the holder one for each replicator, on a replicator the one for itself and the holder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The other host.
    pub host: HostName,
    /// Whether it only caches what it uses.
    pub client: bool,
    /// How it stands.
    pub state: ReplicaState,
    /// Why it is stalled or disconnected.
    pub reason: Option<String>,
    /// It has everything up to here.
    pub applied: Position,
    /// It would have everything up to here after a loss of power.
    pub durable: Position,
    /// What it misses of this host's history.
    pub lag: Lag,
    /// How far a copy or comparison is.
    pub progress: Option<Progress>,
}

/// Where the right to modify is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermitStatus {
    /// The host that has it; `None` when nobody has it, or a replicator cannot know.
    pub at: Option<HostName>,
    /// Its epoch, as far as this host knows.
    pub epoch: u64,
    /// Hosts that wait for it.
    pub waiting: Vec<HostName>,
}

/// State of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountState {
    /// Serving.
    Mounted,
    /// Presto is being started, or died and is being started again.
    Starting,
    /// Unmounted on request.
    Unmounted,
    /// It cannot be mounted; the error says why.
    Failed,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStatus {
    /// Where.
    pub dir: ByteText,
    /// How it is.
    pub state: MountState,
    /// Process id of Presto.
    pub presto_pid: Option<u32>,
    /// For writers without the permit.
    pub wait: WaitPolicy,
    /// How often Presto was started again since the daemon started.
    pub restarts: u64,
}

/// What a client has of a file set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Files whose content is here.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Bytes that it may have.
    pub bound: u64,
    /// Objects that are pinned.
    pub pinned: u64,
    /// Records of this host that are not at the holder yet.
    pub unsent: u64,
    /// Files and directories that programs waited for since the daemon started.
    pub misses: u64,
    /// Whether nothing can be changed.
    pub read_only: bool,
}

/// A file set on a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileSetStatus {
    /// Its name.
    pub name: FileSetName,
    /// Its id, 32 hex digits.
    #[serde(with = "hex_id")]
    pub id: FileSetId,
    /// This host's part.
    pub role: Role,
    /// The host with the authoritative copy.
    pub holder: HostName,
    /// The worst state of its replicas; live when it has none.
    pub state: ReplicaState,
    /// The native directory.
    pub store: ByteText,
    /// The mount.
    pub mount: MountStatus,
    /// The permit.
    pub permit: PermitStatus,
    /// How far this host's history reaches.
    pub position: Position,
    /// Objects in the store.
    pub objects: u64,
    /// Bytes of the modification log on disk.
    pub log_bytes: u64,
    /// On a client, its cache.
    pub cache: Option<CacheStatus>,
    /// Replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// Files kept aside in `.intermezzo/conflicts`.
    pub conflicts: u64,
    /// The last error in it.
    pub last_error: Option<Trouble>,
}

/// A file set's id as people see it; the protocol's own form is an array of numbers.
mod hex_id {
    use protocol::FileSetId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &FileSetId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FileSetId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
