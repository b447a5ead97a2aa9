//! What stores promise that several workers have open.

use std::collections::BTreeSet;

use callbackd::ledger::store::{Put, Store, Worker, Workers};
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
        assert_eq!(workers.renew(&me(), Some(1), none.clone()).await, Ok(None));
        assert_eq!(workers.renew(&me(), None, none.clone()).await, Ok(Some(none.clone())));
        assert_eq!(workers.renew(&me(), None, none.clone()).await, Ok(None));
        assert_eq!(workers.renew(&me(), Some(1), none.clone()).await, Ok(Some(none.clone())));
        let found = Worker { version: 2, stops: none.clone() };
        assert_eq!(workers.worker(&me()).await, Ok(Some(found)));
        assert_eq!(workers.fence(&me(), 1).await, Ok(Put::Changed));
        assert_eq!(workers.fence(&me(), 2).await, Ok(Put::Done));
        assert_eq!(workers.fence(&me(), 2).await, Ok(Put::Done), "it is gone");
        assert_eq!(workers.renew(&me(), Some(2), none).await, Ok(None));
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
        workers.renew(&me(), None, BTreeSet::new()).await.expect("renewed");
        for _ in 0..2 {
            workers.flag(&me(), &stop("aaaaaaaaaa")).await.expect("flagged");
        }
        let found = Worker { version: 1, stops: one.clone() };
        assert_eq!(workers.worker(&me()).await, Ok(Some(found)), "its version stays");
        // The first answer may be lost.
        for version in [1, 2] {
            let stops = workers.renew(&me(), Some(version), BTreeSet::new()).await;
            assert_eq!(stops, Ok(Some(one.clone())));
        }
        workers.flag(&me(), &stop("bbbbbbbbbb")).await.expect("flagged");
        assert_eq!(workers.renew(&me(), Some(3), one).await, Ok(Some(tokens(&["bbbbbbbbbb"]))));
        let none = Ok(Some(BTreeSet::new()));
        assert_eq!(workers.renew(&me(), Some(4), both).await, none, "some are gone already");
    })
    .await;
}
