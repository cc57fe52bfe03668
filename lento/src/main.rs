//! `lento`: the manager's daemon and its command line.

mod daemon;

use clap::Parser;
use lento_cli::args::{DaemonArgs, InitArgs, JoinArgs};
use lento_cli::control::{Code, Failure};
use lento_cli::{Cli, Command, report, run_client};
use lento_net::{Identity, Ticket};
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Init(args) => init(&cli.home, args),
        Command::Join(args) => join(&cli.home, args),
        Command::Daemon(args) => serve(&cli.home, &args),
        command => return run_client(command, &cli.home),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => report(&Failure { message: format!("{why:#}"), hint: None, code: Code::Failed }),
    }
}

fn init(home: &Path, args: InitArgs) -> anyhow::Result<()> {
    let identity = Identity::init(home, args.name, args.listen.to_string())?;
    println!("{} is the first host of cluster {}; its state is in {}", identity.name, identity.cluster, home.display());
    println!("next: lento daemon, then lento fileset create NAME --store DIR");
    Ok(())
}

fn join(home: &Path, args: JoinArgs) -> anyhow::Result<()> {
    let mut text = args.ticket;
    if text == "-" {
        text.clear();
        std::io::stdin().take(4096).read_to_string(&mut text)?;
    }
    let ticket: Ticket = text.trim().parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let joined = runtime.block_on(lento_net::join(home, &ticket, args.name, args.listen.to_string()))?;
    println!("{} is host {} of cluster {}", joined.identity.name, joined.identity.host, joined.identity.cluster);
    match joined.fileset {
        Some(fileset) => println!("next: lento daemon, then lento replicate {fileset} --store DIR"),
        None => println!("next: lento daemon"),
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
