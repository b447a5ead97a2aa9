//! Receipt handles of messages that the probe itself has sent.

use std::time::Duration;

use tokio::time::Instant;

use crate::aws::probe::{Entries, Letter, Refusal, Services};
use crate::cli::probe::caller::Setback;
use crate::cli::probe::lab::{Lab, late, told};
use crate::cli::probe::notes::Notes;
use crate::cli::probe::question::Question;
use crate::duration;

const SECOND: Duration = Duration::from_secs(1);
/// Long enough to delete the message while it is invisible.
const SEEN: Duration = Duration::from_secs(10);
/// Longer than an experiment with a message takes.
const HELD: Duration = Duration::from_mins(2);

/// A message that is received twice, and deleted with the handle of the first time.
pub(super) async fn old(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let (url, id) = lab.post("received twice").await?;
    let first = received(lab, &id, SECOND).await?;
    let second = received(lab, &id, SEEN).await?;
    let handle = first.receipt_handle.as_str();
    let deleted =
        lab.observe(async |services: &Services| services.discard(&url, &[handle]).await).await?;
    let answer = entries(&deleted);
    let within = lab.waits.surplus + SEEN;
    let again = letter(lab, &id, HELD, within).await?;
    let (setting, text) = match &again {
        Some(_) => ("ignored", "the message comes again".to_owned()),
        None => ("deletes", format!("it does not come again within {}", duration::text(within))),
    };
    notes.settle(Question::OldReceipt, Some(setting), format!("{answer}; {text}"));
    let last = again.unwrap_or(second);
    discard(lab, &url, &last).await
}

/// One receipt handle in two entries of a batch.
pub(super) async fn twice(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let (url, id) = lab.post("named twice").await?;
    let message = received(lab, &id, HELD).await?;
    let handle = message.receipt_handle.as_str();
    let hidden =
        lab.observe(async |services: &Services| services.hide_twice(&url, handle, HELD).await);
    let hidden = hidden.await?;
    let deleted =
        lab.observe(async |services: &Services| services.discard(&url, &[handle, handle]).await);
    let deleted = deleted.await?;
    let setting = match (&hidden, &deleted) {
        (Ok(hidden), Ok(deleted)) => {
            hidden.iter().chain(deleted).all(Result::is_ok).then_some("done")
        }
        (Err(one), Err(other)) => {
            let is_of_ids = |refusal: &Refusal| refusal.code.contains("BatchEntryIdsNotDistinct");
            (is_of_ids(one) && is_of_ids(other)).then_some("refused")
        }
        _ => None,
    };
    let text = format!(
        "ChangeMessageVisibilityBatch: {}; DeleteMessageBatch: {}",
        entries(&hidden),
        entries(&deleted)
    );
    notes.settle(Question::TwiceInABatch, setting, text);
    discard(lab, &url, &message).await
}

/// A message whose visibility timeout is over, and that nobody has received since.
pub(super) async fn lapsed(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let (url, id) = lab.post("lapsed").await?;
    let message = received(lab, &id, SECOND).await?;
    lab.caller.pause(5 * SECOND).await?;
    let handle = message.receipt_handle.as_str();
    let hidden =
        lab.observe(async |services: &Services| services.hide(&url, handle, HELD).await).await?;
    let setting = hidden.as_ref().err().and_then(|refusal| {
        let settings = [
            ("MessageNotInflight", "not_in_flight"),
            ("InvalidParameterValue", "invalid_parameter"),
        ];
        settings.iter().find(|(code, _)| refusal.code.contains(code)).map(|(_, setting)| *setting)
    });
    notes.settle(Question::LapsedReceipt, setting, told(&hidden));
    discard(lab, &url, &message).await
}

/// The message with this id, which must come.
async fn received(lab: &mut Lab, id: &str, visibility: Duration) -> Result<Letter, Setback> {
    let within = lab.waits.patience;
    let found = letter(lab, id, visibility, within).await?;
    found.ok_or_else(|| late("a message that was sent did not come", within))
}

async fn letter(
    lab: &mut Lab,
    id: &str,
    visibility: Duration,
    within: Duration,
) -> Result<Option<Letter>, Setback> {
    let end = Instant::now() + within;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let letters = lab.letters(left, visibility).await?;
        if let Some(found) = letters.into_iter().find(|letter| letter.id == id) {
            return Ok(Some(found));
        }
    }
}

/// Takes the message out of the way of the next experiment.
async fn discard(lab: &mut Lab, url: &str, letter: &Letter) -> Result<(), Setback> {
    let handle = letter.receipt_handle.as_str();
    let discard = async |services: &Services| services.discard(url, &[handle]).await;
    lab.caller.ask(discard).await.map(drop)
}

/// How a batch was answered.
fn entries(answer: &Result<Entries, Refusal>) -> String {
    let Ok(entries) = answer else { return told(answer) };
    let shown: Vec<String> = entries
        .iter()
        .map(|entry| match entry {
            Ok(()) => "accepted".to_owned(),
            Err(code) => format!("`{code}`"),
        })
        .collect();
    shown.join(" and ")
}
