//! The upcall channel's reader, both directions, cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{Downcall, Upcall, UpcallReader, encode_downcall, encode_upcall};

macro_rules! check {
    ($type:ty, $encode:expr, $pieces:expr) => {{
        let mut reader = UpcallReader::default();
        'all: for piece in $pieces {
            reader.push(piece);
            loop {
                match reader.next::<$type>() {
                    Ok(Some(message)) => {
                        let frame = $encode(&message).expect("what was read may be written");
                        let mut again = UpcallReader::default();
                        again.push(&frame);
                        assert_eq!(again.next::<$type>(), Ok(Some(message)));
                    }
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
        }
    }};
}

fuzz_target!(|input: (u16, &[u8])| {
    let (at, bytes) = input;
    let (head, tail) = bytes.split_at(usize::from(at).min(bytes.len()));
    check!(Upcall, encode_upcall, [head, tail]);
    check!(Downcall, encode_downcall, [head, tail]);
});
