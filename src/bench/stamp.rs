//! What a payload says about itself, and the ledger a subscriber keeps: what is missing, what came twice, what came
//! late. By content, so it holds for any broker.
//!
//! ```text
//!  run u32 | publisher u32 | key u32 | number u32 | due u64 | filling      little-endian
//! ```
//!
//! A key is one topic of one publisher; numbers of a key begin at 1 and have no gaps.

use std::collections::HashSet;

/// Bytes of a stamp.
pub(super) const STAMP_BYTES: usize = 24;
/// Missing numbers that are remembered one by one; beyond it a late message counts as a duplicate.
const HOLES_MAX: usize = 1 << 20;

/// The beginning of a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    /// Messages of other runs are passed over.
    pub(super) run: u32,
    /// Who sent it.
    pub(super) publisher: u32,
    /// The key, over all publishers.
    pub(super) key: u32,
    /// Which message of the key.
    pub(super) number: u32,
    /// When it was due, nanoseconds since the tool started.
    pub(super) due: u64,
}

impl Stamp {
    /// The byte form.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        let mut bytes = [0; STAMP_BYTES];
        let fields = [self.run, self.publisher, self.key, self.number];
        for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        if let Some(place) = bytes.last_chunk_mut::<8>() {
            *place = self.due.to_le_bytes();
        }
        out.extend_from_slice(&bytes);
    }

    /// Reads the byte form back.
    pub(super) fn take(payload: &[u8]) -> Option<Self> {
        let (stamp, _) = payload.split_first_chunk::<STAMP_BYTES>()?;
        let word = |at: usize| {
            let bytes = stamp.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        Some(Self {
            run: word(0)?,
            publisher: word(4)?,
            key: word(8)?,
            number: word(12)?,
            due: u64::from_le_bytes(*stamp.last_chunk()?),
        })
    }
}

/// What a subscriber got.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    last: Vec<u32>,
    holes: HashSet<(u32, u32), ahash::RandomState>,
    /// Each once.
    pub(super) unique: u64,
    /// Came again.
    pub(super) duplicates: u64,
    /// Came behind a later one of its key.
    pub(super) disordered: u64,
}

impl Ledger {
    /// A ledger for so many keys.
    pub(super) fn new(keys: usize) -> Self {
        Self {
            last: vec![0; keys],
            ..Self::default()
        }
    }

    /// Notes a message. `true`: it is here for the first time.
    pub(super) fn note(&mut self, stamp: &Stamp) -> bool {
        let Some(last) = self.last.get_mut(stamp.key as usize) else {
            return false;
        };
        if stamp.number == *last + 1 {
            *last = stamp.number;
        } else if stamp.number > *last {
            for number in *last + 1..stamp.number {
                if self.holes.len() < HOLES_MAX {
                    self.holes.insert((stamp.key, number));
                }
            }
            *last = stamp.number;
        } else if self.holes.remove(&(stamp.key, stamp.number)) {
            self.disordered += 1;
        } else {
            self.duplicates += 1;
            return false;
        }
        self.unique += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(key: u32, number: u32) -> Stamp {
        Stamp {
            run: 1,
            publisher: 2,
            key,
            number,
            due: 1 << 40,
        }
    }

    #[test]
    fn a_stamp_comes_back_as_it_went() {
        let mut out = Vec::new();
        stamp(3, 4).put(&mut out);
        assert_eq!(out.len(), STAMP_BYTES);
        assert_eq!(Stamp::take(&out), Some(stamp(3, 4)));
        assert_eq!(Stamp::take(&out[1..]), None);
    }

    #[test]
    fn a_message_again_is_a_duplicate_and_one_behind_a_later_one_is_disorder() {
        let mut ledger = Ledger::new(2);
        let notes: Vec<bool> = [1, 2, 5, 3, 3, 5, 6]
            .iter()
            .map(|n| ledger.note(&stamp(0, *n)))
            .collect();
        assert_eq!(notes, [true, true, true, true, false, false, true]);
        assert!(ledger.note(&stamp(1, 1)));
        assert!(!ledger.note(&stamp(9, 1)), "an unknown key");
        assert_eq!((ledger.unique, ledger.duplicates, ledger.disordered), (6, 2, 1));
    }
}
