//! The directories of runs in `worker.work_dir`: what is left there, and who can reach it.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::clocks::Clocks;
use crate::scene::{Scene, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_left_of_a_settled_step_is_removed_and_nothing_else() {
    let scene = Scene::new("until_there go; end 0").await;
    let work = scene.path("ledger/work");
    let entries = || -> Vec<String> {
        let entries = fs::read_dir(&work).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().expect("text")).collect()
    };
    let step = scene.step_sent().await;
    scene.open("go");
    let mut daemon = scene.start(&scene.config());
    scene.settled(&step).await;
    daemon.kill();
    // Of a run that was taken over; in use by another worker; of a step that the ledger does not
    // know; of no run.
    let [left, used, unknown, other] = [
        format!("{}-00000000000000cd", step.token),
        format!("{}-00000000000000ab", step.token),
        "unknown000-00000000000000ab".into(),
        "data".into(),
    ];
    for name in [&left, &used, &unknown, &other] {
        fs::create_dir_all(work.join(name).join("files")).expect("it is ours");
    }
    let in_use = Flock::lock(
        File::open(work.join(&used)).expect("it is there"),
        FlockArg::LockSharedNonblock,
    )
    .expect("free");
    let clocks = Clocks::ahead_by_days(scene.folder(), 1);
    let mut daemon = scene.start_in(&scene.config(), &clocks.variables());
    until("it is removed", async || !entries().contains(&left)).await;
    assert!(
        [&used, &unknown, &other].into_iter().all(|name| entries().contains(name)),
        "{:?}",
        entries()
    );
    daemon.kill();
    drop(in_use);
    let _daemon = scene.start_in(&scene.config(), &clocks.variables());
    until("that is removed too", async || entries().len() == 2).await;
}

/// Nothing but its directory tells of a run whose daemon was killed before the program could save.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_left_goes_with_the_next_run_and_a_lost_directory_keeps_nothing_waiting()
 {
    for lost in [false, true] {
        let scene = Scene::new(
            "echo $$ >> $FOLDER/pids\n[ $STEP_ATTEMPT = 1 ] && until_there never\nend 0",
        )
        .await;
        let work = scene.path("ledger/work");
        let step = scene.step_sent().await;
        let mut daemon = scene.start(&scene.config());
        until("it runs", async || !scene.lines("pids").is_empty()).await;
        assert!(scene.record(&step).is_some_and(|record| record["checkpoint"].is_null()));
        daemon.kill();
        assert_eq!(fs::read_dir(&work).expect("it is there").count(), 1);
        if lost {
            fs::remove_dir_all(&work).expect("it is ours");
        }
        let _daemon = scene.start(&scene.config());
        scene.answered_once(&step).await;
        assert_eq!(scene.runs(), [step.attempt(1), step.attempt(2)]);
        until("it is removed", async || fs::read_dir(&work).expect("there").count() == 0).await;
    }
}

/// A scene whose programs run as `nobody`, who may enter its folder.
async fn of_nobody(script: &str) -> Option<Scene> {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root may start programs as another user");
        return None;
    }
    let scene = Scene::new(script).await;
    fs::set_permissions(scene.folder(), fs::Permissions::from_mode(0o711)).expect("it is ours");
    Some(scene)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_keeps_a_handlers_user_from_its_files_and_the_daemon_waits_until_it_is_mended()
 {
    let Some(scene) = of_nobody("echo id=$(id -un) >> $STEP_OUTPUT; exit 0").await else { return };
    let config = scene.config().with("handlers.job.settings.user", "nobody").listening();
    let ledger = scene.path("ledger");
    fs::set_permissions(scene.path("run"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    for file in ["runs", "cleanups"] {
        fs::write(scene.path(file), "").expect("the folder is writable");
        fs::set_permissions(scene.path(file), fs::Permissions::from_mode(0o666))
            .expect("it is ours");
    }
    let check = |arguments: &[&str]| {
        let output = scene.environment().run(&config, arguments);
        (
            output.status.code(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    fs::set_permissions(&ledger, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let wants = format!("the user nobody cannot enter {}", ledger.display());
    for arguments in [&["check"][..], &["check", "--online"]] {
        let (status, told) = check(arguments);
        assert!(told.lines().any(|line| line.contains(&wants) && line.contains("chmod")), "{told}");
        assert_eq!(status, Some(78), "{told}");
    }
    let daemon = scene.start(&config);
    until("it says so", async || daemon.log().contains(&wants)).await;
    let step = scene.step_sent().await;
    let impaired = "callbackd_impaired{what=\"io\"}";
    until("it is impaired", async || daemon.metric(impaired).await == Some(1.0)).await;
    fs::set_permissions(&ledger, fs::Permissions::from_mode(0o711)).expect("it is ours");
    assert_eq!(scene.answered_once(&step).await.outputs()["id"], "nobody");
    let (status, told) = check(&["check", "--online"]);
    assert!(status == Some(0) && !told.contains("cannot enter"), "{told}");

    // A program or a directory behind one that the user cannot enter is not usable either.
    let hidden = scene.path("hidden");
    fs::create_dir(&hidden).expect("the folder is writable");
    fs::copy(scene.path("run"), hidden.join("run")).expect("copied");
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let hidden = hidden.display().to_string();
    for (key, value) in [
        ("command", toml::Value::from(vec![format!("{hidden}/run")])),
        ("working_dir", toml::Value::from(hidden.as_str())),
    ] {
        let config = config.clone().with(&format!("handlers.job.settings.{key}"), value);
        let output = scene.environment().run(&config, &["check"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{told}");
        assert!(
            told.contains(&format!("`{key}`")) && told.contains("the user nobody may"),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handlers_user_gets_nothing_of_what_a_daemon_may_do_that_is_not_root() {
    let Some(scene) = of_nobody("grep ^Cap /proc/self/status > $FOLDER/may; end 0").await else {
        return;
    };
    let may = "+setuid,+setgid,+kill,+chown,+dac_override";
    let with = |may: &str| {
        let mut environment = scene.environment();
        let user =
            ["setpriv", "--reuid=64321", "--regid=64321", "--clear-groups"].map(str::to_owned);
        environment.prefix.extend(
            user.into_iter().chain([format!("--inh-caps={may}"), format!("--ambient-caps={may}")]),
        );
        environment
    };
    for place in [scene.folder().to_owned(), scene.path("ledger")] {
        chown(&place, Some(64321), Some(64321)).expect("root may");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o711)).expect("it is ours");
    }
    for file in ["runs", "ends", "may", "cleanups"] {
        fs::write(scene.path(file), "").expect("the folder is writable");
        fs::set_permissions(scene.path(file), fs::Permissions::from_mode(0o666))
            .expect("it is ours");
    }
    let config = scene.config().with("handlers.job.settings.user", "nobody");
    let refused = with("+setuid,+setgid,+kill").run(&config, &["check"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(78) && told.contains("CAP_CHOWN and CAP_DAC_OVERRIDE"),
        "{told}"
    );
    let step = scene.step_sent().await;
    let _daemon = with(may).start(&config, "capable");
    scene.answered_once(&step).await;
    let sets = scene.lines("may");
    for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
        let bits = sets.iter().find_map(|line| line.strip_prefix(set)).expect("a set").trim();
        assert_eq!(u64::from_str_radix(bits, 16), Ok(0), "{set}");
    }
    until("the run's directory is gone", async || {
        fs::read_dir(scene.path("ledger/work")).expect("it is there").count() == 0
    })
    .await;
}
