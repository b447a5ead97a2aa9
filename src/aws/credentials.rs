//! Credentials, renewed ahead of time and kept until they truly expire.
//!
//! The SDK's own cache drops credentials seconds before they expire and must then have new ones at
//! once: a slow or absent credential service fails every call from that moment on. Here they are
//! renewed minutes before, beside the calls, and the last good ones serve until their end.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_types::DateTime;
use futures_util::FutureExt;
use futures_util::future::{self as futures, BoxFuture};
use tokio::time::timeout;

/// How long before their end credentials are renewed: time for several tries. An instance's newer
/// ones are there by then (EC2 user guide); a source that still gives the old ones is asked again
/// with the next round.
const EARLY: i64 = 5 * 60;
/// Without an end of their own they are read again as often as this, as the SDK does.
const ENDLESS: i64 = 15 * 60;
/// A call signed closer to the end than this might arrive after it.
const LATE: i64 = 10;
/// How long one attempt may take: more than a metadata service with its retries, or a helper
/// program that asks elsewhere.
const LOAD: Duration = Duration::from_secs(30);
/// Distrusted credentials are asked for anew as often as this: often enough to mend soon, and no
/// storm where they stay wrong.
const DISTRUSTED: i64 = 10;
/// A source that failed is asked again after this at the soonest: a thousand reports that wait
/// start no thousand helper programs.
const AGAIN: i64 = 1;

/// Seconds since 1970.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// One attempt to load credentials, of all who wait for it. It goes on while any of them does, and
/// stands still, not given up, while none does: a call with little time must not end a helper
/// program that needs more.
type Attempt = futures::Shared<BoxFuture<'static, Result<Credentials, Arc<CredentialsError>>>>;

pub(super) struct CachedCredentials {
    source: SharedCredentialsProvider,
    clock: Clock,
    held: Arc<Mutex<Held>>,
    /// What the credentials are read from, as far as that is files.
    files: Vec<PathBuf>,
}

#[derive(Default)]
struct Held {
    credentials: Option<Credentials>,
    /// When they were last asked for, in vain or not.
    tried: i64,
    /// How the files were when they were last read well.
    read_at: Vec<Option<Stamp>>,
    attempt: Option<Attempt>,
    /// What the last attempt failed with, if it did.
    failed: Option<Arc<CredentialsError>>,
    distrusted: bool,
}

/// What tells one state of a file from another: device, inode, size, and the moment it was written.
type Stamp = (u64, u64, u64, i64, i64);

impl CachedCredentials {
    pub(super) fn timed_by(time: SharedTimeSource, source: SharedCredentialsProvider) -> Self {
        Self::with_clock(source, Arc::new(move || DateTime::from(time.now()).secs()))
    }

    fn with_clock(source: SharedCredentialsProvider, clock: Clock) -> Self {
        Self { source, clock, held: Arc::default(), files: Vec::new() }
    }

    /// Renews them also once one of these files is another than it was.
    pub(super) fn reading(mut self, files: Vec<PathBuf>) -> Self {
        self.files = files;
        self
    }

    /// What a service says of them counts more than their date: they are asked for anew.
    pub(super) fn distrust(&self) {
        self.held().distrusted = true;
    }

    /// Renews them if it is time. Meanwhile the old ones serve.
    pub(super) async fn renew(&self) {
        let (underway, due) = {
            let held = self.held();
            (held.attempt.is_some(), held.is_due((self.clock)()))
        };
        if !underway && !due && !self.files_have_changed().await {
            return;
        }
        if let Err(error) = self.attempt().await {
            tracing::warn!(error = %Reason(&error), "AWS credentials could not be renewed yet");
        }
    }

    async fn get(&self) -> Result<Credentials, CredentialsError> {
        if let Some(credentials) = self.held().at_once((self.clock)()) {
            return Ok(credentials);
        }
        match self.attempt().await {
            Ok(credentials) => Ok(credentials),
            Err(error) => match self.held().until_the_end((self.clock)()) {
                Some(credentials) => {
                    tracing::warn!(error = %Reason(&error), "AWS credentials could not be renewed; \
                        the old ones serve to their end");
                    Ok(credentials)
                }
                None => Err(shared(&error)),
            },
        }
    }

    /// The attempt that is under way, or a new one.
    fn attempt(&self) -> Attempt {
        let mut held = self.held();
        if let Some(attempt) = &held.attempt {
            return attempt.clone();
        }
        if let Some(error) = held.failed.clone().filter(|_| (self.clock)() < held.tried + AGAIN) {
            return std::future::ready(Err(error)).boxed().shared();
        }
        let (source, clock, files) = (self.source.clone(), self.clock.clone(), self.files.clone());
        let keeper = Arc::downgrade(&self.held);
        let attempt = async move {
            let load = async {
                let stamps = stamps(&files).await;
                (source.provide_credentials().await, stamps)
            };
            let (loaded, stamps) = match timeout(LOAD, load).await {
                Ok((loaded, stamps)) => (loaded.map_err(Arc::new), stamps),
                Err(_) => (Err(Arc::new(CredentialsError::provider_timed_out(LOAD))), Vec::new()),
            };
            if let Some(held) = keeper.upgrade() {
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                held.attempt = None;
                held.tried = clock();
                held.failed = loaded.as_ref().err().cloned();
                if let Ok(credentials) = &loaded {
                    held.credentials = Some(credentials.clone());
                    held.read_at = stamps;
                    held.distrusted = false;
                }
            }
            loaded
        };
        let attempt = attempt.boxed().shared();
        held.attempt = Some(attempt.clone());
        attempt
    }

    async fn files_have_changed(&self) -> bool {
        if self.files.is_empty() || self.held().credentials.is_none() {
            return false;
        }
        let now = stamps(&self.files).await;
        self.held().read_at != now
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CachedCredentials {
    fn drop(&mut self) {
        // An attempt under way holds what it started, a helper program for one.
        self.held().attempt = None;
    }
}

async fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let mut stamps = Vec::new();
    for file in files {
        let file = tokio::fs::metadata(file).await.ok();
        stamps.push(
            file.map(|file| (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec())),
        );
    }
    stamps
}

impl Held {
    /// To sign with, without asking for newer ones first.
    fn at_once(&self, now: i64) -> Option<Credentials> {
        let credentials = self.credentials.as_ref()?;
        let good = match end(credentials) {
            Some(end) => now < end - LATE,
            None => true,
        };
        let trusted = !self.distrusted || now < self.tried + DISTRUSTED;
        (good && trusted).then(|| credentials.clone())
    }

    /// To sign with, where newer ones are not to be had.
    fn until_the_end(&self, now: i64) -> Option<Credentials> {
        self.credentials
            .as_ref()
            .filter(|credentials| end(credentials).is_none_or(|end| now < end))
            .cloned()
    }

    fn is_due(&self, now: i64) -> bool {
        // What nobody has asked for yet is not fetched in advance.
        let Some(credentials) = &self.credentials else { return false };
        let near = match end(credentials) {
            Some(end) => end - EARLY <= now,
            None => self.tried + ENDLESS <= now,
        };
        near || (self.distrusted && self.tried + DISTRUSTED <= now)
    }
}

fn end(credentials: &Credentials) -> Option<i64> {
    credentials.expiry().map(|end| DateTime::from(end).secs())
}

impl ProvideCredentials for CachedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.get())
    }
}

/// [`CachedCredentials`] as clients take it; all of them share it.
#[derive(Debug)]
pub(super) struct Provider(pub Arc<CachedCredentials>);

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.0.provide_credentials()
    }
}

impl fmt::Debug for CachedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedCredentials").finish_non_exhaustive()
    }
}

/// One failure for all who waited. Its kind is kept, which says whether it is worth waiting.
fn shared(error: &Arc<CredentialsError>) -> CredentialsError {
    match **error {
        CredentialsError::InvalidConfiguration(_) => {
            CredentialsError::invalid_configuration(Shared(error.clone()))
        }
        _ => CredentialsError::provider_error(Shared(error.clone())),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Shared(#[source] Arc<CredentialsError>);

/// An error with its causes, for a log line.
struct Reason<'a>(&'a CredentialsError);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
impl CachedCredentials {
    pub(super) fn is_distrusted(&self) -> bool {
        self.held().distrusted
    }

    /// For calls that sign nothing.
    pub(super) fn nothing() -> Self {
        let nothing = Credentials::new("id", "secret", None, None, "test");
        Self::timed_by(SharedTimeSource::default(), SharedCredentialsProvider::new(nothing))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicI64, Ordering};

    use futures_util::FutureExt;
    use tokio::sync::Semaphore;

    use super::*;

    const HOUR: i64 = 3_600;

    /// What a source answers: credentials that end at that second, or never; or nothing.
    #[derive(Clone, Copy, Debug)]
    enum SourceAnswer {
        Until(i64),
        Endless,
        Fails,
    }

    #[derive(Debug)]
    struct Script {
        answers: Mutex<VecDeque<SourceAnswer>>,
        gate: Semaphore,
        asked: AtomicI64,
    }

    #[derive(Debug)]
    struct Source(Arc<Script>);

    impl ProvideCredentials for Source {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async move {
                let number = self.0.asked.fetch_add(1, Ordering::SeqCst);
                self.0.gate.acquire().await.expect("open").forget();
                let answer = self.0.answers.lock().expect("not poisoned").pop_front();
                let end = match answer {
                    Some(SourceAnswer::Until(second)) => {
                        Some(DateTime::from_secs(second).try_into().expect("a time"))
                    }
                    Some(SourceAnswer::Endless) => None,
                    Some(SourceAnswer::Fails) | None => {
                        return Err(CredentialsError::provider_error("the source is down"));
                    }
                };
                Ok(Credentials::new(format!("id{number}"), "secret", None, end, "test"))
            })
        }
    }

    struct Scene {
        kept: Arc<CachedCredentials>,
        now: Arc<AtomicI64>,
        script: Arc<Script>,
    }

    impl Scene {
        fn new(answers: &[SourceAnswer]) -> Self {
            let script = Arc::new(Script {
                answers: Mutex::new(answers.iter().copied().collect()),
                gate: Semaphore::new(Semaphore::MAX_PERMITS),
                asked: AtomicI64::new(0),
            });
            let now = Arc::new(AtomicI64::new(0));
            let clock = now.clone();
            let source = SharedCredentialsProvider::new(Source(script.clone()));
            let kept = Arc::new(CachedCredentials::with_clock(
                source,
                Arc::new(move || clock.load(Ordering::SeqCst)),
            ));
            Self { kept, now, script }
        }

        fn at(&self, second: i64) {
            self.now.store(second, Ordering::SeqCst);
        }

        async fn id(&self) -> Result<String, CredentialsError> {
            self.kept.get().await.map(|credentials| credentials.access_key_id().to_owned())
        }

        fn asked(&self) -> i64 {
            self.script.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn good_credentials_are_asked_for_once() {
        let scene = Scene::new(&[SourceAnswer::Until(HOUR)]);
        for second in [0, 1, HOUR - EARLY, HOUR - LATE - 1] {
            scene.at(second);
            assert_eq!(scene.id().await.expect("credentials"), "id0");
        }
        assert_eq!(scene.asked(), 1);
    }

    #[tokio::test]
    async fn they_are_renewed_minutes_before_their_end() {
        let scene = Scene::new(&[SourceAnswer::Until(HOUR), SourceAnswer::Until(2 * HOUR)]);
        scene.kept.renew().await;
        assert_eq!(scene.asked(), 0, "nobody has asked for any yet");
        scene.id().await.expect("credentials");
        scene.at(HOUR - EARLY - 1);
        scene.kept.renew().await;
        assert_eq!(scene.asked(), 1);
        scene.at(HOUR - EARLY);
        scene.kept.renew().await;
        assert_eq!((scene.asked(), scene.id().await.expect("credentials")), (2, "id1".to_owned()));
    }

    #[tokio::test]
    async fn the_old_ones_serve_while_new_ones_are_fetched() {
        let scene = Scene::new(&[SourceAnswer::Until(HOUR), SourceAnswer::Until(2 * HOUR)]);
        scene.id().await.expect("credentials");
        scene.at(HOUR - EARLY);
        let permits = scene.script.gate.forget_permits(Semaphore::MAX_PERMITS);
        let mut renewal = Box::pin(scene.kept.renew());
        assert!((&mut renewal).now_or_never().is_none(), "the source has not answered");
        assert_eq!(scene.id().await.expect("credentials"), "id0");
        scene.script.gate.add_permits(permits);
        renewal.await;
        assert_eq!(scene.id().await.expect("credentials"), "id1");
    }

    #[tokio::test]
    async fn a_source_that_is_down_costs_nothing_until_they_truly_expire() {
        let scene = Scene::new(&[
            SourceAnswer::Until(HOUR),
            SourceAnswer::Fails,
            SourceAnswer::Fails,
            SourceAnswer::Fails,
            SourceAnswer::Until(2 * HOUR),
        ]);
        scene.id().await.expect("credentials");
        scene.at(HOUR - EARLY);
        scene.kept.renew().await;
        scene.at(HOUR - 1);
        assert_eq!(scene.id().await.expect("still good"), "id0");
        scene.at(HOUR);
        let error = scene.id().await.expect_err("expired");
        assert!(Reason(&error).to_string().contains("the source is down"), "{}", Reason(&error));
        scene.at(HOUR + 1);
        assert_eq!(scene.id().await.expect("up again"), "id4");
    }

    #[tokio::test]
    async fn credentials_without_an_end_are_read_again_and_kept_if_that_fails() {
        let scene =
            Scene::new(&[SourceAnswer::Endless, SourceAnswer::Fails, SourceAnswer::Endless]);
        scene.id().await.expect("credentials");
        scene.at(ENDLESS);
        scene.kept.renew().await;
        assert_eq!((scene.asked(), scene.id().await.expect("kept")), (2, "id0".to_owned()));
        scene.at(2 * ENDLESS);
        scene.kept.renew().await;
        assert_eq!(scene.id().await.expect("renewed"), "id2");
    }

    #[tokio::test]
    async fn what_a_service_does_not_take_is_asked_for_anew_but_not_in_a_storm() {
        let scene = Scene::new(&[
            SourceAnswer::Until(HOUR),
            SourceAnswer::Fails,
            SourceAnswer::Until(HOUR),
        ]);
        scene.id().await.expect("credentials");
        scene.at(60);
        scene.kept.distrust();
        assert_eq!(scene.id().await.expect("the old ones are better than none"), "id0");
        assert_eq!(
            (scene.id().await.expect("no second attempt"), scene.asked()),
            ("id0".to_owned(), 2)
        );
        scene.at(60 + DISTRUSTED);
        assert_eq!((scene.id().await.expect("new ones"), scene.asked()), ("id2".to_owned(), 3));
    }

    #[tokio::test]
    async fn many_who_wait_share_one_attempt_and_its_failure() {
        let scene = Scene::new(&[]);
        let permits = scene.script.gate.forget_permits(Semaphore::MAX_PERMITS);
        let mut waiting = futures_util::future::join_all((0..16).map(|_| scene.id()));
        assert!((&mut waiting).now_or_never().is_none(), "the source has not answered");
        scene.script.gate.add_permits(permits);
        let ends = waiting.await;
        assert!(ends.iter().all(Result::is_err));
        assert_eq!(scene.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_hangs_is_given_up() {
        let scene = Scene::new(&[]);
        scene.script.gate.forget_permits(Semaphore::MAX_PERMITS);
        let error = scene.id().await.expect_err("a bound");
        assert!(Reason(&error).to_string().contains("30"), "{}", Reason(&error));
    }
}
