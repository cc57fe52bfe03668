//! The smallest manager that a mount can have: it grants the permit and reads nothing. It shows what the filter costs
//! by itself.

use anyhow::{Context, Result};
use protocol::{Downcall, Upcall, UpcallReader, encode_downcall};
use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// A manager reads what has come before it asks to be rung again; one that did not would be rung for every record.
const READING: Duration = Duration::from_millis(2);

/// A server of the upcall channel, on threads that end with the process or when Presto does.
#[derive(Debug)]
pub struct PermitServer {
    socket: PathBuf,
}

impl PermitServer {
    /// Listens at `socket`.
    pub fn start(socket: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| format!("listen on {socket:?}"))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { socket: socket.to_owned() })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for PermitServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn serve(mut stream: UnixStream) -> Result<()> {
    let mut reader = UpcallReader::default();
    let mut buffer = [0; 4096];
    loop {
        let got = stream.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        reader.push(&buffer[..got]);
        while let Some(upcall) = reader.next::<Upcall>()? {
            if matches!(upcall, Upcall::Advanced { .. }) {
                thread::sleep(READING);
            }
            let answers = match upcall {
                Upcall::Hello { last, .. } => vec![Downcall::Grant { epoch: 1 }, Downcall::Arm { seen: last }],
                Upcall::GetPermit => vec![Downcall::Grant { epoch: 1 }],
                // As a manager whose peers have everything: the log is read no further, and may be trimmed.
                Upcall::Advanced { last } => vec![Downcall::Trim { upto: last }, Downcall::Arm { seen: last }],
                _ => vec![],
            };
            for answer in answers {
                stream.write_all(&encode_downcall(&answer)?)?;
            }
        }
    }
}
