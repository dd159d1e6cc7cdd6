//! Finding and reading what lies in sealed segments that are not in memory, through their sidecars. Everything here may
//! read the disk, and runs where that is allowed.
//!
//! **Invariants**
//! - A segment that is gone was wholly trimmed: nothing at or before it is wanted.
//! - Every step of a read moves forward, so a read ends.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::Log;
use super::frame::{SEGMENT_HEADER_BYTES, lsn, offset_of, segment_of};
use super::sidecar::{LogPart, NO_SEGMENT, SegmentKey, Sidecar, seek};
use super::state::{Located, Place};
use crate::store::types::{At, Limit, LogId, Mark, Offset, Progress, ReadBuf, Touched};
use crate::store::{Error, Result};

/// Sidecars that stay open.
const OPEN_SIDECARS_MAX: usize = 256;
/// Records looked up at a time.
const PLACES: u32 = 512;

/// Open sidecars.
#[derive(Default)]
pub(crate) struct OpenSidecars(Mutex<FxHashMap<u32, Arc<Sidecar>>>);

impl OpenSidecars {
    pub(crate) fn remove(&self, segment: u32) {
        self.0.lock().remove(&segment);
    }
}

impl Log {
    /// Whether a read from a position may have to look into cold segments.
    pub(crate) fn reads_cold(&self, log: LogId, from: Offset) -> bool {
        let state = self.state.read();
        let first = state.logs.get(&log.0).map_or(0, |known| known.first);
        state.cold_part(log.0, from.0.max(first)).is_some()
    }

    /// The sidecar of a cold segment; `None` if the segment is gone.
    pub(crate) fn sidecar(&self, segment: u32) -> Result<Option<Arc<Sidecar>>> {
        if let Some(open) = self.sidecars.0.lock().get(&segment) {
            return Ok(Some(Arc::clone(open)));
        }
        let described = self.state.read().segments.get(&segment).copied();
        let Some(described) = described else {
            return Ok(None);
        };
        let (_, salt) = self.segment_file(segment)?;
        let key = SegmentKey {
            number: segment,
            generation: described.generation,
            salt,
            end: u64::from(offset_of(described.end)),
        };
        let path = self.dir.sidecar(segment);
        let sidecar = Sidecar::open(self.disk.as_ref(), &path, Arc::clone(&self.blocks), key)?;
        let sidecar = Arc::new(sidecar);
        let mut open = self.sidecars.0.lock();
        if open.len() >= OPEN_SIDECARS_MAX {
            // Rare enough that which ones stay does not matter.
            open.clear();
        }
        open.insert(segment, Arc::clone(&sidecar));
        Ok(Some(sidecar))
    }

    /// The part of a log in a cold segment.
    pub(crate) fn part(&self, segment: u32, log: LogId) -> Result<Option<LogPart>> {
        match self.sidecar(segment)? {
            Some(sidecar) => sidecar.part(log),
            None => Ok(None),
        }
    }

    /// Reads as [`Log::copy`] does, from cold segments too.
    pub(crate) fn read_cold(&self, log: LogId, from: Offset, limit: Limit, into: &mut ReadBuf) -> Result<Progress> {
        self.healing(|| self.read_segments(log, from, limit, into))
    }

    fn read_segments(&self, log: LogId, from: Offset, limit: Limit, into: &mut ReadBuf) -> Result<Progress> {
        into.clear();
        let mut from = from;
        loop {
            let cold = {
                let state = self.state.read();
                let known = state.logs.get(&log.0).ok_or(Error::NoLog(log))?;
                from = from.max(Offset(known.first));
                state.cold_part(log.0, from.0)
            };
            let left = Limit {
                records: limit.records.saturating_sub(into.records.len()),
                bytes: limit.bytes.saturating_sub(into.bytes.len()),
                before: limit.before,
            };
            let full = !into.records.is_empty() && (left.records == 0 || left.bytes == 0);
            let Some(last) = cold else {
                return self.read_warm(log, from, left, full, into);
            };
            if full {
                return Ok(Progress { next: from, more: true });
            }
            let found = seek(last, from, &mut |segment| self.part(segment, log))?;
            let part = match found {
                Some(found) => self.part(found.segment, log)?.map(|part| (found, part)),
                None => None,
            };
            let Some((found, part)) = part else {
                from = Offset(self.state.read().first_warm(log.0));
                continue;
            };
            match self.copy_part(log, found.segment, &part, from, left, into)? {
                Copied::Stopped(progress) => return Ok(progress),
                Copied::All(next) if next > from => from = next,
                // The position lies in the gap behind this part.
                Copied::All(_) if found.newer == NO_SEGMENT => from = Offset(self.state.read().first_warm(log.0)),
                Copied::All(_) => match self.part(found.newer, log)? {
                    Some(newer) => from = newer.first,
                    None => from = Offset(self.state.read().first_warm(log.0)),
                },
            }
        }
    }

    fn read_warm(&self, log: LogId, from: Offset, left: Limit, full: bool, into: &mut ReadBuf) -> Result<Progress> {
        let plan = self.plan(log, from, left)?;
        if full {
            let more = plan.finds_any();
            return Ok(Progress { next: from, more });
        }
        self.append_plan(&plan, into)
    }

    fn copy_part(
        &self,
        log: LogId,
        segment: u32,
        part: &LogPart,
        from: Offset,
        limit: Limit,
        into: &mut ReadBuf,
    ) -> Result<Copied> {
        let Some(sidecar) = self.sidecar(segment)? else {
            return Ok(Copied::All(from));
        };
        let (records, bytes) = (into.records.len(), into.bytes.len());
        let mut next = from;
        let mut at = sidecar.at_position(part, from)?;
        let mut stretch = None;
        while at < part.count {
            let mut places = Vec::new();
            sidecar.places(part, at, PLACES, &mut places)?;
            if places.is_empty() {
                break;
            }
            for place in &places {
                let mark = Mark::new(lsn(segment, place.offset));
                if mark >= limit.before {
                    return Ok(Copied::Stopped(Progress { next, more: false }));
                }
                let copied = into.records.len() - records;
                if copied > 0 && (copied >= limit.records || into.bytes.len() - bytes >= limit.bytes) {
                    return Ok(Copied::Stopped(Progress { next, more: true }));
                }
                self.copy_unknown(log, mark, place.position, &mut stretch, into)?;
                next = place.position.next();
            }
            at += places.len() as u32;
        }
        Ok(Copied::All(next))
    }

    /// Where to begin, when that may lie in a cold segment.
    pub(crate) fn locate_cold(&self, log: LogId, at: At) -> Result<Offset> {
        self.healing(|| self.locate_in_segments(log, at))
    }

    fn locate_in_segments(&self, log: LogId, at: At) -> Result<Offset> {
        match at {
            At::Mark(mark) => self.locate_mark_cold(log, mark),
            At::Last(count) => self.locate_last_cold(log, count),
            At::Time(time) => {
                let mark = self.mark_of_time(time)?;
                let Some(mark) = mark else {
                    return Ok(Offset(
                        self.state.read().logs.get(&log.0).ok_or(Error::NoLog(log))?.next,
                    ));
                };
                let mut from = self.locate_mark_cold(log, mark)?;
                let mut buffer = ReadBuf::default();
                let limit = Limit {
                    records: 256,
                    bytes: 1 << 20,
                    before: Mark::END,
                };
                loop {
                    let progress = self.read_cold(log, from, limit, &mut buffer)?;
                    if let Some(record) = buffer.records.iter().find(|record| record.time >= time) {
                        return Ok(record.position);
                    }
                    from = progress.next;
                    if !progress.more {
                        return Ok(Offset(
                            self.state.read().logs.get(&log.0).ok_or(Error::NoLog(log))?.next,
                        ));
                    }
                }
            }
        }
    }

    /// A mark before which no record has this time or a later one; `None` if none has.
    fn mark_of_time(&self, time: i64) -> Result<Option<Mark>> {
        let cold: Vec<u32> = self.state.read().cold.iter().copied().collect();
        // The highest time so far only grows, so the segments part in two.
        let (mut low, mut high) = (0, cold.len());
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(segment) = cold.get(middle) else { break };
            let offset = match self.sidecar(*segment)? {
                Some(sidecar) => sidecar.from_time(time)?,
                None => None,
            };
            match offset {
                Some(offset) => {
                    found = Some(Mark::new(lsn(*segment, offset)));
                    high = middle;
                }
                None => low = middle + 1,
            }
        }
        if found.is_some() {
            return Ok(found);
        }
        let state = self.state.read();
        let mut warm = state.sealed.values().map(Arc::as_ref).chain([&state.active]);
        Ok(warm.find_map(|index| Some(Mark::new(lsn(index.number, index.offset_of_time(time)?)))))
    }

    /// First position of a log at or behind a mark.
    pub(crate) fn locate_mark_cold(&self, log: LogId, mark: Mark) -> Result<Offset> {
        self.healing(|| self.locate_mark_in_segments(log, mark))
    }

    fn locate_mark_in_segments(&self, log: LogId, mark: Mark) -> Result<Offset> {
        let (cold, first) = {
            let state = self.state.read();
            let known = state.logs.get(&log.0).ok_or(Error::NoLog(log))?;
            (state.cold_part_behind(log.0, mark), Offset(known.first))
        };
        let (segment, offset) = (segment_of(mark.raw()), offset_of(mark.raw()));
        let mut oldest = None;
        let mut at = cold.unwrap_or(NO_SEGMENT);
        while at != NO_SEGMENT
            && at >= segment
            && let Some(part) = self.part(at, log)?
        {
            let jump = part.link.jump;
            oldest = Some((at, part));
            at = if jump >= segment { jump } else { part.link.previous };
        }
        let Some((at, part)) = oldest else {
            // Everything at or behind the mark is in memory.
            return Ok(match self.state.read().locate(log, At::Mark(mark)) {
                Some(Located::Position(position)) => Offset(position),
                _ => Offset(self.state.read().first_warm(log.0)),
            });
        };
        if at > segment {
            return Ok(part.first.max(first));
        }
        let Some(sidecar) = self.sidecar(at)? else {
            return Ok(first);
        };
        let index = sidecar.at_offset(&part, offset)?;
        if let Some(place) = sidecar.place(&part, index)? {
            return Ok(place.position.max(first));
        }
        // Behind the last of this part: whatever comes next.
        let last = sidecar
            .place(&part, part.count - 1)?
            .map_or(first, |last| last.position.next());
        self.next_stored(log, last.max(first))
    }

    /// The first stored position at or behind one.
    fn next_stored(&self, log: LogId, from: Offset) -> Result<Offset> {
        let mut buffer = ReadBuf::default();
        let limit = Limit {
            records: 1,
            bytes: 1,
            before: Mark::END,
        };
        self.read_cold(log, from, limit, &mut buffer)?;
        let next = self.state.read().logs.get(&log.0).map_or(from.0, |known| known.next);
        Ok(buffer.records.first().map_or(Offset(next), |record| record.position))
    }

    fn locate_last_cold(&self, log: LogId, count: u64) -> Result<Offset> {
        let (located, first) = {
            let state = self.state.read();
            let known = state.logs.get(&log.0).ok_or(Error::NoLog(log))?;
            (state.locate(log, At::Last(count)), Offset(known.first))
        };
        let (mut segment, mut missing) = match located {
            Some(Located::ColdLast { segment, missing }) => (segment, missing),
            Some(Located::Position(position)) => return Ok(Offset(position)),
            _ => return Ok(first),
        };
        while segment != NO_SEGMENT
            && let Some(sidecar) = self.sidecar(segment)?
            && let Some(part) = sidecar.part(log)?
        {
            if u64::from(part.count) >= missing {
                let place = sidecar.place(&part, part.count - missing as u32)?;
                return Ok(place.map_or(first, |place| place.position.max(first)));
            }
            missing -= u64::from(part.count);
            segment = part.link.previous;
        }
        Ok(first)
    }

    /// Stored records of a log in a range of positions.
    pub(crate) fn count_cold(&self, log: LogId, from: Offset, to: Offset) -> Result<u64> {
        self.healing(|| self.count_in_segments(log, from, to))
    }

    fn count_in_segments(&self, log: LogId, from: Offset, to: Offset) -> Result<u64> {
        let (mut count, mut segment, from) = {
            let state = self.state.read();
            let known = state.logs.get(&log.0).ok_or(Error::NoLog(log))?;
            let from = from.max(Offset(known.first));
            (state.count(log.0, from.0, to.0), state.cold_part(log.0, from.0), from)
        };
        while let Some(at) = segment
            && let Some(sidecar) = self.sidecar(at)?
            && let Some(part) = sidecar.part(log)?
        {
            count += u64::from(
                sidecar
                    .at_position(&part, to)?
                    .saturating_sub(sidecar.at_position(&part, from)?),
            );
            if part.first <= from {
                break;
            }
            segment = Some(part.link.previous).filter(|previous| *previous != NO_SEGMENT);
        }
        Ok(count)
    }

    /// Logs with stored records in the cold segment of `from`, or in the first behind it. A step is at least a segment,
    /// whatever the limit says, for a sidecar is ordered by log.
    pub(crate) fn touched_cold(&self, from: Mark, limit: Limit, into: &mut Vec<Touched>) -> Result<Mark> {
        self.healing(|| self.touched_in_segment(from, limit, into))
    }

    fn touched_in_segment(&self, from: Mark, limit: Limit, into: &mut Vec<Touched>) -> Result<Mark> {
        into.clear();
        let next_cold = self.state.read().cold.range(segment_of(from.raw())..).next().copied();
        let segment = match next_cold {
            Some(segment) if lsn(segment, 0) < limit.before.raw() => segment,
            _ => return Ok(self.state.read().touched(from, limit, into)),
        };
        let end = Mark::new(lsn(segment + 1, SEGMENT_HEADER_BYTES));
        let Some(sidecar) = self.sidecar(segment)? else {
            return Ok(end.min(limit.before));
        };
        let start = if segment == segment_of(from.raw()) {
            offset_of(from.raw())
        } else {
            0
        };
        let stop = if segment == segment_of(limit.before.raw()) {
            offset_of(limit.before.raw())
        } else {
            u32::MAX
        };
        for index in 0..sidecar.logs() {
            let part = sidecar.part_at(index)?;
            let known = self.state.read().logs.get(&part.log.0).map(|known| known.first);
            let Some(stored) = known else { continue };
            let first = sidecar
                .at_offset(&part, start)?
                .max(sidecar.at_position(&part, Offset(stored))?);
            let last = sidecar.at_offset(&part, stop)?;
            if first < last
                && let Some(place) = sidecar.place(&part, first)?
            {
                into.push(Touched {
                    log: part.log,
                    first: place.position,
                    count: u64::from(last - first),
                });
            }
        }
        Ok(end.min(limit.before))
    }

    /// Whether no log wants a record of a cold segment any more.
    pub(crate) fn is_dead(&self, segment: u32) -> Result<bool> {
        self.healing(|| self.nobody_wants(segment))
    }

    fn nobody_wants(&self, segment: u32) -> Result<bool> {
        let Some(sidecar) = self.sidecar(segment)? else {
            return Ok(false);
        };
        for index in 0..sidecar.logs() {
            let part = sidecar.part_at(index)?;
            let known = self.state.read().logs.get(&part.log.0).map(|known| known.first);
            if let Some(first) = known
                && sidecar.at_position(&part, Offset(first))? < part.count
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

enum Copied {
    /// A limit was reached.
    Stopped(Progress),
    /// The part is done; the position behind it.
    All(Offset),
}

impl Place {
    /// A record whose length is not known.
    pub(crate) const fn unknown(mark: Mark, position: u64) -> Self {
        Self {
            mark,
            position,
            body_bytes: 0,
        }
    }
}
