//! Entries of the modification log: what decodes is written as it was read. The checksum is made right, so that the
//! fuzzer gets past it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{ENTRY_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, decode_entry, encode_entry};

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_entry(bytes);
    if let Some(header) = bytes.get(..SEGMENT_HEADER_BYTES)
        && let Ok(header) = SegmentHeader::from_bytes(header)
    {
        assert_eq!(SegmentHeader::from_bytes(&header.to_bytes()), Ok(header));
    }
    let framed = frame(bytes);
    if let Ok((entry, used)) = decode_entry(&framed) {
        assert_eq!(used, framed.len());
        let mut written = Vec::new();
        encode_entry(&entry, &mut written).expect("what was read can be written");
        assert_eq!(decode_entry(&written), Ok((entry, written.len())));
    }
});

/// `body` with a header that fits it, as `docs/formats/log.md` has it.
fn frame(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENTRY_HEADER_BYTES + body.len());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(body);
    out
}
