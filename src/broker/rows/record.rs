//! The publish record: what a message looks like in its topic's log. Fixed layout, read in place.
//!
//! ```text
//! offset size field, little-endian
//!      0    2 flags: bits 0-1 QoS, 2 retain, 3 payload format utf8, 4 has expiry, 5 over HTTP, 6 will,
//!             7 by the server, 8 payload does not have its topic's type
//!      2    1 payload type: 0 binary, 1 utf8, 2 json, 3 named in the extras
//!      3    1 reserved, 0
//!      4    4 expiry, seconds as given
//!      8    4 publisher length P
//!     12    2 account length A
//!     14    2 reserved, 0
//!     16    4 properties length R
//!     20    4 extras length E
//!     24    P publisher: client name        24+P    A account
//!        then R properties: raw MQTT 5 bytes of content type, response topic, correlation data, user properties
//!        then E extras: a row; then the payload to the end of the record
//! ```

use crate::broker::message::{PayloadType, Qos};

/// Bytes before the publisher.
pub const HEAD_BYTES: usize = 24;

const RETAIN: u16 = 1 << 2;
const PAYLOAD_UTF8: u16 = 1 << 3;
const HAS_EXPIRY: u16 = 1 << 4;
const OVER_HTTP: u16 = 1 << 5;
const WILL: u16 = 1 << 6;
const BY_SERVER: u16 = 1 << 7;

/// Where a message came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Origin {
    /// An MQTT PUBLISH.
    #[default]
    Mqtt,
    /// The HTTP API.
    Http,
    /// A will.
    Will,
    /// The server itself.
    Server,
}

/// A message as it is stored, borrowed from wherever its bytes lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// `QoS` it was published with.
    pub qos: Qos,
    /// Published with RETAIN.
    pub retain: bool,
    /// Payload Format Indicator 1.
    pub payload_utf8: bool,
    /// Message Expiry Interval in seconds, as given.
    pub expiry: Option<u32>,
    /// Where it came from.
    pub origin: Origin,
    /// What the payload is.
    pub payload_type: PayloadType,
    /// Client name of the publisher.
    pub publisher: &'a str,
    /// Account of the publisher.
    pub account: &'a str,
    /// Raw MQTT 5 properties: content type, response topic, correlation data, user properties.
    pub properties: &'a [u8],
    /// A row with what MQTT cannot carry; empty if there is nothing.
    pub extras: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// The first bytes of the stored form; publisher, account, properties, extras and payload follow as they are.
    pub fn head(&self) -> [u8; HEAD_BYTES] {
        let mut flags = self.qos as u16;
        for (bit, set) in [
            (RETAIN, self.retain),
            (PAYLOAD_UTF8, self.payload_utf8),
            (HAS_EXPIRY, self.expiry.is_some()),
        ] {
            flags |= if set { bit } else { 0 };
        }
        flags |= match self.origin {
            Origin::Mqtt => 0,
            Origin::Http => OVER_HTTP,
            Origin::Will => WILL,
            Origin::Server => BY_SERVER,
        };
        let mut head = [0; HEAD_BYTES];
        let fields: [&[u8]; 8] = [
            &flags.to_le_bytes(),
            &[self.payload_type as u8, 0],
            &self.expiry.unwrap_or(0).to_le_bytes(),
            &(self.publisher.len() as u32).to_le_bytes(),
            &(self.account.len() as u16).to_le_bytes(),
            &[0, 0],
            &(self.properties.len() as u32).to_le_bytes(),
            &(self.extras.len() as u32).to_le_bytes(),
        ];
        let mut rest = &mut head[..];
        for field in fields {
            let (place, behind) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = behind;
        }
        head
    }

    /// The parts of the stored form, behind `head`.
    pub fn parts<'p>(&'p self, head: &'p [u8; HEAD_BYTES]) -> [&'p [u8]; 6]
    where
        'a: 'p,
    {
        [
            head,
            self.publisher.as_bytes(),
            self.account.as_bytes(),
            self.properties,
            self.extras,
            self.payload,
        ]
    }

    /// Reads the stored form; `None` if the bytes are no record.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [
            f0,
            f1,
            payload_type,
            _,
            e0,
            e1,
            e2,
            e3,
            p0,
            p1,
            p2,
            p3,
            a0,
            a1,
            _,
            _,
            r0,
            r1,
            r2,
            r3,
            x0,
            x1,
            x2,
            x3,
        ] = *head;
        let flags = u16::from_le_bytes([f0, f1]);
        let (publisher, rest) = rest.split_at_checked(u32::from_le_bytes([p0, p1, p2, p3]) as usize)?;
        let (account, rest) = rest.split_at_checked(u16::from_le_bytes([a0, a1]) as usize)?;
        let (properties, rest) = rest.split_at_checked(u32::from_le_bytes([r0, r1, r2, r3]) as usize)?;
        let (extras, payload) = rest.split_at_checked(u32::from_le_bytes([x0, x1, x2, x3]) as usize)?;
        Some(Self {
            qos: Qos::from_bits((flags & 3) as u8)?,
            retain: flags & RETAIN != 0,
            payload_utf8: flags & PAYLOAD_UTF8 != 0,
            expiry: (flags & HAS_EXPIRY != 0).then(|| u32::from_le_bytes([e0, e1, e2, e3])),
            origin: match flags & (OVER_HTTP | WILL | BY_SERVER) {
                0 => Origin::Mqtt,
                OVER_HTTP => Origin::Http,
                WILL => Origin::Will,
                _ => Origin::Server,
            },
            payload_type: PayloadType::from_byte(payload_type),
            publisher: std::str::from_utf8(publisher).ok()?,
            account: std::str::from_utf8(account).ok()?,
            properties,
            extras,
            payload,
        })
    }

    /// Whether stored bytes say that they were published with RETAIN; nothing else is looked at.
    pub fn says_retain(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|flags| u16::from(*flags) & RETAIN != 0)
    }

    /// Whether the record, accepted at `time`, has expired at `now` (both ms since 1970).
    pub fn expired(&self, time: i64, now: i64) -> bool {
        // Over HTTP 0 means never (spec/messages.md 3), over MQTT expired on arrival (spec/semantics.md 5); an HTTP
        // publish without expiry carries none.
        self.expiry
            .is_some_and(|seconds| now >= time.saturating_add(i64::from(seconds) * 1_000))
    }

    /// Seconds left at `now`, rounded up, if the message expires at all.
    pub fn expiry_left(&self, time: i64, now: i64) -> Option<u32> {
        let seconds = self.expiry?;
        let left = time.saturating_add(i64::from(seconds) * 1_000).saturating_sub(now);
        Some((left.max(0).saturating_add(999) / 1_000).min(i64::from(seconds)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record<'static> {
        Record {
            qos: Qos::ExactlyOnce,
            retain: true,
            payload_utf8: true,
            expiry: Some(60),
            origin: Origin::Http,
            payload_type: PayloadType::Json,
            publisher: "pump-7",
            account: "ADMIN",
            properties: &[3, 0, 1, b'x'],
            extras: &[9],
            payload: b"{}",
        }
    }

    #[test]
    fn a_record_reads_back_and_a_prefix_is_never_taken_for_more_than_it_is() {
        let record = sample();
        let bytes = record.parts(&record.head()).concat();
        assert_eq!(Record::parse(&bytes), Some(record));
        for length in 0..bytes.len() - record.payload.len() {
            assert_eq!(Record::parse(&bytes[..length]), None);
        }
    }

    #[test]
    fn the_remaining_expiry_is_rounded_up_and_never_more_than_was_given() {
        let record = sample();
        assert_eq!(record.expiry_left(1_000, 1_000), Some(60));
        assert_eq!(record.expiry_left(1_000, 1_001), Some(60));
        assert_eq!(record.expiry_left(1_000, 60_999), Some(1));
        assert!(!record.expired(1_000, 60_999));
        assert!(record.expired(1_000, 61_000));
    }
}
