//! What a CONNECT is answered: right ones and wrong ones, and what stands behind them.

use std::net::SocketAddr;

use evermq::broker::session::{SessionSettings, SessionStatus};
use evermq::broker::{Caller, CreateSession, SessionChange};

use crate::client::{LEVELS, Level, RawClient, Received, connect, frame, publish, subscribe, text};
use crate::common::Site;
use crate::connect::{answer, code, connect_v3, connect_v5};

const CLEAN: u8 = 0x02;
const WILL: u8 = 0x04;
const USERNAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const NOT_UTF8: &[u8] = b"\xC3\x28";

/// What is wrong, flags, payload fields, and the reason in 5.0. The will properties of 5.0 are put in where they belong.
type Case = (&'static str, u8, &'static [&'static [u8]], u8);

/// v5 [MQTT-3.1.2-3] and so on: see the test.
const CASES: &[Case] = &[
    ("the reserved flag", CLEAN | 1, &[b"c"], 0x81),
    ("will QoS 3", CLEAN | WILL | 0x18, &[b"c", b"w", b"m"], 0x81),
    ("will QoS 1 without a will", CLEAN | 0x08, &[b"c"], 0x81),
    ("will retain without a will", CLEAN | 0x20, &[b"c"], 0x81),
    ("a will without topic and payload", CLEAN | WILL, &[b"c"], 0x81),
    ("a will without payload", CLEAN | WILL, &[b"c", b"w"], 0x81),
    ("an empty will topic", CLEAN | WILL, &[b"c", b"", b"m"], 0x90),
    ("wildcards in the will topic", CLEAN | WILL, &[b"c", b"w/#", b"m"], 0x90),
    (
        "a will topic that is not UTF-8",
        CLEAN | WILL,
        &[b"c", NOT_UTF8, b"m"],
        0x81,
    ),
    ("a will topic with U+0000", CLEAN | WILL, &[b"c", b"a\0", b"m"], 0x81),
    ("a user name without its flag", CLEAN, &[b"c", b"anna"], 0x81),
    ("no user name with its flag", CLEAN | USERNAME, &[b"c"], 0x81),
    (
        "a user name that is not UTF-8",
        CLEAN | USERNAME,
        &[b"c", NOT_UTF8],
        0x81,
    ),
    ("a user name with U+0000", CLEAN | USERNAME, &[b"c", b"\0"], 0x81),
    (
        "a password without its flag",
        CLEAN | USERNAME,
        &[b"c", b"anna", b"anna"],
        0x81,
    ),
    (
        "no password with its flag",
        CLEAN | USERNAME | PASSWORD,
        &[b"c", b"anna"],
        0x81,
    ),
    ("no client identifier", CLEAN, &[], 0x81),
    ("a client identifier that is not UTF-8", CLEAN, &[NOT_UTF8], 0x81),
    ("a client identifier with U+0000", CLEAN, &[b"a\0b"], 0x81),
    ("a surrogate in the client identifier", CLEAN, &[b"\xED\xA0\x80"], 0x81),
];

/// v5 [MQTT-3.1.2-3], [MQTT-3.1.2-9], [MQTT-3.1.2-11] to [MQTT-3.1.2-13], [MQTT-3.1.2-16] to [MQTT-3.1.2-19],
/// [MQTT-3.1.3-1], [MQTT-3.1.3-3], [MQTT-3.1.3-4], [MQTT-3.1.3-11], [MQTT-3.1.3-12], [MQTT-3.1.4-1], [MQTT-3.2.2-6],
/// [MQTT-3.2.2-7], [MQTT-3.2.2-8], [MQTT-3.14.0-1], [MQTT-4.13.1-1], [MQTT-4.13.2-1];
/// v3.1.1 [MQTT-3.1.2-3], [MQTT-3.1.2-9], [MQTT-3.1.2-11], [MQTT-3.1.2-13] to [MQTT-3.1.2-15], [MQTT-3.1.2-18] to
/// [MQTT-3.1.2-21], [MQTT-3.1.3-1], [MQTT-3.1.3-3], [MQTT-3.1.3-4], [MQTT-3.1.3-10], [MQTT-3.1.3-11], [MQTT-3.1.4-1],
/// [MQTT-3.2.2-6], [MQTT-4.8.0-1]
#[tokio::test]
async fn a_connect_that_breaks_a_rule_is_refused_with_a_reason_in_5_0_and_without_a_word_before() {
    let site = Site::start().await;
    for &(name, flags, fields, reason) in CASES {
        let mut client = RawClient::open(site.address, Level::V311).await;
        client.send(&connect_v3(flags, 0, fields)).await;
        assert_eq!(client.frame().await, None, "{name}");

        refused(&site, &in_5_0(flags, fields), reason, name).await;
    }
}

/// A CONNECT of 5.0 without properties; the will has none either, and says so.
fn in_5_0(flags: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut body = [&text("MQTT")[..], &[5, flags, 0, 0, 0]].concat();
    for (place, field) in fields.iter().enumerate() {
        if place == 1 && flags & WILL != 0 {
            body.push(0);
        }
        body.extend_from_slice(&u16::try_from(field.len()).unwrap().to_be_bytes());
        body.extend_from_slice(field);
    }
    frame(0x10, &body)
}

/// Expects a CONNACK of 5.0 with this reason and nothing behind it.
async fn refused(site: &Site, bytes: &[u8], reason: u8, name: &str) {
    let (mut client, refused) = answer(site, Level::V5, bytes).await;
    let Received::Connack {
        session_present, code, ..
    } = refused
    else {
        panic!("{name}: {refused:?}");
    };
    assert_eq!((session_present, code), (false, reason), "{name}");
    assert_eq!(client.frame().await, None, "{name}: nothing follows, and no DISCONNECT");
}

/// v5 [MQTT-3.1.4-1], [MQTT-2.1.3-1], 3.1.2.11
#[tokio::test]
async fn a_connect_of_5_0_with_wrong_properties_or_flags_is_refused_with_its_reason() {
    let site = Site::start().await;
    let cases: [(&str, &[u8], u8); 12] = [
        ("Receive Maximum 0", b"\x21\0\0", 0x82),
        ("Maximum Packet Size 0", b"\x27\0\0\0\0", 0x82),
        ("session expiry twice", b"\x11\0\0\0\x01\x11\0\0\0\x01", 0x82),
        ("Request Problem Information 2", b"\x17\x02", 0x82),
        ("Request Response Information 2", b"\x19\x02", 0x82),
        ("authentication data without a method", b"\x16\0\x01x", 0x82),
        ("a topic alias", b"\x23\0\x01", 0x81),
        ("a will delay outside the will", b"\x18\0\0\0\x01", 0x81),
        ("a property of the server", b"\x13\0\x01", 0x81),
        ("a property that does not exist", b"\x7F\0", 0x81),
        ("a property that is cut off", b"\x11\0\0", 0x81),
        ("a user property that is not UTF-8", b"\x26\0\x01k\0\x02\xC3\x28", 0x81),
    ];
    for (name, properties, reason) in cases {
        refused(&site, &connect_v5(CLEAN, 0, properties, &[b"c"]), reason, name).await;
    }
    let mut flags = connect(Level::V5, "c", true, 0);
    flags[0] |= 1;
    refused(&site, &flags, 0x81, "a flag of the fixed header").await;
    let mut longer = connect(Level::V5, "c", true, 0);
    longer[1] += 1;
    longer.push(0);
    refused(&site, &longer, 0x81, "a byte behind the last field").await;
    // Before 5.0 without a word. v3.1.1 [MQTT-2.2.2-1], [MQTT-2.2.2-2], [MQTT-3.1.2-22]
    let mut flags = connect(Level::V311, "c", true, 0);
    flags[0] |= 1;
    for bytes in [flags, connect_v3(CLEAN | PASSWORD, 0, &[b"c", b"secret"])] {
        let mut client = RawClient::open(site.address, Level::V311).await;
        client.send(&bytes).await;
        assert_eq!(client.frame().await, None);
    }
}

/// v5 [MQTT-3.1.2-1], [MQTT-3.1.2-2]; v3.1.1 [MQTT-3.1.2-1], [MQTT-3.1.2-2]
#[tokio::test]
async fn names_and_levels_that_are_not_spoken_are_refused_in_the_nearest_version() {
    let site = Site::start().await;
    let hello = |name: &str, level: u8| frame(0x10, &[&text(name)[..], &[level, CLEAN, 0, 0], &text("c")].concat());
    let v3: &[u8] = &[0x20, 2, 0, 1];
    // The highest bit is how bridges say that they are bridges; after this answer they come without it.
    for (name, level) in [
        ("MQTT", 3),
        ("MQTT", 0),
        ("MQTT", 0x84),
        ("MQIsdp", 4),
        ("MQIsdp", 0x83),
    ] {
        let mut client = RawClient::open(site.address, Level::V311).await;
        client.send(&hello(name, level)).await;
        assert_eq!(client.frame().await.as_deref(), Some(v3), "{name} {level}");
        assert_eq!(client.frame().await, None);
    }
    for level in [6, 0x85, 0x7F] {
        let (mut client, answer) = answer(&site, Level::V5, &hello("MQTT", level)).await;
        assert_eq!(code(&answer), 0x84, "{level}");
        assert_eq!(client.frame().await, None);
    }
    for (name, level) in [("MQTX", 5), ("mqtt", 4), ("", 4), ("HTTP", 5)] {
        let mut client = RawClient::open(site.address, Level::V5).await;
        client.send(&hello(name, level)).await;
        assert_eq!(client.frame().await, None, "{name} {level}");
    }
}

/// MQTT 3.1 is spoken like 3.1.1, but its CONNACK has no Session Present: the byte is reserved.
#[tokio::test]
async fn a_client_of_3_1_has_a_session_and_is_not_told() {
    let site = Site::start().await;
    let mut client = site.client(Level::V31, "old").await;
    client.subscribe("t", 1).await;
    client.goodbye().await;
    site.passerby(Level::V311, "p").await.publish("t", b"kept", 1, 1).await;
    let (mut client, present) = RawClient::hello(site.address, Level::V31, "old", false).await;
    assert!(!present);
    assert_eq!(client.take().await.payload, b"kept");
}

/// v5 [MQTT-3.1.4-6]; v3.1.1 [MQTT-3.1.4-5]
#[tokio::test]
async fn nothing_behind_a_refused_connect_has_an_effect() {
    let site = Site::start().await;
    let mut watcher = site.passerby(Level::V5, "watcher").await;
    watcher.subscribe("t", 0).await;
    let anna: &[&[u8]] = &[b"c", b"anna", b"wrong"];
    for (level, refused) in [
        (Level::V5, connect_v5(CLEAN | USERNAME | PASSWORD, 0, &[], anna)),
        (Level::V5, connect_v5(CLEAN | 1, 0, &[], &[b"c"])),
        (Level::V311, connect_v3(CLEAN | USERNAME | PASSWORD, 0, anna)),
        (Level::V311, connect_v3(0, 0, &[b""])),
    ] {
        let mut client = RawClient::open(site.address, level).await;
        let message = publish(level, "t", b"m", 0, 0, false);
        let again = connect(level, "c", true, 0);
        client.send(&[&refused[..], &message, &again, &message].concat()).await;
        assert_ne!(code(&client.next().await), 0);
        assert_eq!(client.frame().await, None);
        watcher.ping().await;
    }
}

/// v5 [MQTT-3.2.0-1], [MQTT-3.1.4-5]; v3.1.1 [MQTT-3.2.0-1], [MQTT-3.1.4-4]
#[tokio::test]
async fn what_comes_with_the_connect_is_answered_behind_the_connack() {
    let site = Site::start().await;
    for level in LEVELS {
        let mut client = RawClient::open(site.address, level).await;
        let all = [
            connect(level, "eager", true, 0),
            subscribe(level, 1, &[("t", 0)]),
            publish(level, "t", b"m", 1, 2, false),
            vec![0xC0, 0],
        ];
        client.send(&all.concat()).await;
        assert_eq!(code(&client.next().await), 0);
        let mut rest = Vec::new();
        for _ in 0..4 {
            rest.push(client.next().await);
        }
        assert!(rest.contains(&Received::Suback(1, vec![0])), "{rest:?}");
        assert!(rest.contains(&Received::Puback(2, 0)), "{rest:?}");
        // v5 [MQTT-3.12.4-1]; v3.1.1 [MQTT-3.12.4-1]
        assert!(rest.contains(&Received::Pingresp), "{rest:?}");
    }
}

/// v5 [MQTT-3.1.3-5], [MQTT-3.1.3-2]; v3.1.1 [MQTT-3.1.3-5], [MQTT-3.1.3-2]
#[tokio::test]
async fn any_client_identifier_that_is_a_string_names_a_session_of_its_own() {
    let site = Site::start().await;
    let long = "n".repeat(65_535);
    let names = [
        "0",
        "23letters23letters23let",
        "ABCxyz789",
        "a/b+c#d",
        "größer 🦀",
        "\u{FEFF}0",
        &long,
    ];
    for level in LEVELS {
        for name in names {
            let (client, present) = RawClient::hello(site.address, level, name, false).await;
            assert!(!present, "{name:.30}");
            client.goodbye().await;
        }
        for name in names {
            site.returning(level, name).await.goodbye().await;
            site.passerby(level, name).await.goodbye().await;
        }
    }
}

fn administrator() -> Caller {
    Caller {
        account: "ADMIN".into(),
        administrator: true,
        login: 1,
        peer: SocketAddr::from(([127, 0, 0, 1], 9)),
    }
}

/// spec/sessions.md 1; v5 [MQTT-3.1.3-8], [MQTT-3.1.4-2], v3.1.1 [MQTT-3.1.3-9]
#[tokio::test]
async fn the_name_of_an_api_session_and_a_banned_session_are_refused() {
    let site = Site::start().await;
    let create = CreateSession {
        client_name: "api".into(),
        settings: SessionSettings::default(),
        will: None,
    };
    site.broker.create_session(create, &administrator()).await.unwrap();
    site.client(Level::V5, "bad").await.goodbye().await;
    let ban = SessionChange {
        status: Some(SessionStatus::Banned),
        ..SessionChange::default()
    };
    site.broker.alter_session("bad", ban, &administrator()).await.unwrap();
    for (name, wanted) in [("api", [0x85, 2]), ("bad", [0x8A, 5])] {
        for clean in [true, false] {
            for (level, wanted) in [Level::V5, Level::V311].into_iter().zip(wanted) {
                let (mut client, answer) = answer(&site, level, &connect(level, name, clean, 0)).await;
                assert_eq!(code(&answer), wanted, "{name} {level:?}");
                assert_eq!(client.frame().await, None);
            }
        }
    }
    // A ban outlives a restart. It does not stand in the way of others.
    let site = site.restart().await;
    assert_eq!(
        code(&answer(&site, Level::V5, &connect(Level::V5, "bad", true, 0)).await.1),
        0x8A
    );
    assert_eq!(
        code(&answer(&site, Level::V5, &connect(Level::V5, "good", true, 0)).await.1),
        0
    );
}

/// v5 [MQTT-3.2.2-1]; the reserved bits are looked at in the bytes themselves.
#[tokio::test]
async fn the_acknowledge_flags_say_session_present_and_nothing_else() {
    let site = Site::start().await;
    for (clean, flags) in [(false, 0), (false, 1), (true, 0)] {
        let mut client = RawClient::open(site.address, Level::V5).await;
        client.send(&connect(Level::V5, "c", clean, 600)).await;
        let connack = client.frame().await.unwrap();
        assert_eq!(connack[2..4], [flags, 0], "{connack:02X?}");
        client.goodbye().await;
    }
}

/// v5 [MQTT-3.1.2-28]
#[tokio::test]
async fn response_information_is_never_sent() {
    let site = Site::start().await;
    for properties in [&b""[..], b"\x19\0", b"\x19\x01"] {
        let (_client, answer) = answer(&site, Level::V5, &connect_v5(CLEAN, 0, properties, &[b"c"])).await;
        let Received::Connack { v5: Some(connack), .. } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(connack.response_info, None);
        // v5 [MQTT-4.12.0-6]
        assert_eq!((connack.auth_method, connack.auth_data), (None, None));
    }
}

/// v5 [MQTT-3.2.2-19], [MQTT-3.1.2-29]
#[tokio::test]
async fn a_refusal_has_a_reason_string_if_the_client_wants_it_and_can_take_it() {
    let site = Site::start().await;
    let anna: &[&[u8]] = &[b"c", b"anna", b"wrong"];
    let flags = CLEAN | USERNAME | PASSWORD;
    for (properties, explained) in [
        (&b""[..], true),
        (b"\x17\x01\x27\0\0\x01\0", true),
        (b"\x17\0", false),
        (b"\x27\0\0\0\x10", false),
    ] {
        // A wrong password, and a CONNECT that is malformed behind its properties.
        for bytes in [
            connect_v5(flags, 0, properties, anna),
            connect_v5(CLEAN | USERNAME, 0, properties, &[b"c"]),
        ] {
            let (_client, answer) = answer(&site, Level::V5, &bytes).await;
            let Received::Connack {
                v5: Some(connack),
                code,
                ..
            } = answer
            else {
                panic!("{answer:?}")
            };
            assert!(code >= 0x80);
            assert_eq!(connack.reason_string.is_some(), explained, "{properties:02X?}");
            // v5 [MQTT-3.2.2-20]
            assert!(connack.user_properties.is_empty());
        }
    }
}

/// v5 [MQTT-3.1.2-24]
#[tokio::test]
async fn a_client_that_cannot_take_its_connack_is_refused_and_leaves_nothing() {
    let site = Site::start().await;
    let with_maximum = |bytes: u8| connect_v5(0, 0, &[0x11, 0, 0, 1, 0, 0x27, 0, 0, 0, bytes], &[b"tiny"]);
    refused(&site, &with_maximum(5), 0x95, "room for a CONNACK that says no").await;
    let mut client = RawClient::open(site.address, Level::V5).await;
    client.send(&with_maximum(4)).await;
    assert_eq!(client.frame().await, None, "not even that");
    // Both asked for a session that lives on.
    let (_client, answer) = answer(&site, Level::V5, &with_maximum(30)).await;
    assert!(matches!(
        answer,
        Received::Connack {
            session_present: false,
            code: 0,
            ..
        }
    ));
}
