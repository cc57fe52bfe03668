//! The network's bounds and times: [`protocol::limits`], which tests shorten.

use protocol::limits;
use std::time::Duration;

/// What bounds a [`crate::Network`]; the default takes [`protocol::limits`]. Both ends of a connection must have the
/// same `credit_bytes`.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// Time for TCP, TLS and hello together.
    pub handshake_timeout: Duration,
    /// Connections that may be in their handshake; the oldest gives way to one more.
    pub handshakes: usize,
    /// A heartbeat is sent when nothing else was for so long.
    pub heartbeat: Duration,
    /// A peer of which nothing was heard for so long is disconnected.
    pub peer_silence: Duration,
    /// Bytes (headers included) that a session may have under way to its consumer.
    pub credit_bytes: usize,
    /// Control packets that wait to be sent on one connection; beyond it the peer is taken for dead.
    pub control_packets: usize,
    /// The same in bytes.
    pub control_bytes: usize,
    /// Bulk bytes that wait to be sent on one connection; senders wait beyond it.
    pub bulk_bytes: usize,
    /// Open sessions of one connection, each way.
    pub sessions: usize,
    /// Connections of one peer host, those in their hello included.
    pub connections_per_host: usize,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_millis(limits::HANDSHAKE_TIMEOUT_MS),
            handshakes: limits::HANDSHAKES,
            heartbeat: Duration::from_millis(limits::HEARTBEAT_MS),
            peer_silence: Duration::from_millis(limits::PEER_SILENCE_MS),
            credit_bytes: limits::TRANSFER_CREDIT_BYTES,
            control_packets: limits::CONTROL_QUEUE_PACKETS,
            control_bytes: limits::CONTROL_QUEUE_BYTES,
            bulk_bytes: limits::BULK_QUEUE_BYTES,
            sessions: limits::SESSIONS,
            connections_per_host: limits::CONNECTIONS_PER_HOST,
        }
    }
}
