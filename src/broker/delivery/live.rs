//! What the dispatcher has for a session: references into durable batches, and how the session gets its messages.
//!
//! **Invariants**
//! - Only batches that are dispatched as a whole are taken: behind such a batch alone may a floor stand.
//! - A session with too many references, or with old ones, drops them and reads the log.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Candidate, From, Need, Offer, Puller, lag, note_early, pass_early};
use crate::broker::session::{SessionState, Signal};
use crate::broker::topic::Topic;
use crate::store::{Batch, Mark};

/// References a live session may hold before it lags.
pub const LIVE_REFERENCES_MAX: usize = 4_096;

/// References into one batch for one session.
pub struct Chunk {
    batch: Arc<Batch>,
    refs: Refs,
    next: usize,
    /// For early records: a mark before all of them. Else unused.
    before: Mark,
    early: bool,
}

enum Refs {
    One(Arc<Topic>, Arc<[u32]>),
    Many(Vec<Arc<Topic>>, Vec<(u32, u32)>),
}

impl Chunk {
    /// References to entries of one topic.
    pub fn new(batch: &Arc<Batch>, topic: &Arc<Topic>, entries: &Arc<[u32]>, early_before: Option<Mark>) -> Self {
        Self {
            batch: Arc::clone(batch),
            refs: Refs::One(Arc::clone(topic), Arc::clone(entries)),
            next: 0,
            before: early_before.unwrap_or_default(),
            early: early_before.is_some(),
        }
    }

    fn len(&self) -> usize {
        match &self.refs {
            Refs::One(_, entries) => entries.len() - self.next,
            Refs::Many(_, entries) => entries.len() - self.next,
        }
    }

    fn peek(&self) -> Option<(&Arc<Topic>, usize)> {
        match &self.refs {
            Refs::One(topic, entries) => Some((topic, *entries.get(self.next)? as usize)),
            Refs::Many(topics, entries) => {
                let (entry, topic) = entries.get(self.next)?;
                Some((topics.get(*topic as usize)?, *entry as usize))
            }
        }
    }

    /// Everything handed out so far lies before this mark, nothing that is left does.
    fn floor(&self) -> Mark {
        if self.early {
            return self.before;
        }
        let entry = self.peek().and_then(|(_, entry)| self.batch.entries.get(entry));
        entry.map_or(self.batch.end, |entry| entry.mark)
    }

    /// Brings chunks of one batch into one, in the batch's order.
    fn merge(chunks: Vec<Self>) -> Option<Self> {
        if chunks.len() < 2 {
            return chunks.into_iter().next();
        }
        let mut topics = Vec::with_capacity(chunks.len());
        let mut all = Vec::new();
        let mut merged: Option<(Arc<Batch>, Mark, bool)> = None;
        for chunk in chunks {
            if let Refs::One(topic, entries) = &chunk.refs {
                let place = topics.len() as u32;
                all.extend(entries.iter().map(|entry| (*entry, place)));
                topics.push(Arc::clone(topic));
            }
            merged = Some((chunk.batch, chunk.before, chunk.early));
        }
        all.sort_unstable();
        let (batch, before, early) = merged?;
        Some(Self {
            batch,
            refs: Refs::Many(topics, all),
            next: 0,
            before,
            early,
        })
    }
}

/// How a session gets its messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Nobody serves it.
    #[default]
    Absent,
    /// It reads the log itself.
    Lagging,
    /// It has read up to the mark and waits to be made live.
    Joining(Mark),
    /// It dropped its references from the mark on, and reads them from the log.
    Dropped(Mark),
    /// The dispatcher hands it references.
    Live,
}

/// What the dispatcher has for a session.
#[derive(Default)]
pub struct LiveQueue {
    pub(in crate::broker) mode: Mode,
    chunks: VecDeque<Chunk>,
    count: usize,
    pub(in crate::broker) signal: Option<Arc<Signal>>,
    /// The dispatcher has it on its list of whom to wake.
    touched: bool,
    /// References before this mark are to be let go of: their batches leave the ring.
    oldest: Mark,
}

impl LiveQueue {
    /// Hands references to a live session; one that has too many drops them and lags. `true`: it is to be woken when
    /// the batch is dispatched, and stands on nobody's list for that yet.
    pub(in crate::broker) fn push(&mut self, chunk: Chunk) -> bool {
        match self.mode {
            Mode::Live => self.add(chunk),
            Mode::Lagging if self.signal.is_some() => {}
            Mode::Absent | Mode::Lagging | Mode::Joining(_) | Mode::Dropped(_) => return false,
        }
        !std::mem::replace(&mut self.touched, true)
    }

    /// A session that reads the log itself has something to read when the batch is dispatched; as [`LiveQueue::push`].
    pub(in crate::broker) fn touch_lagging(&mut self) -> bool {
        self.mode == Mode::Lagging && self.signal.is_some() && !std::mem::replace(&mut self.touched, true)
    }

    /// Wakes who is on the dispatcher's list.
    pub(in crate::broker) fn wake_touched(&mut self) {
        self.touched = false;
        self.wake();
    }

    fn add(&mut self, chunk: Chunk) {
        if self.mode != Mode::Live {
            return;
        }
        self.count += chunk.len();
        self.chunks.push_back(chunk);
        if self.count > LIVE_REFERENCES_MAX {
            let from = self.chunks.front().map_or(Mark::START, Chunk::floor);
            self.drop_references();
            self.mode = Mode::Dropped(from);
        }
    }

    pub(in crate::broker) fn wake(&self) {
        if let Some(signal) = &self.signal {
            signal.wake();
        }
    }

    /// Makes a waiting session live, with what lies behind its read mark.
    pub(in crate::broker) fn join(&mut self, from: Mark, chunks: Vec<Chunk>) {
        if self.mode == Mode::Joining(from) {
            self.mode = Mode::Live;
            for chunk in chunks {
                self.add(chunk);
            }
            self.wake();
        }
    }

    /// Sends a waiting session back to the log.
    pub(in crate::broker) fn refuse_join(&mut self) {
        if matches!(self.mode, Mode::Joining(_)) {
            self.mode = Mode::Lagging;
            self.wake();
        }
    }

    pub(in crate::broker) fn drop_references(&mut self) {
        self.chunks.clear();
        self.count = 0;
    }

    /// Drops references to a batch about to leave the ring: the session lags.
    pub(in crate::broker) fn keep_from(&mut self, oldest: Mark) {
        if self.mode != Mode::Live {
            return;
        }
        self.oldest = oldest;
        if let Some(from) = self.chunks.front().map(Chunk::floor).filter(|from| *from < oldest) {
            self.drop_references();
            self.mode = Mode::Dropped(from);
        }
        // What it has taken and not handed out it lets go of itself.
        self.wake();
    }

    /// Takes the references of batches that are dispatched as a whole: only behind such a batch may a floor stand.
    pub(super) fn take(&mut self, dispatched: Mark) -> VecDeque<Chunk> {
        let whole = |chunk: &Chunk| chunk.early || chunk.batch.end <= dispatched;
        let count = self.chunks.iter().take_while(|chunk| whole(chunk)).count();
        let left = self.chunks.split_off(count);
        let chunks = std::mem::replace(&mut self.chunks, left);
        self.count = self.chunks.iter().map(Chunk::len).sum();
        if chunks.len() < 2 {
            return chunks;
        }
        let mut merged = VecDeque::with_capacity(chunks.len());
        let mut same: Vec<Chunk> = Vec::new();
        for chunk in chunks {
            if same
                .first()
                .is_some_and(|first| !Arc::ptr_eq(&first.batch, &chunk.batch))
            {
                merged.extend(Chunk::merge(std::mem::take(&mut same)));
            }
            same.push(chunk);
        }
        merged.extend(Chunk::merge(same));
        merged
    }

    /// The mark before which a live session has nothing waiting in its queue; `None` if it reads the log.
    pub(in crate::broker) fn floor(&self, dispatched: Mark) -> Option<Mark> {
        match self.mode {
            Mode::Live => Some(self.chunks.front().map_or(dispatched, Chunk::floor)),
            Mode::Joining(from) | Mode::Dropped(from) => Some(from),
            Mode::Absent | Mode::Lagging => None,
        }
    }

    /// Whether there is anything to take, now or when its batch is dispatched.
    pub(super) fn has_references(&self) -> bool {
        !self.chunks.is_empty()
    }
}

impl Puller<'_> {
    /// References of the dispatcher; `Some` ends the pull.
    pub(super) fn hand_pending(&mut self, state: &mut SessionState) -> Option<Need> {
        while let Some(mut chunk) = state.pending.pop_front() {
            let batch = Arc::clone(&chunk.batch);
            while let Some((topic, place)) = chunk.peek() {
                if self.sink.is_full() {
                    state.position.floor = state.position.floor.max(chunk.floor());
                    state.pending.push_front(chunk);
                    return Some(Need::Nothing { more: true });
                }
                if let Some(entry) = batch.entries.get(place) {
                    let candidate = Candidate {
                        topic,
                        position: entry.position,
                        time: entry.time,
                        mark: if chunk.early { Mark::END } else { entry.mark },
                        body: batch.body(entry),
                        from: if chunk.early { From::Early } else { From::Live },
                    };
                    if matches!(self.offer(state, &candidate), Offer::Full) {
                        state.position.floor = state.position.floor.max(chunk.floor());
                        state.pending.push_front(chunk);
                        return Some(Need::Nothing { more: false });
                    }
                    if chunk.early {
                        let (log, next) = (topic.log, entry.position.next());
                        note_early(state, log, next);
                        state.early.until = self.shared.store.mark();
                    }
                }
                chunk.next += 1;
            }
            if !chunk.early {
                state.position.floor = state.position.floor.max(batch.end);
                pass_early(state);
            }
        }
        None
    }

    /// Drops references whose batches leave the ring: the session reads the log from there.
    pub(super) fn let_go(&self, state: &mut SessionState) {
        let Some(from) = state.pending.front().map(Chunk::floor) else {
            return;
        };
        let mut queue = self.session.queue.lock();
        if from < queue.oldest {
            queue.drop_references();
            if matches!(queue.mode, Mode::Live | Mode::Dropped(_)) {
                queue.mode = Mode::Lagging;
            }
            drop(queue);
            state.position.floor = state.position.floor.max(from);
            state.pending.clear();
            lag(state);
        }
    }
}
