//! `cluster.json`: the hosts that this one knows and the tickets that it gave. One file, so that a ticket is used and
//! its host admitted in one step, whatever crashes.

use crate::{IdentityError, files, ticket::unix_now};
use protocol::{Grant, HostId, HostName, Refusal};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Tickets are forgotten so long after their expiry; until then "used" and "expired" are told from "wrong".
const REMEMBERED_S: u64 = 30 * 24 * 3600;

/// A host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub host: HostId,
    /// Its name.
    pub name: HostName,
    /// Where it listens, `address:port`.
    pub address: String,
}

/// A ticket as its giver remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketInfo {
    secret_hash: String,
    /// Seconds since 1970.
    pub expires: u64,
    /// The file set that it lets its host replicate.
    pub grant: Option<Grant>,
    /// The host that it admitted, or gave access to the file set.
    pub used_by: Option<HostId>,
    /// Hash of that host's key: it alone may redeem the ticket again, in case the answer was lost.
    key_hash: Option<String>,
}

/// The file's content.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Register {
    /// The id that the next host gets; ids are not reused. 0 where there is no authority.
    pub(crate) next_host: u32,
    pub(crate) members: Vec<Member>,
    pub(crate) tickets: Vec<TicketInfo>,
}

pub(crate) fn path(home: &Path) -> PathBuf {
    home.join("cluster.json")
}

impl Register {
    pub(crate) fn load(home: &Path) -> Result<Self, IdentityError> {
        let path = path(home);
        serde_json::from_slice(&files::read(&path)?).map_err(|why| IdentityError::damaged(&path, why))
    }

    pub(crate) fn store(&self, home: &Path) -> Result<(), IdentityError> {
        let path = path(home);
        let json = serde_json::to_vec_pretty(self).map_err(|why| IdentityError::damaged(&path, why))?;
        files::write(&path, &json)
    }

    /// Reads the file, changes it and writes it back; nobody else does in between.
    pub(crate) fn update<T>(
        home: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, IdentityError>,
    ) -> Result<T, IdentityError> {
        let _lock = files::lock(home)?;
        let mut register = Self::load(home)?;
        let result = change(&mut register)?;
        register.store(home)?;
        Ok(result)
    }

    /// Adds a ticket, and forgets those of long ago.
    pub(crate) fn add_ticket(&mut self, secret_hash: String, expires: u64, grant: Option<Grant>) {
        let now = unix_now();
        self.tickets.retain(|ticket| ticket.expires + REMEMBERED_S > now);
        self.tickets.push(TicketInfo { secret_hash, expires, grant, used_by: None, key_hash: None });
    }

    /// Adds a host, or corrects what is known of it.
    pub(crate) fn put_member(&mut self, member: Member) {
        match self.members.iter_mut().find(|known| known.host == member.host) {
            Some(known) => *known = member,
            None => self.members.push(member),
        }
    }

    /// Uses a ticket for the host with the key `key_hash`: its id, and the ticket's file set. A host that did not get
    /// the answer may ask again with the same key and name.
    pub(crate) fn redeem(
        &mut self,
        secret_hash: &str,
        key_hash: &str,
        name: &HostName,
        address: &str,
    ) -> Result<(HostId, Option<Grant>), Refusal> {
        let ticket = self.tickets.iter_mut().find(|t| t.secret_hash == secret_hash).ok_or(Refusal::TicketWrong)?;
        let taken_by = self.members.iter().find(|member| member.name == *name).map(|member| member.host);
        let host = if let Some(host) = ticket.used_by {
            if ticket.key_hash.as_deref() != Some(key_hash) || taken_by != Some(host) {
                return Err(Refusal::TicketUsed);
            }
            host
        } else {
            if unix_now() >= ticket.expires {
                return Err(Refusal::TicketExpired);
            }
            if taken_by.is_some() {
                return Err(Refusal::NameTaken);
            }
            let host = HostId::new(self.next_host).map_err(|why| Refusal::Failed(why.to_string()))?;
            self.next_host += 1;
            ticket.used_by = Some(host);
            ticket.key_hash = Some(key_hash.to_owned());
            host
        };
        let grant = ticket.grant.clone();
        self.put_member(Member { host, name: name.clone(), address: address.to_owned() });
        Ok((host, grant))
    }

    /// Uses a ticket for a host that is a member already: the ticket's file set. Until the ticket expires, the host may
    /// ask again, in case the answer was lost.
    pub(crate) fn redeem_for_member(
        &mut self,
        secret_hash: &str,
        host: HostId,
    ) -> Result<(Member, Option<Grant>), Refusal> {
        let ticket = self.tickets.iter_mut().find(|t| t.secret_hash == secret_hash).ok_or(Refusal::TicketWrong)?;
        if ticket.used_by.is_some_and(|user| user != host) {
            return Err(Refusal::TicketUsed);
        }
        if unix_now() >= ticket.expires {
            return Err(Refusal::TicketExpired);
        }
        let member = self.members.iter().find(|member| member.host == host).cloned();
        let member =
            member.ok_or_else(|| Refusal::Failed(format!("host {host} is not in that host's list of members")))?;
        ticket.used_by = Some(host);
        Ok((member, ticket.grant.clone()))
    }
}
