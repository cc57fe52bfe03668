//! `lento fsck --rebuild`: the object database made anew from the store.

use super::open::{open_beneath, store_config};
use super::remove::close;
use super::{conclude, end};
use crate::daemon::error::{failed, no_fileset};
use crate::daemon::files::FileSetConfig;
use crate::daemon::fileset::FileSet;
use crate::daemon::input::{Answers, Call, Input, Then};
use crate::daemon::mind::Mind;
use crate::daemon::progress::Pace;
use lento_cli::control::{ControlEvent, Failure};
use lento_store::{Bottom, Store};
use protocol::FileSetName;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

impl Mind {
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

fn rebuild_store(
    home: PathBuf,
    host: protocol::HostId,
    config: &crate::daemon::files::FileSetConfig,
    answers: &Answers,
) -> Result<(crate::daemon::input::OpenStore, String), Failure> {
    let bottom = Arc::new(Bottom::new(open_beneath(config)?).map_err(failed)?);
    let mut pace = Pace::new("rebuilding");
    let mut done = 0;
    let mut tell = |objects| {
        done = objects;
        pace.tell(answers, objects);
    };
    let (store, rebuilt) = Store::rebuild(bottom, store_config(&home, host, config), &mut tell).map_err(failed)?;
    pace.end(answers, done);
    let mut open = super::open::ready(store, None)?;
    open.saved.forget_index(host);
    let state = open.saved.to_bytes().map_err(failed)?;
    open.store.save_state(&state).map_err(failed)?;
    let text = format!(
        "{} objects; {} had no identity and got one, {} had that of another object and got a new one",
        rebuilt.objects, rebuilt.nameless, rebuilt.duplicates
    );
    Ok((open, text))
}
