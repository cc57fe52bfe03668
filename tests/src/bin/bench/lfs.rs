//! The small file and the large file benchmark of LFS (Rosenblum and Ousterhout), as the pFS paper used them.

use crate::stopwatch::{Timings, settle};
use anyhow::Result;
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Instant,
};

const SMALL_BYTES: usize = 1024;
const FILES_A_DIRECTORY: usize = 100;
/// Of one read or write of the large file.
const BLOCK_BYTES: usize = 8192;

/// Creates, reads, overwrites (anew and in place), rewrites with fsync and deletes `count` files of 1 KiB.
pub(crate) fn small(dir: &Path, count: usize, timings: &mut Timings) -> Result<()> {
    let data = [b'a'; SMALL_BYTES];
    let paths: Vec<PathBuf> =
        (0..count).map(|i| dir.join(format!("d{}", i / FILES_A_DIRECTORY)).join(format!("f{i}"))).collect();
    timings.measure("create", dir, || {
        for (i, path) in paths.iter().enumerate() {
            if i % FILES_A_DIRECTORY == 0 {
                fs::create_dir(dir.join(format!("d{}", i / FILES_A_DIRECTORY)))?;
            }
            File::create_new(path)?.write_all_at(&data, 0)?;
        }
        Ok(())
    })?;
    timings.measure("read", dir, || {
        let mut buffer = [0; SMALL_BYTES];
        Ok(paths.iter().try_for_each(|path| File::open(path)?.read_exact_at(&mut buffer, 0))?)
    })?;
    // As a shell's `>` and most programs do it: the old content goes, and ext4 allocates anew.
    timings.measure("overwrite", dir, || {
        let data = [b'b'; SMALL_BYTES];
        Ok(paths.iter().try_for_each(|path| File::create(path)?.write_all_at(&data, 0))?)
    })?;
    // The same blocks again: next to nothing on native ext4, so the requests of open and close are all that shows.
    timings.measure("overwrite in place", dir, || {
        let data = [b'c'; SMALL_BYTES];
        Ok(paths.iter().try_for_each(|path| File::options().write(true).open(path)?.write_all_at(&data, 0))?)
    })?;
    timings.measure("rewrite + fsync", dir, || {
        for path in &paths {
            let file = File::create(path)?;
            file.write_all_at(&data, 0)?;
            file.sync_all()?;
        }
        Ok(())
    })?;
    timings.measure("delete", dir, || {
        paths.iter().try_for_each(fs::remove_file)?;
        Ok((0..count.div_ceil(FILES_A_DIRECTORY)).try_for_each(|i| fs::remove_dir(dir.join(format!("d{i}"))))?)
    })
}

/// Writes, reads, and again at random, one file of `bytes` (a power of two).
pub(crate) fn large(dir: &Path, bytes: u64, timings: &mut Timings) -> Result<()> {
    let path = dir.join("large");
    let blocks = bytes / BLOCK_BYTES as u64;
    // An odd multiplier permutes the numbers below a power of two: each block once, in no order a disk would like.
    let shuffled = |i: u64| (i.wrapping_mul(2_654_435_761) + 12_345) & (blocks - 1);
    let block = pattern();
    let mut buffer = vec![0; BLOCK_BYTES];
    let at = |i: u64| i * BLOCK_BYTES as u64;

    timings.measure("large: seq. write", dir, || {
        let file = File::create_new(&path)?;
        Ok((0..blocks).try_for_each(|i| file.write_all_at(&block, at(i)))?)
    })?;
    timings.measure("large: seq. read", dir, || {
        let file = File::open(&path)?;
        Ok((0..blocks).try_for_each(|i| file.read_exact_at(&mut buffer, at(i)))?)
    })?;
    timings.measure("large: random write", dir, || {
        let file = File::options().write(true).open(&path)?;
        Ok((0..blocks).try_for_each(|i| file.write_all_at(&block, at(shuffled(i))))?)
    })?;
    timings.measure("large: random read", dir, || {
        let file = File::open(&path)?;
        Ok((0..blocks).try_for_each(|i| file.read_exact_at(&mut buffer, at(shuffled(i))))?)
    })?;
    timings.measure("large: re-read", dir, || {
        let file = File::open(&path)?;
        Ok((0..blocks).try_for_each(|i| file.read_exact_at(&mut buffer, at(i)))?)
    })?;
    fs::remove_file(path)?;
    settle(dir)
}

/// A block that compresses somewhat, as real data does: a zram device must not be measured by its compressor.
fn pattern() -> Vec<u8> {
    let begin = Instant::now();
    let mut word = begin.elapsed().as_nanos() as u64 | 1;
    let mut block = vec![0; BLOCK_BYTES];
    for byte in block.iter_mut().step_by(3) {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (word >> 56) as u8;
    }
    block
}
