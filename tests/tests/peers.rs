//! Peers that are not who they should be, or do not behave: refused, told in the status, and nobody else disturbed.

use anyhow::{Context, Result, ensure};
use intermezzo_tests::{
    cluster::{Cluster, Options, with_hosts},
    dice::Dice,
    shell::{Outcome, eventually, sh},
};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// While others misbehave, a change is on the replica within this.
const UNDISTURBED: Duration = Duration::from_secs(3);

/// Goes on replicating until stopped, and checks that each change arrives in time.
fn replicate_on(cluster: &Cluster, stop: &AtomicBool) -> Result<usize> {
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        let text = format!("change {changes}");
        fs::write(cluster[0].at("heartbeat"), &text)?;
        let took = cluster.sees(1, "heartbeat", text.as_bytes())?;
        ensure!(took < UNDISTURBED, "a change took {took:?} while a peer misbehaved");
        changes += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(changes)
}

fn undisturbed(cluster: &Cluster, attacks: impl FnOnce() -> Result<()>) -> Result<()> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let replication = scope.spawn(|| replicate_on(cluster, &stop));
        let result = attacks();
        stop.store(true, Ordering::Relaxed);
        let changes = replication.join().map_err(|_| anyhow::anyhow!("the replication panicked"))??;
        println!("{changes} changes replicated meanwhile");
        ensure!(changes > 10, "only {changes} changes replicated meanwhile");
        result
    })
}

fn refusals(cluster: &Cluster) -> Result<u64> {
    let status = cluster[0].status()?;
    status["refusals"].as_u64().with_context(|| format!("no count of refusals: {status}"))
}

/// Does `attack` and asserts that the host counts it as a refusal.
fn refused(cluster: &Cluster, what: &str, attack: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = refusals(cluster)?;
    attack().with_context(|| what.to_owned())?;
    eventually(HANDSHAKE + Duration::from_secs(5), &format!("{what}: counted as a refusal"), || {
        Ok(refusals(cluster)? > before)
    })?;
    let status = cluster[0].status()?;
    let text = status["last_refusal"]["text"].as_str().with_context(|| format!("{what}: no reason told"))?;
    println!("{what}: {text}");
    Ok(())
}

fn pair_and_stranger(test: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    with_hosts(Options::pair().disks(&[1 << 30; 3]), |cluster| {
        cluster.create(0)?;
        cluster.replicate(1)?;
        test(cluster)
    })
}

/// Sends bytes from the third host, without TLS, and waits until the other end closes.
fn raw(cluster: &Cluster, bytes: &[u8]) -> Result<()> {
    let address: SocketAddr = cluster[0].listen().parse()?;
    cluster.network().inside(2, || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(HANDSHAKE + Duration::from_secs(5)))?;
        // The other end may close while we still send.
        let _ = stream.write_all(bytes);
        let begin = Instant::now();
        let mut answer = [0; 4096];
        while let Ok(got @ 1..) = stream.read(&mut answer) {
            ensure!(!answer[..got].windows(4).any(|w| w == b"HTTP"), "it answers as if it were a web server");
        }
        ensure!(begin.elapsed() < HANDSHAKE + Duration::from_secs(4), "the connection was not closed");
        Ok(())
    })
}

/// A TLS client on the third host; sends the file `input`, reads until the other end closes.
fn tls(cluster: &Cluster, options: &str, input: &[u8]) -> Result<Outcome> {
    let file = cluster.path().join("input");
    fs::write(&file, input)?;
    let script = format!("exec openssl s_client -quiet -connect {} {options}", cluster[0].listen());
    let client = sh(&script, [""; 0]).dir(cluster.path()).stdin(&file).timeout(HANDSHAKE + Duration::from_secs(8));
    cluster.network().on(2, client).run()
}

#[test]
fn strangers_and_garbage_are_refused_and_nobody_else_is_disturbed() -> Result<()> {
    let mut dice = Dice::new("strangers");
    pair_and_stranger(|cluster| {
        let foreign =
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem \
            -subj /CN=intermezzo -days 2
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout host.key -out host.csr -subj /CN=b
            openssl x509 -req -in host.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out host.pem -days 1";
        sh(foreign, [""; 0]).dir(cluster.path()).ok().context("package openssl is needed")?;
        undisturbed(cluster, || {
            refused(cluster, "plain text", || raw(cluster, b"GET / HTTP/1.0\r\n\r\n"))?;
            let garbage: Vec<u8> = (0..100_000).map(|_| dice.roll() as u8).collect();
            refused(cluster, "garbage", || raw(cluster, &garbage))?;
            refused(cluster, "silence", || raw(cluster, b""))?;
            refused(cluster, "half a TLS record", || raw(cluster, b"\x16\x03\x01\x02\x00\x01\x00"))?;
            refused(cluster, "a foreign authority", || {
                let outcome = tls(cluster, "-tls1_3 -cert host.pem -key host.key", b"")?;
                ensure!(!outcome.stdout.contains('\0'), "it was answered: {:?}", outcome.stdout);
                Ok(())
            })?;
            refused(cluster, "TLS 1.2", || {
                let outcome = tls(cluster, "-tls1_2", b"")?;
                ensure!(outcome.code() != 0, "TLS 1.2 was accepted");
                Ok(())
            })?;
            // Without a certificate one may redeem a ticket, and nothing else.
            refused(cluster, "no certificate, and garbage inside TLS", || {
                tls(cluster, "-tls1_3", &garbage).map(|_| ())
            })?;
            let mut over_long = vec![0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0];
            over_long.resize(24, 0);
            refused(cluster, "an over-long frame", || tls(cluster, "-tls1_3", &over_long).map(|_| ()))?;
            refused(cluster, "no certificate, and silence", || tls(cluster, "-tls1_3", b"").map(|_| ()))
        })?;
        ensure!(cluster[0].status()?["peers"].as_array().is_some_and(|p| p.len() == 1), "a stranger became a peer");
        cluster.converge(Duration::from_secs(30)).map(|_| ())
    })
}

#[test]
fn many_silent_connections_keep_nobody_out() -> Result<()> {
    pair_and_stranger(|cluster| {
        let address: SocketAddr = cluster[0].listen().parse()?;
        let silent = cluster.network().inside(2, || {
            Ok((0..300)
                .filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok())
                .collect::<Vec<_>>())
        })?;
        ensure!(silent.len() > 100, "only {} silent connections could be made", silent.len());
        // A host that has to connect anew gets in all the same.
        ensure!(cluster[1].kill_lento()?, "no daemon to kill");
        cluster[1].start()?;
        fs::write(cluster[0].at("file"), "in spite of them")?;
        cluster.sees(1, "file", b"in spite of them")?;
        drop(silent);
        cluster.converge(Duration::from_secs(30)).map(|_| ())
    })
}

/// `lento join` on the third host, which must fail and say why.
fn join_fails(cluster: &Cluster, ticket: &str, why: &str) -> Result<()> {
    let c = &cluster[2];
    let outcome = c.lento(["join", ticket, "--name", "c", "--listen", c.listen()]).run()?;
    ensure!(outcome.code() != 0, "a ticket that should be refused ({why}) was taken");
    ensure!(outcome.stderr.contains(why), "not refused as {why:?}, but: {}", outcome.stderr);
    Ok(())
}

#[test]
fn wrong_used_and_expired_tickets_are_refused_and_say_which() -> Result<()> {
    pair_and_stranger(|cluster| {
        let (a, c) = (&cluster[0], &cluster[2]);
        undisturbed(cluster, || {
            let invite = a.lento(["invite", "--fileset", "web", "--expires", "1s"]).ok()?;
            let expiring = invite.split_whitespace().max_by_key(|w| w.len()).context("no ticket")?.to_owned();
            let expires = Instant::now() + Duration::from_millis(2100);

            let ticket = cluster.ticket()?;
            let mut wrong = ticket.clone().into_bytes();
            let middle = wrong.len() / 2;
            wrong[middle] = if wrong[middle] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong)?;
            let outcome = c.lento(["join", &wrong, "--name", "c", "--listen", c.listen()]).run()?;
            ensure!(outcome.code() != 0, "a damaged ticket was taken");

            std::thread::sleep(expires.saturating_duration_since(Instant::now()));
            join_fails(cluster, &expiring, "expired")?;

            c.lento(["join", &ticket, "--name", "c", "--listen", c.listen()]).ok().context("a good ticket")?;
            sh("rm -rf \"$1\"; mkdir \"$1\"", [c.home()]).ok()?;
            refused(cluster, "a used ticket", || join_fails(cluster, &ticket, "used"))
        })
    })
}

#[test]
fn a_member_without_an_invitation_to_the_file_set_may_not_replicate_it() -> Result<()> {
    pair_and_stranger(|cluster| {
        let (a, c) = (&cluster[0], &cluster[2]);
        let other = a.mount().with_file_name("other");
        fs::create_dir(&other)?;
        a.lento(["fileset", "create", "other", "--store"]).arg(&other).ok()?;
        // Invited to `web` only.
        cluster.join(2)?;
        let outcome = c.lento(["replicate", "other", "--store"]).arg(c.mount()).run()?;
        ensure!(outcome.code() != 0, "c replicates a file set that it was not invited to");
        ensure!(outcome.stderr.contains("invite"), "the refusal does not say what to do: {}", outcome.stderr);
        cluster.replicate_joined(2)?;
        a.lento(["umount", "other"]).ok().map(|_| ())
    })
}
