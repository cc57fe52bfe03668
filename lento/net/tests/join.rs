//! Making a cluster, and getting into it: with a good ticket once, with any other never.

mod common;

use common::{Host, connected, files, free_address, host, mode, ping, soon, two};
use lento_net::{Identity, IdentityError, NetConfig, NetEvent, Ticket, join, redeem};
use protocol::{Access, Grant, Refusal, Role};
use std::time::Duration;
use tempfile::TempDir;

fn home() -> TempDir {
    TempDir::new().expect("a directory")
}

async fn try_join(home: &TempDir, ticket: &Ticket, name: &str) -> Result<lento_net::Joined, IdentityError> {
    let name = name.parse().expect("a name");
    soon("the answer", join(home.path(), ticket, name, free_address())).await
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, IdentityError>) -> Refusal {
    match result {
        Err(IdentityError::Refused(refusal)) => refusal,
        other => panic!("not refused, but {other:?}"),
    }
}

fn grant(name: &str) -> Grant {
    Grant { fileset: name.parse().expect("a name"), role: Role::Replicator, access: Access::ReadWrite }
}

#[tokio::test]
async fn a_host_joins_and_talks() {
    let mut a = Host::first(NetConfig::default()).await;
    let grant = Some(grant("web"));
    let ticket = a.identity.invite(grant.clone(), Duration::from_secs(60)).expect("the first host invites");
    let ticket: Ticket = ticket.to_string().parse().expect("its text reads back");
    let b = home();
    let joined = try_join(&b, &ticket, "b").await.expect("a good ticket");
    assert_eq!(joined.identity.host, host(2));
    assert_eq!(joined.identity.cluster, a.identity.cluster);
    assert_eq!(joined.grant, grant);
    assert_eq!((joined.inviter.host, joined.inviter.name.as_str()), (host(1), "a"));
    assert_eq!(joined.inviter.address, a.identity.listen);
    match a.event().await {
        NetEvent::Joined { member, grant: f } => assert_eq!((member.host, f), (host(2), grant)),
        other => panic!("not joined, but {other:?}"),
    }
    let known = a.identity.member(host(2)).expect("readable").expect("b is known");
    assert_eq!((known.name.as_str(), known.address), ("b", joined.identity.listen.clone()));
    assert_eq!(joined.identity.members().expect("readable").len(), 2);
    let mut b = Host::start(b, NetConfig::default()).await;
    b.network.connect(host(1), &joined.inviter.address);
    let (_, to_a) = (a.up().await, b.up().await);
    ping(&to_a, &mut a).await;
}

#[tokio::test]
async fn what_is_private_is_closed_to_others() {
    let (a, b, ..) = connected(NetConfig::default()).await;
    for home in [a.home.path(), b.home.path()] {
        assert_eq!(mode(home.to_owned()), 0o700);
        for file in files(home) {
            assert_eq!(mode(file.clone()), 0o600, "{}", file.display());
        }
    }
    let secret = a.ticket().to_string();
    let register = std::fs::read_to_string(a.home.path().join("cluster.json")).expect("readable");
    assert!(!register.contains(&secret[5..40]), "the secret is not kept");
    assert!(!b.home.path().join("ca-key.pem").exists(), "the authority's key stays on the first host");
}

#[test]
fn an_identity_is_not_overwritten() {
    let a = home();
    assert!(matches!(Identity::load(a.path()), Err(IdentityError::Missing(_))));
    let first = Identity::init(a.path(), "a".parse().expect("a name"), "127.0.0.1:7400".into()).expect("an empty home");
    let again = Identity::init(a.path(), "z".parse().expect("a name"), "127.0.0.1:7400".into());
    assert!(matches!(&again, Err(IdentityError::Exists { name, .. }) if name == "a"), "{again:?}");
    assert_eq!(Identity::load(a.path()).expect("it is as it was").cluster, first.cluster);
    for address in ["nowhere", ":7400", "10.0.0.1:0", "10.0.0.1:70000", "0.0.0.0:7400", "[::]:7400", "a b:1"] {
        let bad = Identity::init(home().path(), "a".parse().expect("a name"), address.into());
        assert!(matches!(bad, Err(IdentityError::Listen(_))), "{address}");
    }
}

#[test]
fn a_damaged_identity_says_which_file() {
    let a = home();
    Identity::init(a.path(), "a".parse().expect("a name"), "127.0.0.1:7400".into()).expect("an empty home");
    for file in ["identity.toml", "cert.pem", "ca.pem", "key.pem", "cluster.json"] {
        let path = a.path().join(file);
        let good = std::fs::read(&path).expect("readable");
        std::fs::write(&path, "garbage").expect("writable");
        let why = Identity::load(a.path()).expect_err("garbage is no identity").to_string();
        assert!(why.contains(file) && why.contains("damaged"), "{why}");
        std::fs::write(&path, good).expect("writable");
    }
    Identity::load(a.path()).expect("all is as it was");
}

#[tokio::test]
async fn a_ticket_admits_one_host() {
    let a = Host::first(NetConfig::default()).await;
    let ticket = a.ticket();
    let b = home();
    try_join(&b, &ticket, "b").await.expect("a good ticket");
    assert_eq!(refusal(try_join(&home(), &ticket, "c").await), Refusal::TicketUsed);
    assert_eq!(refusal(try_join(&home(), &ticket, "b").await), Refusal::TicketUsed, "another key, the same name");
    assert!(matches!(try_join(&b, &ticket, "b").await, Err(IdentityError::Exists { .. })));
    a.refused(lento_net::RefusalKind::Ticket, 2).await;
}

#[tokio::test]
async fn an_expired_ticket_is_refused_by_both() {
    let a = Host::first(NetConfig::default()).await;
    let mut ticket = a.identity.invite(None, Duration::ZERO).expect("the first host invites");
    assert!(matches!(try_join(&home(), &ticket, "b").await, Err(IdentityError::Ticket(_))));
    ticket.expires += 1000;
    assert_eq!(refusal(try_join(&home(), &ticket, "b").await), Refusal::TicketExpired);
}

#[tokio::test]
async fn an_unknown_secret_is_wrong() {
    let a = Host::first(NetConfig::default()).await;
    let before = std::fs::read(a.home.path().join("cluster.json")).expect("readable");
    let ticket = a.ticket();
    std::fs::write(a.home.path().join("cluster.json"), before).expect("writable");
    assert_eq!(refusal(try_join(&home(), &ticket, "b").await), Refusal::TicketWrong);
}

#[tokio::test]
async fn a_ticket_is_not_shown_to_another_authority() {
    let (a, other) = (Host::first(NetConfig::default()).await, Host::first(NetConfig::default()).await);
    let mut ticket = a.ticket();
    ticket.address = other.identity.listen.clone();
    let result = try_join(&home(), &ticket, "b").await;
    assert!(matches!(&result, Err(IdentityError::NotSent { .. })), "{result:?}");
    ticket.address = free_address();
    let result = try_join(&home(), &ticket, "b").await;
    assert!(matches!(&result, Err(IdentityError::NotSent { .. })), "{result:?}");
    ticket.address = a.identity.listen.clone();
    try_join(&home(), &ticket, "b").await.expect("it is as good as new");
}

#[tokio::test]
async fn a_taken_name_does_not_use_the_ticket() {
    let a = Host::first(NetConfig::default()).await;
    let ticket = a.ticket();
    let b = home();
    assert_eq!(refusal(try_join(&b, &ticket, "a").await), Refusal::NameTaken);
    try_join(&b, &ticket, "b").await.expect("another name will do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_race_for_a_ticket_one_joins() {
    let a = Host::first(NetConfig::default()).await;
    for round in 0..8 {
        let ticket = a.ticket();
        let (x, y) = (home(), home());
        let (x_name, y_name) = (format!("x{round}"), format!("y{round}"));
        let (x, y) = tokio::join!(try_join(&x, &ticket, &x_name), try_join(&y, &ticket, &y_name));
        assert_eq!(usize::from(x.is_ok()) + usize::from(y.is_ok()), 1, "{x:?} {y:?}");
        assert_eq!(refusal(if x.is_ok() { y } else { x }), Refusal::TicketUsed);
        assert_eq!(a.identity.members().expect("readable").len(), 2 + round);
    }
}

#[tokio::test]
async fn who_could_not_store_the_answer_may_ask_again() {
    let a = Host::first(NetConfig::default()).await;
    let ticket = a.ticket();
    let b = home();
    // A directory in the place of a file: it cannot be replaced.
    std::fs::create_dir(b.path().join("cluster.json")).expect("an empty home");
    let result = try_join(&b, &ticket, "b").await;
    assert!(matches!(&result, Err(IdentityError::MaybeUsed { .. })), "{result:?}");
    assert_eq!(a.identity.members().expect("readable").len(), 2, "the ticket was used");
    std::fs::remove_dir(b.path().join("cluster.json")).expect("still empty");
    let joined = try_join(&b, &ticket, "b").await.expect("the same host may");
    assert_eq!(joined.identity.host, host(2));
    assert_eq!(a.identity.members().expect("readable").len(), 2, "it was admitted once");
}

#[tokio::test]
async fn only_the_first_host_invites() {
    let (mut a, b, ..) = connected(NetConfig::default()).await;
    assert!(matches!(b.identity.invite(None, Duration::from_secs(1)), Err(IdentityError::NotAuthority)));
    let c = a.admit("c", NetConfig::default()).await;
    assert_eq!(c.id(), host(3));
}

#[tokio::test]
async fn a_member_redeems_a_ticket_while_it_is_connected() {
    let (mut a, b, _to_b, to_a) = connected(NetConfig::default()).await;
    let grant = Some(grant("second"));
    let ticket = a.identity.invite(grant.clone(), Duration::from_secs(60)).expect("the first host invites");
    for time in ["the first time", "again, as if the answer had been lost"] {
        let redeemed = soon("the answer", redeem(&b.identity, &ticket)).await.expect(time);
        assert_eq!((redeemed.inviter.host, &redeemed.grant), (host(1), &grant), "{time}");
        match a.event().await {
            NetEvent::Redeemed { member, grant: f } => assert_eq!((member.host, &f), (host(2), &grant), "{time}"),
            other => panic!("not redeemed, but {other:?}"),
        }
    }
    assert_eq!(a.identity.members().expect("readable").len(), 2, "nobody was admitted");
    assert_eq!(b.identity.members().expect("readable").len(), 2);
    assert_eq!(refusal(try_join(&home(), &ticket, "c").await), Refusal::TicketUsed);
    // The connection is the one from before.
    ping(&to_a, &mut a).await;
}

#[tokio::test]
async fn a_member_is_told_what_is_wrong_with_its_ticket() {
    let (mut a, b) = two(NetConfig::default()).await;
    let register = a.home.path().join("cluster.json");
    let before = std::fs::read(&register).expect("readable");
    let unknown = a.ticket();
    std::fs::write(&register, before).expect("writable");
    assert_eq!(refusal(redeem(&b.identity, &unknown).await), Refusal::TicketWrong);

    let used = a.ticket();
    let c = home();
    try_join(&c, &used, "c").await.expect("a good ticket");
    assert!(matches!(a.event().await, NetEvent::Joined { .. }));
    assert_eq!(refusal(redeem(&b.identity, &used).await), Refusal::TicketUsed);

    let mut expired = a.identity.invite(None, Duration::ZERO).expect("the first host invites");
    assert!(matches!(redeem(&b.identity, &expired).await, Err(IdentityError::Ticket(_))));
    expired.expires += 1000;
    assert_eq!(refusal(redeem(&b.identity, &expired).await), Refusal::TicketExpired);
    a.refused(lento_net::RefusalKind::Ticket, 3).await;

    assert!(matches!(redeem(&a.identity, &a.ticket()).await, Err(IdentityError::OwnTicket)));
    let other = Host::first(NetConfig::default()).await;
    let result = redeem(&b.identity, &other.ticket()).await;
    assert!(matches!(&result, Err(IdentityError::OtherCluster { name, .. }) if name == "b"), "{result:?}");
}
