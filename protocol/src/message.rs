//! What is in the packets: requests, replies, messages, and the items of bulk data (paper: "Protocols").

use crate::{
    Attr, FileSetId, FileSetName, HostId, HostName, Name, ObjectId, Position, Record, VersionStamp, Xattr,
    name::serde_bytes_box,
};
use serde::{Deserialize, Serialize};

/// Asks for something; opens a session at the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Redeems a ticket; the only request that is taken from a host without a certificate.
    Join {
        /// The name that the host wants.
        name: HostName,
        /// Where it listens, `address:port`.
        listen: String,
        /// The ticket's secret.
        #[serde(with = "serde_bytes_box")]
        secret: Vec<u8>,
        /// Certificate signing request, DER.
        #[serde(with = "serde_bytes_box")]
        csr: Vec<u8>,
    },
    /// Which file sets may I replicate?
    FileSets,
    /// Register me as replicator or client of a file set.
    Replicate {
        /// Which.
        name: FileSetName,
        /// As what.
        role: Role,
    },
    /// Take me off the replicators and clients of a file set.
    DropReplica {
        /// Which.
        fileset: FileSetId,
    },
    /// The right to modify (GetPermit); answered when it is free.
    GetPermit {
        /// Of which file set.
        fileset: FileSetId,
    },
    /// FetchFile and backfetch: the content of objects. Answered by data, then [`Reply::Done`].
    Fetch {
        /// In which file set.
        fileset: FileSetId,
        /// At most [`crate::limits::FETCH_OBJECTS`].
        wanted: Vec<Wanted>,
    },
    /// FetchDir: names, ids, stamps and attributes below `root`. Answered by data, then [`Reply::Listed`].
    List {
        /// In which file set.
        fileset: FileSetId,
        /// An object; of a directory what is in it, too.
        root: ObjectId,
        /// Whether to list what is in the directories below it as well.
        deep: bool,
    },
    /// For `verify`: a digest of every path, in order. Answered by data, then [`Reply::Done`].
    Manifest {
        /// Of which file set.
        fileset: FileSetId,
    },
    /// Answered when every peer of the one that is asked has applied all that it has now; the holder asks its
    /// replicators first.
    Wait {
        /// Of which file set.
        fileset: FileSetId,
    },
    /// Redeems a ticket for a host that is a member already. Sent in the place of the hello; the reply ends the
    /// connection.
    Redeem {
        /// The ticket's secret.
        #[serde(with = "serde_bytes_box")]
        secret: Vec<u8>,
    },
}

/// What a host is to a file set that it does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It has a whole copy.
    Replicator,
    /// It caches what it uses.
    Client,
}

/// What a host may do with a file set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read it.
    ReadOnly,
    /// Read and change it.
    ReadWrite,
}

/// What a ticket gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Of which file set.
    pub fileset: FileSetName,
    /// As what at most: a replicator may be a client as well.
    pub role: Role,
    /// What the host may do.
    pub access: Access,
}

/// Answers a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing to add.
    Done,
    /// The request is refused.
    Refused(Refusal),
    /// Welcome to the cluster.
    Joined {
        /// Your id.
        host: HostId,
        /// Your certificate, DER.
        #[serde(with = "serde_bytes_box")]
        certificate: Vec<u8>,
        /// The authority's certificate, DER.
        #[serde(with = "serde_bytes_box")]
        authority: Vec<u8>,
        /// Who I am, and where I listen.
        inviter: (HostId, HostName, String),
        /// What the ticket gave.
        grant: Option<Grant>,
    },
    /// The file sets held here that the asker may replicate.
    FileSets(Vec<(FileSetId, FileSetName)>),
    /// Registered.
    Replicating {
        /// The file set's id.
        fileset: FileSetId,
        /// What the asker may do.
        access: Access,
    },
    /// The permit is yours, once you have applied everything up to `after`.
    Permit {
        /// The epoch in which you write.
        epoch: u64,
        /// All that was made before.
        after: Position,
    },
    /// The listing is complete; a log replayed from `after` on makes it exact.
    Listed {
        /// Where the source stood when it began to list.
        after: Position,
    },
    /// The ticket is redeemed.
    Redeemed {
        /// Who I am, and where I listen.
        inviter: (HostId, HostName, String),
        /// What the ticket gave.
        grant: Option<Grant>,
    },
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No such file set here.
    #[error("that host does not hold this file set")]
    NoFileSet,
    /// The asker has no right to it.
    #[error("this host has no access to it: invite it with `lento invite --fileset`")]
    Denied,
    /// The ticket's secret is not known.
    #[error("the ticket is not one of that host's: its secret is wrong")]
    TicketWrong,
    /// The ticket was used.
    #[error("the ticket was used already: each ticket admits one host; make a new one with `lento invite`")]
    TicketUsed,
    /// The ticket is too old.
    #[error("the ticket has expired: make a new one with `lento invite`")]
    TicketExpired,
    /// Another host has that name.
    #[error("another host of the cluster has that name: choose another with --name")]
    NameTaken,
    /// It cannot be done now.
    #[error("not now: {0}")]
    Busy(String),
    /// It failed there.
    #[error("it failed there: {0}")]
    Failed(String),
}

/// One object whose content is wanted, and what the asker has of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The object, a regular file.
    pub id: ObjectId,
    /// What is there already.
    pub have: Have,
}

/// What an asker for content has of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Have {
    /// Nothing: send it all.
    Nothing,
    /// These many first bytes (an older version, or a transfer that was interrupted): if yours begin the same, send
    /// the rest; else answer [`Content::Differs`].
    Prefix {
        /// Bytes.
        size: u64,
        /// BLAKE3 of them.
        hash: [u8; 32],
    },
    /// Another version: send a delta to it. An rsync signature, at most a packet long.
    Signature(#[serde(with = "serde_bytes_box")] Vec<u8>),
}

/// How the bytes of an object are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coding {
    /// The bytes from this offset on.
    From(u64),
    /// An rsync delta to the signature that was sent.
    Delta,
}

/// Items of a [`Request::Fetch`]'s data. `index` is the place in the request's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A small file, whole.
    Small {
        /// Which.
        index: u32,
        /// Its bytes, at most [`crate::limits::INLINE_CONTENT_BYTES`].
        #[serde(with = "serde_bytes_box")]
        bytes: Vec<u8>,
        /// Which version this is: that of the last record up to here that stored the object.
        as_of: Position,
    },
    /// A larger file begins.
    Begin {
        /// Which.
        index: u32,
        /// Its size when complete.
        size: u64,
        /// What follows.
        coding: Coding,
    },
    /// Bytes of the file that was begun.
    Chunk {
        /// Which.
        index: u32,
        /// Set when `bytes` are zstd; the length that they decompress to, at most [`crate::limits::DATA_CHUNK_BYTES`].
        zstd: Option<u32>,
        /// The bytes.
        #[serde(with = "serde_bytes_box")]
        bytes: Vec<u8>,
    },
    /// A run of zeros, of a sparse file.
    Hole {
        /// Which.
        index: u32,
        /// Its length.
        bytes: u64,
    },
    /// The file is complete, and did not change while it was read.
    End {
        /// Which.
        index: u32,
        /// BLAKE3 of the whole content.
        hash: [u8; 32],
        /// Which version this is.
        as_of: Position,
    },
    /// The prefix that the asker has is not how this version begins: ask again with a signature.
    Differs {
        /// Which.
        index: u32,
    },
    /// It is being changed, or a newer version is not yet in the log: wait for the record that stores it.
    Changed {
        /// Which.
        index: u32,
    },
    /// The object is gone: wait for the record that removes it.
    Gone {
        /// Which.
        index: u32,
    },
    /// It could not be read.
    Failed {
        /// Which.
        index: u32,
        /// errno.
        errno: i32,
    },
}

/// A part of a listing: entries of one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The directory; a directory is listed before any entry in it is.
    pub directory: ObjectId,
    /// At most [`crate::limits::LISTING_ENTRIES`] in one item.
    pub entries: Vec<ListingEntry>,
    /// Whether these are the last of the directory.
    pub last: bool,
}

/// One entry of a directory, with all but its content. The root itself has an empty list's `directory` and comes first
/// as an entry named `root` of the directory [`ObjectId::ROOT`], flagged by `is_root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListingEntry {
    /// Its name.
    pub name: Name,
    /// Whether this describes the listing's root itself, not an entry of `directory`.
    pub is_root: bool,
    /// Attributes, identity and stamp.
    pub settled: Settled,
}

/// What an object is after the records of a shipment: the attributes that operations left open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The object.
    pub id: ObjectId,
    /// Its attributes.
    pub attr: Attr,
    /// Its version.
    pub stamp: VersionStamp,
    /// All its extended attributes, but InterMezzo's.
    pub xattrs: Vec<Xattr>,
    /// Where it points to, if it is a symbolic link.
    #[serde(with = "serde_bytes_box")]
    pub target: Vec<u8>,
}

/// A piece of a log on its way: reintegration and update notification are this same message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    /// Of which file set.
    pub fileset: FileSetId,
    /// It continues from here.
    pub after: Position,
    /// And reaches to here, though records that were cancelled, or that the receiver wrote itself, are left out.
    pub upto: Position,
    /// Who wrote the records.
    pub writer: HostId,
    /// In order; at most [`crate::limits::SHIPMENT_RECORDS`].
    pub records: Vec<Record>,
    /// What became of the objects that they touched, once each, if they still exist.
    pub settled: Vec<Settled>,
}

/// How a host stands with a file set: part of the hello, and enough to resume after any interruption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSetState {
    /// Which.
    pub fileset: FileSetId,
    /// Counts this host's recoveries from a loss of power: what it had said before may not hold.
    pub incarnation: u64,
    /// The peer's incarnation with which this host's copy is in step, if it ever was.
    pub in_step_with: Option<u64>,
    /// How far this host has applied, durably, what the peer ships.
    pub applied: Position,
    /// The last position of this host's own log.
    pub tail: Position,
    /// The epoch of the permit, if this host has it.
    pub permit: Option<u64>,
    /// From the holder: the receiver lost the permit of this epoch while it was away, and what it had not shipped is not
    /// taken any more. From the receiver, once it has the holder's tree: it knows.
    pub lost: Option<u64>,
}

/// Says something; nobody waits for an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// First message of a connection, both ways.
    Hello {
        /// Lowest and highest version of the wire that this host speaks.
        versions: (u16, u16),
        /// Who it is; must be what its certificate says.
        host: HostId,
        /// The file sets that it shares with the receiver.
        filesets: Vec<FileSetState>,
    },
    /// The state of one file set changed (it was just replicated, or compared): as in the hello.
    State(FileSetState),
    /// Still here.
    Heartbeat,
    /// Records.
    Shipment(Shipment),
    /// The source's log does not reach back to where the receiver stands: a comparison is needed.
    TooOld {
        /// Of which file set.
        fileset: FileSetId,
        /// Where the receiver stands, as the source had heard.
        after: Position,
        /// The end of the source's own log.
        tail: Position,
    },
    /// Acknowledges shipments.
    Applied {
        /// Of which file set.
        fileset: FileSetId,
        /// All up to here is visible.
        applied: Position,
        /// All up to here survives a loss of power: the sender may trim its log.
        durable: Position,
    },
    /// What was shipped cannot be committed without later records (content changed or went meanwhile): ship this many
    /// more shipments ahead of their acknowledgement, until one is acknowledged.
    ShipMore {
        /// Of which file set.
        fileset: FileSetId,
    },
    /// The receiver cannot go on by itself for now (a full disk); the reason is for `lento status`.
    Stalled {
        /// Of which file set.
        fileset: FileSetId,
        /// Why; empty when it goes on.
        reason: String,
    },
    /// Give the permit back.
    Revoke {
        /// Of which file set.
        fileset: FileSetId,
        /// The epoch that is to end.
        epoch: u64,
    },
    /// The permit is given back.
    Released {
        /// Of which file set.
        fileset: FileSetId,
        /// The epoch that ended.
        epoch: u64,
        /// The last record of the epoch: the receiver must have applied it before the next epoch begins.
        last: Position,
    },
    /// More bytes of a transfer may be sent.
    Credit {
        /// How many.
        bytes: u32,
    },
}
