//! A file set on disk as Lento sees it: the bottom by descriptor, identities, the index, history and commit.
//!
//! [`Store`] is the way in. It is `Send` and `Sync`: content is served while records are committed. All calls block.

mod absorb;
mod adopt;
mod ahead;
mod bottom;
mod cache;
mod cached;
mod check;
mod commit;
mod copying;
mod covered;
mod demand;
mod error;
mod history;
mod identity;
mod index;
mod positions;
mod recover;
mod rows;
mod siblings;
mod staged;
mod store;
mod summary;
mod sys;
mod walk;

pub use adopt::Rebuilt;
pub use ahead::Ahead;
pub use bottom::{Bottom, DirEntry, ReadDir};
pub use cache::CacheUse;
pub use check::Suspect;
pub use commit::{Committed, Invalidation};
pub use covered::open_covered;
pub use demand::{Brought, Filled, Wanting};
pub use error::{CommitError, StoreError};
pub use history::History;
pub use identity::{CommittedVersion, Identity};
pub use index::KnownVersion;
pub use siblings::Bounds;
pub use staged::{Staged, StagedFile};
pub use store::{Store, StoreConfig};
pub use summary::Pending;
