//! What goes wrong in the demonstration: daemons that are killed, a network that is cut.

use crate::{
    hosts::{FILESET, Hosts},
    material::{by_size, measure},
    show::{Show, counted},
    story::caught_up,
};
use anyhow::{Context, Result, anyhow, ensure};
use intermezzo_tests::{network::Cut, shell::cmd};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Files of an untar that are there when a daemon is killed.
const BEFORE_THE_KILL: usize = 50;

/// Untars during which the daemons die: the writer's, then the receiver's. The mounts serve on; nobody who writes notices.
pub(crate) fn killed(show: &Show, Hosts { a, b, .. }: &Hosts) -> Result<()> {
    show.title("SIGKILL of the daemon, on both hosts, in the middle of work");
    let archive = a.dir().with_file_name("work.tar");
    let (largest, files) = by_size(&a.dir())?.into_iter().next().context("no directories")?;
    cmd("tar", ["-cf"]).arg(&archive).arg("-C").arg(&largest).arg(".").ok()?;
    show.step(&format!("untar on a ({}); a's daemon dies on the way", counted(files, "file")), || {
        untar_and(&archive, &a.at("first-untar"), &a.at("first-untar"), || a.kill())?;
        Ok("tar ended well all the same".into())
    })?;
    show.step("the daemon is started again", || a.start().map(|()| String::new()))?;
    show.step("untar on a once more; b's daemon dies while it receives", || {
        untar_and(&archive, &a.at("second-untar"), &b.at("second-untar"), || b.kill())?;
        Ok(format!("b's mount still serves: {}", counted(measure(&b.at("renamed-on-a"))?.0, "file")))
    })?;
    show.step("the daemon is started again", || b.start().map(|()| String::new()))?;
    show.step("b has caught up", || caught_up(a))?;
    for target in ["first-untar", "second-untar"] {
        ensure!(measure(&a.at(target))?.0 == files, "{target} is not complete on a");
        ensure!(measure(&b.at(target))?.0 == files, "{target} is not complete on b");
    }
    Ok(())
}

/// Unpacks into `target`, and does `fault` once some files are in `watched`.
fn untar_and(archive: &Path, target: &Path, watched: &Path, fault: impl FnOnce() -> Result<()>) -> Result<()> {
    fs::create_dir(target)?;
    let unpack = cmd("tar", ["-xf"]).arg(archive).arg("-C").arg(target).timeout(Duration::from_secs(300));
    std::thread::scope(|scope| {
        let untar = scope.spawn(|| unpack.ok());
        until_filled(watched)?;
        fault()?;
        untar.join().map_err(|_| anyhow!("the thread of the untar panicked"))??;
        Ok(())
    })
}

fn until_filled(dir: &Path) -> Result<()> {
    let begin = Instant::now();
    while !measure(dir).is_ok_and(|(files, _)| files >= BEFORE_THE_KILL) {
        ensure!(begin.elapsed() < Duration::from_secs(30), "the untar does not get going");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A cut of the network, during which the host with the permit works on.
pub(crate) fn cut(show: &Show, Hosts { a, b, network, .. }: &Hosts) -> Result<()> {
    let Some(network) = network else {
        show.say("no network namespaces here, so no cut of the network");
        return Ok(());
    };
    show.title("The network is cut, and healed");
    // a wrote last, so the permit is there.
    network.cut(Cut::Both(0, 1))?;
    show.step("a goes on working: 200 files written", || {
        fs::create_dir(a.at("during-the-cut"))?;
        for number in 0..200 {
            fs::write(a.at(format!("during-the-cut/{number}")), format!("written while b was away: {number}\n"))?;
        }
        Ok(String::new())
    })?;
    show.step("b goes on reading; it does not have them", || {
        ensure!(!b.at("during-the-cut/199").exists(), "b has them: the network was not cut");
        Ok(counted(measure(&b.at("renamed-on-a"))?.0, "file") + " read")
    })?;
    let dropped = network.heal()?;
    ensure!(dropped > 0, "the cut dropped no packet");
    show.say(&format!("healed; {} dropped", counted(usize::try_from(dropped)?, "packet")));
    show.step("b has caught up", || caught_up(a))?;
    let lines = a.quietly(&["log", FILESET])?.lines().count();
    show.say(&format!("lento log web: {}", counted(lines, "record")));
    Ok(())
}
