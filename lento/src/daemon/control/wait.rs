//! `lento wait`: until every replica has what was there when it was called.

use super::conclude;
use crate::daemon::error::{failed, no_fileset};
use crate::daemon::input::{Answers, Call, Input};
use crate::daemon::mind::Mind;
use crate::daemon::requests::call;
use lento_cli::control::{Code, ControlEvent, Failure};
use lento_core::Event;
use protocol::{FileSetId, FileSetName, HostId, Position, Reply, Request};
use std::time::Duration;
use tokio::sync::mpsc;

/// Pause before the holder is asked again, when it cannot be reached.
const AGAIN: Duration = Duration::from_millis(200);

impl Mind {
    pub(super) fn wait(&mut self, name: &FileSetName, timeout_ms: Option<u64>, answers: Answers) {
        let Some(id) = self.by_name(name) else {
            return super::end(&answers, [ControlEvent::Failed(no_fileset(name))]);
        };
        let inputs = self.inputs.clone();
        let name = name.clone();
        tokio::spawn(async move {
            let waiting = async {
                everything(&inputs, id).await;
                // At a replicator: the holder's other replicas must have it too.
                for holder in peers(&inputs, id, false).await {
                    everything_of(&inputs, id, holder).await;
                }
            };
            let timeout = async {
                match timeout_ms {
                    Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                    None => std::future::pending().await,
                }
            };
            let result = tokio::select! {
                () = waiting => Ok(Some(format!("every replica of {name} has what was there"))),
                () = timeout => Err(Failure {
                    message: format!("not every replica of {name} has what was there, after {} s",
                        timeout_ms.unwrap_or_default() as f64 / 1000.0),
                    hint: Some("`lento status` tells which, and why".into()),
                    code: Code::Timeout,
                }),
                () = answers.closed() => Err(failed("the client left")),
            };
            conclude(&answers, result).await;
        });
    }
}

/// Returns when all peers of this host have what it has now.
pub(in crate::daemon) async fn everywhere(inputs: &mpsc::Sender<Input>, id: FileSetId) {
    let position = loop {
        if let Some(position) = position_now(inputs, id).await {
            break position;
        }
        // The store is not open, or its log cannot be read: nothing is known, so nothing is said.
        if inputs.is_closed() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    };
    let _ = call(inputs, |reply| Call::Reached { fileset: id, position, reply }).await;
}

/// The end of what this host has to ship: of its own log, and at the holder of the whole history.
async fn position_now(inputs: &mpsc::Sender<Input>, id: FileSetId) -> Option<Position> {
    // Outcomes that Presto has not written yet are written with this.
    let _ = call(inputs, |reply| Call::Flush { fileset: id, reply }).await?;
    let (reply, answer) = tokio::sync::oneshot::channel();
    let read = Call::Do(Box::new(move |mind: &mut Mind| {
        let Some(store) = mind.store(id) else { return };
        let inputs = mind.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let Ok(tail) = store.absorb() else { return };
            let _ = inputs
                .blocking_send(Input::Event(Event::Presto { fileset: id, event: lento_core::PrestoEvent::Advanced }));
            let _ = reply.send(tail);
        });
    }));
    inputs.send(Input::Call(read)).await.ok()?;
    let tail = answer.await.ok()?;
    let status = call(inputs, |reply| Call::Status { fileset: id, reply }).await??;
    let holder = status.permit.owner.is_some();
    Some(if holder { status.history_end.max(tail) } else { tail })
}

/// Returns when all peers of this host have what it has now and, if it is the holder, what its replicators have.
pub(in crate::daemon) async fn everything(inputs: &mpsc::Sender<Input>, id: FileSetId) {
    for replicator in peers(inputs, id, true).await {
        everything_of(inputs, id, replicator).await;
    }
    everywhere(inputs, id).await;
}

/// The peers of this file set, if this host is its holder or, with `at_holder` false, if it is not.
async fn peers(inputs: &mpsc::Sender<Input>, id: FileSetId, at_holder: bool) -> Vec<HostId> {
    let status = call(inputs, |reply| Call::Status { fileset: id, reply }).await.flatten();
    // Who owns the permit is known to the holder only.
    let status = status.filter(|status| status.permit.owner.is_some() == at_holder);
    let peers: Vec<HostId> = status.into_iter().flat_map(|status| status.links).map(|link| link.peer).collect();
    // What a client has written is waited for when it has arrived.
    let stores = call(inputs, |reply| {
        Call::Do(Box::new(move |mind: &mut Mind| {
            let _ = reply.send(peers.into_iter().filter(|peer| !mind.is_client(id, *peer)).collect());
        }))
    });
    stores.await.unwrap_or_default()
}

/// Returns when all peers of `peer` have what it has now, or when it is no peer any more.
async fn everything_of(inputs: &mpsc::Sender<Input>, id: FileSetId, peer: HostId) {
    loop {
        let connection = call(inputs, |reply| {
            Call::Do(Box::new(move |mind: &mut Mind| {
                let status = mind.engine.status(id);
                let shares = status.is_some_and(|status| status.links.iter().any(|link| link.peer == peer));
                let _ = reply.send(shares.then(|| mind.network.connection(peer)));
            }))
        });
        match connection.await {
            // It was removed, or this host is ending.
            None | Some(None) => return,
            Some(Some(Some(connection))) => {
                if let Ok(mut session) = connection.request(&Request::Wait { fileset: id })
                    && matches!(session.reply().await, Ok(Reply::Done))
                {
                    return;
                }
            }
            Some(Some(None)) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}
