//! Why a run ends before its handler is done.

use std::fmt;

/// Why a run is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// The pipeline is being stopped; or the step has failed or was stopped, by itself or with its
    /// execution.
    PipelineStopped,
    /// The step has succeeded by an answer that this worker did not send: its job, an operator or
    /// another worker has answered.
    SettledElsewhere,
    /// The worker is shutting down. Another worker, or the next life of this one, will run the step
    /// with the checkpoint.
    Shutdown,
    /// The handler's `time_limit` is reached.
    TimeLimit,
    /// The claim on the step could not be renewed: another worker may start it.
    LeaseLost,
}

impl StopReason {
    /// `pipeline_stopped`, `settled_elsewhere`, `shutdown`, `time_limit` or `lease_lost`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PipelineStopped => "pipeline_stopped",
            Self::SettledElsewhere => "settled_elsewhere",
            Self::Shutdown => "shutdown",
            Self::TimeLimit => "time_limit",
            Self::LeaseLost => "lease_lost",
        }
    }
}

/// As in logs and `$STEP_STOP_REASON`.
impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::StopReason::{LeaseLost, PipelineStopped, SettledElsewhere, Shutdown, TimeLimit};

    #[test]
    fn reasons_are_named_as_programs_know_them() {
        let names = [PipelineStopped, SettledElsewhere, Shutdown, TimeLimit, LeaseLost]
            .map(super::StopReason::as_str);
        let known =
            ["pipeline_stopped", "settled_elsewhere", "shutdown", "time_limit", "lease_lost"];
        assert_eq!(names, known);
    }
}
