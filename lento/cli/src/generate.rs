//! Man pages and shell completions, from the definitions of the command line.

use crate::args::{Cli, Generated};
use clap::CommandFactory;
use clap_complete::Shell;
use std::{fs, io, path::Path};

/// Writes them to `dir`, which is made.
pub(crate) fn generate(what: Generated, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    match what {
        Generated::Man => clap_mangen::generate_to(Cli::command(), dir),
        Generated::Completions => [Shell::Bash, Shell::Zsh, Shell::Fish]
            .into_iter()
            .try_for_each(|shell| clap_complete::generate_to(shell, &mut Cli::command(), "lento", dir).map(drop)),
    }
}

#[cfg(test)]
mod tests {
    use super::generate;
    use crate::args::Generated;

    #[test]
    fn every_command_has_a_man_page_and_completions() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        generate(Generated::Man, dir.path()).expect("man pages");
        generate(Generated::Completions, dir.path()).expect("completions");
        for file in ["lento.1", "lento-fileset-create.1", "lento-verify.1", "lento.bash", "_lento", "lento.fish"] {
            let text = std::fs::read_to_string(dir.path().join(file)).unwrap_or_else(|why| panic!("{file}: {why}"));
            assert!(text.contains("lento"), "{file}");
        }
    }
}
