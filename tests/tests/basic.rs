//! Replication as a user meets it: commands, both sides writing, leaving plain files behind.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Options, with_hosts, with_pair},
    host::{FILESET, Host},
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

        let mounts = fs::read_to_string("/proc/mounts")?;
        let line = mounts.lines().find(|line| line.contains(&format!(" {} fuse", b.mount().display())));
        let source = format!("intermezzo:{FILESET} ");
        ensure!(line.is_some_and(|line| line.starts_with(&source)), "the mount does not tell its file set: {line:?}");
        let log = fs::read_to_string(b.home().join(format!("log/presto-{FILESET}.log")))?;
        ensure!(!log.is_empty() && !log.contains('\u{1b}'), "presto's log has colours, or nothing: {log:?}");

        unmount_mount_and_remove(b, "renamed on b/deep/read me")?;
        // The other host goes on by itself.
        fs::write(a.at("after b left"), "a\n")?;
        unmount_mount_and_remove(a, "after b left")
    })
}

fn unmount_mount_and_remove(host: &Host, file: &str) -> Result<()> {
    host.lento(["umount"]).arg(host.mount()).ok()?;
    ensure!(!fuse_is_mounted(&host.mount())?, "still mounted after lento umount");
    ensure!(host.at(file).exists(), "{file} is not a plain file in the store");
    let mistyped = host.mount().with_file_name("mistyped");
    let outcome = host.lento(["mount", FILESET]).arg(&mistyped).run()?;
    ensure!(outcome.code() == 1 && !mistyped.exists(), "a mistyped mount point: {}", outcome.stderr);
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

#[test]
fn a_member_gets_access_to_a_second_file_set_with_one_more_ticket() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let store = |host: &Host| host.mount().with_file_name("second");
        let create = || a.lento(["fileset", "create", "second", "--store"]).arg(store(a));
        let mistyped = create().run()?;
        ensure!(mistyped.code() == 1 && mistyped.stderr.contains("mkdir"), "no advice: {}", mistyped.stderr);
        ensure!(!store(a).exists(), "a mistyped store was made");
        fs::create_dir(store(a))?;
        fs::write(store(a).join("file"), "of the second")?;
        create().ok()?;
        let replicate = || b.lento(["replicate", "second", "--store"]).arg(store(b));
        let denied = replicate().run()?;
        ensure!(denied.code() == 1 && denied.stderr.contains("no access"), "not refused: {}", denied.stderr);
        ensure!(!store(b).exists(), "what was refused left {:?}", store(b));

        let ticket = a.lento(["invite", "--fileset", "second"]).ok()?;
        let other = b.lento(["join", ticket.trim(), "--name", "z"]).run()?;
        ensure!(other.code() == 2 && other.stderr.contains("b"), "another name: {}", other.stderr);
        let joined = b.lento(["join", ticket.trim()]).ok()?;
        ensure!(joined.contains("lento replicate second"), "{joined}");
        fs::create_dir(store(b))?;
        fs::write(store(b).join("mine"), "in the way")?;
        let refused = replicate().run()?;
        ensure!(refused.code() == 1 && refused.stderr.contains("mine"), "not empty, not refused: {}", refused.stderr);
        let left: Vec<_> = fs::read_dir(store(b))?.collect();
        ensure!(left.len() == 1, "what was refused left {left:?}");
        fs::remove_dir_all(store(b))?;
        replicate().ok()?;
        ensure!(fs::read_to_string(store(b).join("file"))? == "of the second", "the file is not on b");
        fs::write(store(b).join("from b"), "b")?;
        eventually(SOON, "what b wrote is on a", || Ok(store(a).join("from b").exists()))?;
        [b, a].iter().try_for_each(|host| host.lento(["fileset", "remove", "second", "--yes"]).ok().map(drop))?;
        // The first file set did not notice.
        cluster.converge(SOON).map(drop)
    })
}

#[test]
fn a_file_set_is_removed_by_force_when_the_other_side_is_gone_for_good() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        fs::write(b.at("both have it"), "b")?;
        cluster.converge(SOON)?;
        a.end_processes();
        eventually(SOON, "b sees that a is gone", || Ok(b.fileset()?["state"] == "disconnected"))?;
        // The permit is here: what is written now does not reach a.
        fs::write(b.at("only b has it"), "b")?;

        let refused = b.lento(["fileset", "remove", FILESET, "--yes"]).run()?;
        ensure!(refused.code() == 1 && refused.stderr.contains("--force"), "not refused: {}", refused.stderr);
        ensure!(fuse_is_mounted(&b.mount())?, "a removal that was refused has unmounted");

        let removed = b.lento(["fileset", "remove", FILESET, "--yes", "--force"]).ok()?;
        ensure!(removed.contains("given up: a has not got"), "what is given up is not told: {removed}");
        ensure!(!fuse_is_mounted(&b.mount())? && !b.at(".intermezzo").exists(), "something of it is left");
        ensure!(fs::read(b.at("only b has it"))? == b"b" && b.at("both have it").exists(), "files are gone");
        ensure!(b.status()?["filesets"].as_array().is_some_and(Vec::is_empty), "{}", b.status()?);

        // And the holder, when it is back and its replica is gone.
        b.stop()?;
        a.start()?;
        a.wait_mounted()?;
        let refused = a.lento(["fileset", "remove", FILESET, "--yes"]).run()?;
        ensure!(refused.code() == 1 && refused.stderr.contains("b replicates"), "not refused: {}", refused.stderr);
        ensure!(fuse_is_mounted(&a.mount())?, "a removal that was refused has unmounted");
        a.lento(["fileset", "remove", FILESET, "--yes", "--force"]).ok()?;
        ensure!(a.at("both have it").exists() && !a.at(".intermezzo").exists(), "not plain files");
        Ok(())
    })
}
