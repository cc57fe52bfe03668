//! The waiting room: requests that found an object absent from a client's cache wait here, without a thread, until Lento
//! has fetched it.
//!
//! Lento is told once of each object, when the first request waits for it, and told when the last one gave up. A
//! request that is tried again begins anew: it may wait again, for this or another object, or for the permit.

use crate::{
    filter::{Error, Result},
    permit::Refused,
};
use nix::errno::Errno;
use protocol::{Handle, Upcall, limits};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Tries a request again, or ends it with an error.
pub(crate) type Retry = Box<dyn FnOnce(Result<()>) + Send>;

struct Waiter {
    /// Thread that waits for the reply; 0 if it is not known, then it is never taken for interrupted.
    pid: u32,
    since: Instant,
    retry: Retry,
}

#[derive(Default)]
struct State {
    /// By object.
    waiting: BTreeMap<u64, Vec<Waiter>>,
    /// Those whose waiting is over, and how.
    ready: VecDeque<(Retry, Result<()>)>,
    /// All of both.
    count: usize,
    ending: bool,
}

/// The room.
pub(crate) struct WaitingRoom {
    state: Mutex<State>,
    changed: Condvar,
    /// Tells Lento. Called under the lock: what is said of an object arrives in the order in which it was so.
    say: Box<dyn Fn(&Upcall) + Send + Sync>,
}

impl WaitingRoom {
    /// An empty one; `say` is called from any thread.
    pub(crate) fn new(say: impl Fn(&Upcall) + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), say: Box::new(say) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a request of thread `pid` wait for `object`; `is_absent` looks whether there still is something to wait for, for the
    /// answer may have come since the request found that.
    pub(crate) fn wait(&self, object: Handle, pid: u32, is_absent: impl FnOnce() -> bool, retry: Retry) {
        let mut state = self.state();
        let refused = match () {
            () if state.ending => Some(Refused::Ending),
            () if state.count >= limits::PARKED_REQUESTS => Some(Refused::TooMany),
            () => None,
        };
        if let Some(why) = refused {
            drop(state);
            return retry(Err(why.into()));
        }
        state.count += 1;
        let waiter = Waiter { pid, since: Instant::now(), retry };
        match state.waiting.get_mut(&object.0) {
            Some(waiters) => waiters.push(waiter),
            // Under the lock: an answer that has not been taken in by now finds this one waiting.
            None if is_absent() => {
                state.waiting.insert(object.0, vec![waiter]);
                (self.say)(&Upcall::Fetch { object });
            }
            None => state.ready.push_back((waiter.retry, Ok(()))),
        }
        self.changed.notify_all();
    }

    /// Says all again that is wanted: Lento is a new one.
    pub(crate) fn say_again(&self) {
        let state = self.state();
        for object in state.waiting.keys() {
            (self.say)(&Upcall::Fetch { object: Handle(*object) });
        }
    }

    /// Lento's answer: with `errno` 0 all that waits for `object` is tried again, else it fails so.
    pub(crate) fn fetched(&self, object: Handle, errno: i32) {
        let mut state = self.state();
        for waiter in state.waiting.remove(&object.0).unwrap_or_default() {
            let come = if errno == 0 { Ok(()) } else { Err(Errno::from_raw(errno).into()) };
            state.ready.push_back((waiter.retry, come));
        }
        self.changed.notify_all();
    }

    /// Tries again what is due; returns when the mount ends.
    pub(crate) fn work_off(&self) {
        loop {
            let mut state = self.state();
            let (retry, come) = loop {
                if state.ending {
                    return;
                }
                if let Some(next) = state.ready.pop_front() {
                    state.count -= 1;
                    break next;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            retry(come);
        }
    }

    /// Ends the waiting of callers that were signalled, or waited longer than `soft`; returns when the mount ends.
    pub(crate) fn watch(&self, soft: Option<Duration>, is_interrupted: impl Fn(u32) -> bool) {
        loop {
            let mut state = self.state();
            while state.waiting.is_empty() && !state.ending {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.ending {
                return;
            }
            let refused = self.sort_out(&mut state, |waiter| match () {
                () if waiter.pid == 0 => None,
                () if is_interrupted(waiter.pid) => Some(Refused::Interrupted),
                () if soft.is_some_and(|limit| waiter.since.elapsed() >= limit) => Some(Refused::TimedOut),
                () => None,
            });
            drop(state);
            for (retry, why) in refused {
                retry(Err(why.into()));
            }
            std::thread::sleep(Duration::from_millis(limits::PARKED_POLL_MS));
        }
    }

    /// Takes out those that `judge` refuses, and forgoes objects that nobody waits for any more.
    fn sort_out(&self, state: &mut State, mut judge: impl FnMut(&Waiter) -> Option<Refused>) -> Vec<(Retry, Refused)> {
        let mut refused = Vec::new();
        state.waiting.retain(|object, waiters| {
            for waiter in std::mem::take(waiters) {
                match judge(&waiter) {
                    Some(why) => refused.push((waiter.retry, why)),
                    None => waiters.push(waiter),
                }
            }
            if waiters.is_empty() {
                (self.say)(&Upcall::Forgo { object: Handle(*object) });
            }
            !waiters.is_empty()
        });
        state.count -= refused.len();
        refused
    }

    /// Refuses all that waits and will wait.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.ending = true;
        state.count = 0;
        let waiting = std::mem::take(&mut state.waiting);
        let ready = std::mem::take(&mut state.ready);
        self.changed.notify_all();
        drop(state);
        let waiting = waiting.into_values().flatten().map(|waiter| waiter.retry);
        for retry in waiting.chain(ready.into_iter().map(|(retry, _)| retry)) {
            retry(Err(Error::Refused(Refused::Ending)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    fn room() -> (Arc<WaitingRoom>, mpsc::Receiver<Upcall>) {
        let (said, upcalls) = mpsc::channel();
        let room = WaitingRoom::new(move |upcall| said.send(upcall.clone()).expect("the test listens"));
        (Arc::new(room), upcalls)
    }

    fn wait(room: &WaitingRoom, object: u64, pid: u32) -> mpsc::Receiver<std::result::Result<(), i32>> {
        let (done, result) = mpsc::channel();
        let retry = Box::new(move |come: Result<()>| done.send(come.map_err(|e| e.errno())).expect("the test listens"));
        room.wait(Handle(object), pid, || true, retry);
        result
    }

    #[test]
    fn what_came_before_a_request_could_wait_for_it_is_not_asked_for() {
        let (room, upcalls) = room();
        let (done, result) = mpsc::channel();
        let retry = Box::new(move |come: Result<()>| done.send(come.is_ok()).expect("the test listens"));
        room.wait(Handle(1), 10, || false, retry);
        let worker = std::thread::spawn({
            let room = room.clone();
            move || room.work_off()
        });
        assert_eq!(result.recv(), Ok(true));
        assert!(upcalls.try_recv().is_err());
        room.end();
        worker.join().expect("the worker ends");
    }

    #[test]
    fn each_object_is_told_of_once_and_its_answer_ends_all_waiting_for_it() {
        let (room, upcalls) = room();
        let worker = std::thread::spawn({
            let room = room.clone();
            move || room.work_off()
        });
        let (one, two, other) = (wait(&room, 1, 10), wait(&room, 1, 11), wait(&room, 2, 12));
        let wanted = [1, 2].map(|object| Upcall::Fetch { object: Handle(object) });
        assert_eq!(upcalls.try_iter().collect::<Vec<_>>(), wanted);
        room.say_again();
        assert_eq!(upcalls.try_iter().collect::<Vec<_>>(), wanted);
        room.fetched(Handle(1), 0);
        assert_eq!((one.recv(), two.recv()), (Ok(Ok(())), Ok(Ok(()))));
        room.fetched(Handle(2), libc::ESTALE);
        assert_eq!(other.recv(), Ok(Err(libc::ESTALE)));
        // An answer that nobody waits for any more.
        room.fetched(Handle(3), 0);
        let late = wait(&room, 1, 10);
        assert_eq!(upcalls.try_iter().collect::<Vec<_>>(), [Upcall::Fetch { object: Handle(1) }]);
        room.end();
        assert_eq!(late.recv(), Ok(Err(libc::EIO)));
        assert_eq!(wait(&room, 1, 10).recv(), Ok(Err(libc::EIO)));
        worker.join().expect("the worker ends");
    }

    #[test]
    fn an_object_is_forgone_when_the_last_that_waits_for_it_is_interrupted() {
        let (room, upcalls) = room();
        let (one, two) = (wait(&room, 1, 10), wait(&room, 1, 11));
        upcalls.recv().expect("fetch");
        let only = |pid| move |waiter: &Waiter| (waiter.pid == pid).then_some(Refused::Interrupted);
        let end = |pid| {
            let refused = room.sort_out(&mut room.state(), only(pid));
            refused.into_iter().for_each(|(retry, why)| retry(Err(why.into())));
        };
        end(10);
        assert_eq!(one.recv(), Ok(Err(libc::EINTR)));
        assert!(upcalls.try_recv().is_err());
        end(11);
        assert_eq!(two.recv(), Ok(Err(libc::EINTR)));
        assert_eq!(upcalls.recv(), Ok(Upcall::Forgo { object: Handle(1) }));
    }

    #[test]
    fn no_more_wait_than_the_limit() {
        let (room, _upcalls) = room();
        let waiting: Vec<_> = (0..limits::PARKED_REQUESTS).map(|n| wait(&room, n as u64, 1)).collect();
        assert_eq!(wait(&room, 1, 1).recv(), Ok(Err(libc::EAGAIN)));
        assert!(waiting.iter().all(|result| result.try_recv().is_err()));
    }
}
