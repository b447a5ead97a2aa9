//! Credentials, renewed ahead of time and used until they really expire.
//!
//! The SDK's own cache drops credentials seconds before they expire and needs new ones at once: if
//! the credential service is slow or absent, every call fails from that moment on. Here they are
//! renewed minutes before, in the background, and the last good ones are used until their end.

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

use crate::causes::with_causes;

/// How long before their expiry credentials are renewed: time for several tries. EC2 offers new
/// instance credentials at least five minutes before the old ones expire (EC2 user guide); a source
/// that still returns the old ones is asked again in the next round.
const EARLY: i64 = 5 * 60;
/// Credentials without an expiry are reloaded this often, as the SDK does.
const ENDLESS: i64 = 15 * 60;
/// A call that is signed closer to the expiry than this might arrive after it.
const LATE: i64 = 10;
/// How long one attempt may take: more than a metadata service with its retries, or a helper
/// program that calls another service.
const LOAD: Duration = Duration::from_secs(30);
/// Distrusted credentials are reloaded this often: soon enough to recover, and no storm while they
/// stay wrong.
const DISTRUSTED: i64 = 10;
/// A source that failed is asked again after this at the earliest, so that a thousand waiting
/// reports do not start a thousand helper programs.
const AGAIN: i64 = 1;

/// Seconds since 1970.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// One attempt to load credentials, shared by all callers that wait for it. It makes progress while
/// at least one of them does and pauses otherwise; it is not cancelled, since a call with a short
/// deadline must not end a helper program that needs longer.
type Attempt = futures::Shared<BoxFuture<'static, Result<Credentials, Arc<CredentialsError>>>>;

pub(super) struct CachedCredentials {
    source: SharedCredentialsProvider,
    clock: Clock,
    held: Arc<Mutex<Held>>,
    /// The files that the credentials are read from, if any.
    files: Vec<PathBuf>,
}

#[derive(Default)]
struct Held {
    credentials: Option<Credentials>,
    /// When they were last requested, successfully or not.
    tried: i64,
    /// The state of the files when they were last read successfully.
    read_at: Vec<Option<Stamp>>,
    attempt: Option<Attempt>,
    /// The error of the last attempt, if it failed.
    failed: Option<Arc<CredentialsError>>,
    distrusted: bool,
}

/// What distinguishes two states of a file: device, inode, size, and modification time.
type Stamp = (u64, u64, u64, i64, i64);

impl CachedCredentials {
    pub(super) fn timed_by(time: SharedTimeSource, source: SharedCredentialsProvider) -> Self {
        Self::with_clock(source, Arc::new(move || DateTime::from(time.now()).secs()))
    }

    fn with_clock(source: SharedCredentialsProvider, clock: Clock) -> Self {
        Self { source, clock, held: Arc::default(), files: Vec::new() }
    }

    /// Also reloads the credentials once one of these files has changed.
    pub(super) fn reading(mut self, files: Vec<PathBuf>) -> Self {
        self.files = files;
        self
    }

    /// A service's refusal counts more than the expiry date: the credentials are reloaded.
    pub(super) fn distrust(&self) {
        self.held().distrusted = true;
    }

    /// Renews the credentials if it is time. The old ones stay in use meanwhile.
    pub(super) async fn renew(&self) {
        let (underway, due) = {
            let held = self.held();
            (held.attempt.is_some(), held.is_due((self.clock)()))
        };
        if !underway && !due && !self.files_have_changed().await {
            return;
        }
        // A failure is logged by the attempt, which others may wait for as well.
        let _ = self.attempt().await;
    }

    async fn get(&self) -> Result<Credentials, CredentialsError> {
        if let Some(credentials) = self.held().at_once((self.clock)()) {
            return Ok(credentials);
        }
        match self.attempt().await {
            Ok(credentials) => Ok(credentials),
            Err(error) => match self.held().until_the_end((self.clock)()) {
                Some(credentials) => Ok(credentials),
                None => Err(shared(&error)),
            },
        }
    }

    /// The attempt in progress, or a new one.
    fn attempt(&self) -> Attempt {
        let mut held = self.held();
        if let Some(attempt) = &held.attempt {
            return attempt.clone();
        }
        if let Some(error) =
            held.failed.clone().filter(|_| held.tried_within(AGAIN, (self.clock)()))
        {
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
                // Without any credentials the calls fail, and that is logged.
                if let Some(error) =
                    held.failed.as_ref().filter(|_| held.until_the_end(held.tried).is_some())
                {
                    tracing::warn!(
                        event = "credentials_not_renewed",
                        error = %with_causes(error),
                        "AWS credentials could not be renewed; the old ones are used until they \
                         expire"
                    );
                }
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
        // A pending attempt holds what it has started, such as a helper program.
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
    /// Credentials that can sign now, without asking for newer ones first.
    fn at_once(&self, now: i64) -> Option<Credentials> {
        let credentials = self.credentials.as_ref()?;
        let good = match end(credentials) {
            Some(end) => now < end - LATE,
            None => true,
        };
        let trusted = !self.distrusted || self.tried_within(DISTRUSTED, now);
        (good && trusted).then(|| credentials.clone())
    }

    /// Credentials that can still sign if newer ones are unavailable.
    fn until_the_end(&self, now: i64) -> Option<Credentials> {
        self.credentials
            .as_ref()
            .filter(|credentials| end(credentials).is_none_or(|end| now < end))
            .cloned()
    }

    /// Whether they were last requested in these seconds before `now`. A request in the future was
    /// before the clock was set back, who knows how long ago.
    fn tried_within(&self, seconds: i64, now: i64) -> bool {
        (self.tried..self.tried + seconds).contains(&now)
    }

    fn is_due(&self, now: i64) -> bool {
        // Credentials that no call has asked for yet are not loaded in advance.
        let Some(credentials) = &self.credentials else { return false };
        let near = match end(credentials) {
            Some(end) => end - EARLY <= now,
            None => !self.tried_within(ENDLESS, now),
        };
        near || (self.distrusted && !self.tried_within(DISTRUSTED, now))
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

/// [`CachedCredentials`] in the form that clients take; all of them share it.
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

/// One failure, shared by all that waited. Its kind is kept, because it tells whether waiting
/// helps.
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

    /// What a source answers: credentials that expire at that second, or never; or an error.
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
        assert!(with_causes(&error).contains("the source is down"), "{}", with_causes(&error));
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
    async fn a_clock_that_is_set_back_delays_no_new_attempt() {
        let scene = Scene::new(&[
            SourceAnswer::Until(3 * HOUR),
            SourceAnswer::Fails,
            SourceAnswer::Until(HOUR),
            SourceAnswer::Endless,
            SourceAnswer::Endless,
        ]);
        scene.at(2 * HOUR);
        scene.id().await.expect("credentials");
        scene.kept.distrust();
        scene.at(HOUR);
        assert_eq!(scene.id().await.expect("the old ones are better than none"), "id0");
        scene.at(0);
        assert_eq!(scene.id().await.expect("after a failure"), "id2");
        scene.at(HOUR);
        assert_eq!(scene.id().await.expect("after their end"), "id3");
        scene.at(0);
        scene.kept.renew().await;
        assert_eq!(scene.id().await.expect("credentials without an end"), "id4");
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
        assert!(with_causes(&error).contains("30"), "{}", with_causes(&error));
    }
}
