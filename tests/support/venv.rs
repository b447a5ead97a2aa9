//! A Python environment with the packages of `tests/requirements.txt`, created once and shared by
//! all tests that need it.

#![allow(dead_code, reason = "each test target that includes this file uses its own part of it")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expected")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// An environment that is complete: every pinned package is installed.
pub struct Venv {
    root: PathBuf,
}

impl Venv {
    /// The environment for the present requirements, created if it does not exist:
    /// `<target folder>/venv/<hash>`.
    ///
    /// The first call takes a minute and needs a package index; later ones, from any test process,
    /// take no time. A lock file makes concurrent test processes wait for the one that installs.
    pub fn ready() -> Self {
        let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/requirements.txt");
        let pinned = fs::read(&requirements).expect("tests/requirements.txt is readable");
        let venvs = target_folder().join("venv");
        fs::create_dir_all(&venvs).expect("the target folder is writable");

        let lock = File::create(venvs.join("lock")).expect("the lock file can be created");
        lock.lock().expect("the lock can be taken");

        let venv = Self { root: venvs.join(name_for(&pinned)) };
        // Written last: what lacks it was left half made by a run that died.
        let complete = venv.root.join("complete");
        if !complete.exists() {
            if venv.root.exists() {
                fs::remove_dir_all(&venv.root).expect("what is half made can be removed");
            }
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv.root));
            run(Command::new(venv.python())
                .args(["-m", "pip", "install", "--quiet", "--requirement"])
                .arg(&requirements));
            File::create(complete).expect("the environment is writable");
        }
        venv
    }

    /// The interpreter.
    pub fn python(&self) -> PathBuf {
        self.program("python")
    }

    /// A program that a package brought: `aws`, `moto_server`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }
}

/// Cargo gives test targets `<target folder>/tmp`, wherever the target folder was put.
fn target_folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("tmp lies in the target folder")
}

/// Changed pins or another interpreter make another environment.
fn name_for(pinned: &[u8]) -> String {
    let version = Command::new("python3").arg("--version").output().expect("python3 is installed");
    let digest = Sha256::new().chain_update(&version.stdout).chain_update(pinned).finalize();
    digest.iter().take(8).fold(String::new(), |name, byte| name + &format!("{byte:02x}"))
}

fn run(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
