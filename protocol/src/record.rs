//! Records of the modification log: one format for client, server and replicator (design D6).

use crate::{Attr, AttrChange, Handle, Name, ObjectId, Position, Timestamp, name::serde_bytes_box};
use serde::{Deserialize, Serialize};

/// Who did an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cred {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Thread that called, in Presto's pid name space; 0 for Presto itself.
    pub pid: u32,
}

/// One change, appended *before* it is done to the bottom, with all that is needed to check it afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number: grows by one a record, with gaps only after power loss; never reused by this host in this file set.
    pub number: u64,
    /// The permit epoch in which it was made.
    pub epoch: u64,
    /// All records up to this number were finished (done or cancelled) when this one was appended: recovery examines
    /// only later ones.
    pub finished: u64,
    /// When it was appended, by this host's clock.
    pub time: Timestamp,
    /// Who did it.
    pub cred: Cred,
    /// What is done.
    pub op: Op,
}

impl Record {
    /// Where it stands in the file set's history.
    pub const fn position(&self) -> Position {
        Position::new(self.epoch, self.number)
    }
}

/// What a record says was done. Objects are named by id, entries by their directory's id and name.
///
/// What an operation leaves open (the mode after the umask, inherited ACLs, the new mtime of a directory) is not
/// guessed here: [`Outcome`] tells of the object, and the sender of a log settles the rest (see
/// [`crate::Settled`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A regular file was created. It is open for writing from here: as if [`Op::Intend`] followed.
    Create {
        /// The directory.
        parent: ObjectId,
        /// The new entry.
        name: Name,
        /// The new object.
        id: ObjectId,
        /// Mode asked for, before umask and ACLs.
        mode: u32,
    },
    /// A directory was created.
    Mkdir {
        /// The directory it is in.
        parent: ObjectId,
        /// The new entry.
        name: Name,
        /// The new object.
        id: ObjectId,
        /// Mode asked for.
        mode: u32,
    },
    /// A symbolic link was created.
    Symlink {
        /// The directory it is in.
        parent: ObjectId,
        /// The new entry.
        name: Name,
        /// The new object.
        id: ObjectId,
        /// Where it points to, at most [`crate::limits::SYMLINK_BYTES`].
        #[serde(with = "serde_bytes_box")]
        target: Vec<u8>,
    },
    /// A special file, or an empty regular one, was created without being opened.
    Mknod {
        /// The directory it is in.
        parent: ObjectId,
        /// The new entry.
        name: Name,
        /// The new object.
        id: ObjectId,
        /// Type and mode asked for.
        mode: u32,
        /// Device number.
        rdev: u64,
    },
    /// An object got one more name.
    Link {
        /// The object.
        id: ObjectId,
        /// The directory of the new entry.
        parent: ObjectId,
        /// The new entry.
        name: Name,
    },
    /// An entry that is not a directory was removed.
    Unlink {
        /// The directory.
        parent: ObjectId,
        /// The entry.
        name: Name,
        /// The object it named.
        id: ObjectId,
    },
    /// An empty directory was removed.
    Rmdir {
        /// The directory it was in.
        parent: ObjectId,
        /// The entry.
        name: Name,
        /// The directory removed.
        id: ObjectId,
    },
    /// An entry was moved; one record, whatever lies under it.
    Rename {
        /// The object moved.
        id: ObjectId,
        /// From this directory.
        parent: ObjectId,
        /// This entry.
        name: Name,
        /// To this directory.
        to_parent: ObjectId,
        /// This entry.
        to_name: Name,
        /// The object that the target named before: replaced, or, with `exchange`, moved the other way.
        other: Option<ObjectId>,
        /// `RENAME_EXCHANGE`.
        exchange: bool,
    },
    /// Attributes were set. A change of size is announced here and told, as content, by the [`Op::Store`] after it.
    Setattr {
        /// The object.
        id: ObjectId,
        /// What was set.
        change: AttrChange,
        /// What it was before, to undo it.
        before: AttrChange,
    },
    /// An extended attribute was set.
    Setxattr {
        /// The object.
        id: ObjectId,
        /// The whole name, at most 255 bytes.
        #[serde(with = "serde_bytes_box")]
        name: Vec<u8>,
        /// The value, at most 64 KiB.
        #[serde(with = "serde_bytes_box")]
        value: Vec<u8>,
    },
    /// An extended attribute was removed.
    Removexattr {
        /// The object.
        id: ObjectId,
        /// The whole name.
        #[serde(with = "serde_bytes_box")]
        name: Vec<u8>,
    },
    /// A file was opened for writing: it may differ from its last [`Op::Store`] from here on. Repeated at the
    /// beginning of each segment for files that are still open, so that recovery reads one segment.
    Intend {
        /// The file.
        id: ObjectId,
        /// Its handle on the host that logs.
        handle: Handle,
    },
    /// The content of a file changed; appended after the fact: at the last close, at fsync, after a truncate, and at
    /// an interval while it stays open. Size and mtime tell this version from the next one.
    Store {
        /// The file.
        id: ObjectId,
        /// Its size.
        size: u64,
        /// Its time of modification.
        mtime: Timestamp,
    },
    /// Nothing: it marks a place (the first record after a power loss, a new epoch).
    Noop,
}

impl Op {
    /// The object that the operation is about.
    pub fn object(&self) -> Option<ObjectId> {
        match self {
            Self::Create { id, .. }
            | Self::Mkdir { id, .. }
            | Self::Symlink { id, .. }
            | Self::Mknod { id, .. }
            | Self::Link { id, .. }
            | Self::Unlink { id, .. }
            | Self::Rmdir { id, .. }
            | Self::Rename { id, .. }
            | Self::Setattr { id, .. }
            | Self::Setxattr { id, .. }
            | Self::Removexattr { id, .. }
            | Self::Intend { id, .. }
            | Self::Store { id, .. } => Some(*id),
            Self::Noop => None,
        }
    }

    /// The directories whose entries it changes.
    pub fn parents(&self) -> [Option<ObjectId>; 2] {
        match self {
            Self::Create { parent, .. }
            | Self::Mkdir { parent, .. }
            | Self::Symlink { parent, .. }
            | Self::Mknod { parent, .. }
            | Self::Link { parent, .. }
            | Self::Unlink { parent, .. }
            | Self::Rmdir { parent, .. } => [Some(*parent), None],
            Self::Rename { parent, to_parent, .. } => [Some(*parent), Some(*to_parent)],
            _ => [None, None],
        }
    }

    /// The object it brings into being, if any.
    pub fn created(&self) -> Option<ObjectId> {
        match self {
            Self::Create { id, .. } | Self::Mkdir { id, .. } | Self::Symlink { id, .. } | Self::Mknod { id, .. } => {
                Some(*id)
            }
            _ => None,
        }
    }

    /// The word that `lento log` prints.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Mkdir { .. } => "mkdir",
            Self::Symlink { .. } => "symlink",
            Self::Mknod { .. } => "mknod",
            Self::Link { .. } => "link",
            Self::Unlink { .. } => "unlink",
            Self::Rmdir { .. } => "rmdir",
            Self::Rename { exchange: false, .. } => "rename",
            Self::Rename { exchange: true, .. } => "exchange",
            Self::Setattr { .. } => "setattr",
            Self::Setxattr { .. } => "setxattr",
            Self::Removexattr { .. } => "removexattr",
            Self::Intend { .. } => "intend",
            Self::Store { .. } => "store",
            Self::Noop => "noop",
        }
    }
}

/// How a record ended. Appended after the bottom operation, together with the next write of the log or before the
/// doorbell is rung, whichever comes first; a record without one is examined by recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Of which record.
    pub number: u64,
    /// Done, or cancelled with this errno: then the record never happened.
    pub result: Result<Done, i32>,
}

/// What a done operation made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// For the operations that create: the new object's handle on this host.
    pub handle: Option<Handle>,
    /// For the operations that create or set attributes: the object's attributes afterwards.
    pub attr: Option<Attr>,
}
