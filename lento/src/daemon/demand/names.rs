//! FetchDir: the names in one directory.

use super::{Fetch, Outcome, errno_of};
use crate::daemon::input::Input;
use lento_net::Connection;
use lento_store::{CommitError, Store};
use lento_transfer::{CompareOptions, Comparer, TransferError};
use protocol::{Downcall, FileSetId, HostId, ObjectId, Position, Reply, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Listings of a directory that changes meanwhile, before it is tried again later.
const LISTINGS: u32 = 8;

/// What became of one listing.
enum Listed {
    /// Its names are here.
    Here,
    /// Records came meanwhile that say more.
    Overtaken,
    /// The holder has the directory no more.
    Gone,
}

impl Fetch {
    /// FetchDir.
    pub(super) fn names(&self, directory: ObjectId) -> anyhow::Result<Outcome> {
        for _ in 0..LISTINGS {
            while !self.store.begin_listing(directory) {
                std::thread::sleep(Duration::from_millis(2));
            }
            match self.store.is_absent(directory) {
                Ok(true) => {}
                other => {
                    self.store.give_up_listing(directory);
                    return Ok(Outcome::Answer(other.err().map_or(0, |why| errno_of(&why))));
                }
            }
            match self.listing(directory) {
                Ok(Listed::Here) => {
                    if let Some(brought) = self.store.end_listing(directory)? {
                        self.brought(&[brought]);
                        return Ok(Outcome::Answer(0));
                    }
                }
                Ok(Listed::Overtaken) => self.store.give_up_listing(directory),
                Ok(Listed::Gone) => {
                    self.store.give_up_listing(directory);
                    return self.await_removal(directory);
                }
                Err(why) => {
                    self.store.give_up_listing(directory);
                    return Err(why);
                }
            }
        }
        Ok(Outcome::Later)
    }

    /// Lists a directory once and brings its names here.
    fn listing(&self, root: ObjectId) -> anyhow::Result<Listed> {
        let (bodies, after) = self.list(root)?;
        if bodies.is_empty() {
            return Ok(Listed::Gone);
        }
        let options = CompareOptions { names_only: Some(after), ..CompareOptions::default() };
        let mut comparer = Comparer::new(self.store.clone(), root, self.holder, options);
        let taken = bodies.iter().try_for_each(|body| comparer.take(body));
        let report = match taken.and_then(|()| comparer.finish(after)) {
            Err(TransferError::Commit(CommitError::Overtaken(_))) => return Ok(Listed::Overtaken),
            other => other?,
        };
        self.invalidate(report.invalidate);
        Ok(Listed::Here)
    }

    /// Asks for what is in a directory, and where the holder stood before it looked.
    fn list(&self, root: ObjectId) -> anyhow::Result<(Vec<Vec<u8>>, Position)> {
        let mut session = self.connection.request(&Request::List { fileset: self.fileset, root, deep: false })?;
        let mut bodies = Vec::new();
        if let Some(mut data) = session.data() {
            while let Some(body) = data.blocking_recv()? {
                bodies.push(body);
            }
        }
        let after = match tokio::runtime::Handle::current().block_on(session.reply())? {
            Reply::Listed { after } => after,
            Reply::Refused(refusal) => anyhow::bail!(refusal),
            other => anyhow::bail!("a strange answer to a request for a listing: {other:?}"),
        };
        Ok((bodies, after))
    }
}

/// Takes up the holder's position for a client's cache: all names are asked for again when they are used, those in the root
/// at once, as its own attributes come with them.
pub(in crate::daemon) fn forget(
    store: Arc<Store>,
    connection: Connection,
    presto: Option<mpsc::Sender<Downcall>>,
    (fileset, holder): (FileSetId, HostId),
    inputs: mpsc::Sender<Input>,
) -> anyhow::Result<Position> {
    let fetch = Fetch { store, connection, fileset, holder, presto, walks: Arc::default(), inputs, bound: 0 };
    // Of an object that there is not nothing is listed, but where the holder stands is told.
    let nothing = ObjectId::new(fetch.store.config().host, u64::MAX);
    let (_, after) = fetch.list(nothing)?;
    fetch.store.forget_names()?;
    fetch.store.set_applied(holder, after)?;
    if let Some(presto) = &fetch.presto {
        let _ = presto.blocking_send(Downcall::InvalidateAll { token: 0 });
    }
    match fetch.names(ObjectId::ROOT)? {
        Outcome::Answer(0) => Ok(after),
        _ => anyhow::bail!("the root of the file set could not be listed"),
    }
}
