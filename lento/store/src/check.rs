//! `lento fsck`: does the index say what is there? Nothing is changed.

use crate::error::StoreError;
use crate::store::Store;
use crate::walk::{shown_path, walk};
use nix::fcntl::OFlag;
use protocol::{Handle, ObjectId};
use std::collections::HashSet;
use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Objects between two reports of progress.
const BATCH: u64 = 1024;

/// What seems to be wrong: while the file set is in use it may be a change that the index has not heard of yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    handle: Handle,
    flaw: Flaw,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Flaw {
    /// No identity.
    Nameless(PathBuf),
    /// An identity that the index does not know, or knows of another object.
    Unknown(PathBuf, ObjectId),
    /// The index has an object that is not there.
    Gone(ObjectId),
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.flaw {
            Flaw::Nameless(path) => write!(f, "{} has no identity", path.display()),
            Flaw::Unknown(path, id) => {
                write!(f, "{} is object {id}, of which the database does not know", path.display())
            }
            Flaw::Gone(id) => write!(f, "the database has object {id}, which is not there"),
        }
    }
}

impl Store {
    /// Compares the index with the tree. Returns how many entries there are and what may be wrong: see
    /// [`Store::confirm`]. Absorbs first. Memory is linear in the number of objects.
    pub fn check(&self, progress: &mut dyn FnMut(u64)) -> Result<(u64, Vec<Suspect>), StoreError> {
        self.absorb()?;
        let (mut entries, mut suspects) = (0_u64, Vec::new());
        let mut seen = HashSet::from([ObjectId::ROOT]);
        walk(&self.bottom, |found| {
            entries += 1;
            if entries.is_multiple_of(BATCH) {
                progress(entries);
            }
            let identity = self.bottom.identity(found.fd).map_err(StoreError::io("reading an identity"))?;
            let path = || shown_path(found.fd);
            let flaw = match &identity {
                None => Some(Flaw::Nameless(path())),
                Some(identity) => {
                    seen.insert(identity.id);
                    let row = self.look_up(|index| index.object(identity.id))?;
                    row.is_none_or(|row| row.handle != found.handle).then(|| Flaw::Unknown(path(), identity.id))
                }
            };
            suspects.extend(flaw.map(|flaw| Suspect { handle: found.handle, flaw }));
            Ok(identity.map_or(ObjectId::ROOT, |identity| identity.id))
        })?;
        self.look_up(|index| {
            index.each_object(&mut |id, handle| {
                if !seen.contains(&id) {
                    suspects.push(Suspect { handle, flaw: Flaw::Gone(id) });
                }
            })
        })?;
        progress(entries);
        Ok((entries, suspects))
    }

    /// Of suspects, those that still are wrong after all that was written meanwhile was absorbed.
    pub fn confirm(&self, suspects: Vec<Suspect>) -> Result<Vec<Suspect>, StoreError> {
        self.absorb()?;
        let mut confirmed = Vec::new();
        for suspect in suspects {
            if self.is_flawed(&suspect)? {
                confirmed.push(suspect);
            }
        }
        Ok(confirmed)
    }

    fn is_flawed(&self, suspect: &Suspect) -> Result<bool, StoreError> {
        let there = match self.bottom.open(suspect.handle, OFlag::O_PATH) {
            Ok(fd) => self.bottom.stat(fd.as_fd()).is_ok_and(|stat| stat.st_nlink > 0).then_some(fd),
            Err(why) if why.raw_os_error() == Some(libc::ESTALE) => None,
            Err(why) => return Err(StoreError::io("examining an object")(why)),
        };
        let identity = match &there {
            Some(fd) => self.bottom.identity(fd.as_fd()).map_err(StoreError::io("reading an identity"))?,
            None => None,
        };
        let known = |id| Ok::<_, StoreError>(self.look_up(|index| index.object(id))?.map(|row| row.handle));
        Ok(match (&suspect.flaw, identity) {
            (Flaw::Gone(id), Some(identity)) if identity.id == *id => false,
            (Flaw::Gone(id), _) => known(*id)? == Some(suspect.handle),
            (_, None) => there.is_some(),
            (_, Some(identity)) => known(identity.id)? != Some(suspect.handle),
        })
    }
}
