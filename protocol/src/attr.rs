//! Attributes of objects, as `stat` shows them, less what a host keeps for itself (device, inode, ctime, atime).

use crate::{ProtocolError, limits, name::serde_bytes_box};
use serde::{Deserialize, Serialize};

/// A point in time with nanoseconds, as in `struct timespec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub secs: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// The local name of an inode: an ext4 file handle, inode number in the low 32 bits, generation in the high
/// (design D2). It is the FUSE node id too. It means nothing on another host and is never sent to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Handle(pub u64);

impl Handle {
    /// From an inode's number and generation.
    pub const fn new(ino: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | ino as u64)
    }
    /// The inode number.
    pub const fn ino(self) -> u32 {
        self.0 as u32
    }
    /// The generation.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character device; its number is in [`Attr::rdev`].
    CharDevice,
    /// A block device; its number is in [`Attr::rdev`].
    BlockDevice,
}

impl Kind {
    /// From the type bits of a mode (`S_IFMT`).
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            _ => return None,
        })
    }

    /// The type bits of a mode.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
        }
    }
}

/// The attributes that replicas share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attr {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky (`mode & 0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes, of a regular file; 0 for all else.
    pub size: u64,
    /// Device number of a device, as `makedev` makes it; 0 for all else.
    pub rdev: u64,
    /// Time of last modification.
    pub mtime: Timestamp,
}

/// The attributes that one operation changes; what is `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct AttrChange {
    /// New permission bits.
    pub mode: Option<u16>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size (truncate).
    pub size: Option<u64>,
    /// New time of last access; not replicated, kept for the reader of the log.
    pub atime: Option<Timestamp>,
    /// New time of last modification.
    pub mtime: Option<Timestamp>,
}

/// One extended attribute, its name with the prefix (`user.`, `security.`, `trusted.`, `system.posix_acl_`…).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Xattr {
    /// The whole name.
    #[serde(with = "serde_bytes_box")]
    pub name: Vec<u8>,
    /// The value.
    #[serde(with = "serde_bytes_box")]
    pub value: Vec<u8>,
}

impl Xattr {
    /// The attribute in which an object's identity and stamp are kept; hidden in the mount, never sent.
    pub const IDENTITY: &'static str = "trusted.intermezzo";

    /// Set (to one byte, 1) on an object in a client's cache of which only attributes are here: of a directory its names are
    /// wanting, of a file its content. It goes, durably, after what was wanting has come.
    pub const ABSENT: &'static str = "trusted.intermezzo.absent";

    /// Checks the lengths and that the name is not InterMezzo's own.
    pub fn check(&self) -> Result<(), ProtocolError> {
        let long = |what, got, limit| ProtocolError::TooLong { what, got, limit };
        if self.name.len() > limits::XATTR_NAME_BYTES {
            return Err(long("an xattr name", self.name.len(), limits::XATTR_NAME_BYTES));
        }
        if self.value.len() > limits::XATTR_VALUE_BYTES {
            return Err(long("an xattr value", self.value.len(), limits::XATTR_VALUE_BYTES));
        }
        if self.name.is_empty() || self.name.contains(&0) || self.name.starts_with(Self::IDENTITY.as_bytes()) {
            return Err(ProtocolError::IllegalName("an extended attribute may not have it"));
        }
        Ok(())
    }
}
