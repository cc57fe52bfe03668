//! The two hosts: each with a disk, a home and a daemon; in network namespaces, or, where there are none, on loopback.

use crate::show::Show;
use anyhow::{Context, Result, bail, ensure};
use intermezzo_tests::{
    image::{GIB, Image},
    network::Network,
    process,
    shell::{Cmd, cmd, eventually, tail, wait_for},
    workspace::Workspace,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    cell::RefCell,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

/// The file set of the demonstration.
pub(crate) const FILESET: &str = "web";
const READY: Duration = Duration::from_secs(20);
const DISK_BYTES: u64 = 4 * GIB;

/// One host.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) listen: String,
    namespace: Option<String>,
    home: PathBuf,
    daemon: RefCell<Option<Child>>,
    disk: Image,
}

impl Host {
    /// The directory that is replicated, as applications see it.
    pub(crate) fn dir(&self) -> PathBuf {
        self.disk.path().join("web")
    }

    /// A path in it.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir().join(path)
    }

    fn log(&self) -> PathBuf {
        self.home.with_extension("log")
    }

    /// A command of `lento`.
    pub(crate) fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Cmd> {
        let programs = std::env::var_os("INTERMEZZO_BIN").map(PathBuf::from);
        let beside = || Some(std::env::current_exe().ok()?.parent()?.to_owned());
        let program = programs.or_else(beside).context("where are the programs?")?.join("lento");
        ensure!(program.is_file(), "{} is not built: run this by `make demo`", program.display());
        let command = cmd(program, args).env("LENTO_HOME", &self.home).timeout(Duration::from_secs(300));
        Ok(match &self.namespace {
            Some(namespace) => command.in_netns(namespace),
            None => command,
        })
    }

    /// Shows a command as a person would type it, and runs it. Returns what it printed.
    pub(crate) fn lento(&self, show: &Show, args: &[&str]) -> Result<String> {
        show.command(self.name, &shown(args));
        self.quietly(args)
    }

    /// Runs a command of `lento`.
    pub(crate) fn quietly(&self, args: &[&str]) -> Result<String> {
        let printed = self.command(args.iter().copied())?.ok()?;
        Ok(printed.trim().to_owned())
    }

    /// Starts the daemon, and waits until it answers.
    pub(crate) fn start(&self) -> Result<()> {
        let mut daemon = self.daemon.borrow_mut();
        ensure!(daemon.is_none(), "the daemon of {} runs already", self.name);
        let child = daemon.insert(self.command(["daemon"])?.spawn(&self.log())?);
        eventually(READY, "the daemon answers", || {
            if let Some(status) = child.try_wait()? {
                bail!("the daemon of {} ended with {status}", self.name);
            }
            self.command(["status"])?.ok().map(|_| true)
        })
        .map(drop)
    }

    /// SIGKILL to the daemon; its mount is served by another process and goes on.
    pub(crate) fn kill(&self) -> Result<()> {
        let mut child = self.daemon.borrow_mut().take().context("no daemon runs")?;
        ensure!(child.try_wait()?.is_none(), "the daemon of {} had ended before it was killed", self.name);
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends the daemon as a service manager does.
    pub(crate) fn stop(&self) -> Result<()> {
        let Some(mut child) = self.daemon.borrow_mut().take() else { return Ok(()) };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        match wait_for(&mut child, READY)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the daemon of {} ended with {status}", self.name),
            None => bail!("the daemon of {} does not end on SIGTERM", self.name),
        }
    }

    /// The end of the daemon's log and its status, for people who want to know why.
    pub(crate) fn report(&self) {
        let log = fs::read(self.log()).unwrap_or_default();
        eprint!("\n--- the end of the log of {}\n{}", self.name, tail(&String::from_utf8_lossy(&log), 40));
        if let Ok(outcome) = self.command(["status"]).and_then(|command| command.timeout(Duration::from_secs(5)).run())
        {
            eprint!("--- its status\n{}{}", outcome.stdout, outcome.stderr);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A host that stops well unmounts; what is left of one that did not is ended by force.
        let _ = self.stop();
        let _ = process::kill9(&process::mentioning(&self.home));
        while cmd("umount", ["-l"]).arg(self.dir()).run().is_ok_and(|outcome| outcome.status.success()) {}
    }
}

/// Both hosts, and what they are in. Fields are dropped in this order.
pub(crate) struct Hosts {
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) network: Option<Network>,
    _space: Workspace,
}

impl Hosts {
    pub(crate) fn new() -> Result<Self> {
        let space = Workspace::new()?;
        let network = Network::new(space.tag(), 2).ok();
        let host = |number, name: &'static str| -> Result<Host> {
            let dir = space.path().join(name);
            fs::create_dir_all(&dir)?;
            let listen = match &network {
                Some(network) => format!("{}:7400", network.address(number)),
                None => format!("127.0.0.1:{}", free_port()?),
            };
            let namespace = network.as_ref().map(|network| network.namespace(number));
            let disk = Image::on_loop(&dir, "disk", DISK_BYTES)?;
            fs::create_dir(disk.path().join("web"))?;
            Ok(Host { name, listen, namespace, home: dir.join("home"), daemon: RefCell::default(), disk })
        };
        Ok(Self { a: host(0, "a")?, b: host(1, "b")?, network, _space: space })
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn shown(args: &[&str]) -> String {
    let short = |word: &&str| {
        let path = Path::new(word);
        let last = || path.file_name().map(|name| format!("…/{}", name.to_string_lossy()));
        let long = if word.len() > 60 { Some("TICKET".to_owned()) } else { None };
        if path.is_absolute() { last() } else { long }.unwrap_or_else(|| (*word).to_owned())
    };
    let words: Vec<String> = args.iter().map(short).collect();
    format!("lento {}", words.join(" "))
}
