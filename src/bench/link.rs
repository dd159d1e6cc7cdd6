//! One connection to the broker: opened blocking, then read and written without waiting, a buffer at a time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::wire::{self, Connect, Incoming, Next};
use crate::frontend::mqtt::frame::Version;

/// For connecting and for each answer while setting up.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// What a worker reads at once, and more while a packet is larger.
pub(super) const READ_BYTES: usize = 256 << 10;

/// A connection.
pub(super) struct Link {
    /// Its socket.
    pub(super) stream: TcpStream,
    version: Version,
    held: Vec<u8>,
    held_needs: usize,
    /// What is to be written.
    pub(super) out: Vec<u8>,
    written: usize,
}

impl Link {
    /// Connects and waits for the CONNACK. Answers also whether the broker had a session.
    ///
    /// # Errors
    /// No connection, or it was refused; the text is for people.
    pub(super) fn open(broker: SocketAddr, connect: &Connect<'_>) -> Result<(Self, bool), String> {
        let failed = |error: io::Error| format!("cannot connect to {broker}: {error}");
        let stream = TcpStream::connect_timeout(&broker, SETUP_TIMEOUT).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(SETUP_TIMEOUT)).map_err(failed)?;
        let mut link = Self {
            stream,
            version: connect.version,
            held: Vec::new(),
            held_needs: 0,
            out: Vec::new(),
            written: 0,
        };
        wire::connect(&mut link.out, connect);
        let mut is_present = false;
        link.wait_for("CONNACK", |packet| match packet {
            Incoming::Connack {
                code: 0,
                session_present,
            } => {
                is_present = session_present;
                Some(Ok(()))
            }
            Incoming::Connack { code, .. } => {
                Some(Err(format!("the broker refuses `{}`: code {code}", connect.client)))
            }
            _ => None,
        })?;
        Ok((link, is_present))
    }

    /// Subscribes and waits for the SUBACK.
    ///
    /// # Errors
    /// It was refused.
    pub(super) fn subscribe(&mut self, filters: &[String], qos: u8) -> Result<(), String> {
        for some in filters.chunks(200) {
            wire::subscribe(&mut self.out, self.version, 1, some, qos);
            self.wait_for("SUBACK", |packet| match packet {
                Incoming::Suback(code) if code < 0x80 => Some(Ok(())),
                Incoming::Suback(code) => Some(Err(format!("the broker refuses a subscription: code {code}"))),
                _ => None,
            })?;
        }
        Ok(())
    }

    /// Writes what is to be written, then reads until the answer is there. Messages that come before it are kept.
    fn wait_for(
        &mut self,
        what: &str,
        mut is_answer: impl FnMut(Incoming<'_>) -> Option<Result<(), String>>,
    ) -> Result<(), String> {
        let failed = |error: io::Error| format!("no {what}: {error}");
        self.stream.write_all(&self.out).map_err(failed)?;
        self.out.clear();
        let mut scratch = vec![0; 64 << 10];
        loop {
            let mut at = 0;
            while let Some(rest) = self.held.get(at..) {
                match wire::next(rest, self.version)? {
                    Next::Packet(packet, length) => {
                        let answer = is_answer(packet);
                        let end = at + length;
                        if let Some(answer) = answer {
                            self.held.drain(at..end);
                            return answer;
                        }
                        if let Incoming::Disconnect(reason) = packet {
                            return Err(format!("no {what}: the broker disconnects with code {reason}"));
                        }
                        at = end;
                    }
                    Next::Incomplete(_) => break,
                }
            }
            let read = self.stream.read(&mut scratch).map_err(failed)?;
            if read == 0 {
                return Err(format!("no {what}: the broker closed the connection"));
            }
            self.held.extend_from_slice(scratch.get(..read).unwrap_or_default());
        }
    }

    /// From now on nothing waits.
    ///
    /// # Errors
    /// The socket cannot.
    pub(super) fn go(&mut self) -> Result<(), String> {
        self.stream
            .set_nonblocking(true)
            .map_err(|error| format!("cannot set up a connection: {error}"))
    }

    /// One read; hands over every whole packet. `false`: there was nothing.
    ///
    /// # Errors
    /// The connection is lost, or what came is no packet.
    pub(super) fn read(
        &mut self,
        scratch: &mut Vec<u8>,
        mut take: impl FnMut(Incoming<'_>, &mut Vec<u8>) -> Result<(), String>,
    ) -> Result<bool, String> {
        let held = self.held.len();
        let room = READ_BYTES.max(self.held_needs) + held;
        if scratch.len() < room {
            scratch.resize(room, 0);
        }
        let Some((front, back)) = scratch.split_at_mut_checked(held) else {
            return Ok(false);
        };
        front.copy_from_slice(&self.held);
        let read = match self.stream.read(back) {
            Ok(0) => return Err("the broker closed a connection".into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(format!("a connection is lost: {error}")),
        };
        if read == 0 && held == 0 {
            return Ok(false);
        }
        self.held.clear();
        self.held_needs = 0;
        let mut rest = scratch.get(..held + read).unwrap_or_default();
        while !rest.is_empty() {
            match wire::next(rest, self.version)? {
                Next::Packet(packet, length) => {
                    take(packet, &mut self.out)?;
                    rest = rest.get(length..).unwrap_or_default();
                }
                Next::Incomplete(needed) => {
                    self.held.extend_from_slice(rest);
                    self.held_needs = needed;
                    break;
                }
            }
        }
        Ok(read > 0)
    }

    /// Writes what the socket takes now.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn write(&mut self) -> Result<(), String> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("a connection is lost: {error}")),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Whether something is left to be written.
    pub(super) fn is_blocked(&self) -> bool {
        !self.out.is_empty()
    }

    /// Says goodbye; nobody waits for it.
    pub(super) fn close(mut self) {
        if self.stream.set_nonblocking(false).is_ok() && self.stream.write_all(&wire::DISCONNECT).is_err() {
            // It is gone already.
        }
    }
}
