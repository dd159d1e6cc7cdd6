//! DISCONNECT in both directions, AUTH, and PINGREQ.

use std::time::Duration;

use crate::client::{LEVELS, Level, RawClient, c5, connect, frame, publish};
use crate::common::Site;
use crate::connect::{answer, code, connect_v5};

/// The DISCONNECT that is next, and the end behind it.
async fn told(client: &mut RawClient) -> (Vec<u8>, c5::Disconnect) {
    use ntex_codec::Decoder;
    let bytes = client.frame().await.unwrap();
    // v5 [MQTT-3.14.4-1], [MQTT-3.14.4-2]
    assert_eq!(client.frame().await, None, "nothing follows a DISCONNECT but the end");
    let mut buffer = ntex_bytes::BytesMut::copy_from_slice(&bytes);
    match c5::Codec::new().decode(&mut buffer) {
        Ok(Some(c5::Decoded::Packet(c5::Packet::Disconnect(disconnect), _))) => (bytes, disconnect),
        other => panic!("{other:?}"),
    }
}

/// v5 [MQTT-3.14.2-1], [MQTT-3.14.2-2], [MQTT-3.14.2-4], [MQTT-3.14.4-1], [MQTT-3.14.4-2]
#[tokio::test]
async fn the_server_says_why_it_ends_a_connection_and_nothing_else() {
    let site = Site::by_hand().await;
    // A protocol error, a take-over, silence, and the end of the server.
    let mut wrong = site.passerby(Level::V5, "wrong").await;
    wrong.send(&connect(Level::V5, "wrong", true, 0)).await;
    let mut first = site.client(Level::V5, "twin").await;
    let second = site.returning(Level::V5, "twin").await;
    let (mut silent, accepted) = answer(&site, Level::V5, &connect_v5(2, 10, &[], &[b"silent"])).await;
    assert_eq!(code(&accepted), 0);
    let mut ends = vec![(told(&mut wrong).await.1, 0x82), (told(&mut first).await.1, 0x8E)];
    site.pass(Duration::from_secs(16)).await;
    ends.push((told(&mut silent).await.1, 0x8D));
    let mut last = second;
    drop(site.restart().await);
    ends.push((told(&mut last).await.1, 0x8B));
    for (disconnect, reason) in ends {
        assert_eq!(u8::from(disconnect.reason_code), reason);
        assert!(disconnect.reason_string.is_some(), "{reason:02X}");
        assert_eq!(disconnect.session_expiry_interval_secs, None, "{reason:02X}");
        assert!(disconnect.user_properties.is_empty(), "{reason:02X}");
        assert_eq!(disconnect.server_reference, None, "{reason:02X}");
    }
}

/// v5 [MQTT-3.14.2-3], [MQTT-3.1.2-24], 3.1.2.11.7
#[tokio::test]
async fn a_disconnect_is_never_larger_than_its_client_takes() {
    let site = Site::start().await;
    for bytes_max in [20_u8, 21, 30, 60, 200] {
        let (mut client, accepted) = answer(
            &site,
            Level::V5,
            &connect_v5(2, 0, &[0x27, 0, 0, 0, bytes_max], &[b"c"]),
        )
        .await;
        assert_eq!(code(&accepted), 0, "{bytes_max}");
        client.send(&[0x00, 0]).await;
        let (bytes, disconnect) = told(&mut client).await;
        assert!(bytes.len() <= usize::from(bytes_max), "{bytes:02X?}");
        assert_eq!(u8::from(disconnect.reason_code), 0x81);
        assert_eq!(disconnect.reason_string.is_some(), bytes_max >= 60, "{bytes_max}");
    }
}

/// v5 [MQTT-3.12.4-1]; v3.1.1 [MQTT-3.12.4-1]
#[tokio::test]
async fn each_pingreq_is_answered() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut client = site.passerby(level, "c").await;
        client.send(&[0xC0, 0].repeat(100)).await;
        for _ in 0..100 {
            assert_eq!(client.frame().await.as_deref(), Some(&[0xD0, 0][..]));
        }
        client.ping().await;
    }
}

/// v5 [MQTT-3.14.4-3]; v3.1.1 [MQTT-3.14.4-2]
#[tokio::test]
async fn nothing_behind_a_disconnect_is_handled() {
    let site = Site::start().await;
    let mut watcher = site.passerby(Level::V5, "watcher").await;
    watcher.subscribe("t", 0).await;
    for level in LEVELS {
        let mut client = site.passerby(level, "c").await;
        let before = publish(level, "t", b"before", 0, 0, false);
        let behind = publish(level, "t", b"behind", 0, 0, false);
        client.send(&[&before[..], &[0xE0, 0], &behind].concat()).await;
        assert_eq!(client.frame().await, None, "nobody answers a DISCONNECT");
        assert_eq!(watcher.take().await.payload, b"before");
        watcher.ping().await;
    }
}

/// v5 [MQTT-3.14.1-1], [MQTT-3.14.2-1]; v3.1.1 [MQTT-3.14.1-1]
#[tokio::test]
async fn a_wrong_disconnect_is_an_error_like_any_other() {
    let site = Site::start().await;
    let mut v5: Vec<(Vec<u8>, u8)> = vec![
        (vec![0xE2, 0], 0x81),
        (vec![0xE0, 1, 0x7F], 0x81),
        // Server Reference is the server's; a session expiry twice; a byte too many.
        (frame(0xE0, b"\0\x04\x1C\0\x01s"), 0x81),
        (frame(0xE0, b"\0\x0A\x11\0\0\0\x01\x11\0\0\0\x01"), 0x82),
        (frame(0xE0, b"\0\0\0"), 0x81),
    ];
    // What only a server says.
    v5.extend([0x87, 0x8B, 0x8D, 0x8E, 0x8F, 0x9C, 0xA2].map(|reason| (vec![0xE0, 1, reason], 0x82)));
    for (bytes, reason) in v5 {
        let mut client = site.passerby(Level::V5, "c").await;
        client.send(&bytes).await;
        assert_eq!(client.closed().await, Some(reason), "{bytes:02X?}");
    }
    for reason in [
        0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    ] {
        let mut client = site.passerby(Level::V5, "c").await;
        client.send(&[0xE0, 1, reason]).await;
        assert_eq!(client.closed().await, None, "{reason:02X} is a client's");
    }
    for bytes in [vec![0xE1, 0], vec![0xE0, 1, 0]] {
        let mut client = site.passerby(Level::V311, "c").await;
        client.send(&bytes).await;
        assert_eq!(client.frame().await, None);
    }
}

/// v5 [MQTT-3.15.1-1], [MQTT-3.15.2-1], [MQTT-4.12.0-6], [MQTT-4.12.0-7], [MQTT-4.12.1-2]
#[tokio::test]
async fn an_auth_ends_the_connection_since_none_was_agreed_on() {
    let site = Site::start().await;
    let method = b"\x15\0\x01M";
    let with_method = |reason: u8| frame(0xF0, &[&[reason, 4][..], method].concat());
    let cases = [
        ("more data", with_method(0x18), 0x82),
        ("a re-authentication", with_method(0x19), 0x82),
        ("success, which is the server's to say", with_method(0x00), 0x82),
        ("the short form of the same", vec![0xF0, 0], 0x82),
        ("no method", frame(0xF0, &[0x18, 0]), 0x82),
        ("a reason of another packet", with_method(0x8C), 0x81),
        ("flags", [&[0xF1][..], &with_method(0x18)[1..]].concat(), 0x81),
        (
            "a property of another packet",
            frame(0xF0, b"\x18\x07\x15\0\x01M\x23\0\x01"),
            0x81,
        ),
    ];
    for (name, bytes, reason) in cases {
        let mut client = site.passerby(Level::V5, "c").await;
        client.send(&bytes).await;
        assert_eq!(client.closed().await, Some(reason), "{name}");
    }
}
