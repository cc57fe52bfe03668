//! `lento log`: the modification log of this host, readable.

use super::conclude;
use crate::daemon::error::{failed, no_fileset};
use crate::daemon::input::{Answers, Call};
use crate::daemon::mind::Mind;
use crate::daemon::requests::call;
use lento_cli::control::{ControlEvent, Failure, LogLine};
use lento_store::Store;
use modlog::{ReadResult, Reader};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use protocol::{FileSetName, HostName, Outcome};
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
        tokio::spawn(async move {
            // How the last operations ended may not be written yet.
            let _ = call(&inputs, |reply| Call::Flush { fileset: id, reply }).await;
            let sink = answers.clone();
            let shown = tokio::task::spawn_blocking(move || show(&store, &writer, follow, &sink)).await;
            let result = shown.unwrap_or_else(|why| Err(failed(why)));
            conclude(&answers, result.map(|()| None)).await;
        });
    }
}

fn show(store: &Arc<Store>, writer: &HostName, follow: bool, answers: &Answers) -> Result<(), Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = openat(store.bottom().private(), "log", flags, Mode::empty()).map_err(failed)?;
    let mut reader = Reader::open(dir);
    let mut after = reader.first_available().map_err(failed)?.map_or(0, |first| first.saturating_sub(1));
    loop {
        match reader.read(after, READ.0, READ.1).map_err(failed)? {
            ReadResult::TooOld { first_available } => after = first_available.saturating_sub(1),
            ReadResult::Entries(records) if records.is_empty() => {
                if !follow || answers.is_closed() {
                    return Ok(());
                }
                std::thread::sleep(LOOK);
            }
            ReadResult::Entries(records) => {
                for finished in records {
                    after = finished.record.number;
                    let outcome = Outcome { number: after, result: finished.outcome };
                    let line = LogLine::new(writer.clone(), &finished.record, Some(&outcome));
                    if answers.blocking_send(ControlEvent::Log(line)).is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}
