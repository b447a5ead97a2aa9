//! The answers to deferred steps that an operator gives to a running engine.

use std::sync::Arc;

use super::completed::flagged;
use super::shared::Shared;
use crate::ledger::{Given, NotGiven};
use crate::outcome::Outcome;
use crate::step::CallbackToken;

/// Answers deferred steps of a running engine; cheap to clone. It does not keep the engine alive.
#[derive(Clone)]
pub struct Answers(Arc<Shared>);

impl Answers {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Freezes the answer and has it reported. When it returns, that survives a crash. `by` is for
    /// the step's history.
    ///
    /// # Errors
    /// [`NotGiven`] says what the step is instead.
    pub async fn give(
        &self,
        token: &CallbackToken,
        answer: &Outcome,
        by: &str,
    ) -> Result<Given, NotGiven> {
        let given = self.0.ledger.give(token, answer, by).await;
        if matches!(given, Ok(_) | Err(NotGiven::Untold(_))) {
            // What this worker writes itself is no news to what looks for answers in its ledger.
            flagged(&self.0, token);
        }
        given
    }
}
