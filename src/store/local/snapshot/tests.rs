//! Snapshots: what is written is read back, also from a chain; what is damaged or cut is never taken.

use super::*;
use crate::store::local::faulty_disk::{FaultyDisk, Random};
use crate::store::{Offset, OnceKey, RetentionClass, SequenceId};

const DIR: &str = "/data/snapshots";

type Model = (BTreeMap<(u8, Vec<u8>), (Vec<u8>, u64)>, BTreeMap<u64, LogState>);

fn head(mark: u64) -> Head {
    Head {
        mark: Mark::new(mark),
        next_log: mark + 1,
        next_batch: mark + 2,
        incarnation: 3,
    }
}

fn log(id: u64, mark: u64) -> LogState {
    LogState {
        id: LogId(id),
        name: format!("topic/{id}").into_bytes(),
        sequence: SequenceId(id),
        class: RetentionClass(0),
        first: Offset(1),
        next: Offset(mark),
        records: mark,
        bytes: 10 * mark,
        newest_time: 5,
        newest_mark: Mark::new(mark),
        last_segment: 1,
        depth: 1,
    }
}

fn once(mark: u64) -> OnceState {
    let key = OnceKey {
        owner: mark,
        generation: 1,
        id: 2,
    };
    OnceState {
        key,
        log: LogId(1),
        offset: Offset(mark),
        mark: Mark::new(mark),
    }
}

fn segment(mark: u64) -> SegmentState {
    SegmentState {
        number: 1,
        generation: 0,
        first: 0,
        end: mark,
        first_time: 1,
        last_time: 2,
        live_bytes: 3,
        size: 4,
    }
}

/// Writes a snapshot at `mark` with some random changes, and applies them to the model.
fn write(snapshots: &mut Snapshots, model: &mut Model, random: &mut Random, mark: u64) -> Result<()> {
    let (mut rows, mut logs) = (RowChanges::new(), LogChanges::new());
    let mut next = model.clone();
    for _ in 0..=random.below(30) {
        let key = (random.below(3) as u8, format!("{}", random.below(40)).into_bytes());
        let row = (random.below(4) > 0).then(|| vec![b'x'; random.below(50) as usize]);
        match &row {
            Some(row) => next.0.insert(key.clone(), (row.clone(), mark - 1)),
            None => next.0.remove(&key),
        };
        let change = RowChange {
            mark: Mark::new(mark - 1),
            row,
        };
        rows.insert((Table(key.0), key.1), change);
        let id = random.below(10) + 1;
        let state = (random.below(4) > 0).then(|| log(id, mark));
        match &state {
            Some(state) => next.1.insert(id, state.clone()),
            None => next.1.remove(&id),
        };
        logs.insert(LogId(id), state);
    }
    let contents = Contents {
        head: head(mark),
        segments: &[segment(mark)],
        once: &[once(mark), once(mark + 1)],
        logs: &logs,
        rows: &rows,
    };
    snapshots.write(&contents, &|| {})?;
    *model = next;
    Ok(())
}

type Opened = (Snapshots, Option<Loaded>, Model);

fn load(disk: &FaultyDisk) -> Result<Opened> {
    let mut model = Model::default();
    let mut visited = Vec::new();
    let (snapshots, loaded) = Snapshots::load(Arc::new(disk.clone()), Path::new(DIR), &mut |table, key, row| {
        visited.push((table.0, key.to_vec()));
        model
            .0
            .insert((table.0, key.to_vec()), (row.bytes.clone(), row.mark.raw()));
    })?;
    assert!(
        visited.is_sorted() && visited.len() == model.0.len(),
        "each key once, in order"
    );
    for log in loaded.iter().flat_map(|loaded| &loaded.logs) {
        model.1.insert(log.id.0, log.clone());
    }
    Ok((snapshots, loaded, model))
}

/// A base at 10 and deltas at 20, 30, 40, with the model after each.
fn chain(disk: &FaultyDisk) -> Vec<Model> {
    let mut snapshots = load(disk).unwrap().0;
    let mut random = Random::new(7);
    let mut models = vec![Model::default()];
    for mark in [10, 20, 30, 40] {
        let mut model = models.last().cloned().unwrap();
        write(&mut snapshots, &mut model, &mut random, mark).unwrap();
        models.push(model);
    }
    models
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

#[test]
fn without_files_there_is_nothing_to_load() {
    let (snapshots, loaded, _) = load(&FaultyDisk::new()).unwrap();
    assert!(loaded.is_none());
    assert_eq!((snapshots.mark(), snapshots.oldest_mark()), (Mark::START, Mark::START));
}

#[test]
fn what_is_loaded_is_what_was_written_over_many_deltas_and_merges() {
    let disk = FaultyDisk::new();
    let mut random = Random::new(1);
    let mut model = Model::default();
    let (mut snapshots, mut merges) = (load(&disk).unwrap().0, 0);
    for mark in (10..600).step_by(10) {
        write(&mut snapshots, &mut model, &mut random, mark).unwrap();
        if snapshots.merge_due() {
            snapshots.merge(&|| {}).unwrap();
            assert!(!snapshots.merge_due());
            merges += 1;
        }
        let (reopened, loaded, read) = load(&disk).unwrap();
        let loaded = loaded.unwrap();
        assert_eq!(read, model);
        assert_eq!((loaded.head, reopened.mark()), (head(mark), Mark::new(mark)));
        assert_eq!(
            (loaded.segments, loaded.once),
            (vec![segment(mark)], vec![once(mark), once(mark + 1)])
        );
        assert!(loaded.passed_over.is_empty());
        assert_eq!(reopened.oldest_mark(), snapshots.oldest_mark());
        assert_eq!(reopened.bytes(), snapshots.bytes());
        if mark % 70 == 0 {
            snapshots = reopened;
        }
    }
    assert!(merges > 5);
    let names = disk.list(Path::new(DIR)).unwrap();
    let bases = names.iter().filter(|name| name.ends_with("base.snap")).count();
    assert_eq!(bases, 2, "the last two chains are kept: {names:?}");
}

#[test]
fn every_flipped_byte_of_a_delta_falls_back_to_what_lies_before_it() {
    let disk = FaultyDisk::new();
    let models = chain(&disk);
    let name = path("0000000000000028.delta.snap");
    for at in 0..disk.content(&name).len() {
        let damaged = disk.fork();
        damaged.damage(&name, at, |bytes| bytes[0] ^= 0x10);
        let (_, loaded, model) = load(&damaged).unwrap();
        let loaded = loaded.unwrap();
        assert_eq!(loaded.head.mark, Mark::new(30), "byte {at}");
        assert_eq!(model, models[3]);
        let named = matches!(&loaded.passed_over[..], [Error::Damaged { file, .. }] if file.contains("28.delta"));
        assert!(named, "{:?}", loaded.passed_over);
    }
}

#[test]
fn every_prefix_of_a_delta_falls_back_to_what_lies_before_it() {
    let disk = FaultyDisk::new();
    let models = chain(&disk);
    let name = path("000000000000001e.delta.snap");
    let whole = disk.content(&name);
    for length in 0..whole.len() {
        let cut = disk.fork();
        cut.plant(&name, &whole[..length]);
        let (_, loaded, model) = load(&cut).unwrap();
        assert_eq!((loaded.unwrap().head.mark, &model), (Mark::new(20), &models[2]));
    }
}

#[test]
fn a_damaged_base_costs_nothing_while_the_older_chain_is_whole() {
    let disk = FaultyDisk::new();
    let mut model = chain(&disk).pop().unwrap();
    let mut snapshots = load(&disk).unwrap().0;
    snapshots.merge(&|| {}).unwrap();
    write(&mut snapshots, &mut model, &mut Random::new(3), 50).unwrap();
    disk.damage(&path("0000000000000028.base.snap"), 100, |bytes| bytes[0] ^= 1);
    let (mut snapshots, loaded, read) = load(&disk).unwrap();
    assert_eq!((&read, loaded.unwrap().head.mark), (&model, Mark::new(50)));
    assert_eq!(snapshots.oldest_mark(), Mark::new(10));
    write(&mut snapshots, &mut model, &mut Random::new(4), 60).unwrap();
    let (mut snapshots, loaded, read) = load(&disk).unwrap();
    assert_eq!(
        (&read, loaded.unwrap().passed_over.len()),
        (&model, 0),
        "what is bad was set aside"
    );
    snapshots.merge(&|| {}).unwrap();
    assert_eq!(load(&disk).unwrap().2, model);
}

#[test]
fn a_delta_behind_a_bad_one_is_set_aside_and_the_chain_goes_on() {
    let disk = FaultyDisk::new();
    let mut model = chain(&disk)[2].clone();
    disk.damage(&path("000000000000001e.delta.snap"), 60, |bytes| bytes[0] ^= 1);
    let mut snapshots = load(&disk).unwrap().0;
    write(&mut snapshots, &mut model, &mut Random::new(5), 35).unwrap();
    let (_, loaded, read) = load(&disk).unwrap();
    assert_eq!((read, loaded.unwrap().head.mark), (model, Mark::new(35)));
    assert!(
        disk.list(Path::new(DIR))
            .unwrap()
            .contains(&"0000000000000028.delta.snap.bad".to_owned())
    );
}

#[test]
fn a_missing_delta_breaks_its_chain() {
    let disk = FaultyDisk::new();
    let models = chain(&disk);
    disk.lose(&path("000000000000001e.delta.snap"));
    let (_, loaded, model) = load(&disk).unwrap();
    assert_eq!((loaded.unwrap().head.mark, &model), (Mark::new(20), &models[2]));
}

#[test]
fn with_every_base_bad_the_store_says_so() {
    let disk = FaultyDisk::new();
    chain(&disk);
    disk.damage(&path("000000000000000a.base.snap"), 60, |bytes| bytes[0] ^= 1);
    assert!(matches!(load(&disk), Err(Error::Damaged { file, .. }) if file.contains("0a.base")));
    disk.lose(&path("000000000000000a.base.snap"));
    assert!(matches!(load(&disk), Err(Error::Damaged { .. })));
}

#[test]
fn a_file_that_cannot_be_read_is_not_taken_for_a_bad_one() {
    let disk = FaultyDisk::new();
    chain(&disk);
    disk.fail_read(&path("0000000000000028.delta.snap"), 0);
    assert!(matches!(load(&disk), Err(Error::Io(cause)) if cause.contains("28.delta")));
}

#[test]
fn a_snapshot_at_the_mark_of_the_last_one_is_not_written_and_none_goes_back() {
    let disk = FaultyDisk::new();
    let mut model = chain(&disk).pop().unwrap();
    let mut snapshots = load(&disk).unwrap().0;
    let before = disk.count();
    write(&mut snapshots, &mut model.clone(), &mut Random::new(5), 40).unwrap();
    assert_eq!(disk.count(), before);
    assert!(matches!(
        write(&mut snapshots, &mut model, &mut Random::new(5), 39),
        Err(Error::Refused(_))
    ));
}

/// The power goes at every operation of a write and of a merge: the next start finds the old state or the new one.
#[test]
fn a_power_cut_at_any_operation_leaves_the_old_chain_or_the_new_one() {
    let disk = FaultyDisk::new();
    let models = chain(&disk);
    for step in 1.. {
        let cut = disk.fork();
        let (mut snapshots, _, mut model) = load(&cut).unwrap();
        cut.stop_at(cut.count() + step);
        let written = write(&mut snapshots, &mut model, &mut Random::new(9), 50).is_ok();
        let merged = written && snapshots.merge(&|| {}).is_ok();
        cut.power_cut(step);
        let (mut snapshots, loaded, read) = load(&cut).unwrap();
        let loaded = loaded.unwrap();
        assert!(loaded.passed_over.is_empty(), "step {step}: {:?}", loaded.passed_over);
        if loaded.head.mark == Mark::new(40) {
            assert!(!written);
            assert_eq!(read, models[4]);
        } else {
            assert_eq!(loaded.head.mark, Mark::new(50));
        }
        let mut model = read;
        write(&mut snapshots, &mut model, &mut Random::new(11), 60).unwrap();
        snapshots.merge(&|| {}).unwrap();
        assert_eq!(load(&cut).unwrap().2, model);
        if merged {
            assert!(step > 8);
            break;
        }
    }
}

#[test]
fn a_full_disk_leaves_the_chain_as_it_was() {
    let disk = FaultyDisk::new();
    let mut model = chain(&disk).pop().unwrap();
    let before = model.clone();
    let mut snapshots = load(&disk).unwrap().0;
    disk.set_full(true);
    assert!(matches!(
        write(&mut snapshots, &mut model, &mut Random::new(1), 50),
        Err(Error::Io(_))
    ));
    disk.set_full(false);
    assert_eq!(load(&disk).unwrap().2, before);
    write(&mut snapshots, &mut model, &mut Random::new(1), 50).unwrap();
    assert_eq!(load(&disk).unwrap().2, model);
}
