//! What can go wrong with a log, and in which file.

use protocol::ProtocolError;

/// Why a log could not be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A system call failed. For a write the log is as it was before.
    #[error("cannot {what} log segment {file}: {source}")]
    Io {
        /// What was attempted: "write", "open", …
        what: &'static str,
        /// The file's name in the log's directory.
        file: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Bytes in the middle of the log are not what was written: a disk fault, or somebody edited the file. Records
    /// from here on cannot be read; the file set must be compared with its peers (`lento verify`).
    #[error("log segment {file} is damaged at byte {offset}: {source}")]
    Damaged {
        /// The file's name.
        file: String,
        /// Offset of the entry that cannot be read.
        offset: u64,
        /// What is wrong with it.
        source: ProtocolError,
    },
    /// The bytes at the end of the last segment are not an entry. After a loss of power it is torn, and is cut when its
    /// writer opens it; while a writer has it open it is damage.
    #[error("log segment {file} is torn at byte {offset}: {source}")]
    Torn {
        /// The file's name.
        file: String,
        /// Offset of the entry that cannot be read.
        offset: u64,
        /// What is wrong with it.
        source: ProtocolError,
    },
    /// The log in this directory is of another file set or host.
    #[error("log segment {file} belongs to file set {fileset}, host {host}; was the store copied from another place?")]
    Foreign {
        /// The file's name.
        file: String,
        /// Whose it is.
        fileset: protocol::FileSetId,
        /// Which host wrote it.
        host: protocol::HostId,
    },
    /// A record cannot be encoded: it is longer than the limit. Nothing was written.
    #[error("a record cannot be logged: {0}")]
    Encode(#[from] ProtocolError),
    /// A received record's number does not follow the last one.
    #[error("record {got} does not follow record {last}")]
    OutOfOrder {
        /// The number offered.
        got: u64,
        /// The last number in the log.
        last: u64,
    },
}

impl LogError {
    pub(crate) fn io(what: &'static str, file: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { what, file: file.into(), source: source.into() }
    }

    /// The errno that a caller of the file system should see: that of the system call, else `EIO`.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(5),
            Self::Encode(_) => 7,
            _ => 5,
        }
    }
}
