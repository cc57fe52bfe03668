//! Files that change while a client has them open, or fetches them.

use crate::{AGREE, LIMIT, SOON, noise};
use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::with_clients,
    dice::{Dice, scaled},
    shell::{eventually, sh},
};
use nix::libc;
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

const BYTES: usize = 3 << 20;

#[test]
fn a_descriptor_goes_on_with_what_was_opened_when_the_holder_removes_replaces_or_moves_it() -> Result<()> {
    let names = ["removed", "replaced", "moved", "left"];
    let fill = |store: &Path| {
        fs::create_dir(store.join("dir"))?;
        names
            .iter()
            .enumerate()
            .try_for_each(|(i, name)| Ok(fs::write(store.join("dir").join(name), noise(i as u64, BYTES))?))
    };
    with_clients((1, &[], LIMIT), fill, |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let open = names.iter().map(|name| File::open(b.at("dir").join(name))).collect::<Result<Vec<_>, _>>()?;
        let mut start = vec![0; 1000];
        open.iter().try_for_each(|file| file.read_exact_at(&mut start, 0))?;

        fs::remove_file(a.at("dir/removed"))?;
        fs::write(a.at("new"), "new")?;
        fs::rename(a.at("new"), a.at("dir/replaced"))?;
        fs::rename(a.at("dir/moved"), a.at("elsewhere"))?;
        eventually(SOON, "the client sees it", || {
            Ok(!b.at("dir/removed").exists() && fs::read(b.at("dir/replaced"))? == b"new" && b.at("elsewhere").exists())
        })?;
        for (i, (name, file)) in names.iter().zip(&open).enumerate() {
            let mut found = vec![0; BYTES];
            file.read_exact_at(&mut found, 0).with_context(|| format!("read {name}, which is open"))?;
            ensure!(found == noise(i as u64, BYTES), "the descriptor of {name} reads something else");
        }
        ensure!(fs::read(b.at("elsewhere"))? == noise(2, BYTES), "what was moved is another");
        drop(open);
        cluster.clients_agree(AGREE).map(drop)
    })
}

/// Contents that tell which version they are: as long as the version says, of one letter.
fn version(serial: u64, bytes: usize) -> Vec<u8> {
    vec![b'a' + (serial % 26) as u8; bytes]
}

#[test]
fn a_file_that_shrinks_grows_moves_and_goes_while_it_is_fetched_is_one_version() -> Result<()> {
    let mut dice = Dice::new("fetches of what changes");
    let length = scaled(Duration::from_secs(6), Duration::from_secs(60));
    with_clients(
        (1, &[], LIMIT),
        |store| Ok(fs::write(store.join("file"), version(0, BYTES))?),
        |cluster| {
            let (a, b) = (&cluster[0], &cluster[1]);
            let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
            std::thread::scope(|scope| -> Result<()> {
                let reader = scope.spawn(|| {
                    let result = read_versions(&b.at("file"), &stop, &reads);
                    stop.store(true, Ordering::Relaxed);
                    result
                });
                let end = std::time::Instant::now() + length;
                let mut changes = 0;
                while std::time::Instant::now() < end && !stop.load(Ordering::Relaxed) {
                    changes += 1;
                    let bytes = dice.below(BYTES);
                    match dice.below(4) {
                        0 => {
                            fs::rename(a.at("file"), a.at("moved"))?;
                            fs::rename(a.at("moved"), a.at("file"))?;
                        }
                        1 => {
                            fs::remove_file(a.at("file"))?;
                            fs::write(a.at("aside"), version(changes, bytes))?;
                            fs::rename(a.at("aside"), a.at("file"))?;
                        }
                        _ => {
                            fs::write(a.at("aside"), version(changes, bytes))?;
                            fs::rename(a.at("aside"), a.at("file"))?;
                        }
                    }
                    std::thread::sleep(dice.between(Duration::ZERO, Duration::from_millis(60)));
                }
                stop.store(true, Ordering::Relaxed);
                reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
                let reads = reads.load(Ordering::Relaxed);
                println!("{changes} changes, {reads} reads");
                ensure!(changes > 20 && reads > 10, "{changes} changes and {reads} reads: nothing met");
                Ok(())
            })?;
            // In place, too: then a reader may see it half done, but not at rest.
            for i in 0..20 {
                fs::write(a.at("file"), version(i, dice.below(BYTES)))?;
                let _ = fs::read(b.at("file"));
                File::options().write(true).open(a.at("file"))?.set_len(dice.below(BYTES) as u64)?;
                let _ = fs::read(b.at("file"));
            }
            cluster.clients_agree(AGREE).map(drop)
        },
    )
}

fn read_versions(path: &Path, stop: &AtomicBool, reads: &AtomicU64) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let mut content = Vec::new();
        match File::open(path).and_then(|mut file| file.read_to_end(&mut content)) {
            Ok(_) => {
                let first = content.first().copied().unwrap_or(b'a');
                let whole = first.is_ascii_lowercase() && content.iter().all(|byte| *byte == first);
                let at = content.iter().position(|byte| *byte != first);
                ensure!(whole, "{} bytes, from {first:#x}, are two versions or none: byte {at:?}", content.len());
                reads.fetch_add(1, Ordering::Relaxed);
            }
            // Replaced twice while it was opened: the kernel looks a stale name up again just once.
            Err(why) if matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {}
            Err(why) => return Err(why).with_context(|| format!("read {path:?}")),
        }
    }
    Ok(())
}

#[test]
fn many_readers_of_one_absent_file_and_of_a_tree_that_is_removed_get_an_answer() -> Result<()> {
    let fill = |store: &Path| {
        fs::write(store.join("one"), noise(1, 20 << 20))?;
        fs::create_dir(store.join("tree"))?;
        (0..300).try_for_each(|i| Ok(fs::write(store.join(format!("tree/file {i}")), noise(i, 20_000))?))
    };
    with_clients((1, &[], LIMIT), fill, |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let script = "for i in 1 2 3 4 5 6 7 8; do cmp \"$1\" \"$2\" & pids=\"${pids-} $!\"; done; for p in $pids; do wait $p; done";
        sh(script, [a.at("one"), b.at("one")]).ok()?;
        let read = AtomicU64::new(0);
        std::thread::scope(|scope| -> Result<()> {
            let reader = scope.spawn(|| -> Result<usize> {
                let mut gone = 0;
                for i in 0..300 {
                    match fs::read(b.at(format!("tree/file {i}"))) {
                        Ok(found) => {
                            ensure!(found == noise(i, 20_000), "file {i} was read wrong");
                            read.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(why) if why.kind() == std::io::ErrorKind::NotFound => gone += 1,
                        Err(why) => return Err(why).with_context(|| format!("read file {i}")),
                    }
                }
                Ok(gone)
            });
            eventually(SOON, "some are read", || Ok(read.load(Ordering::Relaxed) > 3))?;
            fs::remove_dir_all(a.at("tree"))?;
            let gone = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
            println!("{gone} of 300 were gone when they were opened");
            Ok(())
        })?;
        cluster.clients_agree(AGREE).map(drop)
    })
}
