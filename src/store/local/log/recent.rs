//! The last batches, in memory, for readers at the end of a log.
//!
//! **Invariants**
//! - Batches are whole and lie in the order of the log; what leaves is the oldest.
//! - What is counted is the memory they hold, not what they fill of it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::store::types::{Batch, Entry, Mark};

/// Bytes of memory for the batches that are kept.
pub(crate) const RECENT_BYTES_MAX: usize = 64 << 20;

/// The ring.
#[derive(Default)]
pub(crate) struct Recent {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    bytes_max: usize,
}

impl Recent {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            ..Self::default()
        }
    }

    /// Adds the newest batch; what leaves goes to `left`.
    pub(crate) fn push(&mut self, batch: Arc<Batch>, left: &mut Vec<Arc<Batch>>) {
        self.bytes += batch.memory();
        self.batches.push_back(batch);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.batches.pop_front()
        {
            self.bytes -= oldest.memory();
            left.push(oldest);
        }
    }

    /// The batch that holds a record, if it is still here.
    pub(crate) fn holding(&self, mark: Mark) -> Option<&Arc<Batch>> {
        let at = self.batches.partition_point(|batch| batch.end <= mark);
        self.batches.get(at).filter(|batch| entry_at(batch, mark).is_some())
    }
}

/// The entry of a batch with a mark.
pub(crate) fn entry_at(batch: &Batch, mark: Mark) -> Option<&Entry> {
    let at = batch.entries.binary_search_by_key(&mark, |entry| entry.mark).ok()?;
    batch.entries.get(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::types::{EntryKind, LogId, Offset};

    fn batch(marks: &[u64], bytes: usize) -> Arc<Batch> {
        let entries = marks.iter().map(|mark| Entry {
            kind: EntryKind::Data,
            early: false,
            log: LogId(1),
            position: Offset(*mark),
            time: 0,
            mark: Mark::new(*mark),
            start: 0,
            length: 0,
        });
        Arc::new(Batch {
            entries: entries.collect(),
            bytes: vec![0; bytes],
            end: Mark::new(marks[marks.len() - 1] + 1),
            ..Batch::default()
        })
    }

    #[test]
    fn a_record_is_found_in_its_batch_until_the_batch_leaves() {
        let mut recent = Recent::new(100 + 4 * size_of::<Entry>());
        let left = &mut Vec::new();
        recent.push(batch(&[10, 12], 60), left);
        recent.push(batch(&[20, 25], 40), left);
        assert!(recent.holding(Mark::new(12)).is_some());
        assert!(recent.holding(Mark::new(25)).is_some());
        assert!(recent.holding(Mark::new(11)).is_none());
        assert!(recent.holding(Mark::new(30)).is_none());
        assert!(left.is_empty());
        recent.push(batch(&[30], 1), left);
        assert_eq!(left.len(), 1);
        assert!(recent.holding(Mark::new(12)).is_none());
        assert!(recent.holding(Mark::new(25)).is_some());
    }
}
