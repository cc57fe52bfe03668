//! Brings a tree to that of a peer: initial copies, replicas that were away too long, recovery after a loss of power.
//!
//! What is to be changed is committed as repair shipments ([`lento_store::Store::commit`]), which may be repeated: a
//! comparison that was interrupted at any point is simply run again.

mod aside;
mod batch;
mod contents;
mod entries;
mod finish;
mod local;

use crate::error::TransferError;
use batch::Batch;
use lento_store::{Invalidation, Store};
use local::Local;
use protocol::{HostId, Listing, Name, ObjectId, Op, Position, Settled, Timestamp};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Records that are committed at once while a listing arrives.
const BATCH_RECORDS: usize = 2048;

/// How a comparison treats what only this host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompareOptions {
    /// Keep every content that is replaced or removed in `.intermezzo/conflicts`, not only those that this host changed
    /// without the source knowing it.
    pub keep_losers: bool,
    /// Believe of no content that it is what the index says, as a copy was lost before it was synced.
    pub distrust: bool,
    /// For a client's cache (FetchDir): what is in one directory is listed, and only that; contents are not wanted, and
    /// what is in directories is not either. The source stood here when it began to list, and
    /// [`Store::begin_listing`] was called before it was asked.
    pub names_only: Option<Position>,
}

/// How far a comparison is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Objects listed so far.
    pub listed: u64,
    /// Whether that is all.
    pub listed_all: bool,
    /// Files whose content was found to be needed so far, and their bytes.
    pub wanted: (u64, u64),
    /// Those of them that are in place, and their bytes.
    pub done: (u64, u64),
}

/// What a comparison did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompareReport {
    /// Objects that were made.
    pub created: u64,
    /// Names that were removed.
    pub removed: u64,
    /// Objects that were here under another name.
    pub moved: u64,
    /// Objects that were here without identity, or with another one.
    pub adopted: u64,
    /// Contents that were fetched.
    pub fetched: u64,
    /// Contents that were found to be the same.
    pub same: u64,
    /// Names in `.intermezzo/conflicts` of contents that were kept aside.
    pub kept: Vec<Name>,
    /// Contents that are being changed at the source: a record in its log after the listing stores them.
    pub changing: u64,
    /// Contents that could not be had, with errno (0: the transfer was interrupted). If there are any, the position was
    /// not recorded, and the comparison must be run again.
    pub failed: Vec<(ObjectId, i32)>,
    /// What the kernel must forget, if the file set is mounted.
    pub invalidate: Invalidation,
}

/// Compares a tree with that of a peer, and makes it the same.
///
/// Order of calls: [`Comparer::take`] for the body of each data packet of the listing. At any time between them, and
/// after the last one: [`Comparer::take_wanted`], fetch these with [`crate::Receiver::for_comparison`], and give what it
/// fetched to [`Comparer::content`]. When the listing has ended and nothing is wanted any more: [`Comparer::finish`].
pub struct Comparer {
    store: Arc<Store>,
    root: ObjectId,
    source: HostId,
    options: CompareOptions,
    progress: Progress,
    report: CompareReport,
    /// Whether there was nothing here at the beginning: no object is here unless it was listed before.
    fresh: bool,
    /// Every object that the source has.
    listed: HashSet<ObjectId>,
    /// Every directory that the source has.
    directories: HashMap<ObjectId, Directory>,
    /// How many of them have entries that are still to be listed.
    open: usize,
    /// Files whose content is needed.
    awaited: HashMap<ObjectId, Awaited>,
    wanted: Vec<ObjectId>,
    batch: Batch,
    /// What must wait until all is listed, since something else is in its place that may be needed elsewhere.
    deferred: Vec<Deferred>,
    /// Names that something else has.
    in_the_way: Vec<(ObjectId, Name)>,
    /// Contents that came before their place was free.
    held: HashMap<ObjectId, contents::Arrived>,
    /// Entries that the source does not have.
    extras: Vec<(ObjectId, Name)>,
}

/// A directory of the source.
struct Directory {
    settled: Settled,
    state: Entries,
    /// Whether it, or one above it, comes to its place only at the end: directories must not be moved into it before, as
    /// it may be below them now.
    late: bool,
}

/// The entries of a directory here.
enum Entries {
    /// It is being made and has none.
    New,
    /// It is not here yet, and will be made at the end.
    Deferred,
    /// Not read yet.
    Unread,
    /// Those that were not listed so far.
    Read(HashMap<Name, Local>),
    /// All was listed.
    Done,
}

/// A file whose content is needed.
struct Awaited {
    settled: Settled,
    /// Whether an older version of it is here; else `places` are its names, of which the first is to be made.
    exists: bool,
    places: Vec<(ObjectId, Name)>,
    deferred: bool,
}

/// What is done at the end.
enum Deferred {
    Op(Box<(Op, Settled)>),
    /// A file is made, if its content came.
    Content(ObjectId),
}

impl Comparer {
    /// Of what is below `root` with the tree of `source`. A root that is missing here is made in `.intermezzo/limbo`, from
    /// where the record that presupposes it gives it a name.
    pub fn new(store: Arc<Store>, root: ObjectId, source: HostId, options: CompareOptions) -> Self {
        Self {
            fresh: store.is_empty().unwrap_or(false),
            store,
            root,
            source,
            options,
            progress: Progress::default(),
            report: CompareReport::default(),
            listed: HashSet::new(),
            directories: HashMap::new(),
            open: 0,
            awaited: HashMap::new(),
            wanted: Vec::new(),
            batch: Batch::default(),
            deferred: Vec::new(),
            in_the_way: Vec::new(),
            held: HashMap::new(),
            extras: Vec::new(),
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Takes the body of a data packet of the source's listing.
    ///
    /// # Errors
    /// [`TransferError::Protocol`] and [`TransferError::Misbehaved`] if the peer sent what it must not;
    /// [`TransferError::Commit`] if what it says cannot be brought about here.
    pub fn take(&mut self, body: &[u8]) -> Result<(), TransferError> {
        let mut rest = body;
        while let Some((listing, tail)) = Listing::take_from(rest)? {
            rest = tail;
            self.listing(listing)?;
            if self.batch.len() >= BATCH_RECORDS {
                self.flush()?;
            }
        }
        self.flush()
    }

    /// The files whose content was found to be needed since this was last asked.
    pub fn take_wanted(&mut self) -> Vec<ObjectId> {
        std::mem::take(&mut self.wanted)
    }

    /// What is awaited of a file: its bytes, and the object if nothing of it is here yet.
    pub fn awaited(&self, id: ObjectId) -> Option<(u64, Option<&Settled>)> {
        let awaited = self.awaited.get(&id)?;
        Some((awaited.settled.attr.size, (!awaited.exists).then_some(&awaited.settled)))
    }

    /// Adds an operation to what is committed next; its directories keep the time that the source says they have.
    fn push(&mut self, at: Position, op: Op, settled: &[&Settled]) {
        let parents = op.parents().into_iter().flatten().filter_map(|id| self.directories.get(&id));
        let touched = parents.map(|directory| &directory.settled).chain(settled.iter().copied());
        self.batch.push(at, op, touched);
    }

    /// Gives an object the attributes that it has at the source.
    fn touch(&mut self, settled: &Settled) {
        let op = Op::Setattr { id: settled.id, change: Default::default(), before: Default::default() };
        self.batch.push(self.at(), op, [settled]);
    }

    /// Where records stand that are made of a listing.
    fn at(&self) -> Position {
        self.options.names_only.unwrap_or(Position::START)
    }

    /// Commits what was collected.
    fn flush(&mut self) -> Result<(), TransferError> {
        if self.batch.len() == 0 {
            return Ok(());
        }
        let fileset = self.store.config().fileset;
        let (shipments, staged) = std::mem::take(&mut self.batch).into_shipments(fileset, self.source);
        let committed = if self.options.names_only.is_some() {
            self.store.commit_listing(self.root, &shipments)?
        } else {
            self.store.commit(&shipments, &staged)?
        };
        self.report.invalidate.entries.extend(committed.invalidate.entries);
        self.report.invalidate.objects.extend(committed.invalidate.objects);
        self.report.invalidate.replaced.extend(committed.invalidate.replaced);
        Ok(())
    }

    fn misbehaved(&self, id: ObjectId, why: &'static str) -> TransferError {
        TransferError::Misbehaved { id, why }
    }
}

/// The time of modification of a file whose content is to come with a later record: no listing says that it is current.
const NEVER: Timestamp = Timestamp { secs: 0, nanos: 0 };
