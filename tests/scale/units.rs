//! What DynamoDB charges for a request, in its units.
//!
//! The rules are those of the developer guide ("DynamoDB read and write operations", "Item sizes
//! and formats", "Global secondary indexes: provisioned throughput considerations"), as of 2025:
//!
//! - A write takes one unit for each KB of the item, rounded up; a put of an item that exists, of
//!   the larger of the two. One whose condition fails is charged by the item that is there, and at
//!   least one unit.
//! - The index is charged in addition, by the size of what it holds of the item: one write if an
//!   entry appears, changes or disappears, two if its key changes. A change of what the index does
//!   not hold costs nothing there.
//! - A consistent read takes one unit for each 4 KB, any other half of one. A query is charged by
//!   the sum of what it reads, and a request that finds nothing like the smallest.
//! - A request that is throttled costs nothing.
//!
//! Sizes are those of the items in `src/aws/dynamodb/items.rs`: names and values of attributes.

use std::ops::AddAssign;

use callbackd::ledger::store::{Head, Row};

/// A row's settled status: the index holds only others.
const SETTLED: &str = "settled";
const KEYS: usize = "id".len() + "step#".len();
/// Numbers take up to 21 bytes; those here are times and small ones.
const NUMBER: usize = 8;
/// `id`, `shard`, `due` and `version` of a worker, beside what it tells the others: all that the
/// index has of it.
const WORKER: usize = 90;

/// Half units of reading, and units of writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units {
    pub halves_read: u64,
    pub written: u64,
    /// Of those that are written, the index's.
    pub indexed: u64,
}

impl AddAssign for Units {
    fn add_assign(&mut self, other: Self) {
        self.halves_read += other.halves_read;
        self.written += other.written;
        self.indexed += other.indexed;
    }
}

impl Units {
    const fn written(item: usize, index: usize) -> Self {
        Self { halves_read: 0, written: (item + index) as u64, indexed: index as u64 }
    }

    const fn halves(halves: usize) -> Self {
        Self { halves_read: halves as u64, written: 0, indexed: 0 }
    }

    /// Writes `row` over what was `before`.
    pub fn of_put(before: Option<&Row>, row: &Row) -> Self {
        let largest = before.map_or(0, size).max(size(row));
        let index = match (before.filter(|row| is_indexed(row)), is_indexed(row)) {
            (None, false) => 0,
            (None, true) => kilobytes(index_size(row)),
            (Some(before), false) => kilobytes(index_size(before)),
            (Some(before), true) if before.head.due == row.head.due => {
                kilobytes(index_size(before).max(index_size(row)))
            }
            (Some(before), true) => kilobytes(index_size(before)) + kilobytes(index_size(row)),
        };
        Self::written(kilobytes(largest), index)
    }

    /// A put whose condition fails, and the consistent read that finds out why.
    pub fn of_failed_put(there: Option<&Row>) -> Self {
        let mut units = Self::written(kilobytes(there.map_or(0, size)), 0);
        units += Self::of_get(there);
        units
    }

    pub fn of_get(found: Option<&Row>) -> Self {
        Self::halves(2 * found.map_or(0, size).div_ceil(4096).max(1))
    }

    /// A list by so many requests that finds so many bytes.
    pub fn of_list(requests: usize, bytes: usize) -> Self {
        Self::halves(requests.max(bytes.div_ceil(4096)))
    }

    /// A list of workers that tell the others texts of these lengths.
    pub fn of_workers(notices: impl Iterator<Item = usize>) -> Self {
        Self::of_list(1, notices.map(|notice| WORKER + notice).sum())
    }

    pub fn of_worker() -> Self {
        Self::halves(2)
    }

    /// A worker's record is renewed or removed; the index holds its version, and what it tells the
    /// others, of that length.
    pub fn of_renewal(notice: usize) -> Self {
        let size = kilobytes(WORKER + notice);
        Self::written(size, size)
    }

    /// A stop is added to a worker's record; the index does not hold it.
    pub const fn of_flag() -> Self {
        Self::written(1, 0)
    }

    pub const fn of_probe() -> Self {
        Self::written(1, 0)
    }
}

fn kilobytes(bytes: usize) -> usize {
    bytes.div_ceil(1024).max(1)
}

pub fn is_indexed(row: &Row) -> bool {
    row.head.status != SETTLED
}

/// The bytes of a row's item.
fn size(row: &Row) -> usize {
    let text =
        |name: &str, text: &Option<String>| text.as_ref().map_or(0, |text| name.len() + text.len());
    index_size(row) + text("arguments", &row.arguments) + text("checkpoint", &row.checkpoint)
}

/// The bytes of an item in the index: everything but arguments and checkpoint.
pub fn index_size(row: &Row) -> usize {
    let Head { token, status, queue, execution, handler, owner, settled_at, writer, .. } =
        &row.head;
    let maybe = |name: &str, text: Option<&str>| text.map_or(0, |text| name.len() + text.len());
    let numbers = ["format", "version", "due", "correction"];
    KEYS + token.as_str().len()
        + numbers.iter().map(|name| name.len() + NUMBER).sum::<usize>()
        + maybe("status", Some(status))
        + maybe("queue", Some(queue))
        + maybe("execution", Some(execution))
        + maybe("handler", handler.as_deref())
        + maybe("owner", owner.as_deref())
        + maybe("writer", writer.id.as_deref())
        + maybe("shard", is_indexed(row).then_some("0"))
        + "flagged".len()
        + 1
        + settled_at.map_or(0, |_| "settled_at".len() + "expires".len() + 2 * NUMBER)
        + maybe("body", Some(&row.body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(status: &'static str, body: usize) -> Row {
        let head = Head {
            token: "abcdefghij".parse().expect("a token"),
            version: 1,
            status: status.into(),
            queue: "https://sqs.us-east-1.amazonaws.com/123456789012/q".into(),
            execution: "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abc".into(),
            handler: Some("h".into()),
            owner: None,
            due: None,
            flagged: false,
            settled_at: None,
            writer: callbackd::ledger::store::Writer::default(),
        };
        Row { head, body: "x".repeat(body), arguments: None, checkpoint: None }
    }

    #[test]
    fn a_write_is_charged_by_the_kilobyte_and_again_for_the_index() {
        let (small, large) = (row("claimed", 10), row("claimed", 1_024));
        assert_eq!(Units::of_put(None, &small).written, 2);
        assert_eq!(Units::of_put(None, &large).written, 4);
        assert_eq!(Units::of_put(Some(&large), &small).written, 4, "by the larger one");
        let arguments = Row { arguments: Some("x".repeat(5_000)), ..small.clone() };
        assert_eq!(Units::of_put(None, &arguments).written, 6 + 1, "which are not in the index");
    }

    #[test]
    fn the_index_is_charged_twice_if_its_key_changes_and_once_if_an_entry_goes() {
        let small = row("claimed", 10);
        let mut due = small.clone();
        due.head.due = Some(jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(Units::of_put(Some(&small), &due).written, 1 + 2);
        let settled = row("settled", 10);
        assert_eq!(Units::of_put(Some(&small), &settled).written, 1 + 1);
        assert_eq!(Units::of_put(Some(&settled), &settled).written, 1);
        assert_eq!(
            Units::of_failed_put(Some(&small)),
            Units { halves_read: 2, written: 1, indexed: 0 }
        );
    }

    #[test]
    fn a_read_is_charged_by_four_kilobytes_and_by_half_if_it_is_not_consistent() {
        assert_eq!(Units::of_get(None).halves_read, 2);
        assert_eq!(Units::of_get(Some(&row("claimed", 5_000))).halves_read, 4);
        assert_eq!(Units::of_list(8, 0).halves_read, 8);
        assert_eq!(Units::of_list(1, 40_000).halves_read, 10);
    }
}
