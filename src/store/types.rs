//! The words of the seam: ids, marks, commits, what the feed and reads hand out. Plain data, the same for every
//! backend; how it reaches a disk is the backend's business.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// A log: the records of one name, numbered by [`Offset`]. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogId(pub u64);

/// A position in a log: strictly increasing, never reused, the first is 1; not necessarily contiguous.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The first position a log can have.
    pub const FIRST: Self = Self(1);

    /// The smallest position behind this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Which holder of an owner may write: raised at each change of holder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u64);

/// An opaque point in the store's history. Later marks are greater; nothing else may be read out of one.
///
/// A mark has a byte form for rows and tokens. A record with mark `m` is *behind* `x` if `m >= x` and *before* it
/// otherwise, so half-open ranges of marks need no arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mark(u64);

impl Mark {
    /// Before everything.
    pub const START: Self = Self(0);
    /// Behind everything.
    pub const END: Self = Self(u64::MAX);

    /// Made by backends only.
    pub(in crate::store) const fn new(raw: u64) -> Self {
        Self(raw)
    }

    pub(in crate::store) const fn raw(self) -> u64 {
        self.0
    }

    /// The smallest mark that is greater than this one: "everything up to and including this".
    #[must_use]
    pub const fn just_behind(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The byte form, little-endian.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// Reads the byte form back.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }
}

/// A numbering that several logs may share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SequenceId(pub u64);

/// Whose first offsets move together; 0 is the default class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RetentionClass(pub u16);

/// A table of rows, by its stable tag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Table(pub u8);

/// At most one live record exists per key; the key lives until it is released.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OnceKey {
    /// Whose key it is.
    pub owner: u64,
    /// Raised when all keys of the owner lose their meaning at once.
    pub generation: u32,
    /// The owner's number for it.
    pub id: u32,
}

impl OnceKey {
    /// The byte form: owner, generation, id, little-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (owner, rest) = bytes.split_at_mut(8);
        owner.copy_from_slice(&self.owner.to_le_bytes());
        let (generation, id) = rest.split_at_mut(4);
        generation.copy_from_slice(&self.generation.to_le_bytes());
        id.copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// Reads the byte form back; `None` if it is not 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (owner, rest) = bytes.split_first_chunk::<8>()?;
        let (generation, rest) = rest.split_first_chunk::<4>()?;
        Some(Self {
            owner: u64::from_le_bytes(*owner),
            generation: u32::from_le_bytes(*generation),
            id: u32::from_le_bytes(rest.try_into().ok()?),
        })
    }
}

/// How a commit may be split by a backend that cannot write it at one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Records of logs, each complete by itself: a run of publishes.
    A,
    /// Rows and records of one owner, fenced by its lease.
    B,
    /// Everything else.
    C,
}

/// Who may write for an owner; local leases are immediate and endless.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The owner, as the caller numbers owners.
    pub owner: u64,
    /// The holder's epoch.
    pub epoch: Epoch,
    /// How long it lasts without renewal; `None` is for ever.
    pub ttl: Option<Duration>,
}

/// What one entry of a commit or a batch is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryKind {
    /// A record of a log.
    Data,
    /// A row was put.
    Row,
    /// A row was deleted.
    RowDeleted,
    /// A log came into being; its body is a [`LogCreated`].
    LogCreated,
    /// A log ended: its name and all its records.
    LogRemoved,
    /// The first offset of a log moved; the entry's position is the new first.
    Trim,
    /// The first offsets of a class moved; the body is class u16, mark u64.
    TrimClass,
    /// The once-key of the data record right before it; the body is the key.
    Once,
    /// A once-key was released; the body is the key.
    Release,
}

/// One entry of a [`Commit`], its body in the commit's arena.
#[derive(Clone, Debug)]
pub struct CommitEntry {
    /// What it is.
    pub kind: EntryKind,
    /// The log, or for rows the table's tag.
    pub log: u64,
    /// Only for [`EntryKind::Trim`]: the new first offset.
    pub position: Offset,
    /// The body's place in the arena.
    pub body: Range<u32>,
    /// CRC32 of the body, computed outside any lock.
    pub body_crc: u32,
    /// The record is not waited for and may pass the feed before it is durable (QoS 0).
    pub early: bool,
}

/// What a caller hands over at once: all of it or none survives a crash, unless its class says that its records stand
/// alone. A commit collects into one arena and allocates nothing per record.
#[derive(Debug)]
pub struct Commit {
    pub(in crate::store) class: Class,
    pub(in crate::store) arena: Vec<u8>,
    pub(in crate::store) entries: Vec<CommitEntry>,
    pub(in crate::store) urgent: bool,
    pub(in crate::store) offsets_wanted: bool,
    pub(in crate::store) fence: Option<Lease>,
}

/// The longest key of a row, in bytes: table 2 (session, filter) needs 8 + 65,535.
pub const ROW_KEY_BYTES_MAX: usize = 1 << 17;

impl Commit {
    /// An empty commit. Callers get theirs, with a recycled arena, from [`super::Store::begin`].
    pub fn new(class: Class) -> Self {
        Self {
            class,
            arena: Vec::new(),
            entries: Vec::new(),
            urgent: true,
            offsets_wanted: false,
            fence: None,
        }
    }

    /// Nobody waits: written with what comes next, at the latest after 20 ms, synced after 1 s.
    pub fn lazy(&mut self) {
        self.urgent = false;
    }

    /// The ticket shall carry the offsets of the data records, in order.
    pub fn want_offsets(&mut self) {
        self.offsets_wanted = true;
    }

    /// Whether nothing was queued.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all bodies so far.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// Entries so far.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Queues one record of `log`, its body given in parts.
    ///
    /// `early`: nobody waits for it, and it may pass the feed before it is durable.
    pub fn append(&mut self, log: LogId, parts: &[&[u8]], early: bool) {
        self.push(EntryKind::Data, log.0, Offset(0), parts, early);
    }

    /// Queues one record under a once-key: if the key is held the record is not stored, and the ticket resolves when
    /// the first one is durable.
    pub fn append_once(&mut self, log: LogId, parts: &[&[u8]], once: OnceKey) {
        self.push(EntryKind::Data, log.0, Offset(0), parts, false);
        self.push(EntryKind::Once, log.0, Offset(0), &[&once.to_bytes()], false);
    }

    /// Queues the release of a once-key; releasing a key that is not held does nothing.
    pub fn release(&mut self, once: OnceKey) {
        self.push(EntryKind::Release, 0, Offset(0), &[&once.to_bytes()], false);
    }

    /// Queues the end of a log: its name and all its records.
    pub fn remove(&mut self, log: LogId) {
        self.push(EntryKind::LogRemoved, log.0, Offset(0), &[], false);
    }

    /// Queues a move of the first offset forward; idempotent, a move back does nothing.
    pub fn trim(&mut self, log: LogId, first: Offset) {
        self.push(EntryKind::Trim, log.0, first, &[], false);
    }

    /// The same for all logs of a retention class: what was accepted before the mark goes.
    pub fn trim_class(&mut self, class: RetentionClass, before: Mark) {
        self.push(
            EntryKind::TrimClass,
            0,
            Offset(0),
            &[&class.0.to_le_bytes(), &before.to_bytes()],
            false,
        );
    }

    /// Queues a row: absolute and idempotent, the newest wins.
    pub fn put(&mut self, table: Table, key: &[u8], row: &[u8]) {
        debug_assert!(key.len() < ROW_KEY_BYTES_MAX);
        let key_bytes = u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.push(
            EntryKind::Row,
            u64::from(table.0),
            Offset(0),
            &[&key_bytes, key, row],
            false,
        );
    }

    /// Queues the deletion of a row; deleting what is not there does nothing.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        let key_bytes = u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.push(
            EntryKind::RowDeleted,
            u64::from(table.0),
            Offset(0),
            &[&key_bytes, key],
            false,
        );
    }

    /// Queues the birth of a log. Called by [`super::MessageLog::create`], which reserves the number.
    pub(in crate::store) fn log_created(&mut self, log: LogId, created: &LogCreated<'_>) {
        let [sequence, class] = [
            &created.sequence.0.to_le_bytes()[..],
            &created.class.0.to_le_bytes()[..],
        ];
        self.push(
            EntryKind::LogCreated,
            log.0,
            Offset(0),
            &[sequence, class, created.name],
            false,
        );
    }

    fn push(&mut self, kind: EntryKind, log: u64, position: Offset, parts: &[&[u8]], early: bool) {
        let start = self.arena.len();
        for part in parts {
            self.arena.extend_from_slice(part);
        }
        let body = self.arena.get(start..).unwrap_or_default();
        let body_crc = crc32fast::hash(body);
        let body = start as u32..self.arena.len() as u32;
        self.entries.push(CommitEntry {
            kind,
            log,
            position,
            body,
            body_crc,
            early,
        });
    }

    /// Empties the commit and keeps its memory.
    pub(in crate::store) fn reset(&mut self, class: Class) {
        self.arena.clear();
        self.entries.clear();
        self.class = class;
        self.urgent = true;
        self.offsets_wanted = false;
        self.fence = None;
    }
}

/// Body of [`EntryKind::LogCreated`]: sequence u64, class u16, name to the end, little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogCreated<'a> {
    /// Whose numbering it uses.
    pub sequence: SequenceId,
    /// Its retention class.
    pub class: RetentionClass,
    /// Its name.
    pub name: &'a [u8],
}

impl<'a> LogCreated<'a> {
    /// Reads the body; `None` if it is too short.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (sequence, rest) = body.split_first_chunk::<8>()?;
        let (class, name) = rest.split_first_chunk::<2>()?;
        Some(Self {
            sequence: SequenceId(u64::from_le_bytes(*sequence)),
            class: RetentionClass(u16::from_le_bytes(*class)),
            name,
        })
    }
}

/// Splits the body of a row entry into key and row; `None` if it is malformed.
pub fn parse_row(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = body.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Where a commit stands; resolves through [`super::Store::settled`] or [`super::Store::outcome`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ticket {
    /// The backend's number of the write the commit lies in; 0 is settled since ever.
    pub(in crate::store) write: u64,
    /// Offsets of the data records, in order, if they were asked for. Not to be shown before the ticket is settled.
    pub offsets: Vec<Offset>,
}

/// Somebody the feed's reader can wake: the reader's own numbering.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WaiterId(pub u64);

/// One entry of a [`Batch`].
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// It passed the feed early already: the reader has handed it on.
    pub early: bool,
    /// The log, or for rows the table's tag.
    pub log: LogId,
    /// Position in the log; for rows 0.
    pub position: Offset,
    /// Wall clock at the append, ms since 1970 UTC.
    pub time: i64,
    /// The entry's own mark.
    pub mark: Mark,
    pub(in crate::store) start: u32,
    pub(in crate::store) length: u32,
}

impl Entry {
    /// The table of a row entry.
    pub fn table(&self) -> Table {
        Table(self.log.0 as u8)
    }
}

/// Entries that lie together in the store's order, as the feed hands them out.
#[derive(Default)]
pub struct Batch {
    /// All entries, in order.
    pub entries: Vec<Entry>,
    pub(in crate::store) bytes: Vec<u8>,
    /// Behind every entry of the batch, and not behind any later one.
    pub end: Mark,
    /// Who asked to be woken, each once for every commit it had in here.
    pub waiters: Vec<WaiterId>,
    /// What resolves when the feed's reader is done with the batch.
    pub(in crate::store) write: u64,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("entries", &self.entries.len())
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Batch {
    /// The bytes of an entry.
    pub fn body(&self, entry: &Entry) -> &[u8] {
        let start = entry.start as usize;
        self.bytes.get(start..start + entry.length as usize).unwrap_or_default()
    }

    /// Key and row of a row entry.
    pub fn row(&self, entry: &Entry) -> (&[u8], &[u8]) {
        parse_row(self.body(entry)).unwrap_or_default()
    }

    /// Bytes of memory that it holds.
    pub(in crate::store) fn memory(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Bytes held by the batch.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// How far a read may go, all bounds inclusive of the record that reaches them, so that a read always makes progress.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Records at most.
    pub records: usize,
    /// Stop once so many bytes of bodies were copied.
    pub bytes: usize,
    /// Only records before this mark.
    pub before: Mark,
}

/// One record in a [`ReadBuf`].
#[derive(Clone, Copy, Debug)]
pub struct ReadRecord {
    /// Position in its log.
    pub position: Offset,
    /// Wall clock at the append, ms since 1970 UTC.
    pub time: i64,
    /// The record's mark.
    pub mark: Mark,
    pub(in crate::store) start: usize,
    pub(in crate::store) length: usize,
}

/// What a read copies into; reused by its owner.
#[derive(Default, Debug)]
pub struct ReadBuf {
    /// Records, ascending.
    pub records: Vec<ReadRecord>,
    pub(in crate::store) bytes: Vec<u8>,
}

impl ReadBuf {
    /// The body of a record of this buffer.
    pub fn body(&self, record: &ReadRecord) -> &[u8] {
        self.bytes
            .get(record.start..record.start + record.length)
            .unwrap_or_default()
    }

    /// Forgets the records, keeps the memory.
    pub fn clear(&mut self) {
        self.records.clear();
        self.bytes.clear();
    }

    pub(in crate::store) fn push(&mut self, position: Offset, time: i64, mark: Mark, body: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(body);
        self.records.push(ReadRecord {
            position,
            time,
            mark,
            start,
            length: body.len(),
        });
    }
}

/// How far a read came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Where the next read goes on.
    pub next: Offset,
    /// Whether records at or after `next` (and before the limit's mark) exist now.
    pub more: bool,
}

/// A log with records in a range of marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touched {
    /// The log.
    pub log: LogId,
    /// Its first position in the range.
    pub first: Offset,
    /// Records in the range.
    pub count: u64,
}

/// Where to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// The first record at or behind a mark.
    Mark(Mark),
    /// The first record whose time is this or later, ms since 1970 UTC.
    Time(i64),
    /// The last n records.
    Last(u64),
}

/// The extent of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bounds {
    /// First stored position, or `next` if there is none.
    pub first: Offset,
    /// What the next record will get at the least.
    pub next: Offset,
    /// Stored records.
    pub records: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Time of the newest stored record.
    pub newest_time: i64,
    /// Mark of the newest record ever accepted, stored or not; [`Mark::START`] if there was none.
    pub newest_mark: Mark,
}

/// A row as stored, with the mark of the entry that made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where it was written.
    pub mark: Mark,
}

/// A row with its key.
pub type KeyedRow = (Vec<u8>, Row);

/// What a store has written since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Batches: rounds of the writer.
    pub batches: u64,
    /// Records in them, rows included.
    pub records: u64,
    /// Bytes of the batches, with all framing.
    pub bytes: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
}

/// Whether the store takes commits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreState {
    /// All is well.
    Ready,
    /// Syncs take longer than a second.
    Slow,
    /// No space: publishes are refused, everything else goes on.
    Full,
    /// A write or sync failed: nothing is acknowledged any more, the reason says why.
    Latched(String),
}
