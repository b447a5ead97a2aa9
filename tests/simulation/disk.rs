//! A ledger's storage: its content outlives the process, and its writes fail before or after they
//! took effect.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use callbackd::clock::Clock;
use callbackd::ledger::Memory;
use callbackd::ledger::store::{
    Age, Commit, Damaged, Head, Member, Page, Put, Query, Row, Store, StoreError, Worker, Workers,
};
use callbackd::lifecycle::WorkerId;
use callbackd::step::CallbackToken;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::time::sleep;

use crate::dates::Service;
use crate::hardship::Trouble;
use crate::judge::Seen;
use crate::life::Life;

/// What a call on the storage held comes to.
type BoxOf<T> = BoxFuture<'static, Result<T, StoreError>>;

/// The storage as one process has it open.
#[derive(Clone)]
pub struct Disk {
    pub held: Memory,
    pub life: Arc<Life>,
    /// How likely a call fails.
    pub trouble: f64,
    /// Who keeps the storage, if workers share it.
    pub service: Option<Service>,
}

impl Disk {
    async fn call<T>(
        &self,
        what: &'static str,
        act: impl FnOnce() -> BoxOf<T>,
    ) -> Result<T, StoreError> {
        let (world, asked) = (self.life.world.clone(), self.life.world.passed());
        // No storage answers at once: earlier calls go first.
        tokio::task::yield_now().await;
        self.life.cross(&format!("{what}, before")).await;
        let troubled = world.has_faults() && world.chance(self.trouble);
        let kind = if troubled { world.draw(3) } else { 3 };
        self.spell(what).await?;
        if troubled {
            let how = ["fails", "is slow", "fails after it was done"]
                [usize::try_from(kind).expect("small")];
            world.note(&format!("{} {what} {how}", self.life.name()));
        }
        if kind == 0 {
            world.count(&format!("fault: {what} fails before"));
            return Err(StoreError("disk full".to_owned()));
        }
        if kind == 1 {
            world.count(&format!("fault: {what} is slow"));
            sleep(Duration::from_millis(world.draw(20_000))).await;
            self.life.cross(&format!("{what}, before")).await;
        }
        let done = act().await;
        let date = self.service.as_ref().map(Service::date);
        self.life.cross(&format!("{what}, after")).await;
        if kind == 2 {
            world.count(&format!("fault: {what} fails after"));
            return Err(StoreError("I/O error".to_owned()));
        }
        if let (Some(service), Some(date)) = (&self.service, date) {
            service.answers(date, asked);
        }
        done
    }

    /// What a writing call meets while another process holds the storage, or it accepts no more.
    async fn spell(&self, what: &'static str) -> Result<(), StoreError> {
        let world = &self.life.world;
        if !["put", "probe", "purge", "renew", "fence", "flag"].contains(&what) {
            return Ok(());
        }
        if world.is_in(Trouble::LedgerRefuses) {
            world.count("spell: LedgerRefuses");
            return Err(StoreError("no space is left on the device".to_owned()));
        }
        if world.is_in(Trouble::LedgerWaits) {
            world.count("spell: LedgerWaits");
            while world.is_in(Trouble::LedgerWaits) {
                sleep(Duration::from_secs(1)).await;
            }
            self.life.cross("put, before").await;
        }
        Ok(())
    }

    /// Tells the judge what is asked of the storage.
    fn asked(&self, row: &Row) {
        let (worker, token) = (self.life.worker, row.head.token.to_string());
        if row.head.status == "claimed" {
            self.life.see(&Seen::Claiming { worker, token });
        }
    }

    /// Tells the judge what has just become durable.
    fn durable(&self, row: &Row, asked: Duration) {
        let mut record: Value = serde_json::from_str(&row.body).expect("a record");
        // The body leaves out what its head says.
        record["status"] = row.head.status.as_ref().into();
        let (ledger, token) = (self.life.worker.ledger, row.head.token.to_string());
        self.life.world.limits(self.life.worker, &token, &record, asked);
        self.life.world.judged(ledger, &token, &record);
        // A settled step may be known to have come back, by a message that is asked about.
        if row.head.status != "settled"
            || record.get("returned").is_some_and(|returned| !returned.is_null())
        {
            self.life.see(&Seen::Recorded { ledger, token: token.clone() });
        }
        self.life.world.note(&format!(
            "{} wrote {} {} {}",
            self.life.name(),
            token,
            row.head.version,
            row.head.status
        ));
        self.life.world.count(&format!("path: written as {}", row.head.status));
        if row.head.status == "settled" {
            if record["ending"] == "answered_by_handler" {
                self.life.world.count("path: a step answered by its handler");
            }
            // What it was settled with was told before; and if its token has come back, it says
            // nothing of that.
            return;
        }
        if !record["stop_requested"].is_null() {
            self.life.see(&Seen::StopKnown { ledger, token: token.clone() });
        }
        if row.head.status == "deferred" {
            self.life.see(&Seen::Deferred { ledger, token: token.clone() });
        }
        if !record["outcome"].is_null() {
            self.life.see(&Seen::Concluded { ledger, token });
        }
    }
}

impl Store for Disk {
    fn get<'a>(
        &'a self,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<Option<Result<Row, Damaged>>, StoreError>> {
        let (held, token) = (self.held.clone(), token.clone());
        Box::pin(self.call("get", move || Box::pin(async move { held.get(&token).await })))
    }

    fn put(
        &self,
        row: Row,
        expected: Option<u64>,
        commit: Commit,
    ) -> BoxFuture<'static, Result<Put, StoreError>> {
        let disk = self.clone();
        Box::pin(async move {
            let written = row.clone();
            disk.asked(&written);
            let asked = disk.life.world.passed();
            let disk = &disk;
            disk.call("put", move || {
                let before = futures_util::FutureExt::now_or_never(disk.held.get(&row.head.token))
                    .expect("memory does not wait");
                let was_settled =
                    matches!(before, Ok(Some(Ok(before))) if before.head.status == "settled");
                let put =
                    futures_util::FutureExt::now_or_never(disk.held.put(row, expected, commit))
                        .expect("memory does not wait");
                if put == Ok(Put::Done) {
                    if was_settled && written.head.status != "settled" {
                        let (ledger, token) =
                            (disk.life.worker.ledger, written.head.token.to_string());
                        disk.life.see(&Seen::TakenUpAgain { ledger, token });
                    }
                    disk.durable(&written, asked);
                } else {
                    disk.life.world.count("path: a write lost to another");
                }
                Box::pin(std::future::ready(put))
            })
            .await
        })
    }

    fn outlines(&self, query: Query) -> BoxFuture<'_, Result<Page<Head>, StoreError>> {
        let held = self.held.clone();
        Box::pin(self.call("list", move || Box::pin(async move { held.outlines(query).await })))
    }

    fn page(&self, query: Query) -> BoxFuture<'_, Result<Page<Row>, StoreError>> {
        let held = self.held.clone();
        Box::pin(self.call("list", move || Box::pin(async move { held.page(query).await })))
    }

    fn purge(&self, age: Age) -> BoxFuture<'_, Result<usize, StoreError>> {
        let held = self.held.clone();
        Box::pin(self.call("purge", move || Box::pin(async move { held.purge(age).await })))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.call("probe", move || Box::pin(std::future::ready(Ok(())))))
    }

    fn changes_from_outside(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.held.changes_from_outside()
    }

    fn workers(&self) -> Option<&dyn Workers> {
        self.held.workers().map(|_| self as &dyn Workers)
    }

    fn clock(&self) -> Option<Clock> {
        self.service.as_ref().map(Service::clock)
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        self.held.ended()
    }
}

impl Workers for Disk {
    fn worker<'a>(
        &'a self,
        worker: &'a WorkerId,
    ) -> BoxFuture<'a, Result<Option<Worker>, StoreError>> {
        let (held, worker) = (self.held.clone(), worker.clone());
        Box::pin(self.call("look at a worker", move || {
            Box::pin(async move { members(&held).worker(&worker).await })
        }))
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<Member>, StoreError>> {
        let held = self.held.clone();
        Box::pin(
            self.call("list workers", move || Box::pin(async move { members(&held).all().await })),
        )
    }

    fn renew<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: Option<u64>,
        told: BTreeSet<CallbackToken>,
        notice: String,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<CallbackToken>>, StoreError>> {
        let (held, worker) = (self.held.clone(), worker.clone());
        let world = self.life.world.clone();
        Box::pin(self.call("renew", move || {
            Box::pin(async move {
                let renewed = members(&held).renew(&worker, expected, told, notice).await;
                match &renewed {
                    Ok(None) => world.count("path: a renewal that is not accepted"),
                    Ok(Some(stops)) if !stops.is_empty() => {
                        world.count("path: a renewal that tells of stops");
                    }
                    Ok(Some(_)) | Err(_) => {}
                }
                renewed
            })
        }))
    }

    fn fence<'a>(
        &'a self,
        worker: &'a WorkerId,
        expected: u64,
    ) -> BoxFuture<'a, Result<Put, StoreError>> {
        let (held, worker) = (self.held.clone(), worker.clone());
        let world = self.life.world.clone();
        Box::pin(self.call("fence", move || {
            Box::pin(async move {
                world.count("path: a worker is fenced");
                members(&held).fence(&worker, expected).await
            })
        }))
    }

    fn flag<'a>(
        &'a self,
        worker: &'a WorkerId,
        token: &'a CallbackToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (held, worker, token) = (self.held.clone(), worker.clone(), token.clone());
        Box::pin(self.call("flag", move || {
            Box::pin(async move { members(&held).flag(&worker, &token).await })
        }))
    }
}

fn members(held: &Memory) -> &dyn Workers {
    held.workers().expect("it is shared")
}
