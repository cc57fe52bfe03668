//! Comparison of two manifests as they are made: two ordered streams, merged with one entry of each in memory.

use super::entry::{ManifestEntry, order};
use protocol::ProtocolError;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// In what two entries of one path differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aspect {
    /// What it is; nothing else is compared then.
    Kind,
    /// Bytes of a file.
    Content,
    /// Size of a file.
    Size,
    /// Permission bits.
    Mode,
    /// Owner or group.
    Owner,
    /// Time of modification.
    Mtime,
    /// Extended attributes.
    Xattrs,
    /// Target of a symbolic link.
    Target,
    /// Device number.
    Device,
    /// Which other names the object has.
    Links,
    /// One side could not be read.
    Unreadable,
}

/// One difference between two trees, here (left) and there (right).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Difference {
    /// Only the left tree has it.
    OnlyHere(Box<ManifestEntry>),
    /// Only the right tree has it.
    OnlyThere(Box<ManifestEntry>),
    /// Both have it and it differs.
    Differs {
        /// In what, at least one.
        aspects: Vec<Aspect>,
        /// The left one.
        here: Box<ManifestEntry>,
        /// The right one.
        there: Box<ManifestEntry>,
    },
}

/// Reads entries out of data packets' bodies; ends after the first error.
#[derive(Debug)]
pub struct ManifestReader<B> {
    bodies: B,
    body: Vec<u8>,
    at: usize,
    failed: bool,
}

impl<B: Iterator<Item = Vec<u8>>> ManifestReader<B> {
    /// Over bodies that arrive in order; the iterator may block.
    pub fn new(bodies: B) -> Self {
        Self { bodies, body: Vec::new(), at: 0, failed: false }
    }
}

impl<B: Iterator<Item = Vec<u8>>> Iterator for ManifestReader<B> {
    type Item = Result<ManifestEntry, ProtocolError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        while self.at == self.body.len() {
            self.body = self.bodies.next()?;
            self.at = 0;
        }
        match ManifestEntry::take_from(&self.body[self.at..]) {
            Ok(Some((entry, rest))) => {
                self.at = self.body.len() - rest.len();
                Some(Ok(entry))
            }
            Ok(None) => None,
            Err(why) => {
                self.failed = true;
                Some(Err(why))
            }
        }
    }
}

/// Merges two manifests; yields what differs, and counts what was compared.
#[derive(Debug)]
pub struct ManifestDiff<L, R> {
    here: Side<L>,
    there: Side<R>,
    compared: u64,
}

#[derive(Debug)]
struct Side<I> {
    entries: I,
    head: Option<Box<ManifestEntry>>,
    last: Option<Vec<u8>>,
    ended: bool,
}

type Entries = Result<ManifestEntry, ProtocolError>;

impl<I: Iterator<Item = Entries>> Side<I> {
    fn new(entries: I) -> Self {
        Self { entries, head: None, last: None, ended: false }
    }

    /// Fills the head; an entry out of order is an error, as the merge would be wrong.
    fn fill(&mut self) -> Result<(), ProtocolError> {
        if self.head.is_some() || self.ended {
            return Ok(());
        }
        match self.entries.next().transpose() {
            Ok(None) => self.ended = true,
            Ok(Some(entry)) => {
                if self.last.as_ref().is_some_and(|last| order(last, &entry.path) != Ordering::Less) {
                    self.ended = true;
                    return Err(ProtocolError::Malformed {
                        what: "a manifest",
                        why: format!("{} is out of order", entry.path.escape_ascii()),
                    });
                }
                self.last = Some(entry.path.clone());
                self.head = Some(Box::new(entry));
            }
            Err(why) => {
                self.ended = true;
                return Err(why);
            }
        }
        Ok(())
    }
}

impl<L: Iterator<Item = Entries>, R: Iterator<Item = Entries>> ManifestDiff<L, R> {
    /// Compares `here` with `there`.
    pub fn new(here: L, there: R) -> Self {
        Self { here: Side::new(here), there: Side::new(there), compared: 0 }
    }

    /// Paths seen so far, on either side.
    pub fn compared(&self) -> u64 {
        self.compared
    }

    fn step(&mut self) -> Result<Option<Difference>, ProtocolError> {
        loop {
            self.here.fill()?;
            self.there.fill()?;
            let side = match (&self.here.head, &self.there.head) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(here), Some(there)) => order(&here.path, &there.path),
            };
            self.compared += 1;
            match side {
                Ordering::Less => return Ok(self.here.head.take().map(Difference::OnlyHere)),
                Ordering::Greater => return Ok(self.there.head.take().map(Difference::OnlyThere)),
                Ordering::Equal => {}
            }
            if let (Some(here), Some(there)) = (self.here.head.take(), self.there.head.take()) {
                let aspects = aspects(&here, &there);
                if !aspects.is_empty() {
                    return Ok(Some(Difference::Differs { aspects, here, there }));
                }
            }
        }
    }
}

impl<L: Iterator<Item = Entries>, R: Iterator<Item = Entries>> Iterator for ManifestDiff<L, R> {
    type Item = Result<Difference, ProtocolError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            // What follows an error would be judged against half a manifest.
            (self.here.ended, self.there.ended) = (true, true);
            (self.here.head, self.there.head) = (None, None);
        }
        step.transpose()
    }
}

fn aspects(here: &ManifestEntry, there: &ManifestEntry) -> Vec<Aspect> {
    if here.errno.is_some() || there.errno.is_some() {
        return vec![Aspect::Unreadable];
    }
    if here.kind != there.kind {
        return vec![Aspect::Kind];
    }
    let differs = [
        (Aspect::Size, here.size != there.size),
        (Aspect::Content, here.content != there.content && here.link == there.link),
        (Aspect::Mode, here.mode != there.mode),
        (Aspect::Owner, (here.uid, here.gid) != (there.uid, there.gid)),
        (Aspect::Mtime, here.mtime != there.mtime),
        (Aspect::Xattrs, here.xattrs != there.xattrs),
        (Aspect::Target, here.target != there.target),
        (Aspect::Device, here.rdev != there.rdev),
        (Aspect::Links, here.link != there.link),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(aspect, _)| aspect).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Kind, Timestamp};

    fn entry(path: &[u8]) -> ManifestEntry {
        ManifestEntry {
            path: path.into(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 1,
            rdev: 0,
            mtime: Timestamp::default(),
            link: None,
            target: Vec::new(),
            xattrs: [0; 32],
            content: [1; 32],
            errno: None,
        }
    }

    fn stream(entries: &[ManifestEntry]) -> impl Iterator<Item = Entries> + use<> {
        let mut body = Vec::new();
        entries.iter().for_each(|e| e.append_to(&mut body).expect("it is small"));
        ManifestReader::new(vec![Vec::new(), body].into_iter())
    }

    #[test]
    fn each_difference_is_found_once_and_in_order() {
        let mut changed = entry(b"c");
        (changed.mode, changed.content) = (0o600, [2; 32]);
        let here = [entry(b""), entry(b"a"), entry(b"c"), entry(b"d")];
        let there = [entry(b""), entry(b"b"), changed.clone(), entry(b"d"), entry(b"d/e")];
        let mut diff = ManifestDiff::new(stream(&here), stream(&there));
        let found: Vec<_> = diff.by_ref().map(|d| d.expect("both are in order")).collect();
        assert_eq!(
            found,
            [
                Difference::OnlyHere(Box::new(entry(b"a"))),
                Difference::OnlyThere(Box::new(entry(b"b"))),
                Difference::Differs {
                    aspects: vec![Aspect::Content, Aspect::Mode],
                    here: Box::new(entry(b"c")),
                    there: Box::new(changed)
                },
                Difference::OnlyThere(Box::new(entry(b"d/e"))),
            ]
        );
        assert_eq!(diff.compared(), 6);
    }

    #[test]
    fn a_manifest_out_of_order_is_refused() {
        let mut diff = ManifestDiff::new(stream(&[entry(b"b"), entry(b"a")]), stream(&[entry(b"b"), entry(b"c")]));
        assert!(diff.next().is_some_and(|d| d.is_err()));
        assert!(diff.next().is_none());
    }

    #[test]
    fn what_cannot_be_read_equals_nothing() {
        let mut unreadable = entry(b"a");
        unreadable.errno = Some(libc::EIO);
        let found: Vec<_> =
            ManifestDiff::new(stream(std::slice::from_ref(&unreadable)), stream(std::slice::from_ref(&unreadable)))
                .collect();
        assert!(matches!(&found[..], [Ok(Difference::Differs { aspects, .. })] if aspects == &[Aspect::Unreadable]));
    }

    #[test]
    fn garbage_ends_the_stream_with_an_error() {
        let mut reader = ManifestReader::new(vec![vec![0xff; 40]].into_iter());
        assert!(reader.next().is_some_and(|e| e.is_err()));
        assert!(reader.next().is_none());
    }
}
