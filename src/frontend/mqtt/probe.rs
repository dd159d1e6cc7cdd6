//! What the fuzz targets of MQTT check: framing, both decoders against ntex-mqtt's, and whole conversations with a
//! broker in memory. See [`crate::fuzzing`].

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ntex_bytes::BytesMut;
use ntex_codec::Decoder;
use ntex_mqtt::v3::codec as c3;
use ntex_mqtt::v5::codec as c5;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fast::{AckKind, Delivery, encode_ack, encode_publish};
use super::frame::{Cut, Kind, PACKET_BYTES_MAX, Version, cut, put_variable};
use super::packet::{Ack, Next, Packet, Publish, next};
use super::{Authentication, Authenticator, Credentials, Frontend, Identity, Settings};
use crate::broker::{Broker, BrokerSettings};
use crate::clock::Clock;
use crate::store::memory::MemoryStore;

/// Between the connections of a conversation; no packet begins so, whatever its version.
const NEXT_CONNECTION: &[u8] = b"\xFF\xFF\xFF\xFF";
/// Connections of a conversation at the most.
const CONNECTION_COUNT_MAX: usize = 6;
/// What fits between the two ends of a connection.
const PIPE_BYTES: usize = 1 << 20;

/// Cuts a frame: it is whole, it is at the beginning, and what follows changes nothing.
pub fn frame(bytes: &[u8]) {
    for bytes_max in [PACKET_BYTES_MAX, 64] {
        match cut(bytes, bytes_max) {
            Cut::Incomplete(needed) => {
                assert!(needed > bytes.len() && needed <= bytes_max.max(5) as usize);
            }
            Cut::Malformed(_) => {
                let longer = [bytes, &[0; 8]].concat();
                assert_eq!(cut(&longer, bytes_max), cut(bytes, bytes_max));
            }
            Cut::Frame(frame) => {
                let (whole, behind) = bytes.split_at(frame.whole.len());
                assert_eq!(frame.whole, whole);
                assert!(whole.ends_with(frame.body) && whole.len() <= bytes_max as usize);
                assert!((2..=5).contains(&(whole.len() - frame.body.len())));
                assert_eq!(cut(whole, bytes_max), Cut::Frame(frame));
                let mut header = vec![*whole.first().unwrap_or(&0)];
                put_variable(&mut header, frame.body.len() as u32);
                assert!(whole.starts_with(&header), "one length, one form");
                for end in [whole.len() - 1, whole.len() / 2, 1] {
                    let prefix = whole.get(..end).unwrap_or_default();
                    assert!(matches!(cut(prefix, bytes_max), Cut::Incomplete(needed) if needed <= whole.len()));
                }
                if behind.len() < bytes.len() {
                    self::frame(behind);
                }
                break;
            }
        }
    }
}

/// Decodes as MQTT 3.1 and 3.1.1. The first byte tells the version and whether a frame is to be made of the rest.
pub fn decode_v3(bytes: &[u8]) {
    let versions = [Some(Version::V311), Some(Version::V31), None, Some(Version::V311)];
    decode_as(bytes, versions);
}

/// Decodes as MQTT 5.0; the first byte as in [`decode_v3`].
pub fn decode_v5(bytes: &[u8]) {
    decode_as(bytes, [Some(Version::V5), Some(Version::V5), None, None]);
}

fn decode_as(bytes: &[u8], versions: [Option<Version>; 4]) {
    let Some((&mode, rest)) = bytes.split_first() else {
        return;
    };
    let version = versions.get(usize::from(mode & 3)).copied().flatten();
    match rest.split_first() {
        Some((&first, body)) if mode & 4 != 0 => {
            let mut frame = vec![first];
            put_variable(&mut frame, body.len() as u32);
            frame.extend_from_slice(body);
            decode(&frame, version);
        }
        _ => decode(rest, version),
    }
}

fn decode(bytes: &[u8], version: Option<Version>) {
    let mut scratch = Vec::new();
    match next(bytes, version, PACKET_BYTES_MAX, &mut scratch) {
        Next::Incomplete(needed) => assert!(needed > bytes.len()),
        // What the rules let pass, the codec understands: if not, a rule is missing.
        Next::Malformed(why) => assert_ne!(why.text, "the codec refuses the packet"),
        Next::Packet(packet, length) => {
            let (whole, _) = bytes.split_at(length);
            let mut scratch = Vec::new();
            let again = next(whole, version, PACKET_BYTES_MAX, &mut scratch);
            assert_eq!(
                again,
                Next::Packet(packet.clone(), length),
                "what follows a packet changes it"
            );
            match (&packet, version) {
                (Packet::Publish(publish), Some(version)) => publish_agrees(whole, publish, version),
                (Packet::Puback(ack), Some(version)) => ack_agrees(whole, AckKind::Puback, ack, version),
                (Packet::Pubrec(ack), Some(version)) => ack_agrees(whole, AckKind::Pubrec, ack, version),
                (Packet::Pubrel(ack), Some(version)) => ack_agrees(whole, AckKind::Pubrel, ack, version),
                (Packet::Pubcomp(ack), Some(version)) => ack_agrees(whole, AckKind::Pubcomp, ack, version),
                _ => {}
            }
        }
    }
}

fn codec5(whole: &[u8]) -> Option<c5::Decoded> {
    let mut buffer = BytesMut::copy_from_slice(whole);
    let decoded = c5::Codec::new().decode(&mut buffer).ok().flatten()?;
    assert!(buffer.is_empty(), "the codec left bytes");
    Some(decoded)
}

fn codec3(whole: &[u8]) -> Option<c3::Decoded> {
    let mut buffer = BytesMut::copy_from_slice(whole);
    let decoded = c3::Codec::new().decode(&mut buffer).ok().flatten()?;
    assert!(buffer.is_empty(), "the codec left bytes");
    Some(decoded)
}

/// The codec reads the same, and what is encoded from it is read as the same.
fn publish_agrees(whole: &[u8], publish: &Publish<'_>, version: Version) {
    if version.is_v5() {
        let decoded = codec5(whole);
        match decoded {
            Some(c5::Decoded::Publish(theirs, payload, _)) => {
                assert_eq!(&payload[..], publish.payload);
                assert_eq!((theirs.dup, theirs.retain), (publish.dup, publish.retain));
                assert_eq!(u8::from(theirs.qos), publish.qos as u8);
                assert_eq!((&*theirs.topic, theirs.packet_id), (publish.topic, publish.packet_id));
                let properties = &publish.properties;
                assert_eq!(theirs.properties.topic_alias, properties.topic_alias);
                assert_eq!(theirs.properties.is_utf8_payload, properties.payload_utf8);
                let expiry = theirs.properties.message_expiry_interval;
                assert_eq!(expiry.map(std::num::NonZeroU32::get), properties.expiry);
            }
            // It refuses an expiry of 0, which is legal.
            other => assert_eq!(publish.properties.expiry, Some(0), "{other:?}"),
        }
    } else {
        let Some(c3::Decoded::Publish(theirs, payload, _)) = codec3(whole) else {
            panic!("the codec reads no PUBLISH");
        };
        assert_eq!(&payload[..], publish.payload);
        assert_eq!((theirs.dup, theirs.retain), (publish.dup, publish.retain));
        assert_eq!(u8::from(theirs.qos), publish.qos as u8);
        assert_eq!((&*theirs.topic, theirs.packet_id), (publish.topic, publish.packet_id));
    }
    let delivery = Delivery {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic.as_bytes(),
        packet_id: publish.packet_id.map_or(0, std::num::NonZeroU16::get),
        subscription_ids: &[],
        expiry: publish.properties.expiry,
        payload_utf8: publish.properties.payload_utf8,
        topic_alias: publish.properties.topic_alias,
        raw: publish.properties.raw,
        payload: publish.payload,
    };
    let mut out = Vec::new();
    // What is left out (a format of 0, a longer form) makes it shorter, never longer.
    let placed = encode_publish(&mut out, version, &delivery, whole.len() as u32);
    assert!(placed.is_some(), "the encoded form is longer than what came");
    let mut scratch = Vec::new();
    let again = next(&out, Some(version), PACKET_BYTES_MAX, &mut scratch);
    assert_eq!(again, Next::Packet(Packet::Publish(*publish), out.len()));
}

fn ack_agrees(whole: &[u8], kind: AckKind, ack: &Ack<'_>, version: Version) {
    if version.is_v5() {
        let read: Option<(_, u8)> = match (kind, codec5(whole)) {
            (AckKind::Puback, Some(c5::Decoded::Packet(c5::Packet::PublishAck(theirs), _)))
            | (AckKind::Pubrec, Some(c5::Decoded::Packet(c5::Packet::PublishReceived(theirs), _))) => {
                Some((theirs.packet_id, theirs.reason_code.into()))
            }
            (AckKind::Pubrel, Some(c5::Decoded::Packet(c5::Packet::PublishRelease(theirs), _)))
            | (AckKind::Pubcomp, Some(c5::Decoded::Packet(c5::Packet::PublishComplete(theirs), _))) => {
                Some((theirs.packet_id, theirs.reason_code.into()))
            }
            _ => None,
        };
        assert_eq!(read, Some((ack.packet_id, ack.reason.byte())));
    }
    let mut out = Vec::new();
    encode_ack(&mut out, version, kind, ack.packet_id, ack.reason);
    let expected = Ack {
        properties: &[],
        ..*ack
    };
    let expected = match kind {
        AckKind::Puback => Packet::Puback(expected),
        AckKind::Pubrec => Packet::Pubrec(expected),
        AckKind::Pubrel => Packet::Pubrel(expected),
        AckKind::Pubcomp => Packet::Pubcomp(expected),
    };
    let mut scratch = Vec::new();
    let again = next(&out, Some(version), PACKET_BYTES_MAX, &mut scratch);
    assert_eq!(again, Next::Packet(expected, out.len()));
}

struct Open;

impl Authenticator for Open {
    fn authenticate(&self, _: Credentials) -> Authentication<'_> {
        Box::pin(async { Ok(Identity::default()) })
    }
}

/// Has a broker in memory answer a conversation: the bytes of connections one after the other, with
/// `FF FF FF FF` between them. The broker ends each when its client does, and sends nothing but packets.
pub fn connection(bytes: &[u8]) {
    let mut connections = Vec::new();
    let mut rest = bytes;
    while connections.len() < CONNECTION_COUNT_MAX {
        let mut windows = rest.windows(NEXT_CONNECTION.len());
        let Some(at) = windows.position(|window| window == NEXT_CONNECTION) else {
            break;
        };
        let (this, behind) = rest.split_at(at);
        connections.push(this);
        rest = behind.get(NEXT_CONNECTION.len()..).unwrap_or_default();
    }
    connections.push(rest);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else {
        panic!("there is no runtime");
    };
    runtime.block_on(async {
        let clock = Clock::manual(1_800_000_000_000);
        let store = MemoryStore::new(clock.clone());
        let opened = Broker::open(store, clock.clone(), BrokerSettings::default()).await;
        let Ok(broker) = opened else {
            panic!("the broker does not open");
        };
        let frontend = Frontend::new(broker, Settings::default(), Arc::new(Open));
        for sent in connections {
            converse(&frontend, &clock, sent).await;
        }
    });
}

async fn converse(frontend: &Arc<Frontend>, clock: &Clock, sent: &[u8]) {
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let serving = tokio::spawn(Arc::clone(frontend).serve(theirs, peer));
    let (mut reader, mut writer) = tokio::io::split(ours);
    let mut answer = Vec::new();
    let sending = async {
        // The broker may end the connection before it has read everything.
        writer.write_all(sent).await.ok();
        writer.shutdown().await.ok();
    };
    let talking = async { tokio::join!(sending, reader.read_to_end(&mut answer)).1 };
    let read = tokio::select! {
        read = talking => read,
        () = pass_time(clock) => panic!("the connection does not end"),
    };
    assert!(read.is_ok());
    assert!(serving.await.is_ok(), "the task of the connection failed");
    only_packets(&answer, sent);
}

/// Lets the clock run: what waits for a time is not waited for. Over after many hours.
async fn pass_time(clock: &Clock) {
    for _ in 0..1_000 {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
        clock.advance(std::time::Duration::from_mins(1));
    }
}

/// Reads what the broker has sent, in the version that the client has begun in.
fn only_packets(mut answer: &[u8], sent: &[u8]) {
    let mut scratch = Vec::new();
    let v5 = match next(sent, None, PACKET_BYTES_MAX, &mut scratch) {
        Next::Packet(Packet::Connect(connect), _) => connect.version.is_v5(),
        _ => return,
    };
    while !answer.is_empty() {
        let Cut::Frame(frame) = cut(answer, PACKET_BYTES_MAX) else {
            panic!("the broker sends no frame");
        };
        assert!(!matches!(frame.kind, Kind::Connect | Kind::Subscribe | Kind::Pingreq));
        let expiry_0 = v5 && frame.kind == Kind::Publish;
        let read = if v5 {
            codec5(frame.whole).is_some()
        } else {
            codec3(frame.whole).is_some()
        };
        assert!(read || expiry_0, "the codec cannot read {:?}", frame.kind);
        answer = answer.get(frame.whole.len()..).unwrap_or_default();
    }
}
