//! Where in a file set's history a host stands (design D5: the file set's stamp).

use serde::{Deserialize, Serialize};
use std::fmt;

/// A point in a file set's history: the permit epoch, and the last record in it, by the number that its writer gave.
///
/// Each epoch has just one writer, so positions are totally ordered, whoever wrote. Equal positions mean that a
/// cache is valid as a whole; the records between two positions are what the one behind misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// The permit epoch; 0 before the first permit was given.
    pub epoch: u64,
    /// The number of the last record included; 0 for none of this epoch.
    pub number: u64,
}

impl Position {
    /// Before everything.
    pub const START: Self = Self { epoch: 0, number: 0 };

    /// A position from its parts.
    pub const fn new(epoch: u64, number: u64) -> Self {
        Self { epoch, number }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.number)
    }
}
