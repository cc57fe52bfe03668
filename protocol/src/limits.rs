//! Every bound of InterMezzo, in one place; both ends of a wire enforce the same ones.
//!
//! Units are last in a name. A bound that a peer exceeds is the peer's fault and ends the connection; one that a
//! person exceeds is an error message.

/// Longest name of one directory entry, as on ext4.
pub const NAME_BYTES: usize = 255;
/// Longest symbolic link target, as in Linux (`PATH_MAX` less the final NUL).
pub const SYMLINK_BYTES: usize = 4095;
/// Longest name of a file set or a host.
pub const LABEL_BYTES: usize = 64;
/// Longest extended attribute name, as in Linux.
pub const XATTR_NAME_BYTES: usize = 255;
/// Longest extended attribute value, as in Linux.
pub const XATTR_VALUE_BYTES: usize = 64 * 1024;
/// Most extended attributes of one object that are shipped.
pub const XATTRS: usize = 256;
/// Most hosts that may appear in one version stamp.
pub const STAMP_ENTRIES: usize = 16;

/// Longest log entry (header and body): two xattr values, a name and slack.
pub const LOG_ENTRY_BYTES: usize = 256 * 1024;
/// A log segment is closed and a new one begun when it has grown to this.
pub const LOG_SEGMENT_BYTES: u64 = 4 << 20;
/// Default bound of a file set's whole log; beyond it the oldest segments go, acknowledged or not by replicas that
/// can be brought up by comparison.
pub const LOG_TOTAL_BYTES: u64 = 256 << 20;
/// Record numbers that are skipped after a power loss, so that a number that a peer may have seen is never reused.
pub const LOG_GAP_RECORDS: u64 = 1 << 32;

/// Longest body of one packet on the wire.
pub const PACKET_BODY_BYTES: usize = 1 << 20;
/// Payload of one data packet of a bulk transfer.
pub const DATA_CHUNK_BYTES: usize = 256 * 1024;
/// Bytes of a bulk transfer that may be under way unacknowledged (credit).
pub const TRANSFER_CREDIT_BYTES: usize = 8 << 20;
/// Records in one shipment.
pub const SHIPMENT_RECORDS: usize = 4096;
/// Encoded bytes of one shipment's records; must leave room for its settled attributes in a packet.
pub const SHIPMENT_BYTES: usize = 512 * 1024;
/// Shipments that may be sent ahead of their acknowledgement.
pub const SHIPMENTS_IN_FLIGHT: usize = 16;
/// Shipments that may be sent ahead when the receiver needs later records to commit the first ones.
pub const SHIPMENTS_AHEAD: usize = 1024;
/// Objects named in one request for content.
pub const FETCH_OBJECTS: usize = 4096;
/// Largest file whose content may be decompressed or held in memory as one piece.
pub const INLINE_CONTENT_BYTES: u64 = 128 * 1024;
/// Largest rsync signature that a receiver may send.
pub const SIGNATURE_BYTES: usize = 16 << 20;
/// Directory entries in one listing packet.
pub const LISTING_ENTRIES: usize = 2048;
/// Open sessions of one connection.
pub const SESSIONS: usize = 1024;
/// Connections of one peer host.
pub const CONNECTIONS_PER_HOST: usize = 4;
/// Connections that have not yet finished their handshake.
pub const HANDSHAKES: usize = 64;

/// Control packets that may wait to be sent on one connection; a peer that lets more pile up is disconnected.
pub const CONTROL_QUEUE_PACKETS: usize = 16_384;
/// The same in bytes, headers included.
pub const CONTROL_QUEUE_BYTES: usize = 64 << 20;
/// Bulk bytes that may wait to be sent on one connection; senders wait beyond it.
pub const BULK_QUEUE_BYTES: usize = 2 << 20;
/// Packets are joined into writes of about this size; a control packet waits at most for one such write.
pub const WRITE_BATCH_BYTES: usize = 256 * 1024;
/// Longest first packet of a host that has no certificate yet.
pub const JOIN_PACKET_BYTES: usize = 16 * 1024;

/// Time within which a TLS handshake and the hello must be complete.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// A heartbeat is sent when a connection was quiet for this long.
pub const HEARTBEAT_MS: u64 = 2_000;
/// A peer that was silent for this long is disconnected.
pub const PEER_SILENCE_MS: u64 = 10_000;
/// A bulk transfer of which nothing came for this long is given up, as if the connection had been cut.
pub const TRANSFER_SILENCE_MS: u64 = 120_000;
/// The source of a transfer that is at work for this long without sending anything (hashing what the other side has)
/// sends an empty data packet.
pub const TRANSFER_ALIVE_MS: u64 = 10_000;
/// First pause between attempts to connect.
pub const BACKOFF_MIN_MS: u64 = 100;
/// Longest pause between attempts to connect.
pub const BACKOFF_MAX_MS: u64 = 5_000;
/// Pause before a commit that failed for lack of space is tried again.
pub const NO_SPACE_RETRY_MS: u64 = 1_000;
/// Pause before content that changed while it was read is asked for again.
pub const CHANGED_RETRY_MS: u64 = 50;
/// How often what was applied is made durable, and acknowledged as such.
pub const SYNC_INTERVAL_MS: u64 = 1_000;
/// Files that stay open for writing are logged at this interval.
pub const OPEN_STORE_INTERVAL_MS: u64 = 5_000;
/// A permit is kept at least this long by a host that uses it, so that two busy writers do not starve each other.
pub const PERMIT_MIN_HOLD_MS: u64 = 50;
/// A client that has the permit and is not connected loses it after this, once others wait for it.
pub const PERMIT_LEASE_MS: u64 = 10_000;
/// Life of an invitation.
pub const TICKET_LIFE_S: u64 = 3_600;

/// Longest message of the upcall channel.
pub const UPCALL_BYTES: usize = 256 * 1024;
/// FUSE requests that may be parked at once in one mount; further ones get `EAGAIN`.
pub const PARKED_REQUESTS: usize = 4096;
/// How often the caller of a parked request is examined for pending signals.
pub const PARKED_POLL_MS: u64 = 50;
/// Files of a client's cache that Presto keeps in mind as opened lately, in each of two generations.
pub const RECENTLY_OPENED: usize = 65_536;
/// Objects of a client's cache that Presto keeps in mind as filled lately, in each of two generations.
pub const FILLED_OBJECTS: usize = 65_536;
/// Directory descriptors that Presto keeps open.
pub const DIRECTORY_CACHE: usize = 1024;

/// Longest line on the command socket.
pub const CONTROL_LINE_BYTES: usize = 1 << 20;
