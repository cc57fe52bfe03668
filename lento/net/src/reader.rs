//! Cuts what arrives on one connection into packets; bodies are read straight into their own buffer.

use bytes::BufMut;
use protocol::{PACKET_HEADER_BYTES, Packet, limits};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf},
    time::timeout,
};

const STAGING_BYTES: usize = 64 * 1024;

/// Reads packets.
pub(crate) struct PacketSource<R> {
    stream: R,
    staged: Vec<u8>,
    start: usize,
    /// A read that takes longer fails with [`io::ErrorKind::TimedOut`].
    silence: Duration,
    body_limit: usize,
}

impl<R: AsyncRead + Unpin> PacketSource<R> {
    /// Reads from `stream`; a peer may be silent for `silence`, and send bodies of `body_limit`.
    pub(crate) fn new(stream: R, silence: Duration, body_limit: usize) -> Self {
        let body_limit = body_limit.min(limits::PACKET_BODY_BYTES);
        Self { stream, staged: Vec::with_capacity(STAGING_BYTES), start: 0, silence, body_limit }
    }

    /// The stream, for writing an answer.
    pub(crate) fn stream_mut(&mut self) -> &mut R {
        &mut self.stream
    }

    /// Parts reading, with all that was read ahead, from writing.
    pub(crate) fn split(self, silence: Duration) -> (PacketSource<ReadHalf<R>>, WriteHalf<R>)
    where
        R: AsyncWrite,
    {
        let Self { stream, staged, start, body_limit, .. } = self;
        let (stream, write_half) = tokio::io::split(stream);
        (PacketSource { stream, staged, start, silence, body_limit }, write_half)
    }

    /// The next packet; `None` when the peer ended the stream between two packets.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when the peer broke the protocol, [`io::ErrorKind::TimedOut`] when it was
    /// silent; all else is the network's.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Packet>> {
        while self.staged.len() - self.start < PACKET_HEADER_BYTES {
            let empty = self.staged.len() == self.start;
            if self.fill().await? == 0 {
                return if empty { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
        let mut header = [0; PACKET_HEADER_BYTES];
        header.copy_from_slice(&self.staged[self.start..self.start + PACKET_HEADER_BYTES]);
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let (mut packet, len) = Packet::parse_header(&header).map_err(|why| invalid(why.to_string()))?;
        if len > self.body_limit {
            return Err(invalid(format!("a packet is {len} long, the limit is {} here", self.body_limit)));
        }
        self.start += PACKET_HEADER_BYTES;
        let mut body = Vec::with_capacity(len);
        let ready = len.min(self.staged.len() - self.start);
        body.extend_from_slice(&self.staged[self.start..self.start + ready]);
        self.start += ready;
        while body.len() < len {
            let missing = len - body.len();
            let mut target = (&mut body).limit(missing);
            if read_some(&mut self.stream, &mut target, self.silence).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        packet.body = body;
        Ok(Some(packet))
    }

    /// Reads what there is into the staging buffer.
    async fn fill(&mut self) -> io::Result<usize> {
        if self.start > 0 {
            self.staged.drain(..self.start);
            self.start = 0;
        }
        let room = STAGING_BYTES - self.staged.len();
        let mut target = (&mut self.staged).limit(room);
        read_some(&mut self.stream, &mut target, self.silence).await
    }
}

async fn read_some<R: AsyncRead + Unpin>(
    stream: &mut R,
    target: &mut impl BufMut,
    silence: Duration,
) -> io::Result<usize> {
    match timeout(silence, stream.read_buf(target)).await {
        Ok(read) => read,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::{Act, PacketKind, SessionToken};

    fn packets() -> impl Strategy<Value = Vec<(u64, usize)>> {
        proptest::collection::vec((any::<u64>(), prop_oneof![0_usize..100, 0_usize..200_000]), 0..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn packets_survive_any_cutting_of_the_stream(list in packets(), piece in 1_usize..100_000) {
            let sent: Vec<Packet> = list
                .iter()
                .map(|(n, len)| Packet {
                    kind: PacketKind::Data,
                    act: Act { from: SessionToken(*n), to: SessionToken(1) },
                    body: vec![*n as u8; *len],
                })
                .collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let got = runtime.block_on(async {
                let (mut far, near) = tokio::io::duplex(piece);
                let bytes: Vec<u8> = sent
                    .iter()
                    .flat_map(|p| [p.header().expect("short enough").to_vec(), p.body.clone()].concat())
                    .collect();
                let write = async move {
                    use tokio::io::AsyncWriteExt;
                    far.write_all(&bytes).await.expect("the reader is there");
                };
                let read = async move {
                    let mut source = PacketSource::new(near, Duration::from_secs(10), usize::MAX);
                    let mut got = Vec::new();
                    while let Some(packet) = source.next().await.expect("what was sent is well formed") {
                        got.push(packet);
                    }
                    got
                };
                tokio::join!(write, read).1
            });
            prop_assert_eq!(got, sent);
        }
    }
}
