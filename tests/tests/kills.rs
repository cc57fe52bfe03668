//! SIGKILL of either process, on either side, while people work.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    acked::Application,
    busy::Busy,
    cluster::{Cluster, Options, with_pair},
    dice::{Dice, scaled},
    host::{FILESET, Host},
    replay,
    shell::{cmd, eventually},
    sources,
};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

const CONVERGE: Duration = Duration::from_secs(90);

#[test]
fn lento_killed_on_either_side_during_untar_and_edit_loses_nothing() -> Result<()> {
    let mut dice = Dice::new("kills of lento");
    let kills = scaled(12, 50);
    with_pair(Options::pair(), |cluster| {
        let archive = sources::archive(cluster.path(), 1_000)?;
        let busy = Busy::start(cluster[0].at("busy"), archive, dice.clone());
        let mut killed = 0;
        while killed < kills {
            let host = &cluster[dice.below(2)];
            std::thread::sleep(dice.between(Duration::from_millis(50), Duration::from_millis(900)));
            ensure!(host.kill_lento()?, "the daemon of {} had died before it was killed", host.name());
            killed += 1;
            // The mount of the killed side serves and logs on.
            let probe = host.at("busy");
            ensure!(fs::metadata(&probe).is_ok() || host.name() == "b", "{probe:?} is not served without lento");
            std::thread::sleep(dice.between(Duration::ZERO, Duration::from_millis(600)));
            host.start()?;
        }
        let changes = busy.finish()?;
        println!("{killed} kills of lento during {changes} changes");
        ensure!(changes > 1_000, "only {changes} changes: the kills hit nobody at work");
        let objects = cluster.converge(CONVERGE)?;
        println!("converged, {objects} objects");
        Ok(())
    })
}

#[test]
fn a_mount_serves_and_logs_without_lento_and_the_replica_catches_up() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let a = &cluster[0];
        fs::write(a.at("before"), "the permit is here")?;
        cluster.converge(CONVERGE)?;
        ensure!(a.kill_lento()?, "no daemon to kill");
        (0..500).try_for_each(|i| fs::write(a.at(format!("file {i}")), format!("{i}")))?;
        fs::rename(a.at("before"), a.at("after"))?;
        ensure!(!cluster[1].at("after").exists(), "b has what nobody could send");
        a.start()?;
        cluster.converge(CONVERGE)?;
        ensure!(fs::read(cluster[1].at("file 499"))? == b"499", "b lacks what was written without lento");
        Ok(())
    })
}

#[test]
fn presto_killed_under_load_loses_and_invents_nothing() -> Result<()> {
    let mut dice = Dice::new("kills of presto");
    let kills = scaled(12, 50);
    with_pair(Options::pair(), |cluster| {
        let stop = AtomicBool::new(false);
        let applications = (0..3)
            .map(|i| Application::new(&cluster[0].mount(), &format!("app {i}"), Dice::from_seed(dice.roll())))
            .collect::<Result<Vec<_>>>()?;
        let applications = std::thread::scope(|scope| -> Result<Vec<Application>> {
            let run = |mut application: Application| {
                while !stop.load(Ordering::Relaxed) {
                    application.step()?;
                }
                anyhow::Ok(application)
            };
            let threads: Vec<_> = applications.into_iter().map(|app| scope.spawn(move || run(app))).collect();
            let killed = kill_often(cluster, &mut dice, kills);
            stop.store(true, Ordering::Relaxed);
            let done = threads.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("an application panicked"))?);
            let done = done.collect::<Result<Vec<_>>>()?;
            killed.map(|()| done)
        })?;

        let (mut acknowledged, mut interrupted) = (0, 0);
        for application in &applications {
            let (done, cut) = application.counts();
            acknowledged += done;
            interrupted += cut;
        }
        println!("{kills} kills of presto; {acknowledged} operations acknowledged, {interrupted} interrupted");
        ensure!(interrupted > 0, "no operation was interrupted: the kills hit nobody at work");
        cluster.converge(CONVERGE)?;
        for host in cluster.hosts() {
            applications.iter().try_for_each(|app| app.check(&host.mount()))?;
        }
        match replay::assert_log_tells_names(&cluster[0])? {
            Some(names) => println!("the log tells all {names} names"),
            None => println!("the log was trimmed: what it told is compared on the replica"),
        }
        Ok(())
    })
}

fn kill_often(cluster: &Cluster, dice: &mut Dice, kills: usize) -> Result<()> {
    let a = &cluster[0];
    for kill in 0..kills {
        std::thread::sleep(dice.between(Duration::from_millis(100), Duration::from_millis(800)));
        ensure!(a.kill_presto()? == 1, "kill {kill}: there is not one presto on a");
        a.wait_mounted()?;
    }
    let restarts = a.fileset()?["mount"]["restarts"].as_u64();
    ensure!(restarts.is_some_and(|n| n >= kills as u64), "{kills} kills, but status tells {restarts:?} restarts");
    Ok(())
}

#[test]
fn presto_killed_on_the_replica_comes_back_and_goes_on() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let b = &cluster[1];
        fs::write(b.at("from b"), "1")?;
        cluster.sees(0, "from b", b"1")?;
        ensure!(b.kill_presto()? == 1, "there is not one presto on b");
        fs::write(cluster[0].at("from a"), "meanwhile")?;
        b.wait_mounted()?;
        cluster.sees(1, "from a", b"meanwhile")?;
        fs::write(b.at("from b"), "2")?;
        cluster.sees(0, "from b", b"2")?;
        cluster.converge(CONVERGE).map(|_| ())
    })
}

/// Creates files on and on, whatever becomes of the mount; tells which creations succeeded.
fn create_all_the_time(dir: &Path, stop: &AtomicBool) -> BTreeSet<String> {
    let names = (0_u64..).map(|i| format!("file {i}"));
    let created = |name: &String| fs::File::create_new(dir.join(name)).is_ok();
    names.take_while(|_| !stop.load(Ordering::Relaxed)).filter(created).collect()
}

/// Programs wrote to what a dead mount had covered, between its end and the next mount, and no log told of it.
#[test]
fn nothing_is_written_to_the_bare_store_while_presto_is_started_again() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let a = &cluster[0];
        let stop = AtomicBool::new(false);
        let created = std::thread::scope(|scope| -> Result<BTreeSet<String>> {
            let writer = scope.spawn(|| create_all_the_time(&a.mount(), &stop));
            let killed = kill_both_ways(a);
            stop.store(true, Ordering::Relaxed);
            let created = writer.join().map_err(|_| anyhow::anyhow!("the application panicked"))?;
            killed.map(|()| created)
        })?;
        println!("{} files were created", created.len());
        cluster.converge(CONVERGE)?;
        for host in cluster.hosts() {
            let there: BTreeSet<String> = fs::read_dir(host.mount())?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<Result<_>>()?;
            let lost: Vec<_> = created.difference(&there).take(5).collect();
            ensure!(lost.is_empty(), "created and not on {}: {lost:?}", host.name());
        }
        a.lento(["fsck", FILESET]).ok()?;
        replay::assert_log_tells_names(a).map(drop)
    })
}

fn kill_both_ways(host: &Host) -> Result<()> {
    for kill in 0..24 {
        let both = kill % 6 == 5;
        ensure!(!both || host.kill_lento()?, "kill {kill}: there is no daemon");
        ensure!(host.kill_presto()? == 1, "kill {kill}: there is not one presto");
        if both {
            host.start()?;
        }
        host.wait_mounted()?;
    }
    Ok(())
}

/// The holder forgets with its index how far it took what the replica wrote, and the replica's log does not reach back.
#[test]
fn an_index_made_anew_on_either_side_after_kills_keeps_nobody_waiting() -> Result<()> {
    with_pair(Options::pair(), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        for host in [b, a, b, a] {
            fs::write(host.at(format!("of {}", host.name())), "before")?;
            ensure!(host.kill_lento()?, "the daemon of {} had died before it was killed", host.name());
            ensure!(host.kill_presto()? == 1, "there is not one presto on {}", host.name());
            host.start()?;
            host.wait_mounted()?;
            cluster.converge(CONVERGE)?;
        }
        for (round, host) in [a, a, b, a].into_iter().enumerate() {
            // What is durable on a is not kept on b.
            eventually(CONVERGE, "the log of b is trimmed", || {
                fs::write(b.at("busy"), "b")?;
                let trimmed = "SELECT count(*) FROM meta WHERE key='trimmed'";
                Ok(cmd("sqlite3", [b.database()?.as_os_str(), trimmed.as_ref()]).ok()?.trim() == "1")
            })?;
            // From here on a has the permit: b is not ahead.
            fs::write(a.at("busy"), "a")?;
            cluster.converge(CONVERGE)?;
            host.lento(["fsck", FILESET, "--rebuild"]).ok()?;
            host.wait_mounted()?;
            for (i, writer) in [b, a, b].into_iter().enumerate() {
                let write = cmd("timeout", ["30", "touch"]).arg(writer.at(format!("{round} after {i}")));
                write.ok().with_context(|| format!("round {round}: a writer on {} waits", writer.name()))?;
            }
            cluster.converge(CONVERGE)?;
        }
        Ok(())
    })
}
