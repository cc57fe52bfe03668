//! Version stamps (design D5): equal id and equal stamp mean equal content and attributes.

use crate::{HostId, ProtocolError, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How two stamps of one object relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampOrder {
    /// The same version.
    Equal,
    /// The left one includes the right one: it is newer.
    Dominates,
    /// The right one includes the left one.
    Dominated,
    /// Neither includes the other: a conflict.
    Concurrent,
}

/// A version vector: for each host that serialised updates of the object, the number of its last record, and who
/// updated last. The empty stamp is that of an object nobody recorded yet; every other stamp dominates it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct VersionStamp {
    entries: BTreeMap<HostId, u64>,
    updater: Option<HostId>,
}

#[derive(Serialize, Deserialize)]
struct Parts(Vec<(HostId, u64)>, Option<HostId>);

impl TryFrom<Parts> for VersionStamp {
    type Error = ProtocolError;
    fn try_from(Parts(list, updater): Parts) -> Result<Self, Self::Error> {
        if list.len() > limits::STAMP_ENTRIES {
            return Err(ProtocolError::TooLong {
                what: "a version stamp",
                got: list.len(),
                limit: limits::STAMP_ENTRIES,
            });
        }
        let entries: BTreeMap<_, _> = list.into_iter().collect();
        if updater.is_some_and(|host| !entries.contains_key(&host)) || updater.is_some() == entries.is_empty() {
            return Err(ProtocolError::malformed("a version stamp", "its updater has no entry"));
        }
        Ok(Self { entries, updater })
    }
}

impl From<VersionStamp> for Parts {
    fn from(stamp: VersionStamp) -> Self {
        Self(stamp.entries.into_iter().collect(), stamp.updater)
    }
}

impl VersionStamp {
    /// The stamp after `host`'s record `number` touched the object.
    ///
    /// The lowest entry of another host is dropped when the vector would outgrow [`limits::STAMP_ENTRIES`]; under a
    /// permit this cannot turn order into conflict, as the newest entry decides.
    pub fn touched(&self, host: HostId, number: u64) -> Self {
        let mut entries = self.entries.clone();
        let entry = entries.entry(host).or_insert(0);
        *entry = (*entry).max(number);
        if entries.len() > limits::STAMP_ENTRIES
            && let Some(lowest) = entries.iter().filter(|(h, _)| **h != host).min_by_key(|(_, n)| **n).map(|(h, _)| *h)
        {
            entries.remove(&lowest);
        }
        Self { entries, updater: Some(host) }
    }

    /// Who updated last.
    pub fn updater(&self) -> Option<HostId> {
        self.updater
    }

    /// The number of `host`'s last record in this version, 0 if it has none.
    pub fn of(&self, host: HostId) -> u64 {
        self.entries.get(&host).copied().unwrap_or(0)
    }

    /// How `self` relates to `other` (pFS: equal, dominates, or conflict).
    pub fn order(&self, other: &Self) -> StampOrder {
        let covers = |a: &Self, b: &Self| b.entries.iter().all(|(host, number)| a.of(*host) >= *number);
        match (covers(self, other), covers(other, self)) {
            (true, true) => StampOrder::Equal,
            (true, false) => StampOrder::Dominates,
            (false, true) => StampOrder::Dominated,
            (false, false) => StampOrder::Concurrent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(n: u32) -> HostId {
        HostId::new(n).expect("tests use positive ids")
    }

    fn any_stamp() -> impl Strategy<Value = VersionStamp> {
        proptest::collection::vec((1_u32..4, 1_u64..5), 0..6)
            .prop_map(|l| l.into_iter().fold(VersionStamp::default(), |s, (h, n)| s.touched(host(h), n)))
    }

    proptest! {
        #[test]
        fn a_touched_stamp_dominates_what_it_was(stamp in any_stamp(), h in 1_u32..4) {
            let next = stamp.touched(host(h), stamp.of(host(h)) + 1);
            prop_assert_eq!(next.order(&stamp), StampOrder::Dominates);
            prop_assert_eq!(stamp.order(&next), StampOrder::Dominated);
        }

        #[test]
        fn order_is_antisymmetric(a in any_stamp(), b in any_stamp()) {
            let mirrored = match b.order(&a) {
                StampOrder::Dominates => StampOrder::Dominated,
                StampOrder::Dominated => StampOrder::Dominates,
                same => same,
            };
            prop_assert_eq!(a.order(&b), mirrored);
        }
    }

    #[test]
    fn separate_updates_are_concurrent() {
        let base = VersionStamp::default().touched(host(1), 1);
        assert_eq!(base.touched(host(1), 2).order(&base.touched(host(2), 1)), StampOrder::Concurrent);
    }
}
