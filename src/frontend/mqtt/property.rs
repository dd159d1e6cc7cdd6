//! MQTT 5.0 properties: which there are, where each may stand, how they are read one by one and written.
//!
//! A message keeps four kinds of property as raw bytes in their order ([`split`]): content type, response topic,
//! correlation data and user properties. They are stored and passed on untouched.
//!
//! **Invariants**
//! - A block that was walked to its end holds only properties that exist, belong there, have a legal value and stand
//!   once, unless they may repeat. Spec: v5 section 2.2.2.

use std::num::NonZeroU16;

use super::frame::{Malformed, Reader, put_variable};
use super::reason::ReasonCode;

/// Property identifiers.
pub mod id {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    pub const AUTHENTICATION_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1A;
    pub const SERVER_REFERENCE: u8 = 0x1C;
    pub const REASON_STRING: u8 = 0x1F;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER_PROPERTY: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_IDENTIFIERS_AVAILABLE: u8 = 0x29;
    pub const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// Where a client can put properties; a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Place {
    /// CONNECT.
    Connect = 1,
    /// The will in CONNECT.
    Will = 2,
    /// PUBLISH.
    Publish = 4,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Ack = 8,
    /// SUBSCRIBE.
    Subscribe = 16,
    /// UNSUBSCRIBE.
    Unsubscribe = 32,
    /// DISCONNECT.
    Disconnect = 64,
    /// AUTH.
    Auth = 128,
}

/// A property's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// A byte.
    Byte(u8),
    /// A two byte integer.
    Two(u16),
    /// A four byte integer.
    Four(u32),
    /// A variable byte integer.
    Variable(u32),
    /// A string.
    Text(&'a str),
    /// Binary data.
    Binary(&'a [u8]),
    /// A pair of strings.
    Pair(&'a str, &'a str),
}

/// One property of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Property<'a> {
    /// Its identifier.
    pub id: u8,
    /// Its value.
    pub value: Value<'a>,
    /// Where identifier and value begin in the block.
    pub start: usize,
    /// Where they end.
    pub end: usize,
}

#[derive(Clone, Copy)]
enum Type {
    Flag,
    Two,
    Four,
    Variable,
    Text,
    Topic,
    Binary,
    Pair,
}

const fn bit(place: Place) -> u8 {
    place as u8
}

/// Type and places of the properties a client may send; the rest belongs to the server alone.
const fn known(identifier: u8) -> Option<(Type, u8)> {
    use Place::{Ack, Auth, Connect, Disconnect, Publish, Subscribe, Will};
    const MESSAGE: u8 = bit(Publish) | bit(Will);
    Some(match identifier {
        id::PAYLOAD_FORMAT_INDICATOR => (Type::Flag, MESSAGE),
        id::MESSAGE_EXPIRY_INTERVAL => (Type::Four, MESSAGE),
        id::CONTENT_TYPE => (Type::Text, MESSAGE),
        id::RESPONSE_TOPIC => (Type::Topic, MESSAGE),
        id::CORRELATION_DATA => (Type::Binary, MESSAGE),
        // In a PUBLISH only the server's; told apart from a wrong identifier, see `Properties::next`.
        id::SUBSCRIPTION_IDENTIFIER => (Type::Variable, bit(Subscribe) | bit(Publish)),
        id::SESSION_EXPIRY_INTERVAL => (Type::Four, bit(Connect) | bit(Disconnect)),
        id::AUTHENTICATION_METHOD => (Type::Text, bit(Connect) | bit(Auth)),
        id::AUTHENTICATION_DATA => (Type::Binary, bit(Connect) | bit(Auth)),
        id::REQUEST_PROBLEM_INFORMATION | id::REQUEST_RESPONSE_INFORMATION => (Type::Flag, bit(Connect)),
        id::WILL_DELAY_INTERVAL => (Type::Four, bit(Will)),
        id::REASON_STRING => (Type::Text, bit(Ack) | bit(Disconnect) | bit(Auth)),
        id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM => (Type::Two, bit(Connect)),
        id::TOPIC_ALIAS => (Type::Two, bit(Publish)),
        id::USER_PROPERTY => (Type::Pair, u8::MAX),
        id::MAXIMUM_PACKET_SIZE => (Type::Four, bit(Connect)),
        _ => return None,
    })
}

/// The properties of one block, checked as they are read.
#[derive(Clone, Copy, Debug)]
pub struct Properties<'a> {
    reader: Reader<'a>,
    length: usize,
    place: Place,
    seen: u64,
}

impl<'a> Properties<'a> {
    /// Reads `block`, which stands at `place`, without its length.
    pub const fn new(block: &'a [u8], place: Place) -> Self {
        Self {
            reader: Reader::new(block),
            length: block.len(),
            place,
            seen: 0,
        }
    }

    /// The next property, or `None` at the end of the block.
    #[expect(
        clippy::should_implement_trait,
        reason = "an error ends it, which an iterator would not"
    )]
    pub fn next(&mut self) -> Result<Option<Property<'a>>, Malformed> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let start = self.length - self.reader.rest().len();
        // Identifiers are variable byte integers whose values all fit one byte.
        let identifier = self.reader.byte()?;
        let Some((kind, places)) = known(identifier) else {
            return Err(Malformed::packet("a property does not exist or is only the server's"));
        };
        if places & bit(self.place) == 0 {
            return Err(Malformed::packet("a property does not belong to its packet"));
        }
        if identifier != id::USER_PROPERTY {
            let mark = 1_u64 << identifier;
            if self.seen & mark != 0 {
                return Err(Malformed::protocol("a property stands twice"));
            }
            self.seen |= mark;
        }
        let value = match kind {
            Type::Flag => match self.reader.byte()? {
                flag @ 0..=1 => Value::Byte(flag),
                _ => {
                    return Err(Malformed::protocol(
                        "a property with the values 0 and 1 has another one",
                    ));
                }
            },
            Type::Two => Value::Two(self.reader.u16()?),
            Type::Four => Value::Four(self.reader.u32()?),
            Type::Variable => Value::Variable(self.reader.variable()?),
            Type::Text => Value::Text(self.reader.text()?),
            Type::Topic => Value::Text(self.reader.topic_name()?),
            Type::Binary => Value::Binary(self.reader.binary()?),
            Type::Pair => Value::Pair(self.reader.text()?, self.reader.text()?),
        };
        match (identifier, value) {
            // v5 [MQTT-3.3.4-6]
            (id::SUBSCRIPTION_IDENTIFIER, _) if self.place == Place::Publish => {
                return Err(Malformed::protocol("a client's PUBLISH has a subscription identifier"));
            }
            (id::SUBSCRIPTION_IDENTIFIER, Value::Variable(0)) => {
                return Err(Malformed::protocol("the subscription identifier is 0"));
            }
            (id::RECEIVE_MAXIMUM, Value::Two(0)) => return Err(Malformed::protocol("Receive Maximum is 0")),
            (id::MAXIMUM_PACKET_SIZE, Value::Four(0)) => {
                return Err(Malformed::protocol("Maximum Packet Size is 0"));
            }
            (id::TOPIC_ALIAS, Value::Two(0)) => {
                return Err(Malformed::because(
                    ReasonCode::TopicAliasInvalid,
                    "the topic alias is 0",
                ));
            }
            _ => {}
        }
        Ok(Some(Property {
            id: identifier,
            value,
            start,
            end: self.length - self.reader.rest().len(),
        }))
    }
}

/// Checks a whole block.
pub fn check(block: &[u8], place: Place) -> Result<(), Malformed> {
    let mut properties = Properties::new(block, place);
    while properties.next()?.is_some() {}
    Ok(())
}

/// The properties of a PUBLISH or will: what the broker acts on, and the rest as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MessageProperties<'a> {
    /// The payload is UTF-8.
    pub payload_utf8: bool,
    /// Message Expiry Interval, seconds. 0 is legal: expired on arrival.
    pub expiry: Option<u32>,
    /// Topic Alias.
    pub topic_alias: Option<NonZeroU16>,
    /// Will Delay Interval, seconds.
    pub will_delay: u32,
    /// Raw content type, response topic, correlation data and user properties, in their order.
    pub raw: &'a [u8],
}

/// Splits the property block of a PUBLISH or a will, checking it. Allocates nothing: what is passed on is a slice of
/// the block if it stands together, as nearly always, and is gathered in `scratch` if not.
pub fn split<'a>(block: &'a [u8], place: Place, scratch: &'a mut Vec<u8>) -> Result<MessageProperties<'a>, Malformed> {
    let mut split = MessageProperties::default();
    if block.is_empty() {
        return Ok(split);
    }
    let mut run = 0..0;
    let mut gathered = false;
    let mut properties = Properties::new(block, place);
    while let Some(property) = properties.next()? {
        match (property.id, property.value) {
            (id::PAYLOAD_FORMAT_INDICATOR, Value::Byte(flag)) => split.payload_utf8 = flag == 1,
            (id::MESSAGE_EXPIRY_INTERVAL, Value::Four(seconds)) => split.expiry = Some(seconds),
            (id::WILL_DELAY_INTERVAL, Value::Four(seconds)) => split.will_delay = seconds,
            (id::TOPIC_ALIAS, Value::Two(alias)) => split.topic_alias = NonZeroU16::new(alias),
            _ if run.is_empty() => run = property.start..property.end,
            _ => {
                if run.end != property.start && !gathered {
                    scratch.clear();
                    scratch.extend_from_slice(block.get(run.clone()).unwrap_or_default());
                    gathered = true;
                }
                if gathered {
                    scratch.extend_from_slice(block.get(property.start..property.end).unwrap_or_default());
                }
                run.end = property.end;
            }
        }
    }
    split.raw = if gathered {
        scratch
    } else {
        block.get(run).unwrap_or_default()
    };
    Ok(split)
}

/// Appends a property with a byte.
pub fn put_byte(out: &mut Vec<u8>, identifier: u8, value: u8) {
    out.extend_from_slice(&[identifier, value]);
}

/// Appends a property with a two byte integer.
pub fn put_u16(out: &mut Vec<u8>, identifier: u8, value: u16) {
    out.push(identifier);
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a property with a four byte integer.
pub fn put_u32(out: &mut Vec<u8>, identifier: u8, value: u32) {
    out.push(identifier);
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a property with a variable byte integer.
pub fn put_identifier(out: &mut Vec<u8>, identifier: u8, value: u32) {
    out.push(identifier);
    put_variable(out, value);
}

/// Appends a property with a string or binary data; one longer than a property can be is left out.
pub fn put_bytes(out: &mut Vec<u8>, identifier: u8, value: &[u8]) {
    if let Ok(length) = u16::try_from(value.len()) {
        out.push(identifier);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
}

/// Appends a user property; one longer than a property can be is left out.
pub fn put_pair(out: &mut Vec<u8>, name: &str, value: &str) {
    if let (Ok(name_length), Ok(value_length)) = (u16::try_from(name.len()), u16::try_from(value.len())) {
        out.push(id::USER_PROPERTY);
        out.extend_from_slice(&name_length.to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&value_length.to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_keeps_its_order_and_its_bytes() {
        let mut together = Vec::new();
        put_pair(&mut together, "z", "1");
        put_bytes(&mut together, id::CONTENT_TYPE, b"text");
        put_pair(&mut together, "a", "");
        put_pair(&mut together, "z", "2");

        let mut block = Vec::new();
        put_byte(&mut block, id::PAYLOAD_FORMAT_INDICATOR, 1);
        block.extend_from_slice(&together);
        put_u32(&mut block, id::MESSAGE_EXPIRY_INTERVAL, 0);
        let mut scratch = Vec::new();
        let split_block = split(&block, Place::Publish, &mut scratch).unwrap();
        assert_eq!(split_block.raw, together);
        assert!(split_block.payload_utf8);
        assert_eq!(split_block.expiry, Some(0));
        assert!(scratch.is_empty(), "a block that stands together is not copied");

        let mut scattered = Vec::new();
        put_pair(&mut scattered, "z", "1");
        put_u16(&mut scattered, id::TOPIC_ALIAS, 7);
        put_bytes(&mut scattered, id::CONTENT_TYPE, b"text");
        put_pair(&mut scattered, "a", "");
        put_u32(&mut scattered, id::MESSAGE_EXPIRY_INTERVAL, 9);
        put_pair(&mut scattered, "z", "2");
        let split_block = split(&scattered, Place::Publish, &mut scratch).unwrap();
        assert_eq!(split_block.raw, together);
        assert_eq!(split_block.topic_alias, NonZeroU16::new(7));
        assert_eq!(split_block.expiry, Some(9));
    }

    #[test]
    fn properties_are_refused_outside_their_places() {
        let mut alias = Vec::new();
        put_u16(&mut alias, id::TOPIC_ALIAS, 1);
        let places = [
            Place::Connect,
            Place::Will,
            Place::Ack,
            Place::Subscribe,
            Place::Unsubscribe,
            Place::Disconnect,
            Place::Auth,
        ];
        assert_eq!(check(&alias, Place::Publish), Ok(()));
        for place in places {
            assert!(check(&alias, place).is_err(), "{place:?}");
        }
    }
}
