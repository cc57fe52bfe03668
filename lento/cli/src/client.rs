//! The client of the control socket: blocking, one request a connection.

use crate::control::{Code, ControlEvent, ControlRequest, Failure, LineError, LineReader, encode_request, socket_path};
use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

/// Bytes read from the socket at a time.
const READ_BYTES: usize = 64 * 1024;
/// Longest path that fits a `sockaddr_un`, less its final NUL.
const SOCKET_PATH_BYTES: usize = 107;
/// A home that has this file is that of a host: `lento init` and `lento join` write it last.
const IDENTITY: &str = "identity.toml";

/// Why the daemon could not be asked, or its answer not be read.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no lento daemon is running for {home}: {why}")]
    NotRunning {
        /// The host's home.
        home: PathBuf,
        /// What the attempt to connect said.
        why: io::Error,
    },
    /// The socket is not ours to use.
    #[error("the daemon of {home} may not be asked by this user")]
    Denied {
        /// The host's home.
        home: PathBuf,
    },
    /// The connection failed on the way.
    #[error("the connection to the daemon failed: {0}")]
    Io(#[from] io::Error),
    /// The answer is not the protocol.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The answer ended before it was complete.
    #[error("the daemon ended before it had answered")]
    Ended,
    /// No answer within the time given to [`Client::give_up_after`].
    #[error("the daemon did not answer in time")]
    Silent,
}

impl ClientError {
    /// As a failure to report: exit code and what to do.
    pub fn failure(&self) -> Failure {
        let (code, hint) = match self {
            Self::NotRunning { home, .. } => (
                Code::NoDaemon,
                Some(if Client::is_home(home) {
                    format!("start it with `systemctl start lento` or `lento daemon --home {}`", home.display())
                } else {
                    format!(
                        "{} is not the home of a host: see --home and LENTO_HOME; begin with `lento init` or `lento join`",
                        home.display()
                    )
                }),
            ),
            Self::Denied { .. } => (Code::Failed, Some("run it as root".to_owned())),
            Self::Ended => (Code::Failed, Some("its log tells why: `journalctl -u lento`".to_owned())),
            Self::Silent => (Code::Timeout, None),
            Self::Io(_) | Self::Line(_) => (Code::Failed, None),
        };
        Failure { message: self.to_string(), hint, code }
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the daemon whose state is in `home`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] or [`ClientError::Denied`].
    pub fn connect(home: &Path) -> Result<Self, ClientError> {
        match connect_unix(&socket_path(home)) {
            Ok(stream) => Ok(Self { stream }),
            Err(why) if why.kind() == ErrorKind::PermissionDenied => Err(ClientError::Denied { home: home.into() }),
            Err(why) => Err(ClientError::NotRunning { home: home.into(), why }),
        }
    }

    /// Whether `home` is that of a host, whose daemon may be starting.
    pub(crate) fn is_home(home: &Path) -> bool {
        home.join(IDENTITY).exists()
    }

    /// A silence longer than `time` is [`ClientError::Silent`]; without it the client waits for ever.
    ///
    /// # Errors
    /// If the socket refuses it.
    pub fn give_up_after(&self, time: Duration) -> Result<(), ClientError> {
        Ok(self.stream.set_read_timeout(Some(time.max(Duration::from_millis(1))))?)
    }

    /// Sends the request; the answer is iterated over.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn ask(mut self, request: &ControlRequest) -> Result<Events, ClientError> {
        self.stream.write_all(&encode_request(request)?)?;
        Ok(Events { stream: self.stream, lines: LineReader::default(), ended: false })
    }
}

/// A `sockaddr_un` holds 107 bytes; a home may be deeper, so a long path is taken through its directory's descriptor.
fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) if path.as_os_str().len() > SOCKET_PATH_BYTES => {
            let directory = File::open(directory)?;
            UnixStream::connect(Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
        }
        _ => UnixStream::connect(path),
    }
}

/// The answer to a request, event by event; the last one is [`ControlEvent::Done`] or [`ControlEvent::Failed`].
#[derive(Debug)]
pub struct Events {
    stream: UnixStream,
    lines: LineReader,
    ended: bool,
}

impl Events {
    fn read(&mut self) -> Result<ControlEvent, ClientError> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if let Some(event) = self.lines.next_value::<ControlEvent>()? {
                return Ok(event);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::Ended),
                Ok(got) => self.lines.push(&buffer[..got])?,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Err(ClientError::Silent),
                Err(why) if why.kind() == ErrorKind::ConnectionReset => return Err(ClientError::Ended),
                Err(why) => return Err(why.into()),
            }
        }
    }
}

impl Iterator for Events {
    type Item = Result<ControlEvent, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let event = self.read();
        self.ended = matches!(event, Err(_) | Ok(ControlEvent::Done(_) | ControlEvent::Failed(_)));
        Some(event)
    }
}
