//! `lento log`: the modification log of this host, readable.

use super::conclude;
use crate::daemon::error::{failed, no_fileset};
use crate::daemon::input::{Answers, Call};
use crate::daemon::mind::Mind;
use crate::daemon::mount::numbers_path;
use crate::daemon::requests::call;
use lento_cli::control::{ControlEvent, Failure, LogLine};
use lento_store::Store;
use modlog::{ReadResult, Reader};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use protocol::{FileSetId, FileSetName, HostName, Outcome, limits};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often the log is looked at for new records when it is followed.
const LOOK: Duration = Duration::from_millis(50);
/// Records and bytes read at once.
const READ: (usize, usize) = (1024, 1 << 20);

impl Mind {
    pub(super) fn show_log(&mut self, name: &FileSetName, follow: bool, answers: Answers) {
        let found = self.by_name(name).and_then(|id| Some((id, self.store(id)?)));
        let Some((id, store)) = found else {
            return super::end(&answers, [ControlEvent::Failed(no_fileset(name))]);
        };
        let (writer, inputs) = (self.identity.name.clone(), self.inputs.clone());
        let links = self.engine.status(id).map(|status| status.links).unwrap_or_default();
        // A log over its bound is trimmed though a replica lacks it, which is compared then.
        let acknowledged = links.iter().all(|link| link.up && link.in_step && !link.copying);
        let began = first_number(&self.home, id);
        tokio::spawn(async move {
            // How the last operations ended may not be written yet.
            let _ = call(&inputs, |reply| Call::Flush { fileset: id, reply }).await;
            let sink = answers.clone();
            let work = move || show(&store, &writer, (began, acknowledged), follow, &sink);
            let shown = tokio::task::spawn_blocking(work).await.unwrap_or_else(|why| Err(failed(why)));
            if matches!(shown, Ok(0)) {
                let last = call(&inputs, |reply| Call::Status { fileset: id, reply }).await.flatten();
                let note = match last.map_or(0, |status| status.tail.number) {
                    last if last > began => trimmed(last, acknowledged),
                    _ => "nothing was written on this host yet: the log does not hold what it received".to_owned(),
                };
                let _ = answers.send(ControlEvent::Note(note)).await;
            }
            conclude(&answers, shown.map(|_| None)).await;
        });
    }
}

/// The number after which the log of this host began: not 0, if it replicated the file set before.
fn first_number(home: &Path, id: FileSetId) -> u64 {
    let last = std::fs::read_to_string(numbers_path(home, id)).ok().and_then(|text| text.trim().parse::<u64>().ok());
    last.filter(|last| *last > 0).map_or(0, |last| last.saturating_add(limits::LOG_GAP_RECORDS))
}

fn trimmed(upto: u64, acknowledged: bool) -> String {
    if acknowledged {
        format!("records up to {upto} are not shown: every peer has acknowledged them, and they were trimmed")
    } else {
        let mib = limits::LOG_TOTAL_BYTES >> 20;
        format!(
            "records up to {upto} are not shown: they were trimmed, acknowledged by every peer or beyond the {mib} MiB that are kept"
        )
    }
}

/// Sends the records after number `began`, and says which of them are not there; how many it sent.
fn show(
    store: &Arc<Store>,
    writer: &HostName,
    (began, acknowledged): (u64, bool),
    follow: bool,
    answers: &Answers,
) -> Result<u64, Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = openat(store.bottom().private(), "log", flags, Mode::empty()).map_err(failed)?;
    let mut reader = Reader::open(dir);
    let (mut after, mut shown) = (began, 0);
    loop {
        match reader.read(after, READ.0, READ.1).map_err(failed)? {
            ReadResult::TooOld { first_available } => {
                after = first_available.saturating_sub(1);
                let _ = answers.blocking_send(ControlEvent::Note(trimmed(after, acknowledged)));
            }
            ReadResult::Entries(records) if records.is_empty() => {
                if !follow || answers.is_closed() {
                    return Ok(shown);
                }
                std::thread::sleep(LOOK);
            }
            ReadResult::Entries(records) => {
                for finished in records {
                    after = finished.record.number;
                    let outcome = Outcome { number: after, result: finished.outcome };
                    let line = LogLine::new(writer.clone(), &finished.record, Some(&outcome));
                    if answers.blocking_send(ControlEvent::Log(line)).is_err() {
                        return Ok(shown);
                    }
                    shown += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{first_number, show, trimmed};
    use lento_cli::control::ControlEvent;
    use lento_store::{Bottom, Store, StoreConfig};
    use protocol::{Cred, Done, FileSetId, HostId, Name, ObjectId, Op, limits};
    use std::fs::File;
    use std::sync::Arc;
    use tokio::sync::mpsc;

    #[test]
    fn a_log_that_was_trimmed_says_up_to_where() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory, on ext4");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("it is new");
        let fileset = FileSetId::from_bytes([1; 16]);
        let host = HostId::new(1).expect("not 0");
        let config =
            StoreConfig { fileset, host, index: dir.path().join("index"), keep_received: false, on_demand: false };
        let bottom = Arc::new(Bottom::new(File::open(&root).expect("it is there").into()).expect("it is on ext4"));
        let store = Arc::new(Store::adopt(bottom, config, &mut |_| {}).expect("it is adopted"));
        let log = File::open(root.join(".intermezzo/log")).expect("it is there").into();
        let (mut writer, _) = modlog::Writer::open(log, modlog::Options::new(fileset, host)).expect("a log");
        writer.skip(917);
        let op = |number| Op::Create {
            parent: ObjectId::ROOT,
            name: Name::new(b"f").expect("legal"),
            id: ObjectId::new(host, number),
            mode: 0o644,
        };
        let number = writer.append(Cred { uid: 0, gid: 0, pid: 1 }, 1, op).expect("it is written");
        writer.outcome(number, Ok(Done { handle: None, attr: None }));
        writer.flush().expect("it is written");
        let (answers, mut events) = mpsc::channel(8);
        let name = "a".parse().expect("legal");
        assert_eq!(show(&store, &name, (0, true), false, &answers).expect("it is shown"), 1);
        assert_eq!(events.blocking_recv(), Some(ControlEvent::Note(trimmed(917, true))));
        assert!(matches!(events.blocking_recv(), Some(ControlEvent::Log(line)) if line.number == 918));
        // What began there lacks nothing.
        show(&store, &name, (917, true), false, &answers).expect("it is shown");
        assert!(matches!(events.blocking_recv(), Some(ControlEvent::Log(line)) if line.number == 918));
        assert_eq!(first_number(dir.path(), fileset), 0);
        std::fs::create_dir(dir.path().join("fsdb")).expect("it is new");
        std::fs::write(dir.path().join(format!("fsdb/{fileset}.last")), "9").expect("it is written");
        assert_eq!(first_number(dir.path(), fileset), 9 + limits::LOG_GAP_RECORDS);
    }
}
