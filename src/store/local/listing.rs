//! What the catalog is told and when, and when it is asked: rows of its tables, once they are durable, in log order.
//!
//! How the catalog keeps them is its own business; which tables it holds is said by who opens the store.
//!
//! **Invariants**
//! - A row is in memory before the catalog is told of it, so that a rebuild from memory is never behind.
//! - The catalog hears of a batch only when it is synced. In `interval` durability readers see rows before: while such
//!   rows wait, answers come from memory.
//! - Nobody waits for the catalog but a snapshot, for a moment: the log in front of it is what a catalog that lags
//!   catches up from.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::catalog::{Catalog, Change, Options, Source};
use super::log::Log;
use crate::store::Error;
use crate::store::types::{Batch, EntryKind, Mark, Table, parse_row};

/// How long a snapshot waits for the catalog at a time, and how often.
const SNAPSHOT_SLICE: Duration = Duration::from_millis(100);
const SNAPSHOT_SLICES: u32 = 50;

/// The catalog and what is on its way to it.
pub(crate) struct Listing {
    catalog: Catalog,
    tables: Vec<Table>,
    /// Written and not synced: the batch, its changes, its end. Batches without changes are not here.
    unsynced: Mutex<VecDeque<(u64, Vec<Change>, Mark)>>,
}

impl Listing {
    /// Starts the catalog of `tables`, which is opened in the background. Changes from `floor` on are handed over behind
    /// this; `end` is the end of the log as it was found.
    pub(crate) fn start(log: &Arc<Log>, tables: Vec<Table>, floor: Mark, end: Mark) -> Self {
        let gone = || Error::Io("the store was dropped".into());
        let weak = Arc::downgrade(log);
        let source: Source = Arc::new(move |table, range, limit| {
            let log = weak.upgrade().ok_or_else(gone)?;
            let rows = log.state.read().rows.scan(table, range, limit);
            Ok(rows)
        });
        let weak: Weak<Log> = Arc::downgrade(log);
        let options = Options {
            dir: log.dir.state(),
            tables: tables.clone(),
            floor,
            end,
            clock: log.clock.clone(),
            barrier: Box::new(move || {
                let log = weak.upgrade().ok_or_else(gone)?;
                let handed_on = log.append.lock().handed_on;
                log.until_synced(handed_on)
            }),
        };
        Self {
            catalog: Catalog::start(options, source),
            tables,
            unsynced: Mutex::default(),
        }
    }

    /// Whether rows of a table are kept in the catalog.
    pub(crate) fn holds(&self, table: Table) -> bool {
        self.tables.contains(&table)
    }

    /// The catalog, unless it lacks what readers have seen.
    pub(crate) fn catalog(&self) -> Option<&Catalog> {
        self.unsynced.lock().is_empty().then_some(&self.catalog)
    }

    /// Changes found behind the snapshot at the start, up to a mark.
    pub(crate) fn replayed(&self, changes: Vec<Change>, upto: Mark) {
        self.catalog.apply(changes, upto);
    }

    /// A batch was written and applied to the state.
    pub(crate) fn written(&self, batch: &Batch, synced: bool) {
        let changes = changes_of(batch, &self.tables);
        if synced {
            self.catalog.apply(changes, batch.end);
        } else if !changes.is_empty() {
            self.unsynced.lock().push_back((batch.write, changes, batch.end));
        }
    }

    /// Every batch up to this one is synced.
    pub(crate) fn synced(&self, batch: u64) {
        let mut unsynced = self.unsynced.lock();
        while unsynced.front().is_some_and(|(write, _, _)| *write <= batch) {
            if let Some((_, changes, end)) = unsynced.pop_front() {
                self.catalog.apply(changes, end);
            }
        }
    }

    /// Brings the catalog up to a mark before which everything is synced, for the snapshot at that mark: with it the log
    /// before may go. One that is not open, or too slow, is made anew at the next start.
    pub(crate) fn bring_up_to(&self, mark: Mark, pace: &dyn Fn()) {
        self.catalog.apply(Vec::new(), mark);
        for _ in 0..SNAPSHOT_SLICES {
            if self.catalog.applied() == Mark::START || self.catalog.sync(SNAPSHOT_SLICE) {
                return;
            }
            pace();
        }
        tracing::info!(
            "the catalog lags behind a snapshot; it is made anew if the server ends before it has caught up"
        );
    }

    /// Writes what was handed over, and lets go of the files.
    pub(crate) fn close(&self) {
        self.catalog.close();
    }
}

/// The rows of a batch that belong to some tables.
pub(crate) fn changes_of(batch: &Batch, tables: &[Table]) -> Vec<Change> {
    let rows = batch.entries.iter().filter(|entry| {
        matches!(entry.kind, EntryKind::Row | EntryKind::RowDeleted) && tables.contains(&entry.table())
    });
    let change = |entry| {
        let (key, row) = parse_row(batch.body(entry))?;
        let row = (entry.kind == EntryKind::Row).then(|| row.to_vec());
        Some((entry.table(), key.to_vec(), row, entry.mark))
    };
    rows.filter_map(change).collect()
}
