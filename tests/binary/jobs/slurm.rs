//! Debian's Slurm on this machine, one for all tests: `slurmctld`, `slurmd` and `munged`, with a
//! configuration of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use toml::Table;

use super::{Job, Loss, Site};

/// Ends with its standard input, and everything that it has started with it.
const DAEMONS: &str = r"
munged --foreground --force --key-file=munge/key --socket=$PWD/munge.socket \
    --pid-file=$PWD/munge/pid --log-file=$PWD/munge/log --seed-file=$PWD/munge/seed 2>munged.err &
until [ -e munge.socket ]; do sleep 0.05; done
slurmctld -D -f $PWD/slurm.conf 2>slurmctld.err &
slurmd -D -f $PWD/slurm.conf 2>slurmd.err &
read line
scancel --user=$(id -un)
kill $(jobs -p)
wait
# What reports the end of a job tries that forever, once the controller is gone.
for process in /proc/[0-9]*; do
    if [ $(readlink $process/cwd) = $PWD ] && [ $process != /proc/$$ ]; then
        kill -9 ${process#/proc/}
    fi
done 2>/dev/null
rm -rf $PWD
";

/// Submits like Slurm's own, and may lose the answer.
const SBATCH: &str = r#"#!/bin/sh
id=$(/usr/bin/sbatch "$@") || exit
if [ -e FOLDER/one-lost ]; then
    rm FOLDER/one-lost
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
    exit 1
fi
while [ -e FOLDER/lost ]; do sleep 0.05; done
echo $id
"#;

/// Waits for its end, which has the message that it fails with.
const JOB: &str = r"#!/bin/sh
#SBATCH --output=FOLDER/job.log
n=0
until [ -e FOLDER/end ]; do n=$((n+1)); [ $n -lt 2400 ] || exit 99; sleep 0.05; done
[ -s FOLDER/end ] || exit 0
cat FOLDER/end >&2
exit 3
";

/// What one test has at Slurm.
pub struct Slurm {
    folder: TempDir,
}

impl Slurm {
    /// `None` if Slurm is not installed.
    pub fn new() -> Option<Self> {
        if Command::new("slurmctld").arg("-V").output().is_err() {
            eprintln!(
                "SKIPPED: Slurm is not installed, so examples/jobs/slurm.py was NOT run; apt-get \
                 install slurmctld slurmd slurm-client munge"
            );
            return None;
        }
        let site = Self { folder: tempfile::tempdir().expect("a folder") };
        fs::create_dir(site.path("bin")).expect("the folder is writable");
        site.script("bin/sbatch", SBATCH);
        site.script("job.sh", JOB);
        Some(site)
    }

    /// Writes a program.
    pub fn script(&self, name: &str, text: &str) {
        let folder = self.folder.path().display().to_string();
        fs::write(self.path(name), text.replace("FOLDER", &folder)).expect("it is writable");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(name), executable).expect("it is ours");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Site for Slurm {
    fn program(&self) -> &'static str {
        "slurm.py"
    }

    fn variables(&self) -> Table {
        let variables =
            [("SLURM_CONF", cluster().join("slurm.conf")), ("SLURM_SCRIPT", self.path("job.sh"))];
        variables
            .map(|(name, path)| (name.to_owned(), path.display().to_string().into()))
            .into_iter()
            .collect()
    }

    fn path(&self) -> String {
        self.path("bin").display().to_string()
    }

    async fn jobs(&self) -> Vec<Job> {
        let listed = ask("squeue", &["--noheader", "--states=all", "--format=%i|%T|%o"]);
        let ours = self.path("job.sh").display().to_string();
        let job = |line: &str| {
            let mut fields = line.splitn(3, '|').map(str::to_owned);
            let mut next = || fields.next().expect("three fields");
            Job { id: next(), state: next(), given: next() }
        };
        listed.lines().map(job).filter(|job| job.given.starts_with(&ours)).collect()
    }

    async fn end(&self, _job: &Job, message: Option<&str>) {
        fs::write(self.path("ending"), message.unwrap_or_default()).expect("it is writable");
        fs::rename(self.path("ending"), self.path("end")).expect("it is writable");
    }

    async fn lose(&self, what: Loss) {
        let file = match what {
            Loss::Nothing => {
                return fs::remove_file(self.path("lost")).expect("something was lost");
            }
            Loss::Answers => "lost",
            Loss::OneAnswer => "one-lost",
            Loss::Requests => unimplemented!("no test needs it"),
        };
        fs::write(self.path(file), "").expect("it is writable");
    }

    fn cancelled(&self) -> &'static str {
        "CANCELLED"
    }

    fn outputs(&self, job: &Job) -> Value {
        json!({ "job_id": job.id })
    }
}

struct Cluster {
    folder: TempDir,
    /// They end with this process, as does their standard input.
    _daemons: Child,
}

/// The folder of the cluster, once it takes jobs.
fn cluster() -> &'static Path {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(start).folder.path()
}

fn start() -> Cluster {
    let folder = tempfile::tempdir().expect("a folder");
    for part in ["state", "spool", "munge"] {
        let part = folder.path().join(part);
        fs::create_dir(&part).expect("the folder is writable");
        fs::set_permissions(part, fs::Permissions::from_mode(0o700)).expect("it is ours");
    }
    let key = folder.path().join("munge/key");
    fs::write(&key, [7; 128]).expect("the folder is writable");
    fs::set_permissions(key, fs::Permissions::from_mode(0o400)).expect("it is ours");
    fs::write(folder.path().join("slurm.conf"), configuration(folder.path()))
        .expect("the folder is writable");
    let mut daemons = Command::new("/bin/bash");
    daemons
        .args(["-c", DAEMONS])
        .current_dir(folder.path())
        .env("SLURM_CONF", folder.path().join("slurm.conf"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let daemons = daemons.spawn().expect("bash");
    let idle = || {
        let output = Command::new("sinfo")
            .args(["--noheader", "--format=%T"])
            .env("SLURM_CONF", folder.path().join("slurm.conf"))
            .output()
            .expect("slurm-client is installed");
        output.stdout.starts_with(b"idle")
    };
    let mut looks = 0;
    while !idle() {
        thread::sleep(Duration::from_millis(100));
        looks += 1;
        let said = |name| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        assert!(
            looks < 600,
            "Slurm does not start:\n{}\n{}\n{}",
            said("munged.err"),
            said("slurmctld.err"),
            said("slurmd.err")
        );
    }
    Cluster { folder, _daemons: daemons }
}

fn configuration(folder: &Path) -> String {
    let shell = |line: &str| {
        let output = Command::new("sh").args(["-c", line]).output().expect("a shell");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let (host, user) = (shell("uname -n | cut -d. -f1"), shell("id -un"));
    let [controller, node] = [free_port(), free_port()];
    let folder = folder.display();
    format!(
        "ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"
    )
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// What a command of Slurm prints.
fn ask(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command)
        .args(arguments)
        .env("SLURM_CONF", cluster().join("slurm.conf"))
        .output()
        .expect("slurm-client is installed");
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}
