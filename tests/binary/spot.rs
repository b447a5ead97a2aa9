//! EC2 gives notice that it takes the instance back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::net::TcpListener;

use crate::http_server::{Request, serve};
use crate::scene::{Scene, never, until};

/// The instance's metadata; the notice is given once the flag is set.
async fn metadata() -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let noticed = Arc::new(AtomicBool::new(false));
    let is_noticed = noticed.clone();
    serve(listener, move |request: Request| {
        let is_noticed = is_noticed.load(Ordering::SeqCst);
        async move {
            let answer =
                hyper::Response::builder().header("x-aws-ec2-metadata-token-ttl-seconds", "21600");
            let (status, body) = match request.uri().path() {
                "/latest/api/token" => (200, "secret".to_owned()),
                "/latest/meta-data/spot/instance-action" if is_noticed => {
                    let at = Timestamp::now() + Duration::from_mins(2);
                    (200, format!(r#"{{"action":"terminate","time":"{at:.0}"}}"#))
                }
                _ => (404, String::new()),
            };
            let answer = answer.status(status).body(Full::from(body));
            Ok(answer.expect("an answer"))
        }
    });
    (url, noticed)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_spot_notice_running_steps_end_and_no_worker_begins_another() {
    let scene = Scene::new("until_there gate\nend 0").await;
    let config = scene.config().with("worker.spot_notice", true);
    let (url, noticed) = metadata().await;
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str())];
    let step = scene.step_sent().await;
    let mut daemon = scene.start_in(&config, &variables);
    until("it runs", async || !scene.runs().is_empty()).await;
    noticed.store(true, Ordering::SeqCst);
    until("it is noticed", async || daemon.log().contains("spot_notice")).await;
    scene.open("gate");
    scene.answered_once(&step).await;
    until("it ends", async || daemon.ended().is_some()).await;
    assert!(daemon.ended().is_some_and(|status| status.success()), "{}", daemon.log());

    let left = scene.step_sent().await;
    let mut next = scene.start_in(&config, &variables);
    until("it is told", async || next.log().contains("spot_start_refused")).await;
    let taken = async || scene.queue.visible().await == 0;
    never("the step is received", Duration::from_secs(2), taken).await;
    next.signal(Signal::SIGTERM);
    until("it ends", async || next.ended().is_some()).await;
    assert!(scene.sagemaker.reports(&left.token).is_empty());
    assert_eq!(scene.runs(), [step.attempt(1)]);
}
