//! Who waits for a position to be reached by all peers: `lento wait`, here and at other hosts.

use lento_core::FileSetStatus;
use protocol::{FileSetId, HostId, Position};
use tokio::sync::oneshot;

/// Those who wait.
#[derive(Default)]
pub(super) struct Waiters(Vec<(FileSetId, Position, oneshot::Sender<()>)>);

impl Waiters {
    pub(super) fn add(&mut self, fileset: FileSetId, position: Position, reply: oneshot::Sender<()>) {
        self.0.push((fileset, position, reply));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Answers those whose time has come, and forgets those who left.
    /// Who `is_client` is not waited for.
    pub(super) fn settle(
        &mut self,
        status: impl Fn(FileSetId) -> Option<FileSetStatus>,
        is_client: impl Fn(FileSetId, HostId) -> bool,
    ) {
        let all = std::mem::take(&mut self.0);
        for (fileset, position, reply) in all {
            if reply.is_closed() {
                continue;
            }
            if status(fileset).is_none_or(|status| reached(&status, position, |peer| is_client(fileset, peer))) {
                let _ = reply.send(());
            } else {
                self.0.push((fileset, position, reply));
            }
        }
    }
}

/// Whether every peer has applied all up to `position`.
fn reached(status: &FileSetStatus, position: Position, is_client: impl Fn(HostId) -> bool) -> bool {
    status
        .links
        .iter()
        .filter(|link| !is_client(link.peer))
        .all(|link| link.up && link.in_step && !link.copying && link.acked >= position)
}
