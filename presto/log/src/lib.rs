//! The modification log on disk: append-only segments in `.intermezzo/log`, one writer, any number of readers.
//!
//! [`Writer`] is used by Presto for the log of its own host, and by Lento for the logs that it receives from others
//! (`.intermezzo/from-<host>`). [`Reader`] follows a log while it is written, rotated and trimmed. The bytes are
//! described in `docs/formats/log.md`; their encoding is in [`protocol::encode_entry`].

mod error;
mod reader;
mod recover;
mod segment;
mod writer;

pub use error::LogError;
pub use reader::{Finished, ReadResult, Reader};
pub use recover::{OpenFile, Recovered};
pub use writer::{Options, Writer};
