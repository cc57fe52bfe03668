//! [`Receiver`]: asks for contents in rounds, and takes the answers.

use super::{
    offer::{Ask, Offer},
    part::{Inflate, Part, PartError},
    staging::{self, Growing, LARGE, OldHash},
};
use crate::{
    error::{Fault, TransferError},
    wire::Item,
};
use lento_store::{StagedFile, Store};
use nix::errno::Errno;
use protocol::{Coding, Have, ObjectId, Position, Settled, Wanted, limits};
use std::{
    collections::{HashMap, VecDeque},
    os::fd::BorrowedFd,
    sync::Arc,
};

/// What became of one object whose content was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// It is here, verified, and durable unless that was left.
    Staged {
        /// Which version it is.
        as_of: Position,
        /// The file in the staging directory; whoever takes it commits or deletes it.
        file: StagedFile,
    },
    /// The version that is here has the same bytes; only a receiver for a comparison says so.
    Same {
        /// Which version of the source's it is.
        as_of: Position,
    },
    /// It is being changed at the source: a record that stores it will come.
    Changed,
    /// It is gone at the source: a record that removes it will come.
    Gone,
    /// It could not be written here: errno (`ENOSPC` when the disk is full).
    FailedHere(i32),
    /// It could not be read at the source: errno.
    FailedThere(i32),
    /// The transfer ended before its turn.
    Interrupted,
}

/// Up to this many files are made durable one by one; more with the whole file system.
const FSYNC_FILES: usize = 8;
/// Bytes that a request's list may take, so that it fits a packet with what is around it.
const ROUND_BYTES: usize = limits::PACKET_BODY_BYTES - 16 * 1024;
/// A file is appended to in place if what is added is at most one part in so many of what is there.
const APPENDED_PART: u64 = 4;
const MORE_THAN_NOTHING: PartError = PartError::Misbehaved("it sent bytes of a file that is the same");
/// What one wanted object takes at most in a request, but for a signature.
const WANTED_BYTES: usize = 64;

/// Receives the content of a list of objects.
///
/// Order of calls: [`Receiver::next_round`]; send a request with what it returns; [`Receiver::take`] for the body of each
/// data packet; again from the beginning until it returns nothing; then [`Receiver::finish`], which may also be called
/// in the middle when a connection is lost. What was received of a large file until then is kept, and another `Receiver`
/// goes on from there.
pub struct Receiver {
    pub(super) store: Arc<Store>,
    slots: Vec<Slot>,
    /// What is still to be asked for.
    queue: VecDeque<(usize, Ask)>,
    /// What was asked for in this round, and how many of it were answered.
    pub(super) round: Vec<(usize, Offer)>,
    answered: usize,
    open: Option<Open>,
    inflate: Inflate,
    bytes: u64,
    /// Whether what is here is offered however small it is, and not copied if it is the same.
    pub(super) comparing: bool,
    /// Objects of which nothing is here, as they will be.
    pub(super) new: HashMap<ObjectId, Settled>,
    /// Whether what was received is synced.
    sync: bool,
    /// Whether hashes that were remembered are believed.
    pub(super) remembers: bool,
}

struct Slot {
    id: ObjectId,
    result: Option<Fetched>,
}

/// The large file that is being received.
struct Open {
    state: State,
    /// Whether it is made of what is here, too: a wrong hash is not the peer's fault then.
    mixed: bool,
    /// Where it begins, if it is to be appended to what is here.
    start: u64,
}

enum State {
    Writing(Growing, Box<Part>),
    /// Nothing is to come: what is here, with this hash, is the same.
    Same([u8; 32]),
    /// The rest of its items is ignored; what becomes of it.
    Draining(Result<Fetched, Ask>),
}

impl Receiver {
    /// For the content of `ids`, regular files.
    pub fn new(store: Arc<Store>, ids: Vec<ObjectId>) -> Self {
        Self {
            store,
            queue: (0..ids.len()).map(|slot| (slot, Ask::First)).collect(),
            slots: ids.into_iter().map(|id| Slot { id, result: None }).collect(),
            round: Vec::new(),
            answered: 0,
            open: None,
            inflate: Inflate::default(),
            bytes: 0,
            comparing: false,
            new: HashMap::new(),
            sync: true,
            remembers: true,
        }
    }

    /// Objects of which nothing is here: nothing is looked for, and small ones get all that is said of them with their
    /// content, so that they need but their name.
    pub fn expect_new(mut self, new: HashMap<ObjectId, Settled>) -> Self {
        self.new = new;
        self
    }

    /// Leaves what it receives without a sync: for [`Store::begin_copy`].
    pub fn without_sync(mut self) -> Self {
        self.sync = false;
        self
    }

    /// Reads what is here, even if its hash was remembered: for [`Store::copy_was_lost`].
    pub fn without_memory(mut self) -> Self {
        self.remembers = false;
        self
    }

    /// As [`Receiver::new`], but what is here may well be the same, and is not received again then:
    /// [`Fetched::Same`].
    pub fn for_comparison(store: Arc<Store>, ids: Vec<ObjectId>) -> Self {
        let mut receiver = Self::new(store, ids);
        receiver.comparing = true;
        receiver
    }

    /// Bytes of content that were received or found here so far, for showing progress.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What to ask for next, in one request; `None` when all was answered. It fits a packet.
    ///
    /// # Errors
    /// [`TransferError::Unasked`] if the peer ended the data of the last round before it had answered everything.
    pub fn next_round(&mut self) -> Result<Option<Vec<Wanted>>, TransferError> {
        if self.answered < self.round.len() {
            return Err(TransferError::Unasked("it ended the data before it had answered for every object"));
        }
        self.round.clear();
        self.answered = 0;
        let (mut wanted, mut room) = (Vec::new(), ROUND_BYTES);
        while wanted.len() < limits::FETCH_OBJECTS && room >= WANTED_BYTES {
            let Some((slot, ask)) = self.queue.pop_front() else { break };
            let id = self.slots[slot].id;
            let Some((have, offer)) = self.offer(id, ask, room - WANTED_BYTES) else {
                if wanted.is_empty() {
                    // No signature of it is small enough for any packet.
                    self.queue.push_front((slot, Ask::Whole));
                    continue;
                }
                self.queue.push_front((slot, ask));
                break;
            };
            room -= WANTED_BYTES + if let Have::Signature(bytes) = &have { bytes.len() } else { 0 };
            wanted.push(Wanted { id, have });
            self.round.push((slot, offer));
        }
        Ok(if wanted.is_empty() { None } else { Some(wanted) })
    }

    pub(super) fn staging(&self) -> BorrowedFd<'_> {
        self.store.bottom().staging()
    }

    /// Takes the body of a data packet.
    ///
    /// # Errors
    /// [`TransferError::Protocol`], [`TransferError::Misbehaved`] and [`TransferError::Unasked`] if the peer sent what
    /// it must not: nothing more is to be taken from it. What fails here is told by [`Receiver::finish`].
    pub fn take(&mut self, body: &[u8]) -> Result<(), TransferError> {
        let mut rest = body;
        while let Some((item, tail)) = Item::take_from(rest)? {
            rest = tail;
            let slot = match self.round.get(self.answered) {
                Some((slot, _)) if item.index() as usize == self.answered => *slot,
                Some((slot, _)) => return Err(self.misbehaved(*slot, "it answered out of order")),
                None => return Err(TransferError::Unasked("it sent data that nobody had asked for")),
            };
            match self.item(slot, item) {
                Ok(()) => {}
                Err(PartError::Misbehaved(why)) => return Err(self.misbehaved(slot, why)),
                Err(PartError::WrongHash) => return Err(self.misbehaved(slot, "its bytes are not those it hashed")),
                Err(PartError::Failed(errno)) => {
                    self.close(true);
                    self.open = Some(Open {
                        state: State::Draining(Ok(Fetched::FailedHere(errno as i32))),
                        mixed: false,
                        start: 0,
                    });
                }
            }
        }
        Ok(())
    }

    fn misbehaved(&mut self, slot: usize, why: &'static str) -> TransferError {
        self.close(false);
        TransferError::Misbehaved { id: self.slots[slot].id, why }
    }

    /// Gives up the file that is open; what there is of it is kept if it is large and `keep`.
    fn close(&mut self, keep: bool) {
        if let Some(Open { state: State::Writing(file, part), .. }) = self.open.take() {
            file.give_up(self.staging(), keep && part.len() >= LARGE);
        }
    }

    fn answer(&mut self, slot: usize, result: Fetched) {
        self.slots[slot].result = Some(result);
        self.answered += 1;
    }

    fn again(&mut self, slot: usize, ask: Ask) {
        self.queue.push_back((slot, ask));
        self.answered += 1;
    }

    fn item(&mut self, slot: usize, item: Item<'_>) -> Result<(), PartError> {
        let id = self.slots[slot].id;
        let in_the_middle = self.open.is_some();
        match item {
            Item::Changed { .. } | Item::Gone { .. } | Item::Failed { .. } => {
                self.close(true);
                let result = match item {
                    Item::Changed { .. } => Fetched::Changed,
                    Item::Failed { errno, .. } => Fetched::FailedThere(errno),
                    _ => Fetched::Gone,
                };
                if result == Fetched::Gone {
                    staging::remove_part(self.staging(), id);
                }
                self.answer(slot, result);
                Ok(())
            }
            Item::Small { .. } | Item::Begin { .. } | Item::Differs { .. } if in_the_middle => {
                Err(PartError::Misbehaved("it began another answer before it had ended the last one"))
            }
            Item::Small { bytes, as_of, .. } => {
                let result = match staging::write_small(&self.store, id, bytes, self.new.get(&id)) {
                    Ok((name, ready)) => {
                        self.bytes += bytes.len() as u64;
                        let (size, hash) = (bytes.len() as u64, blake3::hash(bytes).into());
                        Fetched::Staged { as_of, file: StagedFile { name, size, hash, start: 0, ready } }
                    }
                    Err(errno) => Fetched::FailedHere(errno as i32),
                };
                self.answer(slot, result);
                Ok(())
            }
            Item::Begin { size, coding, .. } => self.begin(id, size, coding),
            Item::Differs { .. } => self.differs(slot),
            Item::Chunk { zstd, bytes, .. } => match &mut self.open {
                Some(Open { state: State::Writing(_, part), .. }) => {
                    let before = part.len();
                    part.chunk(self.inflate.chunk(zstd, bytes)?)?;
                    self.bytes += part.len() - before;
                    Ok(())
                }
                Some(Open { state: State::Same(_), .. }) => Err(MORE_THAN_NOTHING),
                Some(_) => Ok(()),
                None => Err(PartError::Misbehaved("it sent bytes of a file that it had not begun")),
            },
            Item::Hole { bytes, .. } => match &mut self.open {
                Some(Open { state: State::Writing(_, part), .. }) => {
                    part.hole(bytes)?;
                    self.bytes += bytes;
                    Ok(())
                }
                Some(Open { state: State::Same(_), .. }) => Err(MORE_THAN_NOTHING),
                Some(_) => Ok(()),
                None => Err(PartError::Misbehaved("it sent a hole of a file that it had not begun")),
            },
            Item::End { hash, as_of, .. } => self.end(slot, &hash, as_of),
        }
    }

    /// The prefix that was offered is not the source's.
    fn differs(&mut self, slot: usize) -> Result<(), PartError> {
        let ask = match std::mem::replace(&mut self.round[self.answered].1, Offer::Nothing) {
            Offer::Part(file, ..) => {
                file.give_up(self.staging(), false);
                Ask::First
            }
            Offer::Old { size, .. } if size >= LARGE => Ask::Signature,
            Offer::Old { .. } => Ask::Whole,
            _ => return Err(PartError::Misbehaved("it says that a prefix differs that was not offered")),
        };
        self.again(slot, ask);
        Ok(())
    }

    fn begin(&mut self, id: ObjectId, size: u64, coding: Coding) -> Result<(), PartError> {
        let offer = std::mem::replace(&mut self.round[self.answered].1, Offer::Nothing);
        let mixed = !matches!(coding, Coding::From(0));
        let fits = match (&offer, coding) {
            (_, Coding::From(0)) => true,
            (Offer::Part(_, offered, _) | Offer::Old { size: offered, .. }, Coding::From(from)) => {
                from == *offered && from <= size
            }
            (Offer::Signature, Coding::Delta) => true,
            _ => false,
        };
        if !fits {
            return Err(PartError::Misbehaved("it goes on from what was not offered"));
        }
        let mut start = 0;
        let begun = match (offer, coding) {
            (Offer::Part(growing, at, hasher), Coding::From(1..)) => {
                let file = growing.file()?;
                self.bytes += at;
                Ok((growing, Part::resume(file, at, *hasher, size)))
            }
            (Offer::Old { known, .. }, Coding::From(from)) if self.comparing && from == size && from > 0 => {
                self.open = Some(Open { state: State::Same(known.hash), mixed: true, start: 0 });
                return Ok(());
            }
            (Offer::Old { known: OldHash { hash, hashed: Some(hashed) }, .. }, Coding::From(from @ 1..))
                if size - from <= from / APPENDED_PART =>
            {
                start = from;
                self.begin_tail(id, (from, size), hashed.wait(&hash))
            }
            (Offer::Old { .. } | Offer::Signature, Coding::Delta | Coding::From(1..)) => {
                self.begin_mixed(id, size, coding)
            }
            (offer, _) => {
                // A part that is not gone on with gives way, and its lock is let go first.
                drop(offer);
                let growing = Growing::create(self.staging(), id)?;
                let file = growing.file()?;
                Ok((growing, Part::resume(file, 0, blake3::Hasher::new(), size)))
            }
        };
        let state = match begun {
            Ok((growing, part)) => State::Writing(growing, Box::new(part)),
            Err(PartError::WrongHash) => State::Draining(Err(Ask::Whole)),
            Err(why) => return Err(why),
        };
        self.open = Some(Open { state, mixed, start });
        Ok(())
    }

    /// Begins what is to be appended to the old version, of which the bytes before are in `hasher`.
    fn begin_tail(
        &mut self,
        id: ObjectId,
        (from, size): (u64, u64),
        hasher: Option<Box<blake3::Hasher>>,
    ) -> Result<(Growing, Part), PartError> {
        let hasher = hasher.ok_or(PartError::WrongHash)?;
        let growing = Growing::fresh(self.staging(), id)?;
        let file = growing.file()?;
        file.set_len(from)?;
        self.bytes += from;
        Ok((growing, Part::resume(file, from, *hasher, size)))
    }

    /// Begins a file that is made of the old version, too.
    fn begin_mixed(&mut self, id: ObjectId, size: u64, coding: Coding) -> Result<(Growing, Part), PartError> {
        let Some((old, _)) = staging::old_version(&self.store, id, 1) else { return Err(PartError::WrongHash) };
        let growing = Growing::create(self.staging(), id)?;
        let file = growing.file()?;
        match coding {
            Coding::Delta => Ok((growing, Part::delta(file, old, size))),
            Coding::From(prefix) => match Part::after(file, old, prefix, size) {
                Ok(part) => {
                    self.bytes += prefix;
                    Ok((growing, part))
                }
                Err(why) => {
                    growing.give_up(self.staging(), false);
                    // A version that became shorter since it was offered.
                    Err(if matches!(why, PartError::Misbehaved(_)) { PartError::WrongHash } else { why })
                }
            },
        }
    }

    fn end(&mut self, slot: usize, hash: &[u8; 32], as_of: Position) -> Result<(), PartError> {
        let Some(Open { state, mixed, start }) = self.open.take() else {
            return Err(PartError::Misbehaved("it ended a file that it had not begun"));
        };
        let (growing, part) = match state {
            State::Writing(growing, part) => (growing, part),
            State::Draining(Ok(result)) => {
                self.answer(slot, result);
                return Ok(());
            }
            State::Draining(Err(ask)) => {
                self.again(slot, ask);
                return Ok(());
            }
            State::Same(here) if here == *hash => {
                self.answer(slot, Fetched::Same { as_of });
                return Ok(());
            }
            State::Same(_) => return Err(PartError::Misbehaved("it says that a file is the same, and another hash")),
        };
        let id = self.slots[slot].id;
        match part.end(hash) {
            Ok(size) => {
                let result = match growing.complete(self.staging(), id) {
                    Ok(name) => {
                        Fetched::Staged { as_of, file: StagedFile { name, size, hash: *hash, start, ready: None } }
                    }
                    Err(errno) => Fetched::FailedHere(errno as i32),
                };
                self.answer(slot, result);
                Ok(())
            }
            Err(PartError::WrongHash) if mixed => {
                growing.give_up(self.staging(), false);
                self.again(slot, Ask::Whole);
                Ok(())
            }
            Err(why) => {
                growing.give_up(self.staging(), false);
                Err(why)
            }
        }
    }

    /// Makes what was received durable, unless that is left to others, and tells what became of every object, in the order of the list.
    pub fn finish(mut self) -> Vec<(ObjectId, Fetched)> {
        self.close(true);
        let mut results: Vec<_> = std::mem::take(&mut self.slots)
            .into_iter()
            .map(|slot| (slot.id, slot.result.unwrap_or(Fetched::Interrupted)))
            .collect();
        if self.sync
            && let Err(errno) = self.make_durable(&results)
        {
            for (id, result) in &mut results {
                if let Fetched::Staged { file, .. } = result {
                    tracing::warn!(%id, %errno, "received content could not be made durable");
                    staging::remove(self.staging(), &file.name);
                    *result = Fetched::FailedHere(errno as i32);
                }
            }
        }
        results
    }

    fn make_durable(&self, results: &[(ObjectId, Fetched)]) -> Result<(), Errno> {
        let staged = || {
            results.iter().filter_map(|(_, result)| match result {
                Fetched::Staged { file, .. } => Some(&file.name),
                _ => None,
            })
        };
        if staged().count() > FSYNC_FILES {
            return self.store.bottom().sync().map_err(|e| Fault::from(e).0);
        }
        staged().try_for_each(|name| staging::sync(self.staging(), name))
    }
}

impl Drop for Receiver {
    /// Complete contents that nobody took are removed; an unfinished large one stays to be resumed.
    fn drop(&mut self) {
        self.close(true);
        for slot in &self.slots {
            if let Some(Fetched::Staged { file, .. }) = &slot.result {
                staging::remove(self.staging(), &file.name);
            }
        }
    }
}
