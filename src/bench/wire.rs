//! Packets as a client writes and reads them: heads made once, no allocation a message.

use crate::frontend::mqtt::frame::{Cut, Kind, PACKET_BYTES_MAX, Reader, Version, cut, put_variable, variable_bytes};

/// What a broker sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Incoming<'a> {
    /// The session is open, or refused with a code other than 0.
    Connack { code: u8, session_present: bool },
    /// A message; the packet id is 0 with `QoS` 0.
    Publish { qos: u8, packet_id: u16, payload: &'a [u8] },
    /// `true`: refused.
    Puback(u16, bool),
    /// `true`: refused.
    Pubrec(u16, bool),
    /// The broker lets go of a message.
    Pubrel(u16),
    /// The end of a `QoS` 2 exchange.
    Pubcomp(u16),
    /// The highest code of a SUBACK.
    Suback(u8),
    /// The broker ends the connection, with a reason.
    Disconnect(u8),
    /// Nothing that matters here.
    Other,
}

/// What stands at the beginning of what was read.
pub(super) enum Next<'a> {
    /// A packet of so many bytes.
    Packet(Incoming<'a>, usize),
    /// The beginning of one that has at least so many bytes.
    Incomplete(usize),
}

/// The first packet of `bytes`.
///
/// # Errors
/// It is not a packet a broker may send.
pub(super) fn next(bytes: &[u8], version: Version) -> Result<Next<'_>, String> {
    let frame = match cut(bytes, PACKET_BYTES_MAX) {
        Cut::Frame(frame) => frame,
        Cut::Incomplete(needed) => return Ok(Next::Incomplete(needed)),
        Cut::Malformed(why) => return Err(why.to_string()),
    };
    let mut reader = Reader::new(frame.body);
    let mut decode = || {
        Ok(match frame.kind {
            Kind::Publish => {
                let qos = (frame.flags >> 1) & 3;
                reader.binary()?;
                let packet_id = if qos > 0 { reader.u16()? } else { 0 };
                if version.is_v5() {
                    reader.properties()?;
                }
                let payload = reader.rest();
                Incoming::Publish {
                    qos,
                    packet_id,
                    payload,
                }
            }
            Kind::Puback => Incoming::Puback(reader.u16()?, refused(reader)),
            Kind::Pubrec => Incoming::Pubrec(reader.u16()?, refused(reader)),
            Kind::Pubrel => Incoming::Pubrel(reader.u16()?),
            Kind::Pubcomp => Incoming::Pubcomp(reader.u16()?),
            Kind::Connack => {
                let session_present = reader.byte()? & 1 == 1;
                let code = reader.byte()?;
                Incoming::Connack { code, session_present }
            }
            Kind::Suback => {
                reader.u16()?;
                if version.is_v5() {
                    reader.properties()?;
                }
                Incoming::Suback(reader.rest().iter().copied().max().unwrap_or(0x80))
            }
            Kind::Disconnect => Incoming::Disconnect(frame.body.first().copied().unwrap_or(0)),
            _ => Incoming::Other,
        })
    };
    let packet = decode().map_err(|why: crate::frontend::mqtt::frame::Malformed| why.to_string())?;
    Ok(Next::Packet(packet, frame.whole.len()))
}

fn refused(mut reader: Reader<'_>) -> bool {
    reader.byte().is_ok_and(|reason| reason >= 0x80)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Who connects, and how.
pub(super) struct Connect<'a> {
    /// Client id.
    pub(super) client: &'a str,
    /// Version.
    pub(super) version: Version,
    /// Forget what the broker has of it.
    pub(super) clean: bool,
    /// The session outlives the connection.
    pub(super) persistent: bool,
    /// User name and password.
    pub(super) username: Option<&'a str>,
    /// See `username`.
    pub(super) password: Option<&'a str>,
}

/// CONNECT without keep-alive.
pub(super) fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    let mut body = Vec::new();
    put_text(&mut body, "MQTT");
    let is_v5 = connect.version.is_v5();
    body.push(if is_v5 { 5 } else { 4 });
    // 3.1.1 has one flag for both: a session that is to stay must not begin clean.
    let clean = if is_v5 { connect.clean } else { !connect.persistent };
    let flag = |set: bool, bit: u8| if set { 1 << bit } else { 0 };
    body.push(flag(clean, 1) | flag(connect.password.is_some(), 6) | flag(connect.username.is_some(), 7));
    body.extend_from_slice(&[0, 0]);
    if is_v5 {
        let expiry: u32 = if connect.persistent { u32::MAX } else { 0 };
        body.extend_from_slice(&[8, 0x11]);
        body.extend_from_slice(&expiry.to_be_bytes());
        // Receive maximum and session expiry; the former is the protocol's largest, said for brokers that think less.
        body.extend_from_slice(&[0x21, 0xFF, 0xFF]);
    }
    put_text(&mut body, connect.client);
    for text in [connect.username, connect.password].into_iter().flatten() {
        put_text(&mut body, text);
    }
    out.push(0x10);
    put_variable(out, body.len() as u32);
    out.extend_from_slice(&body);
}

/// SUBSCRIBE to some filters.
pub(super) fn subscribe(out: &mut Vec<u8>, version: Version, packet_id: u16, filters: &[String], qos: u8) {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version.is_v5() {
        body.push(0);
    }
    for filter in filters {
        put_text(&mut body, filter);
        body.push(qos);
    }
    out.push(0x82);
    put_variable(out, body.len() as u32);
    out.extend_from_slice(&body);
}

/// PUBLISH up to the packet id: fixed header and topic.
pub(super) fn publish_head(version: Version, qos: u8, topic: &str, payload_bytes: usize) -> Vec<u8> {
    let remaining = 2 + topic.len() + if qos > 0 { 2 } else { 0 } + usize::from(version.is_v5()) + payload_bytes;
    let mut head = Vec::with_capacity(1 + variable_bytes(remaining as u32) + 2 + topic.len());
    head.push(0x30 | qos << 1);
    put_variable(&mut head, remaining as u32);
    put_text(&mut head, topic);
    head
}

/// The rest of the head of a PUBLISH.
pub(super) fn publish_middle(out: &mut Vec<u8>, version: Version, qos: u8, packet_id: u16) {
    if qos > 0 {
        out.extend_from_slice(&packet_id.to_be_bytes());
    }
    if version.is_v5() {
        out.push(0);
    }
}

/// An acknowledgement, by its first byte.
pub(super) fn ack(out: &mut Vec<u8>, first: u8, packet_id: u16) {
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

/// DISCONNECT.
pub(super) const DISCONNECT: [u8; 2] = [0xE0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_read_back_in_both_versions() {
        for version in [Version::V311, Version::V5] {
            for qos in 0..=2 {
                let mut bytes = publish_head(version, qos, "a/b", 200);
                publish_middle(&mut bytes, version, qos, 7);
                bytes.extend_from_slice(&[9; 200]);
                assert!(matches!(next(&bytes[..50], version), Ok(Next::Incomplete(needed)) if needed == bytes.len()));
                let Ok(Next::Packet(packet, length)) = next(&bytes, version) else {
                    panic!()
                };
                assert_eq!(length, bytes.len());
                let packet_id = if qos > 0 { 7 } else { 0 };
                let payload = &[9; 200][..];
                assert_eq!(
                    packet,
                    Incoming::Publish {
                        qos,
                        packet_id,
                        payload
                    }
                );
            }
        }
    }

    #[test]
    fn a_refusal_is_seen_in_an_acknowledgement() {
        fn read(bytes: &[u8]) -> Incoming<'_> {
            match next(bytes, Version::V5) {
                Ok(Next::Packet(packet, _)) => packet,
                _ => panic!(),
            }
        }
        assert_eq!(read(&[0x40, 2, 0, 5]), Incoming::Puback(5, false));
        assert_eq!(read(&[0x40, 3, 0, 5, 0x10]), Incoming::Puback(5, false));
        assert_eq!(read(&[0x50, 3, 0, 5, 0x97]), Incoming::Pubrec(5, true));
        assert_eq!(read(&[0x90, 5, 0, 1, 0, 1, 0x87]), Incoming::Suback(0x87));
    }
}
