//! The rules of the seam as tests that any backend can run: [`crate::conformance!`] makes one test of each of them for
//! a [`Harness`]. A rule that needs a backend to misbehave (to hold durability back, to fail a sync) is tested where
//! the backend is.
//!
//! **Invariants**
//! - Nothing here knows a backend: offsets may have gaps, marks are compared only, batches may be cut anywhere.
//! - A test ends by itself: waiting is bounded by [`PATIENCE`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::{
    At, Batch, Class, Commit, Entry, EntryKind, Error, Feed, FeedItem, Limit, LogId, Mark, Offset, OnceKey, ReadBuf,
    Refused, RetentionClass, Row, SequenceId, Store, StoreState, Table, Ticket, WaiterId,
};
use crate::clock::Clock;

/// A store under test, and the way to stop and start it again on the same data.
pub trait Harness {
    /// The running store.
    fn store(&self) -> Arc<dyn Store>;
    /// Stops the store, by closing it or as a crash does, and starts it again. Everything settled must be there.
    fn restart(&mut self, clean: bool);
    /// The manual clock the store takes its times from.
    fn clock(&self) -> Clock;
}

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Tables the suite writes to; a backend that keeps rows of some tables in memory only must serve these.
pub const TABLES: [Table; 2] = [Table(1), Table(2)];

const TABLE: Table = TABLES[0];

/// Makes a test of every rule for the harness that the expression opens.
#[macro_export]
macro_rules! conformance {
    ($open:expr) => {
        $crate::conformance!(@each $open;
            a_new_log_is_empty
            a_log_number_and_an_offset_are_never_reused
            offsets_increase_strictly_and_come_with_the_ticket
            records_are_read_back_as_they_were_appended
            a_read_stops_at_its_bounds_and_says_whether_there_is_more
            a_read_goes_no_further_than_its_mark
            a_record_of_five_megabytes_is_stored
            logs_of_one_sequence_share_its_numbers
            a_mark_parts_what_came_before_from_what_comes_later
            the_feed_brings_everything_in_commit_order
            a_ticket_settles_when_the_reader_has_finished_its_batch
            who_asked_is_woken_before_and_after_the_ticket_has_settled
            an_empty_commit_settles_at_once
            sync_settles_behind_everything_handed_over_before
            the_newest_row_wins
            a_scan_is_half_open_ordered_and_limited
            a_held_once_key_keeps_a_second_record_out
            a_released_once_key_can_be_used_again
            trim_moves_the_first_offset_forward_only
            trim_of_a_class_reaches_its_logs_up_to_the_mark
            a_removed_log_is_gone
            locate_finds_marks_times_and_the_last_records
            touched_lists_each_log_of_a_range_in_bounded_steps
            counting_is_by_records_not_by_offsets
            a_crash_keeps_what_was_settled
            a_clean_stop_keeps_everything_handed_over
            rows_of_the_snapshot_and_the_feed_make_the_whole
            a_lease_is_immediate_and_fences_nobody_who_holds_it
            after_close_nothing_is_taken
            the_feed_has_one_reader
        );
    };
    (@each $open:expr; $($name:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $name() {
                $crate::store::conformance::$name(&mut $open).await;
            }
        )+
    };
}

/// The feed's reader of a test, with all it has seen.
struct Reader {
    store: Arc<dyn Store>,
    feed: Feed,
    seen: Vec<(Entry, Vec<u8>)>,
    woken: Vec<WaiterId>,
    end: Mark,
}

impl Reader {
    /// Takes the feed and reads what lies behind the snapshot.
    async fn of(harness: &dyn Harness) -> Self {
        let store = harness.store();
        let mut reader = Self {
            feed: store.feed(),
            store,
            seen: Vec::new(),
            woken: Vec::new(),
            end: Mark::START,
        };
        while !matches!(patient(reader.feed.next()).await, FeedItem::CaughtUp) {}
        reader
    }

    /// The same, and keeps what the start brought.
    async fn with_replay(harness: &dyn Harness) -> Self {
        let store = harness.store();
        let mut reader = Self {
            feed: store.feed(),
            store,
            seen: Vec::new(),
            woken: Vec::new(),
            end: Mark::START,
        };
        loop {
            match patient(reader.feed.next()).await {
                FeedItem::CaughtUp => return reader,
                item => reader.keep(&item),
            }
        }
    }

    fn keep(&mut self, item: &FeedItem) {
        let FeedItem::Batch(batch) = item else {
            return;
        };
        self.keep_batch(batch);
    }

    fn keep_batch(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            assert!(entry.mark < batch.end, "an entry lies before the end of its batch");
            self.seen.push((*entry, batch.body(entry).to_vec()));
        }
        assert!(batch.end >= self.end, "the ends of batches ascend");
        self.end = batch.end;
        self.woken.extend_from_slice(&batch.waiters);
    }

    /// Reads until the ticket has settled.
    async fn settle(&mut self, ticket: &Ticket) {
        loop {
            while let Some(item) = self.feed.try_next() {
                self.keep(&item);
            }
            if let Some(outcome) = self.store.outcome(ticket) {
                outcome.expect("the commit is durable");
                return;
            }
            let item = patient(self.feed.next()).await;
            self.keep(&item);
        }
    }

    /// Commits and settles.
    async fn commit(&mut self, commit: Commit) -> Ticket {
        let ticket = self.store.commit(commit).expect("the commit is taken");
        self.settle(&ticket).await;
        ticket
    }

    async fn create(&mut self, name: &str) -> LogId {
        self.create_in(name, None, RetentionClass(0)).await
    }

    async fn create_in(&mut self, name: &str, sequence: Option<SequenceId>, class: RetentionClass) -> LogId {
        let mut commit = self.store.begin(Class::C);
        let log = self.store.create(&mut commit, name.as_bytes(), sequence, class);
        self.commit(commit).await;
        log
    }

    /// Appends one record per body, each a commit of its own, and gives the offsets.
    async fn append(&mut self, log: LogId, bodies: &[&str]) -> Vec<Offset> {
        let mut offsets = Vec::new();
        for body in bodies {
            let mut commit = self.store.begin(Class::A);
            commit.append(log, &[body.as_bytes()], false);
            commit.want_offsets();
            offsets.extend(self.commit(commit).await.offsets);
        }
        offsets
    }

    async fn put(&mut self, key: &str, row: &str) {
        let mut commit = self.store.begin(Class::B);
        commit.put(TABLE, key.as_bytes(), row.as_bytes());
        self.commit(commit).await;
    }
}

async fn patient<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("what must come, comes in time")
}

const ALL: Limit = Limit {
    records: usize::MAX,
    bytes: usize::MAX,
    before: Mark::END,
};

/// All bodies of a log, with their offsets.
async fn bodies(store: &dyn Store, log: LogId) -> Vec<(Offset, String)> {
    let mut buffer = ReadBuf::default();
    let mut from = Offset::default();
    let mut found = Vec::new();
    loop {
        let progress = patient(store.read(log, from, ALL, &mut buffer))
            .await
            .expect("the log can be read");
        for record in &buffer.records {
            let body = String::from_utf8_lossy(buffer.body(record)).into_owned();
            found.push((record.position, body));
        }
        if !progress.more {
            return found;
        }
        from = progress.next;
    }
}

fn texts(found: &[(Offset, String)]) -> Vec<&str> {
    found.iter().map(|(_, body)| body.as_str()).collect()
}

async fn row(store: &dyn Store, key: &str) -> Option<String> {
    let row = patient(store.get(TABLE, key.as_bytes()))
        .await
        .expect("the row can be read");
    row.map(|row| String::from_utf8_lossy(&row.bytes).into_owned())
}

fn key(id: u32) -> OnceKey {
    OnceKey {
        owner: 7,
        generation: 1,
        id,
    }
}

fn strictly_ascending<T: PartialOrd>(values: &[T]) -> bool {
    values.windows(2).all(|pair| matches!(pair, [a, b] if a < b))
}

/// A log begins without records, and is listed by its name.
pub async fn a_new_log_is_empty(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("plant/line1").await;
    let bounds = reader.store.bounds(log).expect("the log is there");
    assert_eq!((bounds.records, bounds.bytes, bounds.first), (0, 0, bounds.next));
    assert_eq!(bounds.newest_mark, Mark::START);
    let mut listed = Vec::new();
    let mut visit = |id: LogId, name: &[u8], _: &super::Bounds| listed.push((id, name.to_vec()));
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
        (entry.table(), super::parse_row(body)),
        (TABLE, Some((&b"k"[..], &b"row"[..])))
    );
    let (entry, body) = reader.seen.first().expect("the birth");
    let created = super::LogCreated::parse(body).expect("it parses");
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

/// Within a commit, over commits, after a start.
pub async fn the_newest_row_wins(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    assert_eq!(row(&*reader.store, "k").await, None);
    let mut commit = reader.store.begin(Class::B);
    commit.put(TABLE, b"k", b"1");
    commit.put(TABLE, b"k", b"2");
    commit.put(TABLE, b"gone", b"1");
    commit.delete(TABLE, b"gone");
    commit.delete(TABLE, b"never there");
    reader.commit(commit).await;
    assert_eq!(row(&*reader.store, "k").await.as_deref(), Some("2"));
    assert_eq!(row(&*reader.store, "gone").await, None);
    reader.put("k", "3").await;
    let before = reader.store.mark();
    let read = patient(reader.store.get(TABLE, b"k"))
        .await
        .expect("readable")
        .expect("there");
    assert!(read.mark < before && read.mark > Mark::START);
    drop(reader);
    harness.restart(false);
    assert_eq!(row(&*harness.store(), "k").await.as_deref(), Some("3"));
    assert_eq!(row(&*harness.store(), "gone").await, None);
}

/// Keys are bytes; tables do not mix.
pub async fn a_scan_is_half_open_ordered_and_limited(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    for name in ["b", "a", "d", "c", "ab"] {
        reader.put(name, name).await;
    }
    let mut commit = reader.store.begin(Class::B);
    commit.put(TABLES[1], b"b", b"other table");
    commit.delete(TABLE, b"c");
    reader.commit(commit).await;
    for (from, upto, limit, expected) in [
        ("", "z", 10, vec!["a", "ab", "b", "d"]),
        ("a", "b", 10, vec!["a", "ab"]),
        ("aa", "d", 10, vec!["ab", "b"]),
        ("", "z", 2, vec!["a", "ab"]),
        ("b", "b", 10, vec![]),
        ("z", "a", 10, vec![]),
    ] {
        let range = from.as_bytes().to_vec()..upto.as_bytes().to_vec();
        let rows = patient(reader.store.scan(TABLE, range, limit)).await.expect("readable");
        let keys: Vec<String> = rows
            .iter()
            .map(|(key, _)| String::from_utf8_lossy(key).into_owned())
            .collect();
        assert_eq!(keys, expected, "{from:?}..{upto:?}");
        assert!(rows.iter().all(|(key, row)| *key == row.bytes));
    }
}

/// The second ticket settles with the first record; a start forgets no key.
pub async fn a_held_once_key_keeps_a_second_record_out(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let mut tickets = Vec::new();
    for body in ["first", "second"] {
        let mut commit = reader.store.begin(Class::A);
        commit.append_once(log, &[body.as_bytes()], key(1));
        commit.want_offsets();
        tickets.push(reader.store.commit(commit).expect("taken"));
        assert!(reader.store.holds(key(1)), "also while it is on its way");
    }
    for ticket in &tickets {
        reader.settle(ticket).await;
    }
    assert!(matches!(tickets.as_slice(), [a, b] if a.offsets == b.offsets && a.offsets.len() == 1));
    let mut mixed = reader.store.begin(Class::A);
    mixed.append_once(log, &[b"third"], key(1));
    mixed.append(log, &[b"beside"], false);
    reader.commit(mixed).await;
    assert_eq!(texts(&bodies(&*reader.store, log).await), ["first", "beside"]);
    for clean in [false, true] {
        drop(reader);
        harness.restart(clean);
        reader = Reader::of(harness).await;
        assert_eq!(reader.store.held(7), [key(1)]);
        assert!(reader.store.held(8).is_empty());
        let mut commit = reader.store.begin(Class::A);
        commit.append_once(log, &[b"fourth"], key(1));
        commit.want_offsets();
        let ticket = reader.commit(commit).await;
        assert_eq!(Some(&ticket.offsets), tickets.first().map(|first| &first.offsets));
        assert_eq!(texts(&bodies(&*reader.store, log).await), ["first", "beside"]);
    }
}

/// From the release on, also within the commit, and for good.
pub async fn a_released_once_key_can_be_used_again(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let mut commit = reader.store.begin(Class::A);
    commit.append_once(log, &[b"one"], key(1));
    commit.release(key(1));
    commit.append_once(log, &[b"two"], key(1));
    commit.append_once(log, &[b"other"], key(2));
    reader.commit(commit).await;
    let mut commit = reader.store.begin(Class::B);
    commit.release(key(1));
    commit.release(key(9));
    reader.commit(commit).await;
    assert!(!reader.store.holds(key(1)));
    drop(reader);
    harness.restart(false);
    let mut reader = Reader::of(harness).await;
    assert_eq!(reader.store.held(7), [key(2)]);
    let mut commit = reader.store.begin(Class::A);
    commit.append_once(log, &[b"three"], key(1));
    reader.commit(commit).await;
    assert_eq!(
        texts(&bodies(&*reader.store, log).await),
        ["one", "two", "other", "three"]
    );
}

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
            let Some((key, row)) = super::parse_row(body).filter(|_| entry.table() == TABLE) else {
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

/// One machine has one holder.
pub async fn a_lease_is_immediate_and_fences_nobody_who_holds_it(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let lease = reader.store.lease(9, Duration::from_secs(1)).await.expect("given");
    patient(reader.store.renew(&lease)).await.expect("renewed");
    let mut commit = reader.store.begin(Class::B);
    commit.put(TABLE, b"k", b"v");
    reader.store.fence(&mut commit, &lease);
    reader.commit(commit).await;
    assert_eq!(row(&*reader.store, "k").await.as_deref(), Some("v"));
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
    let _feed = store.feed();
    let second = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.feed()));
    assert!(second.is_err());
}
