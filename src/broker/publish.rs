//! The publish path: find or make the topic, encode the record, queue it into a commit.

use std::sync::Arc;

use super::Shared;
use super::error::PublishRefused;
use super::message::{Publish, Qos};
use super::rows::record::Origin;
use super::session::SessionState;
use super::topic::Topic;
use super::topic_name::open_to_clients;
use crate::store::{Class, Commit, OnceKey, RetentionClass};

/// Topics remembered per session for `publishedTopics` (spec/sessions.md 11).
const PUBLISHED_TOPICS_MAX: usize = 1_000;

/// Who publishes.
#[derive(Clone, Copy)]
pub(super) struct Publisher<'a> {
    pub(super) client_name: &'a str,
    pub(super) account: &'a str,
    pub(super) origin: Origin,
}

impl Shared {
    /// The topic of a name that clients may publish to; a new one is made by a commit of its own, which nobody awaits:
    /// the log's order does the rest.
    pub(super) fn topic_for(&self, name: &str) -> Result<Arc<Topic>, PublishRefused> {
        if !open_to_clients(name) {
            return Err(PublishRefused::NotOpen);
        }
        self.topics.get_or_create(name, |name| {
            let mut commit = self.store.begin(Class::C);
            let log = self
                .store
                .create(&mut commit, name.as_bytes(), None, RetentionClass::default());
            commit.lazy();
            self.store.commit(commit)?;
            Ok(log)
        })
    }

    /// Queues a message; nothing is stored before the commit is handed over.
    pub(super) fn queue_message(
        commit: &mut Commit,
        topic: &Topic,
        publisher: Publisher<'_>,
        message: &Publish<'_>,
        once: Option<OnceKey>,
    ) {
        let record = message.record(publisher.origin, publisher.client_name, publisher.account);
        let head = record.head();
        let parts = record.parts(&head);
        match once {
            Some(once) => commit.append_once(topic.log, &parts, once),
            None => commit.append(topic.log, &parts, message.qos == Qos::AtMostOnce),
        }
    }
}

impl SessionState {
    /// Counts what the session published; `topic` is new to the connection.
    pub(super) fn count_published(&mut self, count: u64, now_ms: i64, topic: Option<&str>) {
        self.totals.published += count;
        let [first, last, _, _] = &mut self.totals.times;
        if *first == 0 {
            *first = now_ms;
        }
        *last = now_ms;
        self.totals_changed = true;
        if count > 0 {
            self.published_rate.add(now_ms, self.connected, count);
        }
        if let Some(topic) = topic {
            let topics = &mut self.published_topics.topics;
            if let Some(place) = topics.iter().position(|held| held == topic) {
                topics.remove(place);
            } else if topics.len() >= PUBLISHED_TOPICS_MAX {
                topics.remove(0);
            }
            topics.push(topic.to_owned());
        }
    }
}
