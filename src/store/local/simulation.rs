//! Random work on the disk that forgets, stopped at a random operation, again and again; what comes back is compared
//! with a model of what was handed over and what was acknowledged.
//!
//! `EVERMQ_SIM_SEEDS` sets how many seeds run, `EVERMQ_SIM_SEED` repeats one.

use std::collections::BTreeMap;

use super::faulty_disk::{FaultyDisk, Random};
use super::harness::{Machine, ROWS, data_of, options};
use super::{Durability, Options};
use crate::store::{Class, LogId, MessageLog, Offset, OnceKey, RetentionClass, Store, Ticket};

/// One commit as the model knows it.
#[derive(Clone, Debug)]
struct Handed {
    /// Log, position and body of each record.
    records: Vec<(u64, u64, Vec<u8>)>,
    created: Option<u64>,
    row: Option<(Vec<u8>, Option<Vec<u8>>)>,
    key: Option<(OnceKey, bool)>,
    trim: Option<(u64, u64)>,
    ticket: Ticket,
    acknowledged: bool,
}

/// What was handed over in order, over all lives.
#[derive(Default)]
struct Model {
    history: Vec<Handed>,
}

#[derive(Default, PartialEq, Eq, Debug)]
struct Content {
    logs: BTreeMap<u64, Vec<(u64, Vec<u8>)>>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    keys: Vec<OnceKey>,
}

impl Model {
    fn content(&self, upto: usize) -> Content {
        let mut content = Content::default();
        for handed in &self.history[..upto] {
            if let Some(log) = handed.created {
                content.logs.insert(log, Vec::new());
            }
            for (log, position, body) in &handed.records {
                content.logs.get_mut(log).unwrap().push((*position, body.clone()));
            }
            if let Some((log, first)) = handed.trim {
                let records = content.logs.get_mut(&log).unwrap();
                records.retain(|(position, _)| *position >= first);
            }
            match &handed.row {
                Some((key, Some(row))) => {
                    content.rows.insert(key.clone(), row.clone());
                }
                Some((key, None)) => {
                    content.rows.remove(key);
                }
                None => {}
            }
            if let Some((key, held)) = handed.key {
                content.keys.retain(|other| *other != key);
                if held {
                    content.keys.push(key);
                }
            }
        }
        content.keys.sort_unstable();
        content
    }

    /// The number of commits that came back: all acknowledged ones, and of the rest a prefix.
    fn recovered(&mut self, machine: &Machine, context: &str) {
        let acknowledged = self
            .history
            .iter()
            .rposition(|handed| handed.acknowledged)
            .map_or(0, |last| last + 1);
        let found = found(machine);
        let upto = (acknowledged..=self.history.len()).find(|upto| self.content(*upto) == found);
        let Some(upto) = upto else {
            panic!(
                "{context}: {acknowledged} of {} commits were acknowledged, found {found:#?}, acknowledged {:#?}",
                self.history.len(),
                self.content(acknowledged)
            )
        };
        self.history.truncate(upto);
        // It was shown, so it must stay.
        for handed in &mut self.history {
            handed.acknowledged = true;
        }
    }
}

fn found(machine: &Machine) -> Content {
    let mut content = Content::default();
    let store = &machine.store;
    let mut logs = Vec::new();
    store.logs(&mut |log, _, bounds| logs.push((log, *bounds)));
    for (log, bounds) in logs {
        let bodies = machine.bodies(log);
        assert_eq!(bounds.records, bodies.len() as u64);
        let mut buffer = crate::store::ReadBuf::default();
        let read = store.log.read_cold(log, Offset(0), super::harness::ALL, &mut buffer);
        read.unwrap();
        let records = buffer
            .records
            .iter()
            .map(|record| (record.position.0, buffer.body(record).to_vec()));
        content.logs.insert(log.0, records.collect());
    }
    for (key, row) in store
        .log
        .state
        .read()
        .rows
        .scan(ROWS, Vec::new()..vec![255; 8], usize::MAX)
    {
        content.rows.insert(key, row.bytes);
    }
    content.keys = store.held(1);
    content
}

fn random_commit(machine: &Machine, random: &mut Random, logs: &mut Vec<u64>) -> Option<Handed> {
    let mut commit = machine.store.begin(Class::C);
    commit.want_offsets();
    let mut handed = Handed {
        records: Vec::new(),
        created: None,
        row: None,
        key: None,
        trim: None,
        ticket: Ticket::default(),
        acknowledged: false,
    };
    if logs.is_empty() || random.below(12) == 0 {
        let log = machine.store.create(&mut commit, b"log", None, RetentionClass(0));
        handed.created = Some(log.0);
        logs.push(log.0);
    }
    for _ in 0..random.below(4) {
        let log = logs[random.below(logs.len() as u64) as usize];
        let size = if random.below(20) == 0 {
            random.below(12_000)
        } else {
            random.below(400)
        };
        let body = vec![random.draw() as u8; size as usize];
        commit.append(LogId(log), &[&body], random.below(3) == 0);
        handed.records.push((log, 0, body));
    }
    if random.below(3) == 0 {
        let key = vec![random.below(6) as u8];
        if random.below(4) == 0 {
            commit.delete(ROWS, &key);
            handed.row = Some((key, None));
        } else {
            let row = random.draw().to_le_bytes().to_vec();
            commit.put(ROWS, &key, &row);
            handed.row = Some((key, Some(row)));
        }
    }
    if random.below(6) == 0 {
        let key = OnceKey {
            owner: 1,
            generation: 0,
            id: random.below(4) as u32,
        };
        if machine.store.holds(key) {
            commit.release(key);
            handed.key = Some((key, false));
        } else {
            let log = logs[0];
            commit.append_once(LogId(log), &[b"once"], key);
            handed.records.push((log, 0, b"once".to_vec()));
            handed.key = Some((key, true));
        }
    }
    if random.below(8) == 0 {
        let log = logs[random.below(logs.len() as u64) as usize];
        let next = machine.store.bounds(LogId(log)).map_or(1, |bounds| bounds.next.0);
        let first = random.below(next) + 1;
        commit.trim(LogId(log), Offset(first));
        handed.trim = Some((log, first));
    }
    if random.below(3) == 0 {
        commit.lazy();
    }
    if commit.is_empty() {
        return None;
    }
    // After a latch nothing is taken, and the model learns nothing.
    handed.ticket = machine.store.commit(commit).ok()?;
    for (record, offset) in handed.records.iter_mut().zip(&handed.ticket.offsets) {
        record.1 = offset.0;
    }
    Some(handed)
}

/// Runs one seed; returns how many starts read a snapshot.
fn simulate(seed: u64) -> u64 {
    let mut snapshots = 0;
    let mut random = Random::new(seed);
    let disk = FaultyDisk::new();
    let mut model = Model::default();
    for life in 0..5 {
        let context = format!("EVERMQ_SIM_SEED={seed} cargo test --lib simulation, life {life}");
        if random.below(4) == 0 {
            // Recovery itself is interrupted.
            disk.stop_at(1 + random.below(14));
            drop(Machine::try_start(&disk));
            if random.below(2) == 0 {
                disk.kill();
            } else {
                disk.power_cut(random.draw());
            }
        }
        let options = Options {
            recent_bytes: if random.below(2) == 0 { 0 } else { 1 << 20 },
            ..options(&disk)
        };
        assert!(options.durability == Durability::Sync);
        let mut machine = Machine::start_with(&disk, options).unwrap_or_else(|error| panic!("{context}: {error}"));
        model.recovered(&machine, &context);
        let shown: usize = model.history.iter().map(|handed| handed.records.len()).sum();
        assert!(data_of(&machine.replayed).len() <= shown, "{context}");
        snapshots += u64::from(machine.report.from_snapshot);
        let mut logs: Vec<u64> = model.history.iter().filter_map(|handed| handed.created).collect();
        disk.stop_at(1 + random.below(80));
        for _ in 0..random.below(60) {
            let known = logs.len();
            match random_commit(&machine, &mut random, &mut logs) {
                Some(handed) => model.history.push(handed),
                None => logs.truncate(known),
            }
            match random.below(4) {
                0 => {}
                1 => {
                    machine.store.pump(true);
                }
                2 => {
                    machine.store.sync();
                    machine.store.pump(false);
                }
                _ => {
                    machine.store.pump(false);
                }
            }
            machine.drain();
            if random.below(8) == 0 {
                // It may fail, for the disk may be gone.
                drop(machine.store.keep());
            }
            for handed in &mut model.history {
                handed.acknowledged |= machine.store.outcome(&handed.ticket) == Some(Ok(()));
            }
        }
        if random.below(4) == 0 {
            let closed = machine.store.close().is_ok();
            machine.drain();
            for handed in &mut model.history {
                handed.acknowledged |= closed && machine.store.outcome(&handed.ticket) == Some(Ok(()));
            }
        }
        drop(machine);
        if random.below(2) == 0 {
            disk.kill();
        } else {
            disk.power_cut(random.draw());
        }
    }
    let machine = Machine::start(&disk);
    model.recovered(
        &machine,
        &format!("EVERMQ_SIM_SEED={seed} cargo test --lib simulation, at the end"),
    );
    snapshots
}

#[test]
fn whatever_is_acknowledged_comes_back_and_commits_come_back_whole_and_in_order() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("EVERMQ_SIM_SEED") {
        simulate(seed);
        return;
    }
    let seeds = number("EVERMQ_SIM_SEEDS").unwrap_or(300);
    let snapshots: u64 = (0..seeds).map(simulate).sum();
    assert!(
        snapshots > seeds / 4,
        "starts read snapshots: {snapshots} of {seeds} seeds"
    );
}
