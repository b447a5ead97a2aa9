//! Orders of an operator about queues and handlers: files that commands, or the daemon itself,
//! write and the daemon of the same machine reads.
//!
//! A file survives a restart, needs no open port and no secret, and may be written only by those
//! who may write beside the ledger: the daemon's user and root. There is one file for each queue or
//! handler, with the last order about it. It is replaced and never removed, so that no order is
//! lost between its reading and its removal.

mod names;

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

pub use self::names::{Names, Sort, Unmeant};
use crate::step::QueueUrl;

/// Numbers the files that this process writes: two orders at once may be about the same.
static WRITTEN: AtomicU32 = AtomicU32::new(0);

/// The directory of the orders, which need not exist.
#[derive(Clone, Debug)]
pub struct Orders(PathBuf);

/// The last order about a queue or a handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Order {
    pub about: About,
    pub order: Kind,
    /// By this machine's wall clock.
    pub at: Timestamp,
}

/// What an order is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    Queue(QueueUrl),
    /// By its name in the configuration.
    Handler(String),
}

/// What is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Receive nothing more from the queue; or start no more runs of the handler.
    Pause,
    /// End that, and start the handler, or those of the queue, again although their steps failed.
    Resume,
}

/// An order as its file has it: about one of the two.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue: Option<QueueUrl>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handler: Option<String>,
    order: Kind,
    at: Timestamp,
}

/// The orders, and the files that are none, each with the reason.
#[derive(Debug, Default)]
pub struct Reading {
    pub orders: Vec<Order>,
    pub unreadable: Vec<(PathBuf, String)>,
}

/// An order could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct OrderError {
    path: PathBuf,
    cause: io::Error,
}

/// An order has some hundred bytes; what is larger is none.
const MAX: u64 = 8 * 1024;

impl Orders {
    /// In `orders` beside a file or directory that outlives the process.
    #[must_use]
    pub fn beside(path: &Path) -> Self {
        let directory = path.parent().unwrap_or(Path::new("")).join("orders");
        Self(std::path::absolute(&directory).unwrap_or(directory))
    }

    /// Replaces the last order about the same. When it returns, the order survives a crash of the
    /// machine.
    ///
    /// # Errors
    /// If the directory, or the one that it is in, cannot be written.
    pub fn give(&self, order: &Order) -> Result<(), OrderError> {
        self.write(order).map_err(|cause| OrderError { path: self.0.clone(), cause })
    }

    fn write(&self, order: &Order) -> io::Result<()> {
        let parent = self.0.parent().unwrap_or(Path::new("/"));
        // What root writes, the daemon's user must be able to read.
        let owner = geteuid().is_root().then(|| parent.metadata()).transpose()?;
        let owner = owner.map(|parent| (Some(parent.uid()), Some(parent.gid())));
        match DirBuilder::new().mode(0o700).create(&self.0) {
            Ok(()) => {
                if let Some((user, group)) = owner {
                    chown(&self.0, user, group)?;
                }
            }
            // A link would lead root to where the daemon's user may not write.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(&self.0)?.is_dir() {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
            }
            Err(error) => return Err(error),
        }
        let name = file_name(&order.about);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let fresh = self.0.join(format!(".{name}.{}.{number}", std::process::id()));
        let written = Self::write_file(&fresh, order, owner)
            .and_then(|()| fs::rename(&fresh, self.0.join(name)));
        if written.is_err() {
            // It may not exist.
            let _ = fs::remove_file(&fresh);
        }
        written?;
        File::open(&self.0)?.sync_all()
    }

    fn write_file(
        path: &Path,
        order: &Order,
        owner: Option<(Option<u32>, Option<u32>)>,
    ) -> io::Result<()> {
        // What an earlier process with this id has left.
        let _ = fs::remove_file(path);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        if let Some((user, group)) = owner {
            fchown(&file, user, group)?;
        }
        serde_json::to_writer(&file, order)?;
        file.write_all(b"\n")?;
        file.sync_all()
    }

    /// The last order about each queue and each handler.
    ///
    /// # Errors
    /// If the directory exists and it or a file in it cannot be read: an order that is not seen
    /// must not count as withdrawn.
    pub fn read(&self) -> Result<Reading, OrderError> {
        let failed = |cause| OrderError { path: self.0.clone(), cause };
        let mut reading = Reading::default();
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(reading),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            // Those that begin with a dot are being written.
            let is_hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
            if path.file_name().is_none_or(is_hidden) {
                continue;
            }
            match read_file(&path).map_err(failed)? {
                Ok(order) => reading.orders.push(order),
                Err(why) => reading.unreadable.push((path, why)),
            }
        }
        // A queue whose URL is spelt differently since has two files.
        reading.orders.sort_by_key(|order| order.at);
        let mut newest: Vec<Order> = Vec::new();
        for order in reading.orders {
            newest.retain(|older| !older.about.is_same(&order.about));
            newest.push(order);
        }
        Ok(Reading { orders: newest, ..reading })
    }
}

impl Reading {
    /// What is paused, and since when.
    pub fn paused(&self) -> impl Iterator<Item = (&About, Timestamp)> {
        let paused = self.orders.iter().filter(|order| order.order == Kind::Pause);
        paused.map(|order| (&order.about, order.at))
    }
}

impl About {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Queue(one), Self::Queue(other)) => one.is_same_queue(other),
            (one, other) => one == other,
        }
    }

    /// The name of the queue or the handler.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Queue(queue) => queue.name(),
            Self::Handler(name) => name,
        }
    }
}

/// What follows from the order.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.about.name();
        match (&self.about, self.order) {
            (About::Queue(_), Kind::Pause) => write!(
                f,
                "{name} is paused: a running worker receives nothing more from it after 2 s, nor \
                 does one that is started, until `callbackd resume {name}`. Steps in hand go on."
            ),
            (About::Queue(_), Kind::Resume) => write!(
                f,
                "{name} is resumed: a running worker polls it within 2 s, and starts its handlers \
                 again if their steps had failed."
            ),
            (About::Handler(_), Kind::Pause) => write!(
                f,
                "the handler {name} is paused: a running worker starts no run of it after 2 s, \
                 nor does one that is started, until `callbackd resume {name}`. What runs goes on."
            ),
            (About::Handler(_), Kind::Resume) => write!(
                f,
                "the handler {name} is resumed: a running worker starts it within 2 s, also if \
                 its steps had failed."
            ),
        }
    }
}

impl TryFrom<Written> for Order {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { queue, handler, order, at } = written;
        let about = match (queue, handler) {
            (Some(queue), None) => About::Queue(queue),
            (None, Some(handler)) => About::Handler(handler),
            _ => return Err("an order is about either a queue or a handler"),
        };
        Ok(Self { about, order, at })
    }
}

impl From<Order> for Written {
    fn from(Order { about, order, at }: Order) -> Self {
        let (queue, handler) = match about {
            About::Queue(queue) => (Some(queue), None),
            About::Handler(handler) => (None, Some(handler)),
        };
        Self { queue, handler, order, at }
    }
}

/// The order in a file, or why it is none.
fn read_file(path: &Path) -> io::Result<Result<Order, String>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(Err("it is not a file".to_owned()));
    }
    let mut text = Vec::new();
    File::open(path)?.take(MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).map_err(|error| error.to_string()))
}

/// One for each queue, whose names are unique within an account and region, and for each handler:
/// no queue's name has a dot.
fn file_name(about: &About) -> String {
    match about {
        About::Queue(queue) => {
            let region = queue.region().map(|region| format!("_{region}")).unwrap_or_default();
            format!("{}_{}{region}", queue.name(), queue.account())
        }
        About::Handler(name) => format!("handler.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const QUEUE: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/q";

    fn order(queue: &str, order: Kind, second: i64) -> Order {
        let at = Timestamp::from_second(second).expect("a time");
        Order { about: About::Queue(queue.parse().expect("a URL")), order, at }
    }

    #[test]
    fn the_last_order_about_each_queue_counts_and_is_nobody_elses_to_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let orders = Orders::beside(&folder.path().join("ledger.db"));
        assert!(orders.read().expect("none is no error").orders.is_empty());
        let other = order(&QUEUE.replace("12/q", "12/r"), Kind::Pause, 5);
        for order in [&order(QUEUE, Kind::Pause, 1), &order(QUEUE, Kind::Resume, 2), &other] {
            orders.give(order).expect("it is ours");
        }
        let reading = orders.read().expect("it is ours");
        assert_eq!(reading.orders, [order(QUEUE, Kind::Resume, 2), other.clone()]);
        assert_eq!(reading.paused().map(|(about, _)| about.name()).collect::<Vec<_>>(), ["r"]);
        let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
        let file = folder.path().join("orders/q_123456789012_us-east-1");
        assert_eq!((mode(&folder.path().join("orders")), mode(&file)), (0o700, 0o600));

        // The same queue, by an endpoint that does not name its region.
        let vpc = order("https://vpce-1.internal/123456789012/q", Kind::Pause, 9);
        orders.give(&vpc).expect("it is ours");
        assert_eq!(orders.read().expect("it is ours").orders, [other, vpc]);
    }

    #[test]
    fn orders_about_the_same_at_once_are_all_taken_and_the_last_one_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let orders = Orders::beside(&folder.path().join("ledger.db"));
        std::thread::scope(|threads| {
            for second in 0..8 {
                let orders = &orders;
                threads.spawn(move || {
                    for _ in 0..50 {
                        orders.give(&order(QUEUE, Kind::Pause, second)).expect("it is ours");
                    }
                });
            }
        });
        assert_eq!(orders.read().expect("it is ours").orders.len(), 1);
        assert_eq!(std::fs::read_dir(&orders.0).expect("it is there").count(), 1);
    }

    #[test]
    fn an_order_about_a_handler_is_apart_from_one_about_a_queue_of_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let orders = Orders::beside(&folder.path().join("ledger.db"));
        let at = Timestamp::from_second(5).expect("a time");
        let about = About::Handler("q".to_owned());
        let of_handler = Order { about, order: Kind::Pause, at };
        for order in [&of_handler, &order(QUEUE, Kind::Resume, 6)] {
            orders.give(order).expect("it is ours");
        }
        let reading = orders.read().expect("it is ours");
        assert_eq!(reading.orders, [of_handler, order(QUEUE, Kind::Resume, 6)]);
        let file = folder.path().join("orders/handler.q");
        let text = fs::read_to_string(file).expect("it is ours");
        assert_eq!(
            text,
            "{\"handler\":\"q\",\"order\":\"pause\",\"at\":\"1970-01-01T00:00:05Z\"}\n"
        );
    }

    #[test]
    fn what_is_no_order_is_told_and_takes_no_effect() {
        let folder = tempfile::tempdir().expect("a folder");
        let orders = Orders(folder.path().to_owned());
        for (name, text) in [
            ("cut", "{\"queue\":\"https"),
            (".half", "{}"),
            ("about-nothing", "{\"order\":\"pause\",\"at\":\"2026-01-01T00:00:00Z\"}"),
            (
                "other",
                "{\"queue\":\"https://h/123456789012/q\",\"order\":\"stop\",\"at\":\"2026-01-01T00:00:00Z\"}",
            ),
            ("large", &" ".repeat(100_000)),
        ] {
            fs::write(folder.path().join(name), text).expect("it is ours");
        }
        fs::write(folder.path().join("bytes"), b"\xff").expect("it is ours");
        let reading = orders.read().expect("it is ours");
        assert_eq!((reading.orders.len(), reading.unreadable.len()), (0, 5), "{reading:?}");
    }

    #[test]
    fn a_link_is_not_followed_and_no_directory_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (link, file) = (folder.path().join("link"), folder.path().join("file"));
        symlink("/tmp", &link).expect("it is ours");
        fs::write(&file, "").expect("it is ours");
        for path in [link, file.clone(), folder.path().join("no/orders")] {
            let orders = Orders(path.clone());
            let error = orders.give(&order(QUEUE, Kind::Pause, 1)).expect_err("refused");
            assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        }
        assert!(Orders(file).read().is_err());
    }
}
