//! The daemon's own files in the home directory: its lock, and which file sets are on this host.

use anyhow::Context;
use lento_cli::control::WaitPolicy;
use protocol::{Access, FileSetId, FileSetName, HostName, Role};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Locks the home directory, so that only one daemon works in it. Held until dropped.
pub(super) fn lock_home(home: &Path) -> anyhow::Result<File> {
    let path = home.join("daemon.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => anyhow::bail!("a daemon runs already for {}: stop it first", home.display()),
        Err(TryLockError::Error(why)) => Err(why).context(format!("cannot lock {}", path.display())),
    }
}

/// A file set on this host, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileSetConfig {
    /// Its name.
    pub(super) name: FileSetName,
    /// Its id, in hex.
    #[serde(with = "hex")]
    pub(super) id: FileSetId,
    /// The native directory.
    pub(super) store: PathBuf,
    /// Where it is, or was last, mounted.
    pub(super) mount: PathBuf,
    /// Whether it is to be mounted.
    pub(super) mounted: bool,
    /// Whether its first copy is not complete: then it is mounted.
    #[serde(default)]
    pub(super) copying: bool,
    /// What writers do that need the permit while the holder cannot be reached.
    pub(super) wait: WaitPolicy,
    /// At the holder: hosts that were invited to it.
    #[serde(default)]
    pub(super) invited: BTreeMap<HostName, Invited>,
    /// At the holder: hosts that are clients of it.
    #[serde(default)]
    pub(super) clients: BTreeSet<HostName>,
    /// On a client: how it caches; the store is its cache.
    #[serde(default)]
    pub(super) client: Option<Client>,
}

/// What a host was invited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Invited {
    /// What it may be; a replicator may be a client as well.
    pub(super) role: Role,
    /// What it may do.
    pub(super) access: Access,
}

/// How a client caches a file set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Client {
    /// Bytes of contents that it keeps at most.
    pub(super) cache_bytes: u64,
    /// What the holder lets it do, or less.
    pub(super) access: Access,
}

mod hex {
    use protocol::FileSetId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &FileSetId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FileSetId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct FileSets {
    #[serde(default)]
    fileset: Vec<FileSetConfig>,
}

fn path(home: &Path) -> PathBuf {
    home.join("filesets.toml")
}

/// The file sets of this host.
pub(super) fn load(home: &Path) -> anyhow::Result<Vec<FileSetConfig>> {
    let path = path(home);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let sets: FileSets = toml::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
            Ok(sets.fileset)
        }
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(why) => Err(why).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Replaces the list, atomically and durably.
pub(super) fn store(home: &Path, filesets: Vec<FileSetConfig>) -> anyhow::Result<()> {
    let path = path(home);
    let temporary = path.with_extension("new");
    let text = toml::to_string_pretty(&FileSets { fileset: filesets })?;
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(home)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_loaded() {
        let home = tempfile::tempdir().expect("a directory");
        assert_eq!(load(home.path()).expect("none yet"), vec![]);
        let config = FileSetConfig {
            name: "web".parse().expect("legal"),
            id: FileSetId::from_bytes([3; 16]),
            store: "/srv/web".into(),
            mount: "/srv/web".into(),
            mounted: true,
            copying: false,
            wait: WaitPolicy::Soft { timeout_ms: 30_000 },
            invited: BTreeMap::from([(
                "b".parse().expect("legal"),
                Invited { role: Role::Replicator, access: Access::ReadWrite },
            )]),
            clients: BTreeSet::from(["c".parse().expect("legal")]),
            client: Some(Client { cache_bytes: 1 << 30, access: Access::ReadOnly }),
        };
        store(home.path(), vec![config.clone()]).expect("written");
        assert_eq!(load(home.path()).expect("readable"), vec![config]);
    }

    #[test]
    fn a_second_daemon_is_refused() {
        let home = tempfile::tempdir().expect("a directory");
        let first = lock_home(home.path()).expect("free");
        assert!(lock_home(home.path()).is_err());
        drop(first);
        assert!(lock_home(home.path()).is_ok());
    }
}
