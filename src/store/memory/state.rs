//! What was handed over to the model: how a commit becomes entries of a batch, and a batch durable.
//!
//! **Invariants**
//! - Offsets, once-keys and logs are those of the last commit handed over, not of the last durable one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::model::{Model, Rows};
use crate::store::{
    Batch, Commit, CommitEntry, Entry, EntryKind, Epoch, LogCreated, LogId, Mark, Offset, OnceKey, SequenceId, Written,
};

#[derive(Default)]
pub(super) struct State {
    pub(super) model: Model,
    /// Handed over and not durable; its `write` is the number of the next batch.
    pub(super) pending: Batch,
    /// Once-keys as of the last commit handed over, with the write that the first record lies in.
    pub(super) once: HashMap<OnceKey, Held>,
    /// Next position per sequence as of the last commit handed over.
    pub(super) next: HashMap<SequenceId, u64>,
    /// Logs as of the last commit handed over.
    pub(super) sequences: HashMap<LogId, SequenceId>,
    /// Logs with something in `pending` that early records must not overtake.
    pub(super) blocked: HashSet<LogId>,
    pub(super) next_log: u64,
    pub(super) next_mark: u64,
    pub(super) durable_write: u64,
    pub(super) written: Written,
    /// Rows as of the snapshot.
    pub(super) snapshot: Rows,
    pub(super) snapshot_derived: Rows,
    pub(super) derived: Rows,
    /// Durable batches behind the snapshot.
    pub(super) behind: Vec<Arc<Batch>>,
    pub(super) epochs: HashMap<u64, Epoch>,
    pub(super) feed_taken: bool,
    pub(super) held: bool,
    pub(super) full: bool,
    pub(super) dense: bool,
    pub(super) closed: bool,
    pub(super) latched: Option<String>,
    pub(super) random: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) offset: Offset,
    pub(super) write: u64,
}

/// Entries of a commit while they become entries of the pending batch.
pub(super) struct Taken {
    pub(super) write: u64,
    pub(super) offsets: Vec<Offset>,
    pub(super) early: Vec<Entry>,
}

impl State {
    pub(super) fn first() -> Self {
        Self {
            pending: Batch {
                write: 1,
                ..Batch::default()
            },
            next_log: 1,
            next_mark: 1,
            random: 0x9E37_79B9_7F4A_7C15,
            ..Self::default()
        }
    }

    /// The store that a start would find: what is durable, and nothing of what was only pending.
    pub(super) fn after_restart(&self) -> Self {
        let model = self.model.clone();
        Self {
            once: model
                .once
                .iter()
                .map(|(key, offset)| {
                    (
                        *key,
                        Held {
                            offset: *offset,
                            write: 0,
                        },
                    )
                })
                .collect(),
            next: model.next.clone(),
            sequences: model.logs.iter().map(|(id, log)| (*id, log.sequence)).collect(),
            next_log: model.last_log + 1,
            next_mark: self.next_mark + 1,
            snapshot: self.snapshot.clone(),
            snapshot_derived: self.snapshot_derived.clone(),
            derived: self.snapshot_derived.clone(),
            behind: self.behind.iter().map(|batch| Arc::new(replayed(batch))).collect(),
            epochs: self.epochs.clone(),
            dense: self.dense,
            random: self.random,
            model,
            ..Self::first()
        }
    }

    pub(super) fn next_mark(&mut self) -> Mark {
        let mark = Mark::new(self.next_mark);
        self.next_mark += 1;
        mark
    }

    pub(super) fn next_offset(&mut self, sequence: SequenceId) -> Offset {
        let mut skipped = 0;
        if !self.dense {
            // xorshift64: half of the time one to three numbers are skipped.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            skipped = (self.random >> 32).saturating_sub(1 << 31) % 4;
        }
        let next = self.next.entry(sequence).or_insert(Offset::FIRST.0);
        let offset = Offset(*next + skipped);
        *next = offset.0 + 1;
        offset
    }

    /// Moves the entries of a commit into the pending batch.
    pub(super) fn take(&mut self, commit: &Commit, time: i64) -> Taken {
        let shift = self.pending.bytes.len() as u32;
        self.pending.bytes.extend_from_slice(&commit.arena);
        let mut taken = Taken {
            write: 0,
            offsets: Vec::new(),
            early: Vec::new(),
        };
        let mut entries = commit.entries.iter().peekable();
        while let Some(entry) = entries.next() {
            let once = entries
                .next_if(|next| entry.kind == EntryKind::Data && next.kind == EntryKind::Once)
                .and_then(|next| Some((next, OnceKey::from_bytes(body_of(commit, next))?)));
            if let Some((_, key)) = once
                && let Some(held) = self.once.get(&key)
            {
                taken.write = taken.write.max(held.write);
                taken.offsets.push(held.offset);
                continue;
            }
            let Some(queued) = self.queue(commit, entry, shift, time, &mut taken) else {
                continue;
            };
            if let Some((next, key)) = once {
                let held = Held {
                    offset: queued.position,
                    write: self.pending.write,
                };
                self.once.insert(key, held);
                self.queue(commit, next, shift, time, &mut taken);
            }
        }
        self.pending.end = Mark::new(self.next_mark);
        taken
    }

    /// Moves one entry into the pending batch; `None` if it concerns a log that is not there.
    pub(super) fn queue(
        &mut self,
        commit: &Commit,
        entry: &CommitEntry,
        shift: u32,
        time: i64,
        taken: &mut Taken,
    ) -> Option<Entry> {
        let id = LogId(entry.log);
        let mut position = entry.position;
        let mut early = false;
        match entry.kind {
            EntryKind::Data => {
                let Some(sequence) = self.sequences.get(&id).copied() else {
                    taken.offsets.push(Offset(0));
                    return None;
                };
                position = self.next_offset(sequence);
                taken.offsets.push(position);
                early = entry.early && self.held && !self.blocked.contains(&id);
                if !early {
                    self.blocked.insert(id);
                }
            }
            EntryKind::LogCreated => {
                let created = LogCreated::parse(body_of(commit, entry))?;
                self.sequences.insert(id, created.sequence);
                self.blocked.insert(id);
            }
            EntryKind::LogRemoved => {
                self.sequences.remove(&id)?;
                self.blocked.insert(id);
            }
            EntryKind::Trim => {
                let next = self.next.get(self.sequences.get(&id)?).copied()?;
                position = position.min(Offset(next));
            }
            EntryKind::Release => {
                self.once.remove(&OnceKey::from_bytes(body_of(commit, entry))?);
            }
            EntryKind::Once => {
                let guarded = self.pending.entries.last();
                position = guarded.map_or(position, |record| record.position);
            }
            EntryKind::Row | EntryKind::RowDeleted | EntryKind::TrimClass => {}
        }
        let queued = Entry {
            kind: entry.kind,
            early,
            log: id,
            position,
            time,
            mark: self.next_mark(),
            start: shift + entry.body.start,
            length: entry.body.end - entry.body.start,
        };
        taken.write = self.pending.write;
        self.pending.entries.push(queued);
        if early {
            taken.early.push(queued);
        }
        Some(queued)
    }

    /// Makes the pending batch durable.
    pub(super) fn flush(&mut self) -> Option<Arc<Batch>> {
        if self.pending.entries.is_empty() {
            return None;
        }
        let write = self.pending.write;
        let next = Batch {
            write: write + 1,
            ..Batch::default()
        };
        let batch = Arc::new(std::mem::replace(&mut self.pending, next));
        self.blocked.clear();
        self.durable_write = write;
        self.model.apply(&batch);
        self.behind.push(Arc::clone(&batch));
        Some(batch)
    }
}

pub(super) fn body_of<'a>(commit: &'a Commit, entry: &CommitEntry) -> &'a [u8] {
    let body = entry.body.start as usize..entry.body.end as usize;
    commit.arena.get(body).unwrap_or_default()
}

/// A batch as the feed of the next start hands it out: to a reader that has seen nothing of it.
pub(super) fn replayed(batch: &Batch) -> Batch {
    let entries = batch.entries.iter().map(|entry| Entry { early: false, ..*entry });
    Batch {
        entries: entries.collect(),
        bytes: batch.bytes.clone(),
        end: batch.end,
        waiters: Vec::new(),
        write: 0,
    }
}
