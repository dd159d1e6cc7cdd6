//! Shared subscriptions. Spec: v5 4.8.2, spec/semantics.md 7.

use crate::client::{LEVELS, Level, RawClient, Received, ack, frame, publish, subscribe, text, unsubscribe};
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

/// v5 [MQTT-4.8.2-5]
#[tokio::test]
async fn a_qos_2_message_of_a_member_whose_session_ends_is_given_to_nobody_else() {
    let mut site = Site::start().await;
    for is_crash in [false, true] {
        let mut first = site.client(Level::V5, "1").await;
        first.subscribe("$share/g/t", 2).await;
        let mut publisher = site.passerby(Level::V5, "p").await;
        publisher.publish("t", b"mine", 2, 1).await;
        assert_eq!(first.next().await.message().payload, b"mine");
        let mut second = site.client(Level::V5, "2").await;
        second.subscribe("$share/g/t", 2).await;
        if is_crash {
            site = site.crash().await;
            second = site.returning(Level::V5, "2").await;
        } else {
            first.vanish();
        }
        let mut publisher = site.passerby(Level::V5, "p").await;
        site.passerby(Level::V5, "1").await.goodbye().await;
        second.ping().await;
        publisher.publish("t", b"next", 2, 1).await;
        assert_eq!(second.take().await.payload, b"next");
        second.ping().await;
        drop(second);
        site.passerby(Level::V5, "2").await.goodbye().await;
    }
}

/// v5 [MQTT-4.8.2-4]: over a crash of the server too.
#[tokio::test]
async fn a_qos_2_message_comes_to_its_member_after_a_crash_and_to_no_other() {
    let site = Site::start().await;
    let mut first = site.client(Level::V5, "1").await;
    first.subscribe("$share/g/t", 2).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    publisher.publish("t", b"sent", 2, 1).await;
    publisher.publish("t", b"released", 2, 1).await;
    let sent = first.next().await.message();
    let released = first.next().await.message();
    first.send(&ack(0x50, released.packet_id)).await;
    first.expect(Received::Pubrel(released.packet_id, 0)).await;
    let mut second = site.client(Level::V5, "2").await;
    second.subscribe("$share/g/t", 2).await;
    let site = site.crash().await;
    let mut second = site.returning(Level::V5, "2").await;
    second.ping().await;
    let mut first = site.returning(Level::V5, "1").await;
    first.expect(Received::Pubrel(released.packet_id, 0)).await;
    let again = first.next().await.message();
    assert_eq!(
        (again.dup, again.packet_id, &again.payload[..]),
        (true, sent.packet_id, &b"sent"[..])
    );
    second.ping().await;
}

/// v5 [MQTT-4.8.2-6]
#[tokio::test]
async fn what_a_member_refuses_is_discarded() {
    let site = Site::start().await;
    let mut first = site.client(Level::V5, "1").await;
    first.subscribe("$share/g/t", 2).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    let mut refusals = Vec::new();
    for qos in [1, 2] {
        publisher.publish("t", b"no", qos, 1).await;
        let [high, low] = first.next().await.message().packet_id.to_be_bytes();
        refusals.extend([if qos == 1 { 0x40 } else { 0x50 }, 3, high, low, 0x80]);
    }
    let mut second = site.passerby(Level::V5, "2").await;
    second.subscribe("$share/g/t", 2).await;
    first.send(&refusals).await;
    first.ping().await;
    first.goodbye().await;
    second.ping().await;
    publisher.publish("t", b"yes", 1, 1).await;
    assert_eq!(second.take().await.payload, b"yes");
    second.ping().await;
}

/// v5 [MQTT-4.8.2-3]: members of both versions, each with its own quality of service and options.
#[tokio::test]
async fn each_member_gets_its_messages_as_its_own_subscription_says() {
    let site = Site::start().await;
    let mut zero = site.passerby(Level::V311, "zero").await;
    zero.subscribe("$share/g/+/t", 0).await;
    let mut one = site.passerby(Level::V5, "one").await;
    one.send(&subscribe(Level::V5, 1, &[("$share/g/+/t", 0x08 | 1)])).await;
    one.expect(Received::Suback(1, vec![1])).await;
    let mut two = site.passerby(Level::V311, "two").await;
    two.subscribe("$share/g/+/t", 2).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    let mut counts = [0; 3];
    for number in 0..60 {
        let qos = number % 3;
        publisher
            .send(&publish(Level::V5, "a/t", &[number], qos, 1, true))
            .await;
        if qos == 1 {
            publisher.expect(Received::Puback(1, 0)).await;
        } else if qos == 2 {
            publisher.expect(Received::Pubrec(1, 0)).await;
            publisher.send(&ack(0x62, 1)).await;
            publisher.expect(Received::Pubcomp(1, 0)).await;
        }
    }
    for (granted, member) in [&mut zero, &mut one, &mut two].into_iter().enumerate() {
        member.send(&[0xC0, 0]).await;
        while let Received::Publish(message) = member.next().await {
            assert_eq!(
                usize::from(message.qos),
                granted.min(usize::from(message.payload[0] % 3))
            );
            assert_eq!(message.retain, granted == 1);
            counts[granted] += 1;
        }
    }
    assert_eq!(counts.iter().sum::<i32>(), 60, "{counts:?}");
    assert!(
        counts.iter().all(|count| *count >= 5),
        "everybody has a part: {counts:?}"
    );
}

/// Members come and go while a publisher never pauses: by DISCONNECT, by a cut line and by UNSUBSCRIBE.
#[tokio::test]
async fn nothing_is_lost_while_members_come_and_go() {
    const COUNT: u16 = 600;
    let site = Site::start().await;
    let mut steady = site.client(Level::V5, "steady").await;
    steady.subscribe("$share/g/#", 1).await;
    let mut publisher = site.passerby(Level::V5, "p").await;
    let publishing = tokio::spawn(async move {
        for number in 0..COUNT {
            publisher.publish("t", &number.to_be_bytes(), 1, 1).await;
        }
    });
    let mut got = std::collections::BTreeSet::new();
    let number = |payload: &[u8]| u16::from_be_bytes(payload.try_into().unwrap());
    for round in 0..12_usize {
        let level = LEVELS[round % 2];
        let mut guest = site.client(level, "guest").await;
        guest.send(&subscribe(level, 1, &[("$share/g/#", 1)])).await;
        for _ in 0..8 {
            guest.send(&[0xC0, 0]).await;
            loop {
                match guest.next().await {
                    Received::Publish(message) => {
                        got.insert(number(&message.payload));
                        guest.send(&ack(0x40, message.packet_id)).await;
                    }
                    Received::Suback(..) => {}
                    other => {
                        assert_eq!(other, Received::Pingresp);
                        break;
                    }
                }
            }
            steady.send(&[0xC0, 0]).await;
            while let Received::Publish(message) = steady.next().await {
                got.insert(number(&message.payload));
                steady.send(&ack(0x40, message.packet_id)).await;
            }
        }
        match round % 3 {
            0 => guest.goodbye().await,
            1 => guest.vanish(),
            _ => {
                guest.send(&unsubscribe(level, 1, &["$share/g/#"])).await;
                loop {
                    match guest.next().await {
                        Received::Publish(message) => {
                            got.insert(number(&message.payload));
                        }
                        Received::Unsuback(1, _) => break,
                        Received::Suback(..) => {}
                        other => panic!("{other:?}"),
                    }
                }
                guest.goodbye().await;
            }
        }
    }
    site.passerby(Level::V5, "guest").await.goodbye().await;
    publishing.await.unwrap();
    while got.len() < usize::from(COUNT) {
        let message = steady.take().await;
        got.insert(number(&message.payload));
    }
}

/// v5 [MQTT-4.8.2-1], [MQTT-4.8.2-2]
#[tokio::test]
async fn a_share_name_is_any_text_without_wildcards() {
    let site = Site::start().await;
    let mut client = site.passerby(Level::V5, "c").await;
    let filters = [
        ("$share", 1, 0x8F),
        ("$share/", 1, 0x8F),
        ("$share/g", 1, 0x8F),
        ("$share/g/", 1, 0x8F),
        ("$share//t", 1, 0x8F),
        ("$share/+/t", 1, 0x8F),
        ("$share/#/t", 1, 0x8F),
        ("$share/g+/t", 1, 0x8F),
        ("$share/g/a#", 1, 0x8F),
        ("$share/ /t", 1, 1),
        ("$share/$share/t", 1, 1),
        ("$share/\u{1F980}/t", 1, 1),
        ("$share/g//", 1, 1),
        ("$share/g/#", 1, 1),
        ("$Share/g/t", 1, 1),
    ];
    client
        .send(&subscribe(Level::V5, 1, &filters.map(|(filter, qos, _)| (filter, qos))))
        .await;
    client
        .expect(Received::Suback(1, filters.map(|(_, _, reason)| reason).to_vec()))
        .await;
    client.publish("t", b"m", 1, 1).await;
    // Three groups with `t`, and one with everything.
    for _ in 0..4 {
        assert_eq!(client.take().await.topic, "t");
    }
    client.ping().await;
}
