//! Sending again after a reconnect: unacknowledged messages first, in their old order, with their old ids.

use super::{Need, Puller};
use crate::broker::inflight::{Exchange, Outgoing};
use crate::broker::message::Delivery;
use crate::broker::rows::record::Record;
use crate::broker::session::SessionState;
use crate::store::{Mark, ReadBuf, ReadRecord};

impl Puller<'_> {
    pub(super) fn next_resend(&mut self, state: &mut SessionState) -> Option<Need> {
        let link = state.link.as_mut()?;
        // Every PUBREL first: no quota holds one up (v5 [MQTT-3.3.4-10]), though its exchange counts until PUBCOMP.
        while let Some(id) = link.release.pop_front() {
            let released = |outgoing: Outgoing| outgoing.exchange == Exchange::Released;
            if state.inflight.get(id).is_some_and(released) {
                self.sink.release(id);
                link.outstanding += 1;
            }
            if self.sink.is_full() {
                return Some(Need::Nothing { more: true });
            }
        }
        loop {
            let id = *link.resend.front()?;
            if link.outstanding >= link.receive_maximum {
                return Some(Need::Nothing { more: false });
            }
            match state.inflight.get(id) {
                None => {}
                // Its PUBREC has come on this connection, and was answered.
                Some(outgoing) if outgoing.exchange == Exchange::Released => link.outstanding += 1,
                Some(outgoing) => return Some(Need::Resend { id, outgoing }),
            }
            link.resend.pop_front();
        }
    }

    /// Sends a message again, with DUP and its old id; one whose record is gone is completed without.
    pub(super) fn resend(&mut self, id: u16, outgoing: &Outgoing, read: Option<(&ReadRecord, &ReadBuf)>) {
        let mut state = self.session.state.lock();
        let state = &mut *state;
        if state.epoch != self.epoch || state.inflight.get(id) != Some(*outgoing) {
            return;
        }
        let topic = self.shared.topics.by_log(outgoing.log);
        let record = read.and_then(|(read, buf)| Some((read.time, Record::parse(buf.body(read))?)));
        let sent = match (&topic, record) {
            (Some(topic), Some((time, record))) => {
                let matched = state.subscriptions.of_topic(topic);
                let applies = matched.applies(Mark::END, false);
                let retain_as_published = applies.as_ref().is_some_and(|applies| applies.retain_as_published);
                self.sink.deliver(&Delivery {
                    topic: &topic.name,
                    position: outgoing.position.0,
                    time,
                    qos: outgoing.qos,
                    packet_id: Some(id),
                    dup: true,
                    retain: outgoing.retained || record.retain && retain_as_published,
                    retained: outgoing.retained,
                    expired: false,
                    expiry_left: record.expiry_left(time, self.now_ms),
                    subscription_ids: applies.as_ref().map_or(&[], |applies| &applies.identifiers),
                    record,
                })
            }
            _ => false,
        };
        if sent {
            if let Some(link) = &mut state.link {
                link.outstanding += 1;
            }
        } else {
            state.inflight.complete(id);
            state.unsaved += 1;
            self.shared.group_acked(state, id, outgoing);
        }
        if let Some(link) = &mut state.link {
            link.resend.pop_front();
        }
    }
}
