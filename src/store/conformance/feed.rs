//! The feed: order, marks, tickets and who is woken.

use super::{
    ALL, Class, EntryKind, FeedItem, Harness, Mark, Offset, ReadBuf, Reader, RetentionClass, StoreState, TABLE,
    WaiterId, bodies, key, patient, strictly_ascending, texts,
};

/// Also across a start.
pub async fn a_mark_parts_what_came_before_from_what_comes_later(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let mut marks = Vec::new();
    for round in 0..6 {
        if round == 3 {
            drop(reader);
            harness.restart(false);
            reader = Reader::of(harness).await;
        }
        reader.append(log, &["x"]).await;
        marks.push(reader.store.mark());
    }
    let mut buffer = ReadBuf::default();
    patient(reader.store.read(log, Offset::FIRST, ALL, &mut buffer))
        .await
        .expect("readable");
    let records: Vec<Mark> = buffer.records.iter().map(|record| record.mark).collect();
    assert!(strictly_ascending(&records) && records.len() == marks.len());
    for (number, mark) in marks.iter().enumerate() {
        let before = records.iter().filter(|record| *record < mark).count();
        assert_eq!(before, number + 1);
    }
}

/// Births, rows, records, deletions, all in one stream.
pub async fn the_feed_brings_everything_in_commit_order(harness: &mut dyn Harness) {
    use EntryKind::{Data, LogCreated, LogRemoved, Once, Release, Row as Put, RowDeleted};
    let mut reader = Reader::of(harness).await;
    let mut commit = reader.store.begin(Class::C);
    let log = reader.store.create(&mut commit, b"t", None, RetentionClass(3));
    commit.put(TABLE, b"k", b"row");
    commit.append(log, &[b"one"], false);
    let first = reader.store.commit(commit).expect("taken");
    let mut commit = reader.store.begin(Class::C);
    commit.append_once(log, &[b"two"], key(1));
    commit.release(key(1));
    commit.delete(TABLE, b"k");
    commit.remove(log);
    let second = reader.store.commit(commit).expect("taken");
    reader.settle(&second).await;
    assert_eq!(reader.store.outcome(&first), Some(Ok(())));
    let kinds: Vec<EntryKind> = reader.seen.iter().map(|(entry, _)| entry.kind).collect();
    assert_eq!(
        kinds,
        [LogCreated, Put, Data, Data, Once, Release, RowDeleted, LogRemoved]
    );
    let marks: Vec<Mark> = reader.seen.iter().map(|(entry, _)| entry.mark).collect();
    assert!(strictly_ascending(&marks));
    let (entry, body) = reader.seen.get(1).expect("the row");
    assert_eq!(
        (entry.table(), crate::store::parse_row(body)),
        (TABLE, Some((&b"k"[..], &b"row"[..])))
    );
    let (entry, body) = reader.seen.first().expect("the birth");
    let created = crate::store::LogCreated::parse(body).expect("it parses");
    assert_eq!(
        (entry.log, created.name, created.class),
        (log, &b"t"[..], RetentionClass(3))
    );
}

/// Not before: an answer is never ahead of what the reader knows.
pub async fn a_ticket_settles_when_the_reader_has_finished_its_batch(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let store = harness.store();
    let mut commit = store.begin(Class::B);
    commit.put(TABLE, b"k", b"v");
    let ticket = store.commit(commit).expect("taken");
    loop {
        let item = patient(reader.feed.next()).await;
        if matches!(&item, FeedItem::Batch(batch) if !batch.entries.is_empty()) {
            break;
        }
    }
    assert_eq!(store.outcome(&ticket), None, "the batch is in the reader's hands");
    let waiting = tokio::spawn({
        let (store, ticket) = (harness.store(), ticket.clone());
        async move { store.settled(&ticket).await }
    });
    while reader.feed.try_next().is_some() {}
    assert_eq!(store.outcome(&ticket), Some(Ok(())));
    assert_eq!(patient(waiting).await.expect("no panic"), Ok(()));
}

/// Once for every time it asked.
pub async fn who_asked_is_woken_before_and_after_the_ticket_has_settled(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let mut commit = reader.store.begin(Class::B);
    commit.put(TABLE, b"k", b"v");
    let ticket = reader.store.commit(commit).expect("taken");
    reader.store.notify(&ticket, WaiterId(5));
    while !reader.woken.contains(&WaiterId(5)) {
        let item = patient(reader.feed.next()).await;
        reader.keep(&item);
    }
    reader.settle(&ticket).await;
    reader.store.notify(&ticket, WaiterId(6));
    reader.put("wake", "up").await;
    while !reader.woken.contains(&WaiterId(6)) {
        let item = patient(reader.feed.next()).await;
        reader.keep(&item);
    }
    assert_eq!(reader.woken, [WaiterId(5), WaiterId(6)]);
}

/// It has nothing to wait for.
pub async fn an_empty_commit_settles_at_once(harness: &mut dyn Harness) {
    let store = harness.store();
    let ticket = store.commit(store.begin(Class::A)).expect("taken");
    assert_eq!(store.outcome(&ticket), Some(Ok(())));
    store.settled(&ticket).await.expect("settled");
    assert_eq!(store.state(), StoreState::Ready);
}

/// Lazy commits too.
pub async fn sync_settles_behind_everything_handed_over_before(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let mut lazy = reader.store.begin(Class::A);
    lazy.append(log, &[b"lazy"], true);
    lazy.lazy();
    let ticket = reader.store.commit(lazy).expect("taken");
    let sync = reader.store.sync();
    reader.settle(&sync).await;
    assert_eq!(reader.store.outcome(&ticket), Some(Ok(())));
    assert_eq!(texts(&bodies(&*reader.store, log).await), ["lazy"]);
}

/// Rows are records too; what is settled is counted.
pub async fn what_was_written_is_counted(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let before = reader.store.written();
    let mut commit = reader.store.begin(Class::C);
    commit.append(log, &[b"one"], false);
    commit.append(log, &[b"two"], false);
    commit.put(TABLE, b"key", b"row");
    reader.commit(commit).await;
    let after = reader.store.written();
    assert_eq!(after.records - before.records, 3);
    assert!(after.bytes >= before.bytes + 12, "{before:?} {after:?}");
    assert!(
        after.batches > before.batches && after.syncs > before.syncs,
        "{before:?} {after:?}"
    );
    drop(reader);
    harness.restart(true);
    let again = harness.store().written();
    assert!(again.records < after.records, "it counts from the start on: {again:?}");
}
