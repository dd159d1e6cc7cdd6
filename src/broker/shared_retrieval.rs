//! What MQ API sessions take from share groups: consumed with the answer, or leased until it is acknowledged
//! (spec/semantics.md 6 and 7).
//!
//! **Invariants**
//! - A leased message stays assigned to its session; it goes back to the group when the lease ends.
//! - Leases are in memory: a restart returns everything.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::error::SessionRefused;
use super::retrieval::{Collector, FetchedMessage};
use super::rows::record::Record;
use super::session::{Session, SessionState};
use super::subscription::SubscriptionOptions;
use super::topic_filter::TopicFilter;
use crate::store::{LogId, Offset, ReadBuf};

/// Messages taken from a group at once.
const TAKE_MAX: usize = 64;

/// A message of a share group that a manual retrieval has handed out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Leased {
    /// The group.
    pub(super) filter: TopicFilter,
    /// The topic's log.
    pub(super) log: LogId,
    /// The position.
    pub(super) position: Offset,
}

/// What one retrieval wants from one group.
struct Selection<'a> {
    session: &'a Arc<Session>,
    filter: &'a TopicFilter,
    options: &'a SubscriptionOptions,
    /// Only this topic.
    topic: Option<LogId>,
    /// Not consumed, but leased so long.
    lease: Option<Duration>,
}

impl Shared {
    /// Messages of the session's share groups, or of those that `only` selects: one of its filters verbatim, or a topic.
    /// `lease`: they are not consumed; gives those of this batch.
    pub(super) async fn fetch_shared(
        &self,
        session: &Arc<Session>,
        only: Option<&TopicFilter>,
        lease: Option<Duration>,
        collector: &mut Collector,
    ) -> Result<Vec<Leased>, SessionRefused> {
        let mut topic = None;
        let filters: Vec<_> = {
            let state = session.state.lock();
            let held = state.subscriptions.shared.iter();
            let selected: Vec<_> = match only {
                None => held.collect(),
                Some(only) if state.subscriptions.get(only).is_some() => {
                    held.filter(|held| held.filter == *only).collect()
                }
                Some(only) => {
                    topic = self.topics.get(only.filter()).map(|topic| topic.log);
                    held.filter(|held| held.filter.matches(only.filter())).collect()
                }
            };
            selected
                .into_iter()
                .map(|held| (held.filter.clone(), held.options.clone()))
                .collect()
        };
        let mut batch = Vec::new();
        for (filter, options) in &filters {
            let selection = Selection {
                session,
                filter,
                options,
                topic,
                lease,
            };
            self.hand_leased(&selection, collector, &mut batch).await?;
            self.take_from_group(&selection, collector, &mut batch).await?;
        }
        if let Some(span) = lease.filter(|_| !batch.is_empty()) {
            let until = self.clock.now() + span;
            session.state.lock().lease_until = until;
            self.deadlines.at(until, session.id);
        }
        Ok(batch)
    }

    /// What an earlier manual retrieval was given comes first, and again.
    async fn hand_leased(
        &self,
        selection: &Selection<'_>,
        collector: &mut Collector,
        batch: &mut Vec<Leased>,
    ) -> Result<(), SessionRefused> {
        let Selection {
            session,
            filter,
            options,
            topic,
            lease,
        } = *selection;
        let leased: Vec<Leased> = {
            let state = session.state.lock();
            let mine = state.leased.iter().filter(|held| held.filter == *filter);
            mine.filter(|held| topic.is_none_or(|topic| held.log == topic))
                .cloned()
                .collect()
        };
        for one in leased {
            if !collector.has_room() {
                collector.more = true;
                break;
            }
            if let Some(message) = self.shared_message(one.log, one.position, options, true).await? {
                collector.push(message);
            }
            if lease.is_none() {
                session.state.lock().leased.retain(|held| *held != one);
                if let Some(group) = self.groups.get(filter) {
                    group.acked(one.log, one.position);
                }
            }
            batch.push(one);
        }
        Ok(())
    }

    async fn take_from_group(
        &self,
        selection: &Selection<'_>,
        collector: &mut Collector,
        batch: &mut Vec<Leased>,
    ) -> Result<(), SessionRefused> {
        let Selection {
            session,
            filter,
            options,
            topic,
            lease,
        } = *selection;
        let Some(group) = self.groups.get(filter) else {
            return Ok(());
        };
        loop {
            if !collector.has_room() {
                collector.more = true;
                return Ok(());
            }
            let wanted = (collector.messages_max - collector.messages.len()).min(TAKE_MAX);
            let mut taken = group.take_all(self, session.id, wanted, topic).await;
            if taken.is_empty() {
                return Ok(());
            }
            while let Some(one) = taken.peek() {
                let message = self.shared_message(one.log, one.position, options, false).await?;
                let keeps = lease.is_some() && message.is_some();
                if keeps {
                    let leased = Leased {
                        filter: filter.clone(),
                        log: one.log,
                        position: one.position,
                    };
                    session.state.lock().leased.push(leased.clone());
                    batch.push(leased);
                } else {
                    // Consumed with the answer; a caller that vanishes before this leaves it to the group.
                    group.acked(one.log, one.position);
                }
                taken.pass();
                if let Some(message) = message {
                    collector.push(message);
                }
            }
        }
    }

    /// One message of a group; `None` if it is gone, or has expired and is not wanted.
    async fn shared_message(
        &self,
        log: LogId,
        position: Offset,
        options: &SubscriptionOptions,
        redelivered: bool,
    ) -> Result<Option<FetchedMessage>, SessionRefused> {
        let mut buf = ReadBuf::default();
        let found = self.read_one(log, position, &mut buf).await?;
        let (Some(read), Some(topic)) = (found, self.topics.by_log(log)) else {
            return Ok(None);
        };
        let Some(record) = Record::parse(buf.body(&read)) else {
            return Ok(None);
        };
        let expired = record.expired(read.time, self.clock.wall_ms());
        Ok((!expired || options.include_expired).then(|| FetchedMessage {
            redelivered,
            subscription_ids: options.identifier.into_iter().collect(),
            ..FetchedMessage::stored(&topic, &read, &buf, expired)
        }))
    }

    /// The lease of a session has ended, or the session may not be used any more: what it holds goes back.
    pub(super) fn return_leased(&self, state: &mut SessionState) {
        for one in std::mem::take(&mut state.leased) {
            if let Some(group) = self.groups.get(&one.filter) {
                group.give_back(one.log, one.position);
            }
        }
    }
}
