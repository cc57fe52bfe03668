//! One simulated host: the real engine, and models of what its shell would drive.

use crate::model::Model;
use lento_core::{Engine, FileSetSetup, PrestoEvent, Saved};
use protocol::{FileSetId, HostId, Op, Position, Timestamp};
use std::collections::BTreeMap;

/// The filter: what it was granted, and whether it wants more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presto {
    pub up: bool,
    pub permit: Option<u64>,
    pub asked: bool,
    pub lost_after: Option<u64>,
    /// Rings when the log is beyond this; `None`: rung already.
    pub armed: Option<u64>,
}

pub(crate) struct Host {
    pub id: HostId,
    pub engine: Option<Engine>,
    /// Counts the lives of Lento: what was begun in an earlier one is not answered.
    pub life: u64,
    pub saved: Saved,
    pub model: Model,
    /// What a loss of power leaves.
    pub synced: Model,
    pub presto: Presto,
    /// While a comparison's fuzzy copy is ahead of its position, up to here.
    pub fuzzy_until: Position,
    /// The time for which a tick is scheduled.
    pub tick_at: Option<u64>,
    /// When the last downcall arrives.
    pub downcall_at: u64,
}

impl Host {
    pub(crate) fn new(id: HostId, saved: Saved) -> Self {
        Self {
            id,
            engine: None,
            life: 0,
            saved,
            model: Model::default(),
            synced: Model::default(),
            presto: Presto { up: true, ..Presto::default() },
            fuzzy_until: Position::START,
            tick_at: None,
            downcall_at: 0,
        }
    }

    pub(crate) fn start_lento(&mut self, fileset: FileSetId, now_ms: u64) {
        self.life += 1;
        let mut engine = Engine::new(self.id);
        let applied: BTreeMap<HostId, Position> = self.model.applied.clone();
        let setup =
            FileSetSetup { fileset, saved: self.saved.clone(), tail: self.model.tail(self.id), applied, mounted: true };
        engine.add_fileset(now_ms, setup);
        self.engine = Some(engine);
        self.tick_at = None;
    }

    /// What the filter says when it has connected.
    pub(crate) fn hello(&mut self) -> PrestoEvent {
        self.presto.asked = false;
        self.presto.armed = None;
        PrestoEvent::Up { permit: self.presto.permit, lost_after: self.presto.lost_after }
    }

    /// `lento fsck --rebuild`: Presto ends in order, and of the index is left what can be read from tree and logs.
    pub(crate) fn rebuild(&mut self) {
        self.engine = None;
        self.life += 1;
        self.presto = Presto { lost_after: self.presto.lost_after, ..Presto::default() };
        // The tree is ahead of the position that is told from now on.
        self.fuzzy_until = self.fuzzy_until.max(self.model.history_end(self.id));
        self.model.forget_index(self.id);
        self.saved.forget_index(self.id);
    }

    /// Power goes: all that was not synced with it.
    pub(crate) fn lose_power(&mut self) {
        let lost_to = self.model.last_number;
        let trimmed = self.model.trimmed;
        self.model = self.synced.clone();
        self.model.trimmed = self.model.trimmed.max(trimmed);
        self.model.staged.clear();
        self.presto = Presto { lost_after: Some(self.model.last_number), ..Presto::default() };
        // A number that somebody may have seen is never used again.
        self.model.last_number = lost_to + 1000;
        self.tell_anew();
        self.synced = self.model.clone();
        self.engine = None;
    }

    /// The filter tells of objects whose last change its log may have lost, in the epoch of its last record: it does not
    /// know whether the permit is still here.
    fn tell_anew(&mut self) {
        let epoch = self.model.tail(self.id).epoch;
        let suspects: Vec<_> = self.model.tree.iter().map(|(id, object)| (*id, object.token)).take(3).collect();
        for (id, token) in suspects {
            self.model.write(self.id, epoch, Op::Store { id, size: 1, mtime: Timestamp::default() }, token);
        }
    }
}
