//! Having the kernel forget what it cached.

use crate::filter::Filter;
use fuser::{INodeNo, Notifier};
use nix::errno::Errno;
use protocol::{Handle, Name};
use std::{io, os::fd::OwnedFd};

/// `FUSE_NOTIFY_INC_EPOCH`, Linux 6.16 and later.
const NOTIFY_INC_EPOCH: i32 = 8;

/// The offset of an invalidation that leaves cached content alone.
const ATTRIBUTES_ONLY: i64 = -1;

/// The way to the kernel's caches.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) notifier: Notifier,
    pub(crate) device: OwnedFd,
}

impl Kernel {
    /// An entry appeared, changed or went. Waits for the directory's lock in the kernel: not to be called by a thread
    /// that answers requests, nor while a request that holds this lock waits for the caller.
    pub(crate) fn forget_entry(&self, filter: &Filter, parent: Handle, name: &Name) -> io::Result<()> {
        ignore_absent(self.notifier.inval_entry(INodeNo(filter.node(parent)), name.as_os_str()))?;
        // The listing that it cached goes with the directory's attributes.
        self.forget_object(filter, parent)
    }

    /// An object's attributes or content changed.
    pub(crate) fn forget_object(&self, filter: &Filter, object: Handle) -> io::Result<()> {
        ignore_absent(self.notifier.inval_inode(INodeNo(filter.node(object)), 0, 0))
    }

    /// An object's attributes changed, its content did not. Takes no lock that a request could hold.
    pub(crate) fn forget_attributes(&self, filter: &Filter, object: Handle) -> io::Result<()> {
        ignore_absent(self.notifier.inval_inode(INodeNo(filter.node(object)), ATTRIBUTES_ONLY, 0))
    }

    /// All entries are to be looked up again before they are used; takes no locks.
    ///
    /// # Errors
    /// `EINVAL` where the kernel does not know this.
    pub(crate) fn forget_all_entries(&self) -> Result<(), Errno> {
        let mut message = [0_u8; 16];
        message[..4].copy_from_slice(&16_u32.to_ne_bytes());
        message[4..8].copy_from_slice(&NOTIFY_INC_EPOCH.to_ne_bytes());
        nix::unistd::write(&self.device, &message).map(drop)
    }
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
