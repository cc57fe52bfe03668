//! `make bench`: what the filter costs, and how fast replication is.

mod filter;
mod lfs;
mod reference;
mod replication;
mod stopwatch;
mod work;

use anyhow::{Result, bail};

const USAGE: &str = "\
Usage: bench [--quick] [filter|replication]
Prints what the filter costs against native ext4, and how fast replication is, beside rsync. As root.
  --quick   less of everything: minutes, not a quarter of an hour";

fn main() -> Result<()> {
    let (mut quick, mut part) = (false, None);
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--quick" => quick = true,
            "filter" | "replication" => part = Some(arg),
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(());
            }
            _ => bail!("unknown argument {arg:?}\n{USAGE}"),
        }
    }
    if part.as_deref() != Some("replication") {
        filter::run(filter::Size::new(quick))?;
    }
    if part.as_deref() != Some("filter") {
        replication::run(quick)?;
    }
    Ok(())
}
