//! The filter of one file set, as a process: started by Lento, or by hand.

use anyhow::Context;
use clap::Parser;
use std::{io::IsTerminal, path::PathBuf, time::Duration};

/// Mounts a file set's store and logs every change that is made through the mount.
///
/// Lento starts this by itself. By hand, without a Lento, files can be read; changes wait until a Lento gives the permit.
///
/// Example: presto --store /srv/web --mount /srv/web --fileset 00112233445566778899aabbccddeeff --host 1 --socket
/// /var/lib/intermezzo/presto.sock
#[derive(Debug, Parser)]
#[command(version, name = "presto")]
struct Arguments {
    /// The native directory to filter, on ext4
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Where the store can be opened while a mount that nobody serves any more covers it
    #[arg(long, value_name = "DIR")]
    bottom: Option<PathBuf>,
    /// Where to mount it; may be the store itself. A mount there that nobody serves any more is replaced
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,
    /// The file set's id, 32 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    fileset: protocol::FileSetId,
    /// The file set's name, shown as source of the mount
    #[arg(long, value_name = "NAME", default_value = "fileset")]
    name: String,
    /// This host's number in its cluster
    #[arg(long, value_name = "N")]
    host: protocol::HostId,
    /// Unix socket on which Lento listens
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Threads that answer the kernel
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Let changes that wait this long for the permit fail with ETIMEDOUT; the default is to wait until interrupted
    #[arg(long, value_name = "SECS")]
    soft: Option<u64>,
    /// The last number that an earlier log of this host in this file set gave: a new log begins well after it
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    numbers_after: u64,
    /// The store is a client's cache: what is absent in it is asked for when it is needed
    #[arg(long)]
    on_demand: bool,
    /// Let nothing be changed through the mount
    #[arg(long)]
    read_only: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("PRESTO_LOG")
        .or_else(|_| tracing_subscriber::EnvFilter::try_new("info,fuser::session=warn,fuser::reply=off"))
        .context("PRESTO_LOG is not a filter")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    presto::run(presto::Options {
        store: arguments.store,
        bottom: arguments.bottom,
        mount: arguments.mount,
        fileset: arguments.fileset,
        name: arguments.name,
        host: arguments.host,
        socket: arguments.socket,
        threads: arguments.threads.into(),
        soft: arguments.soft.map(Duration::from_secs),
        numbers_after: arguments.numbers_after,
        on_demand: arguments.on_demand,
        read_only: arguments.read_only,
    })?;
    Ok(())
}
