//! One SQS queue, as the engine sees it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::fault::Fault;

/// One received copy of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The same for every copy that SQS itself makes of a message.
    pub id: String,
    /// Valid for this receive; the next receive of the same message returns a newer one.
    pub receipt_handle: String,
    pub body: String,
    /// How often the message has been received, including this time; at least 1.
    pub receives: u32,
    /// When the message was sent; it survives a move to a dead-letter queue.
    pub sent: Option<Timestamp>,
    /// SQS's `AWSTraceHeader`.
    pub trace: Option<String>,
}

/// The result for each entry of a batch, in the order of the entries.
pub type Entries = Vec<Result<(), Fault>>;

/// One SQS queue.
pub trait Queue: Send + Sync {
    /// Up to `most` (1 to 10) messages, waiting up to `wait` (at most 20 s) for the first; each
    /// stays invisible for `visibility`.
    ///
    /// The caller awaits the result in any case: a dropped receive strands the messages that it
    /// received.
    fn receive(
        &self,
        most: usize,
        wait: Duration,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Received>, Fault>>;

    /// Sets how long from now each message stays invisible; at most ten entries. Zero makes it
    /// visible.
    fn set_visibility<'a>(
        &'a self,
        entries: &'a [(String, Duration)],
    ) -> BoxFuture<'a, Result<Entries, Fault>>;

    /// Deletes by receipt handle; at most ten.
    fn delete<'a>(&'a self, receipt_handles: &'a [String])
    -> BoxFuture<'a, Result<Entries, Fault>>;

    /// Sends a message with this body, and with the trace header if there is one.
    fn send<'a>(
        &'a self,
        body: &'a str,
        trace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), Fault>>;
}
