//! The handle of one MQTT connection: what its client sends goes in, replies and deliveries come out.
//!
//! What one read brought is queued and handed over by one [`Connection::flush`]; a reply leaves the handle when the
//! records behind it are durable. The task that holds the handle waits for [`Connection::woken`], then takes replies
//! and pulls deliveries into one write.
//!
//! **Invariants**
//! - Replies come in the order of their requests.
//! - After a take-over the handle does nothing any more.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::delivery::{DeliverySink, Mode, Pulled, Puller, lag, persist};
use super::error::{ConnectRefused, PublishRefused, StoreFailed};
use super::inflight::Acked;
use super::message::{Publish, Qos};
use super::publish::Publisher;
use super::rows::record::Origin;
use super::session::{
    Closing, Link, NEVER_EXPIRES, Protocol, Session, SessionKind, SessionSettings, SessionState, SessionStatus, Signal,
};
use super::subscription::SubscriptionOptions;
use super::topic::Topic;
use super::topic_filter::TopicFilter;
use super::topic_name::InvalidTopic;
use super::will::Will;
use super::{Broker, Shared};
use crate::store::{Class, Commit, OnceKey, Refused, Ticket, WaiterId};

/// What a CONNECT asks for, after its account was checked.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Client identifier; the frontend has assigned one if the client gave none.
    pub client_name: String,
    /// The account; empty for anonymous clients.
    pub account: String,
    /// It is an administrator's: may use every session.
    pub administrator: bool,
    /// Protocol version.
    pub protocol: Protocol,
    /// Clean Start, or 3.1.1's Clean Session.
    pub clean_start: bool,
    /// Seconds the session outlives its connection; [`NEVER_EXPIRES`] is for ever.
    pub session_expiry_seconds: u64,
    /// Seconds.
    pub keep_alive_seconds: u16,
    /// Receive Maximum, 1 to 65,535.
    pub receive_maximum: u16,
    /// Maximum Packet Size, bytes.
    pub maximum_packet_size: u32,
    /// Topic Alias Maximum.
    pub topic_alias_maximum: u16,
    /// Request Problem Information.
    pub request_problem_information: bool,
    /// Request Response Information.
    pub request_response_information: bool,
    /// User properties.
    pub user_properties: Vec<(String, String)>,
    /// Will.
    pub will: Option<Will>,
    /// The peer.
    pub peer: SocketAddr,
}

/// A reply whose time has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// PUBACK.
    Puback(u16, PublishOutcome),
    /// PUBREC.
    Pubrec(u16, PublishOutcome),
    /// PUBREL; `false`: the id is not known.
    Pubrel(u16, bool),
    /// PUBCOMP; `false`: the id is not known.
    Pubcomp(u16, bool),
    /// SUBACK, a result per filter.
    Suback(u16, Vec<Result<Qos, SubscribeRefused>>),
    /// UNSUBACK, per filter whether there was such a subscription or why not.
    Unsuback(u16, Vec<Result<bool, InvalidTopic>>),
}

/// How a publish ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublishOutcome {
    /// Stored.
    Accepted,
    /// Stored; no session has a matching filter. v5 0x10.
    NoMatchingSubscribers,
    /// Refused.
    Refused(PublishRefused),
}

/// Why a filter was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubscribeRefused {
    /// v5 0x8F.
    Invalid(InvalidTopic),
    /// v5 0x87.
    NotAuthorized,
    /// v5 0x97: too many subscriptions.
    Quota,
}

/// How a connection ended, for the will and the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// DISCONNECT 0x00: no will; perhaps another session expiry.
    Normal {
        /// Seconds, if the DISCONNECT brought one.
        session_expiry_seconds: Option<u64>,
    },
    /// DISCONNECT 0x04, or any other end: the will is due.
    WithWill {
        /// Seconds, if the DISCONNECT brought one.
        session_expiry_seconds: Option<u64>,
        /// Why, for `disconnectionReason`.
        reason: &'static str,
    },
    /// The server stops: the session stays as it is, and counts as connected until then (spec/semantics.md 8).
    ServerStops,
}

/// One MQTT connection of a session.
pub struct Connection {
    shared: Arc<Shared>,
    session: Arc<Session>,
    epoch: u64,
    signal: Arc<Signal>,
    waiter: WaiterId,
    account: Arc<str>,
    administrator: bool,
    stored: bool,
    generation: u32,
    publishes: Commit,
    publish_replies: Vec<Reply>,
    /// Packet ids of `QoS` 2 messages in `publishes`: the session holds them once the commit is handed over.
    received: Vec<u16>,
    changes: Commit,
    /// Packet ids whose release is in `changes`.
    released: Vec<u16>,
    /// States of exchanges have changed, and go with `changes`.
    exchanges_moved: bool,
    change_replies: Vec<Reply>,
    replies: VecDeque<(Ticket, Vec<Reply>)>,
    last_ticket: Ticket,
    last_topic: Option<Arc<Topic>>,
    /// Whether anybody has a filter that matches `last_topic`; asked once a run.
    last_matched: Option<bool>,
    /// Replies of the last run: room for so many is made at once.
    replies_expected: usize,
    published: u64,
    new_topics: Vec<Arc<Topic>>,
    acked: usize,
}

impl Broker {
    /// Opens a session for a client, or takes it over. The answer says whether a session was present.
    ///
    /// Returns when what the CONNECT changes is durable; a clean session without a will changes nothing.
    /// Spec: v5 3.1.2.4, [MQTT-3.1.4-3], v3.1.1 [MQTT-3.1.4-2]; checks in the order of spec/semantics.md 10.
    ///
    /// # Errors
    /// See [`ConnectRefused`].
    pub async fn connect(&self, connect: Connect) -> Result<(Connection, bool), ConnectRefused> {
        let shared = &self.0;
        loop {
            let (session, made) = shared.sessions.get_or_insert(&connect.client_name, || {
                let id = shared.sessions.next_id();
                let name: Arc<str> = connect.client_name.as_str().into();
                Arc::new(Session::new(
                    id,
                    name,
                    SessionKind::Mqtt,
                    shared.store.mark(),
                    shared.clock.wall_ms(),
                ))
            });
            let Some(opened) = shared.open_session(&session, &connect, made)? else {
                continue;
            };
            shared.store.settled(&opened.ticket).await?;
            let connection = Connection {
                shared: Arc::clone(shared),
                waiter: opened.waiter,
                signal: opened.signal,
                epoch: opened.epoch,
                account: connect.account.as_str().into(),
                administrator: connect.administrator,
                stored: opened.stored,
                generation: opened.generation,
                publishes: shared.store.begin(Class::A),
                publish_replies: Vec::new(),
                received: Vec::new(),
                changes: shared.store.begin(Class::B),
                released: Vec::new(),
                exchanges_moved: false,
                change_replies: Vec::new(),
                replies: VecDeque::new(),
                last_ticket: opened.ticket,
                last_topic: None,
                last_matched: None,
                replies_expected: 0,
                published: 0,
                new_topics: Vec::new(),
                acked: 0,
                session,
            };
            return Ok((connection, opened.present));
        }
    }
}

struct Opened {
    ticket: Ticket,
    waiter: WaiterId,
    signal: Arc<Signal>,
    epoch: u64,
    stored: bool,
    generation: u32,
    present: bool,
}

impl Shared {
    /// Changes the session for a new connection, under its lock. `None`: it ended meanwhile, look again.
    fn open_session(
        self: &Arc<Self>,
        session: &Arc<Session>,
        connect: &Connect,
        made: bool,
    ) -> Result<Option<Opened>, ConnectRefused> {
        if session.kind == SessionKind::MqApi {
            return Err(ConnectRefused::NameOfApiSession);
        }
        let mut state = session.state.lock();
        let state = &mut *state;
        if state.ended {
            return Ok(None);
        }
        if state.link.is_none() && state.end_due.is_some_and(|due| due.at <= self.clock.now()) {
            // Its time is up, only nobody has come to look at it yet.
            let mut commit = self.store.begin(Class::C);
            self.end_session(session, state, &mut commit);
            self.hand_over_last(state, commit);
            return Ok(None);
        }
        if !made {
            if state.settings.status == SessionStatus::Banned {
                return Err(ConnectRefused::Banned);
            }
            if !state.owner.is_empty() && state.owner != connect.account && !connect.administrator {
                return Err(ConnectRefused::NotOwner);
            }
        }
        let mut commit = self.store.begin(Class::C);
        let was_stored = !made && state.is_stored();
        // Nobody may find a present session in what a clean connection has left behind.
        let present = !made && !connect.clean_start && state.has_client_state();
        self.close_link(session, state, Closing::TakenOver);
        self.will_at_return(session, state, connect.clean_start, &mut commit);
        if connect.clean_start && !made {
            self.reset(session, state, &mut commit);
        }
        if state.owner.is_empty() {
            state.owner.clone_from(&connect.account);
        }
        let now = self.clock.wall_ms();
        apply_settings(state, connect);
        state.connected = now;
        state.connected_in = self.settings.incarnation;
        state.end_due = None;
        state.connect_mark = self.store.mark();
        state.epoch += 1;
        state.will.clone_from(&connect.will);
        Self::put_will(session, state, &mut commit);
        if state.is_stored() {
            Self::put_session(session, state, &mut commit);
            if !was_stored && !made {
                self.store_everything(session, state, &mut commit);
            }
            persist(self, session, state, &mut commit);
        } else if was_stored {
            self.delete_rows(session, state, &mut commit);
        }
        let write = if commit.is_empty() {
            state.last_write.clone()
        } else {
            self.store.commit(commit)?
        };
        let signal = Arc::new(Signal::default());
        state.link = Some(Link {
            signal: Arc::clone(&signal),
            peer: connect.peer,
            receive_maximum: usize::from(connect.receive_maximum),
            outstanding: 0,
            resend: state.inflight.open_ids().into(),
        });
        {
            let mut queue = session.queue.lock();
            queue.mode = Mode::Lagging;
            queue.signal = Some(Arc::clone(&signal));
        }
        self.set_connected(session, state, true);
        Ok(Some(Opened {
            ticket: write,
            waiter: self.add_waiter(&signal),
            signal,
            epoch: state.epoch,
            stored: state.is_stored(),
            generation: state.generation,
            present,
        }))
    }

    /// Takes the connection away from a session, whoever serves it; it is told why.
    pub(super) fn close_link(&self, session: &Arc<Session>, state: &mut SessionState, reason: Closing) {
        if let Some(link) = state.link.take() {
            link.signal.close(reason);
            session.settle_floor(self, state);
            let mut queue = session.queue.lock();
            queue.drop_references();
            queue.mode = Mode::Absent;
            queue.signal = None;
            drop(queue);
            self.return_to_groups(session, state);
            self.set_connected(session, state, false);
        }
    }
}

impl SessionState {
    /// Whether there is a session in the sense of MQTT: the record alone may outlive it (spec/semantics.md 9), and then
    /// nothing is left that could end.
    pub(super) fn has_client_state(&self) -> bool {
        let never_ends = self.settings.session_expiry_seconds >= u64::from(u32::MAX);
        self.link.is_some() || self.end_due.is_some() || self.is_stored() && never_ends
    }
}

fn apply_settings(state: &mut SessionState, connect: &Connect) {
    let v5 = connect.protocol == Protocol::V5;
    let temporary = if v5 {
        connect.session_expiry_seconds == 0
    } else {
        connect.clean_start
    };
    let settings = &state.settings;
    let kept = (
        settings.label,
        settings.metadata.clone(),
        settings.health_limits,
        settings.status,
    );
    state.settings = SessionSettings {
        clean_session: connect.clean_start,
        temporary,
        status: if kept.3 == SessionStatus::Hidden {
            SessionStatus::Hidden
        } else {
            SessionStatus::Normal
        },
        protocol: connect.protocol,
        keep_alive_seconds: u64::from(connect.keep_alive_seconds),
        session_expiry_seconds: match (v5, temporary) {
            (true, _) => Shared::never(connect.session_expiry_seconds),
            (false, true) => 0,
            (false, false) => NEVER_EXPIRES,
        },
        payload_type: "binary".into(),
        receive_maximum: connect.receive_maximum,
        maximum_packet_size: connect.maximum_packet_size,
        topic_alias_maximum: connect.topic_alias_maximum,
        request_problem_information: connect.request_problem_information,
        request_response_information: connect.request_response_information,
        user_properties: connect.user_properties.clone(),
        label: kept.0,
        metadata: kept.1,
        health_limits: kept.2,
        ..SessionSettings::default()
    };
    state.protocol = connect.protocol;
    state.address = connect.peer.ip().to_canonical().to_string();
    state.port = connect.peer.port();
}

impl Session {
    /// Brings the floor to where the session is, before nobody serves it any more.
    pub(super) fn settle_floor(&self, shared: &Shared, state: &mut SessionState) {
        // Read before the queue is looked at: what was dispatched until then is in it.
        let dispatched = shared.dispatched();
        let queue = self.queue.lock();
        let waiting = !state.pending.is_empty() || state.step.is_some();
        if !waiting && let Some(floor) = queue.floor(dispatched) {
            state.position.floor = state.position.floor.max(floor);
        }
        drop(queue);
        lag(state);
        state.pending.clear();
        state.step = None;
    }
}

impl Connection {
    /// The session's client name.
    pub fn client_name(&self) -> &str {
        &self.session.name
    }

    /// Queues a message the client publishes; its reply follows when it is durable.
    ///
    /// `packet_id` is that of a `QoS` 1 or 2 message. A second PUBLISH with the id of a `QoS` 2 message that is not
    /// released is not stored again. Spec: v5 [MQTT-4.3.2-4], [MQTT-4.3.3-8] to [MQTT-4.3.3-13].
    ///
    /// # Errors
    /// For `QoS` 0, which has no reply: why the message is dropped.
    pub fn publish(&mut self, name: &str, packet_id: u16, message: &Publish<'_>) -> Result<(), PublishRefused> {
        if !self.changes.is_empty() || !self.change_replies.is_empty() {
            self.flush();
        }
        if self.last_topic.as_ref().is_none_or(|last| *last.name != *name) {
            match self.shared.topic_for(name) {
                Ok(topic) => self.go_on_with(topic),
                Err(refused) => return self.refuse(packet_id, message.qos, refused),
            }
        }
        let Some(topic) = &self.last_topic else {
            return Ok(());
        };
        if self.publish_replies.is_empty() {
            self.publish_replies.reserve(self.replies_expected);
        }
        let publisher = Publisher {
            client_name: &self.session.name,
            account: &self.account,
            origin: Origin::Mqtt,
        };
        let mut once = None;
        if message.qos == Qos::ExactlyOnce {
            let state = self.session.state.lock();
            if state.epoch != self.epoch {
                return Ok(());
            }
            let held = state.inbound.contains(&packet_id);
            drop(state);
            if held || self.received.contains(&packet_id) {
                self.publish_replies
                    .push(Reply::Pubrec(packet_id, PublishOutcome::Accepted));
                return Ok(());
            }
            self.received.push(packet_id);
            let key = OnceKey {
                owner: self.session.id.0,
                generation: self.generation,
                id: u32::from(packet_id),
            };
            once = self.stored.then_some(key);
        }
        Shared::queue_message(&mut self.publishes, topic, publisher, message, once);
        self.published += 1;
        // One look at the subscriptions serves all messages of a run.
        let matched = *self
            .last_matched
            .get_or_insert_with(|| topic.matches(&self.shared.tree).any);
        let outcome = if matched {
            PublishOutcome::Accepted
        } else {
            PublishOutcome::NoMatchingSubscribers
        };
        match message.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.publish_replies.push(Reply::Puback(packet_id, outcome)),
            Qos::ExactlyOnce => self.publish_replies.push(Reply::Pubrec(packet_id, outcome)),
        }
        Ok(())
    }

    fn go_on_with(&mut self, topic: Arc<Topic>) {
        if !self.new_topics.iter().any(|held| held.log == topic.log) {
            self.new_topics.push(Arc::clone(&topic));
        }
        self.last_topic = Some(topic);
        self.last_matched = None;
    }

    fn refuse(&mut self, packet_id: u16, qos: Qos, refused: PublishRefused) -> Result<(), PublishRefused> {
        let outcome = PublishOutcome::Refused(refused.clone());
        match qos {
            Qos::AtMostOnce => return Err(refused),
            Qos::AtLeastOnce => self.publish_replies.push(Reply::Puback(packet_id, outcome)),
            Qos::ExactlyOnce => self.publish_replies.push(Reply::Pubrec(packet_id, outcome)),
        }
        Ok(())
    }

    /// PUBREL: the packet id is free once this is durable; PUBCOMP follows then.
    pub fn pubrel(&mut self, packet_id: u16) {
        if !self.publishes.is_empty() || !self.publish_replies.is_empty() {
            self.flush();
        }
        let known = self.session.state.lock().inbound.contains(&packet_id) && !self.released.contains(&packet_id);
        if known {
            self.released.push(packet_id);
        }
        if known && self.stored {
            let key = OnceKey {
                owner: self.session.id.0,
                generation: self.generation,
                id: u32::from(packet_id),
            };
            self.changes.release(key);
        }
        self.change_replies.push(Reply::Pubcomp(packet_id, known));
    }

    /// PUBACK. `false`: no such message is in flight.
    pub fn puback(&mut self, packet_id: u16) -> bool {
        self.complete(packet_id, |state| state.inflight.puback(packet_id))
    }

    /// PUBREC; PUBREL follows when this is durable. `refused`: the client will not take the message.
    pub fn pubrec(&mut self, packet_id: u16, refused: bool) {
        if !self.publishes.is_empty() {
            self.flush();
        }
        match self.acknowledge(packet_id, |state| state.inflight.pubrec(packet_id, refused)) {
            Acked::Moved => {
                self.exchanges_moved = true;
                self.change_replies.push(Reply::Pubrel(packet_id, true));
            }
            Acked::Again => self.change_replies.push(Reply::Pubrel(packet_id, true)),
            Acked::Completed(_) => {}
            // A refusal of what is not there has nothing to release.
            Acked::Unknown if refused => {}
            Acked::Unknown => self.change_replies.push(Reply::Pubrel(packet_id, false)),
        }
    }

    /// PUBCOMP. `false`: no such message is in flight.
    pub fn pubcomp(&mut self, packet_id: u16) -> bool {
        self.complete(packet_id, |state| state.inflight.pubcomp(packet_id))
    }

    /// Lets an acknowledgement act on the session, under one lock with what follows from a completed exchange.
    fn acknowledge(&mut self, packet_id: u16, act: impl FnOnce(&mut SessionState) -> Acked) -> Acked {
        let mut state = self.session.state.lock();
        if state.epoch != self.epoch {
            return Acked::Unknown;
        }
        let state = &mut *state;
        let acked = act(state);
        if let Acked::Completed(outgoing) = &acked {
            state.unsaved += 1;
            if let Some(link) = &mut state.link {
                match link.resend.iter().position(|id| *id == packet_id) {
                    // Acknowledged before it was sent again: it never counted.
                    Some(place) => drop(link.resend.remove(place)),
                    None => link.outstanding = link.outstanding.saturating_sub(1),
                }
            }
            self.shared.group_acked(state, packet_id, outgoing);
            self.acked += 1;
        }
        acked
    }

    fn complete(&mut self, packet_id: u16, act: impl FnOnce(&mut SessionState) -> Acked) -> bool {
        matches!(self.acknowledge(packet_id, act), Acked::Completed(_))
    }

    /// SUBSCRIBE: each filter takes effect where its row comes to stand; SUBACK follows when that is durable.
    pub fn subscribe(
        &mut self,
        packet_id: u16,
        filters: Vec<(Result<TopicFilter, InvalidTopic>, SubscriptionOptions)>,
    ) {
        self.flush();
        let mut state = self.session.state.lock();
        if state.epoch != self.epoch {
            return;
        }
        let mut results = Vec::with_capacity(filters.len());
        for (filter, options) in filters {
            results.push(match filter {
                Err(invalid) => Err(SubscribeRefused::Invalid(invalid)),
                Ok(filter) if filter.is_system() && !self.administrator => Err(SubscribeRefused::NotAuthorized),
                Ok(filter) => {
                    let qos = options.qos;
                    self.shared
                        .subscribe(&self.session, &mut state, filter, options, &mut self.changes);
                    Ok(qos)
                }
            });
        }
        drop(state);
        self.change_replies.push(Reply::Suback(packet_id, results));
    }

    /// UNSUBSCRIBE; UNSUBACK follows when it is durable.
    pub fn unsubscribe(&mut self, packet_id: u16, filters: Vec<Result<TopicFilter, InvalidTopic>>) {
        self.flush();
        let mut state = self.session.state.lock();
        if state.epoch != self.epoch {
            return;
        }
        let mut results = Vec::with_capacity(filters.len());
        for filter in filters {
            results.push(filter.map(|filter| {
                self.shared
                    .unsubscribe(&self.session, &mut state, &filter, &mut self.changes)
            }));
        }
        drop(state);
        self.change_replies.push(Reply::Unsuback(packet_id, results));
    }

    /// Hands over what was queued since the last flush; call it once for each read.
    pub fn flush(&mut self) {
        if self.published > 0 {
            let now = self.shared.clock.wall_ms();
            let mut state = self.session.state.lock();
            state.count_published(self.published, now, None);
            for topic in self.new_topics.drain(..) {
                state.count_published(0, now, Some(&topic.name));
            }
            self.published = 0;
        }
        self.flush_publishes();
        self.flush_changes();
        self.save_positions();
    }

    fn flush_publishes(&mut self) {
        if self.publishes.is_empty() && self.publish_replies.is_empty() {
            return;
        }
        let mut commit = std::mem::replace(&mut self.publishes, self.shared.store.begin(Class::A));
        let mut replies = std::mem::take(&mut self.publish_replies);
        self.replies_expected = replies.len();
        self.last_matched = None;
        let received = std::mem::take(&mut self.received);
        if replies.is_empty() {
            commit.lazy();
        }
        let session = Arc::clone(&self.session);
        let mut state = session.state.lock();
        // Under the lock: after a take-over the new connection alone says what the session has received.
        if state.epoch != self.epoch {
            return;
        }
        match self.hand_over(commit, &mut state, !replies.is_empty()) {
            Ok(()) => state.inbound.extend(received),
            Err(refused) => refuse_run(&mut replies, &received, &refused),
        }
        drop(state);
        self.queue_replies(replies);
    }

    fn flush_changes(&mut self) {
        if self.changes.is_empty() && self.change_replies.is_empty() {
            return;
        }
        let mut commit = std::mem::replace(&mut self.changes, self.shared.store.begin(Class::B));
        let replies = std::mem::take(&mut self.change_replies);
        let released = std::mem::take(&mut self.released);
        let session = Arc::clone(&self.session);
        let mut state = session.state.lock();
        if state.epoch != self.epoch {
            return;
        }
        if std::mem::take(&mut self.exchanges_moved) {
            persist(&self.shared, &session, &mut state, &mut commit);
        }
        for id in released {
            state.inbound.remove(&id);
        }
        if let Err(refused) = self.hand_over(commit, &mut state, true) {
            drop(state);
            tracing::warn!(%refused, client = self.client_name(), "a change of a session cannot be stored");
            self.signal.close(Closing::StoreFailed);
            return;
        }
        drop(state);
        self.queue_replies(replies);
    }

    /// `awaited`: replies wait for the commit.
    fn hand_over(&mut self, commit: Commit, state: &mut SessionState, awaited: bool) -> Result<(), Refused> {
        if !commit.is_empty() {
            let ticket = self.shared.store.commit(commit)?;
            state.last_write = ticket.clone();
            if awaited {
                self.last_ticket = ticket;
            }
        }
        Ok(())
    }

    fn queue_replies(&mut self, replies: Vec<Reply>) {
        if !replies.is_empty() {
            self.shared.store.notify(&self.last_ticket, self.waiter);
            self.replies.push_back((self.last_ticket.clone(), replies));
        }
    }

    /// Writes positions when enough have gathered, or enough time has passed.
    fn save_positions(&mut self) {
        if self.acked == 0 {
            return;
        }
        let settings = &self.shared.settings;
        let mut state = self.session.state.lock();
        let due = state.unsaved >= settings.position_commit_count
            || self.shared.clock.now() >= state.last_saved + settings.position_commit_interval;
        if !due || state.epoch != self.epoch {
            return;
        }
        self.acked = 0;
        let mut commit = self.shared.store.begin(Class::B);
        commit.lazy();
        persist(&self.shared, &self.session, &mut state, &mut commit);
        for held in &state.subscriptions.shared {
            if let Some(group) = self.shared.groups.get(&held.filter) {
                group.persist(&self.shared, &mut commit);
            }
        }
        // Handed over under the lock, so that no newer state of the session stands before it.
        let written = if commit.is_empty() {
            Ok(())
        } else {
            self.shared.store.commit(commit).map(drop)
        };
        drop(state);
        if let Err(refused) = written {
            tracing::warn!(%refused, client = self.client_name(), "positions cannot be stored");
        }
    }

    /// Whether positions wait to be written; call [`Connection::save`] within the commit interval.
    pub fn has_unsaved(&self) -> bool {
        self.session.state.lock().unsaved > 0
    }

    /// Writes positions that have waited long enough.
    pub fn save(&mut self) {
        self.acked += 1;
        self.save_positions();
    }

    /// The next reply whose records are durable.
    pub fn next_replies(&mut self) -> Option<Vec<Reply>> {
        let (ticket, _) = self.replies.front()?;
        if let Ok(()) = self.shared.store.outcome(ticket)? {
            self.replies.pop_front().map(|(_, replies)| replies)
        } else {
            self.signal.close(Closing::StoreFailed);
            None
        }
    }

    /// Requests whose replies wait for the disk.
    pub fn waiting_replies(&self) -> usize {
        self.replies.len()
    }

    /// Whether a ticket of a pull is settled; wakes this connection when it is not yet.
    ///
    /// # Errors
    /// When the store has failed: nothing may be sent any more.
    pub fn settled(&self, ticket: &Ticket) -> Result<bool, StoreFailed> {
        match self.shared.store.outcome(ticket) {
            Some(result) => Ok(result.map(|()| true)?),
            None => Ok(false),
        }
    }

    /// Hands deliveries to the sink until it is full or there are none. With a ticket in the answer nothing of this
    /// pull may be sent before the ticket is settled.
    pub async fn pull(&mut self, sink: &mut dyn DeliverySink) -> Pulled {
        let pulled = Puller::new(&self.shared, &self.session, self.epoch, sink).pull().await;
        if let Some(ticket) = &pulled.ticket {
            self.shared.store.notify(ticket, self.waiter);
        }
        pulled
    }

    /// Wakes whoever serves the connection when there may be something to do, and says when it must end.
    pub fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// Ends the connection: the will and the session's clock begin as it says. What was queued is handed over.
    pub fn end(mut self, ending: Ending) {
        self.flush();
        self.shared.disconnect(&self.session, self.epoch, ending);
    }
}

/// Nothing of a run was stored; what was received before it stays so.
fn refuse_run(replies: &mut [Reply], received: &[u16], refused: &Refused) {
    let outcome = PublishOutcome::Refused(PublishRefused::Store(StoreFailed::Refused(refused.clone())));
    for reply in replies {
        match reply {
            Reply::Puback(_, held) => *held = outcome.clone(),
            Reply::Pubrec(id, held) if received.contains(id) => *held = outcome.clone(),
            _ => {}
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Without `end` the connection was lost, or cut off at a stop.
        let ending = match self.signal.closing() {
            Some(Closing::ShuttingDown) => Ending::ServerStops,
            _ => Ending::WithWill {
                session_expiry_seconds: None,
                reason: "connection lost",
            },
        };
        self.shared.disconnect(&self.session, self.epoch, ending);
        self.shared.remove_waiter(self.waiter);
    }
}
