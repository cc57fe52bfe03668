//! What the filter costs: the same work on native ext4, through Presto, and through bindfs, in turns on one device.

use crate::{
    lfs, reference,
    stopwatch::{Timings, settle},
    work::Material,
};
use anyhow::Result;
use intermezzo_tests::{
    image::{GIB, Image, MIB},
    presto::{PrestoMount, fuse_is_mounted},
    shell::{cmd, eventually},
    workspace::Workspace,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Turns; the medians of them are printed.
    pub(crate) rounds: usize,
    small_files: usize,
    large_bytes: u64,
}

impl Size {
    /// For a glance, or for figures.
    pub(crate) fn new(quick: bool) -> Self {
        if quick {
            Self { rounds: 3, small_files: 2_000, large_bytes: 256 * MIB }
        } else {
            Self { rounds: 5, small_files: 10_000, large_bytes: GIB }
        }
    }
}

struct Contestant {
    name: &'static str,
    dir: PathBuf,
    timings: Timings,
}

/// Runs everything and prints the table.
pub(crate) fn run(size: Size) -> Result<()> {
    let space = Workspace::new()?;
    let (image, kind) = device(space.path())?;
    let material = Material::gather(space.path())?;
    let mut contestants = vec![contestant("native", image.path().join("native"))?];
    let presto = PrestoMount::start(space.path(), &image.path().join("presto"))?;
    contestants.push(contestant("presto", presto.path().join("work"))?);
    let bindfs = Bindfs::start(&image.path().join("bindfs"), &space.path().join("bindfs"))?;
    if let Some(bindfs) = &bindfs {
        contestants.push(contestant("bindfs", bindfs.mount.join("work"))?);
    }
    for round in 0..size.rounds {
        eprintln!("filter: round {} of {}", round + 1, size.rounds);
        for part in 0..3 {
            // Each goes first in turn: what an earlier one left in the caches is nobody's advantage.
            contestants.rotate_left(1);
            for Contestant { dir, timings, .. } in &mut contestants {
                match part {
                    0 => lfs::small(dir, size.small_files, timings)?,
                    1 => lfs::large(dir, size.large_bytes, timings)?,
                    _ => material.round(dir, timings)?,
                }
                settle(dir)?;
            }
        }
    }
    contestants.sort_by_key(|c| ["native", "presto", "bindfs"].iter().position(|n| *n == c.name));
    print(&contestants, size, kind);
    if bindfs.is_none() {
        println!("(bindfs is not installed: apt-get install bindfs)");
    }
    drop((bindfs, presto, image));
    Ok(())
}

fn contestant(name: &'static str, dir: PathBuf) -> Result<Contestant> {
    fs::create_dir_all(&dir)?;
    Ok(Contestant { name, dir, timings: Timings::default() })
}

/// zram is the steadiest; a loop device on a file in memory the next.
fn device(dir: &Path) -> Result<(Image, &'static str)> {
    match Image::on_zram(dir, "disk", 8 * GIB) {
        Ok(image) => Ok((image, "zram")),
        Err(_) => Ok((Image::on_loop(dir, "disk", 8 * GIB)?, "a loop device")),
    }
}

struct Bindfs {
    mount: PathBuf,
}

impl Bindfs {
    fn start(bottom: &Path, mount: &Path) -> Result<Option<Self>> {
        if cmd("bindfs", ["--version"]).run().is_err() {
            return Ok(None);
        }
        fs::create_dir_all(bottom)?;
        fs::create_dir_all(mount)?;
        cmd("bindfs", [bottom, mount]).ok()?;
        eventually(Duration::from_secs(5), "bindfs mounts", || fuse_is_mounted(mount))?;
        Ok(Some(Self { mount: mount.to_owned() }))
    }
}

impl Drop for Bindfs {
    fn drop(&mut self) {
        let _ = cmd("umount", [&self.mount]).run();
    }
}

fn print(contestants: &[Contestant], size: Size, kind: &str) {
    let native = &contestants[0].timings;
    println!(
        "\nThe filter, as ratios to native ext4 (with journal, on {kind}); medians of {} rounds in turns.\n\
         {} small files of 1 KiB; large file of {} MiB in blocks of 8 KiB; archive of 8,000 source files.\n\
         \"bare\" and \"tuned\" are figures of a bare Rust filter measured elsewhere, for orientation.\n",
        size.rounds,
        size.small_files,
        size.large_bytes / MIB
    );
    let heads: Vec<String> = contestants[1..].iter().map(|c| format!("{:>8} {:>13}", c.name, "min-max")).collect();
    println!("{:<22} {:>12} {} {:>8} {:>8}", "", "native", heads.join(" "), "bare", "tuned");
    for phase in native.phases() {
        let Some(base) = native.median(phase) else { continue };
        print!("{phase:<22} {:>9.1} ms", base.as_secs_f64() * 1e3);
        for contestant in &contestants[1..] {
            match contestant.timings.ratios(native, phase) {
                Some((low, median, high)) => print!(" {median:>8.2} {:>13}", format!("{low:.2}-{high:.2}")),
                None => print!(" {:>8} {:>13}", "-", ""),
            }
        }
        match reference::of(phase) {
            Some(row) => println!(" {:>8.2} {:>8.2}", row.bare, row.tuned),
            None => println!(" {:>8} {:>8}", "-", "-"),
        }
    }
}
