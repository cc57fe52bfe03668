//! Whether a log and a tree agree: the log is replayed into a model, the bottom is walked, and the two are compared.
#![allow(dead_code, unreachable_pub)]

use modlog::Finished;
use protocol::{Name, ObjectId, Op, Timestamp};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::CString,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// Entries (directory and name) with the objects that they name.
pub type Entries = BTreeMap<(ObjectId, Name), ObjectId>;

/// What a log says.
#[derive(Debug, Default)]
pub struct Model {
    pub entries: Entries,
    pub stores: HashMap<ObjectId, (u64, Timestamp)>,
    lossy: bool,
}

/// Replays all that was done.
pub fn replay(log: &[Finished]) -> Model {
    let mut model = Model::default();
    for finished in log.iter().filter(|f| f.outcome.is_ok()) {
        model.apply(finished.record.op.clone());
    }
    model
}

/// Replays a log that a loss of power left: records that tell anew what is there need not fit what was before.
pub fn replay_lossy(log: &[Finished]) -> Model {
    let mut model = Model { lossy: true, ..Model::default() };
    for finished in log.iter().filter(|f| f.outcome.is_ok()) {
        model.apply(finished.record.op.clone());
    }
    model
}

impl Model {
    fn check(&self, fits: bool, what: &str) {
        assert!(self.lossy || fits, "{what}");
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Create { parent, name, id, .. }
            | Op::Mkdir { parent, name, id, .. }
            | Op::Symlink { parent, name, id, .. }
            | Op::Mknod { parent, name, id, .. }
            | Op::Link { id, parent, name } => {
                self.entries.insert((parent, name), id);
            }
            Op::Unlink { parent, name, id } | Op::Rmdir { parent, name, id } => {
                let was = self.entries.remove(&(parent, name));
                self.check(was == Some(id), "what is removed was there");
            }
            Op::Rename { id, parent, name, to_parent, to_name, other, exchange } => {
                let (from, to) = ((parent, name), (to_parent, to_name));
                let (was, replaced) = (self.entries.remove(&from), self.entries.insert(to, id));
                self.check(was == Some(id), "what is renamed was there");
                self.check(replaced == other, "what is replaced was there");
                if exchange {
                    self.entries.insert(from, other.expect("an exchange has two objects"));
                }
            }
            Op::Store { id, size, mtime } => {
                self.stores.insert(id, (size, mtime));
            }
            _ => {}
        }
    }
}

/// The id in an object's attribute.
pub fn id_of(path: &Path) -> Option<ObjectId> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
    let mut value = [0_u8; 256];
    // SAFETY: the buffer and its length belong together, the strings are valid for the call.
    let length = unsafe {
        libc::lgetxattr(path.as_ptr(), c"trusted.intermezzo".as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    (length >= 13).then(|| ObjectId::from_bytes(&value[1..]).expect("a legal id"))
}

/// What the tree below `store` says, with size and mtime of files.
pub fn walk(store: &Path) -> Model {
    let mut model = Model::default();
    let mut todo = vec![(store.to_owned(), ObjectId::ROOT)];
    while let Some((dir, parent)) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let entry = entry.expect("an entry");
            let name = Name::new(entry.file_name().as_bytes()).expect("a legal name");
            if parent == ObjectId::ROOT && name.is_reserved() {
                continue;
            }
            let path = entry.path();
            let id = id_of(&path).unwrap_or_else(|| panic!("{} has no identity", path.display()));
            let meta = fs::symlink_metadata(&path).expect("its attributes");
            if meta.is_file() {
                let mtime = Timestamp { secs: meta.mtime(), nanos: meta.mtime_nsec() as u32 };
                model.stores.insert(id, (meta.len(), mtime));
            }
            model.entries.insert((parent, name), id);
            if meta.is_dir() {
                todo.push((path, id));
            }
        }
    }
    model
}

/// Fails with the differences if log and tree do not agree.
pub fn assert_agree(log: &[Finished], store: &Path) {
    let (said, is) = (replay(log), walk(store));
    let lost: Vec<_> = said.entries.iter().filter(|(place, id)| is.entries.get(place) != Some(id)).collect();
    let invented: Vec<_> = is.entries.iter().filter(|(place, id)| said.entries.get(place) != Some(id)).collect();
    assert!(lost.is_empty() && invented.is_empty(), "in the log alone: {lost:?}; in the tree alone: {invented:?}");
    for (id, version) in &is.stores {
        assert_eq!(said.stores.get(id), Some(version), "the last store of {id} tells its size and mtime");
    }
}
