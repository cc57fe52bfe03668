//! A record of the modification log as `lento log` shows it.

use super::ByteText;
use protocol::{AttrChange, HostName, Op, Outcome, Record, Timestamp};
use serde::{Deserialize, Serialize};

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogResult {
    /// Done.
    Done,
    /// The operation failed with this errno: the record never happened.
    Cancelled(i32),
    /// Not finished when it was read.
    Open,
}

/// One record. Fields that an operation does not have are absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The permit epoch.
    pub epoch: u64,
    /// Its number.
    pub number: u64,
    /// Who wrote it.
    pub writer: HostName,
    /// When, by the writer's clock.
    pub time: Timestamp,
    /// User and group that did it.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The thread that did it.
    pub pid: u32,
    /// What was done: `create`, `rename`, `store`…
    pub op: String,
    /// To which object: creating host and counter, as in `1.17`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub object: Option<String>,
    /// In which directory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<String>,
    /// Under which name; of an xattr operation the attribute's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<ByteText>,
    /// Renamed to this directory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to_parent: Option<String>,
    /// Renamed to this name, or where a symbolic link points to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<ByteText>,
    /// What is more to say, for people: new attributes, sizes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// How it ended.
    pub result: LogResult,
}

impl LogLine {
    /// The line of `record`, which `writer` wrote; `outcome` is absent while it is not finished.
    pub fn new(writer: HostName, record: &Record, outcome: Option<&Outcome>) -> Self {
        let [parent, to_parent] = record.op.parents();
        let (name, to) = names(&record.op);
        Self {
            epoch: record.epoch,
            number: record.number,
            writer,
            time: record.time,
            uid: record.cred.uid,
            gid: record.cred.gid,
            pid: record.cred.pid,
            op: record.op.word().to_owned(),
            object: record.op.object().map(|id| id.to_string()),
            parent: parent.map(|id| id.to_string()),
            name,
            to_parent: to_parent.map(|id| id.to_string()),
            to,
            detail: detail(&record.op),
            result: match outcome.map(|outcome| &outcome.result) {
                Some(Ok(_)) => LogResult::Done,
                Some(Err(errno)) => LogResult::Cancelled(*errno),
                None => LogResult::Open,
            },
        }
    }
}

fn names(op: &Op) -> (Option<ByteText>, Option<ByteText>) {
    let text = |bytes: &[u8]| Some(ByteText::from(bytes));
    match op {
        Op::Create { name, .. }
        | Op::Mkdir { name, .. }
        | Op::Mknod { name, .. }
        | Op::Link { name, .. }
        | Op::Unlink { name, .. }
        | Op::Rmdir { name, .. } => (text(name.as_bytes()), None),
        Op::Symlink { name, target, .. } => (text(name.as_bytes()), text(target)),
        Op::Rename { name, to_name, .. } => (text(name.as_bytes()), text(to_name.as_bytes())),
        Op::Setxattr { name, .. } | Op::Removexattr { name, .. } => (text(name), None),
        _ => (None, None),
    }
}

fn detail(op: &Op) -> Option<String> {
    match op {
        Op::Create { mode, .. } | Op::Mkdir { mode, .. } => Some(format!("mode={:04o}", mode & 0o7777)),
        Op::Mknod { mode, rdev, .. } => Some(format!("mode={mode:o} rdev={rdev:#x}")),
        Op::Store { size, mtime, .. } => Some(format!("size={size} mtime={}.{:09}", mtime.secs, mtime.nanos)),
        Op::Setxattr { value, .. } => Some(format!("bytes={}", value.len())),
        Op::Setattr { change, .. } => Some(change_words(change)),
        Op::Rename { other: Some(other), exchange, .. } => {
            Some(format!("{} {other}", if *exchange { "with" } else { "over" }))
        }
        _ => None,
    }
}

fn change_words(change: &AttrChange) -> String {
    let time = |time: Timestamp| format!("{}.{:09}", time.secs, time.nanos);
    [
        change.mode.map(|mode| format!("mode={mode:04o}")),
        change.uid.map(|uid| format!("uid={uid}")),
        change.gid.map(|gid| format!("gid={gid}")),
        change.size.map(|size| format!("size={size}")),
        change.mtime.map(|at| format!("mtime={}", time(at))),
        change.atime.map(|at| format!("atime={}", time(at))),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(" ")
}

#[cfg(test)]
mod tests {
    use super::{LogLine, LogResult};
    use protocol::{Cred, HostId, Name, ObjectId, Op, Outcome, Record, Timestamp};

    #[test]
    fn a_rename_tells_both_names_and_what_it_replaced() {
        let id = |counter| ObjectId::new(HostId::new(1).expect("positive"), counter);
        let name = |text: &str| Name::new(text.as_bytes()).expect("legal");
        let record = Record {
            number: 9,
            epoch: 2,
            finished: 8,
            time: Timestamp { secs: 5, nanos: 6 },
            cred: Cred { uid: 1000, gid: 100, pid: 77 },
            op: Op::Rename {
                id: id(3),
                parent: id(1),
                name: name("old"),
                to_parent: id(2),
                to_name: name("new"),
                other: Some(id(4)),
                exchange: false,
            },
        };
        let writer = "a".parse::<protocol::HostName>().expect("legal");
        let line = LogLine::new(writer.clone(), &record, None);
        assert_eq!(line.result, LogResult::Open);
        assert_eq!((line.op.as_str(), line.object.as_deref()), ("rename", Some("1.3")));
        assert_eq!(line.name.map(|n| n.to_string()).as_deref(), Some("old"));
        assert_eq!(line.to.map(|n| n.to_string()).as_deref(), Some("new"));
        assert_eq!(line.detail.as_deref(), Some("over 1.4"));
        let failed = LogLine::new(writer, &record, Some(&Outcome { number: 9, result: Err(39) }));
        assert_eq!(failed.result, LogResult::Cancelled(39));
    }
}
