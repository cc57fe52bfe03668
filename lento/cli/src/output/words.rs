//! Numbers as people read them.

use indicatif::{HumanBytes, HumanCount};
use std::time::Duration;

/// `1.20 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    HumanBytes(n).to_string()
}

/// `10,000`.
pub(crate) fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// `3 records`, `1 record`.
pub(crate) fn counted(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `2h 3m`: the two largest units.
pub(crate) fn ago(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{ago, counted};

    #[test]
    fn numbers_are_rounded_to_what_matters() {
        assert_eq!(ago(7_384), "2h 3m");
        assert_eq!(ago(0), "0s");
        assert_eq!(counted(1, "record"), "1 record");
        assert_eq!(counted(12_000, "record"), "12,000 records");
    }
}
