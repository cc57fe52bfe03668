//! `lento cache`, `pin`, `unpin`, `prefetch`, `evict`: what a client keeps.

use clap::Args;
use std::path::PathBuf;

/// Options of `lento pin` and `lento unpin`.
#[derive(Debug, Clone, Args)]
pub struct PinArgs {
    /// Files or directories on a client's mount
    #[arg(required_unless_present = "profile")]
    pub paths: Vec<PathBuf>,
    /// What is in directories, too
    #[arg(short, long)]
    pub recursive: bool,
    /// A file with one path a line, each taken as with --recursive; empty lines and lines with # are left out
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
}

/// Options of `lento prefetch` and `lento evict`.
#[derive(Debug, Clone, Args)]
pub struct PathsArgs {
    /// Files, or directories with all that is in them, on a client's mount
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
}
