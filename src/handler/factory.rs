//! Creates a handler from its settings.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{BuildError, DynHandler, Handler};

/// What [`Registry::handler`](super::Registry::handler) accepts: a function from
/// `[handlers.*.settings]`, decoded, to `Result<impl Handler, impl Display>`, or a function without
/// arguments to a handler that has no settings.
///
/// `Kind` distinguishes the two and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not create a handler",
    note = "it must be `Fn(Settings) -> Result<H, E>` with `Settings: serde::Deserialize`, `H: \
            Handler` and `E: Display`; or `Fn() -> H`"
)]
pub trait HandlerFactory<Kind>: Send + Sync + 'static {
    /// Creates a handler; `settings` is `null` if there are none.
    ///
    /// # Errors
    /// [`BuildError::Settings`] if the settings do not decode or are refused.
    fn build(&self, settings: Value) -> Result<DynHandler, BuildError>;
}

impl<F, S, H, E> HandlerFactory<fn(S) -> Result<H, E>> for F
where
    F: Fn(S) -> Result<H, E> + Send + Sync + 'static,
    S: DeserializeOwned,
    H: Handler,
    E: fmt::Display,
{
    fn build(&self, settings: Value) -> Result<DynHandler, BuildError> {
        let settings = serde_path_to_error::deserialize(settings).map_err(|error| {
            let path = error.path().to_string();
            BuildError::Settings {
                path: if path == "." { String::new() } else { path },
                message: error.into_inner().to_string(),
            }
        })?;
        match self(settings) {
            Ok(handler) => Ok(DynHandler::new(handler)),
            Err(error) => {
                Err(BuildError::Settings { path: String::new(), message: error.to_string() })
            }
        }
    }
}

impl<F, H> HandlerFactory<fn() -> H> for F
where
    F: Fn() -> H + Send + Sync + 'static,
    H: Handler,
{
    fn build(&self, settings: Value) -> Result<DynHandler, BuildError> {
        let needless = settings.as_object().and_then(|settings| settings.keys().next()).cloned();
        match needless {
            Some(path) => Err(BuildError::Settings {
                path,
                message: "this handler type has no settings".to_owned(),
            }),
            None => Ok(DynHandler::new(self())),
        }
    }
}
