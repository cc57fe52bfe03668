//! What `lento status` tells.

use super::fileset::FileSet;
use super::mind::Mind;
use lento_cli::control::{
    CacheStatus, FileSetStatus, HostStatus, Lag, MountState, MountStatus, PeerStatus, PermitStatus, ReplicaState,
    ReplicaStatus, Role, Trouble,
};
use lento_core::LinkStatus;
use protocol::{HostId, HostName, Position};
use std::time::Instant;

impl Mind {
    /// The name of a host; of one that is not known, a name made of its number.
    pub(super) fn host_name(&self, host: HostId) -> HostName {
        if host == self.identity.host {
            return self.identity.name.clone();
        }
        let known = self.identity.member(host).ok().flatten().map(|member| member.name);
        known.unwrap_or_else(|| format!("host-{host}").parse().unwrap_or_else(|_| self.identity.name.clone()))
    }

    pub(super) fn host_status(&self) -> HostStatus {
        let refusals = self.network.refusals();
        let members = self.identity.members().unwrap_or_default();
        let peers = members.into_iter().filter(|member| member.host != self.identity.host).map(|member| {
            let view = self.peers.get(&member.host);
            PeerStatus {
                connected: self.network.connection(member.host).is_some(),
                since_s: view.map_or(self.started, |view| view.since).elapsed().as_secs(),
                last_error: view.and_then(|view| view.last_error.as_ref()).map(trouble),
                host: member.name,
                id: member.host,
                address: member.address,
            }
        });
        let mut filesets: Vec<FileSetStatus> = self.filesets.values().map(|set| self.fileset_status(set)).collect();
        filesets.sort_by(|a, b| a.name.cmp(&b.name));
        HostStatus {
            host: self.identity.name.clone(),
            id: self.identity.host,
            listen: self.identity.listen.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            peers: peers.collect(),
            filesets,
            refusals: refusals.total,
            last_refusal: refusals.last.as_ref().map(trouble),
        }
    }

    fn fileset_status(&self, set: &FileSet) -> FileSetStatus {
        let core = self.engine.status(set.config.id);
        let me = self.identity.host;
        let holder = core.as_ref().map_or(me, |core| core.holder);
        let links = core.as_ref().map(|core| core.links.clone()).unwrap_or_default();
        let end = core.as_ref().map_or(Position::START, |core| core.history_end);
        let tail = core.as_ref().map_or(Position::START, |core| core.tail);
        let replicas: Vec<ReplicaStatus> =
            links.iter().map(|link| self.replica_status(set, link, if holder == me { end } else { tail })).collect();
        let permit = core.as_ref().map(|core| PermitStatus {
            at: core.permit.owner.or(core.permit.here.map(|_| me)).map(|host| self.host_name(host)),
            epoch: core.permit.here.unwrap_or(end.epoch),
            waiting: core.permit.waiting.iter().map(|host| self.host_name(*host)).collect(),
        });
        FileSetStatus {
            name: set.config.name.clone(),
            id: set.config.id,
            role: match set.config.client {
                Some(_) => Role::Client,
                None if holder == me => Role::Holder,
                None => Role::Replicator,
            },
            cache: cache(set, replicas.first()),
            holder: self.host_name(holder),
            state: worst(replicas.iter().map(|replica| replica.state)),
            store: set.config.store.as_path().into(),
            mount: MountStatus {
                dir: set.config.mount.as_path().into(),
                state: if set.mount.state == MountState::Mounted && set.presto.is_none() {
                    MountState::Starting
                } else {
                    set.mount.state
                },
                presto_pid: set.mount.pid,
                wait: set.config.wait,
                restarts: set.mount.restarts,
            },
            permit: permit.unwrap_or(PermitStatus { at: None, epoch: 0, waiting: vec![] }),
            position: end,
            objects: set.store.as_ref().and_then(|store| store.objects().ok()).unwrap_or(0),
            log_bytes: log_bytes(set),
            replicas,
            conflicts: set.store.as_ref().map_or(0, |store| store.conflicts()),
            last_error: set.last_error.as_ref().map(trouble),
        }
    }

    fn replica_status(&self, set: &FileSet, link: &LinkStatus, end: Position) -> ReplicaStatus {
        let stalled = if link.apply.stalled.is_empty() { &link.peer_stalled } else { &link.apply.stalled };
        let state = if !link.up {
            ReplicaState::Disconnected
        } else if !stalled.is_empty() {
            ReplicaState::Stalled
        } else if link.copying || !link.in_step {
            if set.config.mounted { ReplicaState::Comparing } else { ReplicaState::Copying }
        } else {
            ReplicaState::Live
        };
        let reason = match state {
            ReplicaState::Stalled => Some(stalled.clone()),
            ReplicaState::Disconnected => {
                self.peers.get(&link.peer).and_then(|peer| peer.last_error.as_ref()).map(|(_, why)| why.clone())
            }
            _ => None,
        };
        ReplicaStatus {
            host: self.host_name(link.peer),
            client: self.is_client(set.config.id, link.peer),
            state,
            reason,
            applied: link.acked,
            durable: link.durable,
            lag: self.lag(set, link, end),
            progress: set.progress.clone(),
        }
    }

    pub(super) fn lag(&self, set: &FileSet, link: &LinkStatus, end: Position) -> Lag {
        if link.acked >= end {
            return Lag::default();
        }
        let pending = set.store.as_ref().and_then(|store| store.pending(link.acked).ok());
        pending.map_or_else(Lag::default, |pending| Lag {
            records: pending.records,
            bytes: pending.bytes,
            seconds: pending.oldest.map_or(0.0, age),
        })
    }
}

fn cache(set: &FileSet, holder: Option<&ReplicaStatus>) -> Option<CacheStatus> {
    let (client, store) = (set.config.client?, set.store.as_ref()?);
    let used = store.cache_use().ok()?;
    Some(CacheStatus {
        files: used.files,
        bytes: used.bytes,
        bound: client.cache_bytes,
        pinned: used.pinned,
        unsent: holder.map_or(0, |holder| holder.lag.records),
        misses: set.demands.misses,
        read_only: client.access == protocol::Access::ReadOnly,
    })
}

fn age(time: protocol::Timestamp) -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.as_secs_f64() - (time.secs as f64 + f64::from(time.nanos) / 1e9)).max(0.0)
}

fn worst(states: impl Iterator<Item = ReplicaState>) -> ReplicaState {
    let rank = |state: &ReplicaState| match state {
        ReplicaState::Live => 0,
        ReplicaState::Comparing => 1,
        ReplicaState::Copying => 2,
        ReplicaState::Disconnected => 3,
        ReplicaState::Stalled => 4,
    };
    states.max_by_key(rank).unwrap_or(ReplicaState::Live)
}

fn trouble((at, text): &(Instant, String)) -> Trouble {
    Trouble { ago_s: at.elapsed().as_secs(), text: text.clone() }
}

fn log_bytes(set: &FileSet) -> u64 {
    set.store.as_ref().and_then(|store| store.log_bytes().ok()).unwrap_or(0)
}
