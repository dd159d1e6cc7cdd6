//! The extent of logs: trimming, finding, counting.

use super::{
    ALL, At, Class, Error, Harness, Limit, Mark, Offset, ReadBuf, Reader, RetentionClass, SequenceId, bodies, patient,
    texts,
};

/// Twice is as good as once, back does nothing, beyond the end is the end.
pub async fn trim_moves_the_first_offset_forward_only(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let offsets = reader.append(log, &["a", "b", "c"]).await;
    let at = |number: usize| offsets.get(number).copied().expect("three offsets");
    for first in [at(1), at(1), at(0)] {
        let mut commit = reader.store.begin(Class::C);
        commit.trim(log, first);
        reader.commit(commit).await;
        assert_eq!(texts(&bodies(&*reader.store, log).await), ["b", "c"]);
        let bounds = reader.store.bounds(log).expect("there");
        assert_eq!((bounds.first, bounds.records, bounds.bytes), (at(1), 2, 2));
    }
    drop(reader);
    harness.restart(false);
    let mut reader = Reader::of(harness).await;
    assert_eq!(texts(&bodies(&*reader.store, log).await), ["b", "c"]);
    let mut commit = reader.store.begin(Class::C);
    commit.trim(log, Offset(u64::MAX));
    reader.commit(commit).await;
    assert_eq!(reader.store.bounds(log).map(|bounds| bounds.records), Some(0));
    let later = reader.append(log, &["d"]).await;
    assert!(later.first() > offsets.last());
    assert_eq!(texts(&bodies(&*reader.store, log).await), ["d"]);
}

/// What was accepted before the mark goes, of no other class.
pub async fn trim_of_a_class_reaches_its_logs_up_to_the_mark(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let mut logs = Vec::new();
    for (name, class) in [("a", 1), ("b", 1), ("c", 2)] {
        logs.push(reader.create_in(name, None, RetentionClass(class)).await);
    }
    for log in logs.clone() {
        reader.append(log, &["old"]).await;
    }
    let before = reader.store.mark();
    for log in logs.clone() {
        reader.append(log, &["new"]).await;
    }
    let mut commit = reader.store.begin(Class::C);
    commit.trim_class(RetentionClass(1), before);
    reader.commit(commit).await;
    for clean in [false, true] {
        let mut left = Vec::new();
        for log in &logs {
            let found = bodies(&*harness.store(), *log).await;
            left.push(texts(&found).join(" "));
            let bounds = harness.store().bounds(*log).expect("there");
            assert_eq!(bounds.records, found.len() as u64);
            assert_eq!(Some(bounds.first), found.first().map(|(offset, _)| *offset));
        }
        assert_eq!(left, ["new", "new", "old new"]);
        harness.restart(clean);
    }
}

/// Its name, its records, and what is appended to it later.
pub async fn a_removed_log_is_gone(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let other = reader.create("other").await;
    reader.append(log, &["a"]).await;
    let mut commit = reader.store.begin(Class::C);
    commit.remove(log);
    reader.commit(commit).await;
    let mut commit = reader.store.begin(Class::A);
    commit.append(log, &[b"late"], false);
    commit.append(other, &[b"kept"], false);
    reader.commit(commit).await;
    drop(reader);
    for clean in [false, true] {
        let store = harness.store();
        assert_eq!(store.bounds(log), None);
        assert_eq!(
            patient(store.count(log, Offset(0)..Offset(u64::MAX))).await,
            Err(Error::NoLog(log))
        );
        assert_eq!(patient(store.locate(log, At::Last(1))).await, Err(Error::NoLog(log)));
        let mut listed = Vec::new();
        store.logs(&mut |id, _, _| listed.push(id));
        assert_eq!(listed, [other]);
        assert_eq!(texts(&bodies(&*store, other).await), ["kept"]);
        drop(store);
        harness.restart(clean);
    }
}

/// Clocks step back: the first record at or after a time is the first in the log's order.
pub async fn locate_finds_marks_times_and_the_last_records(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let start = harness.clock().wall_ms();
    let mut offsets = Vec::new();
    let mut marks = Vec::new();
    for time in [1_000, 3_000, 2_000, 4_000] {
        let clock = harness.clock();
        clock.step_wall(start + time - clock.wall_ms());
        marks.push(reader.store.mark());
        offsets.extend(reader.append(log, &["x"]).await);
    }
    let next = reader.store.bounds(log).expect("there").next;
    let at = |number: usize| offsets.get(number).copied().unwrap_or(next);
    let mark = |number: usize| marks.get(number).copied().expect("four marks");
    let end = reader.store.mark();
    for restarted in [false, true] {
        if restarted {
            harness.restart(false);
        }
        let store = harness.store();
        for (place, expected) in [
            (At::Mark(Mark::START), 0),
            (At::Mark(mark(0)), 0),
            (At::Mark(mark(2)), 2),
            (At::Mark(end), 4),
            (At::Time(i64::MIN), 0),
            (At::Time(start + 1_000), 0),
            (At::Time(start + 1_001), 1),
            (At::Time(start + 2_000), 1),
            (At::Time(start + 3_001), 3),
            (At::Time(start + 4_001), 4),
            (At::Last(1), 3),
            (At::Last(3), 1),
            (At::Last(9), 0),
            (At::Last(0), 4),
        ] {
            assert_eq!(patient(store.locate(log, place)).await, Ok(at(expected)), "{place:?}");
        }
    }
}

/// The steps together list every record once.
pub async fn touched_lists_each_log_of_a_range_in_bounded_steps(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let mut logs = Vec::new();
    for name in ["a", "b", "c", "d"] {
        logs.push(reader.create(name).await);
    }
    let (from, mut upto) = (reader.store.mark(), Mark::START);
    let mut expected = Vec::new();
    for round in 0..12_usize {
        if round == 9 {
            upto = reader.store.mark();
        }
        let log = logs.get(round % 3).copied().expect("four logs");
        let offset = reader.append(log, &["x"]).await.first().copied().expect("an offset");
        expected.push((log, offset));
    }
    expected.truncate(9);
    expected.sort_unstable();
    for records in [1, 2, usize::MAX] {
        let mut found = Vec::new();
        let mut at = from;
        let limit = Limit {
            records,
            before: upto,
            ..ALL
        };
        while at < upto {
            let mut step = Vec::new();
            let reached = patient(reader.store.touched(at, limit, &mut step))
                .await
                .expect("readable");
            assert!(
                reached > at && reached <= upto,
                "a step makes progress and keeps its bound"
            );
            assert!(step.len() <= records);
            for touched in step {
                let limit = Limit { before: reached, ..ALL };
                let mut buffer = ReadBuf::default();
                patient(reader.store.read(touched.log, touched.first, limit, &mut buffer))
                    .await
                    .expect("readable");
                assert_eq!(buffer.records.len() as u64, touched.count);
                found.extend(buffer.records.iter().map(|record| (touched.log, record.position)));
            }
            at = reached;
        }
        found.sort_unstable();
        assert_eq!(found, expected);
    }
}

/// Whatever numbers the offsets skip.
pub async fn counting_is_by_records_not_by_offsets(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("a").await;
    let other = reader.create_in("b", Some(SequenceId(log.0)), RetentionClass(0)).await;
    let mut offsets = Vec::new();
    for _ in 0..5 {
        offsets.extend(reader.append(log, &["x"]).await);
        reader.append(other, &["y", "y"]).await;
    }
    let at = |number: usize| offsets.get(number).copied().expect("five offsets");
    for (range, expected) in [
        (Offset(0)..Offset(u64::MAX), 5),
        (at(1)..at(3), 2),
        (at(1)..at(3).next(), 3),
        (at(4).next()..Offset(u64::MAX), 0),
        (at(3)..at(1), 0),
    ] {
        assert_eq!(patient(reader.store.count(log, range)).await, Ok(expected));
    }
}
