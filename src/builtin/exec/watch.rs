//! Reports changes of a file in a run's directory.
//!
//! A user may have only some hundred inotify instances but many more watches, so one instance and
//! one thread serve all runs for the life of the process. If no instance is available, the file is
//! polled.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::sync::Notify;
use tokio::time::sleep;

/// What has happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// It was written to, or may have been.
    Written,
    /// Another file was renamed to it.
    Replaced,
}

/// Notices about one file, until dropped.
pub(super) struct Notices {
    news: Arc<News>,
    watch: Option<(Arc<Watcher>, WatchDescriptor)>,
}

struct News {
    file: &'static str,
    last: AtomicU8,
    come: Notify,
}

struct Watcher {
    inotify: Inotify,
    /// The files that are watched in each directory.
    watches: Mutex<BTreeMap<i32, Vec<Arc<News>>>>,
}

/// How often the file is polled if it cannot be watched.
const LOOK: Duration = Duration::from_millis(500);
/// How long the thread pauses when it cannot read.
const REST: Duration = Duration::from_millis(200);

impl Notices {
    /// Watches the file of this name in the directory from now on.
    pub(super) fn of(directory: &Path, file: &'static str) -> Self {
        let news = Arc::new(News { file, last: AtomicU8::new(0), come: Notify::new() });
        let watch = Watcher::shared().and_then(|watcher| {
            let id = watcher.add(directory, news.clone())?;
            Ok((watcher, id))
        });
        if let Err(error) = &watch {
            tracing::debug!(%error, file, "a file cannot be watched, and is polled instead");
        }
        Self { news, watch: watch.ok() }
    }

    /// The latest notice since the last call. Cancel safe.
    pub(super) async fn next(&self) -> Notice {
        loop {
            match self.news.last.swap(0, Ordering::SeqCst) {
                1 => return Notice::Written,
                2 => return Notice::Replaced,
                _ if self.watch.is_some() => self.news.come.notified().await,
                _ => {
                    sleep(LOOK).await;
                    return Notice::Written;
                }
            }
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        if let Some((watcher, id)) = self.watch.take() {
            watcher.remove(id, &self.news);
        }
    }
}

impl News {
    fn come(&self, notice: Notice) {
        self.last.store(if notice == Notice::Replaced { 2 } else { 1 }, Ordering::SeqCst);
        self.come.notify_one();
    }
}

impl Watcher {
    /// The instance of this process, started with the first run.
    fn shared() -> io::Result<Arc<Self>> {
        static SHARED: Mutex<Option<Arc<Watcher>>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = &*shared {
            return Ok(watcher.clone());
        }
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let watcher = Arc::new(Self { inotify, watches: Mutex::default() });
        let reader = watcher.clone();
        std::thread::Builder::new().name("checkpoints".to_owned()).spawn(move || reader.read())?;
        *shared = Some(watcher.clone());
        Ok(watcher)
    }

    fn add(&self, directory: &Path, news: Arc<News>) -> io::Result<WatchDescriptor> {
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO;
        // Under the lock, so that no event arrives before its watch is known.
        let mut watches = self.lock();
        let id = self.inotify.add_watch(directory, flags | AddWatchFlags::IN_ONLYDIR)?;
        watches.entry(id.as_raw()).or_default().push(news);
        Ok(id)
    }

    fn remove(&self, id: WatchDescriptor, news: &Arc<News>) {
        // A directory has one watch, which is kept for its other files.
        let mut watches = self.lock();
        let others = watches.entry(id.as_raw()).or_default();
        others.retain(|other| !Arc::ptr_eq(other, news));
        if others.is_empty() {
            watches.remove(&id.as_raw());
            // This fails if the directory, and its watch with it, is gone.
            let _ = self.inotify.rm_watch(id);
        }
    }

    fn read(&self) {
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    let watches = self.lock();
                    for event in events {
                        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                            watches.values().flatten().for_each(|news| news.come(Notice::Written));
                        }
                        let Some(of_one) = watches.get(&event.wd.as_raw()) else { continue };
                        let is_it = |news: &&Arc<News>| {
                            event.name.as_deref() == Some(OsStr::new(news.file))
                        };
                        let replaced = event.mask.contains(AddWatchFlags::IN_MOVED_TO);
                        let notice = if replaced { Notice::Replaced } else { Notice::Written };
                        of_one.iter().filter(is_it).for_each(|news| news.come(notice));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => std::thread::sleep(REST),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Vec<Arc<News>>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
