//! The command line of Lento: its definitions, the control protocol, and the client that speaks it.
//!
//! The binary parses [`Cli`]; it does `init`, `join` and `daemon` itself and gives all other commands to
//! [`run_client`]. The daemon listens on [`control::socket_path`] and answers with the types of [`control`].

pub mod args;
mod client;
pub mod control;
mod generate;
mod mount_helper;
mod objects;
mod output;
mod run;

pub use args::{Cli, Command};
pub use client::{Client, ClientError, Events};
pub use mount_helper::{is_mount_helper, run_mount_helper};
pub use output::{Screen, report, status_text};
pub use run::run_client;
