//! `make demo`: two hosts replicate a real directory, through changes on both sides and faults, for a person to watch.
//!
//! Ends with 0 only if both sides are equal, by `lento verify` and by a comparison of our own. Whatever happens
//! (a failure, Ctrl-C, SIGKILL to the part that works), processes, mounts, namespaces and files are cleaned up.

mod faults;
mod hosts;
mod material;
mod show;
mod story;

use anyhow::{Context, Result, ensure};
use intermezzo_tests::workspace::Workspace;
use nix::{
    sys::signal::{SigSet, Signal},
    unistd::geteuid,
};
use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

/// Set for the process that works; the one without it watches over it.
const INNER: &str = "INTERMEZZO_DEMO_INNER";

fn main() -> ExitCode {
    let result = if std::env::var_os(INNER).is_some() { story::tell().map(|()| 0) } else { watch() };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("\ndemo: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demonstration in a process of its own, so that there is always somebody left to clean up.
fn watch() -> Result<u8> {
    ensure!(geteuid().is_root(), "the demonstration needs root: it mounts file systems (try: sudo make demo)");
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD].into_iter().for_each(|s| signals.add(s));
    signals.thread_block()?;
    let mut child = Command::new(std::env::current_exe()?)
        .env(INNER, "1")
        // Ctrl-C is for us.
        .process_group(0)
        .spawn()
        .context("start the demonstration")?;
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(status) = child.try_wait()? {
                    if status.code().is_none() {
                        clean_up()?;
                    }
                    return Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1));
                }
            }
            signal => {
                eprintln!("\ndemo: {signal}: cleaning up");
                child.kill()?;
                child.wait()?;
                clean_up()?;
                return Ok(130);
            }
        }
    }
}

/// A workspace cleans up after runs that died, and then after itself.
fn clean_up() -> Result<()> {
    Workspace::new().map(drop)
}
