//! The admin socket's file: who has it, and who may connect.
//!
//! A lock beside it tells a daemon that lives from one that was killed, so that a socket which was
//! left behind is replaced, and no other is.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::connections::Listener;

/// A bound socket. The file is removed when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Held for as long as the socket is ours. Its file stays: another daemon may wait for it.
    _lock: File,
}

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "{} has {} bytes, and the path of a socket at most {LONGEST}: use a directory with a \
         shorter path (ledger.path, worker.work_dir)",
        .0.display(), .0.as_os_str().len()
    )]
    TooLong(PathBuf),
    #[error("{} belongs to another daemon that runs: give each a directory of its own", .0.display())]
    Taken(PathBuf),
    #[error("{} is no socket: remove it", .0.display())]
    NoSocket(PathBuf),
    #[error("{}: {cause}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// `sun_path` has 108 bytes, the last of which ends it (unix(7)).
const LONGEST: usize = 107;
/// Connections that wait to be accepted: a few commands at once.
const BACKLOG: u32 = 16;

impl AdminSocket {
    /// Binds `path`, for this process's user alone. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`SocketError`] says what to do.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        if path.as_os_str().len() > LONGEST {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |cause| SocketError::Io { path, cause }
        };
        let beside = path.with_extension("lock");
        let lock = lock(&beside).map_err(failed(&beside))?;
        let lock = lock.ok_or_else(|| SocketError::Taken(path.to_owned()))?;
        match fs::symlink_metadata(path) {
            // The daemon that made it was killed.
            Ok(found) if found.file_type().is_socket() => {
                fs::remove_file(path).map_err(failed(path))?;
            }
            Ok(_) => return Err(SocketError::NoSocket(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(path)(error)),
        }
        let listener = listen(path).map_err(failed(path))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // It may have been removed by hand.
        let _ = fs::remove_file(&self.path);
    }
}

impl Listener for AdminSocket {
    type Stream = UnixStream;

    /// A drain is followed to its end.
    const LIFE: Duration = Duration::MAX;

    async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let peer = stream.peer_cred()?;
            if may_ask(peer.uid(), geteuid().as_raw()) {
                return Ok(stream);
            }
            tracing::warn!(
                event = "admin_peer_refused",
                uid = peer.uid(),
                pid = peer.pid(),
                "a connection to the admin socket is refused: it is for root and the daemon's user"
            );
        }
    }
}

/// Whether orders are taken from this user.
fn may_ask(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// `None` if another process holds it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // A link would lead root to where the daemon's user may not write.
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Linux gives the file the mode of the unbound socket, so there is no moment with another one.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::sys::stat::umask;

    use super::*;

    #[tokio::test]
    async fn the_file_is_for_its_user_alone_from_the_beginning_and_goes_with_the_daemon() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let mode = || {
            let found = fs::symlink_metadata(&path).expect("it is there");
            found.permissions().mode() & 0o7777
        };
        // As `listen` leaves it: nothing corrects it afterwards.
        let before = umask(Mode::empty());
        let unlocked = listen(&path).expect("it is ours");
        umask(before);
        assert_eq!(mode(), 0o600);
        drop(unlocked);

        // That one was left behind.
        let socket = AdminSocket::bind(&path).expect("a socket that nobody has is replaced");
        assert_eq!(mode(), 0o600);
        let (client, server) = tokio::join!(UnixStream::connect(&path), Listener::accept(&socket));
        assert!(client.is_ok() && server.is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_daemon_that_lives_is_not_taken_even_if_it_was_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let first = AdminSocket::bind(&path).expect("it is ours");
        let second = AdminSocket::bind(&path).expect_err("it is taken");
        assert!(matches!(second, SocketError::Taken(_)), "{second}");
        assert!(UnixStream::connect(first.path()).await.is_ok());
        fs::remove_file(&path).expect("it is ours");
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::Taken(_))));
        drop(first);
        AdminSocket::bind(&path).expect("nobody has it");
    }

    #[tokio::test]
    async fn what_is_no_socket_stays_and_a_link_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        fs::write(&path, "notes").expect("it is ours");
        let error = AdminSocket::bind(&path).expect_err("it is a file");
        assert!(error.to_string().contains("remove it"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "notes");

        let elsewhere = folder.path().join("elsewhere.sock");
        symlink("/etc/hostname", elsewhere.with_extension("lock")).expect("it is ours");
        let error = AdminSocket::bind(&elsewhere).expect_err("the lock is a link");
        assert!(error.to_string().contains("elsewhere.lock"), "{error}");

        let error = AdminSocket::bind(&folder.path().join("no/admin.sock")).expect_err("no folder");
        assert!(error.to_string().contains("no/admin.lock"), "{error}");
    }

    #[tokio::test]
    async fn a_path_that_no_socket_may_have_is_told_with_its_length() {
        let folder = tempfile::tempdir().expect("a folder");
        let of = |length: usize| {
            let room = length - folder.path().as_os_str().len() - "/.sock".len();
            folder.path().join(format!("{}.sock", "s".repeat(room)))
        };
        let error = AdminSocket::bind(&of(LONGEST + 1)).expect_err("too long");
        assert!(error.to_string().contains("has 108 bytes"), "{error}");
        let socket = AdminSocket::bind(&of(LONGEST)).expect("as long as may be");
        assert!(UnixStream::connect(socket.path()).await.is_ok());
    }

    #[test]
    fn orders_are_taken_from_root_and_from_the_daemons_own_user() {
        let asked = [(0, 0), (0, 990), (990, 990), (1000, 990), (1000, 0)];
        let may = asked.map(|(uid, own)| may_ask(uid, own));
        assert_eq!(may, [true, true, true, false, false]);
    }
}
