//! The supervisor of one mount: starts Presto, sees it end, and starts it again, until told to stop.
//!
//! Presto outlives the daemon. A new daemon finds it by the process id in `run/<file set>.pid`, and only watches it.

use super::files::FileSetConfig;
use super::input::{Input, MountNews};
use lento_cli::control::WaitPolicy;
use nix::mount::{MntFlags, umount2};
use protocol::{FileSetId, HostId};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

/// First and longest pause before a Presto that died is started again.
const RESTART: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// One that lived for so long begins with the shortest pause again.
const LIVED: Duration = Duration::from_secs(10);

/// What is needed to start a Presto.
#[derive(Debug, Clone)]
pub(super) struct Mount {
    pub(super) home: PathBuf,
    pub(super) host: HostId,
    pub(super) config: FileSetConfig,
    /// The bottom, once it is open: the way to the store under a dead mount.
    pub(super) bottom: Arc<OnceLock<OwnedFd>>,
}

/// Keeps a mount up until the returned sender says stop (or is dropped).
pub(super) fn keep(mount: Mount, inputs: mpsc::Sender<Input>) -> watch::Sender<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move { mount.run(inputs, stopped).await });
    stop
}

/// Where the last number of a log that was removed is kept.
pub(super) fn numbers_path(home: &Path, fileset: FileSetId) -> PathBuf {
    home.join(format!("fsdb/{fileset}.last"))
}

/// The process id of the Presto that serves a file set, if there is one.
pub(super) fn living_presto(home: &Path, fileset: FileSetId) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(pid_path(home, fileset)).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let wanted = fileset.to_string();
    let mut words = command.split(|b| *b == 0);
    words.any(|word| word == wanted.as_bytes()).then_some(pid)
}

fn pid_path(home: &Path, fileset: FileSetId) -> PathBuf {
    home.join(format!("run/{fileset}.pid"))
}

impl Mount {
    async fn run(self, inputs: mpsc::Sender<Input>, mut stopped: watch::Receiver<bool>) {
        let fileset = self.config.id;
        let tell = |news| inputs.send(Input::Mount { fileset, news });
        let mut pause = RESTART.0;
        loop {
            let began = tokio::time::Instant::now();
            let ended = match living_presto(&self.home, fileset) {
                Some(pid) => {
                    let _ = tell(MountNews::Ready { pid }).await;
                    self.watch(pid, &mut stopped).await
                }
                None => self.start(&inputs, &mut stopped).await,
            };
            if *stopped.borrow() {
                self.detach().await;
                let _ = tell(MountNews::Ended).await;
                return;
            }
            // The dead mount stays: Presto takes it away when it mounts. Without it programs would write to the bare store.
            let news = match ended {
                Ok(why) => MountNews::Died { why },
                Err(why) => MountNews::Failed { why: why.to_string() },
            };
            tracing::warn!(fileset = %self.config.name, ?news, "presto is started again");
            let _ = tell(news).await;
            pause = if began.elapsed() > LIVED { RESTART.0 } else { (pause * 2).min(RESTART.1) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopped.changed() => {}
            }
            if *stopped.borrow() || stopped.has_changed().is_err() {
                self.detach().await;
                let _ = tell(MountNews::Ended).await;
                return;
            }
        }
    }

    async fn start(&self, inputs: &mpsc::Sender<Input>, stopped: &mut watch::Receiver<bool>) -> anyhow::Result<String> {
        if self.bottom.get().is_none() && is_dead_mount(&self.config.mount) {
            // It is found beneath the dead mount meanwhile.
            return Ok("presto died before the store was open".into());
        }
        if !is_dead_mount(&self.config.mount) {
            std::fs::create_dir_all(&self.config.mount)?;
        }
        let mut child = self.command()?.spawn().map_err(|why| {
            anyhow::anyhow!("cannot start the presto binary ({why}): it must lie beside lento or in PATH")
        })?;
        let pid = child.id().ok_or_else(|| anyhow::anyhow!("presto ended at once"))?;
        std::fs::write(pid_path(&self.home, self.config.id), pid.to_string())?;
        let mut lines = BufReader::new(child.stdout.take().ok_or_else(|| anyhow::anyhow!("no pipe"))?).lines();
        tokio::select! {
            line = lines.next_line() => {
                if line?.as_deref() == Some("ready") {
                    let _ = inputs.send(Input::Mount { fileset: self.config.id, news: MountNews::Ready { pid } }).await;
                }
            }
            _ = stopped.changed() => {}
        }
        // Presto's end is seen both ways: by its pidfd, and by reaping the child.
        let why = self.watch(pid, stopped).await;
        let status = child.wait().await?;
        why.map(|_| format!("presto ended with {status}; {} tells why", self.log_path().display()))
    }

    /// Waits for a Presto's end; on stop, asks it to unmount and end.
    async fn watch(&self, pid: u32, stopped: &mut watch::Receiver<bool>) -> anyhow::Result<String> {
        let Ok(pidfd) = pidfd_open(pid) else { return Ok("it was gone".into()) };
        // SAFETY: an OwnedFd names the same open file until it is dropped, and AsyncFd owns it.
        let pidfd = unsafe { AsyncFd::register(pidfd) }?;
        tokio::select! {
            ended = pidfd.readable() => { let _ = ended?; }
            stopping = async { while !*stopped.borrow() { if stopped.changed().await.is_err() { break } } } => {
                let () = stopping;
                if *stopped.borrow() {
                    kill(pid, nix::sys::signal::Signal::SIGTERM);
                    if tokio::time::timeout(Duration::from_secs(10), pidfd.readable()).await.is_err() {
                        kill(pid, nix::sys::signal::Signal::SIGKILL);
                        let _ = pidfd.readable().await?;
                    }
                } else {
                    // The daemon ends: Presto goes on.
                    std::future::pending::<()>().await;
                }
            }
        }
        Ok("it was killed".into())
    }

    fn command(&self) -> anyhow::Result<Command> {
        let beside = std::env::current_exe()?.with_file_name("presto");
        let program = if beside.exists() { beside } else { PathBuf::from("presto") };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(program);
        command
            .arg("--store")
            .arg(&self.config.store)
            .arg("--mount")
            .arg(&self.config.mount)
            .arg("--fileset")
            .arg(self.config.id.to_string())
            .arg("--name")
            .arg(self.config.name.as_str())
            .arg("--host")
            .arg(self.host.to_string())
            .arg("--socket")
            .arg(super::presto::socket_path(&self.home))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // Signals to the daemon's terminal are not for it.
            .process_group(0);
        if let Some(client) = self.config.client {
            command.arg("--on-demand");
            if client.access == protocol::Access::ReadOnly {
                command.arg("--read-only");
            }
        }
        if let Some(bottom) = self.bottom.get() {
            command.arg("--bottom").arg(format!("/proc/{}/fd/{}", std::process::id(), bottom.as_raw_fd()));
        }
        if let Ok(last) = std::fs::read_to_string(numbers_path(&self.home, self.config.id)) {
            command.arg("--numbers-after").arg(last.trim());
        }
        if let WaitPolicy::Soft { timeout_ms } = self.config.wait {
            command.arg("--soft").arg(timeout_ms.div_ceil(1000).max(1).to_string());
        }
        Ok(command)
    }

    fn log_path(&self) -> PathBuf {
        self.home.join(format!("log/presto-{}.log", self.config.name))
    }

    /// Takes away the mount of a Presto that is dead: it answers nothing but ENOTCONN.
    async fn detach(&self) {
        let dir = self.config.mount.clone();
        let _ = tokio::task::spawn_blocking(move || detach_dead(&dir)).await;
    }
}

/// Takes away mounts that nobody serves; blocks.
pub(super) fn detach_dead(dir: &Path) {
    while is_dead_mount(dir) {
        if let Err(why) = umount2(dir, MntFlags::MNT_DETACH) {
            return tracing::error!(dir = %dir.display(), %why, "cannot detach a dead mount");
        }
    }
}

/// Whether a directory is a FUSE mount that nobody serves. Its attributes may be cached; figures of the file system
/// never are.
pub(super) fn is_dead_mount(dir: &Path) -> bool {
    matches!(nix::sys::statfs::statfs(dir), Err(nix::Error::ENOTCONN))
}

fn pidfd_open(pid: u32) -> std::io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: pidfd_open takes a pid and flags, and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}
