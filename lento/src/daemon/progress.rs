//! Progress of long work, told at most ten times a second.

use super::input::Answers;
use lento_cli::control::{ControlEvent, Progress};
use std::time::{Duration, Instant};

/// Longest rate of telling.
const EVERY: Duration = Duration::from_millis(100);

/// Measures and paces.
pub(super) struct Pace {
    task: &'static str,
    began: Instant,
    told: Option<Instant>,
}

impl Pace {
    pub(super) fn new(task: &'static str) -> Self {
        Self { task, began: Instant::now(), told: None }
    }

    /// The progress to be told now, if it is time.
    pub(super) fn due(&mut self, files: u64, bytes: u64, totals: Option<(u64, u64)>) -> Option<Progress> {
        if self.told.is_some_and(|told| told.elapsed() < EVERY) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(self.now(files, bytes, totals))
    }

    /// Tells a command how many files are done, if it is time; a command that does not listen misses it.
    pub(super) fn tell(&mut self, answers: &Answers, files: u64) {
        if let Some(progress) = self.due(files, 0, None) {
            let _ = answers.try_send(ControlEvent::Progress(progress));
        }
    }

    /// Tells a command that all these files are done.
    pub(super) fn end(&self, answers: &Answers, files: u64) {
        let _ = answers.try_send(ControlEvent::Progress(self.now(files, 0, None)));
    }

    /// The progress, whether it is time or not: for the end.
    pub(super) fn now(&self, files: u64, bytes: u64, totals: Option<(u64, u64)>) -> Progress {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        Progress {
            task: self.task.to_owned(),
            files,
            files_total: totals.map(|(files, _)| files),
            bytes,
            bytes_total: totals.map(|(_, bytes)| bytes),
            bytes_per_s: (bytes as f64 / seconds) as u64,
        }
    }
}
