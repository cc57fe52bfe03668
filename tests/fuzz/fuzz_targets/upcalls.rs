//! The upcall channel, either way, cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{Downcall, Upcall, UpcallReader, encode_downcall, encode_upcall};

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (cut, down, bytes) = input;
    let mut reader = UpcallReader::default();
    for piece in bytes.chunks(usize::from(cut) + 1) {
        reader.push(piece);
        loop {
            let written = if down {
                reader.next::<Downcall>().map(|found| found.map(|message| encode_downcall(&message)))
            } else {
                reader.next::<Upcall>().map(|found| found.map(|message| encode_upcall(&message)))
            };
            match written {
                Ok(Some(written)) => drop(written.expect("what was read can be written")),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
