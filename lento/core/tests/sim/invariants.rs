//! What must hold after each step, and at rest.

use crate::host::Host;
use crate::world::World;
use protocol::ObjectId;

impl World {
    /// Invariant 5: the permit is exclusive.
    pub(crate) fn check_permits(&self) {
        let holders: Vec<_> = self.hosts.iter().filter(|h| h.presto.permit.is_some()).map(|h| h.id).collect();
        assert!(holders.len() <= 1, "the permit is at {holders:?} at once, at {} ms", self.now_ms);
    }

    /// Invariants 2, 9 and 12: what a host has at a position is what the writer had there.
    pub(crate) fn check_prefix(&mut self, host: usize, shipments: &[protocol::Shipment]) {
        let Some(upto) = shipments.last().map(|s| s.upto) else { return };
        let records = shipments.iter().map(|s| s.records.len()).sum::<usize>();
        if upto < self.hosts[host].fuzzy_until || records == 0 {
            return;
        }
        let Some((position, digest)) = self.truth.range(..=upto).next_back() else { return };
        if shipments.iter().flat_map(|s| &s.records).next_back().map(|r| r.position()) == Some(*position) {
            let model = &self.hosts[host].model;
            assert_eq!(model.digest(), *digest, "host {host} is not at a state that its source had, at {position}");
            self.count("prefixes checked");
        }
    }

    /// Invariants 1, 14, 15: at rest all trees are the same, nothing that was durable is lost, nothing is under way.
    pub(crate) fn check_at_rest(&self) {
        let first = &self.hosts[0].model;
        for host in &self.hosts[1..] {
            let differs = |id: &&ObjectId| host.model.tree.get(*id) != first.tree.get(*id);
            let one = host.model.tree.keys().chain(first.tree.keys()).find(differs);
            let status = |h: &Host| h.engine.as_ref().and_then(|e| e.status(self.fileset));
            assert!(
                one.is_none(),
                "host {} differs from the holder at rest in {one:?}: {:?} there {:?} {:#?} {:#?}",
                host.id,
                one.and_then(|id| host.model.tree.get(id)),
                one.and_then(|id| first.tree.get(id)),
                status(host),
                status(&self.hosts[0])
            );
        }
        if let Some((position, digest)) = self.last {
            assert_eq!(first.digest(), digest, "the trees at rest are not what the last writer had at {position}");
        }
        for (id, token) in &self.durable {
            if !self.unlinked.contains(id) {
                let now = first.tree.get(id).map_or(0, |object| object.token);
                assert!(now >= *token, "object {id} is at content {now}, though {token} was durable");
            }
        }
        for host in &self.hosts {
            let status = host.engine.as_ref().and_then(|e| e.status(self.fileset)).expect("Lento runs at rest");
            for link in status.links {
                assert!(link.up && link.in_step && !link.copying, "host {} is not in step at rest: {link:?}", host.id);
                assert_eq!(link.apply.queued, 0, "host {} has not applied all at rest", host.id);
            }
        }
    }
}
