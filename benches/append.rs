//! The log on a real disk: what handing over costs, and how long a commit of so many records takes to be durable.
//! `evermq bench log` and `evermq bench disk` measure the same place with load on it.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run shall say so and stop")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use evermq::store::local::{LocalStore, Options};
use evermq::store::{Class, Commit, FeedItem, LogId, MessageLog, RetentionClass, Store};

const BODY: [u8; 100] = [b'x'; 100];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// A store whose feed is read as the dispatcher does.
fn store(dir: &std::path::Path) -> (Arc<LocalStore>, LogId) {
    let (store, _) = LocalStore::open(Options::new(dir)).unwrap();
    let store = Arc::new(store);
    let mut feed = store.feed();
    std::thread::spawn(move || {
        runtime().block_on(async { while !matches!(feed.next().await, FeedItem::Closed | FeedItem::Latched(_)) {} });
    });
    let mut commit = store.begin(Class::C);
    let log = store.create(&mut commit, b"bench", None, RetentionClass::default());
    store.commit(commit).unwrap();
    (store, log)
}

fn queue(commit: &mut Commit, log: LogId, records: u64) {
    for _ in 0..records {
        commit.append(log, &[black_box(&BODY)], false);
    }
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue into a commit");
    for records in [1, 100] {
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(records), |bencher| {
            bencher.iter_batched_ref(
                || Commit::new(Class::A),
                |commit| queue(commit, LogId(1), records),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn durable(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (store, log) = store(dir.path());
    let runtime = runtime();
    let mut group = criterion.benchmark_group("commit until durable");
    group.sample_size(30);
    for records in [1, 20, 200, 2_000] {
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(records), |bencher| {
            bencher.iter(|| {
                let mut commit = store.begin(Class::A);
                queue(&mut commit, log, records);
                let ticket = store.commit(commit).unwrap();
                runtime.block_on(store.settled(&ticket)).unwrap();
            });
        });
    }
    group.finish();
    store.close().unwrap();
}

criterion_group!(benches, encode, durable);
criterion_main!(benches);
