//! The command line of Lento: its definitions, the control protocol, and the client that speaks it.
//!
//! The binary parses [`Cli`]; it does `init`, `join` and `daemon` itself, all other commands are
//! asked of the daemon, which listens on [`control::socket_path`] and answers with the types of [`control`].

pub mod args;
pub mod control;

pub use args::{Cli, Command};
