//! What other hosts say and ask (the request dispatcher's outer half): who may, and what is served.

use super::files::Invited;
use super::input::{Call, Input};
use super::mind::{Mind, PeerView};
use lento_core::Event;
use lento_net::{Member, NetEvent, Responder};
use lento_transfer::{Stopped, list, manifest, serve};
use protocol::{Access, FileSetId, FileSetName, Grant, HostId, Refusal, Reply, Request, Role};
use std::time::Instant;
use tokio::sync::oneshot;

impl Mind {
    pub(super) fn take_net(&mut self, event: NetEvent) {
        match event {
            NetEvent::Up { host, .. } => {
                self.saw(host, None);
                self.connected(host, &Ok(()));
                self.tell(Event::PeerUp(host));
                let all: Vec<FileSetId> = self.filesets.keys().copied().collect();
                all.into_iter().for_each(|fileset| self.fetch_wanted(fileset));
            }
            NetEvent::Down { host, reason, .. } => {
                self.saw(host, Some(reason.to_string()));
                self.permit_requests.retain(|(_, asker), _| *asker != host);
                self.tell(Event::PeerDown(host));
            }
            NetEvent::ConnectFailed { host, reason } => {
                self.peers
                    .entry(host)
                    .and_modify(|peer| peer.last_error = Some((Instant::now(), reason.clone())))
                    .or_insert_with(|| PeerView {
                        since: Instant::now(),
                        last_error: Some((Instant::now(), reason.clone())),
                    });
                self.connected(host, &Err(reason));
                self.tell(Event::ConnectFailed(host));
            }
            NetEvent::Message { host, message } => self.tell(Event::Received { from: host, message }),
            NetEvent::Request { host, request, responder } => self.take_request(host, request, responder),
            NetEvent::Joined { member, grant } => {
                tracing::info!(host = %member.name, id = %member.host, "joined the cluster");
                self.give_access(member, grant);
            }
            NetEvent::Redeemed { member, grant } => {
                tracing::info!(host = %member.name, id = %member.host, ?grant, "redeemed a ticket");
                self.give_access(member, grant);
            }
        }
    }

    /// A host with a ticket for the file set has from now on what that gives.
    fn give_access(&mut self, member: Member, grant: Option<Grant>) {
        let Some(Grant { fileset, role, access }) = grant else { return };
        let invited = self.by_name(&fileset);
        if let Some(set) = invited.and_then(|id| self.filesets.get_mut(&id)) {
            set.config.invited.insert(member.name, Invited { role, access });
            if let Err(failure) = self.save_filesets() {
                tracing::error!(why = failure.message, "an invitation is not kept");
            }
        }
    }

    fn saw(&mut self, host: HostId, error: Option<String>) {
        let now = Instant::now();
        let old = self.peers.remove(&host).and_then(|peer| peer.last_error);
        self.peers.insert(host, PeerView { since: now, last_error: error.map(|why| (now, why)).or(old) });
    }

    fn connected(&mut self, host: HostId, result: &Result<(), String>) {
        for (_, reply) in self.connecting.extract_if(.., |(wanted, _)| *wanted == host) {
            let _ = reply.send(result.clone());
        }
    }

    fn take_request(&mut self, host: HostId, request: Request, responder: Responder) {
        match request {
            // The network takes those itself.
            Request::Join { .. } | Request::Redeem { .. } => drop(responder),
            Request::FileSets => {
                let sets = self.filesets.values().filter(|set| self.invited(host, set.config.id).is_some());
                let list = sets.map(|set| (set.config.id, set.config.name.clone())).collect();
                answer(responder, &Reply::FileSets(list));
            }
            Request::Replicate { name, role } => self.replicate_requested(host, &name, role, responder),
            Request::DropReplica { fileset } => {
                self.tell(Event::ReplicatorRemoved { host, fileset });
                self.keep_received(fileset);
                answer(responder, &Reply::Done);
            }
            Request::GetPermit { fileset } => {
                let links = self.engine.status(fileset).map(|status| status.links).unwrap_or_default();
                if links.iter().any(|link| link.peer == host && !link.in_step) {
                    refuse(responder, Refusal::Busy("the copies are compared first".into()));
                } else if self.shares(host, fileset)
                    && self.invited(host, fileset).is_some_and(|invited| invited.access == Access::ReadWrite)
                {
                    // A second request means that the first one's answer is not awaited any more.
                    self.permit_requests.insert((fileset, host), responder);
                    self.tell(Event::PermitRequested { from: host, fileset });
                } else {
                    refuse(responder, Refusal::Denied);
                }
            }
            Request::Wait { fileset } => self.wait_requested(host, fileset, responder),
            Request::Fetch { fileset, .. } | Request::List { fileset, .. } | Request::Manifest { fileset } => {
                if self.shares(host, fileset) {
                    self.serve(fileset, request, responder);
                } else {
                    tracing::warn!(%host, %fileset, "refused to a host that does not replicate it");
                    refuse(responder, Refusal::Denied);
                }
            }
        }
    }

    /// What `host` was invited to, if this host holds the file set.
    fn invited(&self, host: HostId, fileset: FileSetId) -> Option<Invited> {
        let name = self.identity.member(host).ok().flatten()?.name;
        let holder = self.engine.status(fileset).is_some_and(|status| status.holder == self.identity.host);
        self.filesets.get(&fileset).filter(|_| holder)?.config.invited.get(&name).copied()
    }

    /// Whether `host` only caches a file set that this host holds.
    pub(super) fn is_client(&self, fileset: FileSetId, host: HostId) -> bool {
        self.filesets.get(&fileset).is_some_and(|set| set.config.clients.contains(&self.host_name(host)))
    }

    /// Whether `host` is a peer of this file set.
    fn shares(&self, host: HostId, fileset: FileSetId) -> bool {
        self.engine.status(fileset).is_some_and(|status| status.links.iter().any(|link| link.peer == host))
    }

    fn replicate_requested(&mut self, host: HostId, name: &FileSetName, role: Role, responder: Responder) {
        let Some(fileset) = self.by_name(name) else { return refuse(responder, Refusal::NoFileSet) };
        let invited =
            self.invited(host, fileset).filter(|invited| role == Role::Client || invited.role == Role::Replicator);
        let Some(Invited { access, .. }) = invited else {
            tracing::warn!(%host, %name, ?role, "a host asked for what it was not invited to");
            return refuse(responder, Refusal::Denied);
        };
        let name = self.host_name(host);
        if let Some(set) = self.filesets.get_mut(&fileset) {
            match role {
                Role::Client => drop(set.config.clients.insert(name)),
                Role::Replicator => drop(set.config.clients.remove(&name)),
            }
        }
        if let Err(failure) = self.save_filesets() {
            return refuse(responder, Refusal::Failed(failure.message));
        }
        self.tell(Event::ReplicatorAdded { host, fileset, client: role == Role::Client });
        self.keep_received(fileset);
        answer(responder, &Reply::Replicating { fileset, access });
    }

    /// Answered when all replicators have what there is now.
    fn wait_requested(&mut self, host: HostId, fileset: FileSetId, responder: Responder) {
        if !self.shares(host, fileset) {
            return refuse(responder, Refusal::Denied);
        }
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let reached = super::control::wait::everything(&inputs, fileset);
            tokio::select! {
                () = reached => answer(responder, &Reply::Done),
                () = responder.cancelled() => {}
            }
        });
    }

    fn serve(&mut self, fileset: FileSetId, request: Request, responder: Responder) {
        let Some(store) = self.store(fileset) else {
            return refuse(responder, Refusal::Busy("its store is not open".into()));
        };
        let permit = self.engine.status(fileset).map(|status| status.permit);
        let records_follow = permit.is_none_or(|permit| permit.granted || !permit.presto_up);
        tokio::task::spawn_blocking(move || {
            let mut emit = |body: Vec<u8>| responder.blocking_data(body).map_err(|_| Stopped);
            let result = match request {
                Request::Fetch { wanted, .. } => {
                    serve(&store, &wanted, records_follow, &mut emit).map(|()| Reply::Done)
                }
                Request::List { root, deep, .. } => {
                    list(&store, root, deep, &mut emit).map(|after| Reply::Listed { after })
                }
                _ => manifest(store.bottom(), &mut emit).map(|()| Reply::Done),
            };
            let reply = result.unwrap_or_else(|why| {
                tracing::debug!(%fileset, %why, "a transfer ended early");
                Reply::Refused(Refusal::Failed(why.to_string()))
            });
            responder.end_of_data();
            answer(responder, &reply);
        });
    }
}

fn refuse(responder: Responder, refusal: Refusal) {
    answer(responder, &Reply::Refused(refusal));
}

fn answer(responder: Responder, reply: &Reply) {
    let host = responder.host();
    if let Err(why) = responder.reply(reply) {
        tracing::debug!(%host, %why, "an answer was not sent");
    }
}

/// Asks the mind, from a task.
pub(super) async fn call<T>(
    inputs: &tokio::sync::mpsc::Sender<Input>,
    make: impl FnOnce(oneshot::Sender<T>) -> Call,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    inputs.send(Input::Call(make(reply))).await.ok()?;
    answer.await.ok()
}
