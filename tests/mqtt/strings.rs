//! Strings: what is none ends the connection, and what is one is kept byte for byte.

use crate::client::{LEVELS, Level, Received, frame, publish, subscribe, text, unsubscribe};
use crate::common::Site;

/// Not UTF-8, a surrogate, a code point that does not exist, an overlong form, and U+0000.
const BAD: [&[u8]; 6] = [
    b"\xC3\x28",
    b"\xED\xA0\x80",
    b"\xED\xBF\xBF",
    b"\xF4\x90\x80\x80",
    b"\xC0\xAF",
    b"a\0b",
];

fn field(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// A PUBLISH of 5.0 with one property.
fn with_property(property: &[u8]) -> Vec<u8> {
    let length = u8::try_from(property.len()).unwrap();
    frame(0x30, &[&text("t")[..], &[length], property].concat())
}

/// v5 [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-1.5.7-1], [MQTT-3.3.2-1], [MQTT-3.3.2-13], [MQTT-3.3.2-19], [MQTT-3.8.3-1],
/// [MQTT-3.10.3-1], [MQTT-4.7.3-2]; v3.1.1 [MQTT-1.5.3-1], [MQTT-1.5.3-2], [MQTT-3.3.2-1], [MQTT-3.8.3-1],
/// [MQTT-3.10.3-1], [MQTT-4.7.3-2]
#[tokio::test]
async fn a_string_that_is_none_ends_the_connection_wherever_it_stands() {
    let site = Site::start().await;
    for bad in BAD {
        let bad = field(bad);
        let both: [(&str, [Vec<u8>; 2]); 3] = [
            ("a topic", [frame(0x30, &bad), frame(0x30, &[&bad[..], &[0]].concat())]),
            (
                "a filter",
                [
                    frame(0x82, &[&[0, 1], &bad[..], &[0]].concat()),
                    frame(0x82, &[&[0, 1, 0], &bad[..], &[0]].concat()),
                ],
            ),
            (
                "a filter to forget",
                [
                    frame(0xA2, &[&[0, 1], &bad[..]].concat()),
                    frame(0xA2, &[&[0, 1, 0], &bad[..]].concat()),
                ],
            ),
        ];
        for (name, packets) in both {
            for (level, bytes) in LEVELS.into_iter().zip(packets) {
                let mut client = site.passerby(level, "c").await;
                client.send(&bytes).await;
                let wanted = (level == Level::V5).then_some(0x81);
                assert_eq!(client.closed().await, wanted, "{name}: {bytes:02X?}");
            }
        }
        let good = text("k");
        let properties = [
            ("content type", with_property(&[&[0x03], &bad[..]].concat())),
            ("response topic", with_property(&[&[0x08], &bad[..]].concat())),
            (
                "name of a user property",
                with_property(&[&[0x26], &bad[..], &good].concat()),
            ),
            (
                "value of a user property",
                with_property(&[&[0x26], &good[..], &bad].concat()),
            ),
        ];
        for (name, bytes) in properties {
            let mut client = site.passerby(Level::V5, "c").await;
            client.send(&bytes).await;
            assert_eq!(client.closed().await, Some(0x81), "{name}: {bytes:02X?}");
        }
    }
}

/// v5 [MQTT-1.5.4-3], [MQTT-4.7.3-4]; v3.1.1 [MQTT-1.5.3-3], [MQTT-4.7.3-4]
#[tokio::test]
async fn the_byte_order_mark_and_unusual_characters_are_kept_and_never_normalized() {
    let site = Site::start().await;
    // U+FEFF, composed and decomposed, noncharacters, control characters, spaces, case.
    let names = [
        "\u{FEFF}t",
        "t",
        "t\u{FEFF}",
        "\u{E9}",
        "e\u{301}",
        "\u{FFFF}",
        "\u{1}",
        "t ",
        "T",
    ];
    let mut publisher = site.passerby(Level::V311, "p").await;
    for level in LEVELS {
        for name in names {
            let mut subscriber = site.passerby(level, "s").await;
            subscriber.subscribe(name, 0).await;
            for other in names {
                publisher.publish(other, other.as_bytes(), 1, 1).await;
            }
            let message = subscriber.take().await;
            assert_eq!((message.topic.as_str(), &message.payload[..]), (name, name.as_bytes()));
            subscriber.ping().await;
            subscriber.send(&unsubscribe(level, 2, &[name])).await;
            let gone = if level == Level::V5 { vec![0] } else { Vec::new() };
            subscriber.expect(Received::Unsuback(2, gone)).await;
        }
    }
}

/// v5 [MQTT-1.5.5-1]
#[tokio::test]
async fn a_variable_byte_integer_longer_than_it_has_to_be_is_malformed() {
    let site = Site::start().await;
    let cases = [
        ("remaining length", vec![0xC0, 0x80, 0x00]),
        ("property length", frame(0x30, b"\0\x01t\x80\x00m")),
        (
            "subscription identifier",
            frame(0x82, b"\0\x01\x03\x0B\x81\x00\0\x01a\0"),
        ),
        (
            "five bytes",
            frame(0x82, b"\0\x01\x06\x0B\x81\x80\x80\x80\x01\0\x01a\0"),
        ),
    ];
    for (name, bytes) in cases {
        let mut client = site.passerby(Level::V5, "c").await;
        client.send(&bytes).await;
        assert_eq!(client.closed().await, Some(0x81), "{name}");
    }
    // The server's own are shortest: 2 + 1 + 125 bytes need a length of two bytes, 124 one.
    let mut client = site.passerby(Level::V5, "c").await;
    client.send(&subscribe(Level::V5, 1, &[("t", 0)])).await;
    // v5 [MQTT-2.2.2-1]: the SUBACK has no properties and says so.
    assert_eq!(client.frame().await.as_deref(), Some(&[0x90, 4, 0, 1, 0, 0][..]));
    for (payload, header) in [(123, &[0x30, 127][..]), (124, &[0x30, 0x80, 1])] {
        client
            .send(&publish(Level::V5, "t", &vec![b'm'; payload], 0, 0, false))
            .await;
        assert!(client.frame().await.unwrap().starts_with(header));
    }
}
