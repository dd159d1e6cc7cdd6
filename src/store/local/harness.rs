//! What the tests of the embedded store share: a store on the faulty disk, stepped by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::data_dir::DataDir;
use super::faulty_disk::FaultyDisk;
use super::{LocalStore, OpenReport, Options};
use crate::clock::Clock;
use crate::store::{
    Batch, Class, EntryKind, Feed, FeedItem, Limit, LogId, Mark, MessageLog, Offset, ReadBuf, Result, RetentionClass,
    Store, Table, Ticket,
};

pub(super) const NOON: i64 = 1_800_000_000_000;
pub(super) const ROWS: Table = Table(3);

/// Small segments, no threads.
pub(super) fn options(disk: &FaultyDisk) -> Options {
    Options {
        segment_bytes: 8192,
        clock: Clock::manual(NOON),
        disk: Arc::new(disk.clone()),
        stepped: true,
        ..Options::new("data")
    }
}

/// A store on a faulty disk with its feed.
pub(super) struct Machine {
    pub(super) disk: FaultyDisk,
    pub(super) store: LocalStore,
    pub(super) feed: Feed,
    pub(super) report: OpenReport,
    /// Batches handed out before the feed had caught up.
    pub(super) replayed: Vec<Arc<Batch>>,
}

impl Machine {
    pub(super) fn start(disk: &FaultyDisk) -> Self {
        Self::try_start(disk).unwrap()
    }

    pub(super) fn try_start(disk: &FaultyDisk) -> Result<Self> {
        Self::start_with(disk, options(disk))
    }

    pub(super) fn start_with(disk: &FaultyDisk, options: Options) -> Result<Self> {
        let (store, report) = LocalStore::open(options)?;
        let mut feed = store.feed();
        let mut replayed = Vec::new();
        loop {
            match feed.try_next() {
                Some(FeedItem::Batch(batch)) => replayed.push(batch),
                Some(FeedItem::CaughtUp) => break,
                other => panic!("{other:?} before the feed has caught up"),
            }
        }
        Ok(Self {
            disk: disk.clone(),
            store,
            feed,
            report,
            replayed,
        })
    }

    /// Everything the feed has now; what it has handed out is finished.
    pub(super) fn drain(&mut self) -> Vec<FeedItem> {
        std::iter::from_fn(|| self.feed.try_next()).collect()
    }

    pub(super) fn create(&self, name: &str) -> LogId {
        let mut commit = self.store.begin(Class::C);
        let log = self.store.create(&mut commit, name.as_bytes(), None, RetentionClass(0));
        self.store.commit(commit).unwrap();
        log
    }

    /// Commits one record; nothing is written yet.
    pub(super) fn append(&self, log: LogId, body: &[u8]) -> Ticket {
        let mut commit = self.store.begin(Class::A);
        commit.append(log, &[body], false);
        self.store.commit(commit).unwrap()
    }

    /// Commits one record that nobody waits for.
    pub(super) fn append_lazy(&self, log: LogId, body: &[u8]) -> Ticket {
        let mut commit = self.store.begin(Class::A);
        commit.lazy();
        commit.append(log, &[body], false);
        self.store.commit(commit).unwrap()
    }

    /// One record, durable.
    pub(super) fn publish(&mut self, log: LogId, body: &[u8]) {
        let ticket = self.append(log, body);
        self.store.pump(false);
        self.drain();
        assert_eq!(self.store.outcome(&ticket), Some(Ok(())));
    }

    /// All bodies of a log.
    pub(super) fn bodies(&self, log: LogId) -> Vec<Vec<u8>> {
        bodies(&self.store, log)
    }
}

pub(super) fn segment(number: u32) -> PathBuf {
    DataDir::new(Path::new("data")).segment(number)
}

pub(super) const ALL: Limit = Limit {
    records: usize::MAX,
    bytes: usize::MAX,
    before: Mark::END,
};

/// All bodies of a log, read back.
pub(super) fn bodies(store: &LocalStore, log: LogId) -> Vec<Vec<u8>> {
    let mut buffer = ReadBuf::default();
    if store.log.read_cold(log, Offset(0), ALL, &mut buffer).is_err() {
        return Vec::new();
    }
    buffer
        .records
        .iter()
        .map(|record| buffer.body(record).to_vec())
        .collect()
}

/// Bodies of the data records of batches.
pub(super) fn data_of(batches: &[Arc<Batch>]) -> Vec<Vec<u8>> {
    let entries = batches
        .iter()
        .flat_map(|batch| batch.entries.iter().map(move |entry| (batch, entry)));
    entries
        .filter(|(_, entry)| entry.kind == EntryKind::Data)
        .map(|(batch, entry)| batch.body(entry).to_vec())
        .collect()
}
