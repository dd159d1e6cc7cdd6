//! The broker core: topics, sessions, subscriptions, positions. Frontends hold a [`Broker`]; it holds a store.
//!
//! It knows neither packets nor JSON nor files.
//!
//! ```text
//!   frontend -> Broker -> { publish, connection, retrieval, sessions } -> store
//!                             ^ wakes                                       | feed
//!                             +------------- dispatcher <-------------------+
//! ```
//!
//! **Lock order**: session table, session state, session queue, share group, topic, subscription tree, what the store
//! locks. No lock is held over an await or a system call.

pub mod account;
pub mod connection;
pub mod delivery;
pub mod error;
pub mod label;
pub mod login;
pub mod message;
pub mod position;
pub mod rows;
pub mod session;
pub mod session_table;
pub mod shared_group;
pub mod statistics;
pub mod subscription;
pub mod subscription_tree;
pub mod table_name;
pub mod topic;
pub mod topic_filter;
pub mod topic_name;
pub mod will;

mod acknowledge_token;
mod deadlines;
mod dispatcher;
mod fold;
mod gauges;
mod inflight;
mod lifetime;
mod mq_session;
#[cfg(any(test, feature = "testing"))]
pub mod probe;
mod publish;
mod retrieval;
mod shared_retrieval;
mod subscribe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

pub use gauges::Gauges;
pub use mq_session::{Caller, CreateSession, SessionChange, SessionView, SubscribeAction, SubscriptionView};
pub use retrieval::{Fetch, Fetched, FetchedMessage, History, HistoryPage, StartFrom};

use crate::clock::Clock;
use crate::store::{Class, FeedItem, Mark, Store, WaiterId};
use deadlines::Deadlines;
use dispatcher::Dispatcher;
use error::{OpenError, StoreFailed};
use rows::StoredRow;
use rows::session::{SecretRow, StartedRow, WillRow};
use session::{Closing, Session, SessionId, Signal};
use session_table::SessionTable;
use shared_group::GroupTable;
use subscription_tree::SubscriptionTree;
use topic::TopicTable;

/// What a broker is told at its start.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// Unacknowledged `QoS` 1 and 2 messages per session and topic, 1 to 65,535.
    pub inflight_count_max: usize,
    /// Coalesced positions are written after so many messages,
    pub position_commit_count: usize,
    /// or after this time.
    pub position_commit_interval: Duration,
    /// Incarnation of the store's data, greater than any before.
    pub incarnation: u64,
    /// How many logins there may be at once.
    pub login_limits: login::LoginLimits,
    /// When the previous incarnation stopped in order, ms since 1970; `None` after a crash or at the first start.
    pub previous_clean_stop: Option<i64>,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            inflight_count_max: 1_000,
            position_commit_count: 100,
            position_commit_interval: Duration::from_secs(1),
            incarnation: 1,
            login_limits: login::LoginLimits::default(),
            previous_clean_stop: None,
        }
    }
}

/// What the handles share.
pub(crate) struct Shared {
    store: Arc<dyn Store>,
    clock: Clock,
    settings: BrokerSettings,
    topics: TopicTable,
    tree: SubscriptionTree,
    sessions: SessionTable,
    groups: GroupTable,
    deadlines: Deadlines,
    dispatched: AtomicU64,
    joining: Mutex<Vec<Arc<Session>>>,
    join_asked: Notify,
    waiters: Mutex<FxHashMap<u64, Arc<Signal>>>,
    next_waiter: AtomicU64,
    failed: Notify,
    starts: Mutex<BTreeMap<u64, (StartedRow, Mark)>>,
    stored_wills: Mutex<HashMap<SessionId, WillRow>>,
    secret: Mutex<Option<[u8; 32]>>,
    accounts: Arc<account::Accounts>,
    logins: Arc<login::Logins>,
    labels: Arc<label::Labels>,
}

/// The handle frontends hold; clones share one broker.
#[derive(Clone)]
pub struct Broker(pub(crate) Arc<Shared>);

impl Broker {
    /// Rebuilds everything from the store and begins to serve: routing is complete when this returns.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub async fn open(store: Arc<dyn Store>, clock: Clock, settings: BrokerSettings) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared {
            accounts: Arc::new(account::Accounts::new(Arc::clone(&store), clock.clone())),
            logins: Arc::new(login::Logins::new(
                Arc::clone(&store),
                clock.clone(),
                settings.login_limits,
            )),
            labels: Arc::new(label::Labels::new(Arc::clone(&store))),
            store,
            clock,
            topics: TopicTable::default(),
            tree: SubscriptionTree::default(),
            sessions: SessionTable::default(),
            groups: GroupTable::default(),
            deadlines: Deadlines::default(),
            dispatched: AtomicU64::new(0),
            joining: Mutex::default(),
            join_asked: Notify::new(),
            waiters: Mutex::default(),
            next_waiter: AtomicU64::new(1),
            failed: Notify::new(),
            starts: Mutex::default(),
            stored_wills: Mutex::default(),
            secret: Mutex::default(),
            settings,
        });
        shared.store.logs(&mut |log, name, _| shared.apply_topic(log, name));
        shared.load_rows()?;
        let mut feed = shared.store.feed();
        loop {
            match feed.next().await {
                FeedItem::Batch(batch) => {
                    for entry in &batch.entries {
                        shared.apply(&batch, entry, fold::Origin::Start);
                    }
                    shared.set_dispatched(batch.end);
                }
                FeedItem::Early(_) => {}
                FeedItem::CaughtUp => break,
                FeedItem::Latched(cause) => return Err(StoreFailed::Lost(crate::store::Error::Io(cause)).into()),
                FeedItem::Closed => return Err(StoreFailed::Lost(crate::store::Error::Io("closed".into())).into()),
            }
        }
        shared.set_dispatched(shared.store.mark());
        let broker = Self(Arc::clone(&shared));
        let held = Arc::downgrade(&shared);
        shared.logins.on_end(move |login| {
            if let Some(shared) = held.upgrade() {
                shared.login_ended(login.0);
            }
        });
        tokio::spawn(login::watch_idle(Arc::clone(&shared.logins), shared.clock.clone()));
        tokio::spawn(Dispatcher::new(Arc::clone(&shared)).run(feed));
        shared.start().await?;
        tokio::spawn(lifetime::watch_deadlines(Arc::clone(&shared)));
        tokio::spawn(lifetime::write_totals(shared));
        Ok(broker)
    }

    /// Returns when the store has failed: the process must end then.
    pub async fn failed(&self) {
        self.0.failed.notified().await;
    }

    /// Whether the store takes commits.
    pub fn store_state(&self) -> crate::store::StoreState {
        self.0.store.state()
    }

    /// Accounts.
    pub fn accounts(&self) -> &Arc<account::Accounts> {
        &self.0.accounts
    }

    /// Logins.
    pub fn logins(&self) -> &Arc<login::Logins> {
        &self.0.logins
    }

    /// Labels.
    pub fn labels(&self) -> &Arc<label::Labels> {
        &self.0.labels
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Sessions, topics, retained messages: for the start-up line.
    pub fn counts(&self) -> (usize, usize, usize) {
        (
            self.0.sessions.len(),
            self.0.topics.len(),
            self.0.topics.retained_count(),
        )
    }

    /// Asks whoever serves a connection to end it, and tells why.
    pub fn close_connections(&self, reason: Closing) {
        self.0.close_connections(reason);
    }

    /// Ends all connections and writes what is not written yet.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn stop(&self) -> Result<(), StoreFailed> {
        self.0.close_connections(Closing::ShuttingDown);
        for session in self.0.sessions.list("") {
            let mut commit = self.0.store.begin(Class::C);
            let mut state = session.state.lock();
            session.settle_floor(&self.0, &mut state);
            delivery::persist(&self.0, &session, &mut state, &mut commit);
            lifetime::put_totals(&session, &mut state, &mut commit);
            if !commit.is_empty() {
                // Under the lock: what the session writes after this stands behind it.
                state.last_write = self.0.store.commit(commit)?;
            }
        }
        let mut commit = self.0.store.begin(Class::C);
        self.0.groups.persist(&self.0, &mut commit);
        self.0.store.commit(commit)?;
        let ticket = self.0.store.sync();
        self.0.store.settled(&ticket).await?;
        Ok(())
    }
}

impl Shared {
    fn load_rows(&self) -> Result<(), OpenError> {
        // Sessions first: the other rows belong to them.
        for wanted in [true, false] {
            self.store
                .load(&mut |table, key, row| {
                    if (table == rows::SESSION) == wanted {
                        self.apply_row(table, key, Some(&row.bytes), row.mark, fold::Origin::Start);
                    }
                })
                .map_err(StoreFailed::from)?;
        }
        Ok(())
    }

    /// The first writes of an incarnation, and what the crash or stop before it has left to do.
    async fn start(&self) -> Result<(), StoreFailed> {
        let incarnation = self.settings.incarnation;
        self.sessions.begin(incarnation);
        let mut commit = self.store.begin(Class::C);
        let now = self.clock.wall_ms();
        let row = StartedRow {
            time: now,
            previous_clean_stop: self.settings.previous_clean_stop,
        };
        commit.put(rows::STARTED, &rows::key(incarnation), &row.to_row());
        if self.secret.lock().is_none() {
            let mut key = [0; 32];
            getrandom::fill(&mut key).map_err(|error| StoreFailed::Lost(crate::store::Error::Io(error.to_string())))?;
            commit.put(rows::SECRET, &[], &SecretRow { key }.to_row());
            *self.secret.lock() = Some(key);
        }
        let ticket = self.store.commit(commit)?;
        self.store.settled(&ticket).await?;
        let started = self.dispatched();
        self.starts.lock().insert(incarnation, (row, started));
        self.resume_sessions();
        Ok(())
    }

    pub(crate) fn dispatched(&self) -> Mark {
        Mark::from_bytes(self.dispatched.load(Ordering::Acquire).to_le_bytes())
    }

    fn set_dispatched(&self, mark: Mark) {
        self.dispatched
            .store(u64::from_le_bytes(mark.to_bytes()), Ordering::Release);
    }

    fn ask_to_join(&self, session: &Arc<Session>) {
        self.joining.lock().push(Arc::clone(session));
        self.join_asked.notify_one();
    }

    fn take_joining(&self) -> Vec<Arc<Session>> {
        std::mem::take(&mut self.joining.lock())
    }

    /// Who can be woken by the feed.
    fn add_waiter(&self, signal: &Arc<Signal>) -> WaiterId {
        let id = self.next_waiter.fetch_add(1, Ordering::Relaxed);
        self.waiters.lock().insert(id, Arc::clone(signal));
        WaiterId(id)
    }

    fn remove_waiter(&self, waiter: WaiterId) {
        self.waiters.lock().remove(&waiter.0);
    }

    fn wake_waiter(&self, waiter: WaiterId) {
        if let Some(signal) = self.waiters.lock().get(&waiter.0) {
            signal.wake();
        }
    }

    fn close_connections(&self, reason: Closing) {
        for signal in self.waiters.lock().values() {
            signal.close(reason);
        }
    }
}
