//! What is durable, as readers see it: logs with their bounds, where their records lie, rows. A fold over batches, the
//! same at a start and while running.
//!
//! What is handed over and not yet durable is the business of `append.rs`.
//!
//! **Invariants**
//! - Only durable batches are applied (in `interval` durability: written ones), each once, in order.
//! - A log's chain of segments leads from its last one back over every segment that holds records of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::rows::Rows;
use super::super::snapshot::{Loaded, SegmentState};
use super::frame::{SEGMENT_HEADER_BYTES, lsn, offset_of, segment_of};
use super::index::{Element, SegmentIndex, TouchedLog};
use crate::store::types::{
    At, Batch, Bounds, Entry, EntryKind, Limit, LogCreated, LogId, Mark, Offset, OnceKey, RetentionClass, Table,
    Touched, parse_row,
};

/// One log.
#[derive(Clone, Debug)]
pub(crate) struct LogState {
    pub(crate) name: Box<[u8]>,
    pub(crate) sequence: u64,
    pub(crate) class: u16,
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) newest_time: i64,
    pub(crate) newest_mark: u64,
    /// The last segment with records of it; 0 if there is none.
    pub(crate) last_segment: u32,
}

impl LogState {
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            first: Offset(if self.records == 0 { self.next } else { self.first }),
            next: Offset(self.next),
            records: self.records,
            bytes: self.bytes,
            newest_time: self.newest_time,
            newest_mark: Mark::new(self.newest_mark),
        }
    }
}

/// A record somewhere in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) mark: Mark,
    pub(crate) position: u64,
    pub(crate) body_bytes: u32,
}

/// The record that a held once-key guards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Guarded {
    pub(crate) log: u64,
    pub(crate) position: u64,
    pub(crate) mark: Mark,
}

/// What changed since the last snapshot.
#[derive(Default)]
pub(crate) struct Changed {
    pub(crate) logs: FxHashSet<u64>,
    pub(crate) rows: BTreeSet<(Table, Vec<u8>)>,
}

impl Changed {
    /// Takes back what could not be written.
    pub(crate) fn put_back(&mut self, earlier: Self) {
        self.logs.extend(earlier.logs);
        self.rows.extend(earlier.rows);
    }
}

/// Everything durable.
pub(crate) struct State {
    pub(crate) logs: FxHashMap<u64, LogState>,
    pub(crate) rows: Rows,
    pub(crate) sealed: BTreeMap<u32, Arc<SegmentIndex>>,
    pub(crate) active: SegmentIndex,
    /// Sealed segments that are not in memory: what they hold is found through their sidecars.
    pub(crate) cold: BTreeSet<u32>,
    /// All sealed segments.
    pub(crate) segments: BTreeMap<u32, SegmentState>,
    /// The end of the last batch in the feed that lies before the active segment.
    pub(crate) fed_before_active: Mark,
    /// Number of the first batch of the active segment.
    pub(crate) first_batch: u64,
    highest_time: i64,
    pub(crate) once: BTreeMap<OnceKey, Guarded>,
    pub(crate) changed: Changed,
    /// Trims whose mark lies in a cold segment: maintenance finds the position.
    pub(crate) deferred_trims: Vec<(u64, Mark)>,
    /// Behind the last durable batch.
    pub(crate) end: Mark,
}

impl State {
    pub(crate) fn new(segment: u32) -> Self {
        Self {
            logs: FxHashMap::default(),
            rows: Rows::default(),
            sealed: BTreeMap::new(),
            active: SegmentIndex::new(segment),
            cold: BTreeSet::new(),
            segments: BTreeMap::new(),
            fed_before_active: Mark::START,
            first_batch: 1,
            highest_time: 0,
            once: BTreeMap::new(),
            changed: Changed::default(),
            deferred_trims: Vec::new(),
            end: Mark::START,
        }
    }

    /// Begins with what a snapshot says.
    pub(crate) fn restore(&mut self, loaded: Loaded, rows: Rows) {
        self.rows = rows;
        for segment in loaded.segments {
            self.highest_time = self.highest_time.max(segment.last_time);
            self.cold.insert(segment.number);
            self.segments.insert(segment.number, segment);
        }
        for held in loaded.once {
            let guarded = Guarded {
                log: held.log.0,
                position: held.offset.0,
                mark: held.mark,
            };
            self.once.insert(held.key, guarded);
        }
        for log in loaded.logs {
            let restored = LogState {
                name: log.name.into_boxed_slice(),
                sequence: log.sequence.0,
                class: log.class.0,
                first: log.first.0,
                next: log.next.0,
                records: log.records,
                bytes: log.bytes,
                newest_time: log.newest_time,
                newest_mark: log.newest_mark.raw(),
                last_segment: log.last_segment,
            };
            self.logs.insert(log.id.0, restored);
        }
    }

    /// Goes on in another segment, whose first batch has a number.
    pub(crate) fn switch(&mut self, segment: u32, first_batch: u64) {
        let next = SegmentIndex::after(&self.active, segment);
        let sealed = std::mem::replace(&mut self.active, next);
        let highest = sealed.times.last().map_or(self.highest_time, |(_, highest)| *highest);
        let described = SegmentState {
            number: sealed.number,
            generation: 0,
            first: lsn(sealed.number, SEGMENT_HEADER_BYTES),
            end: lsn(sealed.number, sealed.end.max(SEGMENT_HEADER_BYTES)),
            first_time: sealed.times.first().map_or(highest, |(_, highest)| *highest),
            last_time: highest,
            live_bytes: sealed
                .elements
                .iter()
                .map(|element| u64::from(element.body_bytes))
                .sum(),
            size: u64::from(sealed.end),
        };
        self.segments.insert(sealed.number, described);
        self.sealed.insert(sealed.number, Arc::new(sealed));
        self.first_batch = first_batch;
    }

    /// Lets go of the index of a sealed segment whose sidecar is written.
    pub(crate) fn cool(&mut self, segment: u32) {
        if self.sealed.remove(&segment).is_some() {
            self.cold.insert(segment);
        }
    }

    /// Applies a batch that begins at `start`, with the highest time so far.
    pub(crate) fn apply(&mut self, batch: &Batch, start: u32, time: i64) {
        self.highest_time = self.highest_time.max(time);
        self.active.batch(start, offset_of(batch.end.raw()), self.highest_time);
        for entry in &batch.entries {
            self.apply_entry(entry, batch.body(entry));
        }
        self.end = batch.end;
    }

    fn apply_entry(&mut self, entry: &Entry, body: &[u8]) {
        let log = entry.log.0;
        match entry.kind {
            EntryKind::Data => {
                let Some(state) = self.logs.get_mut(&log) else {
                    return;
                };
                let position = entry.position.0;
                self.active.push(
                    log,
                    position,
                    offset_of(entry.mark.raw()),
                    body.len() as u32,
                    state.last_segment,
                );
                state.last_segment = self.active.number;
                // A snapshot may know a little more than its mark says: what it counted is not counted again.
                self.changed.logs.insert(log);
                if position < state.next {
                    return;
                }
                if state.records == 0 {
                    state.first = state.first.max(position);
                }
                state.next = position + 1;
                state.records += 1;
                state.bytes += body.len() as u64;
                state.newest_time = entry.time;
                state.newest_mark = entry.mark.raw();
            }
            EntryKind::Row | EntryKind::RowDeleted => {
                if let Some((key, row)) = parse_row(body) {
                    let row = (entry.kind == EntryKind::Row).then_some(row);
                    self.apply_row(entry.table(), key, row, entry.mark);
                }
            }
            EntryKind::LogCreated => {
                if let Some(created) = LogCreated::parse(body) {
                    self.changed.logs.insert(log);
                    self.logs.entry(log).or_insert_with(|| LogState {
                        name: created.name.into(),
                        sequence: created.sequence.0,
                        class: created.class.0,
                        first: 1,
                        next: 1,
                        records: 0,
                        bytes: 0,
                        newest_time: 0,
                        newest_mark: 0,
                        last_segment: 0,
                    });
                }
            }
            EntryKind::LogRemoved => {
                self.logs.remove(&log);
                self.changed.logs.insert(log);
            }
            EntryKind::Trim => self.trim(log, entry.position.0),
            EntryKind::TrimClass => {
                if let Some((class, mark)) = parse_trim_class(body) {
                    self.trim_class(class, mark);
                }
            }
            EntryKind::Once => {
                if let Some(key) = OnceKey::from_bytes(body) {
                    let guarded = Guarded {
                        log,
                        position: entry.position.0,
                        mark: entry.mark,
                    };
                    self.once.insert(key, guarded);
                }
            }
            EntryKind::Release => {
                if let Some(key) = OnceKey::from_bytes(body) {
                    self.once.remove(&key);
                }
            }
        }
    }

    /// Puts or deletes a row and notes that it changed.
    pub(crate) fn apply_row(&mut self, table: Table, key: &[u8], row: Option<&[u8]>, mark: Mark) {
        self.rows.apply(table, key, row, mark);
        self.changed.rows.insert((table, key.to_vec()));
    }

    pub(crate) fn trim(&mut self, log: u64, first: u64) {
        let Some(state) = self.logs.get(&log) else {
            return;
        };
        let old = state.first;
        let first = first.min(state.next);
        if first <= old {
            return;
        }
        // What stays is counted where it is in memory; where it reaches into cold segments it is estimated.
        let (mut records, mut bytes, mut kept) = (0, 0, None);
        let cold = first < state.next && self.cold_part(log, first).is_some();
        if cold {
            let span = (state.next - old).max(1);
            let stays = |whole: u64| (u128::from(whole) * u128::from(state.next - first) / u128::from(span)) as u64;
            (records, bytes) = (stays(state.records), stays(state.bytes));
        } else {
            self.visit(log, first, |place| {
                records += 1;
                bytes += u64::from(place.body_bytes);
                kept.get_or_insert(place.position);
                true
            });
        }
        if let Some(state) = self.logs.get_mut(&log) {
            state.first = kept.unwrap_or(first);
            state.records = records;
            state.bytes = bytes;
            self.changed.logs.insert(log);
        }
    }

    fn trim_class(&mut self, class: RetentionClass, before: Mark) {
        let of_class = |(log, state): (&u64, &LogState)| (state.class == class.0 && state.records > 0).then_some(*log);
        let logs: Vec<u64> = self.logs.iter().filter_map(of_class).collect();
        for log in logs {
            match self.locate_mark(log, before) {
                Some(first) => self.trim(log, first),
                None => self.deferred_trims.push((log, before)),
            }
        }
    }

    /// The newest segment that is not in memory and may hold a position of a log at or behind `from`.
    pub(crate) fn cold_part(&self, log: u64, from: u64) -> Option<u32> {
        let state = self.logs.get(&log)?;
        if from >= state.next {
            return None;
        }
        let mut segment = state.last_segment;
        while let Some(index) = self.index(segment)
            && let Some(touched) = index.log(log)
        {
            if touched.first_position <= from {
                return None;
            }
            segment = touched.previous;
        }
        self.cold.contains(&segment).then_some(segment)
    }

    /// The same for records at or behind a mark.
    pub(crate) fn cold_part_behind(&self, log: u64, mark: Mark) -> Option<u32> {
        let mut segment = self.logs.get(&log)?.last_segment;
        while let Some(index) = self.index(segment)
            && let Some(touched) = index.log(log)
        {
            segment = touched.previous;
        }
        (self.cold.contains(&segment) && segment >= segment_of(mark.raw())).then_some(segment)
    }

    /// The first position of a log that is in memory, or its next.
    pub(crate) fn first_warm(&self, log: u64) -> u64 {
        let mut first = self.logs.get(&log).map_or(0, |state| state.next);
        let mut segment = self.logs.get(&log).map_or(0, |state| state.last_segment);
        while let Some(index) = self.index(segment)
            && let Some(touched) = index.log(log)
        {
            first = touched.first_position;
            segment = touched.previous;
        }
        first
    }

    /// The last cold segment that held records of a log before any that is in memory or is at or behind `segment`; 0 if
    /// there is none.
    pub(crate) fn last_segment_before(&self, log: u64, segment: u32) -> u32 {
        let mut last = self.logs.get(&log).map_or(0, |state| state.last_segment);
        while last >= segment
            && let Some(touched) = self.index(last).and_then(|index| index.log(log))
        {
            last = touched.previous;
        }
        last
    }

    fn index(&self, segment: u32) -> Option<&SegmentIndex> {
        if segment == self.active.number {
            Some(&self.active)
        } else {
            self.sealed.get(&segment).map(Arc::as_ref)
        }
    }

    /// Segments that hold records of a log, ascending, from the last one on for which `starts` holds.
    fn chain(
        &self,
        log: u64,
        starts: impl Fn(&SegmentIndex, &TouchedLog) -> bool,
    ) -> Vec<(&SegmentIndex, &TouchedLog)> {
        let mut chain = Vec::new();
        let mut segment = self.logs.get(&log).map_or(0, |state| state.last_segment);
        while let Some(index) = self.index(segment)
            && let Some(touched) = index.log(log)
        {
            chain.push((index, touched));
            if starts(index, touched) {
                break;
            }
            segment = touched.previous;
        }
        chain.reverse();
        chain
    }

    fn place(index: &SegmentIndex, touched: &TouchedLog, element: Element) -> Place {
        Place {
            mark: Mark::new(lsn(index.number, element.offset)),
            position: touched.first_position + u64::from(element.delta),
            body_bytes: element.body_bytes,
        }
    }

    /// Visits the records of a log from a position on, ascending, while `visit` returns true.
    pub(crate) fn visit(&self, log: u64, from: u64, mut visit: impl FnMut(Place) -> bool) {
        for (index, touched) in self.chain(log, |_, touched| touched.first_position <= from) {
            for element in index.at_position(touched, from) {
                if !visit(Self::place(index, touched, element)) {
                    return;
                }
            }
        }
    }

    /// Visits the stored records of a log at or behind a mark, ascending, while `visit` returns true.
    pub(crate) fn visit_behind(&self, log: u64, mark: Mark, mut visit: impl FnMut(Place) -> bool) {
        let (segment, offset) = (segment_of(mark.raw()), offset_of(mark.raw()));
        let first = self.logs.get(&log).map_or(0, |state| state.first);
        for (index, touched) in self.chain(log, |index, _| index.number <= segment) {
            if index.number < segment {
                continue;
            }
            let offset = if index.number == segment { offset } else { 0 };
            for element in index.at_offset(touched, offset) {
                let place = Self::place(index, touched, element);
                if place.position >= first && !visit(place) {
                    return;
                }
            }
        }
    }

    /// First stored position at or behind a mark, or the log's next; `None` if it may lie in a cold segment.
    fn locate_mark(&self, log: u64, mark: Mark) -> Option<u64> {
        let state = self.logs.get(&log)?;
        if state.newest_mark < mark.raw() {
            return Some(state.next);
        }
        if self.cold_part_behind(log, mark).is_some() {
            return None;
        }
        let mut found = state.next;
        self.visit_behind(log, mark, |place| {
            found = place.position;
            false
        });
        Some(found)
    }

    /// Where to begin. For a time the answer can be a mark behind which the records themselves decide.
    pub(crate) fn locate(&self, log: LogId, at: At) -> Option<Located> {
        let state = self.logs.get(&log.0)?;
        Some(match at {
            At::Mark(mark) => self.locate_mark(log.0, mark).map_or(Located::Cold, Located::Position),
            At::Last(count) => self.locate_last(log.0, state, count),
            At::Time(_) if !self.cold.is_empty() => Located::Cold,
            At::Time(time) => {
                let mut indexes = self.sealed.values().map(Arc::as_ref).chain([&self.active]);
                let found = indexes.find_map(|index| Some(lsn(index.number, index.offset_of_time(time)?)));
                found.map_or(Located::Position(state.next), |from| Located::Behind(Mark::new(from)))
            }
        })
    }

    fn locate_last(&self, log: u64, state: &LogState, count: u64) -> Located {
        if count == 0 {
            return Located::Position(state.next);
        }
        if count >= state.records {
            return Located::Position(state.bounds().first.0);
        }
        let mut missing = count;
        let mut segment = state.last_segment;
        while let Some(index) = self.index(segment)
            && let Some(touched) = index.log(log)
        {
            if u64::from(touched.count) >= missing {
                let skip = u64::from(touched.count) - missing;
                let element = index.at_position(touched, 0).nth(skip as usize);
                let position = element.map_or(state.next, |element| Self::place(index, touched, element).position);
                return Located::Position(position);
            }
            missing -= u64::from(touched.count);
            segment = touched.previous;
        }
        if self.cold.contains(&segment) {
            return Located::ColdLast { segment, missing };
        }
        Located::Position(state.bounds().first.0)
    }

    /// Records of a log in a range of positions, those in memory.
    pub(crate) fn count(&self, log: u64, from: u64, to: u64) -> u64 {
        let Some(state) = self.logs.get(&log) else {
            return 0;
        };
        let from = from.max(state.first);
        let mut count = 0;
        for (index, touched) in self.chain(log, |_, touched| touched.first_position <= from) {
            if from <= touched.first_position && touched.last_position < to {
                count += u64::from(touched.count);
                continue;
            }
            let in_range = |element: &Element| touched.first_position + u64::from(element.delta) < to;
            count += index.at_position(touched, from).take_while(in_range).count() as u64;
        }
        count
    }

    /// Logs with stored records in `[from, upto)`; returns `upto`.
    pub(crate) fn touched(&self, from: Mark, limit: Limit, into: &mut Vec<Touched>) -> Mark {
        into.clear();
        let until = limit.before.min(self.end);
        let mut found: FxHashMap<u64, usize> = FxHashMap::default();
        let mut walked = 0;
        let (segment, offset) = (segment_of(from.raw()), offset_of(from.raw()));
        let sealed = self.sealed.range(segment..).map(|(_, index)| index.as_ref());
        for index in sealed.chain([&self.active]) {
            let offset = if index.number == segment { offset } else { 0 };
            let start = index.elements.partition_point(|element| element.offset < offset);
            let mut last_end = None;
            for element in index.elements.get(start..).unwrap_or_default() {
                let mark = Mark::new(lsn(index.number, element.offset));
                if mark < from {
                    continue;
                }
                if mark >= until {
                    return until.max(from);
                }
                let begun = *last_end.get_or_insert(element.offset);
                walked += (element.offset - begun) as usize;
                last_end = Some(element.offset);
                if walked >= limit.bytes.max(1) {
                    return mark;
                }
                let Some(touched) = index.touched.get(element.slot as usize) else {
                    continue;
                };
                let place = Self::place(index, touched, *element);
                let stored = self
                    .logs
                    .get(&touched.log)
                    .is_some_and(|state| place.position >= state.first);
                if !stored {
                    continue;
                }
                if let Some(known) = found.get(&touched.log).and_then(|at| into.get_mut(*at)) {
                    known.count += 1;
                    continue;
                }
                if into.len() >= limit.records.max(1) {
                    return mark;
                }
                found.insert(touched.log, into.len());
                into.push(Touched {
                    log: LogId(touched.log),
                    first: Offset(place.position),
                    count: 1,
                });
            }
        }
        until.max(from)
    }
}

/// An answer of [`State::locate`].
pub(crate) enum Located {
    /// Here.
    Position(u64),
    /// At the first record behind this mark whose time fits.
    Behind(Mark),
    /// It may lie in a cold segment.
    Cold,
    /// So many records before the end of what this cold segment holds.
    ColdLast { segment: u32, missing: u64 },
}

/// Class and mark of a trim of a class.
pub(crate) fn parse_trim_class(body: &[u8]) -> Option<(RetentionClass, Mark)> {
    let (class, rest) = body.split_first_chunk::<2>()?;
    let mark = Mark::from_bytes(rest.try_into().ok()?);
    Some((RetentionClass(u16::from_le_bytes(*class)), mark))
}
