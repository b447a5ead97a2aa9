//! A test's own file system, which can be full or read-only, in a namespace that ends with the
//! test.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A small file system in memory. Only processes that enter its namespace see it.
pub struct Disk {
    folder: PathBuf,
    /// Holds the namespace; ends when its standard input is closed, which the kernel does however
    /// this process ends.
    holder: Child,
}

impl Disk {
    /// Mounted on `folder`, which must be there; `size` as mount(8) takes it.
    pub fn mount(folder: &Path, size: &str) -> Self {
        let script = format!(
            "mount -t tmpfs -o size={size} none '{}' && echo mounted && read line",
            folder.display()
        );
        let mut holder = Command::new("unshare");
        holder.args(["--map-root-user", "--mount", "/bin/sh", "-c", &script]);
        holder.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = holder
            .spawn()
            .unwrap_or_else(|error| panic!("no unshare ({error}): install util-linux"));
        let mut told = String::new();
        BufReader::new(holder.stdout.take().expect("it is piped"))
            .read_line(&mut told)
            .expect("it tells");
        if told.trim() != "mounted" {
            let mut why = String::new();
            let _ = holder.stderr.take().expect("it is piped").read_to_string(&mut why);
            panic!(
                "this machine lets user {} mount no file system of its own, which takes a user and \
                 a mount namespace: {}; raise \
                 user.max_user_namespaces, or have AppArmor or seccomp allow unshare(2)",
                nix::unistd::geteuid(),
                why.trim()
            );
        }
        Self { folder: folder.to_owned(), holder }
    }

    /// The prefix of a command line that should see it.
    pub fn enter(&self) -> Vec<String> {
        let target = format!("--target={}", self.holder.id());
        ["nsenter", &target, "--user", "--mount", "--preserve-credentials"]
            .map(str::to_owned)
            .to_vec()
    }

    pub fn make_read_only(&self) {
        self.run("mount -o remount,ro .");
    }

    pub fn make_writable(&self) {
        self.run("mount -o remount,rw .");
    }

    /// Uses up all free space.
    pub fn fill(&self) {
        self.run("! cat /dev/zero > filling 2>/dev/null");
    }

    pub fn free(&self) {
        self.run("rm filling");
    }

    fn run(&self, script: &str) {
        let enter = self.enter();
        let script = format!("cd '{}' && {script}", self.folder.display());
        let done =
            Command::new(&enter[0]).args(&enter[1..]).args(["/bin/sh", "-c", &script]).status();
        assert!(done.expect("nsenter starts").success(), "{script}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
