//! The broker's behavior through its handle, over the reference store and a clock that stands still: what clients see,
//! also across restarts and crashes.
//!
//! Nothing sleeps. A [`Client`] waits for its signal until what the test asks for is there, and [`Client::quiet`]
//! brings it to where nothing is left to do.

#![expect(
    clippy::duration_suboptimal_units,
    clippy::manual_assert,
    clippy::match_same_arms,
    clippy::single_match_else,
    reason = "tests read like the specification they hold: seconds, and an arm per class"
)]

mod delivery;
mod expiry;
mod many;
mod qos1;
mod qos2;
mod restart;
mod retained;
mod retrieval;
mod shared;
mod take_over;
mod wills;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::connection::{Connect, Connection, Ending, PublishOutcome, Reply, SubscribeRefused};
use super::delivery::{DeliverySink, Mode};
use super::message::{Delivery, PayloadType, Publish, Qos};
use super::mq_session::{Caller, CreateSession, SessionChange, SubscribeAction};
use super::session::{NEVER_EXPIRES, Protocol, Session, SessionSettings, SessionStatus};
use super::subscription::{RetainHandling, SubscriptionOptions};
use super::topic_filter::TopicFilter;
use super::will::Will;
use super::{Broker, BrokerSettings, Fetch, Fetched};
use crate::clock::Clock;
use crate::store::memory::MemoryStore;
use crate::store::{Store, Ticket};

pub(super) const QOS0: Qos = Qos::AtMostOnce;
pub(super) const QOS1: Qos = Qos::AtLeastOnce;
pub(super) const QOS2: Qos = Qos::ExactlyOnce;

/// Longer than anything takes that is not a bug.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker, its store and its clock.
struct World {
    clock: Clock,
    store: Arc<MemoryStore>,
    broker: Broker,
    settings: BrokerSettings,
}

impl World {
    async fn new() -> Self {
        Self::with(BrokerSettings::default()).await
    }

    async fn with(settings: BrokerSettings) -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        let store = MemoryStore::new(clock.clone());
        let broker = Broker::open(store.clone(), clock.clone(), settings.clone())
            .await
            .unwrap();
        Self {
            clock,
            store,
            broker,
            settings,
        }
    }

    /// What the next start finds when everything that was not durable is lost.
    async fn crash(&mut self) {
        self.restart(false, Duration::ZERO).await;
    }

    async fn stop_and_start(&mut self) {
        self.restart(true, Duration::ZERO).await;
    }

    async fn restart(&mut self, clean: bool, down: Duration) {
        self.settings.incarnation += 1;
        self.settings.previous_clean_stop = None;
        if clean {
            self.broker.stop().await.unwrap();
            self.settings.previous_clean_stop = Some(self.clock.wall_ms());
        }
        self.store = self.store.restart(clean);
        self.clock.advance(down);
        self.broker = Broker::open(self.store.clone(), self.clock.clone(), self.settings.clone())
            .await
            .unwrap();
    }

    /// Everything handed over is durable and dispatched.
    async fn settled(&self) {
        let ticket = self.store.sync();
        self.store.settled(&ticket).await.unwrap();
    }

    /// A v5 client whose session never expires.
    async fn connect(&self, name: &str) -> Client {
        self.connect_with(connect(name)).await.0
    }

    async fn connect_with(&self, connect: Connect) -> (Client, bool) {
        let name = connect.client_name.clone();
        let (connection, present) = self.broker.connect(connect).await.unwrap();
        let session = self.broker.0.sessions.get(&name).unwrap();
        let client = Client {
            store: self.store.clone(),
            session,
            connection,
            got: VecDeque::new(),
            staged: None,
            replies: VecDeque::new(),
            next_id: 0,
            acks: true,
            released: Vec::new(),
        };
        (client, present)
    }

    /// A session over HTTP.
    async fn api_session(&self, name: &str) {
        self.api_session_with(name, SessionSettings::default()).await;
    }

    async fn api_session_with(&self, name: &str, settings: SessionSettings) {
        let create = CreateSession {
            client_name: name.into(),
            settings,
            will: None,
        };
        self.broker.create_session(create, &caller()).await.unwrap();
    }

    async fn api_subscribe(&self, name: &str, filter: &str) {
        let action = SubscribeAction::Add(TopicFilter::parse(filter).unwrap(), options(QOS2));
        self.broker.subscribe(name, vec![action], &caller()).await.unwrap();
    }

    async fn fetch(&self, name: &str, messages_max: usize) -> Fetched {
        self.broker.fetch(&fetch(name, messages_max), &caller()).await.unwrap()
    }

    /// Moves the clock, and lets what is due happen.
    async fn advance(&self, span: Duration) {
        self.clock.advance(span);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.settled().await;
    }
}

fn caller() -> Caller {
    Caller {
        account: "ADMIN".into(),
        administrator: true,
        login: 1,
        peer: SocketAddr::from(([127, 0, 0, 1], 9)),
    }
}

fn fetch(name: &str, messages_max: usize) -> Fetch {
    Fetch {
        client_name: name.into(),
        topic: None,
        messages_max,
        wait: Duration::ZERO,
        manual: None,
        acknowledge_token: None,
    }
}

fn texts(fetched: &Fetched) -> Vec<String> {
    let text = |message: &super::FetchedMessage| {
        let record = message.record().unwrap();
        String::from_utf8(record.payload.to_vec()).unwrap()
    };
    fetched.messages.iter().map(text).collect()
}

fn connect(name: &str) -> Connect {
    Connect {
        client_name: name.into(),
        account: String::new(),
        administrator: false,
        protocol: Protocol::V5,
        clean_start: false,
        session_expiry_seconds: NEVER_EXPIRES,
        keep_alive_seconds: 0,
        receive_maximum: 65_535,
        maximum_packet_size: u32::MAX,
        topic_alias_maximum: 0,
        request_problem_information: true,
        request_response_information: false,
        user_properties: Vec::new(),
        will: None,
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
    }
}

fn will(topic: &str, delay_seconds: u64) -> Will {
    Will {
        topic: topic.into(),
        qos: QOS1,
        retain: false,
        payload: b"gone".to_vec(),
        payload_utf8: false,
        payload_type: PayloadType::Binary,
        extras: Vec::new(),
        properties: Vec::new(),
        expiry_seconds: None,
        delay_seconds,
        api_json: String::new(),
    }
}

fn options(qos: Qos) -> SubscriptionOptions {
    SubscriptionOptions {
        qos,
        ..SubscriptionOptions::default()
    }
}

fn message(qos: Qos, payload: &[u8]) -> Publish<'_> {
    Publish {
        qos,
        retain: false,
        payload_utf8: false,
        expiry: None,
        payload_type: PayloadType::Binary,
        properties: &[],
        extras: &[],
        payload,
    }
}

/// A message as a client has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    topic: String,
    text: String,
    position: u64,
    qos: Qos,
    id: Option<u16>,
    dup: bool,
    retain: bool,
    left: Option<u32>,
    identifiers: Vec<u32>,
}

enum Sent {
    Message(Got),
    Release(u16),
}

#[derive(Default)]
struct Collector(Vec<Sent>);

impl DeliverySink for Collector {
    fn deliver(&mut self, delivery: &Delivery<'_>) -> bool {
        self.0.push(Sent::Message(Got {
            topic: delivery.topic.into(),
            text: String::from_utf8_lossy(delivery.record.payload).into_owned(),
            position: delivery.position,
            qos: delivery.qos,
            id: delivery.packet_id,
            dup: delivery.dup,
            retain: delivery.retain,
            left: delivery.expiry_left,
            identifiers: delivery.subscription_ids.to_vec(),
        }));
        true
    }

    fn release(&mut self, packet_id: u16) {
        self.0.push(Sent::Release(packet_id));
    }

    fn is_full(&self) -> bool {
        self.0.len() >= 100
    }
}

/// An MQTT client with its connection.
struct Client {
    store: Arc<MemoryStore>,
    session: Arc<Session>,
    connection: Connection,
    got: VecDeque<Got>,
    staged: Option<(Ticket, Vec<Sent>)>,
    replies: VecDeque<Reply>,
    next_id: u16,
    /// Acknowledges everything at once.
    acks: bool,
    released: Vec<u16>,
}

impl Client {
    /// Takes what is there. `true`: something happened.
    async fn pump(&mut self) -> bool {
        let mut happened = false;
        self.connection.flush();
        while let Some(replies) = self.connection.next_replies() {
            happened = true;
            for reply in replies {
                match reply {
                    Reply::Pubrel(id, true) => self.release(id),
                    reply => self.replies.push_back(reply),
                }
            }
        }
        if let Some((ticket, _)) = &self.staged {
            if !self.connection.settled(ticket).unwrap() {
                return happened;
            }
            let (_, sent) = self.staged.take().unwrap();
            self.take(sent);
            happened = true;
        }
        let mut sink = Collector::default();
        let pulled = self.connection.pull(&mut sink).await;
        happened |= pulled.more;
        if pulled.lost {
            return happened;
        }
        match pulled.ticket {
            Some(ticket) => self.staged = Some((ticket, sink.0)),
            None => {
                happened |= !sink.0.is_empty();
                self.take(sink.0);
            }
        }
        self.connection.flush();
        happened
    }

    fn take(&mut self, sent: Vec<Sent>) {
        for one in sent {
            match one {
                Sent::Message(got) => {
                    match got.qos {
                        QOS0 => {}
                        _ if !self.acks => {}
                        QOS1 => assert!(self.connection.puback(got.id.unwrap())),
                        QOS2 => self.connection.pubrec(got.id.unwrap(), false),
                    }
                    self.got.push_back(got);
                }
                Sent::Release(id) => self.release(id),
            }
        }
    }

    fn release(&mut self, id: u16) {
        self.released.push(id);
        if self.acks {
            assert!(self.connection.pubcomp(id));
        }
    }

    async fn until(&mut self, what: &str, mut there: impl FnMut(&mut Self) -> bool) {
        loop {
            while self.pump().await {}
            if there(self) {
                return;
            }
            let signal = Arc::clone(self.connection.signal());
            if tokio::time::timeout(PATIENCE, signal.woken()).await.is_err() {
                panic!(
                    "`{}` waits in vain for {what}: mode {:?}, has {} messages",
                    self.session.name,
                    self.session.queue.lock().mode,
                    self.got.len()
                );
            }
        }
    }

    /// Until nothing is left to do.
    async fn quiet(&mut self) {
        loop {
            let ticket = self.store.sync();
            self.store.settled(&ticket).await.unwrap();
            if self.pump().await {
                continue;
            }
            let mode = self.session.queue.lock().mode;
            if self.staged.is_none() && self.connection.waiting_replies() == 0 && !matches!(mode, Mode::Joining(_)) {
                return;
            }
            let signal = Arc::clone(self.connection.signal());
            tokio::time::timeout(PATIENCE, signal.woken())
                .await
                .expect("never quiet");
        }
    }

    /// The next `count` messages, and no others.
    async fn receive(&mut self, count: usize) -> Vec<Got> {
        self.until("messages", |client| client.got.len() >= count).await;
        self.quiet().await;
        assert_eq!(self.got.len(), count, "{:?}", self.got);
        self.got.drain(..).collect()
    }

    async fn texts(&mut self, count: usize) -> Vec<String> {
        self.receive(count).await.into_iter().map(|got| got.text).collect()
    }

    async fn reply(&mut self) -> Reply {
        self.until("a reply", |client| !client.replies.is_empty()).await;
        self.replies.pop_front().unwrap()
    }

    async fn subscribe(&mut self, filter: &str, qos: Qos) {
        self.subscribe_with(filter, options(qos)).await;
    }

    async fn subscribe_with(&mut self, filter: &str, options: SubscriptionOptions) {
        let qos = options.qos;
        self.connection
            .subscribe(7, vec![(TopicFilter::parse(filter), options)]);
        assert_eq!(
            self.reply().await,
            Reply::Suback(7, vec![Ok::<_, SubscribeRefused>(qos)])
        );
    }

    async fn unsubscribe(&mut self, filter: &str) {
        self.connection.unsubscribe(8, vec![TopicFilter::parse(filter)]);
        assert_eq!(self.reply().await, Reply::Unsuback(8, vec![Ok(true)]));
    }

    fn id(&mut self) -> u16 {
        self.next_id = self.next_id % u16::MAX + 1;
        self.next_id
    }

    /// Hands a message over without waiting.
    fn send(&mut self, topic: &str, message: &Publish<'_>) -> u16 {
        let id = self.id();
        self.connection.publish(topic, id, message).unwrap();
        self.connection.flush();
        id
    }

    /// Publishes and waits for the acknowledgement, and for the whole exchange with `QoS` 2.
    async fn publish(&mut self, topic: &str, qos: Qos, text: &str) {
        self.publish_message(topic, &message(qos, text.as_bytes())).await;
    }

    async fn publish_message(&mut self, topic: &str, message: &Publish<'_>) {
        let id = self.send(topic, message);
        match message.qos {
            QOS0 => {}
            QOS1 => assert!(matches!(
                self.reply().await,
                Reply::Puback(held, PublishOutcome::Accepted | PublishOutcome::NoMatchingSubscribers) if held == id
            )),
            QOS2 => {
                assert!(matches!(self.reply().await, Reply::Pubrec(held, _) if held == id));
                self.connection.pubrel(id);
                assert_eq!(self.reply().await, Reply::Pubcomp(id, true));
            }
        }
    }

    fn lost(self) {
        self.connection.end(Ending::WithWill {
            session_expiry_seconds: None,
            reason: "connection lost",
        });
    }

    fn disconnect(self) {
        self.connection.end(Ending::Normal {
            session_expiry_seconds: None,
        });
    }
}
