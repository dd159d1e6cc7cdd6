//! The reference model: the rules of the seam in the plainest form, in memory, for tests to run on and for other
//! backends to be compared with.
//!
//! A commit is durable the moment it is handed over, unless a test holds durability back ([`MemoryStore::hold`]),
//! fills the store ([`MemoryStore::set_full`]) or breaks it ([`MemoryStore::latch`]). [`MemoryStore::restart`] gives
//! the store that a start after a stop or a crash would find.
//!
//! **Invariants**
//! - `model` holds exactly what is durable: the fold of all durable batches, in order.
//! - `model` and `pending` together are what offsets and once-keys are decided by.
//! - Offsets skip numbers on purpose, so that nobody takes a difference of offsets for a count.
//! - Marks are never reused, not even those of commits that a crash has lost.

mod model;
mod state;

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use self::model::{Rows, apply_row};
use self::state::State;
use super::feed::FeedQueue;
use super::{
    At, Batch, Bounds, Class, Commit, Entry, EntryKind, Epoch, Error, Feed, FeedItem, Fetch, KeyedRow, Lease, Limit,
    LogCreated, LogId, Mark, MessageLog, MetaStore, Offset, OnceKey, Pin, Progress, ReadBuf, Refused, Result,
    RetentionClass, Row, SequenceId, Store, StoreState, Table, Ticket, Touched, WaiterId, Written,
};
use crate::clock::Clock;

/// A store that lives in memory and can be told how to misbehave.
pub struct MemoryStore {
    clock: Clock,
    queue: Arc<FeedQueue>,
    settlement: Arc<Settlement>,
    state: Mutex<State>,
}

/// Which writes the feed's reader has finished.
#[derive(Default)]
struct Settlement {
    write: AtomicU64,
    changed: Notify,
}

impl Settlement {
    fn raise(&self, write: u64) {
        self.write.fetch_max(write, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}

impl MemoryStore {
    /// An empty store whose records carry the time of `clock`.
    pub fn new(clock: Clock) -> Arc<Self> {
        Self::with(clock, State::first())
    }

    fn with(clock: Clock, state: State) -> Arc<Self> {
        let settlement = Arc::new(Settlement::default());
        let finished = Arc::clone(&settlement);
        let queue = FeedQueue::new(Box::new(move |batch: &Batch| finished.raise(batch.write)));
        for batch in &state.behind {
            queue.push(FeedItem::Batch(Arc::clone(batch)));
        }
        queue.push(FeedItem::CaughtUp);
        Arc::new(Self {
            clock,
            queue,
            settlement,
            state: Mutex::new(state),
        })
    }

    /// From now on offsets are contiguous, for tests that want to name them.
    pub fn dense(&self) {
        self.state.lock().dense = true;
    }

    /// From now on nothing becomes durable until [`MemoryStore::release`]; early records pass the feed meanwhile.
    pub fn hold(&self) {
        self.state.lock().held = true;
    }

    /// Makes durable what was held back, as one batch, and holds nothing back any more.
    pub fn release(&self) {
        let mut state = self.state.lock();
        state.held = false;
        self.flush(&mut state);
    }

    /// Fails as a store does whose write or sync failed: what is not durable is lost, nothing more is taken.
    pub fn latch(&self, cause: &str) {
        let mut state = self.state.lock();
        if state.latched.is_some() || state.closed {
            return;
        }
        state.latched = Some(cause.to_owned());
        self.queue.push(FeedItem::Latched(cause.to_owned()));
        drop(state);
        self.settlement.changed.notify_waiters();
    }

    /// While full, commits with records are refused; everything else goes on.
    pub fn set_full(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// Takes a snapshot at the last batch that the feed's reader has finished (or, if the feed was never taken, at the
    /// last durable one): the next start loads its rows and replays only what lies behind.
    pub fn snapshot(&self) {
        let mut state = self.state.lock();
        let upto = if state.feed_taken {
            self.queue.finished_mark()
        } else {
            Mark::END
        };
        let state = &mut *state;
        let cut = state.behind.partition_point(|batch| batch.end <= upto);
        for batch in state.behind.drain(..cut) {
            for entry in &batch.entries {
                if matches!(entry.kind, EntryKind::Row | EntryKind::RowDeleted) {
                    apply_row(&mut state.snapshot, entry, batch.body(entry));
                }
            }
        }
        state.snapshot_derived.clone_from(&state.derived);
    }

    /// The store that the next start finds. `clean`: this one is closed first; otherwise it is lost as in a crash,
    /// and with it everything that was handed over and not durable.
    pub fn restart(&self, clean: bool) -> Arc<Self> {
        if clean {
            // A latched store cannot close cleanly; what it loses then is what a crash would lose.
            drop(self.close());
        }
        let mut state = self.state.lock();
        if !state.closed {
            state.closed = true;
            state
                .latched
                .get_or_insert_with(|| "the store was lost in a crash".to_owned());
            self.queue.push(FeedItem::Closed);
        }
        let next = state.after_restart();
        drop(state);
        self.settlement.changed.notify_waiters();
        Self::with(self.clock.clone(), next)
    }

    fn flush(&self, state: &mut State) {
        if state.latched.is_some() {
            return;
        }
        let Some(batch) = state.flush() else {
            return;
        };
        let write = batch.write;
        state.written.batches += 1;
        state.written.syncs += 1;
        state.written.records += batch.entries.len() as u64;
        state.written.bytes += batch.bytes.len() as u64;
        self.queue.push(FeedItem::Batch(batch));
        if !state.feed_taken {
            self.settlement.raise(write);
        }
    }

    fn outcome_of(&self, write: u64) -> Option<Result<()>> {
        if write <= self.settlement.write.load(Ordering::Acquire) {
            return Some(Ok(()));
        }
        let state = self.state.lock();
        let cause = state.latched.as_ref()?;
        (write > state.durable_write).then(|| Err(Error::Io(cause.clone())))
    }
}

impl MessageLog for MemoryStore {
    fn create(&self, commit: &mut Commit, name: &[u8], sequence: Option<SequenceId>, class: RetentionClass) -> LogId {
        let mut state = self.state.lock();
        let log = LogId(state.next_log);
        state.next_log += 1;
        drop(state);
        let created = LogCreated {
            sequence: sequence.unwrap_or(SequenceId(log.0)),
            class,
            name,
        };
        commit.log_created(log, &created);
        log
    }

    fn holds(&self, once: OnceKey) -> bool {
        self.state.lock().once.contains_key(&once)
    }

    fn held(&self, owner: u64) -> Vec<OnceKey> {
        let state = self.state.lock();
        state.once.keys().filter(|key| key.owner == owner).copied().collect()
    }

    fn logs(&self, visit: &mut dyn FnMut(LogId, &[u8], &Bounds)) {
        let model = self.state.lock().model.clone();
        for (id, log) in &model.logs {
            visit(*id, &log.name, &model.bounds(log));
        }
    }

    fn bounds(&self, log: LogId) -> Option<Bounds> {
        let state = self.state.lock();
        Some(state.model.bounds(state.model.logs.get(&log)?))
    }

    fn locate(&self, log: LogId, at: At) -> Fetch<'_, Offset> {
        let state = self.state.lock();
        Fetch::ready(state.model.log(log).map(|found| {
            let mut records = found.records.iter();
            let place = match at {
                At::Mark(mark) => records.find(|(_, record)| record.mark >= mark),
                At::Time(time) => records.find(|(_, record)| record.time >= time),
                At::Last(count) => {
                    let behind = found
                        .records
                        .len()
                        .saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
                    records.nth(behind)
                }
            };
            place.map_or_else(|| state.model.bounds(found).next, |(offset, _)| *offset)
        }))
    }

    fn read<'a>(&'a self, log: LogId, from: Offset, limit: Limit, into: &'a mut ReadBuf) -> Fetch<'a, Progress> {
        into.clear();
        let state = self.state.lock();
        Fetch::ready(state.model.log(log).map(|found| {
            let mut progress = Progress {
                next: from,
                more: false,
            };
            for (offset, record) in found.records.range(from..) {
                if record.mark >= limit.before {
                    break;
                }
                let reached = into.records.len() >= limit.records || into.bytes.len() >= limit.bytes;
                if reached && !into.records.is_empty() {
                    progress.more = true;
                    break;
                }
                into.push(*offset, record.time, record.mark, &record.body);
                progress.next = offset.next();
            }
            progress
        }))
    }

    fn touched<'a>(&'a self, from: Mark, limit: Limit, into: &'a mut Vec<Touched>) -> Fetch<'a, Mark> {
        into.clear();
        let state = self.state.lock();
        let mut records: Vec<(Mark, LogId, Offset, usize)> = Vec::new();
        for (id, log) in &state.model.logs {
            let range = log
                .records
                .iter()
                .filter(|(_, record)| record.mark >= from && record.mark < limit.before);
            records.extend(range.map(|(offset, record)| (record.mark, *id, *offset, record.body.len())));
        }
        records.sort_unstable();
        let mut bytes = 0;
        for (mark, log, offset, size) in records {
            if bytes > 0 && bytes >= limit.bytes {
                return Fetch::ready(Ok(mark));
            }
            if let Some(touched) = into.iter_mut().find(|touched| touched.log == log) {
                touched.count += 1;
            } else if !into.is_empty() && into.len() >= limit.records {
                return Fetch::ready(Ok(mark));
            } else {
                into.push(Touched {
                    log,
                    first: offset,
                    count: 1,
                });
            }
            bytes += size.max(1);
        }
        let durable = state
            .pending
            .entries
            .first()
            .map_or(state.next_mark, |entry| entry.mark.raw());
        Fetch::ready(Ok(limit.before.min(Mark::new(durable)).max(from)))
    }

    fn count(&self, log: LogId, range: Range<Offset>) -> Fetch<'_, u64> {
        let state = self.state.lock();
        Fetch::ready(state.model.log(log).map(|found| {
            let inside = found.records.keys().filter(|offset| range.contains(offset));
            inside.count() as u64
        }))
    }

    fn feed(&self) -> Feed {
        self.state.lock().feed_taken = true;
        self.queue.take()
    }

    fn pin(&self, _mark: Mark) -> Pin {
        // Nothing is ever taken away here but by a trim.
        Pin { _guard: Box::new(()) }
    }
}

impl MetaStore for MemoryStore {
    fn derive(&self, table: Table, key: &[u8], row: Option<&[u8]>) {
        let mut state = self.state.lock();
        let key = (table, key.to_vec());
        match row {
            Some(bytes) => {
                let row = Row {
                    bytes: bytes.to_vec(),
                    mark: self.queue.finished_mark(),
                };
                state.derived.insert(key, row);
            }
            None => {
                state.derived.remove(&key);
            }
        }
    }

    fn get(&self, table: Table, key: &[u8]) -> Fetch<'_, Option<Row>> {
        let state = self.state.lock();
        let key = (table, key.to_vec());
        let row = state.model.rows.get(&key).or_else(|| state.derived.get(&key));
        Fetch::ready(Ok(row.cloned()))
    }

    fn scan(&self, table: Table, range: Range<Vec<u8>>, limit: usize) -> Fetch<'_, Vec<KeyedRow>> {
        if range.start >= range.end {
            return Fetch::ready(Ok(Vec::new()));
        }
        let state = self.state.lock();
        let range = (
            Bound::Included((table, range.start)),
            Bound::Excluded((table, range.end)),
        );
        let mut found: Rows = BTreeMap::new();
        for rows in [&state.derived, &state.model.rows] {
            found.extend(rows.range(range.clone()).map(|(key, row)| (key.clone(), row.clone())));
        }
        let rows = found.into_iter().take(limit).map(|((_, key), row)| (key, row));
        Fetch::ready(Ok(rows.collect()))
    }

    fn load(&self, visit: &mut dyn FnMut(Table, &[u8], &Row)) -> Result<()> {
        let state = self.state.lock();
        let rows = [state.snapshot.clone(), state.snapshot_derived.clone()];
        drop(state);
        for ((table, key), row) in rows.iter().flatten() {
            visit(*table, key, row);
        }
        Ok(())
    }

    fn lease(&self, owner: u64, _ttl: Duration) -> Fetch<'_, Lease> {
        let mut state = self.state.lock();
        let epoch = state.epochs.entry(owner).or_default();
        *epoch = Epoch(epoch.0 + 1);
        let epoch = *epoch;
        Fetch::ready(Ok(Lease {
            owner,
            epoch,
            ttl: None,
        }))
    }

    fn renew(&self, _lease: &Lease) -> Fetch<'_, ()> {
        Fetch::ready(Ok(()))
    }
}

impl Store for MemoryStore {
    fn begin(&self, class: Class) -> Commit {
        Commit::new(class)
    }

    fn commit(&self, commit: Commit) -> std::result::Result<Ticket, Refused> {
        let time = self.clock.wall_ms();
        let mut state = self.state.lock();
        if let Some(cause) = &state.latched {
            return Err(Refused::WritesDisabled(cause.clone()));
        }
        if state.closed {
            return Err(Refused::WritesDisabled("the store is closed".to_owned()));
        }
        if let Some(lease) = commit.fence {
            let epoch = state.epochs.get(&lease.owner).copied().unwrap_or_default();
            if lease.epoch != epoch {
                return Err(Refused::Fenced);
            }
        }
        if state.full && commit.entries.iter().any(|entry| entry.kind == EntryKind::Data) {
            return Err(Refused::Full);
        }
        let taken = state.take(&commit, time);
        if !taken.early.is_empty() {
            let early = Batch {
                entries: taken
                    .early
                    .iter()
                    .map(|entry| Entry { early: false, ..*entry })
                    .collect(),
                bytes: state.pending.bytes.clone(),
                end: state.pending.end,
                waiters: Vec::new(),
                write: 0,
            };
            self.queue.push(FeedItem::Early(Arc::new(early)));
        }
        if !state.held {
            self.flush(&mut state);
        }
        Ok(Ticket {
            write: taken.write,
            offsets: if commit.offsets_wanted {
                taken.offsets
            } else {
                Vec::new()
            },
        })
    }

    fn sync(&self) -> Ticket {
        let state = self.state.lock();
        let write = if state.pending.entries.is_empty() {
            state.durable_write
        } else {
            state.pending.write
        };
        Ticket {
            write,
            offsets: Vec::new(),
        }
    }

    fn notify(&self, ticket: &Ticket, who: WaiterId) {
        let mut state = self.state.lock();
        if ticket.write > state.durable_write {
            state.pending.waiters.push(who);
            return;
        }
        // Its batch is queued or handed out already: the next one, which holds nothing else, wakes.
        let end = state
            .behind
            .last()
            .map_or(self.queue.finished_mark(), |batch| batch.end);
        let wake = Batch {
            end,
            waiters: vec![who],
            ..Batch::default()
        };
        self.queue.push(FeedItem::Batch(Arc::new(wake)));
    }

    fn outcome(&self, ticket: &Ticket) -> Option<Result<()>> {
        self.outcome_of(ticket.write)
    }

    fn settled(&self, ticket: &Ticket) -> Fetch<'_, ()> {
        let write = ticket.write;
        if let Some(outcome) = self.outcome_of(write) {
            return Fetch::ready(outcome);
        }
        Fetch::wait(async move {
            loop {
                let changed = self.settlement.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(outcome) = self.outcome_of(write) {
                    return outcome;
                }
                changed.await;
            }
        })
    }

    fn mark(&self) -> Mark {
        Mark::new(self.state.lock().next_mark)
    }

    fn state(&self) -> StoreState {
        let state = self.state.lock();
        match &state.latched {
            Some(cause) => StoreState::Latched(cause.clone()),
            None if state.full => StoreState::Full,
            None => StoreState::Ready,
        }
    }

    fn written(&self) -> Written {
        self.state.lock().written
    }

    fn close(&self) -> Result<()> {
        let mut state = self.state.lock();
        if let Some(cause) = &state.latched {
            return Err(Error::Io(cause.clone()));
        }
        if !state.closed {
            state.closed = true;
            self.flush(&mut state);
            self.queue.push(FeedItem::Closed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
