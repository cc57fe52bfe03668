//! The part of the index that is about a client's cache.

use crate::error::StoreError;
use crate::index::{Index, read_host, signed, unsigned};
use protocol::{Handle, ObjectId};
use rusqlite::{OptionalExtension, params};

/// The tables of it.
pub(crate) const SCHEMA: &str = "
CREATE TABLE cached (
  host INTEGER NOT NULL, counter INTEGER NOT NULL, bytes INTEGER NOT NULL, used INTEGER NOT NULL,
  PRIMARY KEY (host, counter)) WITHOUT ROWID;
CREATE INDEX cached_used ON cached (used);
CREATE TABLE pinned (host INTEGER NOT NULL, counter INTEGER NOT NULL, PRIMARY KEY (host, counter)) WITHOUT ROWID;
";

/// A use that is later than all before it.
const NEXT: &str = "(SELECT coalesce(max(used), 0) + 1 FROM cached)";

impl Index {
    /// Enters a content, as used now. Returns the bytes that it had before.
    pub(crate) fn put_cached(&self, id: ObjectId, bytes: u64) -> Result<u64, StoreError> {
        let before = self.cached_bytes_of(id)?;
        let put = format!("INSERT OR REPLACE INTO cached VALUES (?1, ?2, ?3, {NEXT})");
        self.db.prepare_cached(&put)?.execute(params![id.host.get(), signed(id.counter), signed(bytes)])?;
        Ok(before)
    }

    /// Takes a content out. Returns the bytes that it had.
    pub(crate) fn remove_cached(&self, id: ObjectId) -> Result<u64, StoreError> {
        let before = self.cached_bytes_of(id)?;
        let mut delete = self.db.prepare_cached("DELETE FROM cached WHERE host=?1 AND counter=?2")?;
        delete.execute(params![id.host.get(), signed(id.counter)])?;
        Ok(before)
    }

    fn cached_bytes_of(&self, id: ObjectId) -> Result<u64, StoreError> {
        let mut query = self.db.prepare_cached("SELECT bytes FROM cached WHERE host=?1 AND counter=?2")?;
        let found = query.query_row(params![id.host.get(), signed(id.counter)], |row| row.get(0)).optional()?;
        Ok(found.map_or(0, unsigned))
    }

    /// Notes a use.
    pub(crate) fn warm(&self, id: ObjectId) -> Result<(), StoreError> {
        let warm = format!("UPDATE cached SET used={NEXT} WHERE host=?1 AND counter=?2");
        self.db.prepare_cached(&warm)?.execute(params![id.host.get(), signed(id.counter)])?;
        Ok(())
    }

    /// Contents that are here, and their bytes.
    pub(crate) fn cached_sum(&self) -> Result<(u64, u64), StoreError> {
        let mut query = self.db.prepare_cached("SELECT count(*), coalesce(sum(bytes), 0) FROM cached")?;
        Ok(query.query_row([], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))?)
    }

    /// Contents that are not pinned, the coldest first: bytes, and where they are.
    pub(crate) fn coldest(&self, most: usize) -> Result<Vec<(ObjectId, u64, Option<Handle>)>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT c.host, c.counter, c.bytes, o.handle FROM cached c
             LEFT JOIN object o ON o.host=c.host AND o.counter=c.counter
             WHERE NOT EXISTS (SELECT 1 FROM pinned p WHERE p.host=c.host AND p.counter=c.counter)
             ORDER BY c.used LIMIT ?1",
        )?;
        let rows = query.query_map([i64::try_from(most).unwrap_or(i64::MAX)], |row| {
            let handle: Option<i64> = row.get(3)?;
            let id = ObjectId::new(read_host(row, 0)?, unsigned(row.get(1)?));
            Ok((id, unsigned(row.get(2)?), handle.map(|handle| Handle(unsigned(handle)))))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn pin(&self, id: ObjectId, pinned: bool) -> Result<(), StoreError> {
        let statement = if pinned {
            "INSERT OR REPLACE INTO pinned VALUES (?1, ?2)"
        } else {
            "DELETE FROM pinned WHERE host=?1 AND counter=?2"
        };
        self.db.prepare_cached(statement)?.execute(params![id.host.get(), signed(id.counter)])?;
        Ok(())
    }

    /// All that is pinned.
    pub(crate) fn pinned(&self) -> Result<Vec<ObjectId>, StoreError> {
        let mut query = self.db.prepare_cached("SELECT host, counter FROM pinned")?;
        let rows = query.query_map([], |row| Ok(ObjectId::new(read_host(row, 0)?, unsigned(row.get(1)?))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn is_pinned(&self, id: ObjectId) -> Result<bool, StoreError> {
        let mut query = self.db.prepare_cached("SELECT 1 FROM pinned WHERE host=?1 AND counter=?2")?;
        Ok(query.exists(params![id.host.get(), signed(id.counter)])?)
    }

    pub(crate) fn count_pinned(&self) -> Result<u64, StoreError> {
        Ok(self.db.prepare_cached("SELECT count(*) FROM pinned")?.query_row([], |row| row.get(0)).map(unsigned)?)
    }
}
