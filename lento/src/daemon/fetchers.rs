//! Threads that fetch contents for a comparison while it commits those that came before: neither the network nor the disk
//! waits for the other.

use super::stage::rounds;
use lento_net::Connection;
use lento_store::Store;
use lento_transfer::{Comparer, Fetched, Receiver};
use protocol::{FileSetId, ObjectId, Settled};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Requests under way at a time, each with a thread that writes what comes.
const FETCHERS: usize = 2;
/// Files asked for in one request, and committed at once.
const CHUNK_FILES: usize = 1024;
/// The same in bytes, about: large files come one by one.
const CHUNK_BYTES: u64 = 32 << 20;
/// Answers that may wait to be committed.
const WAITING: usize = 2;

/// How contents are fetched.
pub(super) struct Fetchers {
    pub(super) store: Arc<Store>,
    pub(super) connection: Connection,
    pub(super) fileset: FileSetId,
    /// Whether each answer is synced before it is committed.
    pub(super) sync: bool,
    /// Whether what is here is read, whatever is remembered of it.
    pub(super) distrust: bool,
}

/// What became of one request.
pub(super) struct Chunk {
    pub(super) fetched: Vec<(ObjectId, Fetched)>,
    /// Why it ended early, if it did.
    pub(super) result: anyhow::Result<()>,
}

/// What is asked for in one request.
#[derive(Default)]
struct Wish {
    ids: Vec<ObjectId>,
    bytes: u64,
    new: HashMap<ObjectId, Settled>,
}

/// The end of the thread that compares: wishes go out, answers come in, in any order.
pub(super) struct Chunks<'a> {
    wishes: mpsc::Sender<Wish>,
    answers: mpsc::Receiver<Chunk>,
    next: Wish,
    under_way: usize,
    /// Bytes of what is under way that each thread has received.
    bytes: &'a [AtomicU64; FETCHERS],
}

impl Fetchers {
    /// Runs `work` with threads that fetch for it, which have ended when this returns. If it fails, what came until the
    /// threads had ended is given to `keep`.
    pub(super) fn run<C, T>(
        self,
        context: &mut C,
        work: impl FnOnce(&mut C, &mut Chunks<'_>) -> anyhow::Result<T>,
        keep: impl Fn(&mut C, Chunk),
    ) -> anyhow::Result<T> {
        let bytes = [const { AtomicU64::new(0) }; FETCHERS];
        let given_up = AtomicBool::new(false);
        let (wishes, wanted) = mpsc::channel();
        let (answer, answers) = mpsc::sync_channel(WAITING);
        let wanted = Mutex::new(wanted);
        let runtime = tokio::runtime::Handle::current();
        std::thread::scope(|scope| {
            for bytes in &bytes {
                let (me, wanted, given_up, runtime, answer) = (&self, &wanted, &given_up, &runtime, answer.clone());
                scope.spawn(move || {
                    let _entered = runtime.enter();
                    loop {
                        let wish = wanted.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(wish) = wish else { return };
                        if given_up.load(Ordering::Acquire) {
                            return;
                        }
                        let fetch = AssertUnwindSafe(|| me.fetch(wish, bytes, given_up));
                        let chunk = catch_unwind(fetch).unwrap_or_else(|_| Chunk {
                            fetched: Vec::new(),
                            result: Err(anyhow::anyhow!(
                                "fetching contents ended in a panic: the daemon's log tells where"
                            )),
                        });
                        bytes.store(0, Ordering::Relaxed);
                        if answer.send(chunk).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(answer);
            let mut chunks = Chunks { wishes, answers, next: Wish::default(), under_way: 0, bytes: &bytes };
            let result = work(context, &mut chunks);
            given_up.store(true, Ordering::Release);
            let Chunks { wishes, answers, .. } = chunks;
            drop(wishes);
            answers.into_iter().for_each(|chunk| keep(context, chunk));
            result
        })
    }

    fn fetch(&self, wish: Wish, bytes: &AtomicU64, given_up: &AtomicBool) -> Chunk {
        let mut receiver = Receiver::for_comparison(self.store.clone(), wish.ids).expect_new(wish.new);
        if !self.sync {
            receiver = receiver.without_sync();
        }
        if self.distrust {
            receiver = receiver.without_memory();
        }
        let result = rounds(&mut receiver, &self.connection, self.fileset, &mut |received| {
            bytes.store(received, Ordering::Relaxed);
            !given_up.load(Ordering::Acquire)
        });
        Chunk { fetched: receiver.finish(), result }
    }
}

impl Chunks<'_> {
    /// Asks for what the comparer found to be wanted: as soon as it makes a request, or `all`.
    pub(super) fn want(&mut self, comparer: &mut Comparer, all: bool) {
        for id in comparer.take_wanted() {
            let Some((size, new)) = comparer.awaited(id) else { continue };
            self.next.ids.push(id);
            self.next.bytes += size;
            if let Some(settled) = new {
                self.next.new.insert(id, settled.clone());
            }
            if self.next.ids.len() >= CHUNK_FILES || self.next.bytes >= CHUNK_BYTES {
                self.send();
            }
        }
        if all && !self.next.ids.is_empty() {
            self.send();
        }
    }

    fn send(&mut self) {
        // The threads end only after this.
        if self.wishes.send(std::mem::take(&mut self.next)).is_ok() {
            self.under_way += 1;
        }
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// The next answer, if one comes within `wait`.
    pub(super) fn poll(&mut self, wait: Duration) -> anyhow::Result<Option<Chunk>> {
        match self.answers.recv_timeout(wait) {
            Ok(chunk) => {
                self.under_way -= 1;
                Ok(Some(chunk))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the threads that fetch have ended"),
        }
    }

    /// Bytes received of what is under way.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }
}
