//! Serves the content of objects (FetchFile and backfetch).

use crate::{
    error::{Emit, Fault, TransferError},
    io::read_full_at,
    packer::Packer,
    send::{Sender, Sent},
    squeeze::Squeeze,
    wire::Item,
};
use lento_store::{Ahead, KnownVersion, Store, StoreError};
use nix::{errno::Errno, fcntl::OFlag};
use protocol::{Attr, Coding, Have, Kind, ObjectId, Wanted, limits};
use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

/// Emits, as bodies of data packets, the content of every object wanted, in their order, or says why there is none.
///
/// Only regular files that the index knows are served, by id, and only in a version that the log tells of: whose
/// size and mtime are the current ones before and after it was read. Unless `records_follow`: without the permit, what
/// programs write to files that they still have open is not logged before it is here again (ADR 4), and whoever waits
/// for a version at rest may be whom the permit waits for. Then what is there now stands for the version.
///
/// # Errors
/// [`TransferError::Stopped`] if `emit` says so, [`TransferError::Store`] if the index fails. What concerns a single
/// object is told to the receiver instead.
pub fn serve(store: &Store, wanted: &[Wanted], records_follow: bool, emit: &mut Emit<'_>) -> Result<(), TransferError> {
    let mut server = Server {
        store,
        records_follow,
        packer: Packer::new(emit),
        squeeze: Squeeze::new(),
        absorbed: false,
        ahead: store.look_ahead(wanted.iter().map(|wanted| wanted.id))?,
        small: vec![0; limits::INLINE_CONTENT_BYTES as usize],
    };
    for (index, wanted) in (0..).zip(wanted) {
        let outcome = server.serve_one(index, wanted)?;
        let item = match outcome {
            Outcome::Sent => continue,
            Outcome::Differs => Item::Differs { index },
            Outcome::Changed => Item::Changed { index },
            Outcome::Gone => Item::Gone { index },
            Outcome::Failed(errno) => Item::Failed { index, errno: errno as i32 },
        };
        server.packer.push(&item, 0)?;
    }
    server.packer.finish()
}

struct Server<'a, 'e> {
    store: &'a Store,
    records_follow: bool,
    packer: Packer<'a, 'e>,
    squeeze: Squeeze,
    /// Whether the log was read since serving began: it is read just once for files that look changed.
    absorbed: bool,
    /// What the index says of all that is wanted.
    ahead: Ahead,
    small: Vec<u8>,
}

enum Outcome {
    Sent,
    Differs,
    Changed,
    Gone,
    Failed(Errno),
}

/// A file that may be served.
struct Source {
    file: File,
    version: KnownVersion,
    /// Whether it must be the same after it was read.
    rests: bool,
}

impl Server<'_, '_> {
    fn serve_one(&mut self, index: u32, wanted: &Wanted) -> Result<Outcome, TransferError> {
        let source = match self.open(wanted.id)? {
            Ok(source) => source,
            Err(outcome) => return Ok(outcome),
        };
        if source.version.size <= limits::INLINE_CONTENT_BYTES {
            self.small(index, &source, &wanted.have)
        } else {
            self.large(index, &source, wanted)
        }
    }

    fn open(&mut self, id: ObjectId) -> Result<Result<Source, Outcome>, TransferError> {
        if let Some((fd, version)) = self.store.open_version(id, &self.ahead) {
            return Ok(Ok(Source { file: File::from(fd), version, rests: true }));
        }
        let fd = match self.store.open_object(id, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NOATIME) {
            Ok(fd) => fd,
            Err(StoreError::NotFound(_)) => return Ok(Err(Outcome::Gone)),
            Err(StoreError::Io { source, .. }) => return Ok(Err(Outcome::Failed(Fault::from(source).0))),
            Err(why) => return Err(why.into()),
        };
        let attr = match self.attr(&fd) {
            Ok(attr) if attr.kind == Kind::File => attr,
            // It was asked for as a file: who asks knows another version of the tree.
            Ok(_) => return Ok(Err(Outcome::Failed(Errno::EISDIR))),
            Err(errno) => return Ok(Err(Outcome::Failed(errno))),
        };
        let known = |store: &Store| -> Result<Option<KnownVersion>, TransferError> {
            Ok(store.version(id)?.filter(|version| is_version(&attr, version)))
        };
        let mut version = known(self.store)?;
        if version.is_none() && !self.absorbed {
            self.absorbed = true;
            self.store.absorb()?;
            version = known(self.store)?;
        }
        let file = File::from(fd);
        Ok(match (version, self.store.version(id)?) {
            (Some(version), _) => Ok(Source { file, version, rests: true }),
            // What another host wrote may be being committed here, and will be at rest.
            (None, Some(logged)) if !self.records_follow && self.is_own(id)? => {
                let version = KnownVersion { as_of: logged.as_of, size: attr.size, mtime: attr.mtime };
                Ok(Source { file, version, rests: false })
            }
            (None, _) => Err(Outcome::Changed),
        })
    }

    /// Whether this host wrote the object's last version.
    fn is_own(&self, id: ObjectId) -> Result<bool, TransferError> {
        let stamp = self.store.object_stamp(id)?;
        Ok(stamp.and_then(|stamp| stamp.updater()) == Some(self.store.config().host))
    }

    fn attr(&self, fd: &OwnedFd) -> Result<Attr, Errno> {
        self.store.bottom().attr(fd.as_fd()).map_err(|e| Fault::from(e).0)
    }

    fn is_unchanged(&self, source: &Source) -> bool {
        let same = |attr| is_version(&attr, &source.version);
        !source.rests || self.store.bottom().attr(source.file.as_fd()).is_ok_and(same)
    }

    fn small(&mut self, index: u32, source: &Source, have: &Have) -> Result<Outcome, TransferError> {
        let len = source.version.size as usize;
        match read_full_at(&source.file, &mut self.small[..len], 0) {
            Ok(got) if got == len && self.is_unchanged(source) => {}
            Ok(_) => return Ok(Outcome::Changed),
            Err(why) => return Ok(Outcome::Failed(Fault::from(why).0)),
        }
        let (bytes, as_of, size) = (&self.small[..len], source.version.as_of, source.version.size);
        if let Have::Prefix { size: prefix, hash } = have
            && *prefix == size
            && blake3::hash(bytes) == *hash
        {
            self.packer.push(&Item::Begin { index, size, coding: Coding::From(size) }, 0)?;
            self.packer.push(&Item::End { index, hash: *hash, as_of }, 0)?;
            return Ok(Outcome::Sent);
        }
        let item = Item::Small { index, bytes, as_of };
        self.packer.push(&item, len)?;
        Ok(Outcome::Sent)
    }

    fn large(&mut self, index: u32, source: &Source, wanted: &Wanted) -> Result<Outcome, TransferError> {
        let KnownVersion { as_of, size, mtime } = source.version;
        let known = match wanted.have {
            Have::Prefix { size: prefix, .. } if prefix == size => self.store.hash_of(wanted.id, size, mtime)?,
            _ => None,
        };
        let mut sender =
            Sender { packer: &mut self.packer, squeeze: &mut self.squeeze, index, file: &source.file, size, known };
        let hash = match sender.send(&wanted.have)? {
            Sent::Whole(hash) => hash,
            Sent::Differs => return Ok(Outcome::Differs),
            Sent::Shrunk => return Ok(Outcome::Changed),
            Sent::Failed(errno) => return Ok(Outcome::Failed(errno)),
        };
        if !self.is_unchanged(source) {
            return Ok(Outcome::Changed);
        }
        self.packer.push(&Item::End { index, hash, as_of }, 0)?;
        if known.is_none() && source.rests {
            self.store.remember_hash(wanted.id, size, mtime, &hash)?;
        }
        Ok(Outcome::Sent)
    }
}

fn is_version(attr: &Attr, version: &KnownVersion) -> bool {
    (attr.size, attr.mtime) == (version.size, version.mtime)
}
