//! The frame: fixed header and exactly as many bytes as it announces, cut from what was read. Also the cursor that
//! everything behind it reads the body with.
//!
//! **Invariants**
//! - A frame that is cut is whole; nothing behind it was looked at.
//! - The length is refused as soon as it is known: nobody waits, or makes room, for a packet that is too large.
//! - [`Reader`] answers every shortage with [`Malformed`]; no byte from a client can make it panic.
//!
//! ```text
//!  byte 0      type (4 bits) | flags (4 bits)
//!  byte 1..=4  remaining length: 7 bits a byte, least significant first, in the shortest form
//!  then        remaining length bytes: the body
//! ```

use std::fmt;
use std::num::NonZeroU16;

use super::reason::ReasonCode;

/// The largest remaining length four bytes can say.
pub const REMAINING_LENGTH_MAX: u32 = 268_435_455;
/// The largest packet the protocol can encode, fixed header included.
pub const PACKET_BYTES_MAX: u32 = REMAINING_LENGTH_MAX + 5;

/// Why bytes are refused: the reason code an MQTT 5.0 client is told, and a text for it and for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// What a DISCONNECT or CONNACK says.
    pub reason: ReasonCode,
    /// What is wrong.
    pub text: &'static str,
}

impl Malformed {
    /// The bytes are not a packet.
    pub const fn packet(text: &'static str) -> Self {
        Self {
            reason: ReasonCode::MalformedPacket,
            text,
        }
    }

    /// It is a packet, but it breaks the protocol.
    pub const fn protocol(text: &'static str) -> Self {
        Self {
            reason: ReasonCode::ProtocolError,
            text,
        }
    }

    /// Refused with a reason of its own.
    pub const fn because(reason: ReasonCode, text: &'static str) -> Self {
        Self { reason, text }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.text)
    }
}

impl std::error::Error for Malformed {}

/// Packet types, by the upper four bits of the first byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Client to server: begin.
    Connect = 1,
    /// Server to client: the answer.
    Connack = 2,
    /// A message.
    Publish = 3,
    /// Answer to a `QoS` 1 message.
    Puback = 4,
    /// First answer to a `QoS` 2 message.
    Pubrec = 5,
    /// Release of a `QoS` 2 message.
    Pubrel = 6,
    /// Last answer to a `QoS` 2 message.
    Pubcomp = 7,
    /// Client to server.
    Subscribe = 8,
    /// Server to client.
    Suback = 9,
    /// Client to server.
    Unsubscribe = 10,
    /// Server to client.
    Unsuback = 11,
    /// Client to server.
    Pingreq = 12,
    /// Server to client.
    Pingresp = 13,
    /// The end.
    Disconnect = 14,
    /// A step of enhanced authentication, MQTT 5.0.
    Auth = 15,
}

impl Kind {
    const fn of(first: u8) -> Option<Self> {
        Some(match first >> 4 {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Publish,
            4 => Self::Puback,
            5 => Self::Pubrec,
            6 => Self::Pubrel,
            7 => Self::Pubcomp,
            8 => Self::Subscribe,
            9 => Self::Suback,
            10 => Self::Unsubscribe,
            11 => Self::Unsuback,
            12 => Self::Pingreq,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The flags the fixed header must have; PUBLISH has its own.
    const fn flags(self) -> u8 {
        match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }
}

/// The protocol version a connection speaks, by the level in its CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    /// MQTT 3.1, level 3. Treated as 3.1.1, with its DUP flag on PUBREL, SUBSCRIBE and UNSUBSCRIBE tolerated.
    V31,
    /// MQTT 3.1.1, level 4.
    V311,
    /// MQTT 5.0, level 5.
    V5,
}

impl Version {
    /// Whether packets have properties and reason codes.
    pub const fn is_v5(self) -> bool {
        matches!(self, Self::V5)
    }
}

/// One whole frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Its packet type.
    pub kind: Kind,
    /// The lower four bits of its first byte.
    pub flags: u8,
    /// Everything behind the fixed header.
    pub body: &'a [u8],
    /// Fixed header and body.
    pub whole: &'a [u8],
}

/// What stands at the beginning of a slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut<'a> {
    /// A whole frame of `frame.whole.len()` bytes.
    Frame(Frame<'a>),
    /// The beginning of one. It needs at least so many bytes in all, more than are there.
    Incomplete(usize),
    /// No frame, or one that is too large. Nothing behind it can be read.
    Malformed(Malformed),
}

/// Cuts the first frame of `bytes`. A packet larger than `bytes_max` (fixed header included) is refused by its header.
///
/// The flags of the fixed header are checked with the packet's other rules: they depend on the version.
pub fn cut(bytes: &[u8], bytes_max: u32) -> Cut<'_> {
    let Some((&first, behind)) = bytes.split_first() else {
        return Cut::Incomplete(2);
    };
    let Some(kind) = Kind::of(first) else {
        return Cut::Malformed(Malformed::packet("packet type 0 is reserved"));
    };
    let mut remaining = 0_u32;
    let mut header = 1;
    loop {
        let Some(&byte) = behind.get(header - 1) else {
            return Cut::Incomplete(bytes.len() + 1);
        };
        remaining |= u32::from(byte & 0x7F) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            if byte == 0 && header > 2 {
                return Cut::Malformed(Malformed::packet("the remaining length is not in its shortest form"));
            }
            break;
        }
        if header == 5 {
            return Cut::Malformed(Malformed::packet("the remaining length has more than four bytes"));
        }
    }
    let length = header + remaining as usize;
    if length > bytes_max as usize {
        return Cut::Malformed(Malformed::because(
            ReasonCode::PacketTooLarge,
            "the packet is larger than the maximum packet size",
        ));
    }
    let Some(whole) = bytes.get(..length) else {
        return Cut::Incomplete(length);
    };
    Cut::Frame(Frame {
        kind,
        flags: first & 0x0F,
        body: whole.get(header..).unwrap_or_default(),
        whole,
    })
}

/// Checks the flags of the fixed header of everything but PUBLISH.
///
/// Spec: v5 [MQTT-2.1.3-1], v3.1.1 [MQTT-2.2.2-2].
pub fn check_flags(frame: &Frame<'_>, version: Version) -> Result<(), Malformed> {
    let wanted = frame.kind.flags();
    // MQTT 3.1 gave PUBREL, SUBSCRIBE and UNSUBSCRIBE the DUP flag that only PUBLISH kept.
    let flags = if version == Version::V31 && wanted != 0 {
        frame.flags & !0b1000
    } else {
        frame.flags
    };
    if flags == wanted {
        Ok(())
    } else {
        Err(Malformed::packet("reserved flags of the fixed header are set"))
    }
}

/// A cursor over bytes from a client.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

const SHORT: Malformed = Malformed::packet("the packet is shorter than its fields");

impl<'a> Reader<'a> {
    /// Reads from the beginning of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything was read.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(byte)
    }

    /// A two byte integer.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<2>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// A four byte integer.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<4>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A variable byte integer of at most four bytes, in its shortest form. Spec: v5 [MQTT-1.5.5-1].
    pub fn variable(&mut self) -> Result<u32, Malformed> {
        let mut value = 0_u32;
        for at in 0..4 {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                return if byte == 0 && at > 0 {
                    Err(Malformed::packet("a variable byte integer is not in its shortest form"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(Malformed::packet("a variable byte integer has more than four bytes"))
    }

    /// Binary data with its length.
    pub fn binary(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }

    /// A UTF-8 string with its length, without U+0000. Spec: v5 [MQTT-1.5.4-1, -2], v3.1.1 [MQTT-1.5.3-1, -2].
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.binary()?;
        // Surrogates are no UTF-8 for Rust either.
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::packet("a string is not UTF-8"))?;
        if bytes.contains(&0) {
            return Err(Malformed::packet("a string contains U+0000"));
        }
        Ok(text)
    }

    /// A topic name: a string without wildcards, perhaps empty. Spec: v5 [MQTT-3.3.2-2], v3.1.1 [MQTT-3.3.2-2].
    pub fn topic_name(&mut self) -> Result<&'a str, Malformed> {
        let text = self.text()?;
        if text.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
            return Err(Malformed::because(
                ReasonCode::TopicNameInvalid,
                "a topic name contains a wildcard",
            ));
        }
        Ok(text)
    }

    /// A packet id. Spec: v5 [MQTT-2.2.1-3], v3.1.1 [MQTT-2.3.1-1].
    pub fn packet_id(&mut self) -> Result<NonZeroU16, Malformed> {
        NonZeroU16::new(self.u16()?).ok_or(Malformed::protocol("the packet id is 0"))
    }

    /// The property block at the cursor, without its length.
    pub fn properties(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.variable()?;
        self.bytes(length as usize)
    }

    /// Demands that everything was read.
    pub const fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::packet("the packet is longer than its fields"))
        }
    }
}

/// Appends a variable byte integer; the value is at most [`REMAINING_LENGTH_MAX`].
pub fn put_variable(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`put_variable`] appends.
pub const fn variable_bytes(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8]) -> Frame<'_> {
        match cut(bytes, PACKET_BYTES_MAX) {
            Cut::Frame(frame) => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn exactly_one_frame_is_cut_and_what_follows_is_left() {
        let cut = frame(&[0xC0, 0, 0x40, 2, 0, 1]);
        assert_eq!((cut.kind, cut.whole.len(), cut.body.len()), (Kind::Pingreq, 2, 0));
        let cut = frame(&[0x40, 2, 0, 1, 0xC0]);
        assert_eq!((cut.kind, cut.body, cut.whole.len()), (Kind::Puback, &[0, 1][..], 4));
    }

    #[test]
    fn an_incomplete_frame_says_how_many_bytes_it_needs_at_least() {
        assert_eq!(cut(&[], 100), Cut::Incomplete(2));
        assert_eq!(cut(&[0x30], 100), Cut::Incomplete(2));
        assert_eq!(cut(&[0x30, 0x80], 1000), Cut::Incomplete(3));
        assert_eq!(cut(&[0x30, 0x80, 0x01], 1000), Cut::Incomplete(131));
        assert_eq!(cut(&[0x30, 3, 0, 1], 1000), Cut::Incomplete(5));
    }

    /// v5 [MQTT-3.2.2-15]
    #[test]
    fn a_packet_that_is_too_large_is_refused_by_its_header() {
        assert!(matches!(cut(&[0x30, 98], 100), Cut::Incomplete(100)));
        let Cut::Malformed(why) = cut(&[0x30, 99], 100) else {
            panic!()
        };
        assert_eq!(why.reason, ReasonCode::PacketTooLarge);
        assert_eq!(
            cut(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], PACKET_BYTES_MAX),
            Cut::Incomplete(PACKET_BYTES_MAX as usize)
        );
    }

    #[test]
    fn lengths_that_are_too_long_or_not_shortest_are_malformed() {
        for bytes in [
            &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01][..],
            &[0x30, 0x80, 0x00],
            &[0xC0, 0x80, 0x80, 0x80, 0x00],
            &[0x00, 0x00],
        ] {
            assert!(matches!(cut(bytes, PACKET_BYTES_MAX), Cut::Malformed(_)), "{bytes:?}");
        }
    }

    #[test]
    fn variable_byte_integers_come_back_as_they_went() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            2_097_151,
            2_097_152,
            REMAINING_LENGTH_MAX,
        ] {
            let mut out = Vec::new();
            put_variable(&mut out, value);
            assert_eq!(out.len(), variable_bytes(value));
            assert_eq!(Reader::new(&out).variable(), Ok(value));
        }
    }
}
