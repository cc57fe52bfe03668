//! Threads that wait for disks, so that those that answer the kernel do not.

use crate::filter::{Caller, Error, Filter, Result};
use std::sync::{
    Arc, Mutex, PoisonError,
    mpsc::{self, Receiver, Sender},
};

/// Threads; as many fsyncs go on at once, and the file system joins them into one commit.
const THREADS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// The threads and their queue. They end when it is dropped.
#[derive(Debug)]
pub(crate) struct Syncer {
    jobs: Sender<Job>,
}

impl Syncer {
    /// Starts the threads.
    pub(crate) fn start() -> std::io::Result<Arc<Self>> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..THREADS {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("sync-{n}")).spawn(move || work(&queue))?;
        }
        Ok(Arc::new(Self { jobs }))
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
        let syncer = self.clone();
        let sync = move |filter: Arc<Filter>| {
            let synced = filter.fsync_file(node, data_only);
            synced.and_then(|()| filter.journal.sync().map(drop).map_err(Error::from))
        };
        if !filter.is_written(node) {
            return self.submit(move || reply(sync(filter)));
        }
        // The record first: then one sync of the log covers it.
        let gate = filter.clone();
        gate.gate.run(caller.pid, move |pass| {
            let stored = pass.map_err(Error::from).and_then(|pass| filter.store_open(pass, caller, node));
            match stored {
                Ok(()) => syncer.submit(move || reply(sync(filter))),
                Err(error) => reply(Err(error)),
            }
        });
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
