//! `lento verify`: both sides are read from beginning to end and compared, content and attributes.

use super::conclude;
use crate::daemon::error::{failed, hinted, no_fileset};
use crate::daemon::input::{Answers, Call, Input};
use crate::daemon::mind::Mind;
use crate::daemon::requests::call;
use lento_cli::control::{
    ByteText, Code, Compared, ControlEvent, Difference, Failure, FieldDifference, Found, VERIFY_DIFFERENCES,
};
use lento_net::Connection;
use lento_store::Store;
use lento_transfer::{Aspect, Difference as Finding, ManifestDiff, ManifestEntry, ManifestReader, Stopped, manifest};
use protocol::{FileSetId, FileSetName, HostId, HostName, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Bodies of the local manifest that may wait for the comparison.
const BODIES: usize = 16;
/// What is under way is given this long to arrive before the sides are compared.
const SETTLE: Duration = Duration::from_secs(10);
/// Times that the sides are compared when the file set is being changed meanwhile.
const ATTEMPTS: usize = 3;

impl Mind {
    pub(super) fn verify(&mut self, name: &FileSetName, answers: Answers) {
        let Some(id) = self.by_name(name) else {
            return super::end(&answers, [ControlEvent::Failed(no_fileset(name))]);
        };
        let Some(store) = self.store(id) else {
            return super::end(&answers, [ControlEvent::Failed(failed(format!("the store of {name} is not open")))]);
        };
        if self.filesets.get(&id).is_some_and(|set| set.config.client.is_some()) {
            let why = hinted(
                format!("this host stores nothing of {name} but what it caches: there is nothing to compare"),
                "verify on a host that stores it: `lento status` names the holder",
            );
            return super::end(&answers, [ControlEvent::Failed(why)]);
        }
        let links = self.engine.status(id).map(|status| status.links).unwrap_or_default();
        let peers: Vec<(HostId, HostName, Option<Connection>)> = links
            .iter()
            .filter(|link| !self.is_client(id, link.peer))
            .map(|link| (link.peer, self.host_name(link.peer), self.network.connection(link.peer)))
            .collect();
        let inputs = self.inputs.clone();
        let name = name.clone();
        tokio::spawn(async move {
            let mut equal = true;
            for (_, host, connection) in peers {
                let compared = match connection {
                    Some(connection) => compare(&inputs, id, &store, &host, &connection, &answers).await,
                    None => Compared {
                        host,
                        objects: 0,
                        bytes: 0,
                        differences: 0,
                        error: Some("it is not connected".into()),
                    },
                };
                equal &= compared.differences == 0 && compared.error.is_none();
                let _ = answers.send(ControlEvent::Compared(compared)).await;
            }
            let result = if equal {
                Ok(None)
            } else {
                Err(Failure { message: format!("the copies of {name} differ"), hint: None, code: Code::Failed })
            };
            conclude(&answers, result).await;
        });
    }
}

async fn compare(
    inputs: &mpsc::Sender<Input>,
    id: FileSetId,
    store: &Arc<Store>,
    host: &HostName,
    connection: &Connection,
    answers: &Answers,
) -> Compared {
    let mut last = Compared { host: host.clone(), objects: 0, bytes: 0, differences: 0, error: None };
    let mut found = Vec::new();
    for _ in 0..ATTEMPTS {
        let _ = tokio::time::timeout(SETTLE, super::wait::everywhere(inputs, id)).await;
        let before = history_end(inputs, id).await;
        let (store, connection, host) = (store.clone(), connection.clone(), host.clone());
        let work = tokio::task::spawn_blocking(move || diff(&store, &connection, id, &host)).await;
        (last, found) = work.unwrap_or_else(|why| {
            let error = Some(format!("the comparison was interrupted: {why}"));
            (Compared { error, ..last.clone() }, Vec::new())
        });
        // Differences that come from changes made meanwhile are none.
        if found.is_empty() || history_end(inputs, id).await == before {
            break;
        }
    }
    for difference in found {
        let _ = answers.send(ControlEvent::Difference(difference)).await;
    }
    last
}

async fn history_end(inputs: &mpsc::Sender<Input>, id: FileSetId) -> Option<protocol::Position> {
    call(inputs, |reply| Call::Status { fileset: id, reply }).await.flatten().map(|status| status.history_end)
}

fn diff(store: &Arc<Store>, connection: &Connection, id: FileSetId, host: &HostName) -> (Compared, Vec<Difference>) {
    let mut compared = Compared { host: host.clone(), objects: 0, bytes: 0, differences: 0, error: None };
    let mut found = Vec::new();
    let session = connection.request(&Request::Manifest { fileset: id });
    let mut data = match session.map(|mut session| (session.data(), session)) {
        Ok((Some(data), session)) => (data, session),
        Ok((None, _)) => return (Compared { error: Some("no data came".into()), ..compared }, found),
        Err(why) => return (Compared { error: Some(why.to_string()), ..compared }, found),
    };
    let mut broken = None;
    let there = std::iter::from_fn(|| match data.0.blocking_recv() {
        Ok(body) => body,
        Err(why) => {
            broken = Some(why.to_string());
            None
        }
    });
    let (bodies, receiver) = std::sync::mpsc::sync_channel(BODIES);
    let walker = store.clone();
    let walk = std::thread::spawn(move || {
        let mut emit = |body: Vec<u8>| bodies.send(body).map_err(|_| Stopped);
        manifest(walker.bottom(), &mut emit).map_err(|why| why.to_string())
    });
    let mut bytes = 0;
    let mut here = ManifestReader::new(receiver.into_iter())
        .inspect(|entry| bytes += entry.as_ref().map_or(0, |entry| entry.size));
    let mut differences = ManifestDiff::new(&mut here, ManifestReader::new(there));
    for difference in differences.by_ref() {
        match difference {
            Ok(difference) => {
                compared.differences += 1;
                if found.len() < VERIFY_DIFFERENCES {
                    found.push(tell(host, difference));
                }
            }
            Err(why) => compared.error = Some(why.to_string()),
        }
    }
    compared.objects = differences.compared();
    compared.bytes = bytes;
    let local = walk.join().unwrap_or_else(|_| Err("reading the local tree was interrupted".into()));
    compared.error = compared.error.or(broken).or(local.err());
    (compared, found)
}

fn tell(host: &HostName, difference: Finding) -> Difference {
    let (path, found, fields) = match difference {
        Finding::OnlyHere(entry) => (entry.path, Found::OnlyHere, vec![]),
        Finding::OnlyThere(entry) => (entry.path, Found::OnlyThere, vec![]),
        Finding::Differs { aspects, here, there } => {
            let fields = aspects.iter().map(|aspect| field(*aspect, &here, &there)).collect();
            (here.path, Found::Differs, fields)
        }
    };
    Difference { host: host.clone(), path: ByteText(path), found, fields }
}

fn field(aspect: Aspect, here: &ManifestEntry, there: &ManifestEntry) -> FieldDifference {
    let (name, show): (&str, fn(&ManifestEntry) -> String) = match aspect {
        Aspect::Kind => ("kind", |e| format!("{:?}", e.kind).to_lowercase()),
        Aspect::Content => ("content", |e| short(&e.content)),
        Aspect::Size => ("size", |e| e.size.to_string()),
        Aspect::Mode => ("mode", |e| format!("{:04o}", e.mode)),
        Aspect::Owner => ("owner", |e| format!("{}:{}", e.uid, e.gid)),
        Aspect::Mtime => ("mtime", |e| format!("{}.{:09}", e.mtime.secs, e.mtime.nanos)),
        Aspect::Xattrs => ("xattrs", |e| short(&e.xattrs)),
        Aspect::Target => ("target", |e| e.target.escape_ascii().to_string()),
        Aspect::Device => ("device", |e| e.rdev.to_string()),
        Aspect::Links => ("links", |e| e.link.as_deref().unwrap_or_default().escape_ascii().to_string()),
        Aspect::Unreadable => {
            ("unreadable", |e| e.errno.map_or_else(String::new, |errno| nix::Error::from_raw(errno).desc().to_owned()))
        }
    };
    FieldDifference { field: name.to_owned(), here: show(here), there: show(there) }
}

/// The beginning of a hash, enough to tell two apart.
fn short(hash: &[u8; 32]) -> String {
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
