//! What is promised about the messages of a queue, tested against a queue that accepts nothing that
//! SQS might refuse.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::seam::{Entries, Fault, FaultKind, Observation};
use crate::step::CallbackToken;

const VISIBILITY: Duration = Duration::from_mins(2);
const REPOST: Duration = Duration::from_hours(11);

/// One queue whose receipt handles are valid for one receive, and whose old receipt handles delete
/// nothing although the call succeeds.
#[derive(Default)]
struct Sqs {
    messages: Mutex<BTreeMap<String, Message>>,
    calls: Mutex<Vec<Made>>,
    sent: Mutex<Vec<String>>,
    /// How the next calls of an operation fail.
    faults: Mutex<BTreeMap<&'static str, VecDeque<FaultKind>>>,
    /// How one message's part of each call of an operation fails.
    entries: Mutex<BTreeMap<(&'static str, String), FaultKind>>,
    /// A batch of an operation with such a message is refused as a whole.
    poison: Mutex<BTreeSet<(&'static str, String)>>,
    /// Calls of an operation wait here.
    gates: Mutex<BTreeMap<&'static str, &'static Semaphore>>,
    at_once: Mutex<BTreeMap<&'static str, (usize, usize)>>,
}

struct Message {
    visible_at: Instant,
    receives: u32,
}

struct Made {
    operation: &'static str,
    at: Instant,
    receipt_handles: Vec<String>,
}

impl Sqs {
    fn receive(&self, id: &str) -> Received {
        let mut messages = self.messages.lock().unwrap();
        let message = messages
            .entry(id.to_owned())
            .or_insert(Message { visible_at: Instant::now(), receives: 0 });
        message.receives += 1;
        message.visible_at = Instant::now() + VISIBILITY;
        let receipt_handle = format!("{id}#{}", message.receives);
        let body = format!("the body of {id}");
        Received {
            id: id.to_owned(),
            receipt_handle,
            body,
            receives: message.receives,
            sent: None,
            trace: None,
        }
    }

    fn fail(&self, operation: &'static str, kind: FaultKind, times: usize) {
        self.faults.lock().unwrap().entry(operation).or_default().extend(vec![kind; times]);
    }

    fn fail_entry(&self, operation: &'static str, id: &str, kind: FaultKind) {
        self.entries.lock().unwrap().insert((operation, id.to_owned()), kind);
    }

    fn refuse_with(&self, operation: &'static str, id: &str) {
        self.poison.lock().unwrap().insert((operation, id.to_owned()));
    }

    /// Makes the calls of an operation wait for permits.
    fn gate(&self, operation: &'static str) -> &'static Semaphore {
        let gate: &'static Semaphore = Box::leak(Box::new(Semaphore::new(0)));
        self.gates.lock().unwrap().insert(operation, gate);
        gate
    }

    fn exists(&self, id: &str) -> bool {
        self.messages.lock().unwrap().contains_key(id)
    }

    fn visible(&self) -> usize {
        self.messages
            .lock()
            .unwrap()
            .values()
            .filter(|message| message.visible_at <= Instant::now())
            .count()
    }

    fn left(&self) -> usize {
        self.messages.lock().unwrap().len()
    }

    /// How many messages each call of an operation contained.
    fn sizes(&self, operation: &str) -> Vec<usize> {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|c| c.operation == operation)
            .map(|c| c.receipt_handles.len())
            .collect()
    }

    fn handles(&self, operation: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls
            .iter()
            .filter(|call| call.operation == operation)
            .flat_map(|call| call.receipt_handles.clone())
            .collect()
    }

    fn times(&self, operation: &str, receipt_handle: &str) -> Vec<Instant> {
        let calls = self.calls.lock().unwrap();
        let is_about = |call: &&Made| {
            call.operation == operation
                && call.receipt_handles.iter().any(|other| other == receipt_handle)
        };
        calls.iter().filter(is_about).map(|call| call.at).collect()
    }

    fn sent(&self) -> Vec<String> {
        self.sent.lock().unwrap().clone()
    }

    fn most_at_once(&self, operation: &str) -> usize {
        self.at_once.lock().unwrap().get(operation).map_or(0, |(_, most)| *most)
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        receipt_handles: Vec<String>,
        act: impl Fn(&mut BTreeMap<String, Message>, &str, &str) -> Result<T, Fault>,
    ) -> Result<Vec<Result<T, Fault>>, Fault> {
        let distinct = receipt_handles
            .iter()
            .map(|receipt_handle| id_of(receipt_handle))
            .collect::<BTreeSet<_>>()
            .len()
            == receipt_handles.len();
        assert!(
            distinct && receipt_handles.len() <= 10 && !receipt_handles.is_empty(),
            "{operation}: {receipt_handles:?}"
        );
        self.calls.lock().unwrap().push(Made {
            operation,
            at: Instant::now(),
            receipt_handles: receipt_handles.clone(),
        });
        self.enter(operation);
        let gate = self.gates.lock().unwrap().get(operation).copied();
        match gate {
            Some(gate) => gate.acquire().await.expect("open").forget(),
            // A call takes a while, so that others are made meanwhile.
            None => sleep(Duration::from_millis(10)).await,
        }
        self.at_once.lock().unwrap().get_mut(operation).expect("entered").0 -= 1;
        if let Some(kind) =
            self.faults.lock().unwrap().get_mut(operation).and_then(VecDeque::pop_front)
        {
            return Err(Fault::new(kind, "made to fail"));
        }
        let poison = self.poison.lock().unwrap();
        if receipt_handles
            .iter()
            .any(|receipt_handle| poison.contains(&(operation, id_of(receipt_handle).to_owned())))
        {
            return Err(Fault::new(FaultKind::Refused, "BatchEntryIdsNotDistinct"));
        }
        let (mut messages, faults) = (self.messages.lock().unwrap(), self.entries.lock().unwrap());
        let entry = |receipt_handle: &String| match faults
            .get(&(operation, id_of(receipt_handle).to_owned()))
        {
            Some(kind) => Err(Fault::new(*kind, "made to fail")),
            None => act(&mut messages, id_of(receipt_handle), receipt_handle),
        };
        Ok(receipt_handles.iter().map(entry).collect())
    }

    fn enter(&self, operation: &'static str) {
        let mut at_once = self.at_once.lock().unwrap();
        let (now, most) = at_once.entry(operation).or_default();
        *now += 1;
        *most = (*most).max(*now);
    }
}

fn id_of(receipt_handle: &str) -> &str {
    receipt_handle.split('#').next().unwrap_or_default()
}

impl Queue for Sqs {
    fn receive(
        &self,
        _: usize,
        _: Duration,
        _: Duration,
    ) -> BoxFuture<'_, Result<Vec<Received>, Fault>> {
        unreachable!("the tests receive")
    }

    fn set_visibility<'a>(
        &'a self,
        entries: &'a [(String, Duration)],
    ) -> BoxFuture<'a, Result<Entries, Fault>> {
        let receipt_handles =
            entries.iter().map(|(receipt_handle, _)| receipt_handle.clone()).collect();
        Box::pin(self.call("set", receipt_handles, |messages, id, receipt_handle| {
            let (_, visible_in) =
                entries.iter().find(|(other, _)| other == receipt_handle).expect("asked");
            match messages.get_mut(id) {
                Some(message)
                    if receipt_handle == format!("{id}#{}", message.receives)
                        && message.visible_at > Instant::now() =>
                {
                    message.visible_at = Instant::now() + *visible_in;
                    Ok(())
                }
                _ => Err(Fault::new(FaultKind::Stale, "the handle is stale")),
            }
        }))
    }

    fn delete<'a>(
        &'a self,
        receipt_handles: &'a [String],
    ) -> BoxFuture<'a, Result<Entries, Fault>> {
        Box::pin(self.call("delete", receipt_handles.to_vec(), |messages, id, receipt_handle| {
            if messages
                .get(id)
                .is_some_and(|message| receipt_handle == format!("{id}#{}", message.receives))
            {
                messages.remove(id);
            }
            Ok(())
        }))
    }

    fn send<'a>(&'a self, body: &'a str, _: Option<&'a str>) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async {
            let done = self.call("send", vec![body.to_owned()], |_, _, _| Ok(())).await?;
            done.into_iter().collect::<Result<(), Fault>>()?;
            self.sent.lock().unwrap().push(body.to_owned());
            Ok(())
        })
    }
}

/// A ledger whose reads wait for a permit, if it has a gate.
#[derive(Default)]
struct Ledger {
    gate: Option<Semaphore>,
    fails: AtomicUsize,
}

impl Bodies for Ledger {
    fn body<'a>(&'a self, token: &'a CallbackToken, stop: bool) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            if let Some(gate) = &self.gate {
                gate.acquire().await.expect("open").forget();
            }
            let fails = self
                .fails
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok();
            (!fails).then(|| format!("recorded of {token}, stop: {stop}"))
        })
    }
}

#[derive(Default)]
struct Failures(AtomicUsize);

impl Observer for Failures {
    fn observe(&self, observation: Observation<'_>) {
        if let Observation::HeartbeatFailed { messages, .. } = observation {
            self.0.fetch_add(messages, Ordering::SeqCst);
        }
    }
}

/// Messages are worked on while `life` lasts, and until nothing is left to delete or release then.
async fn while_working(
    messages: &Messages,
    sqs: &Sqs,
    ledger: &Ledger,
    life: impl AsyncFnOnce(),
) -> Duration {
    let began = Instant::now();
    let life = async {
        life().await;
        messages.close();
    };
    tokio::join!(messages.work(sqs, ledger, &(), "q"), life);
    began.elapsed()
}

async fn working(messages: &Messages, sqs: &Sqs, life: impl AsyncFnOnce()) -> Duration {
    while_working(messages, sqs, &Ledger::default(), life).await
}

fn about(stop: bool) -> About {
    ("abcdefghij".parse().expect("a token"), stop)
}

/// This many messages that were just received, with their bodies.
fn holding(sqs: &Sqs, count: usize) -> (Messages, Vec<String>) {
    let messages = Messages::new(VISIBILITY, REPOST);
    let ids: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
    for id in &ids {
        messages.hold(&sqs.receive(id), true, Some(about(false)));
    }
    (messages, ids)
}

#[tokio::test(start_paused = true)]
async fn a_message_is_kept_invisible_by_a_call_at_half_of_its_visibility_timeout() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 1);
    working(&messages, &sqs, async || {
        for _ in 0..3600 {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(sqs.visible(), 0);
        }
        let calls = sqs.sizes("set").len();
        assert!((59..=60).contains(&calls), "{calls} calls in an hour");
        messages.forget(&ids);
        sleep(VISIBILITY + Duration::from_secs(1)).await;
        assert_eq!((sqs.sizes("set").len(), sqs.visible(), messages.len()), (calls, 1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_messages_cost_a_tenth_as_many_calls() {
    let sqs = Sqs::default();
    let (messages, _) = holding(&sqs, 10_000);
    working(&messages, &sqs, async || {
        sleep(Duration::from_secs(330)).await;
        assert_eq!(sqs.visible(), 0);
    })
    .await;
    let calls = sqs.sizes("set").len();
    assert!((5_000..=5_100).contains(&calls), "{calls} calls to extend each five times");
    assert_eq!(sqs.most_at_once("set"), 8);
}

#[tokio::test(start_paused = true)]
async fn messages_received_at_different_times_share_calls() {
    let sqs = Sqs::default();
    let (messages, _) = holding(&sqs, 0);
    working(&messages, &sqs, async || {
        for n in 0..100 {
            messages.hold(&sqs.receive(&format!("m{n}")), true, None);
            sleep(Duration::from_millis(100)).await;
        }
        sleep(Duration::from_mins(60)).await;
    })
    .await;
    let calls = sqs.sizes("set").len();
    assert!(calls <= 60 * 11, "{calls} calls for 100 messages in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_could_not_be_kept_invisible_is_tried_again_before_it_becomes_visible() {
    for kind in [FaultKind::Transient, FaultKind::Denied] {
        let sqs = Sqs::default();
        let (messages, _) = holding(&sqs, 3);
        sqs.fail("set", kind, 9);
        let (failures, ledger) = (Failures::default(), Ledger::default());
        let life = async {
            sleep(Duration::from_mins(10)).await;
            messages.close();
        };
        tokio::join!(messages.work(&sqs, &ledger, &failures, "q"), life);
        assert_eq!((sqs.visible(), messages.len(), failures.0.load(Ordering::SeqCst)), (0, 3, 27));
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_was_extended_has_more_time() {
    let sqs = Sqs::default();
    let (messages, _) = holding(&sqs, 10);
    sqs.fail_entry("set", "m3", FaultKind::Transient);
    working(&messages, &sqs, async || {
        sleep(Duration::from_secs(100)).await;
        let tries = sqs.times("set", "m3#1").len();
        assert!((7..=8).contains(&tries), "{tries} tries, one in five seconds");
        assert_eq!(sqs.times("set", "m4#1").len(), 1);
        sleep(Duration::from_mins(20)).await;
        let tries = sqs.times("set", "m3#1").len();
        assert!((30..=35).contains(&tries), "{tries} tries: once it is visible there is no hurry");
        assert_eq!(sqs.visible(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_refused_as_a_whole_is_taken_apart_and_only_the_culprit_is_let_go() {
    let sqs = Sqs::default();
    let (messages, _) = holding(&sqs, 10);
    sqs.refuse_with("set", "m3");
    working(&messages, &sqs, async || {
        sleep(Duration::from_secs(61)).await;
        assert_eq!(sqs.sizes("set"), [10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(messages.len(), 9);
        sleep(VISIBILITY).await;
        assert_eq!((sqs.visible(), sqs.sizes("set").last()), (1, Some(&9)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_handle_is_stale_is_not_kept_any_more() {
    let sqs = Sqs::default();
    let (messages, _) = holding(&sqs, 2);
    sqs.fail_entry("set", "m1", FaultKind::Stale);
    working(&messages, &sqs, async || sleep(VISIBILITY * 3).await).await;
    assert_eq!((messages.len(), sqs.times("set", "m1#1").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_newer_receipt_handle_replaces_the_older() {
    let sqs = Sqs::default();
    let (messages, _) = holding(&sqs, 1);
    let gate = sqs.gate("set");
    working(&messages, &sqs, async || {
        sleep(Duration::from_secs(70)).await;
        messages.hold(&sqs.receive("m0"), true, Some(about(false)));
        sleep(Duration::from_secs(10)).await;
        gate.add_permits(100);
        sleep(Duration::from_mins(10)).await;
        assert_eq!((sqs.visible(), messages.len(), sqs.times("set", "m0#1").len()), (0, 1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn messages_settled_soon_after_one_another_share_a_call_of_at_most_ten() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 25);
    working(&messages, &sqs, async || {
        for id in ids {
            messages.delete([id]);
            advance(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!((sqs.sizes("delete"), sqs.left(), messages.len()), (vec![10, 10, 5], 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_message_waits_no_longer_for_others_than_it_must_and_not_at_all_at_the_end() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 3);
    let began = Instant::now();
    working(&messages, &sqs, async || {
        messages.delete(&ids[..1]);
        sleep(LINGER * 2).await;
        messages.delete(&ids[1..2]);
        sleep(LINGER * 2).await;
        messages.delete(&ids[2..]);
    })
    .await;
    assert_eq!(sqs.sizes("delete"), [1, 1, 1]);
    assert!(began.elapsed() < LINGER * 5, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_is_deleted_at_once() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 10);
    working(&messages, &sqs, async || {
        let began = Instant::now();
        sleep(Duration::from_millis(1)).await;
        messages.delete(&ids);
        while sqs.left() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(began.elapsed() < LINGER / 2, "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_could_not_be_deleted_are_tried_again_ever_more_slowly_and_together() {
    for kind in [FaultKind::Transient, FaultKind::Denied] {
        let sqs = Sqs::default();
        let (messages, ids) = holding(&sqs, 3);
        sqs.fail("delete", kind, 9);
        let took = working(&messages, &sqs, async || messages.delete(&ids)).await;
        assert_eq!((sqs.sizes("delete"), sqs.left()), (vec![3; 10], 0));
        assert!((Duration::from_secs(40)..Duration::from_secs(90)).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_refused_or_stale_by_itself_is_let_go() {
    for kind in [FaultKind::Refused, FaultKind::Stale] {
        let sqs = Sqs::default();
        let (messages, ids) = holding(&sqs, 2);
        sqs.fail_entry("delete", "m0", kind);
        working(&messages, &sqs, async || messages.delete(&ids)).await;
        assert_eq!((sqs.sizes("delete"), messages.len(), sqs.left()), (vec![2], 0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_pushed_twice_is_deleted_once() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 1);
    working(&messages, &sqs, async || {
        messages.delete(&ids);
        messages.delete(ids.iter().chain(&ids));
        sleep(LINGER + Duration::from_millis(5)).await;
        assert_eq!(sqs.sizes("delete"), [1], "it is under way");
        messages.delete(&ids);
        sleep(LINGER * 4).await;
        messages.delete(&ids);
    })
    .await;
    assert_eq!((sqs.handles("delete"), messages.len()), (vec!["m0#1".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn a_message_received_again_while_its_delete_hangs_is_deleted_by_its_newer_handle() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 2);
    let gate = sqs.gate("delete");
    working(&messages, &sqs, async || {
        messages.delete(&ids);
        sleep(VISIBILITY).await;
        messages.hold(&sqs.receive("m0"), true, Some(about(false)));
        messages.delete(["m0"]);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(sqs.sizes("delete"), [2], "one call for one message");
        gate.add_permits(100);
    })
    .await;
    assert_eq!(sqs.handles("delete"), ["m0#1", "m1#1", "m0#2"]);
    assert_eq!((sqs.left(), messages.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_message_received_again_before_its_failing_delete_is_tried_again_goes_by_its_newer_handle()
 {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 1);
    sqs.fail("delete", FaultKind::Transient, 8);
    working(&messages, &sqs, async || {
        messages.delete(&ids);
        while sqs.sizes("delete").len() < 8 {
            sleep(Duration::from_millis(100)).await;
        }
        messages.hold(&sqs.receive("m0"), true, Some(about(false)));
        sleep(LINGER * 2).await;
        assert_eq!(sqs.left(), 0, "the newer handle need not wait for what the older was due to");
    })
    .await;
    assert_eq!(sqs.handles("delete").last().map(String::as_str), Some("m0#2"));
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_of_deletes_is_taken_apart_and_the_others_go_through_at_once() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 34);
    sqs.refuse_with("delete", "m3");
    working(&messages, &sqs, async || {
        messages.delete(&ids);
        sleep(Duration::from_millis(200)).await;
        assert_eq!((sqs.left(), messages.len()), (1, 0), "the culprit is let go");
    })
    .await;
    let mut sizes = sqs.sizes("delete");
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 10, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn one_message_that_fails_for_ever_slows_no_other() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 1001);
    sqs.fail_entry("delete", "m0", FaultKind::Transient);
    working(&messages, &sqs, async || {
        messages.delete(["m0"]);
        sleep(Duration::from_secs(60)).await;
        let before = sqs.sizes("delete").len();
        let began = Instant::now();
        messages.delete(&ids[1..]);
        while sqs.left() > 1 {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
        assert!(sqs.sizes("delete").len() <= before + 101);
        assert_eq!(sqs.most_at_once("delete"), 4);
        sleep(Duration::from_mins(10)).await;
        let tries = sqs.times("delete", "m0#1").len();
        assert!((20..=60).contains(&tries), "{tries} tries");
        assert_eq!((messages.len(), sqs.visible()), (1, 0), "it is kept invisible meanwhile");
        sqs.entries.lock().unwrap().clear();
    })
    .await;
    assert_eq!(sqs.left(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_settled_message_is_never_reposted_and_stays_invisible_however_long_its_delete_fails() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 12);
    sqs.fail("delete", FaultKind::Denied, usize::from(u16::MAX));
    working(&messages, &sqs, async || {
        messages.delete(&ids);
        for _ in 0..30 {
            sleep(Duration::from_mins(30)).await;
            assert_eq!((sqs.sent().len(), sqs.visible()), (0, 0));
            messages.replace(&ids);
            messages.release(&ids, Duration::ZERO);
            messages.forget(&ids);
        }
        sqs.faults.lock().unwrap().clear();
    })
    .await;
    assert_eq!((sqs.left(), sqs.sent().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_go_on_while_deletes_and_copies_hang() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 200);
    let (deletes, sends) = (sqs.gate("delete"), sqs.gate("send"));
    for id in &ids[100..] {
        sqs.receive(id);
        messages.hold(&sqs.receive(id), true, Some(about(false)));
    }
    working(&messages, &sqs, async || {
        messages.delete(&ids[..100]);
        messages.replace(&ids[100..]);
        sleep(VISIBILITY * 5).await;
        assert_eq!((sqs.sizes("delete"), sqs.sizes("send")), (vec![10; 4], vec![1; 4]));
        assert_eq!(sqs.visible(), 44, "only those with a call that hangs");
        deletes.add_permits(1000);
        sends.add_permits(1000);
        sleep(Duration::from_secs(2)).await;
        assert_eq!((messages.len(), sqs.sent().len()), (0, 100));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn deletes_go_on_while_heartbeats_hang() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 200);
    let gate = sqs.gate("set");
    working(&messages, &sqs, async || {
        sleep(VISIBILITY).await;
        assert_eq!(sqs.sizes("set"), [10; 8]);
        messages.delete(&ids);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(sqs.left(), 80, "only those with a call that hangs");
        gate.add_permits(1000);
    })
    .await;
    assert_eq!(sqs.left(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_released_message_is_visible_when_it_should_be_and_not_held_any_more() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 2);
    sqs.fail("set", FaultKind::Transient, 1);
    working(&messages, &sqs, async || {
        messages.release(&ids[..1], Duration::ZERO);
        messages.release(&ids[1..], Duration::from_secs(100));
        sleep(Duration::from_secs(6)).await;
        assert_eq!((sqs.visible(), messages.len(), messages.bytes()), (1, 0, 0));
        sleep(Duration::from_secs(100)).await;
        assert_eq!(sqs.visible(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn releases_wait_until_they_are_opened_and_messages_are_kept_meanwhile() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 15);
    working(&messages, &sqs, async || {
        messages.delay_releases();
        messages.release(&ids, Duration::ZERO);
        sleep(Duration::from_secs(59)).await;
        assert_eq!(sqs.sizes("set"), [0; 0], "they cost what others cost");
        sleep(VISIBILITY * 3).await;
        assert_eq!((sqs.visible(), messages.len()), (0, 15));
        let before = sqs.sizes("set").len();
        messages.open_releases();
        sleep(Duration::from_secs(1)).await;
        assert_eq!((sqs.visible(), messages.len(), sqs.sizes("set").len()), (15, 0, before + 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_releases_and_deletes_and_for_nothing_else() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 30);
    let took = working(&messages, &sqs, async || {
        messages.delay_releases();
        messages.release(&ids[..10], Duration::ZERO);
        messages.delete(&ids[10..15]);
        messages.open_releases();
    })
    .await;
    assert_eq!((sqs.visible(), sqs.left(), messages.len()), (10, 25, 15));
    assert!(took < LINGER, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_released_and_is_received_again_at_once_is_held_anew() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 1);
    let gate = sqs.gate("set");
    working(&messages, &sqs, async || {
        messages.release(&ids, Duration::ZERO);
        sleep(Duration::from_secs(1)).await;
        // The call has taken effect, and its answer is late.
        messages.hold(&sqs.receive("m0"), true, Some(about(false)));
        gate.add_permits(1000);
        sleep(VISIBILITY * 3).await;
        assert_eq!(
            (sqs.visible(), messages.len(), messages.bytes()),
            (0, 1, "the body of m0".len())
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_during_a_call_and_received_again_is_held_anew() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 1);
    let gate = sqs.gate("set");
    working(&messages, &sqs, async || {
        sleep(VISIBILITY / 2 + Duration::from_secs(1)).await;
        messages.forget(&ids);
        assert_eq!((messages.len(), messages.bytes()), (0, 0));
        messages.hold(&sqs.receive("m0"), false, Some(about(false)));
        assert_eq!((messages.len(), messages.bytes()), (1, 0));
        sleep(VISIBILITY / 2 + Duration::from_secs(1)).await;
        assert_eq!(sqs.sizes("set"), [1], "one call for one message");
        gate.add_permits(1000);
        sleep(VISIBILITY * 3).await;
        assert_eq!((sqs.visible(), messages.len()), (0, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_nears_the_twelve_hours_is_replaced_by_a_copy_and_then_deleted() {
    let sqs = Sqs::default();
    let (messages, _) = holding(&sqs, 1);
    messages.hold(&sqs.receive("recorded"), true, Some(about(true)));
    messages.recorded(["recorded", "m9"]);
    assert_eq!(messages.bytes(), "the body of m0".len());
    working(&messages, &sqs, async || {
        sleep(REPOST.saturating_sub(Duration::from_secs(1))).await;
        assert_eq!((sqs.sent().len(), sqs.left()), (0, 2));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(sqs.sent(), ["the body of m0", "recorded of abcdefghij, stop: true"]);
        assert_eq!((sqs.left(), messages.len()), (0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_cannot_be_made_is_tried_again_and_the_message_is_kept_until_it_is() {
    let sqs = Sqs::default();
    let ledger = Ledger { fails: AtomicUsize::new(3), ..Ledger::default() };
    let (messages, ids) = holding(&sqs, 1);
    messages.recorded(&ids);
    sqs.fail("send", FaultKind::Denied, 3);
    while_working(&messages, &sqs, &ledger, async || {
        sleep(REPOST + Duration::from_secs(59)).await;
        assert_eq!((sqs.sent().len(), sqs.left(), sqs.visible()), (0, 1, 0));
        sleep(Duration::from_secs(3)).await;
        assert_eq!((sqs.sent().len(), sqs.left(), sqs.sizes("send").len()), (1, 0, 4));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_settled_at_the_moment_of_its_repost_is_deleted_once_and_not_copied_again() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 2);
    let gate = sqs.gate("send");
    working(&messages, &sqs, async || {
        sleep(REPOST + Duration::from_secs(1)).await;
        assert_eq!(sqs.sizes("send"), [1, 1], "the copies are under way");
        messages.delete(&ids);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(sqs.sizes("delete"), [0; 0], "one call for one message");
        // One copy succeeds and one fails.
        sqs.fail("send", FaultKind::Transient, 1);
        gate.add_permits(100);
        sleep(Duration::from_mins(30)).await;
    })
    .await;
    assert_eq!((sqs.sent().len(), sqs.sizes("send").len(), sqs.left()), (1, 2, 0));
    assert_eq!(sqs.handles("delete"), ["m0#1", "m1#1"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_step_settles_while_its_body_is_read_is_only_deleted() {
    let sqs = Sqs::default();
    let ledger = Ledger { gate: Some(Semaphore::new(0)), ..Ledger::default() };
    let (messages, ids) = holding(&sqs, 1);
    messages.recorded(&ids);
    while_working(&messages, &sqs, &ledger, async || {
        sleep(REPOST + Duration::from_secs(1)).await;
        messages.delete(&ids);
        ledger.gate.as_ref().expect("a gate").add_permits(1);
        sleep(Duration::from_secs(1)).await;
    })
    .await;
    assert_eq!((sqs.sent().len(), sqs.left(), sqs.sizes("delete")), (0, 0, vec![1]));
}

#[tokio::test(start_paused = true)]
async fn once_a_copy_was_sent_the_message_is_deleted_whatever_was_decided_meanwhile() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 3);
    let gate = sqs.gate("send");
    working(&messages, &sqs, async || {
        sleep(REPOST + Duration::from_secs(1)).await;
        messages.release(&ids[..1], Duration::ZERO);
        messages.forget(&ids[1..2]);
        messages.hold(&sqs.receive("m2"), true, Some(about(false)));
        gate.add_permits(100);
        sleep(Duration::from_secs(1)).await;
        assert_eq!((sqs.sent().len(), sqs.left(), messages.len()), (3, 0, 0));
    })
    .await;
    assert_eq!(sqs.handles("delete"), ["m0#1", "m1#1", "m2#2"]);
}

#[tokio::test(start_paused = true)]
async fn only_worn_messages_that_are_kept_are_replaced() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 4);
    for id in &ids[1..] {
        sqs.receive(id);
        messages.hold(&sqs.receive(id), true, Some(about(false)));
    }
    working(&messages, &sqs, async || {
        messages.delay_releases();
        messages.release(&ids[2..3], Duration::ZERO);
        messages.delete(&ids[3..]);
        messages.replace(&ids);
        messages.replace(&ids);
        sleep(Duration::from_secs(1)).await;
        assert_eq!((sqs.sent(), messages.len()), (vec!["the body of m1".to_owned()], 2));
        assert!(sqs.exists("m0") && sqs.exists("m2"));
        messages.open_releases();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_passed_on_is_copied_or_given_back() {
    let sqs = Sqs::default();
    let (messages, ids) = holding(&sqs, 3);
    working(&messages, &sqs, async || {
        messages.pass_on(&ids[..1]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!((sqs.sent(), messages.len()), (vec!["the body of m0".to_owned()], 2));
        sqs.fail("send", FaultKind::Denied, 1);
        messages.pass_on(&ids[1..2]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!((sqs.sizes("send").len(), sqs.visible(), messages.len()), (2, 1, 1));
        // Its receiver needs it again.
        sqs.fail("send", FaultKind::Denied, 1);
        messages.pass_on(&ids[2..]);
        messages.hold(&sqs.receive("m2"), true, Some(about(false)));
        sleep(Duration::from_secs(1)).await;
        assert_eq!((sqs.visible(), messages.len()), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn few_copies_are_under_way_at_once_and_none_is_begun_at_the_end() {
    let sqs = Sqs::default();
    let (messages, _) = holding(&sqs, 20);
    let gate = sqs.gate("send");
    working(&messages, &sqs, async || {
        sleep(REPOST + Duration::from_secs(1)).await;
        gate.add_permits(4);
        sleep(Duration::from_secs(1)).await;
        assert_eq!((sqs.most_at_once("send"), sqs.sent().len()), (4, 4));
        messages.close();
        gate.add_permits(100);
    })
    .await;
    assert_eq!((sqs.sent().len(), sqs.left(), messages.len()), (8, 12, 12));
}

#[tokio::test(start_paused = true)]
async fn what_has_neither_body_nor_step_is_kept_and_never_copied() {
    let sqs = Sqs::default();
    let messages = Messages::new(VISIBILITY, REPOST);
    messages.hold(&sqs.receive("m0"), false, None);
    messages.hold(&sqs.receive("m1"), true, None);
    messages.recorded(["m1"]);
    working(&messages, &sqs, async || sleep(REPOST + Duration::from_secs(1)).await).await;
    assert_eq!((sqs.sent(), messages.len()), (vec!["the body of m1".to_owned()], 1));
    assert!(sqs.exists("m0"));
}
