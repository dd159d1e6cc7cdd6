//! QoS 1 to subscribers: windows, repetition, order.

use super::*;

/// v5 [MQTT-4.4.0-1], [MQTT-4.6.0-1]; LabOverWire/mqtt-lib#151.
#[tokio::test]
async fn unacknowledged_messages_come_first_with_dup_and_their_old_ids_while_others_are_published() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS1).await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    for at in 0..5 {
        publisher.publish("t", QOS1, &at.to_string()).await;
    }
    let first = subscriber.receive(5).await;
    assert!(subscriber.connection.puback(first[2].id.unwrap()));
    subscriber.lost();
    for at in 5..8 {
        publisher.publish("t", QOS1, &at.to_string()).await;
    }
    let mut subscriber = world.connect("s").await;
    publisher.publish("t", QOS1, "8").await;
    let got = subscriber.receive(8).await;
    let texts: Vec<_> = got.iter().map(|got| got.text.as_str()).collect();
    assert_eq!(texts, ["0", "1", "3", "4", "5", "6", "7", "8"]);
    for (again, old) in got.iter().zip([&first[0], &first[1], &first[3], &first[4]]) {
        assert_eq!((again.id, again.dup), (old.id, true));
    }
    assert!(got[4..].iter().all(|got| !got.dup));
}

/// halfgaar/FlashMQ#173: the send quota belongs to the connection.
#[tokio::test]
async fn a_larger_receive_maximum_after_a_reconnect_lets_everything_through() {
    let world = World::new().await;
    let narrow = Connect {
        receive_maximum: 1,
        ..connect("s")
    };
    let (mut subscriber, _) = world.connect_with(narrow).await;
    subscriber.subscribe("t", QOS1).await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    for at in 0..6 {
        publisher.publish("t", QOS1, &at.to_string()).await;
    }
    assert_eq!(subscriber.texts(1).await, ["0"]);
    subscriber.lost();
    let wide = Connect {
        receive_maximum: 4,
        ..connect("s")
    };
    let (mut subscriber, present) = world.connect_with(wide).await;
    assert!(present);
    assert_eq!(subscriber.texts(6).await, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn a_smaller_receive_maximum_after_a_reconnect_bounds_what_is_sent_again() {
    let world = World::new().await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS1).await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    for at in 0..6 {
        publisher.publish("t", QOS1, &at.to_string()).await;
    }
    subscriber.receive(6).await;
    subscriber.lost();
    let narrow = Connect {
        receive_maximum: 2,
        ..connect("s")
    };
    let (mut subscriber, _) = world.connect_with(narrow).await;
    subscriber.acks = false;
    let mut texts = Vec::new();
    for _ in 0..3 {
        let got = subscriber.receive(2).await;
        for one in got {
            assert!(subscriber.connection.puback(one.id.unwrap()));
            texts.push(one.text);
        }
    }
    assert_eq!(texts, ["0", "1", "2", "3", "4", "5"]);
}

/// A full topic holds up no other, and goes on where it stopped, in order (spec/semantics.md 5).
#[tokio::test]
async fn a_topic_with_a_full_window_waits_behind_the_floor_and_holds_up_no_other() {
    let settings = BrokerSettings {
        inflight_count_max: 10,
        ..BrokerSettings::default()
    };
    let mut world = World::with(settings).await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("#", QOS1).await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    for at in 0..30 {
        publisher.publish("full", QOS1, &at.to_string()).await;
        publisher.publish("full", QOS0, &format!("{at} zero")).await;
    }
    publisher.publish("other", QOS1, "o").await;
    subscriber.quiet().await;
    let got: Vec<_> = subscriber.got.drain(..).collect();
    assert_eq!(
        got.iter().filter(|got| got.qos == QOS1 && got.topic == "full").count(),
        10
    );
    assert!(got.iter().any(|got| got.topic == "other"));
    // Positions behind the floor survive a restart in order.
    for one in got.iter().filter(|got| got.qos == QOS1) {
        assert!(subscriber.connection.puback(one.id.unwrap()));
    }
    subscriber.disconnect();
    world.stop_and_start().await;
    let mut subscriber = world.connect("s").await;
    subscriber.quiet().await;
    let texts: Vec<_> = got
        .into_iter()
        .chain(subscriber.got.drain(..))
        .filter(|got| got.topic == "full")
        .map(|got| got.text)
        .collect();
    let expected: Vec<_> = (0..30).flat_map(|at| [at.to_string(), format!("{at} zero")]).collect();
    assert_eq!(texts, expected);
}

/// The same while the QoS 0 messages are not durable when they pass.
#[tokio::test]
async fn an_early_message_behind_a_full_window_is_not_lost() {
    let settings = BrokerSettings {
        inflight_count_max: 2,
        ..BrokerSettings::default()
    };
    let world = World::with(settings).await;
    let mut subscriber = world.connect("s").await;
    subscriber.subscribe("t", QOS1).await;
    subscriber.quiet().await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    for at in 0..3 {
        publisher.publish("t", QOS1, &at.to_string()).await;
    }
    let got = subscriber.receive(2).await;
    world.store.hold();
    publisher.send("t", &message(QOS0, b"early"));
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    while subscriber.pump().await {}
    assert!(subscriber.connection.puback(got[0].id.unwrap()));
    assert!(subscriber.connection.puback(got[1].id.unwrap()));
    while subscriber.pump().await {}
    world.store.release();
    assert_eq!(subscriber.texts(2).await, ["2", "early"]);
}

#[tokio::test]
async fn a_client_that_acknowledges_at_random_gets_everything_once() {
    let narrow = Connect {
        receive_maximum: 7,
        ..connect("s")
    };
    let world = World::new().await;
    let (mut subscriber, _) = world.connect_with(narrow).await;
    subscriber.subscribe("#", QOS1).await;
    subscriber.acks = false;
    let mut publisher = world.connect("p").await;
    let mut held: Vec<u16> = Vec::new();
    let mut random = 12_345_u32;
    let mut texts = Vec::new();
    let mut published = 0;
    while texts.len() < 500 {
        if published < 500 {
            let qos = [QOS0, QOS1][published % 2];
            publisher
                .publish(&format!("t{}", published % 3), qos, &published.to_string())
                .await;
            published += 1;
        }
        subscriber.quiet().await;
        while let Some(got) = subscriber.got.pop_front() {
            held.extend(got.id);
            texts.push(got.text);
        }
        assert!(held.len() <= 7);
        random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        if !held.is_empty() && (random >> 16).is_multiple_of(2) || held.len() == 7 {
            let id = held.swap_remove((random >> 20) as usize % held.len());
            assert!(subscriber.connection.puback(id));
        }
    }
    let expected: Vec<_> = (0..500).map(|at| at.to_string()).collect();
    texts.sort_by_key(|text| text.parse::<usize>().unwrap());
    assert_eq!(texts, expected);
}
