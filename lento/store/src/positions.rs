//! How far the history was applied and is durable, what is kept of it for others, and what the core saved.

use crate::adopt::STATE;
use crate::bottom::{c_name, open_dir};
use crate::copying::UNSYNCED;
use crate::error::StoreError;
use crate::history::{log_of, open_log};
use crate::store::{ABSORBED, ABSORBED_EPOCH, Store, lock};
use crate::walk::remove_below;
use nix::unistd::{UnlinkatFlags, unlinkat};
use protocol::{HostId, Position, Record};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// In `meta`, each with its epoch: what was trimmed; and what was not kept of received records.
const TRIMMED: (&str, &str) = ("trimmed_epoch", "trimmed");
const NOT_KEPT: (&str, &str) = ("not_kept_epoch", "not_kept");
/// In `meta`: 1 while received records are kept.
const KEEPING: &str = "keeping";

impl Store {
    /// How far the history was applied here, by the writer of the shipments; visible, and perhaps not yet durable.
    pub fn applied(&self) -> Result<BTreeMap<HostId, Position>, StoreError> {
        let rows = self.look_up(|index| index.applied())?;
        Ok(rows.into_iter().map(|(writer, applied, _)| (writer, applied)).collect())
    }

    /// How much of what was applied survives a loss of power, by the writer of the shipments.
    pub fn durable(&self) -> Result<BTreeMap<HostId, Position>, StoreError> {
        let rows = self.look_up(|index| index.applied())?;
        Ok(rows.into_iter().map(|(writer, _, durable)| (writer, durable)).collect())
    }

    /// Makes all that was committed durable, in the bottom and then in the index, and returns the last position of
    /// which this is true, whoever wrote.
    pub fn sync(&self) -> Result<Position, StoreError> {
        let applied = self.applied()?;
        let copying = self.copying.load(Ordering::Acquire);
        self.bottom.sync().map_err(StoreError::io("syncing the store's file system"))?;
        let writer = lock(&self.writer);
        writer.index.transaction(true, |index| {
            for (host, now, durable) in index.applied()? {
                // What was committed since the sync began is not covered by it.
                let synced = applied.get(&host).map_or(durable, |before| (*before).min(now).max(durable));
                index.put_applied(host, now, synced)?;
            }
            // One that was begun meanwhile is not on disk.
            if copying || self.copying.load(Ordering::Acquire) { Ok(()) } else { index.remove_meta(UNSYNCED) }
        })?;
        Ok(applied.values().copied().max().unwrap_or_default())
    }

    /// Says from outside where this copy stands: after it was made or mended by comparison with a peer's. Everything
    /// that `writer` and those before it wrote up to `position` is in the copy, and nothing of it is kept to ship on.
    pub fn set_applied(&self, writer: HostId, position: Position) -> Result<(), StoreError> {
        let guard = lock(&self.writer);
        guard.index.transaction(false, |index| {
            index.put_applied(writer, position, Position::START)?;
            raise(index, NOT_KEPT, position)
        })
    }

    /// Saves the core's state; it survives a loss of power once this returns.
    pub fn save_state(&self, state: &[u8]) -> Result<(), StoreError> {
        lock(&self.writer).index.transaction(true, |index| index.set_meta(STATE, state))
    }

    /// What [`Store::save_state`] saved last.
    pub fn load_state(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.look_up(|index| index.meta(STATE))
    }

    /// Whether committed records are kept (in `.intermezzo/from-<host>`) and are part of [`Store::history`]: on for a
    /// holder with more than one replicator. Without it the history is what this host wrote itself.
    pub fn keep_received(&self, keep: bool) -> Result<(), StoreError> {
        let writer = lock(&self.writer);
        if keep != (writer.index.number(KEEPING)? == 1) {
            writer.index.transaction(false, |index| {
                let applied = index.applied()?.into_iter().map(|(_, applied, _)| applied).max();
                raise(index, NOT_KEPT, applied.unwrap_or_default())?;
                index.set_number(KEEPING, keep.into())
            })?;
        }
        self.keeping.store(keep, Ordering::Release);
        Ok(())
    }

    /// Every peer has the history durably up to `upto`: received records up to there go. Returns up to which number
    /// this host's own log may go, which Presto trims, as it writes it; `None` if it has nothing to trim.
    pub fn trim(&self, upto: Position) -> Result<Option<u64>, StoreError> {
        let mut writer = lock(&self.writer);
        let mut last: BTreeMap<HostId, u64> = BTreeMap::new();
        let mut from = 0;
        while let Some(epoch) = writer.index.epoch_from(from)?.filter(|epoch| epoch.epoch <= upto.epoch) {
            let number = if epoch.epoch == upto.epoch { upto.number.min(epoch.last) } else { epoch.last };
            last.entry(epoch.writer).and_modify(|n| *n = (*n).max(number)).or_insert(number);
            from = epoch.epoch + 1;
        }
        let own = last.remove(&self.config.host);
        for (host, number) in last {
            let failed = |why: modlog::LogError| StoreError::Log { host, why: why.to_string() };
            self.received_log(&mut writer.received, host)?.trim(number).map_err(failed)?;
        }
        writer.index.transaction(false, |index| {
            index.forget_epochs(upto)?;
            raise(index, TRIMMED, upto)
        })?;
        Ok(own)
    }

    /// The position that a reader of the history must have reached to be served.
    pub(crate) fn history_floor(&self) -> Result<Position, StoreError> {
        self.look_up(|index| {
            let trimmed = floor(index, TRIMMED)?;
            Ok(if self.keeping.load(Ordering::Acquire) { trimmed.max(floor(index, NOT_KEPT)?) } else { trimmed })
        })
    }

    /// The log in which records of `host` are kept.
    pub(crate) fn received_log<'a>(
        &self,
        received: &'a mut BTreeMap<HostId, modlog::Writer>,
        host: HostId,
    ) -> Result<&'a mut modlog::Writer, StoreError> {
        use std::collections::btree_map::Entry;
        match received.entry(host) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let dir = open_log(&self.bottom, Some(host))?;
                let (log, _) = modlog::Writer::open(dir, modlog::Options::new(self.config.fileset, host))
                    .map_err(|why| StoreError::Log { host, why: why.to_string() })?;
                Ok(entry.insert(log))
            }
        }
    }

    /// Keeps committed records of `host` for other peers; those that are there already are left out.
    pub(crate) fn keep_records(
        &self,
        received: &mut BTreeMap<HostId, modlog::Writer>,
        host: HostId,
        records: &[Record],
    ) -> Result<(), StoreError> {
        let log = self.received_log(received, host)?;
        let failed = |why: modlog::LogError| match why {
            modlog::LogError::Io { what, file, source } => {
                StoreError::io(format!("to {what} segment {file} of the log from host {host}"))(source)
            }
            other => StoreError::Log { host, why: other.to_string() },
        };
        for record in records {
            if record.number > log.last() {
                log.append_record(record, Ok(protocol::Done { handle: None, attr: None })).map_err(failed)?;
            }
        }
        log.flush().map_err(failed)
    }

    /// After the index was made anew: reads the whole of this host's own log.
    pub(crate) fn absorb_anew(&self) -> Result<(), StoreError> {
        let mut writer = lock(&self.writer);
        let host = self.config.host;
        let failed = |why: modlog::LogError| StoreError::Log { host, why: why.to_string() };
        if let Some(first) = writer.own.first_available().map_err(failed)?.filter(|first| *first > 1) {
            writer.absorbed.number = first - 1;
        }
        let before = writer.absorbed.number;
        match self.absorb_into(&mut writer, false) {
            Ok(_) | Err(StoreError::LogTorn(_)) => {}
            Err(why) => return Err(why),
        }
        writer.index.transaction(false, |index| {
            // Set also when the log is empty, so that the next absorption begins in the same place.
            index.set_number(ABSORBED, writer.absorbed.number)?;
            index.set_number(ABSORBED_EPOCH, writer.absorbed.epoch)?;
            match index.epoch_from(0)?.filter(|_| before > 0) {
                Some(first) => raise(index, TRIMMED, Position::new(first.epoch, before)),
                None => Ok(()),
            }
        })
    }

    /// Takes away what was kept of peers' records: which versions of contents they tell of went with the index, and a
    /// peer that was shipped them would ask for newer contents than this host knows to have. All peers compare.
    pub(crate) fn drop_received(&self) -> Result<(), StoreError> {
        let what = || StoreError::io("removing logs of received records");
        let private = self.bottom.private();
        for entry in self.bottom.read_dir(private).map_err(what())? {
            let name = entry.map_err(what())?.name;
            if log_of(&name).is_some() {
                let c_name = c_name(&name);
                remove_below(open_dir(private, &c_name).map_err(what())?.as_fd()).map_err(what())?;
                unlinkat(private, &*c_name, UnlinkatFlags::RemoveDir).map_err(|e| what()(e.into()))?;
            }
        }
        Ok(())
    }
}

fn floor(index: &crate::index::Index, (epoch, number): (&str, &str)) -> Result<Position, StoreError> {
    Ok(Position::new(index.number(epoch)?, index.number(number)?))
}

fn raise(index: &crate::index::Index, (epoch, number): (&str, &str), position: Position) -> Result<(), StoreError> {
    if position > floor(index, (epoch, number))? {
        index.set_number(epoch, position.epoch)?;
        index.set_number(number, position.number)?;
    }
    Ok(())
}
