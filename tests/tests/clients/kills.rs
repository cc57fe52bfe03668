//! SIGKILL of either process of a client while it fetches, and of its holder's: what is read is right, and goes on.

use crate::{AGREE, Known, LIMIT};
use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Cluster, with_clients},
    dice::{Dice, scaled},
    shell::eventually,
};
use nix::libc;
use std::{
    fs, io,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

const FILES: Known = Known { files: 150, largest: 1 << 20 };
/// Far less than the files have, so that there is always something to fetch.
const CACHE: &[&str] = &["--cache-size", "16MiB"];

fn mount_is_gone(why: &io::Error) -> bool {
    matches!(why.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO | libc::ENODEV | libc::EINTR))
}

/// What readers did so far.
#[derive(Debug, Default)]
struct Tally {
    read: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

/// Reads files in any order, and compares each that can be read.
fn read_on(dir: &Path, dice: &mut Dice, tally: &Tally, may_fail: bool) -> Result<()> {
    while !tally.stop.load(Ordering::Relaxed) {
        let file = dice.below(FILES.files);
        let path = FILES.path(dir, file);
        match fs::read(&path) {
            Ok(found) => {
                FILES.compare(&path, file, &found)?;
                tally.read.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) if may_fail && mount_is_gone(&why) => {
                tally.failed.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(why) => return Err(why).with_context(|| format!("read {path:?}")),
        }
    }
    Ok(())
}

/// Has three readers read on client b while `kill` is called several times; after each kill some more is read.
fn read_through(cluster: &Cluster, may_fail: bool, kills: usize, kill: impl Fn(&mut Dice) -> Result<()>) -> Result<()> {
    let mut dice = Dice::new("reads through kills");
    let tally = Tally::default();
    let dir = cluster[1].at("files");
    std::thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let mut dice = Dice::from_seed(dice.roll());
                let (dir, tally) = (&dir, &tally);
                scope.spawn(move || {
                    let result = read_on(dir, &mut dice, tally, may_fail);
                    tally.stop.fetch_or(result.is_err(), Ordering::Relaxed);
                    result
                })
            })
            .collect();
        let killed = (0..kills).try_for_each(|number| {
            let before = tally.read.load(Ordering::Relaxed);
            eventually(Duration::from_secs(30), &format!("reading goes on after {number} kills"), || {
                ensure!(!tally.stop.load(Ordering::Relaxed), "a reader ended");
                Ok(tally.read.load(Ordering::Relaxed) > before + 5)
            })?;
            kill(&mut dice)
        });
        let after = tally.read.load(Ordering::Relaxed);
        let goes_on = killed.and_then(|()| {
            eventually(Duration::from_secs(30), "reading goes on after the last kill", || {
                ensure!(!tally.stop.load(Ordering::Relaxed), "a reader ended");
                Ok(tally.read.load(Ordering::Relaxed) > after + 30)
            })
        });
        tally.stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        goes_on?;
        println!("{kills} kills, {:?}", tally);
        Ok(())
    })?;
    ensure!(!may_fail || tally.failed.load(Ordering::Relaxed) > 0, "no read failed: the kills hit nobody");
    FILES.check_all(&dir)?;
    cluster.clients_agree(AGREE).map(drop)
}

#[test]
fn reads_wait_for_a_client_s_lento_that_was_killed_and_are_right() -> Result<()> {
    with_clients(
        (1, CACHE, LIMIT),
        |store| FILES.make(&store.join("files")),
        |cluster| {
            let b = &cluster[1];
            read_through(cluster, false, scaled(10, 50), |dice| {
                ensure!(b.kill_lento()?, "the daemon of b had died before it was killed");
                std::thread::sleep(dice.between(Duration::ZERO, Duration::from_millis(200)));
                b.start()
            })
        },
    )
}

/// Each time it waits twice as long as the last before it is started again: that bounds how often it is killed.
#[test]
fn reads_are_right_when_a_client_s_presto_is_killed_and_go_on() -> Result<()> {
    with_clients(
        (1, CACHE, LIMIT),
        |store| FILES.make(&store.join("files")),
        |cluster| {
            let b = &cluster[1];
            read_through(cluster, true, scaled(8, 50), |dice| {
                std::thread::sleep(dice.between(Duration::ZERO, Duration::from_millis(200)));
                ensure!(b.kill_presto()? == 1, "there is not one presto on b");
                b.wait_mounted()
            })
        },
    )
}

#[test]
fn reads_wait_for_a_holder_whose_lento_was_killed() -> Result<()> {
    with_clients(
        (1, CACHE, LIMIT),
        |store| FILES.make(&store.join("files")),
        |cluster| {
            let a = &cluster[0];
            read_through(cluster, false, scaled(3, 20), |dice| {
                ensure!(a.kill_lento()?, "the daemon of a had died before it was killed");
                std::thread::sleep(dice.between(Duration::ZERO, Duration::from_millis(300)));
                a.start()
            })
        },
    )
}

/// Both of a client's processes at once, and while it writes: what it acknowledged is not lost.
#[test]
fn what_a_client_wrote_outlives_both_of_its_processes() -> Result<()> {
    with_clients(
        (1, CACHE, LIMIT),
        |store| FILES.make(&store.join("files")),
        |cluster| {
            let b = &cluster[1];
            let mut dice = Dice::new("writes through kills");
            let mut written = Vec::new();
            for round in 0..scaled(5, 30) {
                for i in 0..1 + dice.below(20) {
                    let name = format!("written {round} {i}");
                    FILES.check(&b.at("files"), dice.below(FILES.files))?;
                    fs::write(b.at(&name), crate::noise(i as u64, 10_000 * i))?;
                    written.push((name, i));
                }
                ensure!(b.kill_lento()? && b.kill_presto()? == 1, "not both were there to be killed");
                b.start()?;
                b.wait_mounted()?;
            }
            cluster.clients_agree(AGREE)?;
            for host in cluster.hosts() {
                for (name, i) in &written {
                    ensure!(
                        fs::read(host.at(name))? == crate::noise(*i as u64, 10_000 * i),
                        "{name} on {}",
                        host.name()
                    );
                }
            }
            println!("{} files outlived the kills", written.len());
            Ok(())
        },
    )
}
