//! Takes calls. Nothing that one caller does, or does not do, disturbs the others.

use crate::{
    handshake::{self, NoConnection},
    join,
    network::Core,
    refusals::{RefusalKind, Refused},
};
use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// After an error of the listening socket (no descriptors left) it is asked again after a pause.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs until the network is shut down.
pub(crate) async fn run(core: Arc<Core>, listener: TcpListener) {
    let mut handshakes: VecDeque<CancellationToken> = VecDeque::new();
    loop {
        let (tcp, address) = tokio::select! {
            () = core.shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(why) => {
                    tracing::warn!(%why, "cannot accept connections");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        handshakes.retain(|handshake| !handshake.is_cancelled());
        // A good peer needs milliseconds, so the oldest is the most suspect.
        if handshakes.len() >= core.config.handshakes
            && let Some(oldest) = handshakes.pop_front()
        {
            oldest.cancel();
        }
        let handshake = CancellationToken::new();
        handshakes.push_back(handshake.clone());
        core.tasks.spawn(one(core.clone(), tcp, address, handshake));
    }
}

/// Shakes hands with one caller, and serves it if it is good. `handshake` is cancelled when it gets in the way of
/// others, and by us when it is over.
async fn one(core: Arc<Core>, tcp: TcpStream, address: SocketAddr, handshake: CancellationToken) {
    let result = tokio::select! {
        () = core.shutdown.cancelled() => return,
        () = handshake.cancelled() => Err(Refused::new(RefusalKind::Crowded, "too many handshakes are under way").into()),
        result = timeout(core.config.handshake_timeout, shake_hands(&core, tcp, address)) => match result {
            Ok(result) => result,
            Err(_) => Err(Refused::new(RefusalKind::Silent, "it did not finish its handshake in time").into()),
        },
    };
    handshake.cancel();
    match result {
        Ok(Some(established)) => established.serve(&core, address).await,
        Ok(None) => {}
        Err(NoConnection::Duplicate) => tracing::debug!(%address, "a second connection is not needed"),
        Err(NoConnection::Refused(refused)) => core.refusals.note(address, &refused),
    }
}

async fn shake_hands(
    core: &Arc<Core>,
    tcp: TcpStream,
    address: SocketAddr,
) -> Result<Option<handshake::Established>, NoConnection> {
    let tcp = handshake::prepare(tcp, core.config.peer_silence)?;
    let stream = handshake::wrap(TlsAcceptor::from(core.server_tls.clone()).accept(tcp).await?.into());
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    match certificate.map(crate::certs::subject) {
        Some(Some((host, _))) => handshake::answer(core, host, stream, address).await,
        Some(None) => Err(Refused::new(RefusalKind::BadCertificate, "its certificate names no host").into()),
        None => {
            join::serve(core, stream, address).await?;
            Ok(None)
        }
    }
}
