//! The memory of batches, used again: a batch is laid out in buffers of the pool, keeps them while it is written and for
//! as long as it stays with the recent ones, and gives them back when it leaves.
//!
//! **Invariants**
//! - A batch that is kept holds at most twice the memory it fills, so that a ring of small batches that follows a burst
//!   is not made of the burst's large buffers.
//! - The pool holds at most [`POOL_MAX`] buffers, none larger than [`KEPT_BYTES_MAX`].

use std::sync::Arc;

use crate::store::types::{Batch, Entry};

/// Buffers that wait for use.
const POOL_MAX: usize = 4;
/// The largest that do.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// The smallest that are made.
const BYTES_MIN: usize = 4096;
/// What a batch may hold without filling it.
const SPARE_BYTES: usize = 1024;

/// What a batch is laid out in.
#[derive(Default)]
pub(crate) struct Buffers {
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
}

/// Buffers of earlier batches.
#[derive(Default)]
pub(crate) struct Pool {
    free: Vec<Buffers>,
    /// What the last batch filled: a new buffer begins with as much.
    usual_bytes: usize,
    usual_entries: usize,
}

impl Pool {
    /// Empty buffers for a batch of at least so many bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> Buffers {
        self.free.pop().unwrap_or_else(|| Buffers {
            bytes: Vec::with_capacity(bytes.max(self.usual_bytes).max(BYTES_MIN)),
            entries: Vec::with_capacity(self.usual_entries),
        })
    }

    /// Takes buffers back.
    pub(crate) fn give(&mut self, mut buffers: Buffers) {
        if self.free.len() < POOL_MAX && (1..=KEPT_BYTES_MAX).contains(&buffers.bytes.capacity()) {
            buffers.bytes.clear();
            buffers.entries.clear();
            self.free.push(buffers);
        }
    }

    /// Notes what a batch has filled.
    pub(crate) fn filled(&mut self, bytes: usize, entries: usize) {
        let usual = |used: usize| (used + used / 8).min(KEPT_BYTES_MAX);
        (self.usual_bytes, self.usual_entries) = (usual(bytes), usual(entries));
    }
}

/// Gives a batch that is going to be kept memory of its own size if its buffers are too large for it; returns these.
pub(crate) fn fitted(bytes: &mut Vec<u8>, entries: &mut Vec<Entry>) -> Option<Buffers> {
    if bytes.capacity() <= 2 * bytes.len() + SPARE_BYTES && entries.capacity() <= 2 * entries.len() + SPARE_BYTES / 32 {
        return None;
    }
    let own = (bytes.as_slice().to_vec(), entries.as_slice().to_vec());
    Some(Buffers {
        bytes: std::mem::replace(bytes, own.0),
        entries: std::mem::replace(entries, own.1),
    })
}

/// The buffers of a batch that nobody else holds.
pub(crate) fn of_batch(batch: Arc<Batch>) -> Option<Buffers> {
    let Batch { bytes, entries, .. } = Arc::into_inner(batch)?;
    Some(Buffers { bytes, entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_batch_does_not_keep_a_large_buffer_and_the_next_one_gets_it() {
        let mut pool = Pool::default();
        let mut taken = pool.take(100_000);
        taken.bytes.extend_from_slice(b"small");
        let large = fitted(&mut taken.bytes, &mut taken.entries).unwrap();
        assert_eq!((taken.bytes.as_slice(), taken.bytes.capacity()), (&b"small"[..], 5));
        pool.give(large);
        let next = pool.take(10);
        assert!(next.bytes.is_empty() && next.bytes.capacity() >= 100_000);
        let mut full = Buffers {
            bytes: vec![1; 100_000],
            entries: Vec::new(),
        };
        assert!(fitted(&mut full.bytes, &mut full.entries).is_none());
    }

    #[test]
    fn buffers_of_a_batch_come_back_only_when_nobody_reads_it_any_more() {
        let batch = Arc::new(Batch {
            bytes: vec![7; 5000],
            ..Batch::default()
        });
        let reader = Arc::clone(&batch);
        assert!(of_batch(batch).is_none());
        assert_eq!(of_batch(reader).unwrap().bytes.len(), 5000);
    }

    #[test]
    fn a_new_buffer_begins_with_what_the_last_batch_filled() {
        let mut pool = Pool::default();
        pool.filled(80_000, 100);
        let taken = pool.take(10);
        assert!(taken.bytes.capacity() >= 80_000 && taken.entries.capacity() >= 100);
    }
}
