//! Peers that were turned away: classified, logged and counted.

use rustls::{CertificateError, Error as Tls, PeerIncompatible};
use std::{collections::BTreeMap, io, net::SocketAddr, sync::Mutex};

/// Why a peer was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalKind {
    /// It does not speak TLS.
    NotTls,
    /// It speaks no TLS that is new enough, or none of its algorithms.
    OldTls,
    /// It has no certificate, and did not ask to join.
    NoCertificate,
    /// Its certificate is not of this cluster.
    ForeignCertificate,
    /// Its certificate has expired, or is not valid yet, by this host's clock.
    Expired,
    /// Its certificate is unfit otherwise.
    BadCertificate,
    /// It sent what the protocol does not allow.
    Protocol,
    /// Its version of the protocol is too old or too new.
    Version,
    /// It did not finish its handshake in time.
    Silent,
    /// It went away during its handshake.
    Lost,
    /// Too many handshakes were under way, and its was the oldest.
    Crowded,
    /// It has too many connections.
    TooManyConnections,
    /// Its ticket was not good.
    Ticket,
}

/// Counts of refused peers since the network was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    /// All of them.
    pub total: u64,
    /// By reason.
    pub by_kind: BTreeMap<RefusalKind, u64>,
    /// The last one, for people.
    pub last: Option<(std::time::Instant, String)>,
}

/// One refusal.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) kind: RefusalKind,
    pub(crate) why: String,
}

impl Refused {
    pub(crate) fn new(kind: RefusalKind, why: impl ToString) -> Self {
        Self { kind, why: why.to_string() }
    }
}

impl From<io::Error> for Refused {
    fn from(why: io::Error) -> Self {
        let kind = match why.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
            Some(tls) => classify(tls),
            None => match why.kind() {
                io::ErrorKind::InvalidData => RefusalKind::Protocol,
                io::ErrorKind::TimedOut => RefusalKind::Silent,
                _ => RefusalKind::Lost,
            },
        };
        Self::new(kind, why)
    }
}

fn classify(error: &Tls) -> RefusalKind {
    match error {
        Tls::InvalidMessage(_) => RefusalKind::NotTls,
        Tls::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon)
        | Tls::NoCertificatesPresented => RefusalKind::NoCertificate,
        Tls::PeerIncompatible(_) => RefusalKind::OldTls,
        Tls::InvalidCertificate(why) => match why {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => RefusalKind::Expired,
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. } => RefusalKind::ForeignCertificate,
            _ => RefusalKind::BadCertificate,
        },
        _ => RefusalKind::Protocol,
    }
}

/// Where refusals are counted.
#[derive(Debug, Default)]
pub(crate) struct Counter(Mutex<Refusals>);

impl Counter {
    /// Logs and counts one.
    pub(crate) fn note(&self, address: SocketAddr, refused: &Refused) {
        let Refused { kind, why } = refused;
        tracing::warn!(%address, ?kind, why, "peer refused");
        let mut refusals = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        refusals.total += 1;
        *refusals.by_kind.entry(*kind).or_default() += 1;
        refusals.last = Some((std::time::Instant::now(), format!("{address}: {why}")));
    }

    pub(crate) fn get(&self) -> Refusals {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}
