//! `lento fsck` without `--rebuild`: compares the object database with the store, while the file set stays in use.

use super::{conclude, end};
use crate::daemon::error::{failed, hinted};
use crate::daemon::input::{Answers, Call, Input};
use crate::daemon::mind::Mind;
use crate::daemon::progress::Pace;
use crate::daemon::requests::call;
use lento_cli::control::{ControlEvent, Failure};
use lento_store::{Store, Suspect};
use protocol::{FileSetId, FileSetName};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Time for what Presto has of the log to be written.
const FLUSH: Duration = Duration::from_secs(2);
/// How often what seems wrong is looked at again, and the time between.
const CONFIRMATIONS: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// Flaws that are told one by one.
const TOLD: usize = 100;

impl Mind {
    pub(super) fn check(&mut self, id: FileSetId, name: FileSetName, answers: Answers) {
        let Some(store) = self.store(id) else {
            return end(&answers, [ControlEvent::Failed(failed(format!("the store of {name} is not open")))]);
        };
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let result = check(&inputs, id, store, &name, &answers).await;
            conclude(&answers, result).await;
        });
    }
}

async fn check(
    inputs: &mpsc::Sender<Input>,
    id: FileSetId,
    store: Arc<Store>,
    name: &FileSetName,
    answers: &Answers,
) -> Result<Option<String>, Failure> {
    flush(inputs, id).await;
    let (checked, told) = (store.clone(), answers.clone());
    let work = tokio::task::spawn_blocking(move || {
        let mut pace = Pace::new("checking");
        checked.check(&mut |objects| {
            if let Some(progress) = pace.due(objects, 0, None) {
                let _ = told.try_send(ControlEvent::Progress(progress));
            }
        })
    });
    let (entries, mut flaws): (u64, Vec<Suspect>) = work.await.map_err(failed)?.map_err(failed)?;
    // What was changed while the tree was read is in the log by now, or will be when the operation has ended before which
    // the reader of the log stops.
    for _ in 0..CONFIRMATIONS {
        if flaws.is_empty() {
            break;
        }
        flush(inputs, id).await;
        let store = store.clone();
        let work = tokio::task::spawn_blocking(move || store.confirm(flaws));
        flaws = work.await.map_err(failed)?.map_err(failed)?;
        tokio::time::sleep(PAUSE).await;
    }
    for flaw in flaws.iter().take(TOLD) {
        let _ = answers.send(ControlEvent::Note(flaw.to_string())).await;
    }
    if flaws.is_empty() {
        return Ok(Some(format!("the database of {name} agrees with the store: {entries} entries")));
    }
    Err(hinted(
        format!("the database of {name} does not agree with the store in {} of {entries} entries", flaws.len()),
        format!("`lento fsck {name} --rebuild` makes it anew; nothing is lost with it"),
    ))
}

/// Has Presto write what it has of the log; without a mount all is written. Files that wait for the permit to be logged
/// do not matter: their objects are known.
async fn flush(inputs: &mpsc::Sender<Input>, id: FileSetId) {
    let flushed = call(inputs, |reply| Call::Flush { fileset: id, reply });
    let _ = tokio::time::timeout(FLUSH, flushed).await;
}
