//! Sessions: what they keep, for how long, and what a clean start forgets.

use std::time::Duration;

use crate::client::{LEVELS, Level, RawClient, Received, connect, frame, publish, text};
use crate::common::Site;

async fn present(site: &Site, level: Level, clean: bool, expiry: u32) -> (RawClient, bool) {
    let mut client = RawClient::open(site.address, level).await;
    client.send(&connect(level, "c", clean, expiry)).await;
    match client.next().await {
        Received::Connack {
            session_present,
            code: 0,
            ..
        } => (client, session_present),
        other => panic!("{other:?}"),
    }
}

/// v5 [MQTT-3.2.2-2], [MQTT-3.2.2-3], [MQTT-3.1.2-5], [MQTT-3.1.2-6], [MQTT-3.1.4-4];
/// v3.1.1 [MQTT-3.2.2-1], [MQTT-3.2.2-2], [MQTT-3.2.2-3], [MQTT-3.1.2-4], [MQTT-3.1.4-3]
#[tokio::test]
async fn session_present_is_said_when_there_was_one() {
    let site = Site::start().await;
    for level in LEVELS {
        let (client, was) = present(&site, level, false, 600).await;
        assert!(!was);
        client.goodbye().await;
        let (client, was) = present(&site, level, false, 600).await;
        assert!(was);
        client.goodbye().await;
        // v5 [MQTT-3.1.2-4], v3.1.1 [MQTT-3.1.2-6]
        let (client, was) = present(&site, level, true, 0).await;
        assert!(!was, "a clean start finds nothing");
        client.goodbye().await;
        let (client, was) = present(&site, level, false, 0).await;
        assert!(!was, "and leaves nothing");
        client.goodbye().await;
        present(&site, level, true, 0).await.0.goodbye().await;
    }
}

/// v5 [MQTT-3.1.2-23], [MQTT-4.1.0-2]
#[tokio::test]
async fn a_session_ends_when_its_expiry_has_passed_and_not_before() {
    let site = Site::by_hand().await;
    let mut other = site.passerby(Level::V5, "other").await;
    let (client, _) = present(&site, Level::V5, true, 100).await;
    client.goodbye().await;
    site.pass(Duration::from_secs(90)).await;
    let (client, was) = present(&site, Level::V5, false, 100).await;
    assert!(was);
    client.goodbye().await;
    site.pass(Duration::from_secs(110)).await;
    other.ping().await;
    let (_client, was) = present(&site, Level::V5, false, 100).await;
    assert!(!was);
}

/// What was handed to the disk before is on it.
async fn synced(site: &Site) {
    let mut client = site.passerby(Level::V311, "sync").await;
    client.publish("sync", b"", 1, 1).await;
}

/// Promise 5: downtime counts, except for sessions that were connected at a crash. v5 [MQTT-3.1.2-23], [MQTT-4.1.0-2]
#[tokio::test]
async fn expiry_counts_while_the_server_is_down() {
    let site = Site::by_hand().await;
    let (client, _) = present(&site, Level::V5, true, 100).await;
    client.goodbye().await;
    synced(&site).await;
    let clock = site.clock.clone();
    let site = site.crash_after(|| clock.advance(Duration::from_mins(1))).await;
    site.pass(Duration::from_secs(30)).await;
    let (client, was) = present(&site, Level::V5, false, 100).await;
    assert!(was, "90 seconds");
    client.goodbye().await;
    synced(&site).await;
    let clock = site.clock.clone();
    let site = site.crash_after(|| clock.advance(Duration::from_secs(110))).await;
    site.pass(Duration::from_secs(1)).await;
    let (_connected, was) = present(&site, Level::V5, false, 100).await;
    assert!(!was, "111 seconds");
    let clock = site.clock.clone();
    let site = site.crash_after(|| clock.advance(Duration::from_secs(1_000))).await;
    site.pass(Duration::from_secs(90)).await;
    let (_client, was) = present(&site, Level::V5, false, 100).await;
    assert!(was, "it was connected at the crash");
}

/// Every way to begin and to end, over an orderly stop and over a crash.
/// v5 [MQTT-3.1.2-4], [MQTT-3.1.2-5], [MQTT-3.1.2-23], [MQTT-3.2.2-2], [MQTT-3.2.2-3], [MQTT-4.1.0-1];
/// v3.1.1 [MQTT-3.1.2-4], [MQTT-3.1.2-5], [MQTT-3.1.2-6], [MQTT-3.2.2-2], [MQTT-3.2.2-3], [MQTT-4.1.0-1], [MQTT-4.1.0-2]
#[tokio::test]
async fn sessions_that_outlive_their_connection_outlive_the_server_and_others_do_not() {
    for crash in [false, true] {
        let mut site = Site::start().await;
        // Level, clean, expiry, and whether the session is there afterwards; 3.1.1 cannot say an expiry.
        let kinds = [
            (Level::V311, true, 0, false),
            (Level::V311, false, 0, true),
            (Level::V5, true, 0, false),
            (Level::V5, false, 0, false),
            (Level::V5, true, 600, true),
            (Level::V5, false, u32::MAX, true),
        ];
        let mut connected = Vec::new();
        for stays in [false, true] {
            for (at, (level, clean, expiry, _)) in kinds.into_iter().enumerate() {
                let mut client = RawClient::open(site.address, level).await;
                client
                    .send(&connect(level, &format!("{stays}{at}"), clean, expiry))
                    .await;
                assert!(matches!(client.next().await, Received::Connack { code: 0, .. }));
                client.subscribe("t", 1).await;
                if stays {
                    connected.push(client);
                } else {
                    client.goodbye().await;
                }
            }
        }
        site.passerby(Level::V311, "p").await.publish("t", b"waits", 1, 1).await;
        site = if crash {
            site.crash().await
        } else {
            site.restart().await
        };
        for stays in [false, true] {
            for (at, (level, _, expiry, there)) in kinds.into_iter().enumerate() {
                let name = format!("{stays}{at}");
                let mut client = RawClient::open(site.address, level).await;
                client.send(&connect(level, &name, false, expiry)).await;
                let Received::Connack { session_present, .. } = client.next().await else {
                    panic!("{name}")
                };
                assert_eq!(session_present, there, "{name} {level:?}");
                if there {
                    assert_eq!(client.take().await.payload, b"waits", "{name}");
                }
                client.ping().await;
            }
        }
    }
}

/// v3.1.1 [MQTT-3.1.2-7], v5 [MQTT-3.1.2-4]: what is retained is nobody's session.
#[tokio::test]
async fn what_is_retained_outlives_the_session_of_its_publisher() {
    let mut site = Site::start().await;
    for (at, level) in LEVELS.into_iter().enumerate() {
        let topic = format!("kept/{at}");
        let mut publisher = site.passerby(level, "p").await;
        publisher.send(&publish(level, &topic, b"state", 1, 1, true)).await;
        publisher.next().await;
        publisher.goodbye().await;
        site.passerby(level, "p").await.goodbye().await;
        for _ in 0..2 {
            let mut reader = site.passerby(level, "r").await;
            reader.subscribe(&topic, 1).await;
            let message = reader.take().await;
            assert!(message.retain);
            assert_eq!(message.payload, b"state");
            drop(reader);
            site = site.restart().await;
        }
    }
}

/// v5 [MQTT-4.1.0-1]: a session lasts as long as its connection, whatever its expiry.
#[tokio::test]
async fn no_session_expires_while_its_client_is_connected() {
    let site = Site::by_hand().await;
    let (mut client, _) = present(&site, Level::V5, true, 10).await;
    client.subscribe("t", 1).await;
    site.pass(Duration::from_secs(100)).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("t", b"m", 1, 1).await;
    assert_eq!(client.take().await.payload, b"m");
    // Nor does one without an expiry, when its client takes it over.
    let (mut first, _) = present(&site, Level::V5, true, 0).await;
    first.subscribe("t", 1).await;
    let (mut second, was) = present(&site, Level::V5, false, 0).await;
    assert!(was);
    assert_eq!(first.closed().await, Some(0x8E));
    publisher.publish("t", b"again", 1, 2).await;
    assert_eq!(second.take().await.payload, b"again");
}

/// v5 3.14.2.2.2: what DISCONNECT said about the session's end holds over a crash.
#[tokio::test]
async fn an_expiry_given_by_disconnect_survives_the_server() {
    let site = Site::by_hand().await;
    let (mut client, _) = present(&site, Level::V5, true, 1_000).await;
    client.send(&frame(0xE0, &[0, 5, 0x11, 0, 0, 0, 100])).await;
    assert_eq!(client.closed().await, None);
    synced(&site).await;
    let clock = site.clock.clone();
    let site = site.crash_after(|| clock.advance(Duration::from_secs(50))).await;
    site.pass(Duration::from_secs(40)).await;
    let (mut client, was) = present(&site, Level::V5, false, 1_000).await;
    assert!(was, "90 seconds");
    client.send(&frame(0xE0, &[0, 5, 0x11, 0, 0, 0, 100])).await;
    assert_eq!(client.closed().await, None);
    synced(&site).await;
    let clock = site.clock.clone();
    let site = site.crash_after(|| clock.advance(Duration::from_secs(50))).await;
    site.pass(Duration::from_secs(51)).await;
    let (_client, was) = present(&site, Level::V5, false, 1_000).await;
    assert!(!was, "101 seconds");
}

/// v5 3.14.2.2.2
#[tokio::test]
async fn a_disconnect_can_end_the_session_or_prolong_it() {
    let site = Site::by_hand().await;
    let (mut client, _) = present(&site, Level::V5, true, 10).await;
    client.send(&frame(0xE0, &[0, 5, 0x11, 0, 0, 1, 0])).await;
    assert_eq!(client.closed().await, None);
    site.pass(Duration::from_secs(200)).await;
    let (mut client, was) = present(&site, Level::V5, false, 10).await;
    assert!(was, "256 seconds");
    client.send(&frame(0xE0, &[0, 5, 0x11, 0, 0, 0, 0])).await;
    assert_eq!(client.closed().await, None);
    let (_client, was) = present(&site, Level::V5, false, 10).await;
    assert!(!was, "ended at once");
}

/// v5 [MQTT-3.1.2-4], [MQTT-3.1.4-4]; v3.1.1 [MQTT-3.1.2-6], [MQTT-3.1.4-3]
#[tokio::test]
async fn a_clean_start_forgets_subscriptions_and_backlog() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut client = site.client(level, "c").await;
        client.subscribe("t", 1).await;
        client.goodbye().await;
        let mut publisher = site.passerby(level, "p").await;
        publisher.publish("t", b"waits", 1, 1).await;
        let mut client = site.passerby(level, "c").await;
        publisher.send(&publish(level, "t", b"more", 0, 0, false)).await;
        publisher.ping().await;
        client.ping().await;
    }
}

/// spec/semantics.md 5: what waits for an absent session. v5 [MQTT-3.1.2-5], v3.1.1 [MQTT-3.1.2-5]
#[tokio::test]
async fn everything_waits_for_an_absent_session_with_a_qos_1_filter_and_nothing_for_qos_0() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut client = site.client(level, "c").await;
        client.subscribe("one/#", 1).await;
        client.subscribe("zero/#", 0).await;
        client.goodbye().await;
        let mut publisher = site.passerby(level, "p").await;
        publisher.send(&publish(level, "one/a", b"0", 0, 0, false)).await;
        publisher.publish("one/b", b"1", 1, 1).await;
        publisher.publish("zero/a", b"2", 1, 1).await;
        publisher.publish("one/a", b"3", 2, 1).await;
        let mut client = site.returning(level, "c").await;
        for (qos, payload) in [(0, b"0"), (1, b"1"), (1, b"3")] {
            let message = client.take().await;
            assert_eq!((message.qos, &message.payload[..]), (qos, &payload[..]));
        }
        client.ping().await;
        publisher.publish("zero/a", b"4", 1, 1).await;
        assert_eq!(client.take().await.payload, b"4");
        drop(client);
        site.passerby(level, "c").await.goodbye().await;
    }
}

/// Field report 6: expired messages before live ones must not stall them.
#[tokio::test]
async fn a_backlog_of_expired_messages_holds_up_nothing() {
    let site = Site::by_hand().await;
    let mut subscriber = RawClient::open(site.address, Level::V5).await;
    let body = |clean: u8| {
        [
            &text("MQTT")[..],
            &[5, clean, 0, 0, 8, 0x11, 0, 0, 9, 0, 0x21, 0, 5],
            &text("s"),
        ]
        .concat()
    };
    subscriber.send(&frame(0x10, &body(2))).await;
    subscriber.next().await;
    subscriber.subscribe("t", 1).await;
    subscriber.goodbye().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for number in 0..60 {
        let body = [&text("t")[..], &[0, 1, 5, 2, 0, 0, 0, 1, number]].concat();
        publisher.send(&frame(0x32, &body)).await;
        publisher.expect(Received::Puback(1, 0)).await;
    }
    publisher.publish("t", b"first", 1, 1).await;
    publisher.publish("t", b"second", 1, 1).await;
    site.pass(Duration::from_secs(2)).await;
    let mut subscriber = RawClient::open(site.address, Level::V5).await;
    subscriber.send(&frame(0x10, &body(0))).await;
    subscriber.next().await;
    assert_eq!(subscriber.take().await.payload, b"first");
    assert_eq!(subscriber.take().await.payload, b"second");
    subscriber.ping().await;
}

/// v5 [MQTT-3.3.2-6]: expiry 0 is over on arrival; else the rest is told.
#[tokio::test]
async fn the_remaining_expiry_is_told() {
    let site = Site::by_hand().await;
    let mut subscriber = site.client(Level::V5, "s").await;
    subscriber.subscribe("t", 1).await;
    subscriber.goodbye().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for seconds in [0, 100] {
        let body = [&text("t")[..], &[0, 1, 5, 2, 0, 0, 0, seconds], b"m"].concat();
        publisher.send(&frame(0x32, &body)).await;
        publisher.expect(Received::Puback(1, 0)).await;
    }
    site.pass(Duration::from_secs(40)).await;
    let mut subscriber = site.returning(Level::V5, "s").await;
    assert_eq!(
        subscriber
            .take()
            .await
            .properties
            .message_expiry_interval
            .map(u32::from),
        Some(60)
    );
    subscriber.ping().await;
}

/// v5 [MQTT-3.1.2-24], [MQTT-3.1.2-25]
#[tokio::test]
async fn a_message_too_large_for_its_client_is_passed_over() {
    let site = Site::start().await;
    let mut small = RawClient::open(site.address, Level::V5).await;
    let body = [&text("MQTT")[..], &[5, 2, 0, 0, 5, 0x27, 0, 0, 0, 100], &text("small")].concat();
    small.send(&frame(0x10, &body)).await;
    small.next().await;
    small.subscribe("t", 2).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for (id, size) in [(1, 10), (2, 200), (3, 20)] {
        publisher
            .publish("t", &vec![b'x'; size], u8::try_from(id % 3).unwrap().min(1) + 1, id)
            .await;
    }
    assert_eq!(small.take().await.payload.len(), 10);
    assert_eq!(small.take().await.payload.len(), 20);
    small.ping().await;
}

/// v5 [MQTT-3.1.2-26], [MQTT-3.1.2-27], 3.3.2.3.4: aliases in both directions.
#[tokio::test]
async fn topic_aliases_stand_for_topics_both_ways() {
    let site = Site::start().await;
    let mut subscriber = RawClient::open(site.address, Level::V5).await;
    let body = [&text("MQTT")[..], &[5, 2, 0, 0, 3, 0x22, 0, 1], &text("s")].concat();
    subscriber.send(&frame(0x10, &body)).await;
    subscriber.next().await;
    subscriber.subscribe("long/#", 0).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for (topic, alias) in [("long/topic", 7), ("", 7), ("long/other", 8), ("", 7), ("", 8)] {
        let body = [&text(topic)[..], &[0, 1, 3, 0x23, 0, alias], b"m"].concat();
        publisher.send(&frame(0x32, &body)).await;
        publisher.expect(Received::Puback(1, 0)).await;
    }
    let mut got = Vec::new();
    for _ in 0..5 {
        let message = subscriber.take().await;
        got.push((message.topic, message.properties.topic_alias.map(u16::from)));
    }
    let wanted = [
        ("long/topic", Some(1)),
        ("", Some(1)),
        ("long/other", None),
        ("", Some(1)),
        ("long/other", None),
    ];
    assert_eq!(got, wanted.map(|(topic, alias)| (topic.to_owned(), alias)));
    publisher
        .send(&frame(0x30, &[&text("")[..], &[3, 0x23, 0, 9]].concat()))
        .await;
    assert_eq!(publisher.closed().await, Some(0x94));
}

/// v5 3.3.2.3: what a publisher says arrives as it was said, over the disk too.
#[tokio::test]
async fn properties_arrive_as_they_were_published() {
    let site = Site::start().await;
    let mut subscriber = site.client(Level::V5, "s").await;
    subscriber.subscribe("t", 1).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    let mut properties = vec![0x01, 1, 0x03];
    properties.extend_from_slice(&text("json"));
    properties.push(0x26);
    properties.extend_from_slice(&[text("b"), text("1")].concat());
    properties.push(0x08);
    properties.extend_from_slice(&text("answers/here"));
    properties.push(0x26);
    properties.extend_from_slice(&[text("a"), text("")].concat());
    properties.extend_from_slice(&[0x09, 0, 3, 0, 255, 7]);
    let mut body = [&text("t")[..], &[0, 1, u8::try_from(properties.len()).unwrap()]].concat();
    body.extend_from_slice(&properties);
    body.extend_from_slice(b"{}");
    publisher.send(&frame(0x32, &body)).await;
    publisher.expect(Received::Puback(1, 0)).await;
    let live = subscriber.next().await.message();
    let check = |message: &crate::client::Message| {
        let properties = &message.properties;
        assert!(properties.is_utf8_payload);
        assert_eq!(properties.content_type.as_deref(), Some("json"));
        assert_eq!(properties.response_topic.as_deref(), Some("answers/here"));
        assert_eq!(properties.correlation_data.as_deref(), Some(&[0, 255, 7][..]));
        let user: Vec<_> = properties
            .user_properties
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        assert_eq!(user, [("b".into(), "1".into()), ("a".into(), String::new())]);
    };
    check(&live);
    let site = site.crash().await;
    let mut subscriber = site.returning(Level::V5, "s").await;
    check(&subscriber.take().await);
}
