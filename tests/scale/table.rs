//! The fleet's table as one process has it open: what each call on the ledger's storage would take
//! of DynamoDB.
//!
//! The rows are in memory. Requests are those of `src/aws/dynamodb/`: an item's are sent up to
//! three times if they are throttled, a renewal once; a list of one part takes a query, one of all
//! a query for each part, and each further page one more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use callbackd::ledger::store::{
    Age, Commit, Damaged, Head, Member, PARTS, Page, Put, Query, Row, Store, StoreError, Worker,
    Workers, part,
};
use callbackd::lifecycle::WorkerId;
use callbackd::step::CallbackToken;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::capacity::Touches;
use crate::steps::Kind;
use crate::units::{self, Units};
use crate::worker::Life;

/// What a request takes.
const LATENCY: Duration = Duration::from_millis(5);
const TRIES: u32 = 3;
/// The shard of the index that has the workers.
const WORKERS: &str = "workers";
/// How the meter calls the requests that DynamoDB has refused.
pub const THROTTLED: &str = "requests that DynamoDB throttled";

#[derive(Clone)]
pub struct Table(pub Arc<Life>);

type Stored<T> = Result<T, StoreError>;

impl Table {
    /// One request, sent again if it is throttled.
    async fn send<T>(
        &self,
        operation: &'static str,
        touches: Touches,
        tries: u32,
        act: impl FnOnce(&Self) -> Stored<(T, Units)>,
    ) -> Stored<T> {
        let (life, world) = (&self.0, &self.0.world);
        for tried in 1..=tries {
            life.lives().await;
            world.call(operation);
            life.sleep(LATENCY).await;
            if world.admits(touches) {
                let (done, units) = act(self)?;
                world.charge(touches, units);
                return Ok(done);
            }
            world.call(THROTTLED);
            if tried < tries {
                life.sleep(Duration::from_millis(25 + world.draw(75 * u64::from(tried)))).await;
            }
        }
        Err(StoreError("throttled".to_owned()))
    }

    fn row(&self, token: &CallbackToken) -> Option<Row> {
        self.now(self.0.world.held.get(token)).ok().flatten()?.ok()
    }

    /// Memory does not wait.
    #[expect(clippy::unused_self, reason = "reads as what it is about")]
    fn now<T>(&self, stored: BoxFuture<'_, Stored<T>>) -> Stored<T> {
        stored.now_or_never().expect("memory does not wait")
    }

    fn put_row(&self, row: &Row, expected: Option<u64>, commit: Commit) -> Stored<(Put, Units)> {
        let world = &self.0.world;
        let before = self.row(&row.head.token);
        let put = self.now(world.held.put(row.clone(), expected, commit))?;
        if put == Put::Changed {
            world.call("DynamoDB GetItem");
            world.meter(|meter| meter.count("writes that another worker had overtaken"));
            return Ok((put, Units::of_failed_put(before.as_ref())));
        }
        let units = Units::of_put(before.as_ref(), row);
        let entry = |row: &Row| units::is_indexed(row).then(|| units::index_size(row));
        world.indexed(before.as_ref().and_then(entry), entry(row));
        let is_of =
            |kind: &Kind| row.head.execution.contains(&format!(":pipeline/{}/", kind.name()));
        if let Some(kind) = Kind::ALL.into_iter().find(is_of) {
            world.meter(|meter| meter.written(kind.name(), units));
        }
        Ok((put, units))
    }

    /// A page of a list that begins here or goes on.
    async fn list<T>(
        &self,
        query: &Query,
        act: impl FnOnce(&Self) -> Stored<Page<T>>,
    ) -> Stored<Page<T>> {
        let all = query.after.is_none() && query.part.is_none();
        let requests = if all { PARTS } else { 1 };
        let of = |part| Touches::reads_index(query.part.unwrap_or(part));
        for part in 1..requests {
            self.send("DynamoDB Query", of(part), TRIES, |_| Ok(((), Units::of_list(1, 0))))
                .await?;
        }
        self.send("DynamoDB Query", of(0), TRIES, |table| {
            let page = act(table)?;
            let bytes = table.0.world.bytes_of(page.found.len());
            Ok((page, Units::of_list(1, bytes)))
        })
        .await
    }

    fn members(&self) -> &dyn Workers {
        self.0.world.held.workers().expect("it is shared")
    }
}

impl Store for Table {
    fn get<'a>(
        &'a self,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Stored<Option<Result<Row, Damaged>>>> {
        let touches = Touches::reads_item(token);
        Box::pin(self.send("DynamoDB GetItem", touches, TRIES, |table| {
            let found = table.row(token);
            let units = Units::of_get(found.as_ref());
            Ok((found.map(Ok), units))
        }))
    }

    fn put(
        &self,
        row: Row,
        expected: Option<u64>,
        commit: Commit,
    ) -> BoxFuture<'static, Stored<Put>> {
        let table = self.clone();
        Box::pin(async move {
            let token = &row.head.token;
            let touches = Touches::writes_item(token).and_index(part(token));
            let put = |table: &Self| table.put_row(&row, expected, commit);
            table.send("DynamoDB PutItem", touches, TRIES, put).await
        })
    }

    fn outlines(&self, query: Query) -> BoxFuture<'_, Stored<Page<Head>>> {
        Box::pin(async move {
            let asked = query.clone();
            self.list(&asked, |table| table.now(table.0.world.held.outlines(query))).await
        })
    }

    fn page(&self, query: Query) -> BoxFuture<'_, Stored<Page<Row>>> {
        Box::pin(async move {
            let asked = query.clone();
            self.list(&asked, |table| table.now(table.0.world.held.page(query))).await
        })
    }

    fn purge(&self, _: Age) -> BoxFuture<'_, Stored<usize>> {
        Box::pin(async { Ok(0) })
    }

    fn probe(&self) -> BoxFuture<'_, Stored<()>> {
        let touches = Touches::writes_item("probe");
        Box::pin(self.send("DynamoDB PutItem", touches, TRIES, |_| Ok(((), Units::of_probe()))))
    }

    fn workers(&self) -> Option<&dyn Workers> {
        Some(self)
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }
}

impl Workers for Table {
    fn worker<'a>(&'a self, worker: &'a WorkerId) -> BoxFuture<'a, Stored<Option<Worker>>> {
        let touches = Touches::reads_item(worker);
        Box::pin(self.send("DynamoDB GetItem", touches, TRIES, |table| {
            Ok((table.now(table.members().worker(worker))?, Units::of_worker()))
        }))
    }

    fn all(&self) -> BoxFuture<'_, Stored<Vec<Member>>> {
        Box::pin(self.send("DynamoDB Query", Touches::reads_index(WORKERS), TRIES, |table| {
            let all = table.now(table.members().all())?;
            let units = Units::of_workers(all.iter().map(|member| member.notice.len()));
            Ok((all, units))
        }))
    }

    fn renew<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: Option<u64>,
        told: BTreeSet<CallbackToken>,
        notice: String,
    ) -> BoxFuture<'a, Stored<Option<BTreeSet<CallbackToken>>>> {
        let touches = Touches::writes_item(worker).and_index(WORKERS);
        Box::pin(self.send("DynamoDB UpdateItem", touches, 1, move |table| {
            let units = Units::of_renewal(notice.len());
            let notice = notice.clone();
            let renewed = table.now(table.members().renew(worker, expected, told, notice))?;
            table.0.world.meter(|meter| meter.count("renewals of workers' leases"));
            Ok((renewed, units))
        }))
    }

    fn fence<'a>(&'a self, worker: &'a WorkerId, expected: u64) -> BoxFuture<'a, Stored<Put>> {
        let touches = Touches::writes_item(worker).and_index(WORKERS);
        Box::pin(self.send("DynamoDB DeleteItem", touches, TRIES, move |table| {
            Ok((table.now(table.members().fence(worker, expected))?, Units::of_renewal(0)))
        }))
    }

    fn flag<'a>(
        &'a self,
        worker: &'a WorkerId,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Stored<()>> {
        let touches = Touches::writes_item(worker);
        Box::pin(self.send("DynamoDB UpdateItem", touches, TRIES, move |table| {
            Ok((table.now(table.members().flag(worker, token))?, Units::of_flag()))
        }))
    }
}
