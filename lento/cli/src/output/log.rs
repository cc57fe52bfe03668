//! A record of the log on one line.

use super::screen::Paint;
use crate::control::{LogLine, LogResult};
use nix::errno::Errno;
use protocol::Timestamp;
use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

/// `2:917  2026-11-22T12:00:00.000001Z  a  1000  rename  1.17  1.3/old → 1.4/new  over 1.9`.
pub(crate) fn log_line(line: &LogLine, paint: Paint) -> String {
    let mut text = format!(
        "{:<10} {}  {:<8} {:>5}  {} {:<10}",
        format!("{}:{}", line.epoch, line.number),
        paint.dim(time(line.time)),
        line.writer.as_str(),
        line.uid,
        paint.strong(format_args!("{:<11}", line.op)),
        line.object.as_deref().unwrap_or("-"),
    );
    let place = |parent: &Option<String>, name: &dyn std::fmt::Display| match parent {
        Some(parent) => format!("{parent}/{name}"),
        None => name.to_string(),
    };
    if let Some(name) = &line.name {
        text += &format!(" {}", place(&line.parent, name));
    }
    if let Some(to) = &line.to {
        text += &format!(" → {}", place(&line.to_parent, to));
    }
    if let Some(detail) = &line.detail {
        text += &format!("  {}", paint.dim(detail));
    }
    match line.result {
        LogResult::Done => {}
        LogResult::Open => text += &paint.dim("  (not finished)"),
        LogResult::Cancelled(errno) => text += &paint.bad(format_args!("  cancelled: {:?}", Errno::from_raw(errno))),
    }
    text
}

/// RFC 3339, UTC. A clock that is far off, here or at the writer, is shown as seconds.
fn time(time: Timestamp) -> String {
    let known = u64::try_from(time.secs).ok().filter(|_| time.nanos < 1_000_000_000);
    let at = known.and_then(|secs| SystemTime::UNIX_EPOCH.checked_add(Duration::new(secs, time.nanos)));
    let mut text = String::new();
    match at {
        Some(at) if write!(text, "{}", humantime::format_rfc3339_micros(at)).is_ok() => text,
        _ => format!("{}.{:09}", time.secs, time.nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::{log_line, time};
    use crate::{
        control::{ByteText, LogLine, LogResult},
        output::screen::Paint,
    };
    use protocol::Timestamp;

    #[test]
    fn any_clock_can_be_shown() {
        assert_eq!(time(Timestamp { secs: 1_795_000_000, nanos: 1_000 }), "2026-11-18T11:06:40.000001Z");
        for secs in [i64::MIN, -1, i64::MAX, 253_402_300_800] {
            assert!(time(Timestamp { secs, nanos: 0 }).starts_with(&secs.to_string()));
        }
    }

    #[test]
    fn a_cancelled_record_says_why() {
        let line = LogLine {
            epoch: 2,
            number: 9,
            writer: "a".parse().expect("legal"),
            time: Timestamp::default(),
            uid: 0,
            gid: 0,
            pid: 1,
            op: "unlink".into(),
            object: Some("1.4".into()),
            parent: Some("1.0".into()),
            name: Some(ByteText(b"gone\n".to_vec())),
            to_parent: None,
            to: None,
            detail: None,
            result: LogResult::Cancelled(2),
        };
        let text = log_line(&line, Paint(false));
        assert!(text.ends_with("1.0/gone\\n  cancelled: ENOENT"), "{text}");
    }
}
