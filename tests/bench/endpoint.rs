//! The local endpoint as a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};

use callbackd::local::{Endpoint, EventKind, Options};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// Serves until its standard input ends. Prints its address; with a file, records there when each
/// step's message was sent and received: `EVENT STATUS TOKEN NANOSECONDS`.
pub fn run(told: Option<&str>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let address = "127.0.0.1:0".parse().expect("an address");
        let endpoint = Endpoint::start(address, Options::default()).await.expect("a free port");
        println!("{}", endpoint.addr());
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let Some(told) = told else {
            let _ = ended.await;
            return;
        };
        let file = File::create(told).expect("the folder is writable");
        tokio::select! {
            biased;
            _ = ended => {}
            () = tell(&endpoint, file) => {}
        }
    });
}

async fn tell(endpoint: &Endpoint, mut file: File) {
    let mut events = endpoint.events();
    let mut steps = BTreeMap::new();
    while let Ok(event) = events.recv().await {
        let at = monotonic();
        let (what, id) = match event.kind {
            EventKind::MessageSent { id, body, .. } => {
                let message: Value = serde_json::from_str(&body).expect("a step's message");
                let text = |key: &str| message[key].as_str().expect("a step's message").to_owned();
                steps.insert(id.clone(), format!("{} {}", text("status"), text("token")));
                ("sent", id)
            }
            EventKind::MessageReceived { id, .. } => ("received", id),
            _ => continue,
        };
        writeln!(file, "{what} {} {at}", steps[&id]).expect("the folder is writable");
    }
}

/// Nanoseconds on the clock that all processes share.
pub fn monotonic() -> i128 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has it");
    i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec())
}
