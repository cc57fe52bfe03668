//! `lento fileset remove` and `lento fsck --rebuild`.

use super::open::{open_beneath, store_config};
use super::{conclude, end};
use crate::daemon::error::{failed, hinted, no_fileset};
use crate::daemon::files::FileSetConfig;
use crate::daemon::fileset::FileSet;
use crate::daemon::input::{Answers, Call, Input, Then};
use crate::daemon::mind::Mind;
use crate::daemon::progress::Pace;
use crate::daemon::requests::call;
use lento_cli::control::{ControlEvent, Failure};
use lento_store::{Bottom, Store};
use protocol::{FileSetId, FileSetName, Request};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the end of work in a store is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

impl Mind {
    /// Forgets a file set here: the mount, the other host's knowledge of it, `.intermezzo` and the identities go; the
    /// files stay.
    pub(super) fn remove(&mut self, name: &FileSetName, answers: Answers) {
        let id = match self.by_name(name) {
            Some(id) => id,
            None => return end(&answers, [ControlEvent::Failed(no_fileset(name))]),
        };
        let status = self.engine.status(id);
        let replicas = status.as_ref().map_or(0, |s| if s.holder == self.identity.host { s.links.len() } else { 0 });
        if replicas > 0 {
            let hint =
                "run `lento fileset remove` on the hosts that replicate it first, so that none of them is orphaned";
            return end(&answers, [ControlEvent::Failed(hinted(format!("{replicas} hosts replicate {name}"), hint))]);
        }
        let holder = status.map(|s| s.holder).filter(|holder| *holder != self.identity.host);
        let connection = holder.and_then(|holder| self.network.connection(holder));
        let unmounted = self.stop_mount(id);
        let (inputs, name, home) = (self.inputs.clone(), name.clone(), self.home.clone());
        let store_path = self.filesets.get(&id).map(|set| set.config.store.clone()).unwrap_or_default();
        tokio::spawn(async move {
            let result = async {
                if let Some(gone) = unmounted? {
                    gone.await.map_err(failed)?.map_err(failed)?;
                }
                // What was written here must not be lost with the log.
                if holder.is_some() {
                    let drained = tokio::time::timeout(PATIENCE, super::wait::everywhere(&inputs, id)).await;
                    if drained.is_err() {
                        return Err(hinted(
                            format!("what was written to {name} here has not reached its holder"),
                            "start the holder's daemon, or see `lento status`; nothing was removed, mount it to go on",
                        ));
                    }
                    let connection = connection.ok_or_else(|| failed("the holder is not connected"))?;
                    let mut session = connection.request(&Request::DropReplica { fileset: id }).map_err(failed)?;
                    session.reply().await.map_err(failed)?;
                }
                let store = close(&inputs, id).await?.ok_or_else(|| failed("its store is not open"))?;
                forget(&inputs).await?;
                let strip = tokio::task::spawn_blocking(move || strip(&store, &home));
                strip.await.map_err(failed)??;
                Ok(Some(format!(
                    "{name} is no file set of this host any more; its files are in {}",
                    store_path.display()
                )))
            }
            .await;
            conclude(&answers, result).await;
        });
    }

    pub(super) fn fsck(&mut self, name: &FileSetName, rebuild: bool, answers: Answers) {
        let Some(id) = self.by_name(name) else { return end(&answers, [ControlEvent::Failed(no_fileset(name))]) };
        if !rebuild {
            return self.check(id, name.clone(), answers);
        }
        let peers: Vec<_> = self.engine.status(id).into_iter().flat_map(|s| s.links).map(|link| link.peer).collect();
        let connections: Vec<_> = peers.into_iter().filter_map(|peer| self.network.connection(peer)).collect();
        let remount = self.filesets.get(&id).is_some_and(|set| set.config.mounted);
        let unmounted = self.stop_mount(id);
        let (home, host, inputs, name) = (self.home.clone(), self.identity.host, self.inputs.clone(), name.clone());
        let Some(config) = self.filesets.get(&id).map(|set| set.config.clone()) else { return };
        tokio::spawn(async move {
            let result = async {
                if let Some(gone) = unmounted? {
                    gone.await.map_err(failed)?.map_err(failed)?;
                }
                drop(close(&inputs, id).await?);
                // What was asked and told on these is forgotten here: both sides begin anew, as after a restart.
                connections.iter().for_each(lento_net::Connection::close);
                let (progress, mut config2) = (answers.clone(), config.clone());
                config2.mounted = remount;
                let rebuilding = config2.clone();
                let work = tokio::task::spawn_blocking(move || rebuild_store(home, host, &rebuilding, &progress));
                let (open, text) = work.await.map_err(failed)??;
                let _ = answers.send(ControlEvent::Note(text)).await;
                let then = if remount { Then::Mount } else { Then::Done };
                super::open::hand_over(&inputs, config2, Ok(open), then, &answers).await;
                Ok::<(), Failure>(())
            }
            .await;
            if let Err(failure) = result {
                tracing::warn!(%name, why = failure.message, "fsck failed");
                restore(&inputs, config, remount).await;
                conclude(&answers, Err(failure)).await;
            }
        });
    }
}

/// Takes everything of ours out of a store, and its index out of the home. What stays there is the number of its last
/// record: should this host replicate the file set again, it may give no number, and so no object id, twice.
fn strip(store: &Store, home: &Path) -> Result<(), Failure> {
    let root = store.bottom().root();
    // That `.intermezzo` goes is not a change of the directory that its owner made.
    let times = nix::sys::stat::fstat(root).map_err(failed)?;
    let last = store.absorb().map_err(failed)?.number;
    std::fs::write(crate::daemon::mount::numbers_path(home, store.config().fileset), last.to_string())
        .map_err(failed)?;
    store.remove_identity(&mut |_| {}).map_err(failed)?;
    let mtime = nix::sys::time::TimeSpec::new(times.st_mtime, times.st_mtime_nsec);
    nix::sys::stat::futimens(root, &nix::sys::time::TimeSpec::UTIME_OMIT, &mtime).map_err(failed)?;
    let index = &store.config().index;
    for suffix in ["", "-wal", "-shm"] {
        let mut path = index.clone().into_os_string();
        path.push(suffix);
        match std::fs::remove_file(&path) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(failed(why)),
            _ => {}
        }
    }
    Ok(())
}

/// Gives a file set whose check failed back to the daemon, as it was.
async fn restore(inputs: &mpsc::Sender<Input>, mut config: FileSetConfig, mounted: bool) {
    config.mounted = mounted;
    let again = Call::Do(Box::new(move |mind: &mut Mind| {
        let id = config.id;
        mind.filesets.entry(id).or_insert_with(|| FileSet::new(config)).config.mounted = mounted;
        if let Err(failure) = mind.save_filesets() {
            tracing::error!(why = failure.message, "the list of file sets is not kept");
        }
        mind.begin_open(id);
    }));
    let _ = inputs.send(Input::Call(again)).await;
}

/// Takes a file set out of the daemon, though not out of the list on disk; returns its store, if it was open, when
/// nobody else works with it.
async fn close(inputs: &mpsc::Sender<Input>, id: FileSetId) -> Result<Option<Store>, Failure> {
    let taken = call(inputs, |reply| {
        Call::Do(Box::new(move |mind: &mut Mind| {
            mind.engine.remove_fileset(id);
            mind.permit_requests.retain(|(fileset, _), _| *fileset != id);
            let _ = reply.send(mind.filesets.remove(&id).and_then(|set| set.store));
        }))
    });
    let Some(mut store) = taken.await.flatten() else { return Ok(None) };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        store = match Arc::try_unwrap(store) {
            Ok(store) => return Ok(Some(store)),
            Err(shared) if tokio::time::Instant::now() > deadline => {
                drop(shared);
                return Err(failed("work in its store does not end: stop the daemon and try again"));
            }
            Err(shared) => shared,
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Keeps the list of file sets without what was closed.
async fn forget(inputs: &mpsc::Sender<Input>) -> Result<(), Failure> {
    let kept = call(inputs, |reply| Call::Do(Box::new(move |mind: &mut Mind| drop(reply.send(mind.save_filesets())))));
    kept.await.unwrap_or_else(|| Err(failed("the daemon is ending")))
}

fn rebuild_store(
    home: PathBuf,
    host: protocol::HostId,
    config: &crate::daemon::files::FileSetConfig,
    answers: &Answers,
) -> Result<(crate::daemon::input::OpenStore, String), Failure> {
    let bottom = Arc::new(Bottom::new(open_beneath(config)?).map_err(failed)?);
    let mut pace = Pace::new("rebuilding");
    let mut tell = |objects| {
        if let Some(progress) = pace.due(objects, 0, None) {
            let _ = answers.try_send(ControlEvent::Progress(progress));
        }
    };
    let (store, rebuilt) = Store::rebuild(bottom, store_config(&home, host, config), &mut tell).map_err(failed)?;
    let mut open = super::open::ready(store, None)?;
    open.saved.forget_index(host);
    let state = postcard::to_stdvec(&open.saved).map_err(failed)?;
    open.store.save_state(&state).map_err(failed)?;
    let text = format!(
        "{} objects; {} had no identity and got one, {} had that of another object and got a new one",
        rebuilt.objects, rebuilt.nameless, rebuilt.duplicates
    );
    Ok((open, text))
}
