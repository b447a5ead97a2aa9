//! Verifies `deploy/` with the tools and models of its readers: systemd, ECS, IAM.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "support/output.rs"]
mod output;
#[path = "deploy/template.rs"]
mod template;
#[path = "support/venv.rs"]
mod venv;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use callbackd::engine::config::{HandlerConfig, WorkerConfig};
use serde_json::{Value, json};

use output::printed;
use venv::Venv;

/// A drain ends with the last reports; this is left for them.
const LAST_REPORTS: Duration = Duration::from_secs(10);

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

fn json(name: &str) -> Value {
    serde_json::from_str(&text(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

mod systemd {
    use super::*;

    const UNITS: [&str; 2] = ["callbackd.service", "callbackd@.service"];

    /// Runs systemd-analyze on a unit, with an existing program in place of ours; `None` if systemd
    /// is not installed.
    fn analyze(name: &str, arguments: &[&str]) -> Option<Output> {
        let unit = text(&format!("systemd/{name}"));
        let ours = "ExecStart=callbackd ";
        assert!(unit.contains(ours), "the unit starts callbackd");
        let folder = tempfile::tempdir().expect("a folder");
        // A template is examined as one of its instances.
        let file = folder.path().join(name.replace('@', "@etl"));
        fs::write(&file, unit.replace(ours, "ExecStart=/bin/true ")).expect("it is writable");
        let run = Command::new("systemd-analyze")
            .args(arguments)
            .arg(&file)
            .env("SYSTEMD_COLORS", "0")
            .output();
        match run {
            Ok(output) => Some(output),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!(
                    "SKIPPED: systemd-analyze is not installed, so the unit was NOT checked; \
                     apt-get install systemd"
                );
                None
            }
            Err(error) => panic!("systemd-analyze: {error}"),
        }
    }

    fn setting(name: &str) -> String {
        let unit = text("systemd/callbackd.service");
        let value = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("the unit sets {name}")).to_owned()
    }

    #[test]
    fn the_unit_is_one_that_systemd_understands_without_a_warning() {
        for output in UNITS.into_iter().filter_map(|name| analyze(name, &["verify"])) {
            assert!(
                output.status.success() && printed(&output).trim().is_empty(),
                "{}",
                printed(&output)
            );
        }
    }

    #[test]
    fn the_unit_is_as_closed_as_handlers_allow() {
        // In tenths: 1.5, of 10; a unit without a sandbox has 9.5.
        let security = ["security", "--offline=true", "--threshold=15"];
        for output in UNITS.into_iter().filter_map(|name| analyze(name, &security)) {
            assert!(output.status.success(), "{}", printed(&output));
        }
    }

    #[test]
    fn an_instance_differs_from_the_only_service_in_its_names_alone() {
        let settings = |name: &str| -> Vec<String> {
            let unit = text(&format!("systemd/{name}"));
            let lines = unit.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
            lines.map(str::to_owned).collect()
        };
        let instance: Vec<String> = settings("callbackd@.service")
            .into_iter()
            .filter(|line| !line.starts_with("EnvironmentFile=-/etc/callbackd/%i."))
            .map(|line| {
                line.replace("callbackd-%i", "callbackd")
                    .replace("callbackd %i", "callbackd")
                    .replace("callbackd --config /etc/callbackd/%i.toml ", "callbackd ")
            })
            .collect();
        assert_eq!(instance, settings("callbackd.service"));
    }

    #[test]
    fn the_drop_in_for_handlers_changes_nothing_until_it_is_edited_and_is_then_understood() {
        let drop_in = text("systemd/handlers.conf");
        let (_, offered) = drop_in.split_once("[Service]\n").expect("a section");
        assert!(offered.lines().all(|line| line.starts_with('#')), "{offered}");
        let settings = offered.lines().filter_map(|line| line.strip_prefix('#'));
        let settings: Vec<&str> = settings.filter(|line| !line.starts_with(' ')).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("handlers.service");
        let unit = format!("[Service]\nExecStart=/bin/true\n{}\n", settings.join("\n"));
        fs::write(&file, unit).expect("it is writable");
        let run = Command::new("systemd-analyze").arg("verify").arg(&file).output();
        if let Ok(output) = run {
            assert!(
                output.status.success() && printed(&output).trim().is_empty(),
                "{}",
                printed(&output)
            );
        }
    }

    #[test]
    fn the_packaged_configuration_names_no_queue_until_it_is_edited_and_is_then_right() {
        let packaged = text("debian/callbackd.toml");
        assert!(packaged.lines().all(|line| line.is_empty() || line.starts_with('#')));
        let edited: Vec<&str> = packaged
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' '))
            .collect();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("callbackd.toml");
        fs::write(&file, edited.join("\n")).expect("it is writable");
        let loaded = callbackd::config::Config::load(Some(&file), []).expect("it is right");
        assert_eq!(loaded.queues.len(), 1);
    }

    #[test]
    fn the_unit_leaves_a_drain_its_time() {
        let limit = callbackd::duration::parse(&setting("TimeoutStopSec")).expect("a time");
        let needed = WorkerConfig::default().drain_timeout + default_stop_grace() + LAST_REPORTS;
        assert!(limit >= needed, "{limit:?} < {needed:?}");
    }

    #[test]
    fn the_unit_starts_once_the_clock_is_right() {
        assert!(setting("After").split(' ').any(|unit| unit == "time-sync.target"));
    }

    #[test]
    fn bad_configuration_is_not_started_again_and_all_else_is() {
        assert_eq!(setting("Restart"), "always");
        assert!(setting("RestartPreventExitStatus").split(' ').any(|status| status == "78"));
        assert_eq!(
            setting("KillMode"),
            "mixed",
            "handlers' programs are not signalled before the daemon"
        );
    }

    /// By the built binary, which a build without the AWS clients has not.
    #[cfg(feature = "aws")]
    #[test]
    fn an_instance_whose_file_does_not_name_its_ledger_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("etl.toml");
        let checked = |name: &str, ledger: &str| {
            let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/etl";
            let handler = "[handlers.x]\ntype = \"exec\"\nsettings.command = [\"/bin/true\"]";
            let config =
                format!("[[queues]]\nurl = \"{queue}\"\nhandler = \"x\"\n{handler}\n{ledger}");
            fs::write(&file, config).expect("it is writable");
            let output = Command::new(env!("CARGO_BIN_EXE_callbackd"))
                .arg("--config")
                .arg(&file)
                .arg("check")
                .env("STATE_DIRECTORY", folder.path().join(name))
                .output()
                .expect("it runs");
            (output.status.code(), printed(&output))
        };
        let (code, told) = checked("callbackd-etl", "");
        assert_eq!(code, Some(78), "{told}");
        assert!(told.contains("ledger.path: is ") && told.contains("etl.toml"), "{told}");
        // Of another service it is a warning.
        let (code, told) = checked("worker", "");
        assert!(code != Some(78) && told.contains("ledger.path: is "), "{told}");
        let path = folder.path().join("callbackd-etl/ledger.db");
        let (code, told) = checked("callbackd-etl", &format!("[ledger]\npath = {path:?}"));
        assert!(code != Some(78) && !told.contains("ledger.path: is "), "{told}");
    }

    #[test]
    fn the_user_is_made_as_the_unit_names_it() {
        let made = text("systemd/callbackd.sysusers");
        let made = made.lines().find(|line| line.starts_with("u ")).expect("a user");
        assert_eq!(made.split(' ').nth(1), Some(setting("User").as_str()));
        assert!(made.ends_with(&format!("/var/lib/{}", setting("StateDirectory"))), "{made}");
    }
}

fn default_stop_grace() -> Duration {
    let handler: HandlerConfig =
        serde_json::from_value(json!({ "type": "exec" })).expect("all else has defaults");
    handler.stop_grace
}

fn check(arguments: &[&str], files: &[PathBuf]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/check.py");
    Command::new(Venv::ready().python())
        .arg(script)
        .args(arguments)
        .args(files)
        .output()
        .expect("Python runs")
}

mod ecs {
    use super::*;

    fn container() -> Value {
        json("ecs/task-definition.json")["containerDefinitions"][0].clone()
    }

    fn variable(name: &str) -> String {
        let container = container();
        let all = container["environment"].as_array().expect("a list").clone();
        let found = all
            .iter()
            .find(|variable| variable["name"] == name)
            .unwrap_or_else(|| panic!("{name} is set"));
        found["value"].as_str().expect("a string").to_owned()
    }

    #[test]
    fn ecs_would_take_the_task_definition_and_the_service() {
        for (operation, file) in [
            ("RegisterTaskDefinition", "ecs/task-definition.json"),
            ("CreateService", "ecs/service.json"),
        ] {
            let output = check(&["input", "ecs", operation], &[path(file)]);
            assert!(output.status.success(), "{file}: {}", printed(&output));
        }
    }

    #[test]
    fn the_check_itself_sees_unknown_members_wrong_types_and_values_that_are_none() {
        let folder = tempfile::tempdir().expect("a folder");
        for (pointer, value, complaint) in [
            ("/networkMode", json!("bus"), "networkMode: 'bus' is none of"),
            (
                "/containerDefinitions/0/stopTimeout",
                json!("120s"),
                "containerDefinitions[0].stopTimeout",
            ),
            ("/containerDefinitions/0", json!({ "nmae": "callbackd" }), "\"nmae\""),
        ] {
            let mut definition = json("ecs/task-definition.json");
            *definition.pointer_mut(pointer).expect("it is set") = value;
            let file = folder.path().join("task-definition.json");
            fs::write(&file, definition.to_string()).expect("it is writable");
            let output = check(&["input", "ecs", "RegisterTaskDefinition"], &[file]);
            assert!(
                !output.status.success() && printed(&output).contains(complaint),
                "{}",
                printed(&output)
            );
        }
    }

    #[test]
    fn ecs_leaves_a_drain_its_time() {
        let limit = container()["stopTimeout"].as_u64().map(Duration::from_secs).expect("a number");
        assert!(limit <= Duration::from_secs(120), "Fargate allows no more");
        let drain = callbackd::duration::parse(&variable("CALLBACKD_WORKER__DRAIN_TIMEOUT"))
            .expect("a time");
        let needed = drain + default_stop_grace() + LAST_REPORTS;
        assert!(limit >= needed, "{limit:?} < {needed:?}");
    }

    #[test]
    fn the_container_has_somewhere_to_write_and_nothing_else() {
        let container = container();
        assert_eq!(container["readonlyRootFilesystem"], true);
        let mounted = |at: &str| {
            let mounts = container["mountPoints"].as_array().expect("a list");
            mounts.iter().any(|mount| mount["containerPath"] == at && mount["readOnly"] != true)
        };
        let ledger = PathBuf::from(variable("CALLBACKD_LEDGER__PATH"));
        assert!(mounted(ledger.parent().and_then(Path::to_str).expect("a folder")));
        assert!(mounted("/tmp"));
    }

    #[test]
    fn a_ledger_file_is_never_shared_by_two_tasks() {
        let service = json("ecs/service.json");
        assert_eq!(service["desiredCount"], 1);
        assert_eq!(
            service["deploymentConfiguration"]["maximumPercent"], 100,
            "the old task ends before the new one begins"
        );
    }
}

mod container {
    use super::*;

    fn instructions(name: &str) -> Vec<String> {
        let dockerfile = text("container/Dockerfile");
        let all = dockerfile.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        all.map(str::to_owned).collect()
    }

    #[test]
    fn what_the_image_copies_is_there_and_is_let_into_the_build() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let ignore = text("container/Dockerfile.dockerignore");
        let copied: Vec<String> = instructions("COPY")
            .iter()
            .filter(|copy| !copy.starts_with("--from") && *copy != ". .")
            .flat_map(|copy| {
                let words: Vec<_> = copy
                    .split(' ')
                    .filter(|word| !word.starts_with("--"))
                    .map(str::to_owned)
                    .collect();
                words[..words.len() - 1].to_vec()
            })
            .collect();
        assert_eq!(copied.len(), 1, "{copied:?}");
        let used = ["deploy/README.md", "deploy/build", "deploy/messages.md"];
        for needed in copied
            .iter()
            .map(String::as_str)
            .chain(["Cargo.toml", "Cargo.lock", "src", "tests"])
            .chain(used)
        {
            assert!(root.join(needed).exists(), "{needed} is in the repository");
            assert!(ignore.lines().any(|line| line == format!("!{needed}")), "{needed} is let in");
        }
    }

    #[test]
    fn the_image_and_the_task_agree_on_user_and_volumes() {
        let container = json("ecs/task-definition.json")["containerDefinitions"][0].clone();
        assert_eq!(instructions("USER"), [container["user"].as_str().expect("a string")]);
        let volumes: Value = serde_json::from_str(&instructions("VOLUME")[0]).expect("a JSON list");
        let mounts = container["mountPoints"].as_array().expect("a list");
        let mounted: Vec<&Value> = mounts.iter().map(|mount| &mount["containerPath"]).collect();
        assert_eq!(volumes.as_array().expect("a list").iter().collect::<Vec<_>>(), mounted);
    }

    #[test]
    fn the_image_and_the_task_ask_the_binary_itself_for_its_health() {
        let check =
            json("ecs/task-definition.json")["containerDefinitions"][0]["healthCheck"]["command"]
                .clone();
        assert_eq!(check, json!(["CMD", "callbackd", "health"]));
        assert!(instructions("HEALTHCHECK")[0].ends_with(r#"CMD ["callbackd", "health"]"#));
    }

    /// By the built binary, which a build without the AWS clients has not.
    #[cfg(feature = "aws")]
    mod health {
        use std::sync::{Arc, Mutex};

        use callbackd::observe::actions::Office;
        use callbackd::observe::metrics::Metrics;
        use callbackd::observe::server::{
            Check, Config, Problem, Server, Source, Steps, StepsQuery,
        };
        use futures_util::future::BoxFuture;
        use tokio_util::sync::CancellationToken;

        use super::*;

        /// A daemon in the state that the test sets.
        struct Fake(Mutex<bool>);

        impl Source for Fake {
            fn health(&self) -> Vec<Check> {
                let ok = *self.0.lock().expect("not poisoned");
                vec![Check {
                    name: "engine",
                    ok,
                    detail: "has not turned over for 3 minutes".to_owned(),
                }]
            }

            fn readiness(&self) -> Vec<Check> {
                Vec::new()
            }

            fn status(&self) -> Value {
                Value::Null
            }

            fn steps(&self, _: StepsQuery) -> BoxFuture<'_, Result<Steps, Problem>> {
                Box::pin(async { Ok(Steps { rows: Vec::new(), next: None }) })
            }

            fn step<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Value, Problem>> {
                Box::pin(async { Err(Problem::not_found("none")) })
            }
        }

        async fn healthy(listen: &str) -> Output {
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_callbackd"));
            command
                .arg("health")
                .env("CALLBACKD_HTTP__LISTEN", listen)
                .output()
                .await
                .expect("it runs")
        }

        #[tokio::test]
        async fn the_health_check_says_what_the_daemon_says() {
            let source = Arc::new(Fake(Mutex::new(true)));
            let listen = "127.0.0.1:0".parse().expect("an address");
            let config = Config { listen, ..Config::default() };
            let (metrics, office) = (Arc::new(Metrics::new()), Office::default());
            let server = Server::bind(&config, source.clone(), metrics, office).await;
            let server = server.expect("a free port").expect("it is on");
            let listen = format!("0.0.0.0:{}", server.address().port());
            let stop = CancellationToken::new();
            let ask = async {
                let output = healthy(&listen).await;
                assert!(output.status.success(), "{}", printed(&output));

                *source.0.lock().expect("not poisoned") = false;
                let output = healthy(&listen).await;
                assert_eq!(output.status.code(), Some(1));
                assert!(printed(&output).contains("has not turned over"), "{}", printed(&output));
                stop.cancel();
            };
            tokio::join!(ask, server.run(stop.clone()));

            let output = healthy(&listen).await;
            assert_eq!(output.status.code(), Some(1), "nobody listens any more");
            assert!(
                printed(&output).contains("no answer from the daemon at 127.0.0.1:"),
                "{}",
                printed(&output)
            );
            assert_eq!(healthy("off").await.status.code(), Some(1), "the daemon cannot be asked");
            assert_eq!(healthy("nowhere").await.status.code(), Some(78));
        }
    }
}

mod dynamodb {
    use super::*;

    #[test]
    fn the_table_is_one_that_the_service_creates() {
        for (operation, file) in [
            ("CreateTable", "dynamodb/table.json"),
            ("UpdateTimeToLive", "dynamodb/time-to-live.json"),
        ] {
            let output = check(&["input", "dynamodb", operation], &[path(file)]);
            assert!(output.status.success(), "{file}: {}", printed(&output));
        }
    }
}

mod iam {
    use super::*;

    fn policies() -> Vec<(String, Value)> {
        let folder = fs::read_dir(path("iam")).expect("a folder");
        let names = folder
            .map(|entry| entry.expect("it can be read").file_name().into_string().expect("UTF-8"));
        let mut policies: Vec<_> =
            names.map(|name| (name.clone(), json(&format!("iam/{name}")))).collect();
        policies.sort_by(|(a, _), (b, _)| a.cmp(b));
        policies
    }

    fn statements(policy: &Value) -> &Vec<Value> {
        policy["Statement"].as_array().expect("a list")
    }

    /// IAM lets one stand for a list of one.
    fn list(value: &Value) -> Vec<&str> {
        let many = value.as_array().map(|many| many.iter().collect::<Vec<_>>());
        many.unwrap_or_else(|| vec![value])
            .into_iter()
            .map(|one| one.as_str().expect("a string"))
            .collect()
    }

    /// Actions that cannot be limited to a resource (Service Authorization Reference).
    const OF_NO_RESOURCE: [&str; 2] = ["sagemaker:ListPipelines", "sqs:ListQueues"];

    /// Permissions that a call needs beside the one of its own name.
    #[cfg(feature = "dynamodb")]
    const BESIDE: [&str; 3] = ["iam:PassRole", "sagemaker:AddTags", "sqs:TagQueue"];

    /// STS answers it whatever the policies say.
    #[cfg(feature = "dynamodb")]
    const WITHOUT_RIGHT: &str = "sts:GetCallerIdentity";

    #[test]
    fn policies_are_well_formed_and_grant_nothing_by_wildcard() {
        for (name, policy) in policies() {
            assert_eq!(policy["Version"], "2012-10-17", "{name}");
            for statement in statements(&policy) {
                assert_eq!(statement["Effect"], "Allow", "{name}");
                let sid = statement["Sid"].as_str().expect("a Sid");
                assert!(
                    sid.bytes().all(|byte| byte.is_ascii_alphanumeric()),
                    "{name}: IAM allows no {sid}"
                );
                for action in list(&statement["Action"]) {
                    assert!(!action.contains('*'), "{name}: {action}");
                }
                let is_of_none = |action: &&str| OF_NO_RESOURCE.contains(action);
                if list(&statement["Action"]).iter().all(is_of_none) {
                    assert_eq!(statement["Resource"], "*", "{name}");
                    continue;
                }
                for resource in list(&statement["Resource"]) {
                    let parts: Vec<&str> = resource.splitn(6, ':').collect();
                    assert_eq!(parts.len(), 6, "{name}: {resource} is an ARN");
                    assert!(
                        !parts[..5].concat().contains('*') && parts[5] != "*",
                        "{name}: {resource}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_action_exists() {
        let files: Vec<PathBuf> =
            policies().iter().map(|(name, _)| path(&format!("iam/{name}"))).collect();
        let output = check(&["actions"], &files);
        assert!(output.status.success(), "{}", printed(&output));
    }

    #[test]
    fn the_check_itself_sees_an_action_that_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("policy.json");
        let policy =
            text("iam/worker-policy.json").replace("sqs:DeleteMessage", "sqs:DeleteMessageBatches");
        fs::write(&file, policy).expect("it is writable");
        let output = check(&["actions"], &[file]);
        assert!(
            !output.status.success() && printed(&output).contains("sqs:DeleteMessageBatches"),
            "{}",
            printed(&output)
        );
    }

    /// All files of a folder and of those in it, as one text.
    #[cfg(feature = "dynamodb")]
    fn source_below(folder: &Path) -> String {
        let entries = fs::read_dir(folder).expect("a folder");
        let paths = entries.map(|entry| entry.expect("it can be read").path());
        let text = |path: PathBuf| {
            if path.is_dir() {
                source_below(&path)
            } else {
                fs::read_to_string(path).expect("UTF-8")
            }
        };
        paths.map(text).collect()
    }

    /// The actions that calls in the source need, found by the names of the SDK's methods.
    #[cfg(feature = "dynamodb")]
    fn called() -> std::collections::BTreeSet<String> {
        let source = source_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/aws"));
        let listed = check(&["operations", "sqs", "sagemaker", "dynamodb", "sts"], &[]);
        let listed = String::from_utf8(listed.stdout).expect("UTF-8");
        let operations = listed.lines().map(|line| line.split_once(' ').expect("two words"));
        operations
            .filter(|(action, method)| {
                *action != WITHOUT_RIGHT && source.contains(&format!(".{method}()"))
            })
            // A batch is allowed by its single's action.
            .map(|(action, _)| action.trim_end_matches("Batch").to_owned())
            .collect()
    }

    #[cfg(feature = "dynamodb")]
    #[test]
    fn what_the_code_calls_is_allowed_and_nothing_beyond_it() {
        let granted = policies()
            .iter()
            .filter(|(name, _)| {
                [
                    "worker-policy.json",
                    "assume-role-policy.json",
                    "operator-policy.json",
                    "reconcile-policy.json",
                    "ledger-policy.json",
                    "ledger-operator-policy.json",
                    "probe-policy.json",
                ]
                .contains(&name.as_str())
            })
            .flat_map(|(_, policy)| statements(policy).clone())
            .flat_map(|statement| {
                list(&statement["Action"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        let called: std::collections::BTreeSet<String> =
            called().into_iter().chain(BESIDE.map(str::to_owned)).collect();
        assert_eq!(called, granted);
    }
}
