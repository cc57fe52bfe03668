//! The harness itself: what it says is equal, cut or without power is so.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    acked::Application,
    busy::Busy,
    dice::Dice,
    exact::{self, Amount},
    image::{GIB, Image, MIB},
    network::{Cut, Network},
    shell::{cmd, eventually, sh},
    sources, tree,
    workspace::Workspace,
};
use std::{
    fs::{self, File},
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

#[test]
fn the_comparison_sees_each_difference_and_no_other() -> Result<()> {
    let space = Workspace::new()?;
    let disk = Image::on_loop(space.path(), "disk", 2 * GIB)?;
    let (one, two) = (disk.path().join("one"), disk.path().join("two"));
    let amount = Amount { crowd: 100, large_bytes: 3 * MIB, sparse_bytes: 10 * MIB };
    exact::make(&one, amount)?;
    exact::make(&two, amount)?;
    ensure!(tree::assert_equal(&one, &two)? > 300, "the tree is too small");
    let changes = [
        "printf X | dd of='one byte' conv=notrunc status=none; touch -r ../one/'one byte' 'one byte'",
        "touch -d '2020-01-01 00:00:00.123456790' empty",
        "chmod 751 deep; touch -r ../one .",
        "chown -h 1:4712 links/dangling",
        "setfattr -n user.text -v other attributes/xattrs",
        "setfattr -x user.empty attributes/xattrs",
        "setfacl -m u:1000:r attributes/acl",
        "cp -a 'third name' x; mv x 'third name'; touch -r ../one .",
        "rm special/null; mknod special/null c 1 5; chmod 640 special/null; touch -h -r ../one/special/null special/null",
        "ln -sfn elsewhere links/dangling",
        "rm 'names/-rf'",
        "touch names/extra",
    ];
    for change in changes {
        sh("rm -rf two; cp -a one two", [""; 0]).dir(disk.path()).ok()?;
        tree::assert_equal(&one, &two).context("cp -a does not copy all, or the comparison sees too much")?;
        sh(change, [""; 0]).dir(&two).ok()?;
        ensure!(tree::assert_equal(&one, &two).is_err(), "not seen: {change}");
    }
    Ok(())
}

#[test]
fn a_cut_drops_what_it_should_and_counts_it() -> Result<()> {
    let space = Workspace::new()?;
    let network = Network::new(space.tag(), 2)?;
    // Nobody listens: who is reached refuses at once, who is not stays silent.
    let ping = |from: usize, to: usize| {
        let target = SocketAddr::from((network.address(to), 9));
        network.inside(from, || {
            let answer = TcpStream::connect_timeout(&target, Duration::from_secs(1));
            Ok(answer.err().is_some_and(|why| why.kind() == std::io::ErrorKind::ConnectionRefused))
        })
    };
    ensure!(ping(0, 1)? && ping(1, 0)?, "the hosts do not reach each other");
    network.cut(Cut::OneWay { from: 0, to: 1 })?;
    ensure!(!ping(0, 1)?, "a packet passed the cut");
    ensure!(network.dropped(1)? > 0 && network.dropped(0)? == 0, "the wrong way was cut");
    ensure!(network.heal()? > 0, "the cut counted nothing");
    ensure!(ping(0, 1)?, "the cut was not healed");
    let (received, sent) = network.traffic(0)?;
    ensure!(received > 0 && sent > 0, "no traffic counted");
    let own = network.inside(1, || Ok(TcpListener::bind((network.address(1), 7400))?.local_addr()?))?;
    ensure!(own.ip() == network.address(1), "bound in the wrong namespace");
    Ok(())
}

#[test]
fn a_loss_of_power_loses_what_was_not_synced_and_only_that() -> Result<()> {
    let space = Workspace::new()?;
    let mut disk = Image::on_loop(space.path(), "disk", GIB)?;
    let file = disk.path().join("synced");
    let mut synced = File::create(&file)?;
    synced.write_all(b"here to stay")?;
    synced.sync_all()?;
    fs::write(disk.path().join("not synced"), b"gone")?;
    drop(synced);
    disk.power_off()?;
    ensure!(fs::write(&file, b"after the cut").is_err(), "there is power still");
    disk.unmount()?;
    disk.mount()?;
    ensure!(fs::read(&file)? == b"here to stay", "what was synced is lost");
    ensure!(!disk.path().join("not synced").exists(), "what was not synced is there: there was no loss of power");
    Ok(())
}

#[test]
fn nothing_is_left_of_a_workspace() -> Result<()> {
    let space = Workspace::new()?;
    let dir = space.path().to_owned();
    let network = Network::new(space.tag(), 1)?;
    let namespace = network.namespace(0);
    let disk = Image::on_loop(space.path(), "disk", 64 * MIB)?;
    let mut child = cmd("sleep", ["1000"]).env("SPACE", &dir).spawn(&dir.join("log"))?;
    // As if the run had died: nothing of it is dropped.
    std::mem::forget((disk, network));
    drop(space);
    ensure!(!dir.exists(), "{dir:?} is left");
    ensure!(!Path::new("/run/netns").join(namespace).exists(), "a namespace is left");
    ensure!(!fs::read_to_string("/proc/self/mountinfo")?.contains(&*dir.to_string_lossy()), "a mount is left");
    eventually(Duration::from_secs(5), "the process ends", || Ok(child.try_wait()?.is_some()))?;
    let loops = cmd("losetup", ["-l", "-n", "-O", "BACK-FILE"]).ok()?;
    ensure!(!loops.contains(&*dir.to_string_lossy()), "a loop device is left: {loops}");
    Ok(())
}

#[test]
fn the_application_notices_what_is_lost_changed_or_invented() -> Result<()> {
    let space = Workspace::new()?;
    let mut application = Application::new(space.path(), "app", Dice::new("application"))?;
    (0..2_000).try_for_each(|_| application.step())?;
    application.check(space.path())?;
    // By chance a directory, or a file, may be empty.
    let mut files = Vec::new();
    for directory in fs::read_dir(space.path().join("app"))? {
        for entry in fs::read_dir(directory?.path())? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() && metadata.len() > 0 {
                files.push(entry.path());
            }
        }
    }
    let file = files.into_iter().next().context("no file")?;
    let dir = file.parent().context("it is in a directory")?.to_owned();
    let content = fs::read(&file)?;
    fs::write(dir.join("invented"), b"")?;
    ensure!(application.check(space.path()).is_err(), "an invented file is not noticed");
    fs::remove_file(dir.join("invented"))?;
    fs::write(&file, &content[1..])?;
    ensure!(application.check(space.path()).is_err(), "a changed file is not noticed");
    fs::remove_file(&file)?;
    ensure!(application.check(space.path()).is_err(), "a lost file is not noticed");
    fs::write(&file, content)?;
    application.check(space.path())
}

#[test]
fn the_busy_worker_works() -> Result<()> {
    let space = Workspace::new()?;
    let archive = sources::archive(space.path(), 300)?;
    let busy = Busy::start(space.path().join("busy"), archive, Dice::new("busy"));
    eventually(Duration::from_secs(30), "some thousand changes", || Ok(busy.changes() > 3_000))?;
    ensure!(busy.finish()? > 3_000, "it stopped early");
    Ok(())
}
