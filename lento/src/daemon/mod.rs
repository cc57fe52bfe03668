//! The daemon: the loops that join the mind (`lento-core`) with the disk, the network, Presto and the command line.
//!
//! One task, the [`mind::Mind`], owns all state and takes one [`Input`] after the other. Whatever takes time (disk
//! work, transfers, processes) runs elsewhere and comes back as an input.

mod actions;
mod cache;
mod compare;
mod control;
mod demand;
mod error;
mod fetchers;
mod files;
mod fileset;
mod input;
mod mind;
mod mount;
mod presto;
mod progress;
mod requests;
mod stage;
mod status;
mod waiters;
mod walk;

use anyhow::Context;
use input::Input;
use lento_net::{Identity, Network};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Inputs that may wait for the mind; senders wait when it is full.
const INPUTS: usize = 4096;
/// Events of the network that may wait.
const NET_EVENTS: usize = 256;

/// Blocks of up to this size are taken from memory that the process has, and so much of what is freed is kept: buffers of a
/// transfer come and go by the thousand, and new pages for each cost more than encrypting what is in them.
const KEPT_BLOCK: i32 = 4 << 20;
const KEPT: i32 = 32 << 20;

fn keep_memory() {
    // SAFETY: only numbers are passed; the calls take the allocator's own lock. What is refused stays as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BLOCK);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Runs the daemon of `home` until SIGTERM or SIGINT. Mounts are left serving: Presto goes on without Lento, and a new
/// daemon takes them up again.
pub(crate) async fn run(home: &Path) -> anyhow::Result<()> {
    keep_memory();
    let identity = Arc::new(Identity::load(home)?);
    let _lock = files::lock_home(home)?;
    for dir in ["run", "fsdb", "log"] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(home.join(dir))
            .with_context(|| format!("cannot make {}", home.join(dir).display()))?;
        std::fs::set_permissions(home.join(dir), std::fs::Permissions::from_mode(0o700))?;
    }
    let (inputs, receiver) = mpsc::channel(INPUTS);
    let (net_events, net_receiver) = mpsc::channel(NET_EVENTS);
    let network = Network::start(identity.clone(), net_events).await?;
    let presto_socket = presto::listen(home, inputs.clone())?;
    let control_socket = control::listen(home, inputs.clone())?;
    tracing::info!(host = %identity.name, id = %identity.host, listen = %identity.listen, "lento is up");

    let mind = mind::Mind::new(home, identity, network, inputs.clone())?;
    let mind = tokio::spawn(mind.run(receiver, net_receiver));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("lento stops; mounts go on");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let _ = inputs.send(Input::Stop).await;
    control_socket.abort();
    presto_socket.abort();
    mind.await?;
    Ok(())
}
