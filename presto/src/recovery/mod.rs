//! What is to be done with the log and the tree after a crash (design D6), before anything is mounted.
//!
//! After a crash of the process the tree is as the operations left it. The few records without outcome are given one by
//! looking whether they took effect, and files that were open for writing are looked at.
//!
//! After a loss of power the tree and the log may each have lost what was not on disk. Then, after a gap in the numbers,
//! new records tell what is there: see [`power`].

mod power;
mod tree;
mod unfinished;
mod unsent;

pub(crate) use unsent::unsent;

use crate::{
    error::MountError,
    filter::identity,
    marker::LastEnd,
    sys::{Bottom, Stat, XattrTarget, stat_fd},
};
use modlog::{OpenFile, Recovered, Writer};
use nix::{errno::Errno, fcntl::OFlag};
use protocol::{Cred, Done, Handle, HostId, ObjectId, Op};
use std::os::fd::OwnedFd;
use tree::Tree;

/// Brings log and tree into agreement. Returns the number of the last record that survived, after a loss of power.
pub(crate) fn recover(
    bottom: &Bottom,
    host: HostId,
    log: &OwnedFd,
    writer: &mut Writer,
    recovered: Recovered,
    end: LastEnd,
) -> Result<Option<u64>, MountError> {
    if matches!(end, LastEnd::Clean | LastEnd::Never) && recovered.unfinished.is_empty() {
        return Ok(None);
    }
    let lost_after = (end == LastEnd::PowerLoss).then_some(recovered.last);
    let mut recovery = Recovery { tree: Tree::new(bottom, host), writer, epoch: recovered.epoch };
    let mut open = recovered.open.clone();
    recovery.finish(&recovered, &mut open)?;
    if lost_after.is_some() {
        power::recover(&mut recovery, &recovered, log)?;
    } else {
        for file in &open {
            recovery.store_if_changed(file)?;
        }
    }
    recovery.writer.sync()?;
    tracing::info!(?end, unfinished = recovered.unfinished.len(), last = recovery.writer.last(), "recovered");
    Ok(lost_after)
}

/// What the steps of recovery share.
struct Recovery<'a> {
    tree: Tree<'a>,
    writer: &'a mut Writer,
    epoch: u64,
}

impl Recovery<'_> {
    /// Appends a record of something that is so already.
    fn tell(&mut self, op: Op, done: Done) -> Result<(), MountError> {
        tracing::info!(?op, "logged anew");
        let number = self.writer.append(Cred { uid: 0, gid: 0, pid: 0 }, self.epoch, |_| op)?;
        self.writer.outcome(number, Ok(done));
        Ok(())
    }

    fn tell_store(&mut self, id: ObjectId, stat: &Stat) -> Result<(), MountError> {
        let op = Op::Store { id, size: stat.size(), mtime: stat.mtime() };
        self.tell(op, Done { handle: None, attr: Some(stat.attr()) })?;
        self.writer.closed(id);
        Ok(())
    }

    /// Gives each record without outcome one.
    fn finish(&mut self, recovered: &Recovered, open: &mut [OpenFile]) -> Result<(), MountError> {
        for record in &recovered.unfinished {
            let verdict = unfinished::verdict(&mut self.tree, &record.op).map_err(failed)?;
            tracing::info!(number = record.number, op = record.op.word(), done = verdict.is_ok(), "finished");
            if let (Some(id), Ok(done)) = (record.op.created(), &verdict) {
                for file in open.iter_mut().filter(|file| file.id == id) {
                    file.handle = done.handle;
                }
            }
            self.writer.outcome(record.number, verdict);
        }
        Ok(())
    }

    /// A file that was open for writing: tells of its content if that is not what the log says.
    fn store_if_changed(&mut self, file: &OpenFile) -> Result<(), MountError> {
        let Some(handle) = file.handle else { return Ok(()) };
        let Some(stat) = self.look(handle, file.id)? else { return Ok(()) };
        if file.last_store == Some((stat.size(), stat.mtime())) || !stat.is_file() {
            return Ok(());
        }
        // Opened and not changed since: ctime tells, with a second for the granularity of the clocks.
        if file.last_store.is_none() && stat.ctime().secs + 1 < file.time.secs {
            return Ok(());
        }
        self.tell_store(file.id, &stat)
    }

    /// Attributes of an inode, if it still is this object and has a name.
    fn look(&mut self, handle: Handle, id: ObjectId) -> Result<Option<Stat>, MountError> {
        let fd = match self.tree.bottom.open(handle, OFlag::O_PATH) {
            Ok(fd) => fd,
            Err(Errno::ESTALE | Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        let stat = stat_fd(&fd).map_err(|e| failed(e.into()))?;
        let same = self.tree.id_of(&fd).map_err(failed)? == Some(id);
        // What is absent was not changed here: a write would have made it present.
        let absent = identity::is_absent(XattrTarget::path_fd(&fd)).map_err(failed)?;
        Ok(Some(stat).filter(|stat| same && !absent && stat.0.st_nlink > 0))
    }
}

fn failed(error: crate::filter::Error) -> MountError {
    MountError::Recovery(error.to_string())
}
