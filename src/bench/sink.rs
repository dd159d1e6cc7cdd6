//! A broker that does next to nothing, in memory: what the tool reaches against it is the tool's own ceiling.
//!
//! It knows exact filters and `.../#`, forwards a message to whoever subscribes, acknowledges at once, keeps no session,
//! no retained message and no packet id, and believes its clients. It waits for a subscriber that does not read.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::args::SinkArgs;
use super::poller::{Interest, Poller};
use super::wire;
use crate::frontend::mqtt::frame::{
    Cut, Frame, Kind, Malformed, PACKET_BYTES_MAX, Reader, Version, cut, put_variable, variable_bytes,
};

/// The listener among the connections.
const LISTENER: usize = usize::MAX;
const READ_BYTES: usize = 256 << 10;
/// So much is kept for a subscriber; beyond it is waited for.
const OUT_BYTES_MAX: usize = 1 << 20;

/// Serves until the process is ended.
///
/// # Errors
/// It cannot listen.
#[expect(clippy::print_stdout, reason = "says where it listens")]
pub(super) fn run(args: &SinkArgs) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot listen on {}: {error}", args.listen);
    let listener = TcpListener::bind(args.listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let mut poller = Poller::new()?;
    poller.add(LISTENER, &listener, Interest::Read)?;
    println!("sink {}", listener.local_addr().map_err(failed)?);
    let mut sink = Sink::default();
    let mut scratch = vec![0; READ_BYTES];
    loop {
        poller.wait(Duration::from_secs(1))?;
        for at in 0..poller.ready_count() {
            match poller.ready(at) {
                Some(LISTENER) => sink.accept(&listener, &poller)?,
                Some(number) => sink.read(number, &mut scratch),
                None => {}
            }
        }
        sink.write(&poller)?;
    }
}

/// Who connected.
struct Client {
    stream: TcpStream,
    version: Version,
    held: Vec<u8>,
    /// The last topic it published to, and who gets that.
    topic: Vec<u8>,
    targets: Vec<(usize, u8)>,
    epoch: u64,
}

/// What is to be written to somebody.
struct Out {
    bytes: Vec<u8>,
    written: usize,
    next_id: u16,
    version: Version,
    is_touched: bool,
    is_watched: bool,
}

#[derive(Default)]
struct Sink {
    clients: Vec<Option<Client>>,
    outs: Vec<Out>,
    /// Filter, who, and with which `QoS`.
    subscriptions: Vec<(Vec<u8>, usize, u8)>,
    /// Counts changes of them.
    epoch: u64,
    touched: Vec<usize>,
}

fn matches(filter: &[u8], topic: &[u8]) -> bool {
    match filter.strip_suffix(b"#") {
        Some(beginning) => topic.starts_with(beginning),
        None => filter == topic,
    }
}

impl Sink {
    fn accept(&mut self, listener: &TcpListener, poller: &Poller) -> Result<(), String> {
        while let Ok((stream, _)) = listener.accept() {
            let failed = |error: std::io::Error| format!("cannot set up a connection: {error}");
            stream.set_nonblocking(true).map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let number = self
                .clients
                .iter()
                .position(Option::is_none)
                .unwrap_or(self.clients.len());
            poller.add(number, &stream, Interest::Read)?;
            let client = Some(Client {
                stream,
                version: Version::V5,
                held: Vec::new(),
                topic: Vec::new(),
                targets: Vec::new(),
                epoch: 0,
            });
            let out = Out {
                bytes: Vec::new(),
                written: 0,
                next_id: 0,
                version: Version::V5,
                is_touched: false,
                is_watched: false,
            };
            if let (Some(place), Some(place_out)) = (self.clients.get_mut(number), self.outs.get_mut(number)) {
                *place = client;
                *place_out = out;
            } else {
                self.clients.push(client);
                self.outs.push(out);
            }
        }
        Ok(())
    }

    /// Reads once and does what it says. A client that is gone, or says what is no packet, is dropped.
    fn read(&mut self, number: usize, scratch: &mut Vec<u8>) {
        let Some(mut client) = self.clients.get_mut(number).and_then(Option::take) else {
            return;
        };
        let held = client.held.len();
        scratch.resize(scratch.len().max(held + READ_BYTES), 0);
        let Some((front, back)) = scratch.split_at_mut_checked(held) else {
            return;
        };
        front.copy_from_slice(&client.held);
        let read = match client.stream.read(back) {
            Ok(0) => return self.forget(number),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => return self.forget(number),
        };
        client.held.clear();
        let mut rest = scratch.get(..held + read).unwrap_or_default();
        while !rest.is_empty() {
            match cut(rest, PACKET_BYTES_MAX) {
                Cut::Frame(frame) => {
                    rest = rest.get(frame.whole.len()..).unwrap_or_default();
                    if frame.kind == Kind::Disconnect || self.serve(number, &mut client, &frame).is_err() {
                        return self.forget(number);
                    }
                }
                Cut::Incomplete(_) => {
                    client.held.extend_from_slice(rest);
                    break;
                }
                Cut::Malformed(_) => return self.forget(number),
            }
        }
        if let Some(place) = self.clients.get_mut(number) {
            *place = Some(client);
        }
    }

    fn forget(&mut self, number: usize) {
        self.subscriptions.retain(|(_, subscriber, _)| *subscriber != number);
        self.epoch += 1;
        if let Some(out) = self.outs.get_mut(number) {
            out.bytes.clear();
            out.written = 0;
        }
    }

    fn serve(&mut self, number: usize, client: &mut Client, frame: &Frame<'_>) -> Result<(), Malformed> {
        let mut reader = Reader::new(frame.body);
        match frame.kind {
            Kind::Publish => return self.publish(number, client, frame),
            Kind::Connect => {
                reader.binary()?;
                client.version = if reader.byte()? == 5 {
                    Version::V5
                } else {
                    Version::V311
                };
                let connack: &[u8] = if client.version.is_v5() {
                    &[0x20, 3, 0, 0, 0]
                } else {
                    &[0x20, 2, 0, 0]
                };
                if let Some(out) = self.out(number) {
                    out.version = client.version;
                    out.bytes.extend_from_slice(connack);
                }
            }
            Kind::Subscribe => {
                let id = reader.u16()?;
                if client.version.is_v5() {
                    reader.properties()?;
                }
                let mut codes = Vec::new();
                while !reader.is_empty() {
                    let filter = reader.binary()?.to_vec();
                    let qos = reader.byte()? & 3;
                    codes.push(qos);
                    self.subscriptions.push((filter, number, qos));
                }
                self.epoch += 1;
                let properties = usize::from(client.version.is_v5());
                if let Some(out) = self.out(number) {
                    out.bytes.push(0x90);
                    put_variable(&mut out.bytes, (2 + properties + codes.len()) as u32);
                    out.bytes.extend_from_slice(&id.to_be_bytes());
                    out.bytes.extend(std::iter::repeat_n(0, properties));
                    out.bytes.extend_from_slice(&codes);
                }
            }
            Kind::Pubrec => {
                let id = reader.u16()?;
                self.out(number)
                    .into_iter()
                    .for_each(|out| wire::ack(&mut out.bytes, 0x62, id));
            }
            Kind::Pubrel => {
                let id = reader.u16()?;
                self.out(number)
                    .into_iter()
                    .for_each(|out| wire::ack(&mut out.bytes, 0x70, id));
            }
            Kind::Pingreq => {
                self.out(number)
                    .into_iter()
                    .for_each(|out| out.bytes.extend_from_slice(&[0xD0, 0]));
            }
            _ => {}
        }
        Ok(())
    }

    fn publish(&mut self, number: usize, client: &mut Client, frame: &Frame<'_>) -> Result<(), Malformed> {
        let mut reader = Reader::new(frame.body);
        let qos = (frame.flags >> 1) & 3;
        let topic = reader.binary()?;
        if qos > 0 {
            let id = reader.u16()?;
            let first = if qos == 1 { 0x40 } else { 0x50 };
            self.out(number)
                .into_iter()
                .for_each(|out| wire::ack(&mut out.bytes, first, id));
        }
        if client.version.is_v5() {
            reader.properties()?;
        }
        if client.epoch != self.epoch || client.topic != topic {
            client.epoch = self.epoch;
            client.topic = topic.to_vec();
            let matching = self.subscriptions.iter().filter(|(filter, ..)| matches(filter, topic));
            client.targets = matching.map(|(_, subscriber, qos)| (*subscriber, *qos)).collect();
        }
        let payload = reader.rest();
        for &(subscriber, granted) in &client.targets {
            let Some(out) = self.out(subscriber) else { continue };
            out.publish(topic, payload, qos.min(granted));
            if out.bytes.len() > OUT_BYTES_MAX
                && let Some(Some(target)) = self.clients.get(subscriber)
                && let Some(out) = self.outs.get_mut(subscriber)
            {
                out.wait_for(&target.stream);
            }
        }
        Ok(())
    }

    /// Somebody's buffer; it is written at the end of the round.
    fn out(&mut self, number: usize) -> Option<&mut Out> {
        let out = self.outs.get_mut(number)?;
        if !out.is_touched {
            out.is_touched = true;
            self.touched.push(number);
        }
        Some(out)
    }

    fn write(&mut self, poller: &Poller) -> Result<(), String> {
        for number in std::mem::take(&mut self.touched) {
            let (Some(out), Some(client)) = (self.outs.get_mut(number), self.clients.get(number)) else {
                continue;
            };
            out.is_touched = false;
            let Some(client) = client else { continue };
            out.write(&client.stream);
            let is_blocked = !out.bytes.is_empty();
            if is_blocked != out.is_watched {
                out.is_watched = is_blocked;
                let interest = if is_blocked {
                    Interest::ReadWrite
                } else {
                    Interest::Read
                };
                poller.change(number, &client.stream, interest)?;
            }
            if is_blocked {
                out.is_touched = true;
                self.touched.push(number);
            }
        }
        Ok(())
    }
}

impl Out {
    fn publish(&mut self, topic: &[u8], payload: &[u8], qos: u8) {
        let is_v5 = self.version.is_v5();
        let remaining = 2 + topic.len() + if qos > 0 { 2 } else { 0 } + usize::from(is_v5) + payload.len();
        self.bytes.reserve(1 + variable_bytes(remaining as u32) + remaining);
        self.bytes.push(0x30 | qos << 1);
        put_variable(&mut self.bytes, remaining as u32);
        self.bytes.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(topic);
        if qos > 0 {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            self.bytes.extend_from_slice(&self.next_id.to_be_bytes());
        }
        if is_v5 {
            self.bytes.push(0);
        }
        self.bytes.extend_from_slice(payload);
    }

    /// Writes what the socket takes. What a client that is gone does not take is dropped: its read says so next.
    fn write(&mut self, mut stream: &TcpStream) {
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.bytes.clear();
        self.written = 0;
    }

    /// Writes all of it, however long that takes.
    fn wait_for(&mut self, stream: &TcpStream) {
        self.write(stream);
        while !self.bytes.is_empty() {
            if poll(&mut [PollFd::new(stream, PollFlags::OUT)], None).is_err() {
                return;
            }
            self.write(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_filter_matches_its_topic_or_what_begins_like_it() {
        assert!(matches(b"a/b", b"a/b"));
        assert!(!matches(b"a/b", b"a/bc"));
        assert!(matches(b"a/#", b"a/b/c"));
        assert!(!matches(b"a/#", b"b/c"));
    }
}
