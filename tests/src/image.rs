//! ext4 file systems with a journal, on loop devices or zram: what stores lie on, and what loses its power.

use crate::shell::{cmd, eventually};
use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;

#[derive(Debug)]
enum Device {
    /// A file; `mount -o loop` finds a free loop device and gives it back with the unmount.
    File(PathBuf),
    /// Number of a zram device of our own.
    Zram(u32),
}

/// A mounted ext4 file system of its own; unmounted and gone when dropped.
#[derive(Debug)]
pub struct Image {
    device: Device,
    mount: PathBuf,
    mounted: bool,
}

impl Image {
    /// Makes an image of `bytes` (sparse, so it costs what is written to it) in `dir` and mounts it at `dir/name`.
    pub fn on_loop(dir: &Path, name: &str, bytes: u64) -> Result<Self> {
        let file = dir.join(format!("{name}.img"));
        File::create(&file)?.set_len(bytes)?;
        mkfs(&file)?;
        Self::mounted(Device::File(file), dir.join(name))
    }

    /// The same on a zram device: it has no disk below it, so times on it vary least.
    ///
    /// # Errors
    /// The kernel has no zram, among others; use [`Image::on_loop`] then.
    pub fn on_zram(dir: &Path, name: &str, bytes: u64) -> Result<Self> {
        let number: u32 = fs::read_to_string("/sys/class/zram-control/hot_add")?.trim().parse()?;
        let device = Device::Zram(number);
        let node = PathBuf::from(format!("/dev/zram{number}"));
        let made = (|| {
            fs::write(format!("/sys/block/zram{number}/disksize"), bytes.to_string())?;
            eventually(Duration::from_secs(5), "the device node of a new zram", || Ok(node.exists()))?;
            mkfs(&node)
        })();
        match made {
            Ok(()) => Self::mounted(device, dir.join(name)),
            Err(why) => {
                release(&device);
                Err(why)
            }
        }
    }

    fn mounted(device: Device, mount: PathBuf) -> Result<Self> {
        fs::create_dir_all(&mount)?;
        let mut image = Self { device, mount, mounted: false };
        image.mount()?;
        Ok(image)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Mounts it again.
    pub fn mount(&mut self) -> Result<()> {
        ensure!(!self.mounted, "{:?} is mounted already", self.mount);
        let command = match &self.device {
            Device::File(file) => cmd("mount", ["-o", "loop"]).arg(file),
            Device::Zram(number) => cmd("mount", ["-o", "nodiscard"]).arg(format!("/dev/zram{number}")),
        };
        command.arg(&self.mount).ok().context("mount an image: root and loop devices are needed")?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it; waits for processes that are just ending.
    pub fn unmount(&mut self) -> Result<()> {
        if self.mounted {
            eventually(Duration::from_secs(20), "the unmount of an image", || {
                cmd("umount", [&self.mount]).ok().map(|_| true)
            })
            .with_context(|| crate::process::users_of(&self.mount))?;
            self.mounted = false;
        }
        Ok(())
    }

    /// Cuts its power: from here on nothing more reaches the disk, and every operation fails. What the journal had
    /// not committed is lost when it is mounted again.
    pub fn power_off(&self) -> Result<()> {
        cmd("xfs_io", ["-x", "-c", "shutdown"]).arg(&self.mount).ok().context("package xfsprogs is needed")?;
        let probe = self.mount.join(".power-probe");
        ensure!(File::create(&probe).is_err(), "the power cut did not take: {probe:?} could be created");
        Ok(())
    }

    /// Bytes that unprivileged writers may still use.
    pub fn available(&self) -> Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.mount)?;
        Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
    }

    /// Makes all that was written durable.
    pub fn sync(&self) -> Result<()> {
        Ok(nix::unistd::syncfs(File::open(&self.mount)?)?)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            let _ = cmd("umount", ["-l"]).arg(&self.mount).run();
        }
        release(&self.device);
    }
}

fn release(device: &Device) {
    let _ = match device {
        Device::File(file) => fs::remove_file(file),
        Device::Zram(number) => {
            let _ = fs::write(format!("/sys/block/zram{number}/reset"), "1");
            fs::write("/sys/class/zram-control/hot_remove", number.to_string())
        }
    };
}

/// An inode for each 4 KiB, as the trees of the tests have many small files; all written now, not in the background
/// later, when times are taken.
fn mkfs(device: &Path) -> Result<()> {
    let tuned =
        ["-q", "-F", "-i", "4096", "-O", "has_journal", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"];
    cmd("mkfs.ext4", tuned).arg(device).ok().map(|_| ())
}
