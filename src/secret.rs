//! Secrets in files. They are read when they are used, so that a secret is replaced without a
//! restart.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::io::AsyncReadExt;

/// A shorter key can be guessed.
const SHORTEST: usize = 16;
/// More than any key or token has: the file is another one.
const LONGEST: u64 = 16 << 10;

/// The content without the end of its last line, which editors and `echo` add.
///
/// # Errors
/// If it cannot be read, or has more than 16 KiB.
pub(crate) fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    trimmed(bytes)
}

/// The content of a file that has to be hard to guess.
///
/// # Errors
/// What is wrong with the file, as the end of a sentence about it.
pub(crate) fn key(path: &Path) -> Result<Vec<u8>, String> {
    content(path).map_err(|error| unreadable(&error)).and_then(long_enough)
}

/// [`key`] for a task: a disk that hangs holds up no other one.
pub(crate) async fn key_beside_tasks(path: &Path) -> Result<Vec<u8>, String> {
    let read = async {
        let mut bytes = Vec::new();
        let file = tokio::fs::File::open(path).await?;
        file.take(LONGEST + 1).read_to_end(&mut bytes).await?;
        trimmed(bytes)
    };
    read.await.map_err(|error| unreadable(&error)).and_then(long_enough)
}

fn trimmed(mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("it is larger than {LONGEST} bytes")));
    }
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    Ok(bytes)
}

fn long_enough(key: Vec<u8>) -> Result<Vec<u8>, String> {
    if key.len() < SHORTEST {
        return Err(format!(
            "has {} bytes; a secret has at least {SHORTEST}, such as what `openssl rand -hex 32` \
             prints",
            key.len()
        ));
    }
    Ok(key)
}

/// A key that a request's header can carry.
///
/// # Errors
/// As those of [`key`].
pub(crate) fn in_a_header(key: Vec<u8>) -> Result<Vec<u8>, String> {
    if key.iter().all(u8::is_ascii_graphic) {
        Ok(key)
    } else {
        Err("has spaces, lines or characters that no header carries: use one word".to_owned())
    }
}

pub(crate) fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

/// What is to be said of a file that every user of this machine may open.
pub(crate) fn open_to_all(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o007 != 0).then(|| {
        format!(
            "{} holds a secret and is open to every user of this machine: chmod o= it",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_a_line_that_is_long_enough_in_a_file_for_few() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        assert!(key(&path).expect_err("no file").contains("cannot be read: No such file"));
        for (text, wanted) in [
            ("0123456789abcdef\r\n", Ok(b"0123456789abcdef".to_vec())),
            ("0123456789abcde\n", Err("has 15 bytes")),
            (&"x".repeat(20_000), Err("larger than 16384")),
        ] {
            fs::write(&path, text).expect("it is ours");
            assert_eq!(key_beside_tasks(&path).await, key(&path));
            match (key(&path), wanted) {
                (Ok(key), Ok(wanted)) => assert_eq!(key, wanted),
                (Err(why), Err(told)) => assert!(why.contains(told), "{why}"),
                (found, wanted) => panic!("{found:?} is not {wanted:?}"),
            }
        }
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            assert_eq!(open_to_all(&path).is_some(), open, "{mode:o}");
        }
    }
}
