//! What was seen of the daemon from outside, put in order and laid before the judge.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use crate::daemon;
use crate::judge::{About, Judge, Seen, Worker};
use crate::proxy::Exchange;
use crate::sagemaker::Request;
use crate::scene::{Reading, Scene, Step, until};

type Events = Vec<(Timestamp, Seen<String>)>;

/// Judges all that happened to `steps` in a scene whose daemons logged to `daemon.log`, one after the other, on one ledger.
///
/// The order is that of the wall clock of this machine. Starts are the daemon's own word, of which the scripts' lines are the proof: a
/// script that ran without one is a breach too.
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
    let lives = of_log(scene, steps, &mut events);
    of_scripts(scene, &lives, &mut events);
    events.sort_by_key(|(at, _)| *at);

    let story = || events.iter().map(|(at, seen)| format!("{at} {seen:?}")).collect::<Vec<_>>().join("\n");
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
                vec![serde_json::json!({ "MessageId": answer["MessageId"], "Body": request["MessageBody"] })]
            }
            _ => Vec::new(),
        };
        for message in sent {
            let id = text(&message["MessageId"]);
            if !id.is_empty() && known.insert(id.clone()) {
                events.push((*at, Seen::Sent { message: id, about: about(&text(&message["Body"])) }));
            }
        }
        if operation == "deletemessagebatch" {
            let done: BTreeSet<String> = list(&answer["Successful"]).iter().map(|entry| text(&entry["Id"])).collect();
            for entry in list(&request["Entries"]).iter().filter(|entry| done.contains(&text(&entry["Id"]))) {
                if let Some(message) = by_handle.get(&text(&entry["ReceiptHandle"])) {
                    events.push((*at, Seen::Deleted { message: message.clone() }));
                }
            }
        }
    }
}

fn about(body: &str) -> About<String> {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    match (body["token"].as_str(), body["status"].as_str()) {
        (Some(token), Some("Stopping")) => About::Stop(token.to_owned()),
        (Some(token), _) => About::Work(token.to_owned()),
        (None, _) => About::Unreadable,
    }
}

fn of_sagemaker(scene: &Scene, step: &Step, events: &mut Events) {
    let accepted = scene.sagemaker.accepted(&step.token);
    for report in scene.sagemaker.reports(&step.token) {
        let same = |taken: &Request| taken.operation == report.operation && taken.body == report.body;
        let accepted = accepted.as_ref().is_some_and(|taken| same(taken) && taken.at <= report.at);
        let request = format!("{} {}", report.operation, report.body);
        let worker = Worker { ledger: 0, process: 0 };
        events.push((wall(report.at), Seen::Reported { worker, token: step.token.clone(), request, accepted }));
    }
}

/// What the ledger was ever seen to hold: what it forgot since, it must not have forgotten.
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

fn wall(at: Instant) -> Timestamp {
    Timestamp::now() - at.elapsed()
}

/// What the daemons said of themselves; returns when each began.
fn of_log(scene: &Scene, steps: &[Step], events: &mut Events) -> Vec<Timestamp> {
    let mut lives = Vec::new();
    let mut started = BTreeMap::<String, usize>::new();
    for line in fs::read_to_string(scene.path("daemon.log")).unwrap_or_default().lines() {
        // A line that a kill cut short says nothing.
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let Some(at) = line["timestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok()) else { continue };
        let token = line["token"].as_str().unwrap_or_default().to_owned();
        let worker = Worker { ledger: 0, process: u32::try_from(lives.len()).expect("few lives") };
        match line["message"].as_str().unwrap_or_default() {
            daemon::BEGINS => {
                events.push((at, Seen::Died { worker }));
                lives.push(at);
            }
            "the step is started" => {
                *started.entry(token.clone()).or_default() += 1;
                events.push((at, Seen::Started { worker, token }));
            }
            "cleaning up after the step" => {
                // By then the run is over: the script of the cleanup looks whether anything of it is alive.
                events.push((at, Seen::Ended { worker, token: token.clone(), own: false }));
                // When it ends is not told; but nothing is reported before.
                events.push((at, Seen::CleanupBegan { worker, token: token.clone() }));
                events.push((at, Seen::CleanupEnded { worker, token }));
            }
            "the step is done with" if line["outcome"] == "deferred" => {
                events.push((at, Seen::Deferred { ledger: 0, token }));
            }
            _ => {}
        }
    }
    for step in steps {
        let ran = scene.runs().iter().filter(|run| run.starts_with(&step.token)).count();
        let said = started.get(&step.token).copied().unwrap_or_default();
        assert!(ran <= said, "{} ran {ran} times and was started {said} times", step.token);
    }
    lives
}

fn of_scripts(scene: &Scene, lives: &[Timestamp], events: &mut Events) {
    let deferred =
        |seen: &Seen<String>| if let Seen::Deferred { token, .. } = seen { Some(token.clone()) } else { None };
    let deferred: BTreeSet<String> = events.iter().filter_map(|(_, seen)| deferred(seen)).collect();
    for line in scene.lines("ends") {
        let [token, status, nanoseconds] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let at = Timestamp::from_nanosecond(nanoseconds.parse().expect("a number")).expect("a time");
        let life = lives.iter().filter(|began| **began <= at).count();
        let worker = Worker { ledger: 0, process: u32::try_from(life).expect("few lives") };
        let own = match status {
            "75" | "76" => false,
            // Such a program leaves its step to somebody else.
            "0" => !deferred.contains(token),
            _ => true,
        };
        events.push((at, Seen::Ended { worker, token: token.to_owned(), own }));
    }
}
