//! `QoS` 0 and 1: at most once, at least once.

use crate::client::{LEVELS, Level, RawClient, Received, ack, frame, publish, subscribe, text};
use crate::common::Site;

/// v5 [MQTT-4.3.1-1], [MQTT-4.3.2-1]; v3.1.1 [MQTT-4.3.2-1]
#[tokio::test]
async fn a_message_reaches_subscribers_of_both_versions_in_order() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut subscribers = [
            site.passerby(Level::V311, "s3").await,
            site.passerby(Level::V5, "s5").await,
        ];
        for subscriber in &mut subscribers {
            subscriber.subscribe("a/+", 1).await;
        }
        let mut publisher = site.passerby(level, "p").await;
        for number in 1..=50_u16 {
            publisher
                .publish("a/b", &number.to_be_bytes(), u8::from(number % 3 > 0), number)
                .await;
        }
        for subscriber in &mut subscribers {
            for number in 1..=50_u16 {
                let message = subscriber.take().await;
                assert_eq!(message.payload, number.to_be_bytes());
                assert_eq!(
                    (message.qos, message.dup, message.retain),
                    (u8::from(number % 3 > 0), false, false)
                );
                assert_eq!(message.topic, "a/b");
            }
            subscriber.ping().await;
        }
    }
}

/// v5 [MQTT-3.3.1-1], [MQTT-4.4.0-1]; v3.1.1 [MQTT-3.3.1-1], [MQTT-4.4.0-1]
#[tokio::test]
async fn unacked_messages_are_resent_with_dup_and_their_ids_after_reconnect() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut subscriber = site.client(level, "s").await;
        subscriber.subscribe("t", 1).await;
        let mut publisher = site.passerby(level, "p").await;
        for number in 1..=4 {
            publisher.publish("t", &[number], 1, 1).await;
        }
        let mut sent = Vec::new();
        for _ in 1..=4 {
            sent.push(subscriber.next().await.message());
        }
        subscriber.send(&ack(0x40, sent[1].packet_id)).await;
        subscriber.ping().await;
        subscriber.vanish();
        publisher.publish("t", &[5], 1, 1).await;

        let mut subscriber = site.returning(level, "s").await;
        for number in [0, 2, 3] {
            let again = subscriber.take().await;
            assert!(again.dup);
            assert_eq!(
                (again.packet_id, &again.payload),
                (sent[number].packet_id, &sent[number].payload)
            );
        }
        let next = subscriber.take().await;
        assert_eq!((next.dup, &next.payload[..]), (false, &[5][..]));
        subscriber.ping().await;
        drop(subscriber);
        site.passerby(level, "s").await.goodbye().await;
    }
}

/// Field report 1: a durable subscriber leaves; restart; a publish before it returns.
#[tokio::test]
async fn restored_sessions_are_routed_to_before_the_first_publish() {
    let site = Site::start().await;
    let mut subscriber = site.client(Level::V311, "s").await;
    subscriber.subscribe("a/#", 1).await;
    subscriber.goodbye().await;
    let site = site.restart().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("a/b", b"after", 1, 1).await;
    let site = site.crash().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("a/c", b"again", 1, 1).await;
    let mut subscriber = site.returning(Level::V311, "s").await;
    assert_eq!(subscriber.take().await.payload, b"after");
    assert_eq!(subscriber.take().await.payload, b"again");
    subscriber.ping().await;
}

/// Field report 5: the send quota belongs to the connection. v5 4.9
#[tokio::test]
async fn the_send_quota_is_that_of_the_present_connection() {
    let site = Site::start().await;
    let connect = |maximum: u16| {
        let mut body = text("MQTT");
        body.extend_from_slice(&[5, 0, 0, 0, 8, 0x11, 0, 0, 1, 0, 0x21]);
        body.extend_from_slice(&maximum.to_be_bytes());
        body.extend_from_slice(&text("s"));
        frame(0x10, &body)
    };
    let mut subscriber = RawClient::open(site.address, Level::V5).await;
    subscriber.send(&connect(1)).await;
    subscriber.next().await;
    subscriber.subscribe("t", 1).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("t", &[0], 1, 1).await;
    assert_eq!(subscriber.next().await.message().payload, [0]);
    for number in 1..=5 {
        publisher.publish("t", &[number], 1, 1).await;
    }
    // One is unacknowledged: nothing else may come.
    subscriber.ping().await;
    subscriber.vanish();

    let mut subscriber = RawClient::open(site.address, Level::V5).await;
    subscriber.send(&connect(4)).await;
    subscriber.next().await;
    let mut sent = Vec::new();
    for number in 0..4 {
        let message = subscriber.next().await.message();
        assert_eq!((message.dup, &message.payload[..]), (number == 0, &[number][..]));
        sent.push(message.packet_id);
    }
    subscriber.ping().await;
    subscriber.send(&ack(0x40, sent[2])).await;
    assert_eq!(subscriber.next().await.message().payload, [4]);
    subscriber.send(&ack(0x40, sent[0])).await;
    assert_eq!(subscriber.next().await.message().payload, [5]);
}

/// Field report 9: old ones first, then the rest, no gap, repeats with DUP only.
#[tokio::test]
async fn a_subscriber_returns_in_order_while_the_publisher_never_pauses() {
    let site = Site::start().await;
    let mut subscriber = site.client(Level::V5, "s").await;
    subscriber.subscribe("t", 1).await;
    let address = site.address;
    let publisher = tokio::spawn(async move {
        let (mut publisher, _) = RawClient::hello(address, Level::V5, "p", true).await;
        for number in 0..1_000_u16 {
            publisher.publish("t", &number.to_be_bytes(), 1, 1).await;
        }
    });
    let mut next = 0_u16;
    let mut unacked = Vec::new();
    while next < 1_000 {
        let mut fresh = 0;
        while fresh < 300 && next < 1_000 {
            let message = subscriber.next().await.message();
            let number = u16::from_be_bytes(message.payload[..].try_into().unwrap());
            if number < next {
                assert!(message.dup, "{number} came before");
                assert_eq!(unacked.first(), Some(&number), "in their old order");
                unacked.remove(0);
            } else {
                assert!(fresh > 0 || unacked.is_empty(), "old ones come first, not {number}");
                assert_eq!(number, next);
                next += 1;
                fresh += 1;
            }
            if fresh < 290 {
                subscriber.send(&ack(0x40, message.packet_id)).await;
            } else {
                unacked.push(number);
            }
        }
        // What was acknowledged is taken before the line is cut.
        subscriber.send(&[0xC0, 0]).await;
        loop {
            match subscriber.next().await {
                Received::Pingresp => break,
                Received::Publish(message) => {
                    let number = u16::from_be_bytes(message.payload[..].try_into().unwrap());
                    assert_eq!(number, next);
                    next += 1;
                    unacked.push(number);
                }
                other => panic!("{other:?}"),
            }
        }
        subscriber.vanish();
        subscriber = site.returning(Level::V5, "s").await;
    }
    for number in unacked {
        let message = subscriber.take().await;
        assert!(message.dup);
        assert_eq!(message.payload, number.to_be_bytes());
    }
    subscriber.ping().await;
    publisher.await.unwrap();
}

/// spec/semantics.md 5: what was unacknowledged at a crash comes again with DUP.
#[tokio::test]
async fn nothing_acknowledged_is_lost_by_a_crash() {
    let site = Site::start().await;
    let mut subscriber = site.client(Level::V5, "s").await;
    subscriber.subscribe("t", 1).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for number in 0..20 {
        publisher.publish("t", &[number], 1, 1).await;
    }
    for number in 0..10 {
        assert_eq!(subscriber.next().await.message().payload, [number]);
    }
    let site = site.crash().await;
    let mut subscriber = site.returning(Level::V5, "s").await;
    for number in 0..20 {
        let message = subscriber.take().await;
        assert_eq!(message.payload, [number]);
        assert!(message.dup || number >= 10, "{number} was sent before");
    }
    subscriber.ping().await;
}

/// v5 [MQTT-3.3.4-7]: Receive Maximum, inbound.
#[tokio::test]
async fn more_messages_than_receive_maximum_end_the_connection() {
    let settings = evermq::frontend::mqtt::Settings {
        receive_maximum: 3,
        ..Default::default()
    };
    let site = Site::start_with(settings, evermq::clock::Clock::system()).await;
    let mut subscriber = site.passerby(Level::V5, "s").await;
    subscriber.subscribe("t", 0).await;
    let mut client = site.passerby(Level::V5, "c").await;
    for round in 0..5 {
        for id in 1..=3 {
            client.publish("t", &[round], 2, id).await;
        }
    }
    for id in 1..=3 {
        client.send(&publish(Level::V5, "t", b"", 2, id, false)).await;
        client.expect(Received::Pubrec(id, 0)).await;
        client.send(&publish(Level::V5, "t", b"", 2, id, false)).await;
        assert!(
            matches!(client.next().await, Received::Pubrec(got, _) if got == id),
            "the same one counts once"
        );
    }
    client.send(&publish(Level::V5, "t", b"", 1, 9, false)).await;
    assert_eq!(client.closed().await, Some(0x93));
}

/// v5 3.4.2.1
#[tokio::test]
async fn a_publisher_hears_that_nobody_subscribes() {
    let site = Site::start().await;
    let mut client = site.passerby(Level::V5, "c").await;
    client.send(&publish(Level::V5, "t", b"", 1, 1, false)).await;
    client.expect(Received::Puback(1, 0x10)).await;
    client.send(&publish(Level::V5, "t", b"", 2, 1, false)).await;
    client.expect(Received::Pubrec(1, 0x10)).await;
    client.send(&subscribe(Level::V5, 1, &[("u", 0)])).await;
    client.expect(Received::Suback(1, vec![0])).await;
    client.send(&publish(Level::V5, "u", b"", 1, 2, false)).await;
    let (mut acked, mut got) = (false, false);
    while !acked || !got {
        match client.next().await {
            Received::Puback(2, 0) => acked = true,
            Received::Publish(message) => got = message.topic == "u",
            other => panic!("{other:?}"),
        }
    }
}

/// spec/broker.md 6.3
#[tokio::test]
async fn system_topics_are_not_for_clients() {
    let site = Site::start().await;
    let mut new = site.passerby(Level::V5, "new").await;
    let mut old = site.passerby(Level::V311, "old").await;
    let topic = "faircomAdmin/connections";
    new.send(&publish(Level::V5, topic, b"", 1, 1, false)).await;
    new.expect(Received::Puback(1, 0x87)).await;
    new.send(&publish(Level::V5, topic, b"", 2, 1, false)).await;
    new.expect(Received::Pubrec(1, 0x87)).await;
    new.send(&publish(Level::V5, topic, b"", 0, 0, false)).await;
    new.send(&subscribe(Level::V5, 1, &[(topic, 1), ("t", 1)])).await;
    new.expect(Received::Suback(1, vec![0x87, 1])).await;
    old.publish(topic, b"", 1, 1).await;
    old.publish(topic, b"", 2, 1).await;
    old.send(&subscribe(Level::V311, 1, &[(topic, 1)])).await;
    old.expect(Received::Suback(1, vec![0x80])).await;
}

/// spec/semantics.md 5: a client that does not read gets it later from the log; it delays nobody.
#[tokio::test]
async fn a_client_that_does_not_read_delays_nobody_and_misses_nothing() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut idle = site.passerby(level, "idle").await;
        idle.subscribe("t", 0).await;
        let mut reader = site.passerby(level, "reader").await;
        reader.subscribe("t", 1).await;
        let mut publisher = site.passerby(level, "p").await;
        let mut payload = vec![b'x'; 50_000];
        for number in 0..300_u16 {
            payload[..2].copy_from_slice(&number.to_be_bytes());
            publisher.publish("t", &payload, 1, 1).await;
            assert_eq!(reader.take().await.payload[..2], number.to_be_bytes());
        }
        for number in 0..300_u16 {
            assert_eq!(idle.next().await.message().payload[..2], number.to_be_bytes());
        }
        idle.ping().await;
    }
}
