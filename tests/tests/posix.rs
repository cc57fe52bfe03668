//! A mount is a POSIX file system as its bottom is: pjdfstest and fsx, and programs that are hard to please.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    dice::{Dice, scaled},
    image::{GIB, Image},
    presto::PrestoMount,
    shell::cmd,
    tools::{tool, user},
    workspace::Workspace,
};
use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

const PJD_SETTINGS: &str = "\
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
stat_st_birthtime = {}
[settings]
naptime = 0.01
[dummy_auth]
entries = [[\"nobody\", \"nogroup\"], [\"tests\", \"tests\"]]
";

const FSX_SETTINGS: &str = "\
[weights]
close_open = 1
invalidate = 1
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 5
punch_hole = 5
sendfile = 5
posix_fadvise = 1
copy_file_range = 5
";

/// glibc tells the limit of links by the type of the file system, and knows none for FUSE; the limit itself is ext4's.
const SKIPPED_ON_FUSE: &str = "link::link_count_max";

struct Pjd {
    failed: BTreeSet<String>,
    passed: BTreeSet<String>,
    output: String,
}

fn pjdfstest(space: &Path, dir: &Path) -> Result<Pjd> {
    let settings = space.join("pjd.toml");
    fs::write(&settings, PJD_SETTINGS)?;
    fs::create_dir_all(dir)?;
    // Other users must reach the directory.
    for path in [space, dir] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let run = cmd(tool("pjdfstest", "0.2.2")?, ["-c"]).arg(settings).arg("-p").arg(dir).arg("-s").arg(space);
    let output = run.timeout(Duration::from_secs(300)).run()?.stdout;
    let ended = |line: &str, word| line.trim_end().strip_suffix(word).map(|name| name.trim().to_owned());
    let failed = output.lines().filter_map(|line| ended(line, "FAILED")).collect();
    let passed = output.lines().filter_map(|line| ended(line, "ok")).collect();
    Ok(Pjd { failed, passed, output })
}

#[test]
fn pjdfstest_fails_nothing_that_native_ext4_does_not_fail() -> Result<()> {
    user("tests")?;
    let space = Workspace::new()?;
    let disk = Image::on_loop(space.path(), "disk", 2 * GIB)?;
    fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o755))?;
    let native = pjdfstest(space.path(), &disk.path().join("native"))?;
    ensure!(native.passed.len() > 350, "native ext4 passes only {} tests:\n{}", native.passed.len(), native.output);

    let mount = PrestoMount::start(space.path(), &disk.path().join("bottom"))?;
    let ours = pjdfstest(space.path(), &mount.path().join("pjd"))?;
    println!("pjdfstest: native {} passed, mount {} passed", native.passed.len(), ours.passed.len());
    let more: Vec<_> = ours.failed.difference(&native.failed).collect();
    ensure!(more.is_empty(), "{} failures that native ext4 has not: {more:?}", more.len());
    // A test may be skipped on a mount for a feature that it lacks: that is no pass.
    let less: Vec<_> = native.passed.difference(&ours.passed).filter(|name| *name != SKIPPED_ON_FUSE).collect();
    ensure!(less.is_empty(), "{} tests that native ext4 passes are not passed: {less:?}\n{}", less.len(), ours.output);
    mount.stop()
}

#[test]
fn fsx_finds_no_wrong_byte() -> Result<()> {
    let mut dice = Dice::new("fsx");
    let space = Workspace::new()?;
    let disk = Image::on_loop(space.path(), "disk", 2 * GIB)?;
    let mount = PrestoMount::start(space.path(), &disk.path().join("bottom"))?;
    let settings = space.path().join("fsx.toml");
    fs::write(&settings, FSX_SETTINGS)?;
    for run in 0..scaled(3, 20) {
        let seed = (dice.roll() >> 40).to_string();
        let file = mount.path().join(format!("fsx {run}"));
        let fsx =
            cmd(tool("fsx", "0.3.2")?, ["-N", "20000", "-S", &seed, "-P"]).arg(space.path()).arg("-f").arg(&settings);
        fsx.arg(&file).timeout(Duration::from_secs(300)).ok().with_context(|| format!("fsx -S {seed}"))?;
        let bottom = mount.bottom().join(format!("fsx {run}"));
        ensure!(fs::read(file)? == fs::read(bottom)?, "seed {seed}: mount and bottom differ");
    }
    mount.stop()
}
