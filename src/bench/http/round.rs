//! Callers that each keep one connection and send a request when the answer to the one before is there.
//!
//! **Invariants**
//! - A caller has one request under way; its latency counts from when the answer before it was there.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::answer::answer;
use super::request::{Request, is_done};
use crate::bench::gauge::{Gauge, Reading};
use crate::bench::histogram::Histogram;
use crate::bench::poller::{Interest, Poller};

/// How long one round waits.
const ROUND_MAX: Duration = Duration::from_millis(20);
/// Nothing has come for so long: it will not.
const QUIET_MAX: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 256 << 10;

/// When a round ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    /// Each caller's requests.
    Count(u64),
    /// Until each caller has what it wants.
    Satisfied,
    /// A time before, and the time that is measured.
    Time(Duration, Duration),
}

/// What a caller thinks of an answer: how many messages it was about, and whether it wants more.
pub(super) struct Opinion {
    /// Messages.
    pub(super) messages: u64,
    /// It sends another request, if there is to be another.
    pub(super) goes_on: bool,
}

/// What was counted.
#[derive(Default)]
pub(super) struct Counted {
    /// Microseconds of a call.
    pub(super) latency: Histogram,
    /// Answers in all.
    pub(super) answers: u64,
    /// Of them, refusals.
    pub(super) refused: u64,
    /// Messages in all.
    pub(super) messages: u64,
    /// Answers while measuring, refusals not among them.
    pub(super) measured_answers: u64,
    /// Messages while measuring.
    pub(super) measured_messages: u64,
    /// Seconds measured.
    pub(super) seconds: f64,
    /// Requests that were answered, by caller.
    pub(super) requests_of: Vec<u64>,
    /// The broker where measuring began and ended.
    pub(super) readings: (Reading, Reading),
    /// The first refusal.
    pub(super) refusal: Option<String>,
}

struct Peer {
    stream: TcpStream,
    request: Request,
    written: usize,
    is_watched: bool,
    is_busy: bool,
    held: Vec<u8>,
    begun: Instant,
}

impl Peer {
    /// Writes what the socket takes, and watches it for the rest.
    fn write(&mut self, number: usize, poller: &Poller) -> Result<(), String> {
        loop {
            let rest = self.request.rest(self.written);
            if rest.is_empty() {
                break;
            }
            match self.stream.write(rest) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("a connection is lost: {error}")),
            }
        }
        let is_blocked = !self.request.rest(self.written).is_empty();
        if is_blocked != self.is_watched {
            self.is_watched = is_blocked;
            let interest = if is_blocked {
                Interest::ReadWrite
            } else {
                Interest::Read
            };
            poller.change(number, &self.stream, interest)?;
        }
        Ok(())
    }

    fn send(&mut self, number: usize, poller: &Poller, now: Instant) -> Result<(), String> {
        self.request.advance();
        self.written = 0;
        self.begun = now;
        self.is_busy = true;
        self.write(number, poller)
    }
}

/// Runs the callers. `judge` looks at each answer that is no refusal.
///
/// # Errors
/// A connection is lost, or an answer is no HTTP.
pub(super) fn run(
    address: SocketAddr,
    requests: Vec<Request>,
    length: Length,
    gauge: &Gauge,
    progress: Option<&'static str>,
    mut judge: impl FnMut(usize, &[u8]) -> Opinion,
) -> Result<Counted, String> {
    let mut poller = Poller::new()?;
    let start = Instant::now();
    let mut peers = Vec::new();
    for (number, request) in requests.into_iter().enumerate() {
        let failed = |error: std::io::Error| format!("cannot connect to {address}: {error}");
        let stream = TcpStream::connect(address).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        poller.add(number, &stream, Interest::Read)?;
        peers.push(Peer {
            stream,
            request,
            written: 0,
            is_watched: false,
            is_busy: false,
            held: Vec::new(),
            begun: start,
        });
    }
    let mut counted = Counted {
        requests_of: vec![0; peers.len()],
        ..Counted::default()
    };
    let (warmup, measured) = match length {
        Length::Time(warmup, measured) => (warmup, Some(measured)),
        Length::Count(_) | Length::Satisfied => (Duration::ZERO, None),
    };
    let start = Instant::now();
    let mut begun: Option<Instant> = None;
    let mut is_stopping = false;
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.send(number, &poller, start)?;
    }
    let mut busy = peers.len();
    let mut scratch = vec![0; READ_BYTES];
    let (mut last, mut shown) = (start, (start, 0));
    while busy > 0 {
        poller.wait(ROUND_MAX)?;
        let now = Instant::now();
        if begun.is_none() && now >= start + warmup {
            begun = Some(now);
            counted.readings.0 = gauge.read();
        }
        if let (Some(begun), Some(measured), false) = (begun, measured, is_stopping)
            && now >= begun + measured
        {
            is_stopping = true;
            counted.seconds = (now - begun).as_secs_f64();
            counted.readings.1 = gauge.read();
        }
        for at in 0..poller.ready_count() {
            let Some(number) = poller.ready(at) else { continue };
            let Some(peer) = peers.get_mut(number) else { continue };
            if peer.is_watched {
                peer.write(number, &poller)?;
            }
            match peer.stream.read(&mut scratch) {
                Ok(0) => return Err("the broker closes a connection".into()),
                Ok(read) => peer.held.extend_from_slice(scratch.get(..read).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
                Err(error) => return Err(format!("a connection is lost: {error}")),
            }
            let Some(found) = answer(&peer.held)? else { continue };
            let now = Instant::now();
            last = now;
            counted.answers += 1;
            let requests = counted.requests_of.get_mut(number).map_or(0, |requests| {
                *requests += 1;
                *requests
            });
            let mut goes_on = true;
            if found.status == 200 && is_done(&found.body) {
                let opinion = judge(number, &found.body);
                goes_on = opinion.goes_on;
                counted.messages += opinion.messages;
                if !is_stopping && begun.is_some_and(|begun| peer.begun >= begun || measured.is_none()) {
                    counted.latency.record((now - peer.begun).as_nanos() as u64);
                    counted.measured_answers += 1;
                    counted.measured_messages += opinion.messages;
                }
            } else {
                counted.refused += 1;
                counted.refusal.get_or_insert_with(|| {
                    let text = String::from_utf8_lossy(&found.body);
                    format!(
                        "status {}: {}",
                        found.status,
                        text.chars().take(200).collect::<String>()
                    )
                });
                // A refusal that comes again and again would be asked for without end.
                goes_on &= !matches!(length, Length::Satisfied);
            }
            let length_in_bytes = found.length;
            peer.held.drain(..length_in_bytes);
            let ends = match length {
                Length::Count(count) => requests >= count,
                Length::Satisfied => !goes_on,
                Length::Time(..) => is_stopping,
            };
            if ends {
                peer.is_busy = false;
                busy -= 1;
            } else {
                peer.send(number, &poller, now)?;
            }
        }
        if last.elapsed() >= QUIET_MAX {
            break;
        }
        show(progress, &counted, &mut shown);
    }
    if !is_stopping {
        counted.seconds = (last - begun.unwrap_or(start)).as_secs_f64();
        counted.readings.1 = gauge.read();
    }
    Ok(counted)
}

#[expect(clippy::print_stderr, reason = "the progress line is for the person who waits")]
fn show(progress: Option<&str>, counted: &Counted, shown: &mut (Instant, u64)) {
    let Some(phase) = progress else { return };
    let seconds = shown.0.elapsed().as_secs_f64();
    if seconds >= 1.0 {
        let rate = (counted.answers - shown.1) as f64 / seconds;
        eprintln!(
            "{phase}: {rate:.0} requests/s, {} messages, {} refused",
            counted.messages, counted.refused
        );
        *shown = (Instant::now(), counted.answers);
    }
}
