//! Contents that were fetched, and where they go.

use super::{Awaited, Comparer, NEVER, batch::creation};
use crate::{Fetched, error::TransferError};
use lento_store::StagedFile;
use protocol::{Attr, AttrChange, ObjectId, Op, Position, Settled, VersionStamp};

/// What became of one content.
pub(super) enum Arrived {
    New(Position, StagedFile),
    Same(Position),
    Changing,
}

impl Comparer {
    /// Puts contents into place that were fetched, and notes which could not be.
    ///
    /// # Errors
    /// [`TransferError::Commit`] if they cannot be committed; the comparison is to be run again then.
    pub fn content(&mut self, fetched: Vec<(ObjectId, Fetched)>) -> Result<(), TransferError> {
        for (id, fetched) in fetched {
            let Some(awaited) = self.awaited.get(&id) else {
                if let Fetched::Staged { file, .. } = fetched {
                    crate::receive::remove_staged(&self.store, &file);
                }
                continue;
            };
            let deferred = awaited.deferred;
            let arrived = match fetched {
                Fetched::Staged { as_of, file } => Arrived::New(as_of, file),
                Fetched::Same { as_of } => Arrived::Same(as_of),
                Fetched::Changed => Arrived::Changing,
                other => {
                    self.missed(id, &other);
                    continue;
                }
            };
            if deferred {
                self.held.insert(id, arrived);
            } else if let Some(awaited) = self.awaited.remove(&id) {
                self.arrived(awaited, arrived)?;
            }
        }
        self.flush()
    }

    /// Notes a content that did not come.
    fn missed(&mut self, id: ObjectId, fetched: &Fetched) {
        match fetched {
            // A record after the listing removes it.
            Fetched::Gone => drop(self.awaited.remove(&id)),
            Fetched::FailedHere(errno) | Fetched::FailedThere(errno) => self.report.failed.push((id, *errno)),
            _ => self.report.failed.push((id, 0)),
        }
    }

    /// Adds what is to be done with a content to the batch.
    pub(super) fn arrived(&mut self, awaited: Awaited, arrived: Arrived) -> Result<(), TransferError> {
        let Awaited { settled, exists, places, .. } = awaited;
        self.progress.done.0 += 1;
        self.progress.done.1 += settled.attr.size;
        match arrived {
            Arrived::New(as_of, file) => {
                if exists {
                    self.keep_loser(&settled)?;
                }
                self.report.fetched += 1;
                self.replace(as_of, file, settled, exists, places);
            }
            Arrived::Same(as_of) => {
                self.report.same += 1;
                let mtime = Some(settled.attr.mtime);
                let change = AttrChange { mtime, ..AttrChange::default() };
                let op = Op::Setattr { id: settled.id, change, before: AttrChange::default() };
                self.push(as_of, op, &[&settled]);
            }
            Arrived::Changing => {
                self.report.changing += 1;
                if !exists {
                    // An empty file without a version holds its place; the record that stores it is to come.
                    let attr = Attr { size: 0, mtime: NEVER, ..settled.attr };
                    let settled = Settled { attr, stamp: VersionStamp::default(), ..settled };
                    self.names_of(Position::START, &settled, places);
                }
            }
        }
        Ok(())
    }

    fn replace(
        &mut self,
        as_of: Position,
        file: StagedFile,
        settled: Settled,
        exists: bool,
        places: Vec<(ObjectId, protocol::Name)>,
    ) {
        let settled = Settled { attr: Attr { size: file.size, ..settled.attr }, ..settled };
        let (id, size, mtime) = (settled.id, file.size, settled.attr.mtime);
        self.batch.stage(id, file);
        if !exists {
            self.names_of(as_of, &settled, places);
        }
        self.push(as_of, Op::Store { id, size, mtime }, &[&settled]);
    }

    /// Makes an object and gives it its names.
    fn names_of(&mut self, at: Position, settled: &Settled, places: Vec<(ObjectId, protocol::Name)>) {
        let mut places = places.into_iter();
        if let Some((parent, name)) = places.next() {
            self.push(at, creation(settled, parent, name), &[settled]);
        }
        for (parent, name) in places {
            self.push(at, Op::Link { id: settled.id, parent, name }, &[settled]);
        }
    }
}
