//! Arguments of types that no public capture shows.

use crate::aws::probe::Services;
use crate::cli::probe::caller::Setback;
use crate::cli::probe::lab::{Lab, is_over, request};
use crate::cli::probe::notes::Notes;
use crate::cli::probe::plan::Shape;
use crate::cli::probe::question::Question;

const ARGUMENTS: [(Shape, Question); 7] = [
    (Shape::Boolean, Question::ArgumentBoolean),
    (Shape::Null, Question::ArgumentNull),
    (Shape::Object, Question::ArgumentObject),
    (Shape::List, Question::ArgumentList),
    (Shape::LongInteger, Question::ArgumentLongInteger),
    (Shape::HugeInteger, Question::ArgumentHugeInteger),
    (Shape::Fraction, Question::ArgumentFraction),
];

pub(super) async fn run(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let mut setback = None;
    for (shape, question) in ARGUMENTS {
        match one(lab, shape).await {
            Ok(text) => notes.settle(question, None, text),
            Err(Setback::Interrupted) => return Err(Setback::Interrupted),
            // The others need not suffer for it.
            Err(other) => {
                notes.leave(question, None, other.to_string());
                setback = Some(other);
            }
        }
    }
    setback.map_or(Ok(()), Err)
}

async fn one(lab: &mut Lab, shape: Shape) -> Result<String, Setback> {
    let made = match lab.pipeline(shape).await? {
        Ok(made) => made,
        Err(refusal) => return Ok(format!("CreatePipeline refuses it: {refusal}")),
    };
    let request = request();
    let start = async |services: &Services| services.start(&made.name, &request).await;
    let execution = match lab.observe(start).await? {
        Ok(execution) => execution,
        Err(refusal) => return Ok(format!("StartPipelineExecution refuses it: {refusal}")),
    };
    lab.started(&execution);
    let given = shape.argument();
    match lab.asked(&execution).await {
        Ok(message) => {
            let written = message.written.get("value").map(String::as_str);
            let text = match written {
                Some(written) if written == given => format!("arrives as it is given: `{given}`"),
                Some(written) => format!("`{given}` arrives as `{written}`"),
                None => format!("`{given}` does not arrive; keys: {}", message.keys.join(", ")),
            };
            lab.succeed(&message.token, &[]).await?;
            Ok(text)
        }
        Err(Setback::Late(late)) => {
            let state = lab.watch(&execution, "Only", lab.waits.surplus, is_over).await?;
            match state.filter(|state| is_over(&state.status)) {
                Some(state) => {
                    let why = state.failure_reason.unwrap_or_default();
                    Ok(format!("the step is {} without a message: {why}", state.status))
                }
                None => Err(Setback::Late(late)),
            }
        }
        Err(other) => Err(other),
    }
}
