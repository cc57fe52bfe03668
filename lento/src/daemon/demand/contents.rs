//! FetchFile: the contents of files.

use super::{Fetch, Outcome, errno_of};
use crate::daemon::input::{Call, Input};
use crate::daemon::mind::Mind;
use crate::daemon::stage::rounds;
use lento_store::{Filled, Invalidation, StoreError};
use lento_transfer::{Fetched, Receiver};
use protocol::{ObjectId, Position};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long records may take that tell of a version which came before them.
const RECORDS: Duration = Duration::from_secs(2);
/// How long a fetch waits for room in the cache.
const ROOM: Duration = Duration::from_secs(10);

impl Fetch {
    /// Waits until the cache has room for some bytes more; `false` if that does not come.
    fn make_room(&self, bytes: u64) -> bool {
        let deadline = Instant::now() + ROOM;
        while self.store.cached_bytes() + bytes > self.bound {
            if bytes > self.bound || Instant::now() > deadline {
                return false;
            }
            let fileset = self.fileset;
            let evict = Call::Do(Box::new(move |mind: &mut Mind| mind.bound_cache(fileset)));
            let _ = self.inputs.blocking_send(Input::Call(evict));
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// FetchFile, of several at once, which have about so many `bytes`.
    pub(super) fn contents(&self, ids: Vec<ObjectId>, bytes: u64) -> HashMap<ObjectId, anyhow::Result<Outcome>> {
        let mut results = HashMap::new();
        if ids.is_empty() {
            return results;
        }
        if !self.make_room(bytes) {
            return ids.into_iter().map(|id| (id, Ok(Outcome::Answer(libc::ENOSPC)))).collect();
        }
        let mut receiver = Receiver::new(self.store.clone(), ids).without_sync();
        let came = rounds(&mut receiver, &self.connection, self.fileset, &mut |_| true);
        if let Err(why) = came {
            tracing::debug!(why = format!("{why:#}"), "contents were not all fetched");
        }
        let (mut staged, mut gone) = (Vec::new(), Vec::new());
        for (id, fetched) in receiver.finish() {
            let outcome = match fetched {
                Fetched::Staged { as_of, file } => {
                    staged.push((id, as_of, file));
                    continue;
                }
                Fetched::Gone => {
                    gone.push(id);
                    continue;
                }
                Fetched::FailedHere(errno) | Fetched::FailedThere(errno) => Outcome::Answer(errno),
                Fetched::Same { .. } | Fetched::Changed | Fetched::Interrupted => Outcome::Later,
            };
            results.insert(id, Ok(outcome));
        }
        if let Err(why) = self.fill(&staged, &mut results) {
            let errno = errno_of(&why);
            for (id, _, _) in &staged {
                results.entry(*id).or_insert(Ok(Outcome::Answer(errno)));
            }
        }
        for id in gone {
            results.insert(id, self.await_removal(id));
        }
        results
    }

    fn fill(
        &self,
        staged: &[(ObjectId, Position, lento_store::StagedFile)],
        results: &mut HashMap<ObjectId, anyhow::Result<Outcome>>,
    ) -> Result<(), StoreError> {
        let mut filled = Vec::new();
        for (id, result) in self.store.fill(staged)? {
            let outcome = match result {
                Filled::Done(brought) => {
                    filled.push(brought);
                    Outcome::Answer(0)
                }
                // Tried again: what became of it is looked at first.
                Filled::Superseded => Outcome::Later,
                Filled::Newer(at) => self.await_records(id, at)?,
            };
            results.insert(id, Ok(outcome));
        }
        self.brought(&filled);
        let objects = filled.into_iter().map(|brought| brought.handle).collect();
        self.invalidate(Invalidation { objects, ..Invalidation::default() });
        Ok(())
    }

    /// Waits for the records that tell of a version; if they have been here, the names of the directory are asked for anew.
    fn await_records(&self, id: ObjectId, at: Position) -> Result<Outcome, StoreError> {
        let deadline = Instant::now() + RECORDS;
        while self.store.applied()?.values().all(|applied| *applied < at) {
            if Instant::now() > deadline {
                return Ok(Outcome::Later);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if self.store.version(id)?.is_some_and(|version| version.as_of < at) && self.doubt_names_around(id)? {
            return Ok(Outcome::Answer(libc::ESTALE));
        }
        Ok(Outcome::Later)
    }

    /// Waits for the records that tell of the removal of an object which the holder has no more: the kernel looks its name
    /// up once again, and no more than once, before it lets the caller know that it was stale. If they do not come, as they
    /// have been here, the names of the directory are asked for anew.
    pub(super) fn await_removal(&self, id: ObjectId) -> anyhow::Result<Outcome> {
        let deadline = Instant::now() + RECORDS;
        while self.store.version(id)?.is_some() {
            if Instant::now() > deadline {
                self.doubt_names_around(id)?;
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Outcome::Answer(libc::ESTALE))
    }

    /// Has the names of the directory asked for anew in which an object was last seen; `false` if it is not known.
    fn doubt_names_around(&self, id: ObjectId) -> Result<bool, StoreError> {
        let Some((directory, name)) = self.store.doubt_names_around(id)? else { return Ok(false) };
        self.invalidate(Invalidation { entries: vec![(directory, name)], objects: vec![directory], replaced: vec![] });
        Ok(true)
    }
}
