//! FetchFile and FetchDir (paper: "Journaling updates and filtering access"): what programs on a client's mount wait for
//! is fetched from the holder, and Presto is told.
//!
//! Requests for one object share one fetch. What cannot be had because the holder is not connected is asked for again when
//! it is; it is Presto that ends the waiting of its callers.

mod ahead;
mod contents;
mod names;

pub(super) use names::forget;

use super::actions::invalidate;
use super::input::Input;
use super::mind::Mind;
use super::walk::Walks;
use crate::daemon::input::Call;
use lento_net::Connection;
use lento_store::{Bounds, Brought, Committed, Invalidation, Store, StoreError, Wanting};
use protocol::{Downcall, FileSetId, Handle, HostId, Kind, ObjectId, Position, limits};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Objects of one file set that may be being fetched.
const FETCHES: usize = 1024;
/// Objects that are taken up at once.
const BATCH: usize = 256;
/// What is fetched ahead in one request.
const AHEAD: Bounds = Bounds { objects: 512, bytes: 1 << 20, largest: limits::INLINE_CONTENT_BYTES };

/// What programs on a client's mount wait for.
#[derive(Debug, Default)]
pub(super) struct Demands {
    /// Wanted, and not being fetched.
    waiting: BTreeSet<Handle>,
    /// Being fetched.
    under_way: BTreeSet<Handle>,
    walks: Arc<Walks>,
    /// Objects that programs waited for.
    pub(super) misses: u64,
}

impl Demands {
    /// Presto begins anew, and says again what its callers wait for.
    pub(super) fn begin_anew(&mut self) {
        self.waiting.clear();
    }
}

/// What became of a fetch.
enum Outcome {
    /// It is here, or cannot be had: errno.
    Answer(i32),
    /// It is tried again, soon or when the holder is connected.
    Later,
}

impl Mind {
    /// A program waits for an object.
    pub(super) fn want(&mut self, fileset: FileSetId, object: Handle) {
        let Some(set) = self.filesets.get_mut(&fileset) else { return };
        // The answer that is on its way is for who asks again, too.
        if !set.demands.under_way.contains(&object) {
            set.demands.misses += u64::from(set.demands.waiting.insert(object));
        }
        self.fetch_wanted(fileset);
    }

    /// Nobody waits for it any more.
    pub(super) fn forgo(&mut self, fileset: FileSetId, object: Handle) {
        if let Some(set) = self.filesets.get_mut(&fileset) {
            set.demands.waiting.remove(&object);
        }
    }

    /// What fetches for a file set, if its holder is connected.
    pub(super) fn fetcher(&self, fileset: FileSetId) -> Option<Fetch> {
        let holder = self.engine.status(fileset)?.holder;
        let set = self.filesets.get(&fileset)?;
        Some(Fetch {
            store: set.store.clone()?,
            connection: self.network.connection(holder)?,
            fileset,
            holder,
            presto: Some(set.presto.as_ref()?.downcalls.clone()),
            walks: set.demands.walks.clone(),
            inputs: self.inputs.clone(),
            bound: set.config.client?.cache_bytes,
        })
    }

    /// Starts fetches, as far as the holder is connected.
    pub(super) fn fetch_wanted(&mut self, fileset: FileSetId) {
        let Some(fetch) = self.fetcher(fileset) else { return };
        let Some(set) = self.filesets.get_mut(&fileset) else { return };
        while set.demands.under_way.len() < FETCHES && !set.demands.waiting.is_empty() {
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Some(handle) = set.demands.waiting.pop_first()
            {
                set.demands.under_way.insert(handle);
                batch.push(handle);
            }
            let fetch = fetch.clone();
            tokio::task::spawn_blocking(move || fetch.run(batch));
        }
    }

    /// A fetch has ended.
    fn fetched(&mut self, fileset: FileSetId, outcomes: Vec<(Handle, Outcome)>) {
        let Some(set) = self.filesets.get_mut(&fileset) else { return };
        let (mut answers, mut later) = (Vec::new(), Vec::new());
        for (object, outcome) in outcomes {
            set.demands.under_way.remove(&object);
            match outcome {
                Outcome::Answer(errno) => answers.push(Downcall::Fetched { object, errno }),
                Outcome::Later => later.push(object),
            }
        }
        for answer in answers {
            self.downcall(fileset, answer);
        }
        if !later.is_empty() {
            let inputs = self.inputs.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(limits::CHANGED_RETRY_MS)).await;
                let again = Call::Do(Box::new(move |mind: &mut Mind| {
                    later.into_iter().for_each(|object| mind.want(fileset, object));
                }));
                let _ = inputs.send(Input::Call(again)).await;
            });
        }
        self.fetch_wanted(fileset);
        self.bound_cache(fileset);
    }
}

/// How things are fetched: in threads that may block.
#[derive(Clone)]
pub(super) struct Fetch {
    store: Arc<Store>,
    connection: Connection,
    fileset: FileSetId,
    holder: HostId,
    presto: Option<mpsc::Sender<Downcall>>,
    walks: Arc<Walks>,
    inputs: mpsc::Sender<Input>,
    /// Bytes that the cache may hold.
    bound: u64,
}

impl Fetch {
    /// Fetches small files together, and all else in threads of their own: nobody waits for what somebody else wants.
    fn run(self, batch: Vec<Handle>) {
        let mut outcomes = Vec::new();
        let mut small = Vec::new();
        for handle in batch {
            let wanting = match self.store.wanting(handle) {
                Ok(wanting) if !wanting.absent => {
                    outcomes.push((handle, Outcome::Answer(0)));
                    continue;
                }
                Ok(wanting) => wanting,
                Err(why) => {
                    outcomes.push((handle, Outcome::Answer(errno_of(&why))));
                    continue;
                }
            };
            if wanting.kind == Kind::File && wanting.size <= AHEAD.largest {
                small.push((handle, wanting.id));
                continue;
            }
            let alone = self.clone();
            tokio::task::spawn_blocking(move || alone.fetch_one(handle, wanting));
        }
        self.tell(outcomes);
        self.fetch_small(small);
    }

    /// Fetches all that is absent of these; how many are here then, and how many are not.
    pub(super) fn all(&self, handles: &[Handle]) -> (u64, u64) {
        let (mut done, mut missed) = (0, 0);
        let mut count = |outcome: &Outcome| match outcome {
            Outcome::Answer(0) => done += 1,
            _ => missed += 1,
        };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let files = |batch: &mut Vec<ObjectId>, bytes: &mut u64| {
            let ids = std::mem::take(batch);
            let results = self.contents(ids, std::mem::take(bytes));
            results.into_iter().map(|(id, outcome)| self.told(id, outcome)).collect::<Vec<_>>()
        };
        for handle in handles {
            match self.store.wanting(*handle) {
                Ok(Wanting { absent: false, .. }) => count(&Outcome::Answer(0)),
                Ok(Wanting { id, kind: Kind::Directory, .. }) => count(&self.told(id, self.names(id))),
                Ok(Wanting { id, size, .. }) => {
                    batch.push(id);
                    bytes += size;
                    if bytes >= AHEAD.bytes || batch.len() >= AHEAD.objects {
                        files(&mut batch, &mut bytes).iter().for_each(&mut count);
                    }
                }
                Err(why) => count(&Outcome::Answer(errno_of(&why))),
            }
        }
        files(&mut batch, &mut bytes).iter().for_each(&mut count);
        (done, missed)
    }

    fn tell(&self, outcomes: Vec<(Handle, Outcome)>) {
        if outcomes.is_empty() {
            return;
        }
        let fileset = self.fileset;
        let done = Call::Do(Box::new(move |mind: &mut Mind| mind.fetched(fileset, outcomes)));
        let _ = self.inputs.blocking_send(Input::Call(done));
    }

    fn fetch_one(&self, handle: Handle, Wanting { id, kind, size, .. }: Wanting) {
        let outcome = if kind == Kind::Directory {
            self.names(id)
        } else {
            self.contents(vec![id], size).remove(&id).unwrap_or(Ok(Outcome::Later))
        };
        self.tell(vec![(handle, self.told(id, outcome))]);
        if kind == Kind::Directory
            && let Err(why) = self.names_ahead(id)
        {
            tracing::debug!(%id, why = format!("{why:#}"), "not read ahead");
        }
    }

    fn fetch_small(&self, small: Vec<(Handle, ObjectId)>) {
        if let [(handle, id)] = small[..]
            && let Some(walk) = self.walk_from(id)
        {
            return self.walk(walk, Some((handle, id)));
        }
        let mut results = self.contents(small.iter().map(|(_, id)| *id).collect(), 0);
        let told = |(handle, id): &(Handle, ObjectId)| {
            (*handle, self.told(*id, results.remove(id).unwrap_or(Ok(Outcome::Later))))
        };
        self.tell(small.iter().map(told).collect());
        for (_, id) in small {
            if let Some(walk) = self.walk_from(id) {
                self.walk(walk, None);
            }
        }
    }

    fn told(&self, id: ObjectId, outcome: anyhow::Result<Outcome>) -> Outcome {
        outcome.unwrap_or_else(|why| {
            tracing::debug!(fileset = %self.fileset, %id, why = format!("{why:#}"), "not fetched; it is tried again");
            Outcome::Later
        })
    }

    /// Tells Presto what is here now, and is to programs as it was.
    fn brought(&self, all: &[Brought]) {
        let Some(presto) = &self.presto else { return };
        for some in all.chunks(BATCH) {
            let objects = some.iter().map(|one| (one.handle, one.before, one.after)).collect();
            if presto.blocking_send(Downcall::Filled { objects }).is_err() {
                return;
            }
        }
    }

    /// Has the kernel forget what was changed behind its caches.
    fn invalidate(&self, invalidation: Invalidation) {
        if let Some(presto) = &self.presto {
            invalidate(Committed { upto: Position::START, invalidate: invalidation }, presto, 0);
        }
    }
}

fn errno_of(why: &StoreError) -> i32 {
    match why {
        StoreError::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        StoreError::NotFound(_) => libc::ESTALE,
        _ => libc::EIO,
    }
}
