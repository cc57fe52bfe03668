//! How an object is asked for: what of it is here already.

use super::{
    round::Receiver,
    staging::{self, Growing, LARGE, OldHash},
};
use crate::{delta, io::hash_prefix};
use protocol::{Have, ObjectId};

/// How an object is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// With whatever is here.
    First,
    /// With a signature of the version that is here.
    Signature,
    /// Whole.
    Whole,
}

/// What the peer was told that is here.
pub(super) enum Offer {
    Nothing,
    /// An interrupted transfer, its length and the hash of it so far.
    Part(Growing, u64, Box<blake3::Hasher>),
    /// The first bytes of the old version: all of it.
    Old {
        size: u64,
        known: OldHash,
    },
    Signature,
}

impl Receiver {
    /// How to ask for one object; `None` if that takes more than `room` bytes.
    pub(super) fn offer(&self, id: ObjectId, ask: Ask, room: usize) -> Option<(Have, Offer)> {
        let nothing = Some((Have::Nothing, Offer::Nothing));
        let new = self.new.get(&id).map(|settled| settled.attr.size);
        if new.is_some_and(|size| size < LARGE) {
            return nothing;
        }
        if ask == Ask::First
            && let Ok(Some((part, size))) = Growing::resumable(self.staging(), id)
        {
            let mut hasher = Box::new(blake3::Hasher::new());
            if part.file().is_ok_and(|file| hash_prefix(&file, size, &mut hasher).unwrap_or(false)) {
                let hash = hasher.finalize().into();
                return Some((Have::Prefix { size, hash }, Offer::Part(part, size, hasher)));
            }
            part.give_up(self.staging(), false);
        }
        if ask == Ask::Whole || new.is_some() {
            return nothing;
        }
        let least = if self.comparing { 1 } else { LARGE };
        let Some((old, mtime)) = staging::old_version(&self.store, id, least) else { return nothing };
        if ask == Ask::First {
            let size = old.size;
            let is_running = |offer: &Offer| matches!(offer, Offer::Old { known, .. } if known.hashed.is_some());
            let in_background = !self.round.iter().any(|(_, offer)| is_running(offer));
            return match staging::hash_of_old(&self.store, id, old, mtime, (in_background, self.remembers)) {
                Some(known) => Some((Have::Prefix { size, hash: known.hash }, Offer::Old { size, known })),
                None => nothing,
            };
        }
        if delta::signature_bytes(old.size)? > room {
            return None;
        }
        match delta::signature(&old.file, old.size) {
            Ok(Some(signature)) => Some((Have::Signature(signature), Offer::Signature)),
            _ => nothing,
        }
    }
}
