//! Data packets: items of content and of listings, one after the other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{Content, Listing};

macro_rules! check {
    ($type:ty, $bytes:expr) => {{
        let mut rest = $bytes;
        while let Ok(Some((item, tail))) = <$type>::take_from(rest) {
            assert!(tail.len() < rest.len(), "each item takes something");
            let mut body = Vec::new();
            item.append_to(&mut body).expect("what was read may be written");
            assert_eq!(<$type>::take_from(&body), Ok(Some((item, &[][..]))));
            rest = tail;
        }
    }};
}

fuzz_target!(|bytes: &[u8]| {
    check!(Content, bytes);
    check!(Listing, bytes);
});
