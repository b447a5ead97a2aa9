//! A file system that stops answering, like that of a dead server, and how a daemon reacts.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::scene::{Scene, Step, until};

/// Mounted in its own namespace, which ends with the test.
struct Silence {
    holder: Child,
    says: BufReader<ChildStdout>,
}

impl Silence {
    fn mount(folder: &Path) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/silence.py");
        let mut holder = Command::new("unshare");
        holder.args(["--map-root-user", "--mount", "python3", program]).arg(folder);
        holder.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = holder
            .spawn()
            .unwrap_or_else(|error| panic!("no unshare ({error}): install util-linux"));
        let mut silence =
            Self { says: BufReader::new(holder.stdout.take().expect("it is piped")), holder };
        silence.expect("mounted");
        silence
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("it says something");
        if line.trim() != word {
            let mut why = String::new();
            let _ = self.holder.stderr.take().expect("it is piped").read_to_string(&mut why);
            panic!(
                "no file system of its own could be mounted, which takes /dev/fuse and a user \
                 namespace: {why}"
            );
        }
    }

    fn fall_silent(&mut self) {
        writeln!(self.holder.stdin.as_mut().expect("it is piped")).expect("it listens");
        self.expect("silent");
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Starts a daemon with a second handler, for the pipeline `far`, with settings of its own.
async fn daemon_with(scene: &Scene, silence: &Silence, far: &str) -> (crate::daemon::Daemon, Step) {
    let handler: toml::Table = format!(
        "type = \"exec\"\nretry_delay = \"1s\"\nretry_delay_max = \"1s\"\nstop_grace = \
         \"1s\"\nsettings = {far}"
    )
    .parse()
    .expect("TOML");
    let route: toml::Table = "pipeline = \"far\"\nhandler = \"far\"".parse().expect("TOML");
    let config = scene
        .config()
        .listening()
        .with("handlers.far", handler)
        .with("queues.0.routes", vec![route]);
    let mut environment = scene.environment();
    let target = format!("--target={}", silence.holder.id());
    let enter = ["nsenter", &target, "--user", "--mount", "--preserve-credentials"];
    environment.prefix.extend(enter.map(str::to_owned));
    let daemon = environment.start(&config, "daemon");
    until("it is up", async || daemon.is_up()).await;
    let mut step = scene.step();
    step.arn = step.arn.replace(":pipeline/p/", ":pipeline/far/");
    step.arguments = json!({ "far": true });
    (daemon, step)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_or_directory_that_does_not_answer_holds_up_no_other_step_and_no_end() {
    let program = "{ command = [\"FOLDER/far/run\"] }";
    let directory = "{ command = [\"/bin/true\"], working_dir = \"FOLDER/far/there\" }";
    // Before the daemon starts, and after.
    tokio::join!(
        holds_up(program, true),
        holds_up(program, false),
        holds_up(directory, true),
        holds_up(directory, false)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_begin_is_told_costs_no_attempt_and_can_be_stopped() {
    let scene = Scene::new("until_there gate; end 0").await;
    let folder = scene.path("far");
    std::fs::create_dir(&folder).expect("the folder is writable");
    let mut silence = Silence::mount(&folder);
    let settings = format!("{{ command = [\"{}/run\"] }}", folder.display());
    let near = scene.step_sent().await;
    let (daemon, hanging) = daemon_with(&scene, &silence, &settings).await;
    until("a program runs", async || scene.runs() == [near.attempt(1)]).await;
    scene.sagemaker.begin(&hanging.arn, &hanging.token, &scene.queue.url);
    silence.fall_silent();
    scene.queue.send(&hanging.executing()).await;
    until("it is told", async || {
        daemon.metric("callbackd_impaired{what=\"io\"}").await == Some(1.0)
    })
    .await;
    assert!(daemon.log().contains("it did not begin within"));
    assert_eq!(daemon.status("/healthz").await.map(|(status, _)| status), Some(200));
    assert_eq!(daemon.status("/readyz").await.map(|(status, _)| status), Some(503));
    // It is no attempt, and so is tried as the first again.
    let tried = || {
        daemon
            .complaints(&["INFO"], &hanging.token)
            .into_iter()
            .filter(|line| line["message"] == "the step is started")
    };
    until("it is tried again", async || tried().count() > 1).await;
    assert!(tried().all(|line| line["attempt"] == 1));
    scene.stop(&hanging).await;
    assert_eq!(scene.answer(&hanging).await.operation, crate::sagemaker::FAILURE);
    assert!(scene.sagemaker.reports(&near.token).is_empty());
    scene.open("gate");
    scene.answer(&near).await;
    assert_eq!(scene.runs(), [near.attempt(1)]);
}

async fn holds_up(settings: &str, dead_at_start: bool) {
    let scene = Scene::new("end 0").await;
    let folder = scene.path("far");
    std::fs::create_dir(&folder).expect("the folder is writable");
    let mut silence = Silence::mount(&folder);
    if dead_at_start {
        silence.fall_silent();
    }
    let settings = settings.replace("FOLDER", &scene.folder().display().to_string());
    let (mut daemon, hanging) = daemon_with(&scene, &silence, &settings).await;
    if !dead_at_start {
        silence.fall_silent();
    }
    scene.queue.send(&hanging.executing()).await;
    until("it is begun", async || daemon.log().matches("the step is started").count() == 1).await;
    let near = scene.step_sent().await;
    scene.answer(&near).await;
    assert!(scene.sagemaker.reports(&hanging.token).is_empty());
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGINT);
    until("it ends", async || daemon.ended().is_some()).await;
}
