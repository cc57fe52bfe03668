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
        let checked = checked.check(&mut |objects| pace.tell(&told, objects))?;
        pace.end(&told, checked.0);
        Ok::<_, lento_store::StoreError>(checked)
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
    for line in lines(&flaws) {
        let _ = answers.send(ControlEvent::Note(line)).await;
    }
    let word = if entries == 1 { "entry" } else { "entries" };
    if flaws.is_empty() {
        return Ok(Some(format!("the database of {name} agrees with the store: {entries} {word}")));
    }
    Err(hinted(
        format!("the database of {name} does not agree with the store in {} of {entries} {word}", flaws.len()),
        format!("`lento fsck {name} --rebuild` makes it anew; nothing is lost with it"),
    ))
}

/// What is told of flaws: the first ones, and how many more there are.
fn lines<T: ToString>(flaws: &[T]) -> Vec<String> {
    let mut lines: Vec<String> = flaws.iter().take(TOLD).map(ToString::to_string).collect();
    if flaws.len() > TOLD {
        lines.push(format!("… and {} more", flaws.len() - TOLD));
    }
    lines
}

/// Has Presto write what it has of the log; without a mount all is written. Files that wait for the permit to be logged
/// do not matter: their objects are known.
async fn flush(inputs: &mpsc::Sender<Input>, id: FileSetId) {
    let flushed = call(inputs, |reply| Call::Flush { fileset: id, reply });
    let _ = tokio::time::timeout(FLUSH, flushed).await;
}

#[cfg(test)]
mod tests {
    use super::{TOLD, lines};

    #[test]
    fn a_list_that_is_cut_short_says_so() {
        let flaws: Vec<usize> = (0..TOLD + 7).collect();
        assert_eq!(lines(&flaws[..TOLD]).len(), TOLD);
        let told = lines(&flaws);
        assert_eq!((told.len(), told.last().map(String::as_str)), (TOLD + 1, Some("… and 7 more")));
    }
}
