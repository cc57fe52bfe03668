//! The house style, checked: sizes, what the cores may know, dependencies, licences, links. No root, no network.

mod crates;
mod documents;
mod source;

use std::path::{Path, PathBuf};

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate is in the workspace")
}

/// All files of the project with one of these endings, by path below the root, in order.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(root(), &mut found);
    found.retain(|path| endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)));
    found.sort();
    assert!(!found.is_empty(), "no files ending in {endings:?} in {:?}", root());
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|why| panic!("{dir:?}: {why}")) {
        let entry = entry.unwrap_or_else(|why| panic!("{dir:?}: {why}"));
        let path = entry.path();
        let name = entry.file_name();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !["target", ".git", "corpus", "artifacts"].iter().any(|other| name == *other) {
                collect(&path, found);
            }
        } else {
            found.push(path.strip_prefix(root()).expect("below the root").to_owned());
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// Fails with all complaints at once.
fn none(rule: &str, complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{rule}\n  {}", complaints.join("\n  "));
}
