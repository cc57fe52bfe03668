//! What programs are told of an object's last status change, after its names or content were brought into the cache:
//! that changes the inode, though for programs nothing changed.

use protocol::{Handle, Timestamp, limits};
use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

/// An object that was filled.
#[derive(Debug, Clone, Copy)]
struct Change {
    /// The time that programs saw before the first of its fills.
    before: Timestamp,
    /// The inode's own time after the last one. It lasts until something real changes the inode.
    after: Timestamp,
}

/// Two generations, so that there is a bound and no clock. Of what falls out the truth is told, which is later: so no
/// time goes back.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Change>,
    old: HashMap<u64, Change>,
}

impl Generations {
    fn get(&self, object: u64) -> Option<Change> {
        self.young.get(&object).or_else(|| self.old.get(&object)).copied()
    }
}

/// Objects that were filled lately.
#[derive(Debug, Default)]
pub(super) struct FilledObjects(RwLock<Generations>);

impl FilledObjects {
    /// An object was filled, which moved its time of status change from `before` to `after`.
    pub(super) fn note(&self, object: Handle, before: Timestamp, after: Timestamp) {
        if before >= after {
            // Nothing to hide; and were the clock set back, programs would see the time jump on.
            return;
        }
        // Each change is one insertion, or one of a whole generation: a panic leaves nothing half done.
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let earlier = known.get(object.0).filter(|earlier| earlier.after == before);
        if known.young.len() >= limits::FILLED_OBJECTS {
            known.old = std::mem::take(&mut known.young);
        }
        let before = earlier.map_or(before, |earlier| earlier.before);
        known.young.insert(object.0, Change { before, after });
    }

    /// What programs are to see of an inode whose own time of status change is `ctime`.
    pub(super) fn shown(&self, object: Handle, ctime: Timestamp) -> Timestamp {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(object.0).filter(|change| change.after == ctime).map_or(ctime, |change| change.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: Handle = Handle(7);

    fn at(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 5 }
    }

    #[test]
    fn a_fill_is_hidden_until_something_else_changes_the_object() {
        let filled = FilledObjects::default();
        assert_eq!(filled.shown(OBJECT, at(2)), at(2));
        filled.note(OBJECT, at(1), at(2));
        assert_eq!(filled.shown(OBJECT, at(2)), at(1));
        assert_eq!(filled.shown(Handle(8), at(2)), at(2));
        assert_eq!(filled.shown(OBJECT, at(3)), at(3));
    }

    #[test]
    fn of_a_chain_of_fills_the_first_is_shown_and_a_change_in_between_breaks_it() {
        let filled = FilledObjects::default();
        filled.note(OBJECT, at(1), at(2));
        filled.note(OBJECT, at(2), at(4));
        assert_eq!(filled.shown(OBJECT, at(4)), at(1));
        assert_eq!(filled.shown(OBJECT, at(2)), at(2));
        filled.note(OBJECT, at(5), at(6));
        assert_eq!(filled.shown(OBJECT, at(6)), at(5));
    }

    #[test]
    fn no_time_is_shown_that_is_later_than_the_true_one() {
        let filled = FilledObjects::default();
        filled.note(OBJECT, at(3), at(2));
        assert_eq!(filled.shown(OBJECT, at(2)), at(2));
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_chain_goes_on_from_the_old_generation() {
        let filled = FilledObjects::default();
        let limit = limits::FILLED_OBJECTS as u64;
        for n in 0..2 * limit {
            filled.note(Handle(n), at(1), at(2));
        }
        filled.note(Handle(limit), at(2), at(3));
        let known = filled.0.read().expect("no panic");
        assert!(known.young.len() + known.old.len() <= 2 * limits::FILLED_OBJECTS);
        drop(known);
        assert_eq!(filled.shown(Handle(0), at(2)), at(2), "forgotten: the truth");
        assert_eq!(filled.shown(Handle(limit), at(3)), at(1));
        assert_eq!(filled.shown(Handle(limit + 1), at(2)), at(1));
    }
}
