//! What the command line asks the daemon.

use super::ByteText;
use protocol::{FileSetName, Grant};
use serde::{Deserialize, Serialize};

/// Version of the control protocol: the command line and the daemon are installed together, and a daemon that was not
/// restarted after an upgrade says so instead of misunderstanding.
pub const CONTROL_VERSION: u16 = 1;

/// The one line that a client sends on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`CONTROL_VERSION`] of the sender.
    pub version: u16,
    /// What it wants.
    pub request: ControlRequest,
}

/// What a writer does that needs the permit while the holder cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitPolicy {
    /// Waits; can be interrupted by a signal.
    #[default]
    Hard,
    /// Waits this long, then fails with `ETIMEDOUT`.
    Soft {
        /// Milliseconds.
        timeout_ms: u64,
    },
}

/// How to mount; what is not said stays as it was, or is as it usually is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MountChoice {
    /// For writers without the permit, and for whoever waits for what a client lacks.
    pub wait: Option<WaitPolicy>,
    /// Of a client: bytes of contents that its cache holds at most.
    pub cache_bytes: Option<u64>,
    /// Of a client: nothing can be changed.
    pub read_only: bool,
}

/// What is to become of a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PermitAction {
    /// This host gives it back.
    Release,
    /// The holder takes it from a client.
    Break,
}

/// What is to be done with objects of a client's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectsAction {
    /// Keep them here.
    Pin,
    /// Let them go when room is needed.
    Unpin,
    /// Fetch them.
    Prefetch,
    /// Let them go.
    Evict,
}

/// What is to be unmounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UmountTarget {
    /// The mount of this file set.
    Name(FileSetName),
    /// The mount at this absolute path.
    Dir(ByteText),
}

/// One request. Paths are absolute: the client resolves them, as the daemon has another working directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlRequest {
    /// Answered by one [`super::ControlEvent::Status`].
    Status,
    /// Adopt a directory as a new file set, with this host its holder, and mount it. Progress while it is adopted.
    FilesetCreate {
        /// The new name.
        name: FileSetName,
        /// The native directory, which exists.
        store: ByteText,
        /// Where to mount; over `store` itself if absent.
        mount: Option<ByteText>,
        /// For writers without the permit.
        wait: WaitPolicy,
    },
    /// Forget a file set on this host: unmount it, tell the other hosts, remove `.intermezzo`, leave the files.
    FilesetRemove {
        /// Which.
        name: FileSetName,
        /// Also when other hosts replicate it, or cannot be reached; [`super::ControlEvent::Note`]s tell what is given up.
        #[serde(default)]
        force: bool,
    },
    /// A ticket for one more host. Answered by [`super::ControlEvent::Ticket`].
    Invite {
        /// What the host may have.
        grant: Grant,
        /// Life of the ticket in seconds.
        life_s: u64,
    },
    /// Replicate a file set of the cluster to this host: progress until live. The copy goes on when the client leaves.
    Replicate {
        /// Which.
        name: FileSetName,
        /// The native directory; made if it does not exist.
        store: ByteText,
        /// Where to mount; over `store` itself if absent.
        mount: Option<ByteText>,
        /// For writers without the permit.
        wait: WaitPolicy,
    },
    /// Done when every replica has what was there at the request; else [`super::Code::Timeout`].
    Wait {
        /// Which.
        name: FileSetName,
        /// Longest time; for ever if absent.
        timeout_ms: Option<u64>,
    },
    /// The modification log: one [`super::ControlEvent::Log`] a record, oldest first.
    Log {
        /// Of which file set.
        name: FileSetName,
        /// Go on with new records until the client leaves.
        follow: bool,
    },
    /// Compare with the other hosts: [`super::ControlEvent::Difference`]s, one [`super::ControlEvent::Compared`] a
    /// host, and [`super::Code::Failed`] in the end if anything differs or a host could not be compared.
    Verify {
        /// Which.
        name: FileSetName,
    },
    /// Mount a file set of this host; one of the cluster that is not on this host is mounted as a client.
    Mount {
        /// Which.
        name: FileSetName,
        /// Where; remembered.
        dir: ByteText,
        /// How; remembered.
        choice: MountChoice,
    },
    /// What to do with objects of a client's cache. Answered by [`super::ControlEvent::Handled`].
    Objects {
        /// What.
        action: ObjectsAction,
        /// A path on the mount.
        at: ByteText,
        /// The inode numbers that the objects have on the mount.
        objects: Vec<u64>,
    },
    /// Give the permit back, or take it from a client.
    Permit {
        /// Of which file set.
        name: FileSetName,
        /// Which of the two.
        action: PermitAction,
    },
    /// Unmount; remembered, so it stays unmounted after a restart.
    Umount {
        /// Which.
        target: UmountTarget,
    },
    /// Check the object database against the files, or make it anew from them. [`super::ControlEvent::Note`]s tell
    /// what was found.
    Fsck {
        /// Of which file set.
        name: FileSetName,
        /// Make it anew.
        rebuild: bool,
    },
}
