//! FUSE passthrough: backing files registered with the kernel.

use crate::{filter::Passthrough, sys::set_fsetid};
use nix::errno::Errno;
use std::{
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

mod ioctl {
    // `FUSE_DEV_IOC_BACKING_CLOSE`.
    nix::ioctl_write_ptr!(backing_close, 229, 2, u32);
}

/// The kernel's side of passthrough, once the mount is there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backing {
    device: Arc<OnceLock<OwnedFd>>,
    enabled: Arc<AtomicBool>,
}

impl Backing {
    /// The mount is there: this is its `/dev/fuse`.
    pub(crate) fn mounted(&self, device: OwnedFd) {
        // Set once by construction; a second descriptor of the same mount would do as well.
        let _ = self.device.set(device);
    }

    /// The kernel agreed to passthrough when the mount was made.
    pub(crate) fn enable(&self) {
        self.enabled.store(true, Ordering::Release);
    }
}

impl Passthrough for Backing {
    fn open(&self, file: &File) -> Option<u32> {
        if !self.enabled.load(Ordering::Acquire) {
            return None;
        }
        let device = self.device.get()?;
        // The kernel writes with the credentials of this moment. Without CAP_FSETID the bottom clears setuid and setgid
        // bits on a write as it does for an ordinary user; the kernel leaves that to us (FUSE_HANDLE_KILLPRIV_V2).
        // The thread is left so: most opens follow one another.
        let opened = set_fsetid(false).and_then(|()| {
            fuser::BackingId::create_raw(device, file).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
        });
        match opened {
            Ok(id) => Some(id),
            Err(error) => {
                tracing::warn!(%error, "no passthrough for a file; its data goes through Presto");
                None
            }
        }
    }

    fn close(&self, id: u32) {
        if let Some(device) = self.device.get() {
            // SAFETY: the ioctl reads one u32.
            if let Err(error) = unsafe { ioctl::backing_close(device.as_raw_fd(), &id) } {
                tracing::debug!(%error, "a backing file could not be closed");
            }
        }
    }
}
