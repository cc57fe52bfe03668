//! Bodies of packets: what decodes is within its bounds, and is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{Content, Listing, Message, Reply, Request};

macro_rules! body {
    ($type:ty, $bytes:expr) => {
        if let Ok(value) = <$type>::from_body($bytes) {
            let written = value.to_body().expect("what was read can be written");
            assert_eq!(<$type>::from_body(&written).expect("own form"), value);
        }
    };
}

macro_rules! items {
    ($type:ty, $bytes:expr) => {
        let mut rest = $bytes;
        while let Ok(Some((value, after))) = <$type>::take_from(rest) {
            assert!(after.len() < rest.len(), "an item of no length would be read for ever");
            let mut written = Vec::new();
            value.append_to(&mut written).expect("what was read can be written");
            assert_eq!(<$type>::take_from(&written).expect("own form").expect("one item").0, value);
            rest = after;
        }
    };
}

fuzz_target!(|input: (u8, &[u8])| {
    let (which, bytes) = input;
    match which % 5 {
        0 => body!(Request, bytes),
        1 => body!(Reply, bytes),
        2 => body!(Message, bytes),
        3 => {
            items!(Content, bytes);
        }
        _ => {
            items!(Listing, bytes);
        }
    }
});
