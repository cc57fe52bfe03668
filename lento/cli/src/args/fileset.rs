//! `lento fileset …`, and the options that creating and replicating share.

use super::{examples, parse_duration};
use crate::control::WaitPolicy;
use clap::{Args, Subcommand};
use protocol::FileSetName;
use std::{path::PathBuf, time::Duration};

/// How long a writer waits on a `--soft` mount, if no time is given.
const SOFT_TIMEOUT: Duration = Duration::from_secs(30);

/// A command of `lento fileset`.
#[derive(Debug, Clone, Subcommand)]
pub enum FilesetCommand {
    /// Adopt a directory as a new file set and mount it
    #[command(after_help = examples::FILESET_CREATE)]
    Create(CreateArgs),
    /// List the file sets of this host
    #[command(after_help = examples::FILESET_LIST)]
    List(ListArgs),
    /// Forget a file set on this host; its files stay as plain files
    #[command(after_help = examples::FILESET_REMOVE)]
    Remove(RemoveArgs),
}

/// Where to mount, and what writers do that wait for the permit.
#[derive(Debug, Clone, Args)]
pub struct MountOptions {
    /// Where to mount it [default: over the store itself]
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Waiting
    #[command(flatten)]
    pub waiting: WaitOptions,
}

/// What programs do that wait for the permit, or for what a client lacks.
#[derive(Debug, Clone, Args)]
pub struct WaitOptions {
    /// While another host has the permit and cannot be reached, writers wait; Ctrl-C interrupts them (the default)
    #[arg(long, conflicts_with = "soft")]
    pub hard: bool,
    /// Writers fail with ETIMEDOUT instead, after --timeout
    #[arg(long)]
    pub soft: bool,
    /// How long writers wait on a --soft mount [default: 30s]
    #[arg(long, value_name = "DURATION", requires = "soft", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

impl MountOptions {
    /// What the options say about waiting.
    pub fn policy(&self) -> WaitPolicy {
        self.waiting.policy()
    }
}

impl WaitOptions {
    /// What the options say, if they say anything.
    pub fn choice(&self) -> Option<WaitPolicy> {
        (self.hard || self.soft).then(|| self.policy())
    }

    /// What the options say about waiting.
    pub fn policy(&self) -> WaitPolicy {
        if self.soft {
            let timeout = self.timeout.unwrap_or(SOFT_TIMEOUT);
            WaitPolicy::Soft { timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) }
        } else {
            WaitPolicy::Hard
        }
    }
}

/// Options of `lento fileset create`.
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// Name of the new file set, unique in the cluster
    pub name: FileSetName,
    /// The native directory, with or without files in it. On ext4
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// Mounting
    #[command(flatten)]
    pub mount: MountOptions,
}

/// Options of `lento replicate`.
#[derive(Debug, Clone, Args)]
pub struct ReplicateArgs {
    /// The file set
    pub name: FileSetName,
    /// The native directory for the replica, made if it does not exist; it should be empty. On ext4
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// Mounting
    #[command(flatten)]
    pub mount: MountOptions,
}

/// Options of `lento fileset list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Options of `lento fileset remove`.
#[derive(Debug, Clone, Args)]
pub struct RemoveArgs {
    /// The file set
    pub name: FileSetName,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Also when other hosts replicate it, or the holder is gone: what they have not got is given up, and told
    #[arg(long)]
    pub force: bool,
}
