//! The sled database under the catalog, every call of it guarded: it can panic, and where it does not find what was
//! written it may say nothing. So each row has a checksum, and a sum over all rows lies beside them.
//!
//! ```text
//! key     table u8 (not 0) | key
//! value   mark u64 | crc u32 over table, key, mark, row | row
//! key 0   version u8 | applied mark u64 | rows u64 | sum of their checksums u64 | bytes of keys and values u64 |
//!         crc u32 of the table list | crc u32 over all before
//! ```
//!
//! **Invariants**
//! - Rows and the sum over them change in one batch, so any prefix of sled's own log agrees with itself.
//! - [`Tree::sync`] is a real one: sled's flush does not reach the platter, our `fsync` of its file does.

use std::fs::File;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::store::{KeyedRow, Mark, Row, Table};

const VERSION: u8 = 1;
const META_KEY: [u8; 1] = [0];
const CACHE_BYTES: u64 = 32 << 20;

/// Why the database is of no use.
pub(super) type Cause = String;

/// What the database says about all its rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Meta {
    /// Every change before this mark is in it.
    pub(super) applied: Mark,
    /// Rows.
    pub(super) rows: u64,
    /// Sum of their checksums, wrapping.
    pub(super) sum: u64,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
    /// Which tables it holds.
    pub(super) tables: u32,
}

impl Meta {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for field in [self.applied.raw(), self.rows, self.sum, self.bytes] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&self.tables.to_le_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(covered) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (version, mut rest) = covered.split_first()?;
        let mut fields = [0; 4];
        for field in &mut fields {
            let (bytes, behind) = rest.split_first_chunk::<8>()?;
            *field = u64::from_le_bytes(*bytes);
            rest = behind;
        }
        let tables = u32::from_le_bytes(rest.try_into().ok()?);
        let [applied, rows, sum, bytes] = fields;
        (*version == VERSION).then_some(Self {
            applied: Mark::new(applied),
            rows,
            sum,
            bytes,
            tables,
        })
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(u64::from(checksum_of(value)));
        self.bytes += (key.len() + value.len()) as u64;
    }

    fn subtract(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.saturating_sub(1);
        self.sum = self.sum.wrapping_sub(u64::from(checksum_of(value)));
        self.bytes = self.bytes.saturating_sub((key.len() + value.len()) as u64);
    }
}

fn checksum_of(value: &[u8]) -> u32 {
    let bytes = value.get(8..12).and_then(|bytes| bytes.try_into().ok());
    u32::from_le_bytes(bytes.unwrap_or_default())
}

fn checksum(key: &[u8], mark: &[u8], row: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(mark);
    hasher.update(row);
    hasher.finalize()
}

fn tree_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&[table.0], key].concat()
}

fn encode(key: &[u8], mark: Mark, row: &[u8]) -> Vec<u8> {
    let mark = mark.to_bytes();
    let crc = checksum(key, &mark, row);
    [&mark[..], &crc.to_le_bytes(), row].concat()
}

fn decode(key: &[u8], value: &[u8]) -> Option<Row> {
    let (mark, rest) = value.split_first_chunk::<8>()?;
    let (crc, row) = rest.split_first_chunk::<4>()?;
    (checksum(key, mark, row) == u32::from_le_bytes(*crc)).then(|| Row {
        bytes: row.to_vec(),
        mark: Mark::from_bytes(*mark),
    })
}

fn bad_row(key: &[u8]) -> Cause {
    let table = key.first().copied().unwrap_or_default();
    format!("a row of table {table} does not verify")
}

/// Runs something of sled's; a panic becomes a cause.
fn guarded<T>(what: &str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, Cause> {
    match std::panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("{what} failed: {error}")),
        Err(_) => Err(format!("{what} panicked")),
    }
}

/// An open database; clones share it.
#[derive(Clone)]
pub(super) struct Tree {
    db: sled::Db,
    dir: PathBuf,
}

impl Tree {
    /// Opens or makes the database in a thread of its own, which is given up after `limit`, or when `stopped` says so.
    pub(super) fn open(dir: &Path, limit: Duration, stopped: &dyn Fn() -> bool) -> Result<Self, Cause> {
        let (opened, result) = channel();
        let path = dir.to_path_buf();
        let open = move || {
            let tree = guarded("opening", || {
                let config = sled::Config::new().path(&path).cache_capacity(CACHE_BYTES);
                config.flush_every_ms(None).open()
            });
            // Nobody listens any more if it took too long.
            drop(opened.send(tree));
        };
        std::thread::Builder::new()
            .name("catalog-open".to_owned())
            .spawn(open)
            .map_err(|error| format!("starting a thread failed: {error}"))?;
        let begun = Instant::now();
        loop {
            match result.recv_timeout(Duration::from_millis(100)) {
                Ok(tree) => {
                    return tree.map(|db| Self {
                        db,
                        dir: dir.to_path_buf(),
                    });
                }
                Err(RecvTimeoutError::Timeout) if begun.elapsed() < limit && !stopped() => {}
                Err(RecvTimeoutError::Timeout) => return Err("opening took too long".to_owned()),
                Err(RecvTimeoutError::Disconnected) => return Err("opening panicked".to_owned()),
            }
        }
    }

    /// What it says about its rows; `None` if it was never filled.
    pub(super) fn meta(&self) -> Result<Option<Meta>, Cause> {
        let Some(bytes) = guarded("reading", || self.db.get(META_KEY))? else {
            return Ok(None);
        };
        let meta = Meta::decode(&bytes).ok_or("the row about all rows does not verify")?;
        Ok(Some(meta))
    }

    /// Reads every row and compares with what the database says about them. `pause` is called now and then with the
    /// time spent since; it ends the check by saying false.
    pub(super) fn verify(&self, meta: &Meta, pause: &dyn Fn(Duration) -> bool) -> Result<(), Cause> {
        let mut found = Meta {
            applied: meta.applied,
            tables: meta.tables,
            ..Meta::default()
        };
        let mut rows = self.db.range([1_u8].to_vec()..);
        loop {
            let begun = Instant::now();
            for _ in 0..2_000 {
                let Some((key, value)) = guarded("reading", || rows.next().transpose())? else {
                    return if found == *meta {
                        Ok(())
                    } else {
                        Err(format!(
                            "it holds {} rows where {} were written, or others",
                            found.rows, meta.rows
                        ))
                    };
                };
                decode(&key, &value).ok_or_else(|| bad_row(&key))?;
                found.add(&key, &value);
            }
            if !pause(begun.elapsed()) {
                return Ok(());
            }
        }
    }

    /// Writes changes and what is then true of all rows, at once. A row that is newer already stays.
    pub(super) fn write<'a>(
        &self,
        changes: impl Iterator<Item = (Table, &'a [u8], Mark, Option<&'a [u8]>)>,
        meta: &mut Meta,
    ) -> Result<(), Cause> {
        let (mut batch, next) = self.prepare(changes, meta)?;
        batch.insert(&META_KEY[..], next.encode());
        guarded("writing", || self.db.apply_batch(batch))?;
        *meta = next;
        Ok(())
    }

    /// Writes changes and nothing about all rows: should it end here, the database counts as not filled to the end.
    pub(super) fn write_unfinished<'a>(
        &self,
        changes: impl Iterator<Item = (Table, &'a [u8], Mark, Option<&'a [u8]>)>,
        meta: &mut Meta,
    ) -> Result<(), Cause> {
        let (batch, next) = self.prepare(changes, meta)?;
        guarded("writing", || self.db.apply_batch(batch))?;
        *meta = next;
        Ok(())
    }

    fn prepare<'a>(
        &self,
        changes: impl Iterator<Item = (Table, &'a [u8], Mark, Option<&'a [u8]>)>,
        meta: &Meta,
    ) -> Result<(sled::Batch, Meta), Cause> {
        let mut batch = sled::Batch::default();
        let mut next = *meta;
        for (table, key, mark, row) in changes {
            let key = tree_key(table, key);
            if let Some(old) = guarded("reading", || self.db.get(&key))? {
                let row = decode(&key, &old).ok_or_else(|| bad_row(&key))?;
                if row.mark > mark {
                    continue;
                }
                next.subtract(&key, &old);
            }
            if let Some(row) = row {
                let value = encode(&key, mark, row);
                next.add(&key, &value);
                batch.insert(key, value);
            } else {
                batch.remove(key);
            }
        }
        Ok((batch, next))
    }

    /// Makes durable what was written.
    pub(super) fn sync(&self) -> Result<(), Cause> {
        guarded("writing", || self.db.flush())?;
        let synced = || -> std::io::Result<()> {
            File::open(self.dir.join("db"))?.sync_all()?;
            File::open(&self.dir)?.sync_all()
        };
        synced().map_err(|error| format!("syncing failed: {error}"))
    }

    /// Bytes of its files.
    pub(super) fn size(&self) -> Result<u64, Cause> {
        guarded("measuring", || self.db.size_on_disk())
    }

    /// For tests that damage it while it runs.
    #[cfg(test)]
    pub(super) fn database(&self) -> &sled::Db {
        &self.db
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, Cause> {
        let key = tree_key(table, key);
        let Some(value) = guarded("reading", || self.db.get(&key))? else {
            return Ok(None);
        };
        decode(&key, &value).map(Some).ok_or_else(|| bad_row(&key))
    }

    pub(super) fn scan(&self, table: Table, range: &Range<Vec<u8>>, limit: usize) -> Result<Vec<KeyedRow>, Cause> {
        let range = tree_key(table, &range.start)..tree_key(table, &range.end);
        let mut rows = self.db.range(range);
        let mut found = Vec::new();
        while found.len() < limit {
            let Some((key, value)) = guarded("reading", || rows.next().transpose())? else {
                break;
            };
            let row = decode(&key, &value).ok_or_else(|| bad_row(&key))?;
            found.push((key.get(1..).unwrap_or_default().to_vec(), row));
        }
        Ok(found)
    }

    /// Lets go of the database; it writes what it still holds.
    pub(super) fn close(self) {
        let closed = guarded("closing", || {
            drop(self.db);
            Ok(())
        });
        if let Err(cause) = closed {
            tracing::warn!(cause, "the catalog did not close well");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_and_no_prefix_and_no_flipped_byte_of_it_does() {
        let key = tree_key(Table(3), b"key");
        let value = encode(&key, Mark::new(77), b"row");
        let row = Row {
            bytes: b"row".to_vec(),
            mark: Mark::new(77),
        };
        assert_eq!(decode(&key, &value), Some(row));
        for length in 0..value.len() {
            assert_eq!(decode(&key, &value[..length]), None);
        }
        for at in 0..value.len() {
            let mut flipped = value.clone();
            flipped[at] ^= 1;
            assert_eq!(decode(&key, &flipped), None);
        }
        assert_eq!(
            decode(&tree_key(Table(3), b"kez"), &value),
            None,
            "a row belongs to its key"
        );
    }

    #[test]
    fn what_is_said_about_all_rows_reads_back_and_no_damaged_form_of_it_does() {
        let meta = Meta {
            applied: Mark::new(1),
            rows: 2,
            sum: 3,
            bytes: 4,
            tables: 5,
        };
        let bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes), Some(meta));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(Meta::decode(&flipped), None);
            assert_eq!(Meta::decode(&bytes[..at]), None);
        }
    }
}
