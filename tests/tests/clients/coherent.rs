//! What one host writes the others see, in order, and never as it was before again.

use crate::{AGREE, LIMIT, SOON};
use anyhow::{Context, Result, bail, ensure};
use intermezzo_tests::{
    cluster::{Cluster, with_clients},
    dice::{Dice, scaled},
    shell::eventually,
};
use nix::libc;
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

const FILES: usize = 6;

/// A file as it should be: content and mode, or nothing.
type Seen = Option<(Vec<u8>, u32)>;

fn look(path: &Path) -> Result<Seen> {
    // Both from one descriptor, so that they are of one version.
    let mut file = match File::open(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("open {path:?}"))?,
    };
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut content)?;
    Ok(Some((content, file.metadata()?.permissions().mode() & 0o7777)))
}

/// Changes a file in one of the ways in which people do.
fn change(path: &Path, dice: &mut Dice, token: &str) -> Result<()> {
    let aside = path.with_extension(token);
    let there = path.exists();
    match dice.below(8) {
        0 if there => fs::remove_file(path)?,
        1 if there => OpenOptions::new().append(true).open(path)?.write_all(token.as_bytes())?,
        2 if there => OpenOptions::new().write(true).open(path)?.set_len(dice.below(30) as u64)?,
        3 if there => fs::set_permissions(path, Permissions::from_mode(0o600 + dice.below(64) as u32))?,
        4 if there => {
            fs::rename(path, &aside)?;
            fs::copy(&aside, path)?;
            fs::remove_file(&aside)?;
        }
        5 if there => {
            fs::hard_link(path, &aside)?;
            OpenOptions::new().append(true).open(&aside)?.write_all(token.as_bytes())?;
            fs::remove_file(path)?;
            fs::rename(&aside, path)?;
        }
        6 => {
            fs::write(&aside, token.repeat(1 + dice.below(20_000)))?;
            fs::rename(&aside, path)?;
        }
        _ => fs::write(path, token)?,
    }
    Ok(())
}

#[test]
fn what_one_host_changes_the_others_see() -> Result<()> {
    let mut dice = Dice::new("what one host changes the others see");
    let rounds = scaled(150, 1500);
    with_clients(
        (2, &[], LIMIT),
        |_| Ok(()),
        |cluster| {
            fs::create_dir(cluster[0].at("shared"))?;
            let mut slowest = Duration::ZERO;
            let mut changed = 0;
            for round in 0..rounds {
                let writer = &cluster[dice.below(3)];
                let name = format!("shared/file {}", dice.below(FILES));
                if round == 0 {
                    (1..3).try_for_each(|i| {
                        eventually(SOON, "the directory", || Ok(cluster[i].at("shared").exists())).map(drop)
                    })?;
                }
                change(&writer.at(&name), &mut dice, &format!("token {round} of {}\n", writer.name()))
                    .with_context(|| format!("round {round}, {name} on {}", writer.name()))?;
                let wanted = look(&writer.at(&name))?;
                changed += 1;
                for other in cluster.hosts().iter().filter(|other| other.name() != writer.name()) {
                    let took = eventually(SOON, &format!("{name} of {} on {}", writer.name(), other.name()), || {
                        let found = look(&other.at(&name))?;
                        ensure!(found == wanted, "round {round}: {found:?} instead of {wanted:?}");
                        Ok(true)
                    })?;
                    slowest = slowest.max(took);
                }
            }
            println!("{changed} changes seen, the slowest after {slowest:?}");
            cluster.clients_agree(AGREE).map(drop)
        },
    )
}

/// The serial number that all lines of a content have.
fn serial_of(content: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(content)?;
    let mut lines = text.lines();
    let first: u64 = lines.next().context("an empty file")?.parse()?;
    match lines.find(|line| line.parse::<u64>().ok() != Some(first)) {
        Some(other) => bail!("one content has both {first} and {other}"),
        None => Ok(first),
    }
}

/// Reads what another host writes until told to stop; what it sees only goes forward.
fn follow(path: &Path, stop: &AtomicBool, versions: &AtomicUsize) -> Result<u64> {
    let mut last = 0;
    while !stop.load(Ordering::Relaxed) {
        let serial = match fs::read(path) {
            Ok(content) => serial_of(&content).with_context(|| format!("{path:?} after {last}"))?,
            Err(why) if why.kind() == ErrorKind::NotFound && last == 0 => continue,
            // Replaced twice while it was opened: the kernel looks a stale name up again just once.
            Err(why) if why.raw_os_error() == Some(libc::ESTALE) => continue,
            Err(why) => return Err(why).with_context(|| format!("read {path:?}, of which version {last} was seen")),
        };
        ensure!(serial >= last, "{path:?} went back from version {last} to {serial}");
        versions.fetch_add(usize::from(serial > last), Ordering::Relaxed);
        last = serial;
    }
    Ok(last)
}

fn write_versions(path: &Path, stop: &AtomicBool, dice: &mut Dice) -> Result<u64> {
    let aside = path.with_extension("new");
    let mut serial = 0;
    while !stop.load(Ordering::Relaxed) {
        serial += 1;
        fs::write(&aside, format!("{serial}\n").repeat(1 + dice.below(30_000)))?;
        fs::rename(&aside, path).with_context(|| format!("version {serial}"))?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(serial)
}

/// One writer on each host, and each file followed on each other host, until every follower has seen so many versions.
fn write_and_follow(cluster: &Cluster, dice: &mut Dice, wanted: usize) -> Result<()> {
    let (stop, seen) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 6]);
    let mut counters = seen.iter();
    std::thread::scope(|scope| {
        let (mut writers, mut followers) = (Vec::new(), Vec::new());
        for host in cluster.hosts() {
            let mut dice = Dice::from_seed(dice.roll());
            let (path, stop) = (host.at(format!("of {}/file", host.name())), &stop);
            writers.push(scope.spawn(move || write_versions(&path, stop, &mut dice)));
            let others = cluster.hosts().iter().filter(|other| other.name() != host.name());
            for (other, versions) in others.zip(&mut counters) {
                let path = other.at(format!("of {}/file", host.name()));
                followers.push(scope.spawn(move || {
                    let result = follow(&path, stop, versions);
                    // Whoever sees something wrong ends it for all.
                    stop.fetch_or(result.is_err(), Ordering::Relaxed);
                    result
                }));
            }
        }
        // The permit goes from host to host all the while, so that it takes its time.
        let all = eventually(AGREE, "every follower has seen several versions", || {
            let seen: Vec<usize> = seen.iter().map(|versions| versions.load(Ordering::Relaxed)).collect();
            ensure!(stop.load(Ordering::Relaxed) || seen.iter().all(|versions| *versions >= wanted), "seen: {seen:?}");
            Ok(true)
        });
        stop.store(true, Ordering::Relaxed);
        let written = writers.into_iter().map(|w| w.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?);
        let written = written.collect::<Result<Vec<u64>>>()?;
        let followed = followers.into_iter().map(|f| f.join().map_err(|_| anyhow::anyhow!("a follower panicked"))?);
        let followed = followed.collect::<Result<Vec<u64>>>()?;
        println!("versions written {written:?}, seen {seen:?}, the last {followed:?}, in {:?}", all?);
        Ok(())
    })
}

#[test]
fn a_file_that_is_replaced_all_the_time_is_seen_whole_and_only_goes_forward() -> Result<()> {
    let mut dice = Dice::new("a file that is replaced all the time");
    with_clients(
        (2, &[], LIMIT),
        |store| ["a", "b", "c"].iter().try_for_each(|name| Ok(fs::create_dir(store.join(format!("of {name}")))?)),
        |cluster| {
            write_and_follow(cluster, &mut dice, scaled(3, 30))?;
            cluster.clients_agree(AGREE).map(drop)
        },
    )
}
