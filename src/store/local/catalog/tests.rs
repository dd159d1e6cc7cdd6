//! The catalog: what it lists, what survives an interrupted flush, and how it is made again.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::store::Error;
use crate::store::local::faulty_disk::Random;

const TABLES: [Table; 2] = [Table(1), Table(2)];
const LONG: Duration = Duration::from_mins(1);

type Rows = BTreeMap<(Table, Vec<u8>), Row>;

/// A store's rows, and a catalog beside them.
struct World {
    dir: tempfile::TempDir,
    rows: Arc<Mutex<Rows>>,
    asked: Arc<AtomicUsize>,
    mark: u64,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            rows: Arc::default(),
            asked: Arc::default(),
            mark: 100,
        }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn start(&self) -> Catalog {
        self.start_between(0, self.mark)
    }

    fn start_between(&self, floor: u64, end: u64) -> Catalog {
        let (rows, asked) = (Arc::clone(&self.rows), Arc::clone(&self.asked));
        let source: Source = Arc::new(move |table, range: Range<Vec<u8>>, limit| {
            asked.fetch_add(1, Ordering::Relaxed);
            let rows = rows.lock();
            let range = rows.range((table, range.start)..(table, range.end));
            Ok(range
                .take(limit)
                .map(|((_, key), row)| (key.clone(), row.clone()))
                .collect())
        });
        let options = Options {
            dir: self.state(),
            tables: TABLES.to_vec(),
            floor: Mark::new(floor),
            end: Mark::new(end),
            clock: Clock::manual(1_700_000_000_000),
            barrier: Box::new(|| Ok(())),
        };
        Catalog::start(options, source)
    }

    /// Changes a row, in the store and in the catalog.
    fn change(&mut self, catalog: &Catalog, table: u8, key: &[u8], row: Option<&[u8]>) {
        let mark = Mark::new(self.mark);
        self.mark += 1;
        let at = (Table(table), key.to_vec());
        match row {
            Some(bytes) => {
                let bytes = bytes.to_vec();
                self.rows.lock().insert(at, Row { bytes, mark })
            }
            None => self.rows.lock().remove(&at),
        };
        let change = (Table(table), key.to_vec(), row.map(<[u8]>::to_vec), mark);
        catalog.apply(vec![change], Mark::new(self.mark));
    }

    fn put_many(&mut self, catalog: &Catalog, count: usize) {
        for number in 0..count {
            let row = vec![b'r'; 20 + number % 200];
            self.change(
                catalog,
                1 + (number % 2) as u8,
                format!("key {number}").as_bytes(),
                Some(&row),
            );
        }
    }

    /// The catalog answers from its database, and as the store does.
    fn assert_right(&self, catalog: &Catalog) {
        assert!(catalog.sync(LONG), "the database is there");
        assert_eq!(catalog.applied(), Mark::new(self.mark));
        let before = self.asked.load(Ordering::Relaxed);
        let mut found = Rows::new();
        for table in TABLES {
            let rows = catalog.scan(table, Vec::new()..vec![0xff], usize::MAX).unwrap();
            found.extend(rows.into_iter().map(|(key, row)| ((table, key), row)));
        }
        assert_eq!(self.asked.load(Ordering::Relaxed), before, "the source was not asked");
        assert_eq!(found, *self.rows.lock());
    }

    fn set_aside(&self) -> usize {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("state.bad-")).count()
    }
}

/// A closed catalog of so many rows.
fn filled(rows: usize) -> World {
    let mut world = World::new();
    let catalog = world.start();
    world.put_many(&catalog, rows);
    world.assert_right(&catalog);
    catalog.close();
    world
}

fn range(from: &str, upto: &str) -> Range<Vec<u8>> {
    from.as_bytes().to_vec()..upto.as_bytes().to_vec()
}

#[test]
fn a_caller_reads_its_own_writes_at_once_and_after_a_restart() {
    let mut world = World::new();
    let catalog = world.start();
    assert!(catalog.sync(LONG));
    world.change(&catalog, 1, b"a", Some(b"1"));
    world.change(&catalog, 1, b"b", Some(b"1"));
    world.change(&catalog, 1, b"a", Some(b"2"));
    world.change(&catalog, 1, b"b", None);
    world.change(&catalog, 2, b"a", Some(b"other"));
    let answers = |catalog: &Catalog| {
        assert_eq!(catalog.get(Table(1), b"a").unwrap().unwrap().bytes, b"2");
        assert_eq!(catalog.get(Table(1), b"b").unwrap(), None);
        assert_eq!(catalog.get(Table(2), b"a").unwrap().unwrap().bytes, b"other");
    };
    answers(&catalog);
    world.assert_right(&catalog);
    catalog.close();
    answers(&catalog);
    let catalog = world.start_between(world.mark, world.mark);
    world.assert_right(&catalog);
    answers(&catalog);
}

#[test]
fn a_scan_merges_what_is_on_its_way_with_what_is_written() {
    let mut world = World::new();
    let catalog = world.start();
    let mut random = Random::new(2);
    for step in 0..2_000 {
        let key = format!("{:02}", random.below(40));
        let row = (random.below(3) > 0).then(|| format!("{step}").into_bytes());
        world.change(&catalog, 1, key.as_bytes(), row.as_deref());
        if step % 10 == 0 {
            let (from, limit) = (format!("{:02}", random.below(40)), random.below(12) as usize);
            let found = catalog.scan(Table(1), range(&from, "35"), limit).unwrap();
            let rows = world.rows.lock();
            let expected = rows
                .iter()
                .filter(|((_, key), _)| key.as_slice() >= from.as_bytes() && key.as_slice() < &b"35"[..]);
            let expected: Vec<KeyedRow> = expected
                .take(limit)
                .map(|((_, key), row)| (key.clone(), row.clone()))
                .collect();
            assert_eq!(found, expected);
            drop(rows);
            assert_eq!(catalog.get(Table(1), key.as_bytes()).unwrap().map(|row| row.bytes), row);
        }
    }
    world.assert_right(&catalog);
}

#[test]
fn more_rows_than_one_write_takes_are_all_there_after_a_restart() {
    let world = filled(7_000);
    let catalog = world.start_between(world.mark, world.mark);
    world.assert_right(&catalog);
    assert_eq!(world.set_aside(), 0);
}

#[test]
fn changes_that_come_again_after_a_restart_change_nothing() {
    let mut world = filled(10);
    let catalog = world.start();
    let old = (Table(1), b"key 0".to_vec(), Some(b"old".to_vec()), Mark::new(50));
    catalog.apply(
        vec![old, (Table(1), b"key 2".to_vec(), None, Mark::new(51))],
        Mark::new(52),
    );
    world.assert_right(&catalog);
    world.change(&catalog, 1, b"key 0", Some(b"newest"));
    world.assert_right(&catalog);
}

#[test]
fn tables_that_are_not_of_the_catalog_are_answered_from_the_source() {
    let mut world = World::new();
    let catalog = world.start();
    world.change(&catalog, 9, b"k", Some(b"v"));
    assert!(catalog.sync(LONG));
    assert_eq!(catalog.get(Table(9), b"k").unwrap().unwrap().bytes, b"v");
    assert_eq!(catalog.scan(Table(9), range("a", "z"), 10).unwrap().len(), 1);
}

#[test]
fn one_that_is_ahead_of_the_log_is_set_aside_and_only_the_last_such_is_kept() {
    let mut world = filled(20);
    for _ in 0..2 {
        world.mark -= 1;
        let newest = Mark::new(world.mark);
        world.rows.lock().retain(|_, row| row.mark < newest);
        let catalog = world.start_between(0, world.mark);
        catalog.apply(Vec::new(), Mark::new(world.mark));
        world.assert_right(&catalog);
        catalog.close();
        assert_eq!(world.set_aside(), 1);
    }
}

#[test]
fn one_that_has_missed_changes_is_filled_anew() {
    let mut world = filled(20);
    let floor = world.mark + 50;
    let at = (Table(1), b"missed".to_vec());
    let row = Row {
        bytes: b"row".to_vec(),
        mark: Mark::new(floor - 1),
    };
    world.rows.lock().insert(at, row);
    world.mark = floor;
    let catalog = world.start_between(floor, floor);
    world.assert_right(&catalog);
    assert_eq!(world.set_aside(), 0);
}

#[test]
fn one_that_was_not_filled_to_the_end_is_filled_anew() {
    let world = filled(20);
    let db = sled::open(world.state()).unwrap();
    db.remove([0]).unwrap();
    drop(db);
    let catalog = world.start();
    catalog.apply(Vec::new(), Mark::new(world.mark));
    assert!(catalog.sync(LONG));
    let asked = world.asked.load(Ordering::Relaxed);
    assert!(asked > 2);
    catalog.close();
}

#[test]
fn a_row_that_is_silently_missing_is_noticed() {
    let world = filled(50);
    let db = sled::open(world.state()).unwrap();
    db.remove(b"\x01key 10").unwrap().unwrap();
    drop(db);
    let catalog = world.start_between(world.mark, world.mark);
    world.assert_right(&catalog);
    assert_eq!(world.set_aside(), 1);
}

#[test]
fn a_row_that_does_not_verify_is_noticed_at_the_start_and_while_running() {
    let world = filled(50);
    let spoil = |tree: &sled::Tree| {
        let mut value = tree.get(b"\x01key 10").unwrap().unwrap().to_vec();
        *value.last_mut().unwrap() ^= 1;
        tree.insert(b"\x01key 10", value).unwrap();
    };
    let db = sled::open(world.state()).unwrap();
    spoil(&db);
    drop(db);
    let catalog = world.start_between(world.mark, world.mark);
    world.assert_right(&catalog);
    assert_eq!(world.set_aside(), 1);
    match &catalog.shared.state.lock().mode {
        Mode::Open(tree) => spoil(tree.database()),
        Mode::Opening | Mode::Off => panic!("the database is open"),
    }
    let row = catalog.get(Table(1), b"key 10").unwrap();
    assert_eq!(
        row.as_ref(),
        world.rows.lock().get(&(Table(1), b"key 10".to_vec())),
        "the source answers"
    );
    world.assert_right(&catalog);
}

/// Bits flipped all over real files of sled: whatever it does with them, no row is wrong or missing.
#[test]
fn flipped_bits_anywhere_in_its_files_lose_nothing() {
    let world = filled(400);
    let names: Vec<String> = std::fs::read_dir(world.state())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.len() >= 2, "{names:?}");
    let mut random = Random::new(9);
    for name in names {
        let path = world.state().join(&name);
        for _ in 0..6 {
            let mut bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            // Half of a file of sled's is room for more; what is written lies in front.
            let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or_default() + 1;
            let at = random.below(written as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            std::fs::write(&path, bytes).unwrap();
            let catalog = world.start_between(world.mark, world.mark);
            world.assert_right(&catalog);
            catalog.close();
        }
    }
    assert_eq!(world.set_aside(), 1, "some of it was noticed");
}

#[test]
fn a_cut_or_garbled_end_of_its_files_loses_nothing() {
    for name in ["db", "conf", "snap"] {
        for cut in [1, 10, 1_000, 60_000] {
            let world = filled(400);
            let entries = std::fs::read_dir(world.state())
                .unwrap()
                .map(|entry| entry.unwrap().path());
            for path in entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(name)) {
                let mut bytes = std::fs::read(&path).unwrap();
                let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                bytes.truncate(written.saturating_sub(cut));
                std::fs::write(&path, bytes).unwrap();
            }
            let catalog = world.start_between(world.mark, world.mark);
            world.assert_right(&catalog);
        }
    }
}

#[test]
fn a_file_in_the_place_of_its_directory_is_set_aside() {
    let mut world = World::new();
    std::fs::write(world.state(), b"not a directory").unwrap();
    let catalog = world.start();
    world.put_many(&catalog, 3);
    world.assert_right(&catalog);
    assert_eq!(world.set_aside(), 1);
}

#[test]
fn while_there_is_no_database_the_source_answers() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        dir: dir.path().join("no such directory/\0"),
        tables: TABLES.to_vec(),
        floor: Mark::START,
        end: Mark::END,
        clock: Clock::manual(0),
        barrier: Box::new(|| Ok(())),
    };
    let row = Row {
        bytes: b"row".to_vec(),
        mark: Mark::new(1),
    };
    let source: Source = Arc::new(move |table, range: Range<Vec<u8>>, _| match table {
        Table(1) => Ok(vec![(range.start, row.clone())]),
        _ => Err(Error::Io("broken".to_owned())),
    });
    let catalog = Catalog::start(options, source);
    assert!(!catalog.sync(Duration::from_millis(200)));
    assert_eq!(catalog.applied(), Mark::START);
    assert_eq!(catalog.get(Table(1), b"k").unwrap().unwrap().bytes, b"row");
    assert_eq!(
        catalog.scan(Table(2), range("a", "b"), 1),
        Err(Error::Io("broken".to_owned()))
    );
    catalog.close();
    catalog.close();
}
