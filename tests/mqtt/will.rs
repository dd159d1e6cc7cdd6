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

/// v5 [MQTT-3.1.2-7], [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.14.4-3];
/// v3.1.1 [MQTT-3.1.2-8], [MQTT-3.1.2-9], [MQTT-3.1.2-10], [MQTT-3.14.4-3]
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

/// v5 [MQTT-3.1.2-8], v3.1.1 [MQTT-3.1.2-8]: a protocol error is no orderly end either.
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

/// v5 [MQTT-3.1.2-9], [MQTT-3.1.3-10], 3.1.3.2: all properties of a will arrive.
#[tokio::test]
async fn a_will_has_its_properties_and_is_retained_if_it_says_so() {
    let site = Site::start().await;
    let mut watcher = watcher(&site).await;
    let mut properties = vec![0x01, 1, 0x02, 0, 0, 0, 60, 0x03];
    properties.extend_from_slice(&text("text/plain"));
    let pairs = [("k", "2"), ("a", ""), ("k", "1")];
    for (name, value) in pairs {
        properties.push(0x26);
        properties.extend_from_slice(&[text(name), text(value)].concat());
    }
    properties.push(0x08);
    properties.extend_from_slice(&text("answers"));
    properties.extend_from_slice(&[0x09, 0, 2, 0, 255]);
    let mut connect = with_will(Level::V5, "c", true, 0, b"will", &properties);
    connect[9] |= 0x20;
    hello(&site, Level::V5, &connect).await.vanish();
    let message = watcher.take().await;
    assert!(message.properties.is_utf8_payload);
    assert_eq!(message.properties.content_type.as_deref(), Some("text/plain"));
    let user = message.properties.user_properties.iter();
    let user: Vec<_> = user
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    assert_eq!(user, pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(message.properties.response_topic.as_deref(), Some("answers"));
    assert_eq!(message.properties.correlation_data.as_deref(), Some(&[0, 255][..]));
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

/// Field report 8: the first's will once, the second's never, and the second stays. v5 [MQTT-3.1.2-8], [MQTT-3.1.2-10]
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

/// spec/semantics.md 8; v5 [MQTT-3.1.2-7], [MQTT-3.1.2-10]; v3.1.1 [MQTT-3.1.2-8], [MQTT-3.1.2-10]
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

/// v5 [MQTT-3.1.2-14], [MQTT-3.1.2-15]; v3.1.1 [MQTT-3.1.2-16], [MQTT-3.1.2-17]
#[tokio::test]
async fn a_will_has_the_qos_and_the_retain_flag_of_its_connect() {
    for level in LEVELS {
        for (qos, retain) in [(0, false), (1, true), (2, false), (2, true), (0, true)] {
            let site = Site::start().await;
            let mut watcher = site.passerby(Level::V5, "watcher").await;
            watcher.subscribe("w", 2).await;
            let mut connect = with_will(level, "c", true, 0, b"will", &[]);
            connect[9] = 0x06 | qos << 3 | u8::from(retain) << 5;
            hello(&site, level, &connect).await.vanish();
            let live = watcher.take().await;
            assert_eq!((live.qos, live.retain), (qos, false), "for a subscription that exists");
            let mut late = site.passerby(Level::V5, "late").await;
            late.subscribe("w", 2).await;
            if retain {
                let kept = late.take().await;
                assert_eq!((kept.qos, kept.retain), (qos, true));
            }
            late.ping().await;
        }
    }
}

/// v5 3.1.2.5; v3.1.1 [MQTT-3.1.2-12]
#[tokio::test]
async fn without_a_will_nothing_is_published() {
    let site = Site::start().await;
    let mut everything = site.passerby(Level::V5, "watcher").await;
    everything.subscribe("#", 0).await;
    for level in LEVELS {
        // The will of an earlier connection is not that of a later one.
        hello(&site, level, &with_will(level, "c", false, 60, b"m", &[]))
            .await
            .goodbye()
            .await;
        for end in [&[0_u8, 0][..], &[0xE0, 1, 0x04], &[]] {
            let mut client = site.client(level, "c").await;
            client.send(end).await;
            if end.is_empty() {
                client.vanish();
            } else {
                client.closed().await;
            }
            gone(&site, &mut everything).await;
            everything.ping().await;
        }
    }
}

/// v5 3.1.3.2.4: expiry 0 is legal, and such a will is over when it is published.
#[tokio::test]
async fn a_will_whose_expiry_is_0_is_accepted_and_reaches_nobody() {
    let site = Site::start().await;
    let mut watcher = watcher(&site).await;
    let connect = with_will(Level::V5, "c", true, 0, b"over", &[0x02, 0, 0, 0, 0]);
    hello(&site, Level::V5, &connect).await.vanish();
    gone(&site, &mut watcher).await;
    watcher.ping().await;
    // One with a second left does.
    let connect = with_will(Level::V5, "c", true, 0, b"lives", &[0x02, 0, 0, 0, 60]);
    hello(&site, Level::V5, &connect).await.vanish();
    assert_eq!(watcher.take().await.payload, b"lives");
}

/// v5 [MQTT-3.1.2-8], [MQTT-3.1.3-9]: DISCONNECT 0x04 asks for the will, not for haste.
#[tokio::test]
async fn a_will_asked_for_by_disconnect_waits_for_its_delay_too() {
    let site = Site::by_hand().await;
    let mut watcher = watcher(&site).await;
    let connect = with_will(Level::V5, "c", false, 600, b"asked", &delay(60));
    for returns in [true, false] {
        let mut client = hello(&site, Level::V5, &connect).await;
        client.send(&[0xE0, 1, 0x04]).await;
        assert_eq!(client.closed().await, None);
        site.pass(Duration::from_secs(59)).await;
        watcher.ping().await;
        if returns {
            hello(&site, Level::V5, &connect).await.goodbye().await;
            site.pass(Duration::from_secs(100)).await;
            watcher.ping().await;
        }
    }
    site.pass(Duration::from_secs(2)).await;
    assert_eq!(watcher.take().await.payload, b"asked");
}

/// v5 [MQTT-3.1.3-9], [MQTT-3.1.2-8]: a take-over cancels a delayed will, unless it ends the session.
#[tokio::test]
async fn a_take_over_cancels_a_delayed_will_and_a_clean_start_publishes_it() {
    let site = Site::by_hand().await;
    let mut watcher = watcher(&site).await;
    for clean in [false, true] {
        let delayed = with_will(Level::V5, "c", false, 600, b"first", &delay(60));
        let mut first = hello(&site, Level::V5, &delayed).await;
        let second = hello(
            &site,
            Level::V5,
            &with_will(Level::V5, "c", clean, 600, b"second", &delay(60)),
        )
        .await;
        assert_eq!(first.closed().await, Some(0x8E));
        if clean {
            assert_eq!(watcher.take().await.payload, b"first");
        }
        watcher.ping().await;
        second.goodbye().await;
        site.pass(Duration::from_secs(100)).await;
        watcher.ping().await;
        // Lost, and then a clean start within the delay.
        hello(&site, Level::V5, &delayed).await.vanish();
        gone(&site, &mut watcher).await;
        let returned = hello(
            &site,
            Level::V5,
            &with_will(Level::V5, "c", clean, 600, b"second", &delay(60)),
        )
        .await;
        if clean {
            assert_eq!(watcher.take().await.payload, b"first");
        }
        watcher.ping().await;
        returned.goodbye().await;
    }
}

/// v5 [MQTT-3.1.2-7], [MQTT-3.1.2-10], [MQTT-3.1.3-9]; promise 5: the delay goes on while the server is down.
#[tokio::test]
async fn a_delayed_will_keeps_its_time_over_a_restart_and_comes_once() {
    let site = Site::by_hand().await;
    let mut watcher = site.client(Level::V5, "watcher").await;
    watcher.subscribe("w", 1).await;
    let connect = with_will(Level::V5, "c", false, 600, b"late", &delay(100));
    hello(&site, Level::V5, &connect).await.vanish();
    gone(&site, &mut watcher).await;
    site.pass(Duration::from_secs(30)).await;
    // On the disk with whatever comes behind it.
    watcher.publish("elsewhere", b"", 0, 0).await;
    site.passerby(Level::V311, "sync")
        .await
        .publish("sync", b"", 1, 1)
        .await;
    let clock = site.clock.clone();
    let site = site.crash_after(|| clock.advance(Duration::from_secs(50))).await;
    let mut watcher = site.returning(Level::V5, "watcher").await;
    site.pass(Duration::from_secs(19)).await;
    watcher.ping().await;
    site.pass(Duration::from_secs(2)).await;
    assert_eq!(watcher.take().await.payload, b"late");
    watcher.ping().await;
    let site = site.restart().await;
    let mut watcher = site.returning(Level::V5, "watcher").await;
    site.pass(Duration::from_secs(200)).await;
    watcher.ping().await;
}
