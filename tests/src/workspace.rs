//! The directory of one run, its clean-up, and that of earlier runs that died without theirs.

use crate::{process, shell::cmd};
use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

const PREFIX: &str = "imz-";
const LOCK: &str = "/run/intermezzo-tests.lock";

/// A directory for all that a test makes. When dropped, what still runs or is mounted in it ends, and it goes.
///
/// There is one at a time on a machine: tests take two cores, loop devices and time.
#[derive(Debug)]
pub struct Workspace {
    dir: PathBuf,
    tag: String,
    _turn: Flock<File>,
}

impl Workspace {
    /// Waits for its turn, cleans up after dead runs, and makes the directory.
    pub fn new() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "these tests need root: mounts, namespaces, device nodes");
        let base = base();
        // Not in `base`, which may be another for each run: namespaces are the whole machine's.
        let file = File::create(LOCK)?;
        let turn = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).context("lock of the tests")?;
        // As nobody else has the turn, whoever left something behind is dead.
        for entry in fs::read_dir(&base)?.flatten() {
            if entry.file_name().to_str().is_some_and(|n| n.starts_with(PREFIX)) {
                clean(&entry.path());
            }
        }
        remove_namespaces(PREFIX);
        let tag = format!("{PREFIX}{}", std::process::id());
        let dir = base.join(&tag);
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, tag, _turn: turn })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A word that is this run's alone, for names of namespaces.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        clean(&self.dir);
        remove_namespaces(&self.tag);
    }
}

/// `INTERMEZZO_TMP`, or a file system in memory if it is there, or the usual temporary directory.
fn base() -> PathBuf {
    let shm = Path::new("/dev/shm");
    match std::env::var_os("INTERMEZZO_TMP") {
        Some(dir) => dir.into(),
        None if shm.is_dir() => shm.into(),
        None => std::env::temp_dir(),
    }
}

/// Ends all processes that were started with `dir` in their command line or environment, unmounts what is mounted
/// below it, innermost first, and removes it.
fn clean(dir: &Path) {
    let _ = process::kill9(&process::mentioning(dir));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below = |line: &str| line.split(' ').nth(4).map(PathBuf::from).filter(|p| p.starts_with(dir));
    for mount in mounts.lines().rev().filter_map(below) {
        if cmd("umount", [&mount]).ok().is_err() {
            let _ = cmd("umount", ["-l"]).arg(&mount).run();
        }
    }
    let _ = fs::remove_dir_all(dir);
}

fn remove_namespaces(prefix: &str) {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            let _ = cmd("ip", ["netns", "del"]).arg(entry.file_name()).run();
        }
    }
}
