//! The one writer: takes what is there the moment it is idle, writes it with one call, syncs it if anybody waits, and
//! hands it on. There is no timer between a waiting commit and the disk.
//!
//! **Invariants** (the numbers are those of the format's description)
//! - W1 batches are numbered without gaps and written in that order, each behind the last.
//! - W3 a batch that is waited for is handed on only after a sync, begun after its write, that returned without error;
//!   unsynced batches lie in one file.
//! - W4 `durable_through` was true when the header was encoded.
//! - W5 the next segment is durable before the Seal that names it is written, and the Seal before the next segment's
//!   first batch.
//! - W6 after an error on the log nothing is ever written again; "no space" alone keeps the batch and tries again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Log;
use super::append::{Append, Building, Closed, Stop};
use super::buffers::{Buffers, fitted, of_batch};
use super::frame::{BATCH_HEADER_BYTES, BatchHeader, Seal, finish_batch, flags, lsn};
use super::prepare::{FULL_RETRY, NotReady};
use super::segment::Segment;
use crate::store::Error;
use crate::store::feed::FeedItem;
use crate::store::types::{Batch, Mark};

use super::super::Durability;
use super::super::disk::is_full;

/// Bytes of lazy commits that are written without waiting for more.
const LAZY_BYTES: usize = 256 << 10;
/// How long lazy commits may lie unwritten.
const LAZY_WRITE: Duration = Duration::from_millis(20);
/// How long written batches may lie unsynced, and how long after a burst the Tick follows.
const LAZY_SYNC: Duration = Duration::from_secs(1);

/// Written bytes that may lie unsynced: well below what may be pending, so that what nobody waits for is not refused
/// while the disk is idle.
const LAZY_SYNC_BYTES: usize = 8 << 20;

/// How long an orderly stop waits for space.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// A batch that was encoded.
struct Encoded {
    bytes: Vec<u8>,
    offset: u32,
    meta: Meta,
}

/// A batch on its way to the feed.
struct Meta {
    number: u64,
    start: u32,
    end: u32,
    time: i64,
    flags: u32,
    entries: Vec<crate::store::types::Entry>,
    pending_bytes: usize,
    /// Where the log goes on behind a Seal.
    next: Option<Segment>,
}

/// What to do now.
enum Work {
    Write(Closed),
    Sync,
    Tick,
    CleanStop,
    End,
    Wait(Option<Instant>),
}

/// How a step went.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// There may be more to do.
    Done,
    /// There is no space, or the next segment is not ready: the same again later.
    Blocked,
    /// Nothing to do before this.
    Idle(Option<Instant>),
    /// The end.
    Ended,
}

/// The writer.
pub(crate) struct Writer {
    log: Arc<Log>,
    segment: Segment,
    segment_bytes: u64,
    /// Encoded and not written: the disk was full.
    stuck: Option<Encoded>,
    /// Taken and not encoded: the next segment was not ready.
    waiting_seal: Option<Closed>,
    unsynced: Vec<(Meta, Vec<u8>)>,
    unsynced_bytes: usize,
    unsynced_since: Option<Instant>,
    /// The highest batch that a sync has covered.
    durable: u64,
    written: u64,
    tick_due: Option<Instant>,
    clean_stop_written: bool,
    /// Batches that have left the recent ones, and buffers on their way back to the append side.
    left: Vec<Arc<Batch>>,
    free: Vec<Buffers>,
}

impl Writer {
    pub(crate) fn new(log: Arc<Log>, segment: Segment, segment_bytes: u64, durable: u64) -> Self {
        Self {
            log,
            segment,
            segment_bytes,
            stuck: None,
            waiting_seal: None,
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            unsynced_since: None,
            durable,
            written: durable,
            tick_due: None,
            clean_stop_written: false,
            left: Vec::new(),
            free: Vec::new(),
        }
    }

    /// The writer thread's life.
    pub(crate) fn run(mut self) {
        let log = Arc::clone(&self.log);
        let mut blocked_since: Option<Instant> = None;
        loop {
            let step = self.step(false);
            if step == Step::Blocked {
                let since = *blocked_since.get_or_insert_with(Instant::now);
                let stopping = log.append.lock().stopping.is_some();
                if stopping && since.elapsed() >= STOP_PATIENCE {
                    self.latch("there was no space for the last batches of an orderly stop");
                    return;
                }
            } else {
                blocked_since = None;
            }
            match step {
                Step::Done => {}
                Step::Ended => return,
                Step::Blocked if self.waiting_seal.is_some() => log.preparer.wait(),
                Step::Blocked => {
                    let mut append = log.append.lock();
                    if append.stopping != Some(Stop::Abandon) {
                        log.work.wait_for(&mut append, FULL_RETRY);
                    }
                }
                Step::Idle(until) => {
                    let mut append = log.append.lock();
                    // Somebody may have come since the step looked.
                    if matches!(self.next(&mut append, Instant::now(), false, true), Work::Wait(_)) {
                        match until {
                            Some(until) => {
                                log.work.wait_until(&mut append, until);
                            }
                            None => log.work.wait(&mut append),
                        }
                    }
                }
            }
        }
    }

    /// What to do; with `peek` nothing is taken. `hurry` treats every deadline as passed.
    fn next(&self, append: &mut Append, now: Instant, hurry: bool, peek: bool) -> Work {
        if append.stopping == Some(Stop::Abandon) || append.latched.is_some() {
            return Work::End;
        }
        let closing = append.stopping == Some(Stop::Clean);
        let passed = |deadline: Instant| hurry || closing || deadline <= now;
        let mut wake = None;
        let mut soon = |deadline: Instant| wake = Some(wake.map_or(deadline, |at: Instant| at.min(deadline)));
        if !append.closed.is_empty() {
            return match append.closed.pop_front() {
                Some(closed) if peek => {
                    append.closed.push_front(closed);
                    Work::Sync
                }
                Some(closed) => Work::Write(closed),
                None => Work::Sync,
            };
        }
        if let Some(building) = &append.building {
            let write_by = building.begun + LAZY_WRITE;
            if building.urgent || building.bytes.len() >= LAZY_BYTES || passed(write_by) {
                return match (peek, append.take_building_unless(peek)) {
                    (false, Some(building)) => Work::Write(Closed::Batch(building)),
                    _ => Work::Sync,
                };
            }
            soon(write_by);
        }
        if let Some(since) = self.unsynced_since {
            let sync_by = since + self.sync_after();
            if append.sync_through > self.durable || passed(sync_by) {
                return Work::Sync;
            }
            soon(sync_by);
        } else if closing && append.building.is_none() {
            return if self.clean_stop_written {
                Work::End
            } else {
                Work::CleanStop
            };
        } else if let Some(due) = self.tick_due {
            if due <= now || hurry {
                return Work::Tick;
            }
            soon(due);
        }
        Work::Wait(wake)
    }

    fn sync_after(&self) -> Duration {
        match self.log.durability {
            Durability::Sync => LAZY_SYNC,
            Durability::Interval(ms) => Duration::from_millis(ms),
        }
    }

    /// Does one thing. `hurry` treats every deadline as passed, for tests that move time themselves.
    pub(crate) fn step(&mut self, hurry: bool) -> Step {
        if let Some(encoded) = self.stuck.take() {
            if self.log.append.lock().stopping == Some(Stop::Abandon) {
                return Step::Ended;
            }
            return self.write(encoded);
        }
        if let Some(closed) = self.waiting_seal.take() {
            if self.log.append.lock().stopping == Some(Stop::Abandon) {
                return Step::Ended;
            }
            return self.encode(closed);
        }
        let now = Instant::now();
        let work = self.next(&mut self.log.append.lock(), now, hurry, false);
        match work {
            Work::Write(closed) => self.encode(closed),
            Work::Sync => self.sync(),
            Work::Tick => {
                self.tick_due = None;
                let now_ms = self.log.clock.wall_ms();
                self.log.append.lock().push_empty(flags::TICK, now_ms, now);
                Step::Done
            }
            Work::CleanStop => {
                self.clean_stop_written = true;
                self.tick_due = None;
                let now_ms = self.log.clock.wall_ms();
                self.log.append.lock().push_empty(flags::CLEAN_STOP, now_ms, now);
                Step::Done
            }
            Work::End => {
                if self.clean_stop_written && self.log.append.lock().latched.is_none() {
                    self.log.feed.push(FeedItem::Closed);
                }
                Step::Ended
            }
            Work::Wait(until) => Step::Idle(until),
        }
    }

    fn encode(&mut self, closed: Closed) -> Step {
        let durable_through = self.durable;
        let salt = self.segment.header.salt;
        let encoded = match closed {
            Closed::Batch(building) => {
                debug_assert_eq!(
                    building.segment, self.segment.header.number,
                    "the writer follows the append side"
                );
                encode_batch(building, durable_through, salt)
            }
            Closed::Seal {
                number,
                segment,
                start,
                next_size,
                time,
            } => {
                let next = match self.log.preparer.take(segment + 1, next_size) {
                    Ok(next) => next,
                    Err(NotReady::Failed(cause)) => return self.latch(&cause),
                    Err(not_ready) => {
                        self.log.append.lock().full = matches!(not_ready, NotReady::Full);
                        self.waiting_seal = Some(closed);
                        return Step::Blocked;
                    }
                };
                self.log.append.lock().full = false;
                let seal = Seal {
                    next: segment + 1,
                    salt: next.header.salt,
                    size: next.header.size,
                };
                let bytes = seal.batch(number, lsn(segment, start), durable_through, time, salt);
                Encoded {
                    offset: start,
                    meta: Meta {
                        number,
                        start,
                        end: start + bytes.len() as u32,
                        time,
                        flags: flags::SEAL,
                        entries: Vec::new(),
                        pending_bytes: 0,
                        next: Some(next),
                    },
                    bytes,
                }
            }
        };
        self.write(encoded)
    }

    fn write(&mut self, encoded: Encoded) -> Step {
        match self.segment.file.write_at(&encoded.bytes, u64::from(encoded.offset)) {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                self.log.append.lock().full = true;
                self.stuck = Some(encoded);
                // What a spare holds may be what is missing. If it cannot be given up, nothing is lost by it.
                return match self.log.preparer.give_up_spare(&self.log.site(self.segment_bytes)) {
                    Ok(()) => Step::Blocked,
                    Err(error) => self.latch(&format!("cannot give up a spare segment: {error}")),
                };
            }
            Err(error) => return self.latch(&self.failed("write", &error)),
        }
        let Encoded { bytes, meta, .. } = encoded;
        self.log.counters.wrote(meta.entries.len(), bytes.len());
        {
            let mut append = self.log.append.lock();
            if append.full {
                append.full = false;
            }
        }
        self.written = meta.number;
        self.log.preparer.wrote(bytes.len());
        self.unsynced_since.get_or_insert_with(Instant::now);
        let is_seal = meta.next.is_some();
        if meta.flags & (flags::TICK | flags::CLEAN_STOP | flags::SEAL) == 0 {
            self.tick_due = Some(Instant::now() + LAZY_SYNC);
        }
        self.unsynced_bytes += bytes.len();
        self.unsynced.push((meta, bytes));
        if is_seal || self.unsynced_bytes >= LAZY_SYNC_BYTES {
            return self.sync();
        }
        if self.log.durability != Durability::Sync {
            self.hand_on();
        }
        // One sync serves all batches that are ready to be written.
        let append = self.log.append.lock();
        let sync =
            append.closed.is_empty() && append.sync_through > self.durable && append.sync_through <= self.written;
        drop(append);
        if sync { self.sync() } else { Step::Done }
    }

    fn sync(&mut self) -> Step {
        if self.unsynced_since.is_none() {
            return Step::Done;
        }
        let begun = self.log.born.elapsed().as_millis() as u64 + 1;
        self.log.sync_begun.store(begun, Ordering::Relaxed);
        let result = self.segment.file.sync_data();
        self.log.sync_begun.store(0, Ordering::Relaxed);
        if let Err(error) = result {
            return self.latch(&self.failed("sync", &error));
        }
        self.log.counters.synced();
        self.durable = self.written;
        if let Some(listing) = self.log.listing.get() {
            listing.synced(self.durable);
        }
        self.log.synced.store(self.durable, Ordering::Release);
        self.unsynced_since = None;
        self.unsynced_bytes = 0;
        self.hand_on();
        Step::Done
    }

    /// Hands the written batches to readers and the feed, and goes on in the next segment behind a Seal.
    fn hand_on(&mut self) {
        let log = Arc::clone(&self.log);
        let mut unsynced = std::mem::take(&mut self.unsynced);
        for (mut meta, bytes) in unsynced.drain(..) {
            let next = meta.next.take();
            let first_batch = meta.number + 1;
            let batch = self.release(meta, bytes);
            if let Some(batch) = batch {
                log.recent.write().push(batch, &mut self.left);
                self.free.extend(self.left.drain(..).filter_map(of_batch));
            }
            if let Some(next) = next {
                let fed = log.append.lock().last_fed;
                let mut state = log.state.write();
                state.switch(next.header.number, first_batch);
                state.fed_before_active = fed;
                drop(state);
                let salt = next.header.salt;
                log.open.insert(next.header.number, Arc::clone(&next.file), salt);
                log.preparer.want(next.header.number + 1, self.segment_bytes);
                self.segment = next;
            }
        }
        self.unsynced = unsynced;
        log.feed.ring();
    }

    fn release(&mut self, mut meta: Meta, mut bytes: Vec<u8>) -> Option<Arc<Batch>> {
        let log = &self.log;
        let filled = (bytes.len(), meta.entries.len());
        self.free.extend(fitted(&mut bytes, &mut meta.entries));
        let mut batch = Batch {
            entries: meta.entries,
            bytes,
            end: Mark::new(lsn(self.segment.header.number, meta.end)),
            waiters: Vec::new(),
            write: meta.number,
        };
        log.state.write().apply(&batch, meta.start, meta.time);
        if let Some(listing) = log.listing.get() {
            listing.written(&batch, meta.number <= self.durable);
        }
        let mut append = log.append.lock();
        for buffers in self.free.drain(..) {
            append.pool.give(buffers);
        }
        if filled.1 > 0 {
            append.pool.filled(filled.0, filled.1);
        }
        let number = meta.number;
        if !append.waiters.is_empty() {
            append.waiters.retain(|(write, who)| {
                let here = *write <= number;
                if here {
                    batch.waiters.push(*who);
                }
                !here
            });
        }
        append.pending_bytes = append.pending_bytes.saturating_sub(meta.pending_bytes);
        append.handed_on = number;
        append.handed_on_mark = batch.end;
        if batch.entries.is_empty() && batch.waiters.is_empty() {
            return None;
        }
        append.last_fed = batch.end;
        let batch = Arc::new(batch);
        log.feed.queue(FeedItem::Batch(Arc::clone(&batch)));
        Some(batch)
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> String {
        let path = self.log.dir.segment(self.segment.header.number);
        format!("{what} of `{}` failed: {error}", self.log.dir.shown(&path))
    }

    /// The end of all writing: what was handed over and not handed on is undecided until recovery.
    fn latch(&mut self, cause: &str) -> Step {
        let mut append = self.log.append.lock();
        append.latched = Some(cause.to_owned());
        append.closed.clear();
        append.building = None;
        append.waiters.clear();
        let handed_on = append.handed_on;
        drop(append);
        self.unsynced.clear();
        tracing::error!(cause, "the store has latched; nothing is acknowledged any more");
        let error = Error::Io(format!("{cause}; writes are disabled until restart"));
        self.log.settlement.failed(handed_on, error);
        self.log.feed.push(FeedItem::Latched(cause.to_owned()));
        Step::Ended
    }
}

fn encode_batch(building: Building, durable_through: u64, salt: u64) -> Encoded {
    let Building {
        number,
        segment,
        start,
        mut bytes,
        entries,
        time,
        flags,
        ..
    } = building;
    let pending_bytes = bytes.len();
    let header = BatchHeader {
        number,
        lsn: lsn(segment, start),
        bytes: bytes.len() as u32 - BATCH_HEADER_BYTES,
        records: entries.len() as u32,
        durable_through,
        time,
        flags,
    };
    finish_batch(&mut bytes, &header, salt);
    Encoded {
        offset: start,
        meta: Meta {
            number,
            start,
            end: start + bytes.len() as u32,
            time,
            flags,
            entries,
            pending_bytes,
            next: None,
        },
        bytes,
    }
}
