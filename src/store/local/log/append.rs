//! What is handed over and not yet written: positions, marks and once-keys are given out here, under the one append
//! lock, and commits are laid out in batches for the writer.
//!
//! A batch's place in the log is fixed when it is begun, so the mark of a record is known the moment it is appended: a
//! commit that does not fit into the segment any more closes the batch and puts a Seal behind it. The writer follows.
//!
//! **Invariants**
//! - Under the lock there is no system call, no CRC of a body, and no allocation per record.
//! - A commit lies in one batch, a batch in one segment, and [`SEAL_BYTES_MAX`] bytes are left behind the last batch.
//! - An early record passes only if no earlier record of its log still waits to be handed out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::super::snapshot::Loaded;
use super::buffers::{Buffers, Pool};
use super::frame::{
    BATCH_HEADER_BYTES, Kind, RECORD_PREFIX_BYTES, RecordPrefix, SEAL_BYTES_MAX, SEGMENT_HEADER_BYTES, align8, lsn,
};
use crate::store::Refused;
use crate::store::types::{
    Batch, Commit, Entry, EntryKind, LogCreated, LogId, Mark, Offset, OnceKey, Ticket, WaiterId,
};

/// Bytes that may wait to be durable before commits with records are refused.
pub(crate) const PENDING_BYTES_MAX: usize = 64 << 20;
/// What positions, releases and rows have of their own beyond that.
pub(crate) const PENDING_ROWS_BYTES: usize = 8 << 20;
/// A commit of more bytes than this is a batch of its own.
const COMMIT_ALONE_BYTES: u64 = 4 << 20;

/// Maintenance gives way to commits that have waited for longer.
const LATE: Duration = Duration::from_millis(1);

/// A log, as far as appending needs it.
struct AppendLog {
    /// Its next position, unless it shares a numbering.
    next: u64,
    shared: Option<u64>,
    /// The last batch with a record of it that did not pass early.
    waiting: u64,
}

/// A held once-key: the batch and the position of its record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) write: u64,
    pub(crate) position: u64,
}

/// A batch being laid out.
pub(crate) struct Building {
    pub(crate) number: u64,
    pub(crate) segment: u32,
    pub(crate) start: u32,
    /// Room for the header, then records whose CRC covers the body only.
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) time: i64,
    pub(crate) begun: Instant,
    /// Somebody waits for it.
    pub(crate) urgent: bool,
    pub(crate) flags: u32,
}

/// What the writer takes.
pub(crate) enum Closed {
    Batch(Building),
    /// The end of a segment: the Seal's number and place, and the size of the next segment.
    Seal {
        number: u64,
        segment: u32,
        start: u32,
        next_size: u64,
        time: i64,
    },
}

/// Where the next batch begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// The append side.
pub(crate) struct Append {
    logs: FxHashMap<u64, AppendLog>,
    sequences: FxHashMap<u64, u64>,
    once: BTreeMap<OnceKey, Held>,
    leases: FxHashMap<u64, u64>,
    first_epoch: u64,
    next_log: u64,
    cursor: Cursor,
    segment_bytes: u64,
    next_number: u64,
    /// The last batch with entries.
    last_write: u64,
    pub(crate) closed: VecDeque<Closed>,
    pub(crate) building: Option<Building>,
    highest_time: i64,
    pub(crate) pending_bytes: usize,
    /// The highest batch in the feed.
    pub(crate) handed_on: u64,
    pub(crate) handed_on_mark: Mark,
    /// The end of the last batch in the feed.
    pub(crate) last_fed: Mark,
    /// Must be synced as soon as it is written.
    pub(crate) sync_through: u64,
    pub(crate) waiters: Vec<(u64, WaiterId)>,
    pub(crate) latched: Option<String>,
    pub(crate) full: bool,
    pub(crate) stopping: Option<Stop>,
    /// Whether a commit that is waited for asks for a sync.
    pub(crate) sync_commits: bool,
    /// Memory of earlier batches.
    pub(crate) pool: Pool,
}

/// How the writer shall end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// Write and sync everything, then say so in the log.
    Clean,
    /// At once.
    Abandon,
}

/// What a commit did, besides its ticket.
pub(crate) struct Committed {
    pub(crate) ticket: Ticket,
    /// The early records of the run that may pass, for the feed.
    pub(crate) early: Option<Batch>,
    /// The writer has something to do that it may not be awake for.
    pub(crate) wake_writer: bool,
}

impl Append {
    pub(crate) fn new(
        cursor: Cursor,
        segment_bytes: u64,
        next_number: u64,
        highest_time: i64,
        first_epoch: u64,
    ) -> Self {
        Self {
            logs: FxHashMap::default(),
            sequences: FxHashMap::default(),
            once: BTreeMap::new(),
            leases: FxHashMap::default(),
            first_epoch,
            next_log: 1,
            cursor,
            segment_bytes,
            next_number,
            last_write: next_number.saturating_sub(1),
            closed: VecDeque::new(),
            building: None,
            highest_time,
            pending_bytes: 0,
            handed_on: next_number.saturating_sub(1),
            handed_on_mark: Mark::START,
            last_fed: Mark::START,
            sync_through: 0,
            waiters: Vec::new(),
            latched: None,
            full: false,
            stopping: None,
            sync_commits: true,
            pool: Pool::default(),
        }
    }

    /// A log of the snapshot or of an earlier batch.
    pub(crate) fn restore_log(&mut self, log: u64, sequence: u64, next: u64) {
        self.next_log = self.next_log.max(log + 1);
        self.add_log(log, sequence, next, 0);
    }

    /// A log that is alone in its numbering counts for itself; the first that joins it moves the count to the sequence.
    fn add_log(&mut self, log: u64, sequence: u64, next: u64, waiting: u64) {
        if sequence != log
            && let Some(alone) = self.logs.get_mut(&sequence)
            && alone.shared.is_none()
        {
            alone.shared = Some(sequence);
            let shared_next = self.sequences.entry(sequence).or_insert(1);
            *shared_next = alone.next.max(*shared_next);
        }
        let shared = (sequence != log || self.sequences.contains_key(&sequence)).then_some(sequence);
        if let Some(sequence) = shared {
            let shared_next = self.sequences.entry(sequence).or_insert(1);
            *shared_next = next.max(*shared_next);
        }
        self.logs.insert(log, AppendLog { next, shared, waiting });
    }

    /// Begins with what a snapshot says.
    pub(crate) fn restore(&mut self, loaded: &Loaded) {
        self.next_log = self.next_log.max(loaded.head.next_log);
        for log in &loaded.logs {
            self.restore_log(log.id.0, log.sequence.0, log.next.0);
        }
        for held in &loaded.once {
            self.restore_once(held.key, held.offset.0);
        }
    }

    fn restore_once(&mut self, key: OnceKey, position: u64) {
        self.once.insert(key, Held { write: 0, position });
    }

    /// Folds an entry found behind the snapshot.
    pub(crate) fn replay(&mut self, entry: &Entry, body: &[u8]) {
        let log = entry.log.0;
        match entry.kind {
            EntryKind::Data => {
                if let Some(state) = self.logs.get_mut(&log) {
                    let next = match state.shared {
                        Some(sequence) => self.sequences.entry(sequence).or_insert(1),
                        None => &mut state.next,
                    };
                    *next = (entry.position.0 + 1).max(*next);
                }
            }
            EntryKind::LogCreated => {
                if let Some(created) = LogCreated::parse(body) {
                    self.restore_log(log, created.sequence.0, 1);
                }
            }
            EntryKind::LogRemoved => {
                self.logs.remove(&log);
            }
            EntryKind::Once => {
                if let Some(key) = OnceKey::from_bytes(body) {
                    self.restore_once(key, entry.position.0);
                }
            }
            EntryKind::Release => {
                if let Some(key) = OnceKey::from_bytes(body) {
                    self.once.remove(&key);
                }
            }
            EntryKind::Row | EntryKind::RowDeleted | EntryKind::Trim | EntryKind::TrimClass => {}
        }
    }

    /// Whether a commit that somebody waits for has lain here for more than a moment.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        let closed = self.closed.iter().find_map(|closed| match closed {
            Closed::Batch(building) => Some(building),
            Closed::Seal { .. } => None,
        });
        let oldest = closed.or(self.building.as_ref());
        oldest.is_some_and(|building| building.urgent && now.saturating_duration_since(building.begun) > LATE)
    }

    /// The number the next log would get.
    pub(crate) fn next_log(&self) -> u64 {
        self.next_log
    }

    pub(crate) fn reserve_log(&mut self) -> LogId {
        let log = LogId(self.next_log);
        self.next_log += 1;
        log
    }

    pub(crate) fn holds(&self, key: OnceKey) -> bool {
        self.once.contains_key(&key)
    }

    pub(crate) fn held(&self, owner: u64) -> Vec<OnceKey> {
        let key = |generation, id| OnceKey { owner, generation, id };
        let range = key(0, 0)..=key(u32::MAX, u32::MAX);
        self.once.range(range).map(|(key, _)| *key).collect()
    }

    pub(crate) fn lease(&mut self, owner: u64) -> u64 {
        let epoch = self.leases.entry(owner).or_insert(self.first_epoch);
        *epoch += 1;
        *epoch
    }

    /// Now.
    pub(crate) fn mark(&self) -> Mark {
        Mark::new(match &self.building {
            Some(building) => lsn(building.segment, building.start + building.bytes.len() as u32),
            None => lsn(self.cursor.segment, self.cursor.offset as u32),
        })
    }

    /// Takes a commit, or says why not.
    pub(crate) fn commit(&mut self, commit: &Commit, now_ms: i64, now: Instant) -> Result<Committed, Refused> {
        let has_data = commit.entries.iter().any(|entry| entry.kind == EntryKind::Data);
        self.admit(commit, has_data)?;
        if commit.entries.is_empty() || self.all_held(commit) {
            return Ok(Committed {
                ticket: self.ticket_of_held(commit),
                early: None,
                wake_writer: false,
            });
        }
        let bytes = commit.entries.len() as u64 * u64::from(RECORD_PREFIX_BYTES) + commit.arena.len() as u64;
        let alone = bytes > COMMIT_ALONE_BYTES;
        if alone {
            self.close_building();
        }
        let mut building = self.begin(bytes, now);
        self.highest_time = self.highest_time.max(now_ms);
        building.time = self.highest_time;
        let before = building.bytes.len();
        let (ticket, early, held_back) = self.lay_out(commit, &mut building, now_ms);
        self.pending_bytes += building.bytes.len() - before;
        let number = building.number;
        // Whoever would have got a record early waits for it now, and so does what follows it.
        let urgent = commit.urgent || held_back;
        let first_urgent = urgent && !building.urgent;
        building.urgent |= urgent;
        if urgent && self.sync_commits {
            self.sync_through = number;
        }
        self.last_write = number;
        let wake_writer =
            first_urgent || alone || before == BATCH_HEADER_BYTES as usize || building.bytes.len() > 256 << 10;
        self.building = Some(building);
        if alone {
            self.close_building();
        }
        Ok(Committed {
            ticket,
            early,
            wake_writer,
        })
    }

    fn admit(&self, commit: &Commit, has_data: bool) -> Result<(), Refused> {
        if let Some(cause) = &self.latched {
            return Err(Refused::WritesDisabled(cause.clone()));
        }
        if self.stopping.is_some() {
            return Err(Refused::WritesDisabled("the store is closed".into()));
        }
        if let Some(lease) = &commit.fence
            && self
                .leases
                .get(&lease.owner)
                .is_some_and(|epoch| *epoch != lease.epoch.0)
        {
            return Err(Refused::Fenced);
        }
        if self.full && has_data {
            return Err(Refused::Full);
        }
        let own = if has_data { 0 } else { PENDING_ROWS_BYTES };
        if self.pending_bytes > PENDING_BYTES_MAX + own {
            return Err(Refused::Busy);
        }
        // Offsets in a batch are 32 bits wide.
        if commit.arena.len() + commit.entries.len() * RECORD_PREFIX_BYTES as usize > (1 << 31) {
            return Err(Refused::Busy);
        }
        Ok(())
    }

    /// The key that guards the data record at `at`.
    fn guard(commit: &Commit, at: usize) -> Option<OnceKey> {
        let next = commit.entries.get(at + 1)?;
        if next.kind != EntryKind::Once {
            return None;
        }
        OnceKey::from_bytes(body_of(commit, at + 1))
    }

    fn all_held(&self, commit: &Commit) -> bool {
        commit.entries.iter().enumerate().all(|(at, entry)| match entry.kind {
            EntryKind::Data => Self::guard(commit, at).is_some_and(|key| self.once.contains_key(&key)),
            EntryKind::Once => true,
            _ => false,
        })
    }

    fn ticket_of_held(&self, commit: &Commit) -> Ticket {
        let mut ticket = Ticket::default();
        for at in 0..commit.entries.len() {
            if let Some(held) = Self::guard(commit, at).and_then(|key| self.once.get(&key)) {
                ticket.write = ticket.write.max(held.write);
                if commit.offsets_wanted {
                    ticket.offsets.push(Offset(held.position));
                }
            }
        }
        ticket
    }

    /// The batch that takes a commit of so many bytes; begins one, in the next segment if need be.
    fn begin(&mut self, bytes: u64, now: Instant) -> Building {
        let room = |cursor: Cursor| {
            cursor
                .size
                .saturating_sub(cursor.offset + u64::from(SEAL_BYTES_MAX) + 8)
        };
        if let Some(building) = self.building.take() {
            if building.bytes.len() as u64 + bytes <= room(self.cursor) {
                return building;
            }
            self.building = Some(building);
            self.close_building();
        }
        let needed = u64::from(BATCH_HEADER_BYTES) + bytes;
        if needed > room(self.cursor) {
            let overhead = u64::from(SEGMENT_HEADER_BYTES + SEAL_BYTES_MAX) + 8;
            let next_size = if needed + overhead <= self.segment_bytes {
                self.segment_bytes
            } else {
                (needed + overhead).div_ceil(4096) * 4096
            };
            self.closed.push_back(Closed::Seal {
                number: self.next_number,
                segment: self.cursor.segment,
                start: self.cursor.offset as u32,
                next_size,
                time: self.highest_time,
            });
            self.next_number += 1;
            self.cursor = Cursor {
                segment: self.cursor.segment + 1,
                offset: u64::from(SEGMENT_HEADER_BYTES),
                size: next_size,
            };
        }
        self.begin_here(needed as usize, now)
    }

    fn begin_here(&mut self, capacity: usize, now: Instant) -> Building {
        let number = self.next_number;
        self.next_number += 1;
        let Buffers { mut bytes, entries } = self.pool.take(capacity);
        bytes.resize(BATCH_HEADER_BYTES as usize, 0);
        self.pending_bytes += bytes.len();
        Building {
            number,
            segment: self.cursor.segment,
            start: self.cursor.offset as u32,
            bytes,
            entries,
            time: self.highest_time,
            begun: now,
            urgent: false,
            flags: 0,
        }
    }

    /// Puts a batch without records behind what was handed over; it is synced at once.
    pub(crate) fn push_empty(&mut self, flags: u32, now_ms: i64, now: Instant) {
        self.close_building();
        self.highest_time = self.highest_time.max(now_ms);
        let mut building = self.begin(0, now);
        building.flags = flags;
        self.sync_through = building.number;
        self.building = Some(building);
        self.close_building();
    }

    /// Asks for everything handed over to be synced now; returns the batch it lies in or before.
    pub(crate) fn request_sync(&mut self) -> u64 {
        if self.last_write > self.handed_on || !self.sync_commits {
            self.sync_through = self.sync_through.max(self.last_write);
            if let Some(building) = &mut self.building {
                building.urgent = true;
            }
        }
        self.last_write
    }

    fn close_building(&mut self) {
        if let Some(building) = self.take_building() {
            self.closed.push_back(Closed::Batch(building));
        }
    }

    /// Takes the batch for writing; the next one begins behind it.
    pub(crate) fn take_building(&mut self) -> Option<Building> {
        let building = self.building.take()?;
        self.cursor.offset = align8(u64::from(building.start) + building.bytes.len() as u64);
        Some(building)
    }

    /// Takes the batch for writing, or with `keep` leaves it.
    pub(crate) fn take_building_unless(&mut self, keep: bool) -> Option<Building> {
        if keep { None } else { self.take_building() }
    }

    /// Appends the records of a commit to the batch. The answer has the run of those that pass early, and says whether
    /// others that might have passed did not.
    fn lay_out(&mut self, commit: &Commit, building: &mut Building, time: i64) -> (Ticket, Option<Batch>, bool) {
        let mut ticket = Ticket {
            write: building.number,
            offsets: Vec::new(),
        };
        let mut early_run: Option<Batch> = None;
        let mut held_back = false;
        let mut last_position = 0;
        let mut skip_guard = false;
        for (at, queued) in commit.entries.iter().enumerate() {
            let body = body_of(commit, at);
            let mut early = false;
            let mut position = queued.position.0;
            match queued.kind {
                EntryKind::Data => {
                    if let Some(held) = Self::guard(commit, at).and_then(|key| self.once.get(&key)) {
                        skip_guard = true;
                        if commit.offsets_wanted {
                            ticket.offsets.push(Offset(held.position));
                        }
                        continue;
                    }
                    let Some(log) = self.logs.get_mut(&queued.log) else {
                        // The log was removed in the meantime: the record goes where its log went.
                        skip_guard = Self::guard(commit, at).is_some();
                        if commit.offsets_wanted {
                            ticket.offsets.push(Offset(0));
                        }
                        continue;
                    };
                    let next = match log.shared {
                        Some(sequence) => self.sequences.entry(sequence).or_insert(1),
                        None => &mut log.next,
                    };
                    position = *next;
                    *next += 1;
                    last_position = position;
                    early = queued.early && log.waiting <= self.handed_on;
                    if !early {
                        log.waiting = building.number;
                        held_back |= queued.early;
                    }
                    if commit.offsets_wanted {
                        ticket.offsets.push(Offset(position));
                    }
                }
                EntryKind::LogCreated => {
                    if let Some(created) = LogCreated::parse(body) {
                        self.add_log(queued.log, created.sequence.0, 1, building.number);
                    }
                }
                EntryKind::LogRemoved => {
                    self.logs.remove(&queued.log);
                }
                EntryKind::Once => {
                    if std::mem::take(&mut skip_guard) {
                        continue;
                    }
                    position = last_position;
                    if let Some(key) = OnceKey::from_bytes(body) {
                        let write = building.number;
                        self.once.insert(key, Held { write, position });
                    }
                }
                EntryKind::Release => {
                    if let Some(key) = OnceKey::from_bytes(body) {
                        self.once.remove(&key);
                    }
                }
                EntryKind::Row | EntryKind::RowDeleted | EntryKind::Trim | EntryKind::TrimClass => {}
            }
            let start = building.bytes.len() as u32;
            RecordPrefix {
                kind: Kind::Entry(queued.kind),
                log: queued.log,
                position,
                time,
                body_bytes: body.len() as u32,
            }
            .append(&mut building.bytes, body, queued.body_crc);
            let entry = Entry {
                kind: queued.kind,
                early,
                log: LogId(queued.log),
                position: Offset(position),
                time,
                mark: Mark::new(lsn(building.segment, building.start + start)),
                start: start + RECORD_PREFIX_BYTES,
                length: body.len() as u32,
            };
            building.entries.push(entry);
            if early {
                let run = early_run.get_or_insert_default();
                let start = run.bytes.len() as u32;
                run.bytes.extend_from_slice(body);
                run.entries.push(Entry { start, ..entry });
                run.end = entry.mark.just_behind();
                run.write = building.number;
            }
        }
        (ticket, early_run, held_back)
    }
}

fn body_of(commit: &Commit, at: usize) -> &[u8] {
    let range = commit
        .entries
        .get(at)
        .map(|entry| entry.body.start as usize..entry.body.end as usize);
    range.and_then(|range| commit.arena.get(range)).unwrap_or_default()
}
