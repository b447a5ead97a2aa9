//! `callbackd drain`: lets the daemon on this machine finish its steps and end.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::admin::Socket;
use super::steps::coarse;
use super::{Failure, plain, say};
use crate::observe::admin::{Draining, Unfinished, UnfinishedStep};

pub(super) async fn run(socket: &Socket, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let mut asked = socket.post("/drain", file).await?;
    if asked.status() != 200 {
        return Err(Failure::Runtime(asked.refusal().await?));
    }
    let mut first = true;
    while let Some(line) = asked.line::<Draining>().await? {
        match line {
            Draining::Ended => {
                say("the daemon has ended");
                return Ok(ExitCode::SUCCESS);
            }
            Draining::Unfinished(left) => {
                if std::mem::take(&mut first) {
                    say(
                        "the daemon starts no more steps; this command waits for its end, and may \
                         be interrupted",
                    );
                }
                lines(&left).iter().for_each(say);
            }
        }
    }
    Err(Failure::Runtime(format!(
        "the daemon at {} ended before it was drained: see its log; its steps are resumed from the \
         ledger",
        asked.path.display()
    )))
}

/// What is left, as a person reads it.
fn lines(left: &Unfinished) -> Vec<String> {
    let head = match left.steps {
        0 => "no step is unfinished".to_owned(),
        1 => "1 step is unfinished:".to_owned(),
        steps => format!("{steps} steps are unfinished:"),
    };
    let more = left.steps.saturating_sub(left.first.len());
    let more = (more > 0).then(|| format!("  and {more} more"));
    std::iter::once(head).chain(left.first.iter().map(step)).chain(more).collect()
}

fn step(step: &UnfinishedStep) -> String {
    let took = step.seconds.map(|seconds| format!(" for {}", coarse(Duration::from_secs(seconds))));
    plain(&format!("  {} {}{}", step.token, step.activity, took.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_with_a_few_steps_and_the_number_of_the_others() {
        let running = UnfinishedStep {
            token: "abcdefghij".to_owned(),
            activity: "running".to_owned(),
            seconds: Some(80),
        };
        let reporting =
            UnfinishedStep { activity: "repor\u{1b}".to_owned(), seconds: None, ..running.clone() };
        let left = Unfinished { steps: 5, first: vec![running, reporting] };
        assert_eq!(
            lines(&left),
            [
                "5 steps are unfinished:",
                "  abcdefghij running for 1m20s",
                "  abcdefghij repor ",
                "  and 3 more",
            ]
        );
        assert_eq!(lines(&Unfinished::default()), ["no step is unfinished"]);
    }
}
