//! Cuts of the network between a client and its holder.

use crate::{AGREE, Known, LIMIT, SOON, ensure_state};
use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Cluster, with_clients},
    dice::{Dice, scaled},
    host::Host,
    network::Cut,
    shell::{eventually, sh, wait_for},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, os::unix::process::ExitStatusExt, process::Child, time::Duration};

/// A silent peer is given up after 10 s.
const NOTICED: Duration = Duration::from_secs(20);
const FILES: Known = Known { files: 40, largest: 300_000 };

fn reader(cluster: &Cluster, host: &Host, name: &str) -> Result<Child> {
    // Whoever runs the tests in the background may ignore SIGINT, and dd would inherit that.
    let script = "exec env --default-signal=INT dd if=\"$1\" of=\"$2\"";
    sh(script, [host.at(name), cluster.path().join("read")]).spawn(&cluster.path().join("readers.log"))
}

fn interrupted_by(mut child: Child, signal: Signal) -> Result<()> {
    ensure!(child.try_wait()?.is_none(), "a reader of what is absent did not wait");
    kill(Pid::from_raw(child.id() as i32), signal)?;
    let status = wait_for(&mut child, Duration::from_secs(5))?;
    let status = status.with_context(|| format!("a waiting reader does not end on {signal}"))?;
    ensure!(status.signal() == Some(signal as i32), "a waiting reader ended with {status}, not by {signal}");
    Ok(())
}

#[test]
fn in_a_cut_cached_files_are_served_and_readers_of_absent_ones_wait_interruptibly() -> Result<()> {
    with_clients(
        (1, &[], LIMIT),
        |store| FILES.make(&store.join("files")),
        |cluster| {
            let (a, b) = (&cluster[0], &cluster[1]);
            ["changed", "replaced", "removed", "untouched"]
                .iter()
                .try_for_each(|name| fs::write(a.at(name), "before"))?;
            for name in ["changed", "replaced", "removed", "untouched"] {
                cluster.sees(1, name, b"before")?;
            }
            let here: Vec<usize> = (0..10).collect();
            here.iter().try_for_each(|file| FILES.check(&b.at("files"), *file).map(drop))?;
            // Those that a walk fetches ahead are the neighbours; the last is far away, but look.
            let absent: Vec<usize> = (0..FILES.files)
                .filter(|file| b.cache_state(format!("files/file {file}")).is_ok_and(|state| state == "absent"))
                .collect();
            ensure!(absent.len() >= 3, "only {} files are absent", absent.len());
            cluster.cut()?;
            let by_int = reader(cluster, b, &format!("files/file {}", absent[0]))?;
            let by_kill = reader(cluster, b, &format!("files/file {}", absent[1]))?;
            let mut patient = reader(cluster, b, &format!("files/file {}", absent[2]))?;
            here.iter().try_for_each(|file| FILES.check(&b.at("files"), *file).map(drop)).context("in the cut")?;
            eventually(NOTICED, "both sides notice the cut", || {
                Ok(a.fileset()?["state"] == "disconnected" && b.fileset()?["state"] == "disconnected")
            })?;
            here.iter().try_for_each(|file| FILES.check(&b.at("files"), *file).map(drop)).context("disconnected")?;
            ensure_state(b, &format!("files/file {}", absent[2]), "absent")?;
            fs::write(a.at("changed"), "after")?;
            fs::write(a.at("new"), "after")?;
            fs::rename(a.at("new"), a.at("replaced"))?;
            fs::remove_file(a.at("removed"))?;
            ensure!(fs::read(b.at("untouched"))? == b"before", "what is cached is not served");
            interrupted_by(by_int, Signal::SIGINT)?;
            interrupted_by(by_kill, Signal::SIGKILL)?;
            ensure!(patient.try_wait()?.is_none(), "the patient reader did not wait");

            let dropped = cluster.heal()?;
            let status = wait_for(&mut patient, AGREE)?.context("a reader still waits after the cut was healed")?;
            ensure!(status.success(), "the reader that waited failed: {status}");
            FILES.compare(&cluster.path().join("read"), absent[2], &fs::read(cluster.path().join("read"))?)?;
            cluster.sees(1, "changed", b"after")?;
            cluster.sees(1, "replaced", b"after")?;
            eventually(SOON, "what was removed is gone", || Ok(!b.at("removed").exists()))?;
            FILES.check_all(&b.at("files"))?;
            println!("{dropped} packets dropped");
            cluster.clients_agree(AGREE).map(drop)
        },
    )
}

/// A client that was cut off notices by itself what it missed, also if it never noticed the cut.
#[test]
fn after_short_cuts_nothing_stale_is_read() -> Result<()> {
    let mut dice = Dice::new("short cuts of a client");
    let cuts = scaled(6, 40);
    with_clients(
        (1, &[], LIMIT),
        |store| FILES.make(&store.join("files")),
        |cluster| {
            let (a, b) = (&cluster[0], &cluster[1]);
            let mut dropped = 0;
            FILES.check_all(&b.at("files"))?;
            for cut in 0..cuts {
                let cut_now = match dice.below(3) {
                    0 => Cut::OneWay { from: 0, to: 1 },
                    1 => Cut::OneWay { from: 1, to: 0 },
                    _ => Cut::Both(0, 1),
                };
                let name = format!("files/file {}", dice.below(FILES.files));
                cluster.network().cut(cut_now)?;
                let end =
                    std::time::Instant::now() + dice.between(Duration::from_millis(200), Duration::from_millis(1500));
                let mut serial = 0;
                while std::time::Instant::now() < end {
                    serial += 1;
                    let content = format!("cut {cut}, version {serial}\n");
                    fs::write(a.at(&name), &content)?;
                    std::thread::sleep(Duration::from_millis(20));
                }
                dropped += cluster.network().heal()?;
                cluster.sees(1, &name, format!("cut {cut}, version {serial}\n").as_bytes())?;
            }
            ensure!(dropped > 0, "the cuts of the network dropped no packet: there was no fault");
            println!("{cuts} cuts, {dropped} packets dropped");
            cluster.clients_agree(AGREE).map(drop)
        },
    )
}
