//! SIGKILL of Presto at random moments under load: afterwards log and tree agree, and nothing acknowledged is lost.

mod audit;
mod stand;

use protocol::Upcall;
use stand::Stand;
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

/// A small generator, so that a seed replays a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Works below `dir` until the mount is gone. Returns the files whose creation was acknowledged last, and kept.
fn load(dir: &Path, seed: u64) -> Vec<PathBuf> {
    let mut random = Random(seed | 1);
    let mut kept = Vec::new();
    if fs::create_dir_all(dir).is_err() {
        return kept;
    }
    for n in 0_u64.. {
        let file = dir.join(format!("f{n}"));
        let done = match random.below(8) {
            0 => fs::create_dir(dir.join(format!("d{n}"))),
            1 => std::os::unix::fs::symlink("target", dir.join(format!("s{n}"))),
            2 => fs::write(&file, vec![b'x'; random.below(9000) as usize]).and_then(|()| fs::remove_file(&file)),
            3 => File::create(&file).and_then(|_| fs::rename(&file, dir.join(format!("r{}", random.below(5))))),
            4 => OpenOptions::new()
                .append(true)
                .create(true)
                .open(dir.join("log"))
                .and_then(|mut f| f.write_all(b"line\n")),
            5 => fs::write(&file, b"a").and_then(|()| fs::hard_link(&file, dir.join(format!("l{n}")))),
            6 => {
                fs::write(&file, b"long content").and_then(|()| OpenOptions::new().write(true).open(&file)?.set_len(3))
            }
            _ => fs::write(&file, b"kept").map(|()| kept.push(PathBuf::from(file.file_name().expect("it has one")))),
        };
        if done.is_err() {
            break;
        }
    }
    kept
}

#[test]
fn after_a_kill_under_load_log_and_tree_agree() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("SEED={seed}");
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(12);
    let mut random = Random(seed | 1);
    let mut stand = Stand::writing(&[]);
    for round in 0..rounds {
        let (ended, kept) = mpsc::channel();
        for thread in 0..3_u64 {
            let (dir, ended, seed) = (stand.path(&format!("t{round}-{thread}")), ended.clone(), random.below(u64::MAX));
            std::thread::spawn(move || ended.send((thread, load(&dir, seed))));
        }
        std::thread::sleep(Duration::from_millis(20 + random.below(150)));
        stand.kill();
        let mut acknowledged = Vec::new();
        for _ in 0..3 {
            acknowledged.push(kept.recv().expect("a worker ends when the mount is gone"));
        }
        stand.start();
        assert!(
            matches!(stand.lento().hello, Upcall::Hello { permit: None, lost_after: None, .. }),
            "no power was lost"
        );
        let log = stand.synced_log();
        audit::assert_agree(&log, &stand.store);
        let total: usize = acknowledged.iter().map(|(_, files)| files.len()).sum();
        for (thread, files) in acknowledged {
            for file in files {
                let path = stand.store.join(format!("t{round}-{thread}")).join(file);
                assert_eq!(fs::read(&path).expect("what was acknowledged is there"), b"kept");
            }
        }
        eprintln!("round {round}: {} records, {total} files acknowledged", log.len());
        stand.grant(round + 2);
    }
    stand.stop();
    audit::assert_agree(&stand.log(), &stand.store);
}

#[test]
fn a_clean_end_is_told_from_a_crash_and_numbers_go_on() {
    let mut stand = Stand::writing(&[]);
    fs::write(stand.path("f"), "x").expect("written");
    let last = stand.synced_log().last().expect("records").record.number;
    stand.stop();
    let marker = fs::read_to_string(stand.store.join(".intermezzo/mounted")).expect("the marker");
    assert!(marker.contains("clean yes"), "{marker}");
    stand.start();
    match stand.lento().hello {
        Upcall::Hello { last: again, lost_after: None, .. } => assert!(again >= last),
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_was_being_written_when_presto_died_is_logged_when_it_is_back() {
    let mut stand = Stand::writing(&[]);
    let mut file = File::create(stand.path("f")).expect("created");
    file.write_all(b"written, not closed").expect("written");
    stand.kill();
    drop(file);
    stand.start();
    audit::assert_agree(&stand.synced_log(), &stand.store);
}
