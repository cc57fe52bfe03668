//! Bulk content of file sets: serving and receiving it, with deltas, resumption and holes; listing and comparing trees;
//! manifests.
//!
//! Blocking code, for threads of its own. Bytes come and go as bodies of data packets, through closures and calls; the
//! network carries them.

mod compare;
mod delta;
mod error;
mod io;
mod list;
mod manifest;
mod packer;
mod receive;
mod send;
mod serve;
mod squeeze;
mod wire;

pub use compare::{CompareOptions, CompareReport, Comparer, Progress};
pub use error::{Emit, Stopped, TransferError};
pub use list::list;
pub use manifest::{Aspect, Difference, ManifestDiff, ManifestEntry, ManifestReader, manifest};
pub use receive::{Fetched, Receiver};
pub use serve::serve;
