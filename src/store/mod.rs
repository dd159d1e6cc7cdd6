//! The seam between the broker and whatever keeps its data: logs of records, tables of rows, one feed.
//!
//! The store knows logs, offsets, records, tables and keys. It knows nothing of who uses them.
//!
//! ```text
//!   log 7   | 1 | 2 | 3 | 4 | 5 | 6 |          offsets: per log, increasing, never reused, perhaps with gaps
//!               ^first          ^newest  ^next
//!   feed    ... 7:4  9:1  row  7:5  9:2  row  7:6 ...        one order for everything, with marks
//!                          ^mark                   ^mark()
//! ```
//!
//! **Rules every backend keeps** (each is a test in `conformance.rs`)
//! - Offsets of a log increase strictly and are never reused; counting is an operation, not a subtraction.
//! - Records become visible through the feed and through reads when they are durable, not before. One exception:
//!   records committed as *early* may pass the feed once before, marked so; the durable batch marks them as passed.
//! - A commit survives a crash as a whole or not at all; it is not isolated from readers.
//! - The feed is one ordered stream: rows, log births and data in commit order, first what lies behind the
//!   snapshot, then [`FeedItem::CaughtUp`], then live batches.
//! - `newest wins` for rows, everywhere.
//! - After a failed write or sync nothing is taken any more, and the state says why.

mod error;
mod feed;
mod types;

pub mod local;

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod memory;

use std::future::Future;
use std::ops::Range;
use std::pin::Pin as PinBox;
use std::task::{Context, Poll};
use std::time::Duration;

pub use error::{Error, Refused, Result};
pub use feed::{Feed, FeedItem};
pub use types::{
    At, Batch, Bounds, Class, Commit, CommitEntry, Entry, EntryKind, Epoch, KeyedRow, Lease, Limit, LogCreated, LogId,
    Mark, Offset, OnceKey, Progress, ROW_KEY_BYTES_MAX, ReadBuf, ReadRecord, RetentionClass, Row, SequenceId,
    StoreState, Table, Ticket, Touched, WaiterId, Written, parse_row,
};

/// An answer that is ready at once when it lies in memory, and is awaited when it does not.
pub enum Fetch<'a, T> {
    /// Here it is; taken when polled.
    Ready(Option<Result<T>>),
    /// It must be read; the future may block a thread of the blocking pool.
    Wait(PinBox<Box<dyn Future<Output = Result<T>> + Send + 'a>>),
}

impl<'a, T> Fetch<'a, T> {
    /// A ready answer.
    pub fn ready(result: Result<T>) -> Self {
        Self::Ready(Some(result))
    }

    /// An answer that must be waited for.
    pub fn wait(future: impl Future<Output = Result<T>> + Send + 'a) -> Self {
        Self::Wait(Box::pin(future))
    }
}

impl<T: Unpin> Future for Fetch<'_, T> {
    type Output = Result<T>;

    fn poll(self: PinBox<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(result) => Poll::Ready(result.take().expect("a Fetch is polled once after it is ready")),
            Self::Wait(future) => future.as_mut().poll(context),
        }
    }
}

/// Logs: reading them, and reserving their numbers. What changes them is queued in a [`Commit`].
pub trait MessageLog: Send + Sync {
    /// Reserves a log number and queues the log's birth; durable with the commit, never reused.
    ///
    /// `sequence`: whose numbering it shares; `None` is one of its own, whose id is the log's number.
    fn create(&self, commit: &mut Commit, name: &[u8], sequence: Option<SequenceId>, class: RetentionClass) -> LogId;

    /// Whether a once-key is held, by a durable record or by one on its way.
    fn holds(&self, once: OnceKey) -> bool;

    /// All held keys of an owner.
    fn held(&self, owner: u64) -> Vec<OnceKey>;

    /// Visits every log with its name, from memory.
    fn logs(&self, visit: &mut dyn FnMut(LogId, &[u8], &Bounds));

    /// The extent of a log, durable records only; `None` if there is no such log. From memory.
    fn bounds(&self, log: LogId) -> Option<Bounds>;

    /// First offset at or behind a mark or a time, or of the last n records; the log's `next` if there is none.
    ///
    /// # Errors
    /// [`Error::NoLog`], or damage and read errors.
    fn locate(&self, log: LogId, at: At) -> Fetch<'_, Offset>;

    /// Copies records from `from` on (or from the first stored one) into `into`, which is cleared before, until a
    /// bound of `limit` is reached; ready at once from memory.
    ///
    /// # Errors
    /// [`Error::NoLog`], or read errors. A damaged record is reported, noted as damage and passed over.
    fn read<'a>(&'a self, log: LogId, from: Offset, limit: Limit, into: &'a mut ReadBuf) -> Fetch<'a, Progress>;

    /// Logs with records in `[from, upto)`, each once, where `upto`, which is returned, is as far as the step came:
    /// at most `limit.before`, and `limit.records` logs or `limit.bytes` of the log's own bytes.
    fn touched<'a>(&'a self, from: Mark, limit: Limit, into: &'a mut Vec<Touched>) -> Fetch<'a, Mark>;

    /// Stored records of a log with positions in a range.
    fn count(&self, log: LogId, range: Range<Offset>) -> Fetch<'_, u64>;

    /// The feed; there is one, and the first caller gets it.
    ///
    /// # Panics
    /// If it was taken before.
    fn feed(&self) -> Feed;

    /// Keeps everything at or behind the mark readable until the pin is dropped.
    fn pin(&self, mark: Mark) -> Pin;
}

/// Keeps what lies behind a mark readable while it lives.
pub struct Pin {
    /// Whatever the backend lets go of when the pin is dropped.
    pub(in crate::store) _guard: Box<dyn std::any::Any + Send + Sync>,
}

/// Tables of rows. What changes them is queued in a [`Commit`]; [`MetaStore::derive`] is the exception.
pub trait MetaStore: Send + Sync {
    /// A row that follows from entries of the feed: kept in snapshots only, never in the log. `None` deletes it.
    fn derive(&self, table: Table, key: &[u8], row: Option<&[u8]>);

    /// One row.
    fn get(&self, table: Table, key: &[u8]) -> Fetch<'_, Option<Row>>;

    /// Rows with keys in a range, ascending, at most `limit`.
    fn scan(&self, table: Table, range: Range<Vec<u8>>, limit: usize) -> Fetch<'_, Vec<KeyedRow>>;

    /// Every row of the snapshot once, before serving; the feed brings what came behind it.
    ///
    /// # Errors
    /// If a row cannot be read.
    fn load(&self, visit: &mut dyn FnMut(Table, &[u8], &Row)) -> Result<()>;

    /// The right to write for an owner. Local: immediate and endless.
    fn lease(&self, owner: u64, ttl: Duration) -> Fetch<'_, Lease>;

    /// Prolongs a lease. Local: nothing to do.
    fn renew(&self, lease: &Lease) -> Fetch<'_, ()>;
}

/// A store: logs and tables that change together.
pub trait Store: MessageLog + MetaStore {
    /// An empty commit with a recycled arena.
    fn begin(&self, class: Class) -> Commit;

    /// The commit is void if another holder has the lease when it is taken.
    fn fence(&self, commit: &mut Commit, lease: &Lease) {
        commit.fence = Some(*lease);
    }

    /// Hands a commit over; offsets are assigned now, in call order. Never blocks. An empty commit settles at once.
    ///
    /// # Errors
    /// Definite, nothing was written: see [`Refused`].
    fn commit(&self, commit: Commit) -> std::result::Result<Ticket, Refused>;

    /// A ticket for everything handed over before, and a request to make it durable now.
    fn sync(&self) -> Ticket;

    /// Lists `who` in the feed's batch that settles the ticket, or wakes through the next batch if it is settled.
    fn notify(&self, ticket: &Ticket, who: WaiterId);

    /// How the ticket's commit ended, if it has: durable and handed out by the feed, or an indefinite error.
    fn outcome(&self, ticket: &Ticket) -> Option<Result<()>>;

    /// Waits until the commit is durable (`interval` durability: written) and the feed's reader has finished the
    /// batch it lies in.
    ///
    /// # Errors
    /// Indefinite: recovery decides; writes are disabled from now on.
    fn settled(&self, ticket: &Ticket) -> Fetch<'_, ()>;

    /// Now: every later commit lies at or behind it, every earlier one before it.
    fn mark(&self) -> Mark;

    /// Whether it takes commits.
    fn state(&self) -> StoreState;

    /// What it has written since it was opened; a commit is counted when its ticket settles at the latest.
    fn written(&self) -> Written;

    /// Makes everything durable, takes nothing more and gives the data directory back. Idempotent.
    ///
    /// # Errors
    /// If the last sync failed.
    fn close(&self) -> Result<()>;
}
