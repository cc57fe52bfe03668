//! Finding and ending processes by what they were started with.

use crate::shell::eventually;
use anyhow::{Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, os::unix::ffi::OsStrExt, path::Path, time::Duration};

/// The processes whose command line has an argument that contains `part`, and whose program is `program`.
pub fn find(program: &str, part: &Path) -> Vec<Pid> {
    all().filter(|pid| name(*pid).as_deref() == Some(program) && mentions(*pid, "cmdline", part)).collect()
}

/// The processes that were started with `part` in their command line or environment; not ourselves.
pub fn mentioning(part: &Path) -> Vec<Pid> {
    let me = Pid::this();
    all().filter(|pid| *pid != me && (mentions(*pid, "cmdline", part) || mentions(*pid, "environ", part))).collect()
}

fn all() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}

fn mentions(pid: Pid, what: &str, part: &Path) -> bool {
    let part = part.as_os_str().as_bytes();
    fs::read(format!("/proc/{pid}/{what}")).is_ok_and(|text| text.windows(part.len()).any(|w| w == part))
}

/// The name of the program that `pid` runs (at most 15 bytes, as the kernel keeps it).
pub fn name(pid: Pid) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Whether `pid` is there and more than a zombie.
pub fn alive(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !matches!(stat.rsplit(") ").next().and_then(|rest| rest.chars().next()), Some('Z' | 'X')))
}

/// Sends SIGKILL to each and waits until they are gone. Returns how many were there to be killed.
pub fn kill9(pids: &[Pid]) -> Result<usize> {
    let mut killed = 0;
    for pid in pids {
        match kill(*pid, Signal::SIGKILL) {
            Ok(()) => killed += 1,
            Err(Errno::ESRCH) => {}
            Err(why) => bail!("kill {pid}: {why}"),
        }
    }
    eventually(Duration::from_secs(10), "the end of killed processes", || Ok(!pids.iter().any(|pid| alive(*pid))))?;
    Ok(killed)
}

/// Resident memory of `pid` in bytes: now, and the most that it ever was.
pub fn memory(pid: Pid) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    match (field("VmRSS:"), field("VmHWM:")) {
        (Some(now), Some(most)) => Ok((now * 1024, most * 1024)),
        _ => bail!("/proc/{pid}/status tells no memory"),
    }
}

/// Descriptors that `pid` has open.
pub fn descriptors(pid: Pid) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// For messages: who has files open, or is, below `dir`.
pub fn users_of(dir: &Path) -> String {
    let inside = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(dir));
    let mut text = format!("users of {}:", dir.display());
    for pid in all() {
        let base = format!("/proc/{pid}");
        let fds = fs::read_dir(format!("{base}/fd")).into_iter().flatten().flatten();
        if inside(Path::new(&format!("{base}/cwd"))) || fds.into_iter().any(|fd| inside(&fd.path())) {
            text += &format!(" {pid} ({})", name(pid).unwrap_or_default());
        }
    }
    text
}
