//! A step's arguments, with all references resolved.

use serde_json::Value;

use super::execution::Execution;
use super::expression::{Reference, Variable, resolve};
use crate::local::clock::Time;
use crate::local::undocumented::{OutputsInArguments, Undocumented};

impl Execution {
    /// A step's arguments as they are now.
    ///
    /// # Errors
    /// A sentence about a reference that does not exist or has another type.
    pub(super) fn arguments(
        &self,
        index: usize,
        now: Time,
        undocumented: &Undocumented,
    ) -> Result<Value, String> {
        let Some(step) = self.step(index) else { return Ok(Value::Null) };
        resolve(&step.arguments, &mut |reference| match reference {
            Reference::Parameter(name) => self
                .parameters
                .get(name)
                .cloned()
                .ok_or_else(|| format!("there is no parameter {name}")),
            Reference::Execution(variable) => Ok(Value::from(self.variable(*variable, now))),
            Reference::Output { step, output } => self.output(step, output, undocumented),
        })
    }

    fn variable(&self, variable: Variable, now: Time) -> String {
        match variable {
            Variable::PipelineName => self.pipeline.clone(),
            Variable::PipelineArn => self.pipeline_arn.clone(),
            Variable::PipelineExecutionId => self.id.clone(),
            Variable::PipelineExecutionArn => self.arn.to_string(),
            Variable::StartDateTime => self.started.to_string(),
            Variable::CurrentDateTime => now.to_string(),
        }
    }

    fn output(
        &self,
        step: &str,
        output: &str,
        undocumented: &Undocumented,
    ) -> Result<Value, String> {
        let (defined, run) = self
            .steps_defined()
            .find(|(it, _)| it.name == step)
            .ok_or_else(|| format!("there is no step {step}"))?;
        let text = run
            .outputs
            .get(output)
            .ok_or_else(|| format!("step {step} gave no output parameter {output}"))?;
        match (undocumented.outputs_in_arguments, defined.outputs.get(output)) {
            (OutputsInArguments::Typed, Some(kind)) => kind
                .value(text)
                .map_err(|reason| format!("output parameter {output} of step {step}: {reason}")),
            _ => Ok(Value::from(text.as_str())),
        }
    }
}
