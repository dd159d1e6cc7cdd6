//! PUBLISH and its four acknowledgements, in place: what comes with every message. No allocation, no copy of a
//! payload but the one into the output. ntex-mqtt's decoder is the oracle in the tests.
//!
//! **Invariants**
//! - Every rule of the specification that needs no connection state is checked while decoding.
//! - Nothing is appended for a packet that may not be sent: too large for its receiver.

use std::num::NonZeroU16;

use super::frame::{Frame, Malformed, PACKET_BYTES_MAX, Reader, Version, check_flags, put_variable, variable_bytes};
use super::packet::{Ack, Publish, QoS};
use super::property::{self, MessageProperties, Place, id};
use super::reason::ReasonCode;

/// Checks and decodes a PUBLISH. Spec: section 3.3 of both versions.
pub fn publish<'a>(frame: &Frame<'a>, version: Version, scratch: &'a mut Vec<u8>) -> Result<Publish<'a>, Malformed> {
    let qos = QoS::from_bits(frame.flags >> 1).ok_or(Malformed::packet("a PUBLISH has QoS 3"))?;
    let dup = frame.flags & 0b1000 != 0;
    // v5 and v3.1.1 [MQTT-3.3.1-2]
    if dup && qos == QoS::AtMostOnce {
        return Err(Malformed::packet("DUP is set on a PUBLISH with QoS 0"));
    }
    let mut reader = Reader::new(frame.body);
    let topic = reader.topic_name()?;
    let packet_id = if qos == QoS::AtMostOnce {
        None
    } else {
        Some(reader.packet_id()?)
    };
    let properties = if version.is_v5() {
        property::split(reader.properties()?, Place::Publish, scratch)?
    } else {
        MessageProperties::default()
    };
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(if version.is_v5() {
            Malformed::protocol("a PUBLISH has neither topic nor topic alias")
        } else {
            Malformed::packet("a PUBLISH has no topic")
        });
    }
    Ok(Publish {
        dup,
        qos,
        retain: frame.flags & 1 != 0,
        topic,
        packet_id,
        properties,
        payload: reader.rest(),
    })
}

/// Checks and decodes a PUBACK, PUBREC, PUBREL or PUBCOMP. Spec: sections 3.4 to 3.7 of both versions.
pub fn ack<'a>(frame: &Frame<'a>, version: Version) -> Result<Ack<'a>, Malformed> {
    check_flags(frame, version)?;
    let mut reader = Reader::new(frame.body);
    let packet_id = reader.packet_id()?;
    let mut ack = Ack {
        packet_id,
        reason: ReasonCode::Success,
        properties: &[],
    };
    if version.is_v5() && !reader.is_empty() {
        let reason = reader.byte()?;
        let legal = if matches!(frame.kind, super::frame::Kind::Puback | super::frame::Kind::Pubrec) {
            matches!(reason, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
        } else {
            matches!(reason, 0x00 | 0x92)
        };
        ack.reason = ReasonCode::from_byte(reason)
            .filter(|_| legal)
            .ok_or(Malformed::packet("an acknowledgement cannot have this reason code"))?;
        if !reader.is_empty() {
            ack.properties = reader.properties()?;
            property::check(ack.properties, Place::Ack)?;
        }
    }
    reader.end()?;
    Ok(ack)
}

/// Which acknowledgement, by its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum AckKind {
    /// The server has a `QoS` 1 message.
    Puback = 0x40,
    /// The server has a `QoS` 2 message.
    Pubrec = 0x50,
    /// The server releases a `QoS` 2 message it sent.
    Pubrel = 0x62,
    /// The server has let go of a `QoS` 2 message.
    Pubcomp = 0x70,
}

/// Appends an acknowledgement: 4 bytes, or 5 with a reason other than success in MQTT 5.0. MQTT 3.1.1 cannot say why.
pub fn encode_ack(out: &mut Vec<u8>, version: Version, kind: AckKind, packet_id: NonZeroU16, reason: ReasonCode) {
    let [high, low] = packet_id.get().to_be_bytes();
    if version.is_v5() && reason != ReasonCode::Success {
        out.extend_from_slice(&[kind as u8, 3, high, low, reason.byte()]);
    } else {
        out.extend_from_slice(&[kind as u8, 2, high, low]);
    }
}

/// Appends an acknowledgement with a reason string, which is left out if MQTT 3.1.1 is spoken or the packet would
/// exceed `bytes_max`. Only for clients that requested problem information.
pub fn encode_ack_explained(
    out: &mut Vec<u8>,
    version: Version,
    kind: AckKind,
    packet_id: NonZeroU16,
    reason: ReasonCode,
    reason_string: &str,
    bytes_max: u32,
) {
    let block = 3 + reason_string.len();
    let remaining = 3 + variable_bytes(block as u32) + block;
    let length = 1 + variable_bytes(remaining as u32) + remaining;
    if !version.is_v5() || reason_string.len() > usize::from(u16::MAX) || length > bytes_max as usize {
        encode_ack(out, version, kind, packet_id, reason);
        return;
    }
    out.push(kind as u8);
    put_variable(out, remaining as u32);
    out.extend_from_slice(&packet_id.get().to_be_bytes());
    out.push(reason.byte());
    put_variable(out, block as u32);
    property::put_bytes(out, id::REASON_STRING, reason_string.as_bytes());
}

/// Appends a PINGRESP.
pub fn encode_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// A message on its way to a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivery<'a> {
    /// It may have been sent before.
    pub dup: bool,
    /// Quality of service of this delivery.
    pub qos: QoS,
    /// The retain flag of this delivery.
    pub retain: bool,
    /// Its topic, or nothing if the client knows the alias.
    pub topic: &'a [u8],
    /// For `QoS` 1 and 2; 0 in a template that [`Placed::set`] completes.
    pub packet_id: u16,
    /// Identifiers of the subscriptions that match.
    pub subscription_ids: &'a [u32],
    /// Remaining seconds, rounded up.
    pub expiry: Option<u32>,
    /// The payload is UTF-8.
    pub payload_utf8: bool,
    /// Stands for the topic, from now on if the topic is named too.
    pub topic_alias: Option<NonZeroU16>,
    /// Raw content type, response topic, correlation data and user properties, as stored.
    pub raw: &'a [u8],
    /// The message.
    pub payload: &'a [u8],
}

/// Where the parts of an encoded PUBLISH lie that differ from receiver to receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Its first byte.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
    /// Its packet id, if it has one.
    packet_id: Option<usize>,
}

impl Placed {
    /// Completes a packet with `QoS` 1 or 2 encoded as a template, or a copy of one that lies `moved` bytes behind it.
    pub fn set(&self, out: &mut [u8], moved: usize, packet_id: NonZeroU16, dup: bool) {
        if let Some(first) = out.get_mut(self.start + moved) {
            *first = *first & !0b1000 | u8::from(dup) << 3;
        }
        let at = self.packet_id.map(|at| at + moved..at + moved + 2);
        if let Some(place) = at.and_then(|at| out.get_mut(at)) {
            place.copy_from_slice(&packet_id.get().to_be_bytes());
        }
    }
}

/// Appends a PUBLISH and tells where its parts lie. `None`, and nothing appended, if it would be larger than
/// `bytes_max` or than the protocol can say: then it is passed over as if delivered. Spec: v5 [MQTT-3.1.2-24, -25].
///
/// Before MQTT 5.0 everything that is a property is left out.
pub fn encode_publish(out: &mut Vec<u8>, version: Version, delivery: &Delivery<'_>, bytes_max: u32) -> Option<Placed> {
    let topic_length = u16::try_from(delivery.topic.len()).ok()?;
    let has_id = delivery.qos != QoS::AtMostOnce;
    let block = if version.is_v5() {
        usize::from(delivery.payload_utf8) * 2
            + delivery.expiry.map_or(0, |_| 5)
            + delivery.topic_alias.map_or(0, |_| 3)
            + delivery.raw.len()
            + delivery
                .subscription_ids
                .iter()
                .map(|&identifier| 1 + variable_bytes(identifier))
                .sum::<usize>()
    } else {
        0
    };
    let block_length = if version.is_v5() {
        variable_bytes(u32::try_from(block).ok()?)
    } else {
        0
    };
    let remaining = 2 + delivery.topic.len() + usize::from(has_id) * 2 + block_length + block + delivery.payload.len();
    let length = 1 + variable_bytes(u32::try_from(remaining).ok()?) + remaining;
    if length > bytes_max.min(PACKET_BYTES_MAX) as usize {
        return None;
    }
    let start = out.len();
    out.reserve(length);
    out.push(0x30 | u8::from(delivery.dup && has_id) << 3 | (delivery.qos as u8) << 1 | u8::from(delivery.retain));
    put_variable(out, remaining as u32);
    out.extend_from_slice(&topic_length.to_be_bytes());
    out.extend_from_slice(delivery.topic);
    let packet_id = has_id.then_some(out.len());
    if has_id {
        out.extend_from_slice(&delivery.packet_id.to_be_bytes());
    }
    if version.is_v5() {
        put_variable(out, block as u32);
        for &identifier in delivery.subscription_ids {
            property::put_identifier(out, id::SUBSCRIPTION_IDENTIFIER, identifier);
        }
        if delivery.payload_utf8 {
            property::put_byte(out, id::PAYLOAD_FORMAT_INDICATOR, 1);
        }
        if let Some(seconds) = delivery.expiry {
            property::put_u32(out, id::MESSAGE_EXPIRY_INTERVAL, seconds);
        }
        if let Some(alias) = delivery.topic_alias {
            property::put_u16(out, id::TOPIC_ALIAS, alias.get());
        }
        out.extend_from_slice(delivery.raw);
    }
    out.extend_from_slice(delivery.payload);
    Some(Placed {
        start,
        end: out.len(),
        packet_id,
    })
}
