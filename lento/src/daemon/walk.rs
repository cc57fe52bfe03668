//! Reading ahead on a client: a program that goes through a tree is not made to wait for every object of it.
//!
//! What is wanted tells where programs walk: a second file wanted in one directory, or a second directory in one above.

use protocol::ObjectId;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Places that are remembered.
const REMEMBERED: usize = 64;

/// Where programs have lately wanted something. Shared by fetches.
#[derive(Debug, Default)]
pub(super) struct Walks(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// Directories in which files were wanted.
    files: VecDeque<ObjectId>,
    /// Directories in which directories were wanted, or in whose directories files are read ahead.
    directories: VecDeque<ObjectId>,
    /// Directories of which files are being fetched ahead.
    busy: Vec<ObjectId>,
}

fn remember(list: &mut VecDeque<ObjectId>, id: ObjectId) -> bool {
    let known = list.contains(&id);
    list.retain(|other| *other != id);
    list.push_back(id);
    if list.len() > REMEMBERED {
        list.pop_front();
    }
    known
}

impl Walks {
    fn places(&self) -> MutexGuard<'_, Places> {
        // Each statement leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file in `directory`, which is in `above`, was wanted: whether to fetch its neighbours. [`Walks::ended`] follows.
    pub(super) fn file_wanted(&self, directory: ObjectId, above: Option<ObjectId>) -> bool {
        let mut places = self.places();
        let again = remember(&mut places.files, directory);
        let along = above.is_some_and(|above| places.directories.contains(&above));
        if !(again || along) || places.busy.contains(&directory) {
            return false;
        }
        if let Some(above) = above {
            remember(&mut places.directories, above);
        }
        places.busy.push(directory);
        true
    }

    /// The neighbours in `directory` were fetched.
    pub(super) fn ended(&self, directory: ObjectId) {
        self.places().busy.retain(|busy| *busy != directory);
    }

    /// The names of a directory that is in `above` were wanted: whether to ask for those of its neighbours, and of what is
    /// in it.
    pub(super) fn names_wanted(&self, above: ObjectId) -> bool {
        remember(&mut self.places().directories, above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::HostId;

    fn id(n: u64) -> ObjectId {
        ObjectId::new(HostId::new(1).expect("not 0"), n)
    }

    #[test]
    fn one_file_is_no_walk_and_two_are() {
        let walks = Walks::default();
        assert!(!walks.file_wanted(id(2), Some(id(1))));
        assert!(walks.file_wanted(id(2), Some(id(1))));
        assert!(!walks.file_wanted(id(2), Some(id(1))), "it is being done");
        walks.ended(id(2));
        assert!(walks.file_wanted(id(2), Some(id(1))));
        assert!(walks.file_wanted(id(3), Some(id(1))), "the walk has come to the next directory");
        assert!(!walks.file_wanted(id(9), Some(id(8))));
    }

    #[test]
    fn one_directory_is_no_walk_and_two_are() {
        let walks = Walks::default();
        assert!(!walks.names_wanted(id(1)));
        assert!(walks.names_wanted(id(1)));
        assert!(!walks.names_wanted(id(2)));
    }
}
