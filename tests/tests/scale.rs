//! Large numbers and short times. Bounds are wider than the targets, as other programs may run beside the tests; what was
//! measured is printed.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Options, with_hosts, with_pair},
    dice::scaled,
    image::MIB,
    process, replay,
    shell::eventually,
    sources,
};
use std::{
    fs,
    time::{Duration, Instant},
};

const LONG: Duration = Duration::from_secs(600);
const PRESTO_MEMORY: u64 = 200 * MIB;

#[test]
fn close_here_is_visible_there_within_milliseconds() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let mut times = Vec::new();
        for i in 0..scaled(200, 2000) {
            let name = format!("file {}", i % 50);
            let text = format!("{i}\n");
            fs::write(cluster[0].at(&name), &text)?;
            let closed = Instant::now();
            let there = cluster[1].at(&name);
            while fs::read(&there).ok().as_deref() != Some(text.as_bytes()) {
                ensure!(closed.elapsed() < Duration::from_secs(10), "{name} does not arrive");
                std::thread::sleep(Duration::from_micros(200));
            }
            times.push(closed.elapsed());
        }
        times.sort();
        let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("close to visible: median {median:?}, 99 % {p99:?}");
        ensure!(median < Duration::from_millis(50), "the median is {median:?}");
        cluster.converge(LONG).map(|_| ())
    })
}

#[test]
fn after_an_untar_of_8000_files_the_replica_is_equal_at_once() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let archive = sources::archive(cluster.path(), 8_000)?;
        let begin = Instant::now();
        sources::unpack(&archive, &cluster[0].mount())?;
        let ended = Instant::now();
        cluster.wait_on(0, LONG)?;
        println!("untar took {:?}; equal {:?} after its end", ended - begin, ended.elapsed());
        ensure!(ended.elapsed() < Duration::from_secs(10), "the replica was equal only {:?} later", ended.elapsed());
        cluster.converge(LONG).map(|_| ())
    })
}

#[test]
fn a_directory_of_100_000_files_is_renamed_as_one_record_within_a_second() -> Result<()> {
    const FILES: usize = 100_000;
    with_hosts(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        fs::create_dir(a.at("crowd"))?;
        (0..FILES).try_for_each(|i| fs::File::create(a.at(format!("crowd/{i}"))).map(|_| ()))?;
        let begin = Instant::now();
        cluster.create(0)?;
        println!("{FILES} files adopted in {:?}", begin.elapsed());
        let begin = Instant::now();
        cluster.replicate(1)?;
        println!("and copied in {:?}", begin.elapsed());
        // The permit comes with the first change, which is not what is measured.
        fs::write(a.at("first"), "change")?;
        cluster.sees(1, "first", b"change")?;
        ensure!(fs::read_dir(b.at("crowd"))?.count() == FILES, "b has not {FILES} files");
        let records = replay::records(a)?.len();

        let begin = Instant::now();
        fs::rename(a.at("crowd"), a.at("moved"))?;
        eventually(LONG, "the rename is on b", || Ok(b.at("moved/99999").exists() && !b.at("crowd").exists()))?;
        let time = begin.elapsed();
        let more = replay::records(a)?.len() - records;
        println!("a directory of {FILES} files renamed: {more} record, visible on b after {time:?}");
        ensure!(more == 1, "{more} records for one rename");
        ensure!(time < Duration::from_secs(3), "it took {time:?}");
        cluster.converge(LONG).map(|_| ())
    })
}

#[test]
fn more_objects_than_descriptors_and_presto_stays_small() -> Result<()> {
    let (directories, files) = scaled((60, 500), (400, 500));
    with_pair(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let limit = fs::read_to_string(format!("/proc/{}/limits", a.prestos().first().context("no presto")?))?;
        let limit: usize = limit
            .lines()
            .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().nth(1)?.parse().ok())
            .context("no limit of open files")?;
        for d in 0..directories {
            fs::create_dir(a.at(format!("{d}")))?;
            (0..files).try_for_each(|f| fs::write(a.at(format!("{d}/{f}")), "x"))?;
        }
        let objects = cluster.converge(LONG)?;
        ensure!(objects == 1 + directories + directories * files, "{objects} objects");
        ensure!(objects > 25_000 && limit <= 20_000, "{objects} objects, {limit} descriptors: there is no pressure");
        for host in [a, b] {
            // Each has been looked up and read by now; once more, so that none of it is forgotten between.
            for d in 0..directories {
                (0..files).try_for_each(|f| fs::metadata(host.at(format!("{d}/{f}"))).map(|_| ()))?;
            }
            let presto = *host.prestos().first().context("no presto")?;
            let (now, most) = process::memory(presto)?;
            let open = process::descriptors(presto)?;
            println!(
                "{objects} objects on {}: presto uses {} MiB, at most {}; {open} descriptors",
                host.name(),
                now / MIB,
                most / MIB
            );
            ensure!(most < PRESTO_MEMORY, "presto used {} MiB", most / MIB);
            ensure!(open < 5_000, "presto has {open} descriptors open");
        }
        Ok(())
    })
}
