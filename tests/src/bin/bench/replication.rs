//! How fast replication is: two hosts on one machine, stores on ext4 images with a journal, beside a plain rsync daemon.

use crate::stopwatch::quantile;
use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Cluster, Options, with_hosts, with_pair},
    image::{GIB, MIB},
    shell::{cmd, eventually, kill_group},
    sources,
};
use std::{
    fs::{self, File},
    io::Write,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

const LONG: Duration = Duration::from_secs(600);
const SMALL_FILES: usize = 10_000;
const CROWD: usize = 100_000;

/// Runs everything and prints a line for each measure.
pub(crate) fn run(quick: bool) -> Result<()> {
    let rounds = if quick { 1 } else { 3 };
    println!("\nReplication; two hosts on this machine, TLS between them; medians of {rounds} rounds.\n");
    println!("{:<58} {:>12} {:>12} {:>14}", "", "InterMezzo", "rsync", "target");
    with_pair(Options::pair(), |cluster| latency(cluster, if quick { 200 } else { 1000 }))?;
    untar(rounds)?;
    let gigabyte = if quick { 256 * MIB } else { GIB };
    copies("initial copy of 10,000 files of 1 KiB", rounds, &|dir| small_files(dir, SMALL_FILES))?;
    copies(&format!("initial copy of a file of {} MiB", gigabyte / MIB), rounds, &|dir| {
        large_file(&dir.join("large"), gigabyte)
    })?;
    with_hosts(Options::pair().disks(&[6 * GIB; 2]), |cluster| append(cluster, gigabyte))?;
    with_hosts(Options::pair(), rename)
}

fn line(what: &str, ours: &str, rsync: &str, target: &str) {
    println!("{what:<58} {ours:>12} {rsync:>12} {target:>14}");
}

fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

fn median(times: &[Duration]) -> String {
    quantile(times, 0.5).map_or_else(|| "-".to_owned(), shown)
}

/// Until a reader on the other host sees what was closed here; both idle otherwise.
fn latency(cluster: &Cluster, samples: usize) -> Result<()> {
    let mut times = Vec::new();
    for i in 0..samples {
        let (name, text) = (format!("file {}", i % 100), format!("{i}\n"));
        let there = cluster[1].at(&name);
        fs::write(cluster[0].at(&name), &text)?;
        let closed = Instant::now();
        while fs::read(&there).ok().as_deref() != Some(text.as_bytes()) {
            ensure!(closed.elapsed() < Duration::from_secs(10), "{name} does not arrive");
            std::thread::sleep(Duration::from_micros(100));
        }
        times.push(closed.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    line("close here to visible there, median", &median(&times), "", "10 ms");
    let tail = quantile(&times, 0.99).map_or_else(String::new, shown);
    line("close here to visible there, 99 %", &tail, "", "");
    Ok(())
}

fn untar(rounds: usize) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        with_pair(Options::pair(), |cluster| {
            let archive = sources::archive(cluster.path(), 8_000)?;
            sources::unpack(&archive, &cluster[0].mount())?;
            let ended = Instant::now();
            cluster.wait_on(0, LONG)?;
            times.push(ended.elapsed());
            cluster.converge(LONG).map(|_| ())
        })?;
    }
    line("untar of 8,000 files: end of tar to equal", &median(&times), "", "1 s");
    Ok(())
}

/// The initial copy of what `make` puts into a directory, and the same copy by rsync from a daemon, in turns.
fn copies(what: &str, rounds: usize, make: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        with_hosts(Options::pair().disks(&[6 * GIB; 2]), |cluster| {
            make(&cluster[0].mount())?;
            theirs.push(rsync(cluster)?);
            cluster.create(0)?;
            cluster.join(1)?;
            let begin = Instant::now();
            cluster.replicate_joined(1)?;
            ours.push(begin.elapsed());
            cluster.converge(LONG).map(|_| ())
        })?;
    }
    line(what, &median(&ours), &median(&theirs), "rsync's");
    Ok(())
}

fn rsync(cluster: &Cluster) -> Result<Duration> {
    let (a, b) = (&cluster[0], &cluster[1]);
    let settings = cluster.path().join("rsyncd.conf");
    let text = format!("use chroot = no\nuid = 0\ngid = 0\n[store]\npath = {}\n", a.mount().display());
    fs::write(&settings, text)?;
    let daemon = cmd("rsync", ["--daemon", "--no-detach", "--port", "8730", "--config"]).arg(&settings);
    let mut daemon = cluster.network().on(0, daemon).spawn(&cluster.path().join("rsyncd.log"))?;
    let address = SocketAddr::from((cluster.network().address(0), 8730));
    let up = eventually(Duration::from_secs(5), "rsync listens", || {
        cluster.network().inside(1, || Ok(TcpStream::connect(address).is_ok()))
    });
    let target = b.mount().with_file_name("rsync");
    let copy = cmd("rsync", ["-a"]).arg(format!("rsync://{address}/store/")).arg(&target).timeout(LONG);
    let copied = up.and_then(|_| cluster.network().on(1, copy).run()?.ok());
    kill_group(&mut daemon);
    fs::remove_dir_all(target)?;
    Ok(copied.context("rsync")?.took)
}

fn small_files(dir: &Path, count: usize) -> Result<()> {
    for i in 0..count {
        if i % 100 == 0 {
            fs::create_dir(dir.join(format!("d{}", i / 100)))?;
        }
        fs::write(dir.join(format!("d{}/f{i}", i / 100)), format!("{i:>1024}"))?;
    }
    Ok(())
}

/// Of bytes that do not compress.
fn large_file(path: &Path, bytes: u64) -> Result<()> {
    let mut dice = intermezzo_tests::dice::Dice::from_seed(3);
    let mut file = File::create(path)?;
    let mut block = vec![0; MIB as usize];
    for _ in 0..bytes / MIB {
        block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&dice.roll().to_le_bytes()));
        file.write_all(&block)?;
    }
    Ok(())
}

fn append(cluster: &Cluster, bytes: u64) -> Result<()> {
    large_file(&cluster[0].at("large"), bytes)?;
    cluster.create(0)?;
    cluster.replicate(1)?;
    // What is asked for once, the permit and a signature, is part of it.
    let mut tail = vec![0; MIB as usize];
    File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut tail))?;
    let (down, up) = cluster.network().traffic(1)?;
    let begin = Instant::now();
    File::options().append(true).open(cluster[0].at("large"))?.write_all(&tail)?;
    let there = cluster[1].at("large");
    eventually(LONG, "the append arrives", || Ok(fs::metadata(&there)?.len() == bytes + MIB))?;
    let time = begin.elapsed();
    let (down_after, up_after) = cluster.network().traffic(1)?;
    let wire = (down_after - down + up_after - up) as f64 / 1e6;
    let what = format!("append of 1 MiB to a file of {} MiB", bytes / MIB);
    line(&what, &shown(time), "", "1 s");
    line(&format!("{what}: MB on the wire"), &format!("{wire:.2}"), "", "1.3");
    cluster.converge(LONG).map(|_| ())
}

fn rename(cluster: &Cluster) -> Result<()> {
    let (a, b) = (&cluster[0], &cluster[1]);
    fs::create_dir(a.at("crowd"))?;
    (0..CROWD).try_for_each(|i| File::create(a.at(format!("crowd/{i}"))).map(|_| ()))?;
    cluster.create(0)?;
    cluster.replicate(1)?;
    fs::write(a.at("first"), "the permit comes with it")?;
    cluster.sees(1, "first", b"the permit comes with it")?;
    let begin = Instant::now();
    fs::rename(a.at("crowd"), a.at("moved"))?;
    eventually(LONG, "the rename arrives", || Ok(b.at(format!("moved/{}", CROWD - 1)).exists()))?;
    line("rename of a directory of 100,000 files: visible there", &shown(begin.elapsed()), "", "1 s");
    Ok(())
}
