//! A corpus of packets no client may send, and of unusual ones it may; what each is refused with, and that nothing
//! which can be cut, flipped or invented makes the decoders do anything but answer.

use proptest::prelude::*;

use super::frame::{PACKET_BYTES_MAX, Version, put_variable};
use super::packet::{Next, Packet, next};
use super::reason::ReasonCode as R;

const V5: Option<Version> = Some(Version::V5);
const V3: Option<Version> = Some(Version::V311);

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_variable(&mut out, body.len() as u32);
    out.extend_from_slice(body);
    out
}

type Case = (&'static str, Option<Version>, Vec<u8>, R);

fn case(name: &'static str, version: Option<Version>, first: u8, body: &[u8], reason: R) -> Case {
    (name, version, frame(first, body), reason)
}

fn raw(name: &'static str, version: Option<Version>, bytes: &[u8], reason: R) -> Case {
    (name, version, bytes.to_vec(), reason)
}

fn malformed_frames() -> Vec<Case> {
    use R::{MalformedPacket as M, ProtocolError as P};
    vec![
        raw("packet type 0", V5, &[0x00, 0], M),
        raw(
            "remaining length of five bytes",
            V5,
            &[0x30, 0x80, 0x80, 0x80, 0x80, 1],
            M,
        ),
        raw("remaining length not shortest", V5, &[0xC0, 0x80, 0], M),
        case("PINGREQ with a body", V5, 0xC0, &[0], M),
        case("PINGREQ with flags", V3, 0xC1, &[], M),
        case("CONNACK from a client", V5, 0x20, &[0, 0, 0], P),
        case("SUBACK from a client", V3, 0x90, &[0, 1, 0], P),
        case("UNSUBACK from a client", V3, 0xB0, &[0, 1], P),
        case("PINGRESP from a client", V5, 0xD0, &[], P),
        case("AUTH in 3.1.1", V3, 0xF0, &[], M),
        case("PUBLISH before CONNECT", None, 0x30, &[0, 1, b'a'], P),
        case("PINGREQ before CONNECT", None, 0xC0, &[], P),
        case("a second CONNECT", V3, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01a", P),
        case("PUBREL without its flag", V5, 0x60, &[0, 1], M),
        case("PUBREL with DUP in 3.1.1", V3, 0x6A, &[0, 1], M),
        case("SUBSCRIBE without its flag", V3, 0x80, b"\0\x01\0\x01a\0", M),
        case("UNSUBSCRIBE without its flag", V3, 0xA0, b"\0\x01\0\x01a", M),
        case("PUBACK with flags", V5, 0x42, &[0, 1], M),
        case("DISCONNECT with flags", V5, 0xE1, &[], M),
    ]
}

fn malformed_connects() -> Vec<Case> {
    use R::{MalformedPacket as M, ProtocolError as P, UnsupportedProtocolVersion as U};
    let c = |name, body: &[u8], reason| case(name, None, 0x10, body, reason);
    vec![
        case("CONNECT with flags", None, 0x11, b"\0\x04MQTT\x04\x02\0\0\0\x01a", M),
        c("another protocol", b"\0\x04MQTX\x04\x02\0\0\0\x01a", U),
        c("protocol level 6", b"\0\x04MQTT\x06\x02\0\0\0\0\x01a", U),
        c(
            "protocol level 3 under the new name",
            b"\0\x04MQTT\x03\x02\0\0\0\x01a",
            U,
        ),
        c(
            "protocol level 4 under the old name",
            b"\0\x06MQIsdp\x04\x02\0\0\0\x01a",
            U,
        ),
        c("reserved connect flag", b"\0\x04MQTT\x04\x03\0\0\0\x01a", M),
        c("will QoS 3", b"\0\x04MQTT\x04\x1E\0\0\0\x01a\0\x01t\0\x01m", M),
        c("will QoS without a will", b"\0\x04MQTT\x04\x0A\0\0\0\x01a", M),
        c("will retain without a will", b"\0\x04MQTT\x05\x22\0\0\0\0\x01a", M),
        c("password without user name", b"\0\x04MQTT\x04\x42\0\0\0\x01a\0\x01p", M),
        c(
            "no client id and no clean session",
            b"\0\x04MQTT\x04\0\0\0\0\0",
            R::ClientIdentifierNotValid,
        ),
        c("no client id at all", b"\0\x04MQTT\x04\x02\0\0", M),
        c("client id with U+0000", b"\0\x04MQTT\x04\x02\0\0\0\x01\0", M),
        c(
            "client id with a surrogate",
            b"\0\x04MQTT\x04\x02\0\0\0\x03\xED\xA0\x80",
            M,
        ),
        c("client id that is not UTF-8", b"\0\x04MQTT\x04\x02\0\0\0\x01\xFF", M),
        c("client id longer than the packet", b"\0\x04MQTT\x04\x02\0\0\0\x05a", M),
        c("bytes behind the end", b"\0\x04MQTT\x04\x02\0\0\0\x01a!", M),
        c("user name missing", b"\0\x04MQTT\x04\x82\0\0\0\x01a", M),
        c("user name with U+0000", b"\0\x04MQTT\x04\x82\0\0\0\x01a\0\x02u\0", M),
        c(
            "will topic with a wildcard",
            b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\x01#\0\x01m",
            R::TopicNameInvalid,
        ),
        c(
            "will topic empty",
            b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\0\0\x01m",
            R::TopicNameInvalid,
        ),
        c("will payload missing", b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\x01t", M),
        c(
            "property length longer than the packet",
            b"\0\x04MQTT\x05\x02\0\0\x09\0\x01a",
            M,
        ),
        c("Receive Maximum 0", b"\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01a", P),
        c(
            "Maximum Packet Size 0",
            b"\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\0\0\x01a",
            P,
        ),
        c(
            "session expiry twice",
            b"\0\x04MQTT\x05\x02\0\0\x0A\x11\0\0\0\x01\x11\0\0\0\x01\0\x01a",
            P,
        ),
        c(
            "request problem information 2",
            b"\0\x04MQTT\x05\x02\0\0\x02\x17\x02\0\x01a",
            P,
        ),
        c(
            "authentication data without method",
            b"\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01d\0\x01a",
            P,
        ),
        c("property of PUBLISH", b"\0\x04MQTT\x05\x02\0\0\x03\x23\0\x01\0\x01a", M),
        c(
            "will delay outside the will",
            b"\0\x04MQTT\x05\x02\0\0\x05\x18\0\0\0\x01\0\x01a",
            M,
        ),
        c(
            "session expiry in the will",
            b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\x05\x11\0\0\0\x01\0\x01t\0\x01m",
            M,
        ),
        c("unknown property", b"\0\x04MQTT\x05\x02\0\0\x02\x7F\0\0\x01a", M),
        c(
            "property cut by the property length",
            b"\0\x04MQTT\x05\x02\0\0\x03\x11\0\0\0\x01a",
            M,
        ),
    ]
}

fn malformed_publishes() -> Vec<Case> {
    use R::{MalformedPacket as M, ProtocolError as P, TopicNameInvalid as T};
    vec![
        case("PUBLISH with QoS 3", V5, 0x36, b"\0\x01a\0\x01\0", M),
        case("PUBLISH with QoS 0 and DUP", V3, 0x38, b"\0\x01a", M),
        case("PUBLISH with packet id 0", V3, 0x32, b"\0\x01a\0\0", P),
        case("PUBLISH without packet id", V3, 0x32, b"\0\x01a\0", M),
        case(
            "PUBLISH whose topic is longer than the packet",
            V3,
            0x30,
            b"\xFF\xFFa",
            M,
        ),
        case("PUBLISH without body", V3, 0x30, b"", M),
        case("PUBLISH to +", V3, 0x30, b"\0\x03a/+", T),
        case("PUBLISH to #", V5, 0x30, b"\0\x03a/#\0", T),
        case("PUBLISH to nothing in 3.1.1", V3, 0x30, b"\0\0x", M),
        case("PUBLISH to nothing without alias", V5, 0x30, b"\0\0\0x", P),
        case("PUBLISH with U+0000 in its topic", V3, 0x30, b"\0\x02a\0", M),
        case("PUBLISH to bytes that are not UTF-8", V5, 0x30, b"\0\x02\xC3\x28\0", M),
        case("PUBLISH without property length", V5, 0x30, b"\0\x01a", M),
        case(
            "PUBLISH with properties longer than it",
            V5,
            0x30,
            b"\0\x01a\x05\x01\x01",
            M,
        ),
        case(
            "PUBLISH with alias 0",
            V5,
            0x30,
            b"\0\x01a\x03\x23\0\0",
            R::TopicAliasInvalid,
        ),
        case(
            "PUBLISH with two aliases",
            V5,
            0x30,
            b"\0\x01a\x06\x23\0\x01\x23\0\x01",
            P,
        ),
        case("PUBLISH with format 2", V5, 0x30, b"\0\x01a\x02\x01\x02", P),
        case(
            "PUBLISH with two expiries",
            V5,
            0x30,
            b"\0\x01a\x0A\x02\0\0\0\x01\x02\0\0\0\x01",
            P,
        ),
        case(
            "PUBLISH with a subscription identifier",
            V5,
            0x30,
            b"\0\x01a\x02\x0B\x01",
            P,
        ),
        case(
            "PUBLISH with a wildcard response topic",
            V5,
            0x30,
            b"\0\x01a\x04\x08\0\x01#",
            T,
        ),
        case(
            "PUBLISH with a session expiry",
            V5,
            0x30,
            b"\0\x01a\x05\x11\0\0\0\x01",
            M,
        ),
        case(
            "PUBLISH with half a user property",
            V5,
            0x30,
            b"\0\x01a\x04\x26\0\x01k",
            M,
        ),
        case(
            "PUBLISH with U+0000 in a user property",
            V5,
            0x30,
            b"\0\x01a\x07\x26\0\x01k\0\x01\0",
            M,
        ),
        case(
            "PUBLISH with a long form property length",
            V5,
            0x30,
            b"\0\x01a\x80\0",
            M,
        ),
        case("PUBACK with packet id 0", V3, 0x40, &[0, 0], P),
        case("PUBACK too short", V3, 0x40, &[0], M),
        case("PUBACK with a reason in 3.1.1", V3, 0x40, &[0, 1, 0], M),
        case("PUBACK with an unknown reason", V5, 0x40, &[0, 1, 0x01], M),
        case("PUBACK with bytes behind its end", V5, 0x40, &[0, 1, 0, 0, 0], M),
        case("PUBREC with a reason of PUBREL", V5, 0x50, &[0, 1, 0x92], M),
        case("PUBREL with an unknown reason", V5, 0x62, &[0, 1, 0x80], M),
        case("PUBCOMP with a misplaced property", V5, 0x70, &[0, 1, 0, 2, 1, 1], M),
        case(
            "PUBCOMP with two reason strings",
            V5,
            0x70,
            &[0, 1, 0, 8, 0x1F, 0, 1, b'a', 0x1F, 0, 1, b'b'],
            P,
        ),
    ]
}

fn malformed_rest() -> Vec<Case> {
    use R::{MalformedPacket as M, ProtocolError as P, TopicFilterInvalid as F};
    vec![
        case("SUBSCRIBE without filter", V3, 0x82, b"\0\x01", P),
        case("SUBSCRIBE without filter", V5, 0x82, b"\0\x01\0", P),
        case("SUBSCRIBE with packet id 0", V3, 0x82, b"\0\0\0\x01a\0", P),
        case("SUBSCRIBE without options", V3, 0x82, b"\0\x01\0\x01a", M),
        case("SUBSCRIBE with QoS 3", V3, 0x82, b"\0\x01\0\x01a\x03", P),
        case("SUBSCRIBE with reserved option bits", V3, 0x82, b"\0\x01\0\x01a\x04", M),
        case(
            "SUBSCRIBE with reserved option bits",
            V5,
            0x82,
            b"\0\x01\0\0\x01a\x40",
            M,
        ),
        case("SUBSCRIBE with Retain Handling 3", V5, 0x82, b"\0\x01\0\0\x01a\x30", P),
        case(
            "SUBSCRIBE with No Local on a share",
            V5,
            0x82,
            b"\0\x01\0\0\x0A$share/g/a\x04",
            P,
        ),
        case("SUBSCRIBE to an empty filter", V3, 0x82, b"\0\x01\0\0\0", F),
        case("SUBSCRIBE with identifier 0", V5, 0x82, b"\0\x01\x02\x0B\0\0\x01a\0", P),
        case(
            "SUBSCRIBE with two identifiers",
            V5,
            0x82,
            b"\0\x01\x04\x0B\x01\x0B\x02\0\x01a\0",
            P,
        ),
        case(
            "SUBSCRIBE with an endless identifier",
            V5,
            0x82,
            b"\0\x01\x06\x0B\xFF\xFF\xFF\xFF\x01\0\x01a\0",
            M,
        ),
        case(
            "SUBSCRIBE with a reason string",
            V5,
            0x82,
            b"\0\x01\x04\x1F\0\x01r\0\x01a\0",
            M,
        ),
        case("SUBSCRIBE to U+0000", V3, 0x82, b"\0\x01\0\x01\0\0", M),
        case("UNSUBSCRIBE without filter", V3, 0xA2, b"\0\x01", P),
        case("UNSUBSCRIBE with packet id 0", V5, 0xA2, b"\0\0\0\0\x01a", P),
        case("UNSUBSCRIBE from an empty filter", V3, 0xA2, b"\0\x01\0\0", F),
        case(
            "UNSUBSCRIBE with an identifier",
            V5,
            0xA2,
            b"\0\x01\x02\x0B\x01\0\x01a",
            M,
        ),
        case("DISCONNECT with a body in 3.1.1", V3, 0xE0, &[0], M),
        case("DISCONNECT with an unknown reason", V5, 0xE0, &[0x05], M),
        case("DISCONNECT with a reason of servers", V5, 0xE0, &[0x8E], P),
        case("DISCONNECT with a server reference", V5, 0xE0, b"\0\x04\x1C\0\x01s", M),
        case("DISCONNECT with bytes behind its end", V5, 0xE0, &[0, 0, 0], M),
        case("AUTH without method", V5, 0xF0, &[0x18, 0], P),
        case("AUTH with success", V5, 0xF0, &[], P),
        case("AUTH with an unknown reason", V5, 0xF0, b"\x01\x04\x15\0\x01m", M),
    ]
}

fn malformed() -> Vec<Case> {
    [
        malformed_frames(),
        malformed_connects(),
        malformed_publishes(),
        malformed_rest(),
    ]
    .concat()
}

fn legal() -> Vec<(&'static str, Option<Version>, Vec<u8>)> {
    let l = |name, version, first, body: &[u8]| (name, version, frame(first, body));
    vec![
        l("MQTT 3.1", None, 0x10, b"\0\x06MQIsdp\x03\x02\0\x0A\0\x01a"),
        l(
            "MQTT 3.1 with everything",
            None,
            0x10,
            b"\0\x06MQIsdp\x03\xEE\0\x0A\0\x01a\0\x01t\0\x01m\0\x01u\0\x01p",
        ),
        l("MQTT 3.1.1", None, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01a"),
        l(
            "no client id with a clean session",
            None,
            0x10,
            b"\0\x04MQTT\x04\x02\0\0\0\0",
        ),
        l("no client id in 5.0", None, 0x10, b"\0\x04MQTT\x05\0\0\0\0\0\0"),
        l(
            "password alone in 5.0",
            None,
            0x10,
            b"\0\x04MQTT\x05\x40\0\0\0\0\x01a\0\x01p",
        ),
        l(
            "will expiry 0",
            None,
            0x10,
            b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\x05\x02\0\0\0\0\0\x01t\0\x01m",
        ),
        l(
            "will without payload",
            None,
            0x10,
            b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\0\0\x01t\0\0",
        ),
        l(
            "the same user property twice",
            None,
            0x10,
            b"\0\x04MQTT\x05\x02\0\0\x0E\x26\0\x01k\0\x01v\x26\0\x01k\0\x01v\0\x01a",
        ),
        l("PUBLISH expiry 0", V5, 0x30, b"\0\x01a\x05\x02\0\0\0\0x"),
        l("PUBLISH by alias", V5, 0x32, b"\0\0\0\x01\x03\x23\0\x01x"),
        l("PUBLISH without payload", V3, 0x31, b"\0\x01a"),
        l("PUBLISH to a topic of slashes", V3, 0x30, b"\0\x02//"),
        l("PUBACK with a reason alone", V5, 0x40, &[0, 1, 0x10]),
        l("PUBACK with an empty property block", V5, 0x40, &[0, 1, 0, 0]),
        l("PUBREL with DUP in 3.1", Some(Version::V31), 0x6A, &[0, 1]),
        l(
            "SUBSCRIBE with DUP in 3.1",
            Some(Version::V31),
            0x8A,
            b"\0\x01\0\x01a\x01",
        ),
        l("SUBSCRIBE with every option", V5, 0x82, b"\0\x01\0\0\x01#\x2E"),
        l("UNSUBSCRIBE from two", V3, 0xA2, b"\0\x01\0\x01a\0\x01b"),
        l("DISCONNECT with a reason alone", V5, 0xE0, &[4]),
        l("DISCONNECT with nothing", V5, 0xE0, &[]),
        l("AUTH", V5, 0xF0, b"\x18\x04\x15\0\x01m"),
        l("PINGREQ", V3, 0xC0, &[]),
        l("PINGREQ", V5, 0xC0, &[]),
        l(
            "5.0 with everything",
            None,
            0x10,
            b"\0\x04MQTT\x05\xF6\0\x0A\x23\x11\0\0\0\x01\x21\0\x01\x27\0\0\x01\0\x22\0\x01\x19\x01\x17\0\x26\0\x01k\0\x01v\
              \x15\0\x01m\x16\0\x01d\0\x01a\x14\x18\0\0\0\x01\x01\x01\x02\0\0\0\x05\x03\0\x01c\x08\0\x01r\0\x01t\0\x01m\0\x01u\
              \0\x01p",
        ),
        l(
            "PUBLISH with everything",
            V5,
            0x3D,
            b"\0\x01a\0\x01\x1D\x01\x01\x02\0\0\0\x05\x23\0\x01\x08\0\x01r\x09\0\x01d\x26\0\x01k\0\x01v\x03\0\x01cx",
        ),
        l("PUBLISH at QoS 1", V3, 0x32, b"\0\x01a\0\x01x"),
        l("PUBLISH at QoS 2 again", V3, 0x3C, b"\0\x01a\xFF\xFFx"),
        l("PUBACK", V3, 0x40, &[0, 1]),
        l("PUBREC", V3, 0x50, &[0, 1]),
        l("PUBREL", V3, 0x62, &[0, 1]),
        l("PUBCOMP", V3, 0x70, &[0, 1]),
        l("PUBREC with a reason string", V5, 0x50, b"\0\x01\x97\x04\x1F\0\x01r"),
        l("PUBREL with a reason", V5, 0x62, &[0, 1, 0x92]),
        l("PUBCOMP with user properties", V5, 0x70, b"\0\x01\0\x07\x26\0\x01k\0\x01v"),
        l("SUBSCRIBE to two", V3, 0x82, b"\0\x01\0\x01a\x01\0\x01b\x02"),
        l(
            "SUBSCRIBE with an identifier and user properties",
            V5,
            0x82,
            b"\0\x01\x0C\x0B\xFF\xFF\xFF\x7F\x26\0\x01k\0\x01v\0\x01#\x02",
        ),
        l("UNSUBSCRIBE", V5, 0xA2, b"\0\x01\0\0\x01a"),
        l("DISCONNECT", V3, 0xE0, &[]),
        l(
            "DISCONNECT with everything",
            V5,
            0xE0,
            b"\0\x10\x11\0\0\0\x01\x1F\0\x01r\x26\0\x01k\0\x01v",
        ),
    ]
}

/// Every packet of this file by its name.
pub(crate) fn packets() -> impl Iterator<Item = (&'static str, Option<Version>, Vec<u8>)> {
    let malformed = malformed().into_iter();
    malformed
        .map(|(name, version, bytes, _)| (name, version, bytes))
        .chain(legal())
}

#[test]
fn every_malformed_packet_is_refused_with_its_reason() {
    let cases = malformed();
    assert!(cases.len() >= 59, "only {} cases", cases.len());
    for (name, version, bytes, reason) in cases {
        match next(&bytes, version, PACKET_BYTES_MAX, &mut Vec::new()) {
            Next::Malformed(why) => assert_eq!(why.reason, reason, "{name}: {}", why.text),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn every_legal_packet_is_accepted() {
    for (name, version, bytes) in legal() {
        match next(&bytes, version, PACKET_BYTES_MAX, &mut Vec::new()) {
            Next::Packet(_, length) => assert_eq!(length, bytes.len(), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_prefix_of_a_packet_is_never_a_packet_and_never_malformed_if_the_whole_is_legal() {
    for (name, version, bytes) in legal() {
        for end in 0..bytes.len() {
            match next(&bytes[..end], version, PACKET_BYTES_MAX, &mut Vec::new()) {
                Next::Incomplete(needed) => assert!(needed > end && needed <= bytes.len().max(2), "{name}"),
                other => panic!("{name} cut at {end}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_packet_whose_length_was_cut_with_its_bytes_is_answered() {
    let all = legal()
        .into_iter()
        .chain(malformed().into_iter().map(|(n, v, b, _)| (n, v, b)));
    for (_, version, bytes) in all {
        // All cases are shorter than 128 bytes: their body begins at 2.
        for end in 2..bytes.len() {
            let cut = frame(bytes[0], &bytes[2..end]);
            assert!(!matches!(
                next(&cut, version, PACKET_BYTES_MAX, &mut Vec::new()),
                Next::Incomplete(_)
            ));
        }
    }
}

/// v5 [MQTT-3.3.2-6]: expiry 0 is a value like any other.
#[test]
fn expiry_0_and_mqtt_3_1_arrive_as_they_were_sent() {
    let find = |wanted: &str| {
        let cases = legal();
        cases
            .into_iter()
            .find(|(name, ..)| *name == wanted)
            .map(|(_, v, b)| (v, b))
            .unwrap()
    };
    let mut scratch = Vec::new();
    let (version, bytes) = find("will expiry 0");
    let Next::Packet(Packet::Connect(connect), _) = next(&bytes, version, PACKET_BYTES_MAX, &mut scratch) else {
        panic!()
    };
    assert_eq!(connect.will.as_ref().unwrap().expiry, Some(0));

    let (version, bytes) = find("PUBLISH expiry 0");
    let Next::Packet(Packet::Publish(publish), _) = next(&bytes, version, PACKET_BYTES_MAX, &mut scratch) else {
        panic!()
    };
    assert_eq!((publish.properties.expiry, publish.payload), (Some(0), &b"x"[..]));

    let (version, bytes) = find("MQTT 3.1 with everything");
    let Next::Packet(Packet::Connect(connect), _) = next(&bytes, version, PACKET_BYTES_MAX, &mut scratch) else {
        panic!()
    };
    assert_eq!(connect.version, Version::V31);
    assert_eq!((connect.keep_alive, connect.client_id.as_str()), (10, "a"));
    assert_eq!(connect.username.as_deref(), Some("u"));
    assert_eq!(connect.will.unwrap().topic, "t");
}

fn any_version() -> impl Strategy<Value = Option<Version>> {
    prop_oneof![
        Just(None),
        Just(Some(Version::V31)),
        Just(Some(Version::V311)),
        Just(Some(Version::V5))
    ]
}

proptest! {
    #[test]
    fn random_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200), version in any_version()) {
        let _answer = next(&bytes, version, PACKET_BYTES_MAX, &mut Vec::new());
    }

    #[test]
    fn a_random_body_under_a_true_header_is_answered(
        first in any::<u8>(),
        body in prop::collection::vec(any::<u8>(), 0..200),
        version in any_version(),
    ) {
        let bytes = frame(first, &body);
        let mut scratch = Vec::new();
        let answer = next(&bytes, version, PACKET_BYTES_MAX, &mut scratch);
        prop_assert!(!matches!(answer, Next::Incomplete(_)));
    }

    /// What the rules let pass, the codec understands: if not, a rule is missing.
    #[test]
    fn a_legal_packet_with_a_changed_byte_never_reaches_the_codec_in_vain(
        case in 0..legal().len(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let (name, version, mut bytes) = legal().swap_remove(case);
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Next::Malformed(why) = next(&bytes, version, PACKET_BYTES_MAX, &mut Vec::new()) {
            prop_assert_ne!(why.text, "the codec refuses the packet", "{} {:?}", name, bytes);
        }
    }
}
