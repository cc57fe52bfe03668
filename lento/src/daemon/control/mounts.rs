//! `lento mount`, `lento umount`.

use super::open::expect_directory;
use super::{conclude, end};
use crate::daemon::error::{failed, hinted, no_fileset};
use crate::daemon::input::Answers;
use crate::daemon::mind::Mind;
use lento_cli::control::{ByteText, Code, ControlEvent, Failure, MountChoice, MountState, UmountTarget};
use protocol::{Access, FileSetId, FileSetName};
use tokio::sync::oneshot;

impl Mind {
    pub(super) fn mount(&mut self, name: FileSetName, dir: &ByteText, choice: MountChoice, answers: Answers) {
        if self.by_name(&name).is_none() {
            return self.mount_as_client(name, dir, choice, answers);
        }
        let name = &name;
        let prepared = (|| {
            let id = self.by_name(name).ok_or_else(|| no_fileset(name))?;
            let set = self.filesets.get_mut(&id).ok_or_else(|| no_fileset(name))?;
            if set.mount.keeper.is_some() {
                return Err(hinted(
                    format!("{name} is mounted at {} already", set.config.mount.display()),
                    format!("to move it: lento umount {name}, then mount it again"),
                ));
            }
            if set.store.is_none() {
                return Err(failed(format!("the store of {name} is not open yet")));
            }
            let dir = dir.as_path();
            if dir != set.config.store && (dir.starts_with(&set.config.store) || set.config.store.starts_with(dir)) {
                return Err(failed("the mount point and the store lie in one another"));
            }
            expect_directory(dir, "the mount point")?;
            match &mut set.config.client {
                Some(client) => {
                    client.cache_bytes = choice.cache_bytes.unwrap_or(client.cache_bytes);
                    if choice.read_only {
                        client.access = Access::ReadOnly;
                    }
                }
                None if choice.read_only || choice.cache_bytes.is_some() => {
                    return Err(failed(format!(
                        "{name} is stored on this host: it has no cache, and is not read-only"
                    )));
                }
                None => {}
            }
            set.config.wait = choice.wait.unwrap_or(set.config.wait);
            set.config.mount = dir.to_owned();
            (set.config.mounted, set.config.copying) = (true, false);
            Ok(id)
        })();
        match prepared.and_then(|id| self.save_filesets().map(|()| id)) {
            Ok(id) => {
                self.start_mount(id);
                self.await_mount(id, answers);
            }
            Err(failure) => end(&answers, [ControlEvent::Failed(failure)]),
        }
    }

    /// Answers when Presto serves, or cannot.
    pub(in crate::daemon) fn await_mount(&mut self, id: FileSetId, answers: Answers) {
        let Some(set) = self.filesets.get_mut(&id) else { return };
        let text = format!("{} is mounted at {}", set.config.name, set.config.mount.display());
        if set.mount.state == MountState::Mounted {
            return end(&answers, [ControlEvent::Done(Some(text))]);
        }
        let (reply, answer) = oneshot::channel();
        set.mount.waiting.push(reply);
        let log = self.home.join(format!("log/presto-{}.log", set.config.name));
        tokio::spawn(async move {
            let result = match answer.await {
                Ok(Ok(())) => Ok(Some(text)),
                Ok(Err(why)) => Err(hinted(why, format!("{} says more", log.display()))),
                Err(_) => Err(failed("the daemon stopped before the mount was up")),
            };
            conclude(&answers, result).await;
        });
    }

    pub(super) fn umount(&mut self, target: &UmountTarget, answers: Answers) {
        let found = match target {
            UmountTarget::Name(name) => self.by_name(name).ok_or_else(|| no_fileset(name)),
            UmountTarget::Dir(dir) => {
                let at = |set: &&crate::daemon::fileset::FileSet| set.config.mount == dir.as_path();
                self.filesets.values().find(at).map(|set| set.config.id).ok_or_else(|| Failure {
                    message: format!("no file set of this host is mounted at {}", dir.as_path().display()),
                    hint: Some("`lento status` shows the mounts".into()),
                    code: Code::Usage,
                })
            }
        };
        let id = match found {
            Ok(id) => id,
            Err(failure) => return end(&answers, [ControlEvent::Failed(failure)]),
        };
        let text = self.filesets.get(&id).map(|set| format!("{} is unmounted", set.config.name));
        match self.stop_mount(id) {
            Err(failure) => end(&answers, [ControlEvent::Failed(failure)]),
            Ok(None) => end(&answers, [ControlEvent::Done(Some("it was not mounted".into()))]),
            Ok(Some(gone)) => {
                tokio::spawn(async move {
                    let result = match gone.await {
                        Ok(Ok(())) => Ok(text),
                        Ok(Err(why)) => Err(failed(why)),
                        Err(_) => Err(failed("the daemon stopped before it was unmounted")),
                    };
                    conclude(&answers, result).await;
                });
            }
        }
    }

    /// Has a file set unmounted, and remembers it. What is returned tells when; `None`: it is not mounted.
    pub(super) fn stop_mount(
        &mut self,
        id: FileSetId,
    ) -> Result<Option<oneshot::Receiver<Result<(), String>>>, Failure> {
        let Some(set) = self.filesets.get_mut(&id) else { return Ok(None) };
        (set.config.mounted, set.config.copying) = (false, false);
        let (reply, answer) = oneshot::channel();
        let waits = match &set.mount.keeper {
            Some(keeper) => {
                let _ = keeper.send(true);
                set.mount.ending.push(reply);
                Some(answer)
            }
            None => None,
        };
        self.save_filesets()?;
        Ok(waits)
    }
}
