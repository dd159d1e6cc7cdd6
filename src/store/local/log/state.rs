//! What is durable, as readers see it: logs with their bounds, where their records lie, rows. A fold over batches, the
//! same at a start and while running.
//!
//! What is handed over and not yet durable is the business of `append.rs`.
//!
//! **Invariants**
//! - Only durable batches are applied (in `interval` durability: written ones), each once, in order.
//! - A log's chain of segments leads from its last one back over every segment that holds records of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::super::rows::Rows;
use super::frame::{lsn, offset_of, segment_of};
use super::index::{Element, SegmentIndex, TouchedLog};
use crate::store::types::{
    At, Batch, Bounds, Entry, EntryKind, Limit, LogCreated, LogId, Mark, Offset, RetentionClass, Touched, parse_row,
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

/// Everything durable.
pub(crate) struct State {
    pub(crate) logs: FxHashMap<u64, LogState>,
    pub(crate) rows: Rows,
    pub(crate) sealed: BTreeMap<u32, Arc<SegmentIndex>>,
    pub(crate) active: SegmentIndex,
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
            end: Mark::START,
        }
    }

    /// Goes on in another segment.
    pub(crate) fn switch(&mut self, segment: u32) {
        let sealed = std::mem::replace(&mut self.active, SegmentIndex::new(segment));
        self.sealed.insert(sealed.number, Arc::new(sealed));
    }

    /// Applies a batch that begins at `start`, with the highest time so far.
    pub(crate) fn apply(&mut self, batch: &Batch, start: u32, time: i64) {
        self.active.batch(start, offset_of(batch.end.raw()), time);
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
                if state.records == 0 {
                    state.first = state.first.max(position);
                }
                state.last_segment = self.active.number;
                state.next = position + 1;
                state.records += 1;
                state.bytes += body.len() as u64;
                state.newest_time = entry.time;
                state.newest_mark = entry.mark.raw();
            }
            EntryKind::Row | EntryKind::RowDeleted => {
                if let Some((key, row)) = parse_row(body) {
                    let row = (entry.kind == EntryKind::Row).then_some(row);
                    self.rows.apply(entry.table(), key, row, entry.mark);
                }
            }
            EntryKind::LogCreated => {
                if let Some(created) = LogCreated::parse(body) {
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
            }
            EntryKind::Trim => self.trim(log, entry.position.0),
            EntryKind::TrimClass => {
                if let Some((class, mark)) = parse_trim_class(body) {
                    self.trim_class(class, mark);
                }
            }
            EntryKind::Once | EntryKind::Release => {}
        }
    }

    fn trim(&mut self, log: u64, first: u64) {
        let Some(state) = self.logs.get(&log) else {
            return;
        };
        let old = state.first;
        let first = first.min(state.next);
        if first <= old {
            return;
        }
        let (mut records, mut bytes) = (0, 0);
        self.visit(log, old, |place| {
            if place.position >= first {
                return false;
            }
            records += 1;
            bytes += u64::from(place.body_bytes);
            true
        });
        let mut kept = first;
        self.visit(log, first, |place| {
            kept = place.position;
            false
        });
        if let Some(state) = self.logs.get_mut(&log) {
            state.first = kept;
            state.records -= records;
            state.bytes -= bytes;
        }
    }

    fn trim_class(&mut self, class: RetentionClass, before: Mark) {
        let of_class = |(log, state): (&u64, &LogState)| (state.class == class.0 && state.records > 0).then_some(*log);
        let logs: Vec<u64> = self.logs.iter().filter_map(of_class).collect();
        for log in logs {
            let first = self.locate_mark(log, before);
            self.trim(log, first);
        }
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
            for element in index.from_position(touched, from) {
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
            let offset = if index.number < segment {
                continue;
            } else if index.number == segment {
                offset
            } else {
                0
            };
            for element in index.from_offset(touched, offset) {
                let place = Self::place(index, touched, element);
                if place.position >= first && !visit(place) {
                    return;
                }
            }
        }
    }

    /// First stored position at or behind a mark, or the log's next.
    fn locate_mark(&self, log: u64, mark: Mark) -> u64 {
        let mut found = self.logs.get(&log).map_or(0, |state| state.next);
        self.visit_behind(log, mark, |place| {
            found = place.position;
            false
        });
        found
    }

    /// Where to begin. For a time the answer can be a mark behind which the records themselves decide.
    pub(crate) fn locate(&self, log: LogId, at: At) -> Option<Located> {
        let state = self.logs.get(&log.0)?;
        Some(match at {
            At::Mark(mark) => Located::Position(self.locate_mark(log.0, mark)),
            At::Last(count) => Located::Position(self.locate_last(log.0, state, count)),
            At::Time(time) => {
                let mut indexes = self.sealed.values().map(Arc::as_ref).chain([&self.active]);
                let found = indexes.find_map(|index| Some(lsn(index.number, index.offset_of_time(time)?)));
                found.map_or(Located::Position(state.next), |from| Located::Behind(Mark::new(from)))
            }
        })
    }

    fn locate_last(&self, log: u64, state: &LogState, count: u64) -> u64 {
        if count == 0 {
            return state.next;
        }
        if count >= state.records {
            return state.bounds().first.0;
        }
        let mut missing = count;
        let mut segment = state.last_segment;
        while let Some(index) = self.index(segment)
            && let Some(touched) = index.log(log)
        {
            if u64::from(touched.count) >= missing {
                let skip = u64::from(touched.count) - missing;
                let element = index.from_position(touched, 0).nth(skip as usize);
                return element.map_or(state.next, |element| Self::place(index, touched, element).position);
            }
            missing -= u64::from(touched.count);
            segment = touched.previous;
        }
        state.bounds().first.0
    }

    /// Records of a log in a range of positions.
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
            count += index.from_position(touched, from).take_while(in_range).count() as u64;
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
}

/// Class and mark of a trim of a class.
pub(crate) fn parse_trim_class(body: &[u8]) -> Option<(RetentionClass, Mark)> {
    let (class, rest) = body.split_first_chunk::<2>()?;
    let mark = Mark::from_bytes(rest.try_into().ok()?);
    Some((RetentionClass(u16::from_le_bytes(*class)), mark))
}
