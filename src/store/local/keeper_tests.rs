//! Sidecars, snapshots and recycling: the same answers from cold segments as from memory, bounded space, and starts
//! that fall back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::faulty_disk::FaultyDisk;
use super::harness::{ALL, Machine, NOON, options, segment};
use super::{LocalStore, Options};
use crate::store::{At, Class, Error, Limit, LogId, Mark, MessageLog, Offset, RetentionClass, Store, Touched};

/// Every question whose answer may lie in a cold segment.
fn answers(machine: &Machine, logs: &[LogId], marks: &[Mark]) -> Vec<u64> {
    let log = &machine.store.log;
    let mut answers = Vec::new();
    for id in logs {
        for mark in marks {
            answers.push(log.locate(*id, At::Mark(*mark)).unwrap().0);
        }
        for last in [0, 1, 5, 50, 90, 1000] {
            answers.push(log.locate(*id, At::Last(last)).unwrap().0);
        }
        for time in (-10..1300).step_by(70) {
            answers.push(log.locate(*id, At::Time(NOON + time)).unwrap().0);
        }
        for (from, to) in [(0, 500), (0, 7), (5, 60), (33, 34), (100, 130)] {
            answers.push(log.count_cold(*id, Offset(from), Offset(to)).unwrap());
        }
    }
    answers
}

fn touched(machine: &Machine, from: Mark, before: Mark) -> BTreeMap<LogId, (Offset, u64)> {
    let limit = Limit { before, ..ALL };
    let mut found: BTreeMap<LogId, (Offset, u64)> = BTreeMap::new();
    let (mut at, mut step) = (from, Vec::new());
    loop {
        let upto = machine.store.log.touched_cold(at, limit, &mut step).unwrap();
        for Touched { log, first, count } in step.drain(..) {
            found.entry(log).or_insert((first, 0)).1 += count;
        }
        if upto == at || upto >= before {
            return found;
        }
        at = upto;
    }
}

#[test]
fn cold_segments_give_the_same_answers_as_memory() {
    let disk = FaultyDisk::new();
    let clock = options(&disk).clock;
    let options = Options {
        clock: clock.clone(),
        ..options(&disk)
    };
    let mut machine = Machine::start_with(&disk, options.clone()).unwrap();
    let first = machine.create("a");
    let mut commit = machine.store.begin(Class::C);
    // The second shares the numbers of the first, so both have gaps.
    let sequence = Some(crate::store::SequenceId(first.0));
    let second = machine.store.create(&mut commit, b"b", sequence, RetentionClass(0));
    machine.store.commit(commit).unwrap();
    let mut marks = vec![Mark::START];
    for at in 0..120_u32 {
        clock.advance(Duration::from_millis(10));
        marks.push(machine.store.mark());
        let log = if at % 3 == 0 { second } else { first };
        machine.publish(log, &[at as u8; 300]);
    }
    let mut trim = machine.store.begin(Class::C);
    trim.trim(first, Offset(9));
    machine.store.commit(trim).unwrap();
    machine.store.pump(false);
    machine.drain();
    let logs = [first, second];
    let ranges: Vec<_> = marks
        .iter()
        .step_by(17)
        .flat_map(|from| [(*from, marks[60]), (*from, Mark::END)])
        .collect();
    let warm = answers(&machine, &logs, &marks);
    let warm_touched: Vec<_> = ranges
        .iter()
        .map(|(from, before)| touched(&machine, *from, *before))
        .collect();
    machine.store.keep().unwrap();
    assert!(machine.store.log.state.read().cold.len() > 3);
    assert_eq!(answers(&machine, &logs, &marks), warm);
    let cold_touched: Vec<_> = ranges
        .iter()
        .map(|(from, before)| touched(&machine, *from, *before))
        .collect();
    assert_eq!(cold_touched, warm_touched);
    drop(machine);
    disk.kill();
    let machine = Machine::start_with(&disk, options).unwrap();
    assert!(machine.report.from_snapshot);
    assert_eq!(answers(&machine, &logs, &marks), warm);
}

#[test]
fn what_is_trimmed_gives_its_segments_back() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    for round in 0..60_u64 {
        for _ in 0..20 {
            machine.publish(log, &[1; 500]);
        }
        let next = machine.store.bounds(log).unwrap().next;
        let mut commit = machine.store.begin(Class::C);
        commit.trim(log, Offset(next.0 - 5));
        machine.store.commit(commit).unwrap();
        machine.store.pump(false);
        machine.drain();
        machine.store.keep().unwrap();
        let files = machine.store.log.dir.log_files(&disk).unwrap();
        assert!(
            files.segments.len() + files.spares.len() < 16,
            "round {round}: {files:?}"
        );
    }
    assert_eq!(machine.bodies(log).len(), 5);
}

#[test]
fn a_pin_keeps_what_lies_behind_it() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    let pin = machine.store.pin(Mark::START);
    for _ in 0..10 {
        for _ in 0..20 {
            machine.publish(log, &[1; 500]);
        }
        let next = machine.store.bounds(log).unwrap().next;
        let mut commit = machine.store.begin(Class::C);
        commit.trim(log, next);
        machine.store.commit(commit).unwrap();
        machine.store.pump(false);
        machine.drain();
        machine.store.keep().unwrap();
    }
    let count = |machine: &Machine| machine.store.log.dir.log_files(&machine.disk).unwrap().segments.len();
    let held = count(&machine);
    assert!(held > 12);
    drop(pin);
    machine.publish(log, &[1; 7000]);
    machine.publish(log, &[1; 7000]);
    machine.store.keep().unwrap();
    assert!(count(&machine) < held);
}

#[test]
fn maintenance_gives_way_to_commits_that_are_late() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.publish(log, b"x");
    let is_late = |machine: &Machine, ms| {
        let now = Instant::now() + Duration::from_millis(ms);
        machine.store.log.append.lock().is_late(now)
    };
    assert!(!is_late(&machine, 2), "nothing waits");
    machine.append_lazy(log, b"x");
    assert!(!is_late(&machine, 2), "nobody waits");
    machine.append(log, b"x");
    assert!(is_late(&machine, 2));
    machine.store.log.give_way();
    machine.store.pump(false);
    assert!(!is_late(&machine, 2));
}

fn snapshots(disk: &FaultyDisk) -> Vec<PathBuf> {
    use super::disk::Disk;
    let dir = Path::new("data/snapshots");
    disk.list(dir).unwrap().into_iter().map(|name| dir.join(name)).collect()
}

fn with_snapshots() -> (FaultyDisk, LogId) {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    for _ in 0..3 {
        for _ in 0..20 {
            machine.publish(log, &[1; 500]);
        }
        machine.store.keep().unwrap();
    }
    drop(machine);
    disk.kill();
    (disk, log)
}

#[test]
fn r19_a_segment_that_the_snapshot_lists_must_be_there() {
    let (disk, _) = with_snapshots();
    disk.lose(&segment(2));
    let Err(error) = LocalStore::open(options(&disk)) else {
        panic!("it opened")
    };
    assert!(
        matches!(&error, Error::Damaged { file, .. } if file == "log/0000000002.seg"),
        "{error}"
    );
}

#[test]
fn r20_a_damaged_newest_snapshot_costs_a_longer_replay_and_nothing_else() {
    let (disk, log) = with_snapshots();
    let files = snapshots(&disk);
    assert!(files.len() > 1, "{files:?}");
    let length = disk.content(files.last().unwrap()).len();
    disk.damage(files.last().unwrap(), length / 2, |bytes| bytes[0] ^= 1);
    let machine = Machine::start(&disk);
    assert!(machine.report.from_snapshot);
    assert_eq!(machine.bodies(log).len(), 60);
}

#[test]
fn r21_without_a_snapshot_that_verifies_nothing_opens() {
    let (disk, _) = with_snapshots();
    for file in snapshots(&disk) {
        let length = disk.content(&file).len();
        disk.damage(&file, length / 2, |bytes| bytes[0] ^= 1);
    }
    assert!(matches!(LocalStore::open(options(&disk)), Err(Error::Damaged { .. })));
}
