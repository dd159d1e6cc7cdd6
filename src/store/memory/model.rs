//! What is durable in the model, as the fold of its batches.
//!
//! **Invariants**
//! - It depends on the batches alone: the same batches in the same order give the same model.

use std::collections::{BTreeMap, HashMap};

use crate::store::{
    Batch, Bounds, Entry, EntryKind, Error, LogCreated, LogId, Mark, Offset, OnceKey, Result, RetentionClass, Row,
    SequenceId, Table, parse_row,
};

pub(super) type Rows = BTreeMap<(Table, Vec<u8>), Row>;

/// What is durable.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) logs: BTreeMap<LogId, Log>,
    pub(super) rows: Rows,
    pub(super) once: HashMap<OnceKey, Offset>,
    /// Next position per sequence; kept when the last log of a sequence goes, for positions are never reused.
    pub(super) next: HashMap<SequenceId, u64>,
    /// The greatest log number that was ever created.
    pub(super) last_log: u64,
}

#[derive(Clone)]
pub(super) struct Log {
    pub(super) name: Vec<u8>,
    pub(super) sequence: SequenceId,
    pub(super) class: RetentionClass,
    pub(super) records: BTreeMap<Offset, Record>,
    pub(super) newest_mark: Mark,
}

#[derive(Clone)]
pub(super) struct Record {
    pub(super) time: i64,
    pub(super) mark: Mark,
    pub(super) body: Vec<u8>,
}

impl Model {
    pub(super) fn apply(&mut self, batch: &Batch) {
        let mut before = None;
        for entry in &batch.entries {
            let body = batch.body(entry);
            match entry.kind {
                EntryKind::Data => self.append(entry, body),
                EntryKind::Row | EntryKind::RowDeleted => apply_row(&mut self.rows, entry, body),
                EntryKind::LogCreated => self.create(entry.log, body),
                EntryKind::LogRemoved => {
                    self.logs.remove(&entry.log);
                }
                EntryKind::Trim => {
                    if let Some(log) = self.logs.get_mut(&entry.log) {
                        log.records = log.records.split_off(&entry.position);
                    }
                }
                EntryKind::TrimClass => self.trim_class(body),
                EntryKind::Once => {
                    if let (Some(key), Some(position)) = (OnceKey::from_bytes(body), before) {
                        self.once.insert(key, position);
                    }
                }
                EntryKind::Release => {
                    if let Some(key) = OnceKey::from_bytes(body) {
                        self.once.remove(&key);
                    }
                }
            }
            before = Some(entry.position);
        }
    }

    pub(super) fn append(&mut self, entry: &Entry, body: &[u8]) {
        let Some(log) = self.logs.get_mut(&entry.log) else {
            return;
        };
        self.next.insert(log.sequence, entry.position.0 + 1);
        log.newest_mark = entry.mark;
        let record = Record {
            time: entry.time,
            mark: entry.mark,
            body: body.to_vec(),
        };
        log.records.insert(entry.position, record);
    }

    pub(super) fn create(&mut self, id: LogId, body: &[u8]) {
        let Some(created) = LogCreated::parse(body) else {
            return;
        };
        self.last_log = self.last_log.max(id.0);
        self.next.entry(created.sequence).or_insert(Offset::FIRST.0);
        self.logs.entry(id).or_insert_with(|| Log {
            name: created.name.to_vec(),
            sequence: created.sequence,
            class: created.class,
            records: BTreeMap::new(),
            newest_mark: Mark::START,
        });
    }

    pub(super) fn trim_class(&mut self, body: &[u8]) {
        let Some((class, rest)) = body.split_first_chunk::<2>() else {
            return;
        };
        let Some((before, _)) = rest.split_first_chunk::<8>() else {
            return;
        };
        let class = RetentionClass(u16::from_le_bytes(*class));
        let before = Mark::from_bytes(*before);
        for log in self.logs.values_mut().filter(|log| log.class == class) {
            log.records.retain(|_, record| record.mark >= before);
        }
    }

    pub(super) fn bounds(&self, log: &Log) -> Bounds {
        let next = Offset(self.next.get(&log.sequence).copied().unwrap_or(Offset::FIRST.0));
        Bounds {
            first: log.records.keys().next().copied().unwrap_or(next),
            next,
            records: log.records.len() as u64,
            bytes: log.records.values().map(|record| record.body.len() as u64).sum(),
            newest_time: log.records.values().next_back().map_or(0, |record| record.time),
            newest_mark: log.newest_mark,
        }
    }

    pub(super) fn log(&self, id: LogId) -> Result<&Log> {
        self.logs.get(&id).ok_or(Error::NoLog(id))
    }
}

pub(super) fn apply_row(rows: &mut Rows, entry: &Entry, body: &[u8]) {
    let Some((key, row)) = parse_row(body) else {
        return;
    };
    let key = (entry.table(), key.to_vec());
    if entry.kind == EntryKind::RowDeleted {
        rows.remove(&key);
        return;
    }
    let row = Row {
        bytes: row.to_vec(),
        mark: entry.mark,
    };
    rows.insert(key, row);
}
