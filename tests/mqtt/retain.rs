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

/// v5 [MQTT-3.3.1-5], [MQTT-3.3.1-7], [MQTT-3.3.1-8]; v3.1.1 [MQTT-3.1.2-7], [MQTT-3.3.1-5], [MQTT-3.3.1-7],
/// [MQTT-3.3.1-8], [MQTT-3.3.1-11], [MQTT-3.3.1-12]
#[tokio::test]
async fn what_is_retained_has_its_qos_and_outlives_its_publisher_and_a_restart() {
    let mut site = Site::start().await;
    for level in LEVELS {
        let mut publisher = site.passerby(level, "p").await;
        for qos in 0..3 {
            let topic = format!("a/{qos}");
            // Each replaces what was there, also with a lower quality of service.
            for (payload, qos) in [(b"old", 2), (b"new", qos)] {
                publisher.send(&publish(level, &topic, payload, qos, 1, true)).await;
                if qos == 2 {
                    publisher.next().await;
                    publisher.send(&ack(0x62, 1)).await;
                }
                if qos > 0 {
                    publisher.next().await;
                }
            }
            publisher.send(&publish(level, &topic, b"passing", 1, 1, false)).await;
            publisher.next().await;
        }
        retain(&mut publisher, level, "a/empty", b"").await;
        publisher.goodbye().await;
        for is_restart in [false, true] {
            if is_restart {
                site = site.restart().await;
            }
            let mut subscriber = site.passerby(level, "s").await;
            subscriber.subscribe("a/+", 2).await;
            let mut got = Vec::new();
            for _ in 0..3 {
                let message = subscriber.take().await;
                assert!(message.retain && !message.dup);
                assert_eq!(message.payload, b"new");
                got.push((message.topic, message.qos));
            }
            got.sort();
            assert_eq!(got, [0, 1, 2].map(|qos| (format!("a/{qos}"), qos)));
            subscriber.ping().await;
        }
        let mut publisher = site.passerby(level, "p").await;
        for qos in 0..3 {
            retain(&mut publisher, level, &format!("a/{qos}"), b"").await;
        }
    }
}

/// v5 [MQTT-3.8.4-3], [MQTT-3.8.4-4]; v3.1.1 [MQTT-3.3.1-6], [MQTT-3.8.4-3]
#[tokio::test]
async fn a_repeated_subscribe_brings_what_is_retained_again_and_loses_nothing() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut publisher = site.passerby(level, "p").await;
        retain(&mut publisher, level, "t", b"kept").await;
        let mut client = site.client(level, "c").await;
        client.subscribe("t", 1).await;
        assert!(client.take().await.retain);
        let publishing = tokio::spawn(async move {
            for number in 0..200 {
                publisher.publish("t", &[number], 1, 1).await;
            }
            publisher
        });
        let (mut next, mut again) = (0, 0);
        for _ in 0..10 {
            client.send(&subscribe(level, 5, &[("t", 1)])).await;
            loop {
                match client.next().await {
                    Received::Suback(5, _) => break,
                    Received::Publish(message) if message.retain => again += 1,
                    Received::Publish(message) => {
                        assert_eq!(message.payload, [next]);
                        next += 1;
                        client.send(&ack(0x40, message.packet_id)).await;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        while next < 200 || again < 10 {
            let message = client.take().await;
            if message.retain {
                assert_eq!(message.payload, b"kept");
                again += 1;
            } else {
                assert_eq!(message.payload, [next]);
                next += 1;
            }
        }
        client.ping().await;
        let mut publisher = publishing.await.unwrap();
        retain(&mut publisher, level, "t", b"").await;
        drop(client);
        site.passerby(level, "c").await.goodbye().await;
    }
}

/// v5 [MQTT-3.3.1-9] to [MQTT-3.3.1-11]: the session knows after a restart what it had.
#[tokio::test]
async fn a_subscription_of_before_a_restart_is_not_new() {
    let site = Site::start().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    retain(&mut publisher, Level::V5, "t", b"r").await;
    let mut client = site.client(Level::V5, "c").await;
    client.send(&subscribe(Level::V5, 1, &[("t", 0x21)])).await;
    client.expect(Received::Suback(1, vec![1])).await;
    client.ping().await;
    let site = site.crash().await;
    let mut client = site.returning(Level::V5, "c").await;
    // Not on reconnect, not for a filter that was there, not for one that becomes one in the same packet.
    client
        .send(&subscribe(Level::V5, 1, &[("t", 0x11), ("+", 0x21), ("+", 0x11)]))
        .await;
    client.expect(Received::Suback(1, vec![1, 1, 1])).await;
    client.ping().await;
    client.send(&subscribe(Level::V5, 1, &[("#", 0x11)])).await;
    client.expect(Received::Suback(1, vec![1])).await;
    assert!(client.take().await.retain);
    client.ping().await;
}

/// Round trips of a client of its own, counted while something else goes on.
async fn round_trips(site: &Site, stop: std::sync::Arc<std::sync::atomic::AtomicBool>) -> usize {
    let mut other = site.passerby(Level::V5, "other").await;
    other.subscribe("other", 1).await;
    let mut count = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        other.send(&publish(Level::V5, "other", b"", 0, 0, false)).await;
        other.take().await;
        other.ping().await;
        count += 1;
    }
    count
}

/// Server, readers and the other client share one thread here: a server that did everything at once would leave the
/// other no turn. Both a filter that matches all and one that matches none of 100,000 retained topics.
///
/// v5 [MQTT-3.3.1-9]; v3.1.1 [MQTT-3.3.1-6]
#[tokio::test]
async fn a_hundred_thousand_retained_topics_hold_up_nobody_else() {
    const COUNT: usize = 100_000;
    let site = Site::start().await;
    let mut publisher = site.passerby(Level::V311, "p").await;
    for first in (0..COUNT).step_by(1_000) {
        let run: Vec<u8> = (first..first + 1_000)
            .flat_map(|number| publish(Level::V311, &format!("r/{number:05}/x"), b"retained", 0, 0, true))
            .collect();
        publisher.send(&run).await;
        publisher.ping().await;
    }
    retain(&mut publisher, Level::V311, "s/end", b"end").await;
    for (filters, wanted) in [(["r/+/x", "s/end"], COUNT), (["+/end", "r/+/y"], 0)] {
        let stop = std::sync::Arc::default();
        let mut reader = site.passerby(Level::V311, "reader").await;
        let reading = async {
            reader
                .send(&subscribe(Level::V311, 1, &filters.map(|filter| (filter, 0))))
                .await;
            let mut topics = Vec::new();
            let mut is_end = false;
            while topics.len() < wanted || !is_end {
                match reader.next().await {
                    Received::Publish(message) if message.topic == "s/end" => is_end = true,
                    Received::Publish(message) => {
                        assert!(message.retain);
                        topics.push(message.topic);
                    }
                    other => assert_eq!(other, Received::Suback(1, vec![0, 0])),
                }
            }
            std::sync::Arc::<std::sync::atomic::AtomicBool>::clone(&stop)
                .store(true, std::sync::atomic::Ordering::Relaxed);
            topics
        };
        let (mut topics, count) = tokio::join!(reading, round_trips(&site, stop.clone()));
        topics.sort_unstable();
        topics.dedup();
        assert_eq!(topics.len(), wanted);
        assert!(count >= 20, "only {count} round trips meanwhile");
        reader.ping().await;
    }
}
