//! The lines of the control protocol as `docs/formats/control.md` shows them: every example there is decoded here, and
//! what is encoded is compared with it byte by byte.

use lento_cli::control::{ControlEvent, decode_request, encode_line, encode_request};

#[test]
fn every_example_of_the_format_page_is_what_is_on_the_wire() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/formats/control.md");
    let page = std::fs::read_to_string(page).expect("the format page");
    let lines = |mark: &str| -> Vec<String> {
        page.lines().filter_map(|line| line.strip_prefix(mark).map(str::to_owned)).collect()
    };
    let (requests, events) = (lines("→ "), lines("← "));
    assert!(requests.len() >= 11 && events.len() >= 9, "{} requests, {} events", requests.len(), events.len());
    for line in requests {
        let request = decode_request(line.as_bytes()).unwrap_or_else(|why| panic!("{line}: {why}"));
        let encoded = encode_request(&request).expect("short");
        assert_eq!(String::from_utf8_lossy(&encoded).trim_end(), line);
    }
    for line in events {
        let event: ControlEvent = serde_json::from_str(&line).unwrap_or_else(|why| panic!("{line}: {why}"));
        let encoded = encode_line(&event).expect("short");
        assert_eq!(String::from_utf8_lossy(&encoded).trim_end(), line);
    }
}

#[test]
fn a_status_is_shown_as_tables_with_what_needs_attention() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/formats/control.md");
    let page = std::fs::read_to_string(page).expect("the format page");
    let line = page.lines().find_map(|line| line.strip_prefix("← ").filter(|l| l.contains("\"status\"")));
    let event = serde_json::from_str(line.expect("an example of a status")).expect("decodes");
    let ControlEvent::Status(status) = event else { panic!("not a status: {event:?}") };
    let text = lento_cli::status_text(&status);
    let expected = "\
host a on 10.0.0.1:7400, lento 0.1.0, pid 812, up 2h 3m

PEER  ADDRESS        CONNECTION
b     10.0.0.2:7400  connected for 1m

FILE SET  ROLE    STATE    PERMIT        OBJECTS  MOUNT     REPLICA  LAG
web       holder  stalled  b, 1 waiting  10,012   /srv/web  b        5 records, 4.00 KiB, 1.5 s

! web: replica b: no space left on device
! 1 connection refused; the last, 5s ago: 10.0.0.9: no certificate";
    assert_eq!(text, expected);
}
