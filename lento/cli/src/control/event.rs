//! What the daemon answers.

use super::{ByteText, HostStatus, LogLine};
use protocol::{FileSetName, HostName};
use serde::{Deserialize, Serialize};

/// Exit codes of `lento`, the same in every command; part of its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// 0: done.
    Ok,
    /// 1: it failed, or `verify` and `fsck` found something.
    Failed,
    /// 2: the command line, or a name or path in it, is wrong.
    Usage,
    /// 3: the daemon is not running.
    NoDaemon,
    /// 124: the time given ran out, as with timeout(1).
    Timeout,
}

impl Code {
    /// The number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoDaemon => 3,
            Self::Timeout => 124,
        }
    }
}

/// How far a long task is. Sent at most ten times a second; the last one is of its end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// What is done, in one word for the beginning of a line: `adopting`, `copying`, `comparing`, `verifying`…
    pub task: String,
    /// Files done.
    pub files: u64,
    /// Files in all, once known.
    pub files_total: Option<u64>,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, once known.
    pub bytes_total: Option<u64>,
    /// Bytes a second, lately.
    pub bytes_per_s: u64,
}

/// Which side an object was found on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// Only on the host asked.
    OnlyHere,
    /// Only on the host compared with.
    OnlyThere,
    /// On both, but not the same.
    Differs,
}

/// One attribute that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDifference {
    /// `kind`, `mode`, `owner`, `size`, `mtime`, `content`, `xattrs`, `target`, `links`, `device`.
    pub field: String,
    /// Its value on the host asked.
    pub here: String,
    /// Its value on the other one.
    pub there: String,
}

/// One path that `verify` found to differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Compared with this host.
    pub host: HostName,
    /// Path below the root of the file set; empty for the root.
    pub path: ByteText,
    /// On which side it is.
    pub found: Found,
    /// What differs, if it is on both.
    pub fields: Vec<FieldDifference>,
}

/// The comparison with one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// With which.
    pub host: HostName,
    /// Objects compared, by path.
    pub objects: u64,
    /// Bytes of content compared by hash.
    pub bytes: u64,
    /// How many paths differ.
    pub differences: u64,
    /// Why it could not be compared, if it could not.
    pub error: Option<String>,
}

/// What `verify --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Which file set.
    pub fileset: FileSetName,
    /// Every host was compared, and nothing differs.
    pub equal: bool,
    /// Each host.
    pub compared: Vec<Compared>,
    /// The first [`super::VERIFY_DIFFERENCES`] differences.
    pub differences: Vec<Difference>,
}

/// What `invite` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The text to hand to `lento join`. A secret: whoever has it can join.
    pub ticket: String,
    /// Seconds until it expires.
    pub life_s: u64,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What failed, on which object, and why; no full stop.
    pub message: String,
    /// What to do about it, if anything.
    pub hint: Option<String>,
    /// How the command is to exit.
    pub code: Code,
}

/// One line from the daemon. A stream ends with [`ControlEvent::Done`] or [`ControlEvent::Failed`]; a connection that
/// ends without one means that the daemon died.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ControlEvent {
    /// What became of objects.
    Handled {
        /// So many are as was asked for.
        done: u64,
        /// So many are not: they are in use, or could not be fetched.
        failed: u64,
    },
    /// How far it is.
    Progress(Progress),
    /// A sentence for a person: a step that was done, something found.
    Note(String),
    /// Answers `status`.
    Status(Box<HostStatus>),
    /// Answers `invite`.
    Ticket(Ticket),
    /// A record of the log.
    Log(LogLine),
    /// A path that differs.
    Difference(Difference),
    /// A host was compared.
    Compared(Compared),
    /// Done; the sentence, if any, is for a person.
    Done(Option<String>),
    /// Failed; nothing was left half done that the message does not tell.
    Failed(Failure),
}
