//! The names of a tree, made from nothing but its modification log.

use crate::host::{FILESET, Host};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

/// The id of a file set's root.
const ROOT: &str = "1.0";

/// The records that `lento log --json` prints on `host`, oldest first.
pub fn records(host: &Host) -> Result<Vec<Value>> {
    let text = host.lento(["log", FILESET, "--json"]).timeout(Duration::from_secs(60)).ok()?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))).collect()
}

/// The paths that exist after `records`, if there were none before.
///
/// # Errors
/// A record cannot be true: it removes what is not there, or makes what is.
pub fn names(records: &[Value]) -> Result<BTreeSet<PathBuf>> {
    let mut directories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for record in records.iter().filter(|r| r["result"].get("cancelled").is_none()) {
        apply(&mut directories, record).with_context(|| format!("replay of {record}"))?;
    }
    let mut paths = BTreeSet::new();
    collect(&directories, ROOT, Path::new(""), &mut paths);
    Ok(paths)
}

/// Names in hexadecimal when they are not UTF-8, as in the JSON.
fn name_of(value: &Value) -> Result<String> {
    value.as_str().or_else(|| value["hex"].as_str()).map(str::to_owned).context("no name")
}

fn apply(directories: &mut BTreeMap<String, BTreeMap<String, String>>, record: &Value) -> Result<()> {
    let text = |key: &str| record[key].as_str().with_context(|| format!("no {key}")).map(str::to_owned);
    match record["op"].as_str().context("no op")? {
        "create" | "mkdir" | "symlink" | "mknod" | "link" => {
            let parent = directories.entry(text("parent")?).or_default();
            let before = parent.insert(name_of(&record["name"])?, text("object")?);
            ensure!(before.is_none(), "the name was there already: {before:?}");
        }
        "unlink" | "rmdir" => {
            let parent = directories.entry(text("parent")?).or_default();
            let gone = parent.remove(&name_of(&record["name"])?);
            ensure!(gone == Some(text("object")?), "the name was that of {gone:?}");
        }
        "rename" => {
            let object = text("object")?;
            let from = directories.entry(text("parent")?).or_default().remove(&name_of(&record["name"])?);
            ensure!(from.as_ref() == Some(&object), "the name was that of {from:?}");
            directories.entry(text("to_parent")?).or_default().insert(name_of(&record["to"])?, object);
        }
        "exchange" => {
            let (parent, name) = (text("parent")?, name_of(&record["name"])?);
            let (to_parent, to) = (text("to_parent")?, name_of(&record["to"])?);
            let one = directories.entry(parent.clone()).or_default().remove(&name).context("no source")?;
            let two = directories.entry(to_parent.clone()).or_default().insert(to, one).context("no target")?;
            directories.entry(parent).or_default().insert(name, two);
        }
        _ => {}
    }
    Ok(())
}

fn collect(
    directories: &BTreeMap<String, BTreeMap<String, String>>,
    id: &str,
    path: &Path,
    paths: &mut BTreeSet<PathBuf>,
) {
    for (name, child) in directories.get(id).into_iter().flatten() {
        let path = path.join(name);
        collect(directories, child, &path, paths);
        paths.insert(path);
    }
}

/// Checks that the names in the tree of `host` are those that its log tells, for a file set that began empty and that
/// only this host wrote to. Returns how many there are; `None` if the log does not begin at its beginning any more, as its
/// peers have the rest.
pub fn assert_log_tells_names(host: &Host) -> Result<Option<usize>> {
    let records = records(host)?;
    if records.first().is_some_and(|first| first["number"] != 1) {
        return Ok(None);
    }
    let told = names(&records)?;
    let mut there: BTreeSet<PathBuf> = crate::tree::read(&host.store())?.into_keys().collect();
    there.remove(Path::new(""));
    let only_there: Vec<_> = there.difference(&told).take(10).collect();
    let only_told: Vec<_> = told.difference(&there).take(10).collect();
    ensure!(there == told, "not in the log: {only_there:?}; only in the log: {only_told:?}");
    Ok(Some(there.len()))
}

#[cfg(test)]
mod tests {
    use super::names;
    use anyhow::Result;
    use serde_json::json;
    use std::path::PathBuf;

    #[test]
    fn names_follow_from_records_and_impossible_records_are_found() -> Result<()> {
        let log = vec![
            json!({"op": "mkdir", "parent": "1.0", "name": "d", "object": "1.1", "result": "done"}),
            json!({"op": "create", "parent": "1.1", "name": "f", "object": "1.2", "result": "done"}),
            json!({"op": "create", "parent": "1.1", "name": "g", "object": "1.3", "result": {"cancelled": 28}}),
            json!({"op": "link", "parent": "1.0", "name": {"hex": "66ff"}, "object": "1.2", "result": "done"}),
            json!({"op": "rename", "parent": "1.0", "name": "d", "to_parent": "1.0", "to": "e", "object": "1.1", "result": "done"}),
            json!({"op": "store", "object": "1.2", "result": "done"}),
        ];
        let there: Vec<PathBuf> = names(&log)?.into_iter().collect();
        assert_eq!(there, ["66ff", "e", "e/f"].map(PathBuf::from));
        let mut wrong = log.clone();
        wrong.push(json!({"op": "unlink", "parent": "1.1", "name": "g", "object": "1.3", "result": "done"}));
        assert!(names(&wrong).is_err());
        Ok(())
    }
}
