//! A start: opening a store whose log holds so many records behind the newest snapshot.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run shall say so and stop")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use evermq::store::local::{LocalStore, Options};
use evermq::store::{Class, FeedItem, MessageLog, RetentionClass, Store};

const BODY: [u8; 100] = [b'x'; 100];
const RUN: u64 = 200;

fn fill(dir: &std::path::Path, records: u64) {
    let (store, _) = LocalStore::open(Options::new(dir)).unwrap();
    let mut feed = store.feed();
    let mut commit = store.begin(Class::C);
    let log = store.create(&mut commit, b"bench", None, RetentionClass::default());
    store.commit(commit).unwrap();
    for _ in 0..records / RUN {
        let mut commit = store.begin(Class::A);
        (0..RUN).for_each(|_| commit.append(log, &[&BODY], false));
        store.commit(commit).unwrap();
        while let Some(item) = feed.try_next() {
            assert!(!matches!(item, FeedItem::Latched(_)));
        }
    }
    store.close().unwrap();
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open a store");
    group.sample_size(10);
    for records in [1_000, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), records);
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(records), |bencher| {
            bencher.iter(|| {
                let (store, report) = LocalStore::open(Options::new(dir.path())).unwrap();
                store.close().unwrap();
                report
            });
        });
    }
    group.finish();
}

criterion_group!(benches, open);
criterion_main!(benches);
