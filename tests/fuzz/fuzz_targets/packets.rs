//! A stream of packets, cut anywhere: the same packets come out, or the same error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::PacketReader;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let read = |piece: usize| {
        let (mut reader, mut found) = (PacketReader::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            reader.push(piece);
            loop {
                match reader.next() {
                    Ok(Some(packet)) => found.push(packet),
                    Ok(None) => break,
                    Err(why) => return (found, Some(why)),
                }
            }
        }
        (found, None)
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(whole, read(usize::from(cut) + 1));
    for packet in whole.0 {
        packet.header().expect("what was read can be written");
    }
});
