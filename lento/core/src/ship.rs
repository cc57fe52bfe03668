//! Sending history to one peer: reintegration on the way to the holder, update notification on the way from it
//! (paper: "Protocols"; the same code).

use protocol::{Position, limits};
use std::collections::VecDeque;

/// What is sent to one peer, and what it said of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ship {
    state: State,
    /// Ends of the shipments that are not acknowledged, in order.
    in_flight: VecDeque<Position>,
    /// The end of the history when it was last read, and which read that was: an answer to an earlier one, though from
    /// the same position, knows less.
    end: Position,
    read: u64,
    /// What the peer allowed beyond the usual window, to get unstuck.
    extra: usize,
    /// All up to here is visible at the peer.
    pub(crate) acked: Position,
    /// All up to here survives a loss of power at the peer.
    pub(crate) durable: Position,
    /// The peer's own word for why it does not go on; empty if it does.
    pub(crate) stalled: String,
    /// Whether that is because the history could not be read here.
    failing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Not connected, or not in step: nothing is sent.
    #[default]
    Closed,
    /// All was sent up to `sent`; more may be there.
    Open { sent: Position },
    /// The history after `sent` is being read; `again` if it grew meanwhile.
    Reading { sent: Position, again: bool },
    /// All was sent, and there was no more.
    Idle { sent: Position },
}

impl Ship {
    /// The peer stands at `from` and can take what follows.
    pub(crate) fn open(&mut self, from: Position) {
        self.in_flight.clear();
        self.extra = 0;
        self.stalled.clear();
        self.acked = from;
        self.state = State::Open { sent: from };
    }

    pub(crate) fn close(&mut self) {
        self.in_flight.clear();
        self.state = State::Closed;
    }

    /// The end of what was sent.
    pub(crate) fn sent(&self) -> Position {
        match self.state {
            State::Closed => Position::START,
            State::Open { sent } | State::Reading { sent, .. } | State::Idle { sent } => sent,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// The history may have grown.
    pub(crate) fn handle_growth(&mut self) {
        self.state = match self.state {
            State::Idle { sent } => State::Open { sent },
            State::Reading { sent, .. } => State::Reading { sent, again: true },
            other => other,
        };
    }

    /// Where to read next, if something is to be read now; it is then taken to be read. `end` is where the history ends
    /// now, with what the peer wrote itself and what is therefore not kept for it.
    pub(crate) fn poll_read(&mut self, end: Position) -> Option<(Position, u64)> {
        match self.state {
            State::Open { sent } if self.in_flight.len() < limits::SHIPMENTS_IN_FLIGHT + self.extra => {
                self.state = State::Reading { sent, again: false };
                self.end = end;
                self.read += 1;
                Some((sent, self.read))
            }
            _ => None,
        }
    }

    /// A read has ended: whether it is the one that is waited for. Others were begun before the peer began anew.
    pub(crate) fn handle_read(&self, read: u64) -> bool {
        matches!(self.state, State::Reading { .. }) && read == self.read
    }

    /// A shipment up to `upto` was read, and is sent.
    pub(crate) fn handle_shipment(&mut self, upto: Position) {
        self.in_flight.push_back(upto);
        self.state = State::Open { sent: upto };
    }

    /// The read found nothing to send up to `upto`: from where to where an empty shipment tells so, if one is due.
    pub(crate) fn handle_up_to_date(&mut self, upto: Position) -> Option<(Position, Position)> {
        let State::Reading { sent, again } = self.state else { return None };
        let upto = upto.max(self.end);
        let skipped = upto > sent;
        let next = sent.max(upto);
        self.state = if again { State::Open { sent: next } } else { State::Idle { sent: next } };
        if skipped {
            self.in_flight.push_back(next);
        }
        skipped.then_some((sent, next))
    }

    /// The peer needs later records to commit what it has.
    pub(crate) fn handle_ship_more(&mut self) {
        self.extra = (2 * self.extra).clamp(limits::SHIPMENTS_IN_FLIGHT, limits::SHIPMENTS_AHEAD);
    }

    /// The read failed, and whoever reads has paused: it is tried again. Nothing else need happen for it.
    pub(crate) fn handle_read_failed(&mut self, why: String) {
        if let State::Reading { sent, .. } = self.state {
            self.state = State::Open { sent };
        }
        self.failing = true;
        self.stalled = why;
    }

    /// A read succeeded.
    pub(crate) fn handle_read_done(&mut self) {
        if std::mem::take(&mut self.failing) {
            self.stalled.clear();
        }
    }

    /// The peer acknowledged. It may have applied more than was sent on this connection: then that need not be sent.
    /// `end` is where the history ends here. Returns whether what it says is possible.
    pub(crate) fn handle_applied(&mut self, applied: Position, durable: Position, end: Position) -> bool {
        if durable > applied {
            return false;
        }
        // A read of the history may be ahead of what the core was told of its end.
        if applied > end.max(self.sent()) {
            // It has what this host lost with the power: the trees will be compared.
            return true;
        }
        self.state = match self.state {
            State::Open { sent } | State::Idle { sent } if applied > sent => State::Open { sent: applied },
            // The answer to the read does not fit any more, and is dropped.
            State::Reading { sent, .. } if applied > sent => State::Open { sent: applied },
            other => other,
        };
        self.acked = self.acked.max(applied);
        self.durable = self.durable.max(durable);
        while self.in_flight.front().is_some_and(|end| *end <= applied) {
            self.in_flight.pop_front();
        }
        if self.in_flight.is_empty() {
            self.extra = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64) -> Position {
        Position::new(1, number)
    }

    #[test]
    fn no_more_is_sent_than_the_window_allows() {
        let mut ship = Ship::default();
        ship.open(Position::START);
        let mut sent = Position::START;
        for n in 1..=limits::SHIPMENTS_IN_FLIGHT as u64 {
            assert_eq!(ship.poll_read(Position::START).map(|(after, _)| after), Some(sent));
            assert!(ship.handle_read(n));
            ship.handle_shipment(at(n));
            sent = at(n);
        }
        assert_eq!(ship.poll_read(Position::START), None);
        assert!(ship.handle_applied(at(1), Position::START, at(99)));
        assert_eq!(ship.poll_read(Position::START).map(|(after, _)| after), Some(sent));
    }

    #[test]
    fn growth_during_a_read_is_not_forgotten() {
        let mut ship = Ship::default();
        ship.open(at(5));
        assert_eq!(ship.poll_read(Position::START).map(|(after, _)| after), Some(at(5)));
        ship.handle_growth();
        assert_eq!(ship.handle_up_to_date(at(5)), None);
        assert_eq!(ship.poll_read(Position::START).map(|(after, _)| after), Some(at(5)));
        assert_eq!(ship.handle_up_to_date(at(5)), None);
        assert_eq!(ship.poll_read(Position::START), None);
    }

    #[test]
    fn a_read_for_an_old_connection_is_not_sent_on_the_new_one() {
        let mut ship = Ship::default();
        ship.open(at(5));
        assert_eq!(ship.poll_read(Position::START).map(|(after, _)| after), Some(at(5)));
        ship.close();
        ship.open(at(2));
        assert_eq!(ship.poll_read(Position::START).map(|(after, _)| after), Some(at(2)));
        assert!(!ship.handle_read(1));
        assert!(ship.handle_read(2));
    }

    /// What was written while a read failed was never shipped, if nothing more was written.
    #[test]
    fn a_read_that_failed_is_tried_again_though_nothing_else_happens() {
        let mut ship = Ship::default();
        ship.open(at(5));
        assert_eq!(ship.poll_read(Position::START), Some((at(5), 1)));
        ship.handle_read_failed("no memory".into());
        assert_eq!(ship.stalled, "no memory");
        assert_eq!(ship.poll_read(Position::START), Some((at(5), 2)));
        ship.handle_read_done();
        assert!(ship.stalled.is_empty());
    }

    #[test]
    fn an_answer_to_an_earlier_read_from_the_same_position_is_not_taken() {
        let mut ship = Ship::default();
        ship.open(at(5));
        assert_eq!(ship.poll_read(at(5)), Some((at(5), 1)));
        ship.open(at(5));
        assert_eq!(ship.poll_read(at(9)), Some((at(5), 2)));
        assert!(!ship.handle_read(1), "it was read before the history reached 9, and says nothing of what is between");
        assert!(ship.handle_read(2));
    }

    #[test]
    fn an_impossible_acknowledgement_is_noticed() {
        let mut ship = Ship::default();
        ship.open(at(5));
        assert!(!ship.handle_applied(at(4), at(5), at(9)));
        assert!(ship.handle_applied(at(10), at(5), at(9)));
        assert_eq!((ship.acked, ship.durable), (at(5), Position::START));
    }

    #[test]
    fn an_acknowledgement_of_what_was_sent_counts_though_the_end_of_the_log_is_not_told_yet() {
        let mut ship = Ship::default();
        ship.open(at(5));
        assert_eq!(ship.poll_read(Position::START), Some((at(5), 1)));
        ship.handle_shipment(at(9));
        assert!(ship.handle_applied(at(9), at(5), at(5)));
        assert_eq!(ship.acked, at(9));
    }

    #[test]
    fn what_the_peer_has_from_an_earlier_connection_is_not_sent_again() {
        let mut ship = Ship::default();
        ship.open(at(5));
        assert_eq!(ship.poll_read(at(9)).map(|(after, _)| after), Some(at(5)));
        assert!(ship.handle_applied(at(8), at(5), at(9)));
        assert!(!ship.handle_read(1));
        assert_eq!(ship.poll_read(at(9)).map(|(after, _)| after), Some(at(8)));
    }
}
