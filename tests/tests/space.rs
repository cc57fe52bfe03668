//! Full disks, on either side.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Options, with_pair},
    dice::Dice,
    image::{GIB, MIB},
    replay,
    shell::eventually,
};
use nix::libc;
use std::{fs, io::Write, path::Path, time::Duration};

const CONVERGE: Duration = Duration::from_secs(90);

fn noise(dice: &mut Dice, bytes: u64) -> Vec<u8> {
    (0..bytes / 8).flat_map(|_| dice.roll().to_le_bytes()).collect()
}

/// Fills the file system of `dir` but for `leave` bytes; the file that does it can be removed to make room.
fn fill(file: &Path, available: u64, leave: u64) -> Result<()> {
    let file = fs::File::create(file)?;
    let bytes = i64::try_from(available.saturating_sub(leave))?;
    Ok(nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, bytes)?)
}

#[test]
fn a_full_disk_on_the_replica_is_told_and_goes_on_by_itself_when_there_is_room() -> Result<()> {
    let mut dice = Dice::from_seed(11);
    with_pair(Options::pair().disks(&[4 * GIB, GIB]), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        fs::write(a.at("before"), "b has this")?;
        cluster.converge(CONVERGE)?;
        let filler = b.mount().with_file_name("filler");
        fill(&filler, b.available()?, 30 * MIB)?;

        for i in 0..10 {
            fs::write(a.at(format!("file {i}")), noise(&mut dice, 10 * MIB))?;
        }
        eventually(Duration::from_secs(30), "status tells of the full disk", || {
            let (here, there) = (b.fileset()?, a.fileset()?);
            let reason = here["replicas"][0]["reason"].as_str().unwrap_or_default().to_lowercase();
            ensure!(here["state"] == "stalled", "b: {here}");
            ensure!(reason.contains("space") || reason.contains("full"), "b: reason {reason:?}");
            Ok(there["replicas"][0]["state"] == "stalled")
        })?;
        let free = b.available()?;
        ensure!(free < 11 * MIB, "the disk of b is not full, {free} bytes are free: there was no fault");
        // Nobody else minds: a goes on, b serves what it has.
        fs::write(a.at("while b is full"), "a goes on")?;
        ensure!(fs::read(b.at("before"))? == b"b has this", "b does not serve what it has");
        fs::rename(a.at("before"), a.at("after"))?;

        fs::remove_file(filler)?;
        let time = cluster.sees(1, "while b is full", b"a goes on")?;
        println!("b went on {time:?} after there was room");
        cluster.converge(CONVERGE).map(|_| ())
    })
}

#[test]
fn a_full_disk_on_the_writer_is_enospc_to_the_application_and_leaves_the_log_intact() -> Result<()> {
    let mut dice = Dice::from_seed(12);
    with_pair(Options::pair().disks(&[GIB, 4 * GIB]), |cluster| {
        let a = &cluster[0];
        fs::write(a.at("before"), "the permit is at a")?;
        let filler = a.mount().with_file_name("filler");
        fill(&filler, a.available()?, 60 * MIB)?;
        fs::create_dir(a.at("dir"))?;

        let (mut refused, mut whole) = (0, Vec::new());
        for i in 0..3000 {
            // Large ones until there is no room for them, then ever smaller, until not even an entry fits.
            let bytes = if refused < 5 {
                MIB
            } else if refused < 20 {
                4096
            } else {
                0
            };
            let name = format!("dir/file {i}");
            match fs::write(a.at(&name), noise(&mut dice, bytes)) {
                Ok(()) => whole.push((name, bytes)),
                Err(why) => {
                    ensure!(why.raw_os_error() == Some(libc::ENOSPC), "{name}: {why}, not ENOSPC");
                    refused += 1;
                }
            }
        }
        ensure!(refused >= 20, "only {refused} writes were refused: the disk was not full");
        println!("{} files written, {refused} writes refused with ENOSPC", whole.len());
        // What needs no room goes on, and room can be made.
        ensure!(fs::read(a.at("before"))? == b"the permit is at a", "reading fails on the full disk");
        let (first, _) = whole.first().context("nothing could be written")?;
        fs::remove_file(a.at(first)).context("remove a file on the full disk")?;

        fs::remove_file(filler)?;
        eventually(Duration::from_secs(10), "a can write again", || {
            Ok(fs::File::create(a.at("again"))?.write_all(b"room").map(|()| true)?)
        })?;
        for (name, bytes) in &whole[1..] {
            ensure!(fs::metadata(a.at(name))?.len() == *bytes, "{name} is not whole");
        }
        replay::assert_log_tells_names(a)?;
        cluster.converge(CONVERGE).map(|_| ())
    })
}
