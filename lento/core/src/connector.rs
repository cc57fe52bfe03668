//! The Connector daemon session of one peer: when to dial again (paper: "Lento").

use protocol::{HostId, limits};

/// Whether a peer is reached, and what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connector {
    /// The peer dials us.
    Passive {
        /// Whether it is connected.
        up: bool,
    },
    /// We wait before the next attempt.
    Pausing {
        /// When it is made.
        until_ms: u64,
        /// The pause after it, if it fails.
        next_pause_ms: u64,
    },
    /// An attempt is under way.
    Dialling {
        /// The pause after it, if it fails.
        next_pause_ms: u64,
    },
    /// Connected.
    Up,
}

impl Connector {
    /// One that dials at once.
    pub(crate) const fn dialling_from(now_ms: u64) -> Self {
        Self::Pausing { until_ms: now_ms, next_pause_ms: limits::BACKOFF_MIN_MS }
    }

    /// From here on it is we who dial. A connection that stands stays; it is made anew by us when it is lost.
    pub(crate) fn take_over(&mut self, now_ms: u64) {
        *self = match *self {
            Self::Passive { up: true } => Self::Up,
            Self::Passive { up: false } => Self::dialling_from(now_ms),
            dialler => dialler,
        };
    }

    pub(crate) const fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::Passive { up: true })
    }

    pub(crate) fn handle_up(&mut self) {
        *self = match self {
            Self::Passive { .. } => Self::Passive { up: true },
            _ => Self::Up,
        };
    }

    /// The connection, or the attempt, failed. Hosts wait a little differently, so that they do not dial in step.
    pub(crate) fn handle_down(&mut self, now_ms: u64, me: HostId) {
        *self = match *self {
            Self::Passive { .. } => Self::Passive { up: false },
            Self::Up => {
                Self::Pausing { until_ms: now_ms + limits::BACKOFF_MIN_MS, next_pause_ms: limits::BACKOFF_MIN_MS * 2 }
            }
            Self::Dialling { next_pause_ms } => Self::Pausing {
                until_ms: now_ms + next_pause_ms + u64::from(me.get() % 16),
                next_pause_ms: (next_pause_ms * 2).min(limits::BACKOFF_MAX_MS),
            },
            pausing @ Self::Pausing { .. } => pausing,
        };
    }

    /// Whether an attempt is due now; it is then taken to be made.
    pub(crate) fn due(&mut self, now_ms: u64) -> bool {
        match *self {
            Self::Pausing { until_ms, next_pause_ms } if until_ms <= now_ms => {
                *self = Self::Dialling { next_pause_ms };
                true
            }
            _ => false,
        }
    }

    pub(crate) const fn timeout(self) -> Option<u64> {
        match self {
            Self::Pausing { until_ms, .. } => Some(until_ms),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replicator that was connected before it took up its first file set never called again.
    #[test]
    fn who_takes_over_a_standing_connection_dials_when_it_is_lost() {
        let mut connector = Connector::Passive { up: true };
        connector.take_over(5);
        assert!(connector.is_up() && !connector.due(u64::MAX));
        connector.handle_down(10, HostId::new(2).expect("not 0"));
        assert!(connector.due(10 + limits::BACKOFF_MIN_MS));
    }

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew_after_a_connection() {
        let me = HostId::new(16).expect("not 0");
        let mut connector = Connector::dialling_from(0);
        let mut now = 0;
        let mut pauses = vec![];
        for _ in 0..10 {
            assert!(connector.due(now));
            connector.handle_down(now, me);
            let until = connector.timeout().expect("it pauses");
            pauses.push(until - now);
            assert!(!connector.due(until - 1));
            now = until;
        }
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[9], limits::BACKOFF_MAX_MS);
        assert!(connector.due(now));
        connector.handle_up();
        connector.handle_down(now, me);
        assert_eq!(connector.timeout(), Some(now + limits::BACKOFF_MIN_MS));
    }
}
