//! Threads that wait for disks, so that those that answer the kernel do not.

use crate::filter::{Caller, Error, Filter, Result};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
    mpsc::{self, Receiver, Sender},
};

/// Threads; as many fsyncs go on at once, and the file system joins them into one commit.
const THREADS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// The threads and their queue. They end when it is dropped.
#[derive(Debug)]
pub(crate) struct Syncer {
    jobs: Sender<Job>,
    /// Syncs under way in threads that answer the kernel, and those about to be handed over.
    here: AtomicUsize,
    /// The most of them: one thread goes on answering.
    most_here: usize,
}

impl Syncer {
    /// Starts the threads; `answering` others answer the kernel.
    pub(crate) fn start(answering: usize) -> std::io::Result<Arc<Self>> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..THREADS {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("sync-{n}")).spawn(move || work(&queue))?;
        }
        Ok(Arc::new(Self { jobs, here: AtomicUsize::new(0), most_here: answering.saturating_sub(1) }))
    }

    fn submit(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(mpsc::SendError(job)) = self.jobs.send(Box::new(job)) {
            // All threads are gone, which only a panic in each can do: then it is done here.
            job();
        }
    }

    /// `FSYNC`: content, the record of it, and the log are durable when `reply` is called with `Ok`.
    pub(crate) fn sync_file(
        self: &Arc<Self>,
        filter: Arc<Filter>,
        caller: Caller,
        node: u64,
        data_only: bool,
        reply: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let sync = move |filter: &Filter| filter.fsync_file(node, data_only);
        if !filter.is_written(node) {
            return self.here_or_there(filter, sync, reply);
        }
        // The record first: then one sync of the log covers it. The pass is given back before the disk is waited for.
        let entered = filter.gate.enter().map(|pass| filter.store_open(&pass, caller, node));
        match entered {
            Some(Ok(())) => return self.here_or_there(filter, sync, reply),
            Some(Err(error)) => return reply(Err(error)),
            None => {}
        }
        let (syncer, gate) = (self.clone(), filter.clone());
        gate.gate.run(caller.pid, move |pass| {
            let stored = pass.map_err(Error::from).and_then(|pass| filter.store_open(pass, caller, node));
            match stored {
                Ok(()) => syncer.submit(move || reply(sync(&filter))),
                Err(error) => reply(Err(error)),
            }
        });
    }

    /// Syncs in this thread, which answers the kernel, if enough others go on doing that: handing it over would cost
    /// two changes of thread, often more than the disk does. Else in one of ours.
    fn here_or_there(
        &self,
        filter: Arc<Filter>,
        sync: impl FnOnce(&Filter) -> Result<()> + Send + 'static,
        reply: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        if self.here.fetch_add(1, Ordering::Relaxed) < self.most_here {
            reply(sync(&filter));
        } else {
            self.submit(move || reply(sync(&filter)));
        }
        self.here.fetch_sub(1, Ordering::Relaxed);
    }

    /// `FSYNCDIR`: entries and their records are durable when `reply` is called with `Ok`.
    pub(crate) fn sync_dir(&self, filter: Arc<Filter>, node: u64, reply: impl FnOnce(Result<()>) + Send + 'static) {
        self.submit(move || reply(filter.fsync_dir(node)));
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
