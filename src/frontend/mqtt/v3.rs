//! MQTT 3.1 and 3.1.1: codec types to ours, and the packets a server sends.
//!
//! The codec knows 3.1.1 only. A CONNECT of 3.1 differs in protocol name and level alone, so it is handed to the codec
//! with those of 3.1.1; the DUP flag that 3.1 has on SUBSCRIBE and UNSUBSCRIBE is cleared before.

use std::num::NonZeroU16;

use ntex_bytes::BytesMut;
use ntex_codec::Decoder;
use ntex_mqtt::v3::codec::{self, Codec, Decoded};

use super::frame::{Frame, Malformed, Version, put_variable};
use super::packet::{
    Connack, Connect, Disconnect, FilterAnswers, FilterRequest, QoS, RetainHandling, Subscribe, Unsubscribe, Will,
};
use super::reason::ReasonCode;
use super::rules::ConnectShape;

/// What a DISCONNECT says in 3.1.1: nothing.
pub const DISCONNECT: Disconnect = Disconnect {
    reason: ReasonCode::Success,
    session_expiry: None,
    reason_string: None,
};

const REFUSED: Malformed = Malformed::packet("the codec refuses the packet");
/// Length, name and level as the codec wants them.
const PROTOCOL: &[u8] = b"\x00\x04MQTT\x04";
/// Bytes of the same in MQTT 3.1.
const PROTOCOL_V31_BYTES: usize = 9;

/// Builds a frame of the codec's dialect and has it decoded.
fn decode(first: u8, parts: [&[u8]; 2]) -> Result<codec::Packet, Malformed> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut header = vec![first];
    put_variable(&mut header, length as u32);
    let mut buffer = BytesMut::with_capacity(header.len() + length);
    buffer.extend_from_slice(&header);
    for part in parts {
        buffer.extend_from_slice(part);
    }
    match Codec::new().decode(&mut buffer) {
        Ok(Some(Decoded::Packet(packet, _))) if buffer.is_empty() => Ok(packet),
        _ => Err(REFUSED),
    }
}

pub(super) fn qos(qos: codec::QoS) -> QoS {
    match qos {
        codec::QoS::AtMostOnce => QoS::AtMostOnce,
        codec::QoS::AtLeastOnce => QoS::AtLeastOnce,
        codec::QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

/// Decodes a CONNECT that was checked.
pub fn connect(frame: &Frame<'_>, shape: &ConnectShape) -> Result<Connect, Malformed> {
    let protocol_bytes = match shape.version {
        Version::V31 => PROTOCOL_V31_BYTES,
        _ => PROTOCOL.len(),
    };
    let behind = frame.body.get(protocol_bytes..).ok_or(REFUSED)?;
    let codec::Packet::Connect(connect) = decode(0x10, [PROTOCOL, behind])? else {
        return Err(REFUSED);
    };
    Ok(Connect {
        version: shape.version,
        clean_start: connect.clean_session,
        keep_alive: connect.keep_alive,
        client_id: String::from(&*connect.client_id),
        username: connect.username.as_deref().map(String::from),
        password: connect.password.map(|password| password.to_vec()),
        will: connect.last_will.map(|will| Will {
            topic: String::from(&*will.topic),
            payload: will.message.to_vec(),
            qos: qos(will.qos),
            retain: will.retain,
            ..Will::default()
        }),
        session_expiry: if connect.clean_session { 0 } else { u32::MAX },
        receive_maximum: NonZeroU16::MAX,
        maximum_packet_size: u32::MAX,
        topic_alias_maximum: 0,
        request_response_information: false,
        request_problem_information: false,
        user_properties: Vec::new(),
        authentication_method: None,
        authentication_data: None,
    })
}

/// Decodes a SUBSCRIBE that was checked.
pub fn subscribe(frame: &Frame<'_>) -> Result<Subscribe, Malformed> {
    let codec::Packet::Subscribe {
        packet_id,
        topic_filters,
    } = decode(0x82, [frame.body, &[]])?
    else {
        return Err(REFUSED);
    };
    Ok(Subscribe {
        packet_id,
        subscription_id: None,
        user_properties: Vec::new(),
        filters: topic_filters
            .into_iter()
            .map(|(filter, granted)| FilterRequest {
                filter: String::from(&*filter),
                qos: qos(granted),
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Always,
            })
            .collect(),
    })
}

/// Decodes an UNSUBSCRIBE that was checked.
pub fn unsubscribe(frame: &Frame<'_>) -> Result<Unsubscribe, Malformed> {
    let codec::Packet::Unsubscribe {
        packet_id,
        topic_filters,
    } = decode(0xA2, [frame.body, &[]])?
    else {
        return Err(REFUSED);
    };
    Ok(Unsubscribe {
        packet_id,
        filters: topic_filters.iter().map(|filter| String::from(&**filter)).collect(),
    })
}

/// Appends a CONNACK. Spec: v3.1.1 section 3.2; in MQTT 3.1 the byte before the code is reserved.
pub fn encode_connack(out: &mut Vec<u8>, version: Version, connack: &Connack<'_>) {
    let code = connack.reason.v3_connack();
    // [MQTT-3.2.2-4]
    let session_present = u8::from(connack.session_present && code == 0 && version != Version::V31);
    out.extend_from_slice(&[0x20, 2, session_present, code]);
}

/// Appends a SUBACK. Spec: v3.1.1 section 3.9.
pub fn encode_suback(out: &mut Vec<u8>, suback: &FilterAnswers<'_>) {
    out.push(0x90);
    put_variable(out, 2 + suback.reasons.len() as u32);
    out.extend_from_slice(&suback.packet_id.get().to_be_bytes());
    out.extend(suback.reasons.iter().map(|reason| reason.v3_suback()));
}

/// Appends an UNSUBACK. Spec: v3.1.1 section 3.11.
pub fn encode_unsuback(out: &mut Vec<u8>, packet_id: NonZeroU16) {
    out.extend_from_slice(&[0xB0, 2]);
    out.extend_from_slice(&packet_id.get().to_be_bytes());
}
