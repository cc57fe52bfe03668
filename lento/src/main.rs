//! `lento`: the manager's daemon and its command line; called as `mount.presto`, the helper of `mount(8)`.

mod daemon;

use anyhow::bail;
use clap::Parser;
use lento_cli::args::{DaemonArgs, InitArgs, JoinArgs};
use lento_cli::control::{Code, Failure};
use lento_cli::{Cli, Command, is_mount_helper, report, run_client, run_mount_helper};
use lento_net::{Identity, IdentityError, Ticket};
use protocol::{Grant, Role};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    if is_mount_helper(args.next().as_deref()) {
        return run_mount_helper(args);
    }
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Init(args) => init(&cli.home, args),
        Command::Join(args) => join(&cli.home, args),
        Command::Daemon(args) => serve(&cli.home, &args),
        command => return run_client(command, &cli.home),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => report(&why.downcast::<Failure>().unwrap_or_else(|why| Failure {
            message: format!("{why:#}"),
            hint: None,
            code: Code::Failed,
        })),
    }
}

fn init(home: &Path, args: InitArgs) -> anyhow::Result<()> {
    let identity = Identity::init(home, args.name, args.listen.to_string())?;
    println!("{} is the first host of cluster {}; its state is in {}", identity.name, identity.cluster, home.display());
    println!("next: lento daemon, then lento fileset create NAME --store DIR");
    Ok(())
}

fn join(home: &Path, args: JoinArgs) -> anyhow::Result<()> {
    let mut text = args.ticket.clone();
    if text == "-" {
        text.clear();
        std::io::stdin().take(4096).read_to_string(&mut text)?;
    }
    let ticket: Ticket = text.trim().parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Identity::load(home) {
        Ok(identity) => runtime.block_on(redeem(&identity, &ticket, &args)),
        Err(IdentityError::Missing(_)) => runtime.block_on(join_anew(home, &ticket, args)),
        Err(why) => Err(why.into()),
    }
}

async fn join_anew(home: &Path, ticket: &Ticket, args: JoinArgs) -> anyhow::Result<()> {
    let Some(name) = args.name else {
        bail!(Failure {
            message: format!("{} is not a member of a cluster yet: to join it needs --name", home.display()),
            hint: Some("lento join TICKET --name b --listen 10.0.0.2:7400".into()),
            code: Code::Usage,
        });
    };
    // Who holds no file set is called by nobody.
    let listen = args.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let joined = lento_net::join(home, ticket, name, listen.to_string()).await?;
    println!("{} is host {} of cluster {}", joined.identity.name, joined.identity.host, joined.identity.cluster);
    match joined.grant {
        Some(grant) => println!("next: lento daemon, then {}", next(&grant)),
        None => println!("next: lento daemon"),
    }
    Ok(())
}

/// What a host does with what it was given.
fn next(grant: &Grant) -> String {
    match grant.role {
        Role::Replicator => format!("lento replicate {} --store DIR", grant.fileset),
        Role::Client => format!("lento mount {} DIR", grant.fileset),
    }
}

/// A member takes a ticket for access to one more file set; it stays who it is.
async fn redeem(identity: &Identity, ticket: &Ticket, args: &JoinArgs) -> anyhow::Result<()> {
    let listen = args.listen.map(|listen| listen.to_string());
    let other_name = args.name.as_ref().is_some_and(|name| *name != identity.name);
    if other_name || listen.is_some_and(|listen| listen != identity.listen) {
        bail!(Failure {
            message: format!(
                "{} is host {} at {} already, and cannot be another one: the ticket was not sent",
                identity.home().display(),
                identity.name,
                identity.listen
            ),
            hint: Some(
                "leave --name and --listen out to give this host access; use another --home for another host".into()
            ),
            code: Code::Usage,
        });
    }
    let redeemed = lento_net::redeem(identity, ticket).await?;
    match redeemed.grant {
        Some(grant) => {
            println!("{} has access to {} of {} now", identity.name, grant.fileset, redeemed.inviter.name);
            println!("next: {}", next(&grant));
        }
        None => println!("{} is a member already, and the ticket was for no file set", identity.name),
    }
    Ok(())
}

fn serve(home: &Path, args: &DaemonArgs) -> anyhow::Result<()> {
    let default = ["info", "debug", "trace"][usize::from(args.verbose.min(2))];
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if args.log_json {
        log.json().init();
    } else {
        log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    }
    // Two workers carry packets; disk work has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(daemon::run(home))
}
