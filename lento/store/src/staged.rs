//! Contents that were received, are complete, verified and durable, and wait in `.intermezzo/staging` for their commit.

use protocol::{Handle, Name, ObjectId};
use std::collections::HashMap;

/// One complete content in the staging directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedFile {
    /// Its name in [`crate::Bottom::staging`]. Names beginning with `.` belong to the store itself.
    pub name: Name,
    /// Its size in bytes.
    pub size: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// Where its bytes begin: what is before is a hole, and stays as it is in the version that is here, which has just
    /// that size. 0 if the content is whole.
    pub start: u64,
    /// Its handle, if it was made ready for its object with [`crate::Store::make_ready`]: only the name is wanting.
    pub ready: Option<Handle>,
}

/// The contents for one commit, by the object that they belong to. Each file was created by Lento with mode 0600,
/// was fsynced (unless [`crate::Store::begin_copy`] says that it need not be), and has no extended attributes (unless
/// it was made ready); commit takes it over: it is renamed into place or deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Staged {
    files: HashMap<ObjectId, StagedFile>,
}

impl Staged {
    /// Adds the content of an object; the content that was there for it before is returned (its file is the
    /// caller's to delete).
    pub fn insert(&mut self, id: ObjectId, file: StagedFile) -> Option<StagedFile> {
        self.files.insert(id, file)
    }

    /// The content of an object.
    pub fn get(&self, id: ObjectId) -> Option<&StagedFile> {
        self.files.get(&id)
    }

    /// Takes the content of an object out.
    pub fn remove(&mut self, id: ObjectId) -> Option<StagedFile> {
        self.files.remove(&id)
    }

    /// All contents, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ObjectId, &StagedFile)> {
        self.files.iter().map(|(id, file)| (*id, file))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}
