//! What the daemon would do for the engine: fetch, compare, sync, and talk to the filter.

use crate::host::Host;
use crate::world::{Due, World};
use lento_core::{Event, PrestoEvent, StageResult};
use protocol::{Downcall, HostId, ObjectId, Position};
use std::collections::BTreeMap;

impl World {
    pub(crate) fn stage(&mut self, host: usize, life: u64, from: usize, wanted: Vec<ObjectId>) {
        if self.hosts[host].life != life {
            return;
        }
        let connected = self.connections.contains_key(&(host, from)) && self.hosts[from].engine.is_some();
        let mut results = BTreeMap::new();
        for id in wanted {
            let result = if !connected {
                StageResult::Failed("not connected".into())
            } else if self.rng.percent(10) {
                StageResult::Changed
            } else {
                match self.hosts[from].model.serve(id) {
                    Ok(version) => {
                        self.hosts[host].model.staged.insert(id, version);
                        StageResult::Staged { as_of: version.0 }
                    }
                    Err(result) => result,
                }
            };
            results.insert(id, result);
        }
        let (from, fileset, delay) = (self.hosts[from].id, self.fileset, self.rng.below(5));
        self.tell_later(host, delay, Event::Staged { fileset, from, results });
    }

    pub(crate) fn begin_copy(&mut self, host: usize, from: HostId, objects: Option<Vec<ObjectId>>) {
        let from = self.index(from);
        let after = self.hosts[from].model.history_end(self.hosts[from].id);
        let (life, delay) = (self.hosts[host].life, 1 + self.rng.below(40));
        self.schedule(delay, Due::Copy { host, life, from, after, objects });
    }

    /// A comparison ends: the tree is that of the source now, its position that of when it began.
    pub(crate) fn copy(
        &mut self,
        host: usize,
        life: u64,
        from: usize,
        after: Position,
        objects: Option<Vec<ObjectId>>,
    ) {
        if self.hosts[host].life != life {
            return;
        }
        let (fileset, peer) = (self.fileset, self.hosts[from].id);
        if !self.connections.contains_key(&(host, from)) || self.hosts[from].engine.is_none() || self.rng.percent(5) {
            let result = Err("not connected".to_owned());
            return self.tell(host, Event::Compared { fileset, from: peer, result });
        }
        let source = self.hosts[from].model.clone();
        let end = source.history_end(self.hosts[from].id);
        // A source that is itself ahead of its position passes that on.
        self.hosts[host].fuzzy_until = end.max(self.hosts[from].fuzzy_until);
        match objects {
            Some(objects) => {
                self.count("missing objects fetched");
                for id in objects {
                    match source.tree.get(&id) {
                        Some(object) => {
                            self.hosts[host].model.tree.insert(id, object.clone());
                        }
                        None => {
                            self.hosts[host].model.unavailable.insert(id);
                        }
                    }
                }
            }
            None => {
                self.count("comparisons");
                let model = &mut self.hosts[host].model;
                model.tree = source.tree;
                model.as_of = source.as_of;
                model.applied.insert(peer, after);
                model.unavailable.clear();
                // A comparison ends with a sync.
                self.sync(host);
            }
        }
        self.tell(host, Event::Compared { fileset, from: peer, result: Ok(after) });
    }

    pub(crate) fn sync(&mut self, host: usize) {
        self.hosts[host].synced = self.hosts[host].model.clone();
        // Durable is what its writer had synced; a copy elsewhere may be rolled back with a holder that lost power.
        for (id, object) in &self.hosts[host].model.tree {
            if self.writers.get(&object.token) == Some(&host) {
                let token = self.durable.entry(*id).or_default();
                *token = (*token).max(object.token);
            }
        }
    }

    pub(crate) fn downcall(&mut self, host: usize, downcall: Downcall) {
        let fileset = self.fileset;
        if !self.hosts[host].presto.up {
            return;
        }
        match downcall {
            Downcall::Grant { epoch } => {
                self.hosts[host].presto.permit = Some(epoch);
                self.hosts[host].presto.asked = false;
            }
            Downcall::Revoke => {
                self.hosts[host].presto.permit = None;
                let last = self.hosts[host].model.tail(self.hosts[host].id).number;
                self.tell(host, Event::Presto { fileset, event: PrestoEvent::Released { last } });
            }
            Downcall::Arm { seen } => {
                self.hosts[host].presto.armed = Some(seen);
                self.ring(host);
            }
            _ => {}
        }
    }

    pub(crate) fn ring(&mut self, host: usize) {
        let Host { presto, model, id, .. } = &mut self.hosts[host];
        if presto.armed.is_some_and(|seen| model.tail(*id).number > seen) {
            presto.armed = None;
            let fileset = self.fileset;
            self.tell(host, Event::Presto { fileset, event: PrestoEvent::Advanced });
        }
    }
}
