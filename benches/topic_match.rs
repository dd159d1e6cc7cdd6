//! Whether a filter matches a name, by kind of filter. At publish time this is cached; it counts where a session reads
//! the log itself, and where the cache is filled.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run shall say so and stop")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use evermq::broker::topic_filter::TopicFilter;
use evermq::broker::topic_name::TopicName;

fn filters(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filter");
    let name = "plant/line-3/pump-7/pressure";
    for text in [
        "plant/line-3/pump-7/pressure",
        "plant/+/pump-7/+",
        "plant/line-3/#",
        "#",
        "plant/line-4/#",
    ] {
        let filter = TopicFilter::parse(text).unwrap();
        group.bench_function(text, |bencher| bencher.iter(|| filter.matches(black_box(name))));
    }
    group.bench_function("parse a name", |bencher| {
        bencher.iter(|| TopicName::parse(black_box(name)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, filters);
criterion_main!(benches);
