//! Taking over a peer's tree by comparison: the first copy, a long absence, a loss of power, and objects that are missing.

use super::actions::invalidate;
use super::input::Input;
use super::mind::Mind;
use super::progress::Pace;
use lento_core::Event;
use lento_net::{Connection, Session};
use lento_store::{Committed, Store};
use lento_transfer::{CompareOptions, Comparer, Receiver};
use protocol::{Downcall, FileSetId, HostId, ObjectId, Position, Reply, Request};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What one comparison works with.
struct Job {
    store: Arc<Store>,
    connection: Connection,
    fileset: FileSetId,
    from: HostId,
    presto: Option<mpsc::Sender<Downcall>>,
    inputs: mpsc::Sender<Input>,
    pace: Pace,
}

/// Compares with `from`: the whole tree, or the objects given with all below them. The end is told to the core.
pub(super) fn start(mind: &mut Mind, fileset: FileSetId, from: HostId, objects: Option<Vec<ObjectId>>) {
    let Some(set) = mind.filesets.get(&fileset) else { return };
    let Some(store) = set.store.clone() else { return };
    let presto = set.presto.as_ref().map(|presto| presto.downcalls.clone());
    let (inputs, connection) = (mind.inputs.clone(), mind.network.connection(from));
    let copying = !set.config.mounted;
    let name = set.config.name.clone();
    tokio::task::spawn_blocking(move || {
        let result = match connection {
            None => Err("not connected".to_owned()),
            Some(connection) => {
                let pace = Pace::new(if copying { "copying" } else { "comparing" });
                let mut job = Job { store, connection, fileset, from, presto, inputs: inputs.clone(), pace };
                job.run(objects).map_err(|why| format!("{why:#}"))
            }
        };
        if let Err(why) = &result {
            tracing::warn!(fileset = %name, %from, why, "comparison failed; it is tried again");
        }
        let _ = inputs.blocking_send(Input::Progress { fileset, progress: None });
        let _ = inputs.blocking_send(Input::Event(Event::Compared { fileset, from, result }));
    });
}

impl Job {
    fn run(&mut self, objects: Option<Vec<ObjectId>>) -> anyhow::Result<Position> {
        match objects {
            None => self.compare(ObjectId::ROOT),
            Some(objects) => {
                let mut after = Position::START;
                for object in objects {
                    after = self.compare(object)?;
                }
                Ok(after)
            }
        }
    }

    fn compare(&mut self, root: ObjectId) -> anyhow::Result<Position> {
        let mut session = self.connection.request(&Request::List { fileset: self.fileset, root })?;
        let mut comparer = Comparer::new(self.store.clone(), root, self.from, CompareOptions::default());
        if let Some(mut data) = session.data() {
            while let Some(body) = data.blocking_recv()? {
                comparer.take(&body)?;
                self.tell(&comparer, 0, false);
            }
        }
        let after = listed(session)?;
        // Contents come when all names are known: then there is a total to tell.
        loop {
            let wanted = comparer.take_wanted();
            if wanted.is_empty() {
                break;
            }
            for chunk in wanted.chunks(protocol::limits::FETCH_OBJECTS) {
                self.fetch(&mut comparer, chunk.to_vec())?;
            }
        }
        let report = comparer.finish(after)?;
        tracing::info!(fileset = %self.fileset, from = %self.from, ?report.created, ?report.fetched, ?report.same,
            ?report.removed, ?report.moved, kept = report.kept.len(), "compared");
        if let Some(presto) = &self.presto {
            invalidate(Committed { upto: after, invalidate: report.invalidate }, presto);
        }
        if let Some((id, errno)) = report.failed.first() {
            let why = if *errno == 0 { "the transfer was interrupted" } else { nix::Error::from_raw(*errno).desc() };
            anyhow::bail!("{} contents could not be had; the first is object {id}: {why}", report.failed.len());
        }
        Ok(after)
    }

    fn fetch(&mut self, comparer: &mut Comparer, wanted: Vec<ObjectId>) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Handle::current();
        let mut receiver = Receiver::for_comparison(self.store.clone(), wanted);
        let mut rounds = || -> anyhow::Result<()> {
            while let Some(wanted) = receiver.next_round()? {
                let mut session = self.connection.request(&Request::Fetch { fileset: self.fileset, wanted })?;
                if let Some(mut data) = session.data() {
                    while let Some(body) = data.blocking_recv()? {
                        receiver.take(&body)?;
                        tell(&self.inputs, self.fileset, &mut self.pace, comparer, receiver.bytes(), false);
                    }
                }
                match runtime.block_on(session.reply())? {
                    Reply::Done => {}
                    Reply::Refused(refusal) => anyhow::bail!(refusal),
                    other => anyhow::bail!("a strange answer to a request for content: {other:?}"),
                }
            }
            Ok(())
        };
        let result = rounds();
        // What came before it was interrupted is kept.
        comparer.content(receiver.finish())?;
        self.tell(comparer, 0, true);
        result
    }

    fn tell(&mut self, comparer: &Comparer, bytes: u64, end: bool) {
        tell(&self.inputs, self.fileset, &mut self.pace, comparer, bytes, end);
    }
}

fn tell(inputs: &mpsc::Sender<Input>, fileset: FileSetId, pace: &mut Pace, comparer: &Comparer, bytes: u64, end: bool) {
    let progress = comparer.progress();
    let totals = progress.listed_all.then_some(progress.wanted);
    let (files, done) = progress.done;
    let due = if end { Some(pace.now(files, done, totals)) } else { pace.due(files, done + bytes, totals) };
    if let Some(progress) = due {
        let _ = inputs.blocking_send(Input::Progress { fileset, progress: Some(progress) });
    }
}

fn listed(mut session: Session) -> anyhow::Result<Position> {
    match tokio::runtime::Handle::current().block_on(session.reply())? {
        Reply::Listed { after } => Ok(after),
        Reply::Refused(refusal) => anyhow::bail!(refusal),
        other => anyhow::bail!("a strange answer to a request for a listing: {other:?}"),
    }
}
