//! People at work: sources are unpacked, edited, moved and thrown away, in the background, until told to stop.

use crate::{dice::Dice, shell::cmd, sources};
use anyhow::{Context, Result};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Trees that are kept; older ones are removed.
const KEPT: usize = 3;

/// A worker. No operation of it may fail: what is meant to fail is not done by it.
#[derive(Debug)]
pub struct Busy {
    stop: Arc<AtomicBool>,
    changes: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Busy {
    /// Begins to work in `dir`, which is made, with the archive from [`sources::archive`].
    pub fn start(dir: PathBuf, archive: PathBuf, dice: Dice) -> Self {
        let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut worker = Worker { dir, archive, dice, stop: stop.clone(), changes: changes.clone() };
        let thread = Some(std::thread::spawn(move || worker.run()));
        Self { stop, changes, thread }
    }

    /// Changes made so far.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Lets the worker finish what it does. Returns the changes made.
    ///
    /// # Errors
    /// An operation of it failed.
    pub fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("finished twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("a busy worker panicked"))??;
        Ok(self.changes())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    dir: PathBuf,
    archive: PathBuf,
    dice: Dice,
    stop: Arc<AtomicBool>,
    changes: Arc<AtomicU64>,
}

impl Worker {
    fn run(&mut self) -> Result<()> {
        fs::create_dir_all(&self.dir)?;
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let tree = self.dir.join(format!("round-{round}"));
            fs::create_dir(&tree)?;
            sources::unpack(&self.archive, &tree)?;
            let files = files_below(&tree)?;
            self.changes.fetch_add(files.len() as u64, Ordering::Relaxed);
            for _ in 0..200 {
                let file = &files[self.dice.below(files.len())];
                self.edit(file).with_context(|| format!("edit {file:?}"))?;
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            fs::rename(&tree, self.dir.join(format!("done-{round}")))?;
            if round >= KEPT {
                let old = self.dir.join(format!("done-{}", round - KEPT));
                cmd("rm", ["-rf"]).arg(old).timeout(Duration::from_secs(120)).ok()?;
            }
            round += 1;
        }
        Ok(())
    }

    fn edit(&mut self, file: &Path) -> Result<()> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        if !file.exists() {
            return Ok(fs::write(file, b"made again\n")?);
        }
        let other = file.with_extension("edited");
        match self.dice.below(6) {
            0 => OpenOptions::new().append(true).open(file)?.write_all(b"// appended\n")?,
            1 => {
                let text = fs::read(file)?;
                fs::write(&other, [&text, &b"// saved as editors do\n"[..]].concat())?;
                fs::rename(&other, file)?;
            }
            2 => fs::remove_file(file)?,
            3 => {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(file, fs::Permissions::from_mode(0o600 + self.dice.below(64) as u32))?;
            }
            4 if !other.exists() => fs::hard_link(file, other)?,
            _ => fs::write(file, format!("written over {}\n", self.dice.roll()))?,
        }
        Ok(())
    }
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files_below(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
