//! The permit: who may change things, what is under way under it, and the requests parked until it is here.
//!
//! While the permit is held an operation costs two atomic additions. A request that finds it missing is parked as a
//! closure that owns its reply; no thread waits for it.

use protocol::limits;
use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Set in `state` while the permit is held; the bits below count operations under way.
const HELD: u64 = 1 << 63;

/// Why a parked request, which waits for the permit or a fetch, ends without having been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The caller has a signal pending, or is gone.
    #[error("interrupted while it waited")]
    Interrupted,
    /// It waited longer than the mount's `--soft` time.
    #[error("what it waited for did not come in time")]
    TimedOut,
    /// Too many requests wait.
    #[error("more than {} requests wait", limits::PARKED_REQUESTS)]
    TooMany,
    /// The mount is going away.
    #[error("the mount is being shut down")]
    Ending,
}

/// The right to change something, for the time of one operation.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    /// The epoch that records are made in.
    pub(crate) epoch: u64,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.leave();
    }
}

type Work = Box<dyn FnOnce(Result<&Pass<'_>, Refused>) + Send>;

struct Parked {
    /// Thread that waits for the reply; 0 for work of Presto's own, which is never refused.
    pid: u32,
    since: Instant,
    work: Work,
}

#[derive(Default)]
struct Queue {
    parked: VecDeque<Parked>,
    /// `GetPermit` was sent and not answered yet.
    asked: bool,
    ending: bool,
}

/// The gate that every change passes.
pub(crate) struct Gate {
    state: AtomicU64,
    epoch: AtomicU64,
    queue: Mutex<Queue>,
    /// The queue, the permit or the count under way changed.
    changed: Condvar,
    /// Asks for the permit.
    ask: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("state", &self.state).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Gate {
    /// A closed gate; `ask` is called, from any thread, when the permit is wanted.
    pub(crate) fn new(ask: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            state: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            queue: Mutex::default(),
            changed: Condvar::new(),
            ask: Box::new(ask),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass, if the permit is here.
    pub(crate) fn enter(&self) -> Option<Pass<'_>> {
        if self.state.fetch_add(1, Ordering::SeqCst) & HELD != 0 {
            Some(Pass { gate: self, epoch: self.epoch.load(Ordering::SeqCst) })
        } else {
            self.leave();
            None
        }
    }

    fn leave(&self) {
        // After a revocation, who leaves tells the one that waits for it.
        if self.state.fetch_sub(1, Ordering::SeqCst) & HELD == 0 {
            let _queue = self.queue();
            self.changed.notify_all();
        }
    }

    /// Does `work` now if the permit is here; else parks it until it comes, or the caller `pid` is interrupted.
    pub(crate) fn run(&self, pid: u32, work: impl FnOnce(Result<&Pass<'_>, Refused>) + Send + 'static) {
        match self.enter() {
            Some(pass) => work(Ok(&pass)),
            None => self.park(Parked { pid, since: Instant::now(), work: Box::new(work) }),
        }
    }

    fn park(&self, request: Parked) {
        let mut queue = self.queue();
        let refused = match () {
            () if queue.ending => Some(Refused::Ending),
            () if request.pid != 0 && queue.parked.len() >= limits::PARKED_REQUESTS => Some(Refused::TooMany),
            () => None,
        };
        if let Some(why) = refused {
            drop(queue);
            return (request.work)(Err(why));
        }
        queue.parked.push_back(request);
        self.changed.notify_all();
        let ask = !std::mem::replace(&mut queue.asked, true);
        drop(queue);
        if ask && !self.is_held() {
            (self.ask)();
        }
    }

    /// Whether the permit is here.
    pub(crate) fn is_held(&self) -> bool {
        self.state.load(Ordering::SeqCst) & HELD != 0
    }

    /// The epoch of the permit, if it is here.
    pub(crate) fn held_epoch(&self) -> Option<u64> {
        self.is_held().then(|| self.epoch.load(Ordering::SeqCst))
    }

    /// Whether requests wait for the permit: then it is to be asked for again on a new connection.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.is_held() && !self.queue().parked.is_empty()
    }

    /// Whether requests wait and the permit must be asked for, after it was given back.
    pub(crate) fn ask_again(&self) -> bool {
        let mut queue = self.queue();
        let ask = !queue.parked.is_empty() && !self.is_held();
        queue.asked |= ask;
        ask
    }

    /// The permit has come.
    pub(crate) fn grant(&self, epoch: u64) {
        let mut queue = self.queue();
        self.epoch.store(epoch, Ordering::SeqCst);
        self.state.fetch_or(HELD, Ordering::SeqCst);
        queue.asked = false;
        self.changed.notify_all();
    }

    /// The permit is wanted back: returns when nothing is under way any more. `last` is done just before the gate
    /// counts as closed, with a pass of the old epoch.
    pub(crate) fn revoke(&self, last: impl FnOnce(&Pass<'_>)) {
        if !self.is_held() {
            return;
        }
        let pass = Pass { gate: self, epoch: self.epoch.load(Ordering::SeqCst) };
        // This pass counts as one under way, and is left out of the wait below.
        self.state.fetch_add(1, Ordering::SeqCst);
        let mut queue = self.queue();
        self.state.fetch_and(!HELD, Ordering::SeqCst);
        while self.state.load(Ordering::SeqCst) > 1 {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.asked = false;
        drop(queue);
        last(&pass);
    }

    /// Does parked work while the permit is here; returns when the mount ends.
    pub(crate) fn work_off(&self) {
        loop {
            let mut queue = self.queue();
            let next = loop {
                if queue.ending {
                    return;
                }
                if self.is_held()
                    && let Some(next) = queue.parked.pop_front()
                {
                    break next;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            match self.enter() {
                Some(pass) => (next.work)(Ok(&pass)),
                None => {
                    let mut queue = self.queue();
                    queue.parked.push_front(next);
                    let ask = !std::mem::replace(&mut queue.asked, true);
                    drop(queue);
                    if ask {
                        (self.ask)();
                    }
                }
            }
        }
    }

    /// Ends the waiting of callers that were signalled, or waited longer than `soft`; returns when the mount ends.
    pub(crate) fn watch(&self, soft: Option<Duration>, is_interrupted: impl Fn(u32) -> bool) {
        loop {
            let mut queue = self.queue();
            while queue.parked.is_empty() && !queue.ending {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.ending {
                return;
            }
            let mut refused = Vec::new();
            let mut kept = VecDeque::with_capacity(queue.parked.len());
            for request in queue.parked.drain(..) {
                if request.pid == 0 {
                    kept.push_back(request);
                } else if is_interrupted(request.pid) {
                    refused.push((request, Refused::Interrupted));
                } else if soft.is_some_and(|limit| request.since.elapsed() >= limit) {
                    refused.push((request, Refused::TimedOut));
                } else {
                    kept.push_back(request);
                }
            }
            queue.parked = kept;
            drop(queue);
            for (request, why) in refused {
                (request.work)(Err(why));
            }
            std::thread::sleep(Duration::from_millis(limits::PARKED_POLL_MS));
        }
    }

    /// Refuses all that waits and will wait.
    pub(crate) fn end(&self) {
        let mut queue = self.queue();
        queue.ending = true;
        self.changed.notify_all();
        let parked = std::mem::take(&mut queue.parked);
        drop(queue);
        for request in parked {
            (request.work)(Err(Refused::Ending));
        }
    }
}

/// Whether thread `pid` has a signal pending that it neither blocks nor ignores, or no longer exists.
pub(crate) fn is_interrupted(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    signal_is_due(&status)
}

fn signal_is_due(status: &str) -> bool {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).ok()
    };
    let get = |name| field(name).unwrap_or(0);
    let pending = get("SigPnd") | get("ShdPnd");
    if pending & !get("SigBlk") & !get("SigIgn") != 0 {
        return true;
    }
    status.lines().any(|line| line.starts_with("State:") && (line.contains('Z') || line.contains('X')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    #[test]
    fn signals_count_unless_blocked_or_ignored() {
        let status = |pnd: &str, shd: &str, blk: &str, ign: &str| {
            format!(
                "Name:\tcat\nState:\tD (disk sleep)\nSigPnd:\t{pnd}\nShdPnd:\t{shd}\nSigBlk:\t{blk}\nSigIgn:\t{ign}\n"
            )
        };
        assert!(!signal_is_due(&status("0", "0", "0", "0")));
        assert!(signal_is_due(&status("0", "0000000000000002", "0", "0")));
        assert!(signal_is_due(&status("100", "0", "0", "0")));
        assert!(!signal_is_due(&status("0", "2", "2", "0")));
        assert!(!signal_is_due(&status("0", "2", "0", "2")));
    }

    #[test]
    fn work_is_parked_asked_for_once_and_done_when_granted() {
        let (asked, asks) = mpsc::channel();
        let gate = Arc::new(Gate::new(move || asked.send(()).expect("the test listens")));
        let worker = std::thread::spawn({
            let gate = gate.clone();
            move || gate.work_off()
        });
        let (done, epochs) = mpsc::channel();
        for _ in 0..3 {
            let done = done.clone();
            gate.run(0, move |pass| done.send(pass.map(|p| p.epoch)).expect("the test listens"));
        }
        assert!(epochs.try_recv().is_err());
        gate.grant(7);
        for _ in 0..3 {
            assert_eq!(epochs.recv().expect("done"), Ok(7));
        }
        assert_eq!(asks.try_iter().count(), 1);
        gate.revoke(|pass| assert_eq!(pass.epoch, 7));
        assert!(gate.enter().is_none());
        gate.run(0, move |pass| done.send(pass.map(|p| p.epoch)).expect("the test listens"));
        assert_eq!(asks.recv().expect("asked again"), ());
        gate.end();
        assert_eq!(epochs.recv().expect("refused"), Err(Refused::Ending));
        worker.join().expect("the worker ends");
    }

    #[test]
    fn revoke_waits_for_what_is_under_way() {
        let gate = Arc::new(Gate::new(|| ()));
        gate.grant(1);
        let pass = gate.enter().expect("granted");
        let (done, revoked) = mpsc::channel();
        let revoking = std::thread::spawn({
            let gate = gate.clone();
            move || {
                gate.revoke(|_| ());
                done.send(()).expect("the test listens");
            }
        });
        while gate.is_held() {
            std::thread::yield_now();
        }
        assert!(revoked.try_recv().is_err());
        assert!(gate.enter().is_none());
        drop(pass);
        revoked.recv().expect("revoked");
        revoking.join().expect("ended");
    }
}
