//! Segments of the modification log: header and entries. Checksums are put right, so that what is below is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{ENTRY_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, decode_entry, encode_entry};

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_entry(bytes);
    if let Some(header) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>() {
        let _ = SegmentHeader::from_bytes(header);
        let mut right = *header;
        right[..8].copy_from_slice(b"IMZO-LOG");
        right[8..10].copy_from_slice(&1_u16.to_le_bytes());
        let crc = crc(&right[..SEGMENT_HEADER_BYTES - 4]);
        right[SEGMENT_HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        if let Ok(header) = SegmentHeader::from_bytes(&right) {
            assert_eq!(SegmentHeader::from_bytes(&header.to_bytes()), Ok(header));
        }
    }
    let mut framed = vec![0; ENTRY_HEADER_BYTES];
    framed[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    framed[4..].copy_from_slice(&crc(bytes).to_le_bytes());
    framed.extend_from_slice(bytes);
    if let Ok((entry, len)) = decode_entry(&framed) {
        assert_eq!(len, framed.len());
        let mut again = Vec::new();
        encode_entry(&entry, &mut again).expect("what was read may be written");
        assert_eq!(decode_entry(&again), Ok((entry, again.len())));
    }
});

/// CRC-32C, bit by bit: the fuzzer need not depend on what it tests.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}
