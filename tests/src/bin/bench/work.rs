//! Everyday work on a tree of real sources: untar, walk, build, remove.

use crate::stopwatch::Timings;
use anyhow::{Context, Result, ensure};
use intermezzo_tests::shell::{cmd, sh};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

const LONG: Duration = Duration::from_secs(600);
/// Warm walks timed as one, as a single one is over too soon to be measured well.
const WALKS: usize = 10;

/// What the work is done with; made once, outside of the file systems that are compared.
#[derive(Debug)]
pub(crate) struct Material {
    /// An uncompressed archive of some 8,000 files.
    pub(crate) archive: PathBuf,
    c_source: PathBuf,
}

impl Material {
    /// Gathers it in `dir` from the sources of crates that cargo has fetched to build this very program.
    pub(crate) fn gather(dir: &Path) -> Result<Self> {
        let archive = intermezzo_tests::sources::archive(dir, 8_000)?;
        let zstd = intermezzo_tests::sources::crate_dir("zstd-sys")?.join("zstd/lib");
        ensure!(zstd.is_dir(), "no C source at {zstd:?}");
        Ok(Self { archive, c_source: zstd })
    }

    /// One round in `dir`.
    pub(crate) fn round(&self, dir: &Path, timings: &mut Timings) -> Result<()> {
        let tree = dir.join("tree");
        std::fs::create_dir(&tree)?;
        timings.measure("untar", dir, || {
            cmd("tar", ["-xf"]).arg(&self.archive).arg("-C").arg(&tree).timeout(LONG).ok().map(|_| ())
        })?;
        cmd("find", [&tree]).args(["-printf", "%s"]).timeout(LONG).ok()?;
        timings.measure("walk (find), warm", dir, || {
            (0..WALKS).try_for_each(|_| cmd("find", [&tree]).args(["-size", "+9G"]).timeout(LONG).ok().map(|_| ()))
        })?;
        self.build(dir, timings)?;
        timings.measure("rm -rf", dir, || cmd("rm", ["-rf"]).arg(&tree).timeout(LONG).ok().map(|_| ()))
    }

    fn build(&self, dir: &Path, timings: &mut Timings) -> Result<()> {
        let copy = dir.join("zstd");
        cmd("cp", ["-r"]).arg(&self.c_source).arg(&copy).timeout(LONG).ok()?;
        timings.measure("C build (zstd)", dir, || {
            let script = "ls common/*.c compress/*.c decompress/*.c \
                | xargs -P2 -I{} gcc -O0 -g -DZSTD_DISABLE_ASM=1 -I. -c {} -o {}.o && ar rcs libzstd.a */*.o";
            sh(script, [""; 0]).dir(&copy).timeout(LONG).ok().context("the C build").map(|_| ())
        })?;
        cmd("rm", ["-rf"]).arg(&copy).ok().map(|_| ())
    }
}
