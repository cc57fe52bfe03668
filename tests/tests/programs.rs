//! Programs that ask much of a file system, on a replicated mount, and usable on the replica afterwards.

use anyhow::{Result, ensure};
use intermezzo_tests::{
    cluster::{Options, with_pair},
    shell::{cmd, sh},
    sources,
};
use std::{fs, path::Path, time::Duration};

const CONVERGE: Duration = Duration::from_secs(90);
const LONG: Duration = Duration::from_secs(300);

/// A repository with some history, made from real sources outside of the mount.
fn repository(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let script = "git init -q -b main .; git config user.email a@example.org; git config user.name a
        for crate in \"$@\"; do cp -r \"$crate\" .; git add -A -f; git commit -q -m \"$crate\"; git tag \"t-$(basename \"$crate\")\"; done";
    let crates = ["serde", "libc", "tokio"].map(sources::crate_dir).into_iter().collect::<Result<Vec<_>>>()?;
    sh(script, crates).dir(dir).timeout(LONG).ok().map(|_| ())
}

#[test]
fn git_clones_checks_out_collects_and_finds_nothing_wrong() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let origin = cluster.path().join("origin");
        repository(&origin)?;
        let work = a.at("work");
        cmd("git", ["clone", "-q"]).arg(&origin).arg(&work).timeout(LONG).ok()?;
        let script = "git config user.email a@example.org; git config user.name a
            first=$(git rev-list --max-parents=0 HEAD); git checkout -q \"$first\"; test -z \"$(git status --porcelain)\"
            git checkout -q main; git checkout -q -b topic; git rm -q -r serde-*; echo more > new; git add new; git commit -q -m topic
            git checkout -q main; git merge -q --no-edit topic; git gc -q --aggressive --prune=now; git fsck --strict
            test -z \"$(git status --porcelain)\"";
        sh(script, [""; 0]).dir(&work).timeout(LONG).ok()?;
        cluster.converge(CONVERGE)?;
        sh("git fsck --strict; test -z \"$(git status --porcelain)\"; git log --oneline | grep -q topic", [""; 0])
            .dir(b.at("work"))
            .timeout(LONG)
            .ok()?;
        // And back: the other side commits.
        sh("echo from b > new; git commit -q -a -m 'from b'", [""; 0]).dir(b.at("work")).timeout(LONG).ok()?;
        cluster.converge(CONVERGE)?;
        let log = cmd("git", ["log", "--oneline"]).dir(&work).ok()?;
        ensure!(log.contains("from b"), "a has not the commit of b: {log}");
        Ok(())
    })
}

#[test]
fn sqlite_with_a_write_ahead_log_keeps_its_integrity_here_and_on_the_replica() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let database = a.at("data.db");
        let sql = |file: &Path, text: &str| {
            cmd("sqlite3", ["-cmd", ".timeout 20000"])
                .arg(file)
                .arg(text)
                .timeout(LONG)
                .ok()
                .map(|o| o.trim().to_owned())
        };
        let mode = sql(&database, "pragma journal_mode=wal; create table t(id integer primary key, writer, text);")?;
        ensure!(mode == "wal", "the journal mode is {mode}");
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|writer| {
                    let (sql, database) = (&sql, &database);
                    scope.spawn(move || {
                        (0..40).try_for_each(|_| {
                            let insert = format!(
                                "with recursive n(i) as (select 1 union all select i+1 from n where i<50)
                                 insert into t(writer, text) select {writer}, hex(randomblob(100)) from n;"
                            );
                            sql(database, &insert).map(|_| ())
                        })
                    })
                })
                .collect();
            writers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
        })?;
        let check = "pragma integrity_check; select count(*) from t;";
        ensure!(sql(&database, check)? == "ok\n6000", "on a: {}", sql(&database, check)?);
        cluster.converge(CONVERGE)?;
        ensure!(sql(&b.at("data.db"), check)? == "ok\n6000", "on b: {}", sql(&b.at("data.db"), check)?);
        cluster.converge(CONVERGE).map(|_| ())
    })
}

#[test]
fn cargo_builds_and_runs_on_the_mount_and_on_the_replica() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let project = cluster[0].at("project");
        let dependency = sources::crate_dir("itoa")?;
        cmd("cp", ["-r"]).arg(dependency).arg(cluster[0].at("itoa")).ok()?;
        cmd("cargo", ["new", "-q", "--vcs", "none", "--name", "hello"]).arg(&project).timeout(LONG).ok()?;
        let script = "printf 'itoa = { path = \"../itoa\" }\\n[workspace]\\n' >> Cargo.toml
            echo 'fn main() { println!(\"{}\", itoa::Buffer::new().format(42)); }' > src/main.rs
            cargo build -q --offline && ./target/debug/hello
            echo '// changed' >> src/main.rs; cargo build -q --offline && ./target/debug/hello";
        let cargo = |dir, script| sh(script, [""; 0]).dir(dir).env("CARGO_TARGET_DIR", "target").timeout(LONG).ok();
        let output = cargo(project, script)?;
        ensure!(output == "42\n42\n", "the program says {output:?}");
        cluster.converge(CONVERGE)?;
        let output = cargo(cluster[1].at("project"), "./target/debug/hello; cargo build -q --offline 2>&1")?;
        ensure!(output == "42\n", "on the replica it says {output:?}");
        cluster.converge(CONVERGE).map(|_| ())
    })
}
