//! Reading records: from the recent batches when they are there, else with positioned reads of whole stretches.
//!
//! **Invariants**
//! - No lock is held while a disk is read.
//! - A record that does not verify is reported with file, offset, log and position, and passed over.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::Log;
use super::frame::{Kind, RECORD_PREFIX_BYTES, decode_record, offset_of, segment_of, u32_at};
use super::recent::entry_at;
use super::segment::open_segment;
use super::state::{Located, Place};
use crate::store::types::{At, Batch, Class, Commit, EntryKind, Limit, LogId, Mark, Offset, Progress, ReadBuf};
use crate::store::{Error, Result};

use super::super::damage::Damage;
use super::super::disk::DiskFile;

/// Files that stay open.
const OPEN_FILES_MAX: usize = 256;
/// Bytes of one read.
const STRETCH_BYTES: u64 = 256 << 10;

/// Open segments with their salts; the ones used longest ago are closed.
#[derive(Default)]
pub(crate) struct OpenSegments(Mutex<OpenTable>);

#[derive(Default)]
struct OpenTable {
    files: FxHashMap<u32, OpenSegment>,
    uses: u64,
}

#[derive(Clone)]
struct OpenSegment {
    file: Arc<dyn DiskFile>,
    salt: u64,
    used: u64,
}

impl OpenSegments {
    pub(crate) fn insert(&self, number: u32, file: Arc<dyn DiskFile>, salt: u64) {
        let mut table = self.0.lock();
        table.uses += 1;
        let used = table.uses;
        table.files.insert(number, OpenSegment { file, salt, used });
        if table.files.len() > OPEN_FILES_MAX {
            let oldest = table
                .files
                .iter()
                .min_by_key(|(_, open)| open.used)
                .map(|(number, _)| *number);
            if let Some(oldest) = oldest {
                table.files.remove(&oldest);
            }
        }
    }

    pub(crate) fn remove(&self, number: u32) {
        self.0.lock().files.remove(&number);
    }

    fn get(&self, number: u32) -> Option<(Arc<dyn DiskFile>, u64)> {
        let mut table = self.0.lock();
        table.uses += 1;
        let used = table.uses;
        let open = table.files.get_mut(&number)?;
        open.used = used;
        Some((Arc::clone(&open.file), open.salt))
    }
}

/// What a read is going to copy.
pub(crate) struct Plan {
    log: u64,
    places: Vec<Place>,
    /// The batch of each place, if it is in memory.
    batches: Vec<Option<Arc<Batch>>>,
    progress: Progress,
}

impl Plan {
    /// Whether everything lies in memory.
    pub(crate) fn is_warm(&self) -> bool {
        self.batches.iter().all(Option::is_some)
    }

    /// Whether there is anything to copy.
    pub(crate) fn finds_any(&self) -> bool {
        !self.places.is_empty()
    }
}

/// A stretch of a segment, read at once.
pub(crate) struct Stretch {
    segment: u32,
    offset: u64,
    salt: u64,
    bytes: Vec<u8>,
}

impl Stretch {
    fn get(&self, mark: Mark, length: usize) -> Option<&[u8]> {
        if segment_of(mark.raw()) != self.segment {
            return None;
        }
        let at = u64::from(offset_of(mark.raw())).checked_sub(self.offset)? as usize;
        self.bytes.get(at..at.checked_add(length)?)
    }
}

impl Log {
    /// Chooses what a read copies.
    pub(crate) fn plan(&self, log: LogId, from: Offset, limit: Limit) -> Result<Plan> {
        let mut places = Vec::new();
        let mut progress = Progress {
            next: from,
            more: false,
        };
        {
            let state = self.state.read();
            let known = state.logs.get(&log.0).ok_or(Error::NoLog(log))?;
            let from = from.0.max(known.first);
            let mut bytes = 0;
            if known.records > 0 {
                state.visit(log.0, from, |place| {
                    if place.mark >= limit.before {
                        return false;
                    }
                    if !places.is_empty() && (places.len() >= limit.records || bytes >= limit.bytes) {
                        progress.more = true;
                        return false;
                    }
                    bytes += place.body_bytes as usize;
                    progress.next = Offset(place.position + 1);
                    places.push(place);
                    true
                });
            }
        }
        let batches = self.batches_of(&places);
        Ok(Plan {
            log: log.0,
            places,
            batches,
            progress,
        })
    }

    fn batches_of(&self, places: &[Place]) -> Vec<Option<Arc<Batch>>> {
        let recent = self.recent.read();
        let mut last: Option<Arc<Batch>> = None;
        let batch_of = |place: &Place| {
            if let Some(batch) = &last
                && entry_at(batch, place.mark).is_some()
            {
                return last.clone();
            }
            last = recent.holding(place.mark).cloned();
            last.clone()
        };
        places.iter().map(batch_of).collect()
    }

    /// Copies what was chosen; may read the disk if the plan is not warm.
    pub(crate) fn copy(&self, plan: &Plan, into: &mut ReadBuf) -> Result<Progress> {
        into.clear();
        self.append_plan(plan, into)
    }

    /// Copies behind what is there already.
    pub(crate) fn append_plan(&self, plan: &Plan, into: &mut ReadBuf) -> Result<Progress> {
        let mut stretch = None;
        for (at, place) in plan.places.iter().enumerate() {
            if let Some(batch) = plan.batches.get(at).and_then(Option::as_ref)
                && let Some(entry) = entry_at(batch, place.mark)
            {
                into.push(entry.position, entry.time, entry.mark, batch.body(entry));
                continue;
            }
            self.copy_cold(plan, at, *place, &mut stretch, into)?;
        }
        Ok(plan.progress)
    }

    fn copy_cold(
        &self,
        plan: &Plan,
        at: usize,
        place: Place,
        stretch: &mut Option<Stretch>,
        into: &mut ReadBuf,
    ) -> Result<()> {
        let length = (RECORD_PREFIX_BYTES + place.body_bytes) as usize;
        if stretch
            .as_ref()
            .is_none_or(|stretch| stretch.get(place.mark, length).is_none())
        {
            // As far as the places go on nearby.
            let start = u64::from(offset_of(place.mark.raw()));
            let mut end = start + length as u64;
            for later in plan.places.get(at + 1..).unwrap_or_default() {
                let later_end =
                    u64::from(offset_of(later.mark.raw())) + u64::from(RECORD_PREFIX_BYTES + later.body_bytes);
                if segment_of(later.mark.raw()) != segment_of(place.mark.raw()) || later_end > start + STRETCH_BYTES {
                    break;
                }
                end = later_end;
            }
            *stretch = Some(self.read_stretch(place.mark, (end - start) as usize)?);
        }
        let found = stretch.as_ref().and_then(|stretch| {
            let (prefix, body) = decode_record(stretch.get(place.mark, length)?, stretch.salt)?;
            let right = prefix.kind == Kind::Entry(EntryKind::Data) && prefix.log == plan.log;
            (right && prefix.position == place.position).then_some((prefix.time, body))
        });
        match found {
            Some((time, body)) => into.push(Offset(place.position), time, place.mark, body),
            None => self.report_damage(place, plan.log),
        }
        Ok(())
    }

    /// Copies a record whose length is not known.
    pub(crate) fn copy_unknown(
        &self,
        log: LogId,
        mark: Mark,
        position: Offset,
        stretch: &mut Option<Stretch>,
        into: &mut ReadBuf,
    ) -> Result<()> {
        let prefix = RECORD_PREFIX_BYTES as usize;
        if stretch
            .as_ref()
            .is_none_or(|stretch| stretch.get(mark, prefix).is_none())
        {
            *stretch = Some(self.read_stretch(mark, STRETCH_BYTES as usize)?);
        }
        let length = |stretch: &Stretch| u32_at(stretch.get(mark, prefix)?, 0);
        let length = stretch.as_ref().and_then(length).unwrap_or(RECORD_PREFIX_BYTES) as usize;
        if stretch
            .as_ref()
            .is_none_or(|stretch| stretch.get(mark, length).is_none())
        {
            // A damaged length asks for no more than the file has.
            let (file, _) = self.segment_file(segment_of(mark.raw()))?;
            let size = file
                .len()
                .map_err(|error| self.dir.io("read", &self.dir.segment(segment_of(mark.raw())), &error))?;
            let rest = size.saturating_sub(u64::from(offset_of(mark.raw()))) as usize;
            *stretch = Some(self.read_stretch(mark, length.max(STRETCH_BYTES as usize).min(rest))?);
        }
        let found = stretch.as_ref().and_then(|stretch| {
            let (prefix, body) = decode_record(stretch.get(mark, length)?, stretch.salt)?;
            let right = prefix.kind == Kind::Entry(EntryKind::Data) && prefix.log == log.0;
            (right && prefix.position == position.0).then_some((prefix.time, body))
        });
        match found {
            Some((time, body)) => into.push(position, time, mark, body),
            None => self.report_damage(Place::unknown(mark, position.0), log.0),
        }
        Ok(())
    }

    /// Says what is lost, once in this run, and notes it in a row, once for ever.
    pub(crate) fn report_damage(&self, place: Place, log: u64) {
        if !self.damaged.lock().insert(place.mark) {
            return;
        }
        let damage = Damage {
            file: self.dir.shown(&self.dir.segment(segment_of(place.mark.raw()))),
            offset: u64::from(offset_of(place.mark.raw())),
            log: LogId(log),
            first: Offset(place.position),
            last: Offset(place.position),
            found_ms: self.clock.wall_ms(),
        };
        let name = self.state.read().logs.get(&log).map(|known| known.name.clone());
        tracing::error!(
            file = damage.file,
            offset = damage.offset,
            log,
            name = %String::from_utf8_lossy(&name.unwrap_or_default()),
            position = place.position,
            "a stored record is damaged and was passed over"
        );
        let Some(table) = self.damage_table else {
            return;
        };
        let key = damage.key();
        if self.state.read().rows.get(table, &key).is_some() {
            return;
        }
        let mut commit = Commit::new(Class::C);
        commit.lazy();
        commit.put(table, &key, &damage.row());
        if let Err(error) = self.commit(&commit) {
            tracing::warn!(%error, "the damage could not be noted");
        }
    }

    pub(crate) fn segment_file(&self, number: u32) -> Result<(Arc<dyn DiskFile>, u64)> {
        if let Some(open) = self.open.get(number) {
            return Ok(open);
        }
        let path = self.dir.segment(number);
        let (file, header) =
            open_segment(self.disk.as_ref(), &self.dir, number).map_err(|error| self.dir.io("open", &path, &error))?;
        let header = header.ok_or_else(|| Error::Damaged {
            file: self.dir.shown(&path),
            offset: 0,
            cause: "the segment's header does not verify".into(),
        })?;
        self.open.insert(number, Arc::clone(&file), header.salt);
        Ok((file, header.salt))
    }

    fn read_stretch(&self, mark: Mark, length: usize) -> Result<Stretch> {
        let (segment, offset) = (segment_of(mark.raw()), u64::from(offset_of(mark.raw())));
        let (file, salt) = self.segment_file(segment)?;
        let mut bytes = vec![0; length];
        let read = file.read_at(&mut bytes, offset).map_err(|error: io::Error| {
            let path = self.dir.segment(segment);
            Error::Io(format!(
                "cannot read `{}` at byte {offset}: {error}",
                self.dir.shown(&path)
            ))
        })?;
        bytes.truncate(read);
        Ok(Stretch {
            segment,
            offset,
            salt,
            bytes,
        })
    }

    /// Where to begin, if that is known from memory.
    pub(crate) fn locate_warm(&self, log: LogId, at: At) -> Result<Option<Offset>> {
        match self.state.read().locate(log, at).ok_or(Error::NoLog(log))? {
            Located::Position(position) => Ok(Some(Offset(position))),
            Located::Behind(_) | Located::Cold | Located::ColdLast { .. } => Ok(None),
        }
    }

    /// Where to begin; may read the disk.
    pub(crate) fn locate(&self, log: LogId, at: At) -> Result<Offset> {
        let located = self.state.read().locate(log, at).ok_or(Error::NoLog(log))?;
        let mut from = match located {
            Located::Position(position) => return Ok(Offset(position)),
            Located::Behind(mark) => mark,
            Located::Cold | Located::ColdLast { .. } => return self.locate_cold(log, at),
        };
        let At::Time(time) = at else {
            return Ok(Offset(0));
        };
        let mut records = ReadBuf::default();
        loop {
            let mut places = Vec::new();
            let next = {
                let state = self.state.read();
                state.visit_behind(log.0, from, |place| {
                    places.push(place);
                    places.len() < 256
                });
                state.logs.get(&log.0).ok_or(Error::NoLog(log))?.next
            };
            let Some(last) = places.last() else {
                return Ok(Offset(next));
            };
            from = last.mark.just_behind();
            let batches = self.batches_of(&places);
            let plan = Plan {
                log: log.0,
                places,
                batches,
                progress: Progress {
                    next: Offset(0),
                    more: false,
                },
            };
            self.copy(&plan, &mut records)?;
            if let Some(record) = records.records.iter().find(|record| record.time >= time) {
                return Ok(record.position);
            }
        }
    }
}
