//! What a client sees: names and attributes without content, then the content, all as the holder has it.

use crate::{AGREE, LIMIT, SOON, ensure_state};
use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Options, with_clients, with_hosts},
    exact::{self, Amount},
    host::Host,
    image::MIB,
    shell::{eventually, sh},
    tree,
};
use nix::libc;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

const AMOUNT: Amount = Amount { crowd: 1000, large_bytes: 20 * MIB, sparse_bytes: 100 * MIB };

/// What `find` and `ls` can say without reading a file, in an order that is everywhere the same.
fn described(dir: &Path) -> Result<String> {
    // The size of a directory is the file system's own matter.
    let script = "cd \"$1\"; export LC_ALL=C; ls -lR > /dev/null; du -s . > /dev/null
        find . \\( -type d -printf '%P %y %m %U %G %T@ %n\\0' \\) -o -printf '%P %y %m %s %U %G %T@ %n %l\\0' |
            sort -z | tr '\\0\\n' '\\n~'
        getfacl -R -p . 2>&1 | sort";
    sh(script, [dir]).timeout(Duration::from_secs(60)).ok()
}

/// Bytes that regular files of the cache have on the disk.
fn content_bytes(host: &Host) -> Result<u64> {
    let script = "find \"$1\" -path \"$1/.intermezzo\" -prune -o -type f -printf '%b\\n' | awk '{ n += $1 } END { print n * 512 }'";
    sh(script, [host.store()]).ok()?.trim().parse().context("a sum")
}

#[test]
fn a_walk_moves_no_content_and_then_all_is_read_as_the_holder_has_it() -> Result<()> {
    with_clients(
        (1, &[], LIMIT),
        |store| exact::make(&store.join("all"), AMOUNT),
        |cluster| {
            let (a, b) = (&cluster[0], &cluster[1]);
            let (there, here) = (described(&a.at("all"))?, described(&b.at("all"))?);
            let not_in = |one: &str, other: &str| -> Vec<String> {
                let known: BTreeSet<&str> = other.lines().collect();
                one.lines().filter(|line| !known.contains(line)).take(10).map(str::to_owned).collect()
            };
            let (missing, added) = (not_in(&there, &here), not_in(&here, &there));
            ensure!(there == here, "a client lists other things than the holder: not {missing:#?} but {added:#?}");
            ensure!(there.lines().count() > 1000, "nothing was listed");
            let bytes = content_bytes(b)?;
            // A block of extended attributes may belong to a file; it is no content.
            ensure!(bytes < MIB, "listing the tree brought {bytes} bytes of content");
            for file in ["one byte", "large", "sparse", "names/...", "links/first name", "attributes/acl-default/file"]
            {
                ensure_state(b, &format!("all/{file}"), "absent")?;
            }

            let (wanted, found) = (tree::read(&a.mount())?, tree::read(&b.mount())?);
            let differences: Vec<_> = tree::differences(&wanted, &found).into_iter().take(20).collect();
            ensure!(differences.is_empty(), "holder (left) and client (right):\n    {}", differences.join("\n    "));
            for file in ["one byte", "large", "sparse", "names/...", "links/first name"] {
                ensure_state(b, &format!("all/{file}"), "cached")?;
            }
            for name in ["sparse", "only a hole"] {
                let used = fs::metadata(b.at("all").join(name))?.blocks() * 512;
                ensure!(used <= MIB, "{name} uses {used} bytes in the cache");
            }
            println!("{} objects; {bytes} bytes of files were there before they were read", found.len());
            Ok(())
        },
    )
}

#[test]
fn every_kind_of_object_made_on_a_client_is_the_same_at_the_holder_and_at_another_client() -> Result<()> {
    with_clients(
        (2, &[], LIMIT),
        |_| Ok(()),
        |cluster| {
            let reference = cluster.path().join("reference");
            exact::make(&reference, AMOUNT)?;
            exact::make(&cluster[1].at("made on b"), AMOUNT)?;
            cluster.clients_agree(AGREE)?;
            for host in cluster.hosts() {
                tree::assert_equal(&reference, &host.at("made on b")).with_context(|| host.name().to_owned())?;
            }
            fs::rename(cluster[2].at("made on b/crowd"), cluster[2].at("crowd"))?;
            fs::remove_dir_all(cluster[0].at("made on b"))?;
            let objects = cluster.clients_agree(AGREE)?;
            ensure!((1000..1010).contains(&objects), "{objects} objects are left");
            Ok(())
        },
    )
}

#[test]
fn a_directory_of_twenty_thousand_names_is_listed_looked_up_and_changed() -> Result<()> {
    const NAMES: usize = 20_000;
    let fill = |store: &Path| {
        fs::create_dir(store.join("crowd"))?;
        (0..NAMES).try_for_each(|i| Ok(fs::write(store.join(format!("crowd/name {i}")), i.to_string())?))
    };
    with_clients((1, &[], LIMIT), fill, |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let count = || Ok::<_, anyhow::Error>(fs::read_dir(b.at("crowd"))?.count());
        ensure!(count()? == NAMES, "not all names are listed");
        for i in (0..NAMES).step_by(997) {
            ensure!(fs::read(b.at(format!("crowd/name {i}")))? == i.to_string().as_bytes(), "name {i}");
        }
        fs::write(a.at("crowd/one more"), "of a")?;
        fs::remove_file(a.at("crowd/name 0"))?;
        fs::write(b.at("crowd/another"), "of b")?;
        eventually(SOON, "what changed is in the listing", || {
            Ok(count()? == NAMES + 1 && !b.at("crowd/name 0").exists() && b.at("crowd/one more").exists())
        })?;
        cluster.wait_on(1, AGREE)?;
        // Not what is in the files: that takes a program that walks, and is another test's.
        let names = |host: &Host| -> Result<BTreeSet<_>> {
            fs::read_dir(host.at("crowd"))?.map(|entry| Ok(entry?.file_name())).collect()
        };
        ensure!(names(a)? == names(b)?, "the names are not those of the holder");
        Ok(())
    })
}

fn refused<T>(what: &str, result: io::Result<T>) -> Result<()> {
    let error = result.err().with_context(|| format!("{what} succeeded on a client that may only read"))?;
    ensure!(error.raw_os_error() == Some(libc::EROFS), "{what} failed with {error}, not with EROFS");
    Ok(())
}

fn refuses_changes(host: &Host) -> Result<()> {
    let (file, new) = (host.at("dir/file"), host.at("dir/new"));
    refused("open for writing", fs::File::options().write(true).open(&file))?;
    refused("truncation", fs::File::options().write(true).truncate(true).open(&file))?;
    refused("creation", fs::File::create_new(&new))?;
    refused("mkdir", fs::create_dir(&new))?;
    refused("unlink", fs::remove_file(&file))?;
    refused("rmdir", fs::remove_dir(host.at("empty")))?;
    refused("rename", fs::rename(&file, &new))?;
    refused("link", fs::hard_link(&file, &new))?;
    refused("symlink", symlink("target", &new))?;
    refused("chmod", fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))?;
    refused("chown", std::os::unix::fs::chown(&file, Some(1), Some(1)))?;
    refused("setxattr", xattr::set(&file, "user.x", b"x"))
}

#[test]
fn a_client_that_may_only_read_refuses_every_change() -> Result<()> {
    with_hosts(Options::clients(2), |cluster| {
        let (a, b, c) = (&cluster[0], &cluster[1], &cluster[2]);
        fs::create_dir_all(a.at("dir"))?;
        fs::create_dir_all(a.at("empty"))?;
        fs::write(a.at("dir/file"), "to be read")?;
        cluster.create(0)?;
        cluster.mount_client(1, &["--access", "ro"], &[])?;
        cluster.mount_client(2, &[], &["--read-only"])?;
        cluster.within(LIMIT, || {
            for host in [b, c] {
                refuses_changes(host).with_context(|| format!("on {}", host.name()))?;
                ensure!(fs::read(host.at("dir/file"))? == b"to be read", "{} cannot read", host.name());
            }
            fs::write(a.at("dir/file"), "changed at the holder")?;
            for host in [1, 2] {
                cluster.sees(host, "dir/file", b"changed at the holder")?;
                refuses_changes(&cluster[host])?;
            }
            cluster.clients_agree(AGREE).map(drop)
        })
    })
}
