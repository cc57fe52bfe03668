//! The network: connections that keep order, delay, and can be cut, one way too.

use crate::world::{Due, World};
use lento_core::Event;
use protocol::{HostId, Message};

impl World {
    pub(crate) fn connect(&mut self, host: usize, peer: HostId) {
        let other = self.index(peer);
        let me = self.hosts[host].id;
        let delay = 1 + self.rng.below(5);
        let blocked = self.cuts.contains(&(host, other)) || self.cuts.contains(&(other, host));
        if blocked || self.hosts[other].engine.is_none() {
            return self.tell_later(host, delay, Event::ConnectFailed(peer));
        }
        for (a, b) in [(host, other), (other, host)] {
            if self.connections.remove(&(a, b)).is_some() {
                let gone = self.hosts[b].id;
                self.tell(a, Event::PeerDown(gone));
            }
        }
        self.serial += 1;
        let connection = self.serial;
        self.connections.insert((host, other), connection);
        self.connections.insert((other, host), connection);
        self.tell(other, Event::PeerUp(me));
        self.tell(host, Event::PeerUp(peer));
    }

    /// When something sent now arrives: later than all that was sent before on the same connection.
    pub(crate) fn arrival(&mut self, from: usize, to: usize) -> u64 {
        let at = self.now_ms + 1 + self.rng.below(10);
        let last = self.arrival.entry((from, to)).or_default();
        *last = at.max(*last + 1);
        *last - self.now_ms
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, message: Message) {
        if let Some(connection) = self.connections.get(&(from, to)).copied() {
            let delay = self.arrival(from, to);
            self.schedule(delay, Due::Deliver { from, to, connection, message });
        }
    }

    /// Replies come through tasks of their own: a message, or a new connection, may overtake them.
    pub(crate) fn send_reply(&mut self, from: usize, to: usize, event: Event) {
        if self.connections.contains_key(&(from, to)) && !self.cuts.contains(&(from, to)) {
            let delay = self.arrival(from, to) + if self.rng.percent(20) { self.rng.below(300) } else { 0 };
            self.tell_later(to, delay, event);
        }
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize, for_ms: u64) {
        self.cuts.insert((from, to));
        for (host, peer) in [(from, to), (to, from)] {
            if let Some(connection) = self.connections.get(&(host, peer)).copied() {
                let delay = self.rng.below(300);
                self.schedule(delay, Due::Down { host, peer, connection });
            }
        }
        self.schedule(for_ms, Due::Heal { from, to });
    }

    /// The process is gone: its peers see their connections reset.
    pub(crate) fn hang_up(&mut self, host: usize) {
        for peer in 0..self.hosts.len() {
            self.connections.remove(&(host, peer));
            if let Some(connection) = self.connections.get(&(peer, host)).copied() {
                let delay = self.rng.below(50);
                self.schedule(delay, Due::Down { host: peer, peer: host, connection });
            }
        }
    }
}
