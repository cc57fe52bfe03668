//! Whether and how a chunk is compressed: only where it shrinks, and only while the network is what one waits for.

use std::time::{Duration, Instant};

const LEVEL: i32 = 1;
/// After a chunk that did not shrink by a tenth, so many chunks go as they are; doubled each time, up to the maximum.
const SKIP_MIN: u32 = 8;
const SKIP_MAX: u32 = 512;
/// Weight of the past in the running averages: one part in so many is new.
const SMOOTH: u32 = 8;

/// Compresses chunks where it pays. On a network faster than the processor compresses it never does.
pub(crate) struct Squeeze {
    encoder: Option<zstd::bulk::Compressor<'static>>,
    out: Vec<u8>,
    /// Running average of the time that handing over one packet took.
    wait: Duration,
    /// Running average of what compressing one chunk costs.
    cost: Duration,
    skip: u32,
    next_skip: u32,
}

impl Squeeze {
    pub(crate) fn new() -> Self {
        Self {
            encoder: None,
            out: Vec::new(),
            wait: Duration::ZERO,
            cost: Duration::from_micros(500),
            skip: 0,
            next_skip: SKIP_MIN,
        }
    }

    /// Tells how long a packet took to be handed over.
    pub(crate) fn waited(&mut self, wait: Duration) {
        self.wait = average(self.wait, wait);
    }

    /// Whether the next chunk is worth an attempt.
    pub(crate) fn is_worth_trying(&mut self) -> bool {
        if self.wait < self.cost {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        true
    }

    /// The compressed chunk, if it is smaller by a tenth.
    pub(crate) fn compress(&mut self, chunk: &[u8]) -> Option<&[u8]> {
        let started = Instant::now();
        if self.encoder.is_none() {
            self.encoder = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        // A destination that is too small for a good result fails early, which is what is wanted.
        self.out.clear();
        self.out.reserve(chunk.len());
        let shrunk = self.encoder.as_mut().and_then(|encoder| encoder.compress_to_buffer(chunk, &mut self.out).ok());
        self.cost = average(self.cost, started.elapsed());
        if shrunk.is_some_and(|len| len <= chunk.len() - chunk.len() / 10) {
            self.next_skip = SKIP_MIN;
            Some(&self.out)
        } else {
            self.skip = self.next_skip;
            self.next_skip = (self.next_skip * 2).min(SKIP_MAX);
            None
        }
    }
}

fn average(past: Duration, new: Duration) -> Duration {
    (past * (SMOOTH - 1) + new) / SMOOTH
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(1);

    #[test]
    fn nothing_is_compressed_for_a_fast_network() {
        let mut squeeze = Squeeze::new();
        assert!((0..100).all(|_| !squeeze.is_worth_trying()));
        squeeze.waited(SLOW);
        assert!(squeeze.is_worth_trying());
    }

    #[test]
    fn what_does_not_shrink_is_tried_ever_more_rarely() {
        let mut squeeze = Squeeze::new();
        let noise: Vec<u8> = {
            let mut out = vec![0; 65_536];
            blake3::Hasher::new().finalize_xof().fill(&mut out);
            out
        };
        let mut tried = 0;
        for _ in 0..2000 {
            squeeze.waited(SLOW);
            if squeeze.is_worth_trying() {
                tried += 1;
                assert!(squeeze.compress(&noise).is_none());
            }
        }
        assert!((5..15).contains(&tried), "{tried}");
    }

    #[test]
    fn what_shrinks_is_compressed_and_comes_back() {
        let mut squeeze = Squeeze::new();
        let small = squeeze.compress(&[7; 65_536]).expect("it shrinks").to_vec();
        assert!(small.len() < 1000);
        assert_eq!(zstd::bulk::decompress(&small, 65_536).expect("it is zstd"), [7; 65_536]);
    }
}
