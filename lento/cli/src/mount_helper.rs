//! `mount.presto`: what `mount(8)` calls for the lines of `/etc/fstab` whose type is `presto`.
//!
//! It has the daemon mount, waits for one that is starting, and takes a mount that is there already for success.

mod options;

use crate::{
    args::DEFAULT_HOME,
    client::{Client, ClientError},
    control::{ByteText, Code, ControlEvent, ControlRequest, Failure, FileSetStatus, MountState},
    output::report,
};
use options::{Call, parse};
use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

/// The name of the program under which the binary is this one.
const NAME: &str = "mount.presto";
/// How long a daemon may take to start, and to mount what it is about to mount.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
/// How long the daemon may take to answer; a first mount as a client tries all hosts of the cluster.
const ANSWER: Duration = Duration::from_secs(80);

/// Exit codes of `mount(8)`.
const USAGE: u8 = 1;
const NOT_MOUNTED: u8 = 32;

/// Whether the binary was called as `mount.presto`, a link to it.
pub fn is_mount_helper(program: Option<&OsStr>) -> bool {
    program.map(Path::new).and_then(Path::file_name) == Some(OsStr::new(NAME))
}

/// Mounts as the arguments (without the program's name) say. Tells what is wrong; returns the exit code that `mount(8)` wants:
/// 0, 1 for wrong usage and for who may not, 32 if it is not mounted.
pub fn run_mount_helper(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = parse(args).map_err(|message| Failure {
        message,
        hint: Some(format!("{NAME} NAME DIR [-sfnv] [-o hard,soft,timeout=30s,ro,cache-size=20G,home=DIR]")),
        code: Code::Usage,
    });
    match result.and_then(|call| mount(&call)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            ExitCode::from(if failure.code == Code::Usage { USAGE } else { NOT_MOUNTED })
        }
    }
}

/// What there is of the mount that is wanted.
enum Found {
    /// It serves.
    Mounted,
    /// It is being made.
    Coming(String),
    /// It is mounted somewhere else.
    Elsewhere(PathBuf),
    /// The daemon is to be asked for it; one that has just started may not be ready for that.
    Unmounted { starting: bool },
}

fn mount(call: &Call) -> Result<(), Failure> {
    let dir = std::path::absolute(&call.dir).map_err(|why| refuse(call, why))?;
    if !dir.metadata().is_ok_and(|found| found.is_dir()) && !is_dead(&dir) {
        return Err(refuse(call, "it is not a directory"));
    }
    if call.fake {
        return Ok(());
    }
    let home = call.home.clone().or_else(|| std::env::var_os("LENTO_HOME").map(PathBuf::from));
    let home = home.unwrap_or_else(|| DEFAULT_HOME.into());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let why = match look(&home, call, &dir) {
            Ok(Found::Mounted) => return Ok(()),
            Ok(Found::Coming(why)) => refuse(call, why),
            Ok(Found::Elsewhere(at)) => return Err(refuse(call, format!("it is mounted at {} already", at.display()))),
            Ok(Found::Unmounted { starting }) => match ask(&home, call, &dir) {
                Ok(()) => return Ok(()),
                // Its store may not be open yet, or the daemon itself mounts it meanwhile.
                Err(failure) if starting => failure,
                Err(failure) => return Err(failure),
            },
            Err(ClientError::Denied { home }) => {
                return Err(Failure { code: Code::Usage, ..ClientError::Denied { home }.failure() });
            }
            Err(why @ ClientError::NotRunning { .. }) if Client::is_home(&home) => why.failure(),
            Err(why) => return Err(why.failure()),
        };
        if Instant::now() > deadline {
            return Err(why);
        }
        sleep(LOOK);
    }
}

/// A mount that nobody serves any more is mounted anew.
fn is_dead(dir: &Path) -> bool {
    dir.metadata().is_err_and(|why| why.kind() == std::io::ErrorKind::NotConnected)
}

fn refuse(call: &Call, why: impl ToString) -> Failure {
    let message = format!("{} is not mounted at {}: {}", call.name, call.dir.display(), why.to_string());
    Failure { message, hint: None, code: Code::Failed }
}

fn look(home: &Path, call: &Call, dir: &Path) -> Result<Found, ClientError> {
    let client = Client::connect(home)?;
    client.give_up_after(ANSWER)?;
    for event in client.ask(&ControlRequest::Status)? {
        if let ControlEvent::Status(status) = event? {
            let set = status.filesets.iter().find(|set| set.name == call.name);
            let starting = set.is_some() && status.uptime_s < PATIENCE.as_secs();
            return Ok(set.map_or(Found::Unmounted { starting }, |set| found(set, dir, starting)));
        }
    }
    Err(ClientError::Ended)
}

fn found(set: &FileSetStatus, dir: &Path, starting: bool) -> Found {
    let at = set.mount.dir.as_path();
    match set.mount.state {
        MountState::Mounted if at == dir => Found::Mounted,
        MountState::Starting if at == dir => Found::Coming("the daemon is about to mount it".into()),
        MountState::Failed if at == dir => {
            let why = set.last_error.as_ref().map_or("it fails again and again", |trouble| &trouble.text);
            Found::Coming(why.to_owned())
        }
        MountState::Mounted | MountState::Starting | MountState::Failed => Found::Elsewhere(at.to_owned()),
        MountState::Unmounted => Found::Unmounted { starting },
    }
}

fn ask(home: &Path, call: &Call, dir: &Path) -> Result<(), Failure> {
    let talk = || -> Result<(), Result<Failure, ClientError>> {
        let client = Client::connect(home).map_err(Err)?;
        client.give_up_after(ANSWER).map_err(Err)?;
        let request = ControlRequest::Mount { name: call.name.clone(), dir: ByteText::from(dir), choice: call.choice };
        for event in client.ask(&request).map_err(Err)? {
            match event.map_err(Err)? {
                ControlEvent::Done(text) => {
                    if let Some(text) = text.filter(|_| call.verbose) {
                        println!("{text}");
                    }
                    return Ok(());
                }
                ControlEvent::Failed(failure) => return Err(Ok(failure)),
                _ => {}
            }
        }
        Err(Err(ClientError::Ended))
    };
    // It asks for what is legal, so that what the daemon refuses is no wrong usage of this program.
    talk().map_err(|why| Failure { code: Code::Failed, ..why.unwrap_or_else(|why| why.failure()) })
}
