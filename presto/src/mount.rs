//! From the command line to a mount that serves, and its end.

use crate::{
    absent::WaitingRoom,
    attach::{Mounted, attributes},
    error::MountError,
    filter::{Filter, Replaced, orphan_name},
    fuse::{Adapter, Backing, Kernel},
    invalidate::Invalidations,
    journal::Journal,
    marker::Marker,
    permit::{Gate, is_interrupted},
    recovery,
    syncer::Syncer,
    sys::{self, Bottom, FuseMount},
    upcall::{Client, Upcalls},
};
use fuser::{Config, Session, SessionACL};
use modlog::Writer;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        signal::{SigSet, Signal},
        stat::Mode,
    },
};
use protocol::{FileSetId, HostId, Name, Upcall, limits};
use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// What to mount, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The native directory.
    pub store: PathBuf,
    /// Where it can be opened while a mount that nobody serves covers it.
    pub bottom: Option<PathBuf>,
    /// The mount point. A mount there that nobody serves is replaced.
    pub mount: PathBuf,
    /// The file set.
    pub fileset: FileSetId,
    /// Its name.
    pub name: String,
    /// This host.
    pub host: HostId,
    /// Where Lento listens.
    pub socket: PathBuf,
    /// Threads that answer the kernel, at least 1.
    pub threads: usize,
    /// How long a change waits for the permit; for ever if `None`.
    pub soft: Option<Duration>,
    /// The last number that an earlier log of this host in this file set gave, 0 for none: a new log begins well after it.
    pub numbers_after: u64,
    /// The store is a client's cache: objects in it may be absent, and are asked for when they are needed.
    pub on_demand: bool,
    /// Nothing can be changed through the mount.
    pub read_only: bool,
}

/// Mounts, prints `ready`, serves, and returns when it is unmounted: by SIGTERM or SIGINT, by Lento, or by `umount`.
///
/// # Errors
/// See [`MountError`]; nothing stays mounted.
pub fn run(options: Options) -> Result<(), MountError> {
    let signals = block_signals()?;
    sys::prepare_process().map_err(|source| MountError::Privilege { what: "cannot act as callers", source })?;
    let store = open_store(options.bottom.as_ref().unwrap_or(&options.store))?;
    let private = open_private(&store)?;
    let _lock = lock(&private)?;
    let marker = Marker::new(duplicate(&private)?).map_err(|e| private_error("the marker", e))?;
    let bottom = Bottom::new(duplicate(&store)?).map_err(|errno| match errno {
        Errno::EOPNOTSUPP => MountError::NotExt4 { path: options.store.clone() },
        other => MountError::Store { path: options.store.clone(), source: other.into() },
    })?;
    let log = subdirectory(&private, "log")?;
    let log_options = modlog::Options::new(options.fileset, options.host);
    let (mut writer, recovered) = Writer::open(duplicate(&log)?, log_options)?;
    let end = marker.last_end().map_err(|e| private_error("the marker", e))?;
    if writer.last() == 0 && options.numbers_after > 0 {
        // Beyond a gap, as after a loss of power: readers know those.
        writer.skip(options.numbers_after.saturating_add(protocol::limits::LOG_GAP_RECORDS));
    }
    let lost_after = recovery::recover(&bottom, options.host, &log, &mut writer, recovered, end)?;
    marker.set(false).map_err(|e| private_error("the marker", e))?;

    let upcalls = Arc::new(Upcalls::default());
    let gate = Gate::new({
        let upcalls = upcalls.clone();
        move || upcalls.send(&Upcall::GetPermit)
    });
    let room = WaitingRoom::new({
        let upcalls = upcalls.clone();
        move |upcall| upcalls.send(upcall)
    });
    let cache = options.on_demand.then(|| recovery::unsent(&log)).transpose()?;
    let backing = Backing::default();
    let orphans = saver(subdirectory(&private, "conflicts")?, upcalls.clone())?;
    let (journal, passthrough) = (Journal::new(writer), Box::new(backing.clone()));
    let filter = Arc::new(Filter::new(bottom, options.host, journal, gate, room, cache, passthrough, orphans));
    let fail = |source| MountError::Mount { path: options.mount.clone(), source };
    let mount = mount_point(&options.mount).map_err(fail)?;
    // The mount usually covers the store: nothing else is looked up by path from here on.
    std::env::set_current_dir("/").map_err(MountError::Session)?;
    let options = Options { mount, ..options };
    let ended = serve(&options, &filter, &store, backing, upcalls, lost_after, signals);
    let closed = filter.journal.sync();
    closed?;
    ended?;
    if filter.files.written().is_empty() {
        marker.set(true).map_err(|e| private_error("the marker", e))?;
    }
    Ok(())
}

fn serve(
    options: &Options,
    filter: &Arc<Filter>,
    store: &OwnedFd,
    backing: Backing,
    upcalls: Arc<Upcalls>,
    lost_after: Option<u64>,
    signals: SigSet,
) -> Result<(), MountError> {
    let syncer = Syncer::start(options.threads).map_err(MountError::Session)?;
    let adapter = Adapter { filter: filter.clone(), syncer, backing: backing.clone() };
    let fail = |source| MountError::Mount { path: options.mount.clone(), source };
    let source = format!("intermezzo:{}", options.name);
    let (made, device) = FuseMount::new(&source, "presto", attributes(store, options.read_only)).map_err(fail)?;
    // The kernel's first request waits in the device already.
    let session = Session::from_fd(adapter, duplicate(&device)?, SessionACL::All, config(options)).map_err(fail)?;
    let mounted = Mounted::new(&made, duplicate(&device)?, options.mount.clone()).map_err(|e| fail(e.into()))?;
    drop(made);
    backing.mounted(duplicate(&device)?);
    let kernel = Arc::new(Kernel { notifier: session.notifier(), device });
    let ending = Arc::new(AtomicBool::new(false));
    let mount = options.mount.clone();
    start("signals", move || unmount_on_signal(&signals, &mount))?;
    let invalidations =
        Invalidations::start(filter.clone(), kernel.clone(), upcalls.clone()).map_err(MountError::Session)?;
    let client = Client {
        socket: options.socket.clone(),
        fileset: options.fileset,
        bottom: duplicate(store)?,
        lost_after,
        filter: filter.clone(),
        upcalls: upcalls.clone(),
        kernel,
        invalidations,
        shutdown: Box::new(|| {
            // To ourselves: the thread that waits for signals unmounts.
            let _ = nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGTERM);
        }),
        ending: ending.clone(),
    };
    start("lento", move || client.run())?;
    start_helpers(options, filter, upcalls, &ending)?;
    println!("ready");
    // Nobody listening is not a reason to stop.
    let _ = std::io::stdout().flush();
    let ended = session.run();
    drop(mounted);
    ending.store(true, Ordering::Release);
    finish(filter);
    ended.map_err(MountError::Session)
}

/// Unmounts at the first signal; if the mount is in use it disappears from the tree, and ends with its last use, or at
/// the second signal.
fn unmount_on_signal(signals: &SigSet, mount: &Path) {
    use nix::mount::{MntFlags, umount2};
    for flags in [MntFlags::UMOUNT_NOFOLLOW, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH] {
        match signals.wait() {
            Ok(signal) => tracing::info!(%signal, mount = %mount.display(), "unmounting"),
            Err(error) => return tracing::error!(%error, "cannot wait for signals"),
        }
        match umount2(mount, flags) {
            Err(Errno::EBUSY) => {
                tracing::warn!("the mount is in use; it is detached, and ends when it is not used any more");
                if let Err(error) = umount2(mount, MntFlags::MNT_DETACH) {
                    tracing::error!(%error, "the mount cannot be detached");
                }
            }
            // Detached before: who still uses it loses it now.
            Err(_) => std::process::exit(1),
            Ok(()) => {}
        }
    }
}

/// After the unmount: stores that are due are appended if the permit is here, all else is refused.
fn finish(filter: &Filter) {
    if let Some(pass) = filter.gate.enter() {
        filter.store_all(&pass);
    }
    filter.gate.end();
    filter.room.end();
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), MountError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map(drop).map_err(MountError::Session)
}

/// The threads that do what is due without being asked.
fn start_helpers(
    options: &Options,
    filter: &Arc<Filter>,
    upcalls: Arc<Upcalls>,
    ending: &Arc<AtomicBool>,
) -> Result<(), MountError> {
    let f = filter.clone();
    start("parked", move || f.gate.work_off())?;
    let (f, soft) = (filter.clone(), options.soft);
    start("watch", move || f.gate.watch(soft, is_interrupted))?;
    if options.on_demand {
        let f = filter.clone();
        start("fetched", move || f.room.work_off())?;
        let f = filter.clone();
        start("watch-fetches", move || f.room.watch(soft, is_interrupted))?;
    }
    let (f, end) = (filter.clone(), ending.clone());
    start("doorbell", move || {
        while !end.load(Ordering::Acquire) {
            if f.journal.wait_for_ring(Duration::from_secs(1)) {
                ring(&f, &upcalls);
            }
        }
    })?;
    let (f, end) = (filter.clone(), ending.clone());
    start("tidy", move || {
        let mut stored = Instant::now();
        while !end.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(limits::SYNC_INTERVAL_MS));
            if f.journal.is_dirty()
                && let Err(error) = f.journal.sync()
            {
                tracing::warn!(%error, "the log could not be made durable");
            }
            if stored.elapsed() >= Duration::from_millis(limits::OPEN_STORE_INTERVAL_MS) {
                stored = Instant::now();
                f.store_long_open();
            }
        }
    })
}

/// Tells Lento that the log grew, or cannot.
fn ring(filter: &Filter, upcalls: &Upcalls) {
    if let Some(errno) = filter.journal.failure() {
        upcalls.send(&Upcall::LogFailed { errno });
    }
    match filter.journal.flush() {
        Ok(last) => upcalls.send(&Upcall::Advanced { last }),
        Err(error) => upcalls.send(&Upcall::LogFailed { errno: error.errno() }),
    }
}

/// Saves what was written to a replaced file below `.intermezzo/conflicts`, and tells Lento.
fn saver(conflicts: OwnedFd, upcalls: Arc<Upcalls>) -> Result<Box<dyn Fn(Replaced) + Send + Sync>, MountError> {
    Ok(Box::new(move |replaced: Replaced| {
        let name = orphan_name(replaced.id);
        match save(&conflicts, &name, &replaced.file) {
            Ok(()) => upcalls.send(&Upcall::Orphaned { saved: name }),
            Err(error) => tracing::error!(%error, %name, "content written to a replaced file could not be saved"),
        }
    }))
}

fn save(conflicts: &OwnedFd, name: &Name, from: &File) -> std::io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mut to = File::from(nix::fcntl::openat(conflicts, name.as_os_str(), flags, Mode::from_bits_truncate(0o600))?);
    let mut from = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(from)))?;
    std::io::copy(&mut from, &mut to)?;
    to.sync_all()
}

fn config(options: &Options) -> Config {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(options.threads);
    config.clone_fd = options.threads > 1;
    config
}

fn block_signals() -> Result<SigSet, MountError> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block().map_err(|source| MountError::Privilege { what: "cannot block signals", source })?;
    Ok(set)
}

/// The mount point, without links. A mount that nobody serves cannot be looked at, what it lies in can.
fn mount_point(path: &Path) -> std::io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(why), Some(parent), Some(name)) if why.raw_os_error() == Some(libc::ENOTCONN) => {
            Ok(parent.canonicalize()?.join(name))
        }
        (found, ..) => found,
    }
}

fn open_store(path: &Path) -> Result<OwnedFd, MountError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty())
        .map_err(|errno| MountError::Store { path: path.to_owned(), source: errno.into() })
}

fn open_private(store: &OwnedFd) -> Result<OwnedFd, MountError> {
    subdirectory_named(store, Name::RESERVED).map_err(|e| private_error(".intermezzo", e.into()))
}

fn subdirectory(private: &OwnedFd, name: &'static str) -> Result<OwnedFd, MountError> {
    subdirectory_named(private, name.as_bytes()).map_err(|e| private_error(name, e.into()))
}

fn subdirectory_named(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    match nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(0o700)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    nix::fcntl::openat(parent, name, flags, Mode::empty())
}

/// Keeps a second Presto off the store, as long as the result lives.
fn lock(private: &OwnedFd) -> Result<nix::fcntl::Flock<File>, MountError> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC;
    let file = nix::fcntl::openat(private, "presto.lock", flags, Mode::from_bits_truncate(0o600))
        .map_err(|e| private_error("presto.lock", e.into()))?;
    nix::fcntl::Flock::lock(File::from(file), nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == Errno::EWOULDBLOCK { MountError::Busy } else { private_error("presto.lock", errno.into()) }
    })
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, MountError> {
    fd.try_clone().map_err(MountError::Session)
}

fn private_error(what: &'static str, source: std::io::Error) -> MountError {
    MountError::Private { what, source }
}
