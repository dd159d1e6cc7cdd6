//! Retrieval over HTTP: the next messages of an MQ API session, and the history of a topic (spec/messages.md 6 and 7,
//! spec/semantics.md 6).
//!
//! **Invariants**
//! - Retrievals of one session are served one after the other; their batches are disjoint.
//! - An automatic retrieval makes the new position durable before it answers; a manual one moves nothing.

use std::sync::Arc;
use std::time::Duration;

use super::delivery::{DeliverySink, Puller, persist};
use super::error::{SessionRefused, StoreFailed};
use super::message::Delivery;
use super::mq_session::Caller;
use super::position::{EXPLICIT_COUNT_MAX, Explicit};
use super::rows::record::Record;
use super::session::{Session, SessionKind, SessionState, Signal};
use super::subscription::{Subscription, TopicMatch};
use super::topic::Topic;
use super::topic_filter::TopicFilter;
use super::{Broker, Shared};
use crate::store::{At, Class, Limit, Mark, Offset, ReadBuf, ReadRecord};

/// Bytes of stored records in one answer.
pub(super) const ANSWER_BYTES: usize = 4 << 20;

/// What a retrieval asks for.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Client name of an MQ API session.
    pub client_name: String,
    /// Only this topic, or only this one of the session's filters.
    pub topic: Option<String>,
    /// 1 to 65,535.
    pub messages_max: usize,
    /// How long to wait for a first message.
    pub wait: Duration,
    /// Manual: the position does not move, the answer has a token; messages of share groups are leased so long.
    pub manual: Option<Duration>,
    /// The token of an earlier manual retrieval.
    pub acknowledge_token: Option<String>,
}

/// A message that was retrieved.
#[derive(Clone, Debug)]
pub struct FetchedMessage {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its position.
    pub position: u64,
    /// When it was accepted, ms since 1970 UTC.
    pub time: i64,
    /// Delivered because it was retained at the subscription.
    pub retained: bool,
    /// It has expired.
    pub expired: bool,
    /// Handed out before by a manual retrieval.
    pub redelivered: bool,
    /// Identifiers of the subscriptions that apply.
    pub subscription_ids: Vec<u32>,
    pub(super) body: Vec<u8>,
}

impl FetchedMessage {
    /// A message as it was read from its topic's log.
    pub(super) fn stored(topic: &Topic, read: &ReadRecord, buf: &ReadBuf, expired: bool) -> Self {
        Self {
            topic: (&*topic.name).into(),
            position: read.position.0,
            time: read.time,
            retained: false,
            expired,
            redelivered: false,
            subscription_ids: Vec::new(),
            body: buf.body(read).to_vec(),
        }
    }

    /// The message itself; `None` only if its stored bytes are no message.
    pub fn record(&self) -> Option<Record<'_>> {
        Record::parse(&self.body)
    }
}

/// What a retrieval gives.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// In order.
    pub messages: Vec<FetchedMessage>,
    /// There are more now.
    pub more: bool,
    /// Acknowledges this batch (manual).
    pub acknowledge_token: Option<String>,
}

/// Where a history begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartFrom {
    /// The last messages.
    Tail,
    /// The oldest stored one.
    Head,
    /// Received at or after, ms since 1970 UTC.
    Time(i64),
    /// At or behind a position.
    Position(u64),
}

/// What a history call asks for.
#[derive(Clone, Debug)]
pub struct History {
    /// Topic name.
    pub topic: String,
    /// Where to begin.
    pub from: StartFrom,
    /// 1 to 65,535.
    pub messages_max: usize,
    /// Expired ones too.
    pub include_expired: bool,
}

/// A page of a history.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// Ascending.
    pub messages: Vec<FetchedMessage>,
    /// Where the next page begins.
    pub next: u64,
    /// There are more now.
    pub more: bool,
}

/// Collects what is handed out.
pub(super) struct Collector {
    pub(super) messages: Vec<FetchedMessage>,
    bytes: usize,
    pub(super) messages_max: usize,
    pub(super) more: bool,
}

impl Collector {
    fn new(messages_max: usize) -> Self {
        Self {
            messages: Vec::new(),
            bytes: 0,
            messages_max,
            more: false,
        }
    }

    pub(super) fn push(&mut self, message: FetchedMessage) {
        self.bytes += message.body.len();
        self.messages.push(message);
    }

    pub(super) fn has_room(&self) -> bool {
        self.messages.len() < self.messages_max && (self.bytes < ANSWER_BYTES || self.messages.is_empty())
    }
}

impl DeliverySink for Collector {
    fn accepts(&mut self) -> bool {
        let room = self.has_room();
        self.more |= !room;
        room
    }

    fn deliver(&mut self, delivery: &Delivery<'_>) -> bool {
        let record = &delivery.record;
        let head = record.head();
        self.push(FetchedMessage {
            topic: delivery.topic.into(),
            position: delivery.position,
            time: delivery.time,
            retained: delivery.retained,
            expired: delivery.expired,
            redelivered: false,
            subscription_ids: delivery.subscription_ids.to_vec(),
            body: record.parts(&head).concat(),
        });
        true
    }

    fn release(&mut self, _packet_id: u16) {}

    fn is_full(&self) -> bool {
        self.more
    }
}

impl Broker {
    /// The next undelivered messages of an MQ API session.
    ///
    /// # Errors
    /// See [`SessionRefused`].
    pub async fn fetch(&self, fetch: &Fetch, caller: &Caller) -> Result<Fetched, SessionRefused> {
        self.fetch_unless(fetch, caller, std::future::pending()).await
    }

    /// The same for a caller who may go away: a call that waits takes nothing once `gone` is over.
    ///
    /// # Errors
    /// See [`SessionRefused`].
    pub async fn fetch_unless(
        &self,
        fetch: &Fetch,
        caller: &Caller,
        gone: impl Future<Output = ()>,
    ) -> Result<Fetched, SessionRefused> {
        let mut gone = std::pin::pin!(gone);
        let shared = &self.0;
        let name = &fetch.client_name;
        let session = self.session(name, caller)?;
        if session.kind == SessionKind::Mqtt {
            return Err(SessionRefused::WrongKind(name.clone()));
        }
        let session = self.usable_session(name, caller)?;
        let only = match &fetch.topic {
            None => None,
            Some(text) => Some(Shared::selected(&session, text)?),
        };
        // What was published with QoS 0 before the call shall be in the answer.
        let synced = shared.store.sync();
        shared.store.settled(&synced).await?;
        let until = shared.clock.now() + fetch.wait;
        let waiting = Waiting::new(shared, &session, fetch.wait);
        let ticket = {
            let _turn = session.retrieval.lock().await;
            let mut state = session.state.lock();
            shared.note_activity(&session, &mut state, Some(caller));
            let mut commit = shared.store.begin(Class::C);
            shared.activate(&session, &mut state, &mut commit);
            if let Some(token) = &fetch.acknowledge_token {
                shared.acknowledge(&session, &mut state, token);
                persist(shared, &session, &mut state, &mut commit);
                shared.groups.persist(shared, &mut commit);
            }
            shared.store.commit(commit)?
        };
        shared.store.settled(&ticket).await?;
        loop {
            let fetched = {
                let _turn = session.retrieval.lock().await;
                shared.fetch_once(&session, fetch, only.as_ref()).await?
            };
            if !fetched.messages.is_empty() || shared.clock.now() >= until {
                shared.note_activity(&session, &mut session.state.lock(), None);
                return Ok(fetched);
            }
            tokio::select! {
                biased;
                () = &mut gone => return Ok(Fetched::default()),
                () = waiting.signal.woken() => {}
                () = shared.clock.sleep_until(until) => {}
            }
            self.usable_session(name, caller)?;
        }
    }

    /// A page of a topic's history; moves nothing.
    ///
    /// # Errors
    /// `Ok(None)`: there is no such topic. Else the store's.
    pub async fn history(&self, history: &History) -> Result<Option<HistoryPage>, StoreFailed> {
        let shared = &self.0;
        let Some(topic) = shared.topics.get(&history.topic) else {
            return Ok(None);
        };
        let synced = shared.store.sync();
        shared.store.settled(&synced).await?;
        let log = topic.log;
        let mut next = match history.from {
            StartFrom::Head => Offset::FIRST,
            StartFrom::Tail => shared.store.locate(log, At::Last(history.messages_max as u64)).await?,
            StartFrom::Time(time) => shared.store.locate(log, At::Time(time)).await?,
            StartFrom::Position(position) => Offset(position.max(1)),
        };
        let bounds = shared.store.bounds(log).unwrap_or_default();
        let now = shared.clock.wall_ms();
        let mut page = HistoryPage {
            messages: Vec::new(),
            next: bounds.next.0,
            more: false,
        };
        if next >= bounds.next {
            return Ok(Some(page));
        }
        let mut collector = Collector::new(history.messages_max);
        let mut buf = ReadBuf::default();
        while collector.has_room() {
            let records = (history.messages_max - collector.messages.len()).min(1_024);
            let limit = Limit {
                records,
                bytes: 1 << 20,
                before: Mark::END,
            };
            let progress = shared.store.read(log, next, limit, &mut buf).await?;
            for read in &buf.records {
                let Some(record) = Record::parse(buf.body(read)) else {
                    continue;
                };
                let expired = record.expired(read.time, now);
                if expired && !history.include_expired {
                    continue;
                }
                collector.push(FetchedMessage::stored(&topic, read, &buf, expired));
            }
            next = progress.next;
            page.more = progress.more;
            if !progress.more {
                break;
            }
        }
        page.next = next.0;
        page.messages = collector.messages;
        Ok(Some(page))
    }
}

/// A call that waits for a first message: while it lives the dispatcher wakes it.
struct Waiting<'a> {
    shared: &'a Shared,
    session: &'a Arc<Session>,
    signal: Arc<Signal>,
    active: bool,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared, session: &'a Arc<Session>, wait: Duration) -> Self {
        let waiting = Self {
            shared,
            session,
            signal: Arc::default(),
            active: !wait.is_zero(),
        };
        if waiting.active {
            let mut state = session.state.lock();
            state.waiting.push(Arc::clone(&waiting.signal));
            session.queue.lock().signal = state.waiting.first().cloned();
            shared.set_connected(session, &state, true);
        }
        waiting
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.active {
            return;
        }
        let mut state = self.session.state.lock();
        state.waiting.retain(|signal| !Arc::ptr_eq(signal, &self.signal));
        let mut queue = self.session.queue.lock();
        queue.signal = state.waiting.first().cloned();
        // The next call that waits looks for itself what came meanwhile.
        queue.wake();
        drop(queue);
        if state.waiting.is_empty() {
            self.shared.set_connected(self.session, &state, false);
        }
        // Its end counts as activity, whether or not the caller is still there.
        if !state.ended {
            self.shared.note_activity(self.session, &mut state, None);
        }
    }
}

impl Shared {
    /// What `topic` of a retrieval selects: one of the session's filters verbatim, or a topic that its filters cover.
    fn selected(session: &Session, text: &str) -> Result<TopicFilter, SessionRefused> {
        let refused = || SessionRefused::NotSubscribed(text.into());
        let filter = TopicFilter::parse(text).map_err(|_| refused())?;
        let state = session.state.lock();
        let covered = state.subscriptions.get(&filter).is_some()
            || !filter.is_wildcard() && state.subscriptions.all().any(|held| held.filter.matches(text));
        if covered { Ok(filter) } else { Err(refused()) }
    }

    async fn fetch_once(
        &self,
        session: &Arc<Session>,
        fetch: &Fetch,
        only: Option<&TopicFilter>,
    ) -> Result<Fetched, SessionRefused> {
        let mut collector = Collector::new(fetch.messages_max);
        let (epoch, before) = {
            let state = session.state.lock();
            (state.epoch, state.position.bookmark())
        };
        // The puller counts what it hands out.
        let mut counted = 0;
        let ordinary;
        let leased;
        match only {
            None => {
                // One pull may end with nothing although there is more: what is retained is looked for in steps.
                while Puller::new(self, session, epoch, &mut collector).pull().await.more && !collector.more {}
                counted = collector.messages.len();
                ordinary = counted;
                leased = self.fetch_shared(session, None, fetch.manual, &mut collector).await?;
            }
            Some(filter) => {
                if !filter.is_shared() {
                    let alone = session.state.lock().subscriptions.get(filter).is_some();
                    for topic in self.topics.matching(filter, "", usize::MAX) {
                        if collector.more {
                            break;
                        }
                        let alone = alone.then_some(filter);
                        self.fetch_topic_retained(session, &topic, alone, &mut collector)
                            .await?;
                        self.fetch_topic(session, &topic, alone, &mut collector).await?;
                    }
                }
                ordinary = collector.messages.len();
                leased = self
                    .fetch_shared(session, Some(filter), fetch.manual, &mut collector)
                    .await?;
            }
        }
        let mut fetched = Fetched {
            more: collector.more,
            messages: collector.messages,
            acknowledge_token: None,
        };
        if fetched.messages.is_empty() && leased.is_empty() && !session.state.lock().position.is_changed() {
            return Ok(fetched);
        }
        let mut commit = self.store.begin(Class::B);
        {
            let mut state = session.state.lock();
            let state = &mut *state;
            if fetched.messages.len() > counted {
                state.count_received((fetched.messages.len() - counted) as u64, self.clock.wall_ms());
            }
            if fetch.manual.is_some() {
                if !fetched.messages.is_empty() {
                    fetched.acknowledge_token = Some(self.token(session, state, &before, &leased));
                }
                state.position.go_back(before);
                state.step = None;
                let (ordinary, _) = fetched.messages.split_at_mut(ordinary);
                mark_redelivered(state, self, ordinary);
                persist(self, session, state, &mut commit);
            } else {
                state.manual.clear();
                persist(self, session, state, &mut commit);
            }
        }
        for group in self.groups_of(session) {
            group.persist(self, &mut commit);
        }
        let ticket = self.store.commit(commit)?;
        self.store.settled(&ticket).await?;
        Ok(fetched)
    }

    /// The retained message of one topic, for each subscription that has made it due; ahead of its cursor.
    async fn fetch_topic_retained(
        &self,
        session: &Arc<Session>,
        topic: &Arc<Topic>,
        alone: Option<&TopicFilter>,
        collector: &mut Collector,
    ) -> Result<(), SessionRefused> {
        let Some(retained) = topic.retained() else {
            return Ok(());
        };
        let due: Vec<_> = {
            let state = session.state.lock();
            let matching = state
                .subscriptions
                .ordinary()
                .filter(|held| alone.is_none_or(|alone| held.filter == *alone) && held.filter.matches(&topic.name));
            let waits = |held: &Subscription| {
                let due = held.due.as_ref()?;
                let served = state.retained_served.get(&(held.filter.clone(), topic.log)) == Some(&due.mark);
                let waits = retained.mark < due.mark && *due.cursor < *topic.name && !served;
                waits.then(|| (held.filter.clone(), held.options.clone(), due.mark))
            };
            matching.filter_map(waits).collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        let mut buf = ReadBuf::default();
        let found = self.read_one(topic.log, retained.position, &mut buf).await?;
        let Some((read, record)) = found.and_then(|read| Some((read, Record::parse(buf.body(&read))?))) else {
            return Ok(());
        };
        let expired = record.expired(read.time, self.clock.wall_ms());
        for (filter, options, due) in due {
            let wanted =
                (!expired || options.include_expired) && !(options.no_local && record.publisher == &*session.name);
            if wanted {
                if !collector.accepts() {
                    return Ok(());
                }
                collector.push(FetchedMessage {
                    retained: true,
                    subscription_ids: options.identifier.into_iter().collect(),
                    ..FetchedMessage::stored(topic, &read, &buf, expired)
                });
            }
            session.state.lock().serve_ahead(&filter, topic.log, due);
        }
        Ok(())
    }

    /// The messages of one topic behind the session's position on it, which moves ahead of the floor; `alone`: only what
    /// this one of its filters brings.
    async fn fetch_topic(
        &self,
        session: &Arc<Session>,
        topic: &Arc<Topic>,
        alone: Option<&TopicFilter>,
        collector: &mut Collector,
    ) -> Result<(), SessionRefused> {
        let (matched, explicit, floor, count) = {
            let mut state = session.state.lock();
            let matched = match alone {
                Some(filter) => Arc::new(TopicMatch::new(state.subscriptions.get(filter).into_iter())),
                None => state.subscriptions.of_topic(topic),
            };
            (
                matched,
                state.position.of(topic.log),
                state.position.floor,
                state.position.explicit_count(),
            )
        };
        if matched.is_empty() {
            return Ok(());
        }
        let mut next = match explicit {
            Some(Explicit::Ahead(next) | Explicit::Behind(next)) => next,
            None if count >= EXPLICIT_COUNT_MAX => return Err(SessionRefused::TooManyPositions),
            None => {
                self.store
                    .locate(topic.log, At::Mark(floor.max(matched.oldest_start())))
                    .await?
            }
        };
        let begun = next;
        let now = self.clock.wall_ms();
        let mut buf = ReadBuf::default();
        'reading: loop {
            let limit = Limit {
                records: 256,
                bytes: 1 << 20,
                before: Mark::END,
            };
            let progress = self.store.read(topic.log, next, limit, &mut buf).await?;
            for read in &buf.records {
                if let Some(record) = Record::parse(buf.body(read))
                    && let Some(applies) = matched.applies(read.mark, record.publisher == &*session.name)
                {
                    let expired = record.expired(read.time, now);
                    if !expired || applies.include_expired {
                        if !collector.accepts() {
                            break 'reading;
                        }
                        collector.deliver(&Delivery {
                            topic: &topic.name,
                            position: read.position.0,
                            time: read.time,
                            qos: record.qos,
                            packet_id: None,
                            dup: false,
                            retain: record.retain,
                            retained: false,
                            expired,
                            expiry_left: None,
                            subscription_ids: &applies.identifiers,
                            record,
                        });
                    }
                }
                next = read.position.next();
            }
            if !progress.more {
                break;
            }
        }
        if next != begun {
            session.state.lock().position.set(topic.log, Explicit::Ahead(next));
        }
        Ok(())
    }

    fn groups_of(&self, session: &Session) -> Vec<Arc<super::shared_group::ShareGroup>> {
        let state = session.state.lock();
        state
            .subscriptions
            .shared
            .iter()
            .filter_map(|held| self.groups.get(&held.filter))
            .collect()
    }
}

/// Marks what an earlier manual retrieval handed out, and notes what this one does.
fn mark_redelivered(state: &mut SessionState, shared: &Shared, messages: &mut [FetchedMessage]) {
    for message in messages {
        let Some(topic) = shared.topics.get(&message.topic) else {
            continue;
        };
        let seen = state.manual.entry(topic.log).or_default();
        message.redelivered = message.position <= seen.0;
        seen.0 = seen.0.max(message.position);
    }
}
