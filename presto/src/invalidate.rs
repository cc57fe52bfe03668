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

struct Job {
    token: u64,
    entries: Vec<(Handle, Name)>,
    objects: Vec<Handle>,
    replaced: Vec<Handle>,
}

/// The queue of invalidations.
#[derive(Debug, Clone)]
pub(crate) struct Invalidations(Sender<Job>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "invalidation {}", self.token)
    }
}

impl Invalidations {
    /// Starts the threads.
    pub(crate) fn start(filter: Arc<Filter>, kernel: Kernel, upcalls: Arc<Upcalls>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let kernel = Arc::new(kernel);
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

    /// Has the kernel forget what is named, and then tells Lento.
    pub(crate) fn submit(&self, token: u64, entries: Vec<(Handle, Name)>, objects: Vec<Handle>, replaced: Vec<Handle>) {
        // Fails only when the worker is gone, at the end of the mount: then nothing is cached any more.
        let _ = self.0.send(Job { token, entries, objects, replaced });
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
            for handle in &job.replaced {
                self.filter.mark_replaced(*handle);
            }
            for handle in job.objects.iter().chain(&job.replaced) {
                self.filter.forget_dir(*handle);
                if let Err(error) = self.kernel.forget_object(&self.filter, *handle) {
                    tracing::warn!(%error, ?handle, "the kernel did not forget an object");
                }
            }
            if !job.entries.is_empty() {
                self.forget(job.entries);
            }
            self.upcalls.send(&Upcall::Invalidated { token: job.token });
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
