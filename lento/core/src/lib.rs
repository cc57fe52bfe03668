//! The mind of Lento (design D14): events in, actions out; no I/O, no clock, no randomness.
//!
//! [`Engine`] is the one entry. Its shell, the daemon or the simulation, calls
//!
//! 1. [`Engine::add_fileset`] for each file set of the host,
//! 2. [`Engine::handle`] for each event, with the time,
//! 3. [`Engine::poll_action`] until it is empty, and performs the actions in order,
//! 4. [`Engine::poll_timeout`], and [`Event::Tick`] when that time has come.
//!
//! Bulk bytes do not pass through here: [`Action::Stage`] and [`Action::Compare`] name what is to be moved.

mod apply;
mod connector;
mod engine;
mod event;
mod fileset;
mod link;
mod mine;
mod permits;
mod plan;
mod saved;
mod ship;
mod status;
mod step;
mod taking;

pub use engine::Engine;
pub use event::{Action, CommitResult, Event, HistoryResult, PrestoEvent, StageResult};
pub use fileset::FileSetSetup;
pub use plan::{content_needed, last_stores};
pub use saved::{Saved, SavedError};
pub use status::{ApplyStatus, FileSetStatus, LinkStatus, PermitStatus};
