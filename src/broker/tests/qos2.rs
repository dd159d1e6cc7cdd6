//! QoS 2 in both directions: once, across lost lines and crashes.

use super::*;

/// nats-io/nats-server#8414, with a crash of the broker in between.
#[tokio::test]
async fn publish_crash_pubrel_is_one_delivery_and_the_retained_message() {
    let mut world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS2).await;
    subscriber.disconnect();
    let mut publisher = world.connect("p").await;
    let retained = Publish {
        retain: true,
        ..message(QOS2, b"x")
    };
    let id = publisher.send("t", &retained);
    assert!(matches!(publisher.reply().await, Reply::Pubrec(held, PublishOutcome::Accepted) if held == id));
    world.crash().await;
    let (mut publisher, present) = world.connect_with(connect("p")).await;
    assert!(present);
    publisher.connection.pubrel(id);
    assert_eq!(publisher.reply().await, Reply::Pubcomp(id, true));
    let mut subscriber = world.connect("s").await;
    assert_eq!(subscriber.texts(1).await, ["x"]);
    let mut late = world.connect("late").await;
    late.subscribe("t", QOS2).await;
    assert!(late.receive(1).await[0].retain);
}

/// eclipse-mosquitto/mosquitto#3602.
#[tokio::test]
async fn the_same_publish_six_times_is_six_pubrecs_and_one_delivery() {
    let mut world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS2).await;
    subscriber.disconnect();
    for round in 0..2 {
        let mut publisher = world.connect("p").await;
        for _ in 0..3 {
            publisher.connection.publish("t", 9, &message(QOS2, b"x")).unwrap();
        }
        publisher.connection.flush();
        for _ in 0..3 {
            assert!(matches!(
                publisher.reply().await,
                Reply::Pubrec(9, PublishOutcome::Accepted)
            ));
        }
        if round == 1 {
            publisher.connection.pubrel(9);
            assert_eq!(publisher.reply().await, Reply::Pubcomp(9, true));
            // Released, the id means a new message, also after a crash.
            drop(publisher);
            world.crash().await;
            let mut publisher = world.connect("p").await;
            publisher.next_id = 8;
            publisher.publish("t", QOS2, "y").await;
        }
    }
    let mut subscriber = world.connect("s").await;
    assert_eq!(subscriber.texts(2).await, ["x", "y"]);
}

/// What a connection has read and not handed over counts as not received when its session is taken over.
#[tokio::test]
async fn a_publish_that_was_not_handed_over_before_a_take_over_is_stored_when_it_is_sent_again() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS2).await;
    let mut old = world.connect("p").await;
    old.connection.publish("t", 5, &message(QOS2, b"x")).unwrap();
    let mut new = world.connect("p").await;
    old.connection.flush();
    drop(old);
    new.next_id = 4;
    new.publish("t", QOS2, "x").await;
    assert_eq!(subscriber.texts(1).await, ["x"]);
}

/// A release that was not handed over is not forgotten: the id stays known until it is durable.
#[tokio::test]
async fn a_release_that_was_not_handed_over_before_a_take_over_can_be_sent_again() {
    let mut world = World::new().await;
    let mut old = world.connect("p").await;
    old.send("t", &message(QOS2, b"x"));
    old.reply().await;
    old.connection.pubrel(1);
    let mut new = world.connect("p").await;
    drop(old);
    new.connection.pubrel(1);
    assert_eq!(new.reply().await, Reply::Pubcomp(1, true));
    world.crash().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS2).await;
    let mut new = world.connect("p").await;
    new.publish("t", QOS2, "y").await;
    assert_eq!(subscriber.texts(1).await, ["y"]);
}

/// Nothing of a pull with QoS 2 is sent before its packet ids are durable.
#[tokio::test]
async fn packet_ids_are_durable_before_their_messages_are_sent() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS2).await;
    subscriber.quiet().await;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS2, "x").await;
    world.settled().await;
    world.store.hold();
    while subscriber.pump().await {}
    assert!(subscriber.got.is_empty() && subscriber.staged.is_some());
    world.store.release();
    assert_eq!(subscriber.texts(1).await, ["x"]);
}

/// PUBREC, crash: PUBREL with the old id, and never the message again under another one.
#[tokio::test]
async fn pubrec_then_crash_is_pubrel_with_the_old_id() {
    let mut world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS2).await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    for text in ["a", "b", "c"] {
        publisher.publish("t", QOS2, text).await;
    }
    let got = subscriber.receive(3).await;
    subscriber.connection.pubrec(got[0].id.unwrap(), false);
    subscriber.until("PUBREL", |client| client.released.len() == 1).await;
    // This one is on its way when the store is lost.
    world.store.hold();
    subscriber.connection.pubrec(got[1].id.unwrap(), false);
    subscriber.connection.flush();
    world.crash().await;
    let mut subscriber = world.connect("s").await;
    subscriber.acks = false;
    subscriber.quiet().await;
    assert_eq!(subscriber.released, [got[0].id.unwrap()]);
    let again = subscriber.receive(2).await;
    for (again, old) in again.iter().zip(&got[1..]) {
        assert_eq!((again.id, again.dup, &again.text), (old.id, true, &old.text));
    }
}

/// eclipse-mosquitto/mosquitto#3744: expiry ends no flow that has begun.
#[tokio::test]
async fn a_message_that_expires_between_pubrec_and_the_return_is_completed() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS2).await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    let short = Publish {
        expiry: Some(1),
        ..message(QOS2, b"x")
    };
    publisher.publish_message("t", &short).await;
    let got = subscriber.receive(1).await;
    subscriber.connection.pubrec(got[0].id.unwrap(), false);
    subscriber.lost();
    world.advance(Duration::from_secs(2)).await;
    let mut subscriber = world.connect("s").await;
    subscriber.quiet().await;
    assert_eq!(subscriber.released, [got[0].id.unwrap()]);
    assert!(subscriber.got.is_empty());
}
