//! The rules of the seam as tests that any backend can run: [`crate::conformance!`] makes one test of each of them for
//! a [`Harness`]. A rule that needs a backend to misbehave (to hold durability back, to fail a sync) is tested where
//! the backend is.
//!
//! **Invariants**
//! - Nothing here knows a backend: offsets may have gaps, marks are compared only, batches may be cut anywhere.
//! - A test ends by itself: waiting is bounded by [`PATIENCE`].

mod extent;
mod feed;
mod records;
mod rows;
mod starts;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::{
    At, Batch, Class, Commit, Entry, EntryKind, Error, Feed, FeedItem, Lease, Limit, LogId, Mark, Offset, OnceKey,
    ReadBuf, Refused, RetentionClass, Row, SequenceId, Store, StoreState, Table, Ticket, WaiterId,
};
use crate::clock::Clock;

pub use self::extent::*;
pub use self::feed::*;
pub use self::records::*;
pub use self::rows::*;
pub use self::starts::*;

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
            what_was_written_is_counted
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
            a_lease_is_immediate_and_void_when_another_is_given
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
