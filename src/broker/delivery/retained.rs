//! Handing out the retained messages that subscriptions have made due.

use super::{Need, Puller};
use crate::broker::inflight::{Exchange, Outgoing};
use crate::broker::message::Delivery;
use crate::broker::rows::record::Record;
use crate::broker::session::SessionState;
use crate::broker::subscription::RetainedDue;
use crate::broker::topic::{Retained, Topic};
use crate::broker::topic_filter::TopicFilter;
use crate::store::{Mark, ReadBuf, ReadRecord};
use std::sync::Arc;

/// Retained topics looked at before somebody else gets a turn,
const RETAINED_STEPS: usize = 1_000;
/// and matching ones that are not due.
const NOT_DUE_MAX: usize = 64;

/// A retained message that is due.
pub(super) struct RetainedNeed {
    pub(super) topic: Arc<Topic>,
    pub(super) retained: Retained,
    /// The subscription that made it due, and where it did.
    filter: TopicFilter,
    due: Mark,
}

impl Puller<'_> {
    pub(super) fn next_retained(&mut self, state: &mut SessionState) -> Option<Need> {
        if !state.retained_due {
            return None;
        }
        if let Some(link) = &state.link
            && link.outstanding >= link.receive_maximum
        {
            // Nothing may pass what is due: a topic's state never goes backwards for a subscriber.
            let due = state.subscriptions.all().any(|held| held.due.is_some());
            return due.then_some(Need::Nothing { more: false });
        }
        let mut ended = Vec::new();
        let need = self.look_for_retained(state, &mut ended);
        for filter in ended {
            state.forget_served(&filter);
        }
        state.retained_due = need.is_some();
        need
    }

    /// The next retained message that is due. Looks at a bounded number of topics: others want the session too.
    fn look_for_retained(&self, state: &mut SessionState, ended: &mut Vec<TopicFilter>) -> Option<Need> {
        let mut not_due = 0;
        for subscription in state.subscriptions.all_mut() {
            while let Some(due) = &mut subscription.due {
                if not_due > NOT_DUE_MAX {
                    return Some(Need::Nothing { more: true });
                }
                state.unsaved += 1;
                let (found, rest) =
                    self.shared
                        .topics
                        .retained_matching(&subscription.filter, &due.cursor, 1, RETAINED_STEPS);
                match (found.first(), rest) {
                    (Some(topic), _) => {
                        let served = state.retained_served.get(&(subscription.filter.clone(), topic.log));
                        match topic.retained() {
                            Some(retained) if retained.mark < due.mark && served != Some(&due.mark) => {
                                return Some(Need::Retained(RetainedNeed {
                                    topic: Arc::clone(topic),
                                    retained,
                                    filter: subscription.filter.clone(),
                                    due: due.mark,
                                }));
                            }
                            _ => {
                                not_due += 1;
                                due.cursor = topic.name.to_string();
                            }
                        }
                    }
                    (None, Some(rest)) => {
                        due.cursor = rest.to_string();
                        return Some(Need::Nothing { more: true });
                    }
                    (None, None) => {
                        subscription.due = None;
                        ended.push(subscription.filter.clone());
                    }
                }
            }
        }
        None
    }

    pub(super) fn serve_retained(&mut self, need: &RetainedNeed, read: Option<(&ReadRecord, &ReadBuf)>) {
        let RetainedNeed {
            topic,
            retained,
            filter,
            due,
        } = need;
        let mut state = self.session.state.lock();
        let state = &mut *state;
        if state.epoch != self.epoch {
            return;
        }
        // Subscriptions may have come, gone or been replaced while the log was read.
        let Some(subscription) = state
            .subscriptions
            .get(filter)
            .filter(|held| held.due.as_ref().is_some_and(|held| held.mark == *due))
        else {
            return;
        };
        let options = subscription.options.clone();
        state.unsaved += 1;
        let current = topic.retained().is_some_and(|now| now.mark == retained.mark);
        let record = read.and_then(|(read, buf)| Some((read.time, Record::parse(buf.body(read))?)));
        let pass = |state: &mut SessionState| {
            if let Some(RetainedDue { cursor, .. }) =
                state.subscriptions.get_mut(filter).and_then(|held| held.due.as_mut())
            {
                *cursor = topic.name.to_string();
            }
        };
        let Some((time, record)) =
            record.filter(|(time, record)| current && (options.include_expired || !record.expired(*time, self.now_ms)))
        else {
            return pass(state);
        };
        if options.no_local && record.publisher == &*self.session.name {
            return pass(state);
        }
        let qos = record.qos.min(options.qos);
        let identifiers: smallvec::SmallVec<[u32; 1]> = options.identifier.into_iter().collect();
        let mut delivery = Delivery {
            topic: &topic.name,
            position: retained.position.0,
            time,
            qos,
            packet_id: None,
            dup: false,
            retain: true,
            retained: true,
            expired: record.expired(time, self.now_ms),
            expiry_left: record.expiry_left(time, self.now_ms),
            subscription_ids: &identifiers,
            record,
        };
        let outgoing = Outgoing {
            log: topic.log,
            position: retained.position,
            qos,
            retained: true,
            exchange: Exchange::Sent,
        };
        if self.send(state, &mut delivery, outgoing) {
            pass(state);
        }
    }
}
