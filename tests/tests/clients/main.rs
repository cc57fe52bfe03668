//! Clients: hosts that mount a file set which they do not store. Its names and contents come when they are used, stay in
//! a cache with a bound, and are what the holder has.

mod cache;
mod coherent;
mod cuts;
mod kills;
mod lease;
mod programs;
mod races;
mod seen;

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{dice::Dice, host::Host};
use std::{fs, path::Path, time::Duration};

/// One test; what a mount does not answer would wait for ever.
const LIMIT: Duration = Duration::from_secs(90);
/// Until what was changed on one host is on the others.
const SOON: Duration = Duration::from_secs(20);
/// Until all hosts are equal.
const AGREE: Duration = Duration::from_secs(60);

/// Bytes that nobody has elsewhere and that cannot be compressed; the same for the same seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut dice = Dice::from_seed(seed);
    let mut noise: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| dice.roll().to_le_bytes()).collect();
    noise.truncate(bytes);
    noise
}

/// Files of known content: `dir/file N`.
#[derive(Debug, Clone, Copy)]
struct Known {
    files: usize,
    largest: usize,
}

impl Known {
    fn content(self, file: usize) -> Vec<u8> {
        noise(file as u64, Dice::from_seed(1000 + file as u64).below(self.largest) + 1)
    }

    fn make(self, dir: &Path) -> Result<()> {
        fs::create_dir(dir)?;
        (0..self.files).try_for_each(|i| Ok(fs::write(dir.join(format!("file {i}")), self.content(i))?))
    }

    fn path(self, dir: &Path, file: usize) -> std::path::PathBuf {
        dir.join(format!("file {file}"))
    }

    /// Reads one file and compares it. Returns its bytes.
    fn check(self, dir: &Path, file: usize) -> Result<usize> {
        let path = self.path(dir, file);
        let found = fs::read(&path).with_context(|| format!("read {path:?}"))?;
        self.compare(&path, file, &found)
    }

    fn compare(self, path: &Path, file: usize, found: &[u8]) -> Result<usize> {
        let wanted = self.content(file);
        let same = found.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
        ensure!(
            found == wanted,
            "{path:?} was read wrong: {} bytes instead of {}, different from byte {same} on",
            found.len(),
            wanted.len()
        );
        Ok(found.len())
    }

    fn check_all(self, dir: &Path) -> Result<()> {
        (0..self.files).try_for_each(|file| self.check(dir, file).map(drop))
    }
}

/// Demands the state of a file in a client's cache.
fn ensure_state(host: &Host, path: &str, wanted: &str) -> Result<()> {
    let state = host.cache_state(path)?;
    ensure!(state == wanted, "{path} is {state} on {}, not {wanted}", host.name());
    Ok(())
}
