//! How the broker's entities look as stored bytes: tables with stable tags, and the envelope of every row.
//!
//! ```text
//! row      version u8 | bincode 1.3.3, fixed-width little-endian | CRC32 u32 over what stands before it
//! ```
//!
//! **Invariants**
//! - A tag is never given to another table.
//! - A stored struct never changes in place: a new version gets a new struct and a `From` the old one.

pub mod account;
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

/// Settings of a session, by session.
pub const SESSION: Table = Table(1);
/// Options, start mark and due retained messages of a subscription, by session and filter.
pub const SUBSCRIPTION: Table = Table(2);
/// The floor of a session, by session.
pub const POSITION: Table = Table(3);
/// An explicit position of a session on a topic, by session and log.
pub const TOPIC_POSITION: Table = Table(4);
/// What was handed out and is not completed, by session and first packet id.
pub const SENT: Table = Table(5);
/// Start mark and floor of a share group, by group and filter.
pub const GROUP: Table = Table(6);
/// What a share group has assigned or got back, by group, log and first position.
pub const GROUP_PART: Table = Table(7);
/// The will of a session, by session.
pub const WILL: Table = Table(8);
/// A retained message served ahead of the cursor, by session, filter and log.
pub const RETAINED_SERVED: Table = Table(9);
/// A topic, by log.
pub const TOPIC: Table = Table(10);
/// A message table, by name.
pub const MESSAGE_TABLE: Table = Table(11);
/// Position of the retained message, by log; derived.
pub const RETAINED: Table = Table(12);
/// A label, by id.
pub const LABEL: Table = Table(13);
/// An account, by name.
pub const ACCOUNT: Table = Table(14);
/// A login, by hash of its token.
pub const LOGIN: Table = Table(15);
/// Totals of a session or topic.
pub const TOTALS: Table = Table(16);
/// Published topics of a session, by session.
pub const PUBLISHED_TOPICS: Table = Table(17);
/// A start of the server, by incarnation.
pub const STARTED: Table = Table(18);
/// Known damage, by file and offset.
pub const DAMAGE: Table = Table(19);
/// A step of the wall clock, by mark.
pub const CLOCK_STEP: Table = Table(20);
/// The store's random key for tokens.
pub const SECRET: Table = Table(21);

/// The tables whose rows are listed and searched: the catalog keeps them.
pub const CATALOGED: [Table; 8] = [
    SESSION,
    SUBSCRIPTION,
    WILL,
    TOPIC,
    MESSAGE_TABLE,
    LABEL,
    ACCOUNT,
    TOPIC_POSITION,
];

/// The largest row, in bytes.
pub const ROW_BYTES_MAX: u64 = 64 << 20;

/// Why a row could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RowError {
    /// Too short, or its checksum does not match.
    Damaged,
    /// Written by a newer program.
    Version(u8),
    /// The bytes are no value of the struct.
    Malformed(String),
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("the row's checksum does not match"),
            Self::Version(version) => write!(f, "the row has version {version}, which this program does not know"),
            Self::Malformed(cause) => write!(f, "the row is malformed: {cause}"),
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

/// The stored bytes of a value.
///
/// # Panics
/// If the value is larger than [`ROW_BYTES_MAX`], which the limits of its parts exclude.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut row = vec![version];
    options()
        .serialize_into(&mut row, value)
        .expect("a row's parts are bounded");
    let crc = crc32fast::hash(&row);
    row.extend_from_slice(&crc.to_le_bytes());
    row
}

/// Checks the envelope; gives version and bincode bytes.
///
/// # Errors
/// [`RowError::Damaged`].
pub fn open(row: &[u8]) -> Result<(u8, &[u8]), RowError> {
    let (covered, crc) = row.split_last_chunk::<4>().ok_or(RowError::Damaged)?;
    if crc32fast::hash(covered) != u32::from_le_bytes(*crc) {
        return Err(RowError::Damaged);
    }
    let (version, body) = covered.split_first().ok_or(RowError::Damaged)?;
    Ok((*version, body))
}

/// Reads a row of the one version there is.
///
/// # Errors
/// See [`RowError`].
pub fn decode<T: DeserializeOwned>(version: u8, row: &[u8]) -> Result<T, RowError> {
    let (found, body) = open(row)?;
    if found != version {
        return Err(RowError::Version(found));
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

/// The number at the beginning of a key, and the rest.
pub fn split_key(key: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
pub(in crate::broker) mod checks {
    use super::session::StoredRow;

    /// A row reads back as it was written, and no damaged form of it reads at all.
    pub(in crate::broker) fn survives_the_round_trip_and_nothing_else<R>(value: &R)
    where
        R: StoredRow + PartialEq + std::fmt::Debug,
    {
        let row = value.to_row();
        assert_eq!(&R::from_row(&row).unwrap(), value);
        for length in 0..row.len() {
            assert!(
                R::from_row(&row[..length]).is_err(),
                "a prefix of {length} bytes was read"
            );
        }
        for at in 0..row.len() {
            let mut flipped = row.clone();
            flipped[at] ^= 0x10;
            assert!(R::from_row(&flipped).is_err(), "a flipped byte at {at} was read");
        }
        let mut longer = row.clone();
        longer.push(0);
        assert!(R::from_row(&longer).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back_and_every_flipped_bit_is_noticed() {
        let row = encode(1, &(7_u64, "name".to_owned()));
        assert_eq!(decode::<(u64, String)>(1, &row), Ok((7, "name".to_owned())));
        assert_eq!(decode::<(u64, String)>(2, &row), Err(RowError::Version(1)));
        for bit in 0..row.len() * 8 {
            let mut damaged = row.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<(u64, String)>(1, &damaged).is_err());
        }
        for length in 0..row.len() {
            assert!(decode::<(u64, String)>(1, &row[..length]).is_err());
        }
    }
}
