//! SUBSCRIBE, UNSUBSCRIBE and what a message gets from the subscriptions that match.
//! Spec: sections 3.8 to 3.11 and 4.7.

use crate::client::{LEVELS, Level, Message, RawClient, Received, ack, frame, publish, subscribe, text, unsubscribe};
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

/// A SUBSCRIBE of 5.0 to one filter with a subscription identifier below 128.
fn subscribe_as(identifier: u8, filter: &str, options: u8) -> Vec<u8> {
    frame(
        0x82,
        &[&[0, 1, 2, 0x0B, identifier], &text(filter)[..], &[options]].concat(),
    )
}

fn identifiers(message: &Message) -> Vec<u32> {
    message.properties.subscription_ids.iter().map(|id| id.get()).collect()
}

/// One identifier may stand for several subscriptions: each that matches tells it. A share group is a delivery of its
/// own, with its own identifier.
///
/// v5 [MQTT-3.3.4-3], [MQTT-3.3.4-4], [MQTT-3.3.4-5]
#[tokio::test]
async fn each_matching_subscription_tells_its_identifier_also_after_a_restart() {
    let site = Site::start().await;
    let mut client = site.client(Level::V5, "c").await;
    for (identifier, filter) in [(9, "a/#"), (9, "a/+"), (4, "+/b"), (7, "other"), (5, "$share/g/a/b")] {
        client.send(&subscribe_as(identifier, filter, 1)).await;
        client.expect(Received::Suback(1, vec![1])).await;
    }
    client.subscribe("a/b", 1).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("a/b", b"m", 1, 1).await;
    let mut got = [identifiers(&client.take().await), identifiers(&client.take().await)];
    got.sort();
    assert_eq!(got, [vec![4, 9, 9], vec![5]]);
    // Without an identifier it has none any more.
    client.subscribe("+/b", 1).await;
    client.goodbye().await;
    let site = site.restart().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("a/b", b"m", 1, 1).await;
    let mut client = site.returning(Level::V5, "c").await;
    let mut got = [identifiers(&client.take().await), identifiers(&client.take().await)];
    got.sort();
    assert_eq!(got, [vec![5], vec![9, 9]]);
    client.ping().await;
}

/// v5 [MQTT-3.3.4-2], [MQTT-3.8.4-8]; v3.1.1 [MQTT-3.3.5-1], [MQTT-3.8.4-6]
#[tokio::test]
async fn a_delivery_has_the_lower_of_both_qualities_and_the_highest_of_overlapping_filters() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut client = site.passerby(level, "c").await;
        for granted in 0..3 {
            client.subscribe(&format!("{granted}/t"), granted).await;
        }
        for (filter, granted) in [("all/t", 1), ("all/+", 2), ("all/#", 0)] {
            client.subscribe(filter, granted).await;
        }
        let mut publisher = site.passerby(level, "p").await;
        for published in 0..3 {
            for granted in 0..3 {
                publisher.publish(&format!("{granted}/t"), b"", published, 1).await;
                assert_eq!(client.take().await.qos, published.min(granted));
            }
            publisher.publish("all/t", b"", published, 1).await;
            assert_eq!(client.take().await.qos, published);
            client.ping().await;
        }
    }
}

/// v5 [MQTT-2.2.1-6], [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.8.4-7], [MQTT-3.9.3-2], [MQTT-3.10.4-5], [MQTT-3.11.3-2];
/// v3.1.1 [MQTT-2.3.1-7], [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.9.3-1], [MQTT-3.10.4-4], [MQTT-3.10.4-5]
#[tokio::test]
async fn answers_carry_the_id_of_their_request_and_come_in_its_order() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut client = site.client(level, "c").await;
        let run = [
            subscribe(level, 0xFFFF, &[("a", 2), ("b", 0), ("c", 1)]),
            subscribe(level, 0x0100, &[("#/", 1), ("a", 1)]),
            unsubscribe(level, 0x00FF, &["nobody", "b", "b"]),
            subscribe(level, 1, &[("b", 2)]),
        ];
        client.send(&run.concat()).await;
        let bad = if level == Level::V5 { 0x8F } else { 0x80 };
        client.expect(Received::Suback(0xFFFF, vec![2, 0, 1])).await;
        client.expect(Received::Suback(0x0100, vec![bad, 1])).await;
        // What was asked for just before counts, though it may not be on the disk yet.
        let reasons = if level == Level::V5 {
            vec![0x11, 0, 0x11]
        } else {
            Vec::new()
        };
        client.expect(Received::Unsuback(0x00FF, reasons)).await;
        client.expect(Received::Suback(1, vec![2])).await;
        let mut publisher = site.passerby(level, "p").await;
        for (topic, qos) in [("a", 1), ("b", 2), ("c", 1)] {
            publisher.publish(topic, b"", 2, 1).await;
            let message = client.take().await;
            assert_eq!((&*message.topic, message.qos), (topic, qos));
        }
        client.ping().await;
        drop(client);
        site.passerby(level, "c").await.goodbye().await;
    }
}

/// Everything in one write, so that nothing has reached the disk when the next packet is looked at.
///
/// v5 [MQTT-3.8.4-5], [MQTT-3.10.4-6]; v3.1.1 [MQTT-3.8.4-4], [MQTT-3.10.4-6]
#[tokio::test]
async fn requests_sent_without_waiting_act_one_after_the_other() {
    let mut site = Site::start().await;
    for level in LEVELS {
        let mut client = site.client(level, "c").await;
        let mut run = Vec::new();
        for number in 0..50 {
            run.extend(subscribe(level, 1 + number * 2, &[("t", 1), ("gone", 1)]));
            run.extend(unsubscribe(level, 2 + number * 2, &["t", "gone"]));
        }
        run.extend(subscribe(level, 101, &[("t", 0), ("t", 2), ("u", 1), ("t", 1)]));
        client.send(&run).await;
        for number in 0..50 {
            client.expect(Received::Suback(1 + number * 2, vec![1, 1])).await;
            let reasons = if level == Level::V5 { vec![0, 0] } else { Vec::new() };
            client.expect(Received::Unsuback(2 + number * 2, reasons)).await;
        }
        client.expect(Received::Suback(101, vec![0, 2, 1, 1])).await;
        let mut publisher = site.passerby(level, "p").await;
        for round in 0..2 {
            for topic in ["t", "gone", "u"] {
                publisher.send(&publish(level, topic, &[round], 2, 1, false)).await;
                publisher.next().await;
                publisher.send(&ack(0x62, 1)).await;
                publisher.expect(Received::Pubcomp(1, 0)).await;
            }
            for topic in ["t", "u"] {
                let message = client.take().await;
                assert_eq!(
                    (&*message.topic, message.qos, &message.payload[..]),
                    (topic, 1, &[round][..])
                );
            }
            client.ping().await;
            client.goodbye().await;
            site = site.restart().await;
            publisher = site.passerby(level, "p").await;
            client = site.returning(level, "c").await;
            client.ping().await;
        }
        drop(client);
        site.passerby(level, "c").await.goodbye().await;
    }
}

/// A clean start forgets also what was asked for a moment before it. v5 [MQTT-3.1.2-4]; v3.1.1 [MQTT-3.1.2-6]
#[tokio::test]
async fn a_clean_start_forgets_a_subscription_that_is_still_on_its_way() {
    let site = Site::start().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for round in 0..30 {
        let level = LEVELS[round % 2];
        let mut first = site.client(level, "c").await;
        first.send(&subscribe(level, 1, &[("t", 1)])).await;
        let (mut second, present) = RawClient::hello(site.address, level, "c", true).await;
        assert!(!present);
        publisher.send(&publish(Level::V5, "t", b"", 1, 1, false)).await;
        publisher.expect(Received::Puback(1, 0x10)).await;
        second.ping().await;
        second.goodbye().await;
    }
}

/// v5 [MQTT-3.8.3-1], [MQTT-3.8.3-2], [MQTT-3.8.3-4], [MQTT-3.8.3-5], [MQTT-3.10.3-1], [MQTT-3.10.3-2], [MQTT-4.7.3-1],
/// [MQTT-4.7.3-2]; v3.1.1 [MQTT-3.8.3-1], [MQTT-3.8.3-3], [MQTT-3.8.3-4], [MQTT-3.10.3-1], [MQTT-3.10.3-2],
/// [MQTT-4.7.3-1], [MQTT-4.7.3-2], [MQTT-4.8.0-1]
#[tokio::test]
async fn a_request_that_breaks_a_rule_ends_the_connection_and_has_no_effect() {
    let site = Site::start().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    let long: &[u8] = b"\0\x01good\0";
    let cases: [(&str, u8, &[u8], u8); 14] = [
        ("no filter", 0x82, b"", 0x82),
        ("an empty filter", 0x82, b"\0\0\0", 0x8F),
        ("a filter that is not UTF-8", 0x82, b"\0\x01\xFF\0", 0x81),
        ("a filter with U+0000", 0x82, b"\0\x03a\0b\0", 0x81),
        ("a filter without options", 0x82, b"\0\x01a", 0x81),
        ("QoS 3", 0x82, b"\0\x01a\x03", 0x82),
        ("reserved bits", 0x82, b"\0\x01a\x40", 0x81),
        ("reserved bits", 0x82, b"\0\x01a\x80", 0x81),
        ("bytes behind the last filter", 0x82, b"\0\x01a\0\0", 0x81),
        ("no filter to remove", 0xA2, b"", 0x82),
        ("an empty filter to remove", 0xA2, b"\0\0", 0x8F),
        (
            "a filter to remove that is not UTF-8",
            0xA2,
            b"\0\x03\xED\xA0\x80",
            0x81,
        ),
        ("a filter to remove with U+0000", 0xA2, b"\0\x01\0", 0x81),
        ("a length beyond the packet", 0xA2, long, 0x81),
    ];
    for (name, first, body, reason) in cases {
        for level in LEVELS {
            let mut client = site.client(level, "c").await;
            let head: &[u8] = if level == Level::V5 { &[0, 1, 0] } else { &[0, 1] };
            client.send(&frame(first, &[head, body].concat())).await;
            assert_eq!(client.closed().await, (level == Level::V5).then_some(reason), "{name}");
        }
    }
    for (options, reason) in [(0x30, 0x82), (0x04, 0x82)] {
        let mut client = site.client(Level::V5, "c").await;
        let filters = [("a", 0), ("$share/g/a", options)];
        client.send(&subscribe(Level::V5, 1, &filters)).await;
        assert_eq!(client.closed().await, Some(reason));
    }
    for options in [0x04, 0x08, 0x10] {
        let mut client = site.client(Level::V311, "c").await;
        client.send(&subscribe(Level::V311, 1, &[("a", options)])).await;
        assert_eq!(client.closed().await, None, "options of 5.0");
    }
    publisher.send(&publish(Level::V5, "a", b"", 1, 1, false)).await;
    publisher.expect(Received::Puback(1, 0x10)).await;
}

/// v5 [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-4.7.3-4]; v3.1.1 [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-4.7.3-4]
#[tokio::test]
async fn an_unsubscribe_ends_the_very_filter_it_names_and_stays_so() {
    let mut site = Site::start().await;
    for level in LEVELS {
        let mut client = site.client(level, "c").await;
        client.subscribe("a/+", 1).await;
        client.subscribe("a/b", 1).await;
        client.subscribe("$share/g/a/b", 1).await;
        let none = ["A/b", "a/#", "a/b/", "/a/b", "a/c", "$share/g/a/+", "$share/h/a/b", "a"];
        client.send(&unsubscribe(level, 1, &none)).await;
        let reasons = |count, reason| {
            if level == Level::V5 {
                vec![reason; count]
            } else {
                Vec::new()
            }
        };
        client.expect(Received::Unsuback(1, reasons(none.len(), 0x11))).await;
        let mut publisher = site.passerby(level, "p").await;
        publisher.publish("a/b", b"both", 1, 1).await;
        assert_eq!(client.take().await.payload, b"both");
        assert_eq!(client.take().await.payload, b"both");
        client.send(&unsubscribe(level, 2, &["$share/g/a/b", "a/+"])).await;
        client.expect(Received::Unsuback(2, reasons(2, 0))).await;
        site = site.crash().await;
        let mut client = site.returning(level, "c").await;
        let mut publisher = site.passerby(level, "p").await;
        publisher.send(&publish(level, "a/c", b"", 1, 1, false)).await;
        publisher.next().await;
        publisher.publish("a/b", b"one", 1, 1).await;
        // What was acknowledged a moment before the crash may come again.
        let mut got = Vec::new();
        while got.last() != Some(&b"one".to_vec()) {
            got.push(client.take().await.payload);
        }
        assert!(got.len() <= 3 && got[..got.len() - 1].iter().all(|payload| payload == b"both"));
        client.ping().await;
        drop(client);
        site.passerby(level, "c").await.goodbye().await;
    }
}

/// Ordinary filters and share groups alike, also when the connection ends before the exchange does.
///
/// v5 [MQTT-3.10.4-3]; v3.1.1 [MQTT-3.10.4-3]
#[tokio::test]
async fn deliveries_that_have_begun_are_completed_after_an_unsubscribe() {
    let mut site = Site::start().await;
    for level in LEVELS {
        for filter in ["t", "$share/g/t"] {
            for is_crash in [false, true] {
                let mut client = site.client(level, "c").await;
                client.subscribe(filter, 2).await;
                let mut publisher = site.passerby(level, "p").await;
                let mut sent = Vec::new();
                for qos in [1, 2] {
                    publisher.publish("t", &[qos], qos, 1).await;
                    sent.push(client.next().await.message());
                }
                // Another member must not get what this one was sent.
                let mut other = site.passerby(level, "other").await;
                other.subscribe("$share/g/t", 2).await;
                client.send(&unsubscribe(level, 1, &[filter])).await;
                assert!(matches!(client.next().await, Received::Unsuback(1, _)));
                client.vanish();
                other.ping().await;
                if is_crash {
                    site = site.crash().await;
                } else {
                    drop(other);
                }
                let mut client = site.returning(level, "c").await;
                for message in sent {
                    let again = client.take().await;
                    assert_eq!((again.dup, again.packet_id), (true, message.packet_id));
                    assert_eq!((again.qos, again.payload), (message.qos, message.payload));
                }
                client.ping().await;
                drop(client);
                site.passerby(level, "c").await.goodbye().await;
            }
        }
    }
}

/// v5 [MQTT-3.3.1-12], [MQTT-3.3.1-13], [MQTT-3.8.3-3]
#[tokio::test]
async fn the_options_of_a_subscription_survive_a_restart() {
    let site = Site::start().await;
    let mut client = site.client(Level::V5, "c").await;
    client
        .send(&subscribe(
            Level::V5,
            1,
            &[("own", 0x04 | 2), ("kept", 0x08 | 1), ("plain", 1)],
        ))
        .await;
    client.expect(Received::Suback(1, vec![2, 1, 1])).await;
    client.goodbye().await;
    let site = site.restart().await;
    let mut client = site.returning(Level::V5, "c").await;
    client.publish("own", b"mine", 1, 1).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("own", b"other", 2, 1).await;
    let message = client.take().await;
    assert_eq!((message.qos, &message.payload[..]), (2, &b"other"[..]));
    for (topic, retain) in [("kept", true), ("plain", false)] {
        publisher.send(&publish(Level::V5, topic, b"", 1, 1, true)).await;
        publisher.expect(Received::Puback(1, 0)).await;
        assert_eq!(client.take().await.retain, retain, "{topic}");
    }
    client.ping().await;
    // Before 5.0 nobody can ask for the flag as published. v3.1.1 [MQTT-3.3.1-9]
    client.goodbye().await;
    let mut client = site.returning(Level::V311, "c").await;
    publisher.send(&publish(Level::V5, "kept", b"m", 1, 1, true)).await;
    publisher.expect(Received::Puback(1, 0)).await;
    assert!(!client.take().await.retain);
}

/// v5 3.4.2.1: only if no session at all has a matching filter.
#[tokio::test]
async fn absent_sessions_and_share_groups_count_as_subscribers() {
    let site = Site::start().await;
    let mut client = site.client(Level::V5, "c").await;
    client.subscribe("a/+", 0).await;
    client.subscribe("$share/g/b", 1).await;
    client.goodbye().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for (topic, reason) in [("a/x", 0), ("b", 0), ("a", 0x10), ("c", 0x10)] {
        publisher.send(&publish(Level::V5, topic, b"", 1, 1, false)).await;
        publisher.expect(Received::Puback(1, reason)).await;
        publisher.send(&publish(Level::V5, topic, b"", 2, 1, false)).await;
        publisher.expect(Received::Pubrec(1, reason)).await;
        publisher.send(&ack(0x62, 1)).await;
        publisher.expect(Received::Pubcomp(1, 0)).await;
    }
    let mut client = site.returning(Level::V5, "c").await;
    client.send(&unsubscribe(Level::V5, 1, &["a/+", "$share/g/b"])).await;
    while !matches!(client.next().await, Received::Unsuback(1, _)) {}
    for topic in ["a/x", "b"] {
        publisher.send(&publish(Level::V5, topic, b"", 1, 1, false)).await;
        publisher.expect(Received::Puback(1, 0x10)).await;
    }
}
