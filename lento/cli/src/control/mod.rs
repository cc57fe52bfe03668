//! The control protocol between the command line and the daemon (`docs/formats/control.md`).
//!
//! A client connects to `<home>/run/control.sock`, sends one [`Envelope`] as a line of JSON, and reads lines, each a
//! [`ControlEvent`], until [`ControlEvent::Done`] or [`ControlEvent::Failed`]. A connection carries one request; a
//! client that hangs up ends `log --follow`, `wait` and `verify`, and nothing else.

mod event;
mod line;
mod log_line;
mod request;
mod status;
mod text;

pub use event::{
    Code, Compared, ControlEvent, Difference, Failure, FieldDifference, Found, Progress, Ticket, VerifyReport,
};
pub use line::{LineError, LineReader, decode_request, encode_line, encode_request};
pub use log_line::{LogLine, LogResult};
pub use request::{
    CONTROL_VERSION, ControlRequest, Envelope, MountChoice, ObjectsAction, PermitAction, UmountTarget, WaitPolicy,
};
pub use status::{
    CacheStatus, FileSetStatus, HostStatus, Lag, MountState, MountStatus, PeerStatus, PermitStatus, ReplicaState,
    ReplicaStatus, Role, Trouble,
};
pub use text::ByteText;

use std::path::{Path, PathBuf};

/// Differences that the daemon sends for one host, and that the client keeps; further ones are only counted.
pub const VERIFY_DIFFERENCES: usize = 10_000;

/// Where the daemon of `home` listens. Its directory must be of mode 0700: who may connect may do all.
pub fn socket_path(home: &Path) -> PathBuf {
    home.join("run/control.sock")
}
