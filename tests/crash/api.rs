//! Business programs over HTTP: one that publishes through a permanent MQ API session, and two that fetch with one, one
//! with automatic and one with manual acknowledgement.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::Phase;
use crate::history::History;
use crate::http::JsonClient;
use crate::payload::{Payload, identity};
use crate::random::Random;

/// Where the publisher publishes.
pub(crate) const TOPIC: &str = "load/h/a";
/// Messages a fetch asks for at most.
const BATCH_MAX: u64 = 200;

/// A publisher over HTTP. What was not answered it does not send again: it may be stored or not.
#[derive(Default)]
pub(crate) struct ApiPublisher {
    number: u64,
    /// Position and payload of what was answered.
    pub(crate) acknowledged: Vec<(u64, String)>,
}

impl ApiPublisher {
    pub(crate) const NAME: &str = "api-publisher";

    /// Checks that what was answered is stored at the positions of the answers, and all of it in order.
    pub(crate) fn check(&self, history: &History) {
        let stored: BTreeMap<u64, &str> = history
            .topic(TOPIC)
            .iter()
            .map(|record| (record.id, record.payload.as_str()))
            .collect();
        for (id, payload) in &self.acknowledged {
            assert_eq!(
                stored.get(id),
                Some(&payload.as_str()),
                "{id} of {TOPIC} was acknowledged"
            );
        }
        let numbers = stored.values().map(|payload| Payload::parse(payload).number);
        let mut last = 0;
        for number in numbers {
            assert!(
                last < number && number <= self.number,
                "{number} after {last} in {TOPIC}"
            );
            last = number;
        }
    }
}

/// Publishes until the server is gone, or the load ends.
pub(crate) async fn publish(
    publisher: Arc<Mutex<ApiPublisher>>,
    address: SocketAddr,
    token: String,
    phase: watch::Receiver<Phase>,
    mut random: Random,
) {
    let mut client = JsonClient::new(address, &token);
    while *phase.borrow() == Phase::Load {
        let payloads: Vec<String> = {
            let mut publisher = publisher.lock();
            let count = random.between(1, 6);
            let first = publisher.number + 1;
            publisher.number += count;
            let payload = |number| Payload {
                publisher: ApiPublisher::NAME.to_owned(),
                connection: 0,
                number,
                retain: false,
                topic: TOPIC.to_owned(),
            };
            (first..first + count).map(|number| payload(number).text(0)).collect()
        };
        let messages: Vec<Value> = payloads
            .iter()
            .map(|payload| json!({"payload": payload, "binaryFormat": "utf8"}))
            .collect();
        let params = json!({"clientName": ApiPublisher::NAME, "topic": TOPIC, "messages": messages});
        let Some(response) = client.call("publishMessagesToMq", params).await else {
            return;
        };
        if is_stopping(&response) {
            return;
        }
        assert_eq!(response["errorCode"], 0, "{response}");
        let answered = response["result"]["data"].as_array().expect("positions");
        let ids = answered.iter().map(|entry| entry["id"].as_u64().expect("a position"));
        publisher.lock().acknowledged.extend(ids.zip(payloads));
        tokio::time::sleep(Duration::from_millis(random.between(0, 10))).await;
    }
}

/// Whether the server refuses because it stops in order.
fn is_stopping(response: &Value) -> bool {
    response["errorCode"] == 14_239
}

/// A consumer over HTTP.
pub(crate) struct Fetcher {
    pub(crate) name: &'static str,
    /// Acknowledges by token, and begins a batch anew now and then.
    manual: bool,
    token: Option<String>,
    seen: BTreeMap<String, Vec<String>>,
    all: HashSet<String>,
    /// Messages that may have been in answers that did not arrive.
    lost_max: u64,
}

impl Fetcher {
    pub(crate) const FILTER: &str = "load/#";

    pub(crate) fn new(name: &'static str, manual: bool) -> Self {
        Self {
            name,
            manual,
            token: None,
            seen: BTreeMap::new(),
            all: HashSet::new(),
            lost_max: 0,
        }
    }

    fn take(&mut self, message: &Value) {
        let topic = message["topic"].as_str().expect("a topic");
        let payload = identity(message["payload"].as_str().expect("text").as_bytes());
        assert!(
            self.all.insert(payload.clone()),
            "{} fetched `{payload}` twice",
            self.name
        );
        self.seen.entry(topic.to_owned()).or_default().push(payload);
    }

    /// Messages of the history that it has passed without having them, and those it has not come to.
    fn compare(&self, history: &History) -> (u64, u64) {
        let (mut passed, mut left) = (0, 0);
        for (topic, stored) in history.topics().filter(|(topic, _)| topic.starts_with("load/")) {
            let mut stored = stored.iter();
            for payload in self.seen.get(topic).into_iter().flatten() {
                let before = stored.by_ref().take_while(|record| record.payload != *payload);
                passed += before.count() as u64;
                // Whoever is not found has used up the rest.
                let is_there = history.topic(topic).iter().any(|record| record.payload == *payload);
                assert!(is_there, "{} fetched `{payload}`, which is not stored", self.name);
            }
            left += stored.count() as u64;
        }
        (passed, left)
    }

    /// Checks that it has each message once and in order, but for those in answers that were lost.
    pub(crate) fn check(&self, history: &History) {
        let (passed, _) = self.compare(history);
        assert!(
            passed <= self.lost_max,
            "{} misses {passed}; at most {} were lost",
            self.name,
            self.lost_max
        );
        for (topic, seen) in &self.seen {
            let places: BTreeMap<&str, usize> = history
                .topic(topic)
                .iter()
                .enumerate()
                .map(|(place, record)| (record.payload.as_str(), place))
                .collect();
            let places = seen.iter().map(|payload| places[payload.as_str()]);
            assert!(places.is_sorted(), "{} fetched {topic} out of order", self.name);
        }
    }

    /// Messages it still has to fetch.
    pub(crate) fn left(&self, history: &History) -> u64 {
        let (passed, left) = self.compare(history);
        (passed + left).saturating_sub(self.lost_max)
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }
}

/// Fetches until the server is gone, or it is told to end.
pub(crate) async fn fetch(
    fetcher: Arc<Mutex<Fetcher>>,
    address: SocketAddr,
    token: String,
    phase: watch::Receiver<Phase>,
    mut random: Random,
) {
    let mut client = JsonClient::new(address, &token);
    while *phase.borrow() != Phase::Quit {
        let count = random.between(1, BATCH_MAX);
        let params = {
            let mut fetcher = fetcher.lock();
            let mut params = json!({
                "clientName": fetcher.name,
                "maxMessages": count,
                "binaryFormat": "utf8",
                "waitSeconds": u64::from(random.one_in(4)),
            });
            if fetcher.manual {
                params["acknowledge"] = "manual".into();
                if let Some(token) = &fetcher.token {
                    params["acknowledgeToken"] = token.clone().into();
                }
            } else {
                fetcher.lost_max += count;
            }
            params
        };
        let Some(response) = client.call("getMessagesFromMqApiSession", params).await else {
            return;
        };
        if is_stopping(&response) {
            return;
        }
        assert_eq!(response["errorCode"], 0, "{response}");
        let result = &response["result"];
        let messages = result["data"].as_array().expect("messages");
        {
            let mut fetcher = fetcher.lock();
            if !fetcher.manual {
                fetcher.lost_max -= count;
            } else if random.one_in(8) {
                // As if it had failed before its work was done: the same messages must come again. The token it had
                // was taken, and may be used again.
                continue;
            } else {
                fetcher.token = result["acknowledgeToken"].as_str().map(str::to_owned);
            }
            for message in messages {
                fetcher.take(message);
            }
        }
        let is_empty = messages.is_empty();
        if is_empty {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Makes the sessions of all of them, in a new data directory.
pub(crate) async fn create(client: &mut JsonClient, fetchers: &[Arc<Mutex<Fetcher>>]) {
    client
        .must("createMqApiSession", json!({"clientName": ApiPublisher::NAME}))
        .await;
    for fetcher in fetchers {
        let name = fetcher.lock().name;
        client.must("createMqApiSession", json!({"clientName": name})).await;
        let action = json!({"subscriptionAction": "add", "topicFilter": Fetcher::FILTER});
        let params = json!({"clientName": name, "subscriptionActions": [action]});
        client.must("subscribeToMq", params).await;
    }
}
