//! The model: the conformance suite, and what is its own.

use super::*;
use crate::store::conformance::Harness;

struct Model(Arc<MemoryStore>);

impl Harness for Model {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0) as Arc<dyn Store>
    }

    fn restart(&mut self, clean: bool) {
        self.0.snapshot();
        self.0 = self.0.restart(clean);
    }

    fn clock(&self) -> Clock {
        self.0.clock.clone()
    }
}

fn store() -> Arc<MemoryStore> {
    MemoryStore::new(Clock::manual(1_700_000_000_000))
}

crate::conformance!(Model(store()));

fn log_of(store: &MemoryStore) -> LogId {
    let mut commit = store.begin(Class::C);
    let log = store.create(&mut commit, b"t", None, RetentionClass(0));
    store.commit(commit).unwrap();
    log
}

fn append(store: &MemoryStore, log: LogId, early: bool) -> Ticket {
    let mut commit = store.begin(Class::A);
    commit.append(log, &[b"x"], early);
    store.commit(commit).unwrap()
}

fn batch(item: Option<FeedItem>) -> Arc<Batch> {
    let Some(FeedItem::Batch(batch)) = item else {
        panic!("a batch, not {item:?}")
    };
    batch
}

#[test]
fn what_is_held_back_is_neither_visible_nor_settled() {
    let store = store();
    let log = log_of(&store);
    store.hold();
    let first = append(&store, log, false);
    let second = append(&store, log, false);
    store.notify(&first, WaiterId(1));
    store.notify(&second, WaiterId(1));
    let mut feed = store.feed();
    assert!(matches!(feed.try_next(), Some(FeedItem::CaughtUp)));
    batch(feed.try_next());
    assert!(feed.try_next().is_none());
    assert_eq!(store.bounds(log).unwrap().records, 0);
    assert_eq!((store.outcome(&first), store.outcome(&second)), (None, None));
    store.release();
    let held = batch(feed.try_next());
    assert_eq!(
        (held.entries.len(), held.waiters.len()),
        (2, 2),
        "one batch of both commits"
    );
    assert_eq!(store.bounds(log).unwrap().records, 2);
    assert_eq!(store.outcome(&second), None);
    assert!(feed.try_next().is_none());
    assert_eq!(
        (store.outcome(&first), store.outcome(&second)),
        (Some(Ok(())), Some(Ok(())))
    );
}

#[test]
fn an_early_record_passes_once_and_never_overtakes_its_log() {
    let store = store();
    let log = log_of(&store);
    let mut feed = store.feed();
    while feed.try_next().is_some() {}
    store.hold();
    append(&store, log, true);
    assert!(matches!(feed.try_next(), Some(FeedItem::Early(early)) if early.entries.len() == 1));
    append(&store, log, false);
    append(&store, log, true);
    assert!(
        feed.try_next().is_none(),
        "a record that waits for its sync stands before it"
    );
    store.release();
    let early: Vec<bool> = batch(feed.try_next()).entries.iter().map(|entry| entry.early).collect();
    assert_eq!(early, [true, false, false]);
}

#[test]
fn an_early_record_waits_for_the_birth_of_its_log() {
    let store = store();
    store.hold();
    let log = log_of(&store);
    append(&store, log, true);
    let mut feed = store.feed();
    assert!(matches!(feed.try_next(), Some(FeedItem::CaughtUp)));
    assert!(feed.try_next().is_none());
}

#[test]
fn a_crash_loses_what_was_held_back_and_reuses_none_of_its_marks() {
    let store = store();
    let log = log_of(&store);
    store.hold();
    let lost = append(&store, log, false);
    let mark = store.mark();
    let next = store.restart(false);
    assert!(matches!(store.outcome(&lost), Some(Err(Error::Io(_)))));
    assert_eq!(next.bounds(log).unwrap().records, 0);
    assert!(next.mark() > mark);
}

#[test]
fn after_a_latch_what_is_not_durable_fails_and_nothing_is_taken() {
    let store = store();
    let log = log_of(&store);
    let mut feed = store.feed();
    let durable = append(&store, log, false);
    store.hold();
    let lost = append(&store, log, false);
    store.latch("the disk is gone");
    let cause = "the disk is gone".to_owned();
    assert_eq!(store.state(), StoreState::Latched(cause.clone()));
    assert_eq!(store.outcome(&lost), Some(Err(Error::Io(cause.clone()))));
    assert_eq!(store.outcome(&durable), None, "its batch is still to be read");
    while !matches!(feed.try_next(), Some(FeedItem::Latched(_))) {}
    assert_eq!(store.outcome(&durable), Some(Ok(())));
    assert_eq!(store.commit(store.begin(Class::A)), Err(Refused::WritesDisabled(cause)));
    assert!(store.close().is_err());
}

#[test]
fn a_full_store_refuses_records_and_nothing_else() {
    let store = store();
    let log = log_of(&store);
    store.set_full(true);
    let mut publish = store.begin(Class::A);
    publish.append(log, &[b"x"], false);
    assert_eq!(store.commit(publish), Err(Refused::Full));
    let mut row = store.begin(Class::B);
    row.put(Table(1), b"k", b"v");
    row.trim(log, Offset(9));
    assert!(store.commit(row).is_ok());
    store.set_full(false);
    append(&store, log, false);
    assert_eq!(store.bounds(log).unwrap().records, 1);
}

#[test]
fn without_a_reader_a_ticket_settles_when_it_is_durable() {
    let store = store();
    let log = log_of(&store);
    let ticket = append(&store, log, false);
    assert_eq!(store.outcome(&ticket), Some(Ok(())));
}

#[test]
fn a_start_loads_the_snapshot_and_replays_what_lies_behind_it() {
    let store = store();
    let mut feed = store.feed();
    let put = |value: &[u8]| {
        let mut commit = store.begin(Class::B);
        commit.put(Table(1), b"k", value);
        store.commit(commit).unwrap();
    };
    put(b"1");
    while feed.try_next().is_some() {}
    store.derive(Table(12), b"d", Some(b"derived"));
    put(b"2");
    store.snapshot();
    store.derive(Table(12), b"d", Some(b"later"));
    let next = store.restart(false);
    let mut rows = Vec::new();
    next.load(&mut |table, key, row| rows.push((table.0, key.to_vec(), row.bytes.clone())))
        .unwrap();
    assert_eq!(
        rows,
        [
            (1, b"k".to_vec(), b"1".to_vec()),
            (12, b"d".to_vec(), b"derived".to_vec())
        ]
    );
    let mut feed = next.feed();
    let replayed = batch(feed.try_next());
    assert_eq!(replayed.row(&replayed.entries[0]), (&b"k"[..], &b"2"[..]));
    assert!(matches!(feed.try_next(), Some(FeedItem::CaughtUp)));
}

#[test]
fn offsets_skip_numbers_unless_told_otherwise() {
    let store = store();
    let log = log_of(&store);
    for _ in 0..50 {
        append(&store, log, false);
    }
    let bounds = store.bounds(log).unwrap();
    assert!(bounds.next.0 > 51);
    store.dense();
    append(&store, log, false);
    append(&store, log, false);
    assert_eq!(store.bounds(log).unwrap().next.0, bounds.next.0 + 2);
}
