//! One session, two connections.

use super::*;
use crate::broker::session::Closing;

/// v5 [MQTT-3.1.4-3], v3.1.1 [MQTT-3.1.4-2]
#[tokio::test]
async fn the_old_connection_is_told_and_does_nothing_any_more() {
    let world = World::new().await;
    let mut old = world.connect("s").await;
    old.subscribe("t", QOS1).await;
    old.quiet().await;
    let mut publisher = world.connect("p").await;
    let (mut new, present) = world.connect_with(connect("s")).await;
    assert!(present);
    assert_eq!(old.connection.signal().closing(), Some(Closing::TakenOver));
    publisher.publish("t", QOS1, "x").await;
    world.settled().await;
    old.pump().await;
    assert!(old.got.is_empty());
    drop(old);
    assert_eq!(new.texts(1).await, ["x"]);
    publisher.publish("t", QOS1, "y").await;
    assert_eq!(new.texts(1).await, ["y"]);
}

/// HarperFast/harper#1604: the late end of the first connection touches nothing of the second.
#[tokio::test]
async fn the_will_of_the_first_connection_is_published_once_and_the_second_stays() {
    let world = World::new().await;
    let mut witness = world.connect("w").await;
    witness.subscribe("will/#", QOS1).await;
    let with_will = |topic: &str| Connect {
        will: Some(will(topic, 0)),
        ..connect("s")
    };
    let (first, _) = world.connect_with(with_will("will/1")).await;
    let (second, _) = world.connect_with(with_will("will/2")).await;
    first.lost();
    world.settled().await;
    let got = witness.receive(1).await;
    assert_eq!(got[0].topic, "will/1");
    assert_eq!(second.connection.signal().closing(), None);
    second.disconnect();
    witness.receive(0).await;
}

#[tokio::test]
async fn a_delayed_will_is_cancelled_by_the_take_over_unless_it_starts_clean() {
    let world = World::new().await;
    let mut witness = world.connect("w").await;
    witness.subscribe("will", QOS1).await;
    let delayed = Connect {
        will: Some(will("will", 60)),
        ..connect("s")
    };
    let (_first, _) = world.connect_with(delayed.clone()).await;
    let (_second, _) = world.connect_with(delayed).await;
    witness.receive(0).await;
    let clean = Connect {
        clean_start: true,
        ..connect("s")
    };
    let (_third, present) = world.connect_with(clean).await;
    assert!(!present);
    witness.receive(1).await;
}

#[tokio::test]
async fn a_session_taken_over_while_it_lags_goes_on_where_it_stood() {
    let world = World::new().await;
    let mut client = world.connect("s").await;
    client.subscribe("#", QOS1).await;
    client.disconnect();
    let mut publisher = world.connect("p").await;
    for at in 0..2_000 {
        publisher.send(&format!("t{}", at % 5), &message(QOS1, at.to_string().as_bytes()));
    }
    world.settled().await;
    let mut texts = Vec::new();
    while texts.len() < 2_000 {
        let mut client = world.connect("s").await;
        client.pump().await;
        texts.extend(client.got.drain(..).map(|got| got.text.parse::<usize>().unwrap()));
    }
    assert_eq!(texts, (0..2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_session_that_becomes_temporary_keeps_what_is_in_flight_and_one_that_becomes_stored_keeps_its_filters() {
    let mut world = World::new().await;
    let mut client = world.connect("s").await;
    client.subscribe("t", QOS1).await;
    client.acks = false;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "x").await;
    client.receive(1).await;
    let ends = Connect {
        session_expiry_seconds: 0,
        ..connect("s")
    };
    let (mut client, present) = world.connect_with(ends).await;
    assert!(present);
    client.acks = false;
    assert_eq!(client.texts(1).await, ["x"]);
    let client = world.connect("s").await;
    drop(client);
    world.crash().await;
    publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "y").await;
    let mut client = world.connect("s").await;
    assert_eq!(client.texts(2).await, ["x", "y"]);
}

#[tokio::test]
async fn a_session_that_ends_with_its_connection_and_was_never_stored_writes_nothing() {
    let world = World::new().await;
    let before = world.store.mark();
    let clean = Connect {
        clean_start: true,
        session_expiry_seconds: 0,
        ..connect("s")
    };
    for _ in 0..2 {
        let (mut client, present) = world.connect_with(clean.clone()).await;
        assert!(!present);
        client.subscribe("t", QOS1).await;
        client.disconnect();
    }
    assert!(world.broker.0.sessions.get("s").is_none());
    assert_eq!(world.store.mark(), before);
}
