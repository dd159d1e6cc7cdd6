//! ntex-mqtt's codec as the oracle: what we encode it decodes to the same, what it encodes we decode to the same.

use std::num::{NonZeroU16, NonZeroU32};

use ntex_bytes::{BytePages, ByteString, Bytes, BytesMut};
use ntex_codec::{Decoder, Encoder};
use ntex_mqtt::v3::codec as c3;
use ntex_mqtt::v5::codec as c5;
use proptest::prelude::*;

use super::fast::{AckKind, Delivery, encode_ack, encode_ack_explained, encode_pingresp, encode_publish};
use super::frame::{PACKET_BYTES_MAX, Version};
use super::packet::{
    Connack, FilterAnswers, Next, Packet, QoS, RetainHandling, encode_connack, encode_disconnect, encode_suback,
    encode_unsuback, next,
};
use super::property::{id, put_bytes, put_pair};
use super::reason::ReasonCode;

fn encoded5(packet: impl Into<c5::Encoded>) -> Vec<u8> {
    let mut pages = BytePages::default();
    c5::Codec::new().encodev(packet.into(), &mut pages).unwrap();
    pages.freeze().to_vec()
}

fn encoded3(packet: impl Into<c3::Encoded>) -> Vec<u8> {
    let mut pages = BytePages::default();
    c3::Codec::new().encodev(packet.into(), &mut pages).unwrap();
    pages.freeze().to_vec()
}

fn decoded5(bytes: &[u8]) -> c5::Decoded {
    let mut buffer = BytesMut::copy_from_slice(bytes);
    let packet = c5::Codec::new().decode(&mut buffer).unwrap().unwrap();
    assert!(buffer.is_empty(), "the codec left {} bytes", buffer.len());
    packet
}

fn decoded3(bytes: &[u8]) -> c3::Decoded {
    let mut buffer = BytesMut::copy_from_slice(bytes);
    let packet = c3::Codec::new().decode(&mut buffer).unwrap().unwrap();
    assert!(buffer.is_empty(), "the codec left {} bytes", buffer.len());
    packet
}

fn packet5(bytes: &[u8]) -> c5::Packet {
    match decoded5(bytes) {
        c5::Decoded::Packet(packet, _) => packet,
        other => panic!("{other:?}"),
    }
}

fn packet3(bytes: &[u8]) -> c3::Packet {
    match decoded3(bytes) {
        c3::Decoded::Packet(packet, _) => packet,
        other => panic!("{other:?}"),
    }
}

/// Decodes with our own code and hands the packet to `look`.
fn ours(bytes: &[u8], version: Option<Version>, look: impl FnOnce(Packet<'_>)) {
    match next(bytes, version, PACKET_BYTES_MAX, &mut Vec::new()) {
        Next::Packet(packet, length) => {
            assert_eq!(length, bytes.len());
            look(packet);
        }
        other => panic!("{other:?}"),
    }
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 äß/€😀-]{0,40}"
}

fn topic() -> impl Strategy<Value = String> {
    "[a-z0-9/ä€😀]{1,60}"
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((text(), text()), 0..4)
}

fn some<T: Strategy>(strategy: T) -> impl Strategy<Value = Option<T::Value>>
where
    T::Value: Clone + std::fmt::Debug,
{
    prop::option::of(strategy)
}

fn packet_id() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|id| NonZeroU16::new(id).unwrap())
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn codec_qos(qos: QoS) -> c5::QoS {
    match qos {
        QoS::AtMostOnce => c5::QoS::AtMostOnce,
        QoS::AtLeastOnce => c5::QoS::AtLeastOnce,
        QoS::ExactlyOnce => c5::QoS::ExactlyOnce,
    }
}

fn codec_pairs(pairs: &[(String, String)]) -> c5::UserProperties {
    pairs
        .iter()
        .map(|(n, v)| (n.as_str().into(), v.as_str().into()))
        .collect()
}

fn codec_bytes(bytes: Option<&Vec<u8>>) -> Option<Bytes> {
    bytes.map(|bytes| Bytes::copy_from_slice(bytes))
}

fn codec_text(text: Option<&String>) -> Option<ByteString> {
    text.map(|text| text.as_str().into())
}

/// What of a message is passed on, in parts for the codec.
#[derive(Clone, Debug)]
struct PassedOn {
    content_type: Option<String>,
    response_topic: Option<String>,
    correlation: Option<Vec<u8>>,
    user: Vec<(String, String)>,
}

impl PassedOn {
    fn raw(&self) -> Vec<u8> {
        let mut raw = Vec::new();
        for (name, value) in &self.user {
            put_pair(&mut raw, name, value);
        }
        if let Some(text) = &self.content_type {
            put_bytes(&mut raw, id::CONTENT_TYPE, text.as_bytes());
        }
        if let Some(topic) = &self.response_topic {
            put_bytes(&mut raw, id::RESPONSE_TOPIC, topic.as_bytes());
        }
        if let Some(data) = &self.correlation {
            put_bytes(&mut raw, id::CORRELATION_DATA, data);
        }
        raw
    }
}

/// The properties of a raw block, sorted, so that two orders of the same can be compared.
fn sorted(raw: &[u8]) -> Vec<Vec<u8>> {
    let mut properties = super::property::Properties::new(raw, super::property::Place::Publish);
    let mut all = Vec::new();
    while let Some(property) = properties.next().unwrap() {
        all.push(raw[property.start..property.end].to_vec());
    }
    all.sort();
    all
}

fn passed_on() -> impl Strategy<Value = PassedOn> {
    (some(text()), some(topic()), some(bytes(40)), pairs()).prop_map(
        |(content_type, response_topic, correlation, user)| PassedOn {
            content_type,
            response_topic,
            correlation,
            user,
        },
    )
}

proptest! {
    #[test]
    fn the_codec_reads_our_publish(
        (dup, retain, payload_utf8) in any::<(bool, bool, bool)>(),
        qos in qos(),
        topic in topic(),
        packet_id in packet_id(),
        subscription_ids in prop::collection::vec(1..268_435_455_u32, 0..5),
        expiry in some(1..=u32::MAX),
        topic_alias in some(packet_id()),
        passed_on in passed_on(),
        payload in prop_oneof![bytes(300), (300..70_000_usize).prop_map(|length| vec![7; length])],
    ) {
        let raw = passed_on.raw();
        let delivery = Delivery {
            dup, qos, retain, topic: topic.as_bytes(), packet_id: packet_id.get(),
            subscription_ids: &subscription_ids, expiry, payload_utf8, topic_alias, raw: &raw, payload: &payload,
        };
        let mut out = vec![0xAA; 3];
        let placed = encode_publish(&mut out, Version::V5, &delivery, PACKET_BYTES_MAX).unwrap();
        prop_assert_eq!((placed.start, placed.end), (3, out.len()));
        let c5::Decoded::Publish(publish, body, _) = decoded5(&out[3..]) else { panic!() };
        prop_assert_eq!(&body[..], &payload[..]);
        let acknowledged = qos != QoS::AtMostOnce;
        prop_assert_eq!(publish.dup, dup && acknowledged);
        prop_assert_eq!(publish.retain, retain);
        prop_assert_eq!(publish.qos, codec_qos(qos));
        prop_assert_eq!(&*publish.topic, topic.as_str());
        prop_assert_eq!(publish.packet_id, acknowledged.then_some(packet_id));
        let properties = publish.properties;
        prop_assert_eq!(properties.topic_alias, topic_alias);
        prop_assert_eq!(properties.message_expiry_interval.map(NonZeroU32::get), expiry);
        prop_assert_eq!(properties.is_utf8_payload, payload_utf8);
        let ids: Vec<_> = properties.subscription_ids.iter().map(|id| id.get()).collect();
        prop_assert_eq!(ids, subscription_ids.clone());
        prop_assert_eq!(properties.content_type, codec_text(passed_on.content_type.as_ref()));
        prop_assert_eq!(properties.response_topic, codec_text(passed_on.response_topic.as_ref()));
        prop_assert_eq!(properties.correlation_data, codec_bytes(passed_on.correlation.as_ref()));
        prop_assert_eq!(properties.user_properties, codec_pairs(&passed_on.user));

        let length = out.len() - 3;
        out.truncate(3);
        prop_assert!(encode_publish(&mut out, Version::V5, &delivery, length as u32 - 1).is_none());
        prop_assert_eq!(out.len(), 3);
        prop_assert!(encode_publish(&mut out, Version::V5, &delivery, length as u32).is_some());

        out.clear();
        encode_publish(&mut out, Version::V311, &delivery, PACKET_BYTES_MAX).unwrap();
        let c3::Decoded::Publish(publish, body, _) = decoded3(&out) else { panic!() };
        prop_assert_eq!(&body[..], &payload[..]);
        prop_assert_eq!((publish.dup, publish.retain), (dup && acknowledged, retain));
        prop_assert_eq!(publish.qos, codec_qos(qos));
        prop_assert_eq!(&*publish.topic, topic.as_str());
        prop_assert_eq!(publish.packet_id, acknowledged.then_some(packet_id));
    }

    #[test]
    fn we_read_the_codecs_publish(
        (dup, retain, is_utf8_payload) in any::<(bool, bool, bool)>(),
        qos in qos(),
        topic in topic(),
        packet_id in packet_id(),
        expiry in some(1..=u32::MAX),
        topic_alias in some(packet_id()),
        passed_on in passed_on(),
        payload in bytes(3_000),
    ) {
        let acknowledged = qos != QoS::AtMostOnce;
        let publish = c5::Publish {
            dup: dup && acknowledged,
            retain,
            qos: codec_qos(qos),
            packet_id: acknowledged.then_some(packet_id),
            topic: topic.as_str().into(),
            payload_size: payload.len() as u32,
            properties: c5::PublishProperties {
                topic_alias,
                correlation_data: codec_bytes(passed_on.correlation.as_ref()),
                message_expiry_interval: expiry.and_then(NonZeroU32::new),
                content_type: codec_text(passed_on.content_type.as_ref()),
                user_properties: codec_pairs(&passed_on.user),
                is_utf8_payload,
                response_topic: codec_text(passed_on.response_topic.as_ref()),
                subscription_ids: Vec::new(),
            },
        };
        let body = Bytes::copy_from_slice(&payload);
        let frame = encoded5(c5::Encoded::Publish(publish, Some(body.clone())));
        ours(&frame, Some(Version::V5), |packet| {
            let Packet::Publish(publish) = packet else { panic!() };
            assert_eq!((publish.dup, publish.retain, publish.qos), (dup && acknowledged, retain, qos));
            assert_eq!(publish.topic, topic);
            assert_eq!(publish.packet_id, acknowledged.then_some(packet_id));
            assert_eq!(publish.payload, payload);
            assert_eq!(publish.properties.payload_utf8, is_utf8_payload);
            assert_eq!(publish.properties.expiry, expiry);
            assert_eq!(publish.properties.topic_alias, topic_alias);
            assert_eq!(sorted(publish.properties.raw), sorted(&passed_on.raw()));
        });
        let publish = c3::Publish {
            dup: dup && acknowledged,
            retain,
            qos: codec_qos(qos),
            topic: topic.as_str().into(),
            packet_id: acknowledged.then_some(packet_id),
            payload_size: payload.len() as u32,
        };
        let frame = encoded3(c3::Encoded::Publish(publish, Some(body)));
        ours(&frame, Some(Version::V311), |packet| {
            let Packet::Publish(publish) = packet else { panic!() };
            assert_eq!((publish.dup, publish.retain, publish.qos), (dup && acknowledged, retain, qos));
            assert_eq!(publish.topic, topic);
            assert_eq!(publish.packet_id, acknowledged.then_some(packet_id));
            assert_eq!(publish.payload, payload);
        });
    }

    #[test]
    fn the_codec_reads_our_acknowledgements(packet_id in packet_id(), reason_string in text()) {
        let kinds = [AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp];
        for (at, kind) in kinds.into_iter().enumerate() {
            let failure = if at < 2 { ReasonCode::QuotaExceeded } else { ReasonCode::PacketIdentifierNotFound };
            for reason in [ReasonCode::Success, failure] {
                for explained in [false, true] {
                    let mut out = Vec::new();
                    if explained {
                        encode_ack_explained(&mut out, Version::V5, kind, packet_id, reason, &reason_string, u32::MAX);
                    } else {
                        encode_ack(&mut out, Version::V5, kind, packet_id, reason);
                    }
                    let (id, code, text): (_, u8, _) = match (kind, packet5(&out)) {
                        (AckKind::Puback, c5::Packet::PublishAck(ack))
                        | (AckKind::Pubrec, c5::Packet::PublishReceived(ack)) =>
                            (ack.packet_id, ack.reason_code.into(), ack.reason_string),
                        (AckKind::Pubrel, c5::Packet::PublishRelease(ack))
                        | (AckKind::Pubcomp, c5::Packet::PublishComplete(ack)) =>
                            (ack.packet_id, ack.reason_code.into(), ack.reason_string),
                        other => panic!("{other:?}"),
                    };
                    prop_assert_eq!((id, code), (packet_id, reason.byte()));
                    prop_assert_eq!(text.as_deref(), explained.then_some(reason_string.as_str()));
                    ours(&out, Some(Version::V5), |packet| match packet {
                        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) =>
                            assert_eq!((ack.packet_id, ack.reason), (packet_id, reason)),
                        other => panic!("{other:?}"),
                    });
                    out.clear();
                    encode_ack(&mut out, Version::V311, kind, packet_id, reason);
                    let id = match (kind, packet3(&out)) {
                        (AckKind::Puback, c3::Packet::PublishAck { packet_id })
                        | (AckKind::Pubrec, c3::Packet::PublishReceived { packet_id })
                        | (AckKind::Pubrel, c3::Packet::PublishRelease { packet_id })
                        | (AckKind::Pubcomp, c3::Packet::PublishComplete { packet_id }) => packet_id,
                        other => panic!("{other:?}"),
                    };
                    prop_assert_eq!(id, packet_id);
                }
            }
        }
    }

    #[test]
    fn we_read_the_codecs_connect(
        (clean_start, retain, utf8, problem, response) in any::<(bool, bool, bool, bool, bool)>(),
        (keep_alive, alias_max, session_expiry) in any::<(u16, u16, u32)>(),
        (client_id, username, password) in (text(), some(text()), some(bytes(20))),
        (method, data) in (some(text()), some(bytes(20))),
        (receive_max, packet_max) in (some(packet_id()), some(1..=u32::MAX)),
        user in pairs(),
        will in some((topic(), bytes(300), qos(), any::<u32>(), some(1..=u32::MAX), passed_on())),
    ) {
        let data = data.filter(|_| method.is_some());
        let connect = c5::Connect {
            clean_start, keep_alive,
            session_expiry_interval_secs: session_expiry,
            auth_method: codec_text(method.as_ref()),
            auth_data: codec_bytes(data.as_ref()),
            request_problem_info: problem,
            request_response_info: response,
            receive_max,
            topic_alias_max: alias_max,
            user_properties: codec_pairs(&user),
            max_packet_size: packet_max.and_then(NonZeroU32::new),
            last_will: will.as_ref().map(|(topic, message, qos, delay, expiry, passed_on)| c5::LastWill {
                qos: codec_qos(*qos), retain,
                topic: topic.as_str().into(),
                message: Bytes::copy_from_slice(message),
                will_delay_interval_sec: Some(*delay),
                correlation_data: codec_bytes(passed_on.correlation.as_ref()),
                message_expiry_interval: expiry.and_then(NonZeroU32::new),
                content_type: codec_text(passed_on.content_type.as_ref()),
                user_properties: codec_pairs(&passed_on.user),
                is_utf8_payload: Some(utf8),
                response_topic: codec_text(passed_on.response_topic.as_ref()),
            }),
            client_id: client_id.as_str().into(),
            username: codec_text(username.as_ref()),
            password: codec_bytes(password.as_ref()),
        };
        ours(&encoded5(c5::Packet::from(connect)), None, |packet| {
            let Packet::Connect(connect) = packet else { panic!() };
            assert_eq!(connect.version, Version::V5);
            assert_eq!((connect.clean_start, connect.keep_alive), (clean_start, keep_alive));
            assert_eq!(connect.session_expiry, session_expiry);
            assert_eq!((&connect.client_id, &connect.username, &connect.password), (&client_id, &username, &password));
            assert_eq!((&connect.authentication_method, &connect.authentication_data), (&method, &data));
            assert_eq!(connect.request_problem_information, problem);
            assert_eq!(connect.request_response_information, response);
            assert_eq!(connect.receive_maximum, receive_max.unwrap_or(NonZeroU16::MAX));
            assert_eq!(connect.maximum_packet_size, packet_max.unwrap_or(u32::MAX));
            assert_eq!(connect.topic_alias_maximum, alias_max);
            assert_eq!(connect.user_properties, user);
            assert_eq!(connect.will.is_some(), will.is_some());
            if let (Some(got), Some((topic, message, qos, delay, expiry, passed_on))) = (&connect.will, &will) {
                assert_eq!((&got.topic, &got.payload, got.qos, got.retain), (topic, message, *qos, retain));
                assert_eq!((got.delay, got.expiry, got.payload_utf8), (*delay, *expiry, utf8));
                assert_eq!(sorted(&got.properties), sorted(&passed_on.raw()));
            }
        });

        let connect = c3::Connect {
            clean_session: clean_start || client_id.is_empty(),
            keep_alive,
            last_will: will.as_ref().map(|(topic, message, qos, ..)| c3::LastWill {
                qos: codec_qos(*qos), retain,
                topic: topic.as_str().into(),
                message: Bytes::copy_from_slice(message),
            }),
            client_id: client_id.as_str().into(),
            username: codec_text(username.as_ref()),
            password: codec_bytes(password.as_ref()).filter(|_| username.is_some()),
        };
        ours(&encoded3(c3::Packet::from(connect.clone())), None, |packet| {
            let Packet::Connect(got) = packet else { panic!() };
            assert_eq!(got.version, Version::V311);
            assert_eq!((got.clean_start, got.keep_alive), (connect.clean_session, keep_alive));
            assert_eq!(got.session_expiry, if connect.clean_session { 0 } else { u32::MAX });
            assert_eq!((&got.client_id, &got.username), (&client_id, &username));
            assert_eq!(got.password, password.filter(|_| username.is_some()));
            assert_eq!(got.will.map(|will| will.payload), will.map(|will| will.1));
        });
    }

    #[test]
    fn we_read_the_codecs_subscribe_unsubscribe_and_disconnect(
        packet_id in packet_id(),
        subscription_id in some(1..268_435_455_u32),
        filters in prop::collection::vec((topic(), qos(), any::<(bool, bool)>(), 0..3_u8), 1..6),
        user in pairs(),
        session_expiry in some(any::<u32>()),
        reason_string in some(text()),
    ) {
        let subscribe = c5::Subscribe {
            packet_id,
            id: subscription_id.and_then(NonZeroU32::new),
            user_properties: codec_pairs(&user),
            topic_filters: filters.iter().map(|(filter, qos, (no_local, as_published), handling)| {
                let options = c5::SubscriptionOptions {
                    qos: codec_qos(*qos),
                    no_local: *no_local,
                    retain_as_published: *as_published,
                    retain_handling: (*handling).try_into().unwrap(),
                };
                (filter.as_str().into(), options)
            }).collect(),
        };
        ours(&encoded5(c5::Packet::from(subscribe)), Some(Version::V5), |packet| {
            let Packet::Subscribe(subscribe) = packet else { panic!() };
            assert_eq!((subscribe.packet_id, subscribe.subscription_id), (packet_id, subscription_id));
            assert_eq!(subscribe.filters.len(), filters.len());
            assert_eq!(subscribe.user_properties, user);
            for (got, (filter, qos, (no_local, as_published), handling)) in subscribe.filters.iter().zip(&filters) {
                assert_eq!((&got.filter, got.qos), (filter, *qos));
                assert_eq!((got.no_local, got.retain_as_published), (*no_local, *as_published));
                let wanted = [RetainHandling::Always, RetainHandling::IfNew, RetainHandling::Never];
                assert_eq!(got.retain_handling, wanted[usize::from(*handling)]);
            }
        });
        let topic_filters = filters.iter().map(|(f, qos, ..)| (f.as_str().into(), codec_qos(*qos))).collect();
        ours(&encoded3(c3::Packet::Subscribe { packet_id, topic_filters }), Some(Version::V31), |packet| {
            let Packet::Subscribe(subscribe) = packet else { panic!() };
            let got: Vec<_> = subscribe.filters.iter().map(|f| (&f.filter, f.qos)).collect();
            let wanted: Vec<_> = filters.iter().map(|(filter, qos, ..)| (filter, *qos)).collect();
            assert_eq!(got, wanted);
        });

        let names: Vec<ByteString> = filters.iter().map(|(filter, ..)| filter.as_str().into()).collect();
        let unsubscribe = c5::Unsubscribe {
            packet_id, user_properties: codec_pairs(&user), topic_filters: names.clone(),
        };
        let v3 = encoded3(c3::Packet::Unsubscribe { packet_id, topic_filters: names });
        let v5 = encoded5(c5::Packet::from(unsubscribe));
        for (bytes, version) in [(v3, Version::V311), (v5, Version::V5)] {
            ours(&bytes, Some(version), |packet| {
                let Packet::Unsubscribe(unsubscribe) = packet else { panic!() };
                assert_eq!(unsubscribe.packet_id, packet_id);
                assert!(unsubscribe.filters.iter().eq(filters.iter().map(|(filter, ..)| filter)));
            });
        }

        let disconnect = c5::Disconnect {
            reason_code: c5::DisconnectReasonCode::DisconnectWithWillMessage,
            session_expiry_interval_secs: session_expiry,
            server_reference: None,
            reason_string: codec_text(reason_string.as_ref()),
            user_properties: codec_pairs(&user),
        };
        ours(&encoded5(c5::Packet::from(disconnect)), Some(Version::V5), |packet| {
            let Packet::Disconnect(disconnect) = packet else { panic!() };
            assert_eq!(disconnect.reason, ReasonCode::DisconnectWithWill);
            assert_eq!((disconnect.session_expiry, disconnect.reason_string), (session_expiry, reason_string));
        });
    }

    #[test]
    fn the_codec_reads_what_a_server_sends(
        session_present in any::<bool>(),
        (session_expiry, keep_alive) in (some(any::<u32>()), some(any::<u16>())),
        (receive_maximum, alias_maximum) in (packet_id(), any::<u16>()),
        packet_max in some(1..=u32::MAX),
        (assigned, information, reason_string) in (some(text()), some(text()), some(text())),
        user in pairs(),
        packet_id in packet_id(),
    ) {
        let connack = Connack {
            session_present,
            reason: ReasonCode::Success,
            session_expiry,
            receive_maximum: receive_maximum.get(),
            maximum_packet_size: packet_max,
            assigned_client_id: assigned.as_deref(),
            topic_alias_maximum: alias_maximum,
            server_keep_alive: keep_alive,
            response_information: information.as_deref(),
            reason_string: reason_string.as_deref(),
            user_properties: &user,
        };
        let mut out = Vec::new();
        encode_connack(&mut out, Version::V5, &connack, u32::MAX);
        let wanted = c5::ConnectAck {
            session_present,
            session_expiry_interval_secs: session_expiry,
            receive_max: receive_maximum,
            max_packet_size: packet_max,
            assigned_client_id: codec_text(assigned.as_ref()),
            topic_alias_max: alias_maximum,
            server_keepalive_sec: keep_alive,
            response_info: codec_text(information.as_ref()),
            reason_string: codec_text(reason_string.as_ref()),
            user_properties: codec_pairs(&user),
            ..c5::ConnectAck::default()
        };
        prop_assert_eq!(packet5(&out), c5::Packet::from(wanted.clone()));
        let length = out.len() as u32;
        out.clear();
        encode_connack(&mut out, Version::V5, &connack, length - 1);
        if reason_string.is_none() && user.is_empty() {
            prop_assert!(out.is_empty(), "nothing can be left out");
        } else {
            let shorter = c5::ConnectAck { reason_string: None, user_properties: Vec::new(), ..wanted };
            prop_assert_eq!(packet5(&out), c5::Packet::from(shorter));
        }
        out.clear();
        encode_connack(&mut out, Version::V311, &connack, u32::MAX);
        let wanted = c3::ConnectAck { return_code: c3::ConnectAckReason::ConnectionAccepted, session_present };
        prop_assert_eq!(packet3(&out), c3::Packet::ConnectAck(wanted));

        let reasons = [
            ReasonCode::Success, ReasonCode::GrantedQos1, ReasonCode::GrantedQos2, ReasonCode::NotAuthorized,
        ];
        let answers = FilterAnswers { packet_id, reasons: &reasons, reason_string: reason_string.as_deref() };
        out.clear();
        encode_suback(&mut out, Version::V5, &answers, u32::MAX);
        let c5::Packet::SubscribeAck(suback) = packet5(&out) else { panic!() };
        prop_assert_eq!((suback.packet_id, suback.reason_string.as_deref()), (packet_id, reason_string.as_deref()));
        let codes: Vec<u8> = suback.status.into_iter().map(u8::from).collect();
        prop_assert_eq!(codes, vec![0, 1, 2, 0x87]);
        out.clear();
        encode_suback(&mut out, Version::V311, &answers, u32::MAX);
        let c3::Packet::SubscribeAck { packet_id: got, status } = packet3(&out) else { panic!() };
        prop_assert_eq!(got, packet_id);
        let granted = [c5::QoS::AtMostOnce, c5::QoS::AtLeastOnce, c5::QoS::ExactlyOnce];
        let mut wanted: Vec<_> = granted.into_iter().map(c3::SubscribeReturnCode::Success).collect();
        wanted.push(c3::SubscribeReturnCode::Failure);
        prop_assert_eq!(status, wanted);

        let reasons = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
        let answers = FilterAnswers { packet_id, reasons: &reasons, reason_string: None };
        out.clear();
        encode_unsuback(&mut out, Version::V5, &answers, u32::MAX);
        let c5::Packet::UnsubscribeAck(unsuback) = packet5(&out) else { panic!() };
        prop_assert_eq!(unsuback.packet_id, packet_id);
        let codes: Vec<u8> = unsuback.status.into_iter().map(u8::from).collect();
        prop_assert_eq!(codes, vec![0, 0x11]);
        out.clear();
        encode_unsuback(&mut out, Version::V311, &answers, u32::MAX);
        prop_assert_eq!(packet3(&out), c3::Packet::UnsubscribeAck { packet_id });

        out.clear();
        encode_disconnect(&mut out, Version::V5, ReasonCode::SessionTakenOver, reason_string.as_deref(), u32::MAX);
        let wanted = c5::Disconnect::new(c5::DisconnectReasonCode::SessionTakenOver);
        let wanted = wanted.reason_string(codec_text(reason_string.as_ref()));
        prop_assert_eq!(packet5(&out), c5::Packet::from(wanted));
    }
}

#[test]
fn a_template_is_completed_for_each_receiver() {
    let delivery = Delivery {
        qos: QoS::ExactlyOnce,
        topic: b"t",
        payload: b"m",
        ..Delivery::default()
    };
    for version in [Version::V311, Version::V5] {
        let mut out = Vec::new();
        let placed = encode_publish(&mut out, version, &delivery, u32::MAX).unwrap();
        let length = out.len();
        out.extend_from_within(placed.start..placed.end);
        placed.set(&mut out, length, NonZeroU16::new(0x1234).unwrap(), true);
        ours(&out[length..], Some(version), |packet| {
            let Packet::Publish(publish) = packet else { panic!() };
            assert_eq!((publish.packet_id, publish.dup), (NonZeroU16::new(0x1234), true));
            assert_eq!(
                (publish.qos, publish.topic, publish.payload),
                (QoS::ExactlyOnce, "t", &b"m"[..])
            );
        });
    }
}

#[test]
fn a_refusal_says_the_reason_each_version_has_for_it() {
    let refused = Connack::refused(ReasonCode::Banned, Some("banned"));
    let mut out = Vec::new();
    encode_connack(&mut out, Version::V311, &refused, u32::MAX);
    assert_eq!(out, [0x20, 2, 0, 5]);
    out.clear();
    encode_connack(&mut out, Version::V5, &refused, u32::MAX);
    let c5::Packet::ConnectAck(connack) = packet5(&out) else {
        panic!()
    };
    assert_eq!(connack.reason_code, c5::ConnectAckReason::Banned);
    out.clear();
    encode_disconnect(&mut out, Version::V311, ReasonCode::SessionTakenOver, None, u32::MAX);
    assert!(out.is_empty(), "a 3.1.1 server cannot disconnect with words");
    encode_pingresp(&mut out);
    assert_eq!(packet3(&out), c3::Packet::PingResponse);
}
