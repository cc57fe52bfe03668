//! An application that remembers what the file system told it was done, and notices what was lost or invented.

use crate::{dice::Dice, presto::fuse_is_mounted, shell::eventually};
use anyhow::{Context, Result, bail, ensure};
use nix::libc;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

const RETURN_TIMEOUT: Duration = Duration::from_secs(30);
const DIRECTORIES: usize = 4;

/// Works in a directory of its own, one operation after the other.
#[derive(Debug)]
pub struct Application {
    mount: PathBuf,
    dir: PathBuf,
    dice: Dice,
    /// What must be there: content by path below `dir`.
    files: BTreeMap<String, Vec<u8>>,
    serial: u64,
    acknowledged: u64,
    interrupted: u64,
}

/// One operation; its effect is all or nothing, but for the content of a write.
#[derive(Debug, Clone)]
enum Change {
    Create { name: String, content: Vec<u8>, fsync: bool },
    Append { name: String, content: Vec<u8>, fsync: bool },
    Rename { from: String, to: String },
    Unlink { name: String },
}

impl Application {
    /// Makes `mount/name` and the directories below it.
    pub fn new(mount: &Path, name: &str, dice: Dice) -> Result<Self> {
        let dir = mount.join(name);
        (0..DIRECTORIES).try_for_each(|i| fs::create_dir_all(dir.join(i.to_string())))?;
        let mount = mount.to_owned();
        Ok(Self { mount, dir, dice, files: BTreeMap::new(), serial: 0, acknowledged: 0, interrupted: 0 })
    }

    /// Does one more operation. If the mount is gone, waits until it is back and finds out what became of it.
    ///
    /// # Errors
    /// The outcome is none of those that may be.
    pub fn step(&mut self) -> Result<()> {
        let change = self.next_change();
        match self.perform(&change) {
            Ok(()) => {
                self.acknowledged += 1;
                self.accept(&change);
                Ok(())
            }
            Err(why) if mount_is_gone(&why) => {
                self.interrupted += 1;
                eventually(RETURN_TIMEOUT, "the mount is back", || {
                    Ok(fuse_is_mounted(&self.mount)? && fs::metadata(&self.dir)?.is_dir())
                })?;
                self.resolve(&change).with_context(|| format!("{change:?} was interrupted by {why}"))
            }
            Err(why) => Err(why).with_context(|| format!("{change:?}")),
        }
    }

    /// Operations that were acknowledged, and ones that ended with the mount.
    pub fn counts(&self) -> (u64, u64) {
        (self.acknowledged, self.interrupted)
    }

    /// Checks that `copy` (a mount of the same file set) holds exactly what it must.
    pub fn check(&self, copy: &Path) -> Result<()> {
        let dir = copy.join(self.dir.file_name().context("no name")?);
        let mut seen = 0;
        for i in 0..DIRECTORIES {
            for entry in fs::read_dir(dir.join(i.to_string()))? {
                let name = format!("{i}/{}", entry?.file_name().to_string_lossy());
                let wanted = self.files.get(&name).with_context(|| format!("{dir:?}: {name} was invented"))?;
                let found = fs::read(dir.join(&name))?;
                ensure!(found == *wanted, "{dir:?}: {name} has {} bytes, not its {}", found.len(), wanted.len());
                seen += 1;
            }
        }
        ensure!(
            seen == self.files.len(),
            "{dir:?}: {} of {} files were lost",
            self.files.len() - seen,
            self.files.len()
        );
        Ok(())
    }

    fn next_change(&mut self) -> Change {
        self.serial += 1;
        let fresh = format!("{}/f{}", self.dice.below(DIRECTORIES), self.serial);
        let old = self.files.keys().nth(self.dice.below(self.files.len())).cloned();
        let fsync = self.dice.below(8) == 0;
        match (self.dice.below(8), old) {
            (0 | 1, Some(from)) => Change::Rename { from, to: fresh },
            (2, Some(name)) if self.files.len() > 50 => Change::Unlink { name },
            (3 | 4, Some(name)) => Change::Append { name, content: self.content(), fsync },
            (5, Some(to)) if self.files.len() > 2 => {
                let from = self.files.keys().find(|k| **k != to).cloned();
                from.map_or(Change::Unlink { name: to.clone() }, |from| Change::Rename { from, to })
            }
            _ => Change::Create { name: fresh, content: self.content(), fsync },
        }
    }

    fn content(&mut self) -> Vec<u8> {
        let lines = 1 + self.dice.below(2000);
        (0..lines).flat_map(|i| format!("{} {i}\n", self.serial).into_bytes()).collect()
    }

    fn perform(&self, change: &Change) -> io::Result<()> {
        let put = |mut file: File, content: &[u8], fsync: bool| {
            file.write_all(content)?;
            if fsync { file.sync_all() } else { Ok(()) }
        };
        match change {
            Change::Create { name, content, fsync } => put(File::create_new(self.dir.join(name))?, content, *fsync),
            Change::Append { name, content, fsync } => {
                put(OpenOptions::new().append(true).open(self.dir.join(name))?, content, *fsync)
            }
            Change::Rename { from, to } => fs::rename(self.dir.join(from), self.dir.join(to)),
            Change::Unlink { name } => fs::remove_file(self.dir.join(name)),
        }
    }

    fn accept(&mut self, change: &Change) {
        match change {
            Change::Create { name, content, .. } => {
                self.files.insert(name.clone(), content.clone());
            }
            Change::Append { name, content, .. } => {
                self.files.entry(name.clone()).or_default().extend_from_slice(content);
            }
            Change::Rename { from, to } => {
                let content = self.files.remove(from).unwrap_or_default();
                self.files.insert(to.clone(), content);
            }
            Change::Unlink { name } => {
                self.files.remove(name);
            }
        }
    }

    /// An operation that was not acknowledged may have been done or not; a write may have been done in part.
    fn resolve(&mut self, change: &Change) -> Result<()> {
        let found = |name: &str| match fs::read(self.dir.join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why).with_context(|| format!("read {name}")),
        };
        match change {
            Change::Create { name, content, .. } => {
                let now = found(name)?;
                let fits = now.as_ref().is_none_or(|now| content.starts_with(now));
                ensure!(fits, "the file has bytes that nobody wrote");
                now.map(|now| self.files.insert(name.clone(), now));
            }
            Change::Append { name, content, .. } => {
                let now = found(name)?.context("the file is gone")?;
                let before = self.files.entry(name.clone()).or_default();
                let added = now.strip_prefix(&before[..]).context("what was there before the append changed")?;
                ensure!(content.starts_with(added), "the file has bytes that nobody wrote");
                *before = now;
            }
            Change::Rename { from, to } => {
                let (source, before) = (self.files.get(from).cloned().unwrap_or_default(), self.files.get(to).cloned());
                match (found(from)?, found(to)?) {
                    (None, Some(now)) if now == source => self.accept(change),
                    (Some(now), there) if now == source && there == before => {}
                    _ => bail!("neither the old nor the new state"),
                }
            }
            Change::Unlink { name } => match found(name)? {
                None => self.accept(change),
                Some(now) => ensure!(self.files.get(name) == Some(&now), "the file was changed"),
            },
        }
        Ok(())
    }
}

/// What an operation may fail with when the process that serves the mount dies.
fn mount_is_gone(why: &io::Error) -> bool {
    matches!(why.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO | libc::ENODEV | libc::EINTR))
}
