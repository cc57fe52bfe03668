//! A client that is away and has the permit: others wait for it no longer than its lease.

use crate::{AGREE, LIMIT, SOON};
use anyhow::{Context, Result, ensure};
use intermezzo_tests::{cluster::with_clients, shell::eventually};
use std::{
    fs,
    time::{Duration, Instant},
};

/// The silence after which a host counts as away, the lease, and time to work.
const LEASE: Duration = Duration::from_secs(45);

#[test]
fn a_client_that_is_away_loses_the_permit_and_keeps_aside_what_it_had_not_sent() -> Result<()> {
    with_clients(
        (1, &[], LIMIT),
        |store| Ok(fs::write(store.join("both"), "base")?),
        |cluster| {
            let (a, b) = (&cluster[0], &cluster[1]);
            fs::write(b.at("sent"), "sent")?;
            cluster.sees(0, "sent", b"sent")?;
            eventually(SOON, "the permit is on the client", || Ok(a.fileset()?["permit"]["at"] == b.name()))?;
            cluster.cut()?;
            fs::write(b.at("unsent"), "unsent")?;
            fs::write(b.at("both"), "from b")?;
            let began = Instant::now();
            fs::write(a.at("both"), "from a").context("the holder writes")?;
            ensure!(began.elapsed() < LEASE, "the holder waited {:?}", began.elapsed());
            cluster.heal()?;
            cluster.sees(1, "both", b"from a")?;
            eventually(AGREE, "what was not sent is undone", || Ok(!b.at("unsent").exists()))?;
            let kept = b.home().join("cache/web/.intermezzo/conflicts");
            let mut contents = Vec::new();
            for entry in fs::read_dir(&kept).with_context(|| format!("read {}", kept.display()))? {
                contents.push(fs::read_to_string(entry?.path())?);
            }
            contents.sort();
            ensure!(contents == ["from b", "unsent"], "kept aside are {contents:?}");
            fs::write(b.at("again"), "again").context("the client writes again")?;
            cluster.sees(0, "again", b"again")?;
            b.lento(["permit", "release", "web"]).run()?;
            eventually(SOON, "the permit is at home", || Ok(a.fileset()?["permit"]["at"] == a.name())).map(drop)
        },
    )
}
