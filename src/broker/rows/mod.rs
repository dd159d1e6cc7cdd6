//! Rows as stored bytes: the tables with their stable tags, and the envelope every row has.
//!
//! ```text
//!   offset  size  field
//!   0       1     version of the struct, per table
//!   1       n     the struct, bincode 1.3.3, fixed-width little-endian integers
//!   1 + n   4     CRC32 of everything before, little-endian
//! ```
//!
//! **Invariants**
//! - A tag is never given to another table, a version never to another struct.
//! - A row is read as the version it says it is, and as a whole: bytes that are left over are an error. bincode has no
//!   optional fields, so bytes of one version silently read as another would give wrong values.

pub mod account;
pub mod extras;
pub mod label;
pub mod login;
pub mod record;
pub mod session;
pub mod topic;

use std::fmt;

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::Table;

/// Settings, owner, generation, epoch, incarnation connected in; key: session.
pub const SESSION: Table = Table(1);
/// Options, start mark, retained-due mark and cursor; key: session, filter.
pub const SUBSCRIPTION: Table = Table(2);
/// The floor; key: session.
pub const POSITION: Table = Table(3);
/// Explicit positions; key: session, log.
pub const TOPIC_POSITION: Table = Table(4);
/// What was handed out and is not completed; key: session, first packet id.
pub const SENT: Table = Table(5);
/// Start mark and floor of a share group; key: group, filter.
pub const GROUP: Table = Table(6);
/// Assigned to whom, or returned; key: group, log, first position.
pub const GROUP_PART: Table = Table(7);
/// Wills; key: session.
pub const WILL: Table = Table(8);
/// Retained messages served ahead of the cursor; key: session, filter, log.
pub const RETAINED_SERVED: Table = Table(9);
/// Creation mark, settings, label, table; key: log.
pub const TOPIC: Table = Table(10);
/// Sequence and retention of an integration table; key: name.
pub const TABLE: Table = Table(11);
/// Position of a topic's retained message; key: log.
pub const RETAINED: Table = Table(12);
/// Labels; key: id.
pub const LABEL: Table = Table(13);
/// Accounts; key: name.
pub const ACCOUNT: Table = Table(14);
/// Permanent logins; key: hash of the token.
pub const LOGIN: Table = Table(15);
/// Totals; key: session or log.
pub const TOTALS: Table = Table(16);
/// Topics a session has published to; key: session.
pub const PUBLISHED_TOPICS: Table = Table(17);
/// Starts of the program; key: incarnation.
pub const STARTED: Table = Table(18);
/// Damage found; key: file, offset.
pub const DAMAGE: Table = Table(19);
/// Steps of the wall clock; key: mark.
pub const CLOCK_STEP: Table = Table(20);
/// One random key per store; no key.
pub const SECRET: Table = Table(21);

/// The tables whose rows are listed and searched: the store's catalog keeps them.
pub const CATALOGED: [Table; 7] = [SESSION, SUBSCRIPTION, WILL, TOPIC, TABLE, LABEL, ACCOUNT];

/// The largest row that is read, in bytes; a row that claims more is damaged.
pub const ROW_BYTES_MAX: u64 = 64 << 20;

/// A struct that is kept as a row.
pub trait StoredRow: Serialize + DeserializeOwned {
    /// Version of the struct; raised with every change of its fields.
    const VERSION: u8;

    /// See [`encode`].
    fn to_row(&self) -> Vec<u8> {
        encode(self)
    }

    /// See [`decode`].
    ///
    /// # Errors
    /// See [`RowError`].
    fn from_row(row: &[u8]) -> Result<Self, RowError> {
        decode(row)
    }
}

/// Why bytes are not a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RowError {
    /// Shorter than the envelope.
    TooShort,
    /// The checksum does not match.
    Checksum,
    /// Written by another version of the program.
    Version {
        /// What the row says.
        found: u8,
        /// What this program reads.
        known: u8,
    },
    /// The checksum matches, the struct does not.
    Malformed(String),
    /// The key does not have the form its table asks for.
    Key,
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("the row is shorter than its envelope"),
            Self::Checksum => f.write_str("the row's checksum does not match"),
            Self::Version { found, known } => write!(
                f,
                "the row has version `{found}` and this program reads `{known}`; use the program that wrote it"
            ),
            Self::Malformed(cause) => write!(f, "the row cannot be read: {cause}"),
            Self::Key => f.write_str("the row's key is malformed"),
        }
    }
}

impl std::error::Error for RowError {}

fn options() -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(ROW_BYTES_MAX)
        .reject_trailing_bytes()
}

/// The row of a struct.
///
/// # Panics
/// If the struct has no row form or is larger than [`ROW_BYTES_MAX`]; both are bugs of the struct, whose fields are
/// bounded where they enter.
pub fn encode<R: StoredRow>(value: &R) -> Vec<u8> {
    let mut row = vec![R::VERSION];
    options()
        .serialize_into(&mut row, value)
        .expect("a row struct is bounded and writes to memory");
    let crc = crc32fast::hash(&row);
    row.extend_from_slice(&crc.to_le_bytes());
    row
}

/// Reads a row back.
///
/// # Errors
/// See [`RowError`].
pub fn decode<R: StoredRow>(row: &[u8]) -> Result<R, RowError> {
    let (covered, crc) = row.split_last_chunk::<4>().ok_or(RowError::TooShort)?;
    if crc32fast::hash(covered) != u32::from_le_bytes(*crc) {
        return Err(RowError::Checksum);
    }
    let (version, body) = covered.split_first().ok_or(RowError::TooShort)?;
    if *version != R::VERSION {
        return Err(RowError::Version {
            found: *version,
            known: R::VERSION,
        });
    }
    options()
        .deserialize(body)
        .map_err(|error| RowError::Malformed(error.to_string()))
}

/// A key of one number, big-endian so that keys sort like numbers.
pub fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// A key of a number and more.
pub fn key_with(number: u64, rest: &[u8]) -> Vec<u8> {
    let mut key = number.to_be_bytes().to_vec();
    key.extend_from_slice(rest);
    key
}

/// The key of table 9: session, filter, log. A filter holds no NUL, so the first one ends it.
pub fn retained_served_key(session: u64, filter: &str, log: u64) -> Vec<u8> {
    let mut key = key_with(session, filter.as_bytes());
    key.push(0);
    key.extend_from_slice(&log.to_be_bytes());
    key
}

/// The number at the beginning of a key, and the rest.
pub fn split_key(key: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
pub(in crate::broker) mod checks {
    use super::*;

    /// A row reads back as it was written, and no damaged form of it reads at all.
    pub(in crate::broker) fn survives_the_round_trip_and_nothing_else<R>(value: &R)
    where
        R: StoredRow + PartialEq + fmt::Debug,
    {
        let row = encode(value);
        assert_eq!(&decode::<R>(&row).unwrap(), value);
        for length in 0..row.len() {
            assert!(
                decode::<R>(&row[..length]).is_err(),
                "a prefix of {length} bytes was read"
            );
        }
        for at in 0..row.len() {
            let mut flipped = row.clone();
            flipped[at] ^= 0x10;
            assert!(decode::<R>(&flipped).is_err(), "a flipped byte at {at} was read");
        }
        let mut longer = row.clone();
        longer.push(0);
        assert!(decode::<R>(&longer).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Old(u32);
    impl StoredRow for Old {
        const VERSION: u8 = 1;
    }
    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct New(u32, String);
    impl StoredRow for New {
        const VERSION: u8 = 2;
    }

    #[test]
    fn a_row_of_another_version_is_refused_by_its_number() {
        let row = encode(&Old(7));
        assert_eq!(decode::<New>(&row), Err(RowError::Version { found: 1, known: 2 }));
    }

    #[test]
    fn a_length_that_lies_is_an_error_and_no_allocation() {
        let mut row = vec![2];
        row.extend_from_slice(&7u32.to_le_bytes());
        row.extend_from_slice(&u64::MAX.to_le_bytes());
        let crc = crc32fast::hash(&row);
        row.extend_from_slice(&crc.to_le_bytes());
        assert!(matches!(decode::<New>(&row), Err(RowError::Malformed(_))));
    }
}
