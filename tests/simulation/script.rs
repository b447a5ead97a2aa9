//! Handlers that do what a script says: steps of every kind.

use std::sync::Arc;
use std::time::Duration;

use callbackd::{Completion, Context, Handler, HandlerError, HandlerResult, Outputs, StopReason};
use serde_json::Value;
use tokio::time::sleep;

use crate::judge::Seen;
use crate::life::Life;
use crate::limits::Bound;

/// What one step's handler does.
#[derive(Clone, Debug)]
pub struct Script {
    /// By how often it was run before; the last one serves from then on.
    pub runs: Vec<Run>,
    pub on_stop: OnStop,
    pub cleanup: Cleanup,
}

/// One run: so much work, in parts that each end with a checkpoint, and then its end.
#[derive(Clone, Debug)]
pub struct Run {
    pub work: Duration,
    pub checkpoints: u32,
    pub end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Success,
    Failure,
    Retry,
    Again(Duration),
    /// The machine keeps it from its work.
    Hindered,
    /// Someone else completes the step, this much later if ever: at SageMaker, or through the
    /// ledger.
    Defer(Option<Duration>),
    Panic,
    /// It kills its worker.
    Crash,
    /// It waits until it is told to stop.
    Hang,
}

/// What a run does that is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    Ends,
    /// It ends with success all the same, this much later.
    Finishes(Duration),
    Ignores,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    Works(Duration),
    Fails,
    Panics,
    Hangs,
}

/// The message of scripted panics, which the panic hook does not print.
pub const PANIC: &str = "as the script has it";

pub struct Scripted {
    pub life: Arc<Life>,
    pub scripts: Arc<Vec<Script>>,
}

impl Scripted {
    fn script(&self, args: &Value) -> &Script {
        let number = args["script"].as_u64().and_then(|number| usize::try_from(number).ok());
        &self.scripts[number.expect("the number of a script")]
    }
}

impl Handler for Scripted {
    type Args = Value;

    async fn run(&self, cx: Context, args: Value) -> HandlerResult {
        let (life, token) = (&self.life, cx.token().to_string());
        let mut running = Running::begin(life, &token, &cx);
        life.cross("run, begun").await;
        let script = self.script(&args);
        let run = &script.runs[life.world.next_run(&token).min(script.runs.len() - 1)];
        let confirmed = life.world.confirmed(life.worker.ledger, &token);
        let checkpoint = cx.checkpoint::<u64>()?.unwrap_or_default();
        if checkpoint < confirmed && !life.is_over() {
            life.world.fail(&format!(
                "the checkpoint {confirmed} of {token} is lost: there is {checkpoint}"
            ));
        }
        let answers = life.world.answers_itself(&args);
        let result = tokio::select! {
            biased;
            reason = cx.stopping(), if script.on_stop != OnStop::Ignores => {
                running.told(reason);
                life.world.count(&format!("path: a run told of {}", reason.as_str()));
                told(script.on_stop, reason).await
            }
            result = work(life, &cx, run, checkpoint) => result,
        };
        if answers && matches!(result, Ok(Completion::Success(_))) && !life.is_over() {
            life.world.count("path: a run answers its step");
            // At the latest by then; the run does not wait for it.
            life.world.hand_over(&token, run.work / 8);
        }
        life.cross("run, ended").await;
        running.end(&result, life.is_draining());
        result
    }

    async fn cleanup(&self, cx: Context, args: Value) -> Result<(), HandlerError> {
        let (life, token) = (&self.life, cx.token().to_string());
        life.world.cleaning(life.worker, &token);
        let _cleaning = Cleaning::begin(life, &token);
        life.world.count("path: cleanup");
        life.cross("cleanup, begun").await;
        match self.script(&args).cleanup {
            Cleanup::Works(time) => sleep(time).await,
            Cleanup::Fails => return Err(HandlerError::permanent("the cleanup fails")),
            Cleanup::Panics => panic!("{PANIC}"),
            Cleanup::Hangs => std::future::pending().await,
        }
        life.cross("cleanup, ended").await;
        Ok(())
    }
}

async fn work(life: &Life, cx: &Context, run: &Run, mut checkpoint: u64) -> HandlerResult {
    for _ in 0..run.checkpoints {
        sleep(run.work / (run.checkpoints + 1)).await;
        checkpoint += 1;
        if cx.save_checkpoint(&checkpoint).await.is_ok() && !life.is_over() {
            life.world.count("path: checkpoint");
            life.world.confirm(life.worker.ledger, cx.token().as_str(), checkpoint);
        }
    }
    sleep(run.work / (run.checkpoints + 1)).await;
    life.world.count(&format!("run: {}", run.end.name()));
    match run.end {
        End::Success => success(),
        End::Failure => Err(HandlerError::permanent("it fails")),
        End::Retry => Err(HandlerError::retry("not now")),
        End::Hindered => Err(HandlerError::host("space", "no space")),
        End::Again(after) => Ok(Completion::Again(after)),
        End::Defer(after) => {
            if let Some(after) = after.filter(|_| !life.is_over()) {
                let (ledger, token) = (life.worker.ledger, cx.token().as_str());
                match after.as_millis() % 3 {
                    0 => life.world.hand_over(token, after),
                    other => life.world.answer_through(ledger, token, after, other == 1),
                }
            }
            Ok(Completion::Deferred)
        }
        End::Panic => panic!("{PANIC}"),
        End::Crash => {
            life.see(&Seen::Kills { worker: life.worker, token: cx.token().to_string() });
            life.end("its handler kills it");
            std::future::pending().await
        }
        End::Hang => std::future::pending().await,
    }
}

async fn told(on_stop: OnStop, reason: StopReason) -> HandlerResult {
    match on_stop {
        OnStop::Finishes(after) => {
            sleep(after).await;
            success()
        }
        OnStop::Ends | OnStop::Ignores => Err(HandlerError::retry(reason.as_str())),
    }
}

fn success() -> HandlerResult {
    let mut outputs = Outputs::new();
    outputs.insert("x", 1)?;
    Ok(Completion::Success(outputs))
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Retry => "retry",
            Self::Again(_) => "again",
            Self::Hindered => "hindered",
            Self::Defer(_) => "defer",
            Self::Panic => "panic",
            Self::Crash => "crash",
            Self::Hang => "hang",
        }
    }
}

/// A cleanup, from its beginning to its end, whether it returns, panics or is dropped.
struct Cleaning<'a> {
    life: &'a Life,
    token: String,
}

impl<'a> Cleaning<'a> {
    fn begin(life: &'a Life, token: &str) -> Self {
        life.see(&Seen::CleanupBegan { worker: life.worker, token: token.to_owned() });
        Self { life, token: token.to_owned() }
    }
}

impl Drop for Cleaning<'_> {
    fn drop(&mut self) {
        self.life.see(&Seen::CleanupEnded { worker: self.life.worker, token: self.token.clone() });
    }
}

/// A run, from its first breath to its end, whether it returns, panics or is dropped.
struct Running<'a> {
    life: &'a Life,
    token: String,
    cx: Context,
    own: bool,
    told: Option<StopReason>,
    /// By the clock that counts suspension, and tokio's.
    begun: (Duration, Duration),
    /// It returned rather than being dropped.
    returned: bool,
    /// It counts as no attempt.
    free: bool,
}

impl<'a> Running<'a> {
    fn begin(life: &'a Life, token: &str, cx: &Context) -> Self {
        life.see(&Seen::Started { worker: life.worker, token: token.to_owned() });
        let begun = (life.world.passed(), life.world.elapsed());
        Self {
            life,
            token: token.to_owned(),
            cx: cx.clone(),
            own: false,
            told: None,
            begun,
            returned: false,
            free: false,
        }
    }

    fn told(&mut self, reason: StopReason) {
        self.told = Some(reason);
        let (life, token) = (self.life, self.token.clone());
        if life.is_over() {
            return;
        }
        match reason {
            StopReason::PipelineStopped => {
                life.see(&Seen::StopTold { worker: life.worker, token: token.clone() });
            }
            StopReason::SettledElsewhere => {
                life.see(&Seen::SuccessTold { worker: life.worker, token: token.clone() });
            }
            StopReason::TimeLimit => life.world.limit_acted(life.worker, &token, Bound::Time),
            StopReason::LeaseLost => {
                life.see(&Seen::Lapsed { ledger: life.worker.ledger, token: token.clone() });
            }
            _ => {}
        }
        life.world.run_ends(life.worker, &token, self.begun);
    }

    fn end(mut self, result: &HandlerResult, draining: bool) {
        self.returned = true;
        let given_back = matches!(self.told, Some(StopReason::Shutdown | StopReason::LeaseLost));
        let hindered = matches!(result, Err(error) if error.host_trouble().is_some());
        self.free = given_back || hindered || matches!(result, Ok(Completion::Again(_)));
        let wants_more = matches!(result, Ok(Completion::Again(_)))
            || matches!(result, Err(error) if !error.is_permanent());
        if draining && self.told.is_none() && wants_more {
            self.life.world.count("path: a run wants another in a drain");
        }
        self.own = match result {
            Ok(Completion::Success(_)) => true,
            Ok(_) => false,
            Err(error) => error.is_permanent(),
        };
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let (worker, token, own) = (self.life.worker, self.token.clone(), self.own);
        if !self.life.is_over() {
            // It may not have listened.
            let lapsed = self.cx.stop_reason() == Some(StopReason::LeaseLost);
            if lapsed && self.told != Some(StopReason::LeaseLost) {
                self.life.see(&Seen::Lapsed { ledger: worker.ledger, token: token.clone() });
            }
            // A run is told before it is dropped, though not all listen: at a shutdown, or when the
            // lease was lost.
            let dropped = !self.returned && !std::thread::panicking();
            if self.told.is_none() && !dropped {
                self.life.world.run_ends(worker, &token, self.begun);
            }
            if self.free || dropped {
                self.life.see(&Seen::Free { worker, token: token.clone() });
            }
        }
        self.life.see(&Seen::Ended { worker, token, own });
    }
}
