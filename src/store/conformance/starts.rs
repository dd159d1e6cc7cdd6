//! Stops, crashes and starts, leases, and the end.

use super::{
    Class, Duration, EntryKind, FeedItem, Harness, Lease, Reader, Refused, Row, TABLE, Table, bodies, patient, row,
    texts,
};

/// Logs, records, rows, once-keys.
pub async fn a_crash_keeps_what_was_settled(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    reader.append(log, &["a", "b"]).await;
    reader.put("k", "v").await;
    let before = reader.store.bounds(log);
    let seen = reader.seen.len();
    drop(reader);
    harness.restart(false);
    let reader = Reader::with_replay(harness).await;
    assert!(reader.seen.len() <= seen, "nothing comes twice");
    assert_eq!(reader.store.bounds(log), before);
    assert_eq!(texts(&bodies(&*reader.store, log).await), ["a", "b"]);
    assert_eq!(row(&*reader.store, "k").await.as_deref(), Some("v"));
}

/// Lazy commits too.
pub async fn a_clean_stop_keeps_everything_handed_over(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let mut commit = reader.store.begin(Class::A);
    commit.append(log, &[b"lazy"], true);
    commit.lazy();
    reader.store.commit(commit).expect("taken");
    drop(reader);
    harness.restart(true);
    assert_eq!(texts(&bodies(&*harness.store(), log).await), ["lazy"]);
}

/// What a start loads, then applies, is what was there: the same fold as running.
pub async fn rows_of_the_snapshot_and_the_feed_make_the_whole(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    for (name, value) in [("a", "1"), ("b", "1"), ("a", "2")] {
        reader.put(name, value).await;
    }
    let mut commit = reader.store.begin(Class::B);
    commit.delete(TABLE, b"b");
    reader.commit(commit).await;
    drop(reader);
    for clean in [false, true] {
        harness.restart(clean);
        let mut rows = std::collections::BTreeMap::new();
        let mut visit = |table: Table, key: &[u8], row: &Row| {
            if table == TABLE {
                rows.insert(key.to_vec(), row.bytes.clone());
            }
        };
        harness.store().load(&mut visit).expect("loadable");
        let reader = Reader::with_replay(harness).await;
        for (entry, body) in &reader.seen {
            let Some((key, row)) = crate::store::parse_row(body).filter(|_| entry.table() == TABLE) else {
                continue;
            };
            match entry.kind {
                EntryKind::Row => rows.insert(key.to_vec(), row.to_vec()),
                EntryKind::RowDeleted => rows.remove(key),
                _ => None,
            };
        }
        assert_eq!(rows.into_iter().collect::<Vec<_>>(), [(b"a".to_vec(), b"2".to_vec())]);
    }
}

/// Who has the newest lease of an owner writes for it; other owners are not concerned.
pub async fn a_lease_is_immediate_and_void_when_another_is_given(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let other = patient(reader.store.lease(8, Duration::from_secs(1)))
        .await
        .expect("given");
    let first = patient(reader.store.lease(9, Duration::from_secs(1)))
        .await
        .expect("given");
    patient(reader.store.renew(&first)).await.expect("renewed");
    let second = patient(reader.store.lease(9, Duration::from_secs(1)))
        .await
        .expect("given");
    assert!(first.epoch < second.epoch);
    let fenced = |lease: &Lease, row: &[u8]| {
        let mut commit = harness.store().begin(Class::B);
        commit.put(TABLE, b"k", row);
        harness.store().fence(&mut commit, lease);
        commit
    };
    assert_eq!(reader.store.commit(fenced(&first, b"void")), Err(Refused::Fenced));
    reader.commit(fenced(&other, b"other")).await;
    reader.commit(fenced(&second, b"second")).await;
    assert_eq!(row(&*reader.store, "k").await.as_deref(), Some("second"));
}

/// Closing twice is closing once.
pub async fn after_close_nothing_is_taken(harness: &mut dyn Harness) {
    let store = harness.store();
    let mut feed = store.feed();
    store.close().expect("closed");
    store.close().expect("closed");
    while !matches!(patient(feed.next()).await, FeedItem::Closed) {}
    let mut commit = store.begin(Class::B);
    commit.put(TABLE, b"k", b"v");
    assert!(matches!(store.commit(commit), Err(Refused::WritesDisabled(_))));
}

/// The second caller has a bug.
pub async fn the_feed_has_one_reader(harness: &mut dyn Harness) {
    let store = harness.store();
    let mut feed = store.feed();
    let second = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.feed()));
    assert!(second.is_err());
    assert!(matches!(feed.next().await, FeedItem::CaughtUp), "the first one goes on");
}
