//! Receives the content of objects into the staging directory.

mod offer;
mod part;
mod round;
mod staging;

pub use round::{Fetched, Receiver};

/// Removes a staged file that nobody commits.
pub(crate) fn remove_staged(store: &lento_store::Store, file: &lento_store::StagedFile) {
    staging::remove(store.bottom().staging(), &file.name);
}
