//! What a message is to the broker: its quality of service, its payload type, what a publisher says and what a
//! subscriber is given. Bytes stay where they lie; see [`crate::broker::rows::record`] for the stored form.

use serde::{Deserialize, Serialize};

use super::rows::record::{Origin, Record};

/// Quality of service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize, Default)]
#[repr(u8)]
pub enum Qos {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl Qos {
    /// The value of the two bits; `None` for 3.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// What a payload is said to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, Default)]
#[repr(u8)]
pub enum PayloadType {
    /// Bytes.
    #[default]
    Binary = 0,
    /// UTF-8 text.
    Utf8 = 1,
    /// JSON text.
    Json = 2,
    /// Another name, which stands in the record's extras.
    Named = 3,
}

impl PayloadType {
    /// From the stored byte; an unknown one is binary.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Utf8,
            2 => Self::Json,
            3 => Self::Named,
            _ => Self::Binary,
        }
    }
}

/// A message as its publisher gives it; the broker adds who that is.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// Quality of service.
    pub qos: Qos,
    /// Make it the topic's retained message (or clear that, with an empty payload).
    pub retain: bool,
    /// Payload Format Indicator 1.
    pub payload_utf8: bool,
    /// Seconds until it expires.
    pub expiry: Option<u32>,
    /// What the payload is.
    pub payload_type: PayloadType,
    /// Raw MQTT 5 bytes of content type, response topic, correlation data, user properties.
    pub properties: &'a [u8],
    /// A row with what MQTT cannot carry (HTTP only).
    pub extras: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    pub(super) fn record(&self, origin: Origin, publisher: &'a str, account: &'a str) -> Record<'a> {
        Record {
            qos: self.qos,
            retain: self.retain,
            payload_utf8: self.payload_utf8,
            expiry: self.expiry,
            origin,
            payload_type: self.payload_type,
            publisher,
            account,
            properties: self.properties,
            extras: self.extras,
            payload: self.payload,
        }
    }
}

/// A message on its way to a subscriber.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its position in the topic.
    pub position: u64,
    /// When it was accepted, ms since 1970 UTC.
    pub time: i64,
    /// The quality of service of this delivery.
    pub qos: Qos,
    /// For `QoS` 1 and 2.
    pub packet_id: Option<u16>,
    /// It may have been sent before.
    pub dup: bool,
    /// RETAIN as this subscriber gets it.
    pub retain: bool,
    /// Delivered because it was retained when the subscription was made.
    pub retained: bool,
    /// It has expired, and the subscriber wants it all the same.
    pub expired: bool,
    /// Seconds left.
    pub expiry_left: Option<u32>,
    /// Identifiers of the subscriptions that apply, ascending.
    pub subscription_ids: &'a [u32],
    /// The message.
    pub record: Record<'a>,
}
