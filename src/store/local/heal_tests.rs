//! Sidecars that are made again, and records that are passed over.

use std::path::PathBuf;

use super::damage::Damage;
use super::faulty_disk::FaultyDisk;
use super::harness::{Machine, options, segment};
use super::{LocalStore, Options};
use crate::store::{Class, LogId, Mark, MessageLog, Offset, RetentionClass, SequenceId, Store, Table};

const DAMAGE: Table = Table(19);

fn with_damage(disk: &FaultyDisk) -> Options {
    Options {
        damage: Some(DAMAGE),
        recent_bytes: 0,
        ..options(disk)
    }
}

fn sidecar(number: u32) -> PathBuf {
    segment(number).with_extension("idx")
}

/// A killed store with sidecars of cold segments: their numbers. The logs share their numbers.
fn cold() -> (FaultyDisk, [LogId; 2], Vec<u32>) {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start_with(&disk, with_damage(&disk)).unwrap();
    let first = machine.create("a");
    let mut commit = machine.store.begin(Class::C);
    let second = machine
        .store
        .create(&mut commit, b"b", Some(SequenceId(first.0)), RetentionClass(0));
    machine.store.commit(commit).unwrap();
    for at in 0..120_u32 {
        let log = if at % 7 == 0 { second } else { first };
        machine.publish(log, &[at as u8; 300]);
    }
    machine.store.keep().unwrap();
    let cold: Vec<u32> = machine.store.log.state.read().cold.iter().copied().collect();
    assert!(cold.len() > 3);
    drop(machine);
    disk.kill();
    (disk, [first, second], cold)
}

fn all(machine: &Machine, logs: [LogId; 2]) -> Vec<u8> {
    let bodies = logs.map(|log| machine.bodies(log)).concat();
    bodies.iter().map(|body| body[0]).collect()
}

fn damages(store: &LocalStore) -> Vec<Damage> {
    let rows = store.log.state.read().rows.scan(DAMAGE, Vec::new()..vec![0xff], 100);
    rows.iter()
        .map(|(key, row)| Damage::parse(key, &row.bytes).unwrap())
        .collect()
}

#[test]
fn a_missing_or_damaged_sidecar_is_made_again_as_it_was_when_it_is_needed() {
    let (disk, logs, cold) = cold();
    let fork = disk.fork();
    let expected = all(&Machine::start_with(&fork, with_damage(&fork)).unwrap(), logs);
    assert_eq!(expected.len(), 120);
    for number in &cold {
        let original = disk.content(&sidecar(*number));
        for at in [None, Some(10), Some(50), Some(original.len() - 1)] {
            let disk = disk.fork();
            match at {
                None => disk.lose(&sidecar(*number)),
                Some(at) => disk.damage(&sidecar(*number), at, |bytes| bytes[0] ^= 1),
            }
            let machine = Machine::start_with(&disk, with_damage(&disk)).unwrap();
            assert_eq!(all(&machine, logs), expected, "segment {number}, byte {at:?}");
            // One of an empty segment is of interest to maintenance only.
            machine.store.log.is_dead(*number).unwrap();
            assert!(disk.content(&sidecar(*number)) == original);
            assert!(damages(&machine.store).is_empty());
        }
    }
}

#[test]
fn without_any_sidecar_every_record_is_found_and_every_sidecar_made_again() {
    let (disk, logs, cold) = cold();
    let originals: Vec<_> = cold.iter().map(|number| disk.content(&sidecar(*number))).collect();
    for number in &cold {
        disk.lose(&sidecar(*number));
    }
    let machine = Machine::start_with(&disk, with_damage(&disk)).unwrap();
    assert_eq!(
        machine.store.log.count_cold(logs[0], Offset(0), Offset(999)).unwrap(),
        102
    );
    assert_eq!(all(&machine, logs).len(), 120);
    let made: Vec<_> = cold.iter().map(|number| disk.content(&sidecar(*number))).collect();
    assert!(made == originals);
}

#[test]
fn a_sidecar_that_can_neither_be_read_nor_made_again_is_an_error_that_names_it() {
    let (disk, logs, cold) = cold();
    disk.fail_read(&sidecar(cold[1]), 0);
    let machine = Machine::start_with(&disk, with_damage(&disk)).unwrap();
    let error = machine
        .store
        .log
        .count_cold(logs[0], Offset(0), Offset(999))
        .unwrap_err();
    assert!(error.to_string().contains(".idx"), "{error}");
}

/// Where a record with this body byte lies.
fn place_of(disk: &FaultyDisk, numbers: &[u32], body: u8) -> (u32, usize) {
    let found = numbers.iter().find_map(|number| {
        let content = disk.content(&segment(*number));
        let at = content
            .windows(300)
            .position(|window| window.iter().all(|byte| *byte == body))?;
        Some((*number, at))
    });
    found.unwrap()
}

#[test]
fn a_damaged_record_is_passed_over_and_noted_once() {
    let (disk, logs, cold) = cold();
    let (number, at) = place_of(&disk, &cold, 33);
    disk.damage(&segment(number), at + 7, |bytes| bytes[0] ^= 1);
    let mut machine = Machine::start_with(&disk, with_damage(&disk)).unwrap();
    for _ in 0..2 {
        let found = all(&machine, logs);
        assert_eq!(found.len(), 119);
        assert!(!found.contains(&33));
        machine.store.pump(true);
        machine.drain();
        let damages = damages(&machine.store);
        assert_eq!(damages.len(), 1);
        let damage = &damages[0];
        assert_eq!(damage.file, format!("log/{number:010}.seg"));
        assert_eq!(damage.offset, at as u64 - 40);
        assert_eq!((damage.log, damage.first), (logs[0], damage.last));
    }
    let mark = machine.store.mark();
    drop(machine);
    disk.kill();
    // Another run reads it again and has nothing to add.
    let machine = Machine::start_with(&disk, with_damage(&disk)).unwrap();
    let begin = machine.store.mark();
    assert_eq!(all(&machine, logs).len(), 119);
    assert_eq!(machine.store.mark(), begin);
    assert!(mark < begin && begin < Mark::END);
}

#[test]
fn a_damaged_record_is_no_reason_to_lose_others_when_a_sidecar_is_made_again() {
    for (byte, left) in [(7_i64, 119), (-40, 119), (-45, 119), (-96, 119)] {
        let (disk, logs, cold) = cold();
        let (number, at) = place_of(&disk, &cold, 33);
        let at = usize::try_from(at as i64 + byte).unwrap();
        disk.damage(&segment(number), at, |bytes| bytes[0] ^= 1);
        disk.lose(&sidecar(number));
        let mut machine = Machine::start_with(&disk, with_damage(&disk)).unwrap();
        assert_eq!(all(&machine, logs).len(), left, "byte {byte}");
        machine.store.pump(true);
        machine.drain();
        assert_eq!(damages(&machine.store).len(), 1, "byte {byte}");
    }
}
