//! The commands that ask the daemon.

use crate::{
    args::{Command, CreateArgs, FilesetCommand, PermitCommand, RemoveArgs, ReplicateArgs},
    client::{Client, ClientError},
    control::{
        ByteText, Code, Compared, ControlEvent, ControlRequest, Difference, Failure, MountChoice, ObjectsAction,
        PermitAction, UmountTarget, VerifyReport,
    },
    generate::generate,
    objects::Plan,
    output::{self, Screen, report},
};
use protocol::FileSetName;
use serde::Serialize;
use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

/// How much longer than the time that the daemon was given the client waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a command did not end well.
enum Stop {
    Client(ClientError),
    Failed(Failure),
    Output(io::Error),
}

impl From<ClientError> for Stop {
    fn from(why: ClientError) -> Self {
        Self::Client(why)
    }
}

impl From<Failure> for Stop {
    fn from(why: Failure) -> Self {
        Self::Failed(why)
    }
}

impl From<io::Error> for Stop {
    fn from(why: io::Error) -> Self {
        Self::Output(why)
    }
}

/// Runs a command of the client: all but `init`, `join` and `daemon`, which are refused. Prints; returns the exit code.
pub fn run_client(command: Command, home: &Path) -> ExitCode {
    match dispatch(command, home) {
        Ok(code) => output::code(code),
        Err(Stop::Client(why)) => report(&why.failure()),
        Err(Stop::Failed(failure)) => report(&failure),
        // The reader of a pipe has seen enough (`lento log web | head`).
        Err(Stop::Output(why)) if why.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Stop::Output(why)) => {
            report(&Failure { message: format!("cannot print: {why}"), hint: None, code: Code::Failed })
        }
    }
}

fn dispatch(command: Command, home: &Path) -> Result<Code, Stop> {
    match command {
        Command::Fileset(FilesetCommand::Create(args)) => plain(home, &create(args)?),
        Command::Fileset(FilesetCommand::List(args)) => list(home, args.json),
        Command::Fileset(FilesetCommand::Remove(args)) => remove(home, args),
        Command::Invite(args) => {
            let life_s = args.expires.as_secs().max(1);
            invite(home, &ControlRequest::Invite { grant: args.grant(), life_s })
        }
        Command::Replicate(args) => plain(home, &replicate(args)?),
        Command::Status(args) => status(home, args.json),
        Command::Wait(args) => wait(home, args.name, args.timeout),
        Command::Log(args) => log(home, ControlRequest::Log { name: args.name, follow: args.follow }, args.json),
        Command::Verify(args) => verify(home, args.name, args.json),
        Command::Mount(args) => {
            let choice = MountChoice {
                wait: args.waiting.choice(),
                cache_bytes: args.cache_size.map(|size| size.as_u64()),
                read_only: args.read_only,
            };
            plain(home, &ControlRequest::Mount { name: args.name, dir: absolute(&args.dir)?, choice })
        }
        Command::Cache(args) => cache(home, args.json),
        Command::Pin(args) => objects(home, Plan::pin(args, ObjectsAction::Pin)?),
        Command::Unpin(args) => objects(home, Plan::pin(args, ObjectsAction::Unpin)?),
        Command::Prefetch(args) => objects(home, Plan::all_below(args, ObjectsAction::Prefetch)),
        Command::Evict(args) => objects(home, Plan::all_below(args, ObjectsAction::Evict)),
        Command::Who(args) => who(home, &args.path, args.json),
        Command::Permit(PermitCommand::Release(args)) => permit(home, args.name, PermitAction::Release),
        Command::Permit(PermitCommand::Break(args)) => permit(home, args.name, PermitAction::Break),
        Command::Umount(args) => plain(home, &ControlRequest::Umount { target: umount_target(&args.target)? }),
        Command::Fsck(args) => plain(home, &ControlRequest::Fsck { name: args.name, rebuild: args.rebuild }),
        Command::Generate(args) => Ok(generate(args.what, &args.dir).map(|()| Code::Ok)?),
        Command::Init(_) | Command::Join(_) | Command::Daemon(_) => Err(Stop::Failed(Failure {
            message: "this command does not run in the client".into(),
            hint: None,
            code: Code::Usage,
        })),
    }
}

/// Asks, shows progress and remarks, gives all other events to `item`, and ends with the daemon's verdict.
fn converse(
    client: Client,
    request: &ControlRequest,
    screen: &mut Screen,
    mut item: impl FnMut(ControlEvent, &mut Screen) -> io::Result<()>,
) -> Result<Code, Stop> {
    for event in client.ask(request)? {
        match event? {
            ControlEvent::Progress(progress) => screen.progress(&progress),
            ControlEvent::Note(text) => screen.note(text)?,
            ControlEvent::Done(text) => {
                if let Some(text) = text {
                    screen.done(text)?;
                }
                screen.finish();
                return Ok(Code::Ok);
            }
            ControlEvent::Failed(failure) => {
                screen.finish();
                return Err(Stop::Failed(failure));
            }
            other => item(other, screen)?,
        }
    }
    Err(ClientError::Ended.into())
}

fn ignore(_: ControlEvent, _: &mut Screen) -> io::Result<()> {
    Ok(())
}

fn plain(home: &Path, request: &ControlRequest) -> Result<Code, Stop> {
    converse(Client::connect(home)?, request, &mut Screen::new(false), ignore)
}

fn json_line(screen: &mut Screen, value: &impl Serialize) -> io::Result<()> {
    screen.line(serde_json::to_string(value).map_err(io::Error::other)?)
}

fn create(args: CreateArgs) -> Result<ControlRequest, Stop> {
    let wait = args.mount.policy();
    let (store, mount) = (absolute(&args.store)?, args.mount.mount.as_deref().map(absolute).transpose()?);
    Ok(ControlRequest::FilesetCreate { name: args.name, store, mount, wait })
}

fn replicate(args: ReplicateArgs) -> Result<ControlRequest, Stop> {
    let wait = args.mount.policy();
    let (store, mount) = (absolute(&args.store)?, args.mount.mount.as_deref().map(absolute).transpose()?);
    Ok(ControlRequest::Replicate { name: args.name, store, mount, wait })
}

fn permit(home: &Path, name: FileSetName, action: PermitAction) -> Result<Code, Stop> {
    plain(home, &ControlRequest::Permit { name, action })
}

fn who(home: &Path, path: &Path, json: bool) -> Result<Code, Stop> {
    let path = absolute(path)?;
    let mut screen = Screen::new(json);
    let mut found = false;
    let shown = converse(Client::connect(home)?, &ControlRequest::Status, &mut screen, |event, screen| {
        let ControlEvent::Status(status) = event else { return Ok(()) };
        let Some(set) = output::fileset_at(&status.filesets, path.as_path()) else { return Ok(()) };
        found = true;
        if json { json_line(screen, set) } else { screen.line(output::who(set, &status.host, screen.paint())) }
    })?;
    if found {
        return Ok(shown);
    }
    Err(Stop::Failed(Failure {
        message: format!("{path} is not on a mount of this host"),
        hint: Some("`lento status` shows the mounts".into()),
        code: Code::Usage,
    }))
}

fn cache(home: &Path, json: bool) -> Result<Code, Stop> {
    let mut screen = Screen::new(json);
    converse(Client::connect(home)?, &ControlRequest::Status, &mut screen, |event, screen| match event {
        ControlEvent::Status(status) if json => {
            let caches: Vec<_> = status.filesets.iter().filter(|set| set.cache.is_some()).collect();
            json_line(screen, &caches)
        }
        ControlEvent::Status(status) => screen.line(output::caches(&status.filesets, screen.paint())),
        _ => Ok(()),
    })
}

fn objects(home: &Path, plan: Plan) -> Result<Code, Stop> {
    let action = plan.action;
    let (word, why) = match action {
        ObjectsAction::Pin => ("pinned", "could not be fetched now"),
        ObjectsAction::Unpin => ("unpinned", "are gone"),
        ObjectsAction::Prefetch => ("fetched", "could not be fetched"),
        ObjectsAction::Evict => ("evicted", "stay: they are open, pinned, not at the holder yet, or not here"),
    };
    let mut screen = Screen::new(false);
    let (mut done, mut failed) = (0, 0);
    plan.requests(|request| {
        let counted = |event, _: &mut Screen| {
            if let ControlEvent::Handled { done: more, failed: less } = event {
                done += more;
                failed += less;
            }
            Ok(())
        };
        converse(Client::connect(home)?, &request, &mut screen, counted).map(drop)
    })?;
    let rest = if failed > 0 { format!("; {} {why}", output::count(failed)) } else { String::new() };
    screen.done(format!("{word} {}{rest}", output::counted(done, "object")))?;
    Ok(if failed > 0 && action != ObjectsAction::Evict { Code::Failed } else { Code::Ok })
}

fn list(home: &Path, json: bool) -> Result<Code, Stop> {
    let mut screen = Screen::new(json);
    converse(Client::connect(home)?, &ControlRequest::Status, &mut screen, |event, screen| match event {
        ControlEvent::Status(status) if json => json_line(screen, &status.filesets),
        ControlEvent::Status(status) => screen.line(output::filesets(&status.filesets, screen.paint())),
        _ => Ok(()),
    })
}

fn status(home: &Path, json: bool) -> Result<Code, Stop> {
    let mut screen = Screen::new(json);
    converse(Client::connect(home)?, &ControlRequest::Status, &mut screen, |event, screen| match event {
        ControlEvent::Status(status) if json => {
            screen.line(serde_json::to_string_pretty(&status).map_err(io::Error::other)?)
        }
        ControlEvent::Status(status) => screen.line(output::host_status(&status, screen.paint())),
        _ => Ok(()),
    })
}

fn invite(home: &Path, request: &ControlRequest) -> Result<Code, Stop> {
    let mut screen = Screen::new(false);
    converse(Client::connect(home)?, request, &mut screen, |event, screen| match event {
        // The ticket alone on standard output: `ticket=$(lento invite --fileset web)`.
        ControlEvent::Ticket(ticket) => {
            if io::stdout().is_terminal() {
                let life = output::ago(ticket.life_s);
                writeln!(io::stderr(), "Good for one host, for {life}. On it: lento join TICKET --name … --listen …")?;
            }
            screen.line(ticket.ticket)
        }
        _ => Ok(()),
    })
}

fn wait(home: &Path, name: FileSetName, timeout: Option<Duration>) -> Result<Code, Stop> {
    let client = Client::connect(home)?;
    if let Some(timeout) = timeout {
        client.give_up_after(timeout.saturating_add(PATIENCE))?;
    }
    let timeout_ms = timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    converse(client, &ControlRequest::Wait { name, timeout_ms }, &mut Screen::new(false), ignore)
}

fn log(home: &Path, request: ControlRequest, json: bool) -> Result<Code, Stop> {
    let mut screen = Screen::new(json).remarking();
    converse(Client::connect(home)?, &request, &mut screen, |event, screen| match event {
        ControlEvent::Log(line) if json => json_line(screen, &line),
        ControlEvent::Log(line) => screen.line(output::log_line(&line, screen.paint())),
        _ => Ok(()),
    })
}

fn verify(home: &Path, name: FileSetName, json: bool) -> Result<Code, Stop> {
    let mut screen = Screen::new(json);
    let mut found: (Vec<Compared>, Vec<Difference>) = Default::default();
    let request = ControlRequest::Verify { name: name.clone() };
    let verdict = converse(Client::connect(home)?, &request, &mut screen, |event, screen| {
        let paint = screen.paint();
        match event {
            ControlEvent::Difference(difference) if json => found.1.push(difference),
            ControlEvent::Difference(difference) => screen.line(output::difference(&difference, paint))?,
            ControlEvent::Compared(compared) => {
                screen.note(output::compared(&compared, paint))?;
                found.0.push(compared);
            }
            _ => {}
        }
        Ok(())
    });
    let (compared, differences) = found;
    let clean = compared.iter().all(|host| host.differences == 0 && host.error.is_none());
    let nothing = compared.is_empty();
    let equal = matches!(verdict, Ok(Code::Ok)) && clean && !nothing;
    if json && (verdict.is_ok() || !nothing) {
        json_line(&mut screen, &VerifyReport { fileset: name.clone(), equal, compared, differences })?;
    }
    match verdict? {
        Code::Ok if nothing => Err(Stop::Failed(Failure {
            message: format!("{name} has no replica: nothing was compared"),
            hint: Some("`lento invite --help` tells how to get one".into()),
            code: Code::Failed,
        })),
        Code::Ok if !clean => Ok(Code::Failed),
        code => Ok(code),
    }
}

fn remove(home: &Path, args: RemoveArgs) -> Result<Code, Stop> {
    let client = Client::connect(home)?;
    if !args.yes && io::stdin().is_terminal() {
        let what = if args.force { " What other hosts have not got is given up." } else { "" };
        write!(io::stderr(), "Remove {} from this host? Its files stay as plain files.{what} [y/N] ", args.name)?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            writeln!(io::stderr(), "Nothing was changed.")?;
            return Ok(Code::Failed);
        }
    }
    let request = ControlRequest::FilesetRemove { name: args.name, force: args.force };
    converse(client, &request, &mut Screen::new(false), ignore)
}

fn absolute(path: &Path) -> Result<ByteText, Stop> {
    match std::path::absolute(path) {
        Ok(path) => Ok(path.into()),
        Err(why) => Err(Stop::Failed(Failure {
            message: format!("illegal path {:?}: {why}", path.display().to_string()),
            hint: None,
            code: Code::Usage,
        })),
    }
}

/// A word without a slash that may be a name is one; `./web` is the directory.
fn umount_target(target: &Path) -> Result<UmountTarget, Stop> {
    let name = target.to_str().and_then(|text| text.parse::<FileSetName>().ok());
    match name {
        Some(name) => Ok(UmountTarget::Name(name)),
        None => Ok(UmountTarget::Dir(absolute(target)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::umount_target;
    use crate::control::UmountTarget;
    use std::path::Path;

    #[test]
    fn a_word_is_a_file_set_and_a_path_a_mount_point() {
        let target = |text: &str| umount_target(Path::new(text)).ok();
        assert_eq!(target("web"), Some(UmountTarget::Name("web".parse().expect("legal"))));
        assert_eq!(target("/srv/web"), Some(UmountTarget::Dir(Path::new("/srv/web").into())));
        assert!(matches!(target("./web"), Some(UmountTarget::Dir(dir)) if dir.as_path().is_absolute()));
    }
}
