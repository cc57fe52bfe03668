//! The real files of the demonstration: the sources of the crates that cargo fetched to build this workspace.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    shell::{cmd, sh},
    sources,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A tree has at least so many files.
const FILES: usize = 6_000;

/// Where things are taken from.
pub(crate) struct Material {
    /// Unpacked crates, one directory each.
    sources: PathBuf,
    /// Their archives.
    archives: PathBuf,
    /// The archive with SQLite's source code in it.
    pub(crate) sqlite: PathBuf,
}

impl Material {
    pub(crate) fn find() -> Result<Self> {
        let sqlite = sources::crate_dir("libsqlite3-sys")?;
        let sources = sqlite.parent().context("a crate lies in a registry")?.to_owned();
        let index = sources.file_name().context("a registry has a name")?;
        let registry = sources.parent().and_then(Path::parent).context("a registry lies in cargo's home")?;
        let archives = registry.join("cache").join(index);
        let name = sqlite.file_name().context("a crate has a name")?.to_string_lossy().into_owned();
        let sqlite = archives.join(format!("{name}.crate"));
        ensure!(sqlite.is_file(), "{} is not there: run `cargo fetch`", sqlite.display());
        Ok(Self { sources, archives, sqlite })
    }

    /// Copies crates into `dir` until they have enough files. Returns how many files, and bytes.
    pub(crate) fn populate(&self, dir: &Path) -> Result<(usize, u64)> {
        let mut crates: Vec<PathBuf> = fs::read_dir(&self.sources)?.flatten().map(|entry| entry.path()).collect();
        crates.sort();
        let mut total = (0, 0);
        for source in crates {
            if total.0 >= FILES {
                break;
            }
            let size = measure(&source)?;
            cmd("cp", ["-a"]).arg(&source).arg(dir).timeout(Duration::from_secs(120)).ok()?;
            total = (total.0 + size.0, total.1 + size.1);
        }
        ensure!(
            total.0 >= 5_000,
            "only {} files in {}: 5000 are needed; run `cargo fetch`",
            total.0,
            self.sources.display()
        );
        Ok(total)
    }

    /// Writes one large file: all archives in one. Returns its size.
    pub(crate) fn large_file(&self, path: &Path) -> Result<u64> {
        let args = [self.archives.as_os_str(), path.as_os_str()];
        sh("cat \"$1\"/*.crate > \"$2\"", args).timeout(Duration::from_secs(120)).ok()?;
        Ok(fs::metadata(path)?.len())
    }
}

/// Files below `dir`, and their bytes.
pub(crate) fn measure(dir: &Path) -> Result<(usize, u64)> {
    let mut total = (0, 0);
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            let below = measure(&entry.path())?;
            total = (total.0 + below.0, total.1 + below.1);
        } else {
            total = (total.0 + 1, total.1 + meta.len());
        }
    }
    Ok(total)
}

/// The directories in `dir`, the one with the most files first, each with its number of files.
pub(crate) fn by_size(dir: &Path) -> Result<Vec<(PathBuf, usize)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.push((path.clone(), measure(&path)?.0));
        }
    }
    found.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
    Ok(found)
}
