//! The bytes of the log: segment header, batch header, record. Encoding and verifying, nothing else; which bytes count
//! and what a gap means is decided in `recovery.rs`. The authority for the format is `migrations/README.md`.
//!
//! ```text
//! segment header, at 0, in one sector; zeros follow up to 4096
//!   0  magic u64         8  format version u32     12  segment number u32    16  store id [16]
//!  32  salt u64         40  size of the file u64   48  CRC32 of 0..48
//!
//! batch header, 56 bytes, at an offset divisible by 8
//!   0  magic u32         4  CRC32 of the other 52 bytes, then the salt
//!   8  number u64       16  own LSN u64            24  bytes of the records u32    28  records u32
//!  32  durable_through u64   40  highest time so far, ms i64   48  flags u32    52  zero u32
//!
//! record, 40 bytes and the body
//!   0  length u32 (40 + body)    4  CRC32 of the body, then bytes 0..4 and 8..40, then the salt
//!   8  kind u8    9  version u8 (1)    10  flags u16 (0)    12  log u64    20  position u64
//!  28  time, ms i64    36  length of the body u32    40  body
//! ```
//!
//! All integers are little-endian. A batch ends on a multiple of 8; what fills it up is zero and not checked.
//!
//! **Invariants**
//! - Nothing verifies under another salt: not what an earlier use of the file left, not what a client sent as payload.
//! - Bytes lead to `None`, never to a panic.

use crate::store::types::EntryKind;

/// The on-disk format this build writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Bytes before the first batch of a segment.
pub(crate) const SEGMENT_HEADER_BYTES: u32 = 4096;
/// Bytes of a batch header.
pub(crate) const BATCH_HEADER_BYTES: u32 = 56;
/// Bytes of a record before its body.
pub(crate) const RECORD_PREFIX_BYTES: u32 = 40;
/// Bytes at the end of a segment that only the Seal may use.
pub(crate) const SEAL_BYTES_MAX: u32 = 128;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"EVERMQ\x01S");
/// First bytes of a batch header; the search behind a hole looks for them.
pub(crate) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"\xe7BtH");
const RECORD_VERSION: u8 = 1;
const SEAL_BODY_BYTES: u32 = 24;

const _: () = assert!(BATCH_HEADER_BYTES + RECORD_PREFIX_BYTES + SEAL_BODY_BYTES <= SEAL_BYTES_MAX);
const _: () = assert!(BATCH_HEADER_BYTES.is_multiple_of(8) && SEGMENT_HEADER_BYTES.is_multiple_of(8));

/// What a batch is besides its records.
pub(crate) mod flags {
    /// The last batch of its segment; its record names the next one.
    pub(crate) const SEAL: u32 = 1;
    /// Written a second after a burst, for its `durable_through` alone.
    pub(crate) const TICK: u32 = 2;
    /// The last batch before an orderly stop.
    pub(crate) const CLEAN_STOP: u32 = 4;
}

/// Reads a fixed-width integer at an offset.
macro_rules! read_int {
    ($name:ident, $int:ty) => {
        pub(crate) fn $name(bytes: &[u8], at: usize) -> Option<$int> {
            Some(<$int>::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
        }
    };
}
read_int!(u32_at, u32);
read_int!(u64_at, u64);
read_int!(i64_at, i64);

fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(target) = into.get_mut(at..at + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

/// The next multiple of 8.
pub(crate) const fn align8(offset: u64) -> u64 {
    offset.div_ceil(8) * 8
}

/// Place of a record in the log.
pub(crate) const fn lsn(segment: u32, offset: u32) -> u64 {
    (segment as u64) << 32 | offset as u64
}

/// The segment of an LSN.
pub(crate) const fn segment_of(lsn: u64) -> u32 {
    (lsn >> 32) as u32
}

/// The byte offset of an LSN.
pub(crate) const fn offset_of(lsn: u64) -> u32 {
    lsn as u32
}

/// The header of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u32,
    pub(crate) store: [u8; 16],
    pub(crate) salt: u64,
    pub(crate) size: u64,
}

impl SegmentHeader {
    /// The 4 KiB at the start of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES as usize];
        put(&mut bytes, 0, &SEGMENT_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 12, &self.number.to_le_bytes());
        put(&mut bytes, 16, &self.store);
        put(&mut bytes, 32, &self.salt.to_le_bytes());
        put(&mut bytes, 40, &self.size.to_le_bytes());
        let crc = crc32fast::hash(bytes.get(..48).unwrap_or_default());
        put(&mut bytes, 48, &crc.to_le_bytes());
        bytes
    }

    /// `None` if it does not verify.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let covered = bytes.get(..48)?;
        if u64_at(bytes, 0)? != SEGMENT_MAGIC
            || u32_at(bytes, 8)? != FORMAT_VERSION
            || u32_at(bytes, 48)? != crc32fast::hash(covered)
        {
            return None;
        }
        Some(Self {
            number: u32_at(bytes, 12)?,
            store: *bytes.get(16..)?.first_chunk()?,
            salt: u64_at(bytes, 32)?,
            size: u64_at(bytes, 40)?,
        })
    }
}

/// The header of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHeader {
    pub(crate) number: u64,
    pub(crate) lsn: u64,
    pub(crate) bytes: u32,
    pub(crate) records: u32,
    pub(crate) durable_through: u64,
    pub(crate) time: i64,
    pub(crate) flags: u32,
}

fn batch_crc(header: &[u8; BATCH_HEADER_BYTES as usize], salt: u64) -> u32 {
    let [magic @ .., _, _, _, _] = header.first_chunk::<8>().copied().unwrap_or_default();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&magic);
    crc.update(header.get(8..).unwrap_or_default());
    crc.update(&salt.to_le_bytes());
    crc.finalize()
}

impl BatchHeader {
    pub(crate) fn encode(&self, salt: u64) -> [u8; BATCH_HEADER_BYTES as usize] {
        let mut bytes = [0; BATCH_HEADER_BYTES as usize];
        put(&mut bytes, 0, &BATCH_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &self.number.to_le_bytes());
        put(&mut bytes, 16, &self.lsn.to_le_bytes());
        put(&mut bytes, 24, &self.bytes.to_le_bytes());
        put(&mut bytes, 28, &self.records.to_le_bytes());
        put(&mut bytes, 32, &self.durable_through.to_le_bytes());
        put(&mut bytes, 40, &self.time.to_le_bytes());
        put(&mut bytes, 48, &self.flags.to_le_bytes());
        let crc = batch_crc(&bytes, salt);
        put(&mut bytes, 4, &crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, if it verifies under the salt and says that it lies at `lsn`.
    pub(crate) fn decode(bytes: &[u8], salt: u64, lsn: u64) -> Option<Self> {
        let header = bytes.first_chunk()?;
        if u32_at(header, 0)? != BATCH_MAGIC
            || u64_at(header, 16)? != lsn
            || u32_at(header, 4)? != batch_crc(header, salt)
        {
            return None;
        }
        Some(Self {
            number: u64_at(header, 8)?,
            lsn,
            bytes: u32_at(header, 24)?,
            records: u32_at(header, 28)?,
            durable_through: u64_at(header, 32)?,
            time: i64_at(header, 40)?,
            flags: u32_at(header, 48)?,
        })
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// What a record is, on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Entry(EntryKind),
    Seal,
}

impl Kind {
    pub(crate) const fn tag(self) -> u8 {
        match self {
            Self::Entry(EntryKind::Data) => 1,
            Self::Entry(EntryKind::Row) => 2,
            Self::Entry(EntryKind::RowDeleted) => 3,
            Self::Entry(EntryKind::LogCreated) => 4,
            Self::Entry(EntryKind::LogRemoved) => 5,
            Self::Entry(EntryKind::Trim) => 6,
            Self::Entry(EntryKind::TrimClass) => 7,
            Self::Entry(EntryKind::Once) => 8,
            Self::Entry(EntryKind::Release) => 9,
            Self::Seal => 10,
        }
    }

    pub(crate) const fn from_tag(tag: u8) -> Option<Self> {
        Some(match tag {
            1 => Self::Entry(EntryKind::Data),
            2 => Self::Entry(EntryKind::Row),
            3 => Self::Entry(EntryKind::RowDeleted),
            4 => Self::Entry(EntryKind::LogCreated),
            5 => Self::Entry(EntryKind::LogRemoved),
            6 => Self::Entry(EntryKind::Trim),
            7 => Self::Entry(EntryKind::TrimClass),
            8 => Self::Entry(EntryKind::Once),
            9 => Self::Entry(EntryKind::Release),
            10 => Self::Seal,
            _ => return None,
        })
    }
}

/// The fields of a record that are not its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordPrefix {
    pub(crate) kind: Kind,
    pub(crate) log: u64,
    pub(crate) position: u64,
    pub(crate) time: i64,
    pub(crate) body_bytes: u32,
}

impl RecordPrefix {
    /// Appends prefix and body. The place of the CRC holds the body's own CRC until [`finish_record`].
    pub(crate) fn append(&self, into: &mut Vec<u8>, body: &[u8], body_crc: u32) {
        let mut prefix = [0; RECORD_PREFIX_BYTES as usize];
        put(&mut prefix, 0, &(RECORD_PREFIX_BYTES + self.body_bytes).to_le_bytes());
        put(&mut prefix, 4, &body_crc.to_le_bytes());
        put(&mut prefix, 8, &[self.kind.tag(), RECORD_VERSION, 0, 0]);
        put(&mut prefix, 12, &self.log.to_le_bytes());
        put(&mut prefix, 20, &self.position.to_le_bytes());
        put(&mut prefix, 28, &self.time.to_le_bytes());
        put(&mut prefix, 36, &self.body_bytes.to_le_bytes());
        into.extend_from_slice(&prefix);
        into.extend_from_slice(body);
    }
}

/// Continues a CRC of the body over the prefix and the salt.
fn finished_crc(body_crc: u32, prefix: &[u8; RECORD_PREFIX_BYTES as usize], salt: u64) -> u32 {
    let mut tail = [0; 4 + 32 + 8];
    put(&mut tail, 0, prefix.get(..4).unwrap_or_default());
    put(&mut tail, 4, prefix.get(8..).unwrap_or_default());
    put(&mut tail, 36, &salt.to_le_bytes());
    let body_bytes = u32_at(prefix, 36).unwrap_or_default();
    let mut crc = crc32fast::Hasher::new_with_initial_len(body_crc, u64::from(body_bytes));
    crc.update(&tail);
    crc.finalize()
}

/// Turns the body's CRC in the record at the start of `record` into the final one; returns the record's length, or
/// `None` if there is no whole record.
pub(crate) fn finish_record(record: &mut [u8], salt: u64) -> Option<usize> {
    let length = u32_at(record, 0)? as usize;
    let prefix = record.first_chunk::<{ RECORD_PREFIX_BYTES as usize }>()?;
    let crc = finished_crc(u32_at(prefix, 4)?, prefix, salt);
    put(record, 4, &crc.to_le_bytes());
    (length >= RECORD_PREFIX_BYTES as usize && length <= record.len()).then_some(length)
}

/// The verified record at the start of `bytes`: prefix and body.
pub(crate) fn decode_record(bytes: &[u8], salt: u64) -> Option<(RecordPrefix, &[u8])> {
    let prefix = bytes.first_chunk::<{ RECORD_PREFIX_BYTES as usize }>()?;
    let length = u32_at(prefix, 0)?;
    let body_bytes = u32_at(prefix, 36)?;
    if body_bytes.checked_add(RECORD_PREFIX_BYTES)? != length {
        return None;
    }
    let body = bytes.get(RECORD_PREFIX_BYTES as usize..length as usize)?;
    if u32_at(prefix, 4)? != finished_crc(crc32fast::hash(body), prefix, salt) {
        return None;
    }
    let [kind, RECORD_VERSION] = *prefix.get(8..)?.first_chunk()? else {
        return None;
    };
    let prefix = RecordPrefix {
        kind: Kind::from_tag(kind)?,
        log: u64_at(prefix, 12)?,
        position: u64_at(prefix, 20)?,
        time: i64_at(prefix, 28)?,
        body_bytes,
    };
    Some((prefix, body))
}

/// Body of the Seal: what the next segment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seal {
    pub(crate) next: u32,
    pub(crate) salt: u64,
    pub(crate) size: u64,
}

impl Seal {
    pub(crate) fn encode(&self) -> [u8; SEAL_BODY_BYTES as usize] {
        let mut body = [0; SEAL_BODY_BYTES as usize];
        put(&mut body, 0, &self.next.to_le_bytes());
        put(&mut body, 8, &self.salt.to_le_bytes());
        put(&mut body, 16, &self.size.to_le_bytes());
        body
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        Some(Self {
            next: u32_at(body, 0)?,
            salt: u64_at(body, 8)?,
            size: u64_at(body, 16)?,
        })
    }

    /// The whole Seal batch at `lsn` of the segment with `salt`, padded.
    pub(crate) fn batch(&self, number: u64, lsn: u64, durable_through: u64, time: i64, salt: u64) -> Vec<u8> {
        let body = self.encode();
        let mut bytes = vec![0; BATCH_HEADER_BYTES as usize];
        RecordPrefix {
            kind: Kind::Seal,
            log: 0,
            position: 0,
            time,
            body_bytes: SEAL_BODY_BYTES,
        }
        .append(&mut bytes, &body, crc32fast::hash(&body));
        let header = BatchHeader {
            number,
            lsn,
            bytes: bytes.len() as u32 - BATCH_HEADER_BYTES,
            records: 1,
            durable_through,
            time,
            flags: flags::SEAL,
        };
        finish_batch(&mut bytes, &header, salt);
        bytes
    }
}

/// Puts the header into the first bytes of a batch buffer, finishes the CRC of every record and pads to 8 bytes.
pub(crate) fn finish_batch(bytes: &mut Vec<u8>, header: &BatchHeader, salt: u64) {
    let mut at = BATCH_HEADER_BYTES as usize;
    while let Some(length) = bytes.get_mut(at..).and_then(|record| finish_record(record, salt)) {
        at += length;
    }
    debug_assert_eq!(at, bytes.len(), "a batch buffer holds whole records");
    put(bytes, 0, &header.encode(salt));
    bytes.resize(align8(bytes.len() as u64) as usize, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x0123_4567_89ab_cdef;

    fn record(body: &[u8], salt: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        RecordPrefix {
            kind: Kind::Entry(EntryKind::Data),
            log: 7,
            position: 42,
            time: -5,
            body_bytes: body.len() as u32,
        }
        .append(&mut bytes, body, crc32fast::hash(body));
        assert_eq!(finish_record(&mut bytes, salt), Some(bytes.len()));
        bytes
    }

    fn header() -> BatchHeader {
        BatchHeader {
            number: 9,
            lsn: lsn(3, 4096),
            bytes: 100,
            records: 2,
            durable_through: 8,
            time: 1_700_000_000_000,
            flags: flags::TICK,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for body in [&b""[..], b"x", &[5; 3000]] {
            let bytes = record(body, SALT);
            let (prefix, decoded) = decode_record(&bytes, SALT).unwrap();
            assert_eq!(decoded, body);
            assert_eq!((prefix.log, prefix.position, prefix.time), (7, 42, -5));
        }
        assert_eq!(
            BatchHeader::decode(&header().encode(SALT), SALT, lsn(3, 4096)),
            Some(header())
        );
        let segment = SegmentHeader {
            number: 3,
            store: [4; 16],
            salt: SALT,
            size: 65536,
        };
        assert_eq!(SegmentHeader::decode(&segment.encode()), Some(segment));
        for tag in 0..=255 {
            assert!(Kind::from_tag(tag).is_none_or(|kind| kind.tag() == tag));
        }
    }

    #[test]
    fn no_truncated_frame_verifies() {
        let bytes = record(b"some body", SALT);
        for end in 0..bytes.len() {
            assert_eq!(decode_record(&bytes[..end], SALT), None);
        }
        let bytes = header().encode(SALT);
        for end in 0..bytes.len() {
            assert_eq!(BatchHeader::decode(&bytes[..end], SALT, lsn(3, 4096)), None);
        }
    }

    #[test]
    fn no_frame_with_a_flipped_byte_verifies() {
        let bytes = record(b"some body", SALT);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                assert_eq!(decode_record(&bytes, SALT), None, "byte {at}");
            }
        }
        let bytes = header().encode(SALT);
        for at in 0..bytes.len() {
            let mut bytes = bytes;
            bytes[at] ^= 0x10;
            assert_eq!(BatchHeader::decode(&bytes, SALT, lsn(3, 4096)), None, "byte {at}");
        }
        let segment = SegmentHeader {
            number: 3,
            store: [4; 16],
            salt: SALT,
            size: 65536,
        };
        for at in 0..52 {
            let mut bytes = segment.encode();
            bytes[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&bytes), None, "byte {at}");
        }
    }

    #[test]
    fn frames_of_another_salt_or_another_place_do_not_verify() {
        assert_eq!(decode_record(&record(b"x", SALT), SALT + 1), None);
        assert_eq!(
            BatchHeader::decode(&header().encode(SALT), SALT + 1, lsn(3, 4096)),
            None
        );
        assert_eq!(BatchHeader::decode(&header().encode(SALT), SALT, lsn(3, 4104)), None);
    }

    #[test]
    fn a_seal_fits_into_the_bytes_kept_for_it() {
        let seal = Seal {
            next: 4,
            salt: 5,
            size: 6,
        };
        let bytes = seal.batch(3, lsn(3, 8192), 2, 1, SALT);
        assert!(bytes.len() <= SEAL_BYTES_MAX as usize);
        let header = BatchHeader::decode(&bytes, SALT, lsn(3, 8192)).unwrap();
        assert!(header.has(flags::SEAL));
        let (_, body) = decode_record(&bytes[BATCH_HEADER_BYTES as usize..], SALT).unwrap();
        assert_eq!(Seal::decode(body), Some(seal));
    }
}
