//! Applications that write, and what goes wrong meanwhile.

use crate::world::{Due, World};
use lento_core::{Event, PrestoEvent};
use protocol::{Name, ObjectId, Op, Timestamp};

impl World {
    pub(crate) fn write_soon(&mut self, host: usize) {
        if self.now_ms < crate::BUSY_MS {
            let delay = 1 + self.rng.below(60);
            self.schedule(delay, Due::Write { host });
            self.misfortune();
        }
        if !self.hosts[host].presto.up {
            return;
        }
        match self.hosts[host].presto.permit {
            Some(epoch) => {
                for _ in 0..1 + self.rng.below(4) {
                    self.write(host, epoch);
                }
                self.ring(host);
            }
            None if !self.hosts[host].presto.asked => {
                self.hosts[host].presto.asked = self.hosts[host].engine.is_some();
                let fileset = self.fileset;
                self.tell(host, Event::Presto { fileset, event: PrestoEvent::WantsPermit });
            }
            None => {}
        }
    }

    pub(crate) fn write(&mut self, host: usize, epoch: u64) {
        let me = self.hosts[host].id;
        if let Some((position, digest)) = self.last {
            let seen = self.hosts[host].model.digest();
            assert_eq!(seen, digest, "host {host} writes without having seen {position} (lost update)");
        }
        let existing: Vec<ObjectId> = self.hosts[host].model.tree.keys().copied().collect();
        let pick = (!existing.is_empty()).then(|| existing[self.rng.below(existing.len() as u64) as usize]);
        let name = Name::new(format!("n{}", self.rng.below(1000)).as_bytes()).expect("legal");
        self.token += 1;
        let op = match (self.rng.below(10), pick) {
            (0..=1, Some(id)) => {
                let parent = ObjectId::ROOT;
                let old = self.hosts[host].model.tree[&id].name.clone();
                Op::Rename { id, parent, name: old, to_parent: parent, to_name: name, other: None, exchange: false }
            }
            (2, Some(id)) => {
                self.unlinked.insert(id);
                let name = self.hosts[host].model.tree[&id].name.clone();
                Op::Unlink { parent: ObjectId::ROOT, name, id }
            }
            (3..=6, Some(id)) => Op::Store { id, size: 1, mtime: Timestamp::default() },
            _ => {
                let id = ObjectId::new(me, self.hosts[host].model.last_number + 1);
                Op::Create { parent: ObjectId::ROOT, name, id, mode: 0o644 }
            }
        };
        let token = self.token;
        self.writers.insert(token, host);
        let position = self.hosts[host].model.write(me, epoch, op, token);
        let digest = self.hosts[host].model.digest();
        self.truth.insert(position, digest);
        self.last = Some((position, digest));
        self.count("writes");
    }

    pub(crate) fn misfortune(&mut self) {
        let hosts = self.hosts.len() as u64;
        let (host, other) = (self.rng.below(hosts) as usize, self.rng.below(hosts) as usize);
        let faults = self.faults;
        if self.rng.below(1000) < faults.cut && host != other {
            self.count("cuts");
            let for_ms = 50 + self.rng.below(2000);
            self.cut(host, other, for_ms);
            if self.rng.percent(60) {
                self.cut(other, host, for_ms);
            }
        }
        let pause = 10 + self.rng.below(500);
        if self.rng.below(1000) < faults.kill_lento && self.hosts[host].engine.is_some() {
            self.count("Lento killed");
            self.hosts[host].engine = None;
            self.hosts[host].life += 1;
            self.hang_up(host);
            self.schedule(pause, Due::StartLento { host });
        }
        if self.rng.below(1000) < faults.kill_presto && self.hosts[host].presto.up {
            self.count("Presto killed");
            let lost_after = self.hosts[host].presto.lost_after;
            self.hosts[host].presto = crate::host::Presto { lost_after, ..Default::default() };
            let fileset = self.fileset;
            self.tell(host, Event::Presto { fileset, event: PrestoEvent::Down });
            self.schedule(pause, Due::StartPresto { host });
        }
        if self.rng.below(1000) < faults.power && self.hosts[host].presto.up {
            self.count("power lost");
            self.hosts[host].lose_power();
            self.hosts[host].life += 1;
            self.hang_up(host);
            self.last = None;
            self.schedule(pause, Due::StartLento { host });
            self.schedule(pause + 5, Due::StartPresto { host });
        }
        if self.rng.below(1000) < faults.rebuild && self.hosts[host].engine.is_some() && self.hosts[host].presto.up {
            self.count("index made anew");
            self.hosts[host].rebuild();
            // It ends with a sync.
            self.sync(host);
            self.hang_up(host);
            self.schedule(pause, Due::StartLento { host });
            self.schedule(pause + 5, Due::StartPresto { host });
        }
        if self.rng.below(1000) < faults.overflow {
            self.count("log overflowed");
            // The holder may forget what replicators lack; a replicator what the holder lacks, if it owns the permit.
            let upto = self.hosts[host].model.tail(self.hosts[host].id);
            if host == 0 || self.hosts[host].presto.permit.is_some() {
                self.hosts[host].model.trim(upto);
            }
        }
    }
}
