//! Bodies of requests, replies and messages: what decodes encodes to what decodes the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{Message, Reply, Request};

macro_rules! check {
    ($type:ty, $bytes:expr) => {
        if let Ok(value) = <$type>::from_body($bytes) {
            let body = value.to_body().expect("what was read may be written");
            assert_eq!(<$type>::from_body(&body), Ok(value));
        }
    };
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, body)) = bytes.split_first() else { return };
    match which % 3 {
        0 => check!(Request, body),
        1 => check!(Reply, body),
        _ => check!(Message, body),
    }
});
