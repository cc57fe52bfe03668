//! Taking over a peer's tree by comparison: the first copy, a long absence, a loss of power, and objects that are missing.

use super::actions::invalidate;
use super::fetchers::{Chunk, Chunks, Fetchers};
use super::input::Input;
use super::mind::Mind;
use super::progress::Pace;
use super::stage::{SILENCE, next_body, reply};
use lento_core::Event;
use lento_net::{Connection, Session};
use lento_store::{Committed, Store};
use lento_transfer::{CompareOptions, Comparer};
use protocol::{Downcall, FileSetId, HostId, ObjectId, Position, Reply, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often progress is told at least, while nothing else happens.
const LOOK: Duration = Duration::from_millis(100);

/// What one comparison works with.
struct Job {
    store: Arc<Store>,
    connection: Connection,
    fileset: FileSetId,
    from: HostId,
    presto: Option<mpsc::Sender<Downcall>>,
    inputs: mpsc::Sender<Input>,
    pace: Pace,
    /// Whether this is the first copy, which nobody uses before it is complete.
    copying: bool,
}

/// Compares with `from`: the whole tree, or the objects given with all below them. The end is told to the core.
pub(super) fn start(mind: &mut Mind, fileset: FileSetId, from: HostId, objects: Option<Vec<ObjectId>>) {
    let Some(set) = mind.filesets.get(&fileset) else { return };
    let Some(store) = set.store.clone() else { return };
    let presto = set.presto.as_ref().map(|presto| presto.downcalls.clone());
    let (inputs, connection) = (mind.inputs.clone(), mind.network.connection(from));
    let copying = !set.config.mounted;
    let links = mind.engine.status(fileset).map(|status| status.links).unwrap_or_default();
    let lost_after = links.iter().find(|link| link.peer == from && link.lost).map(|link| link.acked.number);
    let name = set.config.name.clone();
    tokio::task::spawn_blocking(move || {
        let result = match connection {
            None => Err("not connected".to_owned()),
            Some(connection) => {
                if store.config().on_demand {
                    let kept = lost_after.map_or(Ok(()), |after| keep_unsent(&store, (fileset, from), after, &inputs));
                    let forget = || super::demand::forget(store, connection, presto, (fileset, from), inputs.clone());
                    let result = kept.and_then(|()| forget());
                    let result = result.map_err(|why| format!("{why:#}"));
                    let _ = inputs.blocking_send(Input::Event(Event::Compared { fileset, from, result }));
                    return;
                }
                let pace = Pace::new(if copying { "copying" } else { "comparing" });
                let mut job = Job { store, connection, fileset, from, presto, inputs: inputs.clone(), pace, copying };
                job.run(objects).map_err(|why| job.told(&why))
            }
        };
        if let Err(why) = &result {
            tracing::warn!(fileset = %name, %from, why, "comparison failed; it is tried again");
        }
        let _ = inputs.blocking_send(Input::Progress { fileset, progress: None });
        let _ = inputs.blocking_send(Input::Event(Event::Compared { fileset, from, result }));
    });
}

/// The permit was taken from this client while it was away: what it had written and not shipped is kept aside.
fn keep_unsent(
    store: &Arc<Store>,
    (fileset, from): (FileSetId, HostId),
    after: u64,
    inputs: &mpsc::Sender<Input>,
) -> anyhow::Result<()> {
    store.absorb()?;
    let options = CompareOptions { names_only: Some(Position::START), ..CompareOptions::default() };
    let mut comparer = Comparer::new(store.clone(), ObjectId::ROOT, from, options);
    let kept = comparer.keep_written(after)?.len();
    let told = super::input::Call::Do(Box::new(move |mind: &mut Mind| {
        if let Some(set) = mind.filesets.get_mut(&fileset) {
            let dir = set.config.store.join(".intermezzo/conflicts");
            set.fail(format!(
                "others wanted to write while this host was away, and it lost the permit: what it had not sent is undone; \
                 the contents of {kept} files are kept in {}",
                dir.display()
            ));
        }
    }));
    let _ = inputs.blocking_send(Input::Call(told));
    Ok(())
}

impl Job {
    fn run(&mut self, objects: Option<Vec<ObjectId>>) -> anyhow::Result<Position> {
        match objects {
            None => {
                let lost = self.store.copy_was_lost()?;
                if lost {
                    tracing::warn!(fileset = %self.fileset, "a copy was lost before it was on disk: all contents are compared");
                }
                if self.copying || lost {
                    self.store.begin_copy()?;
                }
                let after = self.compare(ObjectId::ROOT, lost)?;
                self.store.end_copy();
                Ok(after)
            }
            Some(objects) => {
                let mut after = Position::START;
                for object in objects {
                    after = self.compare(object, false)?;
                }
                Ok(after)
            }
        }
    }

    /// Why it ended, in words: of what there is too little, too, when the disk is full.
    fn told(&self, why: &anyhow::Error) -> String {
        let full = |cause: &(dyn std::error::Error + 'static)| {
            cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) == Some(libc::ENOSPC)
        };
        if why.chain().any(full) { format!("{}: {why:#}", self.store.bottom().shortage()) } else { format!("{why:#}") }
    }

    fn compare(&mut self, root: ObjectId, distrust: bool) -> anyhow::Result<Position> {
        let options = CompareOptions { distrust, ..CompareOptions::default() };
        let mut comparer = Comparer::new(self.store.clone(), root, self.from, options);
        let fetchers = Fetchers {
            store: self.store.clone(),
            connection: self.connection.clone(),
            fileset: self.fileset,
            sync: !(self.copying && root == ObjectId::ROOT) || distrust,
            distrust,
        };
        let work = |comparer: &mut Comparer, chunks: &mut Chunks<'_>| self.work(root, comparer, chunks);
        let after = fetchers.run(&mut comparer, work, |comparer, chunk| {
            if let Err(why) = comparer.content(chunk.fetched) {
                tracing::debug!(%why, "what came last is not kept");
            }
        })?;
        let report = comparer.finish(after)?;
        tracing::info!(fileset = %self.fileset, from = %self.from, ?report.created, ?report.fetched, ?report.same,
            ?report.removed, ?report.moved, kept = report.kept.len(), "compared");
        if let Some(presto) = &self.presto {
            invalidate(Committed { upto: after, invalidate: report.invalidate }, presto, 0);
        }
        if let Some((id, errno)) = report.failed.first() {
            let why = match *errno {
                0 => "the transfer was interrupted",
                libc::ENOSPC => self.store.bottom().shortage(),
                other => nix::Error::from_raw(other).desc(),
            };
            anyhow::bail!("{} contents could not be had; the first is object {id}: {why}", report.failed.len());
        }
        Ok(after)
    }

    /// Takes the listing, and the contents that it makes necessary while it and they arrive.
    fn work(&mut self, root: ObjectId, comparer: &mut Comparer, chunks: &mut Chunks<'_>) -> anyhow::Result<Position> {
        let mut session = self.connection.request(&Request::List { fileset: self.fileset, root, deep: true })?;
        if let Some(mut data) = session.data() {
            while let Some(body) = next_body(&mut data, SILENCE, &mut || true)? {
                comparer.take(&body)?;
                chunks.want(comparer, false);
                while let Some(fetched) = chunks.poll(Duration::ZERO)? {
                    self.content(comparer, fetched)?;
                }
                self.tell(comparer, chunks.bytes(), false);
            }
        }
        let after = listed(session)?;
        chunks.want(comparer, true);
        while !chunks.is_idle() {
            if let Some(fetched) = chunks.poll(LOOK)? {
                self.content(comparer, fetched)?;
            }
            self.tell(comparer, chunks.bytes(), false);
        }
        self.tell(comparer, 0, true);
        Ok(after)
    }

    /// Commits what came; that which came before a transfer was interrupted is kept.
    fn content(&mut self, comparer: &mut Comparer, chunk: Chunk) -> anyhow::Result<()> {
        comparer.content(chunk.fetched)?;
        chunk.result
    }

    fn tell(&mut self, comparer: &Comparer, bytes: u64, end: bool) {
        let progress = comparer.progress();
        let totals = progress.listed_all.then_some(progress.wanted);
        let (files, done) = progress.done;
        let (pace, bytes) = (&mut self.pace, done + bytes);
        let due = if end { Some(pace.now(files, done, totals)) } else { pace.due(files, bytes, totals) };
        if let Some(progress) = due {
            let _ = self.inputs.blocking_send(Input::Progress { fileset: self.fileset, progress: Some(progress) });
        }
    }
}

fn listed(mut session: Session) -> anyhow::Result<Position> {
    match reply(&mut session, SILENCE)? {
        Reply::Listed { after } => Ok(after),
        Reply::Refused(refusal) => anyhow::bail!(refusal),
        other => anyhow::bail!("a strange answer to a request for a listing: {other:?}"),
    }
}
