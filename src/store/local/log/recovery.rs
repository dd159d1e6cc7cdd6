//! What a start makes of the log it finds: which batches count, where the log ends, and what is damage.
//!
//! A batch is *good* if its header verifies under the segment's salt, has the number that is due and lies where it says,
//! and its records verify and fill it exactly; *torn* if only its header verifies; *missing* if there is no header
//! where one is due. **D** is the highest `durable_through` of any valid header, also behind a hole.
//!
//! | # | found | action |
//! |---|---|---|
//! | R1 | all good, a clean stop at the end | open |
//! | R2 | missing at x, no valid header behind | cut at x |
//! | R3, R12, R16 | torn at x, no valid header behind (the last batch, a Seal, the first of a segment) | cut at x |
//! | R4 | torn or missing n, valid headers behind, all with `durable_through` < n | cut at x, report how many went |
//! | R5, R6 | the same, some with `durable_through` >= n: n was synced | refuse: damage |
//! | R7 | a valid header whose number is not the one due | refuse |
//! | R8 | a Seal, and its successor is absent or not the one it names | refuse |
//! | R9 | a Seal, and nothing in the successor | the successor is the end |
//! | R10 | no Seal, a successor without a valid header | reuse it |
//! | R11 | no Seal, a successor with a valid header | refuse: damage |
//! | R13 | a crash during recovery | the same decisions again |
//! | R17 | bytes of an earlier use | as zeros |
//! | R22 | the log ends before the snapshot | refuse |
//! | R26 | a read error | refuse, never taken for torn |
//! | R27 | accepted batches cannot be made durable | refuse |
//! | R28 | power lost, and damage in the last synced batch before any later header | cut: indistinguishable from R3 |
//!
//! **Invariants**
//! - Every decision depends only on bytes before the cut and on valid headers, so a second attempt decides the same.
//! - Every accepted batch above D is written again and synced before anything is acted on: after a kill it may be in
//!   the page cache only, and after a failed sync the kernel takes such pages for clean.
//! - Names are made durable before a Seal is built on them: a prepared segment may have its name in the cache only.
//! - The log never goes on in the segment it was cut in.

use std::sync::Arc;

use super::super::data_dir::DataDir;
use super::super::disk::{Disk, DiskFile};
use super::frame::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, Kind, RECORD_PREFIX_BYTES, SEGMENT_HEADER_BYTES, Seal, SegmentHeader,
    align8, decode_record, flags, lsn, offset_of, segment_of,
};
use super::segment::{Segment, make_segment, open_segment};
use crate::store::types::{Batch, Entry, LogId, Mark, Offset};
use crate::store::{Error, Result};

/// A file of another store.
const FOREIGN: &str = "it belongs to another store";

/// Where the scan begins: at the end of the snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) lsn: u64,
    /// Of the first batch behind it.
    pub(crate) number: u64,
    pub(crate) highest_time: i64,
    /// The highest mark of a row in the snapshot.
    pub(crate) newest_row: u64,
}

impl Start {
    /// The whole log.
    pub(crate) const BEGINNING: Self = Self {
        lsn: lsn(1, SEGMENT_HEADER_BYTES),
        number: 1,
        highest_time: 0,
        newest_row: 0,
    };
}

/// A batch that counts.
pub(crate) struct Accepted {
    pub(crate) batch: Batch,
    pub(crate) segment: u32,
    pub(crate) start: u32,
    pub(crate) time: i64,
    pub(crate) flags: u32,
}

/// What was left out at the end of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The segment's file.
    pub file: String,
    /// Where it was cut.
    pub offset: u64,
    /// Batches left out that can still be recognized; none of them was acknowledged.
    pub batches: u64,
}

/// What a start goes on with.
pub(crate) struct Recovered {
    pub(crate) accepted: Vec<Accepted>,
    pub(crate) cut: Option<Cut>,
    /// Time of the clean stop, if the log ends with one.
    pub(crate) clean_stop: Option<i64>,
    pub(crate) highest_time: i64,
    /// Where the log ended, before it was sealed.
    pub(crate) end: Mark,
    pub(crate) active: Segment,
    /// Of the next batch.
    pub(crate) next_number: u64,
}

/// How a batch looks.
enum Look {
    Good(BatchHeader, Vec<Entry>),
    Torn(BatchHeader),
    Missing,
}

/// A segment while it is scanned.
struct Scanned {
    number: u32,
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
    /// From `base` on.
    bytes: Vec<u8>,
    base: u32,
}

/// A block without anything.
static ZEROS: [u8; 4_096] = [0; 4_096];

impl Scanned {
    fn at(&self, offset: u32) -> &[u8] {
        offset
            .checked_sub(self.base)
            .and_then(|at| self.bytes.get(at as usize..))
            .unwrap_or_default()
    }

    fn header_at(&self, offset: u32) -> Option<BatchHeader> {
        BatchHeader::decode(self.at(offset), self.header.salt, lsn(self.number, offset))
    }

    fn look(&self, offset: u32) -> Look {
        let Some(header) = self.header_at(offset) else {
            return Look::Missing;
        };
        match self.entries(&header, offset) {
            Some(entries) => Look::Good(header, entries),
            None => Look::Torn(header),
        }
    }

    /// The entries of a batch, if all its records verify and fill it exactly. A Seal has none.
    fn entries(&self, header: &BatchHeader, offset: u32) -> Option<Vec<Entry>> {
        let total = BATCH_HEADER_BYTES.checked_add(header.bytes)? as usize;
        let bytes = self.at(offset).get(..total)?;
        // A record has 40 bytes at the least, so a hostile count asks for nothing.
        let mut entries = Vec::with_capacity((header.records as usize).min(total / RECORD_PREFIX_BYTES as usize));
        let (mut at, mut records) = (BATCH_HEADER_BYTES as usize, 0);
        while at < total {
            let (prefix, body) = decode_record(bytes.get(at..)?, self.header.salt)?;
            if let Kind::Entry(kind) = prefix.kind {
                entries.push(Entry {
                    kind,
                    early: false,
                    log: LogId(prefix.log),
                    position: Offset(prefix.position),
                    time: prefix.time,
                    mark: Mark::new(lsn(self.number, offset + at as u32)),
                    start: at as u32 + RECORD_PREFIX_BYTES,
                    length: prefix.body_bytes,
                });
            }
            at += RECORD_PREFIX_BYTES as usize + body.len();
            records += 1;
        }
        (records == header.records).then_some(entries)
    }

    /// Valid headers from an offset on, wherever they are. Zeros, of which the rest of a segment mostly consists, are
    /// passed over in blocks.
    fn headers_from(&self, offset: u32) -> impl Iterator<Item = BatchHeader> {
        let magic = BATCH_MAGIC.to_le_bytes();
        let blocks = (offset..).step_by(ZEROS.len()).zip(self.at(offset).chunks(ZEROS.len()));
        let written = blocks.filter(|(_, block)| !ZEROS.starts_with(block));
        let places = written.flat_map(|(begin, block)| (begin..).step_by(8).take(block.len() / 8));
        places.filter_map(move |place| self.at(place).starts_with(&magic).then(|| self.header_at(place))?)
    }
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    dir: &'a DataDir,
    store: [u8; 16],
    segments: Vec<u32>,
}

impl Scan<'_> {
    fn damaged(&self, segment: u32, offset: u64, cause: impl Into<String>) -> Error {
        Error::Damaged {
            file: self.dir.shown(&self.dir.segment(segment)),
            offset,
            cause: cause.into(),
        }
    }

    fn open(&self, number: u32, base: u32) -> Result<std::result::Result<Scanned, &'static str>> {
        let path = self.dir.segment(number);
        // R26: an error is an error, not a torn batch.
        let read = || {
            let (file, header) = open_segment(self.disk, self.dir, number)?;
            let Some(header) = header else {
                return Ok(Err("its header does not verify"));
            };
            if header.number != number {
                return Ok(Err("it is another segment under this name"));
            }
            if header.store != self.store {
                return Ok(Err(FOREIGN));
            }
            let mut bytes = vec![0; file.len()?.saturating_sub(u64::from(base)) as usize];
            let read = file.read_at(&mut bytes, u64::from(base))?;
            bytes.truncate(read);
            Ok(Ok(Scanned {
                number,
                file,
                header,
                bytes,
                base,
            }))
        };
        match read().map_err(|error| self.dir.io("read", &path, &error))? {
            Err(FOREIGN) => Err(Error::Refused(format!(
                "`{}` belongs to another store than `{}`: files of two data directories were mixed; put one of them back \
                 from a backup as a whole",
                DataDir::full(&path),
                DataDir::full(&self.dir.manifest())
            ))),
            scanned => Ok(scanned),
        }
    }
}

/// Scans the log from `start`, makes what counts durable, and goes on in a fresh segment.
pub(crate) fn recover(
    disk: &dyn Disk,
    dir: &DataDir,
    store: [u8; 16],
    start: Start,
    segment_bytes: u64,
) -> Result<Recovered> {
    let scan = Scan {
        disk,
        dir,
        store,
        segments: dir.log_files(disk)?.segments,
    };
    // After a kill a name may be in the cache only, as bytes may: a Seal must not be built on it.
    let log_dir = dir.log();
    disk.sync_dir(&log_dir)
        .map_err(|error| dir.io("sync", &log_dir, &error))?;
    let mut accepted: Vec<Accepted> = Vec::new();
    let mut number = start.number;
    let mut highest_time = start.highest_time;
    let mut durable = start.number.saturating_sub(1);
    let mut offset = offset_of(start.lsn);
    let mut current = match scan.open(segment_of(start.lsn), offset)? {
        Ok(scanned) => scanned,
        Err(cause) => return Err(scan.damaged(segment_of(start.lsn), 0, cause)),
    };
    // R22
    if u64::from(offset)
        > current
            .file
            .len()
            .map_err(|error| dir.io("read", &dir.segment(current.number), &error))?
    {
        return Err(scan.damaged(
            current.number,
            u64::from(offset),
            "the log ends before the snapshot, which holds rows up to here",
        ));
    }
    let (torn, headers_behind) = loop {
        match current.look(offset) {
            Look::Good(header, entries) => {
                if header.number != number {
                    return Err(wrong_number(&scan, &current, offset, &header, number));
                }
                number += 1;
                durable = durable.max(header.durable_through);
                highest_time = highest_time.max(header.time);
                let total = (BATCH_HEADER_BYTES + header.bytes) as usize;
                let padded = align8(total as u64) as usize;
                let bytes = current.at(offset);
                let bytes = bytes.get(..padded.min(bytes.len())).unwrap_or_default().to_vec();
                let end = offset + padded as u32;
                let seal = if header.has(flags::SEAL) {
                    seal_of(&bytes, current.header.salt)
                } else {
                    None
                };
                accepted.push(Accepted {
                    batch: Batch {
                        entries,
                        bytes,
                        end: Mark::new(lsn(current.number, end)),
                        waiters: Vec::new(),
                        write: header.number,
                    },
                    segment: current.number,
                    start: offset,
                    time: header.time,
                    flags: header.flags,
                });
                offset = end;
                if header.has(flags::SEAL) {
                    current = successor(&scan, &current, offset, seal)?;
                    offset = SEGMENT_HEADER_BYTES;
                }
            }
            Look::Torn(header) => {
                if header.number != number {
                    return Err(wrong_number(&scan, &current, offset, &header, number));
                }
                durable = durable.max(header.durable_through);
                let behind: Vec<_> = current.headers_from(offset + 8).collect();
                break (true, behind);
            }
            Look::Missing => break (false, current.headers_from(offset).collect()),
        }
    };
    let cut = decide(&scan, &current, offset, number, torn, &headers_behind)?;
    // R6, R22
    if start.newest_row >= lsn(current.number, offset) {
        let cause = "the log ends here, and the snapshot holds a row from behind it: acknowledged data is missing";
        return Err(scan.damaged(current.number, u64::from(offset), cause));
    }
    durable = headers_behind
        .iter()
        .map(|header| header.durable_through)
        .fold(durable, u64::max);
    make_durable(&scan, &accepted, durable)?;
    let clean_stop = clean_stop(&accepted);
    let seal_number = number;
    let active = seal_and_switch(&scan, &current, offset, seal_number, highest_time, segment_bytes)?;
    Ok(Recovered {
        accepted,
        cut,
        clean_stop,
        highest_time,
        end: Mark::new(lsn(current.number, offset)),
        active,
        next_number: seal_number + 1,
    })
}

/// R7.
fn wrong_number(scan: &Scan<'_>, current: &Scanned, offset: u32, header: &BatchHeader, due: u64) -> Error {
    let cause = format!(
        "batch {} where batch {due} is due: files of different states were mixed",
        header.number
    );
    scan.damaged(current.number, u64::from(offset), cause)
}

fn seal_of(batch: &[u8], salt: u64) -> Option<Seal> {
    let (_, body) = decode_record(batch.get(BATCH_HEADER_BYTES as usize..)?, salt)?;
    Seal::decode(body)
}

/// R8: a Seal was read, so what it names was durable before.
fn successor(scan: &Scan<'_>, current: &Scanned, offset: u32, seal: Option<Seal>) -> Result<Scanned> {
    let Some(seal) = seal.filter(|seal| seal.next == current.number + 1) else {
        return Err(scan.damaged(
            current.number,
            u64::from(offset),
            "the Seal does not name the next segment",
        ));
    };
    if !scan.segments.contains(&seal.next) {
        return Err(scan.damaged(
            seal.next,
            0,
            "the segment is missing, although the one before it names it",
        ));
    }
    match scan.open(seal.next, SEGMENT_HEADER_BYTES)? {
        Ok(next) if next.header.salt == seal.salt => Ok(next),
        Ok(_) => Err(scan.damaged(seal.next, 0, "it is not the segment that the one before it names")),
        Err(cause) => Err(scan.damaged(seal.next, 0, cause)),
    }
}

/// Whether the log may be cut at `offset`, where batch `number` is due, and what goes.
fn decide(
    scan: &Scan<'_>,
    current: &Scanned,
    offset: u32,
    number: u64,
    torn: bool,
    behind: &[BatchHeader],
) -> Result<Option<Cut>> {
    // R5
    if let Some(witness) = behind.iter().find(|header| header.durable_through >= number) {
        let cause = format!(
            "batch {number} is damaged: it was acknowledged, as batch {} behind it shows",
            witness.number
        );
        return Err(scan.damaged(current.number, u64::from(offset), cause));
    }
    for later in scan.segments.iter().filter(|later| **later > current.number) {
        let next = match scan.open(*later, SEGMENT_HEADER_BYTES)? {
            Ok(next) => next,
            Err(cause) => return Err(scan.damaged(*later, 0, cause)),
        };
        // R11. One further on is prepared only behind a Seal, so it is a witness too, whatever it holds.
        if *later > current.number + 1 || next.headers_from(SEGMENT_HEADER_BYTES).next().is_some() {
            let cause = format!(
                "batch {number} is damaged: it was acknowledged, as `{}` shows",
                scan.dir.shown(&scan.dir.segment(*later))
            );
            return Err(scan.damaged(current.number, u64::from(offset), cause));
        }
    }
    // R2, R3, R4, R10, R12, R16, R28
    Ok((torn || !behind.is_empty()).then(|| Cut {
        file: scan.dir.shown(&scan.dir.segment(current.number)),
        offset: u64::from(offset),
        batches: behind.len() as u64 + u64::from(torn),
    }))
}

/// Writes every accepted batch above `durable` again and syncs it.
fn make_durable(scan: &Scan<'_>, accepted: &[Accepted], durable: u64) -> Result<()> {
    let mut open: Option<(u32, Arc<dyn DiskFile>)> = None;
    for batch in accepted.iter().filter(|accepted| accepted.batch.write > durable) {
        let path = scan.dir.segment(batch.segment);
        let failed = |error| scan.dir.io("make durable", &path, &error);
        let file = match open.take() {
            Some((segment, file)) if segment == batch.segment => file,
            earlier => {
                if let Some((_, file)) = earlier {
                    file.sync_data().map_err(failed)?;
                }
                scan.disk.open(&path).map_err(failed)?
            }
        };
        file.write_at(&batch.batch.bytes, u64::from(batch.start))
            .map_err(failed)?;
        open = Some((batch.segment, file));
    }
    if let Some((segment, file)) = open {
        let path = scan.dir.segment(segment);
        file.sync_data()
            .map_err(|error| scan.dir.io("make durable", &path, &error))?;
    }
    Ok(())
}

/// Prepares the next segment, puts a Seal at the cut and truncates behind it.
fn seal_and_switch(
    scan: &Scan<'_>,
    current: &Scanned,
    offset: u32,
    number: u64,
    time: i64,
    segment_bytes: u64,
) -> Result<Segment> {
    let next = current.number + 1;
    let path = scan.dir.segment(next);
    let failed = |error| scan.dir.io("prepare", &path, &error);
    let active = if scan.segments.contains(&next) {
        // R10: prepared, and never used.
        let (file, header) = open_segment(scan.disk, scan.dir, next).map_err(failed)?;
        let header = header.ok_or_else(|| scan.damaged(next, 0, "its header does not verify"))?;
        file.sync_all().map_err(failed)?;
        Segment { header, file }
    } else {
        // Without zeros: a start is waited for, and mostly finds a segment that was prepared.
        make_segment(scan.disk, scan.dir, next, segment_bytes, scan.store, &mut || false).map_err(failed)?
    };
    let seal = Seal {
        next,
        salt: active.header.salt,
        size: active.header.size,
    };
    let bytes = seal.batch(
        number,
        lsn(current.number, offset),
        number - 1,
        time,
        current.header.salt,
    );
    let path = scan.dir.segment(current.number);
    let finish = || {
        current.file.write_at(&bytes, u64::from(offset))?;
        current.file.sync_data()?;
        current.file.set_len(u64::from(offset) + bytes.len() as u64)?;
        current.file.sync_all()
    };
    finish().map_err(|error| scan.dir.io("seal", &path, &error))?;
    Ok(active)
}

/// R1: the time of the clean stop, if nothing but Seals lies behind it.
fn clean_stop(accepted: &[Accepted]) -> Option<i64> {
    let last = accepted
        .iter()
        .rev()
        .find(|accepted| accepted.flags & flags::SEAL == 0)?;
    (last.flags & flags::CLEAN_STOP != 0).then_some(last.time)
}
