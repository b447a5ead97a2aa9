//! What a handler's test can rely on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::handler::{
    Completion, Context, Handler, HandlerError, HandlerResult, StopReason, handler_fn,
};

/// Saves 1 to 3, and ends once told to stop.
async fn count(cx: Context, _: Value) -> HandlerResult {
    let begin = cx.checkpoint::<u32>()?.unwrap_or(0);
    for n in begin + 1..=3 {
        cx.save_checkpoint(&n).await?;
        cx.progress(f64::from(n) / 3.0, format!("{n} of 3"));
    }
    let reason = cx.stopping().await;
    tracing::info!(%reason, "told");
    Err("stopped".into())
}

#[tokio::test]
async fn a_crash_leaves_the_checkpoint_and_nothing_after_it() {
    let step = TestStep::new(Value::Null);
    step.crash_at_checkpoint(2, &handler_fn(count)).await;
    assert_eq!((step.checkpoint().expect("a number"), step.attempt()), (Some(2), 2));
    assert_eq!(step.progress().len(), 1);
    let mut run = step.start(handler_fn(count));
    run.checkpointed().await;
    run.crash().await;
    assert_eq!((step.checkpoints(), step.attempt()), (vec![1.into(), 2.into(), 3.into()], 3));
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_told_and_the_run_has_its_grace() {
    let step = TestStep::new(Value::Null);
    let mut run = step.start(handler_fn(count));
    assert_eq!(run.progressed().await.text, "1 of 3");
    run.stop(StopReason::TimeLimit);
    let error = run.end().await.expect("in time").expect_err("stopped");
    assert_eq!((error.message(), step.attempt()), ("stopped", 1));
    assert!(step.log().contains("told reason=time_limit"), "{}", step.log());

    let deaf = handler_fn(|_, _: Value| std::future::pending::<HandlerResult>());
    let run = step.start(deaf);
    run.stop(StopReason::PipelineStopped);
    assert!(run.end().await.is_none());
}

#[tokio::test]
async fn without_its_lease_a_run_saves_nothing() {
    let step = TestStep::new(Value::Null).with_checkpoint(1);
    step.hold_checkpoints();
    let run = step.start(handler_fn(count));
    run.lose_lease();
    step.release_checkpoints();
    let error = run.end().await.expect("it ends").expect_err("not saved");
    assert_eq!((error.host_trouble(), step.checkpoints()), (Some("ledger"), vec![1.into()]));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_asks_for_it_is_called_again() {
    async fn twice(cx: Context, _: Value) -> HandlerResult {
        if cx.checkpoint::<bool>()?.is_some() {
            return Ok(().into());
        }
        cx.save_checkpoint(&true).await?;
        Ok(Completion::Again(Duration::from_secs(3600)))
    }
    let step = TestStep::new(json!({}));
    assert_eq!(step.run_to_end(&handler_fn(twice)).await.expect("done"), ().into());
    assert_eq!(step.attempt(), 1);
}

#[tokio::test]
async fn arguments_that_do_not_decode_fail_the_step() {
    let wants = handler_fn(|_, _: u32| async { Ok(()) });
    for arguments in [json!("x"), json!({})] {
        assert!(TestStep::new(arguments).run(&wants).await.expect_err("no number").is_permanent());
    }
    assert!(TestStep::new(7).run(&wants).await.is_ok());
}

#[tokio::test]
#[should_panic(expected = "the run ended before its checkpoint 1")]
async fn a_checkpoint_that_never_comes_fails_the_test() {
    TestStep::new(7).crash_at_checkpoint(1, &handler_fn(|_, _: Value| async { Ok(()) })).await;
}

#[tokio::test]
async fn a_checkpoint_that_was_not_saved_does_not_replace_the_last_one() {
    let step = TestStep::new(Value::Null).with_checkpoint(7);
    let cx = step.context();
    step.refuse_checkpoints(1);
    assert!(cx.save_checkpoint(&8).await.is_err());
    assert_eq!(cx.checkpoint::<u32>().expect("decodes"), Some(7));
    assert!(cx.checkpoint::<String>().expect_err("a number").is_permanent());
}

#[tokio::test]
async fn a_key_is_kept_once_it_can_be_one_and_is_saved() {
    let step = TestStep::new(Value::Null);
    let cx = step.context();
    let fails = async |key: &str| HandlerError::from(cx.set_key(key).await.expect_err("refused"));
    step.refuse_checkpoints(1);
    assert_eq!(fails("ORDER-17").await.host_trouble(), Some("ledger"));
    assert!(fails("ORDER\n17").await.is_permanent());
    assert_eq!(step.key(), None);
    cx.set_key("ORDER-17").await.expect("saved");
    assert_eq!(step.key().as_deref(), Some("ORDER-17"));
}

#[tokio::test]
async fn a_cleanup_knows_why() {
    struct Tells;
    impl Handler for Tells {
        type Args = Value;
        async fn run(&self, _: Context, _: Value) -> HandlerResult {
            Ok(().into())
        }
        async fn cleanup(&self, cx: Context, _: Value) -> Result<(), HandlerError> {
            Err(format!("{:?}", cx.stop_reason()).into())
        }
    }
    let registry = crate::Registry::new().handler("tells", |(): ()| Ok::<_, Infallible>(Tells));
    assert!(registry.build("tells", Value::Null).is_ok());
    let error =
        TestStep::new(7).clean_up(&Arc::new(Tells), StopReason::TimeLimit).await.expect_err("told");
    assert_eq!(error.message(), "Some(TimeLimit)");
}
