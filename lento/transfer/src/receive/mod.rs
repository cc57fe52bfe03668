//! Receives the content of objects into the staging directory.

mod part;
mod round;
mod staging;

pub use round::{Fetched, Receiver};
