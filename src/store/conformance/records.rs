//! Records: offsets, reading, and the numbers they share.

use super::{
    ALL, Class, Duration, EntryKind, Error, Harness, Limit, LogId, Mark, Offset, ReadBuf, Reader, RetentionClass,
    SequenceId, bodies, patient, strictly_ascending, texts,
};

/// A log begins without records, and is listed by its name.
pub async fn a_new_log_is_empty(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("plant/line1").await;
    let bounds = reader.store.bounds(log).expect("the log is there");
    assert_eq!((bounds.records, bounds.bytes, bounds.first), (0, 0, bounds.next));
    assert_eq!(bounds.newest_mark, Mark::START);
    let mut listed = Vec::new();
    let mut visit = |id: LogId, name: &[u8], _: &crate::store::Bounds| listed.push((id, name.to_vec()));
    reader.store.logs(&mut visit);
    assert_eq!(listed, [(log, b"plant/line1".to_vec())]);
    assert_eq!(reader.store.bounds(LogId(log.0 + 1)), None);
    assert!(bodies(&*reader.store, log).await.is_empty());
}

/// Not even after the log is gone and the store has started again.
pub async fn a_log_number_and_an_offset_are_never_reused(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let kept = reader.create("kept").await;
    let gone = reader.create("gone").await;
    let before = reader.append(kept, &["a", "b"]).await;
    let last = before.last().copied().expect("two offsets");
    let mut commit = reader.store.begin(Class::C);
    commit.remove(gone);
    commit.trim(kept, last.next());
    reader.commit(commit).await;
    for clean in [false, true] {
        drop(reader);
        harness.restart(clean);
        reader = Reader::of(harness).await;
        let bounds = reader.store.bounds(kept).expect("the log is there");
        assert!(bounds.next > last && bounds.first == bounds.next);
    }
    let later = reader.append(kept, &["c"]).await;
    assert!(later.first() > before.last());
    assert!(reader.create("gone").await > gone);
}

/// In call order, over several logs of one commit.
pub async fn offsets_increase_strictly_and_come_with_the_ticket(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let (first, second) = (reader.create("a").await, reader.create("b").await);
    let mut commit = reader.store.begin(Class::C);
    for round in 0..20 {
        commit.append(if round % 2 == 0 { first } else { second }, &[&[round]], false);
    }
    commit.want_offsets();
    let ticket = reader.commit(commit).await;
    for (log, parity) in [(first, 0), (second, 1)] {
        let offsets: Vec<Offset> = ticket.offsets.iter().skip(parity).step_by(2).copied().collect();
        assert!(strictly_ascending(&offsets) && offsets.len() == 10);
        let read: Vec<Offset> = bodies(&*reader.store, log)
            .await
            .into_iter()
            .map(|(offset, _)| offset)
            .collect();
        assert_eq!(read, offsets);
        assert!(offsets.first() >= Some(&Offset::FIRST));
    }
    let mut commit = reader.store.begin(Class::A);
    commit.append(first, &[b"x"], false);
    assert!(reader.commit(commit).await.offsets.is_empty(), "nobody asked");
}

/// Parts are joined; time, mark and bytes are the feed's.
pub async fn records_are_read_back_as_they_were_appended(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    harness.clock().advance(Duration::from_millis(1_234));
    let mut commit = reader.store.begin(Class::A);
    commit.append(log, &[b"head", b"", b"payload"], false);
    commit.append(log, &[], false);
    reader.commit(commit).await;
    let mut buffer = ReadBuf::default();
    patient(reader.store.read(log, Offset::FIRST, ALL, &mut buffer))
        .await
        .expect("the log can be read");
    let read: Vec<_> = buffer
        .records
        .iter()
        .map(|r| (r.position, r.time, r.mark, buffer.body(r).to_vec()))
        .collect();
    let data = reader.seen.iter().filter(|(entry, _)| entry.kind == EntryKind::Data);
    let fed: Vec<_> = data
        .map(|(entry, body)| (entry.position, entry.time, entry.mark, body.clone()))
        .collect();
    assert_eq!(read, fed);
    assert_eq!(read.iter().map(|record| record.3.len()).collect::<Vec<_>>(), [11, 0]);
    let bounds = reader.store.bounds(log).expect("the log is there");
    assert_eq!((bounds.records, bounds.bytes), (2, 11));
    assert_eq!(Some(bounds.newest_mark), read.last().map(|record| record.2));
    assert_eq!(bounds.newest_time, harness.clock().wall_ms());
}

/// Every bound includes the record that reaches it.
pub async fn a_read_stops_at_its_bounds_and_says_whether_there_is_more(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let offsets = reader.append(log, &["aaaa", "bbbb", "cccc", "dddd", "eeee"]).await;
    let mut buffer = ReadBuf::default();
    let steps = [
        (Limit { records: 2, ..ALL }, 2),
        (Limit { bytes: 1, ..ALL }, 1),
        (Limit { bytes: 5, ..ALL }, 2),
    ];
    let mut from = Offset::FIRST;
    let mut taken = 0;
    for (limit, records) in steps {
        let progress = patient(reader.store.read(log, from, limit, &mut buffer))
            .await
            .expect("readable");
        assert_eq!(buffer.records.len(), records);
        taken += records;
        assert_eq!(progress.more, taken < offsets.len());
        assert_eq!(
            buffer.records.last().map(|record| record.position),
            offsets.get(taken - 1).copied()
        );
        from = progress.next;
    }
    let progress = patient(reader.store.read(log, from, ALL, &mut buffer))
        .await
        .expect("readable");
    assert!(
        buffer.records.is_empty() && !progress.more,
        "a buffer is cleared before it is filled"
    );
    let missing = patient(reader.store.read(LogId(u64::MAX), Offset::FIRST, ALL, &mut buffer)).await;
    assert_eq!(missing, Err(Error::NoLog(LogId(u64::MAX))));
}

/// Records behind the mark are not there for it.
pub async fn a_read_goes_no_further_than_its_mark(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    reader.append(log, &["a", "b"]).await;
    let before = reader.store.mark();
    reader.append(log, &["c"]).await;
    let mut buffer = ReadBuf::default();
    let limit = Limit { before, ..ALL };
    let progress = patient(reader.store.read(log, Offset::FIRST, limit, &mut buffer))
        .await
        .expect("readable");
    assert_eq!(buffer.records.len(), 2);
    assert!(!progress.more);
}

/// Larger than any batch of many.
pub async fn a_record_of_five_megabytes_is_stored(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let body = "x".repeat(5 << 20);
    reader.append(log, &["before", &body, "behind"]).await;
    assert_eq!(texts(&bodies(&*reader.store, log).await), ["before", &body, "behind"]);
    drop(reader);
    harness.restart(false);
    assert_eq!(
        texts(&bodies(&*harness.store(), log).await),
        ["before", &body, "behind"]
    );
}

/// Each number is used once among them, in commit order.
pub async fn logs_of_one_sequence_share_its_numbers(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let first = reader.create("a").await;
    let sequence = SequenceId(first.0);
    let second = reader.create_in("b", Some(sequence), RetentionClass(0)).await;
    let mut offsets = Vec::new();
    for log in [first, second, second, first] {
        offsets.extend(reader.append(log, &["x"]).await);
    }
    assert!(strictly_ascending(&offsets));
    drop(reader);
    harness.restart(false);
    let mut reader = Reader::of(harness).await;
    offsets.extend(reader.append(second, &["x"]).await);
    assert!(strictly_ascending(&offsets) && offsets.len() == 5);
    assert_eq!(bodies(&*reader.store, first).await.len(), 2);
    assert_eq!(bodies(&*reader.store, second).await.len(), 3);
}
