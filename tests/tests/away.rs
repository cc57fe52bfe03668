//! What a replica gets again after it was away, and how little of it.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Cluster, Options, with_hosts, with_pair},
    dice::Dice,
    image::MIB,
    shell::eventually,
};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

const CONVERGE: Duration = Duration::from_secs(120);
/// Bound of a file set's log, and a segment on either side of it.
const LOG_LIMIT: u64 = (256 + 8) * MIB;

fn noise(path: &Path, bytes: u64) -> Result<()> {
    let mut dice = Dice::from_seed(bytes);
    let mut file = File::create(path)?;
    let mut block = vec![0; MIB as usize];
    for _ in 0..bytes / MIB {
        block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&dice.roll().to_le_bytes()));
        file.write_all(&block)?;
    }
    Ok(())
}

fn received(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.network().traffic(1)?.0)
}

#[test]
fn a_replica_away_longer_than_the_log_reaches_is_compared_and_not_copied_anew() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        noise(&a.at("large"), 100 * MIB)?;
        fs::create_dir(a.at("dir"))?;
        (0..500).try_for_each(|i| fs::write(a.at(format!("dir/{i}")), format!("{i}")))?;
        cluster.converge(CONVERGE)?;
        b.stop()?;

        fs::write(a.at("first"), "its record will be trimmed")?;
        // Too long for ext4, so each is refused, after it was logged: a quick way to a long log.
        let value = vec![b'v'; 60_000];
        let mut most = 0;
        for i in 0..6_000 {
            let refused = xattr::set(a.at("first"), "user.long", &value);
            ensure!(refused.is_err(), "ext4 took an attribute of {} bytes", value.len());
            if i % 500 == 0 {
                most = most.max(a.fileset()?["log_bytes"].as_u64().context("no log_bytes")?);
            }
        }
        ensure!(most > LOG_LIMIT / 2, "the log grew to {most} bytes only: b was not away long enough");
        eventually(Duration::from_secs(15), "the log is within its bound", || {
            let bytes = a.fileset()?["log_bytes"].as_u64();
            ensure!(bytes.is_some_and(|n| n <= LOG_LIMIT), "the log has {bytes:?} bytes");
            Ok(true)
        })?;
        (0..250).try_for_each(|i| fs::remove_file(a.at(format!("dir/{i}"))))?;
        fs::write(a.at("dir/300"), "changed while b was away")?;
        fs::rename(a.at("large"), a.at("moved"))?;
        File::options().write(true).open(a.at("moved"))?.write_all_at(b"a small change", 50 * MIB)?;

        let before = received(cluster)?;
        b.start()?;
        b.wait_mounted()?;
        cluster.converge(CONVERGE)?;
        let bytes = received(cluster)? - before;
        println!("a log of up to {} MiB; {bytes} bytes received to catch up", most / MIB);
        ensure!(!b.at("dir/3").exists() && b.at("moved").exists(), "b has not caught up");
        ensure!(bytes < 30 * MIB, "{bytes} bytes were received: that is a copy, not a comparison");
        Ok(())
    })
}

#[test]
fn a_small_change_of_a_large_file_costs_little() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        noise(&cluster[0].at("large"), 200 * MIB)?;
        cluster.converge(CONVERGE)?;
        let before = received(cluster)?;
        let file = File::options().write(true).open(cluster[0].at("large"))?;
        file.write_all_at(&[1; 1000], 77 * MIB)?;
        file.write_all_at(&[2; 1000], 177 * MIB)?;
        drop(file);
        cluster.wait_on(0, CONVERGE)?;
        let bytes = received(cluster)? - before;
        println!("2,000 bytes changed in 200 MiB: {bytes} bytes received");
        ensure!(bytes < 10 * MIB, "{bytes} bytes were received for a change of 2,000");
        cluster.converge(CONVERGE).map(|_| ())
    })
}

#[test]
fn a_first_copy_whose_daemon_was_killed_goes_on_and_is_mounted() -> Result<()> {
    with_hosts(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        fs::create_dir(a.at("dir"))?;
        (0..60).try_for_each(|i| noise(&a.at(format!("dir/{i}")), MIB))?;
        cluster.create(0)?;
        cluster.join(1)?;
        cluster.network().limit(0, "200mbit")?;
        let before = received(cluster)?;
        std::thread::scope(|scope| -> Result<()> {
            let command = scope.spawn(|| cluster.replicate_joined(1));
            eventually(CONVERGE, "a part was copied", || Ok(received(cluster)? - before > 15 * MIB))?;
            ensure!(b.kill_lento()?, "no daemon to kill");
            let interrupted = command.join().map_err(|_| anyhow::anyhow!("the command panicked"))?;
            ensure!(
                interrupted.is_err(),
                "lento replicate ended before its daemon was killed: nothing was interrupted"
            );
            Ok(())
        })?;
        b.start()?;
        eventually(CONVERGE, "the copy went on and was mounted", || Ok(b.fileset()?["mount"]["state"] == "mounted"))?;
        cluster.converge(CONVERGE)?;
        let bytes = received(cluster)? - before;
        println!("{} MiB received for 60, with a kill in between", bytes / MIB);
        ensure!(bytes < 100 * MIB, "{bytes} bytes were received: it was begun again");
        Ok(())
    })
}

#[test]
fn an_interrupted_transfer_of_a_large_file_is_resumed() -> Result<()> {
    const SIZE: u64 = 200 * MIB;
    with_hosts(Options::pair(), |cluster| {
        cluster.create(0)?;
        cluster.replicate(1)?;
        cluster.network().limit(0, "400mbit")?;
        let before = received(cluster)?;
        noise(&cluster[0].at("large"), SIZE)?;
        let mut kills = 0;
        for part in [50, 120] {
            eventually(CONVERGE, "a part of the file was received", || Ok(received(cluster)? - before > part * MIB))?;
            // The replica may have the file as it was when it was made: empty.
            let there = fs::metadata(cluster[1].at("large")).map_or(0, |meta| meta.len());
            ensure!(there == 0, "the file has {there} bytes before it was received");
            ensure!(cluster[1].kill_lento()?, "no daemon to kill");
            kills += 1;
            cluster[1].start()?;
        }
        cluster.converge(CONVERGE)?;
        let bytes = received(cluster)? - before;
        println!("{kills} kills during {} MiB: {} MiB received", SIZE / MIB, bytes / MIB);
        // Begun again each time, it would have been 370 MiB.
        ensure!(bytes < SIZE + 80 * MIB, "{bytes} bytes were received: it was begun again");
        Ok(())
    })
}
