//! The program that a profile's `credential_process` names. The SDK leaves it running if it hangs,
//! and starts the next one beside it.

use std::process::Stdio;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use jiff::Timestamp;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Runs the program each time credentials are requested. Dropping a run kills its whole process
/// group.
#[derive(Debug)]
pub(super) struct Helper {
    command: String,
    /// The account to report if the program does not name one.
    account: Option<String>,
}

/// The program runs in a shell, as the AWS CLI and the SDKs run it. Beside it waits a process that
/// reads from a pipe which only this process holds open: however this process ends, the read ends
/// too, and the group with it.
const SHELL: &str = r#"exec 3<&0 </dev/null; { read -r _ <&3; kill -KILL 0; } >/dev/null 2>&1 & exec 3<&-; exec sh -c "$0""#;

/// Credentials are below 10 KiB; anything beyond this limit is dropped.
const MAX_BYTES: u64 = 64 << 10;
/// How much of the program's error output an error message shows.
const SHOWN: usize = 300;

/// A process group that is killed when this is dropped.
struct Group {
    leader: Child,
    id: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // This fails only if none of the group is left.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }
}

impl Helper {
    pub(super) fn new(command: String, account: Option<String>) -> Self {
        Self { command, account }
    }

    async fn run(&self) -> Result<Credentials, String> {
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, &self.command]).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut leader =
            command.spawn().map_err(|error| format!("it could not be started: {error}"))?;
        let id = leader.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        // Kept open as long as the group may live.
        let _alive = leader.stdin.take();
        let (stdout, stderr) = (leader.stdout.take(), leader.stderr.take());
        let mut group = Group { leader, id };
        let (told, complaint) = tokio::join!(read(stdout), read(stderr));
        let status = group
            .leader
            .wait()
            .await
            .map_err(|error| format!("how it ended is unknown: {error}"))?;
        if !status.success() {
            let complaint: String =
                String::from_utf8_lossy(&complaint).trim().chars().take(SHOWN).collect();
            return Err(format!("it ended with {status}: {complaint}"));
        }
        self.credentials(&told)
    }

    fn credentials(&self, told: &[u8]) -> Result<Credentials, String> {
        // Output that is not JSON is not shown: it may contain keys.
        let told: Map<String, Value> = serde_json::from_slice(told)
            .map_err(|_| "it printed no JSON object with credentials".to_owned())?;
        let field = |name: &str| {
            told.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let text = |name: &str| {
            field(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        if field("Version").and_then(Value::as_u64) != Some(1) {
            return Err("what it printed has no Version 1".to_owned());
        }
        let lacking = |name: &str| format!("what it printed has no {name}");
        let end = match text("Expiration") {
            Some(end) => {
                Some(end.parse::<Timestamp>().map_err(|error| format!("its Expiration: {error}"))?)
            }
            None => None,
        };
        let mut builder = Credentials::builder()
            .access_key_id(text("AccessKeyId").ok_or_else(|| lacking("AccessKeyId"))?)
            .secret_access_key(text("SecretAccessKey").ok_or_else(|| lacking("SecretAccessKey"))?)
            .provider_name("credential_process");
        builder.set_session_token(text("SessionToken"));
        builder.set_expiry(end.map(Into::into));
        builder.set_account_id(text("AccountId").or_else(|| self.account.clone()).map(Into::into));
        Ok(builder.build())
    }
}

/// Reads everything and keeps the beginning: a program whose pipe is full would not end.
async fn read(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return kept };
    // If this cannot be read, the caller notices that it is missing.
    let _ = (&mut from).take(MAX_BYTES).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    kept
}

impl ProvideCredentials for Helper {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.run().await.map_err(|why| {
                CredentialsError::provider_error(format!("the credential_process: {why}"))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(command: &str) -> Result<Credentials, String> {
        Helper::new(command.to_owned(), Some("123456789012".to_owned())).run().await
    }

    #[tokio::test]
    async fn what_the_program_prints_is_taken_whatever_the_case_of_its_keys() {
        let json = r#"{"version":1,"accesskeyid":"A","SecretAccessKey":"B","SessionToken":"C","Expiration":"2199-01-01T00:00:00Z","More":[]}"#;
        let got = run(&format!("echo noise >&2; echo '{json}'")).await.expect("credentials");
        assert_eq!(
            (got.access_key_id(), got.secret_access_key(), got.session_token()),
            ("A", "B", Some("C"))
        );
        assert_eq!(
            got.expiry().map(aws_smithy_types::DateTime::from).map(|end| end.secs()),
            Some(7_226_582_400)
        );
        assert_eq!(
            got.account_id().map(aws_credential_types::attributes::AccountId::as_str),
            Some("123456789012")
        );
    }

    #[tokio::test]
    async fn each_way_to_fail_is_told_and_no_secret_is_repeated() {
        for (command, wants) in [
            ("echo no VPN >&2; exit 3", "exit status: 3: no VPN"),
            ("kill -9 $$", "signal: 9"),
            ("/no/such/helper", "exit status: 127"),
            ("echo AKID SECRET", "no JSON object"),
            (r#"echo '{"Version":2,"AccessKeyId":"AKID"}'"#, "no Version 1"),
            (r#"echo '{"Version":1,"AccessKeyId":"AKID"}'"#, "no SecretAccessKey"),
            (
                r#"echo '{"Version":1,"AccessKeyId":"AKID","SecretAccessKey":"SECRET","Expiration":"soon"}'"#,
                "Expiration",
            ),
            ("cat; echo and it waits for no keyboard >&2; exit 4", "and it waits for no keyboard"),
        ] {
            let told = run(command).await.expect_err(command);
            assert!(told.contains(wants) && !told.contains("SECRET"), "{command}: {told}");
        }
    }

    #[tokio::test]
    async fn a_program_that_says_too_much_ends_all_the_same() {
        let told = run("head -c 1000000 /dev/zero >&2; head -c 1000000 /dev/zero; exit 5")
            .await
            .expect_err("no JSON");
        assert!(told.contains("exit status: 5"), "{told}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_gone_with_its_run_and_so_are_its_children() {
        let folder = tempfile::tempdir().expect("a folder");
        let pids = folder.path().join("pids");
        nix::unistd::mkfifo(&pids, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        let command = format!("sleep 600 & echo $! > {0}; exec sleep 600", pids.display());
        let mut run = Box::pin(run(&command));
        let started = async {
            let mut text = String::new();
            let mut pids = tokio::fs::File::open(&pids).await.expect("the fifo");
            pids.read_to_string(&mut text).await.expect("a number");
            text.trim().parse::<i32>().expect("a process id")
        };
        let child = tokio::select! {
            child = started => child,
            ended = &mut run => panic!("it ended: {ended:?}"),
        };
        let alive = |pid: i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| {
                line.starts_with("State:") && !line.contains('Z') && !line.contains('X')
            })
        };
        assert!(alive(child));
        drop(run);
        while alive(child) {
            tokio::task::yield_now().await;
        }
    }
}
