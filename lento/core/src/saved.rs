//! What the mind keeps through a restart of Lento.

use protocol::HostId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the form in which [`Saved`] is kept: its first byte.
const VERSION: u8 = 1;

/// What was kept cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SavedError {
    /// Another version of the program kept it.
    #[error(
        "the saved state of the file set is of version {0}, and this program knows version {VERSION} only: run the version that wrote it, or a newer one"
    )]
    Version(u8),
    /// It is empty, or not what its version says.
    #[error("the saved state of the file set is damaged: {0}; remove the file set here, and replicate it again")]
    Damaged(String),
}

/// The durable state of one file set. Positions are not in it: they are with the index, which advances them together
/// with the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The server with the authoritative copy.
    pub holder: HostId,
    /// The others that store it; known to the holder.
    pub replicators: BTreeSet<HostId>,
    /// Those of them that only cache what they use.
    pub clients: BTreeSet<HostId>,
    /// At the holder: hosts that lost the permit while they were away and do not know it, and its epoch.
    pub lost: BTreeMap<HostId, u64>,
    /// At a client: the last epoch of which the permit was taken from it, once it has the holder's tree.
    pub gave_up: Option<u64>,
    /// The highest permit epoch that this host has given or was given.
    pub epoch: u64,
    /// At the holder: who has the permit.
    pub owner: HostId,
    /// The epoch of the permit, if it is here.
    pub mine: Option<u64>,
    /// Counts recoveries from a loss of power.
    pub incarnation: u64,
    /// The last loss of power that was counted, by the number of the last record that survived it.
    pub lost_after: Option<u64>,
    /// At a replicator: the incarnations, the holder's and its own, with which its tree was last in step.
    pub in_step: Option<(u64, u64)>,
}

impl Saved {
    /// The form in which it is kept: a byte for the version, then postcard.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SavedError> {
        postcard::to_extend(self, vec![VERSION]).map_err(|why| SavedError::Damaged(why.to_string()))
    }

    /// Reads what [`Saved::to_bytes`] made.
    ///
    /// # Errors
    /// [`SavedError`] says whether it is of another version or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SavedError> {
        match bytes.split_first() {
            None => Err(SavedError::Damaged("it is empty".into())),
            Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
                Ok((saved, [])) => Ok(saved),
                Ok((_, rest)) => Err(SavedError::Damaged(format!("{} bytes follow its end", rest.len()))),
                Err(why) => Err(SavedError::Damaged(why.to_string())),
            },
            Some((&other, _)) => Err(SavedError::Version(other)),
        }
    }

    /// A new file set, held by `holder`, which has the permit.
    pub fn held_by(holder: HostId, me: HostId) -> Self {
        let epoch = if holder == me { 1 } else { 0 };
        Self {
            holder,
            replicators: BTreeSet::new(),
            clients: BTreeSet::new(),
            lost: BTreeMap::new(),
            gave_up: None,
            epoch,
            owner: holder,
            mine: (holder == me).then_some(epoch),
            incarnation: 1,
            lost_after: None,
            in_step: None,
        }
    }

    /// The index of host `me` was made anew, and what it said of other copies is gone: the trees are to be compared.
    pub fn forget_index(&mut self, me: HostId) {
        self.in_step = None;
        if self.holder == me {
            self.incarnation += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Saved, SavedError};
    use protocol::HostId;

    fn saved() -> Saved {
        let host = |id| HostId::new(id).expect("not 0");
        Saved { in_step: Some((1, 2)), ..Saved::held_by(host(1), host(2)) }
    }

    #[test]
    fn what_is_kept_begins_with_its_version_and_reads_back() {
        let bytes = saved().to_bytes().expect("it encodes");
        // Version, holder, no replicators, clients, losers, nothing given up, epoch, owner, no permit, incarnation, no loss,
        // in step with (1, 2).
        assert_eq!(bytes, [1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 1, 2]);
        assert_eq!(Saved::from_bytes(&bytes), Ok(saved()));
    }

    #[test]
    fn another_version_is_refused_and_named() {
        let mut bytes = saved().to_bytes().expect("it encodes");
        bytes[0] = 9;
        let why = Saved::from_bytes(&bytes).expect_err("nobody knows version 9");
        assert_eq!(why, SavedError::Version(9));
        assert!(why.to_string().contains("version 9"), "{why}");
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_damaged() {
        let bytes = saved().to_bytes().expect("it encodes");
        for end in 0..bytes.len() {
            assert!(matches!(Saved::from_bytes(&bytes[..end]), Err(SavedError::Damaged(_))), "{end}");
        }
        let long = [&bytes[..], &[0]].concat();
        assert!(matches!(Saved::from_bytes(&long), Err(SavedError::Damaged(_))));
    }
}
