//! The rules for the packets that ntex-mqtt's codec decodes: CONNECT, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT and AUTH.
//!
//! # Why
//! (2026-11) ntex-mqtt 9.0.0 leaves many checks to its dispatcher, which we cannot use: of 59 malformed packets its
//! codec alone let 27 pass. It also refuses legal ones: MQTT 3.1, and expiry 0 in a will. So the whole packet is walked
//! here first, and the codec is given what passed, with the legal ones dressed as it wants them (`v3`, `v5`).
//!
//! **Invariants**
//! - What passes is one packet a client may send in this version, read to its last byte.
//! - Rules that need the connection's state (alias maximum, Receive Maximum, expiry of the session) are not here.

use std::ops::Range;

use super::frame::{Frame, Malformed, Reader, Version, check_flags};
use super::property::{self, Place, Properties, Value, id};
use super::reason::ReasonCode;

/// What the walk over a CONNECT found that its decoding needs; positions in the frame's body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectShape {
    /// The version of the connection.
    pub version: Version,
    /// The will's property block, without its length; empty if there is none.
    pub will_properties: Range<usize>,
    /// Where a will expiry of 0 stands, which is legal and which the codec refuses.
    pub zero_will_expiry: Option<usize>,
}

const USERNAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_QOS: u8 = 0x18;
const WILL: u8 = 0x04;
const CLEAN: u8 = 0x02;
const RESERVED: u8 = 0x01;

/// How a CONNECT that breaks the rules is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Its own version, or the nearest.
    pub version: Version,
    /// Largest packet the client takes.
    pub bytes_max: u32,
    /// It wants a reason string.
    pub problem_information: bool,
}

/// How to answer a CONNECT that was refused, as far as it can be read. `None`: it is not MQTT at all and gets no answer.
pub fn answer(body: &[u8]) -> Option<Answer> {
    let mut reader = Reader::new(body);
    let name = reader.binary().ok()?;
    let level = reader.byte().ok()?;
    let mut answer = Answer {
        // Bridges of mosquitto and others mark their level with the highest bit, and drop it after a refusal they know.
        version: match (name, level & 0x7F) {
            (b"MQIsdp", _) => Version::V31,
            (b"MQTT", 5..) => Version::V5,
            (b"MQTT", _) => Version::V311,
            _ => return None,
        },
        bytes_max: u32::MAX,
        problem_information: true,
    };
    let flags_and_keep_alive = reader.bytes(3);
    if level == 5 && flags_and_keep_alive.is_ok() {
        let mut properties = Properties::new(reader.properties().unwrap_or_default(), Place::Connect);
        while let Ok(Some(property)) = properties.next() {
            match (property.id, property.value) {
                (id::MAXIMUM_PACKET_SIZE, Value::Four(bytes)) => answer.bytes_max = bytes,
                (id::REQUEST_PROBLEM_INFORMATION, Value::Byte(wanted)) => answer.problem_information = wanted == 1,
                _ => {}
            }
        }
    }
    Some(answer)
}

/// Checks a CONNECT. Spec: section 3.1 of both versions.
pub fn connect(frame: &Frame<'_>) -> Result<ConnectShape, Malformed> {
    let mut reader = Reader::new(frame.body);
    let at = |reader: &Reader<'_>| frame.body.len() - reader.rest().len();
    let name = reader.binary()?;
    let version = match (name, reader.byte()?) {
        (b"MQIsdp", 3) => Version::V31,
        (b"MQTT", 4) => Version::V311,
        (b"MQTT", 5) => Version::V5,
        _ => {
            return Err(Malformed::because(
                ReasonCode::UnsupportedProtocolVersion,
                "the protocol is not MQTT 3.1, 3.1.1 or 5.0",
            ));
        }
    };
    check_flags(frame, version)?;
    let flags = reader.byte()?;
    if flags & RESERVED != 0 {
        return Err(Malformed::packet("the reserved connect flag is set"));
    }
    if flags & WILL_QOS == WILL_QOS {
        return Err(Malformed::packet("the will has QoS 3"));
    }
    if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
        return Err(Malformed::packet("will flags are set without a will"));
    }
    // v3.1.1 [MQTT-3.1.2-22]; MQTT 5.0 allows a password alone.
    if !version.is_v5() && flags & (USERNAME | PASSWORD) == PASSWORD {
        return Err(Malformed::packet("there is a password without a user name"));
    }
    reader.u16()?;
    if version.is_v5() {
        connect_properties(reader.properties()?)?;
    }
    let client_id = reader.text()?;
    // v3.1.1 [MQTT-3.1.3-8]
    if !version.is_v5() && client_id.is_empty() && flags & CLEAN == 0 {
        return Err(Malformed::because(
            ReasonCode::ClientIdentifierNotValid,
            "an empty client id needs a clean session",
        ));
    }
    let mut shape = ConnectShape {
        version,
        will_properties: 0..0,
        zero_will_expiry: None,
    };
    if flags & WILL != 0 {
        if version.is_v5() {
            let block = reader.properties()?;
            let end = at(&reader);
            shape.will_properties = end - block.len()..end;
            let mut properties = Properties::new(block, Place::Will);
            while let Some(property) = properties.next()? {
                if (property.id, property.value) == (id::MESSAGE_EXPIRY_INTERVAL, Value::Four(0)) {
                    shape.zero_will_expiry = Some(shape.will_properties.start + property.start + 1);
                }
            }
        }
        if reader.topic_name()?.is_empty() {
            return Err(Malformed::because(
                ReasonCode::TopicNameInvalid,
                "the will's topic is empty",
            ));
        }
        reader.binary()?;
    }
    if flags & USERNAME != 0 {
        reader.text()?;
    }
    if flags & PASSWORD != 0 {
        reader.binary()?;
    }
    reader.end()?;
    Ok(shape)
}

fn connect_properties(block: &[u8]) -> Result<(), Malformed> {
    let (mut method, mut data) = (false, false);
    let mut properties = Properties::new(block, Place::Connect);
    while let Some(property) = properties.next()? {
        method |= property.id == id::AUTHENTICATION_METHOD;
        data |= property.id == id::AUTHENTICATION_DATA;
    }
    if data && !method {
        return Err(Malformed::protocol("there is authentication data without a method"));
    }
    Ok(())
}

/// Checks a SUBSCRIBE. Spec: section 3.8 of both versions. Whether a filter's wildcards stand right is told in the
/// SUBACK, filter by filter.
pub fn subscribe(frame: &Frame<'_>, version: Version) -> Result<(), Malformed> {
    check_flags(frame, version)?;
    let mut reader = Reader::new(frame.body);
    reader.packet_id()?;
    if version.is_v5() {
        property::check(reader.properties()?, Place::Subscribe)?;
    }
    // v5 [MQTT-3.8.3-2], v3.1.1 [MQTT-3.8.3-3]
    if reader.is_empty() {
        return Err(Malformed::protocol("a SUBSCRIBE has no topic filter"));
    }
    while !reader.is_empty() {
        let filter = topic_filter(&mut reader)?;
        let options = reader.byte()?;
        let reserved = if version.is_v5() { 0b1100_0000 } else { 0b1111_1100 };
        if options & reserved != 0 {
            return Err(Malformed::packet("reserved bits of the subscription options are set"));
        }
        if options & 0b11 == 0b11 {
            return Err(Malformed::protocol("a subscription asks for QoS 3"));
        }
        if options & 0b11_0000 == 0b11_0000 {
            return Err(Malformed::protocol("Retain Handling is 3"));
        }
        // v5 [MQTT-3.8.3-4]
        if options & 0b100 != 0 && filter.starts_with("$share/") {
            return Err(Malformed::protocol("No Local is set on a shared subscription"));
        }
    }
    Ok(())
}

/// Checks an UNSUBSCRIBE. Spec: section 3.10 of both versions.
pub fn unsubscribe(frame: &Frame<'_>, version: Version) -> Result<(), Malformed> {
    check_flags(frame, version)?;
    let mut reader = Reader::new(frame.body);
    reader.packet_id()?;
    if version.is_v5() {
        property::check(reader.properties()?, Place::Unsubscribe)?;
    }
    if reader.is_empty() {
        return Err(Malformed::protocol("an UNSUBSCRIBE has no topic filter"));
    }
    while !reader.is_empty() {
        topic_filter(&mut reader)?;
    }
    Ok(())
}

fn topic_filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let filter = reader.text()?;
    // v5 and v3.1.1 [MQTT-4.7.3-1]
    if filter.is_empty() {
        return Err(Malformed::because(
            ReasonCode::TopicFilterInvalid,
            "a topic filter is empty",
        ));
    }
    Ok(filter)
}

/// Checks a DISCONNECT. Spec: section 3.14 of both versions.
pub fn disconnect(frame: &Frame<'_>, version: Version) -> Result<(), Malformed> {
    check_flags(frame, version)?;
    let mut reader = Reader::new(frame.body);
    if !version.is_v5() || reader.is_empty() {
        return reader.end();
    }
    let Some(reason) = ReasonCode::from_byte(reader.byte()?) else {
        return Err(Malformed::packet("the reason code does not exist"));
    };
    // Table 3-13: the codes marked for clients.
    if !matches!(reason.byte(), 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99) {
        return Err(Malformed::protocol("a client cannot disconnect with this reason code"));
    }
    if !reader.is_empty() {
        property::check(reader.properties()?, Place::Disconnect)?;
    }
    reader.end()
}

/// Checks an AUTH. Spec: v5 section 3.15.
pub fn auth(frame: &Frame<'_>, version: Version) -> Result<(), Malformed> {
    if !version.is_v5() {
        return Err(Malformed::packet("packet type 15 is reserved"));
    }
    check_flags(frame, version)?;
    let mut reader = Reader::new(frame.body);
    let reason = if reader.is_empty() { 0 } else { reader.byte()? };
    let mut method = false;
    if !reader.is_empty() {
        let mut properties = Properties::new(reader.properties()?, Place::Auth);
        while let Some(property) = properties.next()? {
            method |= property.id == id::AUTHENTICATION_METHOD;
        }
    }
    reader.end()?;
    match ReasonCode::from_byte(reason) {
        Some(ReasonCode::ContinueAuthentication | ReasonCode::ReAuthenticate) if method => Ok(()),
        Some(ReasonCode::ContinueAuthentication | ReasonCode::ReAuthenticate) => {
            Err(Malformed::protocol("an AUTH names no method"))
        }
        Some(ReasonCode::Success) => Err(Malformed::protocol("a client's AUTH says success")),
        Some(_) | None => Err(Malformed::packet("an AUTH cannot have this reason code")),
    }
}
