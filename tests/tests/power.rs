//! Loss of power: what was fsynced is there, and both sides end with the same tree.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Cluster, Options, with_pair},
    dice::{Dice, scaled},
    host::Host,
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

const CONVERGE: Duration = Duration::from_secs(60);
const JOURNALS: usize = 3;

/// Lines that were fsynced to each journal, and files that were fsynced with their directory.
#[derive(Debug, Default)]
struct Durable {
    lines: [u64; JOURNALS],
    files: Vec<(String, String)>,
}

/// Appends numbered lines and makes files, fsyncs some and remembers those, until the power goes.
fn application(host: &Host, round: usize, durable: &mut Durable, stop: &AtomicBool) -> u64 {
    let (mut operations, mut serial) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        serial += 1;
        let attempt = (|| -> std::io::Result<()> {
            let journal = serial % JOURNALS;
            let next = durable.lines[journal] + 1;
            let mut file = OpenOptions::new().append(true).create(true).open(host.at(format!("journal {journal}")))?;
            file.write_all(format!("{next}\n").as_bytes())?;
            file.sync_data()?;
            durable.lines[journal] = next;
            // A file that is replaced as editors do it, and one that nobody syncs.
            let (name, text) = (format!("dir/file {}", serial % 20), format!("{round} {serial}\n").repeat(serial));
            let temporary = host.at("dir/temporary");
            fs::write(&temporary, &text)?;
            fs::File::open(&temporary)?.sync_all()?;
            // Until the directory is synced, the name may be that of the old file or of the new one.
            durable.files.retain(|(other, _)| *other != name);
            fs::rename(&temporary, host.at(&name))?;
            if serial % 4 == 0 {
                fs::File::open(host.at("dir"))?.sync_all()?;
                durable.files.push((name, text));
            }
            fs::write(host.at(format!("dir/unsynced {}", serial % 50)), format!("{serial}"))
        })();
        if attempt.is_err() {
            break;
        }
        operations += 1;
    }
    operations
}

/// After a cut, a journal may hold one line more than was acknowledged: the one being synced.
fn check(host: &Host, durable: &mut Durable) -> Result<()> {
    for (journal, acknowledged) in durable.lines.iter_mut().enumerate() {
        let path: PathBuf = host.at(format!("journal {journal}"));
        let text = match fs::read_to_string(&path) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound && *acknowledged == 0 => continue,
            other => other.with_context(|| format!("{path:?}"))?,
        };
        let lines: Vec<u64> = text.lines().map(str::parse).collect::<Result<_, _>>().context("a torn line")?;
        let expected = (1..=lines.len() as u64).collect::<Vec<_>>();
        ensure!(lines == expected, "{path:?} is not what was written: {:?}", &lines[lines.len().saturating_sub(5)..]);
        let count = lines.len() as u64;
        ensure!(
            count == *acknowledged || count == *acknowledged + 1,
            "{path:?} has {count} lines, {acknowledged} were fsynced"
        );
        *acknowledged = count;
    }
    for (name, text) in &durable.files {
        let found = fs::read_to_string(host.at(name)).with_context(|| format!("{name} was fsynced and is lost"))?;
        ensure!(found == *text, "{name} was fsynced and is not what it was");
    }
    Ok(())
}

/// One cut: `writer` works, `victim` loses its power.
fn cut(cluster: &Cluster, dice: &mut Dice, round: usize, durable: &mut Durable) -> Result<u64> {
    let (writer, victim) = (&cluster[dice.below(2)], &cluster[dice.below(2)]);
    let stop = AtomicBool::new(false);
    let operations = std::thread::scope(|scope| {
        let application = scope.spawn(|| application(writer, round, durable, &stop));
        std::thread::sleep(dice.between(Duration::from_millis(200), Duration::from_millis(1500)));
        let finish = || {
            stop.store(true, Ordering::Relaxed);
            application.join().map_err(|_| anyhow::anyhow!("the application panicked"))
        };
        let off = victim.power_off();
        if writer.name() == victim.name() {
            // The application has to be gone before the store can be seen without its mount.
            let operations = finish()?;
            off.and_then(|()| bring_up(victim)).map(|()| operations)
        } else {
            // It may be waiting for the permit, which the victim has.
            let up = off.and_then(|()| bring_up(victim));
            let operations = finish()?;
            up.map(|()| operations)
        }
    })?;
    let context = || format!("cut {round}: {} wrote, {} lost its power", writer.name(), victim.name());
    cluster.converge(CONVERGE).with_context(context)?;
    check(writer, durable).with_context(context)?;
    Ok(operations)
}

fn bring_up(host: &Host) -> Result<()> {
    host.power_on()?;
    host.start()?;
    host.wait_mounted()
}

#[test]
fn after_a_loss_of_power_what_was_fsynced_is_there_and_both_sides_are_equal() -> Result<()> {
    let mut dice = Dice::new("loss of power");
    let cuts = scaled(6, 200);
    with_pair(Options::pair().state_on_disk(), |cluster| {
        fs::create_dir(cluster[0].at("dir"))?;
        cluster.converge(CONVERGE)?;
        let (mut durable, mut operations) = (Durable::default(), 0);
        for round in 0..cuts {
            operations += cut(cluster, &mut dice, round, &mut durable)?;
        }
        println!("{cuts} cuts of power during {operations} rounds of writing; {:?} lines fsynced", durable.lines);
        ensure!(operations > cuts as u64, "hardly anything was written between the cuts");
        Ok(())
    })
}

#[test]
fn both_sides_losing_power_at_once_end_equal() -> Result<()> {
    let mut dice = Dice::new("loss of power on both sides");
    with_pair(Options::pair().state_on_disk(), |cluster| {
        fs::create_dir(cluster[1].at("dir"))?;
        cluster.converge(CONVERGE)?;
        let mut durable = Durable::default();
        for round in 0..scaled(2, 20) {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let application = scope.spawn(|| application(&cluster[1], round, &mut durable, &stop));
                std::thread::sleep(dice.between(Duration::from_millis(300), Duration::from_millis(1500)));
                let cuts = [1, 0].map(|host| scope.spawn(move || cluster[host].power_off()));
                let cuts = cuts.map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a cut panicked"))?);
                stop.store(true, Ordering::Relaxed);
                let _ = application.join();
                cuts.into_iter().collect::<Result<()>>()
            })?;
            cluster.hosts().iter().try_for_each(bring_up)?;
            cluster.converge(CONVERGE).with_context(|| format!("cut {round}"))?;
            check(&cluster[1], &mut durable).with_context(|| format!("cut {round}"))?;
        }
        Ok(())
    })
}
