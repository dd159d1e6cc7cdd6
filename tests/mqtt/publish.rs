//! PUBLISH and its acknowledgements: flags, packet ids, properties, aliases, order, flow control.
//! Spec: sections 2.2, 3.3 to 3.7, 4.6 and 4.9.

use std::collections::BTreeSet;
use std::time::Duration;

use evermq::clock::Clock;
use evermq::frontend::mqtt::Settings;

use crate::client::{
    LEVELS, Level, Message, RawClient, Received, ack, connect_v5, frame, publish, publish_v5, subscribe, text,
    unsubscribe, user_property,
};
use crate::common::Site;

/// Opens a 5.0 connection with properties in its CONNECT.
async fn open_v5(site: &Site, client_id: &str, clean: bool, properties: &[u8]) -> RawClient {
    let mut client = RawClient::open(site.address, Level::V5).await;
    client.send(&connect_v5(client_id, clean, properties)).await;
    assert!(matches!(client.next().await, Received::Connack { code: 0, .. }));
    client
}

const LASTING: [u8; 5] = [0x11, 0, 0, 1, 0];

/// With this Receive Maximum, in a session that outlives its connection.
fn receiving(maximum: u8) -> Vec<u8> {
    [&LASTING[..], &[0x21, 0, maximum]].concat()
}

/// v5 [MQTT-2.2.1-2], [MQTT-3.3.1-2], [MQTT-3.3.1-3], [MQTT-4.3.1-1], [MQTT-4.3.2-2], [MQTT-4.3.3-2];
/// v3.1.1 [MQTT-2.3.1-5], [MQTT-3.3.1-2], [MQTT-3.3.1-3], [MQTT-4.3.1-1]
#[tokio::test]
async fn dup_of_a_delivery_is_not_that_of_its_publisher() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut subscriber = site.passerby(level, "s").await;
        subscriber.subscribe("t", 2).await;
        let mut publisher = site.passerby(level, "p").await;
        for qos in [1, 2] {
            let mut bytes = publish(level, "t", &[qos], qos, 5, false);
            bytes[0] |= 0b1000;
            publisher.send(&bytes).await;
            assert!(matches!(
                publisher.next().await,
                Received::Puback(5, 0) | Received::Pubrec(5, 0)
            ));
            let message = subscriber.take().await;
            assert_eq!((message.qos, message.dup), (qos, false));
        }
        publisher.send(&publish(level, "t", b"", 0, 0, false)).await;
        let frame = subscriber.frame().await.unwrap();
        let properties: &[u8] = if level == Level::V5 { &[0] } else { &[] };
        assert_eq!(
            frame,
            [&[0x30, 3 + properties.len() as u8, 0, 1, b't'], properties].concat()
        );
        let mut bytes = publish(level, "t", b"", 0, 0, false);
        bytes[0] |= 0b1000;
        publisher.send(&bytes).await;
        assert_eq!(publisher.closed().await, (level == Level::V5).then_some(0x81));
    }
}

/// v5 [MQTT-2.2.1-5], [MQTT-3.3.4-1], [MQTT-3.4.2-1], [MQTT-4.3.2-4], [MQTT-4.3.2-5];
/// v3.1.1 [MQTT-2.3.1-6], [MQTT-3.3.4-1], [MQTT-4.3.2-2]
#[tokio::test]
async fn an_id_is_free_again_after_its_puback_whatever_dup_says() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut subscriber = site.passerby(level, "s").await;
        subscriber.subscribe("t", 1).await;
        let mut publisher = site.passerby(level, "p").await;
        for number in 0..3 {
            let mut bytes = publish(level, "t", &[number], 1, 0xABCD, false);
            bytes[0] |= 0b1000;
            publisher.send(&bytes).await;
            publisher.expect(Received::Puback(0xABCD, 0)).await;
        }
        for number in 0..3 {
            assert_eq!(subscriber.take().await.payload, [number]);
        }
        subscriber.ping().await;
    }
}

/// A client whose ids are not those the server remembers: the message counts, and the exchange stays what it was.
#[tokio::test]
async fn a_qos_1_message_with_the_id_of_an_open_qos_2_exchange_disturbs_neither() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut subscriber = site.passerby(level, "s").await;
        subscriber.subscribe("t", 2).await;
        let mut publisher = site.passerby(level, "p").await;
        publisher.send(&publish(level, "t", b"two", 2, 5, false)).await;
        publisher.expect(Received::Pubrec(5, 0)).await;
        publisher.send(&publish(level, "t", b"one", 1, 5, false)).await;
        publisher.expect(Received::Puback(5, 0)).await;
        publisher.send(&publish(level, "t", b"two", 2, 5, false)).await;
        publisher.expect(Received::Pubrec(5, 0)).await;
        publisher.send(&ack(0x62, 5)).await;
        publisher.expect(Received::Pubcomp(5, 0)).await;
        assert_eq!(subscriber.take().await.payload, b"two");
        assert_eq!(subscriber.take().await.payload, b"one");
        subscriber.ping().await;
    }
}

/// v5 [MQTT-2.2.1-4], [MQTT-4.3.2-1], [MQTT-4.3.2-2], [MQTT-4.3.2-3], [MQTT-4.3.3-1] to [MQTT-4.3.3-3];
/// v3.1.1 [MQTT-2.3.1-4], [MQTT-4.3.2-1], [MQTT-4.3.3-1]
#[tokio::test]
async fn whatever_is_unacknowledged_has_an_id_of_its_own_also_over_a_crash() {
    let mut site = Site::start().await;
    for level in LEVELS {
        let mut subscriber = site.client(level, "s").await;
        subscriber.subscribe("t", 2).await;
        let mut publisher = site.passerby(level, "p").await;
        let mut ids = BTreeSet::new();
        let mut held = Vec::new();
        for number in 0..40_u8 {
            publisher.publish("t", &[number], 1 + number % 2, 1).await;
            let message = subscriber.next().await.message();
            assert!(!message.dup && message.packet_id != 0);
            assert!(ids.insert(message.packet_id), "{} is in use", message.packet_id);
            // Some are completed in between, so that the free ids lie scattered.
            if number % 5 == 0 && message.qos == 1 {
                subscriber.send(&ack(0x40, message.packet_id)).await;
                ids.remove(&message.packet_id);
            } else {
                held.push(message);
            }
        }
        // What waits for the disk makes sure that what was sent before is on it.
        subscriber.subscribe("u", 0).await;
        site = site.crash().await;
        let mut publisher = site.passerby(level, "p").await;
        let mut subscriber = site.returning(level, "s").await;
        for number in 40..50_u8 {
            publisher.publish("t", &[number], 2, 1).await;
        }
        let mut again = Vec::new();
        let mut new = BTreeSet::new();
        while new.len() < 10 {
            let message = subscriber.next().await.message();
            if message.payload[0] < 40 {
                again.push(message);
            } else {
                assert!(!ids.contains(&message.packet_id) && new.insert(message.packet_id));
            }
        }
        again.retain(|message| held.iter().any(|held| held.payload == message.payload));
        let name = |message: &Message| (message.packet_id, message.payload.clone());
        assert_eq!(
            again.iter().map(name).collect::<Vec<_>>(),
            held.iter().map(name).collect::<Vec<_>>()
        );
        drop((subscriber, publisher));
        site.passerby(level, "s").await.goodbye().await;
    }
}

/// v5 [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-1.5.5-1], [MQTT-1.5.7-1], [MQTT-3.3.1-4], [MQTT-3.3.2-1], [MQTT-3.3.2-2], [MQTT-3.3.2-8], [MQTT-3.3.2-13], [MQTT-3.3.2-14],
/// [MQTT-3.3.2-19], [MQTT-3.3.4-6], [MQTT-4.7.0-1], [MQTT-4.7.3-1], [MQTT-4.7.3-2];
/// v3.1.1 [MQTT-1.5.3-1], [MQTT-1.5.3-2], [MQTT-3.3.1-4], [MQTT-3.3.2-1], [MQTT-3.3.2-2], [MQTT-4.7.1-1], [MQTT-4.7.3-1], [MQTT-4.7.3-2],
/// [MQTT-4.8.0-1]
#[tokio::test]
async fn a_publish_that_breaks_a_rule_ends_the_connection_and_reaches_nobody() {
    let site = Site::start().await;
    let mut subscriber = site.passerby(Level::V5, "s").await;
    subscriber.subscribe("#", 1).await;
    let with = |properties: &[u8]| publish_v5("t", 2, 1, properties, b"m");
    let both = |body: &[u8]| (frame(0x30, body), frame(0x30, &[body, &[0]].concat()));
    let cases = [
        (
            "QoS 3",
            Some(frame(0x36, b"\0\x01t\0\x01")),
            frame(0x36, b"\0\x01t\0\x01\0"),
            0x81,
        ),
        (
            "a topic that is not UTF-8",
            Some(both(b"\0\x01\xFF").0),
            both(b"\0\x01\xFF").1,
            0x81,
        ),
        (
            "a topic with a surrogate",
            Some(both(b"\0\x03\xED\xA0\x80").0),
            both(b"\0\x03\xED\xA0\x80").1,
            0x81,
        ),
        (
            "a topic with U+0000",
            Some(both(b"\0\x03a\0b").0),
            both(b"\0\x03a\0b").1,
            0x81,
        ),
        ("a topic with +", Some(both(b"\0\x03a/+").0), both(b"\0\x03a/+").1, 0x90),
        (
            "a topic with # within",
            Some(both(b"\0\x03a#b").0),
            both(b"\0\x03a#b").1,
            0x90,
        ),
        ("no topic", Some(both(b"\0\0").0), both(b"\0\0").1, 0x82),
        ("alias 0", None, with(&[0x23, 0, 0]), 0x94),
        (
            "a response topic that is not UTF-8",
            None,
            with(b"\x08\0\x01\xFF"),
            0x81,
        ),
        ("a response topic with #", None, with(b"\x08\0\x03a/#"), 0x90),
        ("a response topic with +", None, with(b"\x08\0\x01+"), 0x90),
        ("two response topics", None, with(b"\x08\0\x01a\x08\0\x01a"), 0x82),
        (
            "a content type that is not UTF-8",
            None,
            with(b"\x03\0\x02\xC3\x28"),
            0x81,
        ),
        (
            "a user property that is not UTF-8",
            None,
            with(b"\x26\0\x01a\0\x01\x80"),
            0x81,
        ),
        ("a user property with U+0000", None, with(b"\x26\0\x01\0\0\x01a"), 0x81),
        ("a payload format of 2", None, with(&[0x01, 2]), 0x82),
        ("a subscription identifier", None, with(&[0x0B, 1]), 0x82),
        ("a property of another packet", None, with(&[0x11, 0, 0, 0, 1]), 0x81),
        (
            "a property length in two bytes that needs one",
            None,
            frame(0x30, b"\0\x01t\x80\0"),
            0x81,
        ),
    ];
    for (name, old, new, reason) in cases {
        if let Some(old) = old {
            let mut client = site.passerby(Level::V311, "old").await;
            client.send(&old).await;
            assert_eq!(client.closed().await, None, "{name}");
        }
        let mut client = site.passerby(Level::V5, "new").await;
        client.send(&new).await;
        assert_eq!(client.closed().await, Some(reason), "{name}");
    }
    subscriber.ping().await;
}

/// Properties of every kind, and the value each has.
fn all_properties() -> Vec<u8> {
    [
        user_property("z", "1"),
        vec![0x01, 1, 0x03],
        text("text/plain; charset=utf-8"),
        user_property("a", ""),
        vec![0x08],
        text("answers/\u{FEFF}here"),
        vec![0x09, 0, 4, 0, 255, 7, 0],
        user_property("z", "1"),
        user_property("", "\u{1F980}"),
    ]
    .concat()
}

#[track_caller]
fn has_all(message: &Message) {
    let properties = &message.properties;
    assert!(properties.is_utf8_payload);
    assert_eq!(properties.content_type.as_deref(), Some("text/plain; charset=utf-8"));
    assert_eq!(properties.response_topic.as_deref(), Some("answers/\u{FEFF}here"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&[0, 255, 7, 0][..]));
    let user: Vec<_> = properties
        .user_properties
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(user, [("z", "1"), ("a", ""), ("z", "1"), ("", "\u{1F980}")]);
}

/// Live, out of the log, as a retained message, through a share group, and after a restart; a 3.1.1 client gets the
/// message without them.
///
/// v5 [MQTT-1.5.4-3], [MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-18], [MQTT-3.3.2-20]; v3.1.1 [MQTT-1.5.3-3]
#[tokio::test]
async fn properties_are_passed_on_unaltered_on_every_way() {
    let site = Site::start().await;
    let mut live = site.passerby(Level::V5, "live").await;
    live.subscribe("t", 2).await;
    let mut member = site.passerby(Level::V5, "member").await;
    member.subscribe("$share/g/t", 1).await;
    let mut old = site.passerby(Level::V311, "old").await;
    old.subscribe("t", 1).await;
    let mut absent = site.client(Level::V5, "absent").await;
    absent.subscribe("t", 1).await;
    absent.goodbye().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    // The payload is not what its format says: that is no reason to refuse it.
    let bytes = publish_v5("t", 0b101, 9, &all_properties(), b"\xFFpayload");
    publisher.send(&[&bytes[..1], &bytes[1..]].concat()).await;
    publisher.expect(Received::Pubrec(9, 0)).await;
    for client in [&mut live, &mut member] {
        let message = client.take().await;
        has_all(&message);
        assert_eq!(message.payload, b"\xFFpayload");
    }
    assert_eq!(old.take().await.payload, b"\xFFpayload");
    let mut late = site.passerby(Level::V5, "late").await;
    late.subscribe("t", 0).await;
    let message = late.take().await;
    assert!(message.retain);
    has_all(&message);
    let site = site.restart().await;
    has_all(&site.returning(Level::V5, "absent").await.take().await);
    let mut late = site.passerby(Level::V5, "late").await;
    late.subscribe("t", 0).await;
    has_all(&late.take().await);
}

/// v5 [MQTT-2.2.2-1]; v3.1.1 [MQTT-3.3.2-1]
#[tokio::test]
async fn a_message_without_properties_says_so() {
    let site = Site::start().await;
    let mut client = site.passerby(Level::V5, "c").await;
    client.send(&subscribe(Level::V5, 2, &[("t", 1)])).await;
    assert_eq!(client.frame().await.unwrap(), [0x90, 4, 0, 2, 0, 1]);
    client.send(&publish(Level::V5, "t", b"m", 0, 0, false)).await;
    assert_eq!(client.frame().await.unwrap(), [0x30, 5, 0, 1, b't', 0, b'm']);
    client.send(&unsubscribe(Level::V5, 3, &["t"])).await;
    assert_eq!(client.frame().await.unwrap(), [0xB0, 4, 0, 3, 0, 0]);
}

/// v5 [MQTT-3.3.2-7]: neither direction knows an alias of another connection, whether the server was restarted or not.
#[tokio::test]
async fn aliases_end_with_their_connection() {
    let mut site = Site::start().await;
    for is_restart in [false, true] {
        let mut subscriber = open_v5(&site, "s", false, &[&LASTING[..], &[0x22, 0, 9]].concat()).await;
        subscriber.subscribe("long/topic", 1).await;
        let mut publisher = open_v5(&site, "p", false, &LASTING).await;
        for (topic, wanted) in [("long/topic", "long/topic"), ("", "")] {
            publisher.send(&publish_v5(topic, 2, 1, &[0x23, 0, 3], b"m")).await;
            publisher.expect(Received::Puback(1, 0)).await;
            let message = subscriber.take().await;
            assert_eq!(message.topic, wanted);
            assert_eq!(message.properties.topic_alias.map(u16::from), Some(1));
        }
        subscriber.vanish();
        publisher.vanish();
        if is_restart {
            site = site.restart().await;
        }
        let mut subscriber = open_v5(&site, "s", false, &[&LASTING[..], &[0x22, 0, 9]].concat()).await;
        let mut publisher = open_v5(&site, "p", false, &LASTING).await;
        publisher.publish("long/topic", b"n", 1, 1).await;
        loop {
            let message = subscriber.take().await;
            // An acknowledgement that was cut off brings its message again; by name as well.
            assert!(message.topic == "long/topic" || message.properties.topic_alias.is_some());
            if message.payload == b"n" {
                break;
            }
            assert!(message.dup);
        }
        publisher.send(&publish_v5("", 2, 1, &[0x23, 0, 3], b"m")).await;
        assert_eq!(publisher.closed().await, Some(0x94));
        drop(subscriber);
        site.passerby(Level::V5, "s").await.goodbye().await;
    }
}

/// v5 [MQTT-3.3.2-9], [MQTT-3.3.2-12], [MQTT-3.2.2-17]
#[tokio::test]
async fn every_alias_up_to_the_announced_maximum_can_be_used_and_none_beyond() {
    let settings = Settings {
        topic_alias_maximum: 300,
        ..Settings::default()
    };
    let site = Site::start_with(settings, Clock::system()).await;
    let mut subscriber = site.passerby(Level::V5, "s").await;
    subscriber.subscribe("#", 0).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    // Long names: 300 of them are more than a connection keeps copies of.
    let name = |alias: u16| format!("{alias}/{}", "x".repeat(8_000));
    for alias in 1..=300_u16 {
        let [high, low] = alias.to_be_bytes();
        publisher
            .send(&publish_v5(&name(alias), 0, 0, &[0x23, high, low], b""))
            .await;
        assert!(subscriber.take().await.topic == name(alias));
    }
    for alias in [1, 300, 17_u16] {
        let [high, low] = alias.to_be_bytes();
        publisher.send(&publish_v5("", 0, 0, &[0x23, high, low], b"")).await;
        assert!(subscriber.take().await.topic == name(alias));
    }
    // An alias can be given to another topic.
    publisher.send(&publish_v5("other", 0, 0, &[0x23, 0, 7], b"")).await;
    publisher.send(&publish_v5("", 0, 0, &[0x23, 0, 7], b"")).await;
    for _ in 0..2 {
        assert_eq!(subscriber.take().await.topic, "other");
    }
    publisher.send(&publish_v5("t", 0, 0, &[0x23, 1, 45], b"")).await;
    assert_eq!(publisher.closed().await, Some(0x94));
}

/// v5 [MQTT-3.1.2-26], [MQTT-3.1.2-27], [MQTT-3.3.2-8], [MQTT-3.3.2-11]
#[tokio::test]
async fn a_client_gets_aliases_up_to_its_maximum_and_none_if_it_wants_none() {
    let site = Site::start().await;
    let mut some = open_v5(&site, "some", true, &[0x22, 0, 3]).await;
    let mut zero = open_v5(&site, "zero", true, &[0x22, 0, 0]).await;
    let mut none = open_v5(&site, "none", true, &[]).await;
    let mut publisher = site.passerby(Level::V311, "p").await;
    for client in [&mut some, &mut zero, &mut none] {
        client.subscribe("long/#", 1).await;
    }
    let mut known = Vec::new();
    for round in 0..3 {
        for number in 0..6 {
            let topic = format!("long/topic/{number}");
            publisher.publish(&topic, b"", 1, 1).await;
            for client in [&mut zero, &mut none] {
                let message = client.take().await;
                assert_eq!((message.topic, message.properties.topic_alias), (topic.clone(), None));
            }
            let message = some.take().await;
            if let Some(alias) = message.properties.topic_alias.map(u16::from) {
                assert!((1..=3).contains(&alias));
                if !message.topic.is_empty() {
                    known.push((alias, topic.clone()));
                }
                assert!(
                    known.contains(&(alias, topic)),
                    "{alias} stands for something else, round {round}"
                );
            } else {
                assert_eq!(message.topic, topic);
            }
        }
    }
    assert_eq!(known.len(), 3);
}

/// v5 [MQTT-3.1.2-29], [MQTT-3.4.2-1], [MQTT-3.4.2-2], [MQTT-3.5.2-1], [MQTT-3.5.2-2], [MQTT-3.9.2-1]
#[tokio::test]
async fn reasons_are_explained_only_to_who_wants_it_and_has_room() {
    let site = Site::start().await;
    let topic = "faircomAdmin/x";
    let cases: [(&[u8], bool); 3] = [(&[], true), (&[0x17, 0], false), (&[0x27, 0, 0, 0, 34], false)];
    for (properties, explained) in cases {
        let mut client = open_v5(&site, "c", true, properties).await;
        for (first, request) in [
            (0x40, publish_v5(topic, 2, 1, &[], b"")),
            (0x50, publish_v5(topic, 4, 1, &[], b"")),
            (0x90, subscribe(Level::V5, 1, &[(topic, 1)])),
        ] {
            client.send(&request).await;
            let answer = client.frame().await.unwrap();
            assert_eq!((answer[0], &answer[2..4]), (first, &[0, 1][..]));
            assert!(answer.contains(&0x87));
            assert_eq!(answer.len() > 6, explained, "{answer:02X?}");
        }
    }
}

/// v5 [MQTT-3.1.2-24]: there is nothing smaller to send, so the connection ends.
#[tokio::test]
async fn an_answer_larger_than_its_client_takes_is_not_sent() {
    let site = Site::start().await;
    let mut client = open_v5(&site, "c", true, &[0x27, 0, 0, 0, 40]).await;
    let filters = [("t", 0); 36];
    client.send(&subscribe(Level::V5, 1, &filters[..35])).await;
    client.expect(Received::Suback(1, vec![0; 35])).await;
    client.send(&unsubscribe(Level::V5, 1, &["u"; 35])).await;
    client.expect(Received::Unsuback(1, vec![0x11; 35])).await;
    client.send(&subscribe(Level::V5, 1, &filters)).await;
    assert_eq!(client.closed().await, Some(0x95));
    let mut client = open_v5(&site, "c", true, &[0x27, 0, 0, 0, 40]).await;
    client.send(&unsubscribe(Level::V5, 1, &["t"; 36])).await;
    assert_eq!(client.closed().await, Some(0x95));
}

/// v5 [MQTT-2.1.3-1], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1]; v3.1.1 [MQTT-2.2.2-1], [MQTT-2.2.2-2],
/// [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1]
#[tokio::test]
async fn flags_of_acknowledgements_and_requests_are_what_they_must_be() {
    let site = Site::start().await;
    for level in LEVELS {
        let requests = [
            ack(0x40, 1),
            ack(0x50, 1),
            ack(0x62, 1),
            ack(0x70, 1),
            subscribe(level, 1, &[("t", 0)]),
            unsubscribe(level, 1, &["t"]),
        ];
        for request in requests {
            for flags in 0..16 {
                if flags == request[0] & 0x0F {
                    continue;
                }
                let mut bytes = request.clone();
                bytes[0] = bytes[0] & 0xF0 | flags;
                let mut client = site.passerby(level, "c").await;
                client.send(&bytes).await;
                let told = client.closed().await;
                assert_eq!(told, (level == Level::V5).then_some(0x81), "{bytes:02X?}");
            }
        }
    }
}

/// v5 [MQTT-2.2.1-3]; v3.1.1 [MQTT-2.3.1-1]
#[tokio::test]
async fn the_packet_id_0_is_refused_wherever_it_stands() {
    let site = Site::start().await;
    for level in LEVELS {
        for bytes in [
            publish(level, "t", b"", 1, 0, false),
            publish(level, "t", b"", 2, 0, false),
            ack(0x40, 0),
            ack(0x50, 0),
            ack(0x62, 0),
            ack(0x70, 0),
            subscribe(level, 0, &[("t", 0)]),
            unsubscribe(level, 0, &["t"]),
        ] {
            let mut client = site.passerby(level, "c").await;
            client.send(&bytes).await;
            let told = client.closed().await;
            assert_eq!(told, (level == Level::V5).then_some(0x82), "{bytes:02X?}");
        }
    }
}

/// Two publishers at once, all qualities of service on one topic, everything sent before anything is read.
///
/// v5 [MQTT-4.6.0-5], [MQTT-4.6.0-6]; v3.1.1 [MQTT-4.6.0-5], [MQTT-4.6.0-6]
#[tokio::test]
async fn acknowledgements_and_deliveries_keep_the_order_of_each_publisher() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut subscriber = site.passerby(level, "s").await;
        subscriber.subscribe("t", 2).await;
        let mut publishers = [site.passerby(level, "0").await, site.passerby(level, "1").await];
        for (name, publisher) in publishers.iter_mut().enumerate() {
            let run: Vec<u8> = (1..=150_u16)
                .flat_map(|number| {
                    let payload = [name as u8, number as u8];
                    publish(level, "t", &payload, 1 + (number % 2) as u8, number, false)
                })
                .collect();
            publisher.send(&run).await;
        }
        for publisher in &mut publishers {
            for number in 1..=150_u16 {
                let wanted = if number % 2 == 0 {
                    Received::Puback(number, 0)
                } else {
                    Received::Pubrec(number, 0)
                };
                publisher.expect(wanted).await;
            }
            let releases: Vec<u8> = (1..=150).step_by(2).flat_map(|number| ack(0x62, number)).collect();
            publisher.send(&releases).await;
            for number in (1..=150).step_by(2) {
                publisher.expect(Received::Pubcomp(number, 0)).await;
            }
        }
        let mut next = [1, 1];
        let mut messages = Vec::new();
        for _ in 0..300 {
            let message = subscriber.next().await.message();
            let [name, number] = message.payload[..] else { panic!() };
            assert_eq!(number, next[usize::from(name)]);
            next[usize::from(name)] += 1;
            messages.push(message);
        }
        // PUBREL packets have the order of the PUBREC packets, which is the client's.
        let mut twos: Vec<u16> = messages
            .iter()
            .filter(|one| one.qos == 2)
            .map(|one| one.packet_id)
            .collect();
        twos.reverse();
        let pubrecs: Vec<u8> = twos.iter().flat_map(|id| ack(0x50, *id)).collect();
        subscriber.send(&pubrecs).await;
        for id in twos {
            subscriber.expect(Received::Pubrel(id, 0)).await;
        }
    }
}

/// v5 [MQTT-3.3.4-9], [MQTT-3.3.4-10], [MQTT-4.9.0-1], [MQTT-4.9.0-2], [MQTT-4.9.0-3]
#[tokio::test]
async fn a_client_that_has_all_it_takes_is_answered_all_the_same() {
    let site = Site::start().await;
    let mut client = open_v5(&site, "c", false, &receiving(1)).await;
    client.subscribe("t", 2).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for number in 0..3 {
        publisher.publish("t", &[number], 2, 1).await;
    }
    let first = client.next().await.message();
    client.ping().await;
    client.publish("u", b"", 0, 0).await;
    client.send(&publish(Level::V5, "u", b"", 1, 1, false)).await;
    client.expect(Received::Puback(1, 0x10)).await;
    client.send(&publish(Level::V5, "u", b"", 2, 2, false)).await;
    client.expect(Received::Pubrec(2, 0x10)).await;
    client.send(&ack(0x62, 2)).await;
    client.expect(Received::Pubcomp(2, 0)).await;
    client.subscribe("v", 1).await;
    client.send(&unsubscribe(Level::V5, 3, &["v"])).await;
    client.expect(Received::Unsuback(3, vec![0])).await;
    client.send(&ack(0x50, first.packet_id)).await;
    client.expect(Received::Pubrel(first.packet_id, 0)).await;
    client.ping().await;
    client.send(&ack(0x70, first.packet_id)).await;
    assert_eq!(client.next().await.message().payload, [1]);
    client.ping().await;
}

/// v5 [MQTT-3.3.4-10], [MQTT-4.4.0-1]: no quota holds up a PUBREL, also not one that is sent again.
#[tokio::test]
async fn every_release_comes_at_once_after_a_return_however_little_the_client_takes() {
    let mut site = Site::start().await;
    for is_crash in [false, true] {
        let mut client = open_v5(&site, "c", false, &receiving(9)).await;
        client.subscribe("t", 2).await;
        let mut publisher = site.passerby(Level::V5, "p").await;
        let mut sent = Vec::new();
        for number in 0..5 {
            publisher.publish("t", &[number], 2, 1).await;
            sent.push(client.next().await.message().packet_id);
        }
        // The first two stay unanswered.
        for id in &sent[2..] {
            client.send(&ack(0x50, *id)).await;
            client.expect(Received::Pubrel(*id, 0)).await;
        }
        client.vanish();
        if is_crash {
            site = site.crash().await;
        }
        let mut client = open_v5(&site, "c", false, &receiving(1)).await;
        for id in &sent[2..] {
            client.expect(Received::Pubrel(*id, 0)).await;
        }
        client.ping().await;
        for id in &sent[2..] {
            client.send(&ack(0x70, *id)).await;
        }
        for (number, id) in sent[..2].iter().enumerate() {
            let message = client.take().await;
            assert_eq!((message.dup, message.packet_id), (true, *id));
            assert_eq!(message.payload, [number as u8]);
        }
        client.ping().await;
        drop(client);
        site.passerby(Level::V5, "c").await.goodbye().await;
    }
}

/// v5 [MQTT-4.4.0-2]
#[tokio::test]
async fn a_refused_delivery_is_not_repeated() {
    let mut site = Site::start().await;
    for is_crash in [false, true] {
        let mut client = site.client(Level::V5, "c").await;
        client.subscribe("t", 2).await;
        let mut publisher = site.passerby(Level::V5, "p").await;
        for qos in [1, 2] {
            publisher.publish("t", b"no", qos, 1).await;
            let message = client.next().await.message();
            let [high, low] = message.packet_id.to_be_bytes();
            let first = if qos == 1 { 0x40 } else { 0x50 };
            client.send(&[first, 3, high, low, 0x83]).await;
        }
        // What waits for the disk makes sure that it was seen.
        client.subscribe("u", 1).await;
        client.vanish();
        if is_crash {
            site = site.crash().await;
            // Acknowledgements of QoS 1 are written within a second: what a crash cuts off comes again.
            let mut client = site.returning(Level::V5, "c").await;
            client.send(&[0xC0, 0]).await;
            while let Received::Publish(message) = client.next().await {
                assert_eq!((message.qos, message.dup), (1, true));
            }
        } else {
            let mut client = site.returning(Level::V5, "c").await;
            client.ping().await;
        }
    }
}

/// A message that waits behind a full window may expire there; one that was sent may not.
///
/// v5 [MQTT-3.3.2-5], [MQTT-3.3.2-6], [MQTT-4.3.3-7]
#[tokio::test]
async fn expiry_drops_what_was_not_sent_and_nothing_else() {
    let site = Site::by_hand().await;
    for flags in [2, 4] {
        let mut client = open_v5(&site, "c", false, &receiving(1)).await;
        client.subscribe("t", 2).await;
        let mut publisher = site.passerby(Level::V5, "p").await;
        for (payload, seconds) in [(b"sent", 2), (b"gone", 2), (b"left", 60)] {
            publisher
                .send(&publish_v5("t", flags, 1, &[2, 0, 0, 0, seconds], payload))
                .await;
            publisher.next().await;
            publisher.send(&ack(0x62, 1)).await;
            publisher.next().await;
        }
        let first = client.next().await.message();
        assert_eq!(first.payload, b"sent");
        assert_eq!(first.properties.message_expiry_interval.map(u32::from), Some(2));
        client.ping().await;
        site.pass(Duration::from_secs(5)).await;
        client.vanish();
        let mut client = open_v5(&site, "c", false, &receiving(1)).await;
        // An expiry of 0, which the codec cannot read.
        let frame = client.frame().await.unwrap();
        assert_eq!(
            (frame[0], &frame[5..7]),
            (0x38 | flags, &first.packet_id.to_be_bytes()[..])
        );
        assert!(frame.ends_with(b"sent"));
        if flags == 2 {
            client.send(&ack(0x40, first.packet_id)).await;
        } else {
            client.send(&ack(0x50, first.packet_id)).await;
            client.expect(Received::Pubrel(first.packet_id, 0)).await;
            client.send(&ack(0x70, first.packet_id)).await;
        }
        let message = client.take().await;
        assert_eq!(message.payload, b"left");
        assert_eq!(message.properties.message_expiry_interval.map(u32::from), Some(55));
        client.ping().await;
        drop(client);
        site.passerby(Level::V5, "c").await.goodbye().await;
    }
}

/// v5 [MQTT-4.5.0-1]; v3.1.1 [MQTT-4.5.0-1]
#[tokio::test]
async fn a_message_is_owed_to_every_session_that_has_a_matching_subscription() {
    let mut site = Site::start().await;
    for level in LEVELS {
        let names: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
        for (number, name) in names.iter().enumerate() {
            let mut client = site.client(level, name).await;
            client.subscribe(["a/b", "a/+", "#", "+/b", "a/#"][number % 5], 1).await;
            client.subscribe("other", 1).await;
            if number % 2 == 0 {
                client.goodbye().await;
            } else {
                client.vanish();
            }
        }
        let mut publisher = site.passerby(level, "p").await;
        publisher.publish("a/b", b"owed", 1, 1).await;
        site = site.crash().await;
        for name in &names {
            let mut client = site.returning(level, name).await;
            assert_eq!(client.take().await.payload, b"owed");
            client.ping().await;
            drop(client);
            site.passerby(level, name).await.goodbye().await;
        }
    }
}

/// An empty payload is a payload, and the largest the CONNACK allows is taken. v5 [MQTT-3.2.2-15]
#[tokio::test]
async fn payloads_of_every_size_up_to_the_maximum_arrive() {
    let settings = Settings {
        packet_bytes_max: 300_000,
        ..Settings::default()
    };
    let site = Site::start_with(settings, Clock::system()).await;
    for level in LEVELS {
        let mut subscriber = site.passerby(level, "s").await;
        subscriber.subscribe("t", 1).await;
        let mut publisher = site.passerby(level, "p").await;
        let overhead = publish(level, "t", &vec![0; 70_000], 1, 1, false).len() - 70_000;
        for size in [0, 1, 127, 128, 65_536, 300_000 - overhead] {
            let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            publisher.publish("t", &payload, 1, 1).await;
            assert!(subscriber.take().await.payload == payload, "{size}");
        }
        publisher
            .send(&publish(level, "t", &vec![0; 300_001 - overhead], 1, 1, false)[..1_000])
            .await;
        assert_eq!(publisher.closed().await, (level == Level::V5).then_some(0x95));
        subscriber.ping().await;
    }
}
