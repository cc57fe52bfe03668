//! Replication as a user meets it: commands, both sides writing, leaving plain files behind.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Options, with_hosts, with_pair},
    host::FILESET,
    presto::fuse_is_mounted,
    shell::{cmd, eventually},
    tree,
};
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_populated_directory_is_adopted_replicated_and_left_as_plain_files() -> Result<()> {
    with_hosts(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        fs::create_dir_all(a.at("docs/deep"))?;
        fs::write(a.at("docs/deep/read me"), "adopted\n")?;
        fs::write(a.at("top"), "top\n")?;
        let before = tree::read(&a.mount())?;

        cluster.create(0)?;
        let changed = tree::differences(&before, &tree::read(&a.mount())?);
        ensure!(changed.is_empty(), "adoption changed {changed:#?}");
        cluster.replicate(1)?;
        cluster.converge(SOON)?;

        fs::write(a.at("from a"), "a\n")?;
        cluster.sees(1, "from a", b"a\n")?;
        fs::write(b.at("from b"), "b\n")?;
        cluster.sees(0, "from b", b"b\n")?;
        fs::rename(b.at("docs"), b.at("renamed on b"))?;
        fs::write(a.at("top"), "changed on a\n")?;
        fs::remove_file(a.at("from a"))?;
        let objects = cluster.converge(SOON)?;
        ensure!(b.at("renamed on b/deep/read me").exists() && !b.at("from a").exists(), "changes are missing");

        let status = a.fileset()?;
        ensure!(status["role"] == "holder" && status["holder"] == "a", "{status}");
        ensure!(status["mount"]["state"] == "mounted" && status["replicas"][0]["host"] == "b", "{status}");
        ensure!(b.fileset()?["role"] == "replicator", "{}", b.fileset()?);
        ensure!(status["objects"].as_u64() == Some(objects as u64), "objects: {} and not {objects}", status["objects"]);
        ensure!(a.lento(["fileset", "list"]).ok()?.contains(FILESET), "fileset list does not name it");

        unmount_mount_and_remove(b, "renamed on b/deep/read me")?;
        // The other host goes on by itself.
        fs::write(a.at("after b left"), "a\n")?;
        unmount_mount_and_remove(a, "after b left")
    })
}

fn unmount_mount_and_remove(host: &intermezzo_tests::host::Host, file: &str) -> Result<()> {
    host.lento(["umount"]).arg(host.mount()).ok()?;
    ensure!(!fuse_is_mounted(&host.mount())?, "still mounted after lento umount");
    ensure!(host.at(file).exists(), "{file} is not a plain file in the store");
    host.lento(["mount", FILESET]).arg(host.mount()).ok()?;
    host.wait_mounted()?;
    ensure!(host.at(file).exists(), "{file} is not there after lento mount");

    let before = tree::read(&host.store())?;
    host.lento(["fileset", "remove", FILESET, "--yes"]).ok()?;
    ensure!(!fuse_is_mounted(&host.mount())?, "still mounted after fileset remove");
    let changed = tree::differences(&before, &tree::read(&host.mount())?);
    ensure!(changed.is_empty(), "fileset remove changed {changed:#?}");
    ensure!(!host.at(".intermezzo").exists(), ".intermezzo was left behind");
    let own = xattr::list(host.at(file))?.find(|name| name.to_string_lossy().starts_with("trusted.intermezzo"));
    ensure!(own.is_none(), "an attribute of InterMezzo was left behind: {own:?}");
    Ok(())
}

#[test]
fn a_tree_created_on_the_replica_is_fetched_back_recursively() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        for i in 0..200 {
            let dir = b.at(format!("tree/{}/{}", i % 7, i % 31));
            fs::create_dir_all(&dir)?;
            fs::write(dir.join(format!("file {i}")), format!("{i}\n").repeat(i))?;
        }
        cluster.sees(0, "tree/3/14/file 45", "45\n".repeat(45).as_bytes())?;
        cluster.converge(SOON)?;
        let status = a.fileset()?;
        ensure!(status["permit"]["at"] == "b", "b wrote last, but the permit is at {}", status["permit"]["at"]);
        Ok(())
    })
}

#[test]
fn everything_survives_an_orderly_restart_of_both_sides() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        fs::write(cluster[0].at("one"), "1")?;
        fs::write(cluster[1].at("two"), "2")?;
        cluster.converge(SOON)?;
        for host in cluster.hosts() {
            host.stop()?;
            // Mounts go on without a daemon: one can be replaced by a newer version of it.
            ensure!(fuse_is_mounted(&host.mount())?, "the daemon ended and took its mount with it");
            host.kill_presto()?;
            let outcome = host.lento(["status"]).run()?;
            ensure!(outcome.code() == 3, "without a daemon, status exits with {}: {}", outcome.code(), outcome.stderr);
        }
        for host in cluster.hosts() {
            host.start()?;
            host.wait_mounted()?;
        }
        fs::write(cluster[1].at("three"), "3")?;
        fs::write(cluster[0].at("four"), "4")?;
        cluster.sees(0, "three", b"3")?;
        cluster.sees(1, "four", b"4")?;
        ensure!(cluster.converge(SOON)? == 5, "not five objects");
        Ok(())
    })
}

#[test]
fn wait_times_out_with_124_and_verify_lists_what_differs_with_1() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        fs::write(a.at("file"), "same")?;
        cluster.converge(SOON)?;

        cluster.cut()?;
        fs::write(a.at("unseen"), "b cannot have it")?;
        let outcome = a.lento(["wait", FILESET, "--timeout", "1s"]).run()?;
        ensure!(outcome.code() == 124, "wait exits with {}: {}", outcome.code(), outcome.stderr);
        cluster.heal()?;
        cluster.converge(SOON)?;

        // Behind the back of everyone: what verify is for.
        fs::write(b.store().join("file"), "SAME")?;
        let outcome = a.lento(["verify", FILESET, "--json"]).run()?;
        ensure!(outcome.code() == 1, "verify exits with {}: {}", outcome.code(), outcome.stderr);
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout).context(outcome.stdout.clone())?;
        ensure!(report["equal"] == false && report["differences"][0]["path"] == "file", "{report}");
        Ok(())
    })
}

#[test]
fn wait_on_the_holder_covers_what_the_replica_has_just_written() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let content = vec![7; 64 << 20];
        for i in 0..3 {
            // The permit is on b: what follows is shipped when it likes.
            fs::write(b.at(format!("small {i}")), "b")?;
            fs::write(b.at(format!("large {i}")), &content)?;
            cluster.wait_on(0, SOON)?;
            let there = fs::metadata(a.store().join(format!("large {i}"))).map(|m| m.len()).unwrap_or(0);
            ensure!(there == content.len() as u64, "wait ended, and {there} bytes of file {i} are on a");
        }
        cluster.cut()?;
        let outcome = a.lento(["wait", FILESET, "--timeout", "1s"]).run()?;
        ensure!(outcome.code() == 124, "wait exits with {} while b is away: {}", outcome.code(), outcome.stderr);
        cluster.heal().map(drop)
    })
}

#[test]
fn the_log_is_readable_and_a_renamed_directory_is_one_record() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let a = &cluster[0];
        fs::create_dir(a.at("dir"))?;
        (0..100).try_for_each(|i| fs::write(a.at(format!("dir/{i}")), "x"))?;
        cluster.converge(SOON)?;
        let before = intermezzo_tests::replay::records(a)?.len();
        fs::rename(a.at("dir"), a.at("moved"))?;
        eventually(SOON, "the rename is on b", || Ok(cluster[1].at("moved/99").exists()))?;
        let records = intermezzo_tests::replay::records(a)?;
        ensure!(records.len() == before + 1, "{} records for one rename", records.len() - before);
        let last = records.last().context("no records")?;
        ensure!(last["op"] == "rename" && last["name"] == "dir" && last["to"] == "moved", "{last}");
        ensure!(last["writer"] == "a" && last["result"] == "done", "{last}");
        let text = a.lento(["log", FILESET]).ok()?;
        ensure!(text.lines().count() >= records.len() && text.contains("rename"), "lento log: {text}");
        ensure!(Path::new(&a.store()).join(".intermezzo/log").is_dir(), "no log in the store");
        intermezzo_tests::replay::assert_log_tells_names(a).map(|_| ())
    })
}

#[test]
fn fsck_finds_what_the_database_lacks_and_rebuild_mends_it() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let a = &cluster[0];
        (0..300).try_for_each(|i| fs::write(a.at(format!("file {i}")), "x"))?;
        cluster.converge(SOON)?;
        // In use while it is checked, and still in agreement.
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| -> std::io::Result<()> {
                for i in (0..50).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                    fs::write(a.at("temporary"), format!("{i}"))?;
                    fs::rename(a.at("temporary"), a.at(format!("busy {i}")))?;
                }
                Ok(())
            });
            let checked = (0..5).try_for_each(|_| a.lento(["fsck", FILESET]).ok().map(drop));
            stop.store(true, Ordering::Relaxed);
            busy.join().map_err(|_| anyhow::anyhow!("the application panicked"))??;
            checked
        })?;
        cluster.converge(SOON)?;

        let database = a.database()?;
        let lose = "DELETE FROM object WHERE name=CAST('file 7' AS BLOB)";
        cmd("sqlite3", [database.as_os_str(), lose.as_ref()]).ok()?;
        let found = a.lento(["fsck", FILESET]).run()?;
        ensure!(found.code() == 1, "fsck ended with {}", found.code());
        let text = format!("{}{}", found.stdout, found.stderr);
        ensure!(text.contains("file 7"), "it does not name the file: {text}");

        a.lento(["umount", FILESET]).ok()?;
        a.lento(["fsck", FILESET, "--rebuild"]).ok()?;
        ensure!(!fuse_is_mounted(&a.mount())?, "fsck mounted what was not mounted");
        a.lento(["mount", FILESET]).arg(a.mount()).ok()?;
        a.wait_mounted()?;
        a.lento(["fsck", FILESET]).ok()?;
        cluster.converge(SOON).map(drop)
    })
}
