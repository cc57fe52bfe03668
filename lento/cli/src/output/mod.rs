//! What a person sees: words, tables, colours and progress. Pure text where it can be; [`Screen`] writes it.

mod log;
mod progress;
mod screen;
mod status;
mod verify;
mod words;

pub(crate) use log::log_line;
pub(crate) use screen::code;
pub use screen::{Screen, report};
pub use status::status_text;
pub(crate) use status::{caches, fileset_at, filesets, host_status, who};
pub(crate) use verify::{compared, difference};
pub(crate) use words::{ago, bytes, count, counted};
