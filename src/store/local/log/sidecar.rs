//! The index of a sealed segment, in a file beside it, so that no memory is kept per stored message.
//!
//! The file is a row of blocks of 4 KiB, each 4,092 bytes of content and their CRC32. The content:
//!
//! ```text
//! header, 64 B   magic u32 | version u16 | reserved u16 | segment u32 | generation u32 | salt u64 | logs u32 |
//!                entries u32 | positions u32 | times u32 | segment end u64 | content bytes u64 | reserved 8 B
//! logs, 48 B     log u64 | first position u64 | body bytes u64 | count u32 | first entry u32 | first of its positions
//!                u32 or none | previous segment u32 | jump segment u32 | depth u32             ascending by log
//! entries, 4 B   offset of the record in the segment u32                           by log, then in order
//! positions, 4 B position less the log's first u32                                 only of logs with gaps
//! times, 12 B    batch offset u32 | highest time so far up to the next one i64     every 256 KiB of the segment
//! ```
//!
//! A log's parts in older segments are reached by `previous` and by `jump`, the pointers of a skew-binary list: any
//! position is found in O(log n) probes. Segment numbers begin at 1; 0 is no segment.
//!
//! **Invariants**
//! - A sidecar says nothing that a scan of its segment does not say: it can be lost and made again.
//! - Positions and offsets of one log ascend.
//! - No block is used that was not checked when it was read.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::store::local::disk::{Disk, DiskFile};
use crate::store::{Error, LogId, Offset, Result};

/// No segment.
pub const NO_SEGMENT: u32 = 0;

const MAGIC: u32 = 0x5849_5645; // "EVIX"
const VERSION: u16 = 1;
const HEADER_BYTES: u64 = 64;
const LOG_BYTES: u64 = 48;
const TIME_BYTES: u64 = 12;
const BLOCK_BYTES: usize = 4096;
const CONTENT_BYTES: usize = BLOCK_BYTES - 4;
const NO_POSITIONS: u32 = u32::MAX;
/// Bytes of a segment between two remembered times.
const TIME_STEP_BYTES: u32 = 256 << 10;

/// Where the parts of a log in older segments are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// The segment before this one that holds records of the log.
    pub previous: u32,
    /// One far before it.
    pub jump: u32,
    /// How many segments before this one held records of the log when it was sealed.
    pub depth: u32,
}

/// What a sidecar says about one log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogPart {
    /// The log.
    pub log: LogId,
    /// Its first position in the segment.
    pub first: Offset,
    /// Records in the segment.
    pub count: u32,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Its older parts.
    pub link: Link,
    entry: u32,
    positions: u32,
}

/// Where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its position in the log.
    pub position: Offset,
    /// Its offset in the segment.
    pub offset: u32,
}

/// Which segment a sidecar belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentKey {
    /// The segment's number.
    pub number: u32,
    /// How often it was cleaned.
    pub generation: u32,
    /// The salt of the file.
    pub salt: u64,
    /// Behind its last batch.
    pub end: u64,
}

/// Collects what a sidecar says, from the index of a segment or from a scan.
#[derive(Default)]
pub struct Builder {
    logs: BTreeMap<LogId, BuiltLog>,
    times: Vec<(u32, i64)>,
}

#[derive(Default)]
struct BuiltLog {
    bytes: u64,
    places: Vec<Place>,
}

impl Builder {
    /// Notes a batch: where it begins, and the highest time of any record up to its end.
    pub fn batch(&mut self, offset: u32, highest_time: i64) {
        match self.times.last_mut() {
            Some((start, highest)) if offset.saturating_sub(*start) < TIME_STEP_BYTES => {
                *highest = highest_time.max(*highest);
            }
            last => {
                let before = last.map_or(i64::MIN, |(_, highest)| *highest);
                self.times.push((offset, highest_time.max(before)));
            }
        }
    }

    /// Notes a record; those of one log come in order.
    pub fn record(&mut self, log: LogId, position: Offset, offset: u32, body_bytes: u32) {
        let built = self.logs.entry(log).or_default();
        built.bytes += u64::from(body_bytes);
        built.places.push(Place { position, offset });
    }

    /// The logs that were noted, ascending.
    pub fn logs(&self) -> impl Iterator<Item = LogId> + '_ {
        self.logs.keys().copied()
    }

    /// The bytes of the file. `link` gives the older parts of each log, in the order of [`Builder::logs`].
    ///
    /// # Errors
    /// What `link` fails with, or [`Error::Refused`] if positions lie further apart than the format can say.
    pub fn finish(self, key: SegmentKey, link: &mut dyn FnMut(LogId) -> Result<Link>) -> Result<Vec<u8>> {
        let (mut logs, mut entries, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for (id, built) in &self.logs {
            let first = built.places.first().map_or(Offset(0), |place| place.position);
            let last = built.places.last().map_or(first, |place| place.position);
            let contiguous = last.0 - first.0 + 1 == built.places.len() as u64;
            let place = if contiguous {
                NO_POSITIONS
            } else {
                (positions.len() / 4) as u32
            };
            let link = link(*id)?;
            for field in [id.0, first.0, built.bytes] {
                logs.extend_from_slice(&field.to_le_bytes());
            }
            let count = built.places.len() as u32;
            for field in [
                count,
                (entries.len() / 4) as u32,
                place,
                link.previous,
                link.jump,
                link.depth,
            ] {
                logs.extend_from_slice(&field.to_le_bytes());
            }
            for place in &built.places {
                entries.extend_from_slice(&place.offset.to_le_bytes());
                if !contiguous {
                    let Ok(relative) = u32::try_from(place.position.0 - first.0) else {
                        let cause = format!("log {} skips too many numbers in segment {}", id.0, key.number);
                        return Err(Error::Refused(cause));
                    };
                    positions.extend_from_slice(&relative.to_le_bytes());
                }
            }
        }
        let mut content = Vec::new();
        let bytes = HEADER_BYTES as usize + logs.len() + entries.len() + positions.len() + self.times.len() * 12;
        content.extend_from_slice(&MAGIC.to_le_bytes());
        content.extend_from_slice(&VERSION.to_le_bytes());
        content.extend_from_slice(&[0; 2]);
        content.extend_from_slice(&key.number.to_le_bytes());
        content.extend_from_slice(&key.generation.to_le_bytes());
        content.extend_from_slice(&key.salt.to_le_bytes());
        for count in [
            self.logs.len(),
            entries.len() / 4,
            positions.len() / 4,
            self.times.len(),
        ] {
            content.extend_from_slice(&(count as u32).to_le_bytes());
        }
        content.extend_from_slice(&key.end.to_le_bytes());
        content.extend_from_slice(&(bytes as u64).to_le_bytes());
        content.extend_from_slice(&[0; 8]);
        for part in [&logs, &entries, &positions] {
            content.extend_from_slice(part);
        }
        for (offset, time) in &self.times {
            content.extend_from_slice(&offset.to_le_bytes());
            content.extend_from_slice(&time.to_le_bytes());
        }
        let mut file = Vec::with_capacity(content.len() / CONTENT_BYTES * BLOCK_BYTES + BLOCK_BYTES);
        for block in content.chunks(CONTENT_BYTES) {
            let start = file.len();
            file.extend_from_slice(block);
            file.resize(start + CONTENT_BYTES, 0);
            let crc = crc32fast::hash(file.get(start..).unwrap_or_default());
            file.extend_from_slice(&crc.to_le_bytes());
        }
        Ok(file)
    }
}

/// Writes the bytes of a sidecar aside, in slices, syncs and names them; replaces an older one. `pace` is called between
/// slices of 1 MiB and may wait there.
///
/// # Errors
/// [`Error::Io`]; an older file is untouched then.
pub fn write(disk: &dyn Disk, path: &Path, bytes: &[u8], pace: &dyn Fn()) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    let aside = std::path::PathBuf::from(aside);
    let written = || -> io::Result<()> {
        match disk.unlink(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.create(&aside)?;
        let mut at = 0;
        for (number, slice) in bytes.chunks(1 << 20).enumerate() {
            file.write_at(slice, at)?;
            at += slice.len() as u64;
            if number % 4 == 3 {
                file.sync_data()?;
            }
            pace();
        }
        file.sync_all()?;
        disk.rename(&aside, path)
    };
    written().map_err(|error| {
        // Should this fail too, the next writer of the name removes it.
        drop(disk.unlink(&aside));
        Error::Io(format!("writing `{}` failed: {error}", path.display()))
    })
}

type Block = Arc<[u8]>;

/// Checked blocks of all sidecars, those used lately.
///
/// Two generations: what is used moves to the young one; when that has half of the room, it becomes the old one and
/// what was old is forgotten. So a scan through everything costs at most the old half.
pub struct BlockCache {
    blocks_max: usize,
    files: AtomicU64,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: FxHashMap<(u64, u32), Block>,
    old: FxHashMap<(u64, u32), Block>,
}

impl BlockCache {
    /// A cache of at most so many bytes.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            blocks_max: (bytes_max / BLOCK_BYTES).max(2),
            files: AtomicU64::new(0),
            generations: Mutex::default(),
        })
    }

    fn get(&self, key: (u64, u32)) -> Option<Block> {
        let mut generations = self.generations.lock();
        if let Some(block) = generations.young.get(&key) {
            return Some(Arc::clone(block));
        }
        let block = generations.old.remove(&key)?;
        self.insert(&mut generations, key, &block);
        Some(block)
    }

    fn put(&self, key: (u64, u32), block: &Block) {
        self.insert(&mut self.generations.lock(), key, block);
    }

    fn insert(&self, generations: &mut Generations, key: (u64, u32), block: &Block) {
        if generations.young.len() >= self.blocks_max / 2 {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, Arc::clone(block));
    }

    /// Blocks held now.
    #[cfg(test)]
    fn len(&self) -> usize {
        let generations = self.generations.lock();
        generations.young.len() + generations.old.len()
    }
}

/// An open sidecar. Its methods read the disk where the cache does not serve.
pub struct Sidecar {
    file: Arc<dyn DiskFile>,
    name: String,
    cache: Arc<BlockCache>,
    /// The file's number in the cache.
    number: u64,
    key: SegmentKey,
    logs: u32,
    entries: u32,
    positions: u32,
    times: u32,
}

impl Sidecar {
    /// Opens a sidecar and checks that it is whole in length and belongs to the segment.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not there or of no use: make it again. [`Error::Io`] if it cannot be opened.
    pub fn open(disk: &dyn Disk, path: &Path, cache: Arc<BlockCache>, key: SegmentKey) -> Result<Self> {
        let failed = |error: io::Error| Error::Io(format!("opening `{}` failed: {error}", path.display()));
        let name = path
            .file_name()
            .map_or_else(String::new, |name| format!("log/{}", name.to_string_lossy()));
        let file = match disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Damaged {
                    file: name,
                    offset: 0,
                    cause: "it is missing".to_owned(),
                });
            }
            result => result.map_err(failed)?,
        };
        let bytes = file.len().map_err(failed)?;
        let number = cache.files.fetch_add(1, Ordering::Relaxed);
        let mut sidecar = Self {
            file,
            name,
            cache,
            number,
            key,
            logs: 0,
            entries: 0,
            positions: 0,
            times: 0,
        };
        let mut header = [0; HEADER_BYTES as usize];
        sidecar.read(0, &mut header)?;
        let words = |at: usize| number_at(&header, at, 4);
        if words(0) != u64::from(MAGIC) || number_at(&header, 4, 2) != u64::from(VERSION) {
            return Err(sidecar.damaged(0, "it is no sidecar of this version"));
        }
        let found = SegmentKey {
            number: words(8) as u32,
            generation: words(12) as u32,
            salt: number_at(&header, 16, 8),
            end: number_at(&header, 40, 8),
        };
        if found != key {
            return Err(sidecar.damaged(0, "it belongs to another segment"));
        }
        sidecar.logs = words(24) as u32;
        sidecar.entries = words(28) as u32;
        sidecar.positions = words(32) as u32;
        sidecar.times = words(36) as u32;
        let content = sidecar.times_at() + u64::from(sidecar.times) * TIME_BYTES;
        let blocks = content.div_ceil(CONTENT_BYTES as u64);
        if content != number_at(&header, 48, 8) || bytes != blocks * BLOCK_BYTES as u64 {
            return Err(sidecar.damaged(bytes, "its length does not fit its header"));
        }
        Ok(sidecar)
    }

    /// Reads and checks every block, past the cache.
    ///
    /// # Errors
    /// As for reads.
    pub fn verify(&self) -> Result<()> {
        let content = self.times_at() + u64::from(self.times) * TIME_BYTES;
        for block in 0..content.div_ceil(CONTENT_BYTES as u64) {
            self.load(block as u32)?;
        }
        Ok(())
    }

    /// The segment it belongs to.
    pub fn segment(&self) -> SegmentKey {
        self.key
    }

    /// Logs in it.
    pub fn logs(&self) -> u32 {
        self.logs
    }

    fn damaged(&self, offset: u64, cause: &str) -> Error {
        Error::Damaged {
            file: self.name.clone(),
            offset,
            cause: cause.to_owned(),
        }
    }

    fn entries_at(&self) -> u64 {
        HEADER_BYTES + u64::from(self.logs) * LOG_BYTES
    }

    fn positions_at(&self) -> u64 {
        self.entries_at() + u64::from(self.entries) * 4
    }

    fn times_at(&self) -> u64 {
        self.positions_at() + u64::from(self.positions) * 4
    }

    fn load(&self, number: u32) -> Result<Block> {
        let mut block = vec![0; BLOCK_BYTES];
        let at = u64::from(number) * BLOCK_BYTES as u64;
        let read = self
            .file
            .read_at(&mut block, at)
            .map_err(|error| self.damaged(at, &format!("it cannot be read: {error}")))?;
        let (content, crc) = block.split_at(CONTENT_BYTES);
        if read < BLOCK_BYTES || crc != crc32fast::hash(content).to_le_bytes() {
            return Err(self.damaged(at, "a block does not verify"));
        }
        block.truncate(CONTENT_BYTES);
        Ok(block.into())
    }

    /// Copies content from a place on.
    fn read(&self, mut at: u64, mut into: &mut [u8]) -> Result<()> {
        while !into.is_empty() {
            let number = (at / CONTENT_BYTES as u64) as u32;
            let start = (at % CONTENT_BYTES as u64) as usize;
            let key = (self.number, number);
            let block = if let Some(block) = self.cache.get(key) {
                block
            } else {
                let block = self.load(number)?;
                self.cache.put(key, &block);
                block
            };
            let from = block.get(start..).unwrap_or_default();
            let count = from.len().min(into.len());
            let (head, rest) = into.split_at_mut(count);
            head.copy_from_slice(from.get(..count).unwrap_or_default());
            into = rest;
            at += count as u64;
        }
        Ok(())
    }

    fn u32_at(&self, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The log at a place in the order of numbers.
    ///
    /// # Errors
    /// As for every method that reads: [`Error::Io`] or [`Error::Damaged`].
    pub fn part_at(&self, index: u32) -> Result<LogPart> {
        let mut bytes = [0; LOG_BYTES as usize];
        self.read(HEADER_BYTES + u64::from(index) * LOG_BYTES, &mut bytes)?;
        let words = |at: usize| number_at(&bytes, at, 4) as u32;
        let part = LogPart {
            log: LogId(number_at(&bytes, 0, 8)),
            first: Offset(number_at(&bytes, 8, 8)),
            bytes: number_at(&bytes, 16, 8),
            count: words(24),
            entry: words(28),
            positions: words(32),
            link: Link {
                previous: words(36),
                jump: words(40),
                depth: words(44),
            },
        };
        let fits = |start: u32, all: u32| start.checked_add(part.count).is_some_and(|end| end <= all);
        let gaps_fit = part.positions == NO_POSITIONS || fits(part.positions, self.positions);
        if index >= self.logs || part.count == 0 || !fits(part.entry, self.entries) || !gaps_fit {
            return Err(self.damaged(0, "a log in it points outside"));
        }
        Ok(part)
    }

    /// What it says about a log; `None` if the segment holds no record of it.
    ///
    /// # Errors
    /// See [`Sidecar::part_at`].
    pub fn part(&self, log: LogId) -> Result<Option<LogPart>> {
        let index = partition(self.logs, |index| {
            let mut id = [0; 8];
            self.read(HEADER_BYTES + u64::from(index) * LOG_BYTES, &mut id)?;
            Ok(u64::from_le_bytes(id) < log.0)
        })?;
        if index == self.logs {
            return Ok(None);
        }
        Ok(Some(self.part_at(index)?).filter(|part| part.log == log))
    }

    fn position(&self, part: &LogPart, index: u32) -> Result<Offset> {
        if part.positions == NO_POSITIONS {
            return Ok(Offset(part.first.0 + u64::from(index)));
        }
        let relative = self.u32_at(self.positions_at() + u64::from(part.positions + index) * 4)?;
        Ok(Offset(part.first.0 + u64::from(relative)))
    }

    fn offset(&self, part: &LogPart, index: u32) -> Result<u32> {
        self.u32_at(self.entries_at() + u64::from(part.entry + index) * 4)
    }

    /// A record of a log by its number in the segment; `None` behind the last.
    ///
    /// # Errors
    /// See [`Sidecar::part_at`].
    pub fn place(&self, part: &LogPart, index: u32) -> Result<Option<Place>> {
        if index >= part.count {
            return Ok(None);
        }
        Ok(Some(Place {
            position: self.position(part, index)?,
            offset: self.offset(part, index)?,
        }))
    }

    /// Number of the first record of the log at or behind a position; the log's count if there is none.
    ///
    /// # Errors
    /// See [`Sidecar::part_at`].
    pub fn at_position(&self, part: &LogPart, position: Offset) -> Result<u32> {
        if part.positions == NO_POSITIONS {
            let relative = position.0.saturating_sub(part.first.0);
            return Ok(u32::try_from(relative).unwrap_or(u32::MAX).min(part.count));
        }
        partition(part.count, |index| Ok(self.position(part, index)? < position))
    }

    /// Number of the first record of the log at or behind an offset in the segment; the log's count if there is none.
    ///
    /// # Errors
    /// See [`Sidecar::part_at`].
    pub fn at_offset(&self, part: &LogPart, offset: u32) -> Result<u32> {
        partition(part.count, |index| Ok(self.offset(part, index)? < offset))
    }

    /// Appends up to `count` records of a log, from a number on, in order.
    ///
    /// # Errors
    /// See [`Sidecar::part_at`].
    pub fn places(&self, part: &LogPart, from: u32, count: u32, into: &mut Vec<Place>) -> Result<()> {
        for index in from..part.count.min(from.saturating_add(count)) {
            into.extend(self.place(part, index)?);
        }
        Ok(())
    }

    /// Offset of a batch before which no record has this time or a later one; `None` if no record of the segment has,
    /// and none before it. The records from there on decide.
    ///
    /// # Errors
    /// See [`Sidecar::part_at`].
    pub fn from_time(&self, time: i64) -> Result<Option<u32>> {
        let at = |index: u32| self.times_at() + u64::from(index) * TIME_BYTES;
        let index = partition(self.times, |index| {
            let mut highest = [0; 8];
            self.read(at(index) + 4, &mut highest)?;
            Ok(i64::from_le_bytes(highest) < time)
        })?;
        if index == self.times {
            return Ok(None);
        }
        self.u32_at(at(index)).map(Some)
    }
}

/// A little-endian number of `width` bytes, at most 8.
fn number_at(bytes: &[u8], at: usize, width: usize) -> u64 {
    let bytes = bytes.get(at..at + width).unwrap_or_default();
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The first of `count` for which `before` says no, when it says yes up to somewhere and no from there on.
fn partition(count: u32, mut before: impl FnMut(u32) -> Result<bool>) -> Result<u32> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The link of a new part of a log whose last part is in segment `last`. `probe` gives the part of the log in a segment
/// if that segment still exists.
///
/// # Errors
/// What `probe` fails with.
pub fn link_behind(last: u32, probe: &mut dyn FnMut(u32) -> Result<Option<LogPart>>) -> Result<Link> {
    if last == NO_SEGMENT {
        return Ok(Link::default());
    }
    let mut link = Link {
        previous: last,
        jump: last,
        depth: 1,
    };
    let Some(previous) = probe(last)? else {
        return Ok(link);
    };
    link.depth = previous.link.depth + 1;
    if previous.link.jump == NO_SEGMENT {
        return Ok(link);
    }
    // Two jumps of equal length in a row become one. Where a segment is gone nothing before it is wanted any more.
    if let Some(middle) = probe(previous.link.jump)?
        && middle.link.jump != NO_SEGMENT
        && let Some(far) = probe(middle.link.jump)?
        && previous.link.depth.wrapping_sub(middle.link.depth) == middle.link.depth.wrapping_sub(far.link.depth)
    {
        link.jump = middle.link.jump;
    }
    Ok(link)
}

/// Where to look for a position of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The newest segment whose first position of the log is not behind the wanted one; if there is none, the oldest.
    pub segment: u32,
    /// The next newer segment that holds records of the log, if the search went past it: there the position is if it
    /// lies behind the last one of `segment`. [`NO_SEGMENT`] if `segment` is where the search began.
    pub newer: u32,
}

/// Finds the segment for a position, from the log's last sealed segment on backwards. `probe` gives the part of the log
/// in a segment if that segment still exists; `None` if the last one does not.
///
/// # Errors
/// What `probe` fails with.
pub fn seek(
    last: u32,
    position: Offset,
    probe: &mut dyn FnMut(u32) -> Result<Option<LogPart>>,
) -> Result<Option<Found>> {
    let mut found = Found {
        segment: last,
        newer: NO_SEGMENT,
    };
    let Some(mut part) = probe(last)? else {
        return Ok(None);
    };
    while part.first > position {
        let Link { previous, jump, .. } = part.link;
        if jump != NO_SEGMENT
            && jump != previous
            && let Some(far) = probe(jump)?
            && far.first > position
        {
            found = Found {
                segment: jump,
                newer: NO_SEGMENT,
            };
            part = far;
            continue;
        }
        if previous == NO_SEGMENT {
            break;
        }
        let Some(before) = probe(previous)? else {
            break;
        };
        found.newer = found.segment;
        found.segment = previous;
        part = before;
    }
    Ok(Some(found))
}

#[cfg(test)]
#[path = "sidecar_tests.rs"]
mod tests;
