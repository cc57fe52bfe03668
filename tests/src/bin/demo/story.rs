//! The demonstration, step by step.

use crate::{
    faults,
    hosts::{FILESET, Host, Hosts},
    material::{Material, by_size, measure},
    show::{Show, bytes, counted, time},
};
use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    shell::{cmd, sh},
    tree,
};
use nix::sys::utsname::uname;
use std::{
    fs::{self, File, Permissions},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A change on an idle pair of hosts is seen within this, or something is wrong.
const SEEN: Duration = Duration::from_secs(60);

/// Tells it from beginning to end.
pub(crate) fn tell() -> Result<()> {
    let show = Show::new();
    show.title("InterMezzo: two hosts, one directory");
    let (material, hosts) = (Material::find()?, Hosts::new()?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let place =
        if hosts.network.is_some() { "each in a network namespace" } else { "on loopback (no network namespaces)" };
    show.say(&format!("Linux {}, {cores} cores; hosts a and b, {place}", uname()?.release().to_string_lossy()));
    show.say("with an ext4 disk of its own each; all traffic is TLS 1.3, both ends certified");
    let told = chapters(&show, &hosts, &material);
    if told.is_err() {
        hosts.a.report();
        hosts.b.report();
    }
    told
}

fn chapters(show: &Show, hosts: &Hosts, material: &Material) -> Result<()> {
    found(show, hosts, material)?;
    replicate(show, hosts)?;
    changes_on_a(show, hosts)?;
    changes_on_b(show, hosts, material)?;
    faults::killed(show, hosts)?;
    faults::cut(show, hosts)?;
    compare(show, hosts)
}

/// The first host, with a directory full of files.
fn found(show: &Show, Hosts { a, .. }: &Hosts, material: &Material) -> Result<()> {
    show.title("Host a has a directory with files in it");
    show.step("the sources of the crates that this was built from", || {
        let (files, size) = material.populate(&a.dir())?;
        Ok(format!("{}, {}", counted(files, "file"), bytes(size)))
    })?;
    show.step("one large file", || Ok(bytes(material.large_file(&a.at("archives.bin"))?)))?;
    a.lento(show, &["init", "--name", a.name, "--listen", &a.listen])?;
    show.command(a.name, "lento daemon &");
    a.start()?;
    let dir = a.dir();
    let create = ["fileset", "create", FILESET, "--store", text(&dir)?];
    show.command(a.name, "lento fileset create web --store …/web");
    show.step("adopted in place, and mounted over itself", || a.quietly(&create).map(|_| String::new()))
}

/// The second host, which gets a copy.
fn replicate(show: &Show, Hosts { a, b, .. }: &Hosts) -> Result<()> {
    show.title("Host b joins and replicates it");
    let ticket = a.lento(show, &["invite", "--fileset", FILESET])?;
    let ticket = ticket.split_whitespace().last().context("no ticket was printed")?.to_owned();
    b.lento(show, &["join", &ticket, "--name", b.name, "--listen", &b.listen])?;
    show.command(b.name, "lento daemon &");
    b.start()?;
    let dir = b.dir();
    let command = ["replicate", FILESET, "--store", text(&dir)?];
    show.command(b.name, "lento replicate web --store …/web");
    show.step("the first copy", || {
        let begin = Instant::now();
        b.quietly(&command)?;
        let (files, size) = measure(&b.dir())?;
        let rate = size as f64 / begin.elapsed().as_secs_f64();
        Ok(format!("{}, {}, {}/s", counted(files, "file"), bytes(size), bytes(rate as u64)))
    })
}

fn changes_on_a(show: &Show, Hosts { a, b, .. }: &Hosts) -> Result<()> {
    show.title("Changes on a, seen on b");
    let crates = by_size(&a.dir())?;
    let name = |n: usize| -> Result<PathBuf> {
        let path = &crates.get(n).context("too few directories")?.0;
        Ok(path.strip_prefix(a.dir())?.to_owned())
    };
    let (large, doomed, closed) = (name(0)?, name(1)?, name(2)?);
    seen(show, "edit Cargo.toml of the first crate", || {
        let path = name(5)?.join("Cargo.toml");
        let edited = fs::read_to_string(a.at(&path))?.replace("[package]", "# edited on a\n[package]");
        fs::write(a.at(&path), &edited)?;
        same_content(b.at(path), edited.into_bytes())
    })?;
    seen(show, "append 1 MiB to the large file", || {
        let piece: Vec<u8> = fs::read(std::env::current_exe()?)?.into_iter().take(1 << 20).collect();
        File::options().append(true).open(a.at("archives.bin"))?.write_all(&piece)?;
        let (size, path) = (fs::metadata(a.at("archives.bin"))?.len(), b.at("archives.bin"));
        Ok(move || fs::metadata(&path).is_ok_and(|meta| meta.len() == size))
    })?;
    seen(show, &format!("rename the largest directory ({})", counted(crates[0].1, "file")), || {
        fs::rename(a.at(&large), a.at("renamed-on-a"))?;
        let (old, new) = (b.at(&large), b.at("renamed-on-a/Cargo.toml"));
        Ok(move || new.exists() && !old.exists())
    })?;
    seen(show, &format!("delete a directory ({})", counted(crates[1].1, "file")), || {
        fs::remove_dir_all(a.at(&doomed))?;
        let path = b.at(&doomed);
        Ok(move || !path.exists())
    })?;
    seen(show, &format!("chmod -R go-rwx ({})", counted(crates[2].1, "file")), || {
        cmd("chmod", ["-R", "go-rwx"]).arg(a.at(&closed)).ok()?;
        let path = b.at(&closed);
        Ok(move || private(&path).unwrap_or(false))
    })?;
    seen(show, "a hard link into another directory", || {
        let (first, second) = (name(6)?.join("Cargo.toml"), name(7)?.join("linked.toml"));
        fs::hard_link(a.at(&first), a.at(&second))?;
        let (first, second) = (b.at(first), b.at(second));
        Ok(move || matches!((fs::metadata(&first), fs::metadata(&second)), (Ok(f), Ok(s)) if f.ino() == s.ino()))
    })
}

fn changes_on_b(show: &Show, Hosts { a, b, .. }: &Hosts, material: &Material) -> Result<()> {
    show.title("Changes on b, seen on a: the permit to write moves there by itself");
    seen(show, "create a file, with mode 0640", || {
        fs::write(b.at("from-b.txt"), "b was here\n")?;
        fs::set_permissions(b.at("from-b.txt"), Permissions::from_mode(0o640))?;
        let path = a.at("from-b.txt");
        Ok(move || fs::metadata(&path).is_ok_and(|meta| meta.mode() & 0o7777 == 0o640 && meta.len() == 11))
    })?;
    seen(show, "untar SQLite", || {
        fs::create_dir(b.at("sqlite"))?;
        cmd("tar", ["-xzf"]).arg(&material.sqlite).args(["--strip-components=1", "-C"]).arg(b.at("sqlite")).ok()?;
        let want = measure(&b.at("sqlite"))?;
        let path = a.at("sqlite");
        Ok(move || measure(&path).is_ok_and(|got| got == want))
    })?;
    seen(show, "build it with cc, and run a program with it", || {
        fs::write(b.at("sqlite/main.c"), PROGRAM)?;
        sh(BUILD, [b.at("sqlite")]).timeout(Duration::from_secs(300)).ok()?;
        same_content(a.at("sqlite/demo.db"), fs::read(b.at("sqlite/demo.db"))?)
    })?;
    let status = a.quietly(&["fileset", "list"])?;
    status.lines().for_each(|line| show.say(line));
    Ok(())
}

const PROGRAM: &str = r#"#include "sqlite3/sqlite3.h"
int main(void) {
    sqlite3 *db;
    return sqlite3_open("demo.db", &db) || sqlite3_exec(db,
        "CREATE TABLE t(n); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000) "
        "INSERT INTO t SELECT n FROM c; PRAGMA integrity_check", 0, 0, 0) || sqlite3_close(db);
}
"#;
const BUILD: &str = "cd \"$1\" && cc -O0 -c sqlite3/sqlite3.c && cc -O0 -c main.c && cc -o demo main.o sqlite3.o -lm -lpthread -ldl && ./demo";

/// Nothing is believed: `lento verify`, and then both trees read and compared by us.
fn compare(show: &Show, Hosts { a, b, network, .. }: &Hosts) -> Result<()> {
    show.title("Are they equal?");
    show.command(a.name, "lento wait web --timeout 2m && lento verify web");
    show.step("b has all that is on a", || a.quietly(&["wait", FILESET, "--timeout", "2m"]).map(|_| String::new()))?;
    show.step("lento verify: content and attributes", || {
        let printed = a.quietly(&["verify", FILESET])?;
        Ok(printed.lines().next().unwrap_or_default().to_owned())
    })?;
    let mut objects = 0;
    show.step("compared once more, without InterMezzo's help", || {
        objects = tree::assert_equal(&a.dir(), &b.dir())?;
        Ok(counted(objects, "object"))
    })?;
    if let Some(network) = network {
        let (received, sent) = network.traffic(1)?;
        show.say(&format!("b received {} and sent {} in all", bytes(received), bytes(sent)));
    }
    show.verdict(&format!("both hosts have the same {objects} objects"));
    Ok(())
}

/// Does a change, then waits until `arrived`, which it returned, finds it on the other host.
pub(crate) fn seen<F: FnMut() -> bool>(show: &Show, what: &str, change: impl FnOnce() -> Result<F>) -> Result<()> {
    show.step(what, || {
        let mut arrived = change()?;
        let done = Instant::now();
        while !arrived() {
            ensure!(done.elapsed() < SEEN, "the other host does not see it: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(format!("there {} later", time(done.elapsed())))
    })
}

fn same_content(path: PathBuf, content: Vec<u8>) -> Result<impl FnMut() -> bool> {
    Ok(move || fs::read(&path).is_ok_and(|found| found == content))
}

/// Whether nothing below `dir` is open to others.
fn private(dir: &Path) -> Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if (!meta.is_symlink() && meta.mode() & 0o077 != 0) || (meta.is_dir() && !private(&entry.path())?) {
            return Ok(false);
        }
    }
    Ok(fs::metadata(dir)?.mode() & 0o077 == 0)
}

/// A path as text, for a command line.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

/// Waits until `b` has what `a` had.
pub(crate) fn caught_up(host: &Host) -> Result<String> {
    host.quietly(&["wait", FILESET, "--timeout", "2m"]).map(|_| String::new())
}
