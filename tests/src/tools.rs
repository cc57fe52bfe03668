//! Test suites that others wrote, from `target/tools`, `PATH`, or, at first use, crates.io.

use crate::shell::{cmd, sh};
use anyhow::{Context, Result};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

const INSTALL: Duration = Duration::from_secs(900);

/// The program of the crate `name` in the version that these tests were written for.
pub fn tool(name: &str, version: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let installed = root.join("bin").join(name);
    if installed.exists() {
        return Ok(installed);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.exists()) {
        return Ok(found);
    }
    let install = cmd("cargo", ["install", "--locked", "--root"]).arg(&root).arg(format!("{name}@{version}"));
    install.timeout(INSTALL).ok().with_context(|| format!("install {name}, which this test needs"))?;
    Ok(installed)
}

/// Makes the user `name`, with a group of that name, if it is not there.
pub fn user(name: &str) -> Result<()> {
    let script = "id \"$1\" > /dev/null 2>&1 || useradd --system --user-group --no-create-home \"$1\"";
    sh(script, [name]).ok().map(|_| ())
}
