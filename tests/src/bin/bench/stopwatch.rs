//! Times of the phases of a benchmark, and their medians.

use anyhow::Result;
use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

/// For each phase, in the order of first use, the times taken.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    order: Vec<&'static str>,
    taken: BTreeMap<&'static str, Vec<Duration>>,
}

impl Timings {
    /// Lets what earlier phases left to write reach the disk, then times `work`.
    pub(crate) fn measure(&mut self, phase: &'static str, dir: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
        settle(dir)?;
        let begin = Instant::now();
        work()?;
        self.add(phase, begin.elapsed());
        Ok(())
    }

    /// Adds a time that was taken elsewhere.
    pub(crate) fn add(&mut self, phase: &'static str, time: Duration) {
        if !self.order.contains(&phase) {
            self.order.push(phase);
        }
        self.taken.entry(phase).or_default().push(time);
    }

    /// The phases.
    pub(crate) fn phases(&self) -> &[&'static str] {
        &self.order
    }

    /// The median of a phase's times.
    pub(crate) fn median(&self, phase: &str) -> Option<Duration> {
        self.taken.get(phase).and_then(|times| quantile(times, 0.5))
    }

    /// Of a phase, the ratio to `base` in each round: shortest, median and longest. Rounds are compared one by one, as
    /// what is done by turns shares the machine's moods.
    pub(crate) fn ratios(&self, base: &Self, phase: &str) -> Option<(f64, f64, f64)> {
        let (ours, theirs) = (self.taken.get(phase)?, base.taken.get(phase)?);
        let mut all: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
        all.sort_by(f64::total_cmp);
        Some((*all.first()?, *all.get(all.len() / 2)?, *all.last()?))
    }
}

/// The value below which the part `q` of `times` lies.
pub(crate) fn quantile(times: &[Duration], q: f64) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort();
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * q).round() as usize).copied()
}

/// Writes back what is dirty, so that one phase does not pay for another.
pub(crate) fn settle(dir: &Path) -> Result<()> {
    Ok(nix::unistd::syncfs(File::open(dir)?)?)
}
