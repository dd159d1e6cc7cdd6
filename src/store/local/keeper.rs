//! Maintenance of what was written: sidecars of sealed segments, snapshots, and segments that nobody needs any more.
//! It runs on the maintenance thread, in slices between which the next segment comes first.
//!
//! A snapshot stands at the begin of the active segment. What it says may be a little newer than that, for it is
//! collected while the store runs: rows are absolute, and what a log has counted is not counted again when the batches
//! behind the mark are replayed.
//!
//! **Invariants**
//! - A snapshot is written only when every segment before its mark has a durable sidecar, the feed's reader has finished
//!   everything before the mark, and everything in it is durable.
//! - A segment is given back only when no log wants a record of it, the oldest kept snapshot stands behind it, the newest
//!   does not list it, and no pin holds it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::Log;
use super::log::frame::{SEGMENT_HEADER_BYTES, lsn, offset_of, segment_of};
use super::log::sidecar::{Builder, SegmentKey, link_behind, write};
use super::snapshot::{
    Contents, Head, LogChanges, LogState, OnceState, RowChange, RowChanges, SegmentState, Snapshots,
};
use crate::store::types::{LogId, Mark, Offset, RetentionClass, SequenceId};
use crate::store::{Error, Result};

/// Sealed segments whose index stays in memory beside the active one.
const WARM_SEGMENTS: usize = 2;
/// Logs and rows that are copied under one hold of the lock.
const SLICE: usize = 1000;

/// When a snapshot is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPolicy {
    /// After so many bytes of log.
    pub log_bytes: u64,
    /// After so long, if anything was sealed.
    pub age: Duration,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self {
            log_bytes: 256 << 20,
            age: Duration::from_mins(1),
        }
    }
}

/// The maintenance of a store.
pub(crate) struct Keeper {
    log: Arc<Log>,
    snapshots: Snapshots,
    policy: SnapshotPolicy,
    segment_bytes: u64,
    incarnation: u64,
    /// Sealed segments up to this one have a sidecar.
    indexed: u32,
    last: Instant,
    /// Segments that an interrupted recycling left.
    leftover: Vec<u32>,
}

impl Keeper {
    pub(crate) fn new(
        log: Arc<Log>,
        snapshots: Snapshots,
        policy: SnapshotPolicy,
        segment_bytes: u64,
        incarnation: u64,
        leftover: Vec<u32>,
    ) -> Self {
        let indexed = segment_of(snapshots.mark().raw()).saturating_sub(1);
        Self {
            log,
            snapshots,
            policy,
            segment_bytes,
            incarnation,
            indexed,
            last: Instant::now(),
            leftover,
        }
    }

    /// Does what is due; with `force` a snapshot is due whenever one is possible.
    ///
    /// # Errors
    /// What failed; nothing is lost by it, and the next time tries again.
    pub(crate) fn step(&mut self, force: bool, pace: &dyn Fn()) -> Result<()> {
        if self.log.append.lock().latched.is_some() {
            return Ok(());
        }
        self.trim_deferred()?;
        self.index(pace)?;
        if self.snapshot_due(force) {
            self.last = Instant::now();
            let dead = self.dead()?;
            self.snapshot(&dead, pace)?;
            for segment in dead {
                self.give_back(segment)?;
            }
        }
        while let Some(segment) = self.leftover.last() {
            self.give_back(*segment)?;
            self.leftover.pop();
        }
        self.cool();
        Ok(())
    }

    fn trim_deferred(&self) -> Result<()> {
        let deferred = std::mem::take(&mut self.log.state.write().deferred_trims);
        for (log, before) in deferred {
            match self.log.locate_mark_cold(LogId(log), before) {
                Ok(first) => self.log.state.write().trim(log, first.0),
                Err(Error::NoLog(_)) => {}
                Err(error) => {
                    self.log.state.write().deferred_trims.push((log, before));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Writes the sidecars that are missing.
    fn index(&mut self, pace: &dyn Fn()) -> Result<()> {
        let missing: Vec<_> = {
            let state = self.log.state.read();
            let sealed = state.sealed.range(self.indexed + 1..);
            sealed.map(|(number, index)| (*number, Arc::clone(index))).collect()
        };
        for (number, index) in missing {
            let mut builder = Builder::default();
            for (offset, highest) in &index.times {
                builder.batch(*offset, *highest);
            }
            for element in &index.elements {
                if let Some(touched) = index.touched.get(element.slot as usize) {
                    let position = Offset(touched.first_position + u64::from(element.delta));
                    builder.record(LogId(touched.log), position, element.offset, element.body_bytes);
                }
            }
            let (_, salt) = self.log.segment_file(number)?;
            let end = self
                .log
                .state
                .read()
                .segments
                .get(&number)
                .map_or(0, |segment| segment.end);
            let key = SegmentKey {
                number,
                generation: 0,
                salt,
                end: u64::from(offset_of(end)),
            };
            let bytes = builder.finish(key, &mut |log| {
                let previous = index.log(log.0).map_or(0, |touched| touched.previous);
                self.log
                    .healing(|| link_behind(previous, &mut |segment| self.log.part(segment, log)))
            })?;
            write(self.log.disk.as_ref(), &self.log.dir.sidecar(number), &bytes, pace)?;
            self.indexed = number;
        }
        Ok(())
    }

    fn snapshot_due(&self, force: bool) -> bool {
        let state = self.log.state.read();
        let segment = state.active.number;
        let at = segment_of(self.snapshots.mark().raw());
        let finished = self.log.feed.finished_mark() >= state.fed_before_active;
        let behind = u64::from(segment.saturating_sub(at)) * self.segment_bytes;
        segment > at && finished && (force || behind >= self.policy.log_bytes || self.last.elapsed() >= self.policy.age)
    }

    fn snapshot(&mut self, dead: &[u32], pace: &dyn Fn()) -> Result<()> {
        let (mark, next_batch, segments, changed) = {
            let mut state = self.log.state.write();
            let mark = Mark::new(lsn(state.active.number, SEGMENT_HEADER_BYTES));
            let segments = state
                .segments
                .values()
                .filter(|segment| !dead.contains(&segment.number));
            let segments: Vec<SegmentState> = segments.copied().collect();
            (mark, state.first_batch, segments, std::mem::take(&mut state.changed))
        };
        let logs = self.changed_logs(
            &changed.logs.iter().copied().collect::<Vec<_>>(),
            segment_of(mark.raw()),
        );
        let rows = self.changed_rows(&changed.rows.iter().collect::<Vec<_>>());
        let once: Vec<OnceState> = {
            let state = self.log.state.read();
            let held = state.once.iter().map(|(key, guarded)| OnceState {
                key: *key,
                log: LogId(guarded.log),
                offset: Offset(guarded.position),
                mark: guarded.mark,
            });
            held.collect()
        };
        let (next_log, handed_on) = {
            let append = self.log.append.lock();
            (append.next_log(), append.handed_on)
        };
        let head = Head {
            mark,
            next_log,
            next_batch,
            incarnation: self.incarnation,
        };
        let contents = Contents {
            head,
            segments: &segments,
            once: &once,
            logs: &logs,
            rows: &rows,
        };
        // The log may have moved on since the last look: the segment before the mark has its sidecar before the snapshot
        // that relies on it.
        let written = self
            .index(pace)
            .and_then(|()| self.log.until_synced(handed_on))
            .and_then(|()| {
                if let Some(listing) = self.log.listing.get() {
                    listing.bring_up_to(mark, pace);
                }
                self.snapshots.write(&contents, pace)
            });
        if let Err(error) = written {
            self.log.state.write().changed.put_back(changed);
            return Err(error);
        }
        if self.snapshots.merge_due() {
            self.snapshots.merge(pace)?;
        }
        Ok(())
    }

    fn changed_logs(&self, changed: &[u64], segment: u32) -> LogChanges {
        let mut logs = LogChanges::new();
        for slice in changed.chunks(SLICE) {
            let mut state = self.log.state.write();
            for id in slice {
                // Its last segment is not sealed yet, so the next snapshot must name it.
                if state.logs.get(id).is_some_and(|known| known.last_segment >= segment) {
                    state.changed.logs.insert(*id);
                }
                let log = state.logs.get(id).map(|known| LogState {
                    id: LogId(*id),
                    name: known.name.to_vec(),
                    sequence: SequenceId(known.sequence),
                    class: RetentionClass(known.class),
                    first: Offset(known.first),
                    next: Offset(known.next),
                    records: known.records,
                    bytes: known.bytes,
                    newest_time: known.newest_time,
                    newest_mark: Mark::new(known.newest_mark),
                    last_segment: state.last_segment_before(*id, segment),
                    depth: 0,
                });
                logs.insert(LogId(*id), log);
            }
        }
        logs
    }

    fn changed_rows(&self, changed: &[&(crate::store::Table, Vec<u8>)]) -> RowChanges {
        let mut rows = RowChanges::new();
        for slice in changed.chunks(SLICE) {
            let state = self.log.state.read();
            for (table, key) in slice.iter().copied() {
                let change = match state.rows.get(*table, key) {
                    Some(row) => RowChange {
                        mark: row.mark,
                        row: Some(row.bytes),
                    },
                    None => RowChange {
                        mark: Mark::START,
                        row: None,
                    },
                };
                rows.insert((*table, key.clone()), change);
            }
        }
        rows
    }

    /// Cold segments that nobody needs.
    fn dead(&self) -> Result<Vec<u32>> {
        let oldest = self.snapshots.oldest_mark();
        let pinned = self.log.pins.oldest().min(oldest);
        let candidates: Vec<u32> = {
            let state = self.log.state.read();
            let segments = state.segments.values().filter(|segment| segment.end <= pinned.raw());
            segments
                .map(|segment| segment.number)
                .filter(|number| state.cold.contains(number))
                .collect()
        };
        let mut dead = Vec::new();
        for segment in candidates {
            if self.log.is_dead(segment)? {
                dead.push(segment);
            }
        }
        Ok(dead)
    }

    fn give_back(&self, segment: u32) -> Result<()> {
        let log = &self.log;
        {
            let mut state = log.state.write();
            state.cold.remove(&segment);
            state.segments.remove(&segment);
        }
        log.sidecars.remove(segment);
        log.open.remove(segment);
        let sidecar = log.dir.sidecar(segment);
        match log.disk.unlink(&sidecar) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(log.dir.io("remove", &sidecar, &error));
            }
            _ => {}
        }
        let given = log.preparer.give_back(&log.site(self.segment_bytes), segment);
        given.map_err(|error| log.dir.io("give back", &log.dir.segment(segment), &error))
    }

    /// Lets go of indexes whose sidecars are written, but for the newest.
    fn cool(&self) {
        let mut state = self.log.state.write();
        let sealed: Vec<u32> = state
            .sealed
            .keys()
            .copied()
            .filter(|number| *number <= self.indexed)
            .collect();
        let keep = sealed.len().saturating_sub(WARM_SEGMENTS);
        for segment in sealed.into_iter().take(keep) {
            state.cool(segment);
        }
    }
}
