//! Tickets: one word that lets one host into the cluster.

use crate::TicketError;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use protocol::HostId;
use std::{
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

const PREFIX: &str = "imz1-";
const FIXED: usize = 4 + 32 + 32 + 8;
const CHECKSUM: usize = 4;
const ADDRESS_MAX: usize = 255;

/// An invitation. Its text form is `imz1-` and the base64url of: inviter's host id (u32 LE), BLAKE3 of the authority's
/// certificate (32), secret (32), expiry (seconds since 1970, u64 LE), the inviter's address, the first 4 bytes of the
/// BLAKE3 of all before. Whoever has the text can join, so it is shown once and not logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The host that made it.
    pub inviter: HostId,
    /// Where that host listens.
    pub address: String,
    /// Seconds since 1970.
    pub expires: u64,
    pub(crate) authority: [u8; 32],
    pub(crate) secret: [u8; 32],
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket of host {} at {}, expires {}", self.inviter, self.address, self.expires)
    }
}

impl Ticket {
    /// Whether its time is over by this host's clock.
    ///
    /// # Errors
    /// [`TicketError::Expired`] says how long ago.
    pub fn check_time(&self) -> Result<(), TicketError> {
        let now = unix_now();
        if now >= self.expires { Err(TicketError::Expired(now - self.expires)) } else { Ok(()) }
    }

    /// What the inviter keeps of the secret.
    pub(crate) fn secret_hash(secret: &[u8]) -> String {
        blake3::hash(secret).to_hex().to_string()
    }
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut out = [0; CHECKSUM];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM]);
    out
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(FIXED + self.address.len() + CHECKSUM);
        bytes.extend_from_slice(&self.inviter.get().to_le_bytes());
        bytes.extend_from_slice(&self.authority);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.expires.to_le_bytes());
        bytes.extend_from_slice(self.address.as_bytes());
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let Some(word) = text.strip_prefix(PREFIX) else {
            let newer = text.strip_prefix("imz").is_some_and(|t| t.starts_with(|c: char| c.is_ascii_digit()));
            return Err(if newer { TicketError::Newer } else { TicketError::NotATicket });
        };
        let bytes = URL_SAFE_NO_PAD.decode(word).map_err(|_| TicketError::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TicketError::Damaged)?;
        if checksum(body) != *sum || body.len() <= FIXED || body.len() > FIXED + ADDRESS_MAX {
            return Err(TicketError::Damaged);
        }
        let mut rest = body;
        let inviter = HostId::new(u32::from_le_bytes(take(&mut rest)?)).map_err(|_| TicketError::Damaged)?;
        let authority = take(&mut rest)?;
        let secret = take(&mut rest)?;
        let expires = u64::from_le_bytes(take(&mut rest)?);
        let address = String::from_utf8(rest.to_vec()).map_err(|_| TicketError::Damaged)?;
        Ok(Self { inviter, address, expires, authority, secret })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], TicketError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(TicketError::Damaged)?;
    *bytes = rest;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticket(address: &str) -> Ticket {
        Ticket {
            inviter: HostId::new(1).expect("1 is not 0"),
            address: address.to_owned(),
            expires: unix_now() + 10,
            authority: [7; 32],
            secret: [9; 32],
        }
    }

    #[test]
    fn a_ticket_is_one_word_and_reads_back() {
        let ticket = ticket("[fe80::1]:7400");
        let text = ticket.to_string();
        assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{text}");
        assert_eq!(text.parse(), Ok(ticket.clone()));
        assert_eq!(format!(" {text}\n").parse(), Ok(ticket));
    }

    #[test]
    fn what_is_no_ticket_says_why() {
        assert_eq!("hello".parse::<Ticket>(), Err(TicketError::NotATicket));
        assert_eq!("imz2-abc".parse::<Ticket>(), Err(TicketError::Newer));
        let text = ticket("a:1").to_string();
        assert_eq!(text[..text.len() - 1].parse::<Ticket>(), Err(TicketError::Damaged));
        assert_eq!("imz1-".parse::<Ticket>(), Err(TicketError::Damaged));
    }

    #[test]
    fn the_joiner_notices_that_it_is_late() {
        let mut late = ticket("a:1");
        late.expires = unix_now() - 5;
        assert!(matches!(late.check_time(), Err(TicketError::Expired(5..=8))));
        assert_eq!(ticket("a:1").check_time(), Ok(()));
    }

    proptest! {
        #[test]
        fn a_changed_letter_is_noticed(at in 5_usize..100, letter in "[A-Za-z0-9_-]") {
            let text = ticket("10.0.0.1:7400").to_string();
            let at = at.min(text.len() - 1);
            let mut changed = text.clone();
            changed.replace_range(at..=at, &letter);
            prop_assume!(changed != text);
            prop_assert_eq!(changed.parse::<Ticket>(), Err(TicketError::Damaged));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Ticket>();
            let _ = format!("imz1-{text}").parse::<Ticket>();
        }
    }
}
