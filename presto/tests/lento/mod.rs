//! A tiny Lento for tests: a real server on a real socket that grants, revokes, arms and listens.
#![allow(dead_code, unreachable_pub)]

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use protocol::{Downcall, Upcall, UpcallReader, encode_downcall};
use std::{
    io::{IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One connection of a Presto.
pub struct Connection {
    stream: UnixStream,
    upcalls: Receiver<Upcall>,
    /// What was received while waiting for something else.
    pub seen: Vec<Upcall>,
    /// The bottom directory that came with the hello.
    pub bottom: OwnedFd,
    pub hello: Upcall,
}

/// Accepts the next connection, and reads its hello.
pub fn accept(listener: &UnixListener) -> Connection {
    let (stream, _) = listener.accept().expect("a connection");
    let mut reader = UpcallReader::default();
    let bottom = receive_descriptor(&stream, &mut reader);
    let (sender, upcalls) = mpsc::channel();
    let from = stream.try_clone().expect("a second descriptor");
    std::thread::spawn(move || listen(from, reader, &sender));
    let hello = upcalls.recv_timeout(PATIENCE).expect("a hello");
    assert!(matches!(hello, Upcall::Hello { .. }), "{hello:?}");
    Connection { stream, upcalls, seen: Vec::new(), bottom, hello }
}

/// Listens on a path.
pub fn listen_at(path: &Path) -> UnixListener {
    // A socket left by an earlier server; if there is none, all the better.
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).expect("the socket can be made")
}

fn receive_descriptor(stream: &UnixStream, reader: &mut UpcallReader) -> OwnedFd {
    let mut buffer = [0_u8; 4096];
    let mut space = nix::cmsg_space!(std::os::fd::RawFd);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
        .expect("the hello arrives");
    let raw = message
        .cmsgs()
        .expect("whole control messages")
        .find_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        })
        .expect("a descriptor is attached to the hello");
    let length = message.bytes;
    reader.push(&buffer[..length]);
    // SAFETY: the kernel just installed this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn listen(mut stream: UnixStream, mut reader: UpcallReader, sender: &Sender<Upcall>) {
    let mut buffer = vec![0; 65536];
    loop {
        while let Some(upcall) = reader.next::<Upcall>().expect("Presto sends upcalls") {
            if sender.send(upcall).is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => reader.push(&buffer[..n]),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The listening thread has a descriptor too: closing ours would not end the connection.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Connection {
    /// Sends a downcall.
    pub fn send(&mut self, downcall: &Downcall) {
        let frame = encode_downcall(downcall).expect("tests send short messages");
        self.stream.write_all(&frame).expect("Presto listens");
    }

    /// The next upcall; `None` when Presto is gone.
    pub fn next(&mut self) -> Option<Upcall> {
        self.upcalls.recv().ok()
    }

    /// Waits for an upcall that `pick` likes; the others are kept in `seen`.
    pub fn wait<T>(&mut self, mut pick: impl FnMut(&Upcall) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.upcalls.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(upcall) => match pick(&upcall) {
                    Some(found) => return found,
                    None => self.seen.push(upcall),
                },
                Err(RecvTimeoutError::Timeout) => panic!("it never came; there was {:?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => panic!("presto is gone; there was {:?}", self.seen),
            }
        }
    }

    /// Waits until Presto asks for the permit, and gives it.
    pub fn grant_when_asked(&mut self, epoch: u64) {
        self.wait(|u| matches!(u, Upcall::GetPermit).then_some(()));
        self.send(&Downcall::Grant { epoch });
    }

    /// Takes the permit back; returns the last record's number.
    pub fn revoke(&mut self) -> u64 {
        self.send(&Downcall::Revoke);
        self.wait(|u| if let Upcall::Released { last } = u { Some(*last) } else { None })
    }
}
