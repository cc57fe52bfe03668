//! What the person at the terminal sees: steps with ticks and times, aligned; colours only on a terminal.

use anyhow::Result;
use std::{
    io::{IsTerminal, Write, stdout},
    time::{Duration, Instant},
};

/// Columns of a step's description.
const WIDTH: usize = 62;

/// Prints.
pub(crate) struct Show {
    terminal: bool,
    colour: bool,
    began: Instant,
}

impl Show {
    pub(crate) fn new() -> Self {
        let terminal = stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { terminal, colour: terminal && !plain, began: Instant::now() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A chapter begins.
    pub(crate) fn title(&self, text: &str) {
        println!("\n{}", self.paint("1", text));
    }

    /// A remark.
    pub(crate) fn say(&self, text: &str) {
        println!("  {}", self.paint("2", text));
    }

    /// A command as a person would type it.
    pub(crate) fn command(&self, host: &str, line: &str) {
        println!("  {}", self.paint("36", &format!("{host}# {line}")));
    }

    /// Does something and tells how long it took; what it returns is told as a remark.
    pub(crate) fn step(&self, what: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        if self.terminal {
            print!("  {} {what}", self.paint("33", "…"));
            stdout().flush()?;
        }
        let begin = Instant::now();
        let result = work();
        let took = time(begin.elapsed());
        if self.terminal {
            print!("\r\x1b[K");
        }
        let pad = WIDTH.saturating_sub(what.chars().count());
        match &result {
            Ok(remark) => {
                let line =
                    format!("  {} {what}{:pad$} {took:>8}  {}", self.paint("32", "✓"), "", self.paint("2", remark));
                println!("{}", line.trim_end());
            }
            Err(_) => println!("  {} {what}{:pad$} {took:>8}", self.paint("31", "✗"), ""),
        }
        result.map(drop)
    }

    /// The end.
    pub(crate) fn verdict(&self, text: &str) {
        println!("\n{} {text}, in {}", self.paint("1;32", "✓"), time(self.began.elapsed()));
    }
}

/// `12 ms`, `3.4 s`, `2 min 5 s`.
pub(crate) fn time(took: Duration) -> String {
    match took.as_secs_f64() {
        s if s < 1.0 => format!("{:.0} ms", (s * 1e3).max(1.0)),
        s if s < 120.0 => format!("{s:.1} s"),
        s => format!("{} min {} s", s as u64 / 60, s as u64 % 60),
    }
}

/// `1.2 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    match n as f64 {
        n if n < 1024.0 => format!("{n} B"),
        n if n < 1024.0 * 1024.0 => format!("{:.1} KiB", n / 1024.0),
        n if n < 1024.0 * 1024.0 * 1024.0 => format!("{:.1} MiB", n / 1024.0 / 1024.0),
        n => format!("{:.2} GiB", n / 1024.0 / 1024.0 / 1024.0),
    }
}

/// `1 file`, `6012 files`.
pub(crate) fn counted(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}
