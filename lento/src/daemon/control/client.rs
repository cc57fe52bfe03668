//! `lento mount` of a file set that is not on this host: it becomes a client of it.

use super::conclude;
use super::open::{hand_over, open_directory, ready, store_config};
use super::remove::remove_cache;
use super::replicate::{ask, register};
use crate::daemon::error::{failed, hinted};
use crate::daemon::files::{Client, FileSetConfig};
use crate::daemon::input::{Answers, Call, OpenStore, Then};
use crate::daemon::mind::Mind;
use crate::daemon::requests::call;
use lento_cli::control::{ByteText, Failure, MountChoice};
use lento_core::Saved;
use lento_store::{Bottom, Store};
use protocol::{Access, FileSetId, FileSetName, HostId, Request, Role};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

/// What a cache may hold if nobody says otherwise, in bytes.
const CACHE_BYTES: u64 = 20 << 30;

impl Mind {
    pub(super) fn mount_as_client(&mut self, name: FileSetName, dir: &ByteText, choice: MountChoice, answers: Answers) {
        let (home, me, inputs) = (self.home.clone(), self.identity.host, self.inputs.clone());
        let members = self.identity.members().unwrap_or_default();
        let none = FileSetId::from_bytes([0; 16]);
        let cache = ByteText::from(home.join(format!("cache/{name}")).as_path());
        let prepared = self.new_fileset(name.clone(), none, &cache, Some(dir), choice.wait.unwrap_or_default());
        tokio::spawn(async move {
            let result = async {
                let mut config = prepared?;
                let (holder, fileset, granted) = register(&inputs, me, members, &name, Role::Client).await?;
                if !choice.read_only && granted == Access::ReadOnly {
                    tracing::info!(%name, "mounted read-only: the ticket was for reading");
                }
                config.id = fileset;
                config.mounted = true;
                let access = if choice.read_only { Access::ReadOnly } else { granted };
                config.client = Some(Client { cache_bytes: choice.cache_bytes.unwrap_or(CACHE_BYTES), access });
                let making = config.clone();
                let made = tokio::task::spawn_blocking(move || make(&home, me, holder, &making)).await;
                match made.unwrap_or_else(|why| Err(failed(format!("making the cache was interrupted: {why}")))) {
                    Ok(open) => Ok((config, open)),
                    Err(failure) => {
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
                Ok((config, open)) => hand_over(&inputs, config, Ok(open), Then::Mount, &answers).await,
                Err(failure) => conclude(&answers, Err(failure)).await,
            }
        });
    }
}

fn make(home: &Path, me: HostId, holder: HostId, config: &FileSetConfig) -> Result<OpenStore, Failure> {
    let what = |why: std::io::Error| failed(format!("cannot make the cache {}: {why}", config.store.display()));
    if config.store.exists() {
        // Of an earlier life of this cache: nothing in it is not at the holder, but what was kept aside, which stays.
        remove_cache(&config.store).map_err(what)?;
        for ours in ["log", "staging", "limbo"] {
            match std::fs::remove_dir_all(config.store.join(".intermezzo").join(ours)) {
                Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(what(why)),
                _ => {}
            }
        }
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.store).map_err(what)?;
    let bottom = Bottom::new(open_directory(&config.store)?).map_err(|why| {
        hinted(why.to_string(), "the cache lies below the host's --home directory, which must be on ext4")
    })?;
    let store = Store::create(Arc::new(bottom), store_config(home, me, config)).map_err(failed)?;
    ready(store, Some(Saved::held_by(holder, me)))
}
