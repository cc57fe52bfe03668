//! What is encoded is decoded to the same; what is damaged or random is an error, never a panic.

mod common;

use proptest::prelude::*;
use protocol::*;

/// Feeds a decoder whatever an attacker can make of a good encoding.
fn torture(good: &[u8], at: usize, bit: u8, decode: impl Fn(&[u8])) {
    if good.is_empty() {
        return;
    }
    let at = at % good.len();
    decode(&good[..at]);
    let mut flipped = good.to_vec();
    flipped[at] ^= 1 << (bit % 8);
    decode(&flipped);
    let mut longer = good.to_vec();
    longer.push(bit);
    decode(&longer);
}

fn decode_everything(bytes: &[u8]) {
    let _ = Request::from_body(bytes);
    let _ = Reply::from_body(bytes);
    let _ = Message::from_body(bytes);
    let _ = Content::take_from(bytes);
    let _ = Listing::take_from(bytes);
    let _ = decode_entry(bytes);
    let _ = SegmentHeader::from_bytes(bytes);
    let _ = ObjectId::from_bytes(bytes);
    let mut packets = PacketReader::default();
    packets.push(bytes);
    while let Ok(Some(_)) = packets.next() {}
    let mut upcalls = UpcallReader::default();
    upcalls.push(bytes);
    while let Ok(Some(_)) = upcalls.next::<Upcall>() {}
    let mut downcalls = UpcallReader::default();
    downcalls.push(bytes);
    while let Ok(Some(_)) = downcalls.next::<Downcall>() {}
}

macro_rules! bodies {
    ($($test:ident: $type:ty, $strategy:expr;)*) => {
        proptest! {
            $(#[test]
            fn $test(value in $strategy, at in any::<usize>(), bit in any::<u8>()) {
                let body = value.to_body().expect("short enough");
                prop_assert_eq!(<$type>::from_body(&body), Ok(value));
                prop_assert!(<$type>::from_body(&[&body[..], &[0]].concat()).is_err(), "a byte too many");
                torture(&body, at, bit, decode_everything);
            })*
        }
    };
}

bodies! {
    requests: Request, common::request();
    replies: Reply, common::reply();
    messages: Message, common::message();
}

proptest! {
    #[test]
    fn contents(items in proptest::collection::vec(common::content(), 0..5), at in any::<usize>(), bit in any::<u8>()) {
        let mut body = Vec::new();
        for item in &items {
            item.append_to(&mut body).expect("short enough");
        }
        let mut rest = body.as_slice();
        for item in &items {
            let (got, tail) = Content::take_from(rest).expect("good").expect("one more");
            prop_assert_eq!(&got, item);
            rest = tail;
        }
        prop_assert_eq!(Content::take_from(rest), Ok(None));
        torture(&body, at, bit, decode_everything);
    }

    #[test]
    fn listings(item in common::listing(), at in any::<usize>(), bit in any::<u8>()) {
        let mut body = Vec::new();
        item.append_to(&mut body).expect("short enough");
        let (got, rest) = Listing::take_from(&body).expect("good").expect("one");
        prop_assert_eq!(got, item);
        prop_assert!(rest.is_empty());
        torture(&body, at, bit, decode_everything);
    }

    #[test]
    fn log_entries(entry in common::log_entry(), at in any::<usize>(), bit in any::<u8>()) {
        let mut bytes = Vec::new();
        encode_entry(&entry, &mut bytes).expect("short enough");
        prop_assert_eq!(decode_entry(&bytes), Ok((entry, bytes.len())));
        // A flipped bit is always noticed, a torn tail is told from damage.
        let mut flipped = bytes.clone();
        let place = at % bytes.len();
        flipped[place] ^= 1 << (bit % 8);
        prop_assert!(decode_entry(&flipped).is_err());
        prop_assert!(matches!(decode_entry(&bytes[..place]), Err(ProtocolError::Truncated(_))));
        torture(&bytes, at, bit, decode_everything);
    }

    #[test]
    fn segment_headers(fileset in common::fileset(), host in common::host(), first in any::<u64>(), bit in 0..48 * 8_usize) {
        let header = SegmentHeader { fileset, host, first };
        let bytes = header.to_bytes();
        prop_assert_eq!(SegmentHeader::from_bytes(&bytes), Ok(header));
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(SegmentHeader::from_bytes(&flipped).is_err());
    }

    #[test]
    fn packets_survive_any_cutting(
        kinds in proptest::collection::vec((0..6_usize, any::<(u64, u64)>(), common::bytes(3000)), 0..10),
        piece in 1..5000_usize,
    ) {
        let all = [PacketKind::Request, PacketKind::Message, PacketKind::Reply, PacketKind::Data, PacketKind::EndOfData,
            PacketKind::EndOfRequest];
        let sent: Vec<Packet> = kinds
            .into_iter()
            .map(|(kind, (from, to), body)| Packet {
                kind: all[kind],
                act: Act { from: SessionToken(from), to: SessionToken(to) },
                body,
            })
            .collect();
        let mut stream = Vec::new();
        for packet in &sent {
            stream.extend_from_slice(&packet.header().expect("short enough"));
            stream.extend_from_slice(&packet.body);
        }
        let mut reader = PacketReader::default();
        let mut got = Vec::new();
        for bytes in stream.chunks(piece) {
            reader.push(bytes);
            while let Some(packet) = reader.next().expect("good") {
                got.push(packet);
            }
        }
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn random_bytes_are_no_panic(bytes in common::bytes(2000)) {
        decode_everything(&bytes);
    }
}

#[test]
fn a_packet_beyond_the_limit_is_refused_on_both_sides() {
    let body = vec![0; limits::PACKET_BODY_BYTES + 1];
    let packet = Packet { kind: PacketKind::Data, act: Act::default(), body };
    assert!(matches!(packet.header(), Err(ProtocolError::TooLong { .. })));
    let mut header = [0; PACKET_HEADER_BYTES];
    header[..4].copy_from_slice(&(limits::PACKET_BODY_BYTES as u32 + 1).to_le_bytes());
    header[4] = PacketKind::Data as u8;
    assert!(matches!(Packet::parse_header(&header), Err(ProtocolError::TooLong { .. })));
}

#[test]
fn names_from_a_peer_are_checked() {
    let fileset = FileSetId::from_bytes([0; 16]);
    let id = ObjectId::ROOT;
    let op = |name: &[u8]| Op::Unlink { parent: id, name: Name::new(name).expect("legal"), id };
    let record = |op| Record {
        number: 1,
        epoch: 1,
        finished: 0,
        time: Timestamp::default(),
        cred: Cred { uid: 0, gid: 0, pid: 0 },
        op,
    };
    let shipment = |name: &[u8]| {
        let records = vec![record(op(name))];
        let writer = id.host;
        Message::Shipment(Shipment {
            fileset,
            after: Position::START,
            upto: Position::START,
            writer,
            records,
            settled: vec![],
        })
    };
    let good = shipment(b"xx").to_body().expect("short");
    assert!(Message::from_body(&good).is_ok());
    for evil in [b"..", b"a/", b"a\0"] {
        let at = good.windows(2).position(|pair| pair == b"xx").expect("the name is there");
        let mut bad = good.clone();
        bad[at..at + 2].copy_from_slice(evil);
        assert!(Message::from_body(&bad).is_err(), "{evil:?}");
    }
}
