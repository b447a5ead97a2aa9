//! A standard queue: which messages are visible, hidden, delayed or gone at a given time.
//!
//! Nothing here reads a clock: each call is given the time, and first processes everything that was
//! due until then.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::attributes::Attributes;
use super::error;
use super::message::Message;
use super::receipt::Receipt;
use crate::local::clock::Time;
use crate::local::protocol::ApiError;
use crate::local::undocumented::{LapsedReceipt, OldReceipt};

/// The longest total time that a message can be hidden after one receive.
pub(super) const LONGEST_HIDDEN: Duration = Duration::from_hours(12);

/// SQS's own limit of messages that are received and not deleted.
const MAX_IN_FLIGHT: usize = 120_000;

/// The maximum content of a queue in bytes: enough for any drill, and less than a laptop's memory.
const MAX_BYTES: usize = 1 << 30;

/// The cost of a held message beside its content: the entry and its places in four indexes, rounded
/// up.
const OVERHEAD: usize = 512;

/// A purge is refused within this time after another one.
const BETWEEN_PURGES: Duration = Duration::from_mins(1);

/// A standard queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub name: String,
    pub arn: Arc<str>,
    pub attributes: Attributes,
    pub created: Time,
    pub modified: Time,
    purged: Option<Time>,
    /// Identifies the receipt handles of this queue.
    key: u64,
    next: u64,
    held: BTreeMap<u64, Held>,
    /// By the time since which they are visible.
    visible: BTreeSet<(Time, u64)>,
    /// By the time when they become visible for the first time.
    delayed: BTreeSet<(Time, u64)>,
    /// By the time when they become visible again.
    in_flight: BTreeSet<(Time, u64)>,
    /// By the time when they were sent.
    by_age: BTreeSet<(Time, u64)>,
    bytes: usize,
    /// Notified when something may have become visible sooner than expected, or the queue is
    /// deleted.
    pub changed: Arc<Notify>,
}

/// The parameters of a receive.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// 1..10.
    pub max: usize,
    /// The queue's own where absent.
    pub visibility_timeout: Option<Duration>,
    /// The queue's own if absent.
    pub duplicate: bool,
    /// Leaves the returned messages visible.
    pub reorder: Option<u64>,
    /// Returns any messages, by this seed, instead of those visible longest.
    pub dead_letters: bool,
}

/// The result of a receive.
#[derive(Debug, Default)]
pub(crate) struct Receives {
    pub deliveries: Vec<Delivery>,
    /// Messages that the redrive policy removed from this queue.
    pub dead: Vec<Message>,
}

/// A message that was returned by a receive.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub message: Message,
    pub receipt_handle: String,
}

/// Numbers of messages, as in the `Approximate…` attributes; exact here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub visible: usize,
    pub in_flight: usize,
    pub delayed: usize,
}

#[derive(Debug)]
struct Held {
    message: Message,
    place: Place,
    /// The number of its last receive in this queue, 0 before the first.
    receive: u32,
    /// When that was.
    received: Time,
}

/// In which index a message is, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Visible(Time),
    Delayed(Time),
    InFlight(Time),
}

impl Queue {
    /// An empty queue. `key` should differ from every other queue's.
    pub(crate) fn new(
        name: impl Into<String>,
        arn: impl Into<Arc<str>>,
        attributes: Attributes,
        key: u64,
        now: Time,
    ) -> Self {
        Self {
            name: name.into(),
            arn: arn.into(),
            attributes,
            created: now,
            modified: now,
            purged: None,
            key,
            next: 0,
            held: BTreeMap::new(),
            visible: BTreeSet::new(),
            delayed: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            by_age: BTreeSet::new(),
            bytes: 0,
            changed: Arc::default(),
        }
    }

    /// # Errors
    /// `OverLimit` if the queue would hold more than [`MAX_BYTES`] with one more message of this
    /// size.
    pub(crate) fn check_room(&self, size: usize) -> Result<(), ApiError> {
        if self.bytes + size + OVERHEAD > MAX_BYTES {
            return Err(error::over_limit(format!(
                "the local endpoint holds at most {MAX_BYTES} bytes in a queue"
            )));
        }
        Ok(())
    }

    /// Adds a message, visible after `delay`.
    pub(crate) fn put(&mut self, message: Message, delay: Duration, now: Time) {
        let number = self.next;
        self.next += 1;
        self.bytes += message.content.size() + OVERHEAD;
        self.by_age.insert((message.sent, number));
        let place =
            if delay.is_zero() { Place::Visible(now) } else { Place::Delayed(now.plus(delay)) };
        self.index(place).insert((place.time(), number));
        self.held.insert(number, Held { message, place, receive: 0, received: now });
        self.changed.notify_waiters();
    }

    /// Processes what was due by now: messages become visible, or expire. Returns the expired ones.
    pub(crate) fn catch_up(&mut self, now: Time) -> Vec<Message> {
        for due in [due(&self.delayed, now), due(&self.in_flight, now)].concat() {
            self.moved(due.1, Place::Visible(due.0));
        }
        let retention = self.attributes.retention;
        let expired = self
            .by_age
            .iter()
            .take_while(|(sent, _)| sent.plus(retention) <= now)
            .map(|&(_, number)| number);
        expired.collect::<Vec<_>>().into_iter().filter_map(|number| self.take(number)).collect()
    }

    /// Returns visible messages and hides them; those that the redrive policy removes are returned
    /// separately.
    ///
    /// # Errors
    /// `OverLimit` if too many messages are in flight.
    pub(crate) fn receive(&mut self, ask: &Ask, now: Time) -> Result<Receives, ApiError> {
        let mut receives = Receives::default();
        let timeout = ask.visibility_timeout.unwrap_or(self.attributes.visibility_timeout);
        let mut shuffled = ask.reorder.map(|seed| self.shuffled(seed).into_iter());
        let mut last = None;
        while receives.deliveries.len() < ask.max {
            let candidate = match &mut shuffled {
                Some(order) => order.next(),
                None => self.visible_after(&mut last),
            };
            let Some(number) = candidate else { break };
            if self.in_flight.len() >= MAX_IN_FLIGHT {
                if receives.deliveries.is_empty() {
                    return Err(error::over_limit(format!(
                        "more than {MAX_IN_FLIGHT} messages are in flight"
                    )));
                }
                break;
            }
            if self.gives_up(number, ask.dead_letters) {
                receives.dead.extend(self.take(number));
            } else if let Some(held) = self.held.get_mut(&number) {
                held.receive += 1;
                held.received = now;
                held.message.receives += 1;
                held.message.first_received.get_or_insert(now);
                let receipt = Receipt { message: number, receive: held.receive };
                receives.deliveries.push(Delivery {
                    message: held.message.clone(),
                    receipt_handle: receipt.handle(self.key),
                });
                if !ask.duplicate && !timeout.is_zero() {
                    self.moved(number, Place::InFlight(now.plus(timeout)));
                }
            }
        }
        Ok(receives)
    }

    /// Deletes the message of a receipt handle; returns it if it existed.
    ///
    /// # Errors
    /// `ReceiptHandleIsInvalid` if it is not a receipt handle of this queue.
    pub(crate) fn delete(
        &mut self,
        receipt_handle: &str,
        old: OldReceipt,
    ) -> Result<Option<Message>, ApiError> {
        let receipt = self.receipt(receipt_handle)?;
        let latest =
            self.held.get(&receipt.message).is_some_and(|held| held.receive == receipt.receive);
        Ok((latest || old == OldReceipt::Deletes).then(|| self.take(receipt.message)).flatten())
    }

    /// Hides the message of a receipt handle for this long from now; zero makes it visible at once.
    /// Returns the message.
    ///
    /// # Errors
    /// `InvalidParameterValue` if the message is gone, was received again since, or would be hidden
    /// for more than 12 hours since its receive; for one that is no longer hidden, as `lapsed`
    /// says; `ReceiptHandleIsInvalid` as [`delete`](Self::delete).
    pub(crate) fn hide(
        &mut self,
        receipt_handle: &str,
        timeout: Duration,
        lapsed: LapsedReceipt,
        now: Time,
    ) -> Result<Message, ApiError> {
        let receipt = self.receipt(receipt_handle)?;
        let held = self
            .held
            .get(&receipt.message)
            .filter(|held| held.receive == receipt.receive)
            .ok_or_else(|| error::unavailable_receipt(receipt_handle))?;
        if !matches!(held.place, Place::InFlight(_)) {
            return Err(match lapsed {
                LapsedReceipt::NotInFlight => error::message_not_in_flight(),
                LapsedReceipt::InvalidParameter => error::unavailable_receipt(receipt_handle),
            });
        }
        if now.since(held.received) + timeout > LONGEST_HIDDEN {
            return Err(error::beyond_twelve_hours(timeout.as_secs()));
        }
        let message = held.message.clone();
        let until = now.plus(timeout);
        self.moved(
            receipt.message,
            if timeout.is_zero() { Place::Visible(now) } else { Place::InFlight(until) },
        );
        self.changed.notify_waiters();
        Ok(message)
    }

    /// Removes everything; returns how many messages that were.
    ///
    /// # Errors
    /// `PurgeQueueInProgress` within 60 s of the last purge.
    pub(crate) fn purge(&mut self, now: Time) -> Result<usize, ApiError> {
        if self.purged.is_some_and(|purged| now.since(purged) < BETWEEN_PURGES) {
            return Err(error::purge_in_progress(&self.name));
        }
        let messages = self.held.len();
        self.held.clear();
        for index in [&mut self.visible, &mut self.delayed, &mut self.in_flight, &mut self.by_age] {
            index.clear();
        }
        self.bytes = 0;
        self.purged = Some(now);
        Ok(messages)
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            visible: self.visible.len(),
            in_flight: self.in_flight.len(),
            delayed: self.delayed.len(),
        }
    }

    /// When the next hidden message becomes visible, if nothing else happens.
    pub(crate) fn next_visible(&self) -> Option<Time> {
        [&self.delayed, &self.in_flight]
            .into_iter()
            .filter_map(BTreeSet::first)
            .map(|&(time, _)| time)
            .min()
    }

    /// The message that has been visible longest, of those after the last one examined.
    fn visible_after(&self, last: &mut Option<(Time, u64)>) -> Option<u64> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        *last = self.visible.range((from, Bound::Unbounded)).next().copied();
        last.map(|(_, number)| number)
    }

    fn shuffled(&self, seed: u64) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.visible.iter().map(|&(_, number)| number).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut numbers);
        numbers
    }

    fn gives_up(&self, number: u64, dead_letters: bool) -> bool {
        let receives = self.held.get(&number).map_or(0, |held| held.receive);
        dead_letters
            && self.attributes.redrive.as_ref().is_some_and(|policy| policy.gives_up(receives))
    }

    fn receipt(&self, receipt_handle: &str) -> Result<Receipt, ApiError> {
        Receipt::parse(receipt_handle, self.key)
            .ok_or_else(|| error::invalid_receipt(receipt_handle))
    }

    fn moved(&mut self, number: u64, to: Place) {
        if let Some(held) = self.held.get_mut(&number) {
            let from = std::mem::replace(&mut held.place, to);
            self.index(from).remove(&(from.time(), number));
            self.index(to).insert((to.time(), number));
        }
    }

    fn take(&mut self, number: u64) -> Option<Message> {
        let held = self.held.remove(&number)?;
        self.index(held.place).remove(&(held.place.time(), number));
        self.by_age.remove(&(held.message.sent, number));
        self.bytes -= held.message.content.size() + OVERHEAD;
        Some(held.message)
    }

    fn index(&mut self, place: Place) -> &mut BTreeSet<(Time, u64)> {
        match place {
            Place::Visible(_) => &mut self.visible,
            Place::Delayed(_) => &mut self.delayed,
            Place::InFlight(_) => &mut self.in_flight,
        }
    }
}

impl Place {
    const fn time(self) -> Time {
        match self {
            Self::Visible(time) | Self::Delayed(time) | Self::InFlight(time) => time,
        }
    }
}

fn due(index: &BTreeSet<(Time, u64)>, now: Time) -> Vec<(Time, u64)> {
    index.iter().take_while(|(time, _)| *time <= now).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::sqs::attributes::RedrivePolicy;
    use crate::local::sqs::message::Content;

    const START: Time = Time::from_millis(1_000_000_000_000);

    fn at(seconds: u64) -> Time {
        START.plus(Duration::from_secs(seconds))
    }

    fn queue() -> Queue {
        Queue::new("q", "arn:aws:sqs:us-east-1:123456789012:q", Attributes::default(), 1, START)
    }

    fn put(queue: &mut Queue, body: &str, now: Time) {
        queue.put(Message::new(body, Content::of_body(body), now), Duration::ZERO, now);
    }

    fn ask() -> Ask {
        Ask {
            max: 10,
            visibility_timeout: None,
            duplicate: false,
            reorder: None,
            dead_letters: true,
        }
    }

    /// The result of a receive at a time, as bodies and receipt handles.
    fn receive(queue: &mut Queue, now: Time) -> Vec<(String, String)> {
        queue.catch_up(now);
        let receives = queue.receive(&ask(), now).expect("within limits");
        receives
            .deliveries
            .into_iter()
            .map(|it| (it.message.content.body.to_string(), it.receipt_handle))
            .collect()
    }

    fn hide(
        queue: &mut Queue,
        receipt_handle: &str,
        seconds: u64,
        now: Time,
    ) -> Result<Message, String> {
        queue.catch_up(now);
        let hidden = queue.hide(
            receipt_handle,
            Duration::from_secs(seconds),
            LapsedReceipt::NotInFlight,
            now,
        );
        hidden.map_err(|error| error.reported_code().to_owned())
    }

    fn counts(visible: usize, in_flight: usize, delayed: usize) -> Counts {
        Counts { visible, in_flight, delayed }
    }

    #[test]
    fn a_received_message_is_hidden_for_the_visibility_timeout_and_then_comes_back() {
        let mut queue = queue();
        put(&mut queue, "a", at(0));
        assert_eq!(receive(&mut queue, at(0)).len(), 1);
        assert_eq!(queue.next_visible(), Some(at(30)));
        assert_eq!(receive(&mut queue, at(29)), []);
        let again = receive(&mut queue, at(30));
        assert_eq!(again.len(), 1);
        assert_eq!(queue.counts(), counts(0, 1, 0));
    }

    #[test]
    fn a_message_received_again_has_a_new_handle_and_a_higher_count() {
        let mut queue = queue();
        put(&mut queue, "a", at(0));
        let first = queue.receive(&ask(), at(0)).expect("received").deliveries.remove(0);
        queue.catch_up(at(30));
        let second = queue.receive(&ask(), at(30)).expect("received").deliveries.remove(0);
        assert_ne!(first.receipt_handle, second.receipt_handle);
        assert_eq!((first.message.receives, second.message.receives), (1, 2));
        assert_eq!(second.message.first_received, Some(at(0)));
    }

    #[test]
    fn a_deletion_with_an_old_handle_succeeds_and_deletes_only_where_it_is_told_to() {
        let mut queue = queue();
        put(&mut queue, "a", at(0));
        let old = receive(&mut queue, at(0)).remove(0).1;
        receive(&mut queue, at(30));
        assert_eq!(queue.delete(&old, OldReceipt::Ignored), Ok(None));
        assert_eq!(queue.counts(), counts(0, 1, 0));
        assert!(queue.delete(&old, OldReceipt::Deletes).expect("a handle").is_some());
        assert_eq!(queue.counts(), counts(0, 0, 0));
    }

    #[test]
    fn a_message_can_be_deleted_after_its_timeout_while_nobody_else_received_it() {
        let mut queue = queue();
        put(&mut queue, "a", at(0));
        let receipt_handle = receive(&mut queue, at(0)).remove(0).1;
        queue.catch_up(at(31));
        assert!(queue.delete(&receipt_handle, OldReceipt::Ignored).expect("a handle").is_some());
        assert_eq!(receive(&mut queue, at(31)), []);
    }

    #[test]
    fn deleting_twice_succeeds_twice() {
        let mut queue = queue();
        put(&mut queue, "a", at(0));
        let receipt_handle = receive(&mut queue, at(0)).remove(0).1;
        assert!(queue.delete(&receipt_handle, OldReceipt::Ignored).expect("a handle").is_some());
        assert_eq!(queue.delete(&receipt_handle, OldReceipt::Ignored), Ok(None));
        assert_eq!(
            queue.delete("nonsense", OldReceipt::Ignored).expect_err("no handle").code,
            "ReceiptHandleIsInvalid"
        );
    }

    #[test]
    fn a_message_is_hidden_for_at_most_twelve_hours_from_its_receive() {
        let mut queue = queue();
        put(&mut queue, "a", at(0));
        let receipt_handle = receive(&mut queue, at(0)).remove(0).1;
        assert!(hide(&mut queue, &receipt_handle, 43_200, at(0)).is_ok());
        assert!(hide(&mut queue, &receipt_handle, 43_100, at(100)).is_ok());
        assert_eq!(
            hide(&mut queue, &receipt_handle, 43_101, at(100)),
            Err("InvalidParameterValue".to_owned())
        );
        // A refused request is not clamped: the message comes back when the last accepted timeout
        // ends.
        assert_eq!(queue.next_visible(), Some(at(43_200)));
    }

    #[test]
    fn hiding_for_no_time_makes_a_message_visible_at_once() {
        let mut queue = queue();
        put(&mut queue, "a", at(0));
        let receipt_handle = receive(&mut queue, at(0)).remove(0).1;
        assert!(hide(&mut queue, &receipt_handle, 0, at(1)).is_ok());
        assert_eq!(receive(&mut queue, at(1)).len(), 1);
    }

    #[test]
    fn a_handle_whose_message_is_visible_received_anew_or_gone_hides_nothing() {
        let mut queue = queue();
        put(&mut queue, "a", at(0));
        let old = receive(&mut queue, at(0)).remove(0).1;
        let lapsed = error::message_not_in_flight().reported_code().to_owned();
        assert_eq!(hide(&mut queue, &old, 10, at(30)), Err(lapsed));
        let newer = receive(&mut queue, at(30)).remove(0).1;
        assert_eq!(hide(&mut queue, &old, 10, at(31)), Err("InvalidParameterValue".to_owned()));
        queue.delete(&newer, OldReceipt::Ignored).expect("a handle");
        assert_eq!(hide(&mut queue, &newer, 10, at(32)), Err("InvalidParameterValue".to_owned()));
    }

    #[test]
    fn a_message_received_as_often_as_the_policy_allows_is_given_up_at_the_next_receive() {
        let mut queue = queue();
        queue.attributes.redrive =
            Some(RedrivePolicy { target: "dlq".to_owned(), max_receives: 2 });
        put(&mut queue, "a", at(0));
        assert_eq!(receive(&mut queue, at(0)).len(), 1);
        assert_eq!(receive(&mut queue, at(30)).len(), 1);
        queue.catch_up(at(60));
        let receives = queue.receive(&ask(), at(60)).expect("within limits");
        assert!(receives.deliveries.is_empty());
        assert_eq!(receives.dead.len(), 1);
        assert_eq!((receives.dead[0].receives, receives.dead[0].sent), (2, at(0)));
        assert_eq!(queue.counts(), counts(0, 0, 0));
    }

    #[test]
    fn a_policy_whose_queue_does_not_exist_gives_nothing_up() {
        let mut queue = queue();
        queue.attributes.redrive =
            Some(RedrivePolicy { target: "dlq".to_owned(), max_receives: 1 });
        put(&mut queue, "a", at(0));
        assert_eq!(receive(&mut queue, at(0)).len(), 1);
        queue.catch_up(at(30));
        let receives =
            queue.receive(&Ask { dead_letters: false, ..ask() }, at(30)).expect("within limits");
        assert_eq!(receives.deliveries.len(), 1);
    }

    #[test]
    fn many_messages_that_are_given_up_do_not_keep_a_good_one_back() {
        let mut queue = queue();
        queue.attributes.redrive =
            Some(RedrivePolicy { target: "dlq".to_owned(), max_receives: 1 });
        for _ in 0..15 {
            put(&mut queue, "bad", at(0));
        }
        assert_eq!(receive(&mut queue, at(0)).len(), 10);
        assert_eq!(receive(&mut queue, at(0)).len(), 5);
        put(&mut queue, "good", at(31));
        queue.catch_up(at(31));
        let receives = queue.receive(&ask(), at(31)).expect("within limits");
        assert_eq!((receives.deliveries.len(), receives.dead.len()), (1, 15));
    }

    #[test]
    fn a_message_expires_when_its_retention_is_over_hidden_or_not() {
        let mut queue = queue();
        queue.attributes.retention = Duration::from_mins(1);
        put(&mut queue, "a", at(0));
        put(&mut queue, "b", at(30));
        assert_eq!(receive(&mut queue, at(59)).len(), 2);
        let expired: Vec<_> = queue
            .catch_up(at(60))
            .into_iter()
            .map(|message| message.content.body.to_string())
            .collect();
        assert_eq!(expired, ["a"]);
        assert_eq!(queue.counts(), counts(0, 1, 0));
    }

    #[test]
    fn a_delayed_message_is_counted_apart_and_not_received_before_its_time() {
        let mut queue = queue();
        queue.put(Message::new("a", Content::of_body("a"), at(0)), Duration::from_secs(5), at(0));
        assert_eq!(queue.counts(), counts(0, 0, 1));
        assert_eq!(receive(&mut queue, at(4)), []);
        assert_eq!(receive(&mut queue, at(5)).len(), 1);
    }

    #[test]
    fn a_duplicated_delivery_leaves_the_message_visible_for_the_next_receive() {
        let mut queue = queue();
        put(&mut queue, "a", at(0));
        let first = queue.receive(&Ask { duplicate: true, ..ask() }, at(0)).expect("within limits");
        let second = receive(&mut queue, at(0));
        assert_eq!((first.deliveries.len(), second.len()), (1, 1));
        assert_ne!(first.deliveries[0].receipt_handle, second[0].1);
    }

    #[test]
    fn messages_come_in_order_unless_they_are_to_be_reordered() {
        let mut queue = queue();
        let bodies: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        for body in &bodies {
            put(&mut queue, body, at(0));
        }
        let zero = Some(Duration::ZERO);
        let mut order = |reorder| {
            let receives = queue
                .receive(&Ask { visibility_timeout: zero, reorder, ..ask() }, at(0))
                .expect("within");
            receives
                .deliveries
                .into_iter()
                .map(|it| it.message.content.body.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(order(None), bodies);
        let shuffled = order(Some(1));
        assert_ne!(shuffled, bodies);
        assert_eq!(shuffled, order(Some(1)));
    }

    #[test]
    fn a_purge_drops_everything_and_a_second_one_has_to_wait() {
        let mut queue = queue();
        put(&mut queue, "a", at(0));
        put(&mut queue, "b", at(0));
        receive(&mut queue, at(0));
        put(&mut queue, "c", at(0));
        assert_eq!(queue.purge(at(0)), Ok(3));
        assert_eq!(queue.counts(), counts(0, 0, 0));
        assert_eq!(queue.purge(at(59)).expect_err("too soon").code, "PurgeQueueInProgress");
        assert_eq!(queue.purge(at(60)), Ok(0));
    }

    #[test]
    fn no_more_than_a_hundred_and_twenty_thousand_messages_are_in_flight() {
        let mut queue = queue();
        for _ in 0..=MAX_IN_FLIGHT {
            put(&mut queue, "a", at(0));
        }
        for _ in 0..MAX_IN_FLIGHT / 10 {
            assert_eq!(receive(&mut queue, at(0)).len(), 10);
        }
        assert_eq!(queue.receive(&ask(), at(0)).expect_err("one too many").code, "OverLimit");
    }
}
