//! The command line: every command, option and example; man pages and completions are made from these definitions.

mod cache;
mod duration;
mod examples;
mod fileset;

pub use cache::{PathsArgs, PinArgs};
pub use duration::parse_duration;
pub use fileset::{CreateArgs, FilesetCommand, ListArgs, MountOptions, RemoveArgs, ReplicateArgs, WaitOptions};

use clap::{Args, Parser, Subcommand, ValueEnum};
use protocol::{Access, FileSetName, Grant, HostName, Role};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Where a host's state is kept if nobody says otherwise.
pub const DEFAULT_HOME: &str = "/var/lib/intermezzo";

/// Replicates directories between servers: both sides writable, changes shipped as they happen.
#[derive(Debug, Clone, Parser)]
#[command(name = "lento", version, propagate_version = true, after_help = examples::LENTO, max_term_width = 100)]
pub struct Cli {
    /// Directory of this host's state: identity, certificates, database, sockets
    #[arg(long, global = true, env = "LENTO_HOME", value_name = "DIR", default_value = DEFAULT_HOME)]
    pub home: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// A command of `lento`. [`Command::Init`], [`Command::Join`] and [`Command::Daemon`] run by themselves;
/// [`Command::Generate`] writes files; all others ask the daemon.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Make this host the first of a new cluster
    #[command(after_help = examples::INIT)]
    Init(InitArgs),
    /// Run the manager of this host
    #[command(after_help = examples::DAEMON)]
    Daemon(DaemonArgs),
    /// Create, list and remove file sets
    #[command(subcommand, after_help = examples::FILESET)]
    Fileset(FilesetCommand),
    /// Print a ticket with which one host can join and replicate a file set
    #[command(after_help = examples::INVITE)]
    Invite(InviteArgs),
    /// Make this host a member of the cluster that gave the ticket, or give a member access to one more file set
    #[command(after_help = examples::JOIN)]
    Join(JoinArgs),
    /// Replicate a file set of the cluster to this host
    #[command(after_help = examples::REPLICATE)]
    Replicate(ReplicateArgs),
    /// Show this host, its peers and its file sets
    #[command(after_help = examples::STATUS)]
    Status(JsonArgs),
    /// Wait until every replica has what is there now
    #[command(after_help = examples::WAIT)]
    Wait(WaitArgs),
    /// Show the modification log
    #[command(after_help = examples::LOG)]
    Log(LogArgs),
    /// Compare a file set between its hosts, content and attributes
    #[command(after_help = examples::VERIFY)]
    Verify(VerifyArgs),
    /// Mount a file set of this host, or of the cluster as a client
    #[command(after_help = examples::MOUNT)]
    Mount(MountArgs),
    /// Unmount a file set
    #[command(after_help = examples::UMOUNT)]
    Umount(UmountArgs),
    /// Show what this host caches as a client
    #[command(after_help = examples::CACHE)]
    Cache(JsonArgs),
    /// Keep files of a client's mount on this host, and fetch them as soon as they change
    #[command(after_help = examples::PIN)]
    Pin(PinArgs),
    /// Let pinned files go again when room is needed
    #[command(after_help = examples::UNPIN)]
    Unpin(PinArgs),
    /// Fetch files of a client's mount now
    #[command(after_help = examples::PREFETCH)]
    Prefetch(PathsArgs),
    /// Let files of a client's mount go from the cache
    #[command(after_help = examples::EVICT)]
    Evict(PathsArgs),
    /// Show who may change a file or directory of a mount, and who is told of changes
    #[command(after_help = examples::WHO)]
    Who(WhoArgs),
    /// Give back the right to modify a file set, or take it from a client
    #[command(subcommand, after_help = examples::PERMIT)]
    Permit(PermitCommand),
    /// Check the object database of a file set against its files
    #[command(after_help = examples::FSCK)]
    Fsck(FsckArgs),
    /// Write man pages or shell completions (for packagers)
    #[command(hide = true, after_help = examples::GENERATE)]
    Generate(GenerateArgs),
}

/// Options of `lento who`.
#[derive(Debug, Clone, Args)]
pub struct WhoArgs {
    /// A path on a mount of this host
    pub path: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A command of `lento permit`.
#[derive(Debug, Clone, Subcommand)]
pub enum PermitCommand {
    /// Give it back to the holder, once all that was written here is sent
    #[command(after_help = examples::PERMIT_RELEASE)]
    Release(NameArgs),
    /// On the holder: take it from a client at once; what that has not sent it keeps aside
    #[command(after_help = examples::PERMIT_BREAK)]
    Break(NameArgs),
}

/// The option of commands that name a file set only.
#[derive(Debug, Clone, Args)]
pub struct NameArgs {
    /// The file set
    pub name: FileSetName,
}

/// Options of `lento init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Name of this host, unique in the cluster
    #[arg(long, value_name = "HOST")]
    pub name: HostName,
    /// Address and port on which other hosts reach this one
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
}

/// Options of `lento daemon`.
#[derive(Debug, Clone, Args)]
pub struct DaemonArgs {
    /// Say more: once for what is done, twice for every step (RUST_LOG, if set, decides instead)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Log as JSON, one object a line
    #[arg(long)]
    pub log_json: bool,
}

/// Options of `lento invite`.
#[derive(Debug, Clone, Args)]
pub struct InviteArgs {
    /// The file set that the new host may have
    #[arg(long, value_name = "NAME")]
    pub fileset: FileSetName,
    /// As a client only, which stores nothing but what it uses; otherwise the host may replicate the file set as well
    #[arg(long)]
    pub client: bool,
    /// What a client may do
    #[arg(long, value_name = "ACCESS", requires = "client", default_value = "rw")]
    pub access: AccessArg,
    /// How long the ticket is good for
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    pub expires: Duration,
}

/// What a client may do with a file set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccessArg {
    /// Read it
    Ro,
    /// Read and change it
    Rw,
}

impl InviteArgs {
    /// What the ticket is to give.
    pub fn grant(self) -> Grant {
        let access = match self.access {
            AccessArg::Ro => Access::ReadOnly,
            AccessArg::Rw => Access::ReadWrite,
        };
        let role = if self.client { Role::Client } else { Role::Replicator };
        Grant { fileset: self.fileset, role, access }
    }
}

/// Options of `lento join`.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    /// The ticket that `lento invite` printed; `-` reads it from standard input
    pub ticket: String,
    /// Name of this host, unique in the cluster; a host that is a member has one
    #[arg(long, value_name = "HOST")]
    pub name: Option<HostName>,
    /// Address and port on which other hosts reach this one; a host that will hold no file sets needs none
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
}

/// The option of commands that have no other.
#[derive(Debug, Clone, Args)]
pub struct JsonArgs {
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Options of `lento wait`.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// The file set
    pub name: FileSetName,
    /// Longest time to wait; without it, for ever
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

/// Options of `lento log`.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// The file set
    pub name: FileSetName,
    /// Go on with new records until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Print one JSON object a record
    #[arg(long)]
    pub json: bool,
}

/// Options of `lento verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The file set
    pub name: FileSetName,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `lento mount`.
#[derive(Debug, Clone, Args)]
pub struct MountArgs {
    /// The file set
    pub name: FileSetName,
    /// Where; the store itself can be covered by its own mount
    pub dir: PathBuf,
    /// On a client: bytes that the cache holds at most, as 500M or 20G [default: 20GiB]
    #[arg(long, value_name = "BYTES")]
    pub cache_size: Option<bytesize::ByteSize>,
    /// On a client: let nothing be changed
    #[arg(long)]
    pub read_only: bool,
    /// Waiting
    #[command(flatten)]
    pub waiting: WaitOptions,
}

/// Options of `lento umount`.
#[derive(Debug, Clone, Args)]
pub struct UmountArgs {
    /// The mount point, or the name of the file set
    pub target: PathBuf,
}

/// Options of `lento fsck`.
#[derive(Debug, Clone, Args)]
pub struct FsckArgs {
    /// The file set
    pub name: FileSetName,
    /// Make the database anew from the files, then compare with the other hosts
    #[arg(long)]
    pub rebuild: bool,
}

/// What `lento generate` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// Man pages, section 1
    Man,
    /// Completions for bash, zsh and fish
    Completions,
}

/// Options of `lento generate`.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// What
    pub what: Generated,
    /// Directory to write to
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::{Cli, Command, FilesetCommand};
    use crate::control::WaitPolicy;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands() {
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("lento "), "`{}` has no example", sub.get_name());
                assert!(sub.get_about().is_some(), "`{}` is not described", sub.get_name());
                check(sub);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn every_example_parses() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for example in help.lines().filter_map(|line| line.trim().strip_prefix("# ").or(Some(line.trim()))) {
                if !example.starts_with("lento ") {
                    continue;
                }
                let words =
                    example.split_whitespace().take_while(|word| !["|", "&&", "||", ";", "#", ">", "<"].contains(word));
                if let Err(why) = Cli::try_parse_from(words) {
                    panic!("{example:?}: {why}");
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn a_time_limit_needs_a_soft_mount() {
        let parse = |rest: &[&str]| {
            Cli::try_parse_from(["lento", "fileset", "create", "web", "--store", "/s"].iter().chain(rest))
        };
        assert!(parse(&["--timeout", "5s"]).is_err());
        assert!(parse(&["--hard", "--soft"]).is_err());
        let policy = |rest| match parse(rest).expect("legal").command {
            Command::Fileset(FilesetCommand::Create(args)) => args.mount.policy(),
            other => panic!("{other:?}"),
        };
        assert_eq!(policy(&[]), WaitPolicy::Hard);
        assert_eq!(policy(&["--soft"]), WaitPolicy::Soft { timeout_ms: 30_000 });
        assert_eq!(policy(&["--soft", "--timeout", "500ms"]), WaitPolicy::Soft { timeout_ms: 500 });
    }
}
