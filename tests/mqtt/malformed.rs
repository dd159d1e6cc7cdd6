//! What no client may send ends its own connection, with the right reason, and nobody else's.
//! Spec: v5 4.13, v3.1.1 4.8.

use crate::client::{LEVELS, Level, RawClient, frame, publish};
use crate::common::Site;
use evermq::clock::Clock;
use evermq::frontend::mqtt::Settings;

/// Name, versions, bytes, reason in 5.0.
type Case = (&'static str, &'static [Level], Vec<u8>, u8);

const V5: &[Level] = &[Level::V5];
const V3: &[Level] = &[Level::V311];
const BOTH: &[Level] = &LEVELS;

fn cases() -> Vec<Case> {
    vec![
        ("packet type 0", BOTH, vec![0x00, 0], 0x81),
        (
            "a remaining length of five bytes",
            BOTH,
            vec![0x30, 0x80, 0x80, 0x80, 0x80, 1],
            0x81,
        ),
        (
            "a remaining length that could be shorter",
            BOTH,
            vec![0xC0, 0x80, 0],
            0x81,
        ),
        ("CONNACK", BOTH, frame(0x20, &[0, 0]), 0x82),
        ("SUBACK", BOTH, frame(0x90, &[0, 1, 0]), 0x82),
        ("PINGRESP", BOTH, vec![0xD0, 0], 0x82),
        ("AUTH before 5.0", V3, vec![0xF0, 0], 0),
        ("PINGREQ with flags", BOTH, vec![0xC1, 0], 0x81),
        ("PINGREQ with a body", BOTH, vec![0xC0, 1, 0], 0x81),
        ("PUBREL without its flag", BOTH, frame(0x60, &[0, 1]), 0x81),
        ("PUBREL with another flag", BOTH, frame(0x64, &[0, 1]), 0x81),
        ("PUBACK with a flag", BOTH, frame(0x42, &[0, 1]), 0x81),
        ("SUBSCRIBE without its flag", V3, frame(0x80, b"\0\x01\0\x01a\0"), 0x81),
        (
            "SUBSCRIBE without its flag",
            V5,
            frame(0x80, b"\0\x01\0\0\x01a\0"),
            0x81,
        ),
        (
            "SUBSCRIBE with reserved options",
            V3,
            frame(0x82, b"\0\x01\0\x01a\x04"),
            0,
        ),
        ("SUBSCRIBE to nothing", V3, frame(0x82, b"\0\x01\0\0\0"), 0),
        ("SUBSCRIBE to nothing", V5, frame(0x82, b"\0\x01\0\0\0\0"), 0x8F),
        ("SUBSCRIBE with packet id 0", V5, frame(0x82, b"\0\0\0\0\x01a\0"), 0x82),
        ("UNSUBSCRIBE without its flag", V3, frame(0xA0, b"\0\x01\0\x01a"), 0x81),
        (
            "UNSUBSCRIBE without its flag",
            V5,
            frame(0xA0, b"\0\x01\0\0\x01a"),
            0x81,
        ),
        ("UNSUBSCRIBE without filters", V3, frame(0xA2, &[0, 1]), 0),
        ("UNSUBSCRIBE with packet id 0", V3, frame(0xA2, b"\0\0\0\x01a"), 0),
        ("QoS 3", V3, frame(0x36, b"\0\x01a\0\x01"), 0x81),
        ("QoS 3", V5, frame(0x36, b"\0\x01a\0\x01\0"), 0x81),
        ("DUP with QoS 0", V3, frame(0x38, b"\0\x01a"), 0x81),
        ("packet id 0", V5, frame(0x32, b"\0\x01a\0\0\0"), 0x82),
        ("packet id 0", V3, frame(0x32, b"\0\x01a\0\0"), 0),
        ("a topic with +", V5, frame(0x30, b"\0\x03a/+\0"), 0x90),
        ("a topic with #", V3, frame(0x30, b"\0\x01#"), 0),
        ("no topic", V3, frame(0x30, b"\0\0"), 0),
        ("no topic and no alias", V5, frame(0x30, b"\0\0\0"), 0x82),
        ("a topic with U+0000", V3, frame(0x30, b"\0\x01\0"), 0),
        ("a topic that is not UTF-8", V5, frame(0x30, b"\0\x02\xC3\x28\0"), 0x81),
        ("a topic longer than the packet", BOTH, frame(0x30, b"\xFF\xFFa"), 0x81),
        ("topic alias 0", V5, frame(0x30, b"\0\x01a\x03\x23\0\0"), 0x94),
        (
            "a topic alias that stands for nothing",
            V5,
            frame(0x30, b"\0\0\x03\x23\0\x01"),
            0x94,
        ),
        ("a property twice", V5, frame(0x30, b"\0\x01a\x04\x01\0\x01\0"), 0x82),
        (
            "a property that does not exist",
            V5,
            frame(0x30, b"\0\x01a\x02\x7F\0"),
            0x81,
        ),
        ("a property of CONNECT", V5, frame(0x30, b"\0\x01a\x03\x21\0\x01"), 0x81),
        (
            "a subscription identifier in PUBLISH",
            V5,
            frame(0x30, b"\0\x01a\x02\x0B\x01"),
            0x82,
        ),
        (
            "properties longer than the packet",
            V5,
            frame(0x30, b"\0\x01a\x09"),
            0x81,
        ),
        (
            "PUBACK with a reason of another packet",
            V5,
            frame(0x40, &[0, 1, 0x92]),
            0x81,
        ),
        ("PUBACK without packet id", BOTH, vec![0x40, 0], 0x81),
        ("SUBSCRIBE without filters", V3, frame(0x82, &[0, 1]), 0),
        ("SUBSCRIBE without filters", V5, frame(0x82, &[0, 1, 0]), 0x82),
        ("SUBSCRIBE with QoS 3", V3, frame(0x82, b"\0\x01\0\x01a\x03"), 0),
        ("SUBSCRIBE with QoS 3", V5, frame(0x82, b"\0\x01\0\0\x01a\x03"), 0x82),
        (
            "SUBSCRIBE with reserved options",
            V5,
            frame(0x82, b"\0\x01\0\0\x01a\xC0"),
            0x81,
        ),
        (
            "SUBSCRIBE with retain handling 3",
            V5,
            frame(0x82, b"\0\x01\0\0\x01a\x30"),
            0x82,
        ),
        (
            "subscription identifier 0",
            V5,
            frame(0x82, b"\0\x01\x02\x0B\0\0\x01a\0"),
            0x82,
        ),
        ("UNSUBSCRIBE without filters", V5, frame(0xA2, &[0, 1, 0]), 0x82),
        ("DISCONNECT with flags", BOTH, vec![0xE1, 0], 0x81),
        ("DISCONNECT with a body", V3, vec![0xE0, 1, 0], 0),
        (
            "DISCONNECT with a reason only a server has",
            V5,
            vec![0xE0, 1, 0x8B],
            0x82,
        ),
        ("a packet above the maximum", BOTH, vec![0x30, 0xFF, 0xFF, 0x01], 0x95),
    ]
}

/// v5 [MQTT-2.1.3-1], [MQTT-2.2.1-3], [MQTT-3.2.2-15], [MQTT-3.3.1-2], [MQTT-3.3.1-4], [MQTT-3.3.2-2], [MQTT-3.3.4-6],
/// [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.8.3-2], [MQTT-3.8.3-5], [MQTT-3.10.1-1], [MQTT-3.10.3-2], [MQTT-3.14.1-1],
/// [MQTT-3.14.2-1], [MQTT-4.7.3-1], [MQTT-4.13.1-1], [MQTT-4.13.2-1];
/// v3.1.1 [MQTT-2.2.2-1], [MQTT-2.2.2-2], [MQTT-2.3.1-1], [MQTT-3.3.1-2], [MQTT-3.3.1-4], [MQTT-3.3.2-2], [MQTT-3.6.1-1],
/// [MQTT-3.8.1-1], [MQTT-3.8.3-3], [MQTT-3.8.3-4], [MQTT-3.10.1-1], [MQTT-3.10.3-2], [MQTT-3.14.1-1], [MQTT-4.7.3-1],
/// [MQTT-4.8.0-1]
#[tokio::test]
async fn each_malformed_packet_ends_its_own_connection_with_its_reason() {
    let settings = Settings {
        packet_bytes_max: 20_000,
        ..Settings::default()
    };
    let site = Site::start_with(settings, Clock::system()).await;
    let mut other = site.passerby(Level::V5, "other").await;
    other.subscribe("good", 1).await;
    for (name, levels, bytes, reason) in cases() {
        for &level in levels {
            let mut client = site.passerby(level, "bad").await;
            // What stood before it is handled, and what stands behind it is not.
            let mut all = publish(level, "good", b"before", 0, 0, false);
            all.extend_from_slice(&bytes);
            all.extend_from_slice(&publish(level, "good", b"behind", 0, 0, false));
            client.send(&all).await;
            let told = client.closed().await;
            assert_eq!(told, (level == Level::V5).then_some(reason), "{name}, {level:?}");
            assert_eq!(other.take().await.payload, b"before", "{name}");
            other.ping().await;
        }
    }
}

/// v5 [MQTT-3.1.2-29], 3.1.2.11.7: reason strings are for those who want them.
#[tokio::test]
async fn a_reason_string_comes_only_with_problem_information() {
    let site = Site::start().await;
    for (wanted, properties) in [(true, &b"\0"[..]), (false, b"\x02\x17\0")] {
        let mut client = RawClient::open(site.address, Level::V5).await;
        let body = [b"\0\x04MQTT\x05\x02\0\0", properties, b"\0\x01c"].concat();
        client.send(&frame(0x10, &body)).await;
        client.next().await;
        client.send(&[0, 0]).await;
        let disconnect = client.frame().await.unwrap();
        assert_eq!(disconnect.len() > 4, wanted, "{disconnect:02X?}");
        client.closed().await;
    }
}

/// Bytes in any pieces are the same packets.
#[tokio::test]
async fn packets_may_come_byte_by_byte_and_large() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut subscriber = site.passerby(level, "s").await;
        subscriber.subscribe("t", 1).await;
        let mut client = site.passerby(level, "c").await;
        for byte in publish(level, "t", b"slow", 1, 1, false) {
            client.send(&[byte]).await;
        }
        client.expect(crate::client::Received::Puback(1, 0)).await;
        assert_eq!(subscriber.take().await.payload, b"slow");
        let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        client.publish("t", &large, 1, 2).await;
        assert!(subscriber.take().await.payload == large);
    }
}
