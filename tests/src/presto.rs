//! A mount by Presto alone, with [`PermitServer`] as its manager.

use crate::{
    permits::PermitServer,
    process,
    shell::{cmd, eventually, kill_group, wait_for},
};
use anyhow::{Context, Result, ensure};
use nix::{sys::statfs::statfs, unistd::Pid};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

/// `FUSE_SUPER_MAGIC`.
const FUSE_MAGIC: i64 = 0x6573_5546;

/// The program `name` of this workspace: in `INTERMEZZO_BIN`, or beside the tests in the release directory.
pub fn program(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("INTERMEZZO_BIN") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"),
    };
    let path = dir.join(name);
    path.canonicalize().with_context(|| format!("{path:?}: build it with `cargo build --release`"))
}

/// Whether a FUSE file system answers at `dir`.
pub fn fuse_is_mounted(dir: &Path) -> Result<bool> {
    Ok(statfs(dir)?.filesystem_type().0 as i64 == FUSE_MAGIC)
}

/// A mounted bottom; unmounted when dropped.
#[derive(Debug)]
pub struct PrestoMount {
    child: Child,
    mount: PathBuf,
    bottom: PathBuf,
    log: PathBuf,
    _server: PermitServer,
}

impl PrestoMount {
    /// Mounts `bottom`, which is made if it is not there, at `dir/presto`.
    pub fn start(dir: &Path, bottom: &Path) -> Result<Self> {
        let (mount, log) = (dir.join("presto"), dir.join("presto.log"));
        fs::create_dir_all(bottom)?;
        fs::create_dir_all(&mount)?;
        let server = PermitServer::start(&dir.join("presto.sock"))?;
        let child = cmd(program("presto")?, ["--fileset", "000102030405060708090a0b0c0d0e0f", "--host", "1"])
            .arg("--socket")
            .arg(server.socket())
            .arg("--store")
            .arg(bottom)
            .arg("--mount")
            .arg(&mount)
            .spawn(&log)?;
        let this = Self { child, mount, bottom: bottom.to_owned(), log, _server: server };
        eventually(Duration::from_secs(10), "presto mounts", || fuse_is_mounted(&this.mount))
            .with_context(|| this.log_tail())?;
        Ok(this)
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// The native directory below.
    pub fn bottom(&self) -> &Path {
        &self.bottom
    }

    /// Presto's process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// The end of what it logged.
    pub fn log_tail(&self) -> String {
        format!("presto's log:\n{}", crate::shell::tail(&fs::read_to_string(&self.log).unwrap_or_default(), 30))
    }

    /// Unmounts it, and checks that Presto ended by itself and well.
    pub fn stop(mut self) -> Result<()> {
        ensure!(process::alive(self.pid()), "presto died\n{}", self.log_tail());
        cmd("umount", [&self.mount]).ok().with_context(|| process::users_of(&self.mount))?;
        let status = wait_for(&mut self.child, Duration::from_secs(10))?;
        ensure!(status.is_some_and(|s| s.success()), "presto ended with {status:?}\n{}", self.log_tail());
        ensure!(fs::metadata(&self.mount)?.nlink() == 2, "{:?} is not empty after the unmount", self.mount);
        Ok(())
    }
}

impl Drop for PrestoMount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if matches!(wait_for(&mut self.child, Duration::ZERO), Ok(None)) {
            let _ = cmd("umount", ["-l"]).arg(&self.mount).run();
            kill_group(&mut self.child);
        }
        let _ = cmd("umount", ["-l"]).arg(&self.mount).run();
    }
}
