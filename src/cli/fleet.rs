//! The configured queues, and where the pipelines are that send to them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Failure;
use crate::aws::{Clients, NoEndpoint, SageMaker, Sqs};
use crate::config::Config;
use crate::ledger::Kind;
use crate::seam::{ExternalId, Role};
use crate::step::{ExecutionArn, QueueUrl};

/// The configured queues, and SageMaker at their pipelines.
pub(super) struct Fleet {
    pub queues: Vec<OurQueue>,
    pub places: Vec<Place>,
}

/// One configured queue.
pub(super) struct OurQueue {
    pub queue: Sqs,
    /// Whether no worker with another ledger reads it: a ledger that workers share is all of
    /// theirs.
    pub exclusive: bool,
    pub visibility_timeout: Duration,
}

/// SageMaker in one region, as one role.
pub(super) struct Place {
    pub sagemaker: SageMaker,
    role: Option<String>,
    external_id: Option<ExternalId>,
    /// Whose pipelines are there.
    accounts: BTreeSet<String>,
}

impl Fleet {
    /// The configured queues, or the one of this name.
    pub(super) async fn of(
        config: Config,
        only: Option<&str>,
        clients: &Clients,
    ) -> Result<Self, Failure> {
        let names: BTreeSet<&str> = config.queues.iter().map(|queue| queue.url.name()).collect();
        if let Some(name) = only.filter(|name| !names.contains(name)) {
            let have: Vec<&str> = names.into_iter().collect();
            let have = have.join(", ");
            return Err(Failure::Runtime(format!(
                "no queue {name:?} is configured; there are: {have}"
            )));
        }
        let shared = config.ledger.kind == Kind::Dynamodb;
        let mut fleet = Self { queues: Vec::new(), places: Vec::new() };
        for queue in &config.queues {
            if only.is_some_and(|name| queue.url.name() != name) {
                continue;
            }
            let (region, role) = (queue.region.as_deref(), queue.role());
            fleet.queues.push(OurQueue {
                queue: clients.queue(&queue.url, region, role).await?,
                exclusive: shared || queue.exclusive,
                visibility_timeout: queue.visibility_timeout,
            });
            let region = region.or_else(|| queue.url.region());
            let of_role = role.and_then(|role| role.arn.split(':').nth(4));
            let own = (of_role.unwrap_or(queue.url.account()), None);
            for (account, other) in [own].into_iter().chain(queue.accounts.iter()) {
                fleet.add(clients, region, other.or(role), account).await?;
            }
        }
        Ok(fleet)
    }

    async fn add(
        &mut self,
        clients: &Clients,
        region: Option<&str>,
        role: Option<Role<'_>>,
        account: &str,
    ) -> Result<(), NoEndpoint> {
        let sagemaker = clients.pipelines(region, role).await?;
        let same = |place: &&mut Place| {
            place.sagemaker.region() == sagemaker.region() && place.role() == role
        };
        match self.places.iter_mut().find(same) {
            Some(place) => drop(place.accounts.insert(account.to_owned())),
            None => self.places.push(Place {
                sagemaker,
                role: role.map(|role| role.arn.to_owned()),
                external_id: role.and_then(|role| role.external_id.cloned()),
                accounts: BTreeSet::from([account.to_owned()]),
            }),
        }
        Ok(())
    }

    /// Where the execution is, if a configured queue belongs to its region and account.
    pub(super) fn place_of(&self, execution: &ExecutionArn) -> Option<&Place> {
        self.places.iter().find(|place| place.has(execution.region(), execution.account()))
    }

    /// Which of the queues has this URL, in any spelling.
    pub(super) fn queue_of(&self, url: &QueueUrl) -> Option<usize> {
        self.queues.iter().position(|ours| ours.queue.url().is_same_queue(url))
    }
}

impl Place {
    fn role(&self) -> Option<Role<'_>> {
        let arn = self.role.as_deref()?;
        Some(Role { arn, external_id: self.external_id.as_ref() })
    }

    /// Whether a pipeline of this region and account can be there.
    pub(super) fn has(&self, region: &str, account: &str) -> bool {
        self.sagemaker.region() == region && self.accounts.contains(account)
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        let role = self.role.as_ref().map(|role| format!(" as {role}")).unwrap_or_default();
        format!("{}{role}", self.sagemaker.region())
    }
}
