//! What a start finds after a stop and after a crash.

use super::*;

/// rmqtt/rmqtt#477: restored sessions take part in routing before the first publish is acknowledged.
#[tokio::test]
async fn an_absent_session_gets_what_was_published_before_and_after_a_crash() {
    let mut world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("a/+", QOS1).await;
    subscriber.disconnect();
    let mut publisher = world.connect("p").await;
    publisher.publish("a/1", QOS1, "before").await;
    for _ in 0..2 {
        world.crash().await;
    }
    let mut publisher = world.connect("p").await;
    publisher.publish("a/2", QOS1, "after").await;
    world.stop_and_start().await;
    let mut subscriber = world.connect("s").await;
    assert_eq!(subscriber.texts(2).await, ["before", "after"]);
    // Its end makes the positions exact.
    subscriber.disconnect();
    world.crash().await;
    let mut subscriber = world.connect("s").await;
    subscriber.receive(0).await;
}

#[tokio::test]
async fn a_snapshot_and_what_lies_behind_it_give_the_same_as_the_whole_log() {
    let mut world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("#", QOS2).await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    for at in 0..5 {
        publisher.publish("t", [QOS1, QOS2][at % 2], &at.to_string()).await;
    }
    let old = subscriber.receive(5).await;
    assert!(subscriber.connection.puback(old[2].id.unwrap()));
    subscriber.lost();
    world.settled().await;
    world.store.snapshot();
    publisher.publish("t", QOS1, "5").await;
    world.crash().await;
    let mut subscriber = world.connect("s").await;
    let got = subscriber.receive(5).await;
    let texts: Vec<_> = got.iter().map(|got| (got.text.as_str(), got.dup)).collect();
    assert_eq!(
        texts,
        [("0", true), ("1", true), ("3", true), ("4", true), ("5", false)]
    );
    assert_eq!(got[1].id, old[1].id);
}

/// An orderly stop knows every position exactly.
#[tokio::test]
async fn nothing_is_repeated_after_an_orderly_stop() {
    let mut world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS1).await;
    let mut publisher = world.connect("p").await;
    for at in 0..250 {
        publisher.publish("t", [QOS0, QOS1][at % 2], "x").await;
    }
    subscriber.receive(250).await;
    world.stop_and_start().await;
    let mut subscriber = world.connect("s").await;
    subscriber.receive(0).await;
}

/// One message is never acknowledged while 10,000 later ones are, out of order: a crash repeats it and at most the last
/// 100, none of QoS 2.
#[tokio::test]
async fn a_message_that_is_never_acknowledged_holds_up_no_position() {
    let mut world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS2).await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "stuck").await;
    let stuck = subscriber.receive(1).await;
    let mut acked = std::collections::BTreeMap::new();
    for round in 0..1_000 {
        for at in 0..10 {
            publisher.send(
                "t",
                &message([QOS1, QOS2][at % 2], format!("{}", round * 10 + at).as_bytes()),
            );
        }
        let mut got = subscriber.receive(10).await;
        got.reverse();
        got.swap(2, 7);
        for one in &got {
            match one.qos {
                QOS1 => assert!(subscriber.connection.puback(one.id.unwrap())),
                _ => subscriber.connection.pubrec(one.id.unwrap(), false),
            }
            acked.insert(one.text.parse::<usize>().unwrap(), one.qos);
        }
        subscriber.until("PUBRELs", |client| client.released.len() == 5).await;
        for id in subscriber.released.drain(..).collect::<Vec<_>>() {
            assert!(subscriber.connection.pubcomp(id));
        }
        publisher.replies.clear();
        while let Some(_replies) = publisher.connection.next_replies() {}
        for id in 1..=publisher.next_id {
            publisher.connection.pubrel(id);
        }
        publisher.next_id = 0;
        publisher.connection.flush();
    }
    assert_eq!(acked.len(), 10_000);
    world.crash().await;
    let mut subscriber = world.connect("s").await;
    subscriber.quiet().await;
    let repeated: Vec<_> = subscriber.got.drain(..).collect();
    assert_eq!((&repeated[0].text, repeated[0].id), (&stuck[0].text, stuck[0].id));
    assert!(repeated.len() <= 101, "{} messages came again", repeated.len());
    assert!(repeated.iter().all(|got| got.qos == QOS1 && got.dup), "{repeated:?}");
}

/// At most once, without a synchronous write for each.
#[tokio::test]
async fn qos_0_is_passed_over_after_a_crash_for_sessions_that_were_connected() {
    let mut world = World::new().await;
    let mut present = world.connect("present").await;
    present.subscribe("t", QOS1).await;
    let mut absent = world.connect("absent").await;
    absent.subscribe("t", QOS1).await;
    absent.disconnect();
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS0, "zero").await;
    publisher.publish("t", QOS1, "one").await;
    world.settled().await;
    world.crash().await;
    let mut present = world.connect("present").await;
    let mut absent = world.connect("absent").await;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS0, "later").await;
    let got = present.receive(2).await;
    assert_eq!((got[0].text.as_str(), got[0].dup), ("one", true));
    assert_eq!((got[1].text.as_str(), got[1].dup), ("later", false));
    assert_eq!(absent.texts(3).await, ["zero", "one", "later"]);
}

#[tokio::test]
async fn a_failed_store_acknowledges_nothing_any_more_and_closes_every_connection() {
    let world = World::new().await;
    let mut client = world.connect("c").await;
    world.store.hold();
    client.send("t", &message(QOS1, b"x"));
    world.store.latch("the disk is gone");
    client.connection.signal().woken().await;
    world.broker.failed().await;
    assert!(client.connection.next_replies().is_none());
    assert_eq!(
        client.connection.signal().closing(),
        Some(crate::broker::session::Closing::StoreFailed)
    );
}
