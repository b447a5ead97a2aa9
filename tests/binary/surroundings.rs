//! What a daemon inherits from its parent, what it keeps private, and what is left when it is
//! killed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::scene::{Scene, until};

/// The script's processes that try to escape, each with its pid in `$FOLDER/escaped`.
const ESCAPE: &str = "
    setsid sh -c 'echo $$ >> '$FOLDER'/escaped; exec sleep 600' &
    env -i PATH=$PATH sh -c '(setsid sh -c \"echo \\$\\$ >> '$FOLDER'/escaped; exec sleep 600\" &)'
    timeout 600 sh -c 'echo $$ >> '$FOLDER'/escaped; exec sleep 600' &
    echo $PPID > $FOLDER/keeper";

fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn kill_it(pid: &str) {
    kill(Pid::from_raw(pid.parse().expect("a number")), Signal::SIGKILL).expect("it is alive");
}

/// The parent of a process.
fn parent(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is alive");
    stat.rsplit_once(')').expect("a name").1.split_whitespace().nth(1).expect("a parent").to_owned()
}

fn prefixed(scene: &Scene, prefix: &[&str]) -> crate::daemon::Environment {
    let mut environment = scene.environment();
    environment.prefix.extend(prefix.iter().map(|&word| word.to_owned()));
    environment
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_daemon_that_was_killed() {
    let scene = Scene::new(&format!("{ESCAPE}\nuntil_there never")).await;
    scene.step_sent().await;
    let mut daemon = scene.start(&scene.config());
    until("all run", async || {
        scene.lines("escaped").len() == 3 && scene.lines("keeper").len() == 1
    })
    .await;
    daemon.kill();
    // Without a next life.
    until("none is left", async || !scene.lines("escaped").iter().any(|pid| alive(pid))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_run_whose_keepers_were_killed_too_is_gone_before_the_step_runs_again() {
    let script = format!(
        "for pid in $(cat $FOLDER/escaped); do alive $pid && echo $pid >> $FOLDER/beside; done
        [ -e $FOLDER/escaped ] && end 0
        {ESCAPE}\nuntil_there never"
    );
    let scene = Scene::new(&script).await;
    let step = scene.step_sent().await;
    let mut daemon = scene.start(&scene.config());
    until("all run", async || {
        scene.lines("escaped").len() == 3 && scene.lines("keeper").len() == 1
    })
    .await;
    // From the top, so that none has time to kill what is below.
    let keeper = scene.lines("keeper").remove(0);
    let server = parent(&keeper);
    daemon.signal(Signal::SIGSTOP);
    for pid in [&server, &keeper] {
        kill(Pid::from_raw(pid.parse().expect("a number")), Signal::SIGSTOP).expect("it is alive");
    }
    kill_it(&server);
    kill_it(&keeper);
    daemon.kill();
    let left = scene.lines("escaped");
    let _next = scene.start(&scene.config());
    scene.answered_once(&step).await;
    assert_eq!(scene.lines("beside"), Vec::<String>::new());
    assert!(!left.iter().any(|pid| alive(pid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_a_parent_ignored_or_blocked_do_what_they_are_for() {
    let scene = Scene::new("until_there gate; end 0").await;
    let environment = prefixed(&scene, &["env", "--ignore-signal=CHLD", "--block-signal=TERM"]);
    let step = scene.step_sent().await;
    let mut daemon = environment.start(&scene.config(), "inherited");
    until("it runs", async || scene.runs().len() == 1).await;
    scene.open("gate");
    scene.answered_once(&step).await;
    daemon.signal(Signal::SIGTERM);
    until("it has ended", async || daemon.ended().is_some()).await;
    assert!(daemon.ended().expect("it has ended").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_log_rotators_and_timers_send_ends_nothing_and_a_quit_drains() {
    let scene = Scene::new("until_there gate; end 0").await;
    let step = scene.step_sent().await;
    let mut daemon = scene.start(&scene.config());
    until("it runs", async || scene.runs().len() == 1).await;
    for ignored in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM] {
        daemon.signal(ignored);
        until("it says so", async || daemon.log().contains(&format!("{ignored} is ignored"))).await;
    }
    daemon.signal(Signal::SIGQUIT);
    until("it drains", async || daemon.log().contains("told to stop")).await;
    scene.open("gate");
    scene.answered_once(&step).await;
    until("it has ended", async || daemon.ended().is_some()).await;
    assert!(daemon.ended().expect("it has ended").success());
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_the_daemons_own_user_cannot_read_the_daemons_secrets() {
    let script = "until_there pids; for pid in $(cat $FOLDER/pids) $PPID; do
        cat /proc/$pid/environ > /dev/null 2>&1 && echo $pid >> $FOLDER/read; done; end 0";
    let scene = Scene::new(script).await;
    // Root may read everything.
    let prefix: &[&str] = if geteuid().is_root() {
        for place in [scene.folder().to_owned(), scene.path("ledger")] {
            fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).expect("it is ours");
            chown(&place, Some(65534), Some(65534)).expect("root may");
        }
        &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    } else {
        &[]
    };
    let environment = prefixed(&scene, prefix);
    // What the test itself makes must be writable for it.
    Command::new("/bin/chmod")
        .arg("-R")
        .arg("a+rwX")
        .arg(scene.folder())
        .status()
        .expect("it runs");
    let step = scene.step_sent().await;
    let scratch = scene.path("tmp");
    fs::create_dir_all(&scratch).expect("the folder is writable");
    fs::set_permissions(&scratch, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let daemon = environment.start(&scene.config(), "unprivileged");
    until("it is up", async || daemon.is_up()).await;
    fs::write(scene.path("pids"), daemon.pid().to_string()).expect("the folder is writable");
    scene.answered_once(&step).await;
    assert_eq!(scene.lines("read"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_process_of_a_container_reaps_what_nobody_waits_for() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root may make a container");
        return;
    }
    let scene = Scene::new("end 0").await;
    // The shell becomes the daemon, which so inherits its child.
    let child = format!(
        "sh -c 'echo $$ > {0}/inner; echo > {0}/started; exec sleep 1' & exec \"$@\"",
        scene.folder().display()
    );
    let environment = prefixed(
        &scene,
        &["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &child, "sh"],
    );
    let daemon = environment.start(&scene.config(), "first");
    until("it is up", async || daemon.is_up()).await;
    let inner = format!("/proc/{}/root/proc", first_child(daemon.pid()));
    until("it is reaped", async || {
        let pid = scene.lines("inner").first().cloned().unwrap_or_default();
        !pid.is_empty() && !fs::exists(format!("{inner}/{pid}")).expect("readable")
    })
    .await;
    assert!(fs::exists(format!("{inner}/1")).expect("readable"));
}

fn first_child(pid: u32) -> String {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it is alive");
    children.split_whitespace().next().expect("a child").to_owned()
}
