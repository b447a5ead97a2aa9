//! The loop that makes and owns one queue's calls, and tells the table their results. Nothing else
//! deletes a message.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};

use super::answers::{Done, Notice, Sent, What};
use super::calls::{Call, Copying};
use super::complaints::{Complaints, Unsaid};
use super::desk::Desk;
use super::entry::Fate;
use crate::seam::{Fault, FaultKind, Observation, Observer, Queue};
use crate::step::CallbackToken;

/// Where bodies are that are not kept in memory: in the ledger, which holds their content.
pub(crate) trait Bodies: Send + Sync {
    /// The body of the message about this step, or of its stop; `None` if it is unavailable, now or
    /// forever.
    fn body<'a>(&'a self, token: &'a CallbackToken, stop: bool) -> BoxFuture<'a, Option<String>>;
}

/// What one queue's messages need from outside.
#[derive(Clone, Copy)]
pub(super) struct World<'a> {
    pub(super) queue: &'a dyn Queue,
    pub(super) bodies: &'a dyn Bodies,
    pub(super) observer: &'a dyn Observer,
    /// For the log and the metrics.
    pub(super) queue_name: &'a str,
}

/// Extends, releases, copies and deletes until the table is closed and nothing is left to delete or
/// release.
pub(super) async fn work(desk: &Desk, world: World<'_>) {
    let mut calls: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
    let mut complaints = Complaints::default();
    loop {
        let now = Instant::now();
        let next = {
            let mut table = desk.lock();
            while let Some(call) = table.take(now) {
                calls.push(make(desk, world, call));
            }
            if calls.is_empty() && table.is_over() {
                return;
            }
            table.sleeps_until = table.next(now);
            table.sleeps_until
        };
        tokio::select! {
            biased;
            Some(done) = calls.next(), if !calls.is_empty() => {
                let now = Instant::now();
                let notices = desk.lock().done(done, now, fastrand::f64());
                for notice in notices {
                    say(&mut complaints, world, notice, now);
                }
            }
            () = desk.news.notified() => {}
            () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
    }
}

fn make<'a>(desk: &'a Desk, world: World<'a>, call: Call) -> BoxFuture<'a, Done> {
    match call {
        Call::Set(setting) => Box::pin(async move {
            let result = world.queue.set_visibility(&setting.entries).await;
            Done::Set(setting, result)
        }),
        Call::Delete(deletion) => Box::pin(async move {
            let result = world.queue.delete(&deletion.receipt_handles).await;
            Done::Delete(deletion, result)
        }),
        Call::Copy(copying) => Box::pin(async move {
            let result = copy(desk, world, &copying).await;
            Done::Copy(copying, result)
        }),
    }
}

async fn copy(desk: &Desk, world: World<'_>, copying: &Copying) -> Result<Sent, Fault> {
    let body: Arc<str> = match (&copying.body, &copying.about) {
        (Some(body), _) => body.clone(),
        (None, Some((token, stop))) => match world.bodies.body(token, *stop).await {
            Some(body) => body.into(),
            None => {
                return Err(Fault::new(FaultKind::Transient, "the ledger did not return its body"));
            }
        },
        (None, None) => {
            return Err(Fault::new(FaultKind::Transient, "its body is unknown"));
        }
    };
    // Its step may have settled while the ledger was being read.
    if desk.look(|table| table.get(&copying.id).is_none_or(|entry| entry.fate != Fate::Copy)) {
        return Ok(Sent::Unwanted);
    }
    world.queue.send(&body, copying.trace.as_deref()).await.map(|()| Sent::Yes)
}

#[expect(clippy::too_many_lines, reason = "one flat arm for each notice")]
fn say(complaints: &mut Complaints, world: World<'_>, notice: Notice, now: Instant) {
    if matches!(notice.what, What::NotKept | What::NotReleased | What::LetGo) {
        let failed =
            Observation::HeartbeatFailed { queue: world.queue_name, messages: notice.messages };
        world.observer.observe(failed);
    }
    let Some(unsaid) = complaints.take(&notice, now) else { return };
    let Notice { what, fault, messages, example } = notice;
    let (queue, message_id) = (world.queue_name, &*example);
    let Unsaid { calls: more_calls, messages: more_messages } = unsaid;
    let error = fault.as_ref().map(tracing::field::display);
    match what {
        What::NotKept => tracing::warn!(
            event = "messages_not_kept",
            queue,
            message_id,
            messages,
            error,
            more_calls,
            more_messages,
            "messages could not be kept invisible; tried again"
        ),
        What::NotReleased => tracing::warn!(
            event = "messages_not_released",
            queue,
            message_id,
            messages,
            error,
            more_calls,
            more_messages,
            "messages could not be given back; tried again"
        ),
        What::NotDeleted => tracing::warn!(
            event = "messages_not_deleted",
            queue,
            message_id,
            messages,
            error,
            more_calls,
            more_messages,
            "settled messages could not be deleted; tried again"
        ),
        What::NotPassedOn => tracing::warn!(
            event = "copies_not_sent",
            queue,
            message_id,
            messages,
            error,
            more_calls,
            more_messages,
            "fresh copies could not be sent; the messages are given back instead"
        ),
        What::NotCopied => tracing::warn!(
            event = "copy_not_sent",
            queue,
            message_id,
            messages,
            error,
            more_calls,
            more_messages,
            "a fresh copy of a message could not be sent; tried again"
        ),
        What::TakenApart => tracing::warn!(
            event = "batch_refused",
            queue,
            message_id,
            messages,
            error,
            more_calls,
            more_messages,
            "a batch of messages was refused as a whole; each is sent by itself"
        ),
        What::LetGo => tracing::warn!(
            event = "messages_let_go",
            queue,
            message_id,
            messages,
            error,
            more_calls,
            more_messages,
            "messages can no longer be kept invisible; their steps continue"
        ),
        What::Undeletable => tracing::warn!(
            event = "messages_undeletable",
            queue,
            message_id,
            messages,
            error,
            more_calls,
            more_messages,
            "settled messages can no longer be deleted; if they come back, they are \
             deleted then"
        ),
        What::Copied => tracing::info!(
            event = "message_copied",
            queue,
            message_id,
            messages,
            more_calls,
            more_messages,
            "replaced a message by a fresh copy, because of its age or its number of \
             receives, or because its step has waited long for a slot"
        ),
    }
}
