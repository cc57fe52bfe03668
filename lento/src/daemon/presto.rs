//! The upcall channel: Prestos connect here, hand over the descriptor of their bottom, and talk.

use super::input::{Input, PrestoHello};
use anyhow::Context;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use protocol::{Downcall, FileSetId, Upcall, UpcallReader, encode_downcall, version};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Downcalls that may wait for a Presto.
const DOWNCALLS: usize = 1024;
/// Time for the hello.
const HELLO: Duration = Duration::from_secs(10);

/// Where Prestos connect.
pub(super) fn socket_path(home: &Path) -> PathBuf {
    home.join("run/presto.sock")
}

/// Takes a socket's path for a new listener: what is left of an earlier daemon is removed.
pub(super) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            return Err(why).with_context(|| format!("cannot remove {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Listens for Prestos.
pub(super) fn listen(home: &Path, inputs: mpsc::Sender<Input>) -> anyhow::Result<JoinHandle<()>> {
    let listener = bind(&socket_path(home))?;
    Ok(tokio::spawn(async move {
        for connection in 1.. {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let inputs = inputs.clone();
                    tokio::spawn(async move {
                        if let Err(why) = serve(stream, connection, &inputs).await {
                            tracing::warn!(connection, %why, "a Presto's connection ended");
                        }
                    });
                }
                Err(why) => {
                    tracing::error!(%why, "cannot accept a Presto's connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }))
}

async fn serve(mut stream: UnixStream, connection: u64, inputs: &mpsc::Sender<Input>) -> anyhow::Result<()> {
    if stream.peer_cred()?.uid() != nix::unistd::geteuid().as_raw() {
        anyhow::bail!("another user connected");
    }
    let mut reader = UpcallReader::default();
    let (hello, bottom) = tokio::time::timeout(HELLO, receive_hello(&stream, &mut reader)).await??;
    let Upcall::Hello { version, fileset, pid, permit, last: _, lost_after } = hello else {
        anyhow::bail!("it did not say hello first");
    };
    if version != version::UPCALL {
        anyhow::bail!("presto speaks version {version} of the upcall channel, lento {}: restart both", version::UPCALL);
    }
    let (downcalls, mut queue) = mpsc::channel::<Downcall>(DOWNCALLS);
    let hello = PrestoHello { connection, fileset, pid, permit, lost_after, bottom, downcalls };
    inputs.send(Input::PrestoHello(hello)).await?;
    let result = converse(&mut stream, &mut reader, &mut queue, fileset, connection, inputs).await;
    let _ = inputs.send(Input::PrestoGone { fileset, connection }).await;
    result
}

async fn converse(
    stream: &mut UnixStream,
    reader: &mut UpcallReader,
    queue: &mut mpsc::Receiver<Downcall>,
    fileset: FileSetId,
    connection: u64,
    inputs: &mpsc::Sender<Input>,
) -> anyhow::Result<()> {
    let (mut from, mut to) = stream.split();
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            while let Some(upcall) = reader.next::<Upcall>()? {
                inputs.send(Input::Upcall { fileset, connection, upcall }).await?;
            }
            match from.read(&mut buffer).await? {
                0 => return Ok(()),
                n => reader.push(&buffer[..n]),
            }
        }
    };
    let write = async {
        while let Some(downcall) = queue.recv().await {
            to.write_all(&encode_downcall(&downcall)?).await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = read => result,
        result = write => result,
    }
}

/// The first message, and the descriptor that comes with it.
async fn receive_hello(stream: &UnixStream, reader: &mut UpcallReader) -> anyhow::Result<(Upcall, OwnedFd)> {
    let mut bottom = None;
    loop {
        if let Some(upcall) = reader.next::<Upcall>()? {
            let bottom = bottom.context("its hello brought no descriptor of the bottom")?;
            return Ok((upcall, bottom));
        }
        let (bytes, fd) = stream.async_io(Interest::READABLE, || receive_with_fd(stream)).await?;
        if bytes.is_empty() {
            anyhow::bail!("it hung up before it said hello");
        }
        reader.push(&bytes);
        bottom = bottom.or(fd);
    }
}

fn receive_with_fd(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut buffer = vec![0; 4096];
    let mut space = nix::cmsg_space!([i32; 4]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let length = message.bytes;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
            descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    buffer.truncate(length);
    Ok((buffer, descriptors.into_iter().next()))
}
