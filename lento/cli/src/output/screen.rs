//! Standard output and standard error, with colours and progress bars only where a person looks.

use super::progress::ProgressLine;
use crate::control::{Code, Failure, Progress};
use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    fn wrap(self, code: &str, text: impl Display) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
    /// Well.
    pub(crate) fn good(self, text: impl Display) -> String {
        self.wrap("32", text)
    }
    /// Wrong.
    pub(crate) fn bad(self, text: impl Display) -> String {
        self.wrap("31", text)
    }
    /// Less important.
    pub(crate) fn dim(self, text: impl Display) -> String {
        self.wrap("2", text)
    }
    /// More important.
    pub(crate) fn strong(self, text: impl Display) -> String {
        self.wrap("1", text)
    }
}

/// Whether colours are wanted on a stream (<https://no-color.org>).
fn wants_colour(terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Where a command prints. Results go to standard output, progress to standard error.
#[derive(Debug)]
pub struct Screen {
    out: io::Stdout,
    paint: Paint,
    progress: ProgressLine,
    json: bool,
    /// Whether remarks go to standard error, as standard output is for records.
    remarks: bool,
}

impl Screen {
    /// For a command that prints for people, or, with `json`, nothing but JSON.
    pub fn new(json: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self {
            out: io::stdout(),
            paint: Paint(!json && wants_colour(io::stdout().is_terminal())),
            progress: ProgressLine::new(terminal),
            json,
            remarks: false,
        }
    }

    /// The same, with remarks on standard error, also among JSON.
    pub(crate) fn remarking(self) -> Self {
        Self { remarks: true, ..self }
    }

    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// A result: one line, or several.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn line(&mut self, text: impl Display) -> io::Result<()> {
        self.progress.suspend(|| writeln!(self.out, "{text}"))
    }

    /// Something that was done; not printed among JSON.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn done(&mut self, text: impl Display) -> io::Result<()> {
        self.progress.finish();
        if self.json {
            return Ok(());
        }
        let tick = if self.paint.0 { format!("{} ", self.paint.good("✓")) } else { String::new() };
        writeln!(self.out, "{tick}{text}")
    }

    /// A remark on the way; not printed among JSON.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn note(&mut self, text: impl Display) -> io::Result<()> {
        if self.remarks {
            // Nobody may listen there: the records matter.
            let _ = self.progress.suspend(|| writeln!(io::stderr(), "{text}"));
            return Ok(());
        }
        if self.json { Ok(()) } else { self.line(text) }
    }

    /// Shows how far it is: a bar on a terminal, else a line now and then.
    pub fn progress(&mut self, progress: &Progress) {
        self.progress.show(progress);
    }

    /// Takes the progress bar away.
    pub fn finish(&mut self) {
        self.progress.finish();
    }
}

/// Prints a failure on standard error, with what to do about it; returns the exit code of the program.
pub fn report(failure: &Failure) -> ExitCode {
    let paint = Paint(wants_colour(io::stderr().is_terminal()));
    // Nothing can be told to anybody when standard error is gone; the exit code still tells.
    let _ = writeln!(io::stderr(), "{} {}", paint.bad("lento:"), failure.message);
    if let Some(hint) = &failure.hint {
        let _ = writeln!(io::stderr(), "{} {hint}", paint.dim("      "));
    }
    code(failure.code)
}

pub(crate) fn code(code: Code) -> ExitCode {
    ExitCode::from(code.number())
}

#[cfg(test)]
mod tests {
    use super::Paint;

    #[test]
    fn without_colours_there_is_nothing_but_the_text() {
        assert_eq!(Paint(false).bad("x"), "x");
        assert_eq!(Paint(true).bad("x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
