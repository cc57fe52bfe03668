//! Lines of the control socket, either way.
#![no_main]

use lento_cli::control::{ByteText, ControlEvent, LineReader, decode_request, encode_line, encode_request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = decode_request(bytes) {
        let line = encode_request(&request).expect("what was read can be written");
        assert_eq!(decode_request(&line).expect("own form"), request);
    }
    if let Ok(event) = serde_json::from_slice::<ControlEvent>(bytes) {
        encode_line(&event).expect("what was read can be written");
    }
    assert!(!ByteText(bytes.to_vec()).to_string().chars().any(char::is_control));
    let mut reader = LineReader::default();
    if reader.push(bytes).is_ok() {
        while reader.next_line().is_some() {}
    }
});
