//! The size of the ledger's file and of its log, as last measured.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Shared by the code that measures and the code that shows it.
#[derive(Clone, Debug, Default)]
pub struct LedgerSize(Arc<[AtomicU64; 2]>);

impl LedgerSize {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let size = Self::default();
        registry.register_collector(Box::new(size.clone()));
        size
    }

    /// In bytes.
    pub fn set(&self, file: u64, log: u64) {
        for (cell, bytes) in self.0.iter().zip([file, log]) {
            cell.store(bytes, Ordering::Relaxed);
        }
    }
}

impl Collector for LedgerSize {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let what = [
            ("ledger_bytes", "The size of the ledger's file"),
            (
                "ledger_log_bytes",
                "The size of the ledger's log, which is folded into the file from time to time",
            ),
        ];
        for ((name, help), cell) in what.into_iter().zip(self.0.iter()) {
            let gauge =
                ConstGauge::new(i64::try_from(cell.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
