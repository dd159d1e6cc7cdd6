//! Handing out what a session takes from its share groups.

use super::Puller;
use crate::broker::inflight::{Exchange, Outgoing};
use crate::broker::message::Delivery;
use crate::broker::rows::record::Record;
use crate::broker::shared_group::Waiting;
use crate::broker::subscription::SubscriptionOptions;
use crate::broker::topic_filter::TopicFilter;
use crate::store::{ReadBuf, ReadRecord};

/// Messages a session takes from a share group at once.
const GROUP_TAKE_MAX: usize = 64;

impl Puller<'_> {
    /// Takes messages of the session's share groups, within its window. `true`: there may be more.
    pub(super) async fn pull_shared(&mut self, buf: &mut ReadBuf) -> bool {
        let filters: Vec<_> = {
            let state = self.session.state.lock();
            if state.link.is_none() || state.subscriptions.shared.is_empty() {
                return false;
            }
            state
                .subscriptions
                .shared
                .iter()
                .map(|held| (held.filter.clone(), held.options.clone()))
                .collect()
        };
        let mut more = false;
        for (filter, options) in filters {
            let Some(group) = self.shared.groups.get(&filter) else {
                continue;
            };
            let room = {
                let state = self.session.state.lock();
                let link = state.link.as_ref().filter(|_| state.epoch == self.epoch);
                link.map_or(0, |link| link.receive_maximum.saturating_sub(link.outstanding))
            };
            if room == 0 {
                group.pass_on(self.session.id);
                continue;
            }
            let mut taken = group.take(self.shared, self.session.id, room.min(GROUP_TAKE_MAX)).await;
            more |= !taken.is_empty();
            self.took_shared |= !taken.is_empty();
            while let Some(one) = taken.peek() {
                let read = match self.shared.read_one(one.log, one.position, buf).await {
                    Ok(read) => read,
                    // What was taken and not passed goes back to the group.
                    Err(error) => return self.cannot_read(&error),
                };
                if self.hand_shared(&filter, &options, &one, read.as_ref().map(|record| (record, &*buf))) {
                    group.acked(one.log, one.position);
                }
                taken.pass();
            }
        }
        more
    }

    /// Hands out one message of a share group. `true`: the group is done with it; else it is in flight, or went back.
    fn hand_shared(
        &mut self,
        filter: &TopicFilter,
        options: &SubscriptionOptions,
        one: &Waiting,
        read: Option<(&ReadRecord, &ReadBuf)>,
    ) -> bool {
        let mut state = self.session.state.lock();
        let state = &mut *state;
        let give_back = || {
            if let Some(group) = self.shared.groups.get(filter) {
                group.give_back(one.log, one.position);
            }
            false
        };
        if state.epoch != self.epoch || state.link.is_none() {
            return give_back();
        }
        let Some(topic) = self.shared.topics.by_log(one.log) else {
            return true;
        };
        let Some((time, record)) = read.and_then(|(read, buf)| Some((read.time, Record::parse(buf.body(read))?)))
        else {
            return true;
        };
        let expired = record.expired(time, self.now_ms);
        if expired && !options.include_expired {
            return true;
        }
        let qos = record.qos.min(options.qos);
        let identifiers: smallvec::SmallVec<[u32; 1]> = options.identifier.into_iter().collect();
        let mut delivery = Delivery {
            topic: &topic.name,
            position: one.position.0,
            time,
            qos,
            packet_id: None,
            dup: false,
            retain: record.retain && options.retain_as_published,
            retained: false,
            expired,
            expiry_left: record.expiry_left(time, self.now_ms),
            subscription_ids: &identifiers,
            record,
        };
        let outgoing = Outgoing {
            log: one.log,
            position: one.position,
            qos,
            retained: false,
            exchange: Exchange::Sent,
        };
        if !self.send(state, &mut delivery, outgoing) {
            return give_back();
        }
        match delivery.packet_id.filter(|id| state.inflight.get(*id).is_some()) {
            Some(id) => {
                state.group_ids.insert(id, filter.clone());
                false
            }
            None => true,
        }
    }
}
