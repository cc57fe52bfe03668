//! One host: its disk, its state, its daemon, its commands.

use crate::{
    image::Image,
    presto::{fuse_is_mounted, program},
    process,
    shell::{Cmd, cmd, eventually, kill_group, tail, wait_for},
};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The file set of all tests.
pub const FILESET: &str = "web";
/// What a daemon logs: what it does, and not how TLS is negotiated.
const LOG: &str = "info,lento=debug,lento_net=debug,rustls=warn";
/// Open files that a daemon may have, and what it starts.
const DESCRIPTORS: u64 = 20_000;
/// The attribute that tells what a client's cache has of an object.
const STATE: &str = "user.intermezzo.state";
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a host listens, and in which namespace it lives.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its name: `a`, `b`…
    pub name: String,
    /// Network namespace.
    pub namespace: String,
    /// `address:port`.
    pub listen: String,
}

/// A host. Its store lies on an image of its own; all of it is gone when dropped.
#[derive(Debug)]
pub struct Host {
    place: Place,
    dir: PathBuf,
    home: PathBuf,
    mount: PathBuf,
    store: PathBuf,
    daemon: Mutex<Option<Child>>,
    disk: Mutex<Image>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// Makes directories and disk in `space`; starts nothing. With `state_on_disk`, the manager's state is on the disk
    /// too, and loses power with it.
    pub fn new(space: &Path, place: Place, disk_bytes: u64, state_on_disk: bool) -> Result<Self> {
        let dir = space.join(&place.name);
        fs::create_dir_all(&dir)?;
        let disk = Image::on_loop(&dir, "disk", disk_bytes)?;
        let home = if state_on_disk { disk.path().join("home") } else { dir.join("home") };
        fs::create_dir_all(disk.path().join("store"))?;
        let (mount, store) = (dir.join("disk/store"), dir.join("raw/store"));
        let host = Self { place, dir, home, mount, store, daemon: Mutex::new(None), disk: Mutex::new(disk) };
        host.bind_raw()?;
        Ok(host)
    }

    /// The same for a host that is to be a client: it stores nothing but what it caches, which is on its disk with its state.
    pub fn client(space: &Path, place: Place, disk_bytes: u64) -> Result<Self> {
        let mut host = Self::new(space, place, disk_bytes, true)?;
        (host.mount, host.store) = (host.dir.join("mount"), host.home.join("cache").join(FILESET));
        fs::create_dir_all(&host.mount)?;
        Ok(host)
    }

    /// The disk once more, at a place where no mount covers the store.
    fn bind_raw(&self) -> Result<()> {
        let (disk, raw) = (self.dir.join("disk"), self.dir.join("raw"));
        fs::create_dir_all(&raw)?;
        cmd("mount", ["--make-private"]).arg(&disk).ok()?;
        cmd("mount", ["--bind"]).arg(disk).arg(&raw).ok()?;
        cmd("mount", ["--make-private"]).arg(raw).ok().map(|_| ())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &str {
        &self.place.namespace
    }

    /// `address:port` at which it listens.
    pub fn listen(&self) -> &str {
        &self.place.listen
    }

    /// The mount; it covers the store, but on a client.
    pub fn mount(&self) -> PathBuf {
        self.mount.clone()
    }

    /// The store beneath the mount; on a client its cache.
    pub fn store(&self) -> PathBuf {
        self.store.clone()
    }

    /// What a client has of a file below the mount: `local`, `cached`, `absent` or `modified`.
    pub fn cache_state(&self, path: impl AsRef<Path>) -> Result<String> {
        let file = self.at(path);
        let value = xattr::get(&file, STATE).with_context(|| format!("{STATE} of {file:?}"))?;
        let value = value.with_context(|| format!("{file:?} has no {STATE}"))?;
        String::from_utf8(value).context("a state that is no text")
    }

    /// Bytes that the store takes on the disk, with all that is kept beside it.
    pub fn used(&self) -> Result<u64> {
        let text = cmd("du", ["-s", "--block-size=1"]).arg(&self.store).run()?.stdout;
        text.split_whitespace().next().and_then(|n| n.parse().ok()).with_context(|| format!("du says {text:?}"))
    }

    /// A path below the mount.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mount().join(path)
    }

    /// Its state directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The object database of its file set.
    pub fn database(&self) -> Result<PathBuf> {
        fs::read_dir(self.home.join("fsdb"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|e| e == "db"))
            .with_context(|| format!("no database on {}", self.name()))
    }

    /// Bytes free on its disk.
    pub fn available(&self) -> Result<u64> {
        lock(&self.disk).available()
    }

    /// A command of `lento` on this host.
    pub fn lento<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        let program = program("lento").unwrap_or_else(|_| "lento".into());
        cmd(program, args).env("LENTO_HOME", &self.home).env("RUST_LOG", LOG).in_netns(&self.place.namespace)
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&self) -> Result<()> {
        let mut daemon = lock(&self.daemon);
        ensure!(daemon.is_none(), "the daemon of {} runs already", self.name());
        let limits = ["prlimit".into(), format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}"), "--".into()];
        *daemon = Some(self.lento(["daemon"]).before(limits).spawn(&self.log_path())?);
        drop(daemon);
        eventually(READY_TIMEOUT, "the daemon answers", || {
            if let Some(child) = lock(&self.daemon).as_mut()
                && let Some(status) = child.try_wait()?
            {
                bail!("it ended with {status}");
            }
            self.lento(["status"]).timeout(Duration::from_secs(5)).ok().map(|_| true)
        })
        .with_context(|| format!("host {}", self.name()))
        .map(|_| ())
    }

    /// Whether its daemon was started, and neither stopped nor killed.
    pub fn runs(&self) -> bool {
        lock(&self.daemon).is_some()
    }

    /// Ends the daemon as a service manager would, and its mounts with it.
    pub fn stop(&self) -> Result<()> {
        let Some(mut child) = lock(&self.daemon).take() else { return Ok(()) };
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
        match wait_for(&mut child, Duration::from_secs(20))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the daemon of {} ended with {status} after SIGTERM", self.name()),
            None => {
                kill_group(&mut child);
                bail!("the daemon of {} does not end after SIGTERM", self.name())
            }
        }
    }

    /// SIGKILL to the daemon only; the mount goes on. Tells whether there was one.
    pub fn kill_lento(&self) -> Result<bool> {
        let Some(mut child) = lock(&self.daemon).take() else { return Ok(false) };
        let there = child.try_wait()?.is_none();
        // Not its group: Presto may be in it, and has to outlive it.
        child.kill()?;
        child.wait()?;
        Ok(there)
    }

    /// The processes of Presto on this host.
    pub fn prestos(&self) -> Vec<Pid> {
        let mine = process::mentioning(&self.dir);
        mine.into_iter().filter(|pid| process::name(*pid).as_deref() == Some("presto")).collect()
    }

    /// SIGKILL to Presto. Returns how many were killed.
    pub fn kill_presto(&self) -> Result<usize> {
        process::kill9(&self.prestos())
    }

    /// Waits until the mount serves.
    pub fn wait_mounted(&self) -> Result<()> {
        eventually(READY_TIMEOUT, "the mount serves", || fuse_is_mounted(&self.mount()))
            .with_context(|| format!("host {}", self.name()))
            .map(|_| ())
    }

    /// The power goes: nothing more reaches the disk, and all processes end.
    pub fn power_off(&self) -> Result<()> {
        lock(&self.disk).power_off()?;
        self.end_processes();
        Ok(())
    }

    /// The power is back: the disk is mounted again, with what its journal had. Nothing is started.
    pub fn power_on(&self) -> Result<()> {
        self.unmount_all();
        let mut disk = lock(&self.disk);
        disk.unmount()?;
        disk.mount()?;
        drop(disk);
        self.bind_raw()
    }

    /// Ends all that runs on this host with SIGKILL.
    pub fn end_processes(&self) {
        if let Some(mut child) = lock(&self.daemon).take() {
            kill_group(&mut child);
        }
        let _ = process::kill9(&process::mentioning(&self.dir));
    }

    fn unmount_all(&self) {
        while fuse_is_mounted(&self.mount()).unwrap_or(true) {
            if cmd("umount", ["-l"]).arg(self.mount()).run().is_ok_and(|o| !o.status.success()) {
                break;
            }
        }
        let _ = cmd("umount", [self.dir.join("raw")]).run();
    }

    /// What `lento status --json` prints.
    pub fn status(&self) -> Result<Value> {
        let text = self.lento(["status", "--json"]).timeout(Duration::from_secs(10)).ok()?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// The file set's part of the status.
    pub fn fileset(&self) -> Result<Value> {
        let status = self.status()?;
        let all = status["filesets"].as_array().context("no file sets in the status")?;
        let found = all.iter().find(|f| f["name"] == FILESET);
        found.cloned().with_context(|| format!("no file set {FILESET} on {}: {status}", self.name()))
    }

    /// Where the daemon's output goes.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// For people who want to know why a test failed.
    pub fn report(&self) {
        let own = fs::read_dir(self.home.join("log")).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in [self.log_path()].into_iter().chain(own) {
            let log = fs::read(&path).unwrap_or_default();
            eprintln!("---- host {}: the end of {path:?}", self.name());
            eprint!("{}", tail(&String::from_utf8_lossy(&log), 60));
        }
        match self.lento(["status"]).timeout(Duration::from_secs(3)).run() {
            Ok(outcome) => eprint!("---- its status\n{}{}", outcome.stdout, outcome.stderr),
            Err(why) => eprintln!("---- no status: {why}"),
        }
        if let Ok(outcome) = self.lento(["log", FILESET]).timeout(Duration::from_secs(3)).run() {
            eprint!("---- the end of its modification log\n{}", tail(&outcome.stdout, 20));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
        self.end_processes();
        self.unmount_all();
    }
}
