//! Message expiry and session expiry.

use super::*;

/// eclipse-mosquitto/mosquitto#2609.
#[tokio::test]
async fn messages_behind_a_window_of_expired_ones_come_at_once() {
    let world = World::new().await;
    let narrow = Connect {
        receive_maximum: 20,
        ..connect("s")
    };
    let (mut subscriber, _) = world.connect_with(narrow.clone()).await;
    subscriber.subscribe("t", QOS1).await;
    subscriber.disconnect();
    let mut publisher = world.connect("p").await;
    let short = Publish {
        expiry: Some(5),
        ..message(QOS1, b"old")
    };
    for _ in 0..60 {
        publisher.publish_message("t", &short).await;
    }
    publisher.publish("t", QOS1, "a").await;
    publisher.publish("t", QOS1, "b").await;
    world.advance(Duration::from_secs(6)).await;
    let (mut subscriber, _) = world.connect_with(narrow).await;
    assert_eq!(subscriber.texts(2).await, ["a", "b"]);
}

/// v5 [MQTT-3.3.2-6]
#[tokio::test]
async fn each_sending_carries_the_seconds_that_are_left() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS1).await;
    subscriber.acks = false;
    subscriber.lost();
    let mut publisher = world.connect("p").await;
    let long = Publish {
        expiry: Some(100),
        ..message(QOS1, b"x")
    };
    publisher.publish_message("t", &long).await;
    world.advance(Duration::from_millis(30_500)).await;
    let mut subscriber = world.connect("s").await;
    subscriber.acks = false;
    assert_eq!(subscriber.receive(1).await[0].left, Some(70));
    subscriber.lost();
    world.advance(Duration::from_secs(100)).await;
    // Begun, it is finished although it has expired.
    let mut subscriber = world.connect("s").await;
    let got = subscriber.receive(1).await;
    assert_eq!((got[0].left, got[0].dup), (Some(0), true));
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over_also_while_the_broker_is_down() {
    let mut world = World::new().await;
    for (name, seconds) in [("short", 10), ("long", 1_000), ("ever", NEVER_EXPIRES)] {
        let connect = Connect {
            session_expiry_seconds: seconds,
            ..connect(name)
        };
        let (mut client, _) = world.connect_with(connect).await;
        client.subscribe("t", QOS1).await;
        client.disconnect();
    }
    world.advance(Duration::from_secs(5)).await;
    assert!(world.connect_with(connect_for("short", 10)).await.1);
    world.advance(Duration::from_secs(60)).await;
    world.restart(true, Duration::from_secs(500)).await;
    world.advance(Duration::ZERO).await;
    // The connected one counts from the stop, which is 500 s ago.
    assert!(!world.connect_with(connect_for("short", 10)).await.1);
    assert!(world.connect_with(connect_for("ever", NEVER_EXPIRES)).await.1);
    world.advance(Duration::from_secs(500)).await;
    assert!(!world.connect_with(connect_for("long", 1_000)).await.1);
}

/// No session may end because its crash cannot be dated: its clock begins at the start.
#[tokio::test]
async fn the_clock_of_a_session_that_was_connected_at_a_crash_begins_at_the_start() {
    let mut world = World::new().await;
    let (client, _) = world.connect_with(connect_for("s", 100)).await;
    world.restart(false, Duration::from_secs(10_000)).await;
    drop(client);
    world.advance(Duration::from_secs(60)).await;
    assert!(world.connect_with(connect_for("s", 100)).await.1);
    world.crash().await;
    world.advance(Duration::from_secs(60)).await;
    // A second crash prolongs nothing.
    world.crash().await;
    world.advance(Duration::from_secs(60)).await;
    assert!(!world.connect_with(connect_for("s", 100)).await.1);
}

/// The client comes before anybody has looked at the deadline. v5 [MQTT-4.1.0-2], [MQTT-3.2.2-3]
#[tokio::test]
async fn a_session_whose_time_is_over_is_not_present_however_soon_its_client_comes() {
    let world = World::new().await;
    let (mut client, _) = world.connect_with(connect_for("s", 100)).await;
    client.subscribe("t", QOS1).await;
    client.disconnect();
    world.settled().await;
    // Nothing else runs between the clock and the CONNECT.
    world.clock.advance(Duration::from_secs(100));
    let (mut client, present) = world.connect_with(connect_for("s", 100)).await;
    assert!(!present);
    world.connect("p").await.publish("t", QOS1, "nobody's").await;
    client.receive(0).await;
}

/// spec/semantics.md 9: what stays of a session that has ended is no session. v5 [MQTT-3.2.2-3]
#[tokio::test]
async fn the_record_of_an_ended_session_is_no_session_for_its_client() {
    for (expiry, wait) in [(0, 0), (100, 100)] {
        let world = World::new().await;
        let (client, _) = world.connect_with(connect_for("s", expiry)).await;
        let banned = |status| SessionChange {
            status: Some(status),
            ..SessionChange::default()
        };
        let alter = async |status| {
            world
                .broker
                .alter_session("s", banned(status), &caller())
                .await
                .unwrap()
        };
        alter(SessionStatus::Inactive).await;
        client.disconnect();
        world.advance(Duration::from_secs(wait)).await;
        assert_eq!(world.broker.sessions("s", &caller()).len(), 1, "the record stays");
        let (client, present) = world.connect_with(connect_for("s", expiry)).await;
        assert!(!present);
        alter(SessionStatus::Banned).await;
        client.disconnect();
        world.advance(Duration::from_secs(wait)).await;
        assert_eq!(world.broker.sessions("s", &caller()).len(), 1);
        alter(SessionStatus::Normal).await;
        assert_eq!(world.broker.sessions("s", &caller()).len(), 0, "and goes with its ban");
    }
}

fn connect_for(name: &str, seconds: u64) -> Connect {
    Connect {
        session_expiry_seconds: seconds,
        ..connect(name)
    }
}
