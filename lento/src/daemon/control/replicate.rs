//! `lento replicate`: a file set of another host, copied here and kept live.

use super::conclude;
use super::open::{hand_over, open_directory, ready, store_config};
use crate::daemon::error::{failed, hinted};
use crate::daemon::files::FileSetConfig;
use crate::daemon::input::{Answers, Call, Input, OpenStore, Then};
use crate::daemon::mind::Mind;
use crate::daemon::requests::call;
use lento_cli::control::{ByteText, ControlEvent, Failure, WaitPolicy};
use lento_core::Saved;
use lento_net::{Connection, Member};
use lento_store::{Bottom, Store};
use protocol::{Access, FileSetId, FileSetName, HostId, Reply, Request, Role};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often a command looks how far a copy is.
const LOOK: Duration = Duration::from_millis(50);

impl Mind {
    pub(super) fn replicate(
        &mut self,
        name: FileSetName,
        store: ByteText,
        mount: Option<ByteText>,
        wait: WaitPolicy,
        answers: Answers,
    ) {
        let (home, me, inputs) = (self.home.clone(), self.identity.host, self.inputs.clone());
        let members = self.identity.members().unwrap_or_default();
        // Checked now for the names and directories; the id comes from the holder.
        let prepared = self.new_fileset(name.clone(), FileSetId::from_bytes([0; 16]), &store, mount.as_ref(), wait);
        tokio::spawn(async move {
            let result = async {
                let mut config = prepared?;
                let (holder, fileset, _) = register(&inputs, me, members, &name, Role::Replicator).await?;
                config.id = fileset;
                config.copying = true;
                let making = config.clone();
                let made = tokio::task::spawn_blocking(move || make(&home, me, holder, &making)).await;
                match made.unwrap_or_else(|why| Err(failed(format!("making the replica was interrupted: {why}")))) {
                    Ok(open) => Ok((config, open)),
                    Err(failure) => {
                        // The holder must not wait for a replica that there is not.
                        let connection = call(&inputs, |reply| {
                            Call::Do(Box::new(move |mind: &mut Mind| drop(reply.send(mind.network.connection(holder)))))
                        });
                        if let Some(connection) = connection.await.flatten() {
                            let _ = ask(&connection, Request::DropReplica { fileset }).await;
                        }
                        Err(failure)
                    }
                }
            }
            .await;
            match result {
                Ok((config, open)) => hand_over(&inputs, config, Ok(open), Then::Copy, &answers).await,
                Err(failure) => conclude(&answers, Err(failure)).await,
            }
        });
    }

    /// Tells how far the first copy is; when it is complete, mounts.
    pub(in crate::daemon) fn await_copy(&mut self, id: FileSetId, answers: Answers) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            loop {
                let (reply, answer) = oneshot::channel();
                let look = Call::Do(Box::new(move |mind: &mut Mind| {
                    let live = mind.engine.status(id).is_some_and(|s| s.links.iter().all(|l| l.in_step && !l.copying));
                    let stalled = mind.engine.status(id).and_then(|s| s.links.first().map(|l| l.apply.stalled.clone()));
                    let set = mind.filesets.get(&id);
                    // When the copy is complete, its last figures.
                    let progress =
                        set.and_then(|set| if live { set.last_progress.clone() } else { set.progress.clone() });
                    let _ = reply.send((live, progress, stalled.unwrap_or_default()));
                }));
                if inputs.send(Input::Call(look)).await.is_err() {
                    return;
                }
                let Ok((live, progress, stalled)) = answer.await else { return };
                // A client that left does not stop the copy, nor the mount that follows it.
                if let Some(progress) = progress {
                    let _ = answers.try_send(ControlEvent::Progress(progress));
                } else if !stalled.is_empty() && !live {
                    let _ = answers.try_send(ControlEvent::Note(format!("not yet: {stalled}")));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                if live {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
            let mount = Call::Do(Box::new(move |mind: &mut Mind| {
                let Some(set) = mind.filesets.get_mut(&id) else { return };
                if !std::mem::take(&mut set.config.copying) {
                    // The user said in the meantime that it is not to be mounted.
                    return super::end(&answers, [ControlEvent::Done(None)]);
                }
                set.config.mounted = true;
                if let Err(failure) = mind.save_filesets() {
                    tracing::error!(why = failure.message, "the mount is not remembered");
                }
                mind.start_mount(id);
                mind.await_mount(id, answers);
            }));
            let _ = inputs.send(Input::Call(mount)).await;
        });
    }
}

/// Finds the host that holds the file set among those that are known, and registers there.
pub(super) async fn register(
    inputs: &mpsc::Sender<Input>,
    me: HostId,
    members: Vec<Member>,
    name: &FileSetName,
    role: Role,
) -> Result<(HostId, FileSetId, Access), Failure> {
    let mut reasons = Vec::new();
    for member in members.into_iter().filter(|member| member.host != me) {
        let connection = match connect(inputs, &member).await {
            Ok(connection) => connection,
            Err(why) => {
                reasons.push(why);
                continue;
            }
        };
        match ask(&connection, Request::Replicate { name: name.clone(), role }).await {
            Ok(Reply::Replicating { fileset, access }) => return Ok((member.host, fileset, access)),
            Ok(Reply::Refused(refusal)) => reasons.push(format!("{}: {refusal}", member.name)),
            Ok(other) => reasons.push(format!("{} gave a strange answer: {other:?}", member.name)),
            Err(why) => reasons.push(format!("{}: {why}", member.name)),
        }
    }
    Err(hinted(
        format!("no host could be found that holds {name} and lets this host have it ({})", reasons.join("; ")),
        "is the daemon of its host running, and was the ticket for this file set?",
    ))
}

pub(super) async fn ask(connection: &Connection, request: Request) -> Result<Reply, lento_net::NetError> {
    connection.request(&request)?.reply().await
}

/// Connects to a host, or uses the connection that stands.
async fn connect(inputs: &mpsc::Sender<Input>, member: &Member) -> Result<Connection, String> {
    let (host, address) = (member.host, member.address.clone());
    let dialled = call(inputs, |reply| {
        Call::Do(Box::new(move |mind: &mut Mind| {
            if mind.network.connection(host).is_some() {
                let _ = reply.send(Ok(()));
            } else {
                mind.connecting.push((host, reply));
                mind.network.connect(host, &address);
            }
        }))
    });
    let dialled = tokio::time::timeout(Duration::from_secs(15), dialled);
    match dialled.await {
        Ok(Some(Ok(()))) => {}
        Ok(Some(Err(why))) => return Err(why),
        Ok(None) | Err(_) => return Err(format!("{} does not answer at {}", member.name, member.address)),
    }
    let connection = call(inputs, |reply| {
        Call::Do(Box::new(move |mind: &mut Mind| drop(reply.send(mind.network.connection(host)))))
    });
    connection.await.flatten().ok_or_else(|| format!("{} hung up", member.name))
}

/// Makes the new replica's store. If it cannot be made, nothing is left of the attempt.
fn make(home: &Path, me: HostId, holder: HostId, config: &FileSetConfig) -> Result<OpenStore, Failure> {
    let store_config = store_config(home, me, config);
    let before = Before::of(&config.store, &store_config.index);
    let made = (|| {
        std::fs::create_dir_all(&config.store)
            .map_err(|why| failed(format!("cannot make {}: {why}", config.store.display())))?;
        let bottom = Arc::new(Bottom::new(open_directory(&config.store)?).map_err(failed)?);
        let store = Store::create(bottom, store_config).map_err(failed)?;
        ready(store, Some(Saved::held_by(holder, me)))
    })();
    if made.is_err() {
        before.restore();
    }
    made
}

/// What was not there before a replica was to be made.
struct Before {
    /// The store's directory and those above it, the deepest first.
    directories: Vec<PathBuf>,
    /// `.intermezzo` in it, if that was not there.
    private: Option<PathBuf>,
    /// The index, if that was not there.
    index: Option<PathBuf>,
}

impl Before {
    fn of(store: &Path, index: &Path) -> Self {
        let missing = |path: &Path| path.symlink_metadata().is_err_and(|why| why.kind() == ErrorKind::NotFound);
        let private = store.join(".intermezzo");
        Self {
            directories: store.ancestors().take_while(|path| missing(path)).map(Path::to_owned).collect(),
            private: missing(&private).then_some(private),
            index: missing(index).then(|| index.to_owned()),
        }
    }

    /// Takes away what is there now and was not. What somebody else put there meanwhile stays.
    fn restore(&self) {
        if let Some(index) = &self.index {
            for suffix in ["", "-wal", "-shm"] {
                let mut path = index.clone().into_os_string();
                path.push(suffix);
                let _ = std::fs::remove_file(path);
            }
        }
        if let Some(private) = &self.private {
            let _ = std::fs::remove_dir_all(private);
        }
        for directory in &self.directories {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::make;
    use crate::daemon::files::FileSetConfig;
    use lento_cli::control::WaitPolicy;
    use protocol::{FileSetId, HostId};
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    fn entries(dir: &Path) -> Vec<String> {
        let read = fs::read_dir(dir).expect("it is there");
        read.map(|entry| entry.expect("it is read").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_replica_that_is_refused_leaves_nothing_behind() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory, on ext4");
        let (home, store) = (dir.path().join("home"), dir.path().join("srv/web"));
        fs::create_dir_all(home.join("fsdb")).expect("a home");
        let host = |id| HostId::new(id).expect("not 0");
        let config = FileSetConfig {
            name: "web".parse().expect("legal"),
            id: FileSetId::from_bytes([1; 16]),
            store: store.clone(),
            mount: store.clone(),
            mounted: false,
            copying: true,
            wait: WaitPolicy::Hard,
            invited: BTreeMap::new(),
            clients: BTreeSet::new(),
            client: None,
        };
        let make = |home: &Path| make(home, host(2), host(1), &config);
        // A directory that is not empty.
        fs::create_dir_all(store.join("lost+found")).expect("it is new");
        fs::write(store.join("mine"), "mine").expect("it is written");
        assert!(make(&home).is_err_and(|why| why.message.contains("mine")));
        let mut left = entries(&store);
        left.sort();
        assert_eq!(left, ["lost+found", "mine"]);
        // No place for the index: the directories that were made for the store go, too.
        fs::remove_dir_all(dir.path().join("srv")).expect("it goes");
        assert!(make(&dir.path().join("nowhere")).is_err());
        assert!(!dir.path().join("srv").exists(), "the directories above the store were left");
        assert!(entries(&home.join("fsdb")).is_empty());
        // And when nothing is in the way it is made.
        drop(make(&home).expect("an empty directory"));
        assert!(store.join(".intermezzo").is_dir());
    }
}
