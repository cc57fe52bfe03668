//! Chance that can be replayed, and how much of everything is tested.

use std::time::{Duration, SystemTime};

/// A sequence of numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From `INTERMEZZO_SEED`, or from the clock; printed, so that a failure can be replayed.
    pub fn new(test: &str) -> Self {
        let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64);
        let seed = std::env::var("INTERMEZZO_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(clock);
        println!("{test}: INTERMEZZO_SEED={seed}");
        Self(seed)
    }

    /// From a seed of the caller's.
    pub const fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (0 if that is 0).
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.roll() % bound as u64) as usize }
    }

    /// A time between two others.
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = high.saturating_sub(low).as_micros() as usize;
        low + Duration::from_micros(self.below(span) as u64)
    }
}

/// `full` with `INTERMEZZO_LONG=1`, `usual` otherwise.
pub fn scaled<T>(usual: T, full: T) -> T {
    if std::env::var("INTERMEZZO_LONG").is_ok_and(|v| v == "1") { full } else { usual }
}
