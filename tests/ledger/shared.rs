//! What stores promise that several workers have open.

use std::collections::BTreeSet;

use callbackd::ledger::store::{Member, Put, Store, Worker, Workers};
use callbackd::lifecycle::WorkerId;
use callbackd::step::CallbackToken;

use super::*;

async fn on_each_shared_store(claim: impl AsyncFn(&dyn Workers)) {
    claim(Memory::shared().workers().expect("it is shared")).await;
    #[cfg(feature = "dynamodb")]
    claim(table::created().await.workers().expect("it is shared")).await;
}

fn me() -> WorkerId {
    WorkerId("host-1/0123abcd~2".into())
}

fn tokens(tokens: &[&str]) -> BTreeSet<CallbackToken> {
    tokens.iter().map(|token| token.parse().expect("a token")).collect()
}

#[tokio::test]
async fn a_worker_has_a_record_from_its_first_renewal_until_it_is_fenced() {
    on_each_shared_store(async |workers| {
        let none = BTreeSet::new();
        assert_eq!(workers.worker(&me()).await, Ok(None));
        assert_eq!(workers.renew(&me(), Some(1), none.clone(), String::new()).await, Ok(None));
        assert_eq!(
            workers.renew(&me(), None, none.clone(), String::new()).await,
            Ok(Some(none.clone()))
        );
        assert_eq!(workers.renew(&me(), None, none.clone(), String::new()).await, Ok(None));
        assert_eq!(
            workers.renew(&me(), Some(1), none.clone(), String::new()).await,
            Ok(Some(none.clone()))
        );
        let found = Worker { version: 2, ..Worker::default() };
        assert_eq!(workers.worker(&me()).await, Ok(Some(found)));
        assert_eq!(workers.fence(&me(), 1).await, Ok(Put::Changed));
        assert_eq!(workers.fence(&me(), 2).await, Ok(Put::Done));
        assert_eq!(workers.fence(&me(), 2).await, Ok(Put::Done), "it is gone");
        assert_eq!(workers.renew(&me(), Some(2), none, String::new()).await, Ok(None));
        assert_eq!(workers.worker(&me()).await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn a_worker_is_told_of_each_stop_until_it_says_that_it_knows() {
    on_each_shared_store(async |workers| {
        let (one, both) = (tokens(&["aaaaaaaaaa"]), tokens(&["aaaaaaaaaa", "bbbbbbbbbb"]));
        let stop = |name: &str| name.parse::<CallbackToken>().expect("a token");
        assert_eq!(workers.flag(&me(), &stop("aaaaaaaaaa")).await, Ok(()));
        assert_eq!(workers.worker(&me()).await, Ok(None), "there is nobody to be told");
        workers.renew(&me(), None, BTreeSet::new(), String::new()).await.expect("renewed");
        for _ in 0..2 {
            workers.flag(&me(), &stop("aaaaaaaaaa")).await.expect("flagged");
        }
        let found = Worker { version: 1, stops: one.clone(), ..Worker::default() };
        assert_eq!(workers.worker(&me()).await, Ok(Some(found)), "its version stays");
        // The first answer may be lost.
        for version in [1, 2] {
            let stops = workers.renew(&me(), Some(version), BTreeSet::new(), String::new()).await;
            assert_eq!(stops, Ok(Some(one.clone())));
        }
        workers.flag(&me(), &stop("bbbbbbbbbb")).await.expect("flagged");
        assert_eq!(
            workers.renew(&me(), Some(3), one, String::new()).await,
            Ok(Some(tokens(&["bbbbbbbbbb"])))
        );
        let none = Ok(Some(BTreeSet::new()));
        assert_eq!(
            workers.renew(&me(), Some(4), both, String::new()).await,
            none,
            "some are gone already"
        );
    })
    .await;
}

#[tokio::test]
async fn what_a_worker_says_is_listed_until_it_says_something_else() {
    on_each_shared_store(async |workers| {
        for (expected, notice) in [(None, "first"), (Some(1), "second"), (Some(2), "")] {
            let renewed = workers.renew(&me(), expected, BTreeSet::new(), notice.to_owned()).await;
            assert_eq!(renewed, Ok(Some(BTreeSet::new())));
            let version = expected.unwrap_or(0) + 1;
            let listed = Member { id: me(), version, notice: notice.to_owned() };
            assert_eq!(workers.all().await, Ok(vec![listed]));
            let found = workers.worker(&me()).await.expect("it works").expect("it is there");
            assert_eq!(found.notice, notice);
        }
    })
    .await;
}

/// The history of a step is for people, and is not worth the step.
#[cfg(feature = "dynamodb")]
#[tokio::test]
async fn an_item_that_would_be_too_large_is_written_with_less_history() {
    use callbackd::ledger::{Ledger, Written};
    use callbackd::lifecycle::{Happened, Happening, History, Record};

    let event = |n| {
        let at = Timestamp::from_second(n).expect("in range");
        Happened::new(at, Happening::AttemptFailed, Some(&"x".repeat(Happened::MAX_DETAIL)))
    };
    let history: History = (0..100).map(event).collect();
    let checkpoint = |bytes| Some(Arc::new(serde_json::Value::from("x".repeat(bytes))));
    let waiting = Record { history, checkpoint: checkpoint(394_000), ..kept::waiting() };
    let ledger = Ledger::beside(Arc::new(table::created().await));
    let written = ledger.write(waiting.clone(), Commit::Now).await;
    assert!(matches!(written, Ok(Written::Done(_))), "{written:?}");
    let found = ledger.load(&waiting.token).await.expect("it works").expect("it is there");
    let (kept, whole) = (found.history.events(), waiting.history.events());
    assert!((1..100).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept, &whole[100 - kept.len()..], "the newest are kept");
    let hopeless = Record { checkpoint: checkpoint(420_000), ..kept::waiting() };
    let refused = Record { token: "hopeless00".parse().expect("a token"), ..hopeless };
    let refused = ledger.write(refused, Commit::Now).await.expect_err("too large").to_string();
    assert!(refused.contains("bytes"), "{refused}");
}
