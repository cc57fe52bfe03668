//! `lento pin`, `unpin`, `prefetch`, `evict`: what a client keeps.

use super::end;
use crate::daemon::error::{failed, hinted};
use crate::daemon::input::{Answers, Call, Input};
use crate::daemon::mind::Mind;
use lento_cli::control::{ByteText, ControlEvent, Failure, ObjectsAction};
use lento_store::Store;
use protocol::{FileSetId, Handle, Kind};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The inode number of the root of every mount.
const ROOT: u64 = 1;

impl Mind {
    pub(super) fn objects(&mut self, action: ObjectsAction, at: &ByteText, objects: Vec<u64>, answers: Answers) {
        let (fileset, store) = match self.client_at(at) {
            Ok(found) => found,
            Err(failure) => return end(&answers, [ControlEvent::Failed(failure)]),
        };
        let root = store.bottom().root_handle();
        let handles: Vec<Handle> = objects.into_iter().map(|n| if n == ROOT { root } else { Handle(n) }).collect();
        match action {
            ObjectsAction::Evict => {
                let inputs = self.inputs.clone();
                tokio::task::spawn_blocking(move || {
                    let next: Box<dyn FnOnce(&mut Mind) + Send + Sync> = match store.unpinned(&handles) {
                        Ok(free) => Box::new(move |mind| mind.evict_now(fileset, free, handles, answers)),
                        Err(why) => Box::new(move |_| end(&answers, [ControlEvent::Failed(failed(why))])),
                    };
                    let _ = inputs.blocking_send(Input::Call(Call::Do(next)));
                });
            }
            ObjectsAction::Unpin => {
                let count = handles.len() as u64;
                tokio::task::spawn_blocking(move || {
                    let event = match store.pin(&handles, false) {
                        Ok(()) => ControlEvent::Handled { done: count, failed: 0 },
                        Err(why) => ControlEvent::Failed(failed(why)),
                    };
                    finish(&answers, event);
                });
            }
            ObjectsAction::Pin | ObjectsAction::Prefetch => {
                let Some(fetch) = self.fetcher(fileset) else {
                    let why = hinted("the holder is not connected: nothing can be fetched", "`lento status` tells why");
                    return end(&answers, [ControlEvent::Failed(why)]);
                };
                tokio::task::spawn_blocking(move || {
                    let pinned = if action == ObjectsAction::Pin { store.pin(&handles, true) } else { Ok(()) };
                    let event = match pinned {
                        Ok(()) => {
                            let (done, failed) = fetch.all(&handles);
                            ControlEvent::Handled { done, failed }
                        }
                        Err(why) => ControlEvent::Failed(failed(why)),
                    };
                    finish(&answers, event);
                });
            }
        }
    }

    /// The client's mount on which a path is.
    fn client_at(&self, at: &ByteText) -> Result<(FileSetId, Arc<Store>), Failure> {
        let mounts = self.filesets.values().filter(|set| at.as_path().starts_with(&set.config.mount));
        let set = mounts.max_by_key(|set| set.config.mount.as_os_str().len());
        let set = set.filter(|set| set.config.client.is_some()).ok_or_else(|| {
            hinted(
                format!("{} is not on a mount of this host as a client", at.as_path().display()),
                "`lento status` shows the mounts; what is stored here is always here",
            )
        })?;
        let store = set.store.clone().ok_or_else(|| failed("its cache is not open yet"))?;
        Ok((set.config.id, store))
    }

    /// Lets go what may, of these and others that may not.
    fn evict_now(&mut self, fileset: FileSetId, free: Vec<Handle>, all: Vec<Handle>, answers: Answers) {
        let Some(store) = self.store(fileset).filter(|_| self.presto(fileset).is_some()) else {
            return end(&answers, [ControlEvent::Failed(failed("it is not mounted"))]);
        };
        let (reply, answer) = oneshot::channel();
        // What was used since it was last named is kept the first time.
        self.evict(fileset, free.clone(), None);
        self.evict(fileset, free, Some(reply));
        tokio::task::spawn_blocking(move || {
            if answer.blocking_recv().is_err() {
                return finish(&answers, ControlEvent::Failed(failed("presto went before it had answered")));
            }
            let stays = |handle: &&Handle| {
                store
                    .wanting(**handle)
                    .is_ok_and(|object| object.kind == Kind::File && !object.absent && object.size > 0)
            };
            let kept = all.iter().filter(stays).count();
            finish(&answers, ControlEvent::Handled { done: (all.len() - kept) as u64, failed: kept as u64 });
        });
    }
}

fn finish(answers: &Answers, event: ControlEvent) {
    let done = matches!(event, ControlEvent::Handled { .. });
    let _ = answers.blocking_send(event);
    if done {
        let _ = answers.blocking_send(ControlEvent::Done(None));
    }
}
