//! Bulk data: whole, in order, in nobody's way, and fast.

mod common;

use common::{Host, connected, ping, raw::Raw, soon};
use lento_net::{NetConfig, NetError, NetEvent, Responder};
use protocol::{Act, FileSetId, Message, PacketKind, Reply, Request, SessionToken, limits};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::sleep;

const CHUNK: usize = limits::DATA_CHUNK_BYTES;

async fn requested(host: &mut Host) -> Responder {
    match host.event().await {
        NetEvent::Request { responder, .. } => responder,
        other => panic!("no request, but {other:?}"),
    }
}

/// Sends chunks that begin with their number, and counts those that were taken from it.
fn produce(responder: Responder, chunks: u64) -> Arc<AtomicU64> {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    tokio::spawn(async move {
        for n in 0..chunks {
            let mut body = vec![n as u8; CHUNK];
            body[..8].copy_from_slice(&n.to_le_bytes());
            if responder.data(body).await.is_err() {
                return;
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
        responder.end_of_data();
        let _ = responder.reply(&Reply::Done);
    });
    sent
}

/// Waits until the producer cannot go on.
async fn stuck(sent: &AtomicU64) -> u64 {
    let mut last = u64::MAX;
    let mut same = 0;
    soon("a standstill", async {
        while same < 20 {
            sleep(Duration::from_millis(10)).await;
            let now = sent.load(Ordering::SeqCst);
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
    })
    .await;
    last
}

#[tokio::test]
async fn data_comes_whole_then_its_end_then_the_reply() {
    let (mut a, _b, _, to_a) = connected(NetConfig::default()).await;
    let mut session = to_a.request(&Request::FileSets).expect("it is up");
    produce(requested(&mut a).await, 200);
    let mut data = session.data().expect("the first time");
    assert!(session.data().is_none());
    let mut n = 0_u64;
    while let Some(body) = soon("data", data.recv()).await.expect("the connection is up") {
        assert_eq!((body.len(), &body[..8]), (CHUNK, n.to_le_bytes().as_slice()));
        assert!(body[8..].iter().all(|b| *b == n as u8));
        n += 1;
    }
    assert_eq!(n, 200);
    assert_eq!(soon("a reply", session.reply()).await, Ok(Reply::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_goes_from_thread_to_thread() {
    let (mut a, _b, _, to_a) = connected(NetConfig::default()).await;
    let mut session = to_a.request(&Request::FileSets).expect("it is up");
    let responder = requested(&mut a).await;
    let producer = std::thread::spawn(move || {
        for n in 0..100 {
            responder.blocking_data(vec![n; 100_000])?;
        }
        responder.reply(&Reply::Done)
    });
    let mut data = session.data().expect("the first time");
    let consumer = std::thread::spawn(move || {
        let mut bytes = 0;
        while let Some(body) = data.blocking_recv()? {
            bytes += body.len();
        }
        Ok::<_, NetError>(bytes)
    });
    assert_eq!(soon("a reply", session.reply()).await, Ok(Reply::Done));
    assert_eq!(consumer.join().expect("no panic"), Ok(10_000_000));
    assert_eq!(producer.join().expect("no panic"), Ok(()));
}

#[tokio::test]
async fn a_slow_consumer_holds_up_nobody_else() {
    let (mut a, mut b, to_b, to_a) = connected(NetConfig::default()).await;
    let mut slow = to_a.request(&Request::FileSets).expect("it is up");
    let slow_sent = produce(requested(&mut a).await, 100);
    let sent = stuck(&slow_sent).await;
    assert_eq!(sent as usize, limits::TRANSFER_CREDIT_BYTES / (CHUNK + 24), "its credit, and no more");
    // Another transfer, ten times the credit, and control packets, both ways.
    let mut quick = to_a.request(&Request::FileSets).expect("it is up");
    produce(requested(&mut a).await, 320);
    let mut data = quick.data().expect("the first time");
    let mut n = 0;
    while soon("data", data.recv()).await.expect("the connection is up").is_some() {
        n += 1;
    }
    assert_eq!(n, 320);
    ping(&to_a, &mut a).await;
    ping(&to_b, &mut b).await;
    assert_eq!(slow_sent.load(Ordering::SeqCst), sent, "nobody took any of it");
    // And when it wakes up, all is there.
    let mut data = slow.data().expect("the first time");
    let mut n = 0;
    while soon("data", data.recv()).await.expect("the connection is up").is_some() {
        n += 1;
    }
    assert_eq!(n, 100);
}

#[tokio::test]
async fn control_overtakes_the_bulk_that_waits() {
    let mut a = Host::first(NetConfig { credit_bytes: 1 << 30, ..NetConfig::default() }).await;
    let mut peer = Raw::certified(&a, 9).await;
    peer.hello(common::host(9)).await;
    let connection = a.up().await;
    let act = Act { from: SessionToken(1), to: SessionToken::DISPATCHER };
    peer.send(PacketKind::Request, act, Request::FileSets.to_body().expect("short")).await;
    // The peer reads nothing, so the producer fills all that there is between the two, and its queue.
    let sent = produce(requested(&mut a).await, 4096);
    let queued = stuck(&sent).await;
    connection.send(&Message::ShipMore { fileset: FileSetId::from_bytes([1; 16]) }).expect("it is up");
    let mut before = 0_u64;
    loop {
        let packet = peer.receive().await.expect("the connection is up");
        match packet.kind {
            PacketKind::Data => before += 1,
            PacketKind::Message if matches!(Message::from_body(&packet.body), Ok(Message::ShipMore { .. })) => break,
            _ => {}
        }
    }
    let waiting = (limits::BULK_QUEUE_BYTES / (CHUNK + 24)) as u64;
    assert!(before + waiting <= queued, "{before} before it, of {queued}, of which {waiting} had not been written");
}

#[tokio::test]
async fn more_data_than_credit_is_misbehaviour() {
    let mut a = Host::first(NetConfig { credit_bytes: 1 << 20, ..NetConfig::default() }).await;
    let mut peer = Raw::certified(&a, 9).await;
    peer.hello(common::host(9)).await;
    let connection = a.up().await;
    let mut session = connection.request(&Request::FileSets).expect("it is up");
    assert_eq!(peer.receive().await.expect("a hello").kind, PacketKind::Message);
    let request = loop {
        let packet = peer.receive().await.expect("a request");
        if packet.kind == PacketKind::Request {
            break packet;
        }
    };
    let act = Act { from: SessionToken(1), to: request.act.from };
    for _ in 0..5 {
        peer.send(PacketKind::Data, act, vec![0; CHUNK]).await;
    }
    let reason = a.down().await;
    assert!(matches!(&reason, lento_net::DownReason::Misbehaved(why) if why.contains("credit")), "{reason:?}");
    assert!(soon("an end", session.reply()).await.is_err());
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_here() {
    let (mut a, _b, _, to_a) = connected(NetConfig::default()).await;
    let _session = to_a.request(&Request::FileSets).expect("it is up");
    let responder = requested(&mut a).await;
    let result = responder.data(vec![0; limits::PACKET_BODY_BYTES + 1]).await;
    assert!(matches!(result, Err(NetError::Protocol(_))), "{result:?}");
}

/// `cargo test --release -p lento-net --test bulk -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn throughput_and_latency() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mut a, _b, _, to_a) = connected(NetConfig::default()).await;
        for _ in 0..3 {
            let chunks = (1 << 30) / CHUNK as u64;
            let mut session = to_a.request(&Request::FileSets).expect("it is up");
            let responder = requested(&mut a).await;
            let start = Instant::now();
            tokio::spawn(async move {
                for _ in 0..chunks {
                    responder.data(vec![0; CHUNK]).await.expect("the connection is up");
                }
                responder.reply(&Reply::Done)
            });
            let mut data = session.data().expect("the first time");
            let mut bytes = 0;
            while let Some(body) = data.recv().await.expect("the connection is up") {
                bytes += body.len();
            }
            println!("bulk: {:.0} MB/s", bytes as f64 / 1e6 / start.elapsed().as_secs_f64());
        }
        let mut times = Vec::new();
        for _ in 0..2000 {
            let start = Instant::now();
            ping(&to_a, &mut a).await;
            times.push(start.elapsed());
        }
        times.sort();
        println!("request and reply: median {:?}, 99 % {:?}", times[1000], times[1980]);
    });
}
