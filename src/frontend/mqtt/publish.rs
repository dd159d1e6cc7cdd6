//! PUBLISH and its acknowledgements, both directions: what a client publishes goes to the broker, what the broker
//! hands out and answers is encoded for the client.
//!
//! Spec: sections 3.3 to 3.7, 4.3, 4.4 and 4.9.

use std::num::NonZeroU16;

use rustc_hash::FxHashSet;

use super::alias::{Naming, OutgoingAliases};
use super::connection::Client;
use super::disconnect::End;
use super::fast::{self, AckKind};
use super::frame::{Malformed, Version};
use super::packet::{self, Ack, QoS};
use super::reason::ReasonCode;
use crate::broker::connection::{PublishOutcome, Reply};
use crate::broker::delivery::DeliverySink;
use crate::broker::error::PublishRefused;
use crate::broker::message::{Delivery, PayloadType, Publish, Qos};

/// Bytes of deliveries that are gathered for one write.
const DELIVERY_BYTES: usize = 128 << 10;

/// Packet ids an idle connection keeps room for.
const IDLE_IDS_MAX: usize = 64;

/// The broker's word for a quality of service.
pub(super) const fn qos(qos: QoS) -> Qos {
    match qos {
        QoS::AtMostOnce => Qos::AtMostOnce,
        QoS::AtLeastOnce => Qos::AtLeastOnce,
        QoS::ExactlyOnce => Qos::ExactlyOnce,
    }
}

const fn wire_qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}

impl Client {
    /// Takes a message from the client.
    pub(super) fn publish(&mut self, publish: &packet::Publish<'_>) -> Result<(), Malformed> {
        let packet_id = publish.packet_id.map_or(0, NonZeroU16::get);
        self.count(publish.qos, packet_id)?;
        let topic = match publish.properties.topic_alias {
            None => publish.topic,
            Some(alias) => {
                self.incoming
                    .get_or_insert_default()
                    .resolve(alias, publish.topic, self.topic_alias_maximum)?
            }
        };
        let payload_utf8 = publish.properties.payload_utf8;
        let message = Publish {
            qos: qos(publish.qos),
            retain: publish.retain,
            payload_utf8,
            expiry: publish.properties.expiry,
            payload_type: if payload_utf8 {
                PayloadType::Utf8
            } else {
                PayloadType::Binary
            },
            properties: publish.properties.raw,
            extras: &[],
            payload: publish.payload,
        };
        if let Err(refused) = self.handle.publish(topic, packet_id, &message) {
            tracing::debug!(client = self.handle.client_name(), %refused, "a message with QoS 0 is dropped");
        }
        if let Some(alias) = publish.properties.topic_alias
            && !publish.topic.is_empty()
            && let (Some(aliases), Some(name)) = (&mut self.incoming, self.handle.last_topic())
        {
            aliases.share(alias, name);
        }
        Ok(())
    }

    /// Counts against Receive Maximum; what comes a second time counts once. Before 5.0 there is no such thing.
    /// Spec: v5 [MQTT-3.3.4-7], [MQTT-3.3.4-8].
    fn count(&mut self, qos: QoS, packet_id: u16) -> Result<(), Malformed> {
        match qos {
            QoS::AtMostOnce => return Ok(()),
            QoS::AtLeastOnce => self.at_least_once += 1,
            QoS::ExactlyOnce => {
                self.exactly_once.insert(packet_id);
            }
        }
        self.unanswered += 1;
        let open = self.at_least_once + self.exactly_once.len();
        if self.version.is_v5() && open > usize::from(self.receive_maximum) {
            return Err(Malformed::because(
                ReasonCode::ReceiveMaximumExceeded,
                "there are more unacknowledged messages than Receive Maximum allows",
            ));
        }
        Ok(())
    }

    /// PUBACK for a delivery; one that belongs to nothing is let pass.
    pub(super) fn puback(&mut self, ack: &Ack<'_>) {
        self.pull_due |= self.handle.puback(ack.packet_id.get());
    }

    /// PUBREC for a delivery.
    pub(super) fn pubrec(&mut self, ack: &Ack<'_>) {
        let refused = ack.reason.is_error();
        self.handle.pubrec(ack.packet_id.get(), refused);
        self.pull_due |= refused;
    }

    /// PUBCOMP for a delivery.
    pub(super) fn pubcomp(&mut self, ack: &Ack<'_>) {
        self.pull_due |= self.handle.pubcomp(ack.packet_id.get());
    }

    /// Encodes replies whose time has come.
    pub(super) fn encode_replies(&mut self, replies: Vec<Reply>, out: &mut Vec<u8>) -> Result<(), End> {
        for reply in replies {
            match reply {
                Reply::Puback(id, outcome) => {
                    self.at_least_once = self.at_least_once.saturating_sub(1);
                    self.published(AckKind::Puback, id, &outcome, out)?;
                }
                Reply::Pubrec(id, outcome) => {
                    // An error ends the exchange. v5 4.3.3
                    if let PublishOutcome::Refused(refused) = &outcome
                        && self.version.is_v5()
                    {
                        tracing::debug!(client = self.handle.client_name(), %refused, "a message is refused");
                        self.completed(id);
                    }
                    self.published(AckKind::Pubrec, id, &outcome, out)?;
                }
                Reply::Pubrel(id, known) => self.answer(AckKind::Pubrel, id, found(known), None, out),
                Reply::Pubcomp(id, known) => {
                    self.completed(id);
                    self.answer(AckKind::Pubcomp, id, found(known), None, out);
                }
                Reply::Suback(id, results) => self.suback(id, &results, out)?,
                Reply::Unsuback(id, results) => self.unsuback(id, &results, out)?,
            }
        }
        Ok(())
    }

    fn completed(&mut self, packet_id: u16) {
        self.exactly_once.remove(&packet_id);
        if self.exactly_once.is_empty() && self.exactly_once.capacity() > IDLE_IDS_MAX {
            self.exactly_once = FxHashSet::default();
        }
    }

    /// PUBACK or PUBREC. MQTT 3.1.1 cannot refuse a message: it is acknowledged without effect if it can never
    /// succeed, and the connection ends if it may succeed later.
    fn published(
        &mut self,
        kind: AckKind,
        packet_id: u16,
        outcome: &PublishOutcome,
        out: &mut Vec<u8>,
    ) -> Result<(), End> {
        self.unanswered = self.unanswered.saturating_sub(1);
        match outcome {
            PublishOutcome::Accepted => self.answer(kind, packet_id, ReasonCode::Success, None, out),
            PublishOutcome::NoMatchingSubscribers => {
                self.answer(kind, packet_id, ReasonCode::NoMatchingSubscribers, None, out);
            }
            PublishOutcome::Refused(refused) => {
                let reason = ReasonCode::from(refused);
                if !self.version.is_v5() && matches!(refused, PublishRefused::Store(_)) {
                    return Err(End::Refused(Malformed::because(reason, "the store takes no messages")));
                }
                self.answer(kind, packet_id, reason, Some(refused), out);
            }
        }
        Ok(())
    }

    fn answer(
        &self,
        kind: AckKind,
        packet_id: u16,
        reason: ReasonCode,
        refused: Option<&PublishRefused>,
        out: &mut Vec<u8>,
    ) {
        let Some(packet_id) = NonZeroU16::new(packet_id) else {
            return;
        };
        match refused {
            Some(refused) if self.problem_information => {
                let text = refused.to_string();
                fast::encode_ack_explained(out, self.version, kind, packet_id, reason, &text, self.bytes_max);
            }
            _ => fast::encode_ack(out, self.version, kind, packet_id, reason),
        }
    }
}

const fn found(known: bool) -> ReasonCode {
    if known {
        ReasonCode::Success
    } else {
        ReasonCode::PacketIdentifierNotFound
    }
}

/// Encodes what the broker hands out.
pub(super) struct Sink<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    version: Version,
    bytes_max: u32,
    aliases: Option<&'a mut OutgoingAliases>,
}

impl<'a> Sink<'a> {
    /// Appends to `out`.
    pub(super) fn new(
        out: &'a mut Vec<u8>,
        version: Version,
        bytes_max: u32,
        aliases: Option<&'a mut OutgoingAliases>,
    ) -> Self {
        Self {
            start: out.len(),
            out,
            version,
            bytes_max,
            aliases,
        }
    }

    /// Where the first delivery begins.
    pub(super) const fn start(&self) -> usize {
        self.start
    }

    fn encode(&mut self, delivery: &fast::Delivery<'_>) -> bool {
        fast::encode_publish(self.out, self.version, delivery, self.bytes_max).is_some()
    }
}

impl DeliverySink for Sink<'_> {
    fn deliver(&mut self, delivery: &Delivery<'_>) -> bool {
        let named = fast::Delivery {
            dup: delivery.dup,
            qos: wire_qos(delivery.qos),
            // Before 5.0 nobody can ask for the flag as it was published. v3.1.1 [MQTT-3.3.1-9]
            retain: delivery.retain && (delivery.retained || self.version.is_v5()),
            topic: delivery.topic.as_bytes(),
            packet_id: delivery.packet_id.unwrap_or(0),
            subscription_ids: delivery.subscription_ids,
            expiry: delivery.expiry_left,
            payload_utf8: delivery.record.payload_utf8,
            topic_alias: None,
            raw: delivery.record.properties,
            payload: delivery.record.payload,
        };
        match self
            .aliases
            .as_deref_mut()
            .map_or(Naming::Name, |aliases| aliases.naming(delivery.topic))
        {
            Naming::Name => self.encode(&named),
            Naming::Alias(alias) => self.encode(&fast::Delivery {
                topic: &[],
                topic_alias: Some(alias),
                ..named
            }),
            Naming::Both(alias) => {
                if !self.encode(&fast::Delivery {
                    topic_alias: Some(alias),
                    ..named
                }) {
                    // Without the alias it may still be small enough.
                    return self.encode(&named);
                }
                if let Some(aliases) = &mut self.aliases {
                    aliases.sent(delivery.topic, alias);
                }
                true
            }
        }
    }

    fn release(&mut self, packet_id: u16) {
        if let Some(packet_id) = NonZeroU16::new(packet_id) {
            fast::encode_ack(self.out, self.version, AckKind::Pubrel, packet_id, ReasonCode::Success);
        }
    }

    fn is_full(&self) -> bool {
        self.out.len() - self.start >= DELIVERY_BYTES
    }
}
