//! Rules about documents: what they point to exists.

use crate::{files, none, read, root};
use std::path::Path;

/// `[text](target)` of a Markdown text, outside of code.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        let parts = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        found.extend(parts.filter(|_| !code));
    }
    found
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut dead = Vec::new();
    for path in files(&[".md"]) {
        let text = read(&path);
        let local = links(&text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:"));
        for link in local {
            let target = link.split('#').next().unwrap_or_default();
            let from = root().join(&path).parent().expect("a file has a directory").to_owned();
            if !target.is_empty() && !from.join(target).exists() {
                dead.push(format!("{} → {link}", path.display()));
            }
        }
    }
    none("links that lead nowhere", dead);
}

#[test]
fn decisions_that_are_cited_are_written_down() {
    let known: Vec<String> = files(&[".md"])
        .iter()
        .filter(|path| path.starts_with("docs/adr"))
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
        .collect();
    let mut unknown = Vec::new();
    for path in files(&[".rs", ".md"]) {
        for rest in read(&path).split("ADR ").skip(1) {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let written = known.iter().any(|name| name.trim_start_matches('0').starts_with(&format!("{number}-")));
            if !number.is_empty() && !written && !known.iter().any(|name| name.starts_with(&format!("{number}-"))) {
                unknown.push(format!("{} cites ADR {number}", path.display()));
            }
        }
    }
    none("decisions that are not in docs/adr", unknown);
}

#[test]
fn documents_that_sources_cite_exist() {
    let mut missing = Vec::new();
    for path in files(&[".rs"]).into_iter().filter(|path| !path.starts_with("tests/tests/tidy")) {
        let text = read(&path);
        let cited = text.split(|c: char| c.is_whitespace() || "`()[];,\"".contains(c));
        let pages = cited.map(|word| word.trim_end_matches(['.', ':'])).filter(|word| word.starts_with("docs/"));
        let lost = pages.filter(|page| page.ends_with(".md") && !root().join(page).exists());
        missing.extend(lost.map(|page| format!("{} cites {page}", path.display())));
    }
    none("documents that are cited and not there", missing);
}

/// In SEMANTICS.md a test is named as `path/to/file.rs: name_of_the_test`, in backticks.
#[test]
fn every_promise_names_tests_that_exist() {
    let path = Path::new("SEMANTICS.md");
    let text = read(path);
    let mut missing = Vec::new();
    let mut tests = 0;
    for code in text.split('`').skip(1).step_by(2) {
        let Some((file, name)) = code.split_once(".rs: ") else { continue };
        tests += 1;
        let file = root().join(format!("{file}.rs"));
        let source = std::fs::read_to_string(&file).unwrap_or_default();
        if !source.contains(&format!("fn {name}(")) {
            missing.push(code.to_owned());
        }
    }
    assert!(tests >= 10, "SEMANTICS.md names only {tests} tests");
    none("SEMANTICS.md names tests that do not exist", missing);
    let silent = text.lines().filter(|line| line.starts_with("- ") && !promise_has_test(&text, line));
    none("promises without a test", silent.map(str::to_owned).collect());
}

/// A promise is a list item; it goes on to the next item or blank line.
fn promise_has_test(text: &str, first: &str) -> bool {
    let from = text.find(first).unwrap_or_default();
    let rest = &text[from..];
    let end = [rest[1..].find("\n- "), rest.find("\n\n")].into_iter().flatten().min().unwrap_or(rest.len());
    rest[..end.min(rest.len())].contains(".rs: ")
}
