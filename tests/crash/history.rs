//! What is stored, as the history of the topics shows it, and what must be true of it whatever was killed when.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use crate::http::JsonClient;
use crate::payload::{Payload, identity};
use crate::publisher::Publisher;

/// Records that are read again at each look, to see that they stay what and where they were.
const OVERLAP: usize = 20;
/// Records a call asks for.
const PAGE: u64 = 5_000;

/// A stored message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) payload: String,
    pub(crate) retain: bool,
}

/// All topics that were looked at.
#[derive(Default)]
pub(crate) struct History {
    topics: BTreeMap<String, Vec<Record>>,
}

impl History {
    pub(crate) fn topic(&self, topic: &str) -> &[Record] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = (&str, &[Record])> {
        self.topics
            .iter()
            .map(|(topic, records)| (topic.as_str(), records.as_slice()))
    }

    /// Reads on, and compares the end of what was known (or all of it) with what is there now.
    pub(crate) async fn refresh(&mut self, client: &mut JsonClient, topic: &str, entire: bool) {
        let known = self.topics.entry(topic.to_owned()).or_default();
        let mut at = if entire { 0 } else { known.len().saturating_sub(OVERLAP) };
        let mut from = known.get(at).map_or(json!("head"), |record| json!(record.id));
        if at == 0 {
            from = json!("head");
        }
        loop {
            let params = json!({"topic": topic, "startFrom": from, "maxMessages": PAGE, "binaryFormat": "utf8"});
            let response = client.call("getMessagesFromMqTopic", params).await.expect("an answer");
            if response["errorCode"] == 14_236 {
                assert!(known.is_empty(), "{topic} is gone with {} messages", known.len());
                return;
            }
            assert_eq!(response["errorCode"], 0, "{topic}: {response}");
            let result = &response["result"];
            for message in result["data"].as_array().expect("messages") {
                let record = Record::read(message);
                match known.get(at) {
                    Some(known) => assert_eq!(record, *known, "{topic} has another message at {at}"),
                    None => known.push(record),
                }
                at += 1;
            }
            from = result["nextStartFrom"].clone();
            if result["moreMessages"] != Value::Bool(true) {
                break;
            }
        }
        assert!(at >= known.len(), "{topic} ends at {at}; {} were there", known.len());
    }

    /// Checks the stored messages of a publisher: everything acknowledged is there, `QoS` 2 once, in the order of its
    /// sending, without a gap.
    pub(crate) fn check(&self, publisher: &Publisher) {
        let name = &publisher.name;
        for topic in publisher.numbers.keys() {
            let mut previous = HashMap::new();
            let mut last = (0, 0);
            for record in self.topic(topic) {
                let payload = Payload::parse(&record.payload);
                if payload.publisher != *name {
                    continue;
                }
                assert_eq!((record.retain, topic), (payload.retain, &payload.topic));
                assert!(
                    payload.number <= publisher.numbers[topic],
                    "{name} did not send `{}`",
                    record.payload
                );
                let key = if publisher.qos == 1 { payload.connection } else { 0 };
                let here = (key, payload.number);
                assert!(last < here, "{name} in {topic}: `{}` after {last:?}", record.payload);
                last = here;
                // What a connection brought it sent one after the other.
                if let Some(before) = previous.insert(key, payload.number) {
                    assert_eq!(
                        before + 1,
                        payload.number,
                        "{name} in {topic}: a gap before `{}`",
                        record.payload
                    );
                } else if publisher.qos == 2 {
                    assert_eq!(
                        payload.number, 1,
                        "{name} in {topic}: a gap before `{}`",
                        record.payload
                    );
                }
            }
        }
        let stored: HashSet<(&str, &str)> = self
            .topics()
            .flat_map(|(topic, records)| records.iter().map(move |record| (topic, record.payload.as_str())))
            .collect();
        for (topic, payload) in &publisher.acknowledged {
            assert!(
                stored.contains(&(topic.as_str(), payload.as_str())),
                "{name}: `{payload}` of {topic} was acknowledged and is not stored"
            );
        }
    }

    /// The retained message of each topic that has one.
    pub(crate) fn retained(&self) -> BTreeMap<String, String> {
        let last = |records: &[Record]| {
            let record = records.iter().rev().find(|record| record.retain);
            record.map(|record| record.payload.clone())
        };
        self.topics()
            .filter_map(|(topic, records)| Some((topic.to_owned(), last(records)?)))
            .collect()
    }
}

impl Record {
    fn read(message: &Value) -> Self {
        Self {
            id: message["id"].as_u64().expect("an id"),
            payload: identity(message["payload"].as_str().expect("text").as_bytes()),
            retain: message["retain"].as_bool().expect("a flag"),
        }
    }
}
