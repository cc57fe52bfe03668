//! Backfetch: the contents that a group of records needs, from the peer that shipped them.

use super::input::Input;
use super::mind::Mind;
use lento_core::{Event, StageResult};
use lento_net::Connection;
use lento_store::{Staged, Store};
use lento_transfer::{Fetched, Receiver};
use protocol::{FileSetId, HostId, ObjectId, Reply, Request};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Fetches `wanted` and answers the core.
pub(super) fn start(mind: &mut Mind, fileset: FileSetId, from: HostId, wanted: Vec<ObjectId>) {
    let Some(set) = mind.filesets.get(&fileset) else { return };
    let Some(store) = set.store.clone() else { return };
    let staged = set.staged.clone();
    let connection = mind.network.connection(from);
    let inputs = mind.inputs.clone();
    tokio::task::spawn_blocking(move || {
        let results = match connection {
            Some(connection) => {
                let (wanted, left) = kept(&store, wanted);
                let (fetched, why) = fetch(&store, &connection, fileset, wanted);
                let mut all = staged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let mut results = settle(fetched, &why, all.entry(from).or_default());
                results.extend(left.into_iter().map(|id| (id, StageResult::Left)));
                results
            }
            None => wanted.into_iter().map(|id| (id, StageResult::Failed("not connected".into()))).collect(),
        };
        let _ = inputs.blocking_send(Input::Event(Event::Staged { fileset, from, results }));
    });
}

/// On a client, parts what must be here at once from what is fetched when it is used.
fn kept(store: &Store, wanted: Vec<ObjectId>) -> (Vec<ObjectId>, Vec<ObjectId>) {
    // If it cannot be examined it is fetched, and the commit tells what is wrong.
    wanted.into_iter().partition(|id| !store.config().on_demand || store.keeps_content(*id).unwrap_or(true))
}

fn settle(fetched: Vec<(ObjectId, Fetched)>, why: &str, staged: &mut Staged) -> BTreeMap<ObjectId, StageResult> {
    let errno = |errno: i32| nix::Error::from_raw(errno).desc();
    fetched
        .into_iter()
        .map(|(id, fetched)| {
            let result = match fetched {
                Fetched::Staged { as_of, file } => {
                    staged.insert(id, file);
                    StageResult::Staged { as_of }
                }
                // Only a receiver for a comparison is answered so.
                Fetched::Same { as_of } => StageResult::Staged { as_of },
                Fetched::Changed => StageResult::Changed,
                Fetched::Gone => StageResult::Gone,
                Fetched::FailedHere(libc::ENOSPC) => StageResult::NoSpace,
                Fetched::FailedHere(number) => StageResult::Failed(errno(number).into()),
                Fetched::FailedThere(number) => StageResult::Failed(format!("at the other host: {}", errno(number))),
                Fetched::Interrupted => StageResult::Failed(why.to_owned()),
            };
            (id, result)
        })
        .collect()
}

/// Fetches contents into the staging directory; blocks. What became of each, and why it ended early, if it did.
fn fetch(
    store: &Arc<Store>,
    connection: &Connection,
    fileset: FileSetId,
    wanted: Vec<ObjectId>,
) -> (Vec<(ObjectId, Fetched)>, String) {
    let mut receiver = Receiver::new(store.clone(), wanted);
    let why = match rounds(&mut receiver, connection, fileset, &mut |_| true) {
        Ok(()) => String::new(),
        Err(why) => why.to_string(),
    };
    (receiver.finish(), why)
}

/// Asks for all that a receiver wants and gives it the answers; blocks. `go_on` is called with the bytes received so far.
pub(super) fn rounds(
    receiver: &mut Receiver,
    connection: &Connection,
    fileset: FileSetId,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Handle::current();
    while let Some(wanted) = receiver.next_round()? {
        let mut session = connection.request(&Request::Fetch { fileset, wanted })?;
        if let Some(mut data) = session.data() {
            while let Some(body) = data.blocking_recv()? {
                receiver.take(&body)?;
                if !go_on(receiver.bytes()) {
                    anyhow::bail!("given up");
                }
            }
        }
        match runtime.block_on(session.reply())? {
            Reply::Done => {}
            Reply::Refused(refusal) => anyhow::bail!(refusal),
            other => anyhow::bail!("a strange answer to a request for content: {other:?}"),
        }
    }
    Ok(())
}
