//! How far a session (or share group) has got: one floor, and explicit positions of single topics.
//!
//! **Invariants**
//! - The floor: everything that matches and lies before it has been handed out, but what is in flight and what waits
//!   behind it at explicit positions.
//! - An explicit position ahead of the floor is dropped when the floor passes it.

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;

use super::rows::session::TopicPositionRow;
use crate::store::{LogId, Mark, Offset};

/// An explicit position of one topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Explicit {
    /// Messages before it were handed out although they lie behind the floor.
    Ahead(Offset),
    /// Messages from it on, up to the floor, wait.
    Behind(Offset),
}

/// The most explicit positions of one session.
pub const EXPLICIT_COUNT_MAX: usize = 100_000;

/// A position to go back to.
#[derive(Clone, Debug)]
pub struct Bookmark {
    floor: Mark,
    explicit: BTreeMap<LogId, Explicit>,
}

/// A floor with its exceptions, and which of them a store does not know yet.
#[derive(Default)]
pub struct Position {
    /// See the module.
    pub floor: Mark,
    /// The floor as stored.
    pub stored_floor: Mark,
    explicit: BTreeMap<LogId, Explicit>,
    changed: FxHashSet<LogId>,
    stored: FxHashSet<LogId>,
}

impl Position {
    /// The explicit position of a topic.
    pub fn of(&self, log: LogId) -> Option<Explicit> {
        if self.explicit.is_empty() {
            None
        } else {
            self.explicit.get(&log).copied()
        }
    }

    /// Sets one.
    pub fn set(&mut self, log: LogId, explicit: Explicit) {
        self.explicit.insert(log, explicit);
        self.changed.insert(log);
    }

    /// Drops one.
    pub fn drop_of(&mut self, log: LogId) {
        if self.explicit.remove(&log).is_some() {
            self.changed.insert(log);
        }
    }

    /// Topics with messages waiting behind the floor.
    pub fn behind(&self) -> impl Iterator<Item = (LogId, Offset)> + '_ {
        let waiting = |(log, explicit): (&LogId, &Explicit)| match explicit {
            Explicit::Behind(next) => Some((*log, *next)),
            Explicit::Ahead(_) => None,
        };
        self.explicit.iter().filter_map(waiting)
    }

    /// All explicit positions.
    pub fn explicit(&self) -> impl Iterator<Item = (LogId, Explicit)> + '_ {
        self.explicit.iter().map(|(log, explicit)| (*log, *explicit))
    }

    /// How many there are.
    pub fn explicit_count(&self) -> usize {
        self.explicit.len()
    }

    /// Whether the stored rows are behind.
    pub fn is_changed(&self) -> bool {
        self.floor != self.stored_floor || !self.changed.is_empty()
    }

    /// Rows of table 4 to be written (`Some`) or deleted (`None`).
    pub fn topic_changes(&mut self) -> Vec<(LogId, Option<TopicPositionRow>)> {
        let mut changes = Vec::new();
        for log in std::mem::take(&mut self.changed) {
            let row = self.explicit.get(&log).map(|explicit| match explicit {
                Explicit::Ahead(next) => TopicPositionRow {
                    next: next.0,
                    behind: false,
                },
                Explicit::Behind(next) => TopicPositionRow {
                    next: next.0,
                    behind: true,
                },
            });
            let was_stored = if row.is_some() {
                !self.stored.insert(log)
            } else {
                self.stored.remove(&log)
            };
            if row.is_some() || was_stored {
                changes.push((log, row));
            }
        }
        changes
    }

    /// Logs whose rows are stored; from now on none is.
    pub fn forget_stored(&mut self) -> Vec<LogId> {
        self.stored_floor = Mark::START;
        self.changed.extend(self.explicit.keys());
        self.stored.drain().collect()
    }

    /// Where it is now.
    pub fn bookmark(&self) -> Bookmark {
        Bookmark {
            floor: self.floor,
            explicit: self.explicit.clone(),
        }
    }

    /// Goes back to where it was.
    pub fn go_back(&mut self, to: Bookmark) {
        let moved: Vec<_> = self.explicit.keys().chain(to.explicit.keys()).copied().collect();
        self.changed.extend(moved);
        self.floor = to.floor;
        self.explicit = to.explicit;
    }

    /// Explicit positions that have moved since.
    pub fn moved_since(&self, before: &Bookmark) -> Vec<(LogId, Offset)> {
        let moved = |(log, explicit): (&LogId, &Explicit)| match explicit {
            Explicit::Ahead(next) if before.explicit.get(log) != Some(explicit) => Some((*log, *next)),
            _ => None,
        };
        self.explicit.iter().filter_map(moved).collect()
    }

    /// Takes up a stored row.
    pub fn restore(&mut self, log: LogId, row: Option<TopicPositionRow>) {
        if let Some(row) = row {
            let next = Offset(row.next);
            let explicit = if row.behind {
                Explicit::Behind(next)
            } else {
                Explicit::Ahead(next)
            };
            self.explicit.insert(log, explicit);
            self.stored.insert(log);
        } else {
            self.explicit.remove(&log);
            self.stored.remove(&log);
        }
    }

    /// Forgets everything and begins at `floor`; gives the logs whose rows must be deleted.
    pub fn reset(&mut self, floor: Mark) -> Vec<LogId> {
        self.floor = floor;
        self.stored_floor = floor;
        self.explicit.clear();
        self.changed.clear();
        self.stored.drain().collect()
    }
}
