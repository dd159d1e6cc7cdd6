//! A subscriber over MQTT that keeps its side of the bargain: it remembers across connections which `QoS` 2 messages it
//! has received and not seen released, and checks on the spot what can be seen from where it stands.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::history::History;
use crate::mqtt::{self, Level, Message, RawClient, Received};
use crate::payload::identity;
use crate::random::Random;
use crate::{Phase, SHUTTING_DOWN};

/// `QoS` 1 acknowledgements that no record covers yet, at most, of those that the server has read.
const UNSAVED_MAX: usize = 100;
/// None of them is older than a second; the rest is for a machine that is busy.
const UNSAVED_FOR: Duration = Duration::from_secs(3);
/// What a record needs from its commit to the file.
const WRITTEN_IN: Duration = Duration::from_millis(500);
/// Acknowledgements between two PINGREQ, whose answers say what the server has read.
const PING_EVERY: usize = 25;

/// What a subscriber remembers.
pub(crate) struct Subscriber {
    pub(crate) name: String,
    pub(crate) level: Level,
    pub(crate) filters: Vec<(String, u8)>,
    /// Takes its time, acknowledges late, and lets only ten messages be on their way.
    pub(crate) slow: bool,
    /// It does not acknowledge the message whose payload begins so, and the others in any order.
    pub(crate) keeps: Option<String>,
    /// It is there in one of so many rounds.
    pub(crate) attends: u64,
    /// SUBACK has come.
    subscribed: bool,
    known: bool,
    /// `QoS` 2 messages that were received and not released.
    held: HashMap<u16, String>,
    /// First receptions, by topic.
    pub(crate) seen: BTreeMap<String, Vec<String>>,
    /// Where a message stands in `seen`.
    places: HashMap<String, usize>,
    /// `QoS` 1 messages acknowledged since the last crash, in this order.
    acknowledged: Vec<String>,
    /// Acknowledgements before each PINGREQ under way, and before those that were answered, and when.
    pings: VecDeque<usize>,
    read: Vec<(usize, Instant)>,
    /// Acknowledgements that no crash may lose any more.
    settled: HashSet<String>,
    /// Last place on this connection, by topic.
    last: HashMap<String, usize>,
    /// `QoS` 1 messages that came again.
    pub(crate) repeats: u64,
    /// Of them, those without DUP.
    pub(crate) repeats_without_dup: u64,
    /// Payloads of all that came again.
    pub(crate) came_again: HashSet<String>,
}

impl Subscriber {
    pub(crate) fn new(name: &str, level: Level, filters: &[(&str, u8)]) -> Self {
        Self {
            name: name.to_owned(),
            level,
            filters: filters.iter().map(|&(filter, qos)| (filter.to_owned(), qos)).collect(),
            slow: false,
            keeps: None,
            attends: 1,
            subscribed: false,
            known: false,
            held: HashMap::new(),
            seen: BTreeMap::new(),
            places: HashMap::new(),
            acknowledged: Vec::new(),
            pings: VecDeque::new(),
            read: Vec::new(),
            settled: HashSet::new(),
            last: HashMap::new(),
            repeats: 0,
            repeats_without_dup: 0,
            came_again: HashSet::new(),
        }
    }

    fn connected(&mut self, session_present: bool) {
        assert!(
            session_present || !self.known,
            "the session of {} was acknowledged and is lost",
            self.name
        );
        self.known = true;
        self.last.clear();
    }

    /// Takes a message; the packet that answers it at once or later.
    fn take(&mut self, message: &Message) -> Vec<u8> {
        let Message {
            topic, packet_id, dup, ..
        } = message;
        let name = &self.name;
        let payload = identity(&message.payload);
        if message.qos == 2
            && let Some(held) = self.held.get(packet_id)
        {
            assert!(
                *dup && *held == payload,
                "{name}: packet id {packet_id} of `{held}`, which is not released, brought `{payload}` (DUP {dup})"
            );
            return mqtt::ack(0x50, *packet_id);
        }
        let place = self.places.get(&payload).copied();
        match place {
            None => {
                let seen = self.seen.entry(topic.clone()).or_default();
                self.places.insert(payload.clone(), seen.len());
                let previous = self.last.insert(topic.clone(), seen.len());
                assert!(previous.is_none_or(|previous| previous < seen.len()));
                seen.push(payload.clone());
            }
            Some(place) => {
                assert!(
                    message.qos != 2,
                    "{name}: `{payload}` was delivered twice with QoS 2: {message:?}"
                );
                let previous = self.last.insert(topic.clone(), place);
                assert!(
                    previous.is_none_or(|previous| previous < place),
                    "{name}: `{payload}` of {topic} came again after newer ones"
                );
                self.repeats += 1;
                self.came_again.insert(payload.clone());
                self.repeats_without_dup += u64::from(!dup);
                assert!(
                    !self.settled.contains(&payload),
                    "{name}: `{payload}` of {topic} came again, which was acknowledged long before a crash"
                );
            }
        }
        match message.qos {
            1 => mqtt::ack(0x40, *packet_id),
            2 => {
                self.held.insert(*packet_id, payload);
                mqtt::ack(0x50, *packet_id)
            }
            qos => panic!("{name}: `{payload}` came with QoS {qos}"),
        }
    }

    /// PUBACK leaves.
    fn acknowledge(&mut self, message: &Message) {
        if message.qos == 1 {
            self.acknowledged.push(identity(&message.payload));
        }
    }

    /// The program was killed then: the last acknowledgements may be forgotten, those before them not.
    pub(crate) fn killed(&mut self, then: Instant) {
        let read_by = |age| {
            let read = self
                .read
                .iter()
                .filter(|(_, at)| then.saturating_duration_since(*at) > age);
            read.map(|(count, _)| *count).max().unwrap_or(0)
        };
        let safe = read_by(UNSAVED_FOR).max(read_by(WRITTEN_IN).saturating_sub(UNSAVED_MAX));
        self.settled.extend(self.acknowledged.drain(..).take(safe));
        self.read.clear();
        self.pings.clear();
    }

    /// Whether it is time to ask what the server has read.
    fn is_ping_due(&mut self) -> bool {
        let last = self.pings.back().copied().or(self.read.last().map(|(count, _)| *count));
        let count = self.acknowledged.len();
        let is_due = count >= last.unwrap_or(0) + PING_EVERY;
        if is_due {
            self.pings.push_back(count);
        }
        is_due
    }

    fn matches(&self, topic: &str) -> bool {
        self.filters.iter().any(|(filter, _)| matches(filter, topic))
    }

    /// Checks that it got, of each topic, the beginning of what is stored, in the order of storage.
    pub(crate) fn check(&self, history: &History) {
        for (topic, seen) in &self.seen {
            let stored = history.topic(topic);
            for (at, payload) in seen.iter().enumerate() {
                let record = stored.get(at).map(|record| record.payload.as_str());
                assert!(
                    record == Some(payload.as_str()),
                    "{}: message {at} of {topic} was `{payload}`, the history has {record:?} there",
                    self.name
                );
            }
        }
    }

    /// What it does not have yet, as text; empty if it has everything.
    pub(crate) fn missing(&self, history: &History) -> String {
        let mut text = String::new();
        for (topic, stored) in history.topics() {
            let seen = self.seen.get(topic).map_or(0, Vec::len);
            if self.matches(topic) && seen < stored.len() {
                text = format!("{text} {topic} {seen} of {};", stored.len());
            }
        }
        text
    }

    /// The number of messages it has.
    pub(crate) fn count(&self) -> usize {
        self.places.len()
    }
}

/// Whether a filter matches a topic; the topics of these tests have no `$`.
fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

fn hello(subscriber: &Subscriber) -> Vec<u8> {
    if subscriber.slow && subscriber.level == Level::V5 {
        let mut body = mqtt::text("MQTT");
        // Session expiry: never; receive maximum: 10.
        body.extend_from_slice(&[5, 0, 0, 0, 8, 0x11, 0xFF, 0xFF, 0xFF, 0xFF, 0x21, 0, 10]);
        body.extend_from_slice(&mqtt::text(&subscriber.name));
        return mqtt::frame(0x10, &body);
    }
    mqtt::connect(subscriber.level, &subscriber.name, false, u32::MAX)
}

/// Receives until the connection ends.
pub(crate) async fn run(
    subscriber: Arc<Mutex<Subscriber>>,
    address: SocketAddr,
    mut phase: watch::Receiver<Phase>,
    mut random: Random,
) {
    let (level, slow, keeps, hello) = {
        let subscriber = subscriber.lock();
        let keeps = subscriber.keeps.clone();
        (subscriber.level, subscriber.slow, keeps, hello(&subscriber))
    };
    let Some(mut client) = RawClient::try_open(address, level).await else {
        return;
    };
    if !client.try_send(&hello).await {
        return;
    }
    match client.next_or_end().await {
        None => return,
        Some(Received::Connack {
            session_present,
            code: 0,
            ..
        }) => subscriber.lock().connected(session_present),
        Some(other) => panic!("expected an accepting CONNACK, got {other:?}"),
    }
    let wanted = {
        let subscriber = subscriber.lock();
        let filters: Vec<(&str, u8)> = subscriber
            .filters
            .iter()
            .map(|(filter, qos)| (filter.as_str(), *qos))
            .collect();
        (!subscriber.subscribed).then(|| mqtt::subscribe(level, 0x7777, &filters))
    };
    if let Some(wanted) = wanted
        && !client.try_send(&wanted).await
    {
        return;
    }
    let mut unanswered: VecDeque<(Message, Vec<u8>)> = VecDeque::new();
    loop {
        let lag = match (*phase.borrow_and_update(), &keeps) {
            (Phase::Load, Some(_)) => 50,
            (Phase::Load, None) if slow => 8,
            _ => 0,
        };
        while unanswered.len() > lag {
            let at = if keeps.is_some() {
                random.between(0, lag as u64) as usize
            } else {
                0
            };
            let Some((message, answer)) = unanswered.remove(at) else {
                break;
            };
            subscriber.lock().acknowledge(&message);
            if !client.try_send(&answer).await {
                return;
            }
        }
        if *phase.borrow() == Phase::Quit {
            return;
        }
        let is_ping_due = subscriber.lock().is_ping_due();
        if is_ping_due && !client.try_send(&[0xC0, 0]).await {
            return;
        }
        let packet = tokio::select! {
            packet = client.next_or_end() => packet,
            _ = phase.changed() => continue,
        };
        match packet {
            None | Some(SHUTTING_DOWN) => return,
            Some(Received::Publish(message)) => {
                let answer = subscriber.lock().take(&message);
                let is_kept = keeps
                    .as_ref()
                    .is_some_and(|kept| message.payload.starts_with(kept.as_bytes()));
                if !is_kept {
                    unanswered.push_back((*message, answer));
                }
                if slow && lag > 0 {
                    tokio::time::sleep(Duration::from_millis(random.between(0, 4))).await;
                }
            }
            Some(Received::Pubrel(packet_id, code)) => {
                assert_eq!(code, 0);
                subscriber.lock().held.remove(&packet_id);
                if !client.try_send(&mqtt::ack(0x70, packet_id)).await {
                    return;
                }
            }
            Some(Received::Pingresp) => {
                let mut subscriber = subscriber.lock();
                let count = subscriber.pings.pop_front().expect("a PINGREQ");
                subscriber.read.push((count, Instant::now()));
            }
            Some(Received::Suback(_, codes)) => {
                let mut subscriber = subscriber.lock();
                assert_eq!(
                    codes,
                    subscriber.filters.iter().map(|(_, qos)| *qos).collect::<Vec<_>>()
                );
                subscriber.subscribed = true;
            }
            Some(other) => panic!("{} got {other:?}", subscriber.lock().name),
        }
    }
}

/// Names of everybody whose SUBACK has not come.
pub(crate) fn unsubscribed(subscribers: &[Arc<Mutex<Subscriber>>]) -> HashSet<String> {
    let subscribers = subscribers.iter().map(|subscriber| subscriber.lock());
    subscribers
        .filter(|subscriber| !subscriber.subscribed)
        .map(|subscriber| subscriber.name.clone())
        .collect()
}
