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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::feed::FeedQueue;
use super::{
    At, Batch, Bounds, Class, Commit, CommitEntry, Entry, EntryKind, Epoch, Error, Feed, FeedItem, Fetch, KeyedRow,
    Lease, Limit, LogCreated, LogId, Mark, MessageLog, MetaStore, Offset, OnceKey, Pin, Progress, ReadBuf, Refused,
    Result, RetentionClass, Row, SequenceId, Store, StoreState, Table, Ticket, Touched, WaiterId, parse_row,
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

#[derive(Default)]
struct State {
    model: Model,
    /// Handed over and not durable; its `write` is the number of the next batch.
    pending: Batch,
    /// Once-keys as of the last commit handed over, with the write that the first record lies in.
    once: HashMap<OnceKey, Held>,
    /// Next position per sequence as of the last commit handed over.
    next: HashMap<SequenceId, u64>,
    /// Logs as of the last commit handed over.
    sequences: HashMap<LogId, SequenceId>,
    /// Logs with something in `pending` that early records must not overtake.
    blocked: HashSet<LogId>,
    next_log: u64,
    next_mark: u64,
    durable_write: u64,
    /// Rows as of the snapshot.
    snapshot: Rows,
    snapshot_derived: Rows,
    derived: Rows,
    /// Durable batches behind the snapshot.
    behind: Vec<Arc<Batch>>,
    epochs: HashMap<u64, Epoch>,
    feed_taken: bool,
    held: bool,
    full: bool,
    dense: bool,
    closed: bool,
    latched: Option<String>,
    random: u64,
}

type Rows = BTreeMap<(Table, Vec<u8>), Row>;

#[derive(Clone, Copy)]
struct Held {
    offset: Offset,
    write: u64,
}

/// What is durable.
#[derive(Clone, Default)]
struct Model {
    logs: BTreeMap<LogId, Log>,
    rows: Rows,
    once: HashMap<OnceKey, Offset>,
    /// Next position per sequence; kept when the last log of a sequence goes, for positions are never reused.
    next: HashMap<SequenceId, u64>,
    /// The greatest log number that was ever created.
    last_log: u64,
}

#[derive(Clone)]
struct Log {
    name: Vec<u8>,
    sequence: SequenceId,
    class: RetentionClass,
    records: BTreeMap<Offset, Record>,
    newest_mark: Mark,
}

#[derive(Clone)]
struct Record {
    time: i64,
    mark: Mark,
    body: Vec<u8>,
}

impl Model {
    fn apply(&mut self, batch: &Batch) {
        let mut before = None;
        for entry in &batch.entries {
            let body = batch.body(entry);
            match entry.kind {
                EntryKind::Data => self.append(entry, body),
                EntryKind::Row | EntryKind::RowDeleted => apply_row(&mut self.rows, entry, body),
                EntryKind::LogCreated => self.create(entry.log, body),
                EntryKind::LogRemoved => {
                    self.logs.remove(&entry.log);
                }
                EntryKind::Trim => {
                    if let Some(log) = self.logs.get_mut(&entry.log) {
                        log.records = log.records.split_off(&entry.position);
                    }
                }
                EntryKind::TrimClass => self.trim_class(body),
                EntryKind::Once => {
                    if let (Some(key), Some(position)) = (OnceKey::from_bytes(body), before) {
                        self.once.insert(key, position);
                    }
                }
                EntryKind::Release => {
                    if let Some(key) = OnceKey::from_bytes(body) {
                        self.once.remove(&key);
                    }
                }
            }
            before = Some(entry.position);
        }
    }

    fn append(&mut self, entry: &Entry, body: &[u8]) {
        let Some(log) = self.logs.get_mut(&entry.log) else {
            return;
        };
        self.next.insert(log.sequence, entry.position.0 + 1);
        log.newest_mark = entry.mark;
        let record = Record {
            time: entry.time,
            mark: entry.mark,
            body: body.to_vec(),
        };
        log.records.insert(entry.position, record);
    }

    fn create(&mut self, id: LogId, body: &[u8]) {
        let Some(created) = LogCreated::parse(body) else {
            return;
        };
        self.last_log = self.last_log.max(id.0);
        self.next.entry(created.sequence).or_insert(Offset::FIRST.0);
        self.logs.entry(id).or_insert_with(|| Log {
            name: created.name.to_vec(),
            sequence: created.sequence,
            class: created.class,
            records: BTreeMap::new(),
            newest_mark: Mark::START,
        });
    }

    fn trim_class(&mut self, body: &[u8]) {
        let Some((class, rest)) = body.split_first_chunk::<2>() else {
            return;
        };
        let Some((before, _)) = rest.split_first_chunk::<8>() else {
            return;
        };
        let class = RetentionClass(u16::from_le_bytes(*class));
        let before = Mark::from_bytes(*before);
        for log in self.logs.values_mut().filter(|log| log.class == class) {
            log.records.retain(|_, record| record.mark >= before);
        }
    }

    fn bounds(&self, log: &Log) -> Bounds {
        let next = Offset(self.next.get(&log.sequence).copied().unwrap_or(Offset::FIRST.0));
        Bounds {
            first: log.records.keys().next().copied().unwrap_or(next),
            next,
            records: log.records.len() as u64,
            bytes: log.records.values().map(|record| record.body.len() as u64).sum(),
            newest_time: log.records.values().next_back().map_or(0, |record| record.time),
            newest_mark: log.newest_mark,
        }
    }

    fn log(&self, id: LogId) -> Result<&Log> {
        self.logs.get(&id).ok_or(Error::NoLog(id))
    }
}

fn apply_row(rows: &mut Rows, entry: &Entry, body: &[u8]) {
    let Some((key, row)) = parse_row(body) else {
        return;
    };
    let key = (entry.table(), key.to_vec());
    if entry.kind == EntryKind::RowDeleted {
        rows.remove(&key);
        return;
    }
    let row = Row {
        bytes: row.to_vec(),
        mark: entry.mark,
    };
    rows.insert(key, row);
}

/// Entries of a commit while they become entries of the pending batch.
struct Taken {
    write: u64,
    offsets: Vec<Offset>,
    early: Vec<Entry>,
}

impl State {
    fn first() -> Self {
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
    fn after_restart(&self) -> Self {
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

    fn next_mark(&mut self) -> Mark {
        let mark = Mark::new(self.next_mark);
        self.next_mark += 1;
        mark
    }

    fn next_offset(&mut self, sequence: SequenceId) -> Offset {
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
    fn take(&mut self, commit: &Commit, time: i64) -> Taken {
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
    fn queue(
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
            EntryKind::Row | EntryKind::RowDeleted | EntryKind::TrimClass | EntryKind::Once => {}
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
    fn flush(&mut self) -> Option<Arc<Batch>> {
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

fn body_of<'a>(commit: &'a Commit, entry: &CommitEntry) -> &'a [u8] {
    let body = entry.body.start as usize..entry.body.end as usize;
    commit.arena.get(body).unwrap_or_default()
}

/// A batch as the feed of the next start hands it out: to a reader that has seen nothing of it.
fn replayed(batch: &Batch) -> Batch {
    let entries = batch.entries.iter().map(|entry| Entry { early: false, ..*entry });
    Batch {
        entries: entries.collect(),
        bytes: batch.bytes.clone(),
        end: batch.end,
        waiters: Vec::new(),
        write: 0,
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

    /// Gives the owner to another holder: leases given before are void.
    pub fn usurp(&self, owner: u64) {
        let mut state = self.state.lock();
        let epoch = state.epochs.entry(owner).or_insert(Epoch(1));
        *epoch = Epoch(epoch.0 + 1);
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
        let epoch = *state.epochs.entry(owner).or_insert(Epoch(1));
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
            if lease.epoch < epoch {
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
mod tests {
    use super::*;
    use crate::store::conformance::Harness;

    struct Model(Arc<MemoryStore>);

    impl Harness for Model {
        fn store(&self) -> Arc<dyn Store> {
            Arc::clone(&self.0) as Arc<dyn Store>
        }

        fn restart(&mut self, clean: bool) {
            self.0.snapshot();
            self.0 = self.0.restart(clean);
        }

        fn clock(&self) -> Clock {
            self.0.clock.clone()
        }
    }

    fn store() -> Arc<MemoryStore> {
        MemoryStore::new(Clock::manual(1_700_000_000_000))
    }

    crate::conformance!(Model(store()));

    fn log_of(store: &MemoryStore) -> LogId {
        let mut commit = store.begin(Class::C);
        let log = store.create(&mut commit, b"t", None, RetentionClass(0));
        store.commit(commit).unwrap();
        log
    }

    fn append(store: &MemoryStore, log: LogId, early: bool) -> Ticket {
        let mut commit = store.begin(Class::A);
        commit.append(log, &[b"x"], early);
        store.commit(commit).unwrap()
    }

    fn batch(item: Option<FeedItem>) -> Arc<Batch> {
        let Some(FeedItem::Batch(batch)) = item else {
            panic!("a batch, not {item:?}")
        };
        batch
    }

    #[test]
    fn what_is_held_back_is_neither_visible_nor_settled() {
        let store = store();
        let log = log_of(&store);
        store.hold();
        let first = append(&store, log, false);
        let second = append(&store, log, false);
        store.notify(&first, WaiterId(1));
        store.notify(&second, WaiterId(1));
        let mut feed = store.feed();
        assert!(matches!(feed.try_next(), Some(FeedItem::CaughtUp)));
        batch(feed.try_next());
        assert!(feed.try_next().is_none());
        assert_eq!(store.bounds(log).unwrap().records, 0);
        assert_eq!((store.outcome(&first), store.outcome(&second)), (None, None));
        store.release();
        let held = batch(feed.try_next());
        assert_eq!(
            (held.entries.len(), held.waiters.len()),
            (2, 2),
            "one batch of both commits"
        );
        assert_eq!(store.bounds(log).unwrap().records, 2);
        assert_eq!(store.outcome(&second), None);
        assert!(feed.try_next().is_none());
        assert_eq!(
            (store.outcome(&first), store.outcome(&second)),
            (Some(Ok(())), Some(Ok(())))
        );
    }

    #[test]
    fn an_early_record_passes_once_and_never_overtakes_its_log() {
        let store = store();
        let log = log_of(&store);
        let mut feed = store.feed();
        while feed.try_next().is_some() {}
        store.hold();
        append(&store, log, true);
        assert!(matches!(feed.try_next(), Some(FeedItem::Early(early)) if early.entries.len() == 1));
        append(&store, log, false);
        append(&store, log, true);
        assert!(
            feed.try_next().is_none(),
            "a record that waits for its sync stands before it"
        );
        store.release();
        let early: Vec<bool> = batch(feed.try_next()).entries.iter().map(|entry| entry.early).collect();
        assert_eq!(early, [true, false, false]);
    }

    #[test]
    fn an_early_record_waits_for_the_birth_of_its_log() {
        let store = store();
        store.hold();
        let log = log_of(&store);
        append(&store, log, true);
        let mut feed = store.feed();
        assert!(matches!(feed.try_next(), Some(FeedItem::CaughtUp)));
        assert!(feed.try_next().is_none());
    }

    #[test]
    fn a_crash_loses_what_was_held_back_and_reuses_none_of_its_marks() {
        let store = store();
        let log = log_of(&store);
        store.hold();
        let lost = append(&store, log, false);
        let mark = store.mark();
        let next = store.restart(false);
        assert!(matches!(store.outcome(&lost), Some(Err(Error::Io(_)))));
        assert_eq!(next.bounds(log).unwrap().records, 0);
        assert!(next.mark() > mark);
    }

    #[test]
    fn after_a_latch_what_is_not_durable_fails_and_nothing_is_taken() {
        let store = store();
        let log = log_of(&store);
        let mut feed = store.feed();
        let durable = append(&store, log, false);
        store.hold();
        let lost = append(&store, log, false);
        store.latch("the disk is gone");
        let cause = "the disk is gone".to_owned();
        assert_eq!(store.state(), StoreState::Latched(cause.clone()));
        assert_eq!(store.outcome(&lost), Some(Err(Error::Io(cause.clone()))));
        assert_eq!(store.outcome(&durable), None, "its batch is still to be read");
        while !matches!(feed.try_next(), Some(FeedItem::Latched(_))) {}
        assert_eq!(store.outcome(&durable), Some(Ok(())));
        assert_eq!(store.commit(store.begin(Class::A)), Err(Refused::WritesDisabled(cause)));
        assert!(store.close().is_err());
    }

    #[test]
    fn a_full_store_refuses_records_and_nothing_else() {
        let store = store();
        let log = log_of(&store);
        store.set_full(true);
        let mut publish = store.begin(Class::A);
        publish.append(log, &[b"x"], false);
        assert_eq!(store.commit(publish), Err(Refused::Full));
        let mut row = store.begin(Class::B);
        row.put(Table(1), b"k", b"v");
        row.trim(log, Offset(9));
        assert!(store.commit(row).is_ok());
        store.set_full(false);
        append(&store, log, false);
        assert_eq!(store.bounds(log).unwrap().records, 1);
    }

    #[test]
    fn a_lease_taken_by_another_holder_is_void() {
        let store = store();
        let Fetch::Ready(Some(Ok(lease))) = store.lease(1, Duration::ZERO) else {
            panic!("a lease is immediate")
        };
        store.usurp(1);
        let mut commit = store.begin(Class::B);
        commit.put(Table(1), b"k", b"v");
        store.fence(&mut commit, &lease);
        assert_eq!(store.commit(commit), Err(Refused::Fenced));
    }

    #[test]
    fn without_a_reader_a_ticket_settles_when_it_is_durable() {
        let store = store();
        let log = log_of(&store);
        let ticket = append(&store, log, false);
        assert_eq!(store.outcome(&ticket), Some(Ok(())));
    }

    #[test]
    fn a_start_loads_the_snapshot_and_replays_what_lies_behind_it() {
        let store = store();
        let mut feed = store.feed();
        let put = |value: &[u8]| {
            let mut commit = store.begin(Class::B);
            commit.put(Table(1), b"k", value);
            store.commit(commit).unwrap();
        };
        put(b"1");
        while feed.try_next().is_some() {}
        store.derive(Table(12), b"d", Some(b"derived"));
        put(b"2");
        store.snapshot();
        store.derive(Table(12), b"d", Some(b"later"));
        let next = store.restart(false);
        let mut rows = Vec::new();
        next.load(&mut |table, key, row| rows.push((table.0, key.to_vec(), row.bytes.clone())))
            .unwrap();
        assert_eq!(
            rows,
            [
                (1, b"k".to_vec(), b"1".to_vec()),
                (12, b"d".to_vec(), b"derived".to_vec())
            ]
        );
        let mut feed = next.feed();
        let replayed = batch(feed.try_next());
        assert_eq!(replayed.row(&replayed.entries[0]), (&b"k"[..], &b"2"[..]));
        assert!(matches!(feed.try_next(), Some(FeedItem::CaughtUp)));
    }

    #[test]
    fn offsets_skip_numbers_unless_told_otherwise() {
        let store = store();
        let log = log_of(&store);
        for _ in 0..50 {
            append(&store, log, false);
        }
        let bounds = store.bounds(log).unwrap();
        assert!(bounds.next.0 > 51);
        store.dense();
        append(&store, log, false);
        append(&store, log, false);
        assert_eq!(store.bounds(log).unwrap().next.0, bounds.next.0 + 2);
    }
}
