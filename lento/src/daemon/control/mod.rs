//! The command socket: one request a connection, answered by a stream of events.

mod check;
mod client;
mod create;
mod log;
mod mounts;
mod objects;
pub(super) mod open;
mod permit;
mod rebuild;
mod remove;
mod replicate;
mod verify;
pub(super) mod wait;

use super::error::failed;
use super::input::{Answers, Input};
use super::mind::Mind;
use lento_cli::control::{
    Code, ControlEvent, ControlRequest, Failure, LineReader, Ticket, decode_request, encode_line, socket_path,
};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Events that may wait for a client that reads slowly.
const ANSWERS: usize = 256;

/// Listens for commands.
pub(super) fn listen(home: &Path, inputs: mpsc::Sender<Input>) -> anyhow::Result<JoinHandle<()>> {
    let listener = super::presto::bind(&socket_path(home))?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let inputs = inputs.clone();
                    tokio::spawn(async move {
                        if let Err(why) = serve(stream, &inputs).await {
                            tracing::debug!(%why, "a command's connection ended");
                        }
                    });
                }
                Err(why) => {
                    tracing::error!(%why, "cannot accept a command");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }))
}

async fn serve(mut stream: UnixStream, inputs: &mpsc::Sender<Input>) -> anyhow::Result<()> {
    if stream.peer_cred()?.uid() != nix::unistd::geteuid().as_raw() {
        anyhow::bail!("another user connected");
    }
    let mut reader = LineReader::default();
    let mut buffer = vec![0; 16 * 1024];
    let request = loop {
        if let Some(line) = reader.next_line() {
            match decode_request(line) {
                Ok(request) => break request,
                Err(why) => {
                    let failure = Failure { message: why.to_string(), hint: None, code: Code::Usage };
                    stream.write_all(&encode_line(&ControlEvent::Failed(failure))?).await?;
                    return Ok(());
                }
            }
        }
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => reader.push(&buffer[..n])?,
        }
    };
    let (answers, mut events) = mpsc::channel(ANSWERS);
    inputs.send(Input::Control { request, answers }).await?;
    let (mut from, mut to) = stream.split();
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => to.write_all(&encode_line(&event)?).await?,
                None => return Ok(()),
            },
            // The client says nothing more: it can only hang up, which ends what waits for it.
            gone = from.read(&mut buffer) => {
                if matches!(gone, Ok(0) | Err(_)) {
                    return Ok(());
                }
            }
        }
    }
}

impl Mind {
    pub(super) fn command(&mut self, request: ControlRequest, answers: Answers) {
        match request {
            ControlRequest::Status => {
                let status = tokio::task::block_in_place(|| self.host_status());
                end(&answers, [ControlEvent::Status(Box::new(status)), ControlEvent::Done(None)]);
            }
            ControlRequest::FilesetCreate { name, store, mount, wait } => {
                self.create(name, store, mount, wait, answers);
            }
            ControlRequest::FilesetRemove { name, force } => self.remove(&name, force, answers),
            ControlRequest::Invite { grant, life_s } => match self.invite(grant, life_s) {
                Ok(ticket) => end(&answers, [ControlEvent::Ticket(ticket), ControlEvent::Done(None)]),
                Err(failure) => end(&answers, [ControlEvent::Failed(failure)]),
            },
            ControlRequest::Replicate { name, store, mount, wait } => {
                self.replicate(name, store, mount, wait, answers);
            }
            ControlRequest::Wait { name, timeout_ms } => self.wait(&name, timeout_ms, answers),
            ControlRequest::Log { name, follow } => self.show_log(&name, follow, answers),
            ControlRequest::Verify { name } => self.verify(&name, answers),
            ControlRequest::Mount { name, dir, choice } => self.mount(name, &dir, choice, answers),
            ControlRequest::Objects { action, at, objects } => self.objects(action, &at, objects, answers),
            ControlRequest::Permit { name, action } => end(&answers, [self.permit(&name, action)]),
            ControlRequest::Umount { target } => self.umount(&target, answers),
            ControlRequest::Fsck { name, rebuild } => self.fsck(&name, rebuild, answers),
        }
    }

    fn invite(&self, grant: protocol::Grant, life_s: u64) -> Result<Ticket, Failure> {
        let fileset = &grant.fileset;
        let id = self.by_name(fileset).ok_or_else(|| super::error::no_fileset(fileset))?;
        let holder = self.engine.status(id).is_some_and(|status| status.holder == self.identity.host);
        if !holder {
            return Err(super::error::hinted(
                format!("this host does not hold {fileset}"),
                "invite on the host that holds it: `lento status` names it",
            ));
        }
        let ticket = tokio::task::block_in_place(|| self.identity.invite(Some(grant), Duration::from_secs(life_s)))
            .map_err(failed)?;
        Ok(Ticket { ticket: ticket.to_string(), life_s })
    }
}

/// Ends a command that needs no waiting. A client that is gone does not hear it.
fn end(answers: &Answers, events: impl IntoIterator<Item = ControlEvent>) {
    for event in events {
        let _ = answers.try_send(event);
    }
}

/// The last event of a command that ran in a task.
async fn conclude(answers: &Answers, result: Result<Option<String>, Failure>) {
    let event = match result {
        Ok(text) => ControlEvent::Done(text),
        Err(failure) => ControlEvent::Failed(failure),
    };
    let _ = answers.send(event).await;
}
