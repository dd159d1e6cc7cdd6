//! The one ordered dispatcher: walks the feed, lets subscriptions take effect at their place, keeps retained messages,
//! hands references to live sessions, wakes each connection once.
//!
//! **Invariants**
//! - One task, so what it does has one order: the log's.
//! - Early records (`QoS` 0) are handed on where they pass; the durable batch passes over them.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use super::Shared;
use super::delivery::{Chunk, Mode};
use super::fold::Origin;
use super::rows;
use super::rows::record::Record;
use super::session::{Closing, Session};
use super::shared_group::ShareGroup;
use super::topic::Topic;
use crate::store::{Batch, EntryKind, Feed, FeedItem, LogId, Mark};

/// Bytes of durable batches kept at hand for joining sessions; the batches are the store's own.
const RECENT_BYTES: usize = 32 << 20;

/// The dispatcher's own state.
pub(super) struct Dispatcher {
    shared: Arc<Shared>,
    recent: VecDeque<Arc<Batch>>,
    recent_bytes: usize,
    /// Bytes dropped since live sessions were last told to let go.
    dropped_bytes: usize,
    /// Early runs that are not durable yet, with how many of their records are not.
    early: VecDeque<(Arc<Batch>, usize)>,
    /// Whom the batch concerns: woken once, when it is dispatched.
    touched: Vec<Arc<Session>>,
    groups_touched: Vec<Arc<ShareGroup>>,
    /// Sessions that were made live, to be told when batches leave the ring.
    live: Vec<Weak<Session>>,
    /// Scratch: entries of a batch by topic.
    by_topic: Vec<(Arc<Topic>, Vec<u32>)>,
    places: FxHashMap<LogId, usize>,
}

impl Dispatcher {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            recent: VecDeque::new(),
            recent_bytes: 0,
            dropped_bytes: 0,
            early: VecDeque::new(),
            touched: Vec::new(),
            groups_touched: Vec::new(),
            live: Vec::new(),
            by_topic: Vec::new(),
            places: FxHashMap::default(),
        }
    }

    /// Runs until the store closes or fails.
    pub(super) async fn run(mut self, mut feed: Feed) {
        loop {
            let item = tokio::select! {
                biased;
                item = feed.next() => item,
                () = self.shared.join_asked.notified() => {
                    self.let_join();
                    continue;
                }
            };
            match item {
                FeedItem::Batch(batch) => {
                    self.walk(&batch);
                    feed.finish();
                    for waiter in &batch.waiters {
                        self.shared.wake_waiter(*waiter);
                    }
                    self.let_join();
                }
                FeedItem::Early(batch) => self.hand_early(batch),
                FeedItem::CaughtUp => {}
                FeedItem::Latched(cause) => {
                    tracing::error!(cause, "the store has failed; nothing is acknowledged any more");
                    self.shared.close_connections(Closing::StoreFailed);
                    self.shared.failed.notify_one();
                    return;
                }
                FeedItem::Closed => return,
            }
        }
    }

    fn walk(&mut self, batch: &Arc<Batch>) {
        let mut topic: Option<Arc<Topic>> = None;
        for (place, entry) in batch.entries.iter().enumerate() {
            if entry.kind != EntryKind::Data {
                let row = matches!(entry.kind, EntryKind::Row | EntryKind::RowDeleted);
                if row && entry.table() == rows::SUBSCRIPTION {
                    // What stands before a change of subscriptions is handed out by the old ones.
                    self.hand_out(batch, None);
                }
                if !row || entry.table() == rows::SUBSCRIPTION {
                    self.shared.apply(batch, entry, Origin::Live);
                    topic = None;
                }
                continue;
            }
            if entry.early {
                self.passed_early();
            }
            if topic.as_ref().is_none_or(|topic| topic.log != entry.log) {
                topic = self.shared.topics.by_log(entry.log);
            }
            let Some(topic) = &topic else { continue };
            if Record::says_retain(batch.body(entry)) {
                self.shared.apply(batch, entry, Origin::Live);
            }
            if entry.early {
                self.pass_on_early(batch, topic, place);
            } else {
                self.reference(topic, place);
            }
        }
        self.hand_out(batch, None);
        self.shared.set_dispatched(batch.end);
        self.wake_touched();
        self.keep(batch);
    }

    /// Only behind a whole batch: those who read the log themselves find it now, and no floor stands within it.
    fn wake_touched(&mut self) {
        for session in self.touched.drain(..) {
            session.queue.lock().wake_touched();
        }
        for group in self.groups_touched.drain(..) {
            group.wake_touched();
        }
    }

    /// Live sessions were handed the record early; groups, and who reads the log, get it now.
    fn pass_on_early(&mut self, batch: &Batch, topic: &Topic, place: usize) {
        let matches = topic.matches(&self.shared.tree);
        for session in &matches.connected {
            if session.queue.lock().touch_lagging() {
                self.touched.push(Arc::clone(session));
            }
        }
        for group in &matches.groups {
            if group.hand(batch, topic, &[place as u32]) {
                self.groups_touched.push(Arc::clone(group));
            }
        }
    }

    fn reference(&mut self, topic: &Arc<Topic>, place: usize) {
        let slot = match self.by_topic.last() {
            Some((last, _)) if last.log == topic.log => self.by_topic.len() - 1,
            _ => *self.places.entry(topic.log).or_insert_with(|| {
                self.by_topic.push((Arc::clone(topic), Vec::new()));
                self.by_topic.len() - 1
            }),
        };
        if let Some((_, entries)) = self.by_topic.get_mut(slot) {
            entries.push(place as u32);
        }
    }

    fn hand_out(&mut self, batch: &Arc<Batch>, early_before: Option<Mark>) {
        self.places.clear();
        for (topic, entries) in self.by_topic.drain(..) {
            let matches = topic.matches(&self.shared.tree);
            if matches.connected.is_empty() && matches.groups.is_empty() {
                continue;
            }
            let entries: Arc<[u32]> = entries.into();
            for session in &matches.connected {
                if session
                    .queue
                    .lock()
                    .push(Chunk::new(batch, &topic, &entries, early_before))
                {
                    self.touched.push(Arc::clone(session));
                }
            }
            for group in &matches.groups {
                if early_before.is_none() && group.hand(batch, &topic, &entries) {
                    self.groups_touched.push(Arc::clone(group));
                }
            }
        }
    }

    fn hand_early(&mut self, batch: Arc<Batch>) {
        for (place, entry) in batch.entries.iter().enumerate() {
            if entry.kind == EntryKind::Data
                && let Some(topic) = self.shared.topics.by_log(entry.log)
            {
                self.reference(&topic, place);
            }
        }
        self.hand_out(&batch, Some(self.shared.dispatched()));
        self.wake_touched();
        let count = batch.entries.len();
        self.early.push_back((batch, count));
    }

    fn passed_early(&mut self) {
        if let Some((_, left)) = self.early.front_mut() {
            *left -= 1;
            if *left == 0 {
                self.early.pop_front();
            }
        }
    }

    fn keep(&mut self, batch: &Arc<Batch>) {
        self.recent_bytes += batch.bytes();
        self.recent.push_back(Arc::clone(batch));
        while self.recent_bytes > RECENT_BYTES
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.bytes();
            self.dropped_bytes += oldest.bytes();
        }
        if self.dropped_bytes > RECENT_BYTES / 4 {
            self.dropped_bytes = 0;
            let oldest = self.oldest();
            self.live.retain(|session| {
                let Some(session) = session.upgrade() else { return false };
                let mut queue = session.queue.lock();
                queue.keep_from(oldest);
                queue.mode == Mode::Live
            });
        }
    }

    fn oldest(&self) -> Mark {
        self.recent
            .front()
            .and_then(|batch| batch.entries.first())
            .map_or_else(|| self.shared.dispatched(), |entry| entry.mark)
    }

    /// Makes those live who have read up to what is at hand here.
    fn let_join(&mut self) {
        for session in self.shared.take_joining() {
            let Mode::Joining(from) = session.queue.lock().mode else {
                continue;
            };
            if from < self.oldest() && from < self.shared.dispatched() {
                session.queue.lock().refuse_join();
                continue;
            }
            // With its references in one step: a session that is live and has none counts as caught up.
            let chunks = self.behind(&session, from);
            session.queue.lock().join(from, chunks);
            self.live.push(Arc::downgrade(&session));
        }
    }

    /// References for a session that becomes live: what lies behind its read mark, and what is not durable yet.
    fn behind(&self, session: &Session, from: Mark) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for batch in self.recent.iter().filter(|batch| batch.end > from) {
            let skip = batch.entries.partition_point(|entry| entry.mark < from);
            references(&self.shared, session, batch, skip, None, &mut chunks);
        }
        let before = self.shared.dispatched();
        for (batch, left) in &self.early {
            // Records of the run that are durable already stand in the batches above.
            references(
                &self.shared,
                session,
                batch,
                batch.entries.len() - left,
                Some(before),
                &mut chunks,
            );
        }
        chunks
    }
}

fn references(
    shared: &Shared,
    session: &Session,
    batch: &Arc<Batch>,
    skip: usize,
    early_before: Option<Mark>,
    into: &mut Vec<Chunk>,
) {
    let mut by_topic: Vec<(Arc<Topic>, Vec<u32>)> = Vec::new();
    let mut slots: FxHashMap<LogId, Option<usize>> = FxHashMap::default();
    for (place, entry) in batch.entries.iter().enumerate().skip(skip) {
        if entry.kind != EntryKind::Data {
            continue;
        }
        let slot = *slots.entry(entry.log).or_insert_with(|| {
            let topic = shared.topics.by_log(entry.log)?;
            let matches = topic.matches(&shared.tree);
            // Sorted by number.
            let held = matches.connected.binary_search_by_key(&session.id, |held| held.id);
            held.ok().map(|_| {
                by_topic.push((topic, Vec::new()));
                by_topic.len() - 1
            })
        });
        if let Some((_, entries)) = slot.and_then(|slot| by_topic.get_mut(slot)) {
            entries.push(place as u32);
        }
    }
    into.extend(
        by_topic
            .into_iter()
            .map(|(topic, entries)| Chunk::new(batch, &topic, &entries.into(), early_before)),
    );
}
