//! Fsdb: the SQLite index of one file set. Only an index: what it says is verified, and it can be made anew.

use crate::error::StoreError;
use protocol::{FileSetId, Handle, HostId, Name, ObjectId, Position, Timestamp, VersionStamp};
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use std::path::Path;

/// Version of the schema (`docs/formats/store.md`).
const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE object (
  host INTEGER NOT NULL, counter INTEGER NOT NULL, handle INTEGER NOT NULL, stamp BLOB NOT NULL,
  epoch INTEGER, number INTEGER, size INTEGER, secs INTEGER, nanos INTEGER,
  parent_host INTEGER, parent_counter INTEGER, name BLOB,
  PRIMARY KEY (host, counter)) WITHOUT ROWID;
CREATE TABLE hash (
  host INTEGER NOT NULL, counter INTEGER NOT NULL, size INTEGER NOT NULL, secs INTEGER NOT NULL,
  nanos INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (host, counter)) WITHOUT ROWID;
CREATE TABLE epoch (epoch INTEGER PRIMARY KEY, writer INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL);
CREATE TABLE applied (
  writer INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, number INTEGER NOT NULL,
  durable_epoch INTEGER NOT NULL, durable_number INTEGER NOT NULL);
CREATE TABLE copy (host INTEGER NOT NULL, counter INTEGER NOT NULL, staged BLOB NOT NULL, secs INTEGER NOT NULL,
  nanos INTEGER NOT NULL, start INTEGER NOT NULL, PRIMARY KEY (host, counter)) WITHOUT ROWID;
";

/// The version of a file's content that the history tells of: it may be served while the file's size and mtime are
/// these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownVersion {
    /// The last record that stored the object; [`Position::START`] for adopted objects.
    pub as_of: Position,
    /// Bytes.
    pub size: u64,
    /// Time of modification.
    pub mtime: Timestamp,
}

/// What the index knows of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Where it is.
    pub(crate) handle: Handle,
    /// Its version.
    pub(crate) stamp: VersionStamp,
    /// Of regular files: the version of the content.
    pub(crate) version: Option<KnownVersion>,
    /// A directory entry that named it when last heard of: a hint.
    pub(crate) place: Option<(ObjectId, Name)>,
}

/// A copy of a staged content into the inode of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) id: ObjectId,
    /// The file in the staging directory.
    pub(crate) staged: Name,
    /// The time of modification that the object has afterwards.
    pub(crate) mtime: Timestamp,
    /// What is before it in the inode stays.
    pub(crate) start: u64,
}

/// One permit epoch of which records are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) epoch: u64,
    /// Who wrote in it.
    pub(crate) writer: HostId,
    /// Its first record known here.
    pub(crate) first: u64,
    /// Its last.
    pub(crate) last: u64,
}

/// A connection to the index. The functions of [`Index`] are single statements; callers make transactions.
pub(crate) struct Index {
    pub(crate) db: Connection,
}

// SQLite's integers are signed; ids and handles use all 64 bits, and are stored by bit pattern.
pub(crate) const fn signed(n: u64) -> i64 {
    n.cast_signed()
}
pub(crate) const fn unsigned(n: i64) -> u64 {
    n.cast_unsigned()
}

impl Index {
    /// Opens the index, making it if `fresh`.
    pub(crate) fn open(path: &Path, fileset: FileSetId, host: HostId, fresh: bool) -> Result<Self, StoreError> {
        let wrong = |why: &str| StoreError::WrongIndex { path: path.to_owned(), why: why.into() };
        if !fresh && !path.exists() {
            return Err(wrong("does not exist"));
        }
        let db = Connection::open(path)?;
        db.set_prepared_statement_cache_capacity(64);
        db.busy_timeout(std::time::Duration::from_secs(10))?;
        db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-16000;")?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found == 0 && fresh {
            let cache = crate::cached::SCHEMA;
            db.execute_batch(&format!("BEGIN; {SCHEMA} {cache} PRAGMA user_version={VERSION}; COMMIT;"))?;
            let index = Self { db };
            index.set_meta("fileset", fileset.as_bytes())?;
            index.set_meta("host", &host.get().to_le_bytes())?;
            return Ok(index);
        }
        if found != VERSION {
            return Err(wrong(&format!("has version {found}, this program reads {VERSION}")));
        }
        let index = Self { db };
        if index.meta("fileset")?.as_deref() != Some(fileset.as_bytes()) {
            return Err(wrong("is of another file set"));
        }
        if index.meta("host")?.as_deref() != Some(&host.get().to_le_bytes()) {
            return Err(wrong("is of another host"));
        }
        Ok(index)
    }

    pub(crate) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut query = self.db.prepare_cached("SELECT value FROM meta WHERE key=?1")?;
        Ok(query.query_row([key], |row| row.get(0)).optional()?)
    }

    pub(crate) fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?.execute(params![key, value])?;
        Ok(())
    }

    pub(crate) fn remove_meta(&self, key: &str) -> Result<(), StoreError> {
        self.db.prepare_cached("DELETE FROM meta WHERE key=?1")?.execute([key])?;
        Ok(())
    }

    /// A number kept in `meta`; 0 if it was never set.
    pub(crate) fn number(&self, key: &str) -> Result<u64, StoreError> {
        let bytes = self.meta(key)?.unwrap_or_default();
        Ok(bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b)))
    }

    pub(crate) fn set_number(&self, key: &str, value: u64) -> Result<(), StoreError> {
        self.set_meta(key, &value.to_le_bytes())
    }

    /// Objects that are not regular files, directories among them, and where they are.
    pub(crate) fn directories(&self) -> Result<Vec<(ObjectId, Handle)>, StoreError> {
        let mut query = self.db.prepare_cached("SELECT host, counter, handle FROM object WHERE size IS NULL")?;
        let rows = query.query_map([], |row| {
            Ok((ObjectId::new(read_host(row, 0)?, unsigned(row.get(1)?)), Handle(unsigned(row.get(2)?))))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn object(&self, id: ObjectId) -> Result<Option<Row>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT handle, stamp, epoch, number, size, secs, nanos, parent_host, parent_counter, name
             FROM object WHERE host=?1 AND counter=?2",
        )?;
        Ok(query.query_row(params![id.host.get(), signed(id.counter)], read_row).optional()?)
    }

    pub(crate) fn count_objects(&self) -> Result<u64, StoreError> {
        Ok(self.db.prepare_cached("SELECT count(*) FROM object")?.query_row([], |row| row.get(0)).map(unsigned)?)
    }

    /// Calls `visit` with every object and its handle.
    pub(crate) fn each_object(&self, visit: &mut dyn FnMut(ObjectId, Handle)) -> Result<(), StoreError> {
        let mut query = self.db.prepare_cached("SELECT host, counter, handle FROM object")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            visit(ObjectId::new(read_host(row, 0)?, unsigned(row.get(1)?)), Handle(unsigned(row.get(2)?)));
        }
        Ok(())
    }

    pub(crate) fn put_object(&self, id: ObjectId, row: &Row) -> Result<(), StoreError> {
        let stamp = encode_stamp(&row.stamp);
        let version = row.version.as_ref();
        let place = row.place.as_ref();
        self.db
            .prepare_cached("INSERT OR REPLACE INTO object VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)")?
            .execute(params![
                id.host.get(),
                signed(id.counter),
                signed(row.handle.0),
                stamp,
                version.map(|v| signed(v.as_of.epoch)),
                version.map(|v| signed(v.as_of.number)),
                version.map(|v| signed(v.size)),
                version.map(|v| v.mtime.secs),
                version.map(|v| v.mtime.nanos),
                place.map(|(parent, _)| parent.host.get()),
                place.map(|(parent, _)| signed(parent.counter)),
                place.map(|(_, name)| name.as_bytes()),
            ])?;
        Ok(())
    }

    pub(crate) fn remove_object(&self, id: ObjectId) -> Result<(), StoreError> {
        let key = params![id.host.get(), signed(id.counter)];
        self.db.prepare_cached("DELETE FROM object WHERE host=?1 AND counter=?2")?.execute(key)?;
        self.db.prepare_cached("DELETE FROM hash WHERE host=?1 AND counter=?2")?.execute(key)?;
        Ok(())
    }

    pub(crate) fn hash(&self, id: ObjectId) -> Result<Option<(u64, Timestamp, [u8; 32])>, StoreError> {
        let mut query =
            self.db.prepare_cached("SELECT size, secs, nanos, hash FROM hash WHERE host=?1 AND counter=?2")?;
        let found = query.query_row(params![id.host.get(), signed(id.counter)], |row| {
            Ok((unsigned(row.get(0)?), Timestamp { secs: row.get(1)?, nanos: row.get(2)? }, row.get(3)?))
        });
        Ok(found.optional()?)
    }

    pub(crate) fn put_hash(
        &self,
        id: ObjectId,
        size: u64,
        mtime: Timestamp,
        hash: &[u8; 32],
    ) -> Result<(), StoreError> {
        let mut insert = self.db.prepare_cached("INSERT OR REPLACE INTO hash VALUES (?1,?2,?3,?4,?5,?6)")?;
        insert.execute(params![id.host.get(), signed(id.counter), signed(size), mtime.secs, mtime.nanos, hash])?;
        Ok(())
    }

    /// Notes that `writer` wrote record `number` in `epoch`.
    pub(crate) fn extend_epoch(&self, epoch: u64, writer: HostId, first: u64, last: u64) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "INSERT INTO epoch VALUES (?1,?2,?3,?4) ON CONFLICT (epoch) DO UPDATE
                 SET first=min(first, excluded.first), last=max(last, excluded.last)",
            )?
            .execute(params![signed(epoch), writer.get(), signed(first), signed(last)])?;
        Ok(())
    }

    /// The first epoch from `from` on of which records are known.
    pub(crate) fn epoch_from(&self, from: u64) -> Result<Option<Epoch>, StoreError> {
        let mut query = self
            .db
            .prepare_cached("SELECT epoch, writer, first, last FROM epoch WHERE epoch>=?1 ORDER BY epoch LIMIT 1")?;
        Ok(query.query_row([signed(from)], read_epoch).optional()?)
    }

    /// Forgets the epochs that end at or before `upto`.
    pub(crate) fn forget_epochs(&self, upto: Position) -> Result<(), StoreError> {
        self.db
            .prepare_cached("DELETE FROM epoch WHERE epoch<?1 OR (epoch=?1 AND last<=?2)")?
            .execute([signed(upto.epoch), signed(upto.number)])?;
        Ok(())
    }

    /// For each writer: applied, durable.
    pub(crate) fn applied(&self) -> Result<Vec<(HostId, Position, Position)>, StoreError> {
        let mut query = self.db.prepare_cached("SELECT * FROM applied ORDER BY writer")?;
        let rows = query.query_map([], |row| {
            let at = |i| -> rusqlite::Result<Position> {
                Ok(Position::new(unsigned(row.get(i)?), unsigned(row.get(i + 1)?)))
            };
            Ok((read_host(row, 0)?, at(1)?, at(3)?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn put_applied(&self, writer: HostId, applied: Position, durable: Position) -> Result<(), StoreError> {
        self.db.prepare_cached("INSERT OR REPLACE INTO applied VALUES (?1,?2,?3,?4,?5)")?.execute(params![
            writer.get(),
            signed(applied.epoch),
            signed(applied.number),
            signed(durable.epoch),
            signed(durable.number),
        ])?;
        Ok(())
    }

    /// Notes that the content of an object is about to be copied from a staged file into its inode.
    pub(crate) fn put_copy(&self, copy: &Copy) -> Result<(), StoreError> {
        let mut insert = self.db.prepare_cached("INSERT OR REPLACE INTO copy VALUES (?1,?2,?3,?4,?5,?6)")?;
        insert.execute(params![
            copy.id.host.get(),
            signed(copy.id.counter),
            copy.staged.as_bytes(),
            copy.mtime.secs,
            copy.mtime.nanos,
            signed(copy.start)
        ])?;
        Ok(())
    }

    pub(crate) fn remove_copy(&self, id: ObjectId) -> Result<(), StoreError> {
        let mut delete = self.db.prepare_cached("DELETE FROM copy WHERE host=?1 AND counter=?2")?;
        delete.execute(params![id.host.get(), signed(id.counter)])?;
        Ok(())
    }

    /// The copies that were begun and not finished.
    pub(crate) fn copies(&self) -> Result<Vec<Copy>, StoreError> {
        let mut query = self.db.prepare_cached("SELECT host, counter, staged, secs, nanos, start FROM copy")?;
        let rows = query.query_map([], |row| {
            let staged: Vec<u8> = row.get(2)?;
            Ok(Copy {
                id: ObjectId::new(read_host(row, 0)?, unsigned(row.get(1)?)),
                staged: Name::new(&staged).map_err(|why| conversion(2, why))?,
                mtime: Timestamp { secs: row.get(3)?, nanos: row.get(4)? },
                start: unsigned(row.get(5)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Runs `work`, which only reads, on one state of the index: its statements share what locking it costs.
    pub(crate) fn snapshot<T>(&self, work: impl FnOnce(&Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.db.execute_batch("BEGIN")?;
        let result = work(self);
        self.db.execute_batch("COMMIT")?;
        result
    }

    /// Runs `work` in a transaction, which survives a loss of power once this returns if `durable`.
    pub(crate) fn transaction<T>(
        &self,
        durable: bool,
        work: impl FnOnce(&Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if durable {
            self.db.execute_batch("PRAGMA synchronous=FULL")?;
        }
        let result = self.db.execute_batch("BEGIN IMMEDIATE").map_err(StoreError::from).and_then(|()| {
            let result = work(self).and_then(|value| {
                self.db.execute_batch("COMMIT")?;
                Ok(value)
            });
            if result.is_err() && !self.db.is_autocommit() {
                // The error that is returned says more than one of the rollback, which SQLite does by itself then.
                let _ = self.db.execute_batch("ROLLBACK");
            }
            result
        });
        if durable {
            self.db.execute_batch("PRAGMA synchronous=NORMAL")?;
        }
        result
    }
}

fn conversion(column: usize, why: protocol::ProtocolError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, Box::new(why))
}

pub(crate) fn read_host(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<HostId> {
    HostId::new(row.get(column)?).map_err(|why| conversion(column, why))
}

fn read_epoch(row: &SqlRow<'_>) -> rusqlite::Result<Epoch> {
    Ok(Epoch {
        epoch: unsigned(row.get(0)?),
        writer: read_host(row, 1)?,
        first: unsigned(row.get(2)?),
        last: unsigned(row.get(3)?),
    })
}

fn read_row(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let stamp = decode_stamp(row.get_ref(1)?.as_blob()?).map_err(|why| conversion(1, why))?;
    let version = match row.get::<_, Option<i64>>(2)? {
        None => None,
        Some(epoch) => Some(KnownVersion {
            as_of: Position::new(unsigned(epoch), unsigned(row.get(3)?)),
            size: unsigned(row.get(4)?),
            mtime: Timestamp { secs: row.get(5)?, nanos: row.get(6)? },
        }),
    };
    let place = match row.get_ref(9)?.as_blob_or_null()? {
        None => None,
        Some(name) => Some((
            ObjectId::new(read_host(row, 7)?, unsigned(row.get(8)?)),
            Name::new(name).map_err(|why| conversion(9, why))?,
        )),
    };
    Ok(Row { handle: Handle(unsigned(row.get(0)?)), stamp, version, place })
}

fn encode_stamp(stamp: &VersionStamp) -> Vec<u8> {
    postcard::to_stdvec(stamp).expect("a vector takes all that is written to it")
}

fn decode_stamp(bytes: &[u8]) -> Result<VersionStamp, protocol::ProtocolError> {
    postcard::from_bytes(bytes)
        .map_err(|why| protocol::ProtocolError::Malformed { what: "a stamp in the index", why: why.to_string() })
}
