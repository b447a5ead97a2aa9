//! No process of a run outlives it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, geteuid};

use super::*;

/// How a process may try to escape; each writes its pid to `$DIR/pid`.
const WAYS: [&str; 7] = [
    "sleep 600 & echo $! > $DIR/pid",
    "(sleep 600; true) & echo $! > $DIR/pid",
    "timeout 600 sleep 599 & echo $! > $DIR/pid",
    "setsid sh -c 'echo $$ > $DIR/pid; exec sleep 600' &\nuntil [ -s $DIR/pid ]; do sleep 0.01; \
     done",
    "set -m; sleep 600 & echo $! > $DIR/pid",
    "(setsid sh -c '(echo $$; exec 0<&- 1>&- 2>&-; exec sleep 600) > $DIR/pid &' &)\nuntil [ -s \
     $DIR/pid ]; do sleep 0.01; done",
    "env -i setsid sh -c 'sleep 600 & echo $! > '$DIR'/pid' &\nuntil [ -s $DIR/pid ]; do sleep \
     0.01; done",
];

/// With and without a cgroup for each run.
const MEANS: [bool; 2] = [true, false];

impl Bench {
    fn by(&self, cgroup: bool, script: &str) -> Exec {
        let mut exec = self.exec(script);
        exec.terms.cgroup = cgroup;
        exec
    }

    /// Starts a process that carries `mark` and nothing else that identifies it.
    #[expect(unsafe_code, reason = "one async-signal-safe call between fork and exec")]
    fn marked(&self, mark: u64) -> Marked {
        let mut command = Command::new("/bin/sleep");
        let limits = move || {
            nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_RTTIME, mark, mark)
                .map_err(Into::into)
        };
        unsafe { command.pre_exec(limits) };
        Marked(
            command
                .arg("600")
                .env_clear()
                .process_group(0)
                .current_dir(&self.directory)
                .spawn()
                .expect("it starts"),
        )
    }

    /// What is known of a run of another daemon.
    fn left_by(&self, mark: u64, boot: &str, where_: Known) {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a clock"));
        let made = json!({ "secs": now.as_secs(), "nanos": now.subsec_nanos() });
        let run = json!({ "mark": mark, "made": made, "boot": boot, "life": 1, "cgroup": null });
        if let Known::InLedger = where_ {
            let _ = self.step.clone().with_checkpoint(json!({ "run": run }));
            return;
        }
        let place = self.path("work/SYZ8ExZ3Sd-00000000000000ef");
        fs::create_dir_all(&place).expect("created");
        let run = json!({ "processes": run, "fence": 1, "after": null });
        fs::write(place.join("run"), run.to_string()).expect("written");
    }

    /// A process with a mark that no other has.
    fn left(&self) -> (Marked, u64) {
        let left = self.marked(5_000_000_000_000_000 + fastrand::u64(..1_000_000));
        let mark = fs::read_to_string(format!("/proc/{}/limits", left.pid())).expect("alive");
        let mark = mark.lines().find(|line| line.contains("realtime timeout")).expect("a limit");
        let mark = mark.split_whitespace().nth(3).expect("a number").parse().expect("a number");
        (left, mark)
    }
}

/// Where an earlier run is known from.
#[derive(Clone, Copy, Debug)]
enum Known {
    InDirectory,
    /// Version 0.1.
    InLedger,
}

const KNOWN: [Known; 2] = [Known::InDirectory, Known::InLedger];

struct Marked(Child);

impl Marked {
    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("pid")
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot").trim().to_owned()
}

#[tokio::test]
async fn nothing_outlives_the_program_whatever_it_does_to_get_away() {
    for cgroup in MEANS {
        for way in WAYS {
            let bench = Bench::new();
            let run = bench.by(cgroup, &format!("{way}\nexit 0"));
            timeout(Duration::from_secs(60), run.run(bench.cx(), Value::Null))
                .await
                .expect("it ends")
                .expect("succeeds");
            assert!(!alive(bench.pid("pid").await), "{way}, cgroup: {cgroup}");
        }
    }
}

#[tokio::test]
async fn a_dropped_run_takes_all_that_it_started_with_it_before_the_next_begins() {
    for cgroup in MEANS {
        for way in WAYS {
            let bench = Bench::new();
            let run = bench.by(cgroup, &format!("{way}\nwait\nsleep 600"));
            let pid = tokio::select! {
                _ = run.run(bench.cx(), Value::Null) => panic!("it ended"),
                pid = bench.pid("pid") => pid,
            };
            bench.run("true").await.expect("succeeds");
            assert!(!alive(pid), "{way}, cgroup: {cgroup}");
        }
    }
}

#[tokio::test]
async fn a_dropped_run_is_gone_before_the_next_begins_though_its_keeper_stands_still() {
    for way in WAYS {
        let bench = Bench::new();
        let run = bench.by(false, &format!("echo $PPID > $DIR/keeper\n{way}\nsleep 600"));
        let pid = tokio::select! {
            _ = run.run(bench.cx(), Value::Null) => panic!("it ended"),
            pid = async {
                let pid = bench.pid("pid").await;
                kill(Pid::from_raw(bench.pid("keeper").await), Signal::SIGSTOP).expect("alive");
                pid
            } => pid,
        };
        bench.run("true").await.expect("succeeds");
        assert!(!alive(pid), "{way}");
    }
}

#[tokio::test]
async fn a_run_whose_keeper_was_killed_is_tried_again_and_leaves_nothing() {
    for cgroup in MEANS {
        for way in WAYS {
            let bench = Bench::new();
            let run = bench.by(cgroup, &format!("echo $PPID > $DIR/keeper\n{way}\nsleep 600"));
            let kill_it = async {
                let pid = bench.pid("pid").await;
                kill(Pid::from_raw(bench.pid("keeper").await), Signal::SIGKILL).expect("alive");
                pid
            };
            let (result, pid) = tokio::join!(run.run(bench.cx(), Value::Null), kill_it);
            let error = result.expect_err("nobody knows how it ended");
            assert!(!error.is_permanent() && error.host_trouble().is_none(), "{error}");
            assert!(!alive(pid), "{way}, cgroup: {cgroup}");
        }
    }
}

#[tokio::test]
async fn what_a_killed_keeper_leaves_ends_though_the_daemon_does_nothing() {
    for way in WAYS {
        let bench = Bench::new();
        let run = bench.by(
            false,
            &format!("echo $PPID > $DIR/keeper; echo $$ > $DIR/program\n{way}\nsleep 600"),
        );
        let mut running = Box::pin(run.run(bench.cx(), Value::Null));
        let pid = tokio::select! {
            _ = &mut running => panic!("it ended"),
            pid = bench.pid("pid") => pid,
        };
        let (keeper, program) = (bench.pid("keeper").await, bench.pid("program").await);
        kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("alive");
        // Nothing polls the run meanwhile.
        until(|| !alive(pid) && !alive(program)).await;
        drop(running);
    }
}

#[tokio::test]
#[ignore = "started by the test below: all runs of a process are started by the one that is killed \
            here"]
async fn a_process_whose_fork_server_dies() {
    let bench = Bench::new();
    let script =
        "read _ _ _ server _ < /proc/$PPID/stat; echo $server > $DIR/server; echo $PPID > \
                  $DIR/keeper; echo $$ > $DIR/program;
        until [ -e $DIR/go ]; do sleep 0.02; done";
    let exec = bench.exec(script);
    let disturb = async {
        kill(Pid::from_raw(bench.pid("server").await), Signal::SIGKILL).expect("alive");
        let other = Bench::new();
        // A request that reached the socket of a dying server is lost with it, and tried again.
        while let Err(error) = other.run("true").await {
            assert!(!error.is_permanent(), "{error}");
        }
        fs::write(bench.path("go"), "").expect("write");
    };
    let (result, ()) = tokio::join!(exec.run(bench.cx(), Value::Null), disturb);
    result.expect("succeeds");

    // The program ends with its keeper, although nothing is left to end it.
    for name in ["go", "server", "keeper", "program"] {
        fs::remove_file(bench.path(name)).expect("it was written");
    }
    let mut running = Box::pin(exec.run(bench.cx(), Value::Null));
    let program = tokio::select! {
        _ = &mut running => panic!("it ended"),
        program = bench.pid("program") => program,
    };
    for name in ["server", "keeper"] {
        kill(Pid::from_raw(bench.pid(name).await), Signal::SIGKILL).expect("alive");
    }
    until(|| !alive(program)).await;
    assert!(!running.await.expect_err("nobody knows").is_permanent());
}

#[test]
fn the_death_of_the_process_that_starts_programs_harms_neither_running_nor_later_ones() {
    let this = std::env::current_exe().expect("the test's own path");
    let name = "builtin::exec::tests::containment::a_process_whose_fork_server_dies";
    let child = Command::new(this)
        .args(["--exact", name, "--ignored"])
        .output()
        .expect("the test binary runs");
    let told = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_gone_before_the_next_run_begins() {
    for known in KNOWN {
        let bench = Bench::new();
        let (left, mark) = bench.left();
        bench.left_by(mark, &boot(), known);
        bench
            .run(&format!("! grep -q '^State:.[^ZX]' /proc/{}/status", left.pid()))
            .await
            .expect("it was gone first");
        assert!(!alive(left.pid()), "{known:?}");
    }
}

#[tokio::test]
async fn what_a_killed_daemon_left_ends_with_the_next_life_before_the_step_goes_on() {
    for known in KNOWN {
        let bench = Bench::new();
        let (left, mark) = bench.left();
        bench.left_by(mark, &boot(), known);
        bench.exec("true").reap(bench.cx()).await;
        assert!(!alive(left.pid()), "{known:?}");
    }
}

#[tokio::test]
async fn a_directory_is_kept_until_what_it_tells_of_has_ended() {
    let bench = Bench::new();
    let (mut left, mark) = bench.left();
    bench.left_by(mark, &boot(), Known::InDirectory);
    let place = bench.path("work/SYZ8ExZ3Sd-00000000000000ef");
    abandoned::remove(&place);
    assert!(place.exists());
    left.0.wait().expect("killed");
    abandoned::remove(&place);
    assert!(!place.exists());
}

#[tokio::test]
async fn what_is_of_no_earlier_run_is_left_alone() {
    for known in KNOWN {
        let bench = Bench::new();
        let mark = 6_000_000_000_000_000 + fastrand::u64(..1_000_000);
        let other = bench.marked(mark);
        for (marked, boot) in [(mark + 1, boot()), (mark, "another".to_owned())] {
            bench.left_by(marked, &boot, known);
            bench.run("true").await.expect("succeeds");
            assert!(alive(other.pid()), "{marked} {boot}");
        }
    }
}

#[tokio::test]
async fn the_end_of_a_program_is_told_exactly() {
    let bench = Bench::new();
    for code in [1, 3, 74, 77, 127, 128, 255] {
        assert_eq!(
            failure(bench.run(&format!("exit {code}")).await),
            format!("exit status {code}")
        );
    }
    for signal in [1, 6, 9, 11, 15, 40, 64] {
        assert_eq!(
            failure(bench.run(&format!("kill -{signal} $$")).await),
            format!("killed by signal {signal}")
        );
    }
}

#[tokio::test]
async fn what_is_no_program_is_not_read_by_a_shell() {
    let bench = Bench::new();
    for (text, name) in
        [("", "empty"), ("touch $DIR/ran\n", "words"), ("\u{7f}ELF of another machine", "foreign")]
    {
        let path = bench.path(name);
        fs::write(&path, "#!/bin/sh\n").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
        let exec = bench.with(json!({ "command": [path], "env": {"DIR": bench.directory.path()} }));
        // A deployment broke it.
        fs::write(&path, text).expect("write");
        let reason = failure(exec.run(bench.cx(), Value::Null).await);
        assert!(reason.contains("is not a program") && reason.contains(name), "{reason}");
        assert!(!bench.path("ran").exists());
    }
}

#[tokio::test]
async fn a_program_leads_a_session_without_a_terminal_and_has_all_signals_as_they_are_by_default() {
    let bench = Bench::new();
    bench
        .run(
            "cat /proc/$$/stat > $DIR/stat; echo $$ > $DIR/pid; cat /proc/self/status > \
             $DIR/status",
        )
        .await
        .expect("succeeds");
    let stat = fs::read_to_string(bench.path("stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let pid = bench.pid("pid").await.to_string();
    // Group, session, terminal.
    assert_eq!(fields[2..5], [&pid, &pid, "0"]);
    let status = fs::read_to_string(bench.path("status")).expect("status");
    for set in ["SigBlk:", "SigIgn:"] {
        let signals = status.lines().find_map(|line| line.strip_prefix(set)).expect("a set").trim();
        assert_eq!(u64::from_str_radix(signals, 16), Ok(0), "{set}");
    }
}

#[tokio::test]
async fn a_program_inherits_nothing_but_its_streams() {
    let bench = Bench::new();
    let _open = fs::File::open("/etc/passwd").expect("readable");
    bench.run("ls /proc/self/fd > $DIR/fds").await.expect("succeeds");
    // 3 is the directory itself.
    assert_eq!(fs::read_to_string(bench.path("fds")).expect("fds"), "0\n1\n2\n3\n");
}

#[tokio::test]
async fn a_program_is_ended_before_the_daemon_where_memory_is_short() {
    let bench = Bench::new();
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj")
        .expect("own")
        .trim()
        .parse()
        .expect("a number");
    // It is raised when the program begins.
    let script =
        format!("until [ $(cat /proc/self/oom_score_adj) -gt {own} ]; do sleep 0.01; done");
    bench.run(&script).await.expect("succeeds");
}

#[tokio::test]
async fn limits_hold_for_each_process_where_no_cgroup_does() {
    let bench = Bench::new();
    let settings = json!({
        "command": ["/bin/sh", "-c", "ulimit -n > $DIR/limits; ulimit -v >> $DIR/limits; grep \
         processes /proc/self/limits >> $DIR/limits"],
        "env": {"DIR": bench.directory.path()},
        "limits": {"memory": "512MiB", "open_files": 77, "processes": 1234},
    });
    let mut exec = bench.with(settings);
    exec.terms.cgroup = false;
    exec.run(bench.cx(), Value::Null).await.expect("succeeds");
    let limits = fs::read_to_string(bench.path("limits")).expect("limits");
    let lines: Vec<&str> = limits.lines().collect();
    assert_eq!(lines[..2], ["77", "524288"]);
    assert!(lines[2].contains(" 1234 "), "{limits}");
}

#[tokio::test]
async fn a_program_runs_as_the_user_it_is_to_and_can_write_its_files() {
    let bench = Bench::new();
    let script = "echo \"id=$(id -u)\" >> $STEP_OUTPUT; echo \"groups=$(id -G)\" >> $STEP_OUTPUT; \
                  echo \"home=$HOME\" >> $STEP_OUTPUT; \
                  echo seen > $STEP_CHECKPOINT; setsid sleep 600 & ";
    let settings = json!({ "command": ["/bin/sh", "-c", script], "user": "nobody" });
    if !geteuid().is_root() {
        let error = Exec::new(serde_json::from_value(settings).expect("settings"))
            .expect_err("refused")
            .to_string();
        assert!(error.contains("CAP_SETUID"), "{error}");
        return;
    }
    let got = outputs(bench.with(settings).run(bench.cx(), Value::Null).await);
    assert_ne!(got.get("id"), Some("0"));
    assert!(!got.get("groups").expect("groups").split(' ').any(|group| group == "0"));
    assert_ne!(got.get("home"), Some("/root"));
    assert_eq!(bench.checkpoint_file().as_deref(), Some("seen\n"));
}
