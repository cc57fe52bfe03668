//! What an administrator does with clients: `mount.presto`, as `mount(8)` calls it for a line of `/etc/fstab`, by its
//! symbolic link; `lento verify`.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Cluster, Options, with_hosts},
    host::{FILESET, Host},
    presto::{fuse_is_mounted, program},
    shell::{Cmd, cmd, wait_for},
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

/// What the helper itself gives a daemon that is starting, and more.
const BOOT: Duration = Duration::from_secs(60);

fn helper(cluster: &Cluster, host: &Host, fileset: &str, dir: &Path, options: &str) -> Result<Cmd> {
    let link = cluster.path().join("mount.presto");
    if !link.exists() {
        symlink(program("lento")?, &link)?;
    }
    // As mount(8) passes a line on: the file set, the directory, flags, options.
    let call = cmd(link, [fileset]).arg(dir).args(["-o", options]);
    Ok(call.env("LENTO_HOME", host.home()).in_netns(host.namespace()))
}

fn expect_mounted(host: &Host, mut helper: Child) -> Result<()> {
    let status = wait_for(&mut helper, BOOT)?.context("mount.presto does not end")?;
    ensure!(status.success(), "mount.presto ended with {status}");
    ensure!(fuse_is_mounted(&host.mount())?, "mount.presto has not mounted");
    Ok(())
}

#[test]
fn a_line_of_fstab_mounts_a_client_while_its_daemon_starts_and_without_a_server() -> Result<()> {
    // The cache is in the host's state, which must be on ext4.
    with_hosts(Options::pair().state_on_disk(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        cluster.create(0)?;
        fs::write(a.at("file"), "of a")?;
        let ticket = a.lento(["invite", "--client", "--fileset", FILESET]).ok()?;
        b.lento(["join", ticket.trim(), "--name", b.name()]).ok()?;
        let line = "rw,_netdev,nofail,soft,timeout=5s,cache-size=1GiB,x-systemd.requires=lento.service";
        let log = cluster.path().join("mount.log");
        let mount = || helper(cluster, b, FILESET, &b.mount(), line);

        // The first mount, for which the server is needed, before there is a daemon.
        let early = mount()?.spawn(&log)?;
        b.start()?;
        expect_mounted(b, early)?;
        ensure!(fs::read_to_string(b.at("file"))? == "of a", "the file of a is not on b");
        let set = b.fileset()?;
        ensure!(set["cache"]["bound"] == 1_u64 << 30 && set["cache"]["read_only"] == false, "{set}");
        ensure!(set["mount"]["wait"]["soft"]["timeout_ms"] == 5000, "{set}");
        mount()?.ok().context("a mount that is there already")?;
        // Not `lento umount`: the daemon keeps up what it mounted.
        cmd("umount", [b.mount()]).ok()?;
        b.wait_mounted()?;

        // What is wrong is told at once, in the way of mount(8).
        let refused = helper(cluster, b, FILESET, &b.mount(), "noatime")?.run()?;
        ensure!(refused.code() == 1 && refused.stderr.contains("noatime"), "{refused:?}");
        let began = Instant::now();
        let elsewhere = helper(cluster, b, FILESET, cluster.path(), line)?.run()?;
        ensure!(elsewhere.code() == 32 && elsewhere.stderr.contains("already"), "{elsewhere:?}");
        let nowhere = helper(cluster, b, FILESET, &b.mount().join("none"), line)?.run()?;
        ensure!(nowhere.code() == 32 && nowhere.stderr.contains("not a directory"), "{nowhere:?}");
        ensure!(began.elapsed() < Duration::from_secs(10), "refused after {:?}", began.elapsed());

        // The next boot, at which no server answers.
        a.stop()?;
        cmd("sync", ["-f"]).arg(b.home()).ok()?;
        b.power_off()?;
        b.power_on()?;
        ensure!(!fuse_is_mounted(&b.mount())?, "mounted after a loss of power");
        let boot = mount()?.spawn(&log)?;
        b.start()?;
        expect_mounted(b, boot)?;
        ensure!(fs::read_to_string(b.at("file"))? == "of a", "what is cached is not there without a server");
        b.lento(["umount", FILESET]).ok()?;
        let began = Instant::now();
        mount()?.ok().context("mounting again without a server")?;
        ensure!(fuse_is_mounted(&b.mount())?, "mount.presto has not mounted");
        ensure!(began.elapsed() < Duration::from_secs(5), "mounting took {:?}", began.elapsed());

        let other = cluster.path().join("other");
        fs::create_dir(&other)?;
        let unknown = helper(cluster, b, "other", &other, line)?.run()?;
        ensure!(unknown.code() == 32 && unknown.stderr.contains("other"), "{unknown:?}");
        Ok(())
    })
}

#[test]
fn verify_compares_hosts_that_store_and_leaves_clients_out() -> Result<()> {
    with_hosts(Options::pair().state_on_disk(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        cluster.create(0)?;
        fs::write(a.at("file"), "never fetched")?;
        let ticket = a.lento(["invite", "--client", "--fileset", FILESET]).ok()?;
        b.lento(["join", ticket.trim(), "--name", b.name()]).ok()?;
        b.start()?;
        b.lento(["mount", FILESET]).arg(b.mount()).ok()?;
        ensure!(b.at("file").exists(), "the file of a is not on b");
        let alone = a.lento(["verify", FILESET]).run()?;
        ensure!(alone.code() == 1 && alone.stderr.contains("no replica"), "a cache was compared: {alone:?}");
        let cache = b.lento(["verify", FILESET]).run()?;
        ensure!(cache.code() == 1 && cache.stderr.contains("caches"), "a cache was compared: {cache:?}");
        Ok(())
    })
}
