//! Examines all that a ledger holds: whether each record can be read, whether what it is selected
//! by agrees with it, and whether the lifecycle can have written it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use super::store::{Damaged, Head, Query, Row, Store, StoreError};
use super::{OpenError, Sqlite, form};
use crate::lifecycle::{Record, Status, contradictions};

/// One thing that is wrong with a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Of the record; `None` if its token cannot be read, or if it is about the whole file.
    pub token: Option<String>,
    pub status: Option<Status>,
    pub what: String,
}

/// How many records were examined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Those that cannot be read included.
    pub records: u64,
    pub statuses: BTreeMap<Status, u64>,
    pub flaws: u64,
}

/// Examines a SQLite ledger, which a daemon may have open at the same time, and calls `each` for
/// everything that is wrong. Changes nothing.
///
/// # Errors
/// [`OpenError`] if the file cannot be read as a ledger at all.
pub fn verify_file(path: &Path, each: impl FnMut(Flaw)) -> Result<Census, OpenError> {
    let examination = RefCell::new(Examination { census: Census::default(), each });
    let wrong = |what| examination.borrow_mut().tell(Flaw { token: None, status: None, what });
    Sqlite::examine(path, wrong, |row| examination.borrow_mut().look_at(row))?;
    Ok(examination.into_inner().census)
}

/// Examines all records of a store without their arguments and checkpoints, and calls `each` for
/// everything that is wrong.
///
/// # Errors
/// [`StoreError`] if they cannot be listed.
pub async fn verify(store: &dyn Store, each: impl FnMut(Flaw)) -> Result<Census, StoreError> {
    let mut examination = Examination { census: Census::default(), each };
    let mut query = Query { limit: Query::MAX_LIMIT, ..Query::default() };
    loop {
        let page = store.page(query.clone()).await?;
        page.found.into_iter().for_each(|row| examination.look_at(row));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(examination.census),
        }
    }
}

struct Examination<E> {
    census: Census,
    each: E,
}

impl<E: FnMut(Flaw)> Examination<E> {
    fn look_at(&mut self, row: Result<Row, Damaged>) {
        self.census.records += 1;
        match row.and_then(examined) {
            Ok((record, wrong)) => {
                *self.census.statuses.entry(record.status).or_default() += 1;
                for what in wrong {
                    let token = Some(record.token.as_str().to_owned());
                    self.tell(Flaw { token, status: Some(record.status), what });
                }
            }
            Err(Damaged { token, detail }) => {
                let what = format!("the record cannot be read: {detail}");
                self.tell(Flaw { token, status: None, what });
            }
        }
    }

    fn tell(&mut self, flaw: Flaw) {
        self.census.flaws += 1;
        (self.each)(flaw);
    }
}

/// The record of a row, and what is wrong with it.
fn examined(row: Row) -> Result<(Record, Vec<String>), Damaged> {
    let head = row.head.clone();
    let record = form::record(row)?;
    let mut wrong: Vec<String> =
        contradictions(&record).into_iter().map(ToOwned::to_owned).collect();
    match form::row(&record, head.writer.clone()) {
        Ok(again) => wrong.extend(differing(&head, &again.head).map(|column| {
            format!("its column `{column}`, by which it is found, differs from the record")
        })),
        Err(error) => wrong.push(format!("it cannot be written again: {error}")),
    }
    Ok((record, wrong))
}

/// What a head repeats from the body.
fn differing<'a>(stored: &'a Head, computed: &'a Head) -> impl Iterator<Item = &'static str> {
    let columns = [
        ("due", stored.due == computed.due),
        ("flagged", stored.flagged == computed.flagged),
        ("settled_at", stored.settled_at == computed.settled_at),
    ];
    columns.into_iter().filter(|(_, agrees)| !agrees).map(|(column, _)| column)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use rusqlite::Connection;

    use super::*;
    use crate::ledger::{Commit, Ledger, Memory, Written};
    use crate::step::{Message, StepKey};

    fn deferred(token: &str) -> Record {
        let step = Message::parse(include_str!("../../tests/fixtures/executing.json"))
            .expect("a message")
            .step()
            .clone();
        let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
        let record = Record::of_message(step, queue, Some("h".into()), Timestamp::UNIX_EPOCH);
        Record {
            token: token.parse().expect("a token"),
            status: Status::Deferred,
            deadline: Some(Timestamp::UNIX_EPOCH),
            key: Some("ORDER-17".parse::<StepKey>().expect("a key")),
            ..record
        }
    }

    async fn write(store: Arc<dyn Store>, records: impl IntoIterator<Item = Record>) {
        let ledger = Ledger::beside(store);
        for record in records {
            let written = ledger.write(record, Commit::Now).await.expect("it works");
            assert!(matches!(written, Written::Done(_)));
        }
    }

    fn told(flaws: &[Flaw]) -> Vec<String> {
        let text = |flaw: &Flaw| format!("{}: {}", flaw.token.as_deref().unwrap_or("-"), flaw.what);
        flaws.iter().map(text).collect()
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_told_of_each_record_while_a_daemon_has_it_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        let store = Arc::new(Sqlite::open(&path, Arc::new(())).expect("it opens"));
        let tokens = ["sound00000", "limitless0", "spoilt0000", "another000"];
        write(store.clone(), tokens.map(deferred)).await;
        let limitless = store.get(&"limitless0".parse().expect("a token")).await;
        let Ok(Some(Ok(mut row))) = limitless else { panic!("it is there: {limitless:?}") };
        row.body = row.body.replace("\"deadline\"", "\"no_deadline\"");
        row.head.version = 2;
        store.put(row, Some(1), Commit::Now).await.expect("it works");

        let mut flaws = Vec::new();
        let census = verify_file(&path, |flaw| flaws.push(flaw)).expect("it is read");
        assert_eq!((census.records, census.statuses[&Status::Deferred]), (4, 4));
        assert_eq!(
            told(&flaws),
            [
                "limitless0: it is deferred without a limit",
                "limitless0: its column `due`, by which it is found, differs from the record",
            ]
        );

        let other = Connection::open(&path).expect("it opens");
        other
            .execute("UPDATE steps SET body = '{}' WHERE token = 'spoilt0000'", [])
            .expect("it is ours");
        // An index lacks the rows that it should have.
        other
            .execute_batch(
                "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, \
                 '= ''settled''', '= ''deferred''') WHERE name = 'steps_settled'; PRAGMA \
                 writable_schema = OFF;",
            )
            .expect("it is ours");
        flaws.clear();
        let census = verify_file(&path, |flaw| flaws.push(flaw)).expect("it is read");
        let told = told(&flaws);
        assert_eq!((census.records, census.flaws), (4, 7), "{told:?}");
        assert!(told[0].contains("missing from index steps_settled"), "{told:?}");
        assert!(
            told.contains(
                &"spoilt0000: the record cannot be read: it differs from what was written"
                    .to_owned()
            ),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn of_a_torn_file_all_is_told_that_can_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        let store = Arc::new(Sqlite::open(&path, Arc::new(())).expect("it opens"));
        write(store, (0..500).map(|n| deferred(&format!("tok{n:07}")))).await;
        let whole = std::fs::read(&path).expect("it is there");
        let mut torn = whole.clone();
        // Two pages of rows; the first holds the tables.
        for page in [whole.len() / 4096 / 2, whole.len() / 4096 / 2 + 1] {
            torn[page * 4096..page * 4096 + 64].fill(0xA5);
        }
        std::fs::write(&path, torn).expect("it is ours");
        let mut flaws = Vec::new();
        let census = verify_file(&path, |flaw| flaws.push(flaw)).expect("it is examined");
        let of_file = flaws.iter().filter(|flaw| flaw.token.is_none()).count();
        assert!(of_file >= 2 && census.records > 0, "{census:?} {:?}", told(&flaws));
        std::fs::write(&path, &whole[..whole.len() - 4096]).expect("it is ours");
        let cut = verify_file(&path, |_| ()).expect_err("its end is missing");
        assert!(cut.is_damaged() && cut.to_string().contains("truncated"), "{cut}");
        std::fs::write(&path, "no ledger at all").expect("it is ours");
        assert!(verify_file(&path, |_| ()).is_err_and(|error| error.is_damaged()));
    }

    #[tokio::test]
    async fn a_store_is_examined_page_by_page() {
        let store = Memory::new();
        let sound = (0..1500).map(|n| deferred(&format!("tok{n:07}")));
        let ownerless =
            Record { status: Status::Claimed, deadline: None, ..deferred("ownerless0") };
        write(Arc::new(store.clone()), sound.chain([ownerless])).await;
        let mut flaws = Vec::new();
        let census = verify(&store, |flaw| flaws.push(flaw)).await.expect("it works");
        assert_eq!((census.records, census.flaws), (1501, 1));
        assert_eq!(told(&flaws), ["ownerless0: it is claimed, but has no owner"]);
        assert_eq!(flaws[0].status, Some(Status::Claimed));
    }
}
