//! Backfetch: the contents that a group of records needs, from the peer that shipped them.

use super::input::Input;
use super::mind::Mind;
use lento_core::{Event, StageResult};
use lento_net::{Connection, DataReceiver, Session};
use lento_store::{Staged, Store};
use lento_transfer::{Fetched, Receiver};
use protocol::{FileSetId, HostId, ObjectId, Reply, Request, limits};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long nothing may come of a transfer.
pub(super) const SILENCE: Duration = Duration::from_millis(limits::TRANSFER_SILENCE_MS);
/// How often whoever waits looks whether what he waits for is still wanted.
const LOOK: Duration = Duration::from_millis(200);

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
                let mut results = settle(fetched, &why, &store, all.entry(from).or_default());
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

fn settle(
    fetched: Vec<(ObjectId, Fetched)>,
    why: &str,
    store: &Store,
    staged: &mut Staged,
) -> BTreeMap<ObjectId, StageResult> {
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
                Fetched::FailedHere(libc::ENOSPC) => StageResult::NoSpace(store.bottom().shortage().into()),
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
    while let Some(wanted) = receiver.next_round()? {
        let mut session = connection.request(&Request::Fetch { fileset, wanted })?;
        if let Some(mut data) = session.data() {
            while let Some(body) = next_body(&mut data, SILENCE, &mut || go_on(receiver.bytes()))? {
                receiver.take(&body)?;
                if !go_on(receiver.bytes()) {
                    anyhow::bail!("given up");
                }
            }
        }
        match reply(&mut session, SILENCE)? {
            Reply::Done => {}
            Reply::Refused(refusal) => anyhow::bail!(refusal),
            other => anyhow::bail!("a strange answer to a request for content: {other:?}"),
        }
    }
    Ok(())
}

/// The next body of a transfer; blocks. A peer that goes on living but sends nothing for `silence` is taken for one
/// whose connection was cut. `wanted` is asked now and then whether to go on.
pub(super) fn next_body(
    data: &mut DataReceiver,
    silence: Duration,
    wanted: &mut dyn FnMut() -> bool,
) -> anyhow::Result<Option<Vec<u8>>> {
    let runtime = tokio::runtime::Handle::current();
    let began = Instant::now();
    loop {
        let waited = runtime.block_on(async { tokio::time::timeout(LOOK.min(silence), data.recv()).await });
        match waited {
            Ok(body) => return Ok(body?),
            Err(_) if !wanted() => anyhow::bail!("given up"),
            Err(_) if began.elapsed() >= silence => return Err(silent(silence)),
            Err(_) => {}
        }
    }
}

/// What ends a session, after all its data; blocks, for `silence` at most.
pub(super) fn reply(session: &mut Session, silence: Duration) -> anyhow::Result<Reply> {
    let runtime = tokio::runtime::Handle::current();
    let waited = runtime.block_on(async { tokio::time::timeout(silence, session.reply()).await });
    Ok(waited.map_err(|_| silent(silence))??)
}

fn silent(silence: Duration) -> anyhow::Error {
    anyhow::anyhow!("nothing of the transfer came for {:.0} s, though the connection stands", silence.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::{next_body, reply};
    use lento_net::{Identity, NetEvent, Network, join};
    use protocol::Request;
    use std::sync::Arc;
    use std::time::{Duration, Instant};
    use tokio::sync::mpsc;

    fn free_address() -> String {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
        probe.local_addr().expect("it is bound").to_string()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_peer_that_never_answers_a_fetch_is_given_up() {
        let homes = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
        let a = Identity::init(homes[0].path(), "a".parse().expect("legal"), free_address()).expect("a new identity");
        let a = Arc::new(a);
        let (events, mut at_a) = mpsc::channel(16);
        let network = Network::start(a.clone(), events).await.expect("it listens");
        let ticket = a.invite(None, Duration::from_secs(60)).expect("the first host invites");
        let joined = join(homes[1].path(), &ticket, "b".parse().expect("legal"), free_address()).await;
        let b = Arc::new(joined.expect("a good ticket").identity);
        let (events, mut at_b) = mpsc::channel(16);
        let calling = Network::start(b, events).await.expect("it listens");
        calling.connect(a.host, &a.listen);
        let Some(NetEvent::Up { connection, .. }) = at_b.recv().await else { panic!("not connected") };

        // Kept, and not answered: the connection stands, and the asker waits.
        let silent = tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Some(event) = at_a.recv().await {
                if let NetEvent::Request { responder, .. } = event {
                    // To the second one there is data, and no reply.
                    if !kept.is_empty() {
                        responder.data(vec![1]).await.expect("it is asked for");
                        responder.end_of_data();
                    }
                    kept.push(responder);
                }
            }
        });
        let work = tokio::task::spawn_blocking(move || {
            let silence = Duration::from_millis(300);
            let mut first = connection.request(&Request::FileSets).expect("it is up");
            let mut data = first.data().expect("the first time");
            let began = Instant::now();
            let why = next_body(&mut data, silence, &mut || true).expect_err("nothing comes");
            assert!(why.to_string().contains("nothing of the transfer came"), "{why}");
            assert!(began.elapsed() >= silence, "it was given up after {:?}", began.elapsed());
            let why = next_body(&mut data, Duration::from_secs(60), &mut || false).expect_err("nobody wants it");
            assert_eq!(why.to_string(), "given up");

            let mut second = connection.request(&Request::FileSets).expect("it is up");
            let mut data = second.data().expect("the first time");
            let body = next_body(&mut data, Duration::from_secs(20), &mut || true).expect("it comes");
            assert_eq!(body, Some(vec![1]));
            assert_eq!(next_body(&mut data, Duration::from_secs(20), &mut || true).expect("its end comes"), None);
            assert!(reply(&mut second, silence).is_err());
            drop((first, second));
            connection
        });
        let connection = work.await.expect("no panic");
        assert_eq!(connection.open_sessions().0, 0, "what was given up is over");
        silent.abort();
        drop((network, calling));
    }
}
