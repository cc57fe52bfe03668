//! A store, a mount point, a Lento and a Presto, for one test; taken down when it ends.
#![allow(dead_code, unreachable_pub)]

#[path = "../lento/mod.rs"]
pub mod lento;

use lento::Connection;
use modlog::{Finished, ReadResult, Reader};
use protocol::{Downcall, Handle};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

pub const FILESET: &str = "000102030405060708090a0b0c0d0e0f";

/// Everything that a test needs, below one temporary directory on ext4.
pub struct Stand {
    _tmp: tempfile::TempDir,
    pub store: PathBuf,
    pub mount: PathBuf,
    pub socket: PathBuf,
    listener: UnixListener,
    pub presto: Option<Child>,
    pub lento: Option<Connection>,
    arguments: Vec<String>,
}

impl Stand {
    /// Presto is mounted and knows Lento, which did not give the permit.
    pub fn new(arguments: &[&str]) -> Self {
        Self::make(None, arguments)
    }

    /// The same, on a store elsewhere.
    pub fn at(store: &Path, arguments: &[&str]) -> Self {
        Self::make(Some(store.to_owned()), arguments)
    }

    /// A client's mount, whose store was prepared before.
    pub fn prepared(arguments: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let mut stand = Self::unmounted(None, arguments);
        prepare(&stand.store);
        stand.start();
        // What it says twice around its hello, it has said when it answers.
        stand.synced_log();
        stand
    }

    fn make(store: Option<PathBuf>, arguments: &[&str]) -> Self {
        let mut stand = Self::unmounted(store, arguments);
        stand.start();
        stand
    }

    fn unmounted(store: Option<PathBuf>, arguments: &[&str]) -> Self {
        let tmp = tempfile::Builder::new().prefix("presto-test-").tempdir().expect("a temporary directory");
        let make = |name: &str| {
            let path = tmp.path().join(name);
            std::fs::create_dir(&path).expect("a directory in it");
            path
        };
        let (store, mount) = (store.unwrap_or_else(|| make("store")), make("mount"));
        let socket = tmp.path().join("socket");
        let listener = lento::listen_at(&socket);
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        Self { store, mount, socket, listener, presto: None, lento: None, arguments, _tmp: tmp }
    }

    /// The same, with the permit given.
    pub fn writing(arguments: &[&str]) -> Self {
        let mut stand = Self::new(arguments);
        stand.grant(1);
        stand
    }

    /// Starts Presto, and waits until it is ready and connected.
    pub fn start(&mut self) {
        let mut presto = Command::new(env!("CARGO_BIN_EXE_presto"))
            .args(["--fileset", FILESET, "--host", "3", "--name", "test"])
            .arg("--store")
            .arg(&self.store)
            .arg("--mount")
            .arg(&self.mount)
            .arg("--socket")
            .arg(&self.socket)
            .args(&self.arguments)
            .env("PRESTO_LOG", std::env::var("PRESTO_LOG").unwrap_or_else(|_| "warn".into()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("presto starts");
        let mut line = String::new();
        BufReader::new(presto.stdout.take().expect("it is piped")).read_line(&mut line).expect("it says something");
        assert_eq!(line, "ready\n", "it did not mount; these tests need root and a temporary directory on ext4");
        self.presto = Some(presto);
        self.lento = Some(lento::accept(&self.listener));
    }

    /// Takes a new connection of the same Presto, after one was lost.
    pub fn reconnect(&mut self) {
        self.lento = Some(lento::accept(&self.listener));
    }

    pub fn lento(&mut self) -> &mut Connection {
        self.lento.as_mut().expect("Lento is there")
    }

    /// Gives the permit, and waits until changes are possible.
    pub fn grant(&mut self, epoch: u64) {
        self.lento().send(&Downcall::Grant { epoch });
        let probe = self.mount.join(".probe");
        File::create(&probe).expect("with the permit files can be made");
        std::fs::remove_file(&probe).expect("and removed");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    /// SIGKILL, and the dead mount taken away.
    pub fn kill(&mut self) {
        let mut presto = self.presto.take().expect("it runs");
        presto.kill().expect("it can be killed");
        presto.wait().expect("it is ours");
        self.detach();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        let mut presto = self.presto.take().expect("it runs");
        let pid = nix::unistd::Pid::from_raw(presto.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).expect("it is there");
        assert!(presto.wait().expect("it is ours").success());
    }

    fn detach(&self) {
        // It is there only if Presto could not take it down itself.
        let _ = nix::mount::umount2(&self.mount, nix::mount::MntFlags::MNT_DETACH);
    }

    /// The handle of an entry of the bottom; of its root if `name` is empty.
    pub fn handle_of(&self, name: &str) -> Handle {
        #[repr(C)]
        struct Raw(u32, i32, u32, u32);
        let mut raw = Raw(8, 0, 0, 0);
        let mut mount = 0_i32;
        let path = std::ffi::CString::new(self.store.join(name).to_str().expect("utf-8")).expect("no NUL");
        // SAFETY: the structure has room for the 8 bytes that it announces.
        let result = unsafe {
            let raw: *mut Raw = &mut raw;
            libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, path.as_ptr(), raw, &mut mount as *mut i32, 0)
        };
        assert_eq!(result, 0);
        Handle::new(raw.2, raw.3)
    }

    pub fn log_dir(&self) -> PathBuf {
        self.store.join(".intermezzo/log")
    }

    /// All finished records.
    pub fn log(&self) -> Vec<Finished> {
        read_log(&self.log_dir())
    }

    /// Has what is queued written, and reads all.
    pub fn synced_log(&mut self) -> Vec<Finished> {
        self.lento().send(&Downcall::Synced);
        self.lento().wait(|u| matches!(u, protocol::Upcall::LogSynced { .. }).then_some(()));
        self.log()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if let Some(presto) = &mut self.presto {
            // The test is over, well or not; what is still there goes.
            let _ = presto.kill();
            let _ = presto.wait();
        }
        self.detach();
    }
}

/// All finished records of a log.
pub fn read_log(dir: &Path) -> Vec<Finished> {
    let mut reader = Reader::open(OwnedFd::from(File::open(dir).expect("the log's directory")));
    let first = reader.first_available().expect("it can be listed").unwrap_or(1);
    let mut all = Vec::new();
    let mut after = first - 1;
    loop {
        match reader.read(after, 10_000, usize::MAX).expect("the log is whole") {
            ReadResult::Entries(entries) if entries.is_empty() => return all,
            ReadResult::Entries(entries) => {
                after = entries.last().expect("there is one").record.number;
                all.extend(entries);
            }
            ReadResult::TooOld { first_available } => panic!("it begins at {first_available}"),
        }
    }
}

/// The operations of records that were done.
pub fn words(log: &[Finished]) -> Vec<&'static str> {
    log.iter().filter(|e| e.outcome.is_ok()).map(|e| e.record.op.word()).collect()
}
