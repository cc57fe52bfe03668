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
    /// Off a terminal, what came after the last line: at the end it is told.
    untold: Option<String>,
}

impl ProgressLine {
    pub(super) fn new(terminal: bool) -> Self {
        Self { terminal, bar: None, task: String::new(), printed: None, untold: None }
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
        } else if let Some(line) = self.line(progress) {
            say(&line);
        }
    }

    /// The line for this progress, if it is time for one.
    fn line(&mut self, progress: &Progress) -> Option<String> {
        let line = format!("{}: {}", progress.task, describe(progress));
        if self.printed.is_some_and(|at| at.elapsed() < LINE_INTERVAL) {
            self.untold = Some(line);
            return None;
        }
        self.printed = Some(Instant::now());
        self.untold = None;
        Some(line)
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
        if let Some(line) = self.untold.take() {
            say(&line);
        }
        self.task.clear();
        self.printed = None;
    }
}

/// Progress is a courtesy: when standard error is gone the task goes on all the same.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
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
    let word = if progress.files_total.unwrap_or(progress.files) == 1 { "file" } else { "files" };
    let mut text = format!("{} {word}", of(count(progress.files), progress.files_total.map(count)));
    if progress.bytes > 0 || progress.bytes_total.is_some_and(|total| total > 0) {
        text += &format!(", {}", of(bytes(progress.bytes), progress.bytes_total.map(bytes)));
    }
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
    use super::{ProgressLine, describe, new_bar};
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
        assert_eq!(describe(&Progress::default()), "0 files");
        assert_eq!(describe(&Progress { files: 1, ..Progress::default() }), "1 file");
        let one = Progress { files_total: Some(1), bytes_total: Some(5), ..Progress::default() };
        assert_eq!(describe(&one), "0 of 1 file, 0 B of 5 B");
    }

    #[test]
    fn the_last_figures_are_told_though_it_is_not_time() {
        let mut lines = ProgressLine::new(false);
        let at = |files| Progress { task: "checking".into(), files, ..Progress::default() };
        assert_eq!(lines.line(&at(1_024)).as_deref(), Some("checking: 1,024 files"));
        assert_eq!(lines.line(&at(2_048)), None);
        assert_eq!(lines.line(&at(6_308)), None);
        assert_eq!(lines.untold.as_deref(), Some("checking: 6,308 files"));
        lines.finish();
        assert_eq!(lines.untold, None);
    }

    #[test]
    fn the_bar_has_a_valid_template() {
        new_bar().finish_and_clear();
    }
}
