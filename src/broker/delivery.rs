//! The delivery path: what may go to a session now, and how it is found.
//!
//! A session is *absent*, *lagging* or *live*. Live, the dispatcher hands it references into durable batches. Lagging,
//! it reads the log itself, in log order and bounded steps, and joins the live path when it has come close to the end.
//! Whoever serves the session pulls; nothing is pushed into sockets.
//!
//! **Invariants**
//! - Per topic, messages are handed out in the order of their positions: first what is sent again, then what was
//!   retained, then what waits behind the floor, then the rest.
//! - A message is handed out only after it is durable, or early with `QoS` 0.
//! - No lock is held while the store reads.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use super::Shared;
use super::inflight::{Exchange, Outgoing, SentChange};
use super::message::{Delivery, Qos};
use super::position::{EXPLICIT_COUNT_MAX, Explicit};
use super::rows::StoredRow;
use super::rows::record::Record;
use super::rows::session::{DueRow, PositionRow, SubscriptionRow};
use super::rows::{self};
use super::session::{Session, SessionKind, SessionState, Signal};
use super::shared_group::Waiting;
use super::subscription::{RetainedDue, SubscriptionOptions};
use super::topic::Topic;
use super::topic_filter::TopicFilter;
use crate::store::{
    At, Batch, Class, Commit, Error, Limit, LogId, Mark, Offset, Progress, ReadBuf, ReadRecord, Ticket,
};

/// References a live session may hold before it lags.
pub const LIVE_REFERENCES_MAX: usize = 4_096;
/// Topics that one step of a lagging session reads at most.
const STEP_TOPICS_MAX: usize = 256;
/// Bytes a step reads at once, shared by its topics.
const STEP_BYTES: usize = 256 << 10;
/// Messages a session takes from a share group at once.
const GROUP_TAKE_MAX: usize = 64;
/// Retained topics looked at before somebody else gets a turn.
const RETAINED_STEPS: usize = 1_000;

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
    pub(super) mode: Mode,
    chunks: VecDeque<Chunk>,
    count: usize,
    pub(super) signal: Option<Arc<Signal>>,
    /// The dispatcher has it on its list of whom to wake.
    touched: bool,
    /// References before this mark are to be let go of: their batches leave the ring.
    oldest: Mark,
}

impl LiveQueue {
    /// Hands references to a live session; one that has too many drops them and lags. `true`: it is to be woken when
    /// the batch is dispatched, and stands on nobody's list for that yet.
    pub(super) fn push(&mut self, chunk: Chunk) -> bool {
        match self.mode {
            Mode::Live => self.add(chunk),
            Mode::Lagging if self.signal.is_some() => {}
            Mode::Absent | Mode::Lagging | Mode::Joining(_) | Mode::Dropped(_) => return false,
        }
        !std::mem::replace(&mut self.touched, true)
    }

    /// A session that reads the log itself has something to read when the batch is dispatched; as [`LiveQueue::push`].
    pub(super) fn touch_lagging(&mut self) -> bool {
        self.mode == Mode::Lagging && self.signal.is_some() && !std::mem::replace(&mut self.touched, true)
    }

    /// Wakes who is on the dispatcher's list.
    pub(super) fn wake_touched(&mut self) {
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

    pub(super) fn wake(&self) {
        if let Some(signal) = &self.signal {
            signal.wake();
        }
    }

    /// Makes a waiting session live, with what lies behind its read mark.
    pub(super) fn join(&mut self, from: Mark, chunks: Vec<Chunk>) {
        if self.mode == Mode::Joining(from) {
            self.mode = Mode::Live;
            for chunk in chunks {
                self.add(chunk);
            }
            self.wake();
        }
    }

    /// Sends a waiting session back to the log.
    pub(super) fn refuse_join(&mut self) {
        if matches!(self.mode, Mode::Joining(_)) {
            self.mode = Mode::Lagging;
            self.wake();
        }
    }

    pub(super) fn drop_references(&mut self) {
        self.chunks.clear();
        self.count = 0;
    }

    /// Drops references to a batch about to leave the ring: the session lags.
    pub(super) fn keep_from(&mut self, oldest: Mark) {
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
    fn take(&mut self, dispatched: Mark) -> VecDeque<Chunk> {
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
}

/// One topic of a step.
struct Source {
    topic: Arc<Topic>,
    next: Offset,
    more: bool,
    buf: ReadBuf,
    at: usize,
}

/// A stretch of the log that a lagging session reads, merged into log order.
pub struct Step {
    upto: Mark,
    sources: Vec<Source>,
    heads: BinaryHeap<Reverse<(Mark, usize)>>,
    unfilled: Vec<usize>,
}

/// Takes what is handed out; encodes it for its client.
pub trait DeliverySink: Send + Sync {
    /// Asked before each message: `false` leaves it where it is.
    fn accepts(&mut self) -> bool {
        true
    }
    /// A message. `false`: it is larger than the client accepts, and is passed over as if delivered.
    fn deliver(&mut self, delivery: &Delivery<'_>) -> bool;
    /// PUBREL for a packet id.
    fn release(&mut self, packet_id: u16);
    /// Whether it has enough for now.
    fn is_full(&self) -> bool;
}

/// How a pull ended.
#[derive(Debug, Default)]
pub struct Pulled {
    /// There may be more at once.
    pub more: bool,
    /// What was handed out must not be sent before this is settled (`QoS` 2).
    pub ticket: Option<Ticket>,
    /// The session has another connection now, or has ended.
    pub lost: bool,
    /// Messages handed out.
    pub handed: usize,
}

/// What an offered message did.
enum Offer {
    /// Handed out, or passed over.
    Done,
    /// The send quota is used up: it stays.
    Full,
}

/// Where an offered message comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Live,
    Early,
    Step,
    Behind,
}

/// A message at hand.
struct Candidate<'a> {
    topic: &'a Arc<Topic>,
    position: Offset,
    time: i64,
    mark: Mark,
    body: &'a [u8],
    from: From,
}

/// What a pull needs before it can go on.
enum Need {
    Nothing {
        more: bool,
    },
    Resend {
        id: u16,
        outgoing: Outgoing,
    },
    Retained {
        topic: Arc<Topic>,
        position: Offset,
        mark: Mark,
        due: usize,
    },
    Behind {
        log: LogId,
        next: Offset,
    },
    /// Finds the next stretch of the log.
    BeginStep,
    Fill {
        source: usize,
        log: LogId,
        next: Offset,
        limit: Limit,
    },
    Lost,
}

/// One pull for one session.
pub(super) struct Puller<'a> {
    pub(super) shared: &'a Shared,
    pub(super) session: &'a Arc<Session>,
    pub(super) epoch: u64,
    pub(super) sink: &'a mut dyn DeliverySink,
    pub(super) handed: usize,
    began: bool,
    needs_sync: bool,
    took_shared: bool,
    now_ms: i64,
}

impl<'a> Puller<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        session: &'a Arc<Session>,
        epoch: u64,
        sink: &'a mut dyn DeliverySink,
    ) -> Self {
        let now_ms = shared.clock.wall_ms();
        Self {
            shared,
            session,
            epoch,
            sink,
            handed: 0,
            began: false,
            needs_sync: false,
            took_shared: false,
            now_ms,
        }
    }

    /// Hands out what may go now, until the sink is full or there is nothing.
    pub(super) async fn pull(mut self) -> Pulled {
        let mut buf = ReadBuf::default();
        let more = loop {
            match self.next() {
                Need::Nothing { more } => break more,
                Need::Lost => {
                    return Pulled {
                        lost: true,
                        ..Pulled::default()
                    };
                }
                Need::Resend { id, outgoing } => {
                    let read = self.read_one(outgoing.log, outgoing.position, &mut buf).await;
                    self.resend(id, &outgoing, read.as_ref().map(|record| (record, &buf)));
                }
                Need::Retained {
                    topic,
                    position,
                    mark,
                    due,
                } => {
                    let read = self.read_one(topic.log, position, &mut buf).await;
                    self.serve_retained(&topic, position, mark, due, read.as_ref().map(|record| (record, &buf)));
                }
                Need::Behind { log, next } => {
                    let before = self.session.state.lock().position.floor;
                    let limit = Limit {
                        records: 256,
                        bytes: STEP_BYTES,
                        before,
                    };
                    match self.shared.store.read(log, next, limit, &mut buf).await {
                        Ok(progress) => self.serve_behind(log, progress.more, before, &buf),
                        Err(Error::NoLog(_)) => self.serve_behind(log, false, before, &ReadBuf::default()),
                        Err(error) => break self.cannot_read(&error),
                    }
                }
                Need::BeginStep => {
                    if let Err(error) = self.begin_step().await {
                        break self.cannot_read(&error);
                    }
                }
                Need::Fill {
                    source,
                    log,
                    next,
                    limit,
                } => {
                    let progress = match self.shared.store.read(log, next, limit, &mut buf).await {
                        Ok(progress) => progress,
                        Err(Error::NoLog(_)) => Progress { next, more: false },
                        Err(error) => break self.cannot_read(&error),
                    };
                    let mut state = self.session.state.lock();
                    // After a take-over the step is another one.
                    if state.epoch == self.epoch
                        && let Some(step) = &mut state.step
                    {
                        step.filled(source, log, progress, std::mem::take(&mut buf));
                    }
                }
            }
        };
        let more = if more { true } else { self.pull_shared(&mut buf).await };
        self.finish(more)
    }

    /// The log cannot be read: the session stays where it is, and tries again when it is woken next.
    fn cannot_read(&self, error: &Error) -> bool {
        tracing::error!(%error, session = &*self.session.name, "cannot read the log");
        false
    }

    /// Takes messages of the session's share groups, within its window. `true`: there may be more.
    async fn pull_shared(&mut self, buf: &mut ReadBuf) -> bool {
        let filters: Vec<_> = {
            let state = self.session.state.lock();
            if state.link.is_none() || state.subscriptions.shared.is_empty() {
                return false;
            }
            state
                .subscriptions
                .shared
                .iter()
                .map(|held| (held.filter.clone(), held.options.clone()))
                .collect()
        };
        let mut more = false;
        for (filter, options) in filters {
            let Some(group) = self.shared.groups.get(&filter) else {
                continue;
            };
            let room = {
                let state = self.session.state.lock();
                let link = state.link.as_ref().filter(|_| state.epoch == self.epoch);
                link.map_or(0, |link| link.receive_maximum.saturating_sub(link.outstanding))
            };
            if room == 0 {
                group.pass_on(self.session.id);
                continue;
            }
            let mut taken = group.take(self.shared, self.session.id, room.min(GROUP_TAKE_MAX)).await;
            more |= !taken.is_empty();
            self.took_shared |= !taken.is_empty();
            while let Some(one) = taken.peek() {
                let read = self.read_one(one.log, one.position, buf).await;
                if self.hand_shared(&filter, &options, &one, read.as_ref().map(|record| (record, &*buf))) {
                    group.acked(one.log, one.position);
                }
                taken.pass();
            }
        }
        more
    }

    /// Hands out one message of a share group. `true`: the group is done with it; else it is in flight, or went back.
    fn hand_shared(
        &mut self,
        filter: &TopicFilter,
        options: &SubscriptionOptions,
        one: &Waiting,
        read: Option<(&ReadRecord, &ReadBuf)>,
    ) -> bool {
        let mut state = self.session.state.lock();
        let state = &mut *state;
        let give_back = || {
            if let Some(group) = self.shared.groups.get(filter) {
                group.give_back(one.log, one.position);
            }
            false
        };
        if state.epoch != self.epoch || state.link.is_none() {
            return give_back();
        }
        let Some(topic) = self.shared.topics.by_log(one.log) else {
            return true;
        };
        let Some((time, record)) = read.and_then(|(read, buf)| Some((read.time, Record::parse(buf.body(read))?)))
        else {
            return true;
        };
        let expired = record.expired(time, self.now_ms);
        if expired && !options.include_expired {
            return true;
        }
        let qos = record.qos.min(options.qos);
        let identifiers: smallvec::SmallVec<[u32; 1]> = options.identifier.into_iter().collect();
        let mut delivery = Delivery {
            topic: &topic.name,
            position: one.position.0,
            time,
            qos,
            packet_id: None,
            dup: false,
            retain: record.retain && options.retain_as_published,
            retained: false,
            expired,
            expiry_left: record.expiry_left(time, self.now_ms),
            subscription_ids: &identifiers,
            record,
        };
        let outgoing = Outgoing {
            log: one.log,
            position: one.position,
            qos,
            retained: false,
            exchange: Exchange::Sent,
        };
        if !self.send(state, &mut delivery, outgoing) {
            return give_back();
        }
        match delivery.packet_id.filter(|id| state.inflight.get(*id).is_some()) {
            Some(id) => {
                state.group_ids.insert(id, filter.clone());
                false
            }
            None => true,
        }
    }

    /// Makes what was handed out with `QoS` 2 durable before it is sent, and counts.
    fn finish(self, more: bool) -> Pulled {
        let mut state = self.session.state.lock();
        if self.handed > 0 {
            state.unsaved += self.handed;
            state.count_received(self.handed as u64, self.now_ms);
        }
        let mut ticket = None;
        if self.needs_sync && state.is_stored() {
            let mut commit = self.shared.store.begin(Class::B);
            persist(self.shared, self.session, &mut state, &mut commit);
            if self.took_shared {
                self.shared.groups.persist(self.shared, &mut commit);
            }
            ticket = self.shared.store.commit(commit).ok();
            if let Some(ticket) = &ticket {
                state.last_write = ticket.clone();
            }
            if ticket.is_none() {
                // The latch closes every connection; nothing of this pull may be sent.
                return Pulled {
                    lost: true,
                    ..Pulled::default()
                };
            }
        }
        Pulled {
            more,
            ticket,
            lost: false,
            handed: self.handed,
        }
    }

    async fn read_one(&self, log: LogId, position: Offset, buf: &mut ReadBuf) -> Option<ReadRecord> {
        let limit = Limit {
            records: 1,
            bytes: usize::MAX,
            before: Mark::END,
        };
        self.shared.store.read(log, position, limit, buf).await.ok()?;
        buf.records
            .first()
            .copied()
            .filter(|record| record.position == position)
    }

    fn next(&mut self) -> Need {
        let session = Arc::clone(self.session);
        let mut state = session.state.lock();
        if state.epoch != self.epoch || state.ended {
            return Need::Lost;
        }
        if self.sink.is_full() {
            return Need::Nothing { more: true };
        }
        self.let_go(&mut state);
        if let Some(need) = self.next_resend(&mut state) {
            return need;
        }
        if let Some(need) = self.next_retained(&mut state) {
            return need;
        }
        if let Some(need) = self.next_behind(&state) {
            return need;
        }
        loop {
            if !state.pending.is_empty()
                && let Some(need) = self.hand_pending(&mut state)
            {
                return need;
            }
            if state.step.is_some()
                && let Some(need) = self.hand_step(&mut state)
            {
                return need;
            }
            let dispatched = self.shared.dispatched();
            let mut queue = self.session.queue.lock();
            match queue.mode {
                Mode::Absent | Mode::Joining(_) => return Need::Nothing { more: false },
                Mode::Live => {
                    if queue.chunks.is_empty() {
                        state.position.floor = state.position.floor.max(dispatched);
                        pass_early(&mut state);
                        return Need::Nothing { more: false };
                    }
                    state.pending = queue.take(dispatched);
                    if state.pending.is_empty() {
                        // Its batch is being dispatched; the session is woken behind it.
                        return Need::Nothing { more: false };
                    }
                }
                Mode::Dropped(from) => {
                    queue.mode = Mode::Lagging;
                    state.position.floor = state.position.floor.max(from);
                    lag(&mut state);
                }
                Mode::Lagging if state.position.floor < dispatched => return Need::BeginStep,
                Mode::Lagging => {
                    if state.link.is_none() {
                        return Need::Nothing { more: false };
                    }
                    queue.mode = Mode::Joining(state.position.floor);
                    drop(queue);
                    self.shared.ask_to_join(&session);
                    return Need::Nothing { more: false };
                }
            }
        }
    }

    /// Drops references whose batches leave the ring: the session reads the log from there.
    fn let_go(&self, state: &mut SessionState) {
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

    fn next_resend(&mut self, state: &mut SessionState) -> Option<Need> {
        loop {
            let link = state.link.as_mut()?;
            let id = *link.resend.front()?;
            if link.outstanding >= link.receive_maximum {
                return Some(Need::Nothing { more: false });
            }
            match state.inflight.get(id) {
                None => {}
                Some(outgoing) if outgoing.exchange == Exchange::Released => {
                    self.sink.release(id);
                    link.outstanding += 1;
                }
                Some(outgoing) => return Some(Need::Resend { id, outgoing }),
            }
            link.resend.pop_front();
            if self.sink.is_full() {
                return Some(Need::Nothing { more: true });
            }
        }
    }

    /// Sends a message again, with DUP and its old id; one whose record is gone is completed without.
    fn resend(&mut self, id: u16, outgoing: &Outgoing, read: Option<(&ReadRecord, &ReadBuf)>) {
        let mut state = self.session.state.lock();
        let state = &mut *state;
        if state.epoch != self.epoch || state.inflight.get(id) != Some(*outgoing) {
            return;
        }
        let topic = self.shared.topics.by_log(outgoing.log);
        let record = read.and_then(|(read, buf)| Some((read.time, Record::parse(buf.body(read))?)));
        let sent = match (&topic, record) {
            (Some(topic), Some((time, record))) => {
                let matched = state.subscriptions.of_topic(topic);
                let applies = matched.applies(Mark::END, false);
                let retain_as_published = applies.as_ref().is_some_and(|applies| applies.retain_as_published);
                self.sink.deliver(&Delivery {
                    topic: &topic.name,
                    position: outgoing.position.0,
                    time,
                    qos: outgoing.qos,
                    packet_id: Some(id),
                    dup: true,
                    retain: outgoing.retained || record.retain && retain_as_published,
                    retained: outgoing.retained,
                    expired: false,
                    expiry_left: record.expiry_left(time, self.now_ms),
                    subscription_ids: applies.as_ref().map_or(&[], |applies| &applies.identifiers),
                    record,
                })
            }
            _ => false,
        };
        if sent {
            if let Some(link) = &mut state.link {
                link.outstanding += 1;
            }
        } else {
            state.inflight.complete(id);
            state.unsaved += 1;
            self.shared.group_acked(state, id, outgoing);
        }
        if let Some(link) = &mut state.link {
            link.resend.pop_front();
        }
    }

    fn next_retained(&mut self, state: &mut SessionState) -> Option<Need> {
        if !state.retained_due {
            return None;
        }
        if let Some(link) = &state.link
            && link.outstanding >= link.receive_maximum
        {
            // Nothing may pass what is due: a topic's state never goes backwards for a subscriber.
            let due = state.subscriptions.all().any(|held| held.due.is_some());
            return due.then_some(Need::Nothing { more: false });
        }
        let mut subscriptions: Vec<_> = state
            .subscriptions
            .all_mut()
            .filter(|held| held.due.is_some())
            .collect();
        for (place, subscription) in subscriptions.iter_mut().enumerate() {
            while let Some(due) = &mut subscription.due {
                let (found, rest) =
                    self.shared
                        .topics
                        .retained_matching(&subscription.filter, &due.cursor, 1, RETAINED_STEPS);
                if let Some(topic) = found.first() {
                    match topic.retained() {
                        Some(retained) if retained.mark < due.mark => {
                            return Some(Need::Retained {
                                topic: Arc::clone(topic),
                                position: retained.position,
                                mark: retained.mark,
                                due: place,
                            });
                        }
                        _ => due.cursor = topic.name.to_string(),
                    }
                } else if let Some(rest) = rest {
                    due.cursor = rest.to_string();
                    return Some(Need::Nothing { more: true });
                } else {
                    subscription.due = None;
                }
                state.unsaved += 1;
            }
        }
        state.retained_due = false;
        None
    }

    fn serve_retained(
        &mut self,
        topic: &Arc<Topic>,
        position: Offset,
        mark: Mark,
        due: usize,
        read: Option<(&ReadRecord, &ReadBuf)>,
    ) {
        let mut state = self.session.state.lock();
        let state = &mut *state;
        if state.epoch != self.epoch {
            return;
        }
        let Some(subscription) = state.subscriptions.all_mut().filter(|held| held.due.is_some()).nth(due) else {
            return;
        };
        let (options, filter) = (subscription.options.clone(), subscription.filter.clone());
        state.unsaved += 1;
        let current = topic.retained().is_some_and(|retained| retained.mark == mark);
        let record = read.and_then(|(read, buf)| Some((read.time, Record::parse(buf.body(read))?)));
        let pass = |state: &mut SessionState| {
            if let Some(RetainedDue { cursor, .. }) =
                state.subscriptions.get_mut(&filter).and_then(|held| held.due.as_mut())
            {
                *cursor = topic.name.to_string();
            }
        };
        let Some((time, record)) =
            record.filter(|(time, record)| current && (options.include_expired || !record.expired(*time, self.now_ms)))
        else {
            return pass(state);
        };
        if options.no_local && record.publisher == &*self.session.name {
            return pass(state);
        }
        let qos = record.qos.min(options.qos);
        let identifiers: smallvec::SmallVec<[u32; 1]> = options.identifier.into_iter().collect();
        let mut delivery = Delivery {
            topic: &topic.name,
            position: position.0,
            time,
            qos,
            packet_id: None,
            dup: false,
            retain: true,
            retained: true,
            expired: record.expired(time, self.now_ms),
            expiry_left: record.expiry_left(time, self.now_ms),
            subscription_ids: &identifiers,
            record,
        };
        let outgoing = Outgoing {
            log: topic.log,
            position,
            qos,
            retained: true,
            exchange: Exchange::Sent,
        };
        if self.send(state, &mut delivery, outgoing) {
            pass(state);
        }
    }

    /// Gives a delivery its packet id and hands it to the sink. `false`: no id is free, it stays.
    fn send(&mut self, state: &mut SessionState, delivery: &mut Delivery<'_>, outgoing: Outgoing) -> bool {
        if !self.sink.accepts() {
            return false;
        }
        if outgoing.qos == Qos::AtMostOnce || self.session.kind == SessionKind::MqApi {
            self.sink.deliver(delivery);
            self.handed += 1;
            return true;
        }
        if !std::mem::replace(&mut self.began, true) {
            state.inflight.begin_pull();
        }
        let Some(id) = state.inflight.add(outgoing) else {
            return false;
        };
        delivery.packet_id = Some(id);
        if self.sink.deliver(delivery) {
            self.handed += 1;
            self.needs_sync |= outgoing.qos == Qos::ExactlyOnce;
            if let Some(link) = &mut state.link {
                link.outstanding += 1;
            }
        } else {
            state.inflight.take_back(id);
        }
        true
    }

    fn next_behind(&self, state: &SessionState) -> Option<Need> {
        let full = state
            .link
            .as_ref()
            .is_some_and(|link| link.outstanding >= link.receive_maximum);
        if full || state.position.explicit_count() == 0 {
            return None;
        }
        let mut waiting = state.position.behind();
        let (log, next) = waiting.find(|(log, _)| self.has_room(state, *log))?;
        Some(Need::Behind { log, next })
    }

    fn has_room(&self, state: &SessionState, log: LogId) -> bool {
        (state.inflight.of_topic(log) as usize) < self.shared.settings.inflight_count_max
    }

    /// Hands out what waits behind the floor on one topic; `before` is the floor up to which was read.
    fn serve_behind(&mut self, log: LogId, more: bool, before: Mark, buf: &ReadBuf) {
        let mut state = self.session.state.lock();
        let state = &mut *state;
        if state.epoch != self.epoch {
            return;
        }
        let Some(topic) = self.shared.topics.by_log(log) else {
            state.position.drop_of(log);
            return;
        };
        for record in &buf.records {
            let candidate = Candidate {
                topic: &topic,
                position: record.position,
                time: record.time,
                mark: record.mark,
                body: buf.body(record),
                from: From::Behind,
            };
            if matches!(self.offer(state, &candidate), Offer::Full) {
                state.position.set(log, Explicit::Behind(record.position));
                return;
            }
            state.position.set(log, Explicit::Behind(record.position.next()));
            if self.sink.is_full() || !self.has_room(state, log) {
                return;
            }
        }
        if more {
            return;
        }
        state.position.drop_of(log);
        if state.early.passed_over.contains(&log) && before < state.early.until {
            // An early message of the topic was not handed out because this was in its way. It is durable soon: the
            // session takes its place in the log from the dispatcher again.
            let mut queue = self.session.queue.lock();
            queue.drop_references();
            if matches!(queue.mode, Mode::Live | Mode::Dropped(_)) {
                queue.mode = Mode::Lagging;
            }
            drop(queue);
            state.pending.clear();
            lag(state);
        }
    }

    /// References of the dispatcher; `Some` ends the pull.
    fn hand_pending(&mut self, state: &mut SessionState) -> Option<Need> {
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

    /// Records of the step; `Some` ends the pull.
    fn hand_step(&mut self, state: &mut SessionState) -> Option<Need> {
        let mut step = state.step.take()?;
        if let Some(source) = step.unfilled.last().copied()
            && let Some(wanted) = step.sources.get(source)
        {
            let bytes = (STEP_BYTES / step.sources.len()).max(16 << 10);
            let limit = Limit {
                records: 1_024,
                bytes,
                before: step.upto,
            };
            let need = Need::Fill {
                source,
                log: wanted.topic.log,
                next: wanted.next,
                limit,
            };
            state.step = Some(step);
            return Some(need);
        }
        while let Some(Reverse((mark, place))) = step.heads.peek().copied() {
            state.position.floor = mark;
            if self.sink.is_full() {
                state.step = Some(step);
                return Some(Need::Nothing { more: true });
            }
            let Some(source) = step.sources.get_mut(place) else {
                break;
            };
            if let Some(record) = source.buf.records.get(source.at) {
                let candidate = Candidate {
                    topic: &source.topic,
                    position: record.position,
                    time: record.time,
                    mark: record.mark,
                    body: source.buf.body(record),
                    from: From::Step,
                };
                if matches!(self.offer(state, &candidate), Offer::Full) {
                    state.step = Some(step);
                    return Some(Need::Nothing { more: false });
                }
            }
            step.heads.pop();
            source.at += 1;
            state.position.floor = mark.just_behind();
            match source.buf.records.get(source.at) {
                Some(record) => step.heads.push(Reverse((record.mark, place))),
                None if source.more => {
                    step.unfilled.push(place);
                    state.step = Some(step);
                    return self.hand_step(state);
                }
                None => {}
            }
        }
        state.position.floor = step.upto;
        drop_passed(self.shared, state);
        None
    }

    /// Finds the next stretch of the log that holds something for a lagging session.
    ///
    /// A subscription that is not seen here takes effect behind what is dispatched now, hence behind the step.
    async fn begin_step(&mut self) -> Result<(), Error> {
        let mut upto = self.shared.dispatched();
        let (floor, few) = {
            let state = self.session.state.lock();
            let subscriptions = &state.subscriptions;
            let few = subscriptions.wildcard.is_empty() && subscriptions.exact.len() <= STEP_TOPICS_MAX;
            let names: Vec<Arc<Topic>> = if few {
                subscriptions
                    .exact
                    .keys()
                    .filter_map(|name| self.shared.topics.get(name))
                    .collect()
            } else {
                Vec::new()
            };
            (state.position.floor, few.then_some(names))
        };
        let mut topics: Vec<(Arc<Topic>, Option<Offset>)> = Vec::new();
        if let Some(named) = few {
            let newer = |topic: &Arc<Topic>| {
                let bounds = self.shared.store.bounds(topic.log);
                bounds.is_some_and(|bounds| bounds.newest_mark >= floor)
            };
            topics.extend(named.into_iter().filter(newer).map(|topic| (topic, None)));
        } else {
            let mut touched = Vec::new();
            let limit = Limit {
                records: STEP_TOPICS_MAX,
                bytes: 64 << 20,
                before: upto,
            };
            upto = self.shared.store.touched(floor, limit, &mut touched).await?;
            for one in touched {
                if let Some(topic) = self.shared.topics.by_log(one.log) {
                    topics.push((topic, Some(one.first)));
                }
            }
        }
        let mut sources = Vec::new();
        for (topic, first) in topics {
            let (start, explicit) = {
                let mut state = self.session.state.lock();
                let matched = state.subscriptions.of_topic(&topic);
                let mut start = matched.oldest_start();
                if start < Mark::END && self.session.kind == SessionKind::Mqtt && !matched.waits() {
                    start = start.max(state.connect_mark);
                }
                (start, state.position.of(topic.log))
            };
            // Also what waits behind the floor: it may catch up while this step is under way, and goes on with it then.
            if start >= upto {
                continue;
            }
            let next = match first {
                Some(first) if start <= floor => first,
                _ => match self.shared.store.locate(topic.log, At::Mark(start.max(floor))).await {
                    Ok(next) => next,
                    Err(Error::NoLog(_)) => continue,
                    Err(error) => return Err(error),
                },
            };
            let next = match explicit {
                Some(Explicit::Ahead(ahead)) => next.max(ahead),
                _ => next,
            };
            sources.push(Source {
                topic,
                next,
                more: true,
                buf: ReadBuf::default(),
                at: 0,
            });
        }
        let unfilled = (0..sources.len()).collect();
        let step = Step {
            upto,
            sources,
            heads: BinaryHeap::new(),
            unfilled,
        };
        let mut state = self.session.state.lock();
        // Whatever moved the floor meanwhile has made the step void.
        if state.epoch == self.epoch && state.position.floor == floor {
            state.step = Some(step);
        }
        Ok(())
    }

    /// Hands one message out if a subscription applies and there is room.
    fn offer(&mut self, state: &mut SessionState, candidate: &Candidate<'_>) -> Offer {
        let topic = candidate.topic;
        match state.position.of(topic.log) {
            Some(Explicit::Ahead(next)) if candidate.position < next => return Offer::Done,
            Some(Explicit::Behind(_)) if candidate.from != From::Behind => return Offer::Done,
            _ => {}
        }
        let Some(record) = Record::parse(candidate.body) else {
            tracing::error!(
                topic = &*topic.name,
                position = candidate.position.0,
                "a stored message cannot be read"
            );
            return Offer::Done;
        };
        let matched = state.subscriptions.of_topic(topic);
        let own = record.publisher == &*self.session.name;
        let Some(applies) = matched.applies(candidate.mark, own) else {
            return Offer::Done;
        };
        let qos = record.qos.min(applies.qos);
        let mqtt = self.session.kind == SessionKind::Mqtt;
        if mqtt
            && (qos == Qos::AtMostOnce && candidate.mark < state.under_way_until
                || candidate.mark < state.connect_mark && !matched.waits())
        {
            return Offer::Done;
        }
        let expired = record.expired(candidate.time, self.now_ms);
        if expired && !applies.include_expired {
            return Offer::Done;
        }
        if qos > Qos::AtMostOnce && mqtt {
            let Some(link) = &state.link else { return Offer::Full };
            if link.outstanding >= link.receive_maximum {
                return Offer::Full;
            }
            if !self.has_room(state, topic.log) && state.position.explicit_count() < EXPLICIT_COUNT_MAX {
                if candidate.from != From::Behind {
                    state.position.set(topic.log, Explicit::Behind(candidate.position));
                }
                return if candidate.from == From::Behind {
                    Offer::Full
                } else {
                    Offer::Done
                };
            }
        }
        let mut delivery = Delivery {
            topic: &topic.name,
            position: candidate.position.0,
            time: candidate.time,
            qos,
            packet_id: None,
            // It may have been sent before a crash, with an id that was not stored.
            dup: mqtt && qos == Qos::AtLeastOnce && candidate.mark < state.under_way_until,
            retain: record.retain && (applies.retain_as_published || !mqtt),
            retained: false,
            expired,
            expiry_left: record.expiry_left(candidate.time, self.now_ms),
            subscription_ids: &applies.identifiers,
            record,
        };
        let outgoing = Outgoing {
            log: topic.log,
            position: candidate.position,
            qos,
            retained: false,
            exchange: Exchange::Sent,
        };
        if self.send(state, &mut delivery, outgoing) {
            Offer::Done
        } else {
            Offer::Full
        }
    }
}

impl Step {
    fn filled(&mut self, place: usize, log: LogId, progress: Progress, buf: ReadBuf) {
        if let Some(source) = self.sources.get_mut(place).filter(|source| source.topic.log == log) {
            self.unfilled.retain(|unfilled| *unfilled != place);
            source.next = progress.next;
            source.more = progress.more;
            source.buf = buf;
            source.at = 0;
            match source.buf.records.first() {
                Some(record) => self.heads.push(Reverse((record.mark, place))),
                None if source.more => self.unfilled.push(place),
                None => {}
            }
        }
    }
}

/// What was handed out early is durable and behind the floor: there is nothing to remember of it.
fn pass_early(state: &mut SessionState) {
    if state.position.floor >= state.early.until {
        state.early.next.clear();
        state.early.passed_over.clear();
    }
}

fn note_early(state: &mut SessionState, log: LogId, next: Offset) {
    if matches!(state.position.of(log), Some(Explicit::Behind(_))) {
        state.early.passed_over.insert(log);
        return;
    }
    match state.early.next.iter_mut().rev().find(|(noted, _)| *noted == log) {
        Some((_, noted)) => *noted = next,
        None => state.early.next.push((log, next)),
    }
}

/// From now on the session reads the log: what it was handed early must not come again.
pub(super) fn lag(state: &mut SessionState) {
    state.early.passed_over.clear();
    for (log, next) in std::mem::take(&mut state.early.next) {
        if !matches!(state.position.of(log), Some(Explicit::Behind(_))) {
            state.position.set(log, Explicit::Ahead(next));
        }
    }
}

/// Drops explicit positions ahead of the floor that the floor has met.
fn drop_passed(shared: &Shared, state: &mut SessionState) {
    if state.position.explicit_count() == 0 {
        return;
    }
    let floor = state.position.floor;
    let passed = |(log, explicit): (LogId, Explicit)| match explicit {
        Explicit::Ahead(next) => {
            let bounds = shared.store.bounds(log);
            bounds
                .is_none_or(|bounds| bounds.newest_mark < floor && bounds.next >= next)
                .then_some(log)
        }
        Explicit::Behind(_) => None,
    };
    let passed: Vec<_> = state.position.explicit().filter_map(passed).collect();
    for log in passed {
        state.position.drop_of(log);
    }
}

/// Queues whatever the stored rows of a session do not know yet: floor, explicit positions, what was sent, what
/// retained messages are due.
pub(super) fn persist(shared: &Shared, session: &Session, state: &mut SessionState, commit: &mut Commit) {
    state.unsaved = 0;
    state.last_saved = shared.clock.now();
    if !state.is_stored() {
        return;
    }
    let id = session.id.0;
    if state.position.floor != state.position.stored_floor {
        let row = PositionRow {
            floor: state.position.floor.to_bytes(),
        };
        commit.put(rows::POSITION, &rows::key(id), &row.to_row());
        state.position.stored_floor = state.position.floor;
    }
    for (log, row) in state.position.topic_changes() {
        let key = rows::key_with(id, &log.0.to_be_bytes());
        match row {
            Some(row) => commit.put(rows::TOPIC_POSITION, &key, &row.to_row()),
            None => commit.delete(rows::TOPIC_POSITION, &key),
        }
    }
    let floor = state.position.floor;
    for change in state.inflight.changes(floor) {
        match change {
            SentChange::Put(first, row) => {
                commit.put(rows::SENT, &rows::key_with(id, &first.to_be_bytes()), &row.to_row());
            }
            SentChange::Delete(first) => commit.delete(rows::SENT, &rows::key_with(id, &first.to_be_bytes())),
        }
    }
    for subscription in state.subscriptions.all_mut().filter(|held| held.due_changed()) {
        let key = rows::key_with(id, subscription.filter.as_str().as_bytes());
        commit.put(rows::SUBSCRIPTION, &key, &subscription.row().to_row());
        subscription.due_stored.clone_from(&subscription.due);
    }
}

impl super::subscription::Subscription {
    /// The row that says what is here, marks included.
    pub(super) fn row(&self) -> SubscriptionRow {
        SubscriptionRow {
            options: self.options.clone(),
            start: Some(self.start.to_bytes()),
            due: match &self.due {
                None => DueRow::None,
                Some(due) => DueRow::Behind {
                    mark: due.mark.to_bytes(),
                    cursor: due.cursor.clone(),
                },
            },
        }
    }

    fn due_changed(&self) -> bool {
        self.due != self.due_stored
    }
}

impl LiveQueue {
    /// The mark before which a live session has nothing waiting in its queue; `None` if it reads the log.
    pub(super) fn floor(&self, dispatched: Mark) -> Option<Mark> {
        match self.mode {
            Mode::Live => Some(self.chunks.front().map_or(dispatched, Chunk::floor)),
            Mode::Joining(from) | Mode::Dropped(from) => Some(from),
            Mode::Absent | Mode::Lagging => None,
        }
    }
}
