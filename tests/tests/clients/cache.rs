//! The bound of a cache.

use crate::{AGREE, LIMIT, noise};
use anyhow::{Result, ensure};
use intermezzo_tests::{cluster::with_clients, host::Host, image::MIB, shell::eventually};
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    time::Duration,
};

const CAP: u64 = 20 * MIB;
/// What may be above it: what is being fetched and what is being let go.
const ABOVE: u64 = 64 * MIB;
/// Two segments of the log.
const LOG: u64 = 9 * MIB;
const FILES: u64 = 40;
const BYTES: usize = 5 << 20;

fn bounded(host: &Host, most: &mut u64) -> Result<()> {
    *most = host.used()?.max(*most);
    ensure!(*most <= CAP + ABOVE, "the cache has {most} bytes, and its bound is {CAP}");
    Ok(())
}

#[test]
fn ten_times_its_size_is_read_and_written_through_a_cache_that_stays_within_its_bound() -> Result<()> {
    let fill = |store: &std::path::Path| {
        (0..FILES).try_for_each(|i| Ok(fs::write(store.join(format!("file {i}")), noise(i, BYTES))?))
    };
    with_clients((1, &["--cache-size", "20MiB"], LIMIT), fill, |cluster| {
        let b = &cluster[1];
        let mut most = 0;
        let mut pinned = Vec::new();
        for i in 0..FILES {
            let mut file = File::open(b.at(format!("file {i}")))?;
            let mut found = Vec::new();
            file.read_to_end(&mut found)?;
            ensure!(found == noise(i, BYTES), "file {i} was read wrong");
            if i < 2 {
                pinned.push((i, file));
            }
            bounded(b, &mut most)?;
        }
        ensure!(most > CAP / 2, "never more than {most} bytes were in the cache: nothing was bounded");
        for (i, file) in &pinned {
            let mut found = vec![0; BYTES];
            file.read_exact_at(&mut found, 0)?;
            ensure!(found == noise(*i, BYTES), "file {i}, which was open, was read wrong after others went");
        }
        drop(pinned);
        let absent = (0..FILES).filter(|i| b.cache_state(format!("file {i}")).is_ok_and(|state| state == "absent"));
        ensure!(absent.count() as u64 >= FILES / 2, "hardly anything went from the cache: there was no fault");
        let read = most;
        for i in 0..FILES {
            fs::write(b.at(format!("written {i}")), noise(1000 + i, BYTES))?;
            // What has not been reintegrated stays; so that it can go, wait for it.
            if i % 4 == 3 {
                cluster.wait_on(1, AGREE)?;
            }
            bounded(b, &mut most)?;
        }
        eventually(Duration::from_secs(10), "the cache is within its bound at rest", || {
            let used = b.used()?;
            ensure!(used <= CAP + LOG, "{used} bytes: {}", b.lento(["cache"]).ok()?);
            Ok(true)
        })?;
        println!("most in the cache: {read} bytes when read, {most} when written, {} at rest", b.used()?);
        cluster.clients_agree(AGREE)?;
        for i in 0..FILES {
            ensure!(fs::read(cluster[0].at(format!("written {i}")))? == noise(1000 + i, BYTES), "written {i}");
        }
        Ok(())
    })
}
