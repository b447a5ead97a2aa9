//! What was observed of the daemon from outside, sorted and passed to the judge.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use jiff::Timestamp;
use serde_json::Value;

use crate::account::Account;
use crate::judge::{About, Judge, Seen, Worker};
use crate::proxy::Exchange;
use crate::sagemaker::Request;
use crate::scene::{Reading, Scene, Step, until};

type Events = Vec<(Timestamp, Seen<String>)>;

/// Judges everything that happened to `steps` in a scene whose daemons logged to `daemon.log`, one
/// after another, on one ledger.
///
/// The order is that of this machine's wall clock. Starts are taken from the daemon's log, and the
/// scripts' lines verify them: a script that ran without a logged start is a breach too.
pub async fn judge(scene: &Scene, steps: &[Step]) {
    until("every call is over", async || !scene.to_sqs.is_busy()).await;
    let mut events = Events::new();
    of_sqs(&scene.to_sqs.exchanges(), &mut events);
    for step in steps {
        let token = || step.token.clone();
        events.push((step.opened, Seen::Opened { token: token() }));
        of_sagemaker(scene, step, &mut events);
    }
    of_ledger(scene, steps, &mut events);
    of_account(scene, steps, &mut events);
    events.sort_by_key(|(at, _)| *at);

    let story =
        || events.iter().map(|(at, seen)| format!("{at} {seen:?}")).collect::<Vec<_>>().join("\n");
    let mut judge = Judge::default();
    for (_, seen) in &events {
        if let Err(broken) = judge.see(seen) {
            panic!("{broken}; seen were\n{}", story());
        }
    }
    let left = judge.in_the_end();
    assert!(left.is_empty(), "{left:?}; seen were\n{}", story());
}

fn of_sqs(exchanges: &[Exchange], events: &mut Events) {
    let mut by_handle = BTreeMap::new();
    let mut known = BTreeSet::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let none = Vec::new();
    let list = |value: &'_ Value| value.as_array().unwrap_or(&none).clone();
    for exchange in exchanges.iter().filter(|exchange| exchange.operation == "receivemessage") {
        for message in list(&exchange.answer["Messages"]) {
            by_handle.insert(text(&message["ReceiptHandle"]), text(&message["MessageId"]));
        }
    }
    for Exchange { operation, request, answer, at } in exchanges {
        let sent = match operation.as_str() {
            "receivemessage" => list(&answer["Messages"]),
            "sendmessage" => {
                vec![
                    serde_json::json!({ "MessageId": answer["MessageId"], "Body": request["MessageBody"] }),
                ]
            }
            _ => Vec::new(),
        };
        for message in sent {
            let id = text(&message["MessageId"]);
            if !id.is_empty() && known.insert(id.clone()) {
                events.push((
                    *at,
                    Seen::Sent { message: id, about: About::of(&text(&message["Body"])) },
                ));
            }
        }
        if operation == "deletemessagebatch" {
            let done: BTreeSet<String> =
                list(&answer["Successful"]).iter().map(|entry| text(&entry["Id"])).collect();
            for entry in
                list(&request["Entries"]).iter().filter(|entry| done.contains(&text(&entry["Id"])))
            {
                if let Some(message) = by_handle.get(&text(&entry["ReceiptHandle"])) {
                    events.push((*at, Seen::Deleted { message: message.clone() }));
                }
            }
        }
    }
}

fn of_sagemaker(scene: &Scene, step: &Step, events: &mut Events) {
    let accepted = scene.sagemaker.accepted(&step.token);
    if let Some(at) = scene.sagemaker.stopped(&step.arn) {
        events.push((at, Seen::Stopping { token: step.token.clone() }));
    }
    for report in scene.sagemaker.reports(&step.token) {
        let same =
            |taken: &Request| taken.operation == report.operation && taken.body == report.body;
        let accepted = accepted.as_ref().is_some_and(|taken| same(taken) && taken.at <= report.at);
        let request = format!("{} {}", report.operation, report.body);
        let worker = Worker { ledger: 0, process: 0 };
        events.push((
            report.at,
            Seen::Reported { worker, token: step.token.clone(), request, accepted },
        ));
    }
}

/// Everything that the ledger was ever seen to hold.
fn of_ledger(scene: &Scene, steps: &[Step], events: &mut Events) {
    scene.records();
    for step in steps {
        let token = || step.token.clone();
        for Reading { at: read, record } in scene.readings(step) {
            let at = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
            if let Some(stopped) = at(&record["stop_requested"]["at"]) {
                events.push((stopped, Seen::StopKnown { ledger: 0, token: token() }));
            }
            if let Some(concluded) = at(&record["concluded_at"]) {
                events.push((concluded, Seen::Concluded { ledger: 0, token: token() }));
            }
            if record["status"] == "deferred" {
                events.push((read, Seen::Deferred { ledger: 0, token: token() }));
            }
        }
    }
}

/// What the daemons and their scripts logged.
fn of_account(scene: &Scene, steps: &[Step], events: &mut Events) {
    let mut account = Account::of(0);
    // The ledger has it too if a kill came before the log line.
    let deferred = |(_, seen): &(_, Seen<String>)| match seen {
        Seen::Deferred { token, .. } => Some(token.clone()),
        _ => None,
    };
    account.deferred.extend(events.iter().filter_map(deferred));
    fs::read_to_string(scene.path("daemon.log"))
        .unwrap_or_default()
        .lines()
        .for_each(|line| account.log(line));
    scene.lines("ends").iter().for_each(|line| account.program(line));
    for step in steps {
        let ran = scene.runs().iter().filter(|run| run.starts_with(&step.token)).count();
        let said = account.started.get(&step.token).copied().unwrap_or_default();
        assert!(ran <= said, "{} ran {ran} times and was started {said} times", step.token);
    }
    events.append(&mut account.events);
}
