//! Handler types by name, and the erased twin of [`Handler`] that the engine calls.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::handler::{Context, Handler, HandlerError, HandlerResult, Remark};

/// The handler types of one binary. TOML picks from them by name: `[handlers.NAME] type = "…"`.
#[derive(Default)]
pub struct Registry {
    types: BTreeMap<String, Build>,
}

type Build = Box<dyn Fn(Value) -> Result<DynHandler, BuildError> + Send + Sync>;

/// A name was registered twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handler type `{name}` is registered twice; this binary has: {have}")]
pub struct RegistryError {
    name: String,
    have: String,
}

/// Why a configured handler cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("`{name}` is not a handler type of this binary, which has: {have}")]
    Unknown { name: String, have: String },
    /// `path` leads to the setting, dotted; empty for the settings as a whole.
    #[error("{message}")]
    Settings { path: String, message: String },
}

impl Registry {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler type. `build` makes a handler from `[handlers.*.settings]`, decoded into `S`; it is called once for each
    /// handler of the type, before any AWS call, and what it refuses is reported as a mistake in the configuration.
    ///
    /// # Errors
    /// [`RegistryError`] where the name is taken.
    pub fn register<S, H, E>(
        &mut self,
        name: &str,
        build: impl Fn(S) -> Result<H, E> + Send + Sync + 'static,
    ) -> Result<&mut Self, RegistryError>
    where
        S: DeserializeOwned,
        H: Handler,
        E: fmt::Display,
    {
        if self.types.contains_key(name) {
            return Err(RegistryError { name: name.to_owned(), have: self.names() });
        }
        let build = move |settings: Value| {
            let settings = serde_path_to_error::deserialize(settings).map_err(|error| {
                let path = error.path().to_string();
                BuildError::Settings {
                    path: if path == "." { String::new() } else { path },
                    message: error.into_inner().to_string(),
                }
            })?;
            match build(settings) {
                Ok(handler) => Ok(DynHandler::new(handler)),
                Err(error) => Err(BuildError::Settings { path: String::new(), message: error.to_string() }),
            }
        };
        self.types.insert(name.to_owned(), Box::new(build));
        Ok(self)
    }

    /// Builds a handler of the named type. `settings` is `null` where there are none.
    ///
    /// # Errors
    /// [`BuildError`] for a name that this binary does not have, and for settings that the type refuses.
    pub fn build(&self, name: &str, settings: Value) -> Result<DynHandler, BuildError> {
        match self.types.get(name) {
            Some(build) => build(settings),
            None => Err(BuildError::Unknown { name: name.to_owned(), have: self.names() }),
        }
    }

    /// The registered names in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    fn names(&self) -> String {
        self.iter().collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A handler whose argument type is no longer in its type; cheap to clone.
#[derive(Clone)]
pub struct DynHandler(Arc<dyn Erased>);

impl DynHandler {
    pub fn new(handler: impl Handler) -> Self {
        Self(Arc::new(handler))
    }

    /// [`Handler::run`]; arguments that do not decode are a permanent error.
    pub fn run(&self, cx: Context) -> BoxFuture<'static, HandlerResult> {
        let handler = self.0.clone();
        Box::pin(async move { handler.run(cx).await })
    }

    /// [`Handler::cleanup`].
    pub fn cleanup(&self, cx: Context) -> BoxFuture<'static, Result<(), HandlerError>> {
        let handler = self.0.clone();
        Box::pin(async move { handler.cleanup(cx).await })
    }

    /// [`Handler::remarks`].
    pub fn remarks(&self) -> Vec<Remark> {
        self.0.remarks()
    }

    /// [`Handler::reap`].
    pub fn reap(&self, cx: Context) -> BoxFuture<'static, ()> {
        let handler = self.0.clone();
        Box::pin(async move { handler.reap(cx).await })
    }
}

impl fmt::Debug for DynHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DynHandler")
    }
}

trait Erased: Send + Sync {
    fn run(&self, cx: Context) -> BoxFuture<'_, HandlerResult>;
    fn cleanup(&self, cx: Context) -> BoxFuture<'_, Result<(), HandlerError>>;
    fn remarks(&self) -> Vec<Remark>;
    fn reap(&self, cx: Context) -> BoxFuture<'_, ()>;
}

impl<H: Handler> Erased for H {
    fn run(&self, cx: Context) -> BoxFuture<'_, HandlerResult> {
        Box::pin(async move {
            let args = decode::<H>(&cx)?;
            Handler::run(self, cx, args).await
        })
    }

    fn cleanup(&self, cx: Context) -> BoxFuture<'_, Result<(), HandlerError>> {
        Box::pin(async move {
            let args = decode::<H>(&cx)?;
            Handler::cleanup(self, cx, args).await
        })
    }

    fn remarks(&self) -> Vec<Remark> {
        Handler::remarks(self)
    }

    fn reap(&self, cx: Context) -> BoxFuture<'_, ()> {
        Box::pin(Handler::reap(self, cx))
    }
}

fn decode<H: Handler>(cx: &Context) -> Result<H::Args, HandlerError> {
    serde_path_to_error::deserialize(cx.arguments()).map_err(|error| {
        let path = error.path().to_string();
        HandlerError::permanent(format_args!("the step's arguments do not fit, at `{path}`: {}", error.into_inner()))
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::handler::{Completion, handler_fn};
    use crate::outcome::Outputs;

    #[derive(Deserialize)]
    struct Settings {
        #[serde(rename = "size")]
        _size: u32,
    }

    fn done() -> impl Handler<Args = Value> {
        handler_fn(|_, _: Value| async { Ok(Completion::Success(Outputs::new())) })
    }

    #[test]
    fn a_name_registered_twice_is_an_error_that_lists_the_names() {
        let mut registry = Registry::new();
        registry.register("b", |(): ()| Ok::<_, Infallible>(done())).expect("first");
        registry.register("a", |(): ()| Ok::<_, Infallible>(done())).expect("other");
        let error = registry.register("b", |(): ()| Ok::<_, Infallible>(done())).expect_err("second").to_string();
        assert!(error.contains("`b`") && error.contains("a, b"), "{error}");
        let error = registry.build("c", Value::Null).expect_err("unknown").to_string();
        assert!(error.contains("`c`") && error.contains("a, b"), "{error}");
    }

    #[test]
    fn settings_that_do_not_decode_are_refused_with_their_path() {
        let mut registry = Registry::new();
        registry.register("sized", |_: Settings| Ok::<_, Infallible>(done())).expect("new");
        assert!(registry.build("sized", json!({"size": 3})).is_ok());
        let Err(BuildError::Settings { path, .. }) = registry.build("sized", json!({"size": "x"})) else {
            panic!("built")
        };
        assert_eq!(path, "size");
    }
}
