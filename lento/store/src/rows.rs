//! Rows of the index that a batch of records reads and changes, written once at its end.

use crate::error::StoreError;
use crate::index::{Index, Row};
use protocol::ObjectId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// A cache for one batch; its size is bounded by what the batch touches.
pub(crate) struct Rows<'a> {
    index: &'a Index,
    rows: HashMap<ObjectId, Cached>,
}

struct Cached {
    row: Option<Row>,
    changed: bool,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(index: &'a Index) -> Self {
        Self { index, rows: HashMap::new() }
    }

    fn cached(&mut self, id: ObjectId) -> Result<&mut Cached, StoreError> {
        Ok(match self.rows.entry(id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Cached { row: self.index.object(id)?, changed: false }),
        })
    }

    /// Reads the rows of objects that are about to be asked for, at less cost than one by one.
    pub(crate) fn look_ahead(&mut self, ids: impl Iterator<Item = ObjectId>) -> Result<(), StoreError> {
        self.index.snapshot(|_| {
            for id in ids {
                self.cached(id)?;
            }
            Ok(())
        })
    }

    pub(crate) fn get(&mut self, id: ObjectId) -> Result<Option<&Row>, StoreError> {
        Ok(self.cached(id)?.row.as_ref())
    }

    /// A row to change.
    pub(crate) fn get_mut(&mut self, id: ObjectId) -> Result<Option<&mut Row>, StoreError> {
        let cached = self.cached(id)?;
        cached.changed = true;
        Ok(cached.row.as_mut())
    }

    pub(crate) fn put(&mut self, id: ObjectId, row: Row) {
        self.rows.insert(id, Cached { row: Some(row), changed: true });
    }

    pub(crate) fn remove(&mut self, id: ObjectId) {
        self.rows.insert(id, Cached { row: None, changed: true });
    }

    /// Writes what changed; the caller has a transaction.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        for (id, cached) in &mut self.rows {
            if std::mem::take(&mut cached.changed) {
                match &cached.row {
                    Some(row) => self.index.put_object(*id, row)?,
                    None => self.index.remove_object(*id)?,
                }
            }
        }
        Ok(())
    }
}
