//! Peers that must be refused, each for its own reason, while a good connection goes on.

mod common;

use common::{Host, connected, free_address, host, impatient, ping, raw, raw::Raw, soon, two};
use lento_net::{Connection, DownReason, NetConfig, NetEvent, RefusalKind};
use protocol::{Act, HostName, Message, PacketKind, Request, SessionToken};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

/// Good host `b`, connected to `a`, which bad peers call.
struct Scene {
    a: Host,
    _b: Host,
    to_a: Connection,
    to_b: Connection,
}

impl Scene {
    async fn new(config: NetConfig) -> Self {
        let (a, b, to_b, to_a) = connected(config).await;
        Self { a, _b: b, to_a, to_b }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(&self.a.identity.listen).await.expect("it listens")
    }

    /// The bad one was refused for `kind` and nothing else; the good connection was never down and works.
    async fn refused(mut self, kind: RefusalKind) {
        self.a.refused(kind, 1).await;
        let refusals = self.a.network.refusals();
        assert_eq!(refusals.by_kind.len(), 1, "{refusals:?}");
        self.good_is_undisturbed().await;
    }

    async fn good_is_undisturbed(&mut self) {
        // Had it gone down, the next event would say so.
        ping(&self.to_a, &mut self.a).await;
        assert_eq!(self.a.network.connection(host(2)).map(|c| c.id()), Some(self.to_b.id()));
    }

    async fn refused_with(self, params: &CertificateParams, issuer: &Issuer<'_, KeyPair>, kind: RefusalKind) {
        let certified = raw::issue(params, issuer);
        if let Ok(mut bad) = Raw::connect(&self.a, Some(certified)).await {
            bad.hello(host(9)).await;
            bad.closed().await;
        }
        self.refused(kind).await;
    }
}

#[tokio::test]
async fn plain_text() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut bad = scene.tcp().await;
    bad.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("connected");
    scene.refused(RefusalKind::NotTls).await;
}

#[tokio::test]
async fn garbage() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut bad = scene.tcp().await;
    bad.write_all(&[0xfe; 4096]).await.expect("connected");
    scene.refused(RefusalKind::NotTls).await;
}

#[tokio::test]
async fn tls_1_2() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut bad = scene.tcp().await;
    bad.write_all(&client_hello_1_2()).await.expect("connected");
    scene.refused(RefusalKind::OldTls).await;
}

/// As OpenSSL's with `-tls1_2`, the least of it: no supported_versions.
fn client_hello_1_2() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    // supported_groups: x25519, P-256; signature_algorithms: ECDSA P-256, RSA-PSS, RSA; ec_point_formats.
    let extensions =
        [0, 10, 0, 6, 0, 4, 0, 29, 0, 23, 0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1, 0, 11, 0, 2, 1, 0].as_slice();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test]
async fn no_certificate() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut bad = Raw::connect(&scene.a, None).await.expect("TLS is good");
    bad.hello(host(2)).await;
    bad.closed().await;
    scene.refused(RefusalKind::NoCertificate).await;
}

#[tokio::test]
async fn no_certificate_and_another_request_than_join() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut bad = Raw::connect(&scene.a, None).await.expect("TLS is good");
    let act = Act { from: SessionToken(1), to: SessionToken::DISPATCHER };
    bad.send(PacketKind::Request, act, Request::FileSets.to_body().expect("short")).await;
    bad.closed().await;
    scene.refused(RefusalKind::NoCertificate).await;
}

#[tokio::test]
async fn no_certificate_and_a_long_packet() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut bad = Raw::connect(&scene.a, None).await.expect("TLS is good");
    bad.send(PacketKind::Request, Act::default(), vec![0; protocol::limits::JOIN_PACKET_BYTES + 1]).await;
    bad.closed().await;
    scene.refused(RefusalKind::Protocol).await;
}

#[tokio::test]
async fn a_foreign_authority_of_the_same_name() {
    let scene = Scene::new(NetConfig::default()).await;
    let real = raw::authority_of(&scene.a);
    let mut params = CertificateParams::default();
    params.distinguished_name = real_name(&scene.a);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let foreign = Issuer::new(params, key);
    assert_ne!(foreign.key().serialize_der(), real.key().serialize_der());
    let leaf = raw::params(&scene.a, 9);
    scene.refused_with(&leaf, &foreign, RefusalKind::ForeignCertificate).await;
}

fn real_name(a: &Host) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    // As `CertificateParams::default` names it, and the common name of the authority.
    name.push(rcgen::DnType::CommonName, format!("InterMezzo cluster {}", a.identity.cluster));
    name
}

#[tokio::test]
async fn an_expired_certificate() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut params = raw::params(&scene.a, 9);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let issuer = raw::authority_of(&scene.a);
    scene.refused_with(&params, &issuer, RefusalKind::Expired).await;
}

#[tokio::test]
async fn a_certificate_not_valid_yet() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut params = raw::params(&scene.a, 9);
    params.not_before = rcgen::date_time_ymd(2090, 1, 1);
    params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    let issuer = raw::authority_of(&scene.a);
    scene.refused_with(&params, &issuer, RefusalKind::Expired).await;
}

#[tokio::test]
async fn a_certificate_for_servers_only() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut params = raw::params(&scene.a, 9);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let issuer = raw::authority_of(&scene.a);
    scene.refused_with(&params, &issuer, RefusalKind::BadCertificate).await;
}

#[tokio::test]
async fn a_certificate_of_another_cluster() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut params = raw::params(&scene.a, 9);
    params.subject_alt_names =
        CertificateParams::new([format!("h9.{}.intermezzo", "0".repeat(32))]).expect("a name").subject_alt_names;
    let issuer = raw::authority_of(&scene.a);
    scene.refused_with(&params, &issuer, RefusalKind::ForeignCertificate).await;
}

#[tokio::test]
async fn a_hello_that_is_not_what_the_certificate_says() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut bad = Raw::certified(&scene.a, 9).await;
    bad.hello(host(2)).await;
    bad.closed().await;
    scene.refused(RefusalKind::Protocol).await;
}

#[tokio::test]
async fn a_version_of_the_future() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut bad = Raw::certified(&scene.a, 9).await;
    let hello = Message::Hello { versions: (900, 901), host: host(9), filesets: Vec::new() };
    bad.send(PacketKind::Message, Act::default(), hello.to_body().expect("short")).await;
    let answer = bad.receive().await.expect("it says which versions it speaks");
    assert!(matches!(Message::from_body(&answer.body), Ok(Message::Hello { .. })));
    bad.closed().await;
    scene.refused(RefusalKind::Version).await;
}

#[tokio::test]
async fn garbage_in_place_of_a_hello() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut bad = Raw::certified(&scene.a, 9).await;
    bad.0.write_all(&[0xfe; 4096]).await.expect("connected");
    bad.0.flush().await.expect("connected");
    bad.closed().await;
    scene.refused(RefusalKind::Protocol).await;
}

/// What an accepted host can do wrong, each the end of its connection and of nothing else.
#[tokio::test]
async fn accepted_hosts_that_misbehave() {
    let session = |from, to| Act { from: SessionToken(from), to: SessionToken(to) };
    let credit = Message::Credit { bytes: 1 }.to_body().expect("short");
    let request = Request::FileSets.to_body().expect("short");
    let join = Request::Join { name: name("x"), listen: "x:1".into(), secret: vec![], csr: vec![] };
    let wrongs: Vec<(&str, PacketKind, Act, Vec<u8>)> = vec![
        ("a message that is none", PacketKind::Message, Act::default(), vec![0xff; 10]),
        ("a message that is cut off", PacketKind::Message, Act::default(), vec![]),
        ("a request that is none", PacketKind::Request, session(1, 0), vec![0xff; 10]),
        ("a request from the dispatcher", PacketKind::Request, session(0, 0), request.clone()),
        ("a request to a session", PacketKind::Request, session(1, 5), request),
        ("a second join", PacketKind::Request, session(1, 0), join.to_body().expect("short")),
        ("an answer to nothing", PacketKind::Reply, session(1, 77), protocol::Reply::Done.to_body().expect("short")),
        ("data for nothing", PacketKind::Data, session(1, 77), vec![0; 100]),
        ("credit for nothing", PacketKind::Message, session(1, 77), credit.clone()),
        ("credit for the dispatcher", PacketKind::Message, session(1, 0), credit),
        ("an end with a body", PacketKind::EndOfData, session(1, 77), vec![1]),
        ("the end of a request of nobody", PacketKind::EndOfRequest, session(1, 77), vec![]),
    ];
    let mut scene = Scene::new(NetConfig::default()).await;
    for (at, (what, kind, act, body)) in wrongs.into_iter().enumerate() {
        let mut bad = Raw::certified(&scene.a, 9).await;
        bad.hello(host(9)).await;
        scene.a.up().await;
        bad.send(kind, act, body).await;
        let reason = scene.a.down().await;
        assert!(matches!(reason, DownReason::Misbehaved(_)), "{what}: {reason:?}");
        bad.closed().await;
        scene.a.refused(RefusalKind::Protocol, at as u64 + 1).await;
        scene.good_is_undisturbed().await;
    }
}

fn name(text: &str) -> HostName {
    text.parse().expect("a name")
}

#[tokio::test]
async fn an_over_long_frame() {
    let mut scene = Scene::new(NetConfig::default()).await;
    let mut bad = Raw::certified(&scene.a, 9).await;
    bad.hello(host(9)).await;
    scene.a.up().await;
    let mut header = [0; protocol::PACKET_HEADER_BYTES];
    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    header[4] = PacketKind::Message as u8;
    bad.0.write_all(&header).await.expect("connected");
    bad.0.flush().await.expect("connected");
    let reason = scene.a.down().await;
    assert!(matches!(&reason, DownReason::Misbehaved(why) if why.contains("limit")), "{reason:?}");
    scene.refused(RefusalKind::Protocol).await;
}

#[tokio::test]
async fn more_sessions_than_allowed() {
    let config = NetConfig { sessions: 3, ..NetConfig::default() };
    let mut scene = Scene::new(config).await;
    let mut bad = Raw::certified(&scene.a, 9).await;
    bad.hello(host(9)).await;
    scene.a.up().await;
    let mut held = Vec::new();
    for n in 1..=4 {
        let act = Act { from: SessionToken(n), to: SessionToken::DISPATCHER };
        bad.send(PacketKind::Request, act, Request::FileSets.to_body().expect("short")).await;
    }
    let reason = loop {
        match scene.a.event().await {
            NetEvent::Request { responder, .. } => held.push(responder),
            NetEvent::Down { reason, .. } => break reason,
            other => panic!("unexpected {other:?}"),
        }
    };
    assert_eq!(held.len(), 3);
    assert!(matches!(&reason, DownReason::Misbehaved(why) if why.contains("sessions")), "{reason:?}");
    assert!(held.iter().all(lento_net::Responder::is_cancelled));
    scene.refused(RefusalKind::Protocol).await;
}

#[tokio::test]
async fn one_that_says_nothing() {
    let scene = Scene::new(impatient()).await;
    let _tcp = scene.tcp().await;
    scene.refused(RefusalKind::Silent).await;
}

#[tokio::test]
async fn one_that_says_nothing_after_tls() {
    let scene = Scene::new(impatient()).await;
    let _bad = Raw::certified(&scene.a, 9).await;
    scene.refused(RefusalKind::Silent).await;
}

#[tokio::test]
async fn one_that_closes_at_once() {
    let scene = Scene::new(NetConfig::default()).await;
    drop(scene.tcp().await);
    scene.refused(RefusalKind::Lost).await;
}

#[tokio::test]
async fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let config = NetConfig { handshakes: 4, ..NetConfig::default() };
    let (mut a, mut b) = two(config).await;
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(TcpStream::connect(&a.identity.listen).await.expect("it listens"));
    }
    a.refused(RefusalKind::Crowded, 16).await;
    b.network.connect(a.id(), &a.identity.listen);
    let (_, to_a) = (a.up().await, b.up().await);
    ping(&to_a, &mut a).await;
}

#[tokio::test]
async fn too_many_connections_of_one_host() {
    let scene = Scene::new(NetConfig::default()).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(Raw::certified(&scene.a, 9).await);
    }
    // Each has to be counted, which is after TLS, before the next one is refused.
    let mut more = Raw::certified(&scene.a, 9).await;
    more.closed().await;
    scene.refused(RefusalKind::TooManyConnections).await;
}

#[tokio::test]
async fn those_who_call_are_careful_too() {
    let (a, mut b) = two(impatient()).await;
    let mut other = Host::first(NetConfig::default()).await;
    let third = other.admit("c", NetConfig::default()).await;

    b.network.connect(a.id(), &free_address());
    let nobody = b.connect_failed().await;
    assert!(nobody.contains("refused"), "{nobody}");

    b.network.connect(a.id(), &other.identity.listen);
    let foreign = b.connect_failed().await;
    assert!(foreign.contains("certificate"), "{foreign}");
    other.refused(RefusalKind::ForeignCertificate, 0).await;

    b.network.connect(host(7), &a.identity.listen);
    let another = b.connect_failed().await;
    assert!(another.contains("not valid for name"), "{another}");

    let plain = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = plain.local_addr().expect("bound").to_string();
    b.network.connect(a.id(), &address);
    let (mut tcp, _) = soon("a call", plain.accept()).await.expect("a call");
    tcp.write_all(b"220 mail.example ESMTP\r\n").await.expect("connected");
    b.connect_failed().await;

    b.network.connect(a.id(), &address);
    let _silent = soon("a call", plain.accept()).await.expect("a call");
    let silent = b.connect_failed().await;
    assert!(silent.contains("in time"), "{silent}");
    drop(third);
}
