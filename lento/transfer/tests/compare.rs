//! Comparison of trees: whatever is here, afterwards it is what is there.

mod common;

use common::everything::everything;
use common::{Side, host, noise, overwrite, served};
use lento_transfer::{
    CompareOptions, CompareReport, Comparer, Difference, Fetched, ManifestDiff, ManifestReader, Receiver, list,
    manifest,
};
use nix::sys::stat::Mode;
use proptest::prelude::*;
use protocol::{ObjectId, Position};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

fn listed(source: &Side) -> (Vec<Vec<u8>>, Position) {
    let mut bodies = Vec::new();
    let after = list(&source.store, ObjectId::ROOT, true, &mut |body| {
        bodies.push(body);
        Ok(())
    })
    .expect("the source is sound");
    (bodies, after)
}

fn fetch(source: &Side, to: &Side, ids: Vec<ObjectId>) -> Vec<(ObjectId, Fetched)> {
    let mut receiver = Receiver::for_comparison(to.store.clone(), ids);
    while let Some(wanted) = receiver.next_round().expect("the source answers") {
        served(source, &wanted).iter().for_each(|body| receiver.take(body).expect("the source is honest"));
    }
    receiver.finish()
}

/// As a daemon does it: with what is known of new objects, and believing nothing after a copy was lost.
fn fetch_for(comparer: &mut Comparer, source: &Side, to: &Side, distrust: bool) -> Vec<(ObjectId, Fetched)> {
    let wanted = comparer.take_wanted();
    let new = wanted.iter().filter_map(|id| Some((*id, comparer.awaited(*id)?.1?.clone()))).collect();
    let mut receiver = Receiver::for_comparison(to.store.clone(), wanted).expect_new(new).without_sync();
    if distrust {
        receiver = receiver.without_memory();
    }
    while let Some(wanted) = receiver.next_round().expect("the source answers") {
        served(source, &wanted).iter().for_each(|body| receiver.take(body).expect("the source is honest"));
    }
    receiver.finish()
}

fn compare_with(source: &Side, to: &Side, options: CompareOptions) -> CompareReport {
    let distrust = options.distrust;
    let mut comparer = Comparer::new(to.store.clone(), ObjectId::ROOT, source.store.config().host, options);
    let (bodies, after) = listed(source);
    for body in bodies {
        comparer.take(&body).expect("the listing is sound");
        let fetched = fetch_for(&mut comparer, source, to, distrust);
        comparer.content(fetched).expect("it is committed");
    }
    comparer.finish(after).expect("the listing was complete")
}

fn compare(source: &Side, to: &Side) -> CompareReport {
    let report = compare_with(source, to, CompareOptions::default());
    assert_eq!(report.failed, []);
    assert_same(source, to);
    assert!(to.staging_names().iter().all(|name| name.starts_with('.')), "{:?}", to.staging_names());
    assert_eq!(fs::read_dir(to.path(".intermezzo/limbo")).expect("it is there").count(), 0);
    report
}

fn manifest_of(side: &Side) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    manifest(side.store.bottom(), &mut |body| {
        bodies.push(body);
        Ok(())
    })
    .expect("the tree is sound");
    bodies
}

fn differences(a: &Side, b: &Side) -> Vec<Difference> {
    let entries = |side| ManifestReader::new(manifest_of(side).into_iter());
    ManifestDiff::new(entries(a), entries(b)).map(|d| d.expect("manifests are in order")).collect()
}

fn shown(difference: &Difference) -> String {
    match difference {
        Difference::OnlyHere(entry) => format!("only at the source: {}", entry.path.escape_ascii()),
        Difference::OnlyThere(entry) => format!("not at the source: {}", entry.path.escape_ascii()),
        Difference::Differs { aspects, here, .. } => format!("{}: {aspects:?}", here.path.escape_ascii()),
    }
}

#[track_caller]
fn assert_same(source: &Side, to: &Side) {
    let found = differences(source, to);
    let shown: Vec<_> = found.iter().take(9).map(shown).collect();
    assert!(found.is_empty(), "{} differences: {shown:#?}", found.len());
    // The identities are the same, too.
    let (mut ours, mut theirs) = (identities(source), identities(to));
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
}

fn identities(side: &Side) -> Vec<(PathBuf, ObjectId)> {
    let mut out = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(dir) = directories.pop() {
        for entry in fs::read_dir(side.root.join(&dir)).expect("it is there") {
            let entry = entry.expect("it is read");
            let path = dir.join(entry.file_name());
            if path == Path::new(".intermezzo") {
                continue;
            }
            let bottom = side.store.bottom();
            let fd = nix::fcntl::open(
                &side.root.join(&path),
                nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_NOFOLLOW,
                Mode::empty(),
            );
            let identity = bottom.identity(fd.expect("it is there").as_fd()).expect("it is read");
            out.push((path.clone(), identity.expect("it has one").id));
            if entry.file_type().expect("it is known").is_dir() {
                directories.push(path);
            }
        }
    }
    out
}

#[test]
fn everything_is_copied_to_an_empty_store_and_again_costs_nothing() {
    let source = Side::adopt(1, everything);
    let to = Side::create(2);
    let first = compare(&source, &to);
    assert!(first.created > 15 && first.fetched >= 4 && first.removed == 0, "{first:?}");
    let again = compare(&source, &to);
    assert_eq!((again.created, again.fetched, again.same, again.removed, again.moved), (0, 0, 0, 0, 0));
    assert_eq!(to.store.applied().expect("it is read").get(&host(1)), Some(&Position::START));
}

#[test]
fn a_directory_that_was_filled_by_other_means_is_adopted() {
    let source = Side::adopt(1, everything);
    let to = Side::prefilled(2, everything);
    overwrite(&to.path("a/b/large"), 100, b"changed");
    fs::remove_file(to.path("absolute")).expect("it was there");
    let report = compare(&source, &to);
    assert!(report.adopted > 10 && report.same >= 2 && report.fetched <= 4, "{report:?}");
}

#[test]
fn what_moved_is_not_fetched_again() {
    let source = Side::adopt(1, everything);
    let to = Side::create(2);
    compare(&source, &to);
    fs::rename(source.path("a/b"), source.path("moved")).expect("it is moved");
    fs::rename(source.path("a/small"), source.path("moved/c/small")).expect("it is moved");
    fs::rename(source.path("empty"), source.path("moved/empty")).expect("it is moved");
    let report = compare(&source, &to);
    assert_eq!((report.created, report.fetched), (0, 0), "{report:?}");
    assert!(report.moved >= 3);
}

#[test]
fn names_that_were_exchanged_are_exchanged() {
    let source = Side::adopt(1, |root| {
        for dir in ["x", "y"] {
            fs::create_dir(root.join(dir)).expect("it is new");
            fs::write(root.join(dir).join("f"), noise(200_000, dir.len() as u64)).expect("it is written");
            fs::write(root.join(format!("{dir}.txt")), dir).expect("it is written");
        }
    });
    let to = Side::create(2);
    compare(&source, &to);
    for (a, b) in [("x", "y"), ("x.txt", "y.txt")] {
        fs::rename(source.path(a), source.path("t")).expect("it is moved");
        fs::rename(source.path(b), source.path(a)).expect("it is moved");
        fs::rename(source.path("t"), source.path(b)).expect("it is moved");
    }
    let report = compare(&source, &to);
    assert_eq!((report.created, report.fetched), (0, 0), "{report:?}");
}

#[test]
fn a_directory_that_went_below_its_own_child_goes_there() {
    let source = Side::adopt(1, |root| {
        fs::create_dir_all(root.join("a/b")).expect("it is new");
        fs::write(root.join("a/f"), "1").expect("it is written");
        fs::write(root.join("a/b/g"), "2").expect("it is written");
    });
    let to = Side::create(2);
    compare(&source, &to);
    fs::rename(source.path("a/b"), source.path("t")).expect("it is moved");
    fs::rename(source.path("a"), source.path("t/b")).expect("it is moved");
    fs::rename(source.path("t"), source.path("a")).expect("it is moved");
    let report = compare(&source, &to);
    assert_eq!((report.created, report.fetched), (0, 0), "{report:?}");
}

#[test]
fn what_is_in_the_way_gives_way() {
    let source = Side::adopt(1, |root| {
        fs::create_dir_all(root.join("dir/sub")).expect("it is new");
        fs::write(root.join("dir/sub/f"), "f").expect("it is written");
        fs::write(root.join("file"), "file").expect("it is written");
        fs::write(root.join("other"), "other").expect("it is written");
    });
    let to = Side::create(2);
    compare(&source, &to);
    fs::rename(source.path("dir"), source.path("t")).expect("it is moved");
    fs::rename(source.path("file"), source.path("dir")).expect("it is moved");
    fs::rename(source.path("t"), source.path("file")).expect("it is moved");
    fs::remove_file(source.path("other")).expect("it was there");
    let report = compare(&source, &to);
    assert_eq!((report.created, report.fetched, report.removed), (0, 0, 1), "{report:?}");
}

#[test]
fn what_the_source_does_not_have_is_removed_and_kept_if_it_is_news() {
    let source = Side::adopt(1, everything);
    let to = Side::create(2);
    compare(&source, &to);
    fs::create_dir_all(to.path("new/deep")).expect("it is new");
    fs::write(to.path("new/deep/precious"), "precious").expect("it is written");
    fs::write(to.path("a/small"), "changed here").expect("it is written");
    fs::remove_dir_all(source.path("a/b")).expect("it is removed");
    let report = compare(&source, &to);
    let kept: BTreeSet<_> = report
        .kept
        .iter()
        .map(|name| fs::read(to.path(".intermezzo/conflicts").join(name.as_os_str())).expect("it was kept"))
        .collect();
    assert_eq!(kept, BTreeSet::from([b"precious".to_vec(), b"changed here".to_vec()]), "{report:?}");
    assert!(report.kept.iter().any(|name| name.to_string().starts_with("new:deep:precious")), "{report:?}");
}

#[test]
fn a_deep_and_a_wide_tree_are_copied() {
    let source = Side::adopt(1, |root| {
        let mut path = root.to_owned();
        for _ in 0..200 {
            path.push("deep");
            fs::create_dir(&path).expect("it is new");
        }
        fs::write(path.join("f"), "at the bottom").expect("it is written");
        fs::create_dir(root.join("wide")).expect("it is new");
        (0..5000).for_each(|n| fs::write(root.join(format!("wide/{n}")), "").expect("it is written"));
    });
    compare(&source, &Side::create(2));
}

#[test]
fn losers_are_kept_on_request() {
    let source = Side::adopt(1, everything);
    let to = Side::create(2);
    compare(&source, &to);
    fs::remove_file(source.path("a/b/large")).expect("it was there");
    let report = compare_with(&source, &to, CompareOptions { keep_losers: true, ..CompareOptions::default() });
    assert_same(&source, &to);
    assert_eq!(report.kept.len(), 1);
}

#[test]
fn contents_that_a_loss_of_power_damaged_are_found_whatever_their_size_and_time() {
    let source = Side::adopt(1, everything);
    let to = Side::create(2);
    compare(&source, &to);
    for path in ["a/small", "a/b/large"] {
        let before = fs::metadata(to.path(path)).expect("it was copied").modified().expect("it has a time");
        overwrite(&to.path(path), 0, b"?");
        let file = File::options().write(true).open(to.path(path)).expect("it is there");
        file.set_modified(before).expect("it is ours");
    }
    let report = compare_with(&source, &to, CompareOptions::default());
    assert_eq!(report.fetched, 0, "the damage is not to be seen");
    let report = compare_with(&source, &to, CompareOptions { distrust: true, ..CompareOptions::default() });
    assert_eq!((report.fetched, &report.failed[..]), (2, &[][..]));
    assert_same(&source, &to);
}

#[test]
fn what_is_being_changed_at_the_source_waits_for_its_record() {
    let source = Side::adopt(1, everything);
    let to = Side::create(2);
    fs::write(source.path("a/small"), "not in the log yet").expect("it is written");
    let report = compare_with(&source, &to, CompareOptions::default());
    assert_eq!((report.changing, &report.failed[..]), (1, &[][..]));
    assert_eq!(fs::metadata(to.path("a/small")).expect("it holds its place").len(), 0);
    assert_eq!(fs::metadata(to.path("a/b/c/link")).expect("it holds its place").len(), 0);
}

#[test]
fn what_could_not_be_fetched_is_reported_and_the_position_is_not_recorded() {
    let source = Side::adopt(1, everything);
    let to = Side::create(2);
    let mut comparer = Comparer::new(to.store.clone(), ObjectId::ROOT, host(1), CompareOptions::default());
    let (bodies, after) = listed(&source);
    bodies.iter().for_each(|body| comparer.take(body).expect("the listing is sound"));
    let wanted = comparer.take_wanted();
    let lost = wanted.iter().map(|id| (*id, Fetched::FailedThere(libc::EIO))).collect();
    comparer.content(lost).expect("it is noted");
    let report = comparer.finish(after).expect("the listing was complete");
    assert_eq!(report.failed.len(), wanted.len());
    assert_eq!(to.store.applied().expect("it is read").get(&host(1)), None);
    compare(&source, &to);
}

#[test]
fn a_missing_object_is_made_with_all_below_it_and_waits_for_its_name() {
    let source = Side::adopt(1, everything);
    let to = Side::create(2);
    for root in ["a", "a/small"] {
        let root = source.id(root);
        let mut comparer = Comparer::new(to.store.clone(), root, host(1), CompareOptions::default());
        let mut bodies = Vec::new();
        let after = list(&source.store, root, true, &mut |body| {
            bodies.push(body);
            Ok(())
        });
        bodies.iter().for_each(|body| comparer.take(body).expect("the listing is sound"));
        assert!(comparer.progress().listed_all);
        let wanted = comparer.take_wanted();
        comparer.content(fetch(&source, &to, wanted)).expect("it is committed");
        comparer.finish(after.expect("the source is sound")).expect("the listing was complete");
        let fd = to.store.open_object(root, nix::fcntl::OFlag::O_PATH).expect("it exists");
        assert_eq!(to.store.bottom().identity(fd.as_fd()).expect("it is read").map(|identity| identity.id), Some(root));
    }
    assert_eq!(fs::read_dir(&to.root).expect("it is there").count(), 1, "it has no name yet");
    // A whole comparison then finds it.
    let report = compare(&source, &to);
    assert!(report.moved > 0, "{report:?}");
}

#[test]
fn an_incomplete_listing_removes_nothing() {
    let source = Side::adopt(1, |root| fs::write(root.join("f"), "1").expect("it is written"));
    let to = Side::create(2);
    compare(&source, &to);
    let comparer = Comparer::new(to.store.clone(), ObjectId::ROOT, host(1), CompareOptions::default());
    assert!(comparer.finish(Position::START).is_err());
    assert!(to.path("f").exists());
}

#[test]
fn a_comparison_that_was_cut_off_anywhere_is_run_again() {
    let source = Side::adopt(1, everything);
    for cut in 0..6 {
        let to = Side::prefilled(2, |root| {
            fs::create_dir(root.join("empty")).expect("it is new");
            fs::write(root.join("a"), "in the way").expect("it is written");
        });
        let mut comparer = Comparer::new(to.store.clone(), ObjectId::ROOT, host(1), CompareOptions::default());
        let (bodies, _) = listed(&source);
        for body in &bodies {
            comparer.take(body).expect("the listing is sound");
        }
        let wanted = comparer.take_wanted();
        let some = wanted.len() * cut / 6;
        comparer.content(fetch(&source, &to, wanted[..some].to_vec())).expect("it is committed");
        drop(comparer);
        compare(&source, &to);
    }
}

#[test]
fn hard_links_of_a_changed_file_stay_linked() {
    let source = Side::adopt(1, everything);
    let to = Side::create(2);
    compare(&source, &to);
    let inode = fs::metadata(to.path("a/small")).expect("it is there").ino();
    // Adopted anew, so that the change is one that may be served.
    let source = source.adopt_again(|root| fs::write(root.join("a/small"), "changed").expect("it is written"));
    let report = compare_with(&source, &to, CompareOptions::default());
    assert_eq!(report.failed, []);
    assert_eq!(fs::read(to.path("a/b/c/link")).expect("it is there"), b"changed");
    assert_eq!(fs::metadata(to.path("a/small")).expect("it is there").ino(), inode);
}

#[test]
fn a_large_file_is_appended_to_in_place() {
    let source = Side::adopt(1, |root| fs::write(root.join("log"), noise(9 << 20, 1)).expect("it is written"));
    let to = Side::create(2);
    compare(&source, &to);
    let inode = fs::metadata(to.path("log")).expect("it is there").ino();
    let source = source.adopt_again(|root| {
        let mut file = File::options().append(true).open(root.join("log")).expect("it is there");
        std::io::Write::write_all(&mut file, &noise(1 << 20, 2)).expect("it is written");
    });
    let report = compare(&source, &to);
    assert_eq!((report.fetched, &report.kept[..]), (1, &[][..]));
    assert_eq!(fs::metadata(to.path("log")).expect("it is there").ino(), inode);
}

/// One random change of a tree; numbers choose names.
#[derive(Debug, Clone)]
enum Change {
    Mkdir(u8, u8),
    Write(u8, u8, u8),
    Symlink(u8, u8),
    Link(u8, u8, u8),
    Rename(u8, u8, u8),
    Remove(u8),
    Chmod(u8, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let n = any::<u8>();
    prop_oneof![
        2 => (n, n).prop_map(|(a, b)| Change::Mkdir(a, b)),
        4 => (n, n, n).prop_map(|(a, b, c)| Change::Write(a, b, c)),
        1 => (n, n).prop_map(|(a, b)| Change::Symlink(a, b)),
        2 => (n, n, n).prop_map(|(a, b, c)| Change::Link(a, b, c)),
        4 => (n, n, n).prop_map(|(a, b, c)| Change::Rename(a, b, c)),
        2 => n.prop_map(Change::Remove),
        1 => (n, n).prop_map(|(a, b)| Change::Chmod(a, b)),
    ]
}

/// All paths of a tree, the root first, in an order that depends on names only.
fn paths(root: &Path) -> Vec<PathBuf> {
    let mut out = vec![root.to_owned()];
    let mut next = 0;
    while next < out.len() {
        if out[next].symlink_metadata().is_ok_and(|m| m.is_dir()) {
            let mut below: Vec<_> =
                fs::read_dir(&out[next]).expect("it is there").map(|e| e.expect("it is read").path()).collect();
            below.retain(|path| !path.ends_with(".intermezzo"));
            below.sort();
            out.extend(below);
        }
        next += 1;
    }
    out
}

/// Makes a change if it is possible; what is not is left.
fn apply(root: &Path, change: &Change) {
    let all = paths(root);
    let pick = |n: u8| all[usize::from(n) % all.len()].clone();
    let dir = |n: u8| {
        let picked = pick(n);
        if picked.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            picked
        } else {
            picked.parent().expect("it is below the root").into()
        }
    };
    let name = |n: u8| format!("n{}", n % 6);
    let _ = match change {
        Change::Mkdir(a, b) => fs::create_dir(dir(*a).join(name(*b))),
        Change::Write(a, b, c) => {
            let path = dir(*a).join(name(*b));
            if path.symlink_metadata().is_ok_and(|m| !m.is_file()) {
                Ok(())
            } else {
                fs::write(path, noise(usize::from(*c) * 20, u64::from(*c)))
            }
        }
        Change::Symlink(a, b) => symlink("target", dir(*a).join(name(*b))),
        Change::Link(a, b, c) => fs::hard_link(pick(*a), dir(*b).join(name(*c))),
        Change::Rename(a, b, c) if pick(*a) != root => fs::rename(pick(*a), dir(*b).join(name(*c))),
        Change::Remove(a) if pick(*a) != root => fs::remove_file(pick(*a)).or_else(|_| fs::remove_dir_all(pick(*a))),
        Change::Chmod(a, b) if pick(*a).symlink_metadata().is_ok_and(|m| !m.is_symlink()) => {
            fs::set_permissions(pick(*a), fs::Permissions::from_mode(0o700 | (u32::from(*b) % 0o100)))
        }
        _ => Ok(()),
    };
}

fn changes(most: usize) -> impl Strategy<Value = Vec<Change>> {
    proptest::collection::vec(change(), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_both_sides_did_they_end_the_same(before in changes(30), ours in changes(20), theirs in changes(20)) {
        let source = Side::adopt(1, |root| before.iter().for_each(|change| apply(root, change)));
        let to = Side::create(2);
        compare(&source, &to);
        theirs.iter().for_each(|change| apply(&to.root, change));
        // Adopted anew with the ids that it has, so that its changes may be served.
        let source = source.adopt_again(|root| ours.iter().for_each(|change| apply(root, change)));
        compare(&source, &to);
    }
}
