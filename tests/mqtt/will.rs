//! Wills. Spec: v5 3.1.2.5, 3.1.3.2, 3.14.2.1; v3.1.1 3.1.2.5.

use std::time::Duration;

use crate::client::{LEVELS, Level, RawClient, Received, frame, text};
use crate::common::Site;

/// A CONNECT with the will `will` on `w`, `QoS` 1.
fn with_will(level: Level, client_id: &str, clean: bool, expiry: u32, will: &[u8], properties: &[u8]) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend_from_slice(&[level as u8, 0x0C | u8::from(clean) << 1, 0, 0]);
    if level == Level::V5 {
        body.extend_from_slice(&[5, 0x11]);
        body.extend_from_slice(&expiry.to_be_bytes());
    }
    body.extend_from_slice(&text(client_id));
    if level == Level::V5 {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(&text("w"));
    body.extend_from_slice(&u16::try_from(will.len()).unwrap().to_be_bytes());
    body.extend_from_slice(will);
    frame(0x10, &body)
}

async fn hello(site: &Site, level: Level, bytes: &[u8]) -> RawClient {
    let mut client = RawClient::open(site.address, level).await;
    client.send(bytes).await;
    assert!(matches!(client.next().await, Received::Connack { code: 0, .. }));
    client
}

fn delay(seconds: u32) -> Vec<u8> {
    [&[0x18][..], &seconds.to_be_bytes()].concat()
}

async fn watcher(site: &Site) -> RawClient {
    let mut watcher = site.passerby(Level::V5, "watcher").await;
    watcher.subscribe("w", 1).await;
    watcher
}

/// v5 [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.14.4-3]; v3.1.1 [MQTT-3.1.2-8], [MQTT-3.1.2-10]
#[tokio::test]
async fn a_will_is_published_when_the_line_is_lost_and_not_after_a_disconnect() {
    let site = Site::start().await;
    let mut watcher = watcher(&site).await;
    for level in LEVELS {
        for clean in [true, false] {
            let client = hello(&site, level, &with_will(level, "c", clean, 0, b"left", &[])).await;
            client.goodbye().await;
            watcher.ping().await;
            let client = hello(&site, level, &with_will(level, "c", clean, 0, b"lost", &[])).await;
            client.vanish();
            assert_eq!(watcher.take().await.payload, b"lost");
            watcher.ping().await;
        }
    }
}

/// v5 3.1.2.5: a protocol error is no orderly end either.
#[tokio::test]
async fn a_protocol_error_publishes_the_will() {
    let site = Site::start().await;
    let mut watcher = watcher(&site).await;
    for level in LEVELS {
        let mut client = hello(&site, level, &with_will(level, "c", true, 0, b"error", &[])).await;
        client.send(&[0x00, 0]).await;
        client.closed().await;
        assert_eq!(watcher.take().await.payload, b"error");
    }
}

/// v5 3.14.2.1
#[tokio::test]
async fn a_disconnect_that_asks_for_the_will_publishes_it() {
    let site = Site::start().await;
    let mut watcher = watcher(&site).await;
    let mut client = hello(&site, Level::V5, &with_will(Level::V5, "c", true, 0, b"asked", &[])).await;
    client.send(&[0xE0, 1, 0x04]).await;
    assert_eq!(watcher.take().await.payload, b"asked");
    assert_eq!(client.closed().await, None);
}

/// v5 3.1.3.2: all properties of a will arrive.
#[tokio::test]
async fn a_will_has_its_properties_and_is_retained_if_it_says_so() {
    let site = Site::start().await;
    let mut watcher = watcher(&site).await;
    let mut properties = vec![0x01, 1, 0x02, 0, 0, 0, 60, 0x03];
    properties.extend_from_slice(&text("text/plain"));
    properties.push(0x26);
    properties.extend_from_slice(&text("k"));
    properties.extend_from_slice(&text("v"));
    let mut connect = with_will(Level::V5, "c", true, 0, b"will", &properties);
    connect[9] |= 0x20;
    hello(&site, Level::V5, &connect).await.vanish();
    let message = watcher.take().await;
    assert!(message.properties.is_utf8_payload);
    assert_eq!(message.properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(message.properties.user_properties.len(), 1);
    assert!(message.properties.message_expiry_interval.is_some());
    let mut late = site.passerby(Level::V5, "late").await;
    late.subscribe("w", 1).await;
    assert!(late.take().await.retain);
}

/// v5 [MQTT-3.1.3-9]
#[tokio::test]
async fn a_delayed_will_waits_and_a_return_cancels_it() {
    let site = Site::by_hand().await;
    let mut watcher = watcher(&site).await;
    let connect = with_will(Level::V5, "c", false, 600, b"late", &delay(60));
    hello(&site, Level::V5, &connect).await.vanish();
    gone(&site, &mut watcher).await;
    site.pass(Duration::from_secs(50)).await;
    watcher.ping().await;
    hello(&site, Level::V5, &connect).await.vanish();
    gone(&site, &mut watcher).await;
    site.pass(Duration::from_secs(50)).await;
    watcher.ping().await;
    site.pass(Duration::from_secs(20)).await;
    assert_eq!(watcher.take().await.payload, b"late");
    watcher.ping().await;
}

/// Waits until the broker has noticed that a line is lost: the listener serves nobody but the watcher.
async fn gone(site: &Site, watcher: &mut RawClient) {
    while site.frontend.connection_count() > 1 {
        watcher.ping().await;
    }
}

/// Field report 7: the end of the session comes before the delay. v5 3.1.3.2.2
#[tokio::test]
async fn the_end_of_the_session_publishes_a_delayed_will_at_once() {
    let site = Site::by_hand().await;
    let mut watcher = watcher(&site).await;
    let connect = with_will(Level::V5, "c", true, 0, b"ended", &delay(60));
    hello(&site, Level::V5, &connect).await.vanish();
    assert_eq!(watcher.take().await.payload, b"ended");
    let mut client = hello(&site, Level::V5, &connect).await;
    client.send(&[0xE0, 1, 0x04]).await;
    assert_eq!(watcher.take().await.payload, b"ended");
    // With a session that lives on for a while, at its end.
    let connect = with_will(Level::V5, "c", true, 5, b"later", &delay(60));
    hello(&site, Level::V5, &connect).await.vanish();
    gone(&site, &mut watcher).await;
    site.pass(Duration::from_secs(4)).await;
    watcher.ping().await;
    site.pass(Duration::from_secs(2)).await;
    assert_eq!(watcher.take().await.payload, b"later");
    watcher.ping().await;
}

/// Field report 8: the first's will once, the second's never, and the second stays.
#[tokio::test]
async fn a_take_over_publishes_the_will_of_the_first_only() {
    let site = Site::start().await;
    let mut watcher = watcher(&site).await;
    for level in LEVELS {
        for clean in [true, false] {
            let mut first = hello(&site, level, &with_will(level, "c", clean, 0, b"first", &[])).await;
            let mut second = hello(&site, level, &with_will(level, "c", clean, 0, b"second", &[])).await;
            first.closed().await;
            assert_eq!(watcher.take().await.payload, b"first");
            second.ping().await;
            watcher.ping().await;
            second.goodbye().await;
            watcher.ping().await;
        }
    }
}

/// spec/semantics.md 8
#[tokio::test]
async fn a_server_that_stops_or_crashes_publishes_wills_after_its_start() {
    let site = Site::start().await;
    let mut watcher = site.client(Level::V5, "watcher").await;
    watcher.subscribe("w", 1).await;
    let _client = hello(&site, Level::V5, &with_will(Level::V5, "c", true, 0, b"stop", &[])).await;
    let site = site.restart().await;
    let mut watcher = site.returning(Level::V5, "watcher").await;
    assert_eq!(watcher.take().await.payload, b"stop");
    let _client = hello(&site, Level::V5, &with_will(Level::V5, "c", true, 0, b"crash", &[])).await;
    watcher.ping().await;
    let site = site.crash().await;
    let mut watcher = site.returning(Level::V5, "watcher").await;
    let mut message = watcher.take().await;
    if message.payload == b"stop" {
        assert!(message.dup);
        message = watcher.take().await;
    }
    assert_eq!(message.payload, b"crash");
    watcher.ping().await;
}

/// spec/semantics.md 8: accepted in CONNECT, dropped when due.
#[tokio::test]
async fn a_will_on_a_system_topic_is_accepted_and_dropped() {
    let site = Site::start().await;
    let mut watcher = watcher(&site).await;
    let mut body = text("MQTT");
    body.extend_from_slice(&[4, 0x06, 0, 0]);
    for field in ["c", "faircomAdmin/connections", "x"] {
        body.extend_from_slice(&text(field));
    }
    hello(&site, Level::V311, &frame(0x10, &body)).await.vanish();
    gone(&site, &mut watcher).await;
    watcher.ping().await;
}
