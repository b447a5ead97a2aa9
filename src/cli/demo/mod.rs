//! `callbackd demo`: everything on one machine, shown as it happens, and verified.

mod show;
mod stage;
mod verdict;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::show::Show;
use self::stage::{Stage, Workplace};
use self::verdict::Verdict;
use super::{Failure, say};
use crate::config::CheckedConfig;
use crate::daemon::Daemon;
use crate::handler::Registry;
use crate::local::{Endpoint, EventKind, Options};
use crate::process::signals::Signals;
use crate::step::Message;

/// It takes about ten seconds; a machine under load may take longer.
const LIMIT: Duration = Duration::from_secs(29);
/// How long the program of the second execution would train: longer than the demo, so that it has
/// to be stopped.
const ENDLESS: u32 = 600;

/// Isolates the demo from the user's AWS settings. Called before any thread is started.
pub(super) fn prepare_environment() {
    let ours = [
        ("AWS_ACCESS_KEY_ID", "demo"),
        ("AWS_SECRET_ACCESS_KEY", "demo"),
        ("AWS_REGION", "us-east-1"),
        ("NO_PROXY", "127.0.0.1"),
    ];
    let nobody = ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"];
    let theirs: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("AWS_") || name.to_ascii_uppercase().ends_with("_PROXY"))
        .collect();
    #[expect(unsafe_code, reason = "no other thread runs yet that could read the environment")]
    unsafe {
        for name in &theirs {
            std::env::remove_var(name);
        }
        for (name, value) in ours {
            std::env::set_var(name, value);
        }
        for name in nobody {
            std::env::set_var(name, "/dev/null");
        }
    }
}

pub(super) async fn run(registry: &Registry) -> Result<ExitCode, Failure> {
    let mut signals = Signals::listen().map_err(Failure::runtime)?;
    let workplace = Workplace::new()
        .map_err(|error| Failure::Runtime(format!("no temporary directory: {error}")))?;
    tokio::select! {
        played = timeout(LIMIT, play(registry, &workplace)) => match played {
            Ok(verdict) => Ok(if verdict?.tell() { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
            Err(_) => Err(Failure::Runtime(format!("the demo did not end within {LIMIT:?}"))),
        },
        _ = signals.next_end() => Err(Failure::Runtime("the demo was interrupted".to_owned())),
    }
}

async fn play(registry: &Registry, workplace: &Workplace) -> Result<Verdict, Failure> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = Endpoint::start(loopback, Options::default()).await.map_err(Failure::runtime)?;
    let show = Arc::new(Show::new());
    let verdict = Arc::new(Verdict::new(workplace));
    let events = tokio::spawn(follow(endpoint.events(), show.clone(), verdict.clone()));
    show::install(&show);

    say(
        "A pipeline of three callback steps: extract feeds train, train feeds register. Each waits \
         for an answer with its token.\n",
    );
    let stage = Stage::new(endpoint.url());
    let queue = stage.create_queue().await?;
    stage.create_pipeline(&queue).await?;
    let loaded = CheckedConfig::from_toml(
        "demo",
        &workplace.configuration(endpoint.url(), &queue),
        registry,
    )?;
    let (leave, left) = watch::channel(false);
    let worker = tokio::spawn(Daemon::new(loaded).run(async move || {
        // The sender lives as long as the demo.
        let _ = left.clone().wait_for(|leave| *leave).await;
    }));

    let first = stage.start(json!([{"Name": "Seconds", "Value": "1"}])).await?;
    stage.ends(&first).await?;
    say(
        "\nThe same pipeline again, with a training that would take ten minutes. It is stopped as \
         soon as it trains.\n",
    );
    let second = stage.start(json!([{"Name": "Seconds", "Value": ENDLESS.to_string()}])).await?;
    show.heard("still training", 2).await;
    stage.stop(&second).await?;
    stage.ends(&second).await?;
    verdict.settle(&stage, &queue, &first, &second).await?;

    say("");
    // Its last long poll would take a while; everything that it holds is settled.
    leave.send_replace(true);
    let ended = timeout(Duration::from_millis(100), worker).await;
    if let Ok(Ok(Err(error))) = ended {
        return Err(Failure::runtime(error));
    }
    endpoint.shutdown().await;
    // Ends with the endpoint.
    let _ = timeout(Duration::from_secs(1), events).await;
    Arc::try_unwrap(verdict)
        .map_err(|_| Failure::Runtime("the demo's events were not all seen".to_owned()))
}

/// Shows the endpoint's events, and records what the verdict needs.
async fn follow(
    mut events: tokio::sync::broadcast::Receiver<crate::local::Event>,
    show: Arc<Show>,
    verdict: Arc<Verdict>,
) {
    while let Ok(event) = events.recv().await {
        if let EventKind::MessageSent { body, .. } = &event.kind
            && let Ok(message) = Message::parse(body)
        {
            // Each step of the pipeline has its name as its task, and its message is its first
            // event.
            let step = message.step();
            show.name(step.token.as_str(), step.arguments["task"].as_str().unwrap_or("?"));
        }
        verdict.note(&event.kind);
        show.event(&event.kind);
        // Lets a burst be read in its order between the worker's own lines.
        sleep(Duration::ZERO).await;
    }
}
