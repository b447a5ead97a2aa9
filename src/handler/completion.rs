//! What a run that met no error returns.

use std::time::Duration;

use serde::Serialize;

use super::{HandlerError, HandlerResult};
use crate::outcome::{InvalidOutput, Outputs};

/// A run that ended without an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completion {
    /// The work is done. The outputs are sent unless the handler answers the step itself, which its
    /// configuration says (`answers = "handler"`).
    Success(Outputs),
    /// The work continues elsewhere: call again after this long, with the checkpoint. Meanwhile the
    /// step holds no slot. The next call is no new attempt, and the time limit continues to run.
    Again(Duration),
    /// Someone else will answer the step: a person, or another system, with `callbackd complete`
    /// or at SageMaker. It uses no slot meanwhile.
    Deferred,
}

impl Completion {
    /// The work is done; the outputs are the fields of a struct, or the entries of a map.
    ///
    /// ```
    /// use callbackd::{Completion, HandlerResult};
    ///
    /// #[derive(serde::Serialize)]
    /// struct Trained { model: String, epochs: u32 }
    ///
    /// fn trained() -> HandlerResult {
    ///     Ok(Completion::success(&Trained { model: "s3://bucket/model".into(), epochs: 7 })?)
    /// }
    /// # assert_eq!(trained().unwrap().outputs().unwrap().get("epochs"), Some("7"));
    /// ```
    ///
    /// # Errors
    /// As [`Outputs::from_serialize`]; `?` in a handler then fails the step.
    pub fn success(outputs: &impl Serialize) -> Result<Self, InvalidOutput> {
        Outputs::from_serialize(outputs).map(Self::Success)
    }

    /// The outputs, if the work is done.
    #[must_use]
    pub fn outputs(&self) -> Option<&Outputs> {
        match self {
            Self::Success(outputs) => Some(outputs),
            Self::Again(_) | Self::Deferred => None,
        }
    }
}

impl From<Outputs> for Completion {
    fn from(outputs: Outputs) -> Self {
        Self::Success(outputs)
    }
}

/// Success without outputs.
impl From<()> for Completion {
    fn from((): ()) -> Self {
        Self::Success(Outputs::new())
    }
}

/// What a function registered with [`Registry::function`](super::Registry::function) may return
/// inside `Ok`: a [`Completion`], or anything that serialises to outputs: [`Outputs`], a struct
/// whose fields are strings, numbers, booleans or enum variants without content, or `()` for none.
///
/// ```
/// use callbackd::handler::IntoCompletion;
///
/// #[derive(serde::Serialize)]
/// struct Trained { model: String, epochs: u32 }
///
/// let completion = Trained { model: "s3://bucket/model".into(), epochs: 7 }.into_completion()?;
/// assert_eq!(completion.outputs().and_then(|outputs| outputs.get("epochs")), Some("7"));
/// # Ok::<(), callbackd::HandlerError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot complete a callback step",
    note = "return `Ok` of `Completion`, `Outputs`, `()`, or a struct that implements \
            `serde::Serialize` with strings, numbers or booleans as fields"
)]
pub trait IntoCompletion {
    /// # Errors
    /// A permanent error that names the output that SageMaker would refuse.
    fn into_completion(self) -> HandlerResult;
}

impl IntoCompletion for Completion {
    fn into_completion(self) -> HandlerResult {
        Ok(self)
    }
}

impl<T: Serialize> IntoCompletion for T {
    fn into_completion(self) -> HandlerResult {
        Completion::success(&self).map_err(HandlerError::permanent)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_serialises_to_outputs_is_success_and_what_does_not_fails_the_step_by_name() {
        let outputs = Outputs::of([("a", 1)]).expect("valid");
        assert_eq!(
            outputs.clone().into_completion().expect("outputs"),
            Completion::from(outputs.clone())
        );
        assert_eq!(json!({"a": 1}).into_completion().expect("a map"), outputs.into());
        assert_eq!(().into_completion().expect("nothing"), ().into());
        assert_eq!(Completion::Deferred.into_completion().expect("itself"), Completion::Deferred);
        for (value, names) in [(json!({"a": [1]}), "`a`"), (json!("text"), "a string")] {
            let error = value.into_completion().expect_err(names);
            assert!(error.is_permanent() && error.message().contains(names), "{error}");
        }
    }
}
