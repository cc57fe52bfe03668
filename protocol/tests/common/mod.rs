//! Arbitrary values of everything that goes over a wire or to a disk.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use proptest::{collection::vec, option, prelude::*};
use protocol::*;

pub fn host() -> impl Strategy<Value = HostId> {
    (1..=u32::MAX).prop_map(|n| HostId::new(n).expect("not 0"))
}

pub fn fileset() -> impl Strategy<Value = FileSetId> {
    any::<[u8; 16]>().prop_map(FileSetId::from_bytes)
}

pub fn object() -> impl Strategy<Value = ObjectId> {
    (host(), any::<u64>()).prop_map(|(host, counter)| ObjectId::new(host, counter))
}

pub fn position() -> impl Strategy<Value = Position> {
    any::<(u64, u64)>().prop_map(|(epoch, number)| Position::new(epoch, number))
}

pub fn name() -> impl Strategy<Value = Name> {
    vec(any::<u8>(), 1..=255).prop_filter_map("illegal", |bytes| Name::new(&bytes).ok())
}

pub fn label() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9._-]{0,63}"
}

pub fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

pub fn attr() -> impl Strategy<Value = Attr> {
    let kind = prop_oneof![
        Just(Kind::File),
        Just(Kind::Directory),
        Just(Kind::Symlink),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::CharDevice),
        Just(Kind::BlockDevice),
    ];
    (kind, 0..0o10000_u16, any::<(u32, u32, u64, u64)>(), time()).prop_map(|(kind, mode, n, mtime)| Attr {
        kind,
        mode,
        uid: n.0,
        gid: n.1,
        size: n.2,
        rdev: n.3,
        mtime,
    })
}

pub fn change() -> impl Strategy<Value = AttrChange> {
    let ids = (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<u64>()));
    (option::of(any::<u16>()), ids, option::of(time()), option::of(time()))
        .prop_map(|(mode, (uid, gid, size), atime, mtime)| AttrChange { mode, uid, gid, size, atime, mtime })
}

pub fn stamp() -> impl Strategy<Value = VersionStamp> {
    vec((host(), any::<u64>()), 0..20)
        .prop_map(|list| list.into_iter().fold(VersionStamp::default(), |stamp, (host, n)| stamp.touched(host, n)))
}

pub fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..max)
}

pub fn xattr() -> impl Strategy<Value = Xattr> {
    ("user\\.[a-z]{1,200}", bytes(300)).prop_map(|(name, value)| Xattr { name: name.into_bytes(), value })
}

pub fn settled() -> impl Strategy<Value = Settled> {
    (object(), attr(), stamp(), vec(xattr(), 0..4), bytes(100)).prop_map(|(id, attr, stamp, xattrs, target)| Settled {
        id,
        attr,
        stamp,
        xattrs,
        target,
    })
}

pub fn op() -> impl Strategy<Value = Op> {
    let place = || (object(), name(), object());
    prop_oneof![
        (place(), any::<u32>()).prop_map(|((parent, name, id), mode)| Op::Create { parent, name, id, mode }),
        (place(), any::<u32>()).prop_map(|((parent, name, id), mode)| Op::Mkdir { parent, name, id, mode }),
        (place(), bytes(100)).prop_map(|((parent, name, id), target)| Op::Symlink { parent, name, id, target }),
        (place(), any::<(u32, u64)>()).prop_map(|((parent, name, id), (mode, rdev))| Op::Mknod {
            parent,
            name,
            id,
            mode,
            rdev
        }),
        place().prop_map(|(parent, name, id)| Op::Link { id, parent, name }),
        place().prop_map(|(parent, name, id)| Op::Unlink { parent, name, id }),
        place().prop_map(|(parent, name, id)| Op::Rmdir { parent, name, id }),
        (place(), object(), name(), option::of(object()), any::<bool>()).prop_map(
            |((parent, name, id), to_parent, to_name, other, exchange)| Op::Rename {
                id,
                parent,
                name,
                to_parent,
                to_name,
                other,
                exchange
            }
        ),
        (object(), change(), change()).prop_map(|(id, change, before)| Op::Setattr { id, change, before }),
        (object(), bytes(255), bytes(300)).prop_map(|(id, name, value)| Op::Setxattr { id, name, value }),
        (object(), bytes(255)).prop_map(|(id, name)| Op::Removexattr { id, name }),
        (object(), any::<u64>()).prop_map(|(id, handle)| Op::Intend { id, handle: Handle(handle) }),
        (object(), any::<u64>(), time()).prop_map(|(id, size, mtime)| Op::Store { id, size, mtime }),
        Just(Op::Noop),
    ]
}

pub fn record() -> impl Strategy<Value = Record> {
    (any::<(u64, u64, u64)>(), time(), any::<(u32, u32, u32)>(), op()).prop_map(
        |((number, epoch, finished), time, (uid, gid, pid), op)| Record {
            number,
            epoch,
            finished,
            time,
            cred: Cred { uid, gid, pid },
            op,
        },
    )
}

pub fn log_entry() -> impl Strategy<Value = LogEntry> {
    let done = (option::of(any::<u64>()), option::of(attr()))
        .prop_map(|(handle, attr)| Done { handle: handle.map(Handle), attr });
    let result = prop_oneof![done.prop_map(Ok), any::<i32>().prop_map(Err)];
    prop_oneof![
        record().prop_map(LogEntry::Record),
        (any::<u64>(), result).prop_map(|(number, result)| LogEntry::Outcome(Outcome { number, result })),
    ]
}

pub fn request() -> impl Strategy<Value = Request> {
    let have = prop_oneof![
        Just(Have::Nothing),
        any::<(u64, [u8; 32])>().prop_map(|(size, hash)| Have::Prefix { size, hash }),
        bytes(500).prop_map(Have::Signature),
    ];
    let wanted = (object(), have).prop_map(|(id, have)| Wanted { id, have });
    prop_oneof![
        (label(), ".{0,100}", bytes(100), bytes(500)).prop_map(|(name, listen, secret, csr)| Request::Join {
            name: name.parse().expect("a label"),
            listen,
            secret,
            csr
        }),
        Just(Request::FileSets),
        (label(), role()).prop_map(|(name, role)| Request::Replicate { name: name.parse().expect("a label"), role }),
        fileset().prop_map(|fileset| Request::DropReplica { fileset }),
        fileset().prop_map(|fileset| Request::GetPermit { fileset }),
        (fileset(), vec(wanted, 0..10)).prop_map(|(fileset, wanted)| Request::Fetch { fileset, wanted }),
        (fileset(), object(), any::<bool>()).prop_map(|(fileset, root, deep)| Request::List { fileset, root, deep }),
        fileset().prop_map(|fileset| Request::Manifest { fileset }),
        fileset().prop_map(|fileset| Request::Wait { fileset }),
        bytes(100).prop_map(|secret| Request::Redeem { secret }),
    ]
}

fn grant() -> impl Strategy<Value = Grant> {
    let fileset = label().prop_map(|name| name.parse().expect("a label"));
    (fileset, role(), access()).prop_map(|(fileset, role, access)| Grant { fileset, role, access })
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Replicator), Just(Role::Client)]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::ReadOnly), Just(Access::ReadWrite)]
}

pub fn reply() -> impl Strategy<Value = Reply> {
    let refusal = prop_oneof![
        Just(Refusal::NoFileSet),
        Just(Refusal::Denied),
        Just(Refusal::TicketWrong),
        Just(Refusal::TicketUsed),
        Just(Refusal::TicketExpired),
        Just(Refusal::NameTaken),
        ".{0,50}".prop_map(Refusal::Busy),
        ".{0,50}".prop_map(Refusal::Failed),
    ];
    let inviter = || (host(), label(), ".{0,50}").prop_map(|(id, name, at)| (id, name.parse().expect("a label"), at));
    prop_oneof![
        Just(Reply::Done),
        refusal.prop_map(Reply::Refused),
        (host(), bytes(500), bytes(500), inviter(), option::of(grant())).prop_map(
            |(host, certificate, authority, inviter, grant)| Reply::Joined {
                host,
                certificate,
                authority,
                inviter,
                grant,
            }
        ),
        vec((fileset(), label()), 0..5).prop_map(|list| {
            Reply::FileSets(list.into_iter().map(|(id, name)| (id, name.parse().expect("a label"))).collect())
        }),
        (fileset(), access()).prop_map(|(fileset, access)| Reply::Replicating { fileset, access }),
        (any::<u64>(), position()).prop_map(|(epoch, after)| Reply::Permit { epoch, after }),
        position().prop_map(|after| Reply::Listed { after }),
        (inviter(), option::of(grant())).prop_map(|(inviter, grant)| Reply::Redeemed { inviter, grant }),
    ]
}

pub fn state() -> impl Strategy<Value = FileSetState> {
    (fileset(), any::<(u64, Option<u64>, Option<u64>)>(), position(), position()).prop_map(
        |(fileset, (incarnation, in_step_with, permit), applied, tail)| FileSetState {
            fileset,
            incarnation,
            in_step_with,
            applied,
            tail,
            permit,
            lost: permit,
        },
    )
}

pub fn message() -> impl Strategy<Value = Message> {
    let shipment = (fileset(), position(), position(), host(), vec(record(), 0..5), vec(settled(), 0..3)).prop_map(
        |(fileset, a, b, writer, records, settled)| Shipment {
            fileset,
            after: a.min(b),
            upto: a.max(b),
            writer,
            records,
            settled,
        },
    );
    prop_oneof![
        (any::<(u16, u16)>(), host(), vec(state(), 0..4)).prop_map(|(versions, host, filesets)| Message::Hello {
            versions,
            host,
            filesets
        }),
        state().prop_map(Message::State),
        Just(Message::Heartbeat),
        shipment.prop_map(Message::Shipment),
        (fileset(), position(), position()).prop_map(|(fileset, after, tail)| Message::TooOld { fileset, after, tail }),
        (fileset(), position(), position()).prop_map(|(fileset, applied, durable)| Message::Applied {
            fileset,
            applied,
            durable
        }),
        fileset().prop_map(|fileset| Message::ShipMore { fileset }),
        (fileset(), ".{0,50}").prop_map(|(fileset, reason)| Message::Stalled { fileset, reason }),
        (fileset(), any::<u64>()).prop_map(|(fileset, epoch)| Message::Revoke { fileset, epoch }),
        (fileset(), any::<u64>(), position()).prop_map(|(fileset, epoch, last)| Message::Released {
            fileset,
            epoch,
            last
        }),
        any::<u32>().prop_map(|bytes| Message::Credit { bytes }),
    ]
}

pub fn content() -> impl Strategy<Value = Content> {
    let coding = prop_oneof![any::<u64>().prop_map(Coding::From), Just(Coding::Delta)];
    prop_oneof![
        (any::<u32>(), bytes(500), position()).prop_map(|(index, bytes, as_of)| Content::Small { index, bytes, as_of }),
        (any::<(u32, u64)>(), coding).prop_map(|((index, size), coding)| Content::Begin { index, size, coding }),
        (any::<u32>(), option::of(0..=limits::DATA_CHUNK_BYTES as u32), bytes(500))
            .prop_map(|(index, zstd, bytes)| Content::Chunk { index, zstd, bytes }),
        any::<(u32, u64)>().prop_map(|(index, bytes)| Content::Hole { index, bytes }),
        (any::<(u32, [u8; 32])>(), position()).prop_map(|((index, hash), as_of)| Content::End { index, hash, as_of }),
        any::<u32>().prop_map(|index| Content::Differs { index }),
        any::<u32>().prop_map(|index| Content::Changed { index }),
        any::<u32>().prop_map(|index| Content::Gone { index }),
        any::<(u32, i32)>().prop_map(|(index, errno)| Content::Failed { index, errno }),
    ]
}

pub fn listing() -> impl Strategy<Value = Listing> {
    let entry =
        (name(), any::<bool>(), settled()).prop_map(|(name, is_root, settled)| ListingEntry { name, is_root, settled });
    (object(), vec(entry, 0..4), any::<bool>()).prop_map(|(directory, entries, last)| Listing {
        directory,
        entries,
        last,
    })
}
