//! Loss of power: ext4 on a loop device is shut down under load, and mounted again (`xfs_io`, package xfsprogs).
//! Everything that was fsynced is there, and log and tree agree on it.

mod audit;
mod stand;

use protocol::{Op, Upcall, limits};
use stand::Stand;
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
    sync::mpsc,
    time::Duration,
};

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).stdout(std::process::Stdio::null()).status().is_ok_and(|s| s.success())
}

/// An ext4 image with a journal, loop-mounted.
struct Disk {
    tmp: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let tmp = tempfile::Builder::new().prefix("presto-disk-").tempdir().expect("a temporary directory");
        let image = tmp.path().join("image");
        File::create(&image).expect("created").set_len(256 << 20).expect("256 MiB, sparse");
        assert!(run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0", image.to_str().expect("utf-8")]), "mkfs.ext4");
        fs::create_dir(tmp.path().join("disk")).expect("made");
        let disk = Self { tmp };
        disk.mount();
        disk
    }

    fn path(&self) -> std::path::PathBuf {
        self.tmp.path().join("disk")
    }

    fn mount(&self) {
        let (image, at) = (self.tmp.path().join("image"), self.path());
        let arguments = ["-o", "loop", image.to_str().expect("utf-8"), at.to_str().expect("utf-8")];
        assert!(run("mount", &arguments), "a loop device is needed");
    }

    /// Drops all that is not on disk.
    fn cut(&self) {
        let at = self.path();
        assert!(run("xfs_io", &["-x", "-c", "shutdown", at.to_str().expect("utf-8")]), "xfs_io (xfsprogs) is needed");
        assert!(fs::write(at.join("after"), "x").is_err(), "the file system is down");
    }

    fn remount(&self) {
        nix::mount::umount2(&self.path(), nix::mount::MntFlags::empty()).expect("nothing uses it");
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may be unmounted already, if the test failed half-way.
        let _ = nix::mount::umount2(&self.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Makes files, and fsyncs each third one. Returns those.
fn load(dir: &Path) -> Vec<(String, usize)> {
    let mut durable = Vec::new();
    if fs::create_dir(dir).is_err() {
        return durable;
    }
    for n in 0_usize.. {
        let name = format!("f{n}");
        let write = || -> std::io::Result<bool> {
            let mut file = File::create(dir.join(&name))?;
            file.write_all(&vec![n as u8; n % 5000])?;
            if n % 3 == 0 {
                file.sync_all()?;
                return Ok(true);
            }
            Ok(false)
        };
        match write() {
            Ok(true) => durable.push((name.clone(), n % 5000)),
            Ok(false) if n % 4 == 0 => drop(fs::remove_file(dir.join(&name))),
            Ok(false) => {}
            Err(_) => break,
        }
    }
    durable
}

#[test]
fn what_was_fsynced_survives_a_loss_of_power_with_its_records() {
    let disk = Disk::new();
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(4_u64);
    let store = disk.path().join("store");
    fs::create_dir(&store).expect("made");
    let mut stand = Stand::at(&store, &[]);
    stand.grant(1);
    for round in 0..rounds {
        let (ended, durable) = mpsc::channel();
        for thread in 0..2 {
            let (dir, ended) = (stand.path(&format!("t{round}-{thread}")), ended.clone());
            std::thread::spawn(move || ended.send((thread, load(&dir))));
        }
        std::thread::sleep(Duration::from_millis(100 + 70 * round));
        let before = stand.log().last().map_or(0, |e| e.record.number);
        disk.cut();
        stand.kill();
        let durable: Vec<_> = (0..2).map(|_| durable.recv().expect("a worker ends when the mount is gone")).collect();
        // Lento's end has a descriptor of the bottom.
        stand.lento = None;
        disk.remount();
        stand.start();
        let lost_after = match stand.lento().hello {
            Upcall::Hello { lost_after: Some(last), .. } => last,
            ref other => panic!("the loss was not noticed: {other:?}"),
        };
        assert!(lost_after <= before + 100_000);
        let log = stand.synced_log();
        let noop = log.iter().rfind(|e| e.record.op == Op::Noop).expect("a record marks the place");
        assert!(noop.record.number > lost_after + limits::LOG_GAP_RECORDS - 1);
        let (said, is) = (audit::replay_lossy(&log), audit::walk(&store));
        let mut files = 0;
        for (thread, names) in durable {
            for (name, size) in names {
                files += 1;
                let path = store.join(format!("t{round}-{thread}")).join(&name);
                assert_eq!(fs::metadata(&path).expect("what was fsynced is there").len(), size as u64);
                let id = audit::id_of(&path).expect("with its identity");
                assert_eq!(said.stores.get(&id), is.stores.get(&id), "and its record");
            }
        }
        for (place, id) in &is.entries {
            assert_eq!(said.entries.get(place), Some(id), "all that is there is in the log");
        }
        eprintln!("round {round}: {files} fsynced files, {} records, lost after {lost_after}", log.len());
        stand.grant(round + 2);
    }
    stand.stop();
    stand.lento = None;
}
