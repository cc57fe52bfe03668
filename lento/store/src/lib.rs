//! A file set on disk as Lento sees it: the bottom by descriptor, identities, the index, history and commit.
//!
//! [`Store`] is the way in. It is `Send` and `Sync`: content is served while records are committed. All calls block.

mod bottom;
mod error;
mod identity;
mod index;
mod staged;
mod store;
mod sys;

pub use bottom::{Bottom, DirEntry, ReadDir};
pub use error::{CommitError, StoreError};
pub use identity::{CommittedVersion, Identity};
pub use index::KnownVersion;
pub use staged::{Staged, StagedFile};
pub use store::{Store, StoreConfig};
