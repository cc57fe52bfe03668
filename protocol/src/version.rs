//! Versions of the wire, and how two hosts agree on one.

use crate::ProtocolError;

/// Version of the upcall channel.
pub const UPCALL: u16 = crate::upcall::VERSION;

/// Versions of the wire that this program speaks, lowest and highest.
pub const WIRE: (u16, u16) = (1, 1);

/// The highest version that both ends speak: `ours` and `theirs` are ranges, lowest and highest.
///
/// # Errors
/// [`ProtocolError::Version`] when the ranges do not meet: one of the hosts must be upgraded.
pub fn negotiate(ours: (u16, u16), theirs: (u16, u16)) -> Result<u16, ProtocolError> {
    let best = ours.1.min(theirs.1);
    if best >= ours.0.max(theirs.0) {
        Ok(best)
    } else {
        Err(ProtocolError::Version { what: "the peer's protocol", got: theirs.1, known: "1" })
    }
}

#[cfg(test)]
mod tests {
    use super::negotiate;

    #[test]
    fn the_highest_common_version_is_taken() {
        assert_eq!(negotiate((1, 3), (2, 5)), Ok(3));
        assert_eq!(negotiate((2, 5), (1, 3)), Ok(3));
        assert!(negotiate((1, 1), (2, 3)).is_err());
    }
}
