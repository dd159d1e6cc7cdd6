//! A raw MQTT client: it sends whatever bytes a test wants, right or wrong, and reads packets one by one. What it
//! receives is decoded by ntex-mqtt's codec, so that it shares no code with the server.

#![allow(dead_code, reason = "each test binary uses its part of it")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use ntex_bytes::{BytePages, BytesMut};
use ntex_codec::{Decoder, Encoder};
pub use ntex_mqtt::v3::codec as c3;
pub use ntex_mqtt::v5::codec as c5;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What a test waits for at most; only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Protocol level in CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// 3.1
    V31 = 3,
    /// 3.1.1
    V311 = 4,
    /// 5.0
    V5 = 5,
}

/// The levels most tests run with.
pub const LEVELS: [Level; 2] = [Level::V311, Level::V5];

/// A packet from the server, alike for all versions. `code` is the reason or return code, 0 where there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    Connack {
        session_present: bool,
        code: u8,
        /// All of it, in 5.0.
        v5: Option<Box<c5::ConnectAck>>,
    },
    Publish(Box<Message>),
    Puback(u16, u8),
    Pubrec(u16, u8),
    Pubrel(u16, u8),
    Pubcomp(u16, u8),
    Suback(u16, Vec<u8>),
    Unsuback(u16, Vec<u8>),
    Pingresp,
    Disconnect(u8),
    Auth(u8),
}

/// A PUBLISH from the server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    /// 0 for `QoS` 0.
    pub packet_id: u16,
    pub payload: Vec<u8>,
    /// Empty before 5.0.
    pub properties: c5::PublishProperties,
}

impl Received {
    /// The message, if it is one.
    #[track_caller]
    pub fn message(self) -> Message {
        match self {
            Self::Publish(message) => *message,
            other => panic!("expected PUBLISH, got {other:?}"),
        }
    }
}

/// What a client talks over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A client, on a TCP connection unless a test brings another stream.
pub struct RawClient {
    stream: Box<dyn Stream>,
    level: Level,
    unread: Vec<u8>,
    /// Messages that came while the end of an exchange was waited for.
    passed_over: VecDeque<Message>,
}

impl RawClient {
    /// Opens a connection and sends nothing.
    pub async fn open(address: SocketAddr, level: Level) -> Self {
        let stream = timeout(PATIENCE, TcpStream::connect(address))
            .await
            .expect("connect in time")
            .expect("connect");
        stream.set_nodelay(true).expect("no delay");
        Self::over(stream, level)
    }

    /// A client on a stream that is open, that has sent nothing.
    pub fn over(stream: impl Stream + 'static, level: Level) -> Self {
        Self {
            stream: Box::new(stream),
            level,
            unread: Vec::new(),
            passed_over: VecDeque::new(),
        }
    }

    /// Opens a connection, sends a plain CONNECT and expects it to be accepted. Returns whether there was a session.
    pub async fn hello(address: SocketAddr, level: Level, client_id: &str, clean: bool) -> (Self, bool) {
        Self::open(address, level).await.greet(client_id, clean).await
    }

    /// Sends a plain CONNECT and expects it to be accepted. Returns whether there was a session.
    pub async fn greet(mut self, client_id: &str, clean: bool) -> (Self, bool) {
        let level = self.level;
        // A session that is not clean outlives its connection in every version.
        let expiry = if clean { 0 } else { u32::MAX };
        self.send(&connect(level, client_id, clean, expiry)).await;
        match self.next().await {
            Received::Connack {
                session_present,
                code: 0,
                ..
            } => (self, session_present),
            other => panic!("expected an accepting CONNACK, got {other:?}"),
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("send in time")
            .expect("send");
    }

    /// Sends a packet of 5.0.
    pub async fn send_v5(&mut self, packet: impl Into<c5::Encoded>) {
        let mut pages = BytePages::default();
        c5::Codec::new().encodev(packet.into(), &mut pages).expect("encode");
        self.send(&pages.freeze()).await;
    }

    /// Sends a packet of 3.1.1.
    pub async fn send_v3(&mut self, packet: impl Into<c3::Encoded>) {
        let mut pages = BytePages::default();
        c3::Codec::new().encodev(packet.into(), &mut pages).expect("encode");
        self.send(&pages.freeze()).await;
    }

    /// The bytes of the next frame, or `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = frame_length(&self.unread)
                && length <= self.unread.len()
            {
                let rest = self.unread.split_off(length);
                return Some(std::mem::replace(&mut self.unread, rest));
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread))
                .await
                .expect("a packet in time");
            match read {
                Ok(0) | Err(_) => {
                    assert!(self.unread.is_empty(), "the connection ended within a packet");
                    return None;
                }
                Ok(_) => {}
            }
        }
    }

    /// Opens a connection, if anybody listens.
    pub async fn try_open(address: SocketAddr, level: Level) -> Option<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await.ok()?.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self::over(stream, level))
    }

    /// Sends bytes to a server that may be gone; whether they could be handed over.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        sent.expect("the server reads what is sent to it").is_ok()
    }

    /// The next packet of a server that may die in the middle of one; `None` at the end. Waits as long as it takes,
    /// and loses nothing when it is dropped before its end.
    pub async fn next_or_end(&mut self) -> Option<Received> {
        loop {
            if let Some(packet) = self.next_unread() {
                return Some(packet);
            }
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next packet that was read already.
    pub fn next_unread(&mut self) -> Option<Received> {
        let length = frame_length(&self.unread).filter(|length| *length <= self.unread.len())?;
        let rest = self.unread.split_off(length);
        let frame = std::mem::replace(&mut self.unread, rest);
        Some(decode(&frame, self.level))
    }

    /// The next packet.
    #[track_caller]
    pub fn next(&mut self) -> impl Future<Output = Received> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            if let Some(message) = self.passed_over.pop_front() {
                return Received::Publish(Box::new(message));
            }
            let frame = self
                .frame()
                .await
                .unwrap_or_else(|| panic!("{caller}: the connection ended"));
            decode(&frame, self.level)
        }
    }

    /// Expects exactly this packet.
    #[track_caller]
    pub fn expect(&mut self, wanted: Received) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            let got = self.next().await;
            assert!(got == wanted, "{caller}: expected {wanted:?}, got {got:?}");
        }
    }

    /// Expects a message and answers it as its `QoS` wants, to the end of the exchange.
    pub async fn take(&mut self) -> Message {
        let message = self.next().await.message();
        match message.qos {
            1 => self.send(&ack(0x40, message.packet_id)).await,
            2 => {
                self.send(&ack(0x50, message.packet_id)).await;
                let mut passed_over = std::mem::take(&mut self.passed_over);
                loop {
                    match self.next().await {
                        Received::Publish(message) => passed_over.push_back(*message),
                        other => {
                            assert_eq!(other, Received::Pubrel(message.packet_id, 0));
                            break;
                        }
                    }
                }
                self.passed_over = passed_over;
                self.send(&ack(0x70, message.packet_id)).await;
            }
            _ => {}
        }
        message
    }

    /// Subscribes to one filter and expects it to be granted in full.
    pub async fn subscribe(&mut self, filter: &str, qos: u8) {
        self.send(&subscribe(self.level, 0x7777, &[(filter, qos)])).await;
        self.expect(Received::Suback(0x7777, vec![qos])).await;
    }

    /// Publishes and expects every answer the `QoS` brings.
    pub async fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, packet_id: u16) {
        let bytes = publish(self.level, topic, payload, qos, packet_id, false);
        self.send(&bytes).await;
        match qos {
            1 => self.expect(Received::Puback(packet_id, 0)).await,
            2 => {
                self.expect(Received::Pubrec(packet_id, 0)).await;
                self.send(&ack(0x62, packet_id)).await;
                self.expect(Received::Pubcomp(packet_id, 0)).await;
            }
            _ => {}
        }
    }

    /// Sends PINGREQ and expects PINGRESP next: everything sent before was handled, and nothing came of it.
    pub async fn ping(&mut self) {
        self.send(&[0xC0, 0]).await;
        self.expect(Received::Pingresp).await;
    }

    /// Expects the server to end the connection, perhaps with a DISCONNECT, whose reason is returned.
    pub async fn closed(&mut self) -> Option<u8> {
        let mut reason = None;
        while let Some(frame) = self.frame().await {
            match decode(&frame, self.level) {
                Received::Disconnect(code) => reason = Some(code),
                other => panic!("expected the end of the connection, got {other:?}"),
            }
        }
        reason
    }

    /// Sends DISCONNECT and waits for the end.
    pub async fn goodbye(mut self) {
        self.send(&[0xE0, 0]).await;
        while self.frame().await.is_some() {}
    }

    /// Cuts the connection without a word.
    pub fn vanish(self) {
        drop(self.stream);
    }
}

/// Bytes of the frame that begins here, once its length is known.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(at + 2 + length);
        }
    }
    None
}

fn decode(frame: &[u8], level: Level) -> Received {
    let mut buffer = BytesMut::copy_from_slice(frame);
    if level == Level::V5 {
        let decoded = c5::Codec::new().decode(&mut buffer);
        decode_v5(
            decoded
                .unwrap_or_else(|why| panic!("{why:?} in {frame:02X?}"))
                .expect("a whole packet"),
        )
    } else {
        let decoded = c3::Codec::new().decode(&mut buffer);
        decode_v3(
            decoded
                .unwrap_or_else(|why| panic!("{why:?} in {frame:02X?}"))
                .expect("a whole packet"),
        )
    }
}

fn decode_v5(decoded: c5::Decoded) -> Received {
    let packet = match decoded {
        c5::Decoded::Publish(publish, payload, _) => {
            return Received::Publish(Box::new(Message {
                dup: publish.dup,
                qos: publish.qos.into(),
                retain: publish.retain,
                topic: publish.topic.to_string(),
                packet_id: publish.packet_id.map_or(0, u16::from),
                payload: payload.to_vec(),
                properties: publish.properties,
            }));
        }
        c5::Decoded::Packet(packet, _) => packet,
        c5::Decoded::PayloadChunk(..) => panic!("a piece of a payload"),
    };
    match packet {
        c5::Packet::ConnectAck(connack) => Received::Connack {
            session_present: connack.session_present,
            code: connack.reason_code.into(),
            v5: Some(connack),
        },
        c5::Packet::PublishAck(ack) => Received::Puback(ack.packet_id.get(), ack.reason_code.into()),
        c5::Packet::PublishReceived(ack) => Received::Pubrec(ack.packet_id.get(), ack.reason_code.into()),
        c5::Packet::PublishRelease(ack) => Received::Pubrel(ack.packet_id.get(), ack.reason_code.into()),
        c5::Packet::PublishComplete(ack) => Received::Pubcomp(ack.packet_id.get(), ack.reason_code.into()),
        c5::Packet::SubscribeAck(ack) => {
            Received::Suback(ack.packet_id.get(), ack.status.into_iter().map(u8::from).collect())
        }
        c5::Packet::UnsubscribeAck(ack) => {
            Received::Unsuback(ack.packet_id.get(), ack.status.into_iter().map(u8::from).collect())
        }
        c5::Packet::PingResponse => Received::Pingresp,
        c5::Packet::Disconnect(disconnect) => Received::Disconnect(disconnect.reason_code.into()),
        c5::Packet::Auth(auth) => Received::Auth(auth.reason_code.into()),
        other => panic!("a server cannot send {other:?}"),
    }
}

fn decode_v3(decoded: c3::Decoded) -> Received {
    let packet = match decoded {
        c3::Decoded::Publish(publish, payload, _) => {
            return Received::Publish(Box::new(Message {
                dup: publish.dup,
                qos: publish.qos.into(),
                retain: publish.retain,
                topic: publish.topic.to_string(),
                packet_id: publish.packet_id.map_or(0, u16::from),
                payload: payload.to_vec(),
                properties: c5::PublishProperties::default(),
            }));
        }
        c3::Decoded::Packet(packet, _) => packet,
        c3::Decoded::PayloadChunk(..) => panic!("a piece of a payload"),
    };
    match packet {
        c3::Packet::ConnectAck(connack) => Received::Connack {
            session_present: connack.session_present,
            code: connack.return_code.into(),
            v5: None,
        },
        c3::Packet::PublishAck { packet_id } => Received::Puback(packet_id.get(), 0),
        c3::Packet::PublishReceived { packet_id } => Received::Pubrec(packet_id.get(), 0),
        c3::Packet::PublishRelease { packet_id } => Received::Pubrel(packet_id.get(), 0),
        c3::Packet::PublishComplete { packet_id } => Received::Pubcomp(packet_id.get(), 0),
        c3::Packet::SubscribeAck { packet_id, status } => {
            let code = |status| match status {
                c3::SubscribeReturnCode::Success(qos) => u8::from(qos),
                c3::SubscribeReturnCode::Failure => 0x80,
            };
            Received::Suback(packet_id.get(), status.into_iter().map(code).collect())
        }
        c3::Packet::UnsubscribeAck { packet_id } => Received::Unsuback(packet_id.get(), Vec::new()),
        c3::Packet::PingResponse => Received::Pingresp,
        other => panic!("a server cannot send {other:?}"),
    }
}

/// A frame from its first byte and body.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(body);
    out
}

/// A string with its length.
pub fn text(text: &str) -> Vec<u8> {
    let mut out = u16::try_from(text.len())
        .expect("a short string")
        .to_be_bytes()
        .to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

/// A plain CONNECT without keep alive. Before 5.0 the expiry cannot be said.
pub fn connect(level: Level, client_id: &str, clean: bool, session_expiry: u32) -> Vec<u8> {
    let mut body = text(if level == Level::V31 { "MQIsdp" } else { "MQTT" });
    body.extend_from_slice(&[level as u8, u8::from(clean) << 1, 0, 0]);
    if level == Level::V5 {
        body.extend_from_slice(&[5, 0x11]);
        body.extend_from_slice(&session_expiry.to_be_bytes());
    }
    body.extend_from_slice(&text(client_id));
    frame(0x10, &body)
}

/// A PUBLISH without properties. The packet id is left out for `QoS` 0.
pub fn publish(level: Level, topic: &str, payload: &[u8], qos: u8, packet_id: u16, retain: bool) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend_from_slice(&packet_id.to_be_bytes());
    }
    if level == Level::V5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    frame(0x30 | qos << 1 | u8::from(retain), &body)
}

/// A SUBSCRIBE without properties; each filter with its option byte.
pub fn subscribe(level: Level, packet_id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if level == Level::V5 {
        body.push(0);
    }
    for (filter, options) in filters {
        body.extend_from_slice(&text(filter));
        body.push(*options);
    }
    frame(0x82, &body)
}

/// An UNSUBSCRIBE without properties.
pub fn unsubscribe(level: Level, packet_id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if level == Level::V5 {
        body.push(0);
    }
    for filter in filters {
        body.extend_from_slice(&text(filter));
    }
    frame(0xA2, &body)
}

/// A PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70) that says success.
pub fn ack(first: u8, packet_id: u16) -> Vec<u8> {
    frame(first, &packet_id.to_be_bytes())
}
