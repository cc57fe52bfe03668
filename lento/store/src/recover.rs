//! What a crash left undone is finished when the store is opened.

use crate::bottom::{c_name, open_name};
use crate::commit::copy_content;
use crate::error::StoreError;
use crate::index::Copy;
use crate::store::{Store, lock};
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::os::fd::AsFd;

impl Store {
    /// Copies of content into inodes that were begun are made again from their staged files.
    pub(crate) fn recover(&self) -> Result<(), StoreError> {
        let writer = lock(&self.writer);
        for Copy { id, staged, mtime, start } in writer.index.copies()? {
            let what = || StoreError::io(format!("finishing the copy of the content of object {id}"));
            let row = writer.index.object(id)?;
            let object = match &row {
                Some(row) => self.open_row(id, row)?,
                None => None,
            };
            match (object, open_name(self.bottom.staging(), &c_name(&staged), OFlag::O_RDONLY)) {
                (Some(object), Ok(staged)) => {
                    let handle = self.bottom.handle(object.as_fd()).map_err(what())?;
                    let target = self.bottom.open(handle, OFlag::O_WRONLY).map_err(what())?;
                    copy_content(staged.as_fd(), target.as_fd(), start).map_err(what())?;
                    nix::unistd::fsync(&target).map_err(|why| what()(why.into()))?;
                    sys::set_mtime(target.as_fd(), mtime).map_err(what())?;
                }
                (None, _) => {}
                (_, Err(error)) => {
                    tracing::warn!(%id, %error, "a copy was interrupted, and its staged file is gone: fetch it again");
                }
            }
            writer.index.transaction(true, |index| index.remove_copy(id))?;
        }
        self.sweep_staging()
    }

    /// Whole contents that nobody committed are fetched again; parts of large ones are resumed, and stay.
    fn sweep_staging(&self) -> Result<(), StoreError> {
        let what = "sweeping the staging directory";
        for entry in self.bottom.read_dir(self.bottom.staging()).map_err(StoreError::io(what))? {
            let name = entry.map_err(StoreError::io(what))?.name;
            if !name.as_bytes().ends_with(b".part") {
                let name = c_name(&name);
                let removed = match unlinkat(self.bottom.staging(), &*name, UnlinkatFlags::NoRemoveDir) {
                    // A directory that was being made.
                    Err(Errno::EISDIR) => unlinkat(self.bottom.staging(), &*name, UnlinkatFlags::RemoveDir),
                    other => other,
                };
                if let Err(why) = removed {
                    tracing::warn!(?name, %why, "what was left in staging could not be removed");
                }
            }
        }
        Ok(())
    }
}
