//! The clocks that a daemon sees, set by a test.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// A preloaded library, and the file from which it reads how far each clock is ahead.
pub struct Clocks {
    library: String,
    file: String,
}

/// Places in the file.
const WALL: u64 = 0;
const RUNNING: u64 = 8;

impl Clocks {
    /// The wall clock is ahead by `days`, or behind if negative.
    pub fn ahead_by_days(folder: &Path, days: i64) -> Self {
        Self::ahead(folder, "clocks", days * 86_400)
    }

    /// The same by seconds, of one daemon among others, which have clocks by other names.
    pub fn ahead(folder: &Path, name: &str, seconds: i64) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        let (library, file) = (path(&format!("{name}.so")), path(name));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/clocks.c");
        let built = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o", &library, source, "-ldl"])
            .status();
        assert!(built.expect("a C compiler, as rustc needs one").success());
        fs::write(&file, [0; 16]).expect("the folder is writable");
        let clocks = Self { library, file };
        clocks.set(WALL, seconds);
        clocks
    }

    /// The environment of a daemon that uses these clocks.
    pub fn variables(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", &self.library), ("CLOCKS", &self.file)]
    }

    /// The wall clock is set right.
    pub fn correct(&self) {
        self.set(WALL, 0);
    }

    /// This many more seconds have passed since the test began.
    pub fn run_ahead_to(&self, seconds: i64) {
        self.set(RUNNING, seconds);
        self.set(WALL, seconds);
    }

    fn set(&self, at: u64, seconds: i64) {
        let file = File::options().write(true).open(&self.file).expect("it is there");
        // A page of the file is what the daemon has mapped: eight aligned bytes change at once.
        file.write_all_at(&seconds.to_ne_bytes(), at).expect("it is writable");
    }
}
