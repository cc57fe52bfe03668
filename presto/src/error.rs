//! Why a mount could not be made.

use modlog::LogError;
use nix::errno::Errno;
use std::{io, path::PathBuf};

/// What went wrong, with what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The store cannot be opened.
    #[error("cannot open the store {path}: {source}")]
    Store {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The store is on a file system of another kind.
    #[error("{path} is not on ext2, ext3 or ext4 (its file handles do not fit into 64 bits); put the store on ext4")]
    NotExt4 {
        /// The directory.
        path: PathBuf,
    },
    /// The store's private directory cannot be made or used.
    #[error("cannot use {what} in the store: {source}")]
    Private {
        /// What in it.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Recovery after a crash failed.
    #[error("recovery after a crash failed: {0}")]
    Recovery(String),
    /// The process lacks a privilege.
    #[error("{what}: {source}; presto must run as root")]
    Privilege {
        /// What for.
        what: &'static str,
        /// The system's answer.
        source: Errno,
    },
    /// The mount failed.
    #[error("cannot mount at {path}: {source}; is /dev/fuse there, and the directory not in use?")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A thread could not be started, or the session ended with an error.
    #[error("the mount failed: {0}")]
    Session(io::Error),
    /// Another Presto is at work on this store.
    #[error("another presto serves this store already; unmount it first")]
    Busy,
}
