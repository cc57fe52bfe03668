//! A source that journals like Presto, a replica, and the comparison of their trees.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

pub mod steps;

use lento_store::{Bottom, CommitError, Committed, History, Identity, Staged, StagedFile, Store, StoreConfig};
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, mknod};
use protocol::{AttrChange, Cred, Done, FileSetId, HostId, Name, ObjectId, Op, Position, Shipment, Timestamp};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

pub const FILESET: FileSetId = FileSetId::from_bytes([7; 16]);

pub fn host(n: u32) -> HostId {
    HostId::new(n).unwrap()
}

pub fn open_dir(path: &Path) -> OwnedFd {
    nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
}

pub fn bottom(path: &Path) -> Arc<Bottom> {
    Arc::new(Bottom::new(open_dir(path)).unwrap())
}

pub fn config(dir: &Path, host_id: u32) -> StoreConfig {
    StoreConfig {
        fileset: FILESET,
        host: host(host_id),
        index: dir.join("index"),
        keep_received: false,
        on_demand: false,
    }
}

/// A store in a temporary directory: `root` is the bottom, `home` has the index.
pub struct Side {
    pub home: TempDir,
    pub root: PathBuf,
    pub store: Arc<Store>,
}

impl Side {
    pub fn adopt(host_id: u32, fill: impl FnOnce(&Path)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        fs::create_dir(&root).unwrap();
        fill(&root);
        let store = Store::adopt(bottom(&root), config(home.path(), host_id), &mut |_| {}).unwrap();
        Self { home, root, store: Arc::new(store) }
    }

    pub fn create(host_id: u32) -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        fs::create_dir(&root).unwrap();
        let store = Store::create(bottom(&root), config(home.path(), host_id)).unwrap();
        Self { home, root, store: Arc::new(store) }
    }

    /// A client's cache.
    pub fn client(host_id: u32) -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        fs::create_dir(&root).unwrap();
        let config = StoreConfig { on_demand: true, ..config(home.path(), host_id) };
        let store = Store::create(bottom(&root), config).unwrap();
        Self { home, root, store: Arc::new(store) }
    }

    pub fn reopen(self) -> Self {
        let Self { home, root, store } = self;
        let config = store.config().clone();
        drop(store);
        let store = Store::open(bottom(&root), config).unwrap();
        Self { home, root, store: Arc::new(store) }
    }

    pub fn identity(&self, path: &str) -> Option<Identity> {
        let fd = nix::fcntl::open(
            &self.root.join(path),
            OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .ok()?;
        self.store.bottom().identity(fd.as_fd()).unwrap()
    }

    pub fn id(&self, path: &str) -> ObjectId {
        self.identity(path).unwrap_or_else(|| panic!("{path} has an identity")).id
    }
}

/// A store with a log that is written as Presto does.
pub struct Source {
    pub side: Side,
    pub log: modlog::Writer,
    pub epoch: u64,
}

fn split(path: &str) -> (&str, Name) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    (parent, Name::new(name.as_bytes()).unwrap())
}

impl Source {
    pub fn new(side: Side) -> Self {
        let dir = open_dir(&side.root.join(".intermezzo/log"));
        let options = modlog::Options::new(FILESET, side.store.config().host);
        let (log, _) = modlog::Writer::open(dir, options).unwrap();
        Self { side, log, epoch: 1 }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.side.root.join(path)
    }

    fn place(&self, path: &str) -> (ObjectId, Name) {
        let (parent, name) = split(path);
        (self.side.id(parent), name)
    }

    fn record(&mut self, op: impl FnOnce(u64) -> Op) -> u64 {
        self.log.append(Cred { uid: 0, gid: 0, pid: 1 }, self.epoch, op).unwrap()
    }

    fn done(&mut self, number: u64, created: Option<&str>, changed: Option<&str>) {
        let mut done = Done { handle: None, attr: None };
        if let Some(path) = created.or(changed) {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = nix::fcntl::open(&self.path(path), flags, Mode::empty()).unwrap();
            let bottom = self.side.store.bottom();
            if created.is_some() {
                let id = ObjectId::new(self.side.store.config().host, number);
                bottom.set_identity(fd.as_fd(), &Identity::new(id)).unwrap();
                done.handle = Some(bottom.handle(fd.as_fd()).unwrap());
            }
            done.attr = Some(bottom.attr(fd.as_fd()).unwrap());
        }
        self.log.outcome(number, Ok(done));
        self.log.flush().unwrap();
    }

    pub fn cancel(&mut self, path: &str) {
        let (parent, name) = self.place(path);
        let host = self.side.store.config().host;
        let number = self.record(|n| Op::Mkdir { parent, name, id: ObjectId::new(host, n), mode: 0o755 });
        self.log.outcome(number, Err(libc::EEXIST));
        self.log.flush().unwrap();
    }

    pub fn noop(&mut self) {
        let number = self.record(|_| Op::Noop);
        self.done(number, None, None);
    }

    pub fn create(&mut self, path: &str, content: &[u8]) {
        let (parent, name) = self.place(path);
        let host = self.side.store.config().host;
        let number = self.record(|n| Op::Create { parent, name, id: ObjectId::new(host, n), mode: 0o644 });
        fs::File::create_new(self.path(path)).unwrap();
        self.done(number, Some(path), None);
        if !content.is_empty() {
            self.write(path, content);
        }
    }

    pub fn write(&mut self, path: &str, content: &[u8]) {
        fs::write(self.path(path), content).unwrap();
        self.stored(path);
    }

    /// The record of a close after writing.
    pub fn stored(&mut self, path: &str) {
        let id = self.side.id(path);
        let meta = fs::metadata(self.path(path)).unwrap();
        let mtime = Timestamp { secs: meta.mtime(), nanos: meta.mtime_nsec() as u32 };
        let number = self.record(|_| Op::Store { id, size: meta.size(), mtime });
        self.done(number, None, None);
    }

    pub fn mkdir(&mut self, path: &str) {
        let (parent, name) = self.place(path);
        let host = self.side.store.config().host;
        let number = self.record(|n| Op::Mkdir { parent, name, id: ObjectId::new(host, n), mode: 0o755 });
        fs::create_dir(self.path(path)).unwrap();
        self.done(number, Some(path), None);
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        let (parent, name) = self.place(path);
        let host = self.side.store.config().host;
        let op = |n| Op::Symlink { parent, name, id: ObjectId::new(host, n), target: target.into() };
        let number = self.record(op);
        std::os::unix::fs::symlink(target, self.path(path)).unwrap();
        self.done(number, Some(path), None);
    }

    pub fn mknod(&mut self, path: &str, kind: SFlag, rdev: u64) {
        let (parent, name) = self.place(path);
        let host = self.side.store.config().host;
        let mode = kind.bits() | 0o640;
        let number = self.record(|n| Op::Mknod { parent, name, id: ObjectId::new(host, n), mode, rdev });
        mknod(&self.path(path), kind, Mode::from_bits_truncate(0o640), rdev).unwrap();
        self.done(number, Some(path), None);
    }

    pub fn link(&mut self, from: &str, to: &str) {
        let (id, (parent, name)) = (self.side.id(from), self.place(to));
        let number = self.record(|_| Op::Link { id, parent, name });
        fs::hard_link(self.path(from), self.path(to)).unwrap();
        self.done(number, None, None);
    }

    pub fn unlink(&mut self, path: &str) {
        let (id, (parent, name)) = (self.side.id(path), self.place(path));
        let number = self.record(|_| Op::Unlink { parent, name, id });
        fs::remove_file(self.path(path)).unwrap();
        self.done(number, None, None);
    }

    pub fn rmdir(&mut self, path: &str) {
        let (id, (parent, name)) = (self.side.id(path), self.place(path));
        let number = self.record(|_| Op::Rmdir { parent, name, id });
        fs::remove_dir(self.path(path)).unwrap();
        self.done(number, None, None);
    }

    /// Renames; a refusal of the kernel is a cancelled record, as in Presto.
    pub fn rename(&mut self, from: &str, to: &str, exchange: bool) -> bool {
        let (id, other) = (self.side.id(from), self.side.identity(to).map(|identity| identity.id));
        let ((parent, name), (to_parent, to_name)) = (self.place(from), self.place(to));
        let number = self.record(|_| Op::Rename { id, parent, name, to_parent, to_name, other, exchange });
        let flags = if exchange { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::empty() };
        match renameat2(AT_FDCWD, &self.path(from), AT_FDCWD, &self.path(to), flags) {
            Ok(()) => {
                self.done(number, None, None);
                true
            }
            Err(errno) => {
                self.log.outcome(number, Err(errno as i32));
                self.log.flush().unwrap();
                false
            }
        }
    }

    fn setattr(&mut self, path: &str, change: AttrChange, work: impl FnOnce(&Path)) {
        let id = self.side.id(path);
        let number = self.record(|_| Op::Setattr { id, change, before: AttrChange::default() });
        work(&self.path(path));
        self.done(number, None, Some(path));
    }

    pub fn chmod(&mut self, path: &str, mode: u16) {
        let change = AttrChange { mode: Some(mode), ..AttrChange::default() };
        self.setattr(path, change, |p| fs::set_permissions(p, fs::Permissions::from_mode(mode.into())).unwrap());
    }

    pub fn chown(&mut self, path: &str, uid: u32, gid: u32) {
        let change = AttrChange { uid: Some(uid), gid: Some(gid), ..AttrChange::default() };
        self.setattr(path, change, |p| std::os::unix::fs::lchown(p, Some(uid), Some(gid)).unwrap());
    }

    pub fn utimes(&mut self, path: &str, mtime: Timestamp) {
        let change = AttrChange { mtime: Some(mtime), ..AttrChange::default() };
        self.setattr(path, change, |p| set_mtime(p, mtime));
    }

    pub fn setxattr(&mut self, path: &str, name: &str, value: &[u8]) {
        let id = self.side.id(path);
        let op = |_| Op::Setxattr { id, name: name.into(), value: value.into() };
        let number = self.record(op);
        set_xattr(&self.path(path), name, value);
        self.done(number, None, None);
    }

    pub fn removexattr(&mut self, path: &str, name: &str) {
        let id = self.side.id(path);
        let number = self.record(|_| Op::Removexattr { id, name: name.into() });
        let (path, name) = (c_path(&self.path(path)), std::ffi::CString::new(name).unwrap());
        // SAFETY: both are C strings that live through the call.
        unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
        self.done(number, None, None);
    }

    /// All shipments from a position on.
    pub fn shipments(&self, mut after: Position, max: usize) -> Vec<Shipment> {
        let mut all = Vec::new();
        loop {
            match self.side.store.history(after, None, max).unwrap() {
                History::Shipment(shipment) => {
                    protocol::Message::Shipment(shipment.clone()).to_body().expect("it fits a packet");
                    after = shipment.upto;
                    all.push(shipment);
                }
                History::UpToDate(_) => return all,
                History::TooOld => panic!("the log is complete"),
            }
        }
    }

    /// Stages at `to` what the shipments need, as lento-transfer would.
    pub fn stage(&self, to: &Side, shipments: &[Shipment]) -> Staged {
        let mut staged = Staged::default();
        for record in shipments.iter().flat_map(|s| &s.records) {
            let Op::Store { id, .. } = record.op else { continue };
            let Ok(fd) = self.side.store.open_object(id, OFlag::O_RDONLY) else { continue };
            let (known, attr) =
                (self.side.store.version(id).unwrap().unwrap(), self.side.store.bottom().attr(fd.as_fd()).unwrap());
            assert_eq!((known.size, known.mtime), (attr.size, attr.mtime), "{id} may be served");
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut fs::File::from(fd), &mut content).unwrap();
            staged.insert(id, stage(to, id, &content));
        }
        staged
    }

    pub fn push(&self, to: &Side, shipments: &[Shipment]) -> Result<Committed, CommitError> {
        to.store.commit(shipments, &self.stage(to, shipments))
    }
}

pub fn stage(to: &Side, id: ObjectId, content: &[u8]) -> StagedFile {
    let name = format!("{id}.part");
    let path = to.root.join(".intermezzo/staging").join(&name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let hash = [0; 32];
    StagedFile { name: Name::new(name.as_bytes()).unwrap(), size: content.len() as u64, hash, start: 0, ready: None }
}

fn c_path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let (path, name) = (c_path(path), std::ffi::CString::new(name).unwrap());
    // SAFETY: C strings and a slice that live through the call.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

pub fn set_mtime(path: &Path, mtime: Timestamp) {
    let time = libc::timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    let path = c_path(path);
    // SAFETY: a C string and an array of two that live through the call.
    let result =
        unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), [time, time].as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    assert_eq!(result, 0);
}

/// An access control list: version 2, then tag, permissions and id of each entry.
pub fn acl(user: u32) -> Vec<u8> {
    let mut out = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 4, user), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]
    {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

/// Everything that replicas must share, by path; hard links name the first path of their object.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut all = vec![PathBuf::new()];
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if path == Path::new(".intermezzo") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                todo.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort();
    let bottom = bottom_view(root);
    for path in all {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&full, flags, Mode::empty()).unwrap();
        let content = match () {
            () if meta.is_file() => format!("{:?}", blake3::hash(&fs::read(&full).unwrap())),
            () if meta.is_symlink() => format!("{:?}", fs::read_link(&full).unwrap()),
            () => String::new(),
        };
        let first = links.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
        let xattrs = bottom.xattrs(fd.as_fd()).unwrap();
        let id = bottom.identity(fd.as_fd()).unwrap().map(|identity| identity.id);
        let attr = bottom.attr(fd.as_fd()).unwrap();
        out.insert(path, format!("{id:?} {attr:?} {content} {first:?} {xattrs:?}"));
    }
    out
}

fn bottom_view(root: &Path) -> Arc<Bottom> {
    bottom(root)
}

#[track_caller]
pub fn assert_same(a: &Side, b: &Side) {
    let (a, b) = (tree(&a.root), tree(&b.root));
    for (path, what) in &a {
        assert_eq!(Some(what), b.get(path), "{path:?} differs");
    }
    for path in b.keys() {
        assert!(a.contains_key(path), "{path:?} is only in the second tree");
    }
}

/// What must be left of InterMezzo's own directories after a commit: nothing.
#[track_caller]
pub fn assert_clean(side: &Side) {
    for dir in ["staging", "limbo"] {
        let left: Vec<_> =
            fs::read_dir(side.root.join(".intermezzo").join(dir)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{dir} holds {left:?}");
    }
}
