//! A session: MQTT or MQ API, permanent or temporary. What it is, what it has, whether it is connected.
//!
//! **Invariants**
//! - The epoch rises with every change of connection; whoever acts for a connection holds its epoch and does nothing
//!   when it is no longer the session's.
//! - `queue` is locked after `state`, never before; the dispatcher takes `state` only for changes of subscriptions.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::delivery::{Chunk, LiveQueue, Step};
use super::inflight::Inflight;
use super::position::Position;
use super::rows::session::{PublishedTopicsRow, SessionRow, TotalsRow};
use super::shared_retrieval::Leased;
use super::statistics::Rate;
use super::subscription::{Subscription, SubscriptionOptions, TopicMatch};
use super::topic::Topic;
use super::topic_filter::TopicFilter;
use super::will::Will;
use crate::store::{LogId, Mark, Offset, Ticket};

/// The number of a session; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// `sessionExpiryInterval` of a session that never expires.
pub const NEVER_EXPIRES: u64 = 1 << 32;

/// Which side made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SessionKind {
    /// An MQTT CONNECT.
    Mqtt,
    /// `createMqApiSession`.
    MqApi,
}

/// Protocol version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Protocol {
    /// MQTT 3.1.
    V31,
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// `sessionStatus` (spec/sessions.md 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub enum SessionStatus {
    /// No restriction.
    #[default]
    Normal,
    /// Left out of lists.
    Hidden,
    /// Nobody can connect to it.
    Banned,
    /// Unused until somebody uses it again.
    Inactive,
}

/// `connectionStatus` (spec/sessions.md 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionStatus {
    /// No connection.
    Disconnected,
    /// Connected, and it stays.
    Connected,
    /// Connected, and it ends with its connection.
    ConnectedTemporarily,
}

/// Settings that both frontends see; times in seconds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionSettings {
    /// As the caller or client gave it.
    pub clean_session: bool,
    /// It ends with its connection, or with the JSON session it is bound to.
    pub temporary: bool,
    /// See [`SessionStatus`].
    pub status: SessionStatus,
    /// What it claims to speak.
    pub protocol: Protocol,
    /// 0 is none.
    pub keep_alive_seconds: u64,
    /// [`NEVER_EXPIRES`] is for ever.
    pub session_expiry_seconds: u64,
    /// Default payload type of what is published through it.
    pub payload_type: String,
    /// 1 to 65,535.
    pub receive_maximum: u16,
    /// Bytes.
    pub maximum_packet_size: u32,
    /// 0 to 65,535.
    pub topic_alias_maximum: u16,
    /// Stored.
    pub request_problem_information: bool,
    /// Stored.
    pub request_response_information: bool,
    /// In order.
    pub user_properties: Vec<(String, String)>,
    /// The label's id.
    pub label: Option<u32>,
    /// A JSON object, verbatim.
    pub metadata: String,
    /// min and max send rate, max backlog rate, min and max filter count; 0 is off.
    pub health_limits: [u64; 5],
    /// `defaultBinaryFormat`, `defaultVariantFormat`, then binary, variant, data and number format of
    /// `defaultResponseOptions`.
    pub default_formats: [String; 6],
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            clean_session: false,
            temporary: false,
            status: SessionStatus::Normal,
            protocol: Protocol::V5,
            keep_alive_seconds: 0,
            session_expiry_seconds: NEVER_EXPIRES,
            payload_type: "binary".into(),
            receive_maximum: 1024,
            maximum_packet_size: 1024,
            topic_alias_maximum: 0,
            request_problem_information: true,
            request_response_information: false,
            user_properties: Vec::new(),
            label: None,
            metadata: "{}".into(),
            health_limits: [0; 5],
            default_formats: ["hex", "json", "hex", "json", "objects", "number"].map(Into::into),
        }
    }
}

/// Why a connection must end, told to the task that serves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closing {
    /// Another connection has the session now. v5 0x8E.
    TakenOver,
    /// An administrator ended it. v5 0x98.
    Administrative,
    /// Its account is gone. v5 0x87.
    NotAuthorized,
    /// Keep-alive ran out. v5 0x8D.
    KeepAlive,
    /// The server stops. v5 0x8B.
    ShuttingDown,
    /// The store has failed. v5 0x83; nothing is acknowledged any more.
    StoreFailed,
}

/// Wakes the task that serves a session.
#[derive(Default)]
pub struct Signal {
    notify: Notify,
    closing: Mutex<Option<Closing>>,
}

impl Signal {
    /// Wakes the task, now or when it next waits.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits for a wake.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Tells the task to end; the first reason stays.
    pub fn close(&self, reason: Closing) {
        self.closing.lock().get_or_insert(reason);
        self.wake();
    }

    /// Why it must end, if it must.
    pub fn closing(&self) -> Option<Closing> {
        *self.closing.lock()
    }
}

/// One session.
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// Its client name.
    pub name: Arc<str>,
    /// Which side made it.
    pub kind: SessionKind,
    pub(super) queue: Mutex<LiveQueue>,
    pub(super) state: Mutex<SessionState>,
    /// Retrievals over HTTP are served one after the other.
    pub(super) retrieval: tokio::sync::Mutex<()>,
}

/// Where a session's connection stands.
pub(super) struct Link {
    pub(super) signal: Arc<Signal>,
    pub(super) peer: SocketAddr,
    pub(super) receive_maximum: usize,
    /// `QoS` 1 and 2 messages sent on this connection and not completed.
    pub(super) outstanding: usize,
    /// Ids to be sent again before anything new.
    pub(super) resend: VecDeque<u16>,
}

/// Early messages (`QoS` 0, not durable yet) that were handed out: not to be read again from the log.
#[derive(Default)]
pub(super) struct EarlyHanded {
    pub(super) next: Vec<(LogId, Offset)>,
    /// Behind all early messages that were seen.
    pub(super) until: Mark,
    /// Topics whose early messages were not handed out, because older ones wait behind the floor.
    pub(super) passed_over: FxHashSet<LogId>,
}

/// The subscriptions of a session, by kind.
#[derive(Default)]
pub(super) struct Subscriptions {
    pub(super) exact: AHashMap<Box<str>, Subscription>,
    pub(super) wildcard: Vec<Subscription>,
    pub(super) shared: Vec<Subscription>,
    matches: FxHashMap<LogId, Arc<TopicMatch>>,
    last: Option<(LogId, Arc<TopicMatch>)>,
}

/// Cached matches per session.
const MATCHES_MAX: usize = 4_096;

impl Subscriptions {
    pub(super) fn get(&self, filter: &TopicFilter) -> Option<&Subscription> {
        if filter.is_shared() {
            self.shared.iter().find(|held| held.filter == *filter)
        } else if filter.is_wildcard() {
            self.wildcard.iter().find(|held| held.filter == *filter)
        } else {
            self.exact.get(filter.as_str())
        }
    }

    pub(super) fn get_mut(&mut self, filter: &TopicFilter) -> Option<&mut Subscription> {
        if filter.is_shared() {
            self.shared.iter_mut().find(|held| held.filter == *filter)
        } else if filter.is_wildcard() {
            self.wildcard.iter_mut().find(|held| held.filter == *filter)
        } else {
            self.exact.get_mut(filter.as_str())
        }
    }

    pub(super) fn put(&mut self, subscription: Subscription) {
        self.forget_matches();
        if let Some(held) = self.get_mut(&subscription.filter) {
            *held = subscription;
        } else if subscription.filter.is_shared() {
            self.shared.push(subscription);
        } else if subscription.filter.is_wildcard() {
            self.wildcard.push(subscription);
        } else {
            self.exact.insert(subscription.filter.as_str().into(), subscription);
        }
    }

    /// Gives a subscription other options.
    pub(super) fn replace(&mut self, filter: &TopicFilter, options: SubscriptionOptions) -> Option<&mut Subscription> {
        self.forget_matches();
        let held = self.get_mut(filter)?;
        held.options = options;
        Some(held)
    }

    pub(super) fn remove(&mut self, filter: &TopicFilter) -> Option<Subscription> {
        self.forget_matches();
        let take = |list: &mut Vec<Subscription>| {
            let place = list.iter().position(|held| held.filter == *filter)?;
            Some(list.remove(place))
        };
        if filter.is_shared() {
            take(&mut self.shared)
        } else if filter.is_wildcard() {
            take(&mut self.wildcard)
        } else {
            self.exact.remove(filter.as_str())
        }
    }

    fn forget_matches(&mut self) {
        self.matches.clear();
        self.last = None;
    }

    pub(super) fn ordinary(&self) -> impl Iterator<Item = &Subscription> {
        self.exact.values().chain(&self.wildcard)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Subscription> {
        self.ordinary().chain(&self.shared)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Subscription> {
        self.exact
            .values_mut()
            .chain(&mut self.wildcard)
            .chain(&mut self.shared)
    }

    pub(super) fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len() + self.shared.len()
    }

    pub(super) fn clear(&mut self) -> Vec<Subscription> {
        self.forget_matches();
        let mut all: Vec<_> = self.exact.drain().map(|(_, subscription)| subscription).collect();
        all.append(&mut self.wildcard);
        all.append(&mut self.shared);
        all
    }

    /// The ordinary subscriptions that match a topic.
    pub(super) fn of_topic(&mut self, topic: &Topic) -> Arc<TopicMatch> {
        if let Some((log, matched)) = &self.last
            && *log == topic.log
        {
            return Arc::clone(matched);
        }
        let matched = if let Some(matched) = self.matches.get(&topic.log) {
            Arc::clone(matched)
        } else {
            let exact = self.exact.get(&*topic.name).into_iter();
            let wildcard = self.wildcard.iter().filter(|held| held.filter.matches(&topic.name));
            let matched = Arc::new(TopicMatch::new(exact.chain(wildcard)));
            if self.matches.len() >= MATCHES_MAX {
                self.matches.clear();
            }
            self.matches.insert(topic.log, Arc::clone(&matched));
            matched
        };
        self.last = Some((topic.log, Arc::clone(&matched)));
        matched
    }
}

/// What changes in the life of a session.
pub(super) struct SessionState {
    pub(super) settings: SessionSettings,
    pub(super) owner: String,
    pub(super) generation: u32,
    pub(super) epoch: u64,
    pub(super) connected_in: u64,
    pub(super) subscriptions: Subscriptions,
    pub(super) position: Position,
    pub(super) inflight: Inflight,
    /// Packet ids of received `QoS` 2 messages whose release is due.
    pub(super) inbound: FxHashSet<u16>,
    pub(super) link: Option<Link>,
    /// The JSON session a temporary MQ API session is bound to.
    pub(super) bound_to: Option<u64>,
    /// A temporary MQ API session in use (spec/sessions.md 2.2).
    pub(super) active: bool,
    pub(super) last_activity: Duration,
    pub(super) will: Option<Will>,
    pub(super) will_stored: bool,
    pub(super) will_due: Option<Due>,
    pub(super) end_due: Option<Due>,
    pub(super) pending: VecDeque<Chunk>,
    pub(super) step: Option<Step>,
    pub(super) early: EarlyHanded,
    /// Messages of topics that only `QoS` 0 filters cover do not wait: those before this mark are passed over.
    pub(super) connect_mark: Mark,
    /// Messages before this mark were under way at a crash: deliveries with `QoS` 0 are passed over, those with `QoS` 1
    /// have DUP.
    pub(super) under_way_until: Mark,
    pub(super) unsaved: usize,
    pub(super) last_saved: Duration,
    /// The store may have rows of it.
    pub(super) has_rows: bool,
    /// A take-over must not answer before what the old connection wrote is durable.
    pub(super) last_write: Ticket,
    pub(super) protocol: Protocol,
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) created: i64,
    pub(super) connected: i64,
    pub(super) disconnected: Option<i64>,
    pub(super) disconnect_reason: String,
    pub(super) totals: TotalsRow,
    pub(super) totals_changed: bool,
    pub(super) published_rate: Rate,
    pub(super) received_rate: Rate,
    pub(super) published_topics: PublishedTopicsRow,
    /// It is gone from the table.
    pub(super) ended: bool,
    /// HTTP retrievals that wait for a message; the first is woken.
    pub(super) waiting: Vec<Arc<Signal>>,
    /// A subscription may have retained messages due.
    pub(super) retained_due: bool,
    /// Packet ids of messages taken from share groups.
    pub(super) group_ids: FxHashMap<u16, TopicFilter>,
    /// What a manual retrieval handed out last, for the mark `redelivered`: up to where, by topic.
    pub(super) manual: FxHashMap<LogId, Offset>,
    /// Messages of share groups that manual retrievals were given, and until when.
    pub(super) leased: Vec<Leased>,
    pub(super) lease_until: Duration,
    /// Retained messages served ahead of their subscription's cursor, with the mark that made them due, and which of
    /// them the store does not know.
    pub(super) retained_served: BTreeMap<(TopicFilter, LogId), Mark>,
    pub(super) retained_served_changed: Vec<(TopicFilter, LogId)>,
}

/// Something that happens at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Due {
    /// On the monotonic clock.
    pub(super) at: Duration,
    /// On the wall clock, ms since 1970 UTC, as it is stored.
    pub(super) wall_ms: i64,
}

impl Session {
    pub(super) fn new(id: SessionId, name: Arc<str>, kind: SessionKind, floor: Mark, now_ms: i64) -> Self {
        let mut position = Position::default();
        position.reset(floor);
        // Its floor is not stored yet.
        position.stored_floor = Mark::START;
        Self {
            id,
            name,
            kind,
            queue: Mutex::default(),
            retrieval: tokio::sync::Mutex::new(()),
            state: Mutex::new(SessionState {
                settings: SessionSettings::default(),
                owner: String::new(),
                generation: 0,
                epoch: 0,
                connected_in: 0,
                subscriptions: Subscriptions::default(),
                position,
                inflight: Inflight::default(),
                inbound: FxHashSet::default(),
                link: None,
                bound_to: None,
                active: false,
                last_activity: Duration::ZERO,
                will: None,
                will_stored: false,
                will_due: None,
                end_due: None,
                pending: VecDeque::new(),
                step: None,
                early: EarlyHanded::default(),
                connect_mark: Mark::START,
                under_way_until: Mark::START,
                unsaved: 0,
                last_saved: Duration::ZERO,
                has_rows: false,
                last_write: Ticket::default(),
                protocol: Protocol::V5,
                address: String::new(),
                port: 0,
                created: now_ms,
                connected: now_ms,
                disconnected: None,
                disconnect_reason: String::new(),
                totals: TotalsRow::default(),
                totals_changed: false,
                published_rate: Rate::default(),
                received_rate: Rate::default(),
                published_topics: PublishedTopicsRow::default(),
                ended: false,
                waiting: Vec::new(),
                retained_due: false,
                group_ids: FxHashMap::default(),
                manual: FxHashMap::default(),
                leased: Vec::new(),
                lease_until: Duration::ZERO,
                retained_served: BTreeMap::new(),
                retained_served_changed: Vec::new(),
            }),
        }
    }
}

impl SessionState {
    /// What is retained of a topic was served for a subscription before its cursor came there.
    pub(super) fn serve_ahead(&mut self, filter: &TopicFilter, log: LogId, due: Mark) {
        self.retained_served.insert((filter.clone(), log), due);
        self.retained_served_changed.push((filter.clone(), log));
    }

    /// A subscription has nothing due any more: what was served ahead is forgotten.
    pub(super) fn forget_served(&mut self, filter: &TopicFilter) {
        let served: Vec<_> = self
            .retained_served
            .keys()
            .filter(|(held, _)| held == filter)
            .cloned()
            .collect();
        for one in served {
            self.retained_served.remove(&one);
            self.retained_served_changed.push(one);
        }
    }

    /// Whether it survives a restart.
    pub(super) fn is_stored(&self) -> bool {
        !self.settings.temporary
    }

    pub(super) fn row(&self, name: &str, kind: SessionKind) -> SessionRow {
        SessionRow {
            client_name: name.into(),
            kind,
            owner: self.owner.clone(),
            generation: self.generation,
            epoch: self.epoch,
            connected_in: self.connected_in,
            settings: self.settings.clone(),
            protocol: self.protocol,
            address: self.address.clone(),
            port: self.port,
            created: self.created,
            connected: self.connected,
            disconnected: self.disconnected,
            disconnect_reason: self.disconnect_reason.clone(),
            will_due: self.will_due.map(|due| due.wall_ms),
        }
    }

    pub(super) fn restore(&mut self, row: SessionRow) {
        self.has_rows = true;
        self.owner = row.owner;
        self.generation = row.generation;
        self.epoch = row.epoch;
        self.connected_in = row.connected_in;
        self.settings = row.settings;
        self.protocol = row.protocol;
        self.address = row.address;
        self.port = row.port;
        self.created = row.created;
        self.connected = row.connected;
        self.disconnected = row.disconnected;
        self.disconnect_reason = row.disconnect_reason;
        self.will_due = row.will_due.map(|wall_ms| Due {
            at: Duration::ZERO,
            wall_ms,
        });
    }

    /// `connectionStatus` (spec/sessions.md 4).
    pub(super) fn connection_status(&self, kind: SessionKind) -> ConnectionStatus {
        let connected = match kind {
            SessionKind::Mqtt => self.link.is_some(),
            SessionKind::MqApi => {
                matches!(self.settings.status, SessionStatus::Normal | SessionStatus::Hidden)
                    && (!self.settings.temporary || self.active)
            }
        };
        match (connected, self.settings.temporary) {
            (false, _) => ConnectionStatus::Disconnected,
            (true, false) => ConnectionStatus::Connected,
            (true, true) => ConnectionStatus::ConnectedTemporarily,
        }
    }
}
