//! A handler made from one async function.

use std::future::Future;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::{Context, Handler, HandlerError, HandlerResult, IntoCompletion};

/// A handler made from one async function, without settings or a cleanup.
///
/// ```
/// use callbackd::{Context, HandlerError, Outputs, handler_fn};
/// use callbackd::testing::TestStep;
/// use serde_json::{Value, json};
///
/// async fn double(_cx: Context, args: Value) -> Result<Outputs, HandlerError> {
///     let number = args["number"].as_i64().ok_or("`number` is no whole number")?;
///     Ok(Outputs::of([("doubled", 2 * number)])?)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), HandlerError> {
/// let done = TestStep::new(json!({"number": 21})).run(&handler_fn(double)).await?;
/// assert_eq!(done.outputs().and_then(|outputs| outputs.get("doubled")), Some("42"));
/// # Ok(())
/// # }
/// ```
pub fn handler_fn<F, A, R, T>(function: F) -> impl Handler<Args = A>
where
    F: Fn(Context, A) -> R + Send + Sync + 'static,
    A: DeserializeOwned + Send + 'static,
    R: Future<Output = Result<T, HandlerError>> + Send + 'static,
    T: IntoCompletion,
{
    HandlerFn { function, args: PhantomData }
}

struct HandlerFn<F, A> {
    function: F,
    args: PhantomData<fn(A)>,
}

impl<F, A, R, T> Handler for HandlerFn<F, A>
where
    F: Fn(Context, A) -> R + Send + Sync + 'static,
    A: DeserializeOwned + Send + 'static,
    R: Future<Output = Result<T, HandlerError>> + Send + 'static,
    T: IntoCompletion,
{
    type Args = A;

    fn run(&self, cx: Context, args: A) -> impl Future<Output = HandlerResult> + Send {
        let result = (self.function)(cx, args);
        async move { result.await?.into_completion() }
    }
}
