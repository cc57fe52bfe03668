//! `lento fileset remove`.

use super::{conclude, end};
use crate::daemon::error::{failed, hinted, no_fileset};
use crate::daemon::input::{Answers, Call, Input};
use crate::daemon::mind::Mind;
use crate::daemon::requests::call;
use lento_cli::control::{ControlEvent, Failure};
use lento_net::Connection;
use lento_store::Store;
use protocol::{FileSetId, FileSetName, HostName, Request};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the end of work in a store is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a removal by force waits for the holder to get what was written here.
const LAST_CHANCE: Duration = Duration::from_secs(3);

/// What is to be removed.
struct Removal {
    id: FileSetId,
    name: FileSetName,
    home: PathBuf,
    store: PathBuf,
    /// At a replicator: its holder, and the connection to it.
    holder: Option<(HostName, Option<Connection>)>,
    /// Whether it is to be mounted: now, and when the first copy is complete.
    mounted: bool,
    copying: bool,
    force: bool,
}

impl Mind {
    /// Forgets a file set here: the mount, the other host's knowledge of it, `.intermezzo` and the identities go; the
    /// files stay. What is refused has changed nothing. With `force` other hosts are not waited for.
    pub(super) fn remove(&mut self, name: &FileSetName, force: bool, answers: Answers) {
        match self.removal(name, force) {
            Ok(removal) => {
                let inputs = self.inputs.clone();
                tokio::spawn(async move {
                    let result = removal.run(&inputs, &answers).await;
                    conclude(&answers, result).await;
                });
            }
            Err(failure) => end(&answers, [ControlEvent::Failed(failure)]),
        }
    }

    fn removal(&self, name: &FileSetName, force: bool) -> Result<Removal, Failure> {
        let id = self.by_name(name).ok_or_else(|| no_fileset(name))?;
        let set = self.filesets.get(&id).ok_or_else(|| no_fileset(name))?;
        let status = self.engine.status(id).filter(|_| set.store.is_some()).ok_or_else(|| {
            hinted(format!("the store of {name} is not open"), "`lento status` tells why; nothing was changed")
        })?;
        let replicator = status.holder != self.identity.host;
        let holder = replicator.then(|| (self.host_name(status.holder), self.network.connection(status.holder)));
        if !force {
            let hosts: Vec<HostName> = status.links.iter().map(|link| self.host_name(link.peer)).collect();
            may_go(name, &hosts, holder.as_ref().map(|(holder, connection)| (holder, connection.is_some())))?;
        }
        let (store, mounted, copying) = (set.config.store.clone(), set.config.mounted, set.config.copying);
        Ok(Removal { id, name: name.clone(), home: self.home.clone(), store, holder, mounted, copying, force })
    }

    /// What the other hosts have not got of what is here, in words; nothing if they have all.
    fn would_be_lost(&self, id: FileSetId) -> Vec<String> {
        let (Some(set), Some(status)) = (self.filesets.get(&id), self.engine.status(id)) else { return Vec::new() };
        let end = if status.holder == self.identity.host { status.history_end.max(status.tail) } else { status.tail };
        let lacks = |link: &lento_core::LinkStatus| {
            let records = self.lag(set, link, end).records;
            (records > 0).then(|| given_up(&self.host_name(link.peer), records, (link.acked.number + 1, end.number)))
        };
        status.links.iter().filter_map(lacks).collect()
    }
}

/// Whether a file set may be removed without force: a holder when nobody replicates it, a replicator when its holder
/// can be told.
fn may_go(name: &FileSetName, hosts: &[HostName], holder: Option<(&HostName, bool)>) -> Result<(), Failure> {
    match (holder, hosts) {
        (Some((_, true)), _) | (None, []) => Ok(()),
        (Some((holder, false)), _) => Err(hinted(
            format!("{holder}, the holder of {name}, is not connected and cannot be told; nothing was changed"),
            "start its daemon; if it is gone for good: --force, which gives up what it has not got",
        )),
        (None, hosts) => {
            let list = hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ");
            let verb = if hosts.len() == 1 { "replicates" } else { "replicate" };
            Err(hinted(
                format!("{list} {verb} {name}; nothing was changed"),
                "run `lento fileset remove` there first, so that no replica is orphaned; if they are gone for good: --force",
            ))
        }
    }
}

fn given_up(host: &HostName, records: u64, (first, last): (u64, u64)) -> String {
    let word = if records == 1 { "record" } else { "records" };
    format!("given up: {host} has not got {records} {word} of those from number {first} to {last}")
}

impl Removal {
    async fn run(self, inputs: &mpsc::Sender<Input>, answers: &Answers) -> Result<Option<String>, Failure> {
        // While it is mounted, so that a refusal leaves it so.
        self.drain(inputs).await?;
        let unmounted = self.unmount(inputs).await;
        // What was written until it was unmounted must not be lost with the log, either.
        let told = match unmounted {
            Ok(()) => self.tell_holder(inputs, answers).await,
            Err(why) => Err(why),
        };
        if let Err(failure) = told {
            self.mount_again(inputs).await;
            return Err(failure);
        }
        let store = close(inputs, self.id).await?.ok_or_else(|| failed("its store is not open"))?;
        forget(inputs).await?;
        let (home, cache) = (self.home.clone(), store.config().on_demand.then(|| self.store.clone()));
        let cached = cache.is_some();
        let strip = move || {
            strip(&store, &home)?;
            cache.map_or(Ok(()), |cache| remove_cache(&cache).map_err(failed))
        };
        tokio::task::spawn_blocking(strip).await.map_err(failed)??;
        let Self { name, store, .. } = &self;
        if cached {
            return Ok(Some(format!("{name} is no file set of this host any more, and its cache is gone")));
        }
        Ok(Some(format!("{name} is no file set of this host any more; its files are in {}", store.display())))
    }

    /// At a replicator, waits until the holder has what was written here; by force, only for a moment.
    async fn drain(&self, inputs: &mpsc::Sender<Input>) -> Result<(), Failure> {
        let Some((holder, connection)) = &self.holder else { return Ok(()) };
        let patience = match (self.force, connection) {
            (false, _) => PATIENCE,
            (true, Some(_)) => LAST_CHANCE,
            (true, None) => return Ok(()),
        };
        let drained = tokio::time::timeout(patience, super::wait::everywhere(inputs, self.id)).await;
        if drained.is_err() && !self.force {
            return Err(hinted(
                format!(
                    "what was written to {} here has not reached {holder}, its holder; nothing was removed",
                    self.name
                ),
                "`lento status` tells why; if the holder is gone for good: --force, which gives that up",
            ));
        }
        Ok(())
    }

    async fn unmount(&self, inputs: &mpsc::Sender<Input>) -> Result<(), Failure> {
        let id = self.id;
        let stopping =
            call(inputs, |reply| Call::Do(Box::new(move |mind: &mut Mind| drop(reply.send(mind.stop_mount(id))))));
        let stopping = stopping.await.ok_or_else(|| failed("the daemon is stopping"))??;
        match stopping {
            Some(gone) => gone.await.map_err(failed)?.map_err(failed),
            None => Ok(()),
        }
    }

    async fn tell_holder(&self, inputs: &mpsc::Sender<Input>, answers: &Answers) -> Result<(), Failure> {
        self.drain(inputs).await?;
        if self.force {
            let id = self.id;
            let lost = call(inputs, |reply| {
                Call::Do(Box::new(move |mind: &mut Mind| drop(reply.send(mind.would_be_lost(id)))))
            });
            for line in lost.await.unwrap_or_default() {
                let _ = answers.send(ControlEvent::Note(line)).await;
            }
        }
        let Some((holder, connection)) = &self.holder else { return Ok(()) };
        let dropped = async {
            let connection = connection.as_ref().ok_or_else(|| failed(format!("{holder} is not connected")))?;
            let mut session = connection.request(&Request::DropReplica { fileset: self.id }).map_err(failed)?;
            session.reply().await.map_err(failed)
        };
        match tokio::time::timeout(PATIENCE, dropped).await.unwrap_or_else(|_| Err(failed("no answer"))) {
            Ok(_) => Ok(()),
            Err(_) if self.force => {
                let name = &self.name;
                let note = format!(
                    "{holder} was not told: when it is back, it still counts this host among the replicas of {name}"
                );
                let _ = answers.send(ControlEvent::Note(note)).await;
                Ok(())
            }
            Err(why) => Err(hinted(
                format!("{holder} could not be told that {} is removed here: {}", self.name, why.message),
                "try again; nothing was removed",
            )),
        }
    }

    /// After a refusal, as it was.
    async fn mount_again(&self, inputs: &mpsc::Sender<Input>) {
        let (id, mounted, copying) = (self.id, self.mounted, self.copying);
        let again = Call::Do(Box::new(move |mind: &mut Mind| {
            let Some(set) = mind.filesets.get_mut(&id) else { return };
            (set.config.mounted, set.config.copying) = (mounted, copying);
            let down = mounted && set.mount.keeper.is_none();
            if let Err(failure) = mind.save_filesets() {
                tracing::error!(why = failure.message, "the list of file sets is not kept");
            }
            if down {
                mind.start_mount(id);
            }
        }));
        let _ = inputs.send(Input::Call(again)).await;
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

/// Removes a client's cache: what is in it is at the holder, and what is not whole is no file. What was kept aside stays.
pub(super) fn remove_cache(cache: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name() == ".intermezzo" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    match std::fs::remove_dir(cache) {
        Err(why) if why.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}

/// Takes a file set out of the daemon, though not out of the list on disk; returns its store, if it was open, when
/// nobody else works with it.
pub(super) async fn close(inputs: &mpsc::Sender<Input>, id: FileSetId) -> Result<Option<Store>, Failure> {
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

#[cfg(test)]
mod tests {
    use super::{given_up, may_go, remove_cache};
    use protocol::HostName;

    #[test]
    fn a_cache_goes_and_what_was_kept_aside_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = dir.path().join("web");
        std::fs::create_dir_all(cache.join("d/e")).expect("made");
        std::fs::write(cache.join("d/e/f"), "x").expect("written");
        std::fs::create_dir_all(cache.join(".intermezzo/conflicts")).expect("made");
        std::fs::write(cache.join(".intermezzo/conflicts/f~host2"), "mine").expect("written");
        remove_cache(&cache).expect("removed");
        assert!(!cache.join("d").exists() && cache.join(".intermezzo/conflicts/f~host2").exists());
        std::fs::remove_dir_all(cache.join(".intermezzo")).expect("removed");
        remove_cache(&cache).expect("removed");
        assert!(!cache.exists());
    }

    fn host(name: &str) -> HostName {
        name.parse().expect("legal")
    }

    #[test]
    fn a_removal_is_refused_that_would_orphan_replicas_or_the_holder_cannot_hear_of() {
        let name = "web".parse().expect("legal");
        let refused = |hosts: &[HostName], holder| may_go(&name, hosts, holder).expect_err("refused");
        assert_eq!(may_go(&name, &[], None), Ok(()));
        assert_eq!(may_go(&name, &[host("a")], Some((&host("a"), true))), Ok(()));
        let one = refused(&[host("b")], None);
        assert!(one.message.starts_with("b replicates web"), "{one}");
        assert!(one.hint.is_some_and(|hint| hint.contains("--force")));
        let two = refused(&[host("b"), host("c")], None);
        assert!(two.message.starts_with("b, c replicate web"), "{two}");
        let away = refused(&[host("a")], Some((&host("a"), false)));
        assert!(away.message.contains("is not connected") && away.hint.is_some_and(|hint| hint.contains("--force")));
    }

    #[test]
    fn what_is_given_up_is_told_by_number() {
        assert_eq!(given_up(&host("a"), 1, (7, 7)), "given up: a has not got 1 record of those from number 7 to 7");
        assert!(given_up(&host("a"), 3, (7, 12)).ends_with("3 records of those from number 7 to 12"));
    }
}
