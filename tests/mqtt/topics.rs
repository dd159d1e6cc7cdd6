//! Topic names and filters: length, levels, case, characters. Spec: sections 1.5 and 4.7.

use crate::client::{LEVELS, Level, Received, subscribe};
use crate::common::Site;

/// 32,768 empty levels, the longest there can be.
// v5 [MQTT-4.7.3-3]
// v3.1.1 [MQTT-4.7.3-3]
#[tokio::test]
async fn names_and_filters_may_be_as_long_and_as_deep_as_a_string() {
    let site = Site::start().await;
    let long = "x".repeat(65_535);
    let deep = "/".repeat(65_535);
    let deep_filter = format!("{}#", "+/".repeat(32_767));
    for level in LEVELS {
        let mut subscriber = site.client(level, "s").await;
        for filter in [&long, &deep, &deep_filter] {
            subscriber.subscribe(filter, 1).await;
        }
        let mut publisher = site.passerby(level, "p").await;
        for topic in [&long, &deep] {
            publisher.publish(topic, b"m", 1, 1).await;
            assert!(subscriber.take().await.topic == *topic);
        }
        subscriber.ping().await;
        drop(subscriber);
        site.passerby(level, "s").await.goodbye().await;
    }
}

/// Case, composition of characters, empty levels, spaces and a byte order mark all tell topics apart.
///
/// v5 [MQTT-1.5.4-3], [MQTT-3.3.2-3], [MQTT-4.7.3-4]; v3.1.1 [MQTT-1.5.3-3], [MQTT-3.3.2-3], [MQTT-4.7.3-4]
#[tokio::test]
async fn topics_are_compared_byte_by_byte() {
    let site = Site::start().await;
    let topics = [
        "accounts",
        "ACCOUNTS",
        "Accounts payable",
        "accounts/",
        "/accounts",
        "/",
        "//",
        " ",
        "caf\u{e9}",
        "cafe\u{301}",
        "\u{feff}accounts",
        "a\\",
        "\u{fffe}",
        "\u{1}",
        "$accounts",
    ];
    for level in LEVELS {
        let mut publisher = site.passerby(level, "p").await;
        let mut clients = Vec::new();
        for (number, topic) in topics.iter().enumerate() {
            if topic.contains('+') {
                continue;
            }
            let mut client = site.passerby(level, &number.to_string()).await;
            client.subscribe(topic, 1).await;
            clients.push((client, *topic));
        }
        for topic in topics.iter().filter(|topic| !topic.contains(['+', '$'])) {
            publisher.publish(topic, topic.as_bytes(), 1, 1).await;
        }
        for (client, topic) in &mut clients {
            if !topic.starts_with('$') {
                let message = client.take().await;
                assert_eq!((&*message.topic, &message.payload[..]), (*topic, topic.as_bytes()));
            }
            client.ping().await;
        }
    }
}

/// Nobody but the server publishes below `$`, and no leading wildcard shows what is there.
///
/// v5 [MQTT-4.7.2-1]; v3.1.1 [MQTT-3.3.5-2], [MQTT-4.7.2-1]
#[tokio::test]
async fn topics_with_a_dollar_are_not_for_clients() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut client = site.passerby(level, "c").await;
        for filter in ["#", "+/x", "$SYS/#", "$SYS/x", "$share/g/#"] {
            client.subscribe(filter, 1).await;
        }
        for (qos, first) in [(1, 0x40), (2, 0x50)] {
            client
                .send(&crate::client::publish(level, "$SYS/x", b"", qos, 1, false))
                .await;
            let refused = if level == Level::V5 { 0x87 } else { 0 };
            let wanted = if first == 0x40 {
                Received::Puback(1, refused)
            } else {
                Received::Pubrec(1, refused)
            };
            client.expect(wanted).await;
        }
        client.ping().await;
        client
            .send(&crate::client::publish(level, "$SYS/x", b"", 0, 0, false))
            .await;
        client.ping().await;
        // Within a name it is a character like any other.
        client.send(&subscribe(level, 1, &[("a/+/c", 0)])).await;
        client.expect(Received::Suback(1, vec![0])).await;
        let mut publisher = site.passerby(level, "p").await;
        publisher.publish("a/$b/c", b"", 0, 1).await;
        // `#` with the filter itself in one copy, and the group.
        assert_eq!(client.take().await.topic, "a/$b/c");
        assert_eq!(client.take().await.topic, "a/$b/c");
        client.ping().await;
    }
}
