//! How far a long task is: a bar on a terminal, plain lines elsewhere.

use super::words::{bytes, count};
use crate::control::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::Write,
    time::{Duration, Instant},
};

/// Off a terminal, one line at most this often.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Shows [`Progress`] on standard error.
#[derive(Debug)]
pub(super) struct ProgressLine {
    terminal: bool,
    bar: Option<ProgressBar>,
    task: String,
    printed: Option<Instant>,
}

impl ProgressLine {
    pub(super) fn new(terminal: bool) -> Self {
        Self { terminal, bar: None, task: String::new(), printed: None }
    }

    pub(super) fn show(&mut self, progress: &Progress) {
        if self.task != progress.task {
            self.finish();
            self.task.clone_from(&progress.task);
        }
        if self.terminal {
            let bar = self.bar.get_or_insert_with(new_bar);
            match progress.bytes_total {
                Some(total) => bar.set_length(total.max(1)),
                None => bar.unset_length(),
            }
            bar.set_prefix(format!("{:<10}", progress.task));
            bar.set_message(describe(progress));
            bar.set_position(progress.bytes);
        } else if self.printed.is_none_or(|at| at.elapsed() >= LINE_INTERVAL) {
            self.printed = Some(Instant::now());
            // Progress is a courtesy: when standard error is gone the task goes on all the same.
            let _ = writeln!(std::io::stderr(), "{}: {}", progress.task, describe(progress));
        }
    }

    /// Lets `print` write lines above the bar.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.task.clear();
        self.printed = None;
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}");
    bar.set_style(style.expect("the template is a constant, and a test draws it").progress_chars("━╸ "));
    bar
}

/// `1,200 of 10,000 files, 12.0 MiB of 1.00 GiB, 20.0 MiB/s, 49s left`.
fn describe(progress: &Progress) -> String {
    let of = |done: String, total: Option<String>| match total {
        Some(total) => format!("{done} of {total}"),
        None => done,
    };
    let mut text = format!(
        "{} files, {}",
        of(count(progress.files), progress.files_total.map(count)),
        of(bytes(progress.bytes), progress.bytes_total.map(bytes)),
    );
    if progress.bytes_per_s > 0 {
        text += &format!(", {}/s", bytes(progress.bytes_per_s));
        if let Some(left) = progress.bytes_total.and_then(|total| total.checked_sub(progress.bytes)).filter(|n| *n > 0)
        {
            text += &format!(", {} left", super::words::ago(left.div_ceil(progress.bytes_per_s)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{describe, new_bar};
    use crate::control::Progress;

    #[test]
    fn progress_tells_files_bytes_rate_and_time_left() {
        let progress = Progress {
            task: "copying".into(),
            files: 1_200,
            files_total: Some(10_000),
            bytes: 12 << 20,
            bytes_total: Some(1 << 30),
            bytes_per_s: 20 << 20,
        };
        assert_eq!(describe(&progress), "1,200 of 10,000 files, 12.00 MiB of 1.00 GiB, 20.00 MiB/s, 51s left");
        assert_eq!(describe(&Progress::default()), "0 files, 0 B");
    }

    #[test]
    fn the_bar_has_a_valid_template() {
        new_bar().finish_and_clear();
    }
}
