//! Handing out the retained messages that subscriptions have made due.

use super::{Need, Puller};
use crate::broker::inflight::{Exchange, Outgoing};
use crate::broker::message::Delivery;
use crate::broker::rows::record::Record;
use crate::broker::session::SessionState;
use crate::broker::subscription::RetainedDue;
use crate::broker::topic::Topic;
use crate::store::{Mark, Offset, ReadBuf, ReadRecord};
use std::sync::Arc;

/// Retained topics looked at before somebody else gets a turn.
const RETAINED_STEPS: usize = 1_000;

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
        let mut subscriptions: Vec<_> = state
            .subscriptions
            .all_mut()
            .filter(|held| held.due.is_some())
            .collect();
        let mut ended = Vec::new();
        for (place, subscription) in subscriptions.iter_mut().enumerate() {
            while let Some(due) = &mut subscription.due {
                let (found, rest) =
                    self.shared
                        .topics
                        .retained_matching(&subscription.filter, &due.cursor, 1, RETAINED_STEPS);
                if let Some(topic) = found.first() {
                    match topic.retained() {
                        Some(retained)
                            if retained.mark < due.mark
                                && state.retained_served.get(&(subscription.filter.clone(), topic.log))
                                    != Some(&due.mark) =>
                        {
                            return Some(Need::Retained {
                                topic: Arc::clone(topic),
                                position: retained.position,
                                mark: retained.mark,
                                due: place,
                            });
                        }
                        _ => due.cursor = topic.name.to_string(),
                    }
                } else if let Some(rest) = rest {
                    due.cursor = rest.to_string();
                    return Some(Need::Nothing { more: true });
                } else {
                    subscription.due = None;
                    ended.push(subscription.filter.clone());
                }
                state.unsaved += 1;
            }
        }
        state.retained_due = false;
        for filter in ended {
            state.forget_served(&filter);
        }
        None
    }

    pub(super) fn serve_retained(
        &mut self,
        topic: &Arc<Topic>,
        position: Offset,
        mark: Mark,
        due: usize,
        read: Option<(&ReadRecord, &ReadBuf)>,
    ) {
        let mut state = self.session.state.lock();
        let state = &mut *state;
        if state.epoch != self.epoch {
            return;
        }
        let Some(subscription) = state.subscriptions.all_mut().filter(|held| held.due.is_some()).nth(due) else {
            return;
        };
        let (options, filter) = (subscription.options.clone(), subscription.filter.clone());
        state.unsaved += 1;
        let current = topic.retained().is_some_and(|retained| retained.mark == mark);
        let record = read.and_then(|(read, buf)| Some((read.time, Record::parse(buf.body(read))?)));
        let pass = |state: &mut SessionState| {
            if let Some(RetainedDue { cursor, .. }) =
                state.subscriptions.get_mut(&filter).and_then(|held| held.due.as_mut())
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
            position: position.0,
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
            position,
            qos,
            retained: true,
            exchange: Exchange::Sent,
        };
        if self.send(state, &mut delivery, outgoing) {
            pass(state);
        }
    }
}
