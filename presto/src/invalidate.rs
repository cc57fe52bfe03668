//! Invalidations from Lento, in threads of their own: the kernel takes a directory's lock to forget an entry, and a
//! request that waits for the permit, or for one of our threads, may hold that lock.

use crate::{filter::Filter, fuse::Kernel, upcall::Upcalls};
use protocol::{Handle, Name, Upcall};
use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

/// An entry that cannot be forgotten within this time is behind a lock that a parked request holds.
const PATIENCE: Duration = Duration::from_millis(20);

/// What Lento wants done, in the order in which it said so.
pub(crate) enum Job {
    /// Forget what is named.
    Some { token: u64, entries: Vec<(Handle, Name)>, objects: Vec<Handle>, replaced: Vec<Handle> },
    /// Forget all but open files.
    All { token: u64 },
    /// Mark files as absent.
    Evict { objects: Vec<Handle> },
}

/// The queue of invalidations.
#[derive(Debug, Clone)]
pub(crate) struct Invalidations(Sender<Job>);

impl Invalidations {
    /// Starts the threads.
    pub(crate) fn start(filter: Arc<Filter>, kernel: Arc<Kernel>, upcalls: Arc<Upcalls>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (entries, todo) = mpsc::channel();
        let (done, finished) = mpsc::channel();
        {
            let (filter, kernel) = (filter.clone(), kernel.clone());
            let forget = move || forget_entries(&todo, &done, &filter, &kernel);
            std::thread::Builder::new().name("forget-entries".into()).spawn(forget)?;
        }
        let worker = Worker { filter, kernel, upcalls, entries, finished, behind: 0 };
        std::thread::Builder::new().name("invalidate".into()).spawn(move || worker.run(&queue))?;
        Ok(Self(jobs))
    }

    /// Has it done, and Lento told.
    pub(crate) fn submit(&self, job: Job) {
        // Fails only when the worker is gone, at the end of the mount: then nothing is cached any more.
        let _ = self.0.send(job);
    }
}

struct Worker {
    filter: Arc<Filter>,
    kernel: Arc<Kernel>,
    upcalls: Arc<Upcalls>,
    entries: Sender<Vec<(Handle, Name)>>,
    finished: Receiver<()>,
    /// Lists of entries given to the other thread that it has not finished.
    behind: usize,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let answer = match job {
                Job::Some { token, entries, objects, replaced } => {
                    self.forget_named(entries, &objects, &replaced);
                    Upcall::Invalidated { token }
                }
                Job::All { token } => {
                    self.forget_all();
                    Upcall::Invalidated { token }
                }
                Job::Evict { objects } => {
                    let (evicted, kept) = objects.into_iter().partition(|handle| self.filter.evict(*handle));
                    Upcall::Evicted { evicted, kept }
                }
            };
            self.upcalls.send(&answer);
        }
    }

    fn forget_named(&mut self, entries: Vec<(Handle, Name)>, objects: &[Handle], replaced: &[Handle]) {
        for handle in replaced {
            self.filter.mark_replaced(*handle);
        }
        for handle in objects.iter().chain(replaced) {
            self.filter.forget_dir(*handle);
            self.forget_object(*handle);
        }
        if !entries.is_empty() {
            self.forget(entries);
        }
    }

    fn forget_object(&self, handle: Handle) {
        if let Err(error) = self.kernel.forget_object(&self.filter, handle) {
            tracing::warn!(%error, ?handle, "the kernel did not forget an object");
        }
    }

    /// Each name is looked up again before it is used, which brings attributes; listings and attributes of directories
    /// that somebody works in are forgotten one by one.
    fn forget_all(&self) {
        let known = self.filter.forget_all_dirs();
        if let Err(error) = self.kernel.forget_all_entries() {
            tracing::warn!(%error, "entries that the kernel knows may be seen as they were (Linux 6.16 is needed)");
        }
        for handle in known {
            self.forget_object(handle);
        }
    }

    /// Has entries forgotten; where a lock is in the way, has all entries looked up again instead, which takes none.
    fn forget(&mut self, entries: Vec<(Handle, Name)>) {
        let budget = PATIENCE + Duration::from_micros(50) * entries.len() as u32;
        if self.entries.send(entries).is_err() {
            return;
        }
        self.behind += 1;
        while self.behind > 0 {
            match self.finished.recv_timeout(budget) {
                Ok(()) => self.behind -= 1,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        if self.behind > 0
            && let Err(error) = self.kernel.forget_all_entries()
        {
            tracing::warn!(%error, "an entry that changed may be seen as it was while a request there waits");
        }
    }
}

fn forget_entries(todo: &Receiver<Vec<(Handle, Name)>>, done: &Sender<()>, filter: &Filter, kernel: &Kernel) {
    while let Ok(entries) = todo.recv() {
        for (parent, name) in &entries {
            if let Err(error) = kernel.forget_entry(filter, *parent, name) {
                tracing::warn!(%error, ?parent, %name, "the kernel did not forget an entry");
            }
        }
        if done.send(()).is_err() {
            return;
        }
    }
}
