//! Retained messages: due at the subscription, served before what follows, never backwards.

use super::*;

fn retain<'a>(qos: Qos, payload: &'a [u8]) -> Publish<'a> {
    Publish {
        retain: true,
        ..message(qos, payload)
    }
}

fn handling(retain_handling: RetainHandling) -> SubscriptionOptions {
    SubscriptionOptions {
        retain_handling,
        ..options(QOS1)
    }
}

/// v5 [MQTT-3.3.1-9] to [MQTT-3.3.1-11]
#[tokio::test]
async fn retain_handling_says_when_they_are_sent() {
    let world = World::new().await;
    let mut publisher = world.connect("p").await;
    publisher.publish_message("t", &retain(QOS1, b"r")).await;
    let mut client = world.connect("c").await;
    client.subscribe_with("t", handling(RetainHandling::Never)).await;
    client.receive(0).await;
    client
        .subscribe_with("t", handling(RetainHandling::OnNewSubscription))
        .await;
    client.receive(0).await;
    client
        .subscribe_with("t", handling(RetainHandling::OnSubscription))
        .await;
    assert!(client.receive(1).await[0].retain);
    client
        .subscribe_with("+", handling(RetainHandling::OnNewSubscription))
        .await;
    assert!(client.receive(1).await[0].retain);
    // Not on reconnect, and live only as an ordinary message.
    client.disconnect();
    let mut client = world.connect("c").await;
    client.receive(0).await;
    publisher.publish_message("t", &retain(QOS1, b"s")).await;
    assert!(!client.receive(1).await[0].retain);
}

#[tokio::test]
async fn what_was_replaced_cleared_or_has_expired_before_it_was_sent_is_not_sent() {
    let world = World::new().await;
    let mut publisher = world.connect("p").await;
    let narrow = Connect {
        receive_maximum: 1,
        ..connect("c")
    };
    for topic in ["a", "b", "c", "d"] {
        publisher.publish_message(topic, &retain(QOS1, topic.as_bytes())).await;
    }
    let short = Publish {
        expiry: Some(5),
        ..retain(QOS1, b"e")
    };
    publisher.publish_message("e", &short).await;
    let (mut client, _) = world.connect_with(narrow).await;
    client.acks = false;
    client.subscribe("#", QOS1).await;
    let first = client.receive(1).await;
    assert_eq!(first[0].text, "a");
    publisher.publish_message("b", &retain(QOS1, b"b2")).await;
    publisher.publish_message("c", &retain(QOS1, b"")).await;
    world.advance(Duration::from_secs(6)).await;
    client.acks = true;
    assert!(client.connection.puback(first[0].id.unwrap()));
    let got = client.receive(3).await;
    let got: Vec<_> = got.iter().map(|got| (got.text.as_str(), got.retain)).collect();
    assert_eq!(got, [("d", true), ("b2", false), ("", false)]);
}

/// However many match: due is a mark and a cursor, which survive a restart.
#[tokio::test]
async fn many_topics_are_served_in_steps_once_each_also_across_a_restart() {
    let mut world = World::new().await;
    let mut publisher = world.connect("p").await;
    for at in 0..3_000 {
        publisher.send(&format!("t/{at:05}/x"), &retain(QOS1, b"r"));
        publisher.send(&format!("t/{at:05}/y"), &retain(QOS1, b"r"));
    }
    world.settled().await;
    let narrow = Connect {
        receive_maximum: 500,
        ..connect("c")
    };
    let (mut client, _) = world.connect_with(narrow).await;
    client.acks = false;
    client.subscribe("t/+/x", QOS1).await;
    let got = client.receive(500).await;
    for one in &got {
        assert!(client.connection.puback(one.id.unwrap()));
    }
    client.connection.flush();
    client.disconnect();
    world.stop_and_start().await;
    publisher = world.connect("p").await;
    publisher.publish("t/00000/x", QOS1, "live").await;
    let mut client = world.connect("c").await;
    let rest = client.receive(2_501).await;
    let mut topics: Vec<_> = got
        .iter()
        .chain(&rest)
        .filter(|got| got.retain)
        .map(|got| &got.topic)
        .collect();
    topics.dedup();
    assert_eq!(topics.len(), 3_000);
    assert_eq!(rest[2_500].text, "live");
}

#[tokio::test]
async fn nothing_of_a_topic_passes_its_retained_message() {
    let world = World::new().await;
    let mut publisher = world.connect("p").await;
    publisher.publish_message("z", &retain(QOS1, b"state")).await;
    let narrow = Connect {
        receive_maximum: 1,
        ..connect("c")
    };
    let (mut client, _) = world.connect_with(narrow).await;
    client.acks = false;
    client.subscribe("held", QOS1).await;
    publisher.publish("held", QOS1, "h").await;
    let held = client.receive(1).await;
    client.subscribe("z", QOS1).await;
    publisher.publish("z", QOS0, "later").await;
    world.settled().await;
    client.receive(0).await;
    client.acks = true;
    assert!(client.connection.puback(held[0].id.unwrap()));
    assert_eq!(client.texts(2).await, ["state", "later"]);
}
