//! The daemon's environment: the source of its credentials, the owner of its ledger; and the
//! command that examines it.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use crate::scene::{Scene, until};

/// Everything below a directory, with owner and time of the last change.
fn below(folder: &Path) -> Vec<(String, u32, i64, i64)> {
    let entries =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = entries
        .map(|path| {
            let file = fs::metadata(&path).expect("it is there");
            (path.display().to_string(), file.uid(), file.mtime(), file.mtime_nsec())
        })
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_would_bite_and_changes_nothing() {
    let scene = Scene::new("").await;
    let folder = scene.path("ledger");
    // Belongs to another user, if this one may change that: root must leave nothing there that
    // belongs to root.
    let _ = chown(&folder, Some(4711), Some(4711));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let config = scene.config().with("http.listen", address.as_str());
    let before = (below(&folder), below(scene.folder()));
    for arguments in [&["check"][..], &["check", "--online"]] {
        let output = scene.environment().run(&config, arguments);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains("ledger.db: will be created at the first start"), "{told}");
        let level = if arguments.len() > 1 { "error" } else { "warning" };
        assert!(
            told.lines().any(|line| line.starts_with(level) && line.contains(&address)),
            "{told}"
        );
        assert_eq!(output.status.code(), Some(i32::from(arguments.len() > 1)), "{told}");
        if arguments.len() > 1 {
            for wants in [
                "sqs:SendMessage is not denied",
                "the clock: is within",
                "messages are kept for 4d",
            ] {
                assert!(told.contains(wants), "{wants}: {told}");
            }
        }
    }
    let outside = |found: Vec<(String, u32, i64, i64)>| {
        found
            .into_iter()
            .filter(|(path, ..)| !path.contains("config-") && !path.ends_with("/tmp"))
            .collect::<Vec<_>>()
    };
    assert_eq!((below(&folder), outside(below(scene.folder()))), (before.0, outside(before.1)));
    assert_eq!(
        (scene.queue.visible().await, scene.queue.is_empty().await),
        (0, true),
        "nothing was sent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_mounted_by_itself_is_refused() {
    let scene = Scene::new("").await;
    let host = scene.path("host.db");
    for file in [&host, &scene.ledger()] {
        fs::write(file, "").expect("the folder is writable");
    }
    let mount =
        format!("mount --bind '{}' '{}' && exec \"$@\"", host.display(), scene.ledger().display());
    let mut environment = scene.environment();
    environment.prefix = ["unshare", "--map-root-user", "--mount", "/bin/sh", "-c", &mount, "sh"]
        .map(str::to_owned)
        .to_vec();
    for (arguments, code) in [(&["run"][..], 1), (&["check"], 0), (&["check", "--online"], 1)] {
        let output = environment.run(&scene.config(), arguments);
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(
            told.contains("mounted by itself") && told.contains("mount its directory"),
            "{told}"
        );
        assert_eq!(output.status.code(), Some(code), "{told}");
    }
    assert!(fs::read(&host).expect("it is there").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_come_late_are_found_and_what_lacks_is_told_till_then() {
    let scene = Scene::new("").await;
    let step = scene.step_sent().await;
    let file = scene.path("credentials");
    let variables = [
        ("CALLBACKD_AWS__PROFILE", "team"),
        ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().expect("text")),
    ];
    let _daemon = scene.start_in(&scene.config(), &variables);
    let complaints = || {
        let lines = scene.lines("daemon.log").into_iter();
        lines
            .filter(|line| {
                line.contains("could not be polled")
                    && line.contains("team")
                    && line.contains("is not in")
            })
            .count()
    };
    until("it is told each time", async || complaints() >= 2).await;
    fs::write(&file, "[team]\naws_access_key_id = A\naws_secret_access_key = B\n")
        .expect("the folder is writable");
    scene.answered_once(&step).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_process_that_hangs_goes_with_the_daemon_that_started_it() {
    let scene = Scene::new("").await;
    let file = scene.path("aws-config");
    let helper = format!("echo $$ > {}; exec sleep 600", scene.path("helper").display());
    fs::write(&file, format!("[profile slow]\ncredential_process = {helper}\n"))
        .expect("the folder is writable");
    let variables =
        [("CALLBACKD_AWS__PROFILE", "slow"), ("AWS_CONFIG_FILE", file.to_str().expect("text"))];
    let mut daemon = scene.start_in(&scene.config(), &variables);
    until("the helper runs", async || !scene.lines("helper").is_empty()).await;
    let alive = || {
        let status = fs::read_to_string(format!("/proc/{}/status", scene.lines("helper")[0]))
            .unwrap_or_default();
        status
            .lines()
            .any(|line| line.starts_with("State:") && !line.contains('Z') && !line.contains('X'))
    };
    assert!(alive());
    daemon.kill();
    until("the helper is gone", async || !alive()).await;
}
