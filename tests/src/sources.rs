//! Real source trees: those of the crates that cargo fetched to build this workspace.

use crate::shell::{cmd, sh};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

fn registry() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let src = home.context("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    let index = fs::read_dir(&src).with_context(|| format!("{src:?}: run `cargo fetch` first"))?;
    let first = index.flatten().map(|e| e.path()).find(|p| p.is_dir());
    first.with_context(|| format!("{src:?} is empty: run `cargo fetch` first"))
}

/// The source directory of the crate `name`, in whatever version was fetched.
pub fn crate_dir(name: &str) -> Result<PathBuf> {
    let registry = registry()?;
    let prefix = format!("{name}-");
    let mut found: Vec<PathBuf> = fs::read_dir(&registry)?
        .flatten()
        .filter(|e| {
            let entry = e.file_name();
            let version = entry.to_str().and_then(|n| n.strip_prefix(&prefix)).unwrap_or_default();
            version.starts_with(|c: char| c.is_ascii_digit())
        })
        .map(|e| e.path())
        .collect();
    found.sort();
    found.pop().with_context(|| format!("crate {name} is not in {registry:?}: run `cargo fetch` first"))
}

/// A tar archive, in `dir`, of `files` files of at most 256 KiB and of their directories.
pub fn archive(dir: &Path, files: usize) -> Result<PathBuf> {
    let (list, archive) = (dir.join("sources.list"), dir.join("sources.tar"));
    let script = "cd \"$1\" && find . -type f -size -256k -print0 | sort -z | head -z -n \"$2\" > \"$3\" \
        && tar --null -T \"$3\" -cf \"$4\" && tr -cd '\\0' < \"$3\" | wc -c";
    let args = [registry()?.into_os_string(), files.to_string().into(), list.clone().into(), archive.clone().into()];
    let count = sh(script, args).timeout(Duration::from_secs(120)).ok()?;
    ensure!(count.trim() == files.to_string(), "only {} source files found, {files} wanted", count.trim());
    fs::remove_file(list)?;
    Ok(archive)
}

/// Unpacks an archive into `dir`.
pub fn unpack(archive: &Path, dir: &Path) -> Result<()> {
    cmd("tar", ["-xf"]).arg(archive).arg("-C").arg(dir).timeout(Duration::from_secs(300)).ok().map(|_| ())
}
