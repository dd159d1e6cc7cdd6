//! Retained messages. Spec: v5 3.3.1.3, 3.8.3.1; v3.1.1 3.3.1.3.

use std::time::Duration;

use crate::client::{LEVELS, Level, RawClient, Received, ack, frame, publish, subscribe, text};
use crate::common::Site;

async fn retain(client: &mut RawClient, level: Level, topic: &str, payload: &[u8]) {
    client.send(&publish(level, topic, payload, 1, 1, true)).await;
    assert!(matches!(client.next().await, Received::Puback(1, 0 | 0x10)));
}

/// v5 [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7], [MQTT-3.3.1-8]; v3.1.1 [MQTT-3.3.1-6], [MQTT-3.3.1-10]
#[tokio::test]
async fn the_last_retained_message_comes_at_a_subscribe_until_an_empty_one_removes_it() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut publisher = site.passerby(level, "p").await;
        retain(&mut publisher, level, "a/1", b"old").await;
        retain(&mut publisher, level, "a/1", b"new").await;
        retain(&mut publisher, level, "a/2", b"gone").await;
        retain(&mut publisher, level, "a/2", b"").await;
        let mut subscriber = site.passerby(level, "s").await;
        subscriber.subscribe("a/+", 2).await;
        let message = subscriber.take().await;
        assert_eq!(
            (message.retain, message.qos, &message.payload[..]),
            (true, 1, &b"new"[..])
        );
        subscriber.ping().await;
        // To a subscription that exists it is an ordinary message. v5 [MQTT-3.3.1-12], v3.1.1 [MQTT-3.3.1-9]
        retain(&mut publisher, level, "a/1", b"live").await;
        let message = subscriber.take().await;
        assert_eq!((message.retain, &message.payload[..]), (false, &b"live"[..]));
        retain(&mut publisher, level, "a/1", b"").await;
        assert_eq!(subscriber.take().await.payload, b"");
        subscriber.ping().await;
    }
}

/// v5 [MQTT-3.3.1-13]
#[tokio::test]
async fn retain_as_published_keeps_the_flag() {
    let site = Site::start().await;
    let mut subscriber = site.passerby(Level::V5, "s").await;
    subscriber.send(&subscribe(Level::V5, 1, &[("t", 0x08 | 1)])).await;
    subscriber.expect(Received::Suback(1, vec![1])).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.send(&publish(Level::V5, "t", b"kept", 1, 1, true)).await;
    publisher.send(&publish(Level::V5, "t", b"plain", 1, 2, false)).await;
    assert!(subscriber.take().await.retain);
    assert!(!subscriber.take().await.retain);
}

/// v5 [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
#[tokio::test]
async fn retain_handling_says_when_retained_messages_come() {
    let site = Site::start().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    retain(&mut publisher, Level::V5, "t", b"r").await;
    let mut client = site.passerby(Level::V5, "s").await;
    // (options, whether the retained message comes)
    for (options, comes) in [(0x20, false), (0x10, false), (0x00, true), (0x00, true), (0x10, false)] {
        client.send(&subscribe(Level::V5, 1, &[("t", options)])).await;
        client.expect(Received::Suback(1, vec![0])).await;
        if comes {
            assert!(client.take().await.retain);
        }
        client.ping().await;
    }
    let mut client = site.passerby(Level::V5, "new").await;
    client.send(&subscribe(Level::V5, 1, &[("t", 0x10)])).await;
    client.expect(Received::Suback(1, vec![0])).await;
    assert!(client.take().await.retain, "the subscription is new");
}

/// v5 [MQTT-3.3.2-5], [MQTT-3.3.2-6]
#[tokio::test]
async fn a_retained_message_expires_and_says_what_is_left() {
    let site = Site::by_hand().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    let body = [&text("t")[..], &[0, 1, 5, 2, 0, 0, 0, 10], b"brief"].concat();
    publisher.send(&frame(0x33, &body)).await;
    publisher.expect(Received::Puback(1, 0x10)).await;
    site.pass(Duration::from_secs(4)).await;
    let mut early = site.passerby(Level::V5, "early").await;
    early.subscribe("t", 1).await;
    let left = early.take().await.properties.message_expiry_interval.unwrap();
    assert_eq!(left.get(), 6);
    site.pass(Duration::from_secs(7)).await;
    let mut late = site.passerby(Level::V5, "late").await;
    late.subscribe("t", 1).await;
    late.ping().await;
}

/// spec/semantics.md 4
#[tokio::test]
async fn retained_messages_and_what_is_due_of_them_survive_a_crash() {
    let site = Site::start().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for number in 0..5 {
        retain(&mut publisher, Level::V5, &format!("a/{number}"), &[number]).await;
    }
    let mut subscriber = RawClient::open(site.address, Level::V5).await;
    let properties = [0x11, 0, 0, 1, 0, 0x21, 0, 1];
    let connect = |client: &str| {
        let body = [&text("MQTT")[..], &[5, 0, 0, 0, 8], &properties, &text(client)].concat();
        frame(0x10, &body)
    };
    subscriber.send(&connect("s")).await;
    subscriber.next().await;
    subscriber.subscribe("a/+", 1).await;
    let first = subscriber.next().await.message();
    let site = site.crash().await;
    let mut subscriber = site.returning(Level::V5, "s").await;
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let message = subscriber.next().await.message();
        assert!(message.retain);
        subscriber.send(&ack(0x40, message.packet_id)).await;
        if !seen.contains(&message.payload) {
            seen.push(message.payload);
        }
    }
    assert!(seen.contains(&first.payload));
    let mut late = site.passerby(Level::V311, "late").await;
    late.subscribe("a/3", 0).await;
    assert_eq!(late.take().await.payload, [3]);
}
