//! The embedded store while all is well, and while the disk fails under it.

use std::sync::Arc;
use std::time::Duration;

use super::faulty_disk::{Fault, FaultyDisk, Op};
use super::harness::{ALL, Machine, NOON, ROWS, bodies, options, segment};
use super::log::append::Stop;
use super::{Durability, LocalStore, Options, SnapshotPolicy};
use crate::clock::Clock;
use crate::store::conformance::Harness;
use crate::store::{
    At, Class, FeedItem, Limit, MessageLog, MetaStore, Offset, OnceKey, ReadBuf, Refused, RetentionClass, Store,
    StoreState, WaiterId,
};

/// The suite runs with threads, on the disk that forgets.
struct Suite {
    disk: FaultyDisk,
    clock: Clock,
    store: Arc<LocalStore>,
    cuts: u64,
}

impl Suite {
    fn new() -> Self {
        let disk = FaultyDisk::new();
        let clock = Clock::manual(NOON);
        let store = Self::open(&disk, &clock);
        Self {
            disk,
            clock,
            store,
            cuts: 0,
        }
    }

    fn open(disk: &FaultyDisk, clock: &Clock) -> Arc<LocalStore> {
        let options = Options {
            clock: clock.clone(),
            stepped: false,
            // Whenever a segment is sealed.
            snapshots: SnapshotPolicy {
                log_bytes: 0,
                ..SnapshotPolicy::default()
            },
            ..options(disk)
        };
        Arc::new(LocalStore::open(options).unwrap().0)
    }
}

impl Harness for Suite {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn restart(&mut self, clean: bool) {
        if clean {
            self.store.close().unwrap();
        } else {
            self.cuts += 1;
            // The old process must be gone before the new one begins.
            self.store.end(Stop::Abandon);
            self.disk.power_cut(self.cuts);
        }
        self.store = Self::open(&self.disk, &self.clock);
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

mod suite {
    crate::conformance!(super::Suite::new());
}

fn once(id: u32) -> OnceKey {
    OnceKey {
        owner: 1,
        generation: 0,
        id,
    }
}

#[tokio::test]
async fn a_real_directory_keeps_records_rows_and_keys_over_an_orderly_restart() {
    let scratch = tempfile::tempdir().unwrap();
    let options = || Options {
        segment_bytes: 64 << 10,
        ..Options::new(scratch.path())
    };
    let (store, report) = LocalStore::open(options()).unwrap();
    assert!(report.created);
    let reader = tokio::spawn({
        let mut feed = store.feed();
        async move { while !matches!(feed.next().await, FeedItem::Closed | FeedItem::Latched(_)) {} }
    });
    let mut commit = store.begin(Class::C);
    let log = store.create(&mut commit, b"a/b", None, RetentionClass(0));
    commit.put(ROWS, b"key", b"row");
    store.commit(commit).unwrap();
    let mut tickets = Vec::new();
    for at in 0..5000_u32 {
        let mut commit = store.begin(Class::A);
        commit.want_offsets();
        if at % 100 == 0 {
            commit.append_once(log, &[&at.to_le_bytes(), &[7; 60]], once(at));
        } else {
            commit.append(log, &[&at.to_le_bytes(), &[7; 60]], false);
        }
        let ticket = store.commit(commit).unwrap();
        assert_eq!(ticket.offsets, [Offset(u64::from(at) + 1)]);
        tickets.push(ticket);
    }
    for ticket in tickets {
        store.settled(&ticket).await.unwrap();
    }
    assert_eq!(store.bounds(log).unwrap().records, 5000);
    store.close().unwrap();
    reader.await.unwrap();
    assert!(matches!(
        store.commit(store.begin(Class::A)),
        Err(Refused::WritesDisabled(_))
    ));
    drop(store);

    let (store, report) = LocalStore::open(options()).unwrap();
    assert_eq!(report.incarnation, 2);
    assert!(report.previous_clean_stop.is_some());
    assert_eq!(report.cut, None);
    let bounds = store.bounds(log).unwrap();
    assert_eq!(
        (bounds.first, bounds.next, bounds.records, bounds.bytes),
        (Offset(1), Offset(5001), 5000, 320_000)
    );
    assert_eq!(store.get(ROWS, b"key").await.unwrap().unwrap().bytes, b"row");
    assert!(store.holds(once(100)) && !store.holds(once(101)));
    let mut buffer = ReadBuf::default();
    let mut from = Offset(0);
    let limit = Limit { records: 700, ..ALL };
    let mut read = 0_u32;
    loop {
        let progress = store.read(log, from, limit, &mut buffer).await.unwrap();
        for record in &buffer.records {
            assert_eq!(buffer.body(record)[..4], read.to_le_bytes());
            read += 1;
            assert_eq!(record.position, Offset(u64::from(read)));
        }
        from = progress.next;
        if !progress.more {
            break;
        }
    }
    assert_eq!(read, 5000);
}

#[test]
fn records_of_sealed_segments_are_read_from_the_disk() {
    let disk = FaultyDisk::new();
    let options = Options {
        recent_bytes: 0,
        ..options(&disk)
    };
    let mut machine = Machine::start_with(&disk, options).unwrap();
    let (a, b) = (machine.create("a"), machine.create("b"));
    let mut expected = (Vec::new(), Vec::new());
    for at in 0..300_u32 {
        machine.publish(a, &at.to_le_bytes());
        expected.0.push(at.to_le_bytes().to_vec());
        if at % 7 == 0 {
            machine.publish(b, &[at as u8; 500]);
            expected.1.push(vec![at as u8; 500]);
        }
    }
    assert!(
        machine
            .disk
            .trace()
            .iter()
            .filter(|op| matches!(op, Op::Rename(..)))
            .count()
            > 4
    );
    assert_eq!(machine.bodies(a), expected.0);
    assert_eq!(machine.bodies(b), expected.1);
}

#[test]
fn a_commit_larger_than_a_segment_gets_one_of_its_own() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    let large = vec![9; 50_000];
    machine.publish(log, b"before");
    machine.publish(log, &large);
    machine.publish(log, b"behind");
    assert_eq!(
        machine.bodies(log),
        [b"before".to_vec(), large.clone(), b"behind".to_vec()]
    );
    drop(machine);
    disk.kill();
    let machine = Machine::start(&disk);
    assert_eq!(machine.bodies(log), [b"before".to_vec(), large, b"behind".to_vec()]);
}

#[test]
fn nothing_is_acknowledged_before_the_sync_that_follows_its_write() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.store.pump(false);
    machine.drain();
    for at in 0..200_u32 {
        let begun = disk.trace().len();
        let ticket = machine.append(log, &at.to_le_bytes());
        // Whatever the writer does, one operation at a time.
        loop {
            let before = machine.store.outcome(&ticket);
            let stepped = {
                let mut stepper = machine.store.stepper.lock();
                stepper.as_mut().unwrap().step(false)
            };
            if stepped == super::log::writer::Step::Blocked {
                let log = &machine.store.log;
                log.preparer.work(&log.site(8192));
            }
            machine.drain();
            if before.is_none() && machine.store.outcome(&ticket).is_some() {
                disk.note("settled");
                break;
            }
        }
        let trace = disk.trace();
        let run = &trace[begun..];
        let settled = run.iter().position(|op| *op == Op::Note("settled".into())).unwrap();
        let active = segment(machine.store.log.state.read().active.number);
        let write = run
            .iter()
            .rposition(|op| matches!(op, Op::Write(path, ..) if *path == active))
            .unwrap();
        let sync = run.iter().rposition(|op| *op == Op::Sync(active.clone())).unwrap();
        assert!(write < sync && sync < settled, "{run:?}");
    }
}

#[test]
fn a_seal_is_written_only_when_the_next_segment_and_its_name_are_durable() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    for at in 0..200_u32 {
        machine.publish(log, &at.to_le_bytes());
    }
    let trace = disk.trace();
    let active = machine.store.log.state.read().active.number;
    assert!(active > 3);
    for number in 3..=active {
        let renamed = trace
            .iter()
            .position(|op| matches!(op, Op::Rename(_, to) if *to == segment(number)));
        let renamed = renamed.unwrap();
        assert!(matches!(trace[renamed + 1], Op::SyncDir(_)));
        let before = segment(number - 1);
        let sealed = trace
            .iter()
            .rposition(|op| matches!(op, Op::Write(path, ..) if *path == before))
            .unwrap();
        assert!(renamed + 1 < sealed);
        assert_eq!(trace[sealed + 1], Op::Sync(before));
        let first = trace.iter().skip(renamed + 1);
        let mut first = first.skip_while(|op| !matches!(op, Op::Write(path, ..) if *path == segment(number)));
        assert!(first.next().is_none() || number <= active);
    }
}

#[test]
fn a_failed_sync_is_final() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.publish(log, b"kept");
    let ticket = machine.append(log, b"lost");
    disk.fail_syncs(Some(Fault::Broken));
    machine.store.pump(false);
    disk.fail_syncs(None);
    let items = machine.drain();
    assert!(matches!(items.as_slice(), [FeedItem::Latched(_)]), "{items:?}");
    assert!(matches!(machine.store.outcome(&ticket), Some(Err(_))));
    assert!(matches!(machine.store.state(), StoreState::Latched(_)));
    let mut commit = machine.store.begin(Class::A);
    commit.append(log, &[b"more"], false);
    assert!(matches!(machine.store.commit(commit), Err(Refused::WritesDisabled(_))));
    let count = disk.count();
    machine.store.pump(true);
    assert!(machine.store.close().is_err());
    assert_eq!(disk.count(), count, "nothing is written after a failed sync");
    assert_eq!(machine.bodies(log), [b"kept"]);
}

#[test]
fn a_full_disk_keeps_the_batch_refuses_publishes_and_ends_when_space_returns() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.publish(log, b"first");
    let waiting = machine.append(log, b"second");
    disk.set_full(true);
    machine.store.pump(false);
    assert_eq!(machine.store.state(), StoreState::Full);
    assert_eq!(machine.store.outcome(&waiting), None);
    let mut publish = machine.store.begin(Class::A);
    publish.append(log, &[b"third"], false);
    assert_eq!(machine.store.commit(publish), Err(Refused::Full));
    let mut position = machine.store.begin(Class::B);
    position.put(ROWS, b"floor", b"2");
    let position = machine.store.commit(position).unwrap();
    disk.set_full(false);
    machine.store.pump(false);
    machine.drain();
    assert_eq!(machine.store.state(), StoreState::Ready);
    assert_eq!(machine.store.outcome(&waiting), Some(Ok(())));
    assert_eq!(machine.store.outcome(&position), Some(Ok(())));
    assert_eq!(machine.bodies(log), [&b"first"[..], b"second"]);
}

#[test]
fn a_full_disk_at_the_end_of_a_segment_latches_nothing() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    let body = [5; 900];
    let mut count = 0;
    disk.set_full(false);
    while machine.store.log.state.read().active.number == 2 {
        machine.publish(log, &body);
        count += 1;
    }
    // Overwriting zeros needs no space, making a segment does.
    let ticket = loop {
        let ticket = machine.append(log, &body);
        count += 1;
        let before = machine.store.log.state.read().active.number;
        disk.set_full(!machine.store.log.append.lock().closed.is_empty());
        let blocked = machine.store.pump(false);
        machine.drain();
        assert_eq!(before, machine.store.log.state.read().active.number);
        if blocked {
            break ticket;
        }
    };
    assert_eq!(machine.store.state(), StoreState::Full);
    disk.set_full(false);
    machine.store.pump(false);
    machine.drain();
    assert_eq!(machine.store.outcome(&ticket), Some(Ok(())));
    assert_eq!(machine.bodies(log).len(), count);
}

#[test]
fn a_second_record_under_a_held_key_is_not_stored_and_settles_with_the_first() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    let append = |machine: &Machine| {
        let mut commit = machine.store.begin(Class::A);
        commit.want_offsets();
        commit.append_once(log, &[b"x"], once(5));
        machine.store.commit(commit).unwrap()
    };
    let first = append(&machine);
    let second = append(&machine);
    assert_eq!(first, second);
    assert_eq!(machine.store.outcome(&second), None);
    machine.store.pump(false);
    machine.drain();
    assert_eq!(machine.store.outcome(&second), Some(Ok(())));
    assert_eq!(machine.store.held(1), [once(5)]);
    drop(machine);
    disk.kill();
    let mut machine = Machine::start(&disk);
    let third = append(&machine);
    assert_eq!(third.offsets, first.offsets);
    assert_eq!(machine.store.outcome(&third), Some(Ok(())));
    let mut release = machine.store.begin(Class::B);
    release.release(once(5));
    machine.store.commit(release).unwrap();
    assert_eq!(append(&machine).offsets, [Offset(2)]);
    machine.store.pump(false);
    machine.drain();
    assert_eq!(machine.bodies(log).len(), 2);
}

#[test]
fn an_early_record_passes_at_once_unless_its_log_has_an_elder_that_waits() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let (a, b) = (machine.create("a"), machine.create("b"));
    machine.store.pump(false);
    machine.drain();
    machine.append(b, b"elder");
    let mut commit = machine.store.begin(Class::A);
    commit.lazy();
    commit.append(a, &[b"one"], true);
    commit.append(b, &[b"two"], true);
    machine.store.commit(commit).unwrap();
    let items = machine.drain();
    let [FeedItem::Early(run)] = items.as_slice() else {
        panic!("{items:?}")
    };
    assert_eq!(run.entries.len(), 1);
    assert_eq!(run.body(&run.entries[0]), b"one");
    machine.store.pump(false);
    let items = machine.drain();
    let [FeedItem::Batch(batch)] = items.as_slice() else {
        panic!("{items:?}")
    };
    let marked: Vec<_> = batch
        .entries
        .iter()
        .map(|entry| (batch.body(entry).to_vec(), entry.early))
        .collect();
    assert_eq!(
        marked,
        [
            (b"elder".to_vec(), false),
            (b"one".to_vec(), true),
            (b"two".to_vec(), false)
        ]
    );
}

#[test]
fn an_early_record_that_may_not_pass_is_synced_at_once() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.store.pump(false);
    machine.drain();
    machine.append_lazy(log, b"elder");
    machine.store.pump(false);
    assert!(machine.drain().is_empty(), "nobody waits for it");
    let mut commit = machine.store.begin(Class::A);
    commit.lazy();
    commit.append(log, &[b"two"], true);
    let ticket = machine.store.commit(commit).unwrap();
    machine.store.pump(false);
    machine.drain();
    assert_eq!(machine.store.outcome(&ticket), Some(Ok(())));
}

#[test]
fn many_records_that_nobody_waits_for_are_synced_before_their_time() {
    let disk = FaultyDisk::new();
    let options = Options {
        segment_bytes: 32 << 20,
        ..options(&disk)
    };
    let mut machine = Machine::start_with(&disk, options).unwrap();
    let log = machine.create("a");
    machine.store.pump(false);
    machine.drain();
    let body = vec![0; 1 << 20];
    let first = machine.append_lazy(log, &body);
    machine.store.pump(false);
    machine.drain();
    assert_eq!(machine.store.outcome(&first), None);
    for _ in 0..8 {
        machine.append_lazy(log, &body);
        machine.store.pump(false);
    }
    machine.drain();
    assert_eq!(machine.store.outcome(&first), Some(Ok(())));
}

#[test]
fn a_lazy_commit_is_written_later_and_synced_when_somebody_asks() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    machine.store.pump(false);
    machine.drain();
    let count = disk.count();
    machine.append_lazy(log, b"x");
    machine.store.pump(false);
    assert_eq!(disk.count(), count);
    let ticket = machine.store.sync();
    machine.store.pump(false);
    machine.drain();
    assert_eq!(disk.count(), count + 2, "one write, one sync");
    assert_eq!(machine.store.outcome(&ticket), Some(Ok(())));
}

#[test]
fn who_asks_to_be_told_is_listed_in_the_batch_or_in_the_next_one_if_it_came_late() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    let ticket = machine.append(log, b"x");
    machine.store.notify(&ticket, WaiterId(4));
    machine.store.pump(false);
    let waiters = |machine: &mut Machine| {
        let items = machine.drain();
        let waiters = items.iter().map(|item| match item {
            FeedItem::Batch(batch) => batch.waiters.clone(),
            other => panic!("{other:?}"),
        });
        waiters.collect::<Vec<_>>().concat()
    };
    assert_eq!(waiters(&mut machine), [WaiterId(4)]);
    machine.store.notify(&ticket, WaiterId(5));
    assert_eq!(waiters(&mut machine), [WaiterId(5)]);
}

#[test]
fn marks_part_what_was_committed_before_from_what_comes_later_across_segments() {
    let disk = FaultyDisk::new();
    let mut machine = Machine::start(&disk);
    let log = machine.create("a");
    let mut marks = Vec::new();
    for at in 0..200_u32 {
        marks.push(machine.store.mark());
        let size = 1 + (at as usize * 37) % 700;
        machine.append(log, &vec![1; size]);
        if at % 5 == 0 {
            machine.store.pump(false);
            machine.drain();
        }
    }
    machine.store.pump(false);
    machine.drain();
    for (at, mark) in marks.iter().enumerate() {
        let found = machine.store.log.locate(log, At::Mark(*mark)).unwrap();
        assert_eq!(found, Offset(at as u64 + 1));
    }
}

#[test]
fn positions_are_found_by_time_and_from_the_end_and_trims_count() {
    let disk = FaultyDisk::new();
    let clock = options(&disk).clock;
    let options = Options {
        clock: clock.clone(),
        ..options(&disk)
    };
    let mut machine = Machine::start_with(&disk, options).unwrap();
    let log = machine.create("a");
    for _ in 0..400_u32 {
        clock.advance(Duration::from_millis(10));
        machine.publish(log, &[0; 30]);
    }
    let locate = |machine: &Machine, at| machine.store.log.locate(log, at).unwrap();
    assert_eq!(locate(&machine, At::Time(NOON + 1000)), Offset(100));
    assert_eq!(locate(&machine, At::Time(NOON + 1001)), Offset(101));
    assert_eq!(locate(&machine, At::Time(NOON + 9999)), Offset(401));
    assert_eq!(locate(&machine, At::Last(3)), Offset(398));
    let mut commit = machine.store.begin(Class::C);
    commit.trim(log, Offset(151));
    machine.store.commit(commit).unwrap();
    machine.store.pump(false);
    machine.drain();
    let bounds = machine.store.bounds(log).unwrap();
    assert_eq!((bounds.first, bounds.records, bounds.bytes), (Offset(151), 250, 7500));
    assert_eq!(locate(&machine, At::Time(NOON + 1000)), Offset(151));
    assert_eq!(locate(&machine, At::Last(9999)), Offset(151));
    assert_eq!(bodies(&machine.store, log).len(), 250);
    let state = machine.store.log.state.read();
    assert_eq!(state.count(log.0, 0, 161), 10);
    assert_eq!(state.count(log.0, 390, u64::MAX), 11);
}

#[test]
fn with_an_interval_a_commit_settles_when_written_and_the_sync_follows() {
    let disk = FaultyDisk::new();
    let options = Options {
        durability: Durability::Interval(100),
        ..options(&disk)
    };
    let mut machine = Machine::start_with(&disk, options).unwrap();
    let log = machine.create("a");
    let ticket = machine.append(log, b"x");
    let begun = disk.trace().len();
    let step = |machine: &Machine| machine.store.stepper.lock().as_mut().unwrap().step(false);
    step(&machine);
    machine.drain();
    assert_eq!(machine.store.outcome(&ticket), Some(Ok(())));
    assert!(matches!(disk.trace()[begun..], [Op::Write(..)]));
    machine.store.pump(true);
    assert!(matches!(disk.trace()[begun..], [Op::Write(..), Op::Sync(_), ..]));
}

#[test]
fn a_snapshot_taken_while_the_log_moves_on_relies_on_no_missing_sidecar() {
    let disk = FaultyDisk::new();
    for round in 0..20_u8 {
        let policy = SnapshotPolicy {
            log_bytes: 0,
            ..SnapshotPolicy::default()
        };
        let options = Options {
            stepped: false,
            snapshots: policy,
            ..options(&disk)
        };
        let mut machine = Machine::start_with(&disk, options).unwrap();
        let log = machine.create("a");
        for _ in 0..30 {
            let ticket = machine.append(log, &[round; 1500]);
            while machine.store.outcome(&ticket).is_none() {
                machine.drain();
                std::thread::yield_now();
            }
        }
        drop(machine);
        disk.kill();
        let machine = Machine::start(&disk);
        let listed = machine.store.log.state.read().cold.clone();
        for segment in listed {
            assert!(machine.store.log.sidecar(segment).unwrap().is_some());
        }
        assert_eq!(machine.bodies(log).len(), 30);
        drop(machine);
        disk.kill();
    }
}
