//! Stores in temporary directories, and transfers between two of them in one process.
#![allow(dead_code)]

pub mod everything;

use lento_store::{Bottom, Store, StoreConfig};
use lento_transfer::{Fetched, Receiver, Stopped, serve};
use protocol::{FileSetId, HostId, ObjectId, Wanted};
use std::{
    fs::{File, OpenOptions},
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

/// A store, its directory, and the directory of its index.
pub struct Side {
    pub store: Arc<Store>,
    pub root: PathBuf,
    _dir: TempDir,
}

pub fn host(n: u32) -> HostId {
    HostId::new(n).expect("tests use positive ids")
}

/// Where test directories are made: ext4, and faster than what `TMPDIR` may be if `TRANSFER_TEST_DIR` says so.
pub fn temp() -> TempDir {
    let base = std::env::var_os("TRANSFER_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new().prefix("lento-transfer-").tempdir_in(base).expect("a temporary directory")
}

impl Side {
    /// Adopts what `fill` puts into a new directory.
    pub fn adopt(number: u32, fill: impl FnOnce(&Path)) -> Self {
        Self::new(number, fill, |bottom, config| Store::adopt(bottom, config, &mut |_| {}))
    }

    /// A new replica, empty.
    pub fn create(number: u32) -> Self {
        Self::new(number, |_| {}, Store::create)
    }

    /// A new replica in a directory that was filled by other means after it was made.
    pub fn prefilled(number: u32, fill: impl FnOnce(&Path)) -> Self {
        let side = Self::create(number);
        fill(&side.root);
        side
    }

    /// Changes the tree without a log, and has the index made anew: every object keeps its identity, and what it is
    /// now is a version that may be served.
    pub fn adopt_again(self, change: impl FnOnce(&Path)) -> Self {
        change(&self.root);
        let Self { store, root, _dir } = self;
        let config = store.config().clone();
        let bottom = store.bottom().clone();
        drop(store);
        let (store, _) = Store::rebuild(bottom, config, &mut |_| {}).expect("the index is made anew");
        Self { store: Arc::new(store), root, _dir }
    }

    fn new(
        number: u32,
        fill: impl FnOnce(&Path),
        make: impl FnOnce(Arc<Bottom>, StoreConfig) -> Result<Store, lento_store::StoreError>,
    ) -> Self {
        let dir = temp();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("it is new");
        fill(&root);
        let config = StoreConfig {
            fileset: FileSetId::from_bytes([1; 16]),
            host: host(number),
            index: dir.path().join("index"),
            keep_received: false,
            on_demand: false,
        };
        let bottom = Bottom::new(File::open(&root).expect("it exists").into()).expect("it is on ext4");
        let store = make(Arc::new(bottom), config).expect("the store is made");
        Self { store: Arc::new(store), root, _dir: dir }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The identity of what is at a path.
    pub fn id(&self, path: &str) -> ObjectId {
        let file = File::open(self.path(path)).expect("it is there");
        let identity = self.store.bottom().identity(file.as_fd()).expect("it is read");
        identity.expect("it was adopted").id
    }

    pub fn staged(&self, name: &protocol::Name) -> PathBuf {
        self.path(".intermezzo/staging").join(name.as_os_str())
    }

    pub fn staging_names(&self) -> Vec<String> {
        let read = std::fs::read_dir(self.path(".intermezzo/staging")).expect("it is there");
        read.map(|e| e.expect("it is read").file_name().into_string().expect("our names are ASCII")).collect()
    }
}

/// The bodies that serve what is wanted.
pub fn served(source: &Side, wanted: &[Wanted]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    serve(&source.store, wanted, true, &mut |body| {
        assert!(body.len() <= protocol::limits::PACKET_BODY_BYTES);
        bodies.push(body);
        Ok::<(), Stopped>(())
    })
    .expect("the source is sound");
    bodies
}

/// Transfers contents from one side to the other; what became of them, and the bytes that went to the receiver.
pub fn transfer(source: &Side, to: &Side, ids: &[ObjectId]) -> (Vec<(ObjectId, Fetched)>, usize) {
    let mut receiver = Receiver::new(to.store.clone(), ids.to_vec());
    let mut wire = 0;
    while let Some(wanted) = receiver.next_round().expect("the source answers") {
        for body in served(source, &wanted) {
            wire += body.len();
            receiver.take(&body).expect("the source is honest");
        }
    }
    (receiver.finish(), wire)
}

/// Bytes that look random and do not compress.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).and_then(|f| f.write_all_at(bytes, at)).expect("it is written");
}
