//! Pure types and wire formats of InterMezzo.
//!
//! This crate knows nobody: no I/O, no clock, no randomness, no async runtime. Presto, the modification log and
//! Lento all speak in its types. What may go wrong with bytes from a peer, a disk or a person is an error here,
//! never a panic.

mod attr;
mod body;
mod error;
mod frame;
mod ids;
pub mod limits;
mod message;
mod name;
mod packet;
mod position;
mod record;
mod stamp;
mod upcall;
pub mod version;

pub use attr::{Attr, AttrChange, Handle, Kind, Timestamp, Xattr};
pub use error::ProtocolError;
pub use frame::{ENTRY_HEADER_BYTES, LogEntry, SEGMENT_HEADER_BYTES, SegmentHeader, decode_entry, encode_entry};
pub use ids::{ClusterId, FileSetId, HostId, ObjectId};
pub use message::{
    Access, Coding, Content, FileSetState, Grant, Have, Listing, ListingEntry, Message, Refusal, Reply, Request, Role,
    Settled, Shipment, Wanted,
};
pub use name::{FileSetName, HostName, Name};
pub use packet::{Act, PACKET_HEADER_BYTES, Packet, PacketKind, PacketReader, SessionToken};
pub use position::Position;
pub use record::{Cred, Done, Op, Outcome, Record};
pub use stamp::{StampOrder, VersionStamp};
pub use upcall::{Downcall, UPCALL_FRAME_HEADER_BYTES, Upcall, UpcallReader, encode_downcall, encode_upcall};
