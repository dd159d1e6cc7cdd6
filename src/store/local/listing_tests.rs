//! The catalog through the store: rows are listed whatever became of its files (R23).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Durability, LocalStore, Options};
use crate::clock::Clock;
use crate::store::{Class, Feed, KeyedRow, Mark, MessageLog, MetaStore, Store, Table};

const TABLE: Table = Table(1);
const OTHER: Table = Table(2);
const LONG: Duration = Duration::from_mins(1);

fn options(dir: &Path) -> Options {
    Options {
        segment_bytes: 8192,
        clock: Clock::manual(super::harness::NOON),
        cataloged: vec![TABLE],
        stepped: true,
        ..Options::new(dir)
    }
}

struct Running {
    store: LocalStore,
    feed: Feed,
}

impl Running {
    fn start(dir: &Path) -> Self {
        Self::start_with(options(dir))
    }

    fn start_with(options: Options) -> Self {
        let (store, _) = LocalStore::open(options).unwrap();
        let feed = store.feed();
        let mut running = Self { store, feed };
        running.drain();
        running
    }

    fn drain(&mut self) {
        while self.feed.try_next().is_some() {}
    }

    /// A row, durable and passed through the feed.
    fn put(&mut self, table: Table, key: &str, row: Option<&str>) {
        let mut commit = self.store.begin(Class::B);
        match row {
            Some(row) => commit.put(table, key.as_bytes(), row.as_bytes()),
            None => commit.delete(table, key.as_bytes()),
        }
        self.store.commit(commit).unwrap();
        self.store.pump(false);
        self.drain();
    }

    fn put_many(&mut self, from: usize, count: usize) {
        for number in from..from + count {
            self.put(TABLE, &format!("key {number:04}"), Some(&"x".repeat(number % 90)));
        }
    }

    fn list(&self, table: Table) -> Vec<KeyedRow> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let rows = self.store.scan(table, Vec::new()..vec![0xff], usize::MAX);
        runtime.block_on(rows).unwrap()
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let row = runtime.block_on(self.store.get(TABLE, key.as_bytes())).unwrap();
        row.map(|row| row.bytes)
    }

    /// The catalog holds what memory holds, and it is the catalog that answers.
    fn assert_cataloged(&self) -> usize {
        let catalog = self.store.log.listing.get().unwrap().catalog().unwrap();
        assert!(catalog.sync(LONG), "the catalog is there");
        let rows = self.list(TABLE);
        let held = std::mem::take(&mut self.store.log.state.write().rows);
        assert_eq!(self.list(TABLE), rows, "the catalog needs no memory");
        assert_eq!(held.scan(TABLE, Vec::new()..vec![0xff], usize::MAX), rows);
        self.store.log.state.write().rows = held;
        rows.len()
    }
}

fn set_aside(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let bad = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("state.bad-");
    entries.filter(bad).collect()
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A closed store with 40 rows.
fn closed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path());
    running.put_many(0, 40);
    assert_eq!(running.assert_cataloged(), 40);
    running.store.close().unwrap();
    dir
}

#[test]
fn a_caller_lists_its_own_writes_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path());
    running.put(TABLE, "a", Some("1"));
    running.put(TABLE, "b", Some("1"));
    running.put(OTHER, "a", Some("other"));
    assert_eq!(running.get("a").unwrap(), b"1");
    running.put(TABLE, "a", Some("2"));
    running.put(TABLE, "b", None);
    assert_eq!((running.get("a").unwrap(), running.get("b")), (b"2".to_vec(), None));
    assert_eq!(running.assert_cataloged(), 1);
    running.put(TABLE, "c", Some("3"));
    assert_eq!(running.list(TABLE).len(), 2);
    running.store.close().unwrap();
    assert_eq!(
        running.list(TABLE).len(),
        2,
        "memory answers when the catalog is closed"
    );
    drop(running);
    let running = Running::start(dir.path());
    assert_eq!(running.list(TABLE).len(), 2);
    assert_eq!(running.assert_cataloged(), 2);
    assert_eq!(running.get("a").unwrap(), b"2");
    assert_eq!(running.list(OTHER).len(), 1);
    assert!(set_aside(dir.path()).is_empty());
}

#[test]
fn r23_a_catalog_that_is_gone_is_made_anew() {
    let dir = closed();
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let running = Running::start(dir.path());
    assert_eq!(running.list(TABLE).len(), 40, "lists are answered meanwhile");
    assert_eq!(running.assert_cataloged(), 40);
}

#[test]
fn r23_a_damaged_catalog_is_set_aside_and_made_anew() {
    for name in ["db", "conf"] {
        let dir = closed();
        let path = dir.path().join("state").join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        // Not every byte of sled's means something any more.
        bytes.iter_mut().take(written).step_by(50).for_each(|byte| *byte ^= 4);
        std::fs::write(&path, bytes).unwrap();
        let mut running = Running::start(dir.path());
        assert_eq!(running.list(TABLE).len(), 40, "lists are answered meanwhile");
        running.put_many(40, 3);
        assert_eq!(running.assert_cataloged(), 43);
        // A log of sled's that does not verify from its beginning on counts as empty, which is no evidence of anything.
        assert_eq!(set_aside(dir.path()).len(), usize::from(name == "conf"), "{name}");
    }
}

#[test]
fn r23_a_catalog_ahead_of_the_log_is_set_aside_and_made_anew() {
    let dir = closed();
    let backup = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), backup.path());
    let mut running = Running::start(dir.path());
    running.put_many(40, 5);
    assert_eq!(running.assert_cataloged(), 45);
    running.store.close().unwrap();
    drop(running);
    // A backup is put back, and the catalog stays as it was.
    for name in ["log", "snapshots"] {
        std::fs::remove_dir_all(dir.path().join(name)).unwrap();
        copy_dir(&backup.path().join(name), &dir.path().join(name));
    }
    let running = Running::start(dir.path());
    assert_eq!(running.assert_cataloged(), 40);
    assert_eq!(set_aside(dir.path()).len(), 1);
}

#[test]
fn a_catalog_that_lags_catches_up_from_the_log() {
    let dir = closed();
    let old = tempfile::tempdir().unwrap();
    copy_dir(&dir.path().join("state"), old.path());
    let mut running = Running::start(dir.path());
    running.put_many(30, 20);
    running.put(TABLE, "key 0001", None);
    running.store.close().unwrap();
    drop(running);
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    copy_dir(old.path(), &dir.path().join("state"));
    let running = Running::start(dir.path());
    assert_eq!(running.assert_cataloged(), 49);
    assert!(set_aside(dir.path()).is_empty());
}

#[test]
fn a_catalog_from_before_the_snapshot_is_made_anew() {
    let dir = closed();
    let old = tempfile::tempdir().unwrap();
    copy_dir(&dir.path().join("state"), old.path());
    let mut running = Running::start(dir.path());
    running.put_many(30, 120);
    running.store.keep().unwrap();
    let applied = running.store.log.listing.get().unwrap().catalog().unwrap().applied();
    running.store.close().unwrap();
    drop(running);
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    copy_dir(old.path(), &dir.path().join("state"));
    let running = Running::start(dir.path());
    assert!(applied > Mark::START);
    assert_eq!(running.assert_cataloged(), 150);
}

#[test]
fn a_catalog_is_brought_up_to_a_snapshot_before_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path());
    assert!(running.store.log.listing.get().unwrap().catalog().unwrap().sync(LONG));
    running.put_many(0, 120);
    running.store.keep().unwrap();
    let begin = running.store.log.state.read().active.number;
    let applied = running.store.log.listing.get().unwrap().catalog().unwrap().applied();
    assert!(applied.raw() >= super::log::frame::lsn(begin, 4096));
}

#[test]
fn in_interval_durability_a_row_is_listed_when_written_and_cataloged_when_synced() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        durability: Durability::Interval(60_000),
        ..options(dir.path())
    };
    let mut running = Running::start_with(options.clone());
    running.put(TABLE, "a", Some("1"));
    let listing = running.store.log.listing.get().unwrap();
    assert!(listing.catalog().is_none(), "it lacks what readers have seen");
    assert_eq!(running.get("a").unwrap(), b"1");
    running.store.pump(true);
    assert_eq!(running.assert_cataloged(), 1);
    drop(running);
    let running = Running::start_with(options);
    assert_eq!(running.assert_cataloged(), 1);
}
