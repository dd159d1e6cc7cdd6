//! Clients that do not keep pace: they delay nobody, lose nothing, and are not kept for ever.

use std::time::Duration;

use crate::client::{LEVELS, Level, RawClient, Received, ack, publish, subscribe};
use crate::common::Site;
use crate::connect::{answer, code, connect_v3, connect_v5};

/// Promise 4, spec/semantics.md 5: what a client does not read waits in the log, and comes when it reads.
#[tokio::test]
async fn a_client_that_stops_reading_delays_nobody_and_loses_nothing() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut stopped = site.passerby(level, "stopped").await;
        stopped.subscribe("big", 0).await;
        let mut reader = site.passerby(level, "reader").await;
        reader.subscribe("big", 0).await;
        let mut publisher = site.passerby(level, "p").await;
        // Far more than the system holds for a connection.
        let payload = vec![b'x'; 512 << 10];
        for number in 0..40_u8 {
            let mut payload = payload.clone();
            payload[0] = number;
            publisher.publish("big", &payload, 1, 1).await;
            assert_eq!(reader.take().await.payload[0], number);
        }
        for number in 0..40_u8 {
            let message = stopped.take().await;
            assert_eq!((message.payload[0], message.payload.len()), (number, payload.len()));
        }
        stopped.ping().await;
    }
}

/// v5 [MQTT-3.3.4-10], [MQTT-4.9.0-3]: what is unacknowledged holds up messages and nothing else.
#[tokio::test]
async fn a_used_up_window_holds_up_no_answer() {
    let site = Site::start().await;
    let (mut client, accepted) = answer(&site, Level::V5, &connect_v5(2, 0, &[0x21, 0, 1], &[b"c"])).await;
    assert_eq!(code(&accepted), 0);
    client.subscribe("t", 1).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for id in 1..=3 {
        publisher.publish("t", b"m", 1, id).await;
    }
    let first = client.next().await.message();
    client.ping().await;
    client.send(&subscribe(Level::V5, 9, &[("other", 2)])).await;
    client.expect(Received::Suback(9, vec![2])).await;
    client.send(&publish(Level::V5, "elsewhere", b"m", 2, 1, false)).await;
    client.expect(Received::Pubrec(1, 0x10)).await;
    client.send(&ack(0x62, 1)).await;
    client.expect(Received::Pubcomp(1, 0)).await;
    client.send(&ack(0x40, first.packet_id)).await;
    client.take().await;
    client.take().await;
    client.ping().await;
}

/// On a slow line a packet may take longer than the keep-alive; silence within it is silence all the same.
/// v5 [MQTT-3.1.2-22]; v3.1.1 [MQTT-3.1.2-24]
#[tokio::test]
async fn a_large_packet_that_comes_slowly_is_a_sign_of_life_and_a_stuck_one_is_not() {
    let site = Site::by_hand().await;
    let mut other = site.passerby(Level::V5, "other").await;
    for level in LEVELS {
        let connect = match level {
            Level::V5 => connect_v5(2, 10, &[], &[b"slow"]),
            _ => connect_v3(2, 10, &[b"slow"]),
        };
        let (mut client, accepted) = answer(&site, level, &connect).await;
        assert_eq!(code(&accepted), 0);
        let bytes = publish(level, "t", &vec![b'x'; 400_000], 1, 1, false);
        let parts: Vec<_> = bytes.chunks(60_000).collect();
        let (last, front) = parts.split_last().unwrap();
        for part in front {
            client.send(part).await;
            arrived(&mut other).await;
            site.pass(Duration::from_secs(14)).await;
        }
        client.send(last).await;
        let nobody_wants_it = if level == Level::V5 { 0x10 } else { 0 };
        client.expect(Received::Puback(1, nobody_wants_it)).await;

        for part in &parts[..3] {
            client.send(part).await;
        }
        arrived(&mut other).await;
        site.pass(Duration::from_secs(32)).await;
        assert_eq!(client.closed().await, (level == Level::V5).then_some(0x8D));
        other.ping().await;
    }
}

/// What other connections were sent before has been read: the test runs on one thread.
async fn arrived(other: &mut RawClient) {
    for _ in 0..10 {
        other.ping().await;
    }
}
