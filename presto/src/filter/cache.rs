//! What the mount of a client has to know of its cache beyond what the cache's files tell.

use super::filled::FilledObjects;
use crate::sys::Stat;
use protocol::{Handle, ObjectId, Timestamp, limits};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Kept with `--on-demand` only.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    recent: Mutex<Recent>,
    unsent: Mutex<Unsent>,
    /// Directories of which the kernel may have attributes or a listing, and how often it was told of each.
    known: Mutex<HashMap<u64, u64>>,
    filled: FilledObjects,
}

/// Files that were opened lately, in two generations, so that there is a bound and no clock.
#[derive(Debug, Default)]
struct Recent {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

/// What the log tells of a file and the other hosts need not know yet.
#[derive(Debug, Default)]
struct Change {
    /// Its last store, 0 if there was none since it was reintegrated.
    stored: u64,
    /// It was opened for writing, and all about that is not told yet.
    writing: bool,
}

#[derive(Debug, Default)]
struct Unsent {
    files: HashMap<ObjectId, Change>,
    /// All records up to this one are reintegrated.
    upto: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one insertion or removal: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// A file was opened.
    pub(super) fn opened(&self, handle: Handle) {
        let mut recent = lock(&self.recent);
        if recent.young.len() >= limits::RECENTLY_OPENED {
            recent.old = std::mem::take(&mut recent.young);
        }
        recent.young.insert(handle.0);
    }

    /// Whether a file was opened since this was asked last.
    pub(super) fn take_recent(&self, handle: Handle) -> bool {
        let mut recent = lock(&self.recent);
        let young = recent.young.remove(&handle.0);
        recent.old.remove(&handle.0) || young
    }

    /// A file is open for writing.
    pub(super) fn writing(&self, id: ObjectId) {
        lock(&self.unsent).files.entry(id).or_default().writing = true;
    }

    /// All that was written to a file is told in the log.
    pub(super) fn told(&self, id: ObjectId) {
        let mut unsent = lock(&self.unsent);
        if let Some(change) = unsent.files.get_mut(&id) {
            change.writing = false;
            if change.stored == 0 {
                unsent.files.remove(&id);
            }
        }
    }

    /// Record `number` tells of a file's content.
    pub(crate) fn stored(&self, id: ObjectId, number: u64) {
        let mut unsent = lock(&self.unsent);
        if number > unsent.upto {
            unsent.files.entry(id).or_default().stored = number;
        }
    }

    /// All records up to `upto` are reintegrated.
    pub(crate) fn reintegrated(&self, upto: u64) {
        let mut unsent = lock(&self.unsent);
        unsent.upto = unsent.upto.max(upto);
        let upto = unsent.upto;
        unsent.files.retain(|_, change| {
            if change.stored <= upto {
                change.stored = 0;
            }
            change.writing || change.stored > 0
        });
    }

    /// Whether a file's content is, or may become, other than what the other hosts know.
    pub(super) fn is_unsent(&self, id: ObjectId) -> bool {
        lock(&self.unsent).files.contains_key(&id)
    }

    /// Whether the log tells of content that is not reintegrated.
    pub(super) fn is_stored(&self, id: ObjectId) -> bool {
        lock(&self.unsent).files.get(&id).is_some_and(|change| change.stored > 0)
    }

    /// The kernel is told of a directory.
    pub(crate) fn known(&self, node: u64) {
        *lock(&self.known).entry(node).or_default() += 1;
    }

    /// The kernel forgets as many times that it was told of a node.
    pub(crate) fn forgotten(&self, node: u64, times: u64) {
        let mut known = lock(&self.known);
        if let Some(count) = known.get_mut(&node) {
            *count = count.saturating_sub(times);
            if *count == 0 {
                known.remove(&node);
            }
        }
    }

    /// Names or content of an object were brought here, which moved its time of status change.
    pub(crate) fn filled(&self, handle: Handle, before: Timestamp, after: Timestamp) {
        self.filled.note(handle, before, after);
    }

    /// What programs see of an inode's attributes.
    pub(super) fn as_shown(&self, handle: Handle, stat: Stat) -> Stat {
        stat.with_ctime(self.filled.shown(handle, stat.ctime()))
    }

    /// The directories that the kernel knows, by node.
    pub(crate) fn all_known(&self) -> Vec<u64> {
        lock(&self.known).keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::HostId;

    fn id(counter: u64) -> ObjectId {
        ObjectId::new(HostId::new(3).expect("3 is not 0"), counter)
    }

    #[test]
    fn a_file_is_unsent_from_its_open_for_writing_until_its_last_store_is_reintegrated() {
        let cache = Cache::default();
        cache.writing(id(1));
        assert!(cache.is_unsent(id(1)) && !cache.is_stored(id(1)));
        cache.told(id(1));
        assert!(!cache.is_unsent(id(1)), "closed unchanged");
        cache.writing(id(1));
        cache.stored(id(1), 10);
        cache.told(id(1));
        cache.stored(id(1), 12);
        cache.reintegrated(11);
        assert!(cache.is_stored(id(1)));
        cache.writing(id(1));
        cache.reintegrated(12);
        assert!(cache.is_unsent(id(1)) && !cache.is_stored(id(1)), "still open for writing");
        cache.told(id(1));
        assert!(!cache.is_unsent(id(1)));
        cache.stored(id(1), 11);
        assert!(!cache.is_unsent(id(1)), "reintegrated before it was noted");
    }

    #[test]
    fn a_file_counts_as_recent_once() {
        let cache = Cache::default();
        assert!(!cache.take_recent(Handle(1)));
        cache.opened(Handle(1));
        assert!(cache.take_recent(Handle(1)));
        assert!(!cache.take_recent(Handle(1)));
    }

    #[test]
    fn the_files_opened_lately_are_bounded() {
        let cache = Cache::default();
        for n in 0..3 * limits::RECENTLY_OPENED as u64 {
            cache.opened(Handle(n));
        }
        let recent = lock(&cache.recent);
        assert!(recent.young.len() + recent.old.len() <= 2 * limits::RECENTLY_OPENED);
        drop(recent);
        assert!(cache.take_recent(Handle(3 * limits::RECENTLY_OPENED as u64 - 1)));
        assert!(!cache.take_recent(Handle(0)));
    }

    #[test]
    fn a_directory_is_known_until_it_is_forgotten_as_often_as_it_was_told() {
        let cache = Cache::default();
        cache.known(7);
        cache.known(7);
        cache.forgotten(7, 1);
        cache.forgotten(8, 1);
        assert_eq!(cache.all_known(), [7]);
        cache.forgotten(7, 1);
        assert!(cache.all_known().is_empty());
    }
}
