//! The rows of recovery's table, one test each, on the disk that forgets.

use std::path::Path;

use super::faulty_disk::{Fault, FaultyDisk};
use super::harness::{Machine, bodies, data_of, options, segment};
use super::log::frame::{BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, SegmentHeader, flags, lsn};
use super::{LocalStore, Options};
use crate::store::{Error, LogId, Store};

/// Batches of a segment file: offset and header, as far as they verify one behind the other.
fn batches(disk: &FaultyDisk, number: u32) -> Vec<(usize, BatchHeader)> {
    let content = disk.content(&segment(number));
    let salt = SegmentHeader::decode(&content).unwrap().salt;
    let mut found = Vec::new();
    let mut at = 4096;
    while let Some(header) = content
        .get(at..)
        .and_then(|bytes| BatchHeader::decode(bytes, salt, lsn(number, at as u32)))
    {
        found.push((at, header));
        at += (56 + header.bytes as usize).div_ceil(8) * 8;
    }
    found
}

/// The active segment is 2: the first start has sealed segment 1.
const ACTIVE: u32 = 2;

/// Three acknowledged records; the process is gone.
fn three_records() -> (FaultyDisk, LogId) {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    for body in [b"one", b"two", b"six"] {
        machine.publish(log, body);
    }
    drop(machine);
    disk.kill();
    (disk, log)
}

/// What a start finds in the log, and what it says was cut.
fn reopened(disk: &FaultyDisk, log: LogId) -> (Vec<Vec<u8>>, Option<super::Cut>) {
    let machine = Machine::start(disk);
    assert_eq!(
        machine.bodies(log),
        data_of(&machine.replayed),
        "the feed brings what the log holds"
    );
    (machine.bodies(log), machine.report.cut.clone())
}

fn refusal(disk: &FaultyDisk) -> Error {
    let before: Vec<_> = (1..6).map(|number| disk.content(&segment(number))).collect();
    let Err(error) = LocalStore::open(options(disk)) else {
        panic!("it opened")
    };
    let after: Vec<_> = (1..6).map(|number| disk.content(&segment(number))).collect();
    assert!(before == after, "a refusal changes nothing");
    error
}

fn is_damage_at(error: &Error, number: u32, at: u64) -> bool {
    let name = format!("log/{number:010}.seg");
    matches!(error, Error::Damaged { file, offset, .. } if *file == name && *offset == at)
}

#[test]
fn r1_a_clean_stop_is_reported_until_something_else_is_written() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.publish(log, b"x");
    machine.store.close().unwrap();
    drop(machine);
    let machine = Machine::start(&disk);
    assert_eq!(machine.report.previous_clean_stop, Some(super::harness::NOON));
    assert_eq!(machine.report.cut, None);
    drop(machine);
    // Nothing was written since: still the same stop.
    disk.kill();
    let mut machine = Machine::start(&disk);
    assert!(machine.report.previous_clean_stop.is_some());
    machine.publish(log, b"y");
    drop(machine);
    disk.kill();
    let machine = Machine::start(&disk);
    assert_eq!(machine.report.previous_clean_stop, None);
    assert_eq!(machine.bodies(log), [b"x", b"y"]);
}

#[test]
fn r2_the_log_ends_where_no_header_follows() {
    let (disk, log) = three_records();
    assert_eq!(
        reopened(&disk, log),
        (vec![b"one".to_vec(), b"two".to_vec(), b"six".to_vec()], None)
    );
}

#[test]
fn r3_a_torn_last_batch_is_dropped_whole() {
    let (disk, log) = three_records();
    let (at, header) = *batches(&disk, ACTIVE).last().unwrap();
    disk.damage(&segment(ACTIVE), at + 56 + header.bytes as usize - 1, |bytes| {
        bytes[0] ^= 1;
    });
    let (bodies, cut) = reopened(&disk, log);
    assert_eq!(bodies, [b"one", b"two"]);
    let cut = cut.unwrap();
    assert_eq!((cut.offset, cut.batches), (at as u64, 1));
}

#[test]
fn r3_a_commit_of_several_records_is_dropped_whole_wherever_it_is_torn() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let (a, b) = (machine.create("a"), machine.create("b"));
    machine.publish(a, b"kept");
    let mut commit = machine.store.begin(crate::store::Class::C);
    commit.append(a, &[&[1; 600]], false);
    commit.append(b, &[&[2; 600]], false);
    machine.store.commit(commit).unwrap();
    machine.store.pump(false);
    drop(machine);
    disk.kill();
    let (at, header) = *batches(&disk, ACTIVE).last().unwrap();
    for byte in (0..56 + header.bytes as usize).step_by(97) {
        let disk = disk.fork();
        disk.damage(&segment(ACTIVE), at + byte, |bytes| bytes[0] ^= 1);
        let machine = Machine::start(&disk);
        assert_eq!(machine.bodies(a), [b"kept"]);
        assert!(machine.bodies(b).is_empty());
    }
}

/// Two lazy batches, written and not synced, behind an acknowledged record.
fn two_unsynced() -> (FaultyDisk, LogId) {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.publish(log, b"one");
    for body in [b"two", b"six"] {
        machine.append_lazy(log, body);
        let mut stepper = machine.store.stepper.lock();
        // Written as if its time had come; its sync has not.
        machine.store.log.append.lock().building.as_mut().unwrap().urgent = true;
        stepper.as_mut().unwrap().step(false);
    }
    drop(machine);
    disk.kill();
    (disk, log)
}

#[test]
fn r4_of_several_unsynced_batches_those_behind_a_hole_go_too() {
    let (disk, log) = two_unsynced();
    let all = batches(&disk, ACTIVE);
    let (at, _) = all[all.len() - 2];
    disk.damage(&segment(ACTIVE), at, |bytes| bytes[..60].fill(0));
    let (bodies, cut) = reopened(&disk, log);
    assert_eq!(bodies, [b"one"]);
    assert_eq!(cut.unwrap().batches, 1);
    // And once more: what was left out does not come back.
    disk.kill();
    assert_eq!(reopened(&disk, log).0, [b"one"]);
}

#[test]
fn r5_a_hole_before_a_batch_that_proves_its_sync_is_damage() {
    let (disk, _) = three_records();
    let all = batches(&disk, ACTIVE);
    for zero in [false, true] {
        let disk = disk.fork();
        let (at, _) = all[all.len() - 2];
        disk.damage(&segment(ACTIVE), at, |bytes| {
            if zero { bytes[..8].fill(0) } else { bytes[70] ^= 1 }
        });
        let error = refusal(&disk);
        assert!(is_damage_at(&error, ACTIVE, at as u64), "{error}");
        assert!(error.to_string().contains("acknowledged"));
    }
}

#[test]
fn r5_a_tick_closes_the_window_behind_the_last_acknowledged_batch() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.publish(log, b"one");
    machine.store.pump(true);
    drop(machine);
    disk.kill();
    let all = batches(&disk, ACTIVE);
    let [.., (at, _), (_, tick)] = all.as_slice() else {
        panic!()
    };
    assert!(tick.has(flags::TICK));
    disk.damage(&segment(ACTIVE), *at + 60, |bytes| bytes[0] ^= 1);
    assert!(is_damage_at(&refusal(&disk), ACTIVE, *at as u64));
}

#[test]
fn r7_a_valid_header_with_another_number_is_refused_and_never_cut() {
    let (disk, _) = three_records();
    let content = disk.content(&segment(ACTIVE));
    let salt = SegmentHeader::decode(&content).unwrap().salt;
    let (at, header) = *batches(&disk, ACTIVE).last().unwrap();
    let forged = BatchHeader {
        number: header.number + 1,
        ..header
    };
    disk.damage(&segment(ACTIVE), at, |bytes| {
        bytes[..56].copy_from_slice(&forged.encode(salt));
    });
    assert!(is_damage_at(&refusal(&disk), ACTIVE, at as u64));
}

#[test]
fn r8_a_segment_that_the_one_before_it_names_must_be_there_and_the_same() {
    let (disk, _) = three_records();
    let absent = disk.fork();
    absent.lose(&segment(ACTIVE));
    assert!(is_damage_at(&refusal(&absent), ACTIVE, 0));
    let broken = disk.fork();
    broken.damage(&segment(ACTIVE), 33, |bytes| bytes[0] ^= 1);
    assert!(is_damage_at(&refusal(&broken), ACTIVE, 0));
    let other = disk.fork();
    let header = SegmentHeader::decode(&disk.content(&segment(ACTIVE))).unwrap();
    let salt = header.salt + 1;
    other.damage(&segment(ACTIVE), 0, |bytes| {
        bytes[..4096].copy_from_slice(&SegmentHeader { salt, ..header }.encode());
    });
    assert!(is_damage_at(&refusal(&other), ACTIVE, 0));
}

#[test]
fn r9_a_successor_without_a_batch_is_the_end() {
    let (disk, log) = three_records();
    let machine = Machine::start(&disk);
    drop(machine);
    disk.kill();
    assert_eq!(batches(&disk, ACTIVE + 1).len(), 0);
    assert_eq!(reopened(&disk, log).0.len(), 3);
}

#[test]
fn r10_a_prepared_segment_that_was_not_used_is_reused() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.publish(log, b"one");
    let shared = &machine.store.log;
    shared.preparer.work(&shared.site(8192));
    drop(machine);
    disk.kill();
    let prepared = SegmentHeader::decode(&disk.content(&segment(ACTIVE + 1))).unwrap();
    assert_eq!(reopened(&disk, log).0, [b"one"]);
    assert_eq!(
        SegmentHeader::decode(&disk.content(&segment(ACTIVE + 1))),
        Some(prepared)
    );
}

#[test]
fn r11_a_batch_in_the_successor_proves_that_the_end_of_the_former_was_there() {
    let (disk, log) = three_records();
    let mut machine = Machine::start(&disk);
    machine.publish(log, b"ten");
    drop(machine);
    disk.kill();
    let (at, seal) = *batches(&disk, ACTIVE).last().unwrap();
    assert!(seal.has(flags::SEAL));
    disk.damage(&segment(ACTIVE), at, |bytes| bytes.fill(0));
    assert!(is_damage_at(&refusal(&disk), ACTIVE, at as u64));
}

#[test]
fn r12_a_torn_seal_means_that_the_switch_did_not_happen() {
    let (disk, log) = three_records();
    drop(Machine::start(&disk));
    disk.kill();
    let (at, seal) = *batches(&disk, ACTIVE).last().unwrap();
    assert!(seal.has(flags::SEAL));
    disk.damage(&segment(ACTIVE), at + 100, |bytes| bytes[0] ^= 1);
    let (bodies, cut) = reopened(&disk, log);
    assert_eq!(bodies.len(), 3);
    assert_eq!(cut.unwrap().offset, at as u64);
}

#[test]
fn r13_recovery_stopped_at_any_operation_decides_the_same_the_next_time() {
    let (torn, log) = two_unsynced();
    let all = batches(&torn, ACTIVE);
    let (at, _) = all[all.len() - 2];
    torn.damage(&segment(ACTIVE), at + 60, |bytes| bytes[0] ^= 1);
    let (whole, _) = two_unsynced();
    for (disk, expected) in [(torn, 1), (whole, 3)] {
        let mut stop = 1;
        loop {
            let mut opened = false;
            for seed in 0..8 {
                let disk = disk.fork();
                disk.stop_at(stop);
                // It may have told its caller what it found only if it opened.
                opened = LocalStore::open(options(&disk)).is_ok();
                if seed == 0 {
                    disk.kill();
                } else {
                    disk.power_cut(seed);
                }
                let found = reopened(&disk, log).0.len();
                // A power cut may take what was never synced, but nothing that an opened store has shown.
                assert!(
                    found == expected || (!opened && seed > 0 && found < expected),
                    "stop {stop}, seed {seed}"
                );
            }
            if opened {
                break;
            }
            stop += 1;
        }
        assert!(stop > 8, "recovery has more than {stop} operations");
    }
}

#[test]
fn kill_restart_cut_power_keeps_what_the_restart_has_shown() {
    let (disk, log) = two_unsynced();
    for seed in 0..50 {
        let disk = disk.fork();
        let machine = Machine::start(&disk);
        let shown = machine.bodies(log);
        assert_eq!(shown, [b"one", b"two", b"six"]);
        drop(machine);
        disk.power_cut(seed);
        assert_eq!(reopened(&disk, log).0, shown, "seed {seed}");
    }
}

/// The pages of a failed sync count as clean: only writing them again saves what a start has shown.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_made_durable_before_it_is_shown() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.publish(log, b"one");
    machine.append(log, &[2; 2000]);
    disk.fail_syncs(Some(Fault::Broken));
    machine.store.pump(false);
    drop(machine);
    disk.kill();
    for seed in 0..50 {
        let disk = disk.fork();
        let machine = Machine::start(&disk);
        let shown = machine.bodies(log);
        assert_eq!(shown.len(), 2);
        drop(machine);
        disk.power_cut(seed);
        assert_eq!(reopened(&disk, log).0, shown, "seed {seed}");
    }
}

#[test]
fn r16_a_torn_first_batch_of_a_segment_is_cut_at_its_begin() {
    let (disk, log) = three_records();
    let mut machine = Machine::start(&disk);
    machine.publish(log, b"ten");
    drop(machine);
    disk.kill();
    disk.damage(&segment(ACTIVE + 1), 4096 + 60, |bytes| bytes[0] ^= 1);
    let (bodies, cut) = reopened(&disk, log);
    assert_eq!(bodies.len(), 3);
    assert_eq!(cut.unwrap().offset, 4096);
}

#[test]
fn r17_what_an_earlier_use_of_the_file_left_counts_as_zeros() {
    let (disk, log) = three_records();
    // The rest of the active segment is full of whole batches under another salt.
    let content = disk.content(&segment(ACTIVE));
    let salt = SegmentHeader::decode(&content).unwrap().salt;
    let (last, header) = *batches(&disk, ACTIVE).last().unwrap();
    let end = last + (56 + header.bytes as usize).div_ceil(8) * 8;
    let old = BatchHeader {
        number: header.number + 1,
        lsn: lsn(ACTIVE, end as u32),
        bytes: 0,
        records: 0,
        durable_through: header.number + 1,
        ..header
    };
    disk.damage(&segment(ACTIVE), end, |bytes| {
        bytes[..56].copy_from_slice(&old.encode(salt ^ 1));
    });
    let (bodies, cut) = reopened(&disk, log);
    assert_eq!((bodies.len(), cut), (3, None));
}

#[test]
fn r22_a_log_that_ends_before_the_snapshot_is_refused() {
    let (disk, _) = three_records();
    let dir = super::data_dir::DataDir::new(Path::new("data"));
    let header = SegmentHeader::decode(&disk.content(&segment(ACTIVE))).unwrap();
    let start = super::log::recovery::Start {
        lsn: lsn(1, 1 << 20),
        number: 9,
        highest_time: 0,
        newest_row: 0,
    };
    let Err(error) = super::log::recovery::recover(&disk, &dir, header.store, start, 8192) else {
        panic!("it opened")
    };
    assert!(is_damage_at(&error, 1, 1 << 20), "{error}");
}

#[test]
fn r25_a_log_without_a_manifest_is_never_initialised_anew() {
    let (disk, _) = three_records();
    disk.lose(Path::new("data/MANIFEST"));
    assert!(matches!(refusal(&disk), Error::Refused(_)));
}

#[test]
fn r25_a_manifest_without_a_log_is_refused() {
    let (disk, _) = three_records();
    disk.lose(&segment(1));
    disk.lose(&segment(ACTIVE));
    assert!(matches!(refusal(&disk), Error::Refused(_)));
}

#[test]
fn r25_segments_of_another_store_are_refused() {
    let (disk, _) = three_records();
    let (other, _) = three_records();
    disk.plant(Path::new("data/MANIFEST"), &other.content(Path::new("data/MANIFEST")));
    let error = refusal(&disk);
    assert!(error.to_string().contains("belongs to another store"), "{error}");
}

#[test]
fn r25_a_newer_format_is_refused_by_name() {
    let (disk, _) = three_records();
    disk.damage(Path::new("data/MANIFEST"), 8, |bytes| bytes[0] = 2);
    let error = refusal(&disk);
    assert!(error.to_string().contains("newer"), "{error}");
}

#[test]
fn a_first_start_interrupted_anywhere_is_taken_up_again() {
    for stop in 1..40 {
        for seed in 0..10 {
            let disk = FaultyDisk::new();
            disk.stop_at(stop);
            let opened = LocalStore::open(options(&disk)).is_ok();
            disk.power_cut(seed);
            let machine = Machine::start(&disk);
            assert!(machine.report.created || opened || machine.report.incarnation > 0);
        }
    }
}

#[test]
fn an_unmounted_disk_does_not_start_empty_where_that_is_not_allowed() {
    let disk = FaultyDisk::new();
    let options = Options {
        require_existing: true,
        ..options(&disk)
    };
    assert!(matches!(LocalStore::open(options), Err(Error::Refused(_))));
}

#[test]
fn r26_a_read_error_is_never_taken_for_a_torn_batch() {
    let (disk, _) = three_records();
    let (at, _) = *batches(&disk, ACTIVE).last().unwrap();
    disk.fail_read(&segment(ACTIVE), at as u64);
    let error = refusal(&disk);
    assert!(
        matches!(&error, Error::Io(cause) if cause.contains("0000000002.seg")),
        "{error}"
    );
}

#[test]
fn r27_a_start_that_cannot_make_the_tail_durable_does_not_open() {
    let (disk, _) = two_unsynced();
    disk.fail_syncs(Some(Fault::Broken));
    assert!(matches!(LocalStore::open(options(&disk)), Err(Error::Io(_))));
}

#[test]
fn r28_damage_in_the_last_synced_batch_before_any_later_header_is_cut() {
    let (disk, log) = three_records();
    let (at, _) = *batches(&disk, ACTIVE).last().unwrap();
    disk.damage(&segment(ACTIVE), at, |bytes| bytes[..56].fill(0));
    assert_eq!(reopened(&disk, log).0, [b"one", b"two"]);
}

#[test]
fn a_payload_that_is_a_frame_is_not_taken_for_one() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.publish(log, b"one");
    // Everything a client could know, at every alignment, with the place it will lie at.
    let start = *batches(&disk, ACTIVE).last().unwrap();
    let next = start.0 + (56 + start.1.bytes as usize).div_ceil(8) * 8;
    let mut payload = Vec::new();
    while payload.len() < 1024 {
        let place = next + (BATCH_HEADER_BYTES as usize) + 40 + payload.len();
        let forged = BatchHeader {
            number: start.1.number + 2,
            lsn: lsn(ACTIVE, place as u32),
            bytes: 0,
            records: 0,
            durable_through: start.1.number + 1,
            time: 0,
            flags: 0,
        };
        payload.extend_from_slice(&forged.encode(0));
    }
    assert_eq!(payload[..4], BATCH_MAGIC.to_le_bytes());
    machine.append(log, &payload);
    machine.store.pump(false);
    drop(machine);
    disk.kill();
    // Its batch is torn at the end: a forged witness would make damage of it.
    disk.damage(&segment(ACTIVE), next + 56 + 40 + payload.len() - 1, |bytes| {
        bytes[0] ^= 1;
    });
    assert_eq!(reopened(&disk, log).0, [b"one"]);
    let machine = Machine::start(&disk);
    assert_eq!(bodies(&machine.store, log), [b"one"]);
}

#[test]
fn a_sealed_segment_is_as_long_as_what_it_holds() {
    let (disk, _) = three_records();
    drop(Machine::start(&disk));
    let (at, header) = *batches(&disk, ACTIVE).last().unwrap();
    assert_eq!(disk.content(&segment(ACTIVE)).len(), at + 56 + header.bytes as usize);
}
