//! MQTT 5.0: codec types to ours, and the packets a server sends.
//!
//! **Invariants**
//! - A will keeps its properties as they came; a will expiry of 0, which the codec refuses, is shown to it as 1.
//! - No packet exceeds the client's Maximum Packet Size; reason strings and user properties are left out first.

use std::num::NonZeroU16;

use ntex_bytes::BytesMut;
use ntex_codec::Decoder;
use ntex_mqtt::v5::codec::{self, Codec, Decoded, UserProperties as CodecProperties};

use super::frame::{Frame, Kind, Malformed, put_variable, variable_bytes};
use super::packet::{
    Auth, Connack, Connect, Disconnect, FilterAnswers, FilterRequest, RetainHandling, Subscribe, Unsubscribe,
    UserProperties, Will,
};
use super::property::{self, Place, id};
use super::reason::ReasonCode;
use super::rules::ConnectShape;
use super::v3::qos;

const REFUSED: Malformed = Malformed::packet("the codec refuses the packet");

fn decode(mut frame: BytesMut) -> Result<codec::Packet, Malformed> {
    match Codec::new().decode(&mut frame) {
        Ok(Some(Decoded::Packet(packet, _))) if frame.is_empty() => Ok(packet),
        _ => Err(REFUSED),
    }
}

fn user_properties(properties: &CodecProperties) -> UserProperties {
    properties
        .iter()
        .map(|(name, value)| (String::from(&**name), String::from(&**value)))
        .collect()
}

/// Decodes a CONNECT that was checked.
pub fn connect(frame: &Frame<'_>, shape: &ConnectShape) -> Result<Connect, Malformed> {
    let mut bytes = BytesMut::copy_from_slice(frame.whole);
    if let Some(at) = shape.zero_will_expiry {
        let header = frame.whole.len() - frame.body.len();
        let expiry = bytes.get_mut(header + at..header + at + 4).ok_or(REFUSED)?;
        expiry.copy_from_slice(&1_u32.to_be_bytes());
    }
    let codec::Packet::Connect(connect) = decode(bytes)? else {
        return Err(REFUSED);
    };
    let will = match connect.last_will {
        Some(will) => {
            let block = frame.body.get(shape.will_properties.clone()).ok_or(REFUSED)?;
            let mut scratch = Vec::new();
            let properties = property::split(block, Place::Will, &mut scratch)?;
            Some(Will {
                topic: String::from(&*will.topic),
                payload: will.message.to_vec(),
                qos: qos(will.qos),
                retain: will.retain,
                delay: properties.will_delay,
                expiry: properties.expiry,
                payload_utf8: properties.payload_utf8,
                properties: properties.raw.to_vec(),
            })
        }
        None => None,
    };
    Ok(Connect {
        version: shape.version,
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive,
        client_id: String::from(&*connect.client_id),
        username: connect.username.as_deref().map(String::from),
        password: connect.password.map(|password| password.to_vec()),
        will,
        session_expiry: connect.session_expiry_interval_secs,
        receive_maximum: connect.receive_max.unwrap_or(NonZeroU16::MAX),
        maximum_packet_size: connect.max_packet_size.map_or(u32::MAX, std::num::NonZeroU32::get),
        topic_alias_maximum: connect.topic_alias_max,
        request_response_information: connect.request_response_info,
        request_problem_information: connect.request_problem_info,
        user_properties: user_properties(&connect.user_properties),
        authentication_method: connect.auth_method.as_deref().map(String::from),
        authentication_data: connect.auth_data.map(|data| data.to_vec()),
    })
}

/// Decodes a SUBSCRIBE that was checked.
pub fn subscribe(frame: &Frame<'_>) -> Result<Subscribe, Malformed> {
    let codec::Packet::Subscribe(subscribe) = decode(BytesMut::copy_from_slice(frame.whole))? else {
        return Err(REFUSED);
    };
    Ok(Subscribe {
        packet_id: subscribe.packet_id,
        subscription_id: subscribe.id.map(std::num::NonZeroU32::get),
        user_properties: user_properties(&subscribe.user_properties),
        filters: subscribe
            .topic_filters
            .into_iter()
            .map(|(filter, options)| FilterRequest {
                filter: String::from(&*filter),
                qos: qos(options.qos),
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                retain_handling: match options.retain_handling {
                    codec::RetainHandling::AtSubscribe => RetainHandling::Always,
                    codec::RetainHandling::AtSubscribeNew => RetainHandling::IfNew,
                    codec::RetainHandling::NoAtSubscribe => RetainHandling::Never,
                },
            })
            .collect(),
    })
}

/// Decodes an UNSUBSCRIBE that was checked.
pub fn unsubscribe(frame: &Frame<'_>) -> Result<Unsubscribe, Malformed> {
    let codec::Packet::Unsubscribe(unsubscribe) = decode(BytesMut::copy_from_slice(frame.whole))? else {
        return Err(REFUSED);
    };
    Ok(Unsubscribe {
        packet_id: unsubscribe.packet_id,
        filters: unsubscribe
            .topic_filters
            .iter()
            .map(|filter| String::from(&**filter))
            .collect(),
    })
}

/// Decodes a DISCONNECT that was checked.
pub fn disconnect(frame: &Frame<'_>) -> Result<Disconnect, Malformed> {
    let codec::Packet::Disconnect(disconnect) = decode(BytesMut::copy_from_slice(frame.whole))? else {
        return Err(REFUSED);
    };
    Ok(Disconnect {
        reason: ReasonCode::from_byte(disconnect.reason_code.into()).ok_or(REFUSED)?,
        session_expiry: disconnect.session_expiry_interval_secs,
        reason_string: disconnect.reason_string.as_deref().map(String::from),
    })
}

/// Decodes an AUTH that was checked.
pub fn auth(frame: &Frame<'_>) -> Result<Auth, Malformed> {
    let codec::Packet::Auth(auth) = decode(BytesMut::copy_from_slice(frame.whole))? else {
        return Err(REFUSED);
    };
    Ok(Auth {
        reason: ReasonCode::from_byte(auth.reason_code.into()).ok_or(REFUSED)?,
        method: auth.auth_method.as_deref().map(String::from).ok_or(REFUSED)?,
        data: auth.auth_data.map(|data| data.to_vec()),
    })
}

/// Appends first byte, length, `head`, the property block and `tail`. `optional` is left out of the block if the
/// packet would exceed `bytes_max` with it; `false`, and nothing appended, if it does so without.
fn put_packet(
    out: &mut Vec<u8>,
    first: u8,
    head: &[u8],
    properties: &[u8],
    optional: &[u8],
    tail: &[ReasonCode],
    bytes_max: u32,
) -> bool {
    let lengths = |block: usize| {
        let remaining = head.len() + variable_bytes(block as u32) + block + tail.len();
        (remaining, 1 + variable_bytes(remaining as u32) + remaining)
    };
    let mut optional = optional;
    if lengths(properties.len() + optional.len()).1 > bytes_max as usize {
        optional = &[];
    }
    let block = properties.len() + optional.len();
    if lengths(block).1 > bytes_max as usize {
        return false;
    }
    out.push(first);
    put_variable(out, lengths(block).0 as u32);
    out.extend_from_slice(head);
    put_variable(out, block as u32);
    out.extend_from_slice(properties);
    out.extend_from_slice(optional);
    out.extend(tail.iter().map(|reason| reason.byte()));
    true
}

/// Reason string and user properties as a piece of a property block.
fn explanation(reason_string: Option<&str>, user_properties: &[(String, String)]) -> Vec<u8> {
    let mut block = Vec::new();
    if let Some(text) = reason_string {
        property::put_bytes(&mut block, id::REASON_STRING, text.as_bytes());
    }
    for (name, value) in user_properties {
        property::put_pair(&mut block, name, value);
    }
    block
}

/// Appends a CONNACK. Spec: v5 section 3.2.
pub fn encode_connack(out: &mut Vec<u8>, connack: &Connack<'_>, bytes_max: u32) {
    let mut block = Vec::new();
    if let Some(seconds) = connack.session_expiry {
        property::put_u32(&mut block, id::SESSION_EXPIRY_INTERVAL, seconds);
    }
    // 0 is illegal and 65,535 what the client takes it for if nothing is said.
    if !matches!(connack.receive_maximum, 0 | u16::MAX) {
        property::put_u16(&mut block, id::RECEIVE_MAXIMUM, connack.receive_maximum);
    }
    if let Some(bytes) = connack.maximum_packet_size {
        property::put_u32(&mut block, id::MAXIMUM_PACKET_SIZE, bytes);
    }
    if let Some(client_id) = connack.assigned_client_id {
        property::put_bytes(&mut block, id::ASSIGNED_CLIENT_IDENTIFIER, client_id.as_bytes());
    }
    if connack.topic_alias_maximum != 0 {
        property::put_u16(&mut block, id::TOPIC_ALIAS_MAXIMUM, connack.topic_alias_maximum);
    }
    if let Some(seconds) = connack.server_keep_alive {
        property::put_u16(&mut block, id::SERVER_KEEP_ALIVE, seconds);
    }
    if let Some(text) = connack.response_information {
        property::put_bytes(&mut block, id::RESPONSE_INFORMATION, text.as_bytes());
    }
    let optional = explanation(connack.reason_string, connack.user_properties);
    // v5 [MQTT-3.2.2-6]
    let session_present = u8::from(connack.session_present && !connack.reason.is_error());
    let head = [session_present, connack.reason.byte()];
    put_packet(out, 0x20, &head, &block, &optional, &[], bytes_max);
}

/// Appends a SUBACK or UNSUBACK, as `kind` says; `false`, and nothing appended, if it would exceed `bytes_max`.
/// Spec: v5 sections 3.9 and 3.11.
pub fn encode_filter_answers(out: &mut Vec<u8>, kind: Kind, answers: &FilterAnswers<'_>, bytes_max: u32) -> bool {
    let optional = explanation(answers.reason_string, &[]);
    let head = answers.packet_id.get().to_be_bytes();
    put_packet(
        out,
        (kind as u8) << 4,
        &head,
        &[],
        &optional,
        answers.reasons,
        bytes_max,
    )
}

/// Appends a DISCONNECT. Spec: v5 section 3.14.
pub fn encode_disconnect(out: &mut Vec<u8>, reason: ReasonCode, reason_string: Option<&str>, bytes_max: u32) {
    let optional = explanation(reason_string, &[]);
    if optional.is_empty() || bytes_max < 4 {
        // Without properties their length may be left out, and so it fits any client that takes more than PUBACK.
        if bytes_max >= 3 {
            out.extend_from_slice(&[0xE0, 1, reason.byte()]);
        }
        return;
    }
    put_packet(out, 0xE0, &[reason.byte()], &[], &optional, &[], bytes_max);
}
