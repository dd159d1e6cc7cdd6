//! The catalog: rows that are listed and searched, in sled, derived from the log and rebuildable at any time.
//!
//! A thread of its own opens the database, checks it, and writes changes in the background. Until that is done, and
//! whenever the database is of no use, answers come from the row source that the store gives at the start.
//!
//! # Why not trust the database
//! Measured (2026): sled 0.34 panics at open on one flipped bit, does not open with a damaged snapshot file, and can
//! silently miss rows after damage near its end. So it is opened guarded, summed up at each start, set aside when
//! anything is wrong, and filled again.
//!
//! **Invariants**
//! - Only durable changes reach it, in log order.
//! - A caller reads what it has handed over: changes on their way lie in an overlay that reads look at first.
//! - The source holds at least everything that was handed over.
//! - Nothing of sled's reaches the caller as a panic or an error.

mod tree;
mod worker;

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use self::tree::{Cause, Tree};
use crate::clock::Clock;
use crate::store::{KeyedRow, Mark, Result, Row, Table};

/// Rows of a table with keys in a range, ascending, at most so many: the store's own view, which is never behind what
/// was handed to [`Catalog::apply`].
pub type Source = Arc<dyn Fn(Table, Range<Vec<u8>>, usize) -> Result<Vec<KeyedRow>> + Send + Sync>;

/// A changed row: table, key, its bytes or `None` if it was deleted, and the mark of the change.
pub type Change = (Table, Vec<u8>, Option<Vec<u8>>, Mark);

/// How a catalog is opened.
pub struct Options {
    /// Its directory; those set aside lie next to it.
    pub dir: PathBuf,
    /// The tables it holds.
    pub tables: Vec<Table>,
    /// Changes from this mark on are handed to [`Catalog::apply`]; a database that stands before it has missed some.
    pub floor: Mark,
    /// Behind everything that is durable; a database that stands behind it belongs to another log.
    pub end: Mark,
    /// For the names of what is set aside.
    pub clock: Clock,
    /// Makes durable what the source has handed out; called before a database that was filled from it counts.
    pub barrier: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

/// How long closing waits for the last write.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// The catalog. Its methods may read the disk.
pub struct Catalog {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    source: Source,
    state: Mutex<State>,
    /// Something to do for the thread.
    work: Condvar,
    /// Something was done by the thread.
    done: Condvar,
}

type Overlay = BTreeMap<(Table, Vec<u8>), Pending>;

#[derive(Clone)]
struct Pending {
    mark: Mark,
    row: Option<Vec<u8>>,
}

enum Mode {
    /// Answers come from the source; changes are collected, for the database is being opened or filled.
    Opening,
    /// Answers come from overlay and database.
    Open(Tree),
    /// Answers come from the source; changes are not collected, for the database will be filled anew.
    Off,
}

struct State {
    mode: Mode,
    /// Handed over, not being written yet.
    pending: Overlay,
    /// Being written.
    writing: Arc<Overlay>,
    /// Changes before this mark are in the database already: a start hands them over again.
    known: Mark,
    /// Every change before this mark was handed over.
    upto: Mark,
    /// Every change before this mark is durable in the database.
    applied: Mark,
    condemned: Option<Cause>,
    /// Callers that wait: the thread does not rest meanwhile.
    waiting: usize,
    stop: bool,
    finished: bool,
}

impl Catalog {
    /// Starts the thread that opens the catalog; answers come from `source` until it is ready.
    pub fn start(options: Options, source: Source) -> Self {
        let floor = options.floor;
        let shared = Arc::new(Shared {
            options,
            source,
            state: Mutex::new(State {
                mode: Mode::Opening,
                pending: Overlay::new(),
                writing: Arc::default(),
                known: Mark::START,
                upto: floor,
                applied: Mark::START,
                condemned: None,
                waiting: 0,
                stop: false,
                finished: false,
            }),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let thread = std::thread::Builder::new().name("catalog".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || worker::run(&shared)
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "the catalog has no thread; lists are answered from memory");
            let mut state = shared.state.lock();
            state.mode = Mode::Off;
            state.finished = true;
        }
        Self { shared }
    }

    /// Hands over durable changes in log order, and says that every change before `upto` has been handed over now.
    /// Changes of other tables are passed over. Never waits for a disk.
    pub fn apply(&self, changes: Vec<Change>, upto: Mark) {
        let mut state = self.shared.state.lock();
        state.upto = state.upto.max(upto);
        if !matches!(state.mode, Mode::Off) {
            for (table, key, row, mark) in changes {
                if mark >= state.known && self.shared.holds(table) {
                    state.pending.insert((table, key), Pending { mark, row });
                }
            }
        }
        if !state.pending.is_empty() {
            self.shared.work.notify_one();
        }
    }

    /// One row.
    ///
    /// # Errors
    /// What the source fails with.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>> {
        let tree = {
            let state = self.shared.state.lock();
            let Some(tree) = self.shared.tree(&state, table) else {
                drop(state);
                return self.get_from_source(table, key);
            };
            let at = (table, key.to_vec());
            if let Some(pending) = state.pending.get(&at).or_else(|| state.writing.get(&at)) {
                return Ok(pending.to_row());
            }
            tree
        };
        match tree.get(table, key) {
            Ok(row) => Ok(row),
            Err(cause) => {
                self.shared.condemn(cause);
                self.get_from_source(table, key)
            }
        }
    }

    fn get_from_source(&self, table: Table, key: &[u8]) -> Result<Option<Row>> {
        let rows = (self.shared.source)(table, key.to_vec()..[key, &[0]].concat(), 1)?;
        Ok(rows.into_iter().next().map(|(_, row)| row))
    }

    /// Rows with keys in a range, ascending, at most `limit`.
    ///
    /// # Errors
    /// What the source fails with.
    pub fn scan(&self, table: Table, range: Range<Vec<u8>>, limit: usize) -> Result<Vec<KeyedRow>> {
        if range.start >= range.end || limit == 0 {
            return Ok(Vec::new());
        }
        let (tree, overlay) = {
            let state = self.shared.state.lock();
            let Some(tree) = self.shared.tree(&state, table) else {
                drop(state);
                return (self.shared.source)(table, range, limit);
            };
            let bounds = (
                Bound::Included((table, range.start.clone())),
                Bound::Excluded((table, range.end.clone())),
            );
            let mut overlay = Overlay::new();
            for changes in [&*state.writing, &state.pending] {
                let inside = changes.range(bounds.clone());
                overlay.extend(inside.map(|(key, pending)| (key.clone(), pending.clone())));
            }
            (tree, overlay)
        };
        // Each change of the overlay takes away at most one row of the database.
        let rows = match tree.scan(table, &range, limit.saturating_add(overlay.len())) {
            Ok(rows) => rows,
            Err(cause) => {
                self.shared.condemn(cause);
                return (self.shared.source)(table, range, limit);
            }
        };
        let mut merged: BTreeMap<Vec<u8>, Row> = rows.into_iter().collect();
        for ((_, key), pending) in overlay {
            // The thread may have gone on meanwhile: what the database holds may be newer.
            if merged.get(&key).is_some_and(|row| row.mark > pending.mark) {
                continue;
            }
            match pending.to_row() {
                Some(row) => merged.insert(key, row),
                None => merged.remove(&key),
            };
        }
        Ok(merged.into_iter().take(limit).collect())
    }

    /// Every change before this mark is durable in the database; [`Mark::START`] while there is none of use.
    pub fn applied(&self) -> Mark {
        let state = self.shared.state.lock();
        match state.mode {
            Mode::Open(_) => state.applied,
            Mode::Opening | Mode::Off => Mark::START,
        }
    }

    /// Waits until everything handed over is durable in the database, at most so long; says whether it is. While a
    /// caller waits, the thread does not rest.
    pub fn sync(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.shared.state.lock();
        let target = state.upto;
        state.waiting += 1;
        self.shared.work.notify_one();
        let durable = loop {
            let open = matches!(state.mode, Mode::Open(_));
            if open && state.applied >= target {
                break true;
            }
            let timed_out = self.shared.done.wait_until(&mut state, until).timed_out();
            if state.finished || timed_out {
                break false;
            }
        };
        state.waiting -= 1;
        durable
    }

    /// Writes what was handed over, and lets go of the database. Answers come from the source afterwards. Idempotent.
    pub fn close(&self) {
        let until = Instant::now() + CLOSE_LIMIT;
        let mut state = self.shared.state.lock();
        state.stop = true;
        self.shared.work.notify_one();
        while !state.finished {
            if self.shared.done.wait_until(&mut state, until).timed_out() {
                tracing::warn!("the catalog did not finish its last write in time; it is made anew at the next start");
                return;
            }
        }
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pending {
    fn to_row(&self) -> Option<Row> {
        Some(Row {
            bytes: self.row.clone()?,
            mark: self.mark,
        })
    }
}

impl Shared {
    fn holds(&self, table: Table) -> bool {
        self.options.tables.contains(&table)
    }

    /// The database if it answers for a table now.
    fn tree(&self, state: &State, table: Table) -> Option<Tree> {
        match &state.mode {
            Mode::Open(tree) if self.holds(table) => Some(tree.clone()),
            _ => None,
        }
    }

    /// The database is of no use any more: the thread sets it aside and makes another.
    fn condemn(&self, cause: Cause) {
        let mut state = self.state.lock();
        state.condemned.get_or_insert(cause);
        if matches!(state.mode, Mode::Open(_)) {
            state.mode = Mode::Off;
        }
        self.work.notify_one();
    }

    fn dir(&self) -> &Path {
        &self.options.dir
    }
}

#[cfg(test)]
mod tests;
