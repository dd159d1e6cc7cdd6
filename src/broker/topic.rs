//! Topics: each name has its log, its cached matches and its retained message.
//!
//! **Invariants**
//! - A name has one topic; a topic has one log, whose name in the store is the topic's name.
//! - The retained message is what the records of the log say, in log order; the dispatcher alone changes it.

use std::ops::Bound;
use std::sync::Arc;

use ahash::AHashMap;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

use super::subscription_tree::{Matches, SubscriptionTree};
use super::topic_filter::TopicFilter;
use super::topic_name::TopicName;
use crate::store::{LogId, Mark, Offset};

/// Where the retained message of a topic lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retained {
    /// Its position.
    pub position: Offset,
    /// Its mark.
    pub mark: Mark,
}

/// One topic.
pub struct Topic {
    /// The number of its log.
    pub log: LogId,
    /// Its name.
    pub name: TopicName,
    state: Mutex<TopicState>,
}

struct TopicState {
    retained: Option<Retained>,
    matches: Option<(u64, Arc<Matches>)>,
}

impl Topic {
    /// Whom a message of this topic concerns.
    pub fn matches(&self, tree: &SubscriptionTree) -> Arc<Matches> {
        let mut state = self.state.lock();
        let epoch = tree.epoch();
        match &state.matches {
            Some((matched, matches)) if *matched == epoch => Arc::clone(matches),
            _ => {
                let matches = Arc::new(tree.matches(&self.name));
                state.matches = Some((epoch, Arc::clone(&matches)));
                matches
            }
        }
    }

    /// Its retained message.
    pub fn retained(&self) -> Option<Retained> {
        self.state.lock().retained
    }
}

/// All topics.
#[derive(Default)]
pub struct TopicTable {
    names: RwLock<AHashMap<TopicName, Arc<Topic>>>,
    logs: RwLock<FxHashMap<LogId, Arc<Topic>>>,
    ordered: RwLock<BTreeMap<TopicName, Arc<Topic>>>,
    retained: RwLock<BTreeMap<TopicName, Arc<Topic>>>,
}

impl TopicTable {
    /// The topic of a name, if it exists.
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.names.read().get(name).cloned()
    }

    /// The topic of a log.
    pub fn by_log(&self, log: LogId) -> Option<Arc<Topic>> {
        self.logs.read().get(&log).cloned()
    }

    /// The topic of a name; `create` makes its log if there is none yet, and is called once.
    pub fn get_or_create<E>(
        &self,
        name: &str,
        create: impl FnOnce(&TopicName) -> Result<LogId, E>,
    ) -> Result<Arc<Topic>, E>
    where
        E: From<super::topic_name::InvalidTopic>,
    {
        if let Some(topic) = self.get(name) {
            return Ok(topic);
        }
        let name = TopicName::parse(name)?;
        let mut names = self.names.write();
        if let Some(topic) = names.get(&name) {
            return Ok(Arc::clone(topic));
        }
        let topic = self.enter(create(&name)?, name);
        names.insert(topic.name.clone(), Arc::clone(&topic));
        Ok(topic)
    }

    /// Takes up a topic that the store has.
    pub fn restore(&self, log: LogId, name: TopicName) {
        let mut names = self.names.write();
        if !names.contains_key(&name) {
            let topic = self.enter(log, name);
            names.insert(topic.name.clone(), topic);
        }
    }

    fn enter(&self, log: LogId, name: TopicName) -> Arc<Topic> {
        let state = Mutex::new(TopicState {
            retained: None,
            matches: None,
        });
        let topic = Arc::new(Topic { log, name, state });
        self.logs.write().insert(log, Arc::clone(&topic));
        self.ordered.write().insert(topic.name.clone(), Arc::clone(&topic));
        topic
    }

    /// Topics, all of them.
    pub fn len(&self) -> usize {
        self.names.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes that the holders of an exact filter changed.
    pub fn holders_changed(&self, filter: &TopicFilter) {
        if !filter.is_wildcard()
            && let Some(topic) = self.get(filter.filter())
        {
            topic.state.lock().matches = None;
        }
    }

    /// Sets or clears the retained message of a topic.
    pub(super) fn set_retained(&self, topic: &Arc<Topic>, retained: Option<Retained>) {
        topic.state.lock().retained = retained;
        let mut all = self.retained.write();
        if retained.is_some() {
            all.insert(topic.name.clone(), Arc::clone(topic));
        } else {
            all.remove(&topic.name);
        }
    }

    /// Topics that a filter matches, in byte order behind `after`, at most `limit`.
    pub fn matching(&self, filter: &TopicFilter, after: &str, limit: usize) -> Vec<Arc<Topic>> {
        if !filter.is_wildcard() {
            return self
                .get(filter.filter())
                .filter(|topic| &*topic.name > after)
                .into_iter()
                .collect();
        }
        Self::walk(&self.ordered.read(), filter, after, limit, usize::MAX).0
    }

    /// Topics with a retained message that a filter matches, in byte order behind `after`: at most `limit` found and
    /// `steps` looked at. The second value is where to go on, `None` at the end.
    pub fn retained_matching(
        &self,
        filter: &TopicFilter,
        after: &str,
        limit: usize,
        steps: usize,
    ) -> (Vec<Arc<Topic>>, Option<TopicName>) {
        if !filter.is_wildcard() {
            let topic = self
                .get(filter.filter())
                .filter(|topic| &*topic.name > after && topic.retained().is_some());
            return (topic.into_iter().collect(), None);
        }
        Self::walk(&self.retained.read(), filter, after, limit, steps)
    }

    /// How many topics have a retained message.
    pub fn retained_count(&self) -> usize {
        self.retained.read().len()
    }

    fn walk(
        topics: &BTreeMap<TopicName, Arc<Topic>>,
        filter: &TopicFilter,
        after: &str,
        limit: usize,
        steps: usize,
    ) -> (Vec<Arc<Topic>>, Option<TopicName>) {
        let prefix = filter.literal_prefix();
        let from = if after < prefix {
            Bound::Included(prefix)
        } else {
            Bound::Excluded(after)
        };
        let mut found = Vec::new();
        for (step, (name, topic)) in topics.range::<str, _>((from, Bound::Unbounded)).enumerate() {
            if !name.starts_with(prefix) {
                break;
            }
            if filter.matches(name) {
                found.push(Arc::clone(topic));
            }
            if found.len() >= limit || step + 1 >= steps {
                return (found, Some(name.clone()));
            }
        }
        (found, None)
    }
}
