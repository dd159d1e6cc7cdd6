//! Shared subscriptions. Spec: v5 4.8.2, spec/semantics.md 7.

use crate::client::{Level, RawClient, Received, ack, frame, publish, subscribe, text};
use crate::common::Site;

/// v5 [MQTT-4.8.2-3]
#[tokio::test]
async fn each_message_goes_to_one_member_of_each_group() {
    let site = Site::start().await;
    let mut members = Vec::new();
    for (name, filter) in [
        ("a1", "$share/a/t"),
        ("a2", "$share/a/t"),
        ("b1", "$share/b/t"),
        ("all", "t"),
    ] {
        let mut member = site.passerby(Level::V5, name).await;
        member.subscribe(filter, 1).await;
        members.push(member);
    }
    let mut publisher = site.passerby(Level::V5, "p").await;
    for number in 0..40 {
        publisher.publish("t", &[number], 1, 1).await;
    }
    let mut counts = Vec::new();
    let mut of_a = Vec::new();
    for (place, member) in members.iter_mut().enumerate() {
        member.send(&[0xC0, 0]).await;
        let mut got = Vec::new();
        loop {
            match member.next().await {
                Received::Publish(message) => {
                    member.send(&ack(0x40, message.packet_id)).await;
                    got.push(message.payload[0]);
                }
                Received::Pingresp if place < 2 || got.len() == 40 => break,
                Received::Pingresp => member.send(&[0xC0, 0]).await,
                other => panic!("{other:?}"),
            }
        }
        assert!(got.is_sorted(), "in order within a member");
        counts.push(got.len());
        if place < 2 {
            of_a.extend(got);
        }
    }
    of_a.sort_unstable();
    assert_eq!(of_a, (0..40).collect::<Vec<u8>>());
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    assert_eq!(counts[2..], [40, 40]);
}

/// v5 [MQTT-4.8.2-5]: unacknowledged `QoS` 1 messages go to another member, before newer ones.
#[tokio::test]
async fn what_a_member_leaves_unacknowledged_goes_to_another() {
    let site = Site::start().await;
    let mut first = site.client(Level::V5, "1").await;
    first.subscribe("$share/g/t", 1).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    for number in 0..4 {
        publisher.publish("t", &[number], 1, 1).await;
        let message = first.next().await.message();
        assert_eq!(message.payload, [number]);
        if number == 1 {
            first.send(&ack(0x40, message.packet_id)).await;
        }
    }
    first.ping().await;
    let mut second = site.passerby(Level::V5, "2").await;
    second.subscribe("$share/g/t", 1).await;
    second.ping().await;
    first.goodbye().await;
    for number in [0, 2, 3] {
        assert_eq!(second.take().await.payload, [number]);
    }
    publisher.publish("t", &[4], 1, 1).await;
    assert_eq!(second.take().await.payload, [4]);
    second.ping().await;
    let mut first = site.returning(Level::V5, "1").await;
    first.ping().await;
}

/// v5 [MQTT-4.8.2-4]: a `QoS` 2 message stays with its member.
#[tokio::test]
async fn a_qos_2_message_waits_for_its_member() {
    let site = Site::start().await;
    let mut first = site.client(Level::V5, "1").await;
    first.subscribe("$share/g/t", 2).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("t", b"mine", 2, 1).await;
    let sent = first.next().await.message();
    let mut second = site.passerby(Level::V5, "2").await;
    second.subscribe("$share/g/t", 2).await;
    first.goodbye().await;
    publisher.publish("t", b"other", 2, 1).await;
    assert_eq!(second.take().await.payload, b"other");
    second.ping().await;
    let mut first = site.returning(Level::V5, "1").await;
    let again = first.take().await;
    assert_eq!(
        (again.dup, again.packet_id, &again.payload[..]),
        (true, sent.packet_id, &b"mine"[..])
    );
    first.ping().await;
}

/// spec/semantics.md 7: messages wait for the group, over a crash too.
#[tokio::test]
async fn messages_wait_for_a_group_without_connected_members() {
    let site = Site::start().await;
    for name in ["1", "2"] {
        let mut member = site.client(Level::V5, name).await;
        member.subscribe("$share/g/+", 1).await;
        member.goodbye().await;
    }
    let mut publisher = site.passerby(Level::V5, "p").await;
    for number in 0..4 {
        publisher.publish("t", &[number], 1, 1).await;
    }
    let mut member = site.returning(Level::V5, "2").await;
    assert_eq!(member.take().await.payload, [0]);
    member.next().await;
    let site = site.crash().await;
    let mut member = site.returning(Level::V5, "1").await;
    let mut got = Vec::new();
    while got.len() < 3 {
        let payload = member.take().await.payload;
        // The acknowledgement of the first may not have been durable.
        if payload != [0] {
            got.push(payload[0]);
        }
    }
    assert_eq!(got, [1, 2, 3]);
    member.ping().await;
}

/// v5 [MQTT-3.8.4-4] and 3.8.3.1: no retained messages for shared filters.
#[tokio::test]
async fn a_shared_filter_makes_no_retained_message_due() {
    let site = Site::start().await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.send(&publish(Level::V5, "t", b"r", 1, 1, true)).await;
    publisher.next().await;
    let mut member = site.passerby(Level::V5, "m").await;
    member.send(&subscribe(Level::V5, 1, &[("$share/g/t", 1)])).await;
    member.expect(Received::Suback(1, vec![1])).await;
    member.ping().await;
}

/// A member whose window is full holds nothing back from the others.
#[tokio::test]
async fn a_member_that_cannot_take_leaves_it_to_another() {
    let site = Site::start().await;
    let mut stuck = RawClient::open(site.address, Level::V5).await;
    let body = [&text("MQTT")[..], &[5, 2, 0, 0, 3, 0x21, 0, 1], &text("stuck")].concat();
    stuck.send(&frame(0x10, &body)).await;
    stuck.next().await;
    stuck.subscribe("$share/g/t", 1).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("t", b"held", 1, 1).await;
    let held = stuck.next().await.message();
    let mut able = site.passerby(Level::V5, "able").await;
    able.subscribe("$share/g/t", 1).await;
    for number in 0..10 {
        publisher.publish("t", &[number], 1, 1).await;
        assert_eq!(able.take().await.payload, [number]);
    }
    able.goodbye().await;
    publisher.publish("t", b"last", 1, 1).await;
    stuck.ping().await;
    stuck.send(&ack(0x40, held.packet_id)).await;
    assert_eq!(stuck.take().await.payload, b"last");
}
