//! What the writer has done since the store was opened, for whoever watches it.
//!
//! **Invariants**
//! - Only the writer counts, a few times a batch; everybody may read. The numbers are not a snapshot of one moment.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::types::Written;

/// The counters.
#[derive(Default)]
pub(crate) struct Counters {
    batches: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
}

impl Counters {
    /// A batch was written.
    pub(crate) fn wrote(&self, records: usize, bytes: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What was written is synced.
    pub(crate) fn synced(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    /// What they say now.
    pub(crate) fn read(&self) -> Written {
        Written {
            batches: self.batches.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
        }
    }
}
