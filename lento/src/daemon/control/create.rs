//! `lento fileset create`: a directory is adopted in place.

use super::conclude;
use super::open::{expect_directory, hand_over, open_directory, ready, store_config};
use crate::daemon::error::{failed, hinted};
use crate::daemon::files::FileSetConfig;
use crate::daemon::input::{Answers, OpenStore, Then};
use crate::daemon::mind::Mind;
use crate::daemon::progress::Pace;
use lento_cli::control::{ByteText, ControlEvent, Failure, WaitPolicy};
use lento_core::Saved;
use lento_store::{Bottom, Store};
use protocol::{FileSetId, FileSetName, HostId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

impl Mind {
    /// What a new file set of this host is to be, if its name and directories are free.
    pub(super) fn new_fileset(
        &self,
        name: FileSetName,
        id: FileSetId,
        store: &ByteText,
        mount: Option<&ByteText>,
        wait: WaitPolicy,
    ) -> Result<FileSetConfig, Failure> {
        if self.by_name(&name).is_some() {
            return Err(hinted(format!("there is a file set {name} on this host already"), "choose another name"));
        }
        let store = store.as_path().to_owned();
        let mount = mount.map_or_else(|| store.clone(), |dir| dir.as_path().to_owned());
        for set in self.filesets.values() {
            for (mine, theirs) in [(&store, &set.config.store), (&mount, &set.config.mount)] {
                if mine.starts_with(theirs) || theirs.starts_with(mine) {
                    return Err(hinted(
                        format!(
                            "{} overlaps with {} of file set {}",
                            mine.display(),
                            theirs.display(),
                            set.config.name
                        ),
                        "file sets have directories of their own",
                    ));
                }
            }
        }
        if mount != store && (mount.starts_with(&store) || store.starts_with(&mount)) {
            return Err(failed("the mount point and the store lie in one another: make them the same, or separate"));
        }
        if mount != store {
            expect_directory(&mount, "where it is to be mounted")?;
        }
        Ok(FileSetConfig {
            name,
            id,
            store,
            mount,
            mounted: false,
            copying: false,
            wait,
            invited: BTreeMap::new(),
            clients: BTreeSet::new(),
            client: None,
        })
    }

    pub(super) fn create(
        &mut self,
        name: FileSetName,
        store: ByteText,
        mount: Option<ByteText>,
        wait: WaitPolicy,
        answers: Answers,
    ) {
        let prepared = expect_directory(store.as_path(), "the store")
            .and_then(|()| random_id())
            .and_then(|id| self.new_fileset(name, id, &store, mount.as_ref(), wait));
        let (home, host, inputs) = (self.home.clone(), self.identity.host, self.inputs.clone());
        tokio::spawn(async move {
            let mut config = match prepared {
                Ok(config) => config,
                Err(failure) => return conclude(&answers, Err(failure)).await,
            };
            config.mounted = true;
            let (progress, adopting) = (answers.clone(), config.clone());
            let adopted = tokio::task::spawn_blocking(move || adopt(&home, host, &adopting, &progress)).await;
            let result = adopted.unwrap_or_else(|why| Err(failed(format!("adoption was interrupted: {why}"))));
            hand_over(&inputs, config, result, Then::Mount, &answers).await;
        });
    }

    /// A store that a command made is at work: the list is kept, and the command goes on.
    pub(in crate::daemon) fn finish_opening(&mut self, id: FileSetId, then: Then, answers: Answers) {
        if let Err(failure) = self.save_filesets() {
            super::end(&answers, [ControlEvent::Failed(failure)]);
            return;
        }
        match then {
            Then::Done => super::end(&answers, [ControlEvent::Done(None)]),
            Then::Mount => self.await_mount(id, answers),
            Then::Copy => self.await_copy(id, answers),
        }
    }
}

fn random_id() -> Result<FileSetId, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|why| failed(format!("no random numbers: {why}")))?;
    Ok(FileSetId::from_bytes(bytes))
}

fn adopt(home: &Path, host: HostId, config: &FileSetConfig, answers: &Answers) -> Result<OpenStore, Failure> {
    let root = open_directory(&config.store)?;
    // `.intermezzo` appears in the directory, which is not a change that its owner made.
    let times = nix::sys::stat::fstat(&root).map_err(failed)?;
    let bottom = Arc::new(Bottom::new(root).map_err(failed)?);
    let mut pace = Pace::new("adopting");
    let mut done = 0;
    let mut tell = |objects| {
        done = objects;
        pace.tell(answers, objects);
    };
    let store = Store::adopt(bottom, store_config(home, host, config), &mut tell).map_err(failed)?;
    pace.end(answers, done);
    let mtime = nix::sys::time::TimeSpec::new(times.st_mtime, times.st_mtime_nsec);
    nix::sys::stat::futimens(store.bottom().root(), &nix::sys::time::TimeSpec::UTIME_OMIT, &mtime).map_err(failed)?;
    store.sync().map_err(failed)?;
    ready(store, Some(Saved::held_by(host, host)))
}
