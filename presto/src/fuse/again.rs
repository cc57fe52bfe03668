//! Requests that may have to wait, for the permit or for what is absent: each is a closure that can be tried again, and
//! owns its reply.

use crate::{
    filter::{Caller, Error, Filter, Result},
    permit::{Pass, Refused},
};
use protocol::Handle;
use std::sync::Arc;

/// Does a change that needs the permit, now or when permit and what is absent are here, and replies.
pub(super) fn change<R, T, W, A>(filter: Arc<Filter>, caller: Caller, reply: R, work: W, answer: A)
where
    R: Send + 'static,
    W: Fn(&Filter, &Pass<'_>, Caller) -> Result<T> + Send + 'static,
    A: FnOnce(R, Result<T>) + Send + 'static,
{
    let shared = filter.clone();
    shared.gate.run(caller.pid, move |pass: std::result::Result<&Pass<'_>, Refused>| {
        let result = match pass {
            Ok(pass) => work(&filter, pass, caller),
            Err(refused) => Err(Error::Refused(refused)),
        };
        match result {
            // The pass is given back when this returns: no permit is kept while something is fetched.
            Err(Error::Absent(object)) => {
                let shared = filter.clone();
                let retry = move |come: Result<()>| match come {
                    Ok(()) => change(filter, caller, reply, work, answer),
                    Err(error) => answer(reply, Err(error)),
                };
                shared.wait_for(object, caller.pid, Box::new(retry));
            }
            result => answer(reply, result),
        }
    });
}

/// Has a request that found `object` absent tried again when that is here, as often as it takes, and replies.
pub(super) fn again<R, T, W, A>(filter: Arc<Filter>, pid: u32, object: Handle, mut reply: R, work: W, answer: A)
where
    R: Send + 'static,
    W: Fn(&Filter, &mut R) -> Result<T> + Send + 'static,
    A: FnOnce(R, Result<T>) + Send + 'static,
{
    let shared = filter.clone();
    let retry = move |come: Result<()>| match come.and_then(|()| work(&filter, &mut reply)) {
        Err(Error::Absent(next)) => again(filter, pid, next, reply, work, answer),
        result => answer(reply, result),
    };
    shared.wait_for(object, pid, Box::new(retry));
}
