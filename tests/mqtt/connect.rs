//! CONNECT: who is let in, what it is told, and how connections end.

use std::time::Duration;

use evermq::clock::Clock;
use evermq::frontend::mqtt::Settings;
use tokio::time::timeout;

use crate::client::{LEVELS, Level, PATIENCE, RawClient, Received, ack, connect, frame, publish, subscribe, text};
use crate::common::Site;

/// A CONNECT of 5.0 with these flags, properties and payload fields.
pub(crate) fn connect_v5(flags: u8, keep_alive: u16, properties: &[u8], fields: &[&[u8]]) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend_from_slice(&[5, flags]);
    body.extend_from_slice(&keep_alive.to_be_bytes());
    body.push(u8::try_from(properties.len()).unwrap());
    body.extend_from_slice(properties);
    for field in fields {
        body.extend_from_slice(&u16::try_from(field.len()).unwrap().to_be_bytes());
        body.extend_from_slice(field);
    }
    frame(0x10, &body)
}

/// A CONNECT of 3.1.1.
pub(crate) fn connect_v3(flags: u8, keep_alive: u16, fields: &[&[u8]]) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend_from_slice(&[4, flags]);
    body.extend_from_slice(&keep_alive.to_be_bytes());
    for field in fields {
        body.extend_from_slice(&u16::try_from(field.len()).unwrap().to_be_bytes());
        body.extend_from_slice(field);
    }
    frame(0x10, &body)
}

pub(crate) async fn answer(site: &Site, level: Level, bytes: &[u8]) -> (RawClient, Received) {
    let mut client = RawClient::open(site.address, level).await;
    client.send(bytes).await;
    let answer = client.next().await;
    (client, answer)
}

pub(crate) fn code(answer: &Received) -> u8 {
    match answer {
        Received::Connack { code, .. } => *code,
        other => panic!("expected CONNACK, got {other:?}"),
    }
}

/// v5 3.2.2.3
#[tokio::test]
async fn the_connack_tells_what_the_server_takes() {
    let settings = Settings {
        receive_maximum: 77,
        topic_alias_maximum: 9,
        packet_bytes_max: 5_000,
        ..Settings::default()
    };
    let site = Site::start_with(settings, Clock::system()).await;
    let (_client, answer) = answer(&site, Level::V5, &connect(Level::V5, "c", true, 0)).await;
    let Received::Connack {
        session_present: false,
        code: 0,
        v5: Some(connack),
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(connack.receive_max.get(), 77);
    assert_eq!(connack.topic_alias_max, 9);
    assert_eq!(connack.max_packet_size, Some(5_000));
    assert!(connack.retain_available);
    assert!(connack.wildcard_subscription_available);
    assert!(connack.shared_subscription_available);
    assert!(connack.subscription_identifiers_available);
    assert_eq!(connack.server_keepalive_sec, None, "no keep alive is imposed");
    assert_eq!(connack.session_expiry_interval_secs, None, "the one asked for holds");
    assert_eq!(connack.assigned_client_id, None);
}

/// v5 [MQTT-3.1.3-6], [MQTT-3.1.3-7], [MQTT-3.2.2-16], [MQTT-3.1.3-2]
#[tokio::test]
async fn an_empty_client_id_is_replaced_by_one_that_can_be_used_again() {
    let site = Site::start().await;
    let mut names = Vec::new();
    for _ in 0..2 {
        let (client, answer) = answer(&site, Level::V5, &connect(Level::V5, "", false, 600)).await;
        let Received::Connack { v5: Some(connack), .. } = answer else {
            panic!("{answer:?}")
        };
        names.push(connack.assigned_client_id.unwrap().to_string());
        client.goodbye().await;
    }
    assert_ne!(names[0], names[1]);
    site.returning(Level::V5, &names[0]).await;
}

/// v3.1.1 [MQTT-3.1.3-6], [MQTT-3.1.3-7], [MQTT-3.1.3-8], [MQTT-3.1.3-9], [MQTT-3.2.2-5]
#[tokio::test]
async fn before_5_0_an_empty_client_id_needs_a_clean_session() {
    let site = Site::start().await;
    let (_client, accepted) = answer(&site, Level::V311, &connect(Level::V311, "", true, 0)).await;
    assert_eq!(code(&accepted), 0);
    let (mut client, refused) = answer(&site, Level::V311, &connect(Level::V311, "", false, 0)).await;
    assert_eq!(code(&refused), 2);
    client.closed().await;
}

/// v3.1.1 [MQTT-3.1.2-2], [MQTT-3.2.2-4], [MQTT-3.2.2-5], v5 [MQTT-3.1.2-2], [MQTT-3.2.2-7]
#[tokio::test]
async fn another_protocol_level_is_refused_and_3_1_is_not() {
    let site = Site::start().await;
    let (_client, accepted) = answer(&site, Level::V31, &connect(Level::V31, "old", true, 0)).await;
    assert_eq!(code(&accepted), 0);

    let mut unknown = connect(Level::V311, "c", true, 0);
    unknown[8] = 3;
    let (mut client, refused) = answer(&site, Level::V311, &unknown).await;
    assert_eq!(code(&refused), 1);
    client.closed().await;

    unknown = connect(Level::V5, "c", true, 0);
    unknown[8] = 6;
    let (mut client, refused) = answer(&site, Level::V5, &unknown).await;
    assert_eq!(code(&refused), 0x84);
    client.closed().await;
}

/// v5 [MQTT-3.1.0-1], [MQTT-3.1.0-2], [MQTT-3.2.0-2], [MQTT-3.14.0-1]; v3.1.1 [MQTT-3.1.0-1], [MQTT-3.1.0-2], [MQTT-3.2.0-1]
#[tokio::test]
async fn the_first_packet_and_only_the_first_is_a_connect() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut client = RawClient::open(site.address, level).await;
        client.send(&publish(level, "t", b"early", 0, 0, false)).await;
        assert_eq!(client.closed().await, None);

        let mut client = site.passerby(level, "twice").await;
        client.send(&connect(level, "twice", true, 0)).await;
        let reason = client.closed().await;
        assert_eq!(reason, (level == Level::V5).then_some(0x82));
    }
}

/// v5 [MQTT-3.1.4-1]; v3.1.1 [MQTT-3.1.4-1]
#[tokio::test]
async fn a_malformed_connect_is_answered_only_in_5_0() {
    let site = Site::start().await;
    let (mut client, refused) = answer(&site, Level::V5, &connect_v5(1, 0, &[], &[b"c"])).await;
    assert_eq!(code(&refused), 0x81);
    client.closed().await;
    let mut client = RawClient::open(site.address, Level::V311).await;
    client.send(&connect_v3(1, 0, &[b"c"])).await;
    assert_eq!(client.closed().await, None);
}

/// v5 [MQTT-4.12.0-1], [MQTT-4.12.0-4], [MQTT-3.2.2-7], [MQTT-3.14.0-1]
#[tokio::test]
async fn enhanced_authentication_is_refused() {
    let site = Site::start().await;
    let mut method = vec![0x15];
    method.extend_from_slice(&text("SCRAM"));
    let (mut client, refused) = answer(&site, Level::V5, &connect_v5(2, 0, &method, &[b"c"])).await;
    assert_eq!(code(&refused), 0x8C);
    client.closed().await;

    // v5 [MQTT-4.12.0-6], [MQTT-4.12.0-7]
    let mut client = site.passerby(Level::V5, "c").await;
    client
        .send(&frame(
            0xF0,
            &[&[0x18, u8::try_from(method.len()).unwrap()][..], &method].concat(),
        ))
        .await;
    assert_eq!(client.closed().await, Some(0x82));
}

/// v5 [MQTT-3.1.4-2], [MQTT-3.1.4-5], [MQTT-3.2.2-8]; v3.1.1 [MQTT-3.1.4-4], table 3.1
#[tokio::test]
async fn a_wrong_password_is_refused() {
    let site = Site::start().await;
    for (password, wanted) in [(&b"anna"[..], [0, 0]), (b"wrong", [4, 0x86])] {
        let (_client, old) = answer(&site, Level::V311, &connect_v3(0xC2, 0, &[b"c", b"anna", password])).await;
        let (_client, new) = answer(&site, Level::V5, &connect_v5(0xC2, 0, &[], &[b"d", b"anna", password])).await;
        assert_eq!([code(&old), code(&new)], wanted);
    }
}

/// spec/semantics.md 10; v5 [MQTT-3.1.4-2]
#[tokio::test]
async fn a_session_is_opened_by_its_owner_and_by_administrators_only() {
    let site = Site::start().await;
    let as_user = |level: Level, name: &str| {
        let fields: [&[u8]; 3] = [b"mine", name.as_bytes(), name.as_bytes()];
        if level == Level::V5 {
            connect_v5(0xC0, 0, &[0x11, 0, 0, 1, 0], &fields)
        } else {
            connect_v3(0xC0, 0, &fields)
        }
    };
    let (client, first) = answer(&site, Level::V5, &as_user(Level::V5, "anna")).await;
    assert_eq!(code(&first), 0);
    client.goodbye().await;
    assert_eq!(
        code(&answer(&site, Level::V5, &as_user(Level::V5, "bert")).await.1),
        0x87
    );
    assert_eq!(
        code(&answer(&site, Level::V311, &as_user(Level::V311, "bert")).await.1),
        5
    );
    assert_eq!(
        code(&answer(&site, Level::V5, &connect(Level::V5, "mine", true, 0)).await.1),
        0x87
    );
    assert_eq!(code(&answer(&site, Level::V5, &as_user(Level::V5, "ADMIN")).await.1), 0);
    assert_eq!(code(&answer(&site, Level::V5, &as_user(Level::V5, "anna")).await.1), 0);
}

/// v5 [MQTT-3.1.4-3], [MQTT-3.1.2-5], [MQTT-3.14.4-2]; v3.1.1 [MQTT-3.1.4-2], [MQTT-3.1.2-4]
#[tokio::test]
async fn a_second_connection_takes_the_session_over_and_the_first_is_told() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut first = site.client(level, "twin").await;
        first.subscribe("t", 1).await;
        let mut second = site.returning(level, "twin").await;
        assert_eq!(first.closed().await, (level == Level::V5).then_some(0x8E));
        let mut publisher = site.passerby(level, "publisher").await;
        publisher.publish("t", b"m", 1, 1).await;
        assert_eq!(second.take().await.payload, b"m");
        // The session keeps no filter for the next round.
        drop(second);
        site.passerby(level, "twin").await.goodbye().await;
    }
}

/// v5 [MQTT-3.1.2-22], [MQTT-3.2.2-22]; v3.1.1 [MQTT-3.1.2-24]
#[tokio::test]
async fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    let site = Site::by_hand().await;
    let mut other = site.passerby(Level::V5, "without").await;
    for level in LEVELS {
        let connect = match level {
            Level::V5 => connect_v5(2, 10, &[], &[b"quiet"]),
            _ => connect_v3(2, 10, &[b"quiet"]),
        };
        let (mut client, accepted) = answer(&site, level, &connect).await;
        assert_eq!(code(&accepted), 0);
        for _ in 0..4 {
            site.pass(Duration::from_secs(14)).await;
            client.ping().await;
        }
        site.pass(Duration::from_secs(16)).await;
        assert_eq!(client.closed().await, (level == Level::V5).then_some(0x8D));
        other.ping().await;
    }
}

/// v5 3.1.0
#[tokio::test]
async fn a_connection_without_connect_is_not_kept() {
    let site = Site::by_hand().await;
    let mut silent = RawClient::open(site.address, Level::V5).await;
    let mut slow = RawClient::open(site.address, Level::V5).await;
    slow.send(&connect(Level::V5, "slow", true, 0)[..9]).await;
    // Accepted in order: once this one has its answer, those before wait for their CONNECT.
    let mut client = site.passerby(Level::V5, "quick").await;
    client.ping().await;
    site.pass(Duration::from_secs(11)).await;
    assert_eq!(silent.closed().await, None);
    assert_eq!(slow.closed().await, None);
    client.ping().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_one_that_ends_makes_room() {
    let site = Site::start_with(
        Settings {
            connection_count_max: 2,
            ..Settings::default()
        },
        Clock::system(),
    )
    .await;
    let first = site.passerby(Level::V5, "1").await;
    let mut second = site.passerby(Level::V5, "2").await;
    let mut third = RawClient::open(site.address, Level::V5).await;
    assert_eq!(third.closed().await, None);
    second.ping().await;
    first.goodbye().await;
    let room = async {
        loop {
            let mut client = RawClient::open(site.address, Level::V5).await;
            client.send(&connect(Level::V5, "3", true, 0)).await;
            if client.frame().await.is_some() {
                return;
            }
        }
    };
    timeout(PATIENCE, room).await.unwrap();
}

/// v5 4.13, 0x8B
#[tokio::test]
async fn a_stop_tells_5_0_clients_and_loses_nothing() {
    let site = Site::start().await;
    let mut old = site.client(Level::V311, "old").await;
    old.subscribe("t", 1).await;
    let mut new = site.client(Level::V5, "new").await;
    new.subscribe("t", 2).await;
    site.passerby(Level::V5, "p").await.publish("t", b"before", 2, 1).await;
    assert_eq!(old.take().await.payload, b"before");
    old.ping().await;
    let message = new.next().await.message();
    let site = timeout(PATIENCE, site.restart()).await.unwrap();
    assert_eq!(new.closed().await, Some(0x8B));
    assert_eq!(old.closed().await, None);
    let mut old = site.returning(Level::V311, "old").await;
    old.ping().await;
    let mut new = site.returning(Level::V5, "new").await;
    let again = new.take().await;
    assert!(again.dup);
    assert_eq!((again.packet_id, again.payload), (message.packet_id, message.payload));
    new.ping().await;
}

/// v5 3.14.2.2.2
#[tokio::test]
async fn a_session_expiry_of_0_cannot_be_raised_by_disconnect() {
    let site = Site::start().await;
    let mut client = site.passerby(Level::V5, "c").await;
    client.send(&frame(0xE0, &[0, 5, 0x11, 0, 0, 0, 9])).await;
    assert_eq!(client.closed().await, Some(0x82));
}

/// v5 4.9: what a client sends before it reads must not block it for ever.
#[tokio::test]
async fn a_client_that_sends_much_before_it_reads_is_served() {
    let site = Site::start().await;
    let mut client = site.passerby(Level::V5, "busy").await;
    client.send(&subscribe(Level::V5, 1, &[("t", 1)])).await;
    client.expect(Received::Suback(1, vec![1])).await;
    let count = 2_000_u16;
    let payload = vec![b'x'; 1_000];
    let mut bytes = Vec::new();
    for id in 1..=count {
        bytes.extend_from_slice(&publish(Level::V5, "t", &payload, 1, id, false));
    }
    client.send(&bytes).await;
    let (mut acked, mut delivered) = (0, 0);
    while acked < count || delivered < count {
        match client.next().await {
            Received::Puback(id, 0) => {
                acked += 1;
                assert_eq!(id, acked);
            }
            Received::Publish(message) => {
                delivered += 1;
                client.send(&ack(0x40, message.packet_id)).await;
            }
            other => panic!("{other:?}"),
        }
    }
}
