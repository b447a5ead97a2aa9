//! What `callbackd ledger verify` finds in a record.

use super::*;
use crate::outcome::ClientRequestToken;

fn stored(status: Status) -> Record {
    Record { status, version: 1, ..Bench::new().state.record }
}

fn concluded() -> Record {
    let record = stored(Status::Concluded);
    let outcome = Outcome::Success(Outputs::new());
    let request = ClientRequestToken::of(&record.execution, &record.token, &outcome);
    Record {
        outcome: Some(outcome),
        client_request_token: Some(request),
        ending: Some(Ending::Success),
        concluded_at: Some(Timestamp::UNIX_EPOCH),
        ..record
    }
}

fn settled() -> Record {
    Record {
        status: Status::Settled,
        settled_at: Some(Timestamp::UNIX_EPOCH),
        arguments: Arc::default(),
        ..concluded()
    }
}

#[test]
fn a_record_that_the_lifecycle_cannot_write_is_told_with_what_is_wrong() {
    let me = Some(WorkerId("me".into()));
    let other = Outcome::Failure(crate::outcome::Reason::new("no"));
    for (record, says) in [
        (stored(Status::New), "as a new step"),
        (Record { version: 0, ..stored(Status::Waiting) }, "as a new step"),
        (stored(Status::Claimed), "has no owner"),
        (Record { owner: me, ..stored(Status::Waiting) }, "no one may run it"),
        (stored(Status::Owed), "none was requested"),
        (stored(Status::Deferred), "without a limit"),
        (stored(Status::Concluded), "has no outcome"),
        (Record { status: Status::Waiting, ..concluded() }, "is not concluded"),
        (Record { concluded_at: None, ..concluded() }, "no time or no ending"),
        (Record { outcome: Some(other), ..concluded() }, "is not that of its outcome"),
        (Record { client_request_token: None, ..concluded() }, "is not that of its outcome"),
        (Record { returns: 1, ..settled() }, "is not that of its outcome"),
        (Record { settled_at: None, ..settled() }, "the time of its end disagree"),
        (Record { settled_at: settled().settled_at, ..stored(Status::Waiting) }, "disagree"),
        (Record { ending: None, outcome: None, client_request_token: None, ..settled() }, "how"),
        (Record { checkpoint: Some(Arc::new(json!(1))), ..settled() }, "or a checkpoint"),
        (
            Record {
                returned: Some(Returned { sent: Timestamp::UNIX_EPOCH, arguments: Arc::default() }),
                ..stored(Status::Waiting)
            },
            "was not settled",
        ),
    ] {
        let found = contradictions(&record);
        assert!(matches!(found[..], [what] if what.contains(says)), "{says}: {found:?}");
    }
    for record in [stored(Status::Waiting), concluded(), settled()] {
        assert_eq!(contradictions(&record), [""; 0]);
    }
}
