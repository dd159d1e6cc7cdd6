//! Live delivery: order, and the ways between lagging and live.

use super::*;

/// v5 [MQTT-4.6.0-6]
#[tokio::test]
async fn a_connected_session_gets_every_quality_of_service_in_order() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS2).await;
    let mut publisher = world.connect("p").await;
    for at in 0..30_u8 {
        let qos = [QOS0, QOS1, QOS2][usize::from(at % 3)];
        publisher.publish("t", qos, &at.to_string()).await;
    }
    let got = subscriber.receive(30).await;
    for (at, got) in got.iter().enumerate() {
        assert_eq!(got.text, at.to_string());
        assert_eq!(got.qos as usize, at % 3);
        assert!(!got.dup);
    }
}

#[tokio::test]
async fn messages_of_the_absence_come_before_those_of_the_presence() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t/#", QOS1).await;
    subscriber.disconnect();
    let mut publisher = world.connect("p").await;
    for at in 0..1_000 {
        publisher.publish(&format!("t/{}", at % 7), QOS1, &at.to_string()).await;
    }
    let mut subscriber = world.connect("s").await;
    for at in 1_000..1_100 {
        publisher.publish(&format!("t/{}", at % 7), QOS1, &at.to_string()).await;
    }
    let got = subscriber.texts(1_100).await;
    assert!(got.iter().enumerate().all(|(at, text)| *text == at.to_string()));
}

/// QoS 0 is handed on before it is durable, and must not come again when it is.
#[tokio::test]
async fn early_messages_come_at_once_and_once_while_sessions_join_lag_and_join_again() {
    let world = World::new().await;
    let mut live = world.connect("live").await;
    live.subscribe("t", QOS1).await;
    live.quiet().await;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "a").await;
    assert_eq!(live.texts(1).await, ["a"]);
    world.store.hold();
    publisher.send("t", &message(QOS0, b"b"));
    live.until("b", |client| client.got.len() == 1).await;
    let mut joining = world
        .connect_with(Connect {
            clean_start: true,
            session_expiry_seconds: 0,
            ..connect("join")
        })
        .await
        .0;
    publisher.send("t", &message(QOS0, b"c"));
    publisher.send("t", &message(QOS1, b"d"));
    publisher.send("t", &message(QOS0, b"e"));
    live.until("c", |client| client.got.len() == 2).await;
    // Away and back while `b` and `c` are not durable.
    live.disconnect();
    world.store.release();
    let mut live = world.connect("live").await;
    assert_eq!(live.texts(2).await, ["d", "e"]);
    joining.subscribe("t", QOS1).await;
    publisher.publish("t", QOS0, "f").await;
    assert_eq!(joining.texts(1).await, ["f"]);
    assert_eq!(live.texts(1).await, ["f"]);
}

#[tokio::test]
async fn a_session_with_too_many_references_lags_and_joins_again_without_a_gap() {
    let world = World::new().await;
    let mut slow = world.connect("slow").await;
    slow.subscribe("t", QOS1).await;
    slow.quiet().await;
    let mut publisher = world.connect("p").await;
    for at in 0..10_000 {
        publisher.send("t", &message([QOS0, QOS1][at % 2], at.to_string().as_bytes()));
    }
    let got = slow.texts(10_000).await;
    assert!(got.iter().enumerate().all(|(at, text)| *text == at.to_string()));
    assert_eq!(slow.session.queue.lock().mode, Mode::Live);
}

/// One copy, with the highest quality of service and every identifier (v5 3.3.4).
#[tokio::test]
async fn overlapping_filters_give_one_copy_with_all_identifiers() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    for (filter, qos, identifier) in [("a/#", QOS0, 9), ("a/+", QOS1, 3), ("a/b", QOS0, 5)] {
        let options = SubscriptionOptions {
            identifier: Some(identifier),
            ..options(qos)
        };
        subscriber.subscribe_with(filter, options).await;
    }
    let mut publisher = world.connect("p").await;
    publisher.publish("a/b", QOS2, "x").await;
    let got = subscriber.receive(1).await;
    assert_eq!((got[0].qos, got[0].identifiers.as_slice()), (QOS1, &[3, 5, 9][..]));
}

/// emqx/emqx#1148: there is one truth about a session's filters.
#[tokio::test]
async fn a_filter_that_an_administrator_removed_can_be_subscribed_again() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS1).await;
    let remove = SubscribeAction::Remove(TopicFilter::parse("t").unwrap());
    let absent = world.broker.subscribe("s", vec![remove], &caller()).await.unwrap();
    assert!(absent.is_empty());
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "not").await;
    subscriber.subscribe("t", QOS1).await;
    publisher.publish("t", QOS1, "this").await;
    assert_eq!(subscriber.texts(1).await, ["this"]);
}

#[tokio::test]
async fn what_waits_on_a_removed_filter_is_passed_over_and_a_new_one_starts_at_the_end() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS1).await;
    subscriber.disconnect();
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "old").await;
    let mut subscriber = world.connect("s").await;
    subscriber.unsubscribe("t").await;
    subscriber.got.clear();
    publisher.publish("t", QOS1, "between").await;
    subscriber.subscribe("t", QOS1).await;
    publisher.publish("t", QOS1, "new").await;
    assert_eq!(subscriber.texts(1).await, ["new"]);
}

#[tokio::test]
async fn no_local_holds_back_what_the_session_published_itself() {
    let world = World::new().await;
    let mut client = world.connect("c").await;
    let own = SubscriptionOptions {
        no_local: true,
        ..options(QOS1)
    };
    client.subscribe_with("t", own).await;
    client.publish("t", QOS1, "mine").await;
    let mut other = world.connect("o").await;
    other.publish("t", QOS1, "yours").await;
    assert_eq!(client.texts(1).await, ["yours"]);
}

#[tokio::test]
async fn nothing_waits_for_a_session_with_qos_0_only_and_everything_for_one_with_qos_1() {
    let world = World::new().await;
    let mut zero = world.connect("zero").await;
    zero.subscribe("t", QOS0).await;
    zero.disconnect();
    let mut one = world.connect("one").await;
    one.subscribe("t", QOS1).await;
    one.disconnect();
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS0, "a").await;
    publisher.publish("t", QOS1, "b").await;
    world.settled().await;
    let mut zero = world.connect("zero").await;
    let mut one = world.connect("one").await;
    publisher.publish("t", QOS1, "c").await;
    assert_eq!(zero.texts(1).await, ["c"]);
    assert_eq!(one.texts(3).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_full_store_refuses_messages_and_goes_on_with_acknowledgements_and_positions() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS1).await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "a").await;
    let got = subscriber.receive(1).await;
    world.store.set_full(true);
    let id = publisher.send("t", &message(QOS2, b"b"));
    assert!(matches!(publisher.reply().await, Reply::Pubrec(held, PublishOutcome::Refused(_)) if held == id));
    assert!(subscriber.connection.puback(got[0].id.unwrap()));
    subscriber.disconnect();
    world.store.set_full(false);
    // The refused id is free, and means a new message.
    publisher.next_id = id - 1;
    publisher.publish("t", QOS2, "c").await;
    let mut subscriber = world.connect("s").await;
    assert_eq!(subscriber.texts(1).await, ["c"]);
}

/// Options replaced while the subscription's retained messages are under way stay replaced.
#[tokio::test]
async fn replaced_options_survive_a_crash() {
    let mut world = World::new().await;
    let mut publisher = world.connect("p").await;
    for at in 0..10 {
        let retained = Publish {
            retain: true,
            ..message(QOS1, b"r")
        };
        publisher.publish_message(&format!("t/{at}"), &retained).await;
    }
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t/#", QOS0).await;
    let other = SubscriptionOptions {
        retain_handling: RetainHandling::Never,
        identifier: Some(4),
        ..options(QOS2)
    };
    subscriber.subscribe_with("t/#", other).await;
    subscriber.receive(10).await;
    subscriber.disconnect();
    world.crash().await;
    let mut subscriber = world.connect("s").await;
    let mut publisher = world.connect("p").await;
    publisher.publish("t/0", QOS2, "x").await;
    let got = subscriber.receive(1).await;
    assert_eq!((got[0].qos, got[0].identifiers.as_slice()), (QOS2, &[4][..]));
}
