//! Making a missing or damaged sidecar again, by one scan of its segment, when somebody needs it.
//!
//! **Invariants**
//! - A reader never gets an error for a sidecar that can be made again.
//! - What a scan cannot read it passes over; it takes nothing for a record that does not verify.
//! - One sidecar is made at a time, the older ones first, for a sidecar names those before it.

use rustc_hash::{FxHashMap, FxHashSet};

use super::Log;
use super::frame::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, Kind, RECORD_PREFIX_BYTES, SEGMENT_HEADER_BYTES, align8,
    decode_record, lsn, offset_of, u32_at,
};
use super::sidecar::{Builder, SegmentKey, link_behind, write};
use super::state::Place;
use crate::store::types::{EntryKind, LogId, Mark, Offset};
use crate::store::{Error, Result};

impl Log {
    /// Does something that reads sidecars; one that turns out useless is made again, and the act repeated.
    pub(crate) fn healing<T>(&self, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        let mut healed = FxHashSet::default();
        loop {
            match act() {
                Err(Error::Damaged { file, offset, cause }) => match sidecar_number(&file) {
                    // Twice the same: the disk does not give back what it takes.
                    Some(segment) if healed.insert(segment) => self.heal(segment, &cause)?,
                    _ => return Err(Error::Damaged { file, offset, cause }),
                },
                result => return result,
            }
        }
    }

    fn heal(&self, segment: u32, cause: &str) -> Result<()> {
        let _alone = self.heals.lock();
        if self
            .sidecar(segment)
            .is_ok_and(|sidecar| sidecar.is_none_or(|sidecar| sidecar.verify().is_ok()))
        {
            // Somebody else was faster.
            return Ok(());
        }
        tracing::warn!(
            segment,
            cause,
            "the index of a segment is of no use and is made again from the segment"
        );
        let mut attempts = 2 * self.state.read().segments.len() + 8;
        let mut due = vec![segment];
        while let Some(segment) = due.last().copied() {
            match self.make_sidecar(segment) {
                Ok(()) => {
                    due.pop();
                }
                Err(Error::Damaged { file, offset, cause }) => match sidecar_number(&file) {
                    Some(older) if older < segment && attempts > 0 => {
                        attempts -= 1;
                        due.push(older);
                    }
                    _ => return Err(Error::Damaged { file, offset, cause }),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn make_sidecar(&self, segment: u32) -> Result<()> {
        let (described, older) = {
            let state = self.state.read();
            let Some(described) = state.segments.get(&segment).copied() else {
                return Ok(());
            };
            let older: Vec<u32> = state
                .segments
                .range(..segment)
                .rev()
                .map(|(number, _)| *number)
                .collect();
            (described, older)
        };
        if let Some(before) = older.first() {
            // Made before this one is scanned, not after.
            self.sidecar(*before)?;
        }
        let (file, salt) = self.segment_file(segment)?;
        let key = SegmentKey {
            number: segment,
            generation: described.generation,
            salt,
            end: u64::from(offset_of(described.end)),
        };
        let path = self.dir.segment(segment);
        let mut bytes = vec![0; key.end as usize];
        let read = file
            .read_at(&mut bytes, 0)
            .map_err(|error| self.dir.io("read", &path, &error))?;
        bytes.truncate(read);
        let Scan {
            builder, firsts, lost, ..
        } = Scan::run(&bytes, segment, salt);
        for offset in lost {
            self.report_damage(Place::unknown(Mark::new(lsn(segment, offset)), 0), 0);
        }
        let previous = self.previous_segments(&firsts, &older)?;
        let content = builder.finish(key, &mut |log| {
            let last = previous.get(&log.0).copied().unwrap_or_default();
            link_behind(last, &mut |segment| self.part(segment, log))
        })?;
        self.sidecars.remove(segment);
        write(self.disk.as_ref(), &self.dir.sidecar(segment), &content, &|| ())
    }

    /// For each log, with its first position in a segment: the newest of the older segments that holds records of it.
    fn previous_segments(&self, firsts: &FxHashMap<u64, u64>, older: &[u32]) -> Result<FxHashMap<u64, u32>> {
        let mut wanted: FxHashSet<u64> = {
            let state = self.state.read();
            // Where nothing before is stored any more nobody looks further back.
            let looked_for = |(log, first): (&u64, &u64)| {
                state
                    .logs
                    .get(log)
                    .is_some_and(|known| known.first < *first)
                    .then_some(*log)
            };
            firsts.iter().filter_map(looked_for).collect()
        };
        let mut previous = FxHashMap::default();
        for segment in older {
            if wanted.is_empty() {
                break;
            }
            let Some(sidecar) = self.sidecar(*segment)? else {
                continue;
            };
            for index in 0..sidecar.logs() {
                let log = sidecar.part_at(index)?.log.0;
                if wanted.remove(&log) {
                    previous.insert(log, *segment);
                }
            }
        }
        Ok(previous)
    }
}

/// The segment whose sidecar a file is.
fn sidecar_number(file: &str) -> Option<u32> {
    file.strip_prefix("log/")?.strip_suffix(".idx")?.parse().ok()
}

/// What a scan of a segment finds.
struct Scan<'a> {
    bytes: &'a [u8],
    segment: u32,
    salt: u64,
    builder: Builder,
    /// The first position of each log.
    firsts: FxHashMap<u64, u64>,
    /// Where something begins that does not verify.
    lost: Vec<u32>,
}

impl<'a> Scan<'a> {
    /// Notes every batch and record that verifies.
    fn run(bytes: &'a [u8], segment: u32, salt: u64) -> Self {
        let mut scan = Self {
            bytes,
            segment,
            salt,
            builder: Builder::default(),
            firsts: FxHashMap::default(),
            lost: Vec::new(),
        };
        let magic = BATCH_MAGIC.to_le_bytes();
        let (mut at, mut sound) = (SEGMENT_HEADER_BYTES as usize, true);
        while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= BATCH_HEADER_BYTES as usize) {
            let header = rest
                .starts_with(&magic)
                .then(|| BatchHeader::decode(rest, salt, lsn(segment, at as u32)));
            let Some(header) = header.flatten() else {
                if sound {
                    scan.lost.push(at as u32);
                }
                // The next batch is looked for where batches can be.
                sound = false;
                at += 8;
                continue;
            };
            sound = true;
            scan.builder.batch(at as u32, header.time);
            let total = (BATCH_HEADER_BYTES as usize).saturating_add(header.bytes as usize);
            scan.records(at, at.saturating_add(total).min(bytes.len()));
            at += align8(total as u64) as usize;
        }
        scan
    }

    /// The records of the batch in a range of the file.
    fn records(&mut self, start: usize, end: usize) {
        let (mut at, mut sound) = (start + BATCH_HEADER_BYTES as usize, true);
        while let Some(rest) = self.bytes.get(at..end).filter(|rest| !rest.is_empty()) {
            if let Some((prefix, body)) = decode_record(rest, self.salt) {
                if prefix.kind == Kind::Entry(EntryKind::Data) {
                    self.firsts.entry(prefix.log).or_insert(prefix.position);
                    let position = Offset(prefix.position);
                    self.builder
                        .record(LogId(prefix.log), position, at as u32, prefix.body_bytes);
                }
                at += RECORD_PREFIX_BYTES as usize + body.len();
                sound = true;
                continue;
            }
            if sound {
                self.lost.push(at as u32);
            }
            sound = false;
            // Its length may be right where its body is not; else the next record begins anywhere.
            let length = u32_at(rest, 0).unwrap_or_default() as usize;
            let next = rest.get(length..).and_then(|next| decode_record(next, self.salt));
            at += if length >= RECORD_PREFIX_BYTES as usize && next.is_some() {
                length
            } else {
                1
            };
        }
    }
}
