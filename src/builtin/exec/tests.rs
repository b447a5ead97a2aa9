//! What programs can rely on, tested with real ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::*;
use crate::handler::{Registry, Severity};
use crate::outcome::Outputs;
use crate::step::StopReason;
use crate::testing::TestStep;

mod containment;

struct Bench {
    directory: tempfile::TempDir,
    step: TestStep,
    stop: watch::Sender<Option<StopReason>>,
}

impl Bench {
    fn new() -> Self {
        Self::of(json!({"number": 5}))
    }

    fn of(arguments: Value) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let step = TestStep::new(arguments)
            .with_token("SYZ8ExZ3Sd")
            .with_attempt(2)
            .with_work_dir(directory.path().join("work"));
        Self { directory, step, stop: watch::Sender::new(None) }
    }

    fn cx(&self) -> Context {
        self.step.context_until(self.stop.subscribe())
    }

    /// The content of `$STEP_CHECKPOINT` in the ledger.
    fn checkpoint_file(&self) -> Option<String> {
        Some(self.step.checkpoints().last()?["file"].as_str()?.to_owned())
    }

    fn exec(&self, script: &str) -> Exec {
        self.with(
            json!({ "command": ["/bin/sh", "-c", script], "env": {"DIR": self.directory.path()} }),
        )
    }

    #[expect(clippy::unused_self, reason = "reads better")]
    fn with(&self, settings: Value) -> Exec {
        Exec::new(serde_json::from_value(settings).expect("settings")).expect("valid")
    }

    async fn run(&self, script: &str) -> HandlerResult {
        timeout(Duration::from_secs(60), self.exec(script).run(self.cx(), Value::Null))
            .await
            .expect("it ends")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn pid(&self, name: &str) -> i32 {
        let path = self.path(name);
        until(|| fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))).await;
        fs::read_to_string(path).expect("pid").trim().parse().expect("number")
    }
}

async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), waiting).await.expect("comes true");
}

fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn outputs(result: HandlerResult) -> Outputs {
    match result {
        Ok(Completion::Success(outputs)) => outputs,
        other => panic!("no success: {other:?}"),
    }
}

fn failure(result: HandlerResult) -> String {
    match result {
        Err(error) if error.is_permanent() => error.message().to_owned(),
        other => panic!("no failure: {other:?}"),
    }
}

#[tokio::test]
async fn the_step_comes_on_stdin_and_in_the_environment_and_nothing_else_does() {
    let bench = Bench::new();
    bench.run("cat > $DIR/stdin; env > $DIR/env").await.expect("succeeds");
    let stdin: Value =
        serde_json::from_str(&fs::read_to_string(bench.path("stdin")).expect("stdin"))
            .expect("json");
    assert_eq!(stdin["token"], "SYZ8ExZ3Sd");
    assert_eq!(stdin["pipeline"], "test");
    assert_eq!((&stdin["attempt"], &stdin["arguments"]), (&json!(2), &json!({"number": 5})));
    assert_eq!(stdin.get("stopReason"), None);
    let env = fs::read_to_string(bench.path("env")).expect("env");
    let mut names: Vec<&str> =
        env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.retain(|name| {
        !["PWD", "SHLVL", "_", "OLDPWD", "PATH", "HOME", "LANG", "DIR"].contains(name)
    });
    names.sort_unstable();
    let wants = [
        "STEP_ATTEMPT",
        "STEP_CHECKPOINT",
        "STEP_EXECUTION_ARN",
        "STEP_FENCE",
        "STEP_KEY",
        "STEP_OUTPUT",
        "STEP_PIPELINE",
        "STEP_PROGRESS",
        "STEP_QUEUE_URL",
        "STEP_REASON",
        "STEP_STOP_FILE",
        "STEP_TOKEN",
    ];
    assert_eq!(names, wants);
}

#[tokio::test]
async fn the_trace_of_the_step_is_in_the_environment_in_both_forms() {
    const ROOT: &str = "Root=1-5759e988-bd862e3fe1be46a994272793";
    let script = r#"echo "$X_AMZN_TRACE_ID|${TRACEPARENT-none}" >> $DIR/trace"#;
    let mut bench = Bench::new();
    for header in [format!("{ROOT};Parent=53995c3f42cd8ad8;Sampled=1"), ROOT.to_owned()] {
        bench.step = bench.step.with_trace(&header);
        bench.run(script).await.expect("succeeds");
    }
    let traces = fs::read_to_string(bench.path("trace")).expect("written");
    assert_eq!(
        traces,
        format!(
            "{ROOT};Parent=53995c3f42cd8ad8;Sampled=1|\
             00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01\n{ROOT}|none\n"
        )
    );
}

#[tokio::test]
async fn a_traceparent_of_the_settings_stays_unless_the_step_has_one() {
    const ROOT: &str = "Root=1-5759e988-bd862e3fe1be46a994272793";
    let mut bench = Bench::new();
    let script = r#"echo "$TRACEPARENT|${TRACESTATE-none}" >> $DIR/trace"#;
    let exec = bench.with(json!({
        "command": ["/bin/sh", "-c", script],
        "env": { "DIR": bench.directory.path(), "TRACEPARENT": "mine", "TRACESTATE": "a=1" },
    }));
    for header in [ROOT.to_owned(), format!("{ROOT};Parent=53995c3f42cd8ad8")] {
        bench.step = bench.step.with_trace(&header);
        exec.run(bench.cx(), Value::Null).await.expect("succeeds");
    }
    let traces = fs::read_to_string(bench.path("trace")).expect("written");
    let its_own = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00";
    assert_eq!(traces, format!("mine|a=1\n{its_own}|none\n"));
}

#[tokio::test]
async fn variables_of_the_daemon_are_passed_on_as_the_settings_say() {
    let bench = Bench::new();
    let names = async |settings: Value| {
        let script = "env > $DIR/env";
        let mut all = json!({
            "command": ["/bin/sh", "-c", script], "env": {"DIR": bench.directory.path()},
        });
        all.as_object_mut().expect("an object").extend(settings.as_object().expect("too").clone());
        bench.with(all).run(bench.cx(), Value::Null).await.expect("succeeds");
        fs::read_to_string(bench.path("env")).expect("env")
    };
    // Any that neither a shell sets nor each program gets.
    let own = ["PWD", "OLDPWD", "SHLVL", "_", "PATH", "HOME", "LANG", "DIR"];
    let (name, value) = std::env::vars()
        .find(|(name, value)| {
            let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            is_plain
                && !own.contains(&&**name)
                && !name.starts_with("STEP_")
                && !value.contains('\n')
        })
        .expect("the tests have an environment");
    let line = format!("{name}={value}");
    let has_it = |env: String| env.lines().any(|one| one == line);
    assert!(!has_it(names(json!({})).await), "{line}");
    let glob = format!("{}*", &name[..name.len() - 1]);
    assert!(has_it(names(json!({ "inherit_env": [name] })).await), "{line}");
    assert!(has_it(names(json!({ "inherit_env": [glob], "inherit": "aws" })).await), "{line}");

    let wanting =
        json!({ "command": ["/bin/true"], "inherit_env": ["NO_SUCH", "NO_SUCH_*", "PATH"] });
    let remarks = bench.with(wanting).remarks(Path::new(""));
    let warnings: Vec<&str> = remarks
        .iter()
        .filter(|remark| {
            remark.severity == Severity::Warning && remark.text.contains("inherit_env")
        })
        .map(|remark| &*remark.text)
        .collect();
    assert!(
        matches!(warnings[..], [told] if told.contains("\"NO_SUCH\"") && !told.contains("PATH")),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn outputs_are_lines_or_one_json_object() {
    let bench = Bench::new();
    let script = r#"printf 'a=1\n\nb=x=y\r\nempty=\n' >> "$STEP_OUTPUT""#;
    let got = outputs(bench.run(script).await);
    assert_eq!(got.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "x=y"), ("empty", "")]);
    let got = outputs(bench.run(r#"printf '{"a": 1.50, "b": true}' > "$STEP_OUTPUT""#).await);
    assert_eq!(got.iter().collect::<Vec<_>>(), [("a", "1.50"), ("b", "true")]);
    assert!(outputs(bench.run("true").await).is_empty());
    // They have been removed, so their content is unknown.
    assert!(
        !bench
            .run("echo a=1 > $STEP_OUTPUT; rm $STEP_OUTPUT")
            .await
            .expect_err("no outcome")
            .is_permanent()
    );
}

#[tokio::test]
async fn outputs_that_cannot_be_reported_fail_the_step_and_are_named() {
    let bench = Bench::new();
    for (script, wants) in [
        ("echo nonsense > $STEP_OUTPUT", "line 1 is not name=value"),
        (
            "i=0; while [ $i -lt 51 ]; do echo o$i=1; i=$((i+1)); done > $STEP_OUTPUT",
            "more than 50",
        ),
        (r#"printf '{"x": null}' > $STEP_OUTPUT"#, "`x` is null"),
        (r#"printf '{"x"' > $STEP_OUTPUT"#, "not a JSON object"),
        (r"printf 'x=\377\n' > $STEP_OUTPUT", "not UTF-8"),
        ("rm $STEP_OUTPUT; ln -s /etc/passwd $STEP_OUTPUT", "not a plain file"),
        ("rm $STEP_OUTPUT; mkfifo $STEP_OUTPUT", "not a plain file"),
        ("head -c 2000000 /dev/zero > $STEP_OUTPUT", "larger than"),
        ("printf 'x=%02000d\\n' 7 > $STEP_OUTPUT", "`x` has 2000 characters"),
    ] {
        let reason = failure(bench.run(script).await);
        assert!(reason.contains(wants), "{script}: {reason}");
    }
}

#[tokio::test]
async fn the_exit_code_decides() {
    let bench = Bench::new();
    assert!(matches!(bench.run("exit 75").await, Err(error) if !error.is_permanent()));
    assert!(matches!(bench.run("exit \
                            76").await, Ok(Completion::Again(after)) if after == Duration::from_mins(1)));
    assert_eq!(
        failure(bench.run("echo lost the disk >&2; exit 3").await),
        "exit status 3: lost the disk"
    );
    assert_eq!(failure(bench.run("kill -SEGV $$").await), "killed by signal 11");
    let deferred = bench.with(json!({"command": ["/bin/true"], "deferred": true}));
    assert!(matches!(deferred.run(bench.cx(), Value::Null).await, Ok(Completion::Deferred)));
}

#[tokio::test]
async fn a_program_says_itself_why_it_fails() {
    let bench = Bench::new();
    for (script, wants) in [
        (
            "echo noise >&2; echo 'no such table: penguins' > $STEP_REASON; exit 3",
            "no such table: penguins",
        ),
        ("printf 'two\\nlines' > $STEP_REASON; exit 1", "two\nlines"),
        ("printf 'not \\377 text' > $STEP_REASON; exit 1", "not \u{fffd} text"),
        ("echo loading > $STEP_REASON; kill -KILL $$", "killed by signal 9: loading"),
        ("echo said >&2; echo > $STEP_REASON; exit 3", "exit status 3: said"),
        ("echo said >&2; ln -s /etc/passwd $STEP_REASON; exit 3", "exit status 3: said"),
        ("echo said >&2; mkfifo $STEP_REASON; exit 3", "exit status 3: said"),
    ] {
        assert_eq!(failure(bench.run(script).await), wants, "{script}");
    }
    let long =
        failure(bench.run("head -c 3000000 /dev/zero | tr '\\0' x > $STEP_REASON; exit 1").await);
    assert_eq!(long, "x".repeat(16 << 10));
    assert_eq!(Reason::new(&long).as_str().chars().count(), Reason::MAX);
    let retried = bench.run("echo no quota > $STEP_REASON; exit 75").await.expect_err("no outcome");
    assert_eq!((retried.message(), retried.is_permanent()), ("no quota", false));
    outputs(bench.run("echo unused > $STEP_REASON").await);
    let dir = bench.directory.path();
    let cleanup = ["/bin/sh", "-c", "echo job-7 is still there > $STEP_REASON; exit 1"];
    let exec =
        bench.with(json!({ "command": ["/bin/true"], "cleanup": cleanup, "env": {"DIR": dir} }));
    let error = exec.cleanup(bench.cx(), Value::Null).await.expect_err("it failed");
    assert_eq!(error.message(), "job-7 is still there");
}

#[tokio::test]
async fn output_of_any_size_and_encoding_does_no_harm() {
    let bench = Bench::new();
    let script = "head -c 3000000 /dev/zero | tr '\\0' 'x'; head -c 200000 /dev/urandom; head -c \
                  200000 /dev/urandom >&2; \
                  i=0; while [ $i -lt 1000 ]; do printf 'ä' >&2; i=$((i+1)); done; exit 1";
    let reason = failure(bench.run(script).await);
    assert!(reason.ends_with("ää") && reason.chars().count() <= 256, "{reason}");
}

#[tokio::test]
async fn a_program_need_not_read_a_large_step() {
    let bench = Bench::of(json!({ "large": "x".repeat(1_000_000) }));
    bench.run("exec <&-; true").await.expect("succeeds");
    bench.run("true").await.expect("succeeds");
}

#[tokio::test]
async fn what_a_told_program_exits_with_is_no_outcome_unless_it_is_to_be_kept() {
    // A shell that starts a program when it is signalled can lose the signal, so these wait.
    let trapped =
        |exit: &str| format!("trap 'kill $!; {exit}' TERM; sleep 600 & echo $$ > $DIR/pid; wait");
    let (success, failure) = ("echo done=1 > $STEP_OUTPUT; exit 0", "exit 1");
    for (script, setting, comes_to) in [
        ("echo $$ > $DIR/pid; sleep 600".to_owned(), "ignored", "nothing"),
        (trapped(success), "ignored", "nothing"),
        (trapped(failure), "ignored", "nothing"),
        (trapped("exit 76"), "ignored", "nothing"),
        ("echo $$ > $DIR/pid; sleep 600".to_owned(), "kept", "nothing"),
        (trapped("exit 143"), "kept", "nothing"),
        (trapped(success), "kept", "success"),
        (trapped(failure), "kept", "failure"),
    ] {
        let bench = Bench::new();
        let running = bench.with(json!({
            "command": ["/bin/sh", "-c", script], "env": {"DIR": bench.directory.path()}, "exit_after_sigterm": setting,
        }));
        let run = running.run(bench.cx(), Value::Null);
        let tell = async {
            bench.pid("pid").await;
            bench.stop.send_replace(Some(StopReason::Shutdown));
        };
        let (result, ()) = tokio::join!(run, tell);
        let came_to = match &result {
            Ok(Completion::Success(outputs)) if outputs.get("done") == Some("1") => "success",
            Err(error) if error.is_permanent() => "failure",
            Err(_) => "nothing",
            Ok(_) => "else",
        };
        assert_eq!(came_to, comes_to, "{script}, {setting}: {result:?}");
    }
}

#[tokio::test]
async fn the_reason_of_a_stop_is_there_before_its_signal() {
    for reason in [
        StopReason::PipelineStopped,
        StopReason::SettledElsewhere,
        StopReason::Shutdown,
        StopReason::TimeLimit,
        StopReason::LeaseLost,
    ] {
        let bench = Bench::new();
        let script = "test ! -e $STEP_STOP_FILE || exit 3; trap 'kill $!; cat $STEP_STOP_FILE > \
                      $DIR/reason; exit 0' TERM; sleep 600 & echo $$ > $DIR/pid; wait";
        let running = bench.exec(script);
        let tell = async {
            bench.pid("pid").await;
            bench.stop.send_replace(Some(reason));
        };
        let (result, ()) = tokio::join!(running.run(bench.cx(), Value::Null), tell);
        assert!(!result.expect_err("no outcome").is_permanent());
        assert_eq!(fs::read_to_string(bench.path("reason")).expect("reason"), reason.as_str());
    }
}

#[tokio::test]
async fn a_program_of_a_relative_directory_is_found_where_it_runs() {
    let bench = Bench::new();
    let here = std::env::current_dir().expect("here");
    let up = here.components().count() - 1;
    // Deeper than this process, so that the way up does not lead to the root from there as well.
    let place = bench.path(&"deep/".repeat(up + 1));
    let relative = Path::new(&"../".repeat(up)).join(place.strip_prefix("/").expect("absolute"));
    fs::create_dir_all(place.join("bin")).expect("created");
    fs::write(place.join("bin/run"), "#!/bin/sh\ntouch where\n").expect("written");
    fs::set_permissions(place.join("bin/run"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("ours");
    let exec = bench.with(json!({ "command": ["bin/run"], "working_dir": relative }));
    exec.run(bench.cx(), Value::Null).await.expect("it runs");
    assert!(place.join("where").exists());
}

#[tokio::test]
async fn a_program_is_told_of_a_stop_that_came_before_it_began() {
    let bench = Bench::new();
    bench.stop.send_replace(Some(StopReason::PipelineStopped));
    let error = bench.run("sleep 600").await.expect_err("it was told");
    assert!(!error.is_permanent(), "{error}");
}

#[tokio::test]
async fn a_program_that_does_not_listen_is_killed_after_its_grace() {
    let mut bench = Bench::new();
    bench.step = bench.step.with_stop_grace(Duration::from_millis(200));
    let exec = bench.exec(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > $DIR/pid; while :; do sleep 1; done'",
    );
    let tell = async {
        bench.pid("pid").await;
        bench.stop.send_replace(Some(StopReason::PipelineStopped));
    };
    let (result, ()) = tokio::join!(exec.run(bench.cx(), Value::Null), tell);
    assert!(!result.expect_err("no outcome").is_permanent());
    assert!(!alive(bench.pid("pid").await));
}

#[tokio::test]
async fn a_checkpoint_is_saved_while_the_program_runs_and_given_back() {
    for write in [
        "printf job-7 > $STEP_CHECKPOINT",
        "printf job-7 > $STEP_CHECKPOINT.new; mv $STEP_CHECKPOINT.new $STEP_CHECKPOINT",
    ] {
        let bench = Bench::new();
        let exec = bench.exec(&format!(
            "{write}; until [ -e $DIR/go ]; do sleep 0.05; done; printf job-8 > $STEP_CHECKPOINT; \
             exit 75"
        ));
        let watch = async {
            until(|| bench.checkpoint_file().as_deref() == Some("job-7")).await;
            fs::write(bench.path("go"), "").expect("write");
        };
        let (result, ()) = tokio::join!(exec.run(bench.cx(), Value::Null), watch);
        assert!(result.is_err());
        let got = outputs(bench.run("echo \"had=$(cat $STEP_CHECKPOINT)\" > $STEP_OUTPUT").await);
        assert_eq!(got.get("had"), Some("job-8"));
    }
}

#[tokio::test]
async fn progress_is_told_while_the_program_runs_beside_its_checkpoints_and_never_saved() {
    let bench = Bench::new();
    let exec = bench.exec(
        "until [ -e $DIR/go ]; do sleep 0.05; done; printf '0.4 epoch 4 of 10' > $STEP_PROGRESS; \
         printf job-7 > $STEP_CHECKPOINT; until [ -e $DIR/end ]; do sleep 0.05; done",
    );
    let watch = async {
        fs::write(bench.path("go"), "").expect("write");
        until(|| bench.checkpoint_file().as_deref() == Some("job-7")).await;
        until(|| !bench.step.progress().is_empty()).await;
        fs::write(bench.path("end"), "").expect("write");
    };
    let (result, ()) = tokio::join!(exec.run(bench.cx(), Value::Null), watch);
    assert!(outputs(result).is_empty());
    let progress = bench.step.progress();
    assert_eq!((progress[0].fraction, &*progress[0].text), (Some(0.4), "epoch 4 of 10"));
    assert_eq!(bench.step.checkpoints().len(), 1);
}

#[tokio::test]
async fn a_key_is_saved_while_the_program_runs_and_its_last_line_once_it_has_ended() {
    let bench = Bench::new();
    let exec = bench.exec(
        "echo ORDER-17 > $STEP_KEY; until [ -e $DIR/go ]; do sleep 0.05; done; \
         printf ' order 18 \\n\\n' >> $STEP_KEY; exit 76",
    );
    let watch = async {
        until(|| bench.step.key().as_deref() == Some("ORDER-17")).await;
        fs::write(bench.path("go"), "").expect("write");
    };
    let (result, ()) = tokio::join!(exec.run(bench.cx(), Value::Null), watch);
    assert!(matches!(result, Ok(Completion::Again(_))), "{result:?}");
    assert_eq!(bench.step.key().as_deref(), Some("order 18"));
}

#[tokio::test]
async fn a_key_that_the_ledger_refused_is_saved_before_the_run_counts_as_ended() {
    let bench = Bench::new();
    bench.step.refuse_checkpoints(2);
    bench.run("echo ORDER-17 > $STEP_KEY; exit 76").await.expect("again");
    assert_eq!(bench.step.key().as_deref(), Some("ORDER-17"));
}

#[tokio::test]
async fn what_cannot_be_a_key_fails_a_step_that_goes_on_and_no_other() {
    for (script, wants) in [
        ("printf 'a\\001b' > $STEP_KEY", "STEP_KEY: a key is 1 to 256 characters in one line"),
        ("head -c 300 /dev/zero | tr '\\0' x > $STEP_KEY", "STEP_KEY: a key is 1 to 256"),
        ("head -c 20000 /dev/zero > $STEP_KEY", "STEP_KEY is larger than 16384 bytes"),
        ("printf '\\377' > $STEP_KEY", "STEP_KEY is not UTF-8"),
        ("ln -s /etc/passwd $STEP_KEY", "STEP_KEY is not a plain file"),
    ] {
        let bench = Bench::new();
        let deferred = json!({ "command": ["/bin/sh", "-c", script], "deferred": true });
        let reason = failure(bench.with(deferred).run(bench.cx(), Value::Null).await);
        assert!(reason.starts_with(wants), "{reason}");
        outputs(bench.run(script).await);
        assert_eq!(bench.step.key(), None);
    }
}

#[tokio::test]
async fn an_empty_or_missing_file_never_replaces_a_checkpoint() {
    for lost in [": > $STEP_CHECKPOINT", "rm $STEP_CHECKPOINT", "rm -r $(dirname $STEP_CHECKPOINT)"]
    {
        let bench = Bench::new();
        // Examined while it runs, and after it has ended.
        let exec = bench.exec(&format!(
            "printf job-7 > $STEP_CHECKPOINT; until [ -e $DIR/go ]; do sleep 0.05; done; {lost}; \
             sleep 0.3; exit 75"
        ));
        let watch = async {
            until(|| bench.checkpoint_file().as_deref() == Some("job-7")).await;
            fs::write(bench.path("go"), "").expect("write");
        };
        let (result, ()) = tokio::join!(exec.run(bench.cx(), Value::Null), watch);
        assert!(result.is_err());
        assert_eq!(bench.checkpoint_file().as_deref(), Some("job-7"), "{lost}");
    }
}

#[tokio::test]
async fn a_checkpoint_may_hold_any_bytes() {
    let bench = Bench::new();
    assert!(bench.run("printf 'job \\377\\000' > $STEP_CHECKPOINT; exit 75").await.is_err());
    let got = outputs(
        bench.run("echo \"had=$(od -An -tx1 $STEP_CHECKPOINT | tr -d ' ')\" > $STEP_OUTPUT").await,
    );
    assert_eq!(got.get("had"), Some("6a6f6220ff00"));
}

#[tokio::test]
async fn a_step_that_would_go_on_without_its_checkpoint_fails_and_names_why() {
    let large = "head -c 262145 /dev/zero > $STEP_CHECKPOINT";
    let link = "ln -sf /etc/hostname $STEP_CHECKPOINT";
    for (write, wants) in [
        (large, "STEP_CHECKPOINT is larger than 262144 bytes"),
        (link, "STEP_CHECKPOINT is not a plain file"),
    ] {
        for exit in [75, 76] {
            let error = Bench::new()
                .run(&format!("{write}; exit {exit}"))
                .await
                .expect_err("no checkpoint");
            assert!(
                error.is_permanent() && error.message().contains(wants),
                "{exit}: {}",
                error.message()
            );
        }
        assert!(
            Bench::new().run(&format!("{write}; exit 0")).await.is_ok(),
            "nobody needs it any more"
        );
    }
    let bench = Bench::new();
    let deferred = bench.with(json!({ "command": ["/bin/sh", "-c", large], "deferred": true }));
    assert!(deferred.run(bench.cx(), Value::Null).await.is_err_and(|error| error.is_permanent()));
    let smaller = format!("{large}; sleep 0.3; printf job-7 > $STEP_CHECKPOINT; exit 76");
    assert!(matches!(bench.run(&smaller).await, Ok(Completion::Again(_))), "it was written again");
    assert_eq!(bench.checkpoint_file().as_deref(), Some("job-7"));
}

#[tokio::test]
async fn a_checkpoint_of_the_last_moment_is_saved_however_often_the_ledger_refuses_it() {
    let bench = Bench::new();
    let exec = bench.exec(
        "touch $DIR/began; until [ -e $DIR/go ]; do sleep 0.05; done; printf job-7 > \
               $STEP_CHECKPOINT; exit 75",
    );
    let fail = async {
        until(|| bench.path("began").exists()).await;
        bench.step.refuse_checkpoints(3);
        fs::write(bench.path("go"), "").expect("write");
    };
    let (result, ()) = tokio::join!(exec.run(bench.cx(), Value::Null), fail);
    assert!(result.is_err());
    assert_eq!(bench.checkpoint_file().as_deref(), Some("job-7"));
    assert_eq!(fs::read_dir(bench.path("work")).expect("there").count(), 0);
}

#[tokio::test]
async fn a_checkpoint_that_could_not_be_saved_is_read_by_the_next_run_and_by_the_cleanup() {
    for cleanup in [false, true] {
        let bench = Bench::new();
        let exec = bench.exec(
            "touch $DIR/began; until [ -e $DIR/go ]; do sleep 0.05; done; printf \
                               job-7 > $STEP_CHECKPOINT; touch $DIR/written; sleep 600",
        );
        let cut = async {
            until(|| bench.path("began").exists()).await;
            bench.step.refuse_checkpoints(usize::MAX);
            fs::write(bench.path("go"), "").expect("write");
            until(|| bench.path("written").exists()).await;
        };
        // Like a worker that leaves while its ledger fails.
        tokio::select! {
            _ = exec.run(bench.cx(), Value::Null) => panic!("it ended"),
            () = cut => {}
        }
        assert_eq!(bench.checkpoint_file(), None);
        bench.step.refuse_checkpoints(0);
        let read = ["/bin/sh", "-c", "cat $STEP_CHECKPOINT > $DIR/had"];
        let next = bench.with(
            json!({ "command": read, "cleanup": read, "env": {"DIR": bench.directory.path()} }),
        );
        if cleanup {
            next.cleanup(bench.cx(), Value::Null).await.expect("it works");
        } else {
            next.run(bench.cx(), Value::Null).await.expect("it works");
        }
        assert_eq!(fs::read_to_string(bench.path("had")).expect("read"), "job-7");
        assert_eq!(fs::read_dir(bench.path("work")).expect("there").count(), 0);
    }
}

#[tokio::test]
async fn a_run_is_known_before_its_program_begins_and_costs_the_ledger_nothing() {
    let bench = Bench::new();
    bench.run("cp $(dirname $STEP_OUTPUT)/../run $DIR/run").await.expect("succeeds");
    let run: Value =
        serde_json::from_str(&fs::read_to_string(bench.path("run")).expect("there")).expect("JSON");
    assert!(run["processes"]["mark"].as_u64().is_some(), "{run}");
    assert_eq!(bench.step.checkpoints(), Vec::<Value>::new());
}

#[tokio::test]
async fn a_cleanup_knows_why_it_is_run_and_its_failure_is_told() {
    let bench = Bench::new();
    bench.stop.send_replace(Some(StopReason::TimeLimit));
    let dir = bench.directory.path();
    let exec = bench.with(json!({
        "command": ["/bin/true"],
        "cleanup": ["/bin/sh", "-c", "cat > $DIR/stdin; echo $STEP_STOP_REASON > $DIR/reason; echo \
         no permission >&2; exit 4"],
        "env": {"DIR": dir},
    }));
    let error = exec.cleanup(bench.cx(), Value::Null).await.expect_err("it failed");
    assert_eq!(error.message(), "exit status 4: no permission");
    assert_eq!(fs::read_to_string(dir.join("reason")).expect("reason"), "time_limit\n");
    assert!(
        fs::read_to_string(dir.join("stdin"))
            .expect("stdin")
            .contains(r#""stopReason":"time_limit""#)
    );
    bench
        .with(json!({"command": ["/bin/true"]}))
        .cleanup(bench.cx(), Value::Null)
        .await
        .expect("nothing to do");
}

#[tokio::test]
async fn no_directory_is_left_behind() {
    let bench = Bench::new();
    bench.run("dirname $STEP_OUTPUT > $DIR/where").await.expect("succeeds");
    let place = fs::read_to_string(bench.path("where")).expect("where");
    assert!(place.contains("SYZ8ExZ3Sd-") && !Path::new(place.trim()).exists(), "{place}");
}

/// The directory that a killed daemon leaves of a run whose program does this.
async fn left_behind(bench: &Bench, script: &str) -> PathBuf {
    let run = "RUN=$(dirname $(dirname $STEP_OUTPUT)); echo $RUN > $DIR/where";
    let ended = bench.run(&format!("{run}; {script}; cp -r $RUN $DIR/left; exit 75")).await;
    assert!(!ended.expect_err("to be tried again").is_permanent());
    let place = PathBuf::from(fs::read_to_string(bench.path("where")).expect("where").trim());
    fs::rename(bench.path("left"), &place).expect("gone before");
    place
}

#[tokio::test]
async fn the_directory_of_a_run_whose_daemon_was_killed_goes_with_the_next_and_with_the_cleanup() {
    for cleanup in [false, true] {
        let bench = Bench::new();
        let place = left_behind(&bench, "echo half= > $STEP_OUTPUT").await;
        if cleanup {
            bench.exec("true").cleanup(bench.cx(), Value::Null).await.expect("succeeds");
        } else {
            bench.run("true").await.expect("succeeds");
        }
        assert!(!place.exists());
    }
}

#[tokio::test]
async fn of_what_killed_daemons_left_the_latest_counts_unless_another_run_has_saved_since() {
    const READ: &str = "cp $STEP_CHECKPOINT $DIR/had";
    let had = |bench: &Bench| fs::read_to_string(bench.path("had")).expect("read");
    // Its last checkpoint was saved, and it wrote one more.
    let bench = Bench::new();
    let place = left_behind(&bench, "printf job-7 > $STEP_CHECKPOINT").await;
    fs::write(place.join("files/checkpoint"), "job-8").expect("ours");
    bench.run(READ).await.expect("succeeds");
    assert_eq!((&*had(&bench), bench.checkpoint_file().as_deref()), ("job-8", Some("job-8")));

    // The next began with that, and could save nothing.
    let place = left_behind(&bench, "true").await;
    fs::rename(&place, bench.path("aside")).expect("ours");
    let earlier = left_behind(&bench, "true").await;
    fs::rename(bench.path("aside"), &place).expect("ours");
    let fence = |place: &Path, fence: u64| {
        let file = place.join("run");
        let mut run: Value =
            serde_json::from_slice(&fs::read(&file).expect("there")).expect("JSON");
        run["fence"] = fence.into();
        fs::write(file, run.to_string()).expect("ours");
    };
    for (place, number, text) in [(&place, 50, "job-9"), (&earlier, 40, "job-0")] {
        fs::write(place.join("files/checkpoint"), text).expect("ours");
        fence(place, number);
    }
    bench.run(READ).await.expect("succeeds");
    assert_eq!(had(&bench), "job-9");
    assert!(!place.exists() && !earlier.exists());

    // A run elsewhere saved another.
    let place = left_behind(&bench, "true").await;
    fs::write(place.join("files/checkpoint"), "job-10").expect("ours");
    let elsewhere = json!({ "file": "job-11", "workspace": "SYZ8ExZ3Sd-00000000000000ab" });
    let _ = bench.step.clone().with_checkpoint(elsewhere);
    bench.run(READ).await.expect("succeeds");
    assert_eq!(had(&bench), "job-11");
    assert!(!place.exists());
}

#[tokio::test]
async fn what_a_daemon_of_version_0_1_left_is_read() {
    let bench = Bench::new();
    let place = bench.path("work/SYZ8ExZ3Sd-00000000000000ab");
    fs::create_dir_all(&place).expect("created");
    fs::write(place.join("checkpoint"), "job-7").expect("written");
    let saved = json!({ "run": null, "file": "job-6", "workspace": "SYZ8ExZ3Sd-00000000000000ab" });
    let _ = bench.step.clone().with_checkpoint(saved);
    let got = outputs(bench.run("echo \"had=$(cat $STEP_CHECKPOINT)\" > $STEP_OUTPUT").await);
    assert_eq!(got.get("had"), Some("job-7"));
    assert!(!place.exists());
}

#[tokio::test]
async fn what_another_live_worker_uses_is_left_alone() {
    let bench = Bench::new();
    let place = left_behind(&bench, "printf job-7 > $STEP_CHECKPOINT").await;
    fs::write(place.join("files/checkpoint"), "job-8").expect("ours");
    let in_use = abandoned::lock(&place, nix::fcntl::FlockArg::LockSharedNonblock).expect("free");
    for script in ["cp $STEP_CHECKPOINT $DIR/had", "true"] {
        bench.run(script).await.expect("succeeds");
        bench.exec("true").cleanup(bench.cx(), Value::Null).await.expect("succeeds");
        bench.exec("true").reap(bench.cx()).await;
    }
    assert_eq!(fs::read_to_string(bench.path("had")).expect("read"), "job-7");
    assert_eq!(fs::read_to_string(place.join("files/checkpoint")).expect("there"), "job-8");
    drop(in_use);
    bench.run("true").await.expect("succeeds");
    assert!(!place.exists());
}

#[tokio::test]
async fn nothing_is_removed_by_a_name_that_is_no_directory_of_ours() {
    let bench = Bench::new();
    let within = bench.path("work/SYZ8ExZ3Sd-0");
    fs::create_dir_all(&within).expect("create");
    for name in
        ["SYZ8ExZ3Sd-/../SYZ8ExZ3Sd-0", "SYZ8ExZ3Sd-", "../work/SYZ8ExZ3Sd-0", "", "another-0"]
    {
        let _ = bench.step.clone().with_checkpoint(json!({ "workspace": name }));
        bench.run("true").await.expect("succeeds");
        assert!(within.exists(), "{name}");
    }
    // A directory that a program could write, or a file that a daemon had not finished.
    for text in ["", "{", "[]", "{\"processes\": {}}"] {
        let unknown = bench.path("work/SYZ8ExZ3Sd-00000000000000cd");
        fs::create_dir_all(&unknown).expect("create");
        fs::write(unknown.join("run"), text).expect("written");
        bench.run("true").await.expect("succeeds");
        assert!(unknown.exists(), "{text}");
    }
}

#[tokio::test]
async fn what_keeps_a_program_from_being_started_is_the_machines_trouble() {
    let bench = Bench::new();
    let (program, place) = (bench.path("place/run"), bench.path("place"));
    let install = || {
        fs::create_dir_all(&place).expect("created");
        fs::write(&program, "#!/bin/sh\nexit 0\n").expect("written");
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("ours");
    };
    install();
    let exec = bench.with(json!({ "command": [program], "working_dir": place }));
    let elsewhere = bench.with(json!({ "command": [program] }));
    // A program of another test has open what was just written here, between its fork and its exec.
    let works = async |exec: &Exec| {
        loop {
            match exec.run(bench.cx(), Value::Null).await {
                Err(error) if error.message().contains("busy") => tokio::task::yield_now().await,
                ended => break ended.expect("it works"),
            }
        }
    };
    for (what, names, exec, ail) in [
        (
            "program",
            "could not be started",
            &exec,
            (&|| fs::remove_file(&program).expect("there")) as &dyn Fn(),
        ),
        ("program", "could not be started", &exec, &|| {
            fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .expect("ours");
        }),
        ("working_dir", "the working_dir", &exec, &|| fs::remove_dir_all(&place).expect("there")),
        ("program", "could not be started", &elsewhere, &|| {
            fs::remove_dir_all(&place).expect("there");
        }),
        ("io", "no directory for the run", &exec, &|| {
            fs::remove_dir_all(bench.path("work")).expect("there");
            fs::write(bench.path("work"), "").expect("written");
        }),
    ] {
        works(exec).await;
        ail();
        let error = exec.run(bench.cx(), Value::Null).await.expect_err("it cannot be started");
        assert_eq!(error.host_trouble(), Some(what), "{error}");
        assert!(error.message().contains(names), "{error}");
        install();
    }
    let _ = fs::remove_file(bench.path("work"));
    let writer = fs::OpenOptions::new().append(true).open(&program).expect("ours");
    let error = exec.run(bench.cx(), Value::Null).await.expect_err("it is being replaced");
    assert_eq!(error.host_trouble(), Some("program"), "{error}");
    drop(writer);
    works(&exec).await;
}

#[test]
fn settings_that_cannot_work_are_refused_at_start() {
    let registry = Registry::with_builtins();
    for (settings, wants) in [
        (json!({}), "missing field `command`"),
        (json!({"command": []}), "`command` is empty"),
        (json!({"command": ["/bin/true"], "env": {"STEP_TOKEN": "x"}}), "`env`: \"STEP_TOKEN\""),
        (json!({"command": ["/bin/true"], "inherit_env": ["A=B"]}), "`inherit_env`"),
        (json!({"command": ["/bin/true"], "poll_interval": "10ms"}), "`poll_interval`"),
        (
            json!({"command": ["/bin/true"], "poll_intervall": "10s"}),
            "unknown field `poll_intervall`",
        ),
        (json!({"command": "/bin/true"}), "expected a sequence"),
        (
            json!({"command": [""], "limits": {"memory": 1, "processes": 0}, "user": "no one"}),
            "`command` is empty; it names the program and its arguments; and `limits.memory` is 1; \
             the least is 4194304; and `limits.processes` is 0; the least is 1; and `user`: ",
        ),
    ] {
        let error = registry.build("exec", settings.clone()).expect_err("refused").to_string();
        assert!(error.contains(wants), "{settings}: {error}");
    }
}

/// A mount may appear later, or a deployment may finish: the daemon starts, and `check` fails.
#[test]
fn what_this_machine_lacks_for_the_settings_is_told_and_no_mistake() {
    for (settings, wants) in [
        (json!({"command": ["/no/such/program"]}), "no executable program \"/no/such/program\""),
        (json!({"command": ["no-such-program"]}), "on the PATH"),
        (json!({"command": ["/etc/passwd"]}), "no executable program"),
        (json!({"command": ["/bin/true"], "cleanup": ["/no"]}), "`cleanup`"),
        (json!({"command": ["/bin/true"], "working_dir": "/no/where"}), "`working_dir`"),
    ] {
        let exec = Exec::new(serde_json::from_value(settings.clone()).expect("settings"))
            .expect("they may work later");
        let errors = exec
            .remarks(Path::new(""))
            .into_iter()
            .filter(|remark| remark.severity == Severity::Error);
        let errors: Vec<String> = errors.map(|remark| remark.text).collect();
        assert!(errors.len() == 1 && errors[0].contains(wants), "{settings}: {errors:?}");
    }
}
