//! Writes packets to one connection: several to a TLS write, but a lone one at once.

use crate::{connection::Shared, events::DownReason, outbound::Framed};
use protocol::{Message, Packet};
use std::{
    io::{self, IoSlice},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// How long a closing connection may take to say so.
const GOODBYE: Duration = Duration::from_secs(1);

/// Writes until the connection is closed, and a heartbeat when there is nothing else to write.
pub(crate) async fn run<W: AsyncWrite + Unpin>(shared: Arc<Shared>, mut stream: W) {
    let mut batch = Vec::new();
    loop {
        batch.clear();
        match timeout(shared.config.heartbeat, shared.outbound.next_batch(&mut batch)).await {
            Ok(true) => {
                let written = tokio::select! {
                    biased;
                    written = write(&mut stream, &batch) => written,
                    // What is closed for good does not wait for a peer that takes nothing.
                    () = goodbye_is_over(&shared) => break,
                };
                if let Err(why) = written {
                    shared.close(DownReason::Failed(why.to_string()));
                    return;
                }
            }
            Ok(false) => break,
            Err(_) => shared.send_quietly(heartbeat()),
        }
    }
    // TLS's close_notify and then the end of the stream; the peer may be gone.
    let _ = timeout(GOODBYE, stream.shutdown()).await;
}

async fn goodbye_is_over(shared: &Shared) {
    shared.closing.cancelled().await;
    tokio::time::sleep(GOODBYE).await;
}

fn heartbeat() -> Result<Packet, protocol::ProtocolError> {
    crate::connection::message_packet(&Message::Heartbeat, protocol::Act::default())
}

/// Writes all packets, without copying bodies together: TLS gathers them into its records.
pub(crate) async fn write<W: AsyncWrite + Unpin>(stream: &mut W, batch: &[Framed]) -> io::Result<()> {
    let mut slices = Vec::with_capacity(batch.len() * 2);
    for packet in batch {
        slices.push(IoSlice::new(&packet.header));
        if !packet.body.is_empty() {
            slices.push(IoSlice::new(&packet.body));
        }
    }
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let n = stream.write_vectored(rest).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, n);
    }
    stream.flush().await
}
