//! Cuts of the network: the side with the permit goes on, the other's writers wait, and can be interrupted.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Cluster, Options, with_pair},
    dice::{Dice, scaled},
    host::Host,
    network::Cut,
    shell::{cmd, eventually, sh, wait_for},
};
use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::Child,
    time::{Duration, Instant},
};

const CONVERGE: Duration = Duration::from_secs(60);
/// A silent peer is given up after 10 s.
const NOTICED: Duration = Duration::from_secs(20);

const WRITERS: [&str; 3] = ["patient", "int", "kill"];

/// A process that writes one file, and waits if it must.
fn writer(cluster: &Cluster, host: &Host, name: &str) -> Result<Child> {
    // Whoever runs the tests in the background may ignore SIGINT, and dd would inherit that.
    sh("exec env --default-signal=INT dd if=/dev/zero of=\"$1\" bs=100 count=1", [host.at(name)])
        .spawn(&cluster.path().join("writers.log"))
}

fn ended(child: &mut Child, within: Duration) -> Result<Option<std::process::ExitStatus>> {
    wait_for(child, within)
}

fn interrupted_by(mut child: Child, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(child.id() as i32), signal)?;
    let begin = Instant::now();
    let status = ended(&mut child, Duration::from_secs(5))?;
    let status = status.with_context(|| format!("a waiting writer does not end on {signal}"))?;
    ensure!(status.signal() == Some(signal as i32), "a waiting writer ended with {status}, not by {signal}");
    println!("a waiting writer ended {:?} after {signal}", begin.elapsed());
    Ok(())
}

#[test]
fn in_a_cut_the_permit_side_goes_on_and_the_others_writers_wait_interruptibly() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        for (holder_of_permit, other) in [(0, 1), (1, 0)] {
            one_cut(cluster, holder_of_permit, other)?;
        }
        Ok(())
    })
}

fn one_cut(cluster: &Cluster, with: usize, without: usize) -> Result<()> {
    let (with, without) = (&cluster[with], &cluster[without]);
    let word = with.name();
    // One each, as the kernel keeps a directory locked while an entry is made in it: others who come to the same
    // directory wait in the kernel, where nobody can interrupt them, until the first is.
    WRITERS.iter().try_for_each(|name| fs::create_dir_all(with.at(word).join(name)))?;
    fs::write(with.at(format!("{word}/permit")), "is here")?;
    cluster.converge(CONVERGE)?;
    cluster.cut()?;
    let begin = Instant::now();

    let mut patient = writer(cluster, without, &format!("{word}/patient/file"))?;
    let by_int = writer(cluster, without, &format!("{word}/int/file"))?;
    let by_kill = writer(cluster, without, &format!("{word}/kill/file"))?;
    eventually(NOTICED, "both sides notice the cut", || {
        Ok(with.fileset()?["state"] == "disconnected" && without.fileset()?["state"] == "disconnected")
    })?;
    ensure!(fs::read(without.at(format!("{word}/permit")))? == b"is here", "what is cached is not served");
    let mut written = 0;
    while begin.elapsed() < scaled(Duration::from_secs(14), Duration::from_secs(60)) {
        fs::write(with.at(format!("{word}/file {written}")), format!("{written}"))?;
        written += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupted_by(by_int, Signal::SIGINT)?;
    interrupted_by(by_kill, Signal::SIGKILL)?;
    ensure!(ended(&mut patient, Duration::ZERO)?.is_none(), "a writer without the permit did not wait");

    let dropped = cluster.heal()?;
    let status = ended(&mut patient, CONVERGE)?.context("a writer still waits after the cut was healed")?;
    ensure!(status.success(), "the writer that waited failed: {status}");
    cluster.converge(CONVERGE)?;
    for host in cluster.hosts() {
        ensure!(fs::metadata(host.at(format!("{word}/patient/file")))?.len() == 100, "no patient on {}", host.name());
        ensure!(host.at(format!("{word}/file {}", written - 1)).exists(), "the last file is not on {}", host.name());
        for gone in ["int", "kill"] {
            // The writer was interrupted before its file could be made.
            ensure!(!host.at(format!("{word}/{gone}/file")).exists(), "{gone} was made on {}", host.name());
        }
    }
    println!("cut with the permit at {word}: {written} files written, {dropped} packets dropped");
    Ok(())
}

#[test]
fn on_a_soft_mount_a_writer_without_the_permit_fails_in_time() -> Result<()> {
    with_pair(Options::pair().mount_options(&["--soft", "--timeout", "2s"]), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        fs::write(a.at("file"), "the permit is at a")?;
        cluster.converge(CONVERGE)?;
        cluster.cut()?;
        let begin = Instant::now();
        let error = fs::write(b.at("file"), "no").err().context("a write without the permit succeeded in a cut")?;
        let took = begin.elapsed();
        ensure!(error.raw_os_error() == Some(libc::ETIMEDOUT), "it failed with {error}, not with a time-out");
        ensure!((1500..6000).contains(&took.as_millis()), "it failed after {took:?}, not after 2 s");
        fs::write(a.at("file"), "a goes on")?;
        cluster.heal()?;
        cluster.sees(1, "file", b"a goes on")?;
        eventually(CONVERGE, "b can write again", || Ok(fs::write(b.at("from b"), "b").map(|()| true)?))?;
        cluster.converge(CONVERGE).map(|_| ())
    })
}

#[test]
fn one_way_cuts_and_short_ones_end_in_equal_trees() -> Result<()> {
    let mut dice = Dice::new("short cuts");
    let cuts = scaled(5, 40);
    with_pair(Options::pair(), |cluster| {
        let (mut serial, mut dropped) = (0, 0);
        for cut in 0..cuts {
            // Who has the permit when the cut comes goes on; so that each does in turn.
            let host = &cluster[cut % 2];
            let dir = host.at(format!("cut {cut}"));
            fs::create_dir(&dir)?;
            let (from, to) = if dice.below(2) == 0 { (0, 1) } else { (1, 0) };
            cluster.network().cut(Cut::OneWay { from, to })?;
            let length = dice.between(Duration::from_millis(200), Duration::from_secs(3));
            let end = Instant::now() + length;
            while Instant::now() < end {
                fs::write(dir.join(format!("file {serial}")), format!("{serial}").repeat(100))?;
                serial += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            // A cut that comes while the hosts are still pausing after the last one may drop nothing; not all of them do.
            dropped += cluster.network().heal()?;
        }
        ensure!(dropped > 0, "the cuts of the network dropped no packet: there was no fault");
        println!("{cuts} one-way cuts, {dropped} packets dropped, {serial} files written");
        cluster.converge(CONVERGE).map(|_| ())
    })
}

#[test]
fn a_reset_connection_is_made_again() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        for round in 0..5 {
            let reset = |host| {
                let kill =
                    cluster.network().on(host, cmd("ss", ["-K", "sport", "=", ":7400", "or", "dport", "=", ":7400"]));
                Ok::<_, anyhow::Error>(kill.ok()?.lines().filter(|line| line.contains("ESTAB")).count())
            };
            let name = format!("file {round}");
            fs::write(cluster[round % 2].at(&name), "before the reset")?;
            let killed = reset(0)? + reset(1)?;
            ensure!(killed > 0, "no connection was reset: there was no fault");
            fs::write(cluster[round % 2].at(&name), "after it")?;
            cluster.sees(1 - round % 2, &name, b"after it")?;
        }
        cluster.converge(CONVERGE).map(|_| ())
    })
}
