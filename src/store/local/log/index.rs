//! Where the records of one segment lie, in memory: for the active segment, and for sealed ones until their sidecar is
//! written.
//!
//! One flat array holds an element per record, chained per log; a log that has many records in the segment also keeps
//! every 64th element, so that a position is found without walking the chain. There is no allocation per log that was
//! touched a few times only.
//!
//! **Invariants**
//! - Elements lie in the order of the file; positions of one log ascend.

use rustc_hash::FxHashMap;

/// Elements between two remembered ones of the same log.
const STRIDE: u32 = 64;
/// Bytes of a segment between two remembered times.
const TIME_STEP_BYTES: u32 = 256 << 10;
/// No element.
pub(crate) const NONE: u32 = u32::MAX;

/// One record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element {
    /// Of the record in the file.
    pub(crate) offset: u32,
    /// The next element of the same log, or [`NONE`].
    pub(crate) next: u32,
    /// Its position less the log's first in this segment.
    pub(crate) delta: u32,
    /// Bytes of its body.
    pub(crate) body_bytes: u32,
    /// Which touched log.
    pub(crate) slot: u32,
}

/// A log with records in the segment.
#[derive(Clone, Debug)]
pub(crate) struct TouchedLog {
    pub(crate) log: u64,
    pub(crate) first_position: u64,
    pub(crate) last_position: u64,
    pub(crate) first: u32,
    pub(crate) last: u32,
    pub(crate) count: u32,
    /// The segment before this one that holds records of the log; 0 if there is none.
    pub(crate) previous: u32,
    strides: Vec<u32>,
}

/// The index of one segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct SegmentIndex {
    pub(crate) number: u32,
    pub(crate) elements: Vec<Element>,
    pub(crate) touched: Vec<TouchedLog>,
    slots: FxHashMap<u64, u32>,
    /// Batch offsets with the highest time up to the next one.
    pub(crate) times: Vec<(u32, i64)>,
    /// Behind the last batch.
    pub(crate) end: u32,
}

impl SegmentIndex {
    pub(crate) fn new(number: u32) -> Self {
        Self {
            number,
            ..Self::default()
        }
    }

    /// For the segment after another one; segments in a row are alike.
    pub(crate) fn after(previous: &Self, number: u32) -> Self {
        Self {
            elements: Vec::with_capacity(previous.elements.len() + previous.elements.len() / 16),
            touched: Vec::with_capacity(previous.touched.len()),
            ..Self::new(number)
        }
    }

    /// Notes a batch: where it lies and the highest time so far.
    pub(crate) fn batch(&mut self, offset: u32, end: u32, time: i64) {
        match self.times.last_mut() {
            Some((start, highest)) if offset - *start < TIME_STEP_BYTES => *highest = time.max(*highest),
            _ => self.times.push((offset, time)),
        }
        self.end = end;
    }

    /// Notes a record; `previous` is used if it is the log's first here.
    pub(crate) fn push(&mut self, log: u64, position: u64, offset: u32, body_bytes: u32, previous: u32) {
        let at = self.elements.len() as u32;
        let slot = *self.slots.entry(log).or_insert_with(|| {
            self.touched.push(TouchedLog {
                log,
                first_position: position,
                last_position: position,
                first: at,
                last: NONE,
                count: 0,
                previous,
                strides: Vec::new(),
            });
            self.touched.len() as u32 - 1
        });
        let Some(touched) = self.touched.get_mut(slot as usize) else {
            return;
        };
        if let Some(last) = self.elements.get_mut(touched.last as usize) {
            last.next = at;
        }
        touched.last = at;
        touched.last_position = position;
        touched.count += 1;
        if touched.count.is_multiple_of(STRIDE) {
            touched.strides.push(at);
        }
        self.elements.push(Element {
            offset,
            next: NONE,
            delta: (position - touched.first_position) as u32,
            body_bytes,
            slot,
        });
    }

    /// What the segment holds of a log.
    pub(crate) fn log(&self, log: u64) -> Option<&TouchedLog> {
        self.touched.get(*self.slots.get(&log)? as usize)
    }

    /// The elements of a log from the first one on that does not satisfy `before`, which holds for a prefix of them.
    pub(crate) fn behind<'a>(&'a self, log: &'a TouchedLog, before: impl Fn(&Element) -> bool) -> Elements<'a> {
        let element = |at: u32| self.elements.get(at as usize);
        let passed = log.strides.partition_point(|at| element(*at).is_some_and(&before));
        let mut at = passed
            .checked_sub(1)
            .and_then(|last| log.strides.get(last))
            .copied()
            .unwrap_or(log.first);
        while let Some(here) = element(at)
            && before(here)
        {
            at = here.next;
        }
        Elements { index: self, at }
    }

    /// The elements of a log at or after a position.
    pub(crate) fn at_position<'a>(&'a self, log: &'a TouchedLog, position: u64) -> Elements<'a> {
        let first = log.first_position;
        self.behind(log, move |element| first + u64::from(element.delta) < position)
    }

    /// The elements of a log at or behind an offset of the file.
    pub(crate) fn at_offset<'a>(&'a self, log: &'a TouchedLog, offset: u32) -> Elements<'a> {
        self.behind(log, move |element| element.offset < offset)
    }

    /// The first offset behind which a record of this time or later can lie; `None` if all are earlier.
    pub(crate) fn offset_of_time(&self, time: i64) -> Option<u32> {
        let at = self.times.partition_point(|(_, highest)| *highest < time);
        self.times.get(at).map(|(offset, _)| *offset)
    }
}

/// Elements of one log, ascending.
pub(crate) struct Elements<'a> {
    index: &'a SegmentIndex,
    at: u32,
}

impl Iterator for Elements<'_> {
    type Item = Element;

    fn next(&mut self) -> Option<Element> {
        let element = *self.index.elements.get(self.at as usize)?;
        self.at = element.next;
        Some(element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_position_or_offset_is_found_among_many_records_of_two_logs() {
        let mut index = SegmentIndex::new(1);
        for at in 0..1000 {
            // Log 1 has gaps, log 2 appears at every tenth record.
            let log = if at % 10 == 0 { 2 } else { 1 };
            index.push(log, 100 + u64::from(at) * 3, 4096 + at * 50, 10, 0);
        }
        for log in [1, 2] {
            let touched = index.log(log).unwrap();
            let all: Vec<(u64, u32)> = index
                .at_position(touched, 0)
                .map(|element| (touched.first_position + u64::from(element.delta), element.offset))
                .collect();
            assert_eq!(all.len(), touched.count as usize);
            for position in 0..3200 {
                let found = index
                    .at_position(touched, position)
                    .next()
                    .map(|element| element.offset);
                let expected = all.iter().find(|(at, _)| *at >= position).map(|(_, offset)| *offset);
                assert_eq!(found, expected);
            }
            for offset in (4096..60_000).step_by(25) {
                let found = index.at_offset(touched, offset).next().map(|element| element.offset);
                let expected = all.iter().find(|(_, at)| *at >= offset).map(|(_, offset)| *offset);
                assert_eq!(found, expected);
            }
        }
        assert!(index.log(3).is_none());
    }

    #[test]
    fn a_time_is_sought_from_the_step_in_which_it_was_first_reached() {
        let mut index = SegmentIndex::new(1);
        index.batch(4096, 5000, 10);
        index.batch(5000, 4096 + TIME_STEP_BYTES, 20);
        index.batch(4096 + TIME_STEP_BYTES, 5096 + TIME_STEP_BYTES, 30);
        assert_eq!(index.offset_of_time(5), Some(4096));
        assert_eq!(index.offset_of_time(20), Some(4096));
        assert_eq!(index.offset_of_time(21), Some(4096 + TIME_STEP_BYTES));
        assert_eq!(index.offset_of_time(31), None);
    }
}
