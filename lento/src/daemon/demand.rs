//! FetchFile and FetchDir (paper: "Journaling updates and filtering access"): what programs on a client's mount wait for
//! is fetched from the holder, and Presto is told.
//!
//! Requests for one object share one fetch. What cannot be had because the holder is not connected is asked for again when
//! it is; it is Presto that ends the waiting of its callers.

use super::actions::invalidate;
use super::input::Input;
use super::mind::Mind;
use super::stage::rounds;
use super::walk::Walks;
use crate::daemon::input::Call;
use lento_net::Connection;
use lento_store::{Bounds, Brought, CommitError, Committed, Filled, Invalidation, Store, StoreError, Wanting};
use lento_transfer::{CompareOptions, Comparer, Fetched, Receiver, TransferError};
use protocol::{Downcall, FileSetId, Handle, HostId, Kind, ObjectId, Position, Reply, Request, limits};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Objects of one file set that may be being fetched.
const FETCHES: usize = 1024;
/// Objects that are taken up at once.
const BATCH: usize = 256;
/// What is fetched ahead in one request, and how many requests follow one another.
const AHEAD: Bounds = Bounds { objects: 512, bytes: 1 << 20, largest: limits::INLINE_CONTENT_BYTES };
const AHEAD_ROUNDS: usize = 32;
/// Directories that are listed ahead, and how many at a time.
const NAMES_AHEAD: Bounds = Bounds { objects: 64, bytes: u64::MAX, largest: u64::MAX };
const LISTERS: usize = 8;
/// How long records may take that tell of a version which came before them.
const RECORDS: Duration = Duration::from_secs(2);
/// How long a fetch waits for room in the cache.
const ROOM: Duration = Duration::from_secs(10);
/// Listings of a directory that changes meanwhile, before it is tried again later.
const LISTINGS: u32 = 8;

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

/// What became of one listing.
enum Listed {
    /// Its names are here.
    Here,
    /// Records came meanwhile that say more.
    Overtaken,
    /// The holder has the directory no more.
    Gone,
}

/// Where a program walks.
struct Walk {
    began: ObjectId,
    directory: ObjectId,
    from: Option<ObjectId>,
    /// Directories that come after it.
    next: VecDeque<ObjectId>,
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

    /// Where the neighbours of a file are that was wanted, if a program walks there.
    fn walk_from(&self, id: ObjectId) -> Option<Walk> {
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
    fn walk(&self, mut walk: Walk, mut wanted: Option<(Handle, ObjectId)>) {
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
                bytes += size;
                walk.from = Some(id);
                batch.push(id);
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
    fn names_ahead(&self, id: ObjectId) -> anyhow::Result<()> {
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

    fn told(&self, id: ObjectId, outcome: anyhow::Result<Outcome>) -> Outcome {
        outcome.unwrap_or_else(|why| {
            tracing::debug!(fileset = %self.fileset, %id, why = format!("{why:#}"), "not fetched; it is tried again");
            Outcome::Later
        })
    }

    /// FetchDir.
    fn names(&self, directory: ObjectId) -> anyhow::Result<Outcome> {
        for _ in 0..LISTINGS {
            while !self.store.begin_listing(directory) {
                std::thread::sleep(Duration::from_millis(2));
            }
            match self.store.is_absent(directory) {
                Ok(true) => {}
                other => {
                    self.store.give_up_listing(directory);
                    return Ok(Outcome::Answer(other.err().map_or(0, |why| errno_of(&why))));
                }
            }
            match self.listing(directory) {
                Ok(Listed::Here) => {
                    if let Some(brought) = self.store.end_listing(directory)? {
                        self.brought(&[brought]);
                        return Ok(Outcome::Answer(0));
                    }
                }
                Ok(Listed::Overtaken) => self.store.give_up_listing(directory),
                Ok(Listed::Gone) => {
                    self.store.give_up_listing(directory);
                    return Ok(Outcome::Answer(libc::ESTALE));
                }
                Err(why) => {
                    self.store.give_up_listing(directory);
                    return Err(why);
                }
            }
        }
        Ok(Outcome::Later)
    }

    /// Lists a directory once and brings its names here.
    fn listing(&self, root: ObjectId) -> anyhow::Result<Listed> {
        let (bodies, after) = self.list(root)?;
        if bodies.is_empty() {
            return Ok(Listed::Gone);
        }
        let options = CompareOptions { names_only: Some(after), ..CompareOptions::default() };
        let mut comparer = Comparer::new(self.store.clone(), root, self.holder, options);
        let taken = bodies.iter().try_for_each(|body| comparer.take(body));
        let report = match taken.and_then(|()| comparer.finish(after)) {
            Err(TransferError::Commit(CommitError::Overtaken(_))) => return Ok(Listed::Overtaken),
            other => other?,
        };
        self.invalidate(report.invalidate);
        Ok(Listed::Here)
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

    /// Asks for what is in a directory, and where the holder stood before it looked.
    fn list(&self, root: ObjectId) -> anyhow::Result<(Vec<Vec<u8>>, Position)> {
        let mut session = self.connection.request(&Request::List { fileset: self.fileset, root, deep: false })?;
        let mut bodies = Vec::new();
        if let Some(mut data) = session.data() {
            while let Some(body) = data.blocking_recv()? {
                bodies.push(body);
            }
        }
        let after = match tokio::runtime::Handle::current().block_on(session.reply())? {
            Reply::Listed { after } => after,
            Reply::Refused(refusal) => anyhow::bail!(refusal),
            other => anyhow::bail!("a strange answer to a request for a listing: {other:?}"),
        };
        Ok((bodies, after))
    }

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
    fn contents(&self, ids: Vec<ObjectId>, bytes: u64) -> HashMap<ObjectId, anyhow::Result<Outcome>> {
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
        let mut staged = Vec::new();
        for (id, fetched) in receiver.finish() {
            let outcome = match fetched {
                Fetched::Staged { as_of, file } => {
                    staged.push((id, as_of, file));
                    continue;
                }
                Fetched::Gone => Outcome::Answer(libc::ESTALE),
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
        if self.store.version(id)?.is_some_and(|version| version.as_of < at)
            && let Some((directory, name)) = self.store.doubt_names_around(id)?
        {
            let entries = vec![(directory, name)];
            self.invalidate(Invalidation { entries, objects: vec![directory], replaced: vec![] });
            return Ok(Outcome::Answer(libc::ESTALE));
        }
        Ok(Outcome::Later)
    }
}

fn errno_of(why: &StoreError) -> i32 {
    match why {
        StoreError::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        StoreError::NotFound(_) => libc::ESTALE,
        _ => libc::EIO,
    }
}

/// Takes up the holder's position for a client's cache: all names are asked for again when they are used, those in the root
/// at once, as its own attributes come with them.
pub(super) fn forget(
    store: Arc<Store>,
    connection: Connection,
    presto: Option<mpsc::Sender<Downcall>>,
    (fileset, holder): (FileSetId, HostId),
    inputs: mpsc::Sender<Input>,
) -> anyhow::Result<Position> {
    let fetch = Fetch { store, connection, fileset, holder, presto, walks: Arc::default(), inputs, bound: 0 };
    // Of an object that there is not nothing is listed, but where the holder stands is told.
    let nothing = ObjectId::new(fetch.store.config().host, u64::MAX);
    let (_, after) = fetch.list(nothing)?;
    fetch.store.forget_names()?;
    fetch.store.set_applied(holder, after)?;
    if let Some(presto) = &fetch.presto {
        let _ = presto.blocking_send(Downcall::InvalidateAll { token: 0 });
    }
    match fetch.names(ObjectId::ROOT)? {
        Outcome::Answer(0) => Ok(after),
        _ => anyhow::bail!("the root of the file set could not be listed"),
    }
}
