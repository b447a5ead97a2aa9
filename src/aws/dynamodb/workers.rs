//! The records of the workers that share the table.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use futures_util::future::BoxFuture;

use super::DynamoDb;
use super::items::{self, DUE, EXPIRES, ID, Item, SHARD, VERSION};
use crate::aws::calls::Limit;
use crate::ledger::store::{Member, Put, StoreError, Worker, Workers};
use crate::lifecycle::WorkerId;
use crate::step::CallbackToken;

/// The steps whose stops a worker has not been told of. An empty set does not exist in DynamoDB.
const STOPS: &str = "stops";

/// How the keys of workers' records begin.
const PREFIX: &str = "worker#";

/// Their shard of the index, in which no steps are.
const WORKERS: &str = "workers";

/// How long the record of a dead worker is kept: far more than the longest lease, so that no clock
/// is wrong enough to end a lease by it.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// What a worker tells the others. It has the name of an attribute of steps, because lists read
/// only those.
const NOTICE: &str = "body";

fn worker_id(worker: &WorkerId) -> AttributeValue {
    items::text(format!("{PREFIX}{}", worker.0))
}

fn notice(item: &Item) -> String {
    items::string(item, NOTICE).unwrap_or_default().to_owned()
}

fn stops(item: &Item) -> BTreeSet<CallbackToken> {
    let stops = item.get(STOPS).and_then(|stops| stops.as_ss().ok());
    stops.into_iter().flatten().filter_map(|token| token.parse().ok()).collect()
}

impl Workers for DynamoDb {
    fn worker<'a>(
        &'a self,
        worker: &'a WorkerId,
    ) -> BoxFuture<'a, Result<Option<Worker>, StoreError>> {
        Box::pin(async move {
            let id = format!("{PREFIX}{}", worker.0);
            let item = self.item(&id).await.map_err(|failed| self.error(&failed))?;
            let Some(item) = item else { return Ok(None) };
            let version = items::integer(&item, VERSION).map_err(|detail| {
                StoreError(format!("the record of the worker {worker} cannot be read: {detail}"))
            })?;
            Ok(Some(Worker { version, stops: stops(&item), notice: notice(&item) }))
        })
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<Member>, StoreError>> {
        Box::pin(async move {
            let mut all = Vec::new();
            let mut after = None;
            loop {
                let ask = || self.shard(WORKERS).set_exclusive_start_key(after.clone()).send();
                let answer = self
                    .tried("Query", Limit::ANSWER, ask)
                    .await
                    .map_err(|failed| self.error(&failed))?;
                for item in answer.items.unwrap_or_default() {
                    let item: Item = item.into_iter().collect();
                    let id = items::string(&item, ID).and_then(|id| id.strip_prefix(PREFIX));
                    // One that cannot be read is of another version, and not ours to judge.
                    if let (Some(id), Ok(version)) = (id, items::integer(&item, VERSION)) {
                        let id = WorkerId(id.into());
                        all.push(Member { id, version, notice: notice(&item) });
                    }
                }
                after = answer.last_evaluated_key;
                if after.is_none() {
                    return Ok(all);
                }
            }
        })
    }

    fn renew<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: Option<u64>,
        told: BTreeSet<CallbackToken>,
        notice: String,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<CallbackToken>>, StoreError>> {
        Box::pin(async move {
            let renew = || {
                let mut change =
                    "SET #version = :next, #expires = :expires, #shard = :shard, #due = :due, \
                     #notice = :notice"
                        .to_owned();
                let mut update = self
                    .client
                    .update_item()
                    .table_name(self.name())
                    .key(ID, worker_id(worker))
                    .expression_attribute_names("#version", VERSION)
                    .expression_attribute_names("#expires", EXPIRES)
                    .expression_attribute_names("#shard", SHARD)
                    .expression_attribute_names("#due", DUE)
                    .expression_attribute_names("#notice", NOTICE)
                    .expression_attribute_values(":notice", items::text(notice.as_str()))
                    .expression_attribute_values(":shard", items::text(WORKERS))
                    .expression_attribute_values(":due", items::number(0))
                    .expression_attribute_values(":next", items::number(expected.unwrap_or(0) + 1))
                    .expression_attribute_values(":expires", self.expiry(KEPT))
                    .return_values(ReturnValue::AllNew);
                if !told.is_empty() {
                    change += " DELETE #stops :told";
                    let told = told.iter().map(ToString::to_string).collect();
                    update = update
                        .expression_attribute_names("#stops", STOPS)
                        .expression_attribute_values(":told", AttributeValue::Ss(told));
                }
                update = match expected {
                    Some(version) => update
                        .condition_expression("#version = :expected")
                        .expression_attribute_values(":expected", items::number(version)),
                    None => update.condition_expression("attribute_not_exists(#version)"),
                };
                update.update_expression(change).send()
            };
            // Sent once: the lease knows what to do if it is not answered, and how long it can
            // wait.
            match self.calls.send("UpdateItem", self.limit, renew()).await {
                Ok(answer) => {
                    let item: Item = answer.attributes.unwrap_or_default().into_iter().collect();
                    Ok(Some(stops(&item)))
                }
                Err(failed) if failed.failure.is_condition() => Ok(None),
                Err(failed) => Err(self.error(&failed)),
            }
        })
    }

    fn fence<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: u64,
    ) -> BoxFuture<'a, Result<Put, StoreError>> {
        Box::pin(async move {
            let delete = || {
                self.client
                    .delete_item()
                    .table_name(self.name())
                    .key(ID, worker_id(worker))
                    .condition_expression("#version = :expected OR attribute_not_exists(#version)")
                    .expression_attribute_names("#version", VERSION)
                    .expression_attribute_values(":expected", items::number(expected))
                    .send()
            };
            match self.tried("DeleteItem", self.limit, delete).await {
                Ok(_) => Ok(Put::Done),
                Err(failed) if failed.failure.is_condition() => Ok(Put::Changed),
                Err(failed) => Err(self.error(&failed)),
            }
        })
    }

    fn flag<'a>(
        &'a self,
        worker: &'a WorkerId,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let flag = || {
                self.client
                    .update_item()
                    .table_name(self.name())
                    .key(ID, worker_id(worker))
                    .update_expression("ADD #stops :stop")
                    .condition_expression("attribute_exists(#version)")
                    .expression_attribute_names("#stops", STOPS)
                    .expression_attribute_names("#version", VERSION)
                    .expression_attribute_values(
                        ":stop",
                        AttributeValue::Ss(vec![token.to_string()]),
                    )
                    .send()
            };
            match self.tried("UpdateItem", self.limit, flag).await {
                // It has no record any more, so nobody is there to be told.
                Err(failed) if !failed.failure.is_condition() => Err(self.error(&failed)),
                _ => Ok(()),
            }
        })
    }
}
