//! The client against a daemon that plays a script: real sockets, real lines.

use lento_cli::{
    Client, ClientError,
    control::{Code, ControlEvent, ControlRequest, Failure, LineReader, Progress, decode_request, encode_line},
};
use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread::JoinHandle,
};

/// Serves one connection: returns the request, answers with `script`.
fn daemon(home: &Path, script: Vec<u8>) -> JoinHandle<ControlRequest> {
    std::fs::create_dir_all(home.join("run")).expect("a home");
    let listener = UnixListener::bind(lento_cli::control::socket_path(home)).expect("a socket");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let (mut reader, mut buffer) = (LineReader::default(), [0; 16]);
        loop {
            let got = stream.read(&mut buffer).expect("a request");
            reader.push(&buffer[..got]).expect("short");
            if let Some(line) = reader.next_line() {
                let request = decode_request(line).expect("own request");
                // In small pieces: a line need not come in one.
                script.chunks(7).for_each(|piece| stream.write_all(piece).expect("a listening client"));
                return request;
            }
        }
    })
}

fn script(events: &[ControlEvent]) -> Vec<u8> {
    events.iter().flat_map(|event| encode_line(event).expect("short")).collect()
}

#[test]
fn a_request_is_sent_and_the_answer_ends_with_its_verdict() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let events = [
        ControlEvent::Progress(Progress { task: "copying".into(), files: 3, ..Progress::default() }),
        ControlEvent::Note("halfway".into()),
        ControlEvent::Done(None),
    ];
    let server = daemon(home.path(), script(&events));
    let request = ControlRequest::Wait { name: "web".parse().expect("legal"), timeout_ms: Some(5) };
    let client = Client::connect(home.path()).expect("it listens");
    let got: Result<Vec<_>, _> = client.ask(&request).expect("it reads").collect();
    assert_eq!(got.expect("a whole answer"), events);
    assert_eq!(server.join().expect("the daemon ended well"), request);
}

#[test]
fn a_daemon_that_dies_is_told_from_one_that_is_done() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let server = daemon(home.path(), script(&[ControlEvent::Note("so far".into())]));
    let client = Client::connect(home.path()).expect("it listens");
    let got: Vec<_> = client.ask(&ControlRequest::Status).expect("it reads").collect();
    assert!(matches!(got.as_slice(), [Ok(ControlEvent::Note(_)), Err(ClientError::Ended)]), "{got:?}");
    server.join().expect("the daemon ended well");
}

#[test]
fn without_a_daemon_the_exit_code_is_3_and_the_hint_says_how_to_start_it() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let error = Client::connect(home.path()).expect_err("nobody listens");
    let Failure { code, hint, .. } = error.failure();
    assert_eq!(code, Code::NoDaemon);
    assert!(hint.expect("a hint").contains("lento init"));
    // As `lento init` and `lento join` leave it, before the daemon ran for the first time.
    std::fs::write(home.path().join("identity.toml"), "").expect("a home");
    let hint = Client::connect(home.path()).expect_err("nobody listens").failure().hint.expect("a hint");
    assert!(hint.contains("systemctl start lento") && hint.contains("lento daemon --home"), "{hint}");
}

#[test]
fn a_home_may_be_deeper_than_a_socket_address_is_long() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let home = dir.path().join("d".repeat(120));
    let short = dir.path().join("s");
    let server = daemon(&short, script(&[ControlEvent::Done(None)]));
    std::fs::rename(&short, &home).expect("moved");
    let client = Client::connect(&home).expect("it listens");
    assert_eq!(client.ask(&ControlRequest::Status).expect("it reads").count(), 1);
    server.join().expect("the daemon ended well");
}
