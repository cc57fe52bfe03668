//! Commands with a deadline, whose output is kept for the message when they fail.

use anyhow::{Context, Result, bail};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{Read, Seek},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Time that a command gets when the caller names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// A command to run: program, arguments, network namespace, environment, directory, deadline.
#[derive(Debug, Clone)]
pub struct Cmd {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    stdin: Option<PathBuf>,
    timeout: Duration,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit status.
    pub status: ExitStatus,
    /// All that it wrote to standard output, lossily decoded.
    pub stdout: String,
    /// All that it wrote to standard error, lossily decoded.
    pub stderr: String,
    /// From start to exit.
    pub took: Duration,
    what: String,
}

impl Outcome {
    /// The exit code; 128 plus the number of the signal when one ended it, as a shell says it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Itself when the exit code was 0.
    ///
    /// # Errors
    /// Otherwise, with command, code and output.
    pub fn ok(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!("{} ended with {}\n{}{}", self.what, self.code(), tail(&self.stdout, 40), tail(&self.stderr, 40))
    }
}

/// The last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| format!("    {line}\n")).collect()
}

/// A command line from a program and its arguments.
pub fn cmd<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Cmd {
    let mut argv = vec![program.as_ref().to_owned()];
    argv.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
    Cmd { argv, env: Vec::new(), dir: None, stdin: None, timeout: DEFAULT_TIMEOUT }
}

/// A line for `sh -ec`, with `$1`… from `args`.
pub fn sh<S: AsRef<OsStr>>(script: &str, args: impl IntoIterator<Item = S>) -> Cmd {
    let head = ["-euc", script, "sh"].map(OsString::from);
    cmd("sh", head.into_iter().chain(args.into_iter().map(|a| a.as_ref().to_owned())))
}

impl Cmd {
    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The directory that it runs in.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// The file that it reads as standard input; nothing otherwise.
    pub fn stdin(mut self, file: impl AsRef<Path>) -> Self {
        self.stdin = Some(file.as_ref().to_owned());
        self
    }

    /// How long it may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Has another program, which executes its arguments, start it.
    pub fn before(mut self, program: impl IntoIterator<Item = String>) -> Self {
        self.argv.splice(0..0, program.into_iter().map(OsString::from));
        self
    }

    /// Runs it in a network namespace that `ip netns` made. Not through `ip netns exec`: that makes a mount
    /// namespace too, and a mount that is made in it is seen by nobody else.
    pub fn in_netns(self, name: &str) -> Self {
        self.before(["nsenter".into(), format!("--net=/run/netns/{name}"), "--".into()])
    }

    /// What a person would type.
    pub fn shown(&self) -> String {
        self.argv.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// For `std::process`, in a process group of its own.
    pub fn to_command(&self) -> Result<Command> {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        match &self.stdin {
            Some(path) => command.stdin(File::open(path).with_context(|| format!("{path:?}"))?),
            None => command.stdin(Stdio::null()),
        };
        command.process_group(0);
        Ok(command)
    }

    /// Starts it with both outputs appended to `log`.
    pub fn spawn(&self, log: &Path) -> Result<Child> {
        let file = File::options().create(true).append(true).open(log).with_context(|| format!("{log:?}"))?;
        let mut command = self.to_command()?;
        command.stdout(file.try_clone()?).stderr(file);
        command.spawn().with_context(|| format!("start {}", self.shown()))
    }

    /// Runs it to its end, whatever the end is.
    ///
    /// # Errors
    /// It could not be started, or did not end in time: then its whole process group was killed.
    pub fn run(&self) -> Result<Outcome> {
        let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = self.to_command()?;
        command.stdout(out.try_clone()?).stderr(err.try_clone()?);
        let begin = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {}", self.shown()))?;
        let status = wait_for(&mut child, self.timeout)?;
        let took = begin.elapsed();
        let (stdout, stderr) = (read_back(&mut out)?, read_back(&mut err)?);
        match status {
            Some(status) => Ok(Outcome { status, stdout, stderr, took, what: self.shown() }),
            None => {
                kill_group(&mut child);
                bail!("{} did not end in {:?}\n{}{}", self.shown(), self.timeout, tail(&stdout, 40), tail(&stderr, 40))
            }
        }
    }

    /// Runs it and demands exit code 0; gives its standard output.
    pub fn ok(&self) -> Result<String> {
        Ok(self.run()?.ok()?.stdout)
    }
}

fn read_back(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for `child` at most `timeout`; `None` if it still runs then.
pub fn wait_for(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + timeout;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Kills a child that was started in a process group of its own, with all that it started, and reaps it.
pub fn kill_group(child: &mut Child) {
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    // The group may be gone already; then there is nobody to kill.
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    let _ = child.kill();
    let _ = wait_for(child, Duration::from_secs(5));
}

/// Calls `condition` until it is true.
///
/// # Errors
/// It was not within `timeout`; the message says `what`, and what the condition last complained of.
pub fn eventually(timeout: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let begin = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        let answer = condition();
        if matches!(answer, Ok(true)) {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() >= timeout {
            return match answer {
                Err(why) => Err(why.context(format!("not within {timeout:?}: {what}"))),
                _ => bail!("not within {timeout:?}: {what}"),
            };
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
