//! SUBSCRIBE, UNSUBSCRIBE and what a message gets from the subscriptions that match.
//! Spec: sections 3.8 to 3.11 and 4.7.

use crate::client::{LEVELS, Level, RawClient, Received, ack, frame, publish, subscribe, text, unsubscribe};
use crate::common::Site;

/// v5 [MQTT-3.9.3-1], [MQTT-3.8.4-6], 3.9.3; v3.1.1 [MQTT-3.8.4-5], [MQTT-3.9.3-2]
#[tokio::test]
async fn each_filter_has_its_answer() {
    let site = Site::start().await;
    let filters = [
        ("a", 0),
        ("a/+/b", 1),
        ("#", 2),
        ("a#", 1),
        ("a/#/b", 1),
        ("+a", 1),
        ("$share/g/x", 1),
        ("$share/g", 1),
        ("$share/+/x", 1),
        ("/", 1),
    ];
    for level in LEVELS {
        let mut client = site.passerby(level, "c").await;
        client.send(&subscribe(level, 9, &filters)).await;
        let bad = if level == Level::V5 { 0x8F } else { 0x80 };
        client
            .expect(Received::Suback(9, vec![0, 1, 2, bad, bad, bad, 1, bad, bad, 1]))
            .await;
    }
}

/// v5 [MQTT-3.10.4-4], [MQTT-3.11.3-1]; v3.1.1 [MQTT-3.10.4-1] to [MQTT-3.10.4-6]
#[tokio::test]
async fn an_unsubscribe_is_answered_and_ends_deliveries() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut client = site.passerby(level, "c").await;
        client.subscribe("a/#", 1).await;
        client.send(&unsubscribe(level, 5, &["a/#", "b", "a#"])).await;
        let reasons = if level == Level::V5 {
            vec![0, 0x11, 0x8F]
        } else {
            Vec::new()
        };
        client.expect(Received::Unsuback(5, reasons)).await;
        let mut publisher = site.passerby(level, "p").await;
        publisher.send(&publish(level, "a/b", b"", 1, 1, false)).await;
        assert!(matches!(publisher.next().await, Received::Puback(1, 0 | 0x10)));
        client.ping().await;
    }
}

/// v5 4.7.1, [MQTT-4.7.2-1]; v3.1.1 [MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-4.7.2-1]
#[tokio::test]
async fn wildcards_match_what_the_specification_says() {
    let site = Site::start().await;
    let mut publisher = site.passerby(Level::V311, "p").await;
    let topics = [
        "sport",
        "sport/",
        "sport/tennis",
        "sport/tennis/player1",
        "/finance",
        "finance",
    ];
    let cases: [(&str, &[&str]); 7] = [
        ("sport/#", &["sport", "sport/", "sport/tennis", "sport/tennis/player1"]),
        ("sport/+", &["sport/", "sport/tennis"]),
        ("+", &["sport", "finance"]),
        ("+/+", &["sport/", "sport/tennis", "/finance"]),
        ("/+", &["/finance"]),
        (
            "#",
            &[
                "sport",
                "sport/",
                "sport/tennis",
                "sport/tennis/player1",
                "/finance",
                "finance",
            ],
        ),
        ("sport/+/player1", &["sport/tennis/player1"]),
    ];
    let mut clients = Vec::new();
    for (number, (filter, _)) in cases.iter().enumerate() {
        let mut client = site.passerby(Level::V5, &number.to_string()).await;
        client.subscribe(filter, 0).await;
        clients.push(client);
    }
    for topic in topics {
        publisher.publish(topic, topic.as_bytes(), 1, 1).await;
    }
    for (client, (filter, wanted)) in clients.iter_mut().zip(cases) {
        for topic in wanted {
            assert_eq!(client.take().await.topic, *topic, "{filter}");
        }
        client.ping().await;
    }
}

/// v5 [MQTT-3.3.4-2] to [MQTT-3.3.4-5], spec/semantics.md 2: one copy for all ordinary filters.
#[tokio::test]
async fn filters_that_overlap_give_one_copy_with_all_identifiers() {
    let site = Site::start().await;
    let mut client = site.passerby(Level::V5, "c").await;
    for (identifier, filter, qos) in [(7, "a/#", 0), (3, "a/b", 2), (200, "+/b", 1)] {
        let mut properties = vec![0x0B];
        if identifier > 127 {
            properties.extend_from_slice(&[identifier | 0x80, 1]);
        } else {
            properties.push(identifier);
        }
        let length = u8::try_from(properties.len()).unwrap();
        let body = [&[0, 1, length], &properties[..], &text(filter), &[qos]].concat();
        client.send(&frame(0x82, &body)).await;
        client.expect(Received::Suback(1, vec![qos])).await;
    }
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("a/b", b"m", 2, 1).await;
    let message = client.take().await;
    assert_eq!(message.qos, 2);
    let identifiers: Vec<u32> = message.properties.subscription_ids.iter().map(|id| id.get()).collect();
    assert_eq!(identifiers, [3, 7, 200]);
    client.ping().await;
}

/// v5 [MQTT-3.8.3-3]
#[tokio::test]
async fn no_local_holds_back_what_the_client_itself_published() {
    let site = Site::start().await;
    let mut client = site.passerby(Level::V5, "c").await;
    client.send(&subscribe(Level::V5, 1, &[("t", 0x04 | 1)])).await;
    client.expect(Received::Suback(1, vec![1])).await;
    client.publish("t", b"own", 1, 1).await;
    let mut other = site.passerby(Level::V5, "other").await;
    other.publish("t", b"other", 1, 1).await;
    assert_eq!(client.take().await.payload, b"other");
    client.ping().await;
}

/// v5 [MQTT-3.8.3-4]
#[tokio::test]
async fn no_local_on_a_shared_filter_is_a_protocol_error() {
    let site = Site::start().await;
    let mut client = site.passerby(Level::V5, "c").await;
    client.send(&subscribe(Level::V5, 1, &[("$share/g/t", 0x04 | 1)])).await;
    assert_eq!(client.closed().await, Some(0x82));
}

/// v5 [MQTT-3.8.4-3]; v3.1.1 [MQTT-3.8.4-3]
#[tokio::test]
async fn a_subscription_is_replaced_without_a_gap() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut client = site.client(level, "c").await;
        client.subscribe("t", 2).await;
        client.goodbye().await;
        let mut publisher = site.passerby(level, "p").await;
        publisher.publish("t", b"before", 1, 1).await;
        let mut client = site.returning(level, "c").await;
        assert_eq!(client.take().await.payload, b"before");
        client.subscribe("t", 0).await;
        publisher.publish("t", b"after", 1, 1).await;
        let message = client.take().await;
        assert_eq!((message.qos, &message.payload[..]), (0, &b"after"[..]));
        client.ping().await;
        drop(client);
        site.passerby(level, "c").await.goodbye().await;
    }
}

/// A subscription starts where it stands: nothing of before, everything after.
#[tokio::test]
async fn a_new_subscription_begins_with_the_next_message() {
    let site = Site::start().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for level in LEVELS {
        for clean in [true, false] {
            publisher.send(&publish(Level::V5, "t", b"old", 1, 1, false)).await;
            publisher.next().await;
            let (mut client, _) = RawClient::hello(site.address, level, "c", clean).await;
            client.subscribe("t", 1).await;
            publisher.publish("t", b"new", 1, 2).await;
            assert_eq!(client.take().await.payload, b"new");
            client.ping().await;
            drop(client);
            site.passerby(level, "c").await.goodbye().await;
        }
    }
}

/// spec/broker.md 6.3
#[tokio::test]
async fn administrators_may_subscribe_to_system_topics() {
    let site = Site::start().await;
    let mut client = RawClient::open(site.address, Level::V5).await;
    let body = [
        &text("MQTT")[..],
        &[5, 0xC2, 0, 0, 0],
        &text("c"),
        &text("ADMIN"),
        &text("ADMIN"),
    ]
    .concat();
    client.send(&frame(0x10, &body)).await;
    client.next().await;
    client.subscribe("faircomAdmin/#", 1).await;
}

/// Receive Maximum of the client, outbound: v5 [MQTT-3.3.4-9]; `QoS` 0 does not count.
#[tokio::test]
async fn no_more_is_in_flight_than_the_client_takes() {
    let site = Site::start().await;
    let mut client = RawClient::open(site.address, Level::V5).await;
    let body = [&text("MQTT")[..], &[5, 2, 0, 0, 3, 0x21, 0, 2], &text("c")].concat();
    client.send(&frame(0x10, &body)).await;
    client.next().await;
    client.subscribe("t", 2).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for number in 0..6 {
        publisher.publish("t", &[number], 1 + number % 2, 1).await;
    }
    let mut held = Vec::new();
    for number in 0..6_u8 {
        let message = client.next().await.message();
        assert_eq!(message.payload, [number]);
        held.push(message);
        if held.len() == 2 {
            client.ping().await;
            let first = held.remove(0);
            if first.qos == 1 {
                client.send(&ack(0x40, first.packet_id)).await;
            } else {
                client.send(&ack(0x50, first.packet_id)).await;
                client.expect(Received::Pubrel(first.packet_id, 0)).await;
                client.ping().await;
                client.send(&ack(0x70, first.packet_id)).await;
            }
        }
    }
}
