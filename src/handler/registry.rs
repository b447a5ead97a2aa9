//! Handler types by name, and the type-erased form of [`Handler`] that the engine calls.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::arguments::{Misfit, decode};
use super::{
    Context, Handler, HandlerError, HandlerFactory, HandlerResult, IntoCompletion, Leftover,
    Remark, handler_fn,
};

/// The handler types of one binary. The configuration selects from them by name:
/// `[handlers.NAME] type = "…"`.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use callbackd::{Context, HandlerError, Outputs, Registry};
///
/// #[derive(serde::Deserialize)]
/// struct Args {
///     name: String,
/// }
///
/// async fn greet(_cx: Context, args: Args) -> Result<Outputs, HandlerError> {
///     Ok(Outputs::of([("greeting", format!("hello, {}", args.name))])?)
/// }
///
/// fn main() -> ExitCode {
///     Registry::with_builtins().function("greet", greet).main()
/// }
/// ```
#[derive(Default)]
pub struct Registry {
    types: BTreeMap<String, Build>,
    twice: Vec<RegistryError>,
}

type Build = Box<dyn Fn(Value) -> Result<DynHandler, BuildError> + Send + Sync>;

/// A name was registered twice; the first registration stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handler type `{name}` is registered twice; this binary has: {have}")]
pub struct RegistryError {
    name: String,
    have: String,
}

/// Why a configured handler cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The configuration names a type that this binary does not have.
    #[expect(missing_docs, reason = "the message says it")]
    #[error("`{name}` is not a handler type of this binary, which has: {have}")]
    Unknown { name: String, have: String },
    /// The settings do not decode, or the handler refuses them. `path` is the dotted path of the
    /// setting; it is empty for the settings as a whole.
    #[expect(missing_docs, reason = "as above")]
    #[error("{message}")]
    Settings { path: String, message: String },
}

impl Registry {
    /// No handler types yet. [`Registry::with_builtins`] begins with those of the stock binary.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler type. `factory` creates a handler from `[handlers.*.settings]`: it is a
    /// function from the decoded settings to `Result<impl Handler, impl Display>`, or a function
    /// without arguments to a handler without settings. It is called once for each handler of the
    /// type, before any AWS call, and an error is reported as a mistake in the configuration.
    ///
    /// If a name is registered twice, the first registration stays; [`Registry::main`] then refuses
    /// to run, and [`Registry::check`] returns the error.
    #[must_use]
    pub fn handler<Kind>(mut self, name: &str, factory: impl HandlerFactory<Kind>) -> Self {
        if self.types.contains_key(name) {
            self.twice.push(RegistryError { name: name.to_owned(), have: self.names() });
        } else {
            self.types.insert(name.to_owned(), Box::new(move |settings| factory.build(settings)));
        }
        self
    }

    /// Adds a handler type that is one async function, without settings or a cleanup. It returns
    /// anything that completes a step: see [`IntoCompletion`].
    #[must_use]
    pub fn function<F, A, R, T>(self, name: &str, function: F) -> Self
    where
        F: Fn(Context, A) -> R + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Future<Output = Result<T, HandlerError>> + Send + 'static,
        T: IntoCompletion,
    {
        let handler = Arc::new(handler_fn(function));
        self.handler(name, move || handler.clone())
    }

    /// Checks that each name was registered once.
    ///
    /// # Errors
    /// The first [`RegistryError`].
    pub fn check(&self) -> Result<(), RegistryError> {
        self.twice.first().cloned().map_or(Ok(()), Err)
    }

    /// Builds a handler of the named type. `settings` is `null` if there are none.
    ///
    /// # Errors
    /// [`BuildError`] for a name that this binary does not have, and for settings that the type
    /// refuses.
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

/// A handler without its argument type; cheap to clone.
#[derive(Clone)]
pub struct DynHandler(Arc<dyn Erased>);

impl DynHandler {
    /// Erases the type of `handler`.
    pub fn new(handler: impl Handler) -> Self {
        Self(Arc::new(handler))
    }

    /// Whether a step's arguments decode into the handler's.
    ///
    /// # Errors
    /// [`Misfit`] says which one does not, and why.
    pub fn fits(&self, arguments: &Value) -> Result<(), Misfit> {
        self.0.fits(arguments)
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
    pub fn remarks(&self, work_dir: &Path) -> Vec<Remark> {
        self.0.remarks(work_dir)
    }

    /// [`Handler::leftovers`].
    pub fn leftovers(&self, work_dir: &Path) -> Vec<Leftover> {
        self.0.leftovers(work_dir)
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

pub(crate) trait Erased: Send + Sync {
    fn fits(&self, arguments: &Value) -> Result<(), Misfit>;
    fn run(&self, cx: Context) -> BoxFuture<'_, HandlerResult>;
    fn cleanup(&self, cx: Context) -> BoxFuture<'_, Result<(), HandlerError>>;
    fn remarks(&self, work_dir: &Path) -> Vec<Remark>;
    fn leftovers(&self, work_dir: &Path) -> Vec<Leftover>;
    fn reap(&self, cx: Context) -> BoxFuture<'_, ()>;
}

impl<H: Handler> Erased for H {
    fn fits(&self, arguments: &Value) -> Result<(), Misfit> {
        decode::<H::Args>(arguments).map(drop)
    }

    fn run(&self, cx: Context) -> BoxFuture<'_, HandlerResult> {
        Box::pin(async move {
            let args = args_of::<H>(&cx)?;
            Handler::run(self, cx, args).await
        })
    }

    fn cleanup(&self, cx: Context) -> BoxFuture<'_, Result<(), HandlerError>> {
        Box::pin(async move {
            let args = args_of::<H>(&cx)?;
            Handler::cleanup(self, cx, args).await
        })
    }

    fn remarks(&self, work_dir: &Path) -> Vec<Remark> {
        Handler::remarks(self, work_dir)
    }

    fn leftovers(&self, work_dir: &Path) -> Vec<Leftover> {
        Handler::leftovers(self, work_dir)
    }

    fn reap(&self, cx: Context) -> BoxFuture<'_, ()> {
        Box::pin(Handler::reap(self, cx))
    }
}

fn args_of<H: Handler>(cx: &Context) -> Result<H::Args, HandlerError> {
    let fails =
        |misfit| HandlerError::permanent(format_args!("the step's arguments do not fit: {misfit}"));
    decode(cx.arguments()).map_err(fails)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize)]
    struct Settings {
        #[serde(rename = "size")]
        _size: u32,
    }

    async fn done(_: Context, _: Value) -> Result<(), HandlerError> {
        Ok(())
    }

    #[test]
    fn a_name_registered_twice_is_told_with_all_names() {
        let registry = Registry::new().function("b", done).function("a", done);
        assert_eq!(registry.check(), Ok(()));
        let error = registry.function("b", done).check().expect_err("twice").to_string();
        assert!(error.contains("`b`") && error.contains("a, b"), "{error}");
    }

    #[test]
    fn an_unknown_name_is_told_with_all_names() {
        let registry = Registry::new().function("b", done).function("a", done);
        let error = registry.build("c", Value::Null).expect_err("unknown").to_string();
        assert!(error.contains("`c`") && error.contains("a, b"), "{error}");
    }

    #[test]
    fn settings_that_do_not_decode_are_refused_with_their_path() {
        let registry = Registry::new()
            .handler("sized", |_: Settings| Ok::<_, Infallible>(handler_fn(done)))
            .handler("strict", |_: Settings| if true { Err("never") } else { Ok(handler_fn(done)) })
            .function("plain", done);
        assert!(registry.build("sized", json!({"size": 3})).is_ok());
        for (name, settings, wants) in [
            ("sized", json!({"size": "x"}), "size"),
            ("strict", json!({"size": 3}), ""),
            ("plain", json!({"size": 3}), "size"),
        ] {
            let Err(BuildError::Settings { path, .. }) = registry.build(name, settings) else {
                panic!("built")
            };
            assert_eq!(path, wants);
        }
        for settings in [json!({}), Value::Null] {
            assert!(registry.build("plain", settings).is_ok());
        }
    }
}
