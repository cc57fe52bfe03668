//! The channel to Lento: connects again for ever, and keeps the mount at work meanwhile.

use crate::{
    filter::Filter,
    fuse::Kernel,
    invalidate::{Invalidations, Job},
};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use protocol::{Downcall, FileSetId, Handle, Upcall, UpcallReader, encode_upcall, limits, version};
use std::{
    io::{IoSlice, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long Lento may leave its end of the socket unread before the connection counts as broken.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The sending end, shared by all threads. What is sent while Lento is away is dropped: a new connection begins with
/// all that it must know.
#[derive(Debug, Default)]
pub(crate) struct Upcalls {
    stream: Mutex<Option<UnixStream>>,
}

impl Upcalls {
    /// Sends a message, if Lento is there.
    pub(crate) fn send(&self, upcall: &Upcall) {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(socket) = stream.as_mut() else { return };
        let sent = match encode_upcall(upcall) {
            Ok(frame) => socket.write_all(&frame),
            Err(error) => {
                tracing::error!(%error, "an upcall is too long");
                return;
            }
        };
        if let Err(error) = sent {
            tracing::info!(%error, "lost Lento");
            // The reading thread sees the end, and connects again.
            let _ = socket.shutdown(std::net::Shutdown::Both);
            *stream = None;
        }
    }
}

/// The receiving end; runs in a thread of its own.
pub(crate) struct Client {
    pub(crate) socket: PathBuf,
    pub(crate) fileset: FileSetId,
    /// A descriptor of the bottom to give away.
    pub(crate) bottom: OwnedFd,
    /// Last record that survived, if a loss of power is to be reported.
    pub(crate) lost_after: Option<u64>,
    pub(crate) filter: Arc<Filter>,
    pub(crate) upcalls: Arc<Upcalls>,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) invalidations: Invalidations,
    /// Ends the mount.
    pub(crate) shutdown: Box<dyn Fn() + Send>,
    pub(crate) ending: Arc<AtomicBool>,
}

impl Client {
    /// Connects and serves, until the mount ends.
    pub(crate) fn run(self) {
        let mut pause = limits::BACKOFF_MIN_MS;
        while !self.ending.load(Ordering::Acquire) {
            match self.connect() {
                Ok(stream) => {
                    pause = limits::BACKOFF_MIN_MS;
                    self.serve(stream);
                }
                Err(error) => tracing::debug!(%error, socket = %self.socket.display(), "Lento is not there"),
            }
            std::thread::sleep(Duration::from_millis(pause));
            pause = (pause * 2).min(limits::BACKOFF_MAX_MS);
        }
    }

    fn connect(&self) -> std::io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let mut shared = self.upcalls.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let hello = Upcall::Hello {
            version: version::UPCALL,
            fileset: self.fileset,
            pid: std::process::id(),
            permit: self.filter.gate.held_epoch(),
            last: self.filter.journal.last(),
            lost_after: self.lost_after,
        };
        let frame = encode_upcall(&hello).map_err(std::io::Error::other)?;
        let descriptors = [self.bottom.as_raw_fd()];
        let attached = [ControlMessage::ScmRights(&descriptors)];
        let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&frame)], &attached, MsgFlags::MSG_NOSIGNAL, None)?;
        (&stream).write_all(&frame[sent..])?;
        *shared = Some(stream.try_clone()?);
        drop(shared);
        if self.filter.gate.is_wanted() {
            self.upcalls.send(&Upcall::GetPermit);
        }
        self.filter.room.say_again();
        tracing::info!(socket = %self.socket.display(), "connected to Lento");
        Ok(stream)
    }

    fn serve(&self, mut stream: UnixStream) {
        let mut reader = UpcallReader::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => reader.push(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::info!(%error, "lost Lento");
                    break;
                }
            }
            loop {
                match reader.next::<Downcall>() {
                    Ok(Some(downcall)) => self.handle(downcall),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(%error, "Lento sent something else than a downcall");
                        self.disconnect();
                        return;
                    }
                }
            }
        }
        self.disconnect();
    }

    fn disconnect(&self) {
        *self.upcalls.stream.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::info!("disconnected from Lento; serving and logging go on");
    }

    fn handle(&self, downcall: Downcall) {
        tracing::debug!(?downcall, "downcall");
        match downcall {
            Downcall::Grant { epoch } => self.filter.gate.grant(epoch),
            Downcall::Revoke => self.revoke(),
            Downcall::Arm { seen } => self.filter.journal.arm(seen),
            Downcall::Trim { upto } => {
                if let Err(error) = self.filter.journal.writer().trim(upto) {
                    tracing::warn!(%error, upto, "the log could not be trimmed");
                }
            }
            Downcall::Synced => {
                let upcalls = self.upcalls.clone();
                self.filter.complete(move |synced| match synced {
                    Ok(last) => upcalls.send(&Upcall::LogSynced { last }),
                    Err(error) => upcalls.send(&Upcall::LogFailed { errno: error.errno() }),
                });
            }
            Downcall::Invalidate { token, entries, objects, replaced } => {
                self.invalidations.submit(Job::Some { token, entries, objects, replaced });
            }
            Downcall::InvalidateAll { token } => self.invalidations.submit(Job::All { token }),
            Downcall::Fetched { object, errno } => self.fetched(object, errno),
            Downcall::Evict { objects } => self.invalidations.submit(Job::Evict { objects }),
            Downcall::Reintegrated { upto } => {
                if let Some(cache) = &self.filter.cache {
                    cache.reintegrated(upto);
                }
            }
            Downcall::Filled { objects } => {
                if let Some(cache) = &self.filter.cache {
                    objects.into_iter().for_each(|(object, before, after)| cache.filled(object, before, after));
                }
            }
            Downcall::Shutdown => {
                // Nothing more will come: who waits for it would keep the mount in use.
                self.filter.room.end();
                (self.shutdown)();
            }
        }
    }

    fn fetched(&self, object: Handle, errno: i32) {
        self.filter.forget_dir(object);
        // The kernel may have asked in the middle of the fill; who waited must not see that.
        if errno == 0
            && let Err(error) = self.kernel.forget_attributes(&self.filter, object)
        {
            tracing::warn!(%error, ?object, "the kernel did not forget attributes from before a fetch");
        }
        self.filter.room.fetched(object, errno);
    }

    fn revoke(&self) {
        let filter = &self.filter;
        filter.gate.revoke(|pass| filter.store_all(pass));
        if let Err(error) = filter.journal.flush() {
            tracing::warn!(%error, "the log could not be written before the permit went");
        }
        self.upcalls.send(&Upcall::Released { last: filter.journal.last() });
        // Who was parked meanwhile wants it back.
        if filter.gate.ask_again() {
            self.upcalls.send(&Upcall::GetPermit);
        }
    }
}
