//! What a table serves in a second. DynamoDB throttles what asks a partition for more.
//!
//! The figures are those of the developer guide as of 2025: a partition serves 1,000 units written
//! and 3,000 read a second ("Best practices for designing and using partition keys"), and a new
//! table on demand 4,000 and 12,000 ("DynamoDB on-demand capacity mode: initial throughput"), so it
//! has four partitions. The index is another table in this, and its throttling refuses the write to
//! the table ("Global secondary indexes: write throttling"). This table is stricter than DynamoDB,
//! which lets a partition use what it has not used within five minutes, and grows.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::units::Units;

const PARTITIONS: usize = 4;
const WRITTEN: f64 = 1_000.0;
const READ: f64 = 3_000.0;

/// What a request touches: an item, entries of the index, or both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Touches {
    item: Option<usize>,
    entries: Option<usize>,
    writes: bool,
}

impl Touches {
    pub fn reads_item(id: impl Hash) -> Self {
        Self { item: Some(partition(id)), ..Self::default() }
    }

    pub fn reads_index(shard: impl Hash) -> Self {
        Self { entries: Some(partition(shard)), ..Self::default() }
    }

    pub fn writes_item(id: impl Hash) -> Self {
        Self { writes: true, ..Self::reads_item(id) }
    }

    /// The item's entry in the index changes too.
    pub fn and_index(self, shard: impl Hash) -> Self {
        Self { entries: Some(partition(shard)), ..self }
    }
}

fn partition(key: impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % PARTITIONS as u64).expect("a small number")
}

/// A table and its index.
pub struct Capacity {
    /// Of a real table's capacity.
    share: f64,
    item: [Bucket; PARTITIONS],
    entries: [Bucket; PARTITIONS],
}

impl Capacity {
    pub fn new(share: f64) -> Self {
        Self { share, item: Default::default(), entries: Default::default() }
    }

    /// Whether the partitions that a request touches have anything left.
    pub fn admits(&mut self, touches: Touches, now: Duration) -> bool {
        let (share, writes) = (self.share, touches.writes);
        self.touched(touches).all(|(bucket, _)| bucket.has_some(writes, share, now))
    }

    /// Takes what the request was charged; the last one may take more than is left.
    pub fn take(&mut self, touches: Touches, units: Units) {
        let both = touches.item.is_some() && touches.entries.is_some();
        for (bucket, is_index) in self.touched(touches) {
            let written = match (both, is_index) {
                (false, _) => units.written,
                (true, true) => units.indexed,
                (true, false) => units.written - units.indexed,
            };
            bucket.used_written += written as f64;
            bucket.used_read += units.halves_read as f64 / 2.0;
        }
    }

    fn touched(&mut self, touches: Touches) -> impl Iterator<Item = (&mut Bucket, bool)> {
        let item = touches.item.map(|number| (&mut self.item[number], false));
        let entries = touches.entries.map(|number| (&mut self.entries[number], true));
        item.into_iter().chain(entries)
    }
}

/// A partition.
#[derive(Default)]
struct Bucket {
    used_written: f64,
    used_read: f64,
    at: Duration,
}

impl Bucket {
    fn has_some(&mut self, writes: bool, share: f64, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = now;
        let left = |used: f64, rate: f64| (used - passed * rate * share).max(0.0);
        self.used_written = left(self.used_written, WRITTEN);
        self.used_read = left(self.used_read, READ);
        let (used, rate) =
            if writes { (self.used_written, WRITTEN) } else { (self.used_read, READ) };
        used < rate * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_refuses_what_is_beyond_its_second_and_serves_again_in_the_next() {
        let mut capacity = Capacity::new(0.01);
        let item = Touches::writes_item("a").and_index("s");
        let units = Units { written: 5, indexed: 2, ..Units::default() };
        let second = Duration::from_secs;
        let mut served = |at| {
            let mut count = 0;
            while count < 100 && capacity.admits(item, second(at)) {
                capacity.take(item, units);
                count += 1;
            }
            count
        };
        assert_eq!(served(0), 4, "three units each, until ten are used");
        assert_eq!((served(0), served(1), served(9)), (0, 3, 4));
        assert!(capacity.admits(Touches::reads_item("a"), second(9)), "reads are counted apart");
    }
}
