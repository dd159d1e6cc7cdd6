//! The rows of the tables, in memory, newest wins.
//!
//! **Invariants**
//! - A row is replaced only by what was written behind it.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::store::types::{KeyedRow, Mark, Row, Table};

/// All rows.
#[derive(Default)]
pub(crate) struct Rows {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Row>>,
}

impl Rows {
    /// Puts a row, or with `None` deletes it.
    pub(crate) fn apply(&mut self, table: Table, key: &[u8], row: Option<&[u8]>, mark: Mark) {
        let rows = self.tables.entry(table).or_default();
        let Some(bytes) = row else {
            rows.remove(key);
            return;
        };
        if let Some(row) = rows.get_mut(key) {
            row.bytes.clear();
            row.bytes.extend_from_slice(bytes);
            row.mark = mark;
        } else {
            let bytes = bytes.to_vec();
            rows.insert(key.to_vec(), Row { bytes, mark });
        }
    }

    /// Every row once.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(Table, &[u8], &Row)) {
        for (table, rows) in &self.tables {
            for (key, row) in rows {
                visit(*table, key, row);
            }
        }
    }

    /// One row.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Row> {
        self.tables.get(&table)?.get(key).cloned()
    }

    /// Rows of a range of keys, ascending.
    pub(crate) fn scan(&self, table: Table, range: Range<Vec<u8>>, limit: usize) -> Vec<KeyedRow> {
        if range.start >= range.end {
            return Vec::new();
        }
        let rows = self
            .tables
            .get(&table)
            .into_iter()
            .flat_map(|rows| rows.range(range.clone()));
        rows.take(limit).map(|(key, row)| (key.clone(), row.clone())).collect()
    }
}
