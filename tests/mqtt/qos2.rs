//! `QoS` 2: exactly once, over reconnects and crashes.

use std::time::Duration;

use crate::client::{LEVELS, Level, RawClient, Received, ack, frame, publish, text};
use crate::common::Site;

async fn pubrec(client: &mut RawClient, id: u16) {
    match client.next().await {
        Received::Pubrec(got, 0 | 0x10) => assert_eq!(got, id),
        other => panic!("expected PUBREC, got {other:?}"),
    }
}

/// v5 [MQTT-3.5.2-1], [MQTT-4.3.3-1] to [MQTT-4.3.3-13]; v3.1.1 [MQTT-4.3.3-1], [MQTT-4.3.3-2]
#[tokio::test]
async fn both_sides_go_through_all_four_packets() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut subscriber = site.passerby(level, "s").await;
        subscriber.subscribe("t", 2).await;
        let mut publisher = site.passerby(level, "p").await;
        for number in 0..10 {
            publisher.publish("t", &[number], 2, 7).await;
        }
        for number in 0..10 {
            let message = subscriber.take().await;
            assert_eq!(
                (message.qos, message.dup, &message.payload[..]),
                (2, false, &[number][..])
            );
        }
        subscriber.ping().await;
    }
}

/// Field report 2: the release comes on the next connection. v5 [MQTT-4.4.0-1]
#[tokio::test]
async fn a_release_on_the_next_connection_completes_the_exchange() {
    let site = Site::start().await;
    let mut site = Some(site);
    for (crash, topic) in [(false, "t"), (true, "u")] {
        let here = site.take().unwrap();
        let mut subscriber = here.client(Level::V5, "s").await;
        subscriber.subscribe(topic, 2).await;
        let mut publisher = here.client(Level::V5, "p").await;
        publisher.send(&publish(Level::V5, topic, b"once", 2, 5, true)).await;
        pubrec(&mut publisher, 5).await;
        publisher.vanish();
        let here = if crash { here.crash().await } else { here };
        let mut publisher = here.returning(Level::V5, "p").await;
        publisher.send(&ack(0x62, 5)).await;
        publisher.expect(Received::Pubcomp(5, 0)).await;
        publisher.send(&ack(0x62, 5)).await;
        publisher.expect(Received::Pubcomp(5, 0x92)).await;
        let mut subscriber = if crash {
            here.returning(Level::V5, "s").await
        } else {
            subscriber
        };
        let message = subscriber.take().await;
        assert_eq!((message.qos, &message.payload[..]), (2, &b"once"[..]));
        subscriber.ping().await;
        let mut late = here.passerby(Level::V5, "late").await;
        late.subscribe(topic, 2).await;
        assert!(late.take().await.retain);
        drop((subscriber, publisher, late));
        here.passerby(Level::V5, "s").await.goodbye().await;
        here.passerby(Level::V5, "p").await.goodbye().await;
        site = Some(here);
    }
}

/// Field report 3: expiry ends no exchange that has begun. v5 [MQTT-3.3.2-5]
#[tokio::test]
async fn a_message_that_expires_within_its_exchange_is_still_released() {
    let site = Site::by_hand().await;
    let mut subscriber = site.client(Level::V5, "s").await;
    subscriber.subscribe("t", 2).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    let body = [&text("t")[..], &[0, 1, 5, 2, 0, 0, 0, 1], b"brief"].concat();
    publisher.send(&frame(0x34, &body)).await;
    publisher.expect(Received::Pubrec(1, 0)).await;
    let message = subscriber.next().await.message();
    subscriber.send(&ack(0x50, message.packet_id)).await;
    subscriber.expect(Received::Pubrel(message.packet_id, 0)).await;
    subscriber.vanish();
    site.pass(Duration::from_secs(2)).await;
    let mut subscriber = site.returning(Level::V5, "s").await;
    subscriber.expect(Received::Pubrel(message.packet_id, 0)).await;
    subscriber.send(&ack(0x70, message.packet_id)).await;
    subscriber.ping().await;
}

/// Field report 4. v5 [MQTT-4.3.3-10]; v3.1.1 [MQTT-4.3.3-2]
#[tokio::test]
async fn the_same_publish_six_times_over_two_connections_is_one_message() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut subscriber = site.passerby(level, "s").await;
        subscriber.subscribe("t", 2).await;
        let mut publisher = site.client(level, "p").await;
        for connection in 0..2 {
            for _ in 0..3 {
                publisher.send(&publish(level, "t", b"m", 2, 3, false)).await;
                pubrec(&mut publisher, 3).await;
            }
            if connection == 0 {
                publisher.vanish();
                publisher = site.returning(level, "p").await;
            }
        }
        publisher.send(&ack(0x62, 3)).await;
        publisher.expect(Received::Pubcomp(3, 0)).await;
        assert_eq!(subscriber.take().await.payload, b"m");
        subscriber.ping().await;
        // The id is free for another message.
        publisher.publish("t", b"n", 2, 3).await;
        assert_eq!(subscriber.take().await.payload, b"n");
        drop(publisher);
        site.passerby(level, "p").await.goodbye().await;
    }
}

/// v5 [MQTT-4.4.0-1]
#[tokio::test]
async fn each_state_of_an_outgoing_exchange_is_taken_up_after_a_crash() {
    let site = Site::start().await;
    let mut subscriber = site.client(Level::V5, "s").await;
    subscriber.subscribe("t", 2).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for number in 0..4 {
        publisher.publish("t", &[number], 2, 1).await;
    }
    let mut ids = Vec::new();
    for number in 0..4 {
        let message = subscriber.next().await.message();
        assert_eq!(message.payload, [number]);
        ids.push(message.packet_id);
    }
    // 0 is completed, 1 and 2 are released, 3 is sent.
    for id in &ids[..3] {
        subscriber.send(&ack(0x50, *id)).await;
        subscriber.expect(Received::Pubrel(*id, 0)).await;
    }
    subscriber.send(&ack(0x70, ids[0])).await;
    // Anything that waits for the disk makes sure that what was sent before is on it.
    subscriber.subscribe("u", 2).await;
    let site = site.crash().await;
    let mut subscriber = site.returning(Level::V5, "s").await;
    let mut seen = Vec::new();
    loop {
        match subscriber.next().await {
            Received::Pubrel(id, 0) => seen.push(id),
            Received::Publish(message) => {
                assert_eq!(
                    (message.packet_id, message.dup, &message.payload[..]),
                    (ids[3], true, &[3][..])
                );
                subscriber.send(&ack(0x50, ids[3])).await;
                subscriber.expect(Received::Pubrel(ids[3], 0)).await;
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    // PUBCOMP of the first may or may not have been stored; a PUBREL for it is harmless.
    assert!(seen == ids[..3] || seen == ids[1..3], "{seen:?} of {ids:?}");
    for id in seen.iter().chain(&ids[3..]) {
        subscriber.send(&ack(0x70, *id)).await;
    }
    subscriber.ping().await;
}

/// v5 [MQTT-4.3.3-5]: a PUBREC with an error ends the exchange.
#[tokio::test]
async fn a_refused_delivery_is_over() {
    let site = Site::start().await;
    let mut subscriber = site.client(Level::V5, "s").await;
    subscriber.subscribe("t", 2).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("t", b"no", 2, 1).await;
    let message = subscriber.next().await.message();
    let [high, low] = message.packet_id.to_be_bytes();
    subscriber.send(&[0x50, 3, high, low, 0x97]).await;
    subscriber.ping().await;
    subscriber.vanish();
    let mut subscriber = site.returning(Level::V5, "s").await;
    publisher.publish("t", b"yes", 2, 1).await;
    assert_eq!(subscriber.take().await.payload, b"yes");
    subscriber.ping().await;
}

/// v5 [MQTT-3.6.2-1], [MQTT-3.7.2-1]
#[tokio::test]
async fn unknown_ids_are_answered_and_disturb_nobody() {
    let site = Site::start().await;
    for level in LEVELS {
        let not_found = if level == Level::V5 { 0x92 } else { 0 };
        let mut client = site.passerby(level, "c").await;
        client.send(&ack(0x62, 9)).await;
        client.expect(Received::Pubcomp(9, not_found)).await;
        client.send(&ack(0x50, 9)).await;
        client.expect(Received::Pubrel(9, not_found)).await;
        client.send(&ack(0x40, 9)).await;
        client.send(&ack(0x70, 9)).await;
        client.ping().await;
    }
}
