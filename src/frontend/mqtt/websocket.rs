//! MQTT over an open WebSocket, as a stream of bytes: what is written travels in binary frames, what comes in them is read.
//!
//! tungstenite knows the heads of frames. Their payload is not collected, as its sockets do, but passes through: it is
//! unmasked in the reader's own buffer, and written from the writer's. So a packet in one huge frame takes its room
//! where every packet does, in [`super::input::Budget`], and a client cannot claim memory by announcing a frame.
//!
//! **Invariants**
//! - A WebSocket owns no buffer, except for the rest of a head and the payload of control frames, together less than 1 KiB.
//! - After the head of a frame exactly its payload is written; other frames go before or behind.
//! - One pong waits at most, the answer to the latest ping, so a client that does not read gains nothing by pinging.
//! - Nothing is written after a Close frame, and nothing is handed on after one came.
//!
//! Spec: section 6 of both versions, RFC 6455.

use std::io::{self, Cursor, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};

/// The longest head of a frame, RFC 6455 5.2.
const HEAD_BYTES_MAX: usize = 14;
/// The longest payload of a control frame, RFC 6455 5.5.
const CONTROL_BYTES_MAX: u64 = 125;
/// Payload of the frames we write. Libraries that collect messages have limits, often 1 MiB, and a pong has to wait for
/// the end of a frame.
const FRAME_BYTES_MAX: usize = 256 << 10;
/// Pieces handed to the system in one write.
const SLICE_COUNT_MAX: usize = 16;

/// The server's end of a WebSocket on any stream.
pub struct WebSocket<S> {
    stream: S,
    incoming: Incoming,
    outgoing: Outgoing,
}

/// Why nothing more is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// A Close frame came; this code is the answer.
    Closed(CloseCode),
    /// The client broke the protocol.
    Broken(CloseCode, &'static str),
}

impl End {
    const fn code(self) -> CloseCode {
        match self {
            Self::Closed(code) | Self::Broken(code, _) => code,
        }
    }
}

/// What the present frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Data,
    Ping,
    Pong,
    Close,
}

/// The reading side, without the stream.
struct Incoming {
    /// The beginning of a head.
    head: [u8; HEAD_BYTES_MAX],
    head_length: usize,
    kind: Kind,
    /// Payload of the present frame that is still to come,
    left: u64,
    /// and the key in the rotation of its next byte.
    key: [u8; 4],
    /// A message goes on in the next data frame.
    within_message: bool,
    /// Payload of the present control frame.
    control: Vec<u8>,
    /// What the latest unanswered ping carried.
    ping: Option<Vec<u8>>,
    end: Option<End>,
}

/// The writing side, without the stream.
#[derive(Default)]
struct Outgoing {
    /// Control frames, and behind them the head of a data frame.
    head: Vec<u8>,
    /// So much of it is written.
    written: usize,
    /// Payload that was announced and is not written.
    owed: usize,
    /// The stream may hold bytes back.
    unflushed: bool,
    close: Option<CloseCode>,
    close_is_staged: bool,
}

impl<S> WebSocket<S> {
    /// A stream whose opening handshake is done.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
        }
    }
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            head: [0; HEAD_BYTES_MAX],
            head_length: 0,
            kind: Kind::Data,
            left: 0,
            key: [0; 4],
            within_message: false,
            control: Vec::new(),
            ping: None,
            end: None,
        }
    }
}

impl Incoming {
    /// Moves the payload of data frames to the front of `bytes` and returns its length. Stops at the end.
    fn unframe(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() && self.end.is_none() {
            if self.left == 0 {
                at += self.take_head(bytes.get(at..).unwrap_or_default());
                continue;
            }
            let count = self.left.min((bytes.len() - at) as u64) as usize;
            let payload = bytes.get_mut(at..at + count).unwrap_or_default();
            self.key = unmask(payload, self.key);
            if self.kind == Kind::Data {
                bytes.copy_within(at..at + count, kept);
                kept += count;
            } else {
                self.control.extend_from_slice(payload);
            }
            at += count;
            self.left -= count as u64;
            if self.left == 0 {
                self.end_frame();
            }
        }
        kept
    }

    /// Takes what belongs to a head; returns how much that was.
    fn take_head(&mut self, bytes: &[u8]) -> usize {
        let had = self.head_length;
        for (to, from) in self.head.iter_mut().skip(had).zip(bytes) {
            *to = *from;
            self.head_length += 1;
        }
        let mut cursor = Cursor::new(self.head.get(..self.head_length).unwrap_or_default());
        match FrameHeader::parse(&mut cursor) {
            Ok(Some((head, length))) => {
                let used = cursor.position() as usize - had;
                self.head_length = 0;
                if let Err(end) = self.begin_frame(&head, length) {
                    self.end = Some(end);
                } else if length == 0 {
                    self.end_frame();
                }
                used
            }
            Ok(None) => self.head_length - had,
            Err(_) => {
                self.end = Some(broken("a frame of an unknown kind"));
                self.head_length - had
            }
        }
    }

    fn begin_frame(&mut self, head: &FrameHeader, length: u64) -> Result<(), End> {
        if head.rsv1 || head.rsv2 || head.rsv3 {
            return Err(broken("a frame uses an extension that was not agreed on"));
        }
        // RFC 6455 5.1
        self.key = head.mask.ok_or(broken("a frame is not masked"))?;
        self.kind = match head.opcode {
            OpCode::Data(Data::Binary) if !self.within_message => Kind::Data,
            OpCode::Data(Data::Continue) if self.within_message => Kind::Data,
            OpCode::Data(Data::Binary | Data::Continue) => {
                return Err(broken("the frames of messages are mixed up"));
            }
            // v5 [MQTT-6.0.0-1], v3.1.1 [MQTT-6.0.0-1]
            OpCode::Data(_) => {
                let text = "a frame is text; MQTT travels in binary frames";
                return Err(End::Broken(CloseCode::Unsupported, text));
            }
            OpCode::Control(Control::Ping) => Kind::Ping,
            OpCode::Control(Control::Pong) => Kind::Pong,
            OpCode::Control(_) => Kind::Close,
        };
        if self.kind == Kind::Data {
            if length > i64::MAX as u64 {
                return Err(broken("the length of a frame is impossible"));
            }
            self.within_message = !head.is_final;
        } else if !head.is_final || length > CONTROL_BYTES_MAX {
            return Err(broken("a control frame is too long or in pieces"));
        }
        self.left = length;
        Ok(())
    }

    fn end_frame(&mut self) {
        if self.kind == Kind::Data {
            return;
        }
        let payload = std::mem::take(&mut self.control);
        match self.kind {
            Kind::Data | Kind::Pong => {}
            Kind::Ping => self.ping = Some(payload),
            Kind::Close => {
                self.end = Some(match *payload.as_slice() {
                    [] => End::Closed(CloseCode::Normal),
                    [high, low, ..] => {
                        let code = CloseCode::from(u16::from_be_bytes([high, low]));
                        End::Closed(if code.is_allowed() { code } else { CloseCode::Protocol })
                    }
                    [_] => broken("a Close frame has half a code"),
                });
            }
        }
    }
}

const fn broken(why: &'static str) -> End {
    End::Broken(CloseCode::Protocol, why)
}

/// Applies the key in place; returns it in the rotation that the next byte needs.
fn unmask(bytes: &mut [u8], key: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut next = key;
    next.rotate_left(bytes.len() % 4);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    next
}

impl Outgoing {
    fn rest_of_head(&self) -> &[u8] {
        self.head.get(self.written..).unwrap_or_default()
    }

    fn head_was_written(&mut self, count: usize) {
        self.written += count;
        self.unflushed = true;
        if self.written >= self.head.len() {
            self.head.clear();
            self.written = 0;
        }
    }

    /// Puts what waits between two data frames into the head.
    fn stage_control(&mut self, ping: &mut Option<Vec<u8>>) -> io::Result<()> {
        if self.owed > 0 || self.close_is_staged {
            return Ok(());
        }
        if let Some(payload) = ping.take() {
            Frame::pong(payload).format(&mut self.head).map_err(io::Error::other)?;
        }
        if let Some(code) = self.close {
            let frame = CloseFrame {
                code,
                reason: "".into(),
            };
            Frame::close(Some(frame))
                .format(&mut self.head)
                .map_err(io::Error::other)?;
            self.close_is_staged = true;
        }
        Ok(())
    }

    fn stage_data(&mut self, length: usize) -> io::Result<()> {
        let head = FrameHeader {
            opcode: OpCode::Data(Data::Binary),
            ..FrameHeader::default()
        };
        head.format(length as u64, &mut self.head).map_err(io::Error::other)?;
        self.owed = length;
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Writes the control frames that may go out now, and a head that was staged.
    fn poll_control(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.stage_control(&mut self.incoming.ping)?;
        loop {
            let rest = self.outgoing.rest_of_head();
            if rest.is_empty() {
                break;
            }
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.outgoing.head_was_written(count),
            }
        }
        if self.outgoing.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.outgoing.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once into `buf` and leaves there what is payload.
    fn poll_unframe(&mut self, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
        let bytes = buf.filled_mut().get_mut(start..).unwrap_or_default();
        let is_end_of_stream = bytes.is_empty();
        let kept = self.incoming.unframe(bytes);
        buf.set_filled(start + kept);
        Poll::Ready(Ok(is_end_of_stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buf.filled().len();
        loop {
            let end = this.incoming.end;
            if let Some(end) = end {
                this.outgoing.close.get_or_insert(end.code());
            }
            // A client that does not read need not hear it: nobody waits for this.
            let told = if this.incoming.ping.is_some() || end.is_some() || this.outgoing.unflushed {
                this.poll_control(context)
            } else {
                Poll::Ready(Ok(()))
            };
            match end {
                None => {
                    if let Poll::Ready(Err(error)) = told {
                        return Poll::Ready(Err(error));
                    }
                }
                Some(end) => {
                    if told.is_ready() {
                        // What is to be said is said; how the stream takes its end changes nothing any more.
                        drop(Pin::new(&mut this.stream).poll_shutdown(context));
                    }
                    return Poll::Ready(match end {
                        End::Closed(_) => Ok(()),
                        End::Broken(_, why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
                    });
                }
            }
            if buf.remaining() == 0 || ready!(this.poll_unframe(context, buf))? || buf.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// One frame for all of it, written together with its head.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.outgoing.owed == 0 {
            if this.outgoing.close.is_some() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let length: usize = pieces.iter().map(|piece| piece.len()).sum();
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
            this.outgoing.stage_control(&mut this.incoming.ping)?;
            this.outgoing.stage_data(length.min(FRAME_BYTES_MAX))?;
        }
        loop {
            let head = this.outgoing.rest_of_head();
            let of_head = head.len();
            let mut room = this.outgoing.owed;
            let mut slices = SmallVec::<[IoSlice<'_>; SLICE_COUNT_MAX]>::new();
            if of_head > 0 {
                slices.push(IoSlice::new(head));
            }
            for piece in pieces {
                let fitting = piece.get(..room.min(piece.len())).unwrap_or_default();
                if !fitting.is_empty() && slices.len() < SLICE_COUNT_MAX {
                    slices.push(IoSlice::new(fitting));
                    room -= fitting.len();
                }
            }
            let stream = Pin::new(&mut this.stream);
            let count = match slices.as_slice() {
                [] => return Poll::Ready(Ok(0)),
                [one] => ready!(stream.poll_write(context, one))?,
                several => ready!(stream.poll_write_vectored(context, several))?,
            };
            drop(slices);
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.outgoing.head_was_written(count.min(of_head));
            if count > of_head {
                this.outgoing.owed -= count - of_head;
                return Poll::Ready(Ok(count - of_head));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.outgoing.unflushed = true;
        this.poll_control(context)
    }

    /// Says Close and waits for the client's, because the server is to end the stream first, but not before both were
    /// said. RFC 6455 7.1.1
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.outgoing.owed == 0 {
            this.outgoing.close.get_or_insert(CloseCode::Normal);
            this.outgoing.unflushed |= !this.outgoing.close_is_staged;
            ready!(this.poll_control(context))?;
            while this.incoming.end.is_none() {
                let mut bytes = [0; 512];
                match ready!(this.poll_unframe(context, &mut ReadBuf::new(&mut bytes))) {
                    Ok(false) => {}
                    Ok(true) | Err(_) => break,
                }
            }
        }
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const BINARY: u8 = 0x82;

    /// A masked frame; `first` is its first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let key = [0x11, 0x82, 0xF3, 0x04];
        let mut out = vec![first];
        match payload.len() {
            short @ 0..=125 => out.push(0x80 | short as u8),
            middle @ 126..=0xFFFF => {
                out.push(0xFE);
                out.extend_from_slice(&(middle as u16).to_be_bytes());
            }
            long => {
                out.push(0xFF);
                out.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&key);
        out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        out
    }

    fn pair() -> (WebSocket<DuplexStream>, DuplexStream) {
        let (here, there) = duplex(1 << 20);
        (WebSocket::new(here), there)
    }

    /// Everything up to the end, read in pieces of `room`, with the error if there was one.
    async fn read_all(socket: &mut WebSocket<DuplexStream>, room: usize) -> (Vec<u8>, Option<String>) {
        let mut got = Vec::new();
        let mut piece = vec![0; room];
        loop {
            match socket.read(&mut piece).await {
                Ok(0) => return (got, None),
                Ok(count) => got.extend_from_slice(&piece[..count]),
                Err(error) => return (got, Some(error.to_string())),
            }
        }
    }

    fn payload(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
    }

    #[tokio::test]
    async fn payload_is_one_stream_however_it_is_cut_into_messages_frames_and_reads() {
        let wanted = payload(200_000);
        let mut bytes = Vec::new();
        let mut at = 0;
        for (index, length) in [0, 1, 3, 125, 126, 4_000, 65_535, 65_536, 64_674]
            .into_iter()
            .enumerate()
        {
            let part = &wanted[at..at + length];
            at += length;
            if index % 3 == 0 {
                bytes.extend(frame(BINARY, part));
                continue;
            }
            // A message in three frames with a ping and a pong between them.
            let (a, rest) = part.split_at(length / 3);
            let (b, c) = rest.split_at(rest.len() / 2);
            bytes.extend(frame(0x02, a));
            bytes.extend(frame(0x89, b"are you there"));
            bytes.extend(frame(0x00, b));
            bytes.extend(frame(0x8A, b"unasked"));
            bytes.extend(frame(0x80, c));
        }
        assert_eq!(at, wanted.len());
        for (chunk, room) in [(1, 7), (1, 64 << 10), (13, 1), (1_000, 1_024), (1 << 20, 64 << 10)] {
            let (mut socket, there) = pair();
            let (mut answers, mut there) = tokio::io::split(there);
            let bytes = bytes.clone();
            let writer = tokio::spawn(async move {
                for part in bytes.chunks(chunk) {
                    there.write_all(part).await.unwrap();
                }
                there.shutdown().await.unwrap();
            });
            let reader = tokio::spawn(async move { answers.read_to_end(&mut Vec::new()).await });
            assert_eq!(
                read_all(&mut socket, room).await,
                (wanted.clone(), None),
                "{chunk} {room}"
            );
            writer.await.unwrap();
            drop(socket);
            assert!(reader.await.unwrap().unwrap() >= 15, "pings are answered");
        }
    }

    #[tokio::test]
    async fn what_breaks_the_protocol_ends_it_with_a_code_behind_what_came_before() {
        let long = [0x88, 0xFE, 0x00, 0x7E, 1, 2, 3, 4];
        let cases: [(&[u8], u16); 10] = [
            (&frame(0x81, b"text"), 1003),
            (&[BINARY, 0x01, b'm'], 1002),
            (&frame(0xC2, b"m"), 1002),
            (&frame(0x80, b"m"), 1002),
            (&[frame(0x02, b"m"), frame(BINARY, b"m")].concat(), 1002),
            (&frame(0x83, b"m"), 1002),
            (&frame(0x8B, b"m"), 1002),
            (&frame(0x09, b"m"), 1002),
            (&frame(0x88, b"m"), 1002),
            (&long, 1002),
        ];
        for (bytes, code) in cases {
            let (mut socket, mut there) = pair();
            there.write_all(&frame(BINARY, b"before ")).await.unwrap();
            there.write_all(bytes).await.unwrap();
            there.write_all(&frame(BINARY, b"behind")).await.unwrap();
            let (got, error) = read_all(&mut socket, 1_000).await;
            assert!(got.starts_with(b"before "), "{bytes:X?}");
            assert!(error.is_some(), "{bytes:X?}");
            drop(socket);
            let mut answer = Vec::new();
            there.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, [&[0x88, 2][..], &code.to_be_bytes()].concat(), "{bytes:X?}");
        }
    }

    #[tokio::test]
    async fn a_close_is_answered_and_nothing_behind_it_is_read() {
        for (said, answered) in [(&b""[..], 1000_u16), (&[0x03, 0xE9, b'x'], 1001), (&[0x03, 0xED], 1002)] {
            let (mut socket, mut there) = pair();
            there.write_all(&frame(BINARY, b"m")).await.unwrap();
            there.write_all(&frame(0x88, said)).await.unwrap();
            there.write_all(&frame(BINARY, b"behind")).await.unwrap();
            assert_eq!(read_all(&mut socket, 1_000).await, (b"m".to_vec(), None));
            let error = socket.write_all(b"late").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            drop(socket);
            let mut answer = Vec::new();
            there.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, [&[0x88, 2][..], &answered.to_be_bytes()].concat());
        }
    }

    #[tokio::test]
    async fn each_write_is_one_binary_frame() {
        let (mut socket, mut there) = pair();
        for length in [1, 125, 126, 65_535, 65_536, 300_000] {
            let wanted = payload(length);
            let pieces = [IoSlice::new(&wanted[..length / 2]), IoSlice::new(&wanted[length / 2..])];
            let count = socket.write_vectored(&pieces).await.unwrap();
            socket.flush().await.unwrap();
            let frame_length = length.min(FRAME_BYTES_MAX);
            let head = match frame_length {
                short @ 0..=125 => vec![BINARY, short as u8],
                middle @ 126..=0xFFFF => [&[BINARY, 126][..], &(middle as u16).to_be_bytes()].concat(),
                long => [&[BINARY, 127][..], &(long as u64).to_be_bytes()].concat(),
            };
            let mut got = vec![0; head.len()];
            there.read_exact(&mut got).await.unwrap();
            assert_eq!(got, head);
            // A pipe takes one piece at a time; what is left of the frame goes out without another head.
            socket.write_all(&wanted[count..frame_length]).await.unwrap();
            socket.flush().await.unwrap();
            let mut got = vec![0; frame_length];
            there.read_exact(&mut got).await.unwrap();
            assert_eq!(got, wanted[..frame_length]);
        }
    }

    #[tokio::test]
    async fn a_pong_waits_for_the_end_of_a_frame_and_only_the_latest_is_sent() {
        let (here, mut there) = duplex(64);
        let mut socket = WebSocket::new(here);
        let wanted = payload(100);
        poll_fn(|context| {
            let mut at = 0;
            while let Poll::Ready(count) = Pin::new(&mut socket).poll_write(context, &wanted[at..]) {
                at += count.unwrap();
            }
            assert_eq!(at, 62);
            Poll::Ready(())
        })
        .await;
        there.write_all(&frame(0x89, b"1")).await.unwrap();
        there.write_all(&frame(0x89, b"22")).await.unwrap();
        let mut room = [0; 64];
        poll_fn(|context| {
            let mut buf = ReadBuf::new(&mut room);
            assert!(Pin::new(&mut socket).poll_read(context, &mut buf).is_pending());
            Poll::Ready(())
        })
        .await;
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            there.read_to_end(&mut got).await.unwrap();
            got
        });
        socket.write_all(&wanted[62..]).await.unwrap();
        socket.flush().await.unwrap();
        drop(socket);
        let expected = [&[BINARY, 100][..], &wanted, &[0x8A, 2], b"22"].concat();
        assert_eq!(reader.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_shutdown_says_close_and_waits_for_the_answer() {
        let (mut socket, mut there) = pair();
        socket.write_all(b"last").await.unwrap();
        let mut shutdown = Box::pin(socket.shutdown());
        poll_fn(|context| {
            assert!(shutdown.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        there.write_all(&frame(BINARY, b"crossed it")).await.unwrap();
        there.write_all(&frame(0x88, &1000_u16.to_be_bytes())).await.unwrap();
        shutdown.await.unwrap();
        let mut got = Vec::new();
        there.read_to_end(&mut got).await.unwrap();
        let close = [&[0x88, 2][..], &1000_u16.to_be_bytes()].concat();
        assert_eq!(got, [&[BINARY, 4][..], b"last", &close].concat());
    }

    #[test]
    fn an_idle_websocket_is_small() {
        assert!(size_of::<WebSocket<()>>() <= 192, "{}", size_of::<WebSocket<()>>());
        assert_eq!(
            Incoming::default().control.capacity() + Outgoing::default().head.capacity(),
            0
        );
    }
}
