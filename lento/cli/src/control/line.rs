//! Lines of JSON on the control socket: bounded, whole, and of a known version. No I/O here: the daemon's listener is
//! asynchronous, the command line is not, and both use this.

use super::{CONTROL_VERSION, ControlRequest, Envelope};
use protocol::limits;
use serde::{Serialize, de::DeserializeOwned};

/// Bytes on the control socket that are not the protocol.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Longer than [`limits::CONTROL_LINE_BYTES`].
    #[error("a line on the control socket is longer than {} bytes", limits::CONTROL_LINE_BYTES)]
    TooLong,
    /// Not JSON, or not of the type that is due.
    #[error("a line on the control socket cannot be understood: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The other end is of another version.
    #[error("the command line speaks version {theirs} of the control protocol, the daemon {ours}: restart the daemon")]
    Version {
        /// Of the client.
        theirs: u16,
        /// Of the server.
        ours: u16,
    },
}

/// `value` as one line, with its newline.
///
/// # Errors
/// [`LineError::TooLong`]: the reader would refuse it.
pub fn encode_line<T: Serialize>(value: &T) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(value)?;
    if line.len() > limits::CONTROL_LINE_BYTES {
        return Err(LineError::TooLong);
    }
    line.push(b'\n');
    Ok(line)
}

/// The line that a client sends.
///
/// # Errors
/// [`LineError::TooLong`].
pub fn encode_request(request: &ControlRequest) -> Result<Vec<u8>, LineError> {
    encode_line(&Envelope { version: CONTROL_VERSION, request: request.clone() })
}

/// The request in a line that a client sent. The version is looked at first, as another one may not be decodable.
///
/// # Errors
/// [`LineError::Version`] or [`LineError::Malformed`]; answer with a [`super::Failure`] of that text and hang up.
pub fn decode_request(line: &[u8]) -> Result<ControlRequest, LineError> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u16,
    }
    let Version { version: theirs } = serde_json::from_slice(line)?;
    if theirs != CONTROL_VERSION {
        return Err(LineError::Version { theirs, ours: CONTROL_VERSION });
    }
    Ok(serde_json::from_slice::<Envelope>(line)?.request)
}

/// Cuts a byte stream into lines: [`LineReader::push`] bytes in, then [`LineReader::next_line`] until `None`.
#[derive(Debug, Default)]
pub struct LineReader {
    buffer: Vec<u8>,
    start: usize,
    /// Up to here there is no newline: a line that comes in small pieces is searched once.
    searched: usize,
}

impl LineReader {
    /// Adds bytes that arrived.
    ///
    /// # Errors
    /// [`LineError::TooLong`] when a line does not end in time: hang up.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), LineError> {
        self.buffer.drain(..self.start);
        self.searched = self.searched.saturating_sub(self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
        let unfinished = self.buffer.iter().rev().take(limits::CONTROL_LINE_BYTES + 1).position(|byte| *byte == b'\n');
        if unfinished.is_none() && self.buffer.len() > limits::CONTROL_LINE_BYTES {
            return Err(LineError::TooLong);
        }
        Ok(())
    }

    /// The next whole line, without its newline.
    pub fn next_line(&mut self) -> Option<&[u8]> {
        let from = self.searched.max(self.start);
        let Some(length) = self.buffer[from..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let (begin, end) = (self.start, from + length);
        self.start = end + 1;
        self.searched = self.start;
        Some(&self.buffer[begin..end])
    }

    /// The next whole line, decoded.
    ///
    /// # Errors
    /// [`LineError::Malformed`].
    pub fn next_value<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LineError> {
        match self.next_line() {
            Some(line) => Ok(Some(serde_json::from_slice(line)?)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn another_version_is_told_apart_even_if_its_request_is_unknown() {
        let line = br#"{"version":99,"request":"teleport"}"#;
        assert!(matches!(decode_request(line), Err(LineError::Version { theirs: 99, .. })));
        assert!(matches!(decode_request(br#"{"version":1,"request":"teleport"}"#), Err(LineError::Malformed(_))));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut reader = LineReader::default();
        let piece = vec![b'x'; 64 * 1024];
        let refused = (0..20).position(|_| reader.push(&piece).is_err());
        assert_eq!(refused, Some(limits::CONTROL_LINE_BYTES / piece.len()));
    }

    proptest! {
        #[test]
        fn lines_survive_any_cutting(texts in proptest::collection::vec(".{0,40}", 0..8), cut in 1_usize..9) {
            let bytes: Vec<u8> = texts.iter().flat_map(|text| encode_line(text).expect("short")).collect();
            let mut reader = LineReader::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(cut) {
                reader.push(piece).expect("short");
                while let Some(text) = reader.next_value::<String>().expect("own lines") {
                    got.push(text);
                }
            }
            prop_assert_eq!(got, texts);
        }

        #[test]
        fn garbage_is_an_error_not_a_panic(bytes: Vec<u8>) {
            let _ = decode_request(&bytes);
        }
    }
}
