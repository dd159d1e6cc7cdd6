//! One snapshot file: its bytes, written in order and read in order.
//!
//! ```text
//! header, 48 B    magic u32 | version u16 | kind u16 (0 base, 1 delta) | mark u64 | previous mark u64 |
//!                 incarnation u64 | reserved 12 B | crc u32 over the 44 B before it
//! items           length u32 (of kind and payload) | crc u32 over kind and payload | kind u8 | payload
//!   1 head        mark u64 | next log u64 | next batch u64 | incarnation u64
//!   2 segment     number u32 | generation u32 | first u64 | end u64 | first time i64 | last time i64 |
//!                 live bytes u64 | size u64
//!   3 once-key    key 16 B | log u64 | offset u64 | mark u64
//!   4 log         id u64 | sequence u64 | class u16 | first u64 | next u64 | records u64 | bytes u64 |
//!                 newest time i64 | newest mark u64 | last segment u32 | depth u32 | name
//!   5 log removed id u64
//!   6 row         table u8 | mark u64 | key length u32 | key | row
//!   7 row deleted table u8 | mark u64 | key length u32 | key
//! footer, 56 B    magic u32 | crc u32 over the 48 B behind it | rows u64 | logs u64 | once-keys u64 | segments u64 |
//!                 bytes before the footer u64 | crc u32 over them | reserved u32
//! ```
//!
//! **Invariants**
//! - Items come by kind in the order above, where 4 and 5 are one ascending sequence of log numbers and 6 and 7 one
//!   ascending sequence of (table, key).
//! - Integers are little-endian; a base holds no items 5 and 7.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32fast::Hasher;

use crate::store::local::disk::{Disk, DiskFile};
use crate::store::{Error, LogId, Mark, Offset, OnceKey, Result, RetentionClass, SequenceId, Table};

const MAGIC: u32 = 0x5053_5645; // "EVSP"
const FOOTER_MAGIC: u32 = 0x4653_5645; // "EVSF"
const VERSION: u16 = 1;
/// Bytes of the header.
pub(super) const HEADER_BYTES: u64 = 48;
/// Bytes of the footer.
pub(super) const FOOTER_BYTES: u64 = 56;
const SLICE_BYTES: usize = 1 << 20;
const SYNC_BYTES: u64 = 4 << 20;

/// Whether a file stands alone or on the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Everything.
    Base,
    /// What changed since the previous file.
    Delta,
}

/// What a snapshot stands for as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Everything before this mark is in the snapshot, nothing behind it.
    pub mark: Mark,
    /// The number that the next log gets.
    pub next_log: u64,
    /// The number of the batch at the mark.
    pub next_batch: u64,
    /// The incarnation that wrote it.
    pub incarnation: u64,
}

/// A segment as the table of segments knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentState {
    /// Its number.
    pub number: u32,
    /// How often it was cleaned.
    pub generation: u32,
    /// The first LSN in it.
    pub first: u64,
    /// Behind the last LSN in it.
    pub end: u64,
    /// Lowest record time, ms since 1970 UTC.
    pub first_time: i64,
    /// Highest record time.
    pub last_time: i64,
    /// Bytes of records that are still wanted.
    pub live_bytes: u64,
    /// Bytes of the file.
    pub size: u64,
}

/// A held once-key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OnceState {
    /// The key.
    pub key: OnceKey,
    /// The log of the record it guards.
    pub log: LogId,
    /// The record's position.
    pub offset: Offset,
    /// The record's mark.
    pub mark: Mark,
}

/// A log as the store knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogState {
    /// Its number.
    pub id: LogId,
    /// Its name.
    pub name: Vec<u8>,
    /// Whose numbering it uses.
    pub sequence: SequenceId,
    /// Its retention class.
    pub class: RetentionClass,
    /// First stored position.
    pub first: Offset,
    /// What the next record gets at the least.
    pub next: Offset,
    /// Stored records.
    pub records: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Time of the newest record, ms since 1970 UTC.
    pub newest_time: i64,
    /// Mark of the newest record.
    pub newest_mark: Mark,
    /// The last sealed segment that holds records of it.
    pub last_segment: u32,
    /// Its depth in that segment's sidecar.
    pub depth: u32,
}

/// What the items of a file say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Item<'a> {
    Head(Head),
    Segment(SegmentState),
    Once(OnceState),
    /// The bytes behind the number, see [`LogState::decode`].
    Log(LogId, Option<&'a [u8]>),
    Row(RowItem<'a>),
}

/// A row, or its deletion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RowItem<'a> {
    pub(super) table: Table,
    pub(super) mark: Mark,
    pub(super) key: &'a [u8],
    pub(super) row: Option<&'a [u8]>,
}

/// Reads fixed-width fields off the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn u8(&mut self) -> Option<u8> {
        let (value, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*value)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (value, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*value)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (value, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(value)
    }

    fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

/// Bytes of a log behind its number, without its name.
const LOG_BYTES_MIN: usize = 66;

impl LogState {
    /// Appends everything but the number.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.sequence.0.to_le_bytes());
        into.extend_from_slice(&self.class.0.to_le_bytes());
        for field in [self.first.0, self.next.0, self.records, self.bytes] {
            into.extend_from_slice(&field.to_le_bytes());
        }
        into.extend_from_slice(&self.newest_time.to_le_bytes());
        into.extend_from_slice(&self.newest_mark.raw().to_le_bytes());
        into.extend_from_slice(&self.last_segment.to_le_bytes());
        into.extend_from_slice(&self.depth.to_le_bytes());
        into.extend_from_slice(&self.name);
    }

    /// Reads back what [`LogState::encode`] wrote.
    pub(super) fn decode(id: LogId, bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        Some(Self {
            id,
            sequence: SequenceId(fields.u64()?),
            class: RetentionClass(fields.u16()?),
            first: Offset(fields.u64()?),
            next: Offset(fields.u64()?),
            records: fields.u64()?,
            bytes: fields.u64()?,
            newest_time: fields.i64()?,
            newest_mark: Mark::new(fields.u64()?),
            last_segment: fields.u32()?,
            depth: fields.u32()?,
            name: fields.0.to_vec(),
        })
    }
}

impl<'a> Item<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (kind, payload) = bytes.split_first()?;
        let mut fields = Fields(payload);
        match kind {
            1 => {
                let head = Head {
                    mark: Mark::new(fields.u64()?),
                    next_log: fields.u64()?,
                    next_batch: fields.u64()?,
                    incarnation: fields.u64()?,
                };
                fields.end(Item::Head(head))
            }
            2 => {
                let segment = SegmentState {
                    number: fields.u32()?,
                    generation: fields.u32()?,
                    first: fields.u64()?,
                    end: fields.u64()?,
                    first_time: fields.i64()?,
                    last_time: fields.i64()?,
                    live_bytes: fields.u64()?,
                    size: fields.u64()?,
                };
                fields.end(Item::Segment(segment))
            }
            3 => {
                let once = OnceState {
                    key: OnceKey::from_bytes(fields.bytes(16)?)?,
                    log: LogId(fields.u64()?),
                    offset: Offset(fields.u64()?),
                    mark: Mark::new(fields.u64()?),
                };
                fields.end(Item::Once(once))
            }
            4 => {
                let id = LogId(fields.u64()?);
                (fields.0.len() >= LOG_BYTES_MIN).then_some(Item::Log(id, Some(fields.0)))
            }
            5 => {
                let id = LogId(fields.u64()?);
                fields.end(Item::Log(id, None))
            }
            6 | 7 => {
                let table = Table(fields.u8()?);
                let mark = Mark::new(fields.u64()?);
                let length = fields.u32()? as usize;
                let key = fields.bytes(length)?;
                let row = (*kind == 6).then_some(fields.0);
                let rest_fits = row.is_some() || fields.0.is_empty();
                rest_fits.then_some(Item::Row(RowItem { table, mark, key, row }))
            }
            _ => None,
        }
    }

    fn encode(&self, into: &mut Vec<u8>) -> io::Result<()> {
        let start = into.len();
        into.extend_from_slice(&[0; 8]);
        match self {
            Item::Head(head) => {
                into.push(1);
                for field in [head.mark.raw(), head.next_log, head.next_batch, head.incarnation] {
                    into.extend_from_slice(&field.to_le_bytes());
                }
            }
            Item::Segment(segment) => {
                into.push(2);
                into.extend_from_slice(&segment.number.to_le_bytes());
                into.extend_from_slice(&segment.generation.to_le_bytes());
                into.extend_from_slice(&segment.first.to_le_bytes());
                into.extend_from_slice(&segment.end.to_le_bytes());
                into.extend_from_slice(&segment.first_time.to_le_bytes());
                into.extend_from_slice(&segment.last_time.to_le_bytes());
                into.extend_from_slice(&segment.live_bytes.to_le_bytes());
                into.extend_from_slice(&segment.size.to_le_bytes());
            }
            Item::Once(once) => {
                into.push(3);
                into.extend_from_slice(&once.key.to_bytes());
                for field in [once.log.0, once.offset.0, once.mark.raw()] {
                    into.extend_from_slice(&field.to_le_bytes());
                }
            }
            Item::Log(id, Some(bytes)) => {
                into.push(4);
                into.extend_from_slice(&id.0.to_le_bytes());
                into.extend_from_slice(bytes);
            }
            Item::Log(id, None) => {
                into.push(5);
                into.extend_from_slice(&id.0.to_le_bytes());
            }
            Item::Row(item) => {
                into.push(if item.row.is_some() { 6 } else { 7 });
                into.push(item.table.0);
                into.extend_from_slice(&item.mark.raw().to_le_bytes());
                let length = u32::try_from(item.key.len()).map_err(io::Error::other)?;
                into.extend_from_slice(&length.to_le_bytes());
                into.extend_from_slice(item.key);
                into.extend_from_slice(item.row.unwrap_or_default());
            }
        }
        let (prefix, body) = into.get_mut(start..).unwrap_or_default().split_at_mut(8);
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let (length_at, crc_at) = prefix.split_at_mut(4);
        length_at.copy_from_slice(&length.to_le_bytes());
        crc_at.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        Ok(())
    }
}

/// Says which file of a store an error is about.
pub(super) fn short(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| format!("snapshots/{}", name.to_string_lossy()))
}

fn failed(path: &Path, doing: &str, error: &io::Error) -> Error {
    Error::Io(format!("{doing} `{}` failed: {error}", path.display()))
}

fn damaged(path: &Path, offset: u64, cause: &str) -> Error {
    Error::Damaged {
        file: short(path),
        offset,
        cause: cause.to_owned(),
    }
}

/// Writes a file aside, slice by slice; it gets its name with [`Writer::finish`].
pub(super) struct Writer<'a> {
    disk: &'a dyn Disk,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    aside: PathBuf,
    pace: &'a dyn Fn(),
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
    hasher: Hasher,
    counts: [u64; 4],
}

impl<'a> Writer<'a> {
    /// `previous`: the mark of the file a delta stands on; a base has none. `pace` is called between slices and may
    /// wait there.
    pub(super) fn create(
        disk: &'a dyn Disk,
        path: &Path,
        previous: Option<Mark>,
        head: &Head,
        pace: &'a dyn Fn(),
    ) -> Result<Self> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".tmp");
        let aside = PathBuf::from(aside);
        // A crash may have left one; nobody else writes here.
        if let Err(error) = disk.unlink(&aside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(&aside, "removing", &error));
        }
        let file = disk.create(&aside).map_err(|error| failed(&aside, "making", &error))?;
        let mut buffer = Vec::with_capacity(SLICE_BYTES + (64 << 10));
        buffer.extend_from_slice(&MAGIC.to_le_bytes());
        buffer.extend_from_slice(&VERSION.to_le_bytes());
        buffer.extend_from_slice(&u16::from(previous.is_some()).to_le_bytes());
        buffer.extend_from_slice(&head.mark.to_bytes());
        buffer.extend_from_slice(&previous.unwrap_or_default().to_bytes());
        buffer.extend_from_slice(&head.incarnation.to_le_bytes());
        buffer.extend_from_slice(&[0; 12]);
        let crc = crc32fast::hash(&buffer);
        buffer.extend_from_slice(&crc.to_le_bytes());
        let mut writer = Self {
            disk,
            file,
            path: path.to_path_buf(),
            aside,
            pace,
            buffer,
            written: 0,
            synced: 0,
            hasher: Hasher::new(),
            counts: [0; 4],
        };
        writer.push(&Item::Head(*head))?;
        Ok(writer)
    }

    pub(super) fn push(&mut self, item: &Item<'_>) -> Result<()> {
        let [rows, logs, once, segments] = &mut self.counts;
        match item {
            Item::Head(_) => {}
            Item::Segment(_) => *segments += 1,
            Item::Once(_) => *once += 1,
            Item::Log(..) => *logs += 1,
            Item::Row(_) => *rows += 1,
        }
        item.encode(&mut self.buffer).map_err(|error| self.failed(&error))?;
        if self.buffer.len() >= SLICE_BYTES {
            self.flush()?;
            (self.pace)();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.hasher.update(&self.buffer);
        self.write_out()
    }

    fn write_out(&mut self) -> Result<()> {
        self.file
            .write_at(&self.buffer, self.written)
            .map_err(|error| self.failed(&error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync_data().map_err(|error| self.failed(&error))?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Footer, sync, name; returns the bytes of the file.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.flush()?;
        let mut footer = Vec::with_capacity(48);
        for count in self.counts {
            footer.extend_from_slice(&count.to_le_bytes());
        }
        footer.extend_from_slice(&self.written.to_le_bytes());
        footer.extend_from_slice(&self.hasher.clone().finalize().to_le_bytes());
        footer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
        self.buffer.extend_from_slice(&crc32fast::hash(&footer).to_le_bytes());
        self.buffer.extend_from_slice(&footer);
        self.write_out()?;
        self.file.sync_all().map_err(|error| self.failed(&error))?;
        self.disk
            .rename(&self.aside, &self.path)
            .map_err(|error| self.failed(&error))?;
        Ok(self.written)
    }

    /// The file aside is of no use; should removing it fail too, the next writer of the name removes it.
    fn failed(&self, error: &io::Error) -> Error {
        drop(self.disk.unlink(&self.aside));
        failed(&self.aside, "writing", error)
    }
}

/// What the header of a verified file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Verified {
    pub(super) kind: Kind,
    pub(super) mark: Mark,
    pub(super) previous: Mark,
    pub(super) bytes: u64,
}

fn open(disk: &dyn Disk, path: &Path) -> Result<(Arc<dyn DiskFile>, u64)> {
    let file = disk.open(path).map_err(|error| failed(path, "opening", &error))?;
    let bytes = file.len().map_err(|error| failed(path, "opening", &error))?;
    if bytes < HEADER_BYTES + FOOTER_BYTES {
        return Err(damaged(path, bytes, "the file is cut short"));
    }
    Ok((file, bytes))
}

fn read_exact(file: &dyn DiskFile, path: &Path, into: &mut [u8], offset: u64) -> Result<()> {
    let read = file
        .read_at(into, offset)
        .map_err(|error| failed(path, &format!("reading at byte {offset} of"), &error))?;
    if read < into.len() {
        return Err(damaged(path, offset + read as u64, "the file is cut short"));
    }
    Ok(())
}

/// Checks header, footer and the sum over everything between.
pub(super) fn verify(disk: &dyn Disk, path: &Path) -> Result<Verified> {
    let (file, bytes) = open(disk, path)?;
    let content = bytes - FOOTER_BYTES;
    let mut footer = [0; FOOTER_BYTES as usize];
    read_exact(&*file, path, &mut footer, content)?;
    let expected =
        parse_footer(&footer, content).ok_or_else(|| damaged(path, content, "the footer does not verify"))?;
    let mut hasher = Hasher::new();
    let mut slice = vec![0; SLICE_BYTES];
    let mut at = 0;
    let mut verified = None;
    while at < content {
        let count = slice.len().min(usize::try_from(content - at).unwrap_or(usize::MAX));
        let part = slice.get_mut(..count).unwrap_or_default();
        read_exact(&*file, path, part, at)?;
        if at == 0 {
            verified = parse_header(part, bytes);
        }
        hasher.update(part);
        at += count as u64;
    }
    if hasher.finalize() != expected {
        let cause = "the sum over the file does not match its footer";
        return Err(damaged(path, 0, cause));
    }
    verified.ok_or_else(|| damaged(path, 0, "the header does not verify, or a newer version wrote it"))
}

fn parse_footer(footer: &[u8], content: u64) -> Option<u32> {
    let mut fields = Fields(footer);
    let (magic, crc) = (fields.u32()?, fields.u32()?);
    if magic != FOOTER_MAGIC || crc != crc32fast::hash(fields.0) {
        return None;
    }
    fields.bytes(32)?;
    (fields.u64()? == content).then_some(())?;
    fields.u32()
}

fn parse_header(bytes: &[u8], file_bytes: u64) -> Option<Verified> {
    let (header, _) = bytes.split_at_checked(HEADER_BYTES as usize)?;
    let (covered, crc) = header.split_last_chunk::<4>()?;
    let mut fields = Fields(covered);
    let right = fields.u32()? == MAGIC && crc32fast::hash(covered) == u32::from_le_bytes(*crc);
    if !right || fields.u16()? != VERSION {
        return None;
    }
    let kind = match fields.u16()? {
        0 => Kind::Base,
        1 => Kind::Delta,
        _ => return None,
    };
    Some(Verified {
        kind,
        mark: Mark::new(fields.u64()?),
        previous: Mark::new(fields.u64()?),
        bytes: file_bytes,
    })
}

/// Reads the items of a file in order. The caller has verified the file.
pub(super) struct Reader {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Where in the buffer the next item begins.
    place: usize,
    /// Where in the file the buffer ends.
    read: u64,
    content: u64,
    current: (usize, usize),
}

impl Reader {
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let (file, bytes) = open(disk, path)?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            buffer: Vec::new(),
            place: 0,
            read: HEADER_BYTES,
            content: bytes - FOOTER_BYTES,
            current: (0, 0),
        })
    }

    fn position(&self) -> u64 {
        self.read - (self.buffer.len() - self.place) as u64
    }

    /// Has `count` bytes of the next item in the buffer.
    fn fill(&mut self, count: usize) -> Result<()> {
        let have = self.buffer.len() - self.place;
        if have >= count {
            return Ok(());
        }
        let left = usize::try_from(self.content - self.read).unwrap_or(usize::MAX);
        if count - have > left {
            return Err(damaged(&self.path, self.position(), "an item is longer than the file"));
        }
        self.buffer.drain(..self.place);
        self.place = 0;
        let more = (count - have).max(SLICE_BYTES / 4).min(left);
        self.buffer.resize(have + more, 0);
        let into = self.buffer.get_mut(have..).unwrap_or_default();
        read_exact(&*self.file, &self.path, into, self.read)?;
        self.read += more as u64;
        Ok(())
    }

    /// Moves to the next item; false at the end.
    pub(super) fn advance(&mut self) -> Result<bool> {
        if self.position() >= self.content {
            return Ok(false);
        }
        self.fill(8)?;
        let prefix = Fields(self.buffer.get(self.place..).unwrap_or_default())
            .array::<8>()
            .unwrap_or_default();
        let mut prefix = Fields(&prefix);
        let (length, crc) = (prefix.u32().unwrap_or_default() as usize, prefix.u32());
        self.fill(8 + length)?;
        let start = self.place + 8;
        let item = self.buffer.get(start..start + length).unwrap_or_default();
        if crc != Some(crc32fast::hash(item)) || Item::parse(item).is_none() {
            return Err(damaged(&self.path, self.position(), "an item does not verify"));
        }
        self.current = (start, start + length);
        self.place = start + length;
        Ok(true)
    }

    /// The item the reader stands on.
    pub(super) fn item(&self) -> Option<Item<'_>> {
        Item::parse(self.buffer.get(self.current.0..self.current.1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> LogState {
        LogState {
            id: LogId(7),
            name: b"plant/line1".to_vec(),
            sequence: SequenceId(3),
            class: RetentionClass(2),
            first: Offset(5),
            next: Offset(90),
            records: 80,
            bytes: 4_000,
            newest_time: -5,
            newest_mark: Mark::new(77),
            last_segment: 4,
            depth: 2,
        }
    }

    fn items(log: &[u8]) -> Vec<Item<'_>> {
        let row = |table, key, row| {
            Item::Row(RowItem {
                table: Table(table),
                mark: Mark::new(9),
                key,
                row,
            })
        };
        vec![
            Item::Head(Head {
                mark: Mark::new(1),
                next_log: 2,
                next_batch: 3,
                incarnation: 4,
            }),
            Item::Segment(SegmentState {
                number: 1,
                generation: 2,
                first: 3,
                end: 4,
                first_time: -5,
                last_time: 6,
                live_bytes: 7,
                size: 8,
            }),
            Item::Once(OnceState {
                key: OnceKey {
                    owner: 1,
                    generation: 2,
                    id: 3,
                },
                log: LogId(4),
                offset: Offset(5),
                mark: Mark::new(6),
            }),
            Item::Log(LogId(7), Some(log)),
            Item::Log(LogId(8), None),
            row(1, b"key", Some(b"row")),
            row(1, b"", Some(b"")),
            row(255, b"gone", None),
        ]
    }

    #[test]
    fn an_item_reads_back_as_it_was_written_and_no_prefix_of_it_does() {
        let mut state = Vec::new();
        log().encode(&mut state);
        assert_eq!(LogState::decode(LogId(7), &state), Some(log()));
        for item in items(&state) {
            let mut bytes = Vec::new();
            item.encode(&mut bytes).unwrap();
            let body = &bytes[8..];
            assert_eq!(Item::parse(body), Some(item.clone()));
            for length in 0..body.len() {
                // A name or a row may end anywhere: there only the length and the sum tell.
                assert_ne!(Item::parse(&body[..length]), Some(item.clone()));
            }
            assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize, body.len());
        }
    }
}
