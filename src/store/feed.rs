//! The feed: the one ordered stream from a store to its reader.
//!
//! **Invariants**
//! - Items come in the order in which they were queued; there is one reader.
//! - A batch is *finished* when the reader asks for the item behind it. Tickets settle then, so an answer is never
//!   ahead of what the reader knows.
//! - A thread that is no worker of the runtime rings a bell that the runtime polls like a socket. Waking the task
//!   itself from there would make the runtime wake a second worker for each batch, which finds nothing to do.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
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
    /// The reader sleeps, or is about to look a last time.
    asleep: AtomicBool,
    /// What wakes it from other threads, once it has slept; never if there was no descriptor left.
    bell: OnceLock<OwnedFd>,
    taken: AtomicBool,
    finished_mark: AtomicU64,
    finished: Finished,
}

impl FeedQueue {
    pub(in crate::store) fn new(finished: Finished) -> Arc<Self> {
        Arc::new(Self {
            items: Mutex::default(),
            queued: Notify::new(),
            asleep: AtomicBool::new(false),
            bell: OnceLock::new(),
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

    /// [`FeedQueue::wake`] for threads that are no workers of the runtime.
    pub(in crate::store) fn ring(&self) {
        // What was queued before is seen: the queue's lock lies between the reader's flag and its last look.
        if !self.asleep.swap(false, Ordering::AcqRel) {
            return;
        }
        let rung = self
            .bell
            .get()
            .is_some_and(|bell| rustix::io::write(bell, &[0]).is_ok());
        if !rung {
            self.queued.notify_one();
        }
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
            bell: None,
        }
    }
}

/// The reader's end of the feed.
pub struct Feed {
    queue: Arc<FeedQueue>,
    current: Option<Arc<Batch>>,
    bell: Option<pipe::Receiver>,
}

impl Feed {
    /// The next item; finishes the batch handed out before. Safe to cancel: an item is never lost. To be awaited in a
    /// runtime whose I/O is enabled.
    pub async fn next(&mut self) -> FeedItem {
        loop {
            if let Some(item) = self.try_next() {
                return item;
            }
            self.queue.asleep.store(true, Ordering::Release);
            if let Some(item) = self.try_next() {
                return item;
            }
            self.woken().await;
        }
    }

    async fn woken(&mut self) {
        if self.bell.is_none() {
            self.bell = hang_bell(&self.queue.bell);
        }
        // A push in between leaves its permit or its byte, so this returns at once then.
        let notified = self.queue.queued.notified();
        match &mut self.bell {
            None => notified.await,
            Some(bell) => {
                // Few bytes into much room: the runtime knows then that nothing is left.
                let mut rings = [0; 64];
                tokio::select! {
                    () = notified => {}
                    // It cannot fail while the queue has the other end; whatever happens, the queue is looked at.
                    _ = bell.read(&mut rings) => {}
                }
            }
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

/// Makes the bell; without descriptors the reader is woken as a task.
fn hang_bell(place: &OnceLock<OwnedFd>) -> Option<pipe::Receiver> {
    let (sender, receiver) = pipe::pipe().ok()?;
    place.set(sender.into_nonblocking_fd().ok()?).ok()?;
    Some(receiver)
}
