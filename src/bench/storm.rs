//! Opens many connections, so many at once, and ends or keeps them.
//!
//! **Invariants**
//! - Each is counted once: opened, refused or lost.
//! - A latency begins with the call that connects and ends when the CONNACK is read.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::histogram::Histogram;
use super::poller::{Interest, Poller};
use super::wire::{self, Connect, Incoming, Next};
use crate::frontend::mqtt::frame::Version;

/// Nothing has come for so long: what is on its way is lost.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// How long one round waits.
const ROUND_MAX: Duration = Duration::from_millis(50);
/// Addresses 127.0.0.x that connections to this machine come from in turn: each has 28,000 ports.
const SOURCES: u32 = 200;

/// What happens to a connection that is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// DISCONNECT.
    Disconnect,
    /// A reset, and no word.
    Reset,
    /// It stays.
    Hold,
}

/// Which connections.
pub(super) struct Storm<'a> {
    /// The broker.
    pub(super) broker: SocketAddr,
    /// Version spoken.
    pub(super) version: Version,
    /// Beginning of the client names.
    pub(super) prefix: &'a str,
    /// User name.
    pub(super) username: Option<&'a str>,
    /// Password.
    pub(super) password: Option<&'a str>,
    /// How many in all.
    pub(super) connections: usize,
    /// How many at once.
    pub(super) concurrency: usize,
    /// Sessions that stay.
    pub(super) persistent: bool,
    /// A subscription for each, to a topic of its own.
    pub(super) subscribe: bool,
    /// What happens when one is open.
    pub(super) end: End,
    /// What the progress line calls it, if there is one.
    pub(super) progress: Option<&'static str>,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Passed {
    /// From connecting to CONNACK.
    pub(super) connack: Histogram,
    /// Connections that were opened.
    pub(super) opened: u64,
    /// The broker said no.
    pub(super) refused: u64,
    /// No answer came.
    pub(super) lost: u64,
    /// The first reason for either.
    pub(super) reason: Option<String>,
    /// How long it took.
    pub(super) seconds: f64,
    /// Those that stay.
    pub(super) held: Vec<TcpStream>,
}

/// A connection on its way.
struct Candidate {
    stream: TcpStream,
    begun: Instant,
    out: Vec<u8>,
    held: Vec<u8>,
    is_open: bool,
}

/// What became of a candidate.
enum Step {
    Waits,
    Open,
    Refused(String),
    Lost(String),
}

/// Lets this process have as many open files as the system gives it, if it wants so many more.
///
/// # Errors
/// It gives fewer.
pub(super) fn allow_files(wanted: usize) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = wanted as u64 + 100;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if current < wanted {
        return Err(format!(
            "the system lets this program have {current} open files, and {wanted} are needed (ulimit -n)"
        ));
    }
    let limit = Rlimit {
        current: Some(current),
        ..limit
    };
    setrlimit(Resource::Nofile, limit).map_err(|error| format!("cannot raise the number of open files: {error}"))
}

impl Storm<'_> {
    /// Opens them all.
    ///
    /// # Errors
    /// Not even the first can be opened.
    pub(super) fn run(&self) -> Result<Passed, String> {
        let mut poller = Poller::new()?;
        let mut passed = Passed::default();
        let mut slots: Vec<Option<Candidate>> = Vec::new();
        slots.resize_with(self.concurrency.clamp(1, self.connections.max(1)), || None);
        let mut free: Vec<usize> = (0..slots.len()).rev().collect();
        let mut begun = 0;
        let mut scratch = vec![0; 4_096];
        let start = Instant::now();
        let (mut last_moved, mut last_shown) = (start, (start, 0));
        while begun < self.connections || free.len() < slots.len() {
            while begun < self.connections
                && let Some(slot) = free.pop()
            {
                match self.begin(begun) {
                    Ok(candidate) => {
                        // What connects at once is watched for its answer alone.
                        let interest = if candidate.out.is_empty() {
                            Interest::Read
                        } else {
                            Interest::ReadWrite
                        };
                        poller.add(slot, &candidate.stream, interest)?;
                        if let Some(place) = slots.get_mut(slot) {
                            *place = Some(candidate);
                        }
                    }
                    Err(reason) if begun == 0 => return Err(reason),
                    Err(reason) => {
                        passed.lost += 1;
                        passed.reason.get_or_insert(reason);
                        free.push(slot);
                    }
                }
                begun += 1;
            }
            poller.wait(ROUND_MAX)?;
            for at in 0..poller.ready_count() {
                let Some(slot) = poller.ready(at) else { continue };
                let Some(candidate) = slots.get_mut(slot).and_then(Option::as_mut) else {
                    continue;
                };
                let step = self.advance(slot, candidate, &poller, &mut scratch, &mut passed.connack);
                if matches!(step, Step::Waits) {
                    continue;
                }
                if let Some(candidate) = slots.get_mut(slot).and_then(Option::take) {
                    free.push(slot);
                    self.settle(step, candidate, &poller, &mut passed)?;
                }
                last_moved = Instant::now();
            }
            if last_moved.elapsed() >= QUIET_MAX {
                passed.lost += (slots.len() - free.len()) as u64;
                passed.reason.get_or_insert_with(|| "no answer".into());
                break;
            }
            self.show(&passed, &mut last_shown);
        }
        passed.seconds = start.elapsed().as_secs_f64();
        if passed.opened == 0
            && let Some(reason) = passed.reason
        {
            return Err(reason);
        }
        Ok(passed)
    }

    /// Connects, without waiting, and says CONNECT if that is possible already.
    fn begin(&self, number: usize) -> Result<Candidate, String> {
        let failed = |error: Errno| format!("cannot connect to {}: {error}", self.broker);
        let family = if self.broker.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let begun = Instant::now();
        let socket: OwnedFd = net::socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
        sockopt::set_tcp_nodelay(&socket, true).map_err(failed)?;
        if let SocketAddr::V4(broker) = self.broker
            && broker.ip().is_loopback()
        {
            let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + 1 + number as u32 % SOURCES);
            sockopt::set_socket_reuseaddr(&socket, true).map_err(failed)?;
            net::bind(&socket, &SocketAddrV4::new(source, 0)).map_err(failed)?;
        }
        match net::connect(&socket, &self.broker) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(failed(error)),
        }
        let mut candidate = Candidate {
            stream: socket.into(),
            begun,
            out: Vec::new(),
            held: Vec::new(),
            is_open: false,
        };
        let connect = Connect {
            client: &format!("{}-c-{number}", self.prefix),
            version: self.version,
            clean: true,
            persistent: self.persistent,
            username: self.username,
            password: self.password,
        };
        wire::connect(&mut candidate.out, &connect);
        if self.subscribe {
            let filter = [format!("{}/idle/{number}", self.prefix)];
            wire::subscribe(&mut candidate.out, self.version, 1, &filter, 1);
        }
        // If it is not connected yet it is written when it is; if it never will be, the next read says so.
        drop(candidate.write());
        Ok(candidate)
    }

    fn advance(
        &self,
        slot: usize,
        candidate: &mut Candidate,
        poller: &Poller,
        scratch: &mut [u8],
        connack: &mut Histogram,
    ) -> Step {
        if !candidate.out.is_empty() {
            if let Err(error) = candidate.write() {
                return Step::Lost(format!("cannot connect to {}: {error}", self.broker));
            }
            if candidate.out.is_empty()
                && let Err(reason) = poller.change(slot, &candidate.stream, Interest::Read)
            {
                return Step::Lost(reason);
            }
        }
        match candidate.stream.read(scratch) {
            Ok(0) => return Step::Lost("the broker closes a connection without an answer".into()),
            Ok(read) => candidate
                .held
                .extend_from_slice(scratch.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Step::Waits,
            Err(error) => return Step::Lost(format!("a connection is lost: {error}")),
        }
        let mut rest = candidate.held.as_slice();
        loop {
            let (packet, length) = match wire::next(rest, self.version) {
                Ok(Next::Packet(packet, length)) => (packet, length),
                Ok(Next::Incomplete(_)) => break,
                Err(reason) => return Step::Lost(reason),
            };
            rest = rest.get(length..).unwrap_or_default();
            match packet {
                Incoming::Connack { code: 0, .. } => {
                    connack.record(candidate.begun.elapsed().as_nanos() as u64);
                    candidate.is_open = true;
                    if !self.subscribe {
                        return Step::Open;
                    }
                }
                Incoming::Connack { code, .. } => return Step::Refused(format!("CONNACK with code {code}")),
                Incoming::Suback(code) if code < 0x80 && candidate.is_open => return Step::Open,
                Incoming::Suback(code) => return Step::Refused(format!("SUBACK with code {code}")),
                Incoming::Disconnect(code) => return Step::Refused(format!("DISCONNECT with code {code}")),
                _ => {}
            }
        }
        let seen = candidate.held.len() - rest.len();
        candidate.held.drain(..seen);
        Step::Waits
    }

    /// Ends a candidate, or keeps it.
    fn settle(&self, step: Step, mut candidate: Candidate, poller: &Poller, passed: &mut Passed) -> Result<(), String> {
        match step {
            Step::Waits => {}
            Step::Open => {
                passed.opened += 1;
                match self.end {
                    End::Hold => {
                        poller.remove(&candidate.stream)?;
                        passed.held.push(candidate.stream);
                    }
                    // If it is gone already, or the option cannot be set, closing ends it as well.
                    End::Disconnect => drop(candidate.stream.write_all(&wire::DISCONNECT)),
                    End::Reset => drop(sockopt::set_socket_linger(&candidate.stream, Some(Duration::ZERO))),
                }
            }
            Step::Refused(reason) => {
                passed.refused += 1;
                passed.reason.get_or_insert(reason);
            }
            Step::Lost(reason) => {
                passed.lost += 1;
                passed.reason.get_or_insert(reason);
            }
        }
        Ok(())
    }

    #[expect(clippy::print_stderr, reason = "the progress line is for the person who waits")]
    fn show(&self, passed: &Passed, shown: &mut (Instant, u64)) {
        let Some(phase) = self.progress else { return };
        let seconds = shown.0.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            let rate = (passed.opened - shown.1) as f64 / seconds;
            eprintln!(
                "{phase}: {rate:.0}/s, {} of {}, {} refused, {} lost",
                passed.opened, self.connections, passed.refused, passed.lost
            );
            *shown = (Instant::now(), passed.opened);
        }
    }
}

impl Candidate {
    /// Writes what the socket takes. While it is not connected that is nothing.
    fn write(&mut self) -> std::io::Result<()> {
        match self.stream.write(&self.out) {
            Ok(written) => {
                self.out.drain(..written);
                Ok(())
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
