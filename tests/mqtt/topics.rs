//! Topic names and filters: length, levels, case, characters. Spec: sections 1.5 and 4.7.

use crate::client::LEVELS;
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
