//! What arrives and what is sent, in our own types. What comes with every message borrows from the frame; what comes
//! once per connection or subscription owns its parts.
//!
//! **Invariants**
//! - A packet handed out by [`next`] has passed every check that needs no state of the connection.

use std::num::NonZeroU16;

use super::fast;
use super::frame::{Cut, Frame, Kind, Malformed, Version, check_flags, cut};
use super::property::MessageProperties;
use super::reason::ReasonCode;
use super::{rules, v3, v5};

/// Quality of service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum QoS {
    /// 0.
    #[default]
    AtMostOnce = 0,
    /// 1.
    AtLeastOnce = 1,
    /// 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// Of the two lower bits; 3 does not exist.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// User properties, in their order.
pub type UserProperties = Vec<(String, String)>;

/// A packet from a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet<'a> {
    /// The first packet of a connection.
    Connect(Box<Connect>),
    /// A message.
    Publish(Publish<'a>),
    /// The client has a `QoS` 1 message.
    Puback(Ack<'a>),
    /// The client has a `QoS` 2 message.
    Pubrec(Ack<'a>),
    /// The client releases a `QoS` 2 message it sent.
    Pubrel(Ack<'a>),
    /// The client has let go of a `QoS` 2 message.
    Pubcomp(Ack<'a>),
    /// Subscriptions to make.
    Subscribe(Box<Subscribe>),
    /// Subscriptions to end.
    Unsubscribe(Box<Unsubscribe>),
    /// A sign of life, to be answered.
    Pingreq,
    /// The last packet of a connection.
    Disconnect(Box<Disconnect>),
    /// A step of enhanced authentication.
    Auth(Box<Auth>),
}

/// CONNECT. What MQTT 3.1.1 cannot say has the value that says the same in 5.0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connect {
    /// The version of this connection.
    pub version: Version,
    /// Clean Start, or Clean Session.
    pub clean_start: bool,
    /// Seconds; 0 is none.
    pub keep_alive: u16,
    /// Empty: the server assigns one.
    pub client_id: String,
    /// For authentication.
    pub username: Option<String>,
    /// For authentication.
    pub password: Option<Vec<u8>>,
    /// What is published if the client goes without leave.
    pub will: Option<Will>,
    /// Seconds; `u32::MAX` is never. MQTT 3.1.1: 0 for a clean session, else never.
    pub session_expiry: u32,
    /// `QoS` 1 and 2 messages the client takes at once.
    pub receive_maximum: NonZeroU16,
    /// Largest packet the client takes; `u32::MAX` if it did not say.
    pub maximum_packet_size: u32,
    /// Topic aliases the client takes; 0 is none.
    pub topic_alias_maximum: u16,
    /// Whether CONNACK may have response information.
    pub request_response_information: bool,
    /// Whether packets other than PUBLISH, CONNACK and DISCONNECT may have a reason string and user properties.
    pub request_problem_information: bool,
    /// In their order.
    pub user_properties: UserProperties,
    /// Enhanced authentication.
    pub authentication_method: Option<String>,
    /// Enhanced authentication.
    pub authentication_data: Option<Vec<u8>>,
}

/// The will in a CONNECT.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Will {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// Quality of service.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// Seconds between the end of the connection and the publish.
    pub delay: u32,
    /// Message Expiry Interval, seconds; 0 is legal.
    pub expiry: Option<u32>,
    /// The payload is UTF-8.
    pub payload_utf8: bool,
    /// Raw content type, response topic, correlation data and user properties, in their order.
    pub properties: Vec<u8>,
}

/// PUBLISH from a client, in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publish<'a> {
    /// It may have been sent before.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// Its topic; empty if only the alias names it.
    pub topic: &'a str,
    /// For `QoS` 1 and 2.
    pub packet_id: Option<NonZeroU16>,
    /// MQTT 5.0; empty before.
    pub properties: MessageProperties<'a>,
    /// The message.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP from a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack<'a> {
    /// Whose.
    pub packet_id: NonZeroU16,
    /// How it went; success in MQTT 3.1.1.
    pub reason: ReasonCode,
    /// The raw property block: a reason string and user properties, for the log.
    pub properties: &'a [u8],
}

/// SUBSCRIBE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscribe {
    /// For the SUBACK.
    pub packet_id: NonZeroU16,
    /// One for all filters; 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// In their order; as many answers are due.
    pub filters: Vec<FilterRequest>,
    /// In their order; kept with the subscriptions.
    pub user_properties: UserProperties,
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterRequest {
    /// Not empty; whether its wildcards stand right was not checked.
    pub filter: String,
    /// Largest quality of service wanted.
    pub qos: QoS,
    /// Not what the session itself published.
    pub no_local: bool,
    /// Keep the retain flag of messages.
    pub retain_as_published: bool,
    /// Which retained messages to send.
    pub retain_handling: RetainHandling,
}

/// Which retained messages a subscription makes due.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// All that match.
    #[default]
    Always = 0,
    /// Those, if the subscription did not exist.
    IfNew = 1,
    /// None.
    Never = 2,
}

/// UNSUBSCRIBE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsubscribe {
    /// For the UNSUBACK.
    pub packet_id: NonZeroU16,
    /// In their order; as many answers are due.
    pub filters: Vec<String>,
}

/// DISCONNECT from a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disconnect {
    /// Anything but success publishes the will.
    pub reason: ReasonCode,
    /// A new session expiry, seconds.
    pub session_expiry: Option<u32>,
    /// What the client says about it.
    pub reason_string: Option<String>,
}

/// AUTH from a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Auth {
    /// Continue or begin anew.
    pub reason: ReasonCode,
    /// Always there.
    pub method: String,
    /// What the method says.
    pub data: Option<Vec<u8>>,
}

/// CONNACK.
#[derive(Clone, Debug)]
pub struct Connack<'a> {
    /// Whether there was a session; never with an error.
    pub session_present: bool,
    /// How it went.
    pub reason: ReasonCode,
    /// Session expiry in force, if not the one asked for.
    pub session_expiry: Option<u32>,
    /// `QoS` 1 and 2 messages the server takes at once; 65,535 is not said.
    pub receive_maximum: u16,
    /// Largest packet the server takes.
    pub maximum_packet_size: Option<u32>,
    /// The client id, if the server made it.
    pub assigned_client_id: Option<&'a str>,
    /// Topic aliases the server takes.
    pub topic_alias_maximum: u16,
    /// Keep alive in force, if not the one asked for.
    pub server_keep_alive: Option<u16>,
    /// Basis for response topics.
    pub response_information: Option<&'a str>,
    /// For people.
    pub reason_string: Option<&'a str>,
    /// For programs.
    pub user_properties: &'a [(String, String)],
}

impl Default for Connack<'_> {
    fn default() -> Self {
        Self {
            session_present: false,
            reason: ReasonCode::Success,
            session_expiry: None,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            assigned_client_id: None,
            topic_alias_maximum: 0,
            server_keep_alive: None,
            response_information: None,
            reason_string: None,
            user_properties: &[],
        }
    }
}

impl<'a> Connack<'a> {
    /// The answer to a CONNECT that is not accepted.
    pub fn refused(reason: ReasonCode, reason_string: Option<&'a str>) -> Self {
        Self {
            reason,
            reason_string,
            ..Self::default()
        }
    }
}

/// Answers to a SUBSCRIBE or UNSUBSCRIBE.
#[derive(Clone, Copy, Debug)]
pub struct FilterAnswers<'a> {
    /// Of the request.
    pub packet_id: NonZeroU16,
    /// One for each filter, in order.
    pub reasons: &'a [ReasonCode],
    /// For people; not sent if the client did not request problem information.
    pub reason_string: Option<&'a str>,
}

/// What stands at the beginning of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next<'a> {
    /// A packet and its length in bytes.
    Packet(Packet<'a>, usize),
    /// The beginning of one. It needs at least so many bytes in all, more than are there.
    Incomplete(usize),
    /// No packet a client may send. The connection ends.
    Malformed(Malformed),
}

/// Checks and decodes the first packet of `bytes`.
///
/// `version` is that of the connection, and `None` as long as no CONNECT came. A packet larger than `bytes_max` is
/// refused. `scratch` is working memory, reused from packet to packet.
pub fn next<'a>(bytes: &'a [u8], version: Option<Version>, bytes_max: u32, scratch: &'a mut Vec<u8>) -> Next<'a> {
    let frame = match cut(bytes, bytes_max) {
        Cut::Frame(frame) => frame,
        Cut::Incomplete(needed) => return Next::Incomplete(needed),
        Cut::Malformed(why) => return Next::Malformed(why),
    };
    match decode(&frame, version, scratch) {
        Ok(packet) => Next::Packet(packet, frame.whole.len()),
        Err(why) => Next::Malformed(why),
    }
}

/// Checks and decodes a frame.
pub fn decode<'a>(
    frame: &Frame<'a>,
    version: Option<Version>,
    scratch: &'a mut Vec<u8>,
) -> Result<Packet<'a>, Malformed> {
    let Some(version) = version else {
        // v5 and v3.1.1 [MQTT-3.1.0-1]
        return if frame.kind == Kind::Connect {
            connect(frame)
        } else {
            Err(Malformed::protocol("the first packet is not a CONNECT"))
        };
    };
    match frame.kind {
        Kind::Publish => fast::publish(frame, version, scratch).map(Packet::Publish),
        Kind::Puback => fast::ack(frame, version).map(Packet::Puback),
        Kind::Pubrec => fast::ack(frame, version).map(Packet::Pubrec),
        Kind::Pubrel => fast::ack(frame, version).map(Packet::Pubrel),
        Kind::Pubcomp => fast::ack(frame, version).map(Packet::Pubcomp),
        Kind::Pingreq => {
            check_flags(frame, version)?;
            if frame.body.is_empty() {
                Ok(Packet::Pingreq)
            } else {
                Err(Malformed::packet("a PINGREQ has a body"))
            }
        }
        Kind::Subscribe => {
            rules::subscribe(frame, version)?;
            let subscribe = if version.is_v5() {
                v5::subscribe(frame)
            } else {
                v3::subscribe(frame)
            };
            subscribe.map(|subscribe| Packet::Subscribe(Box::new(subscribe)))
        }
        Kind::Unsubscribe => {
            rules::unsubscribe(frame, version)?;
            let unsubscribe = if version.is_v5() {
                v5::unsubscribe(frame)
            } else {
                v3::unsubscribe(frame)
            };
            unsubscribe.map(|unsubscribe| Packet::Unsubscribe(Box::new(unsubscribe)))
        }
        Kind::Disconnect => {
            rules::disconnect(frame, version)?;
            let disconnect = if version.is_v5() {
                v5::disconnect(frame)?
            } else {
                v3::DISCONNECT
            };
            Ok(Packet::Disconnect(Box::new(disconnect)))
        }
        Kind::Auth => {
            rules::auth(frame, version)?;
            v5::auth(frame).map(|auth| Packet::Auth(Box::new(auth)))
        }
        // v5 and v3.1.1 [MQTT-3.1.0-2]
        Kind::Connect => Err(Malformed::protocol("a second CONNECT came")),
        Kind::Connack | Kind::Suback | Kind::Unsuback | Kind::Pingresp => {
            Err(Malformed::protocol("the packet is one only a server sends"))
        }
    }
}

fn connect<'a>(frame: &Frame<'_>) -> Result<Packet<'a>, Malformed> {
    let shape = rules::connect(frame)?;
    let connect = if shape.version.is_v5() {
        v5::connect(frame, &shape)
    } else {
        v3::connect(frame, &shape)
    };
    connect.map(|connect| Packet::Connect(Box::new(connect)))
}

/// Appends a CONNACK. Reason string and user properties are left out if it would exceed `bytes_max`; if it still
/// does, nothing is appended.
pub fn encode_connack(out: &mut Vec<u8>, version: Version, connack: &Connack<'_>, bytes_max: u32) {
    if version.is_v5() {
        v5::encode_connack(out, connack, bytes_max);
    } else {
        v3::encode_connack(out, version, connack);
    }
}

/// Appends a SUBACK. The reason string is left out if it would exceed `bytes_max`; `false`, and nothing appended, if
/// it does so without. Spec: v5 [MQTT-3.1.2-24].
pub fn encode_suback(out: &mut Vec<u8>, version: Version, suback: &FilterAnswers<'_>, bytes_max: u32) -> bool {
    if version.is_v5() {
        return v5::encode_filter_answers(out, Kind::Suback, suback, bytes_max);
    }
    v3::encode_suback(out, suback);
    true
}

/// Appends an UNSUBACK. The reason string is left out if it would exceed `bytes_max`; `false`, and nothing appended, if
/// it does so without. Spec: v5 [MQTT-3.1.2-24].
pub fn encode_unsuback(out: &mut Vec<u8>, version: Version, unsuback: &FilterAnswers<'_>, bytes_max: u32) -> bool {
    if version.is_v5() {
        return v5::encode_filter_answers(out, Kind::Unsuback, unsuback, bytes_max);
    }
    v3::encode_unsuback(out, unsuback.packet_id);
    true
}

/// Appends a DISCONNECT, which a server can say in MQTT 5.0 only; before, the connection just ends. The reason string
/// is left out if it would exceed `bytes_max`; if it still does, nothing is appended.
pub fn encode_disconnect(
    out: &mut Vec<u8>,
    version: Version,
    reason: ReasonCode,
    reason_string: Option<&str>,
    bytes_max: u32,
) {
    if version.is_v5() {
        v5::encode_disconnect(out, reason, reason_string, bytes_max);
    }
}
