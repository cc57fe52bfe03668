//! The commands in the documents are commands of the program.

use clap::Parser;
use lento_cli::Cli;
use std::path::{Path, PathBuf};

/// README.md and all that is below docs.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (mut found, mut dirs) = (vec![root.join("README.md"), root.join("SEMANTICS.md")], vec![root.join("docs")]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                dirs.push(entry);
            } else if entry.extension().is_some_and(|ending| ending == "md") {
                found.push(entry);
            }
        }
    }
    found
}

/// The commands of a line in a code block: `a# lento …  # comment`, or parts of it joined by `&&` or `;`.
fn commands(line: &str) -> Vec<String> {
    let line = line.trim_start();
    let line = line.split_once("# ").filter(|(host, _)| host.len() <= 1).map_or(line, |(_, rest)| rest);
    let line = line.split(" #").next().unwrap_or_default();
    let parts = line.split(['|', ';']).flat_map(|part| part.split("&&")).flat_map(|part| part.split('<'));
    parts.map(str::trim).filter(|part| part.starts_with("lento ")).map(str::to_owned).collect()
}

#[test]
fn every_command_in_the_documents_parses() {
    let mut seen = 0;
    for path in documents() {
        let text = std::fs::read_to_string(&path).expect("a document");
        let mut fenced = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            if !fenced && !line.starts_with("    ") {
                continue;
            }
            for command in commands(line) {
                seen += 1;
                if let Err(why) = Cli::try_parse_from(command.split_whitespace()) {
                    panic!("{}: {command}\n{why}", path.display());
                }
            }
        }
    }
    assert!(seen >= 8, "only {seen} commands found");
}

#[test]
fn commands_are_found_in_prompts_chains_and_comments() {
    assert_eq!(
        commands("a# lento wait web && lento verify web   # all there?"),
        ["lento wait web", "lento verify web"]
    );
    assert_eq!(commands("    a# systemctl start lento   # or: lento daemon"), [""; 0]);
    assert_eq!(commands("lento join - --name b < ticket"), ["lento join - --name b"]);
}
