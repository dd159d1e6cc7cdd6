//! Wills: when they are due, and that none is lost.

use super::*;

async fn witness(world: &World) -> Client {
    let mut witness = world.connect("w").await;
    witness.subscribe("will", QOS1).await;
    witness
}

fn with_will(delay_seconds: u64, session_expiry_seconds: u64) -> Connect {
    Connect {
        will: Some(will("will", delay_seconds)),
        session_expiry_seconds,
        ..connect("s")
    }
}

/// eclipse-mosquitto/mosquitto#3505: the end of the session comes first.
#[tokio::test]
async fn a_session_that_ends_with_its_connection_publishes_its_will_at_once() {
    let world = World::new().await;
    let mut witness = witness(&world).await;
    world.connect_with(with_will(60, 0)).await.0.lost();
    assert_eq!(witness.texts(1).await, ["gone"]);
}

/// v5 [MQTT-3.14.4-3]
#[tokio::test]
async fn a_normal_disconnect_publishes_no_will() {
    let world = World::new().await;
    let mut witness = witness(&world).await;
    world.connect_with(with_will(0, 100)).await.0.disconnect();
    world.advance(Duration::from_secs(200)).await;
    witness.receive(0).await;
}

/// v5 [MQTT-3.1.3-9]
#[tokio::test]
async fn a_delayed_will_comes_after_its_delay_or_with_the_end_of_the_session() {
    let world = World::new().await;
    let mut witness = witness(&world).await;
    world.connect_with(with_will(60, 1_000)).await.0.lost();
    world.advance(Duration::from_secs(59)).await;
    witness.receive(0).await;
    world.advance(Duration::from_secs(1)).await;
    witness.receive(1).await;
    world.connect_with(with_will(60, 30)).await.0.lost();
    world.advance(Duration::from_secs(30)).await;
    witness.receive(1).await;
    world.advance(Duration::from_secs(100)).await;
    witness.receive(0).await;
}

#[tokio::test]
async fn a_client_that_is_back_in_time_cancels_its_will() {
    let world = World::new().await;
    let mut witness = witness(&world).await;
    world.connect_with(with_will(60, 1_000)).await.0.lost();
    world.advance(Duration::from_secs(30)).await;
    let client = world.connect("s").await;
    world.advance(Duration::from_secs(60)).await;
    witness.receive(0).await;
    client.lost();
}

/// The client comes after the delay, and before anybody has looked at the deadline. v5 [MQTT-3.1.2-8]
#[tokio::test]
async fn a_client_that_is_back_too_late_does_not_cancel_its_will_however_soon_it_comes() {
    let world = World::new().await;
    let mut witness = witness(&world).await;
    world.connect_with(with_will(60, 1_000)).await.0.lost();
    world.settled().await;
    // Nothing else runs between the clock and the CONNECT.
    world.clock.advance(Duration::from_secs(60));
    let (client, present) = world.connect_with(connect("s")).await;
    assert!(present);
    witness.receive(1).await;
    client.disconnect();
}

/// spec/semantics.md 11
#[tokio::test]
async fn a_clock_set_back_delays_no_will_longer_than_its_delay() {
    let mut world = World::new().await;
    drop(witness(&world).await);
    world.connect_with(with_will(60, 1_000)).await.0.lost();
    world.settled().await;
    world.clock.step_wall(-1_000_000);
    world.stop_and_start().await;
    let mut witness = world.connect("w").await;
    world.advance(Duration::from_secs(59)).await;
    witness.receive(0).await;
    world.advance(Duration::from_secs(1)).await;
    witness.receive(1).await;
}

#[tokio::test]
async fn the_will_of_a_session_that_a_crash_has_ended_is_published_at_the_start_once() {
    let mut world = World::new().await;
    drop(witness(&world).await);
    let _client = world.connect_with(with_will(60, 0)).await;
    world.crash().await;
    world.settled().await;
    let mut witness = world.connect("w").await;
    assert_eq!(witness.texts(1).await, ["gone"]);
    witness.disconnect();
    world.crash().await;
    witness = world.connect("w").await;
    witness.receive(0).await;
}

#[tokio::test]
async fn a_delayed_will_counts_from_the_start_after_a_crash() {
    let mut world = World::new().await;
    let mut witness = witness(&world).await;
    let _client = world.connect_with(with_will(60, 1_000)).await;
    witness.quiet().await;
    world.restart(false, Duration::from_secs(300)).await;
    witness = world.connect("w").await;
    world.advance(Duration::from_secs(59)).await;
    witness.receive(0).await;
    world.advance(Duration::from_secs(1)).await;
    witness.receive(1).await;
    world.crash().await;
    witness = world.connect("w").await;
    world.advance(Duration::from_secs(100)).await;
    witness.receive(0).await;
}

#[tokio::test]
async fn a_deleted_temporary_session_leaves_no_will_for_the_next_start() {
    let mut world = World::new().await;
    let mut witness = witness(&world).await;
    let create = CreateSession {
        client_name: "api".into(),
        settings: SessionSettings {
            temporary: true,
            clean_session: true,
            session_expiry_seconds: 0,
            ..SessionSettings::default()
        },
        will: Some(will("will", 0)),
    };
    world.broker.create_session(create, &caller()).await.unwrap();
    world.broker.login_ended(1);
    world.settled().await;
    witness.receive(1).await;
    witness.disconnect();
    world.crash().await;
    let mut witness = world.connect("w").await;
    witness.receive(0).await;
}
