//! Opening stores, which takes time: in threads that may block, with the result as an input.

use crate::daemon::error::{failed, hinted};
use crate::daemon::files::FileSetConfig;
use crate::daemon::input::{Answers, Input, OpenStore, Opened, Then};
use crate::daemon::mount::{detach_dead, is_dead_mount};
use lento_cli::control::{ControlEvent, Failure};
use lento_core::Saved;
use lento_store::{Bottom, Store, StoreConfig, StoreError};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use protocol::HostId;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Opens the native directory of a file set, which nothing covers now.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|why| {
        hinted(format!("cannot open {}: {}", path.display(), why.desc()), "is its disk mounted, and is it a directory?")
    })
}

/// Refuses a directory that is not there, which is mistyped more often than meant. One that is covered by a dead mount is
/// there.
pub(super) fn expect_directory(path: &Path, what: &str) -> Result<(), Failure> {
    match tokio::task::block_in_place(|| std::fs::metadata(path)) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(failed(format!("{}, {what}, is not a directory", path.display()))),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Err(hinted(
            format!("{}, {what}, does not exist", path.display()),
            format!("if it is not mistyped: mkdir -p {}", path.display()),
        )),
        Err(why) if why.kind() == std::io::ErrorKind::NotConnected => Ok(()),
        Err(why) => Err(failed(format!("{}, {what}, cannot be looked at: {why}", path.display()))),
    }
}

/// What a store of this file set is opened with.
pub(super) fn store_config(home: &Path, host: HostId, config: &FileSetConfig) -> StoreConfig {
    let index = home.join(format!("fsdb/{}.db", config.id));
    StoreConfig { fileset: config.id, host, index, keep_received: false, on_demand: config.client.is_some() }
}

/// Reads what the core needs to go to work.
pub(super) fn ready(store: Store, fresh: Option<Saved>) -> Result<OpenStore, Failure> {
    let mut saved: Saved = match (store.load_state().map_err(failed)?, fresh) {
        (Some(state), None) => Saved::from_bytes(&state).map_err(failed)?,
        (_, Some(fresh)) => {
            let state = fresh.to_bytes().map_err(failed)?;
            store.save_state(&state).map_err(failed)?;
            fresh
        }
        (None, None) => {
            return Err(failed("the object database is gone, and with it what this host is to the file set"));
        }
    };
    if store.copy_was_lost().map_err(failed)? {
        // What was copied, and where that left off, is not what it seems: it is compared.
        saved.in_step = None;
    } else if saved.in_step.is_some() {
        store.end_copy();
    }
    // Presto mends the log, but is started only when the store is open.
    let tail = store.absorb_torn().map_err(failed)?;
    let applied = store.applied().map_err(failed)?;
    Ok(OpenStore { store: Arc::new(store), saved, tail, applied })
}

fn reopen(home: &Path, host: HostId, config: &FileSetConfig, bottom: OwnedFd) -> Result<OpenStore, Failure> {
    let open = || -> Result<Store, StoreError> {
        let bottom = Arc::new(Bottom::new(bottom)?);
        Store::open(bottom, store_config(home, host, config))
    };
    ready(open().map_err(failed)?, None)
}

/// Opens the native directory of a file set, which a mount may cover that nobody serves. The mount stays, so that
/// programs do not reach what it covers, if there is another way.
pub(super) fn open_beneath(config: &FileSetConfig) -> Result<OwnedFd, Failure> {
    if !config.mounted {
        detach_dead(&config.mount);
    }
    if is_dead_mount(&config.store) {
        match lento_store::open_covered(&config.store) {
            Ok(bottom) => return Ok(bottom),
            Err(why) => tracing::warn!(fileset = %config.name, %why,
                "no way beneath a dead mount: it is taken away, and the store is bare until it is mounted again"),
        }
        detach_dead(&config.mount);
    }
    open_directory(&config.store)
}

/// Opens the store at its path, for a daemon that starts.
pub(in crate::daemon) fn open_from_path(home: &Path, host: HostId, config: FileSetConfig, inputs: mpsc::Sender<Input>) {
    let home = home.to_owned();
    tokio::task::spawn_blocking(move || {
        let result = open_beneath(&config).and_then(|bottom| reopen(&home, host, &config, bottom));
        let _ = inputs.blocking_send(Input::Opened(Box::new(Opened { config, result, answers: None })));
    });
}

/// Opens the store by the descriptor that a living Presto handed over.
pub(in crate::daemon) fn open_from_fd(
    home: &Path,
    host: HostId,
    config: FileSetConfig,
    bottom: OwnedFd,
    inputs: mpsc::Sender<Input>,
) {
    let home = home.to_owned();
    tokio::task::spawn_blocking(move || {
        let result = reopen(&home, host, &config, bottom);
        let _ = inputs.blocking_send(Input::Opened(Box::new(Opened { config, result, answers: None })));
    });
}

/// Hands a store that a command made to the mind.
pub(super) async fn hand_over(
    inputs: &mpsc::Sender<Input>,
    config: FileSetConfig,
    result: Result<OpenStore, Failure>,
    then: Then,
    answers: &Answers,
) {
    match result {
        Ok(open) => {
            let opened = Opened { config, result: Ok(open), answers: Some((then, answers.clone())) };
            let _ = inputs.send(Input::Opened(Box::new(opened))).await;
        }
        Err(failure) => drop(answers.send(ControlEvent::Failed(failure)).await),
    }
}
