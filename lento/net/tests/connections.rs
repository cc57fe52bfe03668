//! Connections come up, stay one, and go down on both sides.

mod common;

use common::{Host, connected, free_address, impatient, ping, soon, two};
use lento_net::{DownReason, NetConfig, NetError, NetEvent};
use protocol::{FileSetId, Message, Refusal, Reply, Request};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

/// What a relay does with what passes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Line {
    Good,
    Frozen,
    Cut,
}

/// A wire between two hosts that the test can freeze or cut; its address, and how.
async fn relay(to: &str) -> (String, watch::Sender<Line>) {
    let address = free_address();
    let listener = TcpListener::bind(&address).await.expect("free");
    let (control, line) = watch::channel(Line::Good);
    let to = to.to_owned();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (to, mut line) = (to.clone(), line.clone());
            tokio::spawn(async move {
                let mut far = TcpStream::connect(&to).await.expect("it listens");
                while *line.borrow_and_update() == Line::Good {
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => return,
                        _ = line.changed() => {}
                    }
                }
                // Both sockets stay open, and nothing passes, until the line is cut.
                let _ = line.wait_for(|line| *line == Line::Cut).await;
            });
        }
    });
    (address, control)
}

async fn connected_by_relay(config: NetConfig) -> (Host, Host, watch::Sender<Line>) {
    let (mut a, mut b) = two(config).await;
    let (address, line) = relay(&a.identity.listen).await;
    b.network.connect(a.id(), &address);
    a.up().await;
    b.up().await;
    (a, b, line)
}

#[tokio::test]
async fn messages_and_requests_go_both_ways_in_order() {
    let (mut a, mut b, to_b, to_a) = connected(NetConfig::default()).await;
    for n in 0..100 {
        let message = |n| Message::ShipMore { fileset: FileSetId::from_bytes([n; 16]) };
        to_b.send(&message(n)).expect("it is up");
        to_a.send(&message(n)).expect("it is up");
    }
    for n in 0..100 {
        for host in [&mut a, &mut b] {
            match host.event().await {
                NetEvent::Message { message: Message::ShipMore { fileset }, .. } => {
                    assert_eq!(fileset, FileSetId::from_bytes([n; 16]));
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    ping(&to_a, &mut a).await;
    ping(&to_b, &mut b).await;
    assert_eq!(a.network.send(common::host(5), &Message::Heartbeat), Err(NetError::NotConnected(common::host(5))));
}

#[tokio::test]
async fn a_second_call_does_nothing() {
    let (mut a, mut b, to_b, _) = connected(NetConfig::default()).await;
    b.network.connect(a.id(), &a.identity.listen);
    a.network.connect(b.id(), &b.identity.listen);
    ping(&to_b, &mut b).await;
    assert!(timeout(Duration::from_millis(100), a.events.recv()).await.is_err(), "nothing happened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_call_each_other_one_connection_stays() {
    let (mut a, mut b) = two(NetConfig::default()).await;
    for round in 0..40 {
        a.network.connect(b.id(), &b.identity.listen);
        if round % 4 == 1 {
            tokio::task::yield_now().await;
        }
        if round % 4 == 2 {
            sleep(Duration::from_micros(500 * round)).await;
        }
        b.network.connect(a.id(), &a.identity.listen);
        let (to_b, to_a) = (a.up().await, b.up().await);
        ping(&to_a, &mut a).await;
        ping(&to_b, &mut b).await;
        assert_eq!(a.network.connection(b.id()).map(|c| c.id()), Some(to_b.id()));
        // Let a call that is still under way find that it is the second.
        sleep(Duration::from_millis(10)).await;
        ping(&to_a, &mut a).await;
        if round % 2 == 0 {
            to_a.close()
        } else {
            to_b.close()
        }
        a.down().await;
        b.down().await;
    }
    assert_eq!(a.network.refusals().total, 0, "{:?}", a.network.refusals());
    assert_eq!(b.network.refusals().total, 0, "{:?}", b.network.refusals());
}

#[tokio::test]
async fn a_cut_is_seen_by_both() {
    let (mut a, mut b, line) = connected_by_relay(NetConfig::default()).await;
    line.send_replace(Line::Cut);
    assert!(matches!(a.down().await, DownReason::Closed | DownReason::Failed(_)));
    assert!(matches!(b.down().await, DownReason::Closed | DownReason::Failed(_)));
    assert!(a.network.connection(b.id()).is_none());
}

#[tokio::test]
async fn silence_is_seen_by_both() {
    let (mut a, mut b, line) = connected_by_relay(impatient()).await;
    line.send_replace(Line::Frozen);
    assert_eq!(a.down().await, DownReason::Silent);
    assert_eq!(b.down().await, DownReason::Silent);
}

#[tokio::test]
async fn heartbeats_keep_an_idle_connection() {
    let (mut a, _b, _, to_a) = connected(impatient()).await;
    sleep(impatient().peer_silence * 3).await;
    ping(&to_a, &mut a).await;
}

#[tokio::test]
async fn who_calls_again_lost_the_connection_before() {
    let config = NetConfig { peer_silence: Duration::from_secs(60), ..NetConfig::default() };
    let (mut a, b, line) = connected_by_relay(config).await;
    line.send_replace(Line::Frozen);
    // The host comes back, as after a loss of power, and the other has not noticed that it was away.
    let Host { home, network, .. } = b;
    network.shutdown().await;
    let mut b = Host::start(home, NetConfig::default()).await;
    b.network.connect(a.id(), &a.identity.listen);
    assert_eq!(a.down().await, DownReason::Replaced);
    let (_, to_a) = (a.up().await, b.up().await);
    ping(&to_a, &mut a).await;
}

#[tokio::test]
async fn a_shutdown_is_told_to_the_other() {
    let (mut a, b, _, to_a) = connected(NetConfig::default()).await;
    to_a.send(&Message::ShipMore { fileset: FileSetId::from_bytes([1; 16]) }).expect("it is up");
    soon("the end", b.network.shutdown()).await;
    assert!(matches!(a.event().await, NetEvent::Message { .. }), "what was queued is still sent");
    assert_eq!(a.down().await, DownReason::Closed);
    assert_eq!(to_a.send(&Message::Heartbeat), Err(NetError::Closed(a.id())));
}

#[tokio::test]
async fn open_requests_fail_when_the_connection_ends() {
    let (mut a, _b, _, to_a) = connected(NetConfig::default()).await;
    let mut session = to_a.request(&Request::FileSets).expect("it is up");
    let mut data = session.data().expect("the first time");
    let NetEvent::Request { responder, .. } = a.event().await else { panic!("no request") };
    a.network.shutdown().await;
    soon("the end", responder.cancelled()).await;
    assert!(matches!(soon("an end", session.reply()).await, Err(NetError::Closed(_))));
    assert!(matches!(soon("an end", data.recv()).await, Err(NetError::Closed(_))));
    soon("the end", to_a.closed()).await;
    assert!(matches!(to_a.request(&Request::FileSets), Err(NetError::Closed(_))));
}

#[tokio::test]
async fn a_request_that_is_dropped_is_refused() {
    let (mut a, _b, to_b, to_a) = connected(NetConfig::default()).await;
    let mut session = to_a.request(&Request::FileSets).expect("it is up");
    drop(a.event().await);
    assert!(matches!(soon("a reply", session.reply()).await, Ok(Reply::Refused(Refusal::Failed(_)))));
    drop(session);
    at_rest(&to_a).await;
    at_rest(&to_b).await;
}

#[tokio::test]
async fn a_request_that_is_given_up_is_cancelled() {
    let (mut a, _b, to_b, to_a) = connected(NetConfig::default()).await;
    let session = to_a.request(&Request::FileSets).expect("it is up");
    let NetEvent::Request { responder, .. } = a.event().await else { panic!("no request") };
    assert!(!responder.is_cancelled());
    drop(session);
    soon("word of it", responder.cancelled()).await;
    assert_eq!(responder.data(vec![1]).await, Err(NetError::Cancelled));
    assert_eq!(responder.reply(&Reply::Done), Ok(()));
    at_rest(&to_a).await;
    at_rest(&to_b).await;
    ping(&to_a, &mut a).await;
}

#[tokio::test]
async fn a_host_that_takes_nothing_is_disconnected() {
    let config = NetConfig { control_packets: 100, ..NetConfig::default() };
    let (a, b, line) = connected_by_relay(config).await;
    line.send_replace(Line::Frozen);
    let connection = a.network.connection(b.id()).expect("it is up");
    let message = Message::Stalled { fileset: FileSetId::from_bytes([1; 16]), reason: "x".repeat(100_000) };
    let overflow = (0..100_000).find_map(|_| connection.send(&message).err());
    assert_eq!(overflow, Some(NetError::Full(b.id())));
    let mut a = a;
    assert_eq!(a.down().await, DownReason::QueueFull);
}

async fn at_rest(connection: &lento_net::Connection) {
    let connection = Arc::new(connection.clone());
    let rest = async {
        while connection.open_sessions() != (0, 0) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("the end of all sessions", rest).await;
}
