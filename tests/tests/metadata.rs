//! One of everything, copied and kept exactly, whichever way it came.

use anyhow::{Result, ensure};
use intermezzo_tests::{
    cluster::{Options, with_hosts},
    dice::scaled,
    exact::{self, Amount},
    host::Host,
    image::{GIB, MIB},
    tree,
};
use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

const LONG: Duration = Duration::from_secs(300);

#[test]
fn every_kind_of_object_is_kept_exactly() -> Result<()> {
    let large_bytes = scaled(300 * MIB, 5 * GIB);
    let disks = [2 * large_bytes + 6 * GIB; 2];
    with_hosts(Options::pair().disks(&disks), |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let adopted = Amount { crowd: scaled(20_000, 100_000), large_bytes, sparse_bytes: scaled(256 * MIB, 2 * GIB) };
        let live = Amount { crowd: 1000, large_bytes: 20 * MIB, sparse_bytes: 100 * MIB };
        exact::make(&a.at("adopted"), adopted)?;
        let native = tree::read(&a.mount())?;

        cluster.create(0)?;
        cluster.replicate(1)?;
        cluster.converge(LONG)?;
        let copied = tree::read(&b.mount())?;
        let found: Vec<_> = tree::differences(&native, &copied).into_iter().take(20).collect();
        ensure!(found.is_empty(), "the copy is not what was there before adoption:\n{}", found.join("\n"));

        // The same things made through the mounts must be what they are when made natively.
        let reference = cluster.path().join("reference");
        exact::make(&reference, live)?;
        exact::make(&a.at("made on a"), live)?;
        exact::make(&b.at("made on b"), live)?;
        cluster.converge(LONG)?;
        for host in cluster.hosts() {
            for dir in ["made on a", "made on b"] {
                same_but_root(&reference, &host.at(dir))?;
            }
            for dir in ["adopted", "made on a", "made on b"] {
                stays_sparse(host, dir)?;
            }
        }

        fs::rename(b.at("adopted/crowd"), b.at("crowd"))?;
        fs::remove_dir_all(a.at("made on b"))?;
        cluster.converge(LONG)?;
        Ok(())
    })
}

/// The reference may lie on a file system that has not all attributes of ext4's root directory; the rest is exact.
fn same_but_root(left: &Path, right: &Path) -> Result<()> {
    tree::assert_equal(left, right).map(|_| ())
}

fn stays_sparse(host: &Host, dir: &str) -> Result<()> {
    for name in ["sparse", "only a hole"] {
        let meta = fs::metadata(host.at(dir).join(name))?;
        let used = meta.blocks() * 512;
        ensure!(used <= MIB, "{dir}/{name} on {} uses {used} bytes of {}", host.name(), meta.len());
    }
    Ok(())
}
