//! The bytes of the wire as `docs/formats/wire.md` has them. A change here is a new version of the wire.

use protocol::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Both directions: encoding gives the bytes, decoding them the value.
macro_rules! golden {
    ($($test:ident: $type:ident { $($value:expr => $bytes:expr,)* })*) => {
        $(#[test]
        fn $test() {
            $({
                let value: $type = $value;
                let body = encode(&value);
                assert_eq!(hex(&body), $bytes.replace(' ', ""), "{value:?}");
                assert_eq!(decode::<$type>(&body), value);
            })*
        })*
    };
}

trait Body: Sized {
    fn encode(&self) -> Vec<u8>;
    fn decode(bytes: &[u8]) -> Self;
}

fn encode<T: Body>(value: &T) -> Vec<u8> {
    value.encode()
}

fn decode<T: Body>(bytes: &[u8]) -> T {
    T::decode(bytes)
}

macro_rules! whole {
    ($($type:ty),*) => {
        $(impl Body for $type {
            fn encode(&self) -> Vec<u8> {
                self.to_body().expect("short enough")
            }
            fn decode(bytes: &[u8]) -> Self {
                Self::from_body(bytes).expect("well formed")
            }
        })*
    };
}
whole!(Request, Reply, Message);

macro_rules! item {
    ($($type:ty),*) => {
        $(impl Body for $type {
            fn encode(&self) -> Vec<u8> {
                let mut body = Vec::new();
                self.append_to(&mut body).expect("short enough");
                body
            }
            fn decode(bytes: &[u8]) -> Self {
                match Self::take_from(bytes) {
                    Ok(Some((item, []))) => item,
                    other => panic!("not one item: {other:?}"),
                }
            }
        })*
    };
}
item!(Content, Listing);

impl Body for Packet {
    fn encode(&self) -> Vec<u8> {
        [&self.header().expect("short enough")[..], &self.body].concat()
    }
    fn decode(bytes: &[u8]) -> Self {
        let mut reader = PacketReader::default();
        reader.push(bytes);
        reader.next().expect("well formed").expect("whole")
    }
}

fn host(n: u32) -> HostId {
    HostId::new(n).expect("not 0")
}

/// 0x11 sixteen times.
fn grant() -> Grant {
    Grant { fileset: "web".parse().expect("legal"), role: Role::Client, access: Access::ReadWrite }
}

fn web() -> FileSetId {
    FileSetId::from_bytes([0x11; 16])
}

fn object(n: u64) -> ObjectId {
    ObjectId::new(host(2), n)
}

fn name(text: &[u8]) -> Name {
    Name::new(text).expect("legal")
}

fn packet(kind: PacketKind, body: &[u8]) -> Packet {
    Packet { kind, act: Act { from: SessionToken(0x0102), to: SessionToken(3) }, body: body.to_vec() }
}

fn attr() -> Attr {
    let mtime = Timestamp { secs: -1, nanos: 999_999_999 };
    Attr { kind: Kind::File, mode: 0o644, uid: 1000, gid: 100, size: 300, rdev: 0, mtime }
}

fn settled() -> Settled {
    let stamp = VersionStamp::default().touched(host(1), 5).touched(host(2), 7);
    let xattrs = vec![Xattr { name: b"user.a".to_vec(), value: b"v".to_vec() }];
    Settled { id: object(9), attr: attr(), stamp, xattrs, target: Vec::new() }
}

fn record(number: u64, op: Op) -> Record {
    let time = Timestamp { secs: 1, nanos: 2 };
    Record { number, epoch: 3, finished: number - 1, time, cred: Cred { uid: 4, gid: 5, pid: 6 }, op }
}

fn state() -> FileSetState {
    FileSetState {
        fileset: web(),
        incarnation: 1,
        in_step_with: Some(2),
        applied: Position::new(3, 300),
        tail: Position::new(4, 5),
        permit: None,
        lost: None,
    }
}

golden! {
    packets: Packet {
        packet(PacketKind::Request, b"r") => "01000000010000000201000000000000030000000000000072",
        packet(PacketKind::Message, b"") => "000000000200000002010000000000000300000000000000",
        packet(PacketKind::Reply, b"") => "000000000300000002010000000000000300000000000000",
        packet(PacketKind::Data, b"data") => "04000000040000000201000000000000030000000000000064617461",
        packet(PacketKind::EndOfData, b"") => "000000000500000002010000000000000300000000000000",
        packet(PacketKind::EndOfRequest, b"") => "000000000600000002010000000000000300000000000000",
    }
    requests: Request {
        Request::Join {
            name: "b".parse().expect("legal"),
            listen: "h:1".into(),
            secret: vec![0xaa, 0xbb],
            csr: vec![0x30],
        } => "00016203683a3102aabb0130",
        Request::FileSets => "01",
        Request::Replicate { name: "web".parse().expect("legal"), role: Role::Client } => "020377656201",
        Request::DropReplica { fileset: web() } => "0311111111111111111111111111111111",
        Request::GetPermit { fileset: web() } => "0411111111111111111111111111111111",
        Request::Fetch {
            fileset: web(),
            wanted: vec![
                Wanted { id: object(9), have: Have::Nothing },
                Wanted { id: object(10), have: Have::Prefix { size: 300, hash: [0x22; 32] } },
                Wanted { id: object(11), have: Have::Signature(vec![7, 8]) },
            ],
        } => "051111111111111111111111111111111103020900020a01ac022222222222222222222222222222222222222222222222222222222222222222020b02020708",
        Request::List { fileset: web(), root: ObjectId::ROOT, deep: true } => "0611111111111111111111111111111111010001",
        Request::Manifest { fileset: web() } => "0711111111111111111111111111111111",
        Request::Wait { fileset: web() } => "0811111111111111111111111111111111",
        Request::Redeem { secret: vec![0xaa, 0xbb] } => "0902aabb",
    }
    replies: Reply {
        Reply::Done => "00",
        Reply::Refused(Refusal::NoFileSet) => "0100",
        Reply::Refused(Refusal::Denied) => "0101",
        Reply::Refused(Refusal::TicketWrong) => "0102",
        Reply::Refused(Refusal::TicketUsed) => "0103",
        Reply::Refused(Refusal::TicketExpired) => "0104",
        Reply::Refused(Refusal::NameTaken) => "0105",
        Reply::Refused(Refusal::Busy("b".into())) => "01060162",
        Reply::Refused(Refusal::Failed("f".into())) => "01070166",
        Reply::Joined {
            host: host(2),
            certificate: vec![0x30],
            authority: vec![0x31],
            inviter: (host(1), "a".parse().expect("legal"), "h:1".into()),
            grant: Some(grant()),
        } => "02020130013101016103683a3101037765620101",
        Reply::FileSets(vec![(web(), "web".parse().expect("legal"))]) => "03011111111111111111111111111111111103776562",
        Reply::Replicating { fileset: web(), access: Access::ReadWrite } => "041111111111111111111111111111111101",
        Reply::Permit { epoch: 3, after: Position::new(2, 300) } => "050302ac02",
        Reply::Listed { after: Position::new(2, 300) } => "0602ac02",
        Reply::Redeemed {
            inviter: (host(1), "a".parse().expect("legal"), "h:1".into()),
            grant: Some(grant()),
        } => "0701016103683a3101037765620101",
    }
    messages: Message {
        Message::Hello { versions: (1, 1), host: host(2), filesets: vec![] } => "0001010200",
        Message::State(state()) => "011111111111111111111111111111111101010203ac0204050000",
        Message::Heartbeat => "02",
        Message::Shipment(Shipment {
            fileset: web(),
            after: Position::new(3, 1),
            upto: Position::new(3, 3),
            writer: host(2),
            records: vec![
                record(2, Op::Create { parent: ObjectId::ROOT, name: name(b"f"), id: object(2), mode: 0o644 }),
                record(3, Op::Store { id: object(2), size: 300, mtime: Timestamp { secs: -1, nanos: 0 } }),
            ],
            settled: vec![settled()],
        }) => "0311111111111111111111111111111111030103030202020301020204050600010001660202a40303030202020405060c0202ac02010001020900a403e80764ac020001ff93ebdc03020105020701020106757365722e61017600",
        Message::TooOld { fileset: web(), after: Position::new(3, 2), tail: Position::new(3, 4) } => "041111111111111111111111111111111103020304",
        Message::Applied { fileset: web(), applied: Position::new(3, 4), durable: Position::new(3, 2) } => "051111111111111111111111111111111103040302",
        Message::ShipMore { fileset: web() } => "0611111111111111111111111111111111",
        Message::Stalled { fileset: web(), reason: "full".into() } => "07111111111111111111111111111111110466756c6c",
        Message::Revoke { fileset: web(), epoch: 3 } => "081111111111111111111111111111111103",
        Message::Released { fileset: web(), epoch: 3, last: Position::new(3, 4) } => "0911111111111111111111111111111111030304",
        Message::Credit { bytes: 300 } => "0aac02",
    }
    contents: Content {
        Content::Small { index: 1, bytes: b"hi".to_vec(), as_of: Position::new(3, 4) } => "00010268690304",
        Content::Begin { index: 1, size: 300, coding: Coding::From(2) } => "0101ac020002",
        Content::Begin { index: 1, size: 300, coding: Coding::Delta } => "0101ac0201",
        Content::Chunk { index: 1, zstd: None, bytes: b"hi".to_vec() } => "020100026869",
        Content::Chunk { index: 1, zstd: Some(300), bytes: b"hi".to_vec() } => "020101ac02026869",
        Content::Hole { index: 1, bytes: 300 } => "0301ac02",
        Content::End { index: 1, hash: [0x22; 32], as_of: Position::new(3, 4) } => "040122222222222222222222222222222222222222222222222222222222222222220304",
        Content::Differs { index: 1 } => "0501",
        Content::Changed { index: 1 } => "0601",
        Content::Gone { index: 1 } => "0701",
        Content::Failed { index: 1, errno: 5 } => "08010a",
    }
    listings: Listing {
        Listing {
            directory: ObjectId::ROOT,
            entries: vec![ListingEntry { name: name(b"f"), is_root: false, settled: settled() }],
            last: true,
        } => "010001016600020900a403e80764ac020001ff93ebdc03020105020701020106757365722e6101760001",
    }
}
