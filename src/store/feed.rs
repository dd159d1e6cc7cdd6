//! The feed: the one ordered stream from a store to its reader.
//!
//! **Invariants**
//! - Items come in the order in which they were queued; there is one reader.
//! - A batch is *finished* when the reader asks for the item behind it. Tickets settle then, so an answer is never
//!   ahead of what the reader knows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::types::{Batch, Mark};

/// What the feed hands out.
#[derive(Clone, Debug)]
pub enum FeedItem {
    /// A durable batch (in `interval` durability: a written one).
    Batch(Arc<Batch>),
    /// Records on their way to the disk that nobody waits for. They come again in a durable batch, marked as early.
    Early(Arc<Batch>),
    /// Everything that was stored before this start has been handed out.
    CaughtUp,
    /// A write or sync failed; the feed ends here, and the text says why.
    Latched(String),
    /// The store was closed; the feed ends here.
    Closed,
}

/// Told which batches the reader has finished: resolves tickets and bounds snapshots.
pub(in crate::store) type Finished = Box<dyn Fn(&Batch) + Send + Sync>;

/// The queue behind a [`Feed`]; the backend's end.
pub(in crate::store) struct FeedQueue {
    items: Mutex<VecDeque<FeedItem>>,
    queued: Notify,
    taken: AtomicBool,
    finished_mark: AtomicU64,
    finished: Finished,
}

impl FeedQueue {
    pub(in crate::store) fn new(finished: Finished) -> Arc<Self> {
        Arc::new(Self {
            items: Mutex::default(),
            queued: Notify::new(),
            taken: AtomicBool::new(false),
            finished_mark: AtomicU64::new(0),
            finished,
        })
    }

    /// Queues an item under a lock of the backend's; [`FeedQueue::wake`] follows when the lock is released.
    pub(in crate::store) fn queue(&self, item: FeedItem) {
        self.items.lock().push_back(item);
    }

    /// Wakes the reader, exactly one task.
    pub(in crate::store) fn wake(&self) {
        self.queued.notify_one();
    }

    /// Queues an item and wakes the reader, exactly one task.
    pub(in crate::store) fn push(&self, item: FeedItem) {
        self.items.lock().push_back(item);
        self.queued.notify_one();
    }

    /// The end of the last batch that the reader has finished.
    pub(in crate::store) fn finished_mark(&self) -> Mark {
        Mark::new(self.finished_mark.load(Ordering::Acquire))
    }

    /// The reader's end; the first caller gets it.
    pub(in crate::store) fn take(self: &Arc<Self>) -> Feed {
        assert!(!self.taken.swap(true, Ordering::AcqRel), "the feed has one reader");
        Feed {
            queue: Arc::clone(self),
            current: None,
        }
    }
}

/// The reader's end of the feed.
pub struct Feed {
    queue: Arc<FeedQueue>,
    current: Option<Arc<Batch>>,
}

impl Feed {
    /// The next item; finishes the batch handed out before. Safe to cancel: an item is never lost.
    pub async fn next(&mut self) -> FeedItem {
        loop {
            if let Some(item) = self.try_next() {
                return item;
            }
            // A push in between leaves its permit, so this returns at once.
            self.queue.queued.notified().await;
        }
    }

    /// Finishes the batch handed out before, without asking for another.
    pub fn finish(&mut self) {
        if let Some(batch) = self.current.take() {
            self.queue.finished_mark.store(batch.end.raw(), Ordering::Release);
            (self.queue.finished)(&batch);
        }
    }

    /// The next item if there is one now; finishes the batch handed out before either way.
    pub fn try_next(&mut self) -> Option<FeedItem> {
        self.finish();
        let item = self.queue.items.lock().pop_front()?;
        if let FeedItem::Batch(batch) = &item {
            self.current = Some(Arc::clone(batch));
        }
        Some(item)
    }
}
