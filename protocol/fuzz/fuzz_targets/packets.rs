//! The packet reader: any bytes, cut anywhere, give the same packets as uncut, and no more bytes than went in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{PACKET_HEADER_BYTES, Packet, PacketReader};

fn all(pieces: &[&[u8]]) -> (Vec<Packet>, bool) {
    let mut reader = PacketReader::default();
    let mut packets = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next() {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(_) => return (packets, false),
            }
        }
    }
    (packets, true)
}

fuzz_target!(|input: (u16, &[u8])| {
    let (at, bytes) = input;
    let (head, tail) = bytes.split_at(usize::from(at).min(bytes.len()));
    let whole = all(&[bytes]);
    assert_eq!(all(&[head, tail]), whole);
    let mut rest = bytes;
    for packet in whole.0 {
        let header = packet.header().expect("what was read may be written");
        assert_eq!(rest[..PACKET_HEADER_BYTES], header);
        rest = &rest[PACKET_HEADER_BYTES..];
        assert_eq!(rest[..packet.body.len()], packet.body);
        rest = &rest[packet.body.len()..];
    }
});
