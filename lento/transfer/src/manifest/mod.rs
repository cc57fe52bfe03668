//! Manifests for `lento verify`: a digest of every path of a tree, in order, made from the tree alone (no index, no
//! ids), so that the check is an honest one.

mod diff;
mod entry;
mod walk;

pub use diff::{Aspect, Difference, ManifestDiff, ManifestReader};
pub use entry::ManifestEntry;
pub use walk::manifest;
