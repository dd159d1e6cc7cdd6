//! What business programs do with sessions of either kind: create, alter, list, describe, delete, subscribe, publish
//! (spec/sessions.md, spec/messages.md 4 and 5).
//!
//! **Invariants**
//! - An operation checks everything before it changes anything.
//! - It returns when its change is durable; temporary sessions have nothing to wait for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::delivery::Mode;
use super::error::SessionRefused;
use super::message::Publish;
use super::publish::Publisher;
use super::rows;
use super::rows::StoredRow;
use super::rows::record::Origin;
use super::rows::session::TotalsRow;
use super::session::{
    Closing, ConnectionStatus, NEVER_EXPIRES, Protocol, Session, SessionKind, SessionSettings, SessionState,
    SessionStatus,
};
use super::subscription::SubscriptionOptions;
use super::topic_filter::TopicFilter;
use super::will::Will;
use super::{Broker, Shared};
use crate::store::{Class, Commit, Mark, Ticket};

/// Topics shown per filter in a description.
const MATCHING_TOPICS_MAX: usize = 1_000;

/// Who acts, and from where.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The account.
    pub account: String,
    /// Member of the role ADMIN: may use every session.
    pub administrator: bool,
    /// The JSON session, as the login table numbers it.
    pub login: u64,
    /// The HTTP peer.
    pub peer: SocketAddr,
}

/// A session to be created.
#[derive(Clone, Debug)]
pub struct CreateSession {
    /// Empty: a name is made up.
    pub client_name: String,
    /// Settings, already complete (spec/sessions.md 2 and 7).
    pub settings: SessionSettings,
    /// Its will.
    pub will: Option<Will>,
}

/// What `alterMqSession` changes; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct SessionChange {
    /// Permanent or temporary; a change of it follows spec/semantics.md 9.
    pub temporary: Option<bool>,
    /// Seconds.
    pub session_expiry_seconds: Option<u64>,
    /// Seconds.
    pub keep_alive_seconds: Option<u64>,
    /// Status.
    pub status: Option<SessionStatus>,
    /// Drop subscriptions and undelivered messages now.
    pub reset: bool,
    /// The will: `Some(None)` removes it.
    pub will: Option<Option<Will>>,
    /// The label: `Some(None)` removes it.
    pub label: Option<Option<u32>>,
    /// JSON object, verbatim.
    pub metadata: Option<String>,
    /// User properties.
    pub user_properties: Option<Vec<(String, String)>>,
    /// Each of the five health limits.
    pub health_limits: [Option<u64>; 5],
    /// Default payload type.
    pub payload_type: Option<String>,
    /// Protocol it claims.
    pub protocol: Option<Protocol>,
    /// Receive Maximum.
    pub receive_maximum: Option<u16>,
    /// Maximum Packet Size.
    pub maximum_packet_size: Option<u32>,
    /// Topic Alias Maximum.
    pub topic_alias_maximum: Option<u16>,
    /// Request Problem Information.
    pub request_problem_information: Option<bool>,
    /// Request Response Information.
    pub request_response_information: Option<bool>,
}

/// A session as it is described.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Client name.
    pub client_name: String,
    /// Kind.
    pub kind: SessionKind,
    /// Owner; empty for anonymous clients.
    pub owner: String,
    /// Settings.
    pub settings: SessionSettings,
    /// Will.
    pub will: Option<Will>,
    /// Connection.
    pub connection: ConnectionStatus,
    /// Protocol of the (last) connection.
    pub protocol: Protocol,
    /// Peer address.
    pub address: String,
    /// Peer port.
    pub port: u16,
    /// ms since 1970 UTC.
    pub connected: i64,
    /// ms since 1970 UTC.
    pub disconnected: Option<i64>,
    /// Why.
    pub disconnect_reason: String,
    /// Totals.
    pub totals: TotalsRow,
    /// Number of filters.
    pub filter_count: usize,
}

/// A subscription as it is shown.
#[derive(Clone, Debug)]
pub struct SubscriptionView {
    /// The filter.
    pub filter: String,
    /// Its options.
    pub options: SubscriptionOptions,
    /// Existing topics it matches, at most 1,000.
    pub topics: Vec<String>,
    /// There are more.
    pub truncated: bool,
}

/// One step of `subscribeToMq`.
#[derive(Clone, Debug)]
pub enum SubscribeAction {
    /// Add or replace.
    Add(TopicFilter, SubscriptionOptions),
    /// Remove.
    Remove(TopicFilter),
}

/// A message of `publishMessagesToMq`: client name, topic, message.
pub(super) type NamedPublish<'a> = (&'a str, &'a str, Publish<'a>);

impl Broker {
    /// Creates an MQ API session; the name comes back (spec/sessions.md 8).
    ///
    /// # Errors
    /// [`SessionRefused::NameInUse`], or the store's.
    pub async fn create_session(&self, create: CreateSession, caller: &Caller) -> Result<SessionView, SessionRefused> {
        let shared = &self.0;
        let generate = create.client_name.is_empty();
        let (session, ticket) = loop {
            let name = if generate {
                generated_name()?
            } else {
                create.client_name.clone()
            };
            let mut ticket = None;
            let (session, made) = shared.sessions.get_or_insert(&name, || {
                let id = shared.sessions.next_id();
                let session = Session::new(
                    id,
                    name.as_str().into(),
                    SessionKind::MqApi,
                    shared.store.mark(),
                    shared.clock.wall_ms(),
                );
                session.queue.lock().mode = Mode::Lagging;
                let session = Arc::new(session);
                let mut state = session.state.lock();
                state.settings = create.settings.clone();
                state.owner.clone_from(&caller.account);
                state.protocol = create.settings.protocol;
                state.will.clone_from(&create.will);
                state.active = true;
                state.bound_to = create.settings.temporary.then_some(caller.login);
                caller.note(&mut state);
                let mut commit = shared.store.begin(Class::C);
                Shared::put_session(&session, &mut state, &mut commit);
                Shared::put_will(&session, &mut state, &mut commit);
                if state.is_stored() {
                    super::delivery::persist(shared, &session, &mut state, &mut commit);
                }
                ticket = Some(shared.store.commit(commit));
                drop(state);
                session
            });
            match ticket {
                Some(Ok(ticket)) => break (session, ticket),
                Some(Err(refused)) => {
                    session.state.lock().ended = true;
                    shared.sessions.remove(&session);
                    return Err(refused.into());
                }
                None if generate => {}
                None => return Err(SessionRefused::NameInUse(name)),
            }
            debug_assert!(!made || generate);
        };
        let view = {
            let mut state = session.state.lock();
            shared.note_activity(&session, &mut state, Some(caller));
            view(&session, &state)
        };
        shared.store.settled(&ticket).await?;
        Ok(view)
    }

    /// A session that the caller may use.
    ///
    /// # Errors
    /// [`SessionRefused::Unknown`], [`SessionRefused::NotOwner`].
    pub fn session(&self, name: &str, caller: &Caller) -> Result<Arc<Session>, SessionRefused> {
        let session = self
            .0
            .sessions
            .get(name)
            .ok_or_else(|| SessionRefused::Unknown(name.into()))?;
        if !caller.administrator && session.state.lock().owner != caller.account {
            return Err(SessionRefused::NotOwner(name.into()));
        }
        Ok(session)
    }

    /// Sessions the caller may see whose names begin with `prefix`, by name.
    pub fn sessions(&self, prefix: &str, caller: &Caller) -> Vec<SessionView> {
        let visible = |session: &Arc<Session>| {
            let state = session.state.lock();
            (caller.administrator || state.owner == caller.account).then(|| view(session, &state))
        };
        self.0.sessions.list(prefix).iter().filter_map(visible).collect()
    }

    /// Describes one session.
    ///
    /// # Errors
    /// As [`Broker::session`].
    pub fn describe_session(&self, name: &str, caller: &Caller) -> Result<SessionView, SessionRefused> {
        let session = self.session(name, caller)?;
        let state = session.state.lock();
        Ok(view(&session, &state))
    }

    /// The default payload type of what is published through a session that messages may go through.
    ///
    /// # Errors
    /// As [`Broker::session`]; [`SessionRefused::Banned`].
    pub fn payload_type(&self, name: &str, caller: &Caller) -> Result<String, SessionRefused> {
        let session = self.usable_session(name, caller)?;
        let payload_type = session.state.lock().settings.payload_type.clone();
        Ok(payload_type)
    }

    /// The session's subscriptions, by filter.
    ///
    /// # Errors
    /// As [`Broker::session`].
    pub fn subscriptions(&self, name: &str, caller: &Caller) -> Result<Vec<SubscriptionView>, SessionRefused> {
        let session = self.session(name, caller)?;
        let state = session.state.lock();
        let show = |held: &super::subscription::Subscription| {
            let topics = self.0.topics.matching(&held.filter, "", MATCHING_TOPICS_MAX + 1);
            SubscriptionView {
                filter: held.filter.to_string(),
                options: held.options.clone(),
                truncated: topics.len() > MATCHING_TOPICS_MAX,
                topics: topics
                    .iter()
                    .take(MATCHING_TOPICS_MAX)
                    .map(|topic| topic.name.to_string())
                    .collect(),
            }
        };
        let mut views: Vec<_> = state.subscriptions.all().map(show).collect();
        views.sort_by(|one, other| one.filter.cmp(&other.filter));
        Ok(views)
    }

    /// The topics the session published to, the latest 1,000.
    ///
    /// # Errors
    /// As [`Broker::session`].
    pub fn published_topics(&self, name: &str, caller: &Caller) -> Result<Vec<String>, SessionRefused> {
        Ok(self.session(name, caller)?.state.lock().published_topics.topics.clone())
    }

    /// Alters a session without disconnecting its client (spec/sessions.md 9, spec/semantics.md 9).
    ///
    /// # Errors
    /// As [`Broker::session`], or the store's.
    pub async fn alter_session(
        &self,
        name: &str,
        change: SessionChange,
        caller: &Caller,
    ) -> Result<SessionView, SessionRefused> {
        let shared = &self.0;
        let session = self.session(name, caller)?;
        let mut commit = shared.store.begin(Class::C);
        let (view, ticket) = {
            let mut state = session.state.lock();
            let state = &mut *state;
            let was_connected = state.connection_status(session.kind) != ConnectionStatus::Disconnected;
            let was_stored = state.is_stored();
            if change.reset {
                shared.clear_subscriptions(&session, state, &mut commit);
            }
            apply_change(session.kind, state, &change);
            if state.settings.status == SessionStatus::Banned {
                shared.return_leased(state);
            }
            if change.status.is_some() {
                state.waiting.iter().for_each(|signal| signal.wake());
            }
            if let Some(temporary) = change.temporary {
                shared.change_lifetime(&session, state, temporary, &change, caller, &mut commit);
            }
            if change.will.is_some() {
                if state.will.is_none() {
                    state.will_due = None;
                }
                Shared::put_will(&session, state, &mut commit);
            }
            if session.kind == SessionKind::MqApi {
                let connected = state.connection_status(session.kind) != ConnectionStatus::Disconnected;
                if was_connected && !connected {
                    "session status".clone_into(&mut state.disconnect_reason);
                    shared.left(&session, state, true, &mut commit);
                } else if !was_connected && connected {
                    state.will_due = None;
                    state.end_due = None;
                    state.connected = shared.clock.wall_ms();
                }
                shared.note_activity(&session, state, Some(caller));
            } else if !state.ended {
                shared.end_if_released(&session, state, &mut commit);
            }
            if was_stored && !state.is_stored() && !state.ended && state.link.is_none() {
                shared.delete_rows(&session, state, &mut commit);
            }
            if !state.ended {
                Shared::put_session(&session, state, &mut commit);
            }
            if !was_stored && state.is_stored() {
                shared.store_everything(&session, state, &mut commit);
            }
            let view = view(&session, state);
            (view, shared.store.commit(commit)?)
        };
        shared.store.settled(&ticket).await?;
        Ok(view)
    }

    /// Deactivates a session, or removes it (spec/sessions.md 12).
    ///
    /// # Errors
    /// As [`Broker::session`], or the store's.
    pub async fn delete_session(&self, name: &str, permanently: bool, caller: &Caller) -> Result<(), SessionRefused> {
        let shared = &self.0;
        let session = self.session(name, caller)?;
        let mut commit = shared.store.begin(Class::C);
        let ticket = {
            let mut state = session.state.lock();
            let state = &mut *state;
            let connected = state.connection_status(session.kind) != ConnectionStatus::Disconnected;
            shared.close_link(&session, state, Closing::Administrative);
            // A waiting retrieval looks again, and finds the session gone.
            state.waiting.iter().for_each(|signal| signal.wake());
            "deleted by an administrator".clone_into(&mut state.disconnect_reason);
            if permanently {
                state.settings.status = SessionStatus::Normal;
                if connected || state.will_due.is_some() {
                    shared.publish_will(&session, state, &mut commit);
                }
                shared.end_session(&session, state, &mut commit);
            } else {
                state.settings.status = SessionStatus::Inactive;
                if connected {
                    shared.left(&session, state, true, &mut commit);
                }
                if !state.ended {
                    Shared::put_session(&session, state, &mut commit);
                }
            }
            shared.store.commit(commit)?
        };
        shared.store.settled(&ticket).await?;
        Ok(())
    }

    /// Adds and removes filters of a session of either kind, all or none (spec/messages.md 4). Gives the filters whose
    /// removal found nothing.
    ///
    /// # Errors
    /// As [`Broker::session`]; [`SessionRefused::Banned`], [`SessionRefused::SystemFilter`], or the store's.
    pub async fn subscribe(
        &self,
        name: &str,
        actions: Vec<SubscribeAction>,
        caller: &Caller,
    ) -> Result<Vec<String>, SessionRefused> {
        let shared = &self.0;
        let session = self.usable_session(name, caller)?;
        for action in &actions {
            if let SubscribeAction::Add(filter, _) = action
                && filter.is_system()
                && !caller.administrator
            {
                return Err(SessionRefused::SystemFilter(filter.to_string()));
            }
        }
        let mut absent = Vec::new();
        let mut commit = shared.store.begin(Class::B);
        let ticket = {
            let mut state = session.state.lock();
            for action in actions {
                match action {
                    SubscribeAction::Add(filter, options) => {
                        shared.subscribe(&session, &mut state, filter, options, &mut commit);
                    }
                    SubscribeAction::Remove(filter) => {
                        if !shared.unsubscribe(&session, &mut state, &filter, &mut commit) {
                            absent.push(filter.to_string());
                        }
                    }
                }
            }
            shared.note_activity(&session, &mut state, Some(caller));
            shared.activate(&session, &mut state, &mut commit);
            let ticket = shared.store.commit(commit)?;
            state.last_write = ticket.clone();
            ticket
        };
        shared.store.settled(&ticket).await?;
        Ok(absent)
    }

    /// Publishes messages in the name of sessions, all or none, in order; gives topic and position of each
    /// (spec/messages.md 5).
    ///
    /// # Errors
    /// As [`Broker::session`]; [`SessionRefused::Banned`], [`SessionRefused::Publish`], or the store's.
    pub async fn publish(
        &self,
        messages: &[NamedPublish<'_>],
        caller: &Caller,
    ) -> Result<Vec<(String, u64)>, SessionRefused> {
        let shared = &self.0;
        let mut sessions: Vec<Arc<Session>> = Vec::new();
        for (client_name, _, _) in messages {
            if !sessions.iter().any(|session| *session.name == **client_name) {
                sessions.push(self.usable_session(client_name, caller)?);
            }
        }
        let mut commit = shared.store.begin(if messages.len() > 1 { Class::C } else { Class::A });
        commit.want_offsets();
        let mut topics = Vec::with_capacity(messages.len());
        for (_, topic, _) in messages {
            topics.push(shared.topic_for(topic)?);
        }
        for ((client_name, _, message), topic) in messages.iter().zip(&topics) {
            let publisher = Publisher {
                client_name,
                account: &caller.account,
                origin: Origin::Http,
            };
            // The caller waits for it, whatever its QoS: it does not pass the feed early.
            let record = message.record(publisher.origin, publisher.client_name, publisher.account);
            commit.append(topic.log, &record.parts(&record.head()), false);
        }
        let now = shared.clock.wall_ms();
        let mut changes = shared.store.begin(Class::C);
        let ticket = shared.store.commit(commit)?;
        for session in &sessions {
            let mut state = session.state.lock();
            for ((client_name, _, _), topic) in messages.iter().zip(&topics) {
                if *session.name == **client_name {
                    state.count_published(1, now, Some(&topic.name));
                }
            }
            shared.note_activity(session, &mut state, Some(caller));
            shared.activate(session, &mut state, &mut changes);
        }
        let changed = if changes.is_empty() {
            Ticket::default()
        } else {
            shared.store.commit(changes)?
        };
        shared.store.settled(&ticket).await?;
        shared.store.settled(&changed).await?;
        let positions = ticket.offsets.iter().map(|offset| offset.0);
        Ok(topics
            .iter()
            .map(|topic| topic.name.to_string())
            .zip(positions)
            .collect())
    }

    /// A session that messages may go through: it exists, the caller may use it, it is not banned.
    pub(super) fn usable_session(&self, name: &str, caller: &Caller) -> Result<Arc<Session>, SessionRefused> {
        let session = self.session(name, caller)?;
        if session.state.lock().settings.status == SessionStatus::Banned {
            return Err(SessionRefused::Banned(name.into()));
        }
        Ok(session)
    }

    /// A JSON session has ended: temporary API sessions bound to it are disconnected.
    pub fn login_ended(&self, login: u64) {
        self.0.login_ended(login);
    }
}

impl Caller {
    /// An API session shows the peer that used it last.
    fn note(&self, state: &mut SessionState) {
        state.address = self.peer.ip().to_canonical().to_string();
        state.port = self.peer.port();
    }
}

impl Shared {
    /// Queues the row of a session, if it is one that is stored.
    pub(super) fn put_session(session: &Session, state: &mut SessionState, commit: &mut Commit) {
        if state.is_stored() {
            state.has_rows = true;
            commit.put(
                rows::SESSION,
                &rows::key(session.id.0),
                &state.row(&session.name, session.kind).to_row(),
            );
        }
    }

    /// A message action names an API session: it is active, its timers begin anew (spec/sessions.md 2.2).
    pub(super) fn note_activity(&self, session: &Session, state: &mut SessionState, caller: Option<&Caller>) {
        if session.kind != SessionKind::MqApi {
            return;
        }
        if let Some(caller) = caller {
            caller.note(state);
            if state.settings.temporary {
                state.bound_to = Some(caller.login);
            }
        }
        state.last_activity = self.clock.now();
        if !state.settings.temporary {
            return;
        }
        if !state.active {
            state.active = true;
            state.connected = self.clock.wall_ms();
        }
        state.end_due = None;
        state.will_due = None;
        if state.settings.keep_alive_seconds > 0 {
            let span = Duration::from_secs(state.settings.keep_alive_seconds.min(u64::from(u32::MAX))) * 3 / 2;
            self.deadlines.at(state.last_activity + span, session.id);
        }
    }

    /// A message action wakes an inactive API session (spec/sessions.md 3).
    pub(super) fn activate(&self, session: &Session, state: &mut SessionState, commit: &mut Commit) {
        if session.kind == SessionKind::MqApi && state.settings.status == SessionStatus::Inactive {
            state.settings.status = SessionStatus::Normal;
            state.will_due = None;
            state.connected = self.clock.wall_ms();
            Self::put_session(session, state, commit);
        }
    }

    fn change_lifetime(
        &self,
        session: &Arc<Session>,
        state: &mut SessionState,
        temporary: bool,
        change: &SessionChange,
        caller: &Caller,
        commit: &mut Commit,
    ) {
        let expiry = change.session_expiry_seconds.map(Self::never);
        match (session.kind, temporary) {
            (SessionKind::MqApi, true) if !state.settings.temporary => {
                self.delete_rows(session, state, commit);
                state.settings.temporary = true;
                state.settings.clean_session = true;
                state.settings.session_expiry_seconds = expiry.unwrap_or(0);
                state.settings.keep_alive_seconds = change.keep_alive_seconds.unwrap_or(0);
                state.bound_to = Some(caller.login);
                state.active = true;
                Self::put_will(session, state, commit);
            }
            (SessionKind::MqApi, false) if state.settings.temporary => {
                state.settings.temporary = false;
                state.settings.clean_session = false;
                state.settings.keep_alive_seconds = 0;
                state.settings.session_expiry_seconds = NEVER_EXPIRES;
                state.bound_to = None;
                state.end_due = None;
            }
            (SessionKind::Mqtt, true) => {
                state.settings.session_expiry_seconds = expiry.unwrap_or(0);
                if state.link.is_none() {
                    let span = Duration::from_secs(state.settings.session_expiry_seconds);
                    if state.settings.session_expiry_seconds == 0 {
                        self.end_session(session, state, commit);
                    } else {
                        let due = self.due_in(span);
                        state.end_due = Some(due);
                        self.deadlines.at(due.at, session.id);
                    }
                }
            }
            (SessionKind::Mqtt, false) => {
                state.settings.temporary = false;
                state.settings.session_expiry_seconds = NEVER_EXPIRES;
                state.end_due = None;
            }
            (SessionKind::MqApi, _) => {}
        }
    }

    /// A kept record of an ended MQTT session goes when its status is normal again (spec/semantics.md 9).
    fn end_if_released(&self, session: &Arc<Session>, state: &mut SessionState, commit: &mut Commit) {
        let free = matches!(state.settings.status, SessionStatus::Normal | SessionStatus::Hidden);
        if free && !state.has_client_state() {
            self.end_session(session, state, commit);
        }
    }

    /// A temporary session became permanent: everything it has is stored from this commit on.
    pub(super) fn store_everything(&self, session: &Arc<Session>, state: &mut SessionState, commit: &mut Commit) {
        for subscription in state.subscriptions.all() {
            let key = rows::key_with(session.id.0, subscription.filter.as_str().as_bytes());
            commit.put(rows::SUBSCRIPTION, &key, &subscription.row().to_row());
        }
        state.position.stored_floor = Mark::START;
        super::delivery::persist(self, session, state, commit);
        state.totals_changed = true;
    }
}

fn apply_change(kind: SessionKind, state: &mut SessionState, change: &SessionChange) {
    fn set<T: Clone>(place: &mut T, value: Option<&T>) {
        if let Some(value) = value {
            *place = value.clone();
        }
    }
    let settings = &mut state.settings;
    set(&mut settings.status, change.status.as_ref());
    set(&mut settings.label, change.label.as_ref());
    set(&mut settings.metadata, change.metadata.as_ref());
    set(&mut settings.user_properties, change.user_properties.as_ref());
    set(&mut settings.payload_type, change.payload_type.as_ref());
    set(&mut settings.protocol, change.protocol.as_ref());
    set(&mut settings.receive_maximum, change.receive_maximum.as_ref());
    set(&mut settings.maximum_packet_size, change.maximum_packet_size.as_ref());
    set(&mut settings.topic_alias_maximum, change.topic_alias_maximum.as_ref());
    set(
        &mut settings.request_problem_information,
        change.request_problem_information.as_ref(),
    );
    set(
        &mut settings.request_response_information,
        change.request_response_information.as_ref(),
    );
    for (limit, changed) in settings.health_limits.iter_mut().zip(&change.health_limits) {
        set(limit, changed.as_ref());
    }
    // A permanent API session has neither (spec/sessions.md 2.1).
    if kind == SessionKind::Mqtt || settings.temporary {
        set(&mut settings.keep_alive_seconds, change.keep_alive_seconds.as_ref());
        if let Some(expiry) = change.session_expiry_seconds {
            settings.session_expiry_seconds = Shared::never(expiry);
        }
    }
    set(&mut state.will, change.will.as_ref());
}

fn view(session: &Session, state: &SessionState) -> SessionView {
    SessionView {
        client_name: session.name.to_string(),
        kind: session.kind,
        owner: state.owner.clone(),
        settings: state.settings.clone(),
        will: state.will.clone(),
        connection: state.connection_status(session.kind),
        protocol: state.protocol,
        address: state
            .link
            .as_ref()
            .map_or(state.address.clone(), |link| link.peer.ip().to_canonical().to_string()),
        port: state.port,
        connected: state.connected,
        disconnected: state.disconnected,
        disconnect_reason: state.disconnect_reason.clone(),
        totals: state.totals,
        filter_count: state.subscriptions.len(),
    }
}

/// `mqapi-` and 32 hexadecimal digits (spec/sessions.md 1.2).
fn generated_name() -> Result<String, SessionRefused> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| SessionRefused::Store(crate::store::Error::Io(error.to_string()).into()))?;
    Ok(format!("mqapi-{:032x}", u128::from_le_bytes(random)))
}
