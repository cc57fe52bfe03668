//! The bound of a client's cache: what was not used for longest goes, as soon as Presto says that nobody uses it.

use super::input::{Call, Input};
use super::mind::Mind;
use protocol::{Downcall, FileSetId, Handle};
use tokio::sync::oneshot;

/// Files named to Presto at once.
const CANDIDATES: usize = 1024;
/// Room that is kept free below the bound, at most, for what is being fetched.
const HEADROOM_BYTES: u64 = 64 << 20;

/// Bytes from which on contents go, and down to which they do.
fn marks(bound: u64) -> (u64, u64) {
    let headroom = HEADROOM_BYTES.min(bound / 8);
    (bound.saturating_sub(headroom), bound.saturating_sub(2 * headroom))
}

impl Mind {
    /// Lets contents go if the cache is near its bound.
    pub(super) fn bound_cache(&mut self, fileset: FileSetId) {
        let Some(set) = self.filesets.get_mut(&fileset) else { return };
        let (Some(client), Some(store)) = (set.config.client, &set.store) else { return };
        let (high, low) = marks(client.cache_bytes);
        let used = store.cached_bytes();
        if set.evicting || used <= high || set.presto.is_none() {
            return;
        }
        set.evicting = true;
        let (store, inputs) = (store.clone(), self.inputs.clone());
        tokio::task::spawn_blocking(move || {
            let found = store.coldest(used - low, CANDIDATES).unwrap_or_else(|why| {
                tracing::error!(%fileset, %why, "what is coldest in the cache is not known");
                Vec::new()
            });
            let evict = Call::Do(Box::new(move |mind: &mut Mind| {
                let nothing = found.is_empty();
                if !nothing {
                    mind.evict(fileset, found, None);
                } else if let Some(set) = mind.filesets.get_mut(&fileset) {
                    set.evicting = false;
                }
            }));
            let _ = inputs.blocking_send(Input::Call(evict));
        });
    }

    /// Asks Presto to let contents go; when their room is free is told.
    pub(super) fn evict(&mut self, fileset: FileSetId, objects: Vec<Handle>, reply: Option<oneshot::Sender<()>>) {
        if let Some(set) = self.filesets.get_mut(&fileset).filter(|set| set.presto.is_some()) {
            set.evictions.push_back(reply);
            self.downcall(fileset, Downcall::Evict { objects });
        }
    }

    /// Presto has marked contents as absent, or needs them.
    pub(super) fn evicted(&mut self, fileset: FileSetId, evicted: Vec<Handle>, kept: Vec<Handle>) {
        let Some(store) = self.store(fileset) else { return };
        let reply = self.filesets.get_mut(&fileset).and_then(|set| set.evictions.pop_front()).flatten();
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(why) = store.drop_contents(&evicted).and_then(|()| store.warm(&kept)) {
                tracing::error!(%fileset, %why, "the cache could not be made smaller");
            }
            tracing::debug!(%fileset, evicted = evicted.len(), kept = kept.len(), "evicted");
            let by_itself = reply.is_none();
            if let Some(reply) = reply {
                let _ = reply.send(());
            }
            let done = Call::Do(Box::new(move |mind: &mut Mind| {
                let Some(set) = mind.filesets.get_mut(&fileset) else { return };
                set.evicting &= !by_itself;
                // What was kept once goes the next time, unless it was used again.
                mind.bound_cache(fileset);
            }));
            let _ = inputs.blocking_send(Input::Call(done));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::marks;

    #[test]
    fn a_small_cache_has_room_all_the_same() {
        assert_eq!(marks(1 << 30), ((1 << 30) - (64 << 20), (1 << 30) - (128 << 20)));
        assert_eq!(marks(800), (700, 600));
        assert_eq!(marks(0), (0, 0));
    }
}
