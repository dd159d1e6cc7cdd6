//! Damage that a reader met, as a row: which records of which log are lost, and where they lay. The store writes such
//! rows itself, into the table that is named when it is opened.
//!
//! ```text
//! key     file, relative to the data directory | 0 | byte offset u64, big-endian
//! row     version u8 | log u64 | first position u64 | last position u64 | found at i64, ms since 1970 UTC |
//!         CRC32 of everything before                                                        little-endian
//! ```
//!
//! **Invariants**
//! - The row of one place is written once, however often it is read.

use crate::store::types::{LogId, Offset};

const VERSION: u8 = 1;
const ROW_BYTES: usize = 37;

/// Records that could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The file, relative to the data directory.
    pub file: String,
    /// Byte offset in it.
    pub offset: u64,
    /// The log whose records are lost; 0 if that cannot be told, and then positions are 0, too.
    pub log: LogId,
    /// The first lost position.
    pub first: Offset,
    /// The last lost position.
    pub last: Offset,
    /// When it was found, ms since 1970 UTC.
    pub found_ms: i64,
}

impl Damage {
    /// The row's key.
    pub fn key(&self) -> Vec<u8> {
        [self.file.as_bytes(), &[0], &self.offset.to_be_bytes()].concat()
    }

    /// The row.
    pub fn row(&self) -> Vec<u8> {
        let mut row = vec![VERSION];
        for field in [self.log.0, self.first.0, self.last.0] {
            row.extend_from_slice(&field.to_le_bytes());
        }
        row.extend_from_slice(&self.found_ms.to_le_bytes());
        let crc = crc32fast::hash(&row);
        row.extend_from_slice(&crc.to_le_bytes());
        row
    }

    /// Reads key and row back; `None` if they are not such.
    pub fn parse(key: &[u8], row: &[u8]) -> Option<Self> {
        let (rest, offset) = key.split_last_chunk::<8>()?;
        let (0, file) = rest.split_last()? else {
            return None;
        };
        let (covered, crc) = row.split_last_chunk::<4>()?;
        if row.len() != ROW_BYTES || crc32fast::hash(covered) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (&VERSION, mut fields) = covered.split_first()? else {
            return None;
        };
        let mut next = || {
            let (field, rest) = fields.split_first_chunk::<8>()?;
            fields = rest;
            Some(u64::from_le_bytes(*field))
        };
        Some(Self {
            file: String::from_utf8(file.to_vec()).ok()?,
            offset: u64::from_be_bytes(*offset),
            log: LogId(next()?),
            first: Offset(next()?),
            last: Offset(next()?),
            found_ms: next()?.cast_signed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damage_row_reads_back_and_no_damaged_form_of_it_does() {
        let damage = Damage {
            file: "log/0000000002.seg".to_owned(),
            offset: 4152,
            log: LogId(7),
            first: Offset(3),
            last: Offset(4),
            found_ms: -5,
        };
        let (key, row) = (damage.key(), damage.row());
        assert_eq!(Damage::parse(&key, &row), Some(damage));
        for at in 0..row.len() {
            let mut flipped = row.clone();
            flipped[at] ^= 2;
            assert_eq!(Damage::parse(&key, &flipped), None);
            assert_eq!(Damage::parse(&key, &row[..at]), None);
        }
        assert_eq!(Damage::parse(b"x", &row), None);
    }
}
