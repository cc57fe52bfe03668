//! A file that is overwritten while it is fetched: replicas show whole versions only, and never an older one again.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Options, with_pair},
    dice::scaled,
};
use std::{
    fs,
    io::Write,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const BLOCK: usize = 64;
const CONVERGE: Duration = Duration::from_secs(60);

/// A version tells its number and length in each of its blocks, so any mix of two is seen.
fn version(number: usize) -> Vec<u8> {
    let blocks = 1_000 + (number * 7919) % 60_000;
    let mut bytes = Vec::with_capacity(blocks * BLOCK);
    for block in 0..blocks {
        bytes.extend(format!("{number:>20} {blocks:>20} {block:>21}\n").into_bytes());
    }
    bytes
}

fn number_of(bytes: &[u8]) -> Result<usize> {
    let head = bytes.first_chunk::<20>().context("shorter than any version")?;
    let number = std::str::from_utf8(head)?.trim().parse()?;
    let whole = version(number);
    ensure!(bytes.len() == whole.len(), "version {number} has {} bytes, not {}", bytes.len(), whole.len());
    let at = bytes.iter().zip(&whole).position(|(a, b)| a != b);
    ensure!(at.is_none(), "version {number} is mixed with another at byte {at:?}");
    Ok(number)
}

#[test]
fn a_file_overwritten_ten_times_a_second_has_only_whole_versions_on_the_replica() -> Result<()> {
    for in_place in [true, false] {
        with_pair(Options::pair(), |cluster| {
            let (a, b) = (cluster[0].at("file"), cluster[1].at("file"));
            let raw = cluster[1].store().join("file");
            fs::write(&a, version(0))?;
            cluster.sees(1, "file", &version(0))?;
            let stop = AtomicBool::new(false);
            let (written, seen) = std::thread::scope(|scope| {
                let by_mount = scope.spawn(|| watch(&b, &stop));
                let by_store = scope.spawn(|| watch(&raw, &stop));
                let written = overwrite(&a, in_place);
                stop.store(true, Ordering::Relaxed);
                let join = |thread: std::thread::ScopedJoinHandle<'_, Result<usize>>| {
                    thread.join().map_err(|_| anyhow::anyhow!("a watcher panicked"))?
                };
                let seen = join(by_mount)?;
                join(by_store)?;
                anyhow::Ok((written?, seen))
            })?;
            println!("in place: {in_place}; {written} versions written, {seen} seen on the replica, each whole");
            ensure!(seen >= 3, "only {seen} versions were seen: nothing was fetched while it was overwritten");
            cluster.sees(1, "file", &version(written))?;
            cluster.converge(Duration::from_secs(30)).map(|_| ())
        })?;
    }
    Ok(())
}

fn overwrite(file: &Path, in_place: bool) -> Result<usize> {
    let end = Instant::now() + scaled(Duration::from_secs(6), Duration::from_secs(60));
    let mut number = 0;
    while Instant::now() < end {
        let next = Instant::now() + Duration::from_millis(100);
        number += 1;
        if in_place {
            fs::write(file, version(number))?;
        } else {
            let temporary = file.with_extension("new");
            fs::write(&temporary, version(number))?;
            fs::rename(&temporary, file)?;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(number)
}

/// Reads the file again and again; returns how many versions it saw.
fn watch(file: &Path, stop: &AtomicBool) -> Result<usize> {
    let (mut last, mut seen) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let number = number_of(&fs::read(file)?).with_context(|| format!("{file:?} after version {last}"))?;
        ensure!(number >= last, "{file:?} went back from version {last} to {number}");
        if number > last {
            seen += 1;
            last = number;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(seen)
}

/// Its writes cannot be stopped when the permit goes, nor logged before it is here again; the other side must not wait
/// for them.
#[test]
fn a_file_that_is_written_on_and_on_does_not_keep_the_other_side_from_writing() -> Result<()> {
    with_pair(Options::pair().mount_options(&["--soft", "--timeout", "20s"]), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let stop = AtomicBool::new(false);
        let lines = std::thread::scope(|scope| {
            let writer = scope.spawn(|| -> Result<u64> {
                let mut log = fs::File::create(b.at("log"))?;
                let mut lines = 0;
                while !stop.load(Ordering::Relaxed) {
                    lines += 1;
                    writeln!(log, "{lines}")?;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(lines)
            });
            let begin = Instant::now();
            let work = (0..scaled(60, 1000)).try_for_each(|i| -> Result<()> {
                fs::write(a.at(format!("file {i}")), format!("{i}"))?;
                // And now and then the other one needs the permit, too.
                if i % 5 == 0 {
                    fs::write(b.at(format!("other {i}")), format!("{i}"))?;
                }
                ensure!(begin.elapsed() < Duration::from_secs(60), "after a minute only {i} files were written");
                Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            let lines = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
            work.and(lines)
        })?;
        cluster.converge(CONVERGE)?;
        let text = fs::read_to_string(a.at("log"))?;
        let expected: String = (1..=lines).map(|line| format!("{line}\n")).collect();
        ensure!(text == expected, "{} of {} bytes of the log are right", text.len(), expected.len());
        Ok(())
    })
}
