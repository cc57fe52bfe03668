//! Fetching what a program that walks through a tree comes to next.

use super::{AHEAD, Fetch, Outcome};
use lento_store::{Bounds, StoreError};
use protocol::{Handle, Kind, ObjectId};
use std::collections::VecDeque;

/// How many requests follow one another.
const AHEAD_ROUNDS: usize = 32;
/// Directories that are listed ahead, and how many at a time.
const NAMES_AHEAD: Bounds = Bounds { objects: 64, bytes: u64::MAX, largest: u64::MAX };
const LISTERS: usize = 8;

/// Where a program walks.
pub(super) struct Walk {
    began: ObjectId,
    directory: ObjectId,
    from: Option<ObjectId>,
    /// Directories that come after it.
    next: VecDeque<ObjectId>,
}

impl Fetch {
    /// Where the neighbours of a file are that was wanted, if a program walks there.
    pub(super) fn walk_from(&self, id: ObjectId) -> Option<Walk> {
        let looked = || -> Result<Option<Walk>, StoreError> {
            let Some(directory) = self.store.parent(id)? else { return Ok(None) };
            let above = self.store.parent(directory)?;
            if !self.walks.file_wanted(directory, above) {
                return Ok(None);
            }
            let next = match above {
                Some(above) => self.store.directories_after(above, directory).unwrap_or_default(),
                None => Vec::new(),
            };
            Ok(Some(Walk { began: directory, directory, from: Some(id), next: next.into() }))
        };
        looked().unwrap_or_else(|why| {
            tracing::debug!(%id, %why, "not read ahead");
            None
        })
    }

    /// Fetches what programs come to next: the files of a directory, and of those beside it. What is wanted comes first.
    pub(super) fn walk(&self, mut walk: Walk, mut wanted: Option<(Handle, ObjectId)>) {
        for _ in 0..AHEAD_ROUNDS {
            let mut batch = wanted.map(|(_, id)| vec![id]).unwrap_or_default();
            if let Err(why) = self.next_of(&mut walk, &mut batch) {
                tracing::debug!(why = format!("{why:#}"), "not read ahead any more");
                walk.next.clear();
            }
            if batch.is_empty() {
                break;
            }
            let mut results = self.contents(batch, 0);
            let came = results.values().any(|outcome| matches!(outcome, Ok(Outcome::Answer(0))));
            if let Some((handle, id)) = wanted.take() {
                let outcome = results.remove(&id).unwrap_or(Ok(Outcome::Later));
                self.tell(vec![(handle, self.told(id, outcome))]);
            }
            // Room is not made for what nobody asked for.
            if !came || self.store.cached_bytes() + AHEAD.bytes > self.bound {
                break;
            }
        }
        self.walks.ended(walk.began);
    }

    /// Adds what comes next, as much as is fetched at once.
    fn next_of(&self, walk: &mut Walk, batch: &mut Vec<ObjectId>) -> anyhow::Result<()> {
        let mut bytes = 0;
        loop {
            let room =
                Bounds { objects: AHEAD.objects.saturating_sub(batch.len()), bytes: AHEAD.bytes - bytes, ..AHEAD };
            for (id, size) in self.store.absent_in(walk.directory, walk.from, Kind::File, room)? {
                walk.from = Some(id);
                // What was wanted is found as well.
                if !batch.contains(&id) {
                    bytes += size;
                    batch.push(id);
                }
            }
            if batch.len() >= AHEAD.objects || bytes >= AHEAD.bytes {
                return Ok(());
            }
            let Some(next) = walk.next.pop_front() else { return Ok(()) };
            if self.store.is_absent(next)? {
                self.names(next)?;
            }
            (walk.directory, walk.from) = (next, None);
        }
    }

    /// Asks for the names in what is beside a directory that was wanted, and in it, if a program walks there.
    pub(super) fn names_ahead(&self, id: ObjectId) -> anyhow::Result<()> {
        let Some(above) = self.store.parent(id)? else { return Ok(()) };
        if !self.walks.names_wanted(above) {
            return Ok(());
        }
        let mut next = self.store.absent_in(id, None, Kind::Directory, NAMES_AHEAD)?;
        next.extend(self.store.absent_in(above, Some(id), Kind::Directory, NAMES_AHEAD)?);
        let next = std::sync::Mutex::new(next.into_iter());
        let runtime = tokio::runtime::Handle::current();
        std::thread::scope(|scope| {
            for _ in 0..LISTERS {
                scope.spawn(|| {
                    let _entered = runtime.enter();
                    loop {
                        let one = next.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                        let Some((id, _)) = one else { return };
                        if let Err(why) = self.names(id) {
                            tracing::debug!(%id, why = format!("{why:#}"), "not listed ahead");
                        }
                    }
                });
            }
        });
        Ok(())
    }
}
