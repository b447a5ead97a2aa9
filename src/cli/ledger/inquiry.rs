//! What SageMaker says of steps that the ledger holds.

use std::sync::Arc;

use crate::aws::{Clients, SageMaker};
use crate::cli::Failure;
use crate::cli::executions::patiently;
use crate::cli::fleet::Fleet;
use crate::cli::tempo::Tempo;
use crate::config::Config;
use crate::lifecycle::Record;
use crate::observe::events::coded;
use crate::seam::{ExecutionStanding, Fault, FaultKind, Pipelines, Standing};

/// Asks with the roles of the configured queues.
pub(super) struct Inquiry {
    fleet: Fleet,
    tempo: Tempo,
}

impl Inquiry {
    pub(super) async fn new(config: Config) -> Result<Self, Failure> {
        let clients = Clients::new(config.aws.clone(), "command", Arc::new(()));
        Ok(Self { fleet: Fleet::of(config, None, &clients).await?, tempo: Tempo::new() })
    }

    /// Where the step stands, or why that is not known.
    pub(super) async fn step(&mut self, record: &Record) -> Result<Standing, String> {
        self.tempo.turn(1).await;
        let sagemaker = self.sagemaker(record)?;
        let asked = patiently(async || sagemaker.step(&record.execution, &record.token).await);
        asked.await.map_err(|fault| unanswered(&fault))
    }

    /// Where its execution stands, or why that is not known.
    pub(super) async fn execution(&mut self, record: &Record) -> Result<ExecutionStanding, String> {
        self.tempo.turn(1).await;
        let sagemaker = self.sagemaker(record)?;
        let asked = patiently(async || sagemaker.execution(&record.execution).await);
        asked.await.map_err(|fault| unanswered(&fault))
    }

    fn sagemaker(&self, record: &Record) -> Result<&SageMaker, String> {
        let execution = &record.execution;
        self.fleet.place_of(execution).map(|place| &place.sagemaker).ok_or_else(|| {
            format!(
                "no configured queue belongs to the region {} and the account {} of its execution: \
                 configure one, or its `accounts`",
                execution.region(),
                execution.account()
            )
        })
    }
}

fn unanswered(fault: &Fault) -> String {
    let event = match fault.kind {
        FaultKind::Denied => "access_denied",
        FaultKind::Misconfigured => "aws_misconfigured",
        FaultKind::Transient | FaultKind::Refused | FaultKind::Stale => "aws_unreachable",
    };
    coded(format_args!("SageMaker did not say where it stands: {fault}"), event)
}
