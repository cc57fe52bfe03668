//! `lento replicate`: a file set of another host, copied here and kept live.

use super::conclude;
use super::create::make_directory;
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
use protocol::{FileSetId, FileSetName, HostId, Reply, Request};
use std::path::Path;
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
                let (holder, fileset) = register(&inputs, me, members, &name).await?;
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
async fn register(
    inputs: &mpsc::Sender<Input>,
    me: HostId,
    members: Vec<Member>,
    name: &FileSetName,
) -> Result<(HostId, FileSetId), Failure> {
    let mut reasons = Vec::new();
    for member in members.into_iter().filter(|member| member.host != me) {
        let connection = match connect(inputs, &member).await {
            Ok(connection) => connection,
            Err(why) => {
                reasons.push(why);
                continue;
            }
        };
        match ask(&connection, Request::Replicate { name: name.clone() }).await {
            Ok(Reply::Replicating { fileset }) => return Ok((member.host, fileset)),
            Ok(Reply::Refused(refusal)) => reasons.push(format!("{}: {refusal}", member.name)),
            Ok(other) => reasons.push(format!("{} gave a strange answer: {other:?}", member.name)),
            Err(why) => reasons.push(format!("{}: {why}", member.name)),
        }
    }
    Err(hinted(
        format!("no host could be found that holds {name} and lets this host replicate it ({})", reasons.join("; ")),
        "is the daemon of its host running, and was the ticket for this file set?",
    ))
}

async fn ask(connection: &Connection, request: Request) -> Result<Reply, lento_net::NetError> {
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

fn make(home: &Path, me: HostId, holder: HostId, config: &FileSetConfig) -> Result<OpenStore, Failure> {
    make_directory(&config.store)?;
    let bottom = Arc::new(Bottom::new(open_directory(&config.store)?).map_err(failed)?);
    let store = Store::create(bottom, store_config(home, me, config)).map_err(failed)?;
    ready(store, Some(Saved::held_by(holder, me)))
}
