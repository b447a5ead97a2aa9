//! The ledger in an Amazon DynamoDB table, which a fleet of workers shares.
//!
//! One table holds an item for each step, by its callback token, and one for each worker. Every
//! write is conditional on the version that was read, and durable in several places once it is
//! answered. What each request costs, in DynamoDB's units (a write: one for each KB of the item,
//! and the same again for the index while the step is unsettled; a consistent read: one for each 4
//! KB, others half):
//!
//! | request | costs |
//! |---|---|
//! | `get` | one consistent read; of arguments over 100 KiB, one more for each 350 KiB |
//! | `put` | one write; if its condition fails, also one consistent read; once at first and once at the end, one write for each 350 KiB of arguments over 100 KiB |
//! | a list of unsettled steps | one query for each of the index's shards and MB: what is read is what is unsettled |
//! | a list with settled steps | a scan of the whole table |
//! | `worker`, `renew`, `fence`, `flag` | one consistent read, or one write, of a small item |
//! | `all` workers | one query of the index |
//! | `purge` | nothing: DynamoDB removes what has expired, at no charge |
//!
//! Single records are read consistently. Lists are eventually consistent: a step that changes while
//! it is listed may appear as it was before, twice, or not at all. That is enough, because each
//! record is read before someone acts on it, and lists are made again and again.
//!
//! A request whose answer is lost may have taken effect. Each is therefore sent again as it was,
//! and a write whose condition then fails is compared with what is stored: if that is what was to
//! be written, by this process, it is done.

mod arguments;
mod dates;
mod definition;
mod items;
mod lists;
mod rights;
mod workers;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use self::arguments::{Place, Places};
use self::dates::Dates;
pub use self::definition::Created;
use self::items::{ARGUMENTS, ID, Item, VERSION};
use super::account::Account;
use super::calls::{Calls, Failed, Limit};
use crate::backoff::Backoff;
use crate::clock::{Clock, ServiceClock, Source};
use crate::ledger::store::{
    Age, Commit, Damaged, Head, Page, Put, Query, Row, Store, StoreError, Workers,
};
use crate::seam::{FaultKind, Observation, Observer};
use crate::step::CallbackToken;

/// The index of unsettled steps.
pub(super) const INDEX: &str = "unsettled";

/// How often a request is sent that was not answered, or was throttled. All of it is over before a
/// worker with the default lease could lose its claims.
const TRIES: u32 = 3;
const PAUSE: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));

/// The table cannot be used as a ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger's table {table} in {region}: {problem}")]
pub struct Unusable {
    table: String,
    region: String,
    problem: String,
}

/// A ledger's table in one region. Cheap to clone.
#[derive(Clone)]
pub struct DynamoDb {
    /// For single items.
    client: Client,
    /// For tables and lists, which take longer.
    tables: Client,
    calls: Calls,
    observer: Arc<dyn Observer>,
    clock: ServiceClock,
    table: Arc<str>,
    region: Arc<str>,
    retention: Duration,
    places: Places,
    /// Of calls for single items.
    limit: Limit,
}

impl DynamoDb {
    pub(super) fn new(account: &Account, table: &str, retention: Duration) -> Self {
        let clock = ServiceClock::of_this_machine();
        let dated = |client: &Client| {
            let config = client.config().to_builder().interceptor(Dates(clock.clone()));
            Client::from_conf(config.build())
        };
        Self {
            client: dated(&account.items),
            tables: dated(&account.tables),
            calls: account.calls("dynamodb"),
            observer: account.observer.clone(),
            clock,
            table: table.into(),
            region: account.region.as_str().into(),
            retention,
            places: Places::default(),
            limit: Limit::LEDGER,
        }
    }

    /// The same table for a worker whose lease is this long: the longer it is, the longer a call
    /// may take.
    #[must_use]
    pub fn for_lease(self, lease: Duration) -> Self {
        let limit = Limit::of_lease(lease);
        let config = self.client.config().to_builder().timeout_config(limit.of_the_sdk());
        Self { client: Client::from_conf(config.build()), limit, ..self }
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.table
    }

    /// The table's region.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The time that DynamoDB's answers name; before the first one, what the wall clock shows.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    /// Checks that it is a ledger's table, and can be written.
    ///
    /// # Errors
    /// [`Unusable`], which says what to do.
    pub async fn open(&self) -> Result<(), Unusable> {
        match self.look().await {
            Ok(Some(look)) if !look.flaws.is_empty() => return Err(self.flawed(&look.flaws)),
            Ok(Some(look)) if !look.active => {
                return Err(self.broken("is not active yet: start again in a minute"));
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                return Err(self.broken(
                    "does not exist: create it with `callbackd ledger create`, or correct \
                     ledger.table and aws.region",
                ));
            }
            Err(failed) => {
                let fault = failed.failure.fault(failed.operation);
                if fault.kind != FaultKind::Denied {
                    return Err(self.unusable(&failed));
                }
                tracing::warn!(
                    event = "table_not_checked",
                    table = self.name(),
                    why = fault.detail,
                    "the ledger's table cannot be checked: allow dynamodb:DescribeTable"
                );
            }
        }
        self.try_write().await.map_err(|failed| self.unusable(&failed))?;
        if !self.clock.is_told() {
            tracing::warn!(
                event = "table_time_missing",
                table = self.name(),
                "the table's answers name no time, so limits and waits in it are by this machine's \
                 wall clock: keep the clocks of all its workers right, or find what removes the \
                 answers' Date header"
            );
        }
        Ok(())
    }

    async fn try_write(&self) -> Result<(), Failed> {
        let probe = || {
            let put = self.client.put_item().table_name(self.name());
            put.item(ID, items::text("probe")).send()
        };
        self.tried("PutItem", self.limit, probe).await.map(drop)
    }

    /// A row's item, and the place of its arguments if they are not in it.
    fn item_of(&self, row: &Row) -> (Item, Option<Place>) {
        let mut item = items::item(row, self.retention);
        let place = row.arguments.as_deref().and_then(Place::of);
        if let Some(place) = &place {
            item.remove(ARGUMENTS);
            place.name_in(&mut item);
        }
        (item, place)
    }

    async fn write(&self, row: Row, expected: Option<u64>) -> Result<Put, StoreError> {
        let (item, place) = self.item_of(&row);
        let token = &row.head.token;
        let kept = match place {
            None => self.expire_arguments(token).await,
            Some(place) => {
                let arguments = row.arguments.as_deref().unwrap_or_default();
                self.keep_arguments(token, &place, arguments).await
            }
        };
        kept.map_err(|failed| self.error(&failed))?;
        let size = items::size(&item);
        if size > items::MAX_ITEM {
            return Err(too_large(&row, size));
        }
        let began = Instant::now();
        let put = || {
            let put = self.client.put_item().table_name(self.name());
            let put = put.set_item(Some(item.clone().into_iter().collect()));
            let put = match expected {
                Some(version) => put
                    .condition_expression("#version = :expected")
                    .expression_attribute_names("#version", VERSION)
                    .expression_attribute_values(":expected", items::number(version)),
                None => put
                    .condition_expression("attribute_not_exists(#id)")
                    .expression_attribute_names("#id", ID),
            };
            put.send()
        };
        match self.tried("PutItem", self.limit, put).await {
            Ok(_) => {
                self.observer.observe(Observation::LedgerCommit { took: began.elapsed() });
                Ok(Put::Done)
            }
            Err(failed) if failed.failure.is_condition() => {
                let found = self.read(&row.head.token).await?;
                Ok(if found == Some(Ok(row)) { Put::Done } else { Put::Changed })
            }
            Err(failed) => Err(self.error(&failed)),
        }
    }

    async fn read(
        &self,
        token: &CallbackToken,
    ) -> Result<Option<Result<Row, Damaged>>, StoreError> {
        let item = self.item(&items::step_id(token)).await.map_err(|failed| self.error(&failed))?;
        let Some(item) = item else { return Ok(None) };
        let (row, place) = match (items::row(&item), Place::from(&item)) {
            (Ok(row), Some(place)) => (row, place),
            (row, _) => return Ok(Some(row)),
        };
        let found = self.arguments(token, &place).await.map_err(|failed| self.error(&failed))?;
        Ok(Some(match found {
            Some(arguments) => Ok(Row { arguments: Some(arguments), ..row }),
            None => Err(Damaged {
                token: Some(token.to_string()),
                detail: "its arguments are not in the table any more".to_owned(),
            }),
        }))
    }

    /// An item, with everything that was ever written to it.
    pub(super) async fn item(&self, id: &str) -> Result<Option<Item>, Failed> {
        let get = || {
            let get = self.client.get_item().table_name(self.name());
            get.key(ID, items::text(id)).consistent_read(true).send()
        };
        let answer = self.tried("GetItem", self.limit, get).await?;
        Ok(answer.item.map(|item| item.into_iter().collect()))
    }

    /// Sends a request up to [`TRIES`] times, until it is answered.
    async fn tried<T, E, F>(
        &self,
        operation: &'static str,
        limit: Limit,
        make: impl Fn() -> F,
    ) -> Result<T, Failed>
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let mut tries = 1;
        loop {
            match self.calls.send(operation, limit, make()).await {
                Err(failed) if tries < TRIES && failed.kind() == FaultKind::Transient => {
                    sleep(PAUSE.after(tries, fastrand::f64())).await;
                    tries += 1;
                }
                ended => return ended,
            }
        }
    }

    /// The moment, in seconds since 1970, after which an item may be removed that is not needed
    /// `after` this long.
    fn expiry(&self, after: Duration) -> AttributeValue {
        items::number(items::expiry(self.now(), after))
    }

    fn error(&self, failed: &Failed) -> StoreError {
        StoreError(self.unusable(failed).to_string())
    }

    fn unusable(&self, failed: &Failed) -> Unusable {
        let fault = failed.failure.fault(failed.operation);
        let detail = &fault.detail;
        if failed.failure.is_not_found() {
            return self.broken(&format!(
                "does not exist ({detail}): create it with `callbackd ledger create`, or correct \
                 ledger.table and aws.region"
            ));
        }
        let operation = failed.operation;
        let of_what = if operation == "Query" { "its indexes" } else { "it" };
        self.broken(&match fault.kind {
            FaultKind::Denied => {
                format!("not allowed: {detail}: allow dynamodb:{operation} on {of_what}")
            }
            FaultKind::Misconfigured => format!(
                "wrongly configured: {detail}: check the keys, the profile, the role and the \
                 endpoint"
            ),
            FaultKind::Transient => {
                format!(
                    "no answer that counts: {detail}: check the network, the endpoint and limits"
                )
            }
            FaultKind::Refused | FaultKind::Stale => {
                format!("{detail}: `callbackd check --online` says whether it is a ledger's table")
            }
        })
    }

    fn broken(&self, problem: &str) -> Unusable {
        let (table, region) = (self.table.to_string(), self.region.to_string());
        Unusable { table, region, problem: problem.to_owned() }
    }
}

fn too_large(row: &Row, size: usize) -> StoreError {
    let bytes = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    StoreError(format!(
        "the record of the step {} has {size} bytes, and an item of DynamoDB at most {}: its \
         checkpoint has {}, the rest {}",
        row.head.token,
        items::MAX_ITEM,
        bytes(&row.checkpoint),
        row.body.len(),
    ))
}

impl Store for DynamoDb {
    fn get<'a>(
        &'a self,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Option<Result<Row, Damaged>>, StoreError>> {
        Box::pin(self.read(token))
    }

    fn put(
        &self,
        row: Row,
        expected: Option<u64>,
        _: Commit,
    ) -> BoxFuture<'static, Result<Put, StoreError>> {
        let table = self.clone();
        Box::pin(async move { table.write(row, expected).await })
    }

    fn outlines(&self, query: Query) -> BoxFuture<'_, Result<Page<Head>, StoreError>> {
        Box::pin(async move { self.select(&query, |row| row.head).await })
    }

    fn page(&self, query: Query) -> BoxFuture<'_, Result<Page<Row>, StoreError>> {
        Box::pin(async move { self.select(&query, |row| row).await })
    }

    fn purge(&self, _: Age) -> BoxFuture<'_, Result<usize, StoreError>> {
        // Settled items carry the time of their removal.
        Box::pin(async { Ok(0) })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { self.try_write().await.map_err(|failed| self.error(&failed)) })
    }

    fn room(&self) -> usize {
        items::ROOM
    }

    fn fits(&self, row: &Row) -> bool {
        let texts = [Some(&row.body), row.arguments.as_ref(), row.checkpoint.as_ref()];
        let bytes: usize = texts.into_iter().flatten().map(String::len).sum();
        // Most are far smaller, and need not be measured.
        bytes < items::ROOM || items::size(&self.item_of(row).0) <= items::MAX_ITEM
    }

    fn workers(&self) -> Option<&dyn Workers> {
        Some(self)
    }

    fn clock(&self) -> Option<Clock> {
        Some(Clock::of(Box::new(self.clock.clone())))
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }
}
