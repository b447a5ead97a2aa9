//! How fast commands call SageMaker.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Keeps calls to SageMaker apart: their limits are not published, and the workers call it too.
pub(super) struct Tempo(Instant);

impl Tempo {
    const EVERY: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    /// Waits until `calls` calls in a row may be made.
    pub(super) async fn turn(&mut self, calls: u32) {
        sleep_until(self.0).await;
        self.0 = Instant::now() + Self::EVERY * calls;
    }
}
