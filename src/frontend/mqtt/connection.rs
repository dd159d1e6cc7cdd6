//! The loop that serves one client: one read, everything in it handled in place, one flush; then whatever is settled
//! and whatever is due goes out in one write.
//!
//! **Invariants**
//! - An idle connection owns no buffer; its future is small (a test holds it).
//! - A client that does not read is not read from once too much waits for it. Its keep-alive rests while the server is
//!   what holds it up, and while it takes what waits for it or sends a large packet, however slowly.
//! - Deliveries that must not be sent before the disk has their packet ids wait in order, and everything pulled later
//!   is pulled later; replies pass them.
//! - The broker's handle ends once, with the reason the connection ended for.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustc_hash::FxHashSet;
use tokio::io::{AsyncRead, AsyncWrite};

use super::alias::{IncomingAliases, OutgoingAliases};
use super::connect;
use super::disconnect::End;
use super::fast;
use super::frame::Version;
use super::input::{Input, Taken};
use super::output::Output;
use super::packet::{self, Next, Packet};
use super::publish::Sink;
use super::{Frontend, Settings};
use crate::broker::connection::Connection;
use crate::broker::session::{Closing, Signal};
use crate::clock::Clock;
use crate::store::Ticket;

/// Nothing is pulled while more waits to be written.
const PULL_BELOW_BYTES: usize = 32 << 10;
/// Nothing is read while more waits to be written. Deliveries alone do not reach it, so that a client that sends much
/// before it reads is not left waiting for itself.
const READ_BELOW_BYTES: usize = 512 << 10;
/// Nothing is read while so many runs of requests wait for the disk,
const WAITING_RUNS_MAX: usize = 64;
/// or so many publishes.
const WAITING_PUBLISHES_MAX: usize = 8_192;
/// For a last write.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// What holds for the client of a connection, and what it has open.
pub(super) struct Client {
    pub(super) handle: Connection,
    pub(super) version: Version,
    /// Largest packet it takes.
    pub(super) bytes_max: u32,
    /// It wants reason strings.
    pub(super) problem_information: bool,
    /// Session expiry in force, seconds.
    pub(super) session_expiry: u32,
    /// Largest packet taken from it.
    packet_bytes_max: u32,
    keep_alive: u16,
    pub(super) receive_maximum: u16,
    pub(super) topic_alias_maximum: u16,
    /// `QoS` 1 messages taken and not answered.
    pub(super) at_least_once: usize,
    /// `QoS` 2 messages taken and not completed.
    pub(super) exactly_once: FxHashSet<u16>,
    /// Publishes whose PUBACK or PUBREC waits for the disk.
    pub(super) unanswered: usize,
    pub(super) incoming: Option<Box<IncomingAliases>>,
    pub(super) outgoing: Option<Box<OutgoingAliases>>,
    /// There may be deliveries.
    pub(super) pull_due: bool,
}

impl Client {
    #[expect(clippy::too_many_arguments, reason = "each is a field of the CONNECT")]
    pub(super) fn new(
        handle: Connection,
        version: Version,
        bytes_max: u32,
        problem_information: bool,
        topic_aliases: u16,
        session_expiry: u32,
        keep_alive: u16,
        settings: &Settings,
    ) -> Self {
        Self {
            handle,
            version,
            bytes_max,
            problem_information,
            session_expiry,
            packet_bytes_max: settings.packet_bytes_max,
            keep_alive,
            receive_maximum: settings.receive_maximum.max(1),
            topic_alias_maximum: settings.topic_alias_maximum,
            at_least_once: 0,
            exactly_once: FxHashSet::default(),
            unanswered: 0,
            incoming: None,
            outgoing: (topic_aliases > 0).then(|| Box::new(OutgoingAliases::new(topic_aliases))),
            pull_due: true,
        }
    }

    /// Handles every whole packet of a read, then hands the run over.
    fn take(&mut self, bytes: &[u8], output: &mut Output) -> (Taken, Result<(), End>) {
        let mut used = 0;
        let mut scratch = Vec::new();
        let answer = loop {
            let rest = bytes.get(used..).unwrap_or_default();
            match packet::next(rest, Some(self.version), self.packet_bytes_max, &mut scratch) {
                Next::Packet(packet, length) => {
                    used += length;
                    if let Err(end) = self.handle_packet(packet, output) {
                        break (
                            Taken {
                                used: bytes.len(),
                                needed: 0,
                            },
                            Err(end),
                        );
                    }
                }
                Next::Incomplete(needed) => break (Taken { used, needed }, Ok(())),
                Next::Malformed(why) => {
                    break (
                        Taken {
                            used: bytes.len(),
                            needed: 0,
                        },
                        Err(End::Refused(why)),
                    );
                }
            }
        };
        self.handle.flush();
        answer
    }

    fn handle_packet(&mut self, packet: Packet<'_>, output: &mut Output) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.publish(&publish)?,
            Packet::Puback(ack) => self.puback(&ack),
            Packet::Pubrec(ack) => self.pubrec(&ack),
            Packet::Pubrel(ack) => self.handle.pubrel(ack.packet_id.get()),
            Packet::Pubcomp(ack) => self.pubcomp(&ack),
            Packet::Subscribe(subscribe) => self.subscribe(*subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Packet::Pingreq => fast::encode_pingresp(output.buffer()),
            Packet::Disconnect(disconnect) => return Err(self.disconnect(&disconnect)),
            Packet::Auth(_) | Packet::Connect(_) => return Err(super::disconnect::unexpected(&packet)),
        }
        Ok(())
    }

    /// Whether so little waits for this client that more may be taken from it.
    fn may_be_read(&self, output: &Output) -> bool {
        output.pending() < READ_BELOW_BYTES
            && self.unanswered < WAITING_PUBLISHES_MAX
            && self.handle.waiting_replies() < WAITING_RUNS_MAX
    }

    fn may_pull(&self, output: &Output) -> bool {
        self.pull_due && output.pending() < PULL_BELOW_BYTES
    }
}

/// Deliveries that wait until their packet ids are durable.
struct Staged {
    ticket: Ticket,
    bytes: Vec<u8>,
}

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One coarse alarm for everything a connection does by the clock; moved only to an earlier time.
struct Alarm {
    clock: Clock,
    at: Duration,
    sleep: Option<Sleep>,
}

impl Alarm {
    fn set(&mut self, at: Duration) {
        if self.sleep.is_none() || at < self.at {
            let clock = self.clock.clone();
            self.at = at;
            self.sleep = Some(Box::pin(async move { clock.sleep_until(at).await }));
        }
    }
}

/// A connection that was accepted.
pub(super) struct Serving<S> {
    frontend: Arc<Frontend>,
    stream: S,
    input: Input,
    output: Output,
    /// The stream may hold bytes of its own back.
    unflushed: bool,
    client: Client,
    signal: Arc<Signal>,
    staged: Option<Box<Staged>>,
    alarm: Alarm,
    /// When something last came from the client.
    active: Duration,
    /// The client is not read.
    paused: bool,
    /// Bytes of a large packet that had come, and bytes that waited for the client, when the alarm last rang.
    progress: (usize, usize),
    /// When positions are to be written.
    save_at: Option<Duration>,
}

/// Serves a client from its first byte to its last.
pub(super) async fn serve<S>(frontend: &Arc<Frontend>, stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // Beginning and end are rare and would make every connection larger.
    if let Some(mut serving) = Box::pin(connect::open(frontend, stream, peer)).await {
        let end = serving.run().await;
        Box::pin((*serving).finish(end)).await;
    }
}

impl<S> Serving<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    pub(super) fn new(frontend: Arc<Frontend>, stream: S, input: Input, output: Output, client: Client) -> Self {
        let clock = frontend.broker.clock().clone();
        Self {
            signal: Arc::clone(client.handle.signal()),
            active: clock.now(),
            alarm: Alarm {
                clock,
                at: Duration::ZERO,
                sleep: None,
            },
            frontend,
            stream,
            input,
            output,
            unflushed: true,
            client,
            staged: None,
            paused: false,
            progress: (0, 0),
            save_at: None,
        }
    }

    async fn run(&mut self) -> End {
        loop {
            if let Some(reason) = self.signal.closing() {
                return End::Closing(reason);
            }
            if let Err(end) = self.gather().await {
                return end;
            }
            self.set_alarm();
            let ended = match self.wait().await {
                Ok(true) => self.look_at_clock(),
                Ok(false) => Ok(()),
                Err(end) => Err(end),
            };
            if let Err(end) = ended {
                return end;
            }
        }
    }

    /// Brings into the output what may go out now.
    async fn gather(&mut self) -> Result<(), End> {
        while self.output.pending() < READ_BELOW_BYTES
            && let Some(replies) = self.client.handle.next_replies()
        {
            self.client.encode_replies(replies, self.output.buffer())?;
        }
        if let Some(staged) = &self.staged {
            if !self
                .client
                .handle
                .settled(&staged.ticket)
                .map_err(|_| End::Closing(Closing::StoreFailed))?
            {
                return Ok(());
            }
            self.output.buffer().extend_from_slice(&staged.bytes);
            self.staged = None;
        }
        if !self.client.may_pull(&self.output) {
            return Ok(());
        }
        let Client {
            handle,
            version,
            bytes_max,
            outgoing,
            ..
        } = &mut self.client;
        let mut sink = Sink::new(self.output.buffer(), *version, *bytes_max, outgoing.as_deref_mut());
        let start = sink.start();
        // Cold reads need room that a waiting connection should not have.
        let pulled = Box::pin(handle.pull(&mut sink)).await;
        if pulled.lost {
            return Err(End::Closing(self.signal.closing().unwrap_or(Closing::TakenOver)));
        }
        self.client.pull_due = pulled.more;
        if let Some(ticket) = pulled.ticket {
            let bytes = self.output.buffer().split_off(start);
            self.staged = Some(Box::new(Staged { ticket, bytes }));
        }
        if pulled.more && (pulled.handed == 0 || pulled.shared) {
            // It searched and found nothing yet, or others have their part to take; they want to run too.
            tokio::task::yield_now().await;
        }
        self.note_unsaved();
        Ok(())
    }

    fn note_unsaved(&mut self) {
        if self.save_at.is_none() && self.client.handle.has_unsaved() {
            self.save_at = Some(self.alarm.clock.now() + self.frontend.settings.position_commit_interval);
        }
    }

    /// One and a half times the keep alive. Spec: v5 [MQTT-3.1.2-22], v3.1.1 [MQTT-3.1.2-24].
    fn silence_max(&self) -> Option<Duration> {
        let keep_alive = self.client.keep_alive;
        (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1_500))
    }

    fn set_alarm(&mut self) {
        if let Some(silence) = self.silence_max() {
            // Not moved by what comes in the meantime: it looks again when it rings.
            if self.alarm.sleep.is_none() {
                self.alarm.set(self.active + silence);
            }
        }
        if let Some(at) = self.save_at {
            self.alarm.set(at);
        }
    }

    /// Whether the client cannot be heard, or something moves between us that is no whole packet yet.
    fn is_underway(&mut self) -> bool {
        let stuck = self.paused && self.output.pending() >= READ_BELOW_BYTES;
        if self.paused && !stuck || self.input.waits_for_room() {
            return true;
        }
        let coming = self.input.large_packet_bytes().unwrap_or(0);
        let going = if stuck { self.output.pending() } else { 0 };
        let before = std::mem::replace(&mut self.progress, (coming, going));
        self.progress != (0, 0) && self.progress != before
    }

    /// The alarm has rung.
    fn look_at_clock(&mut self) -> Result<(), End> {
        self.alarm.sleep = None;
        let now = self.alarm.clock.now();
        if self.is_underway() {
            self.active = now;
        }
        if self.silence_max().is_some_and(|silence| now >= self.active + silence) {
            return Err(End::Closing(Closing::KeepAlive));
        }
        if self.save_at.is_some_and(|at| now >= at) {
            self.save_at = None;
            self.client.handle.save();
            self.note_unsaved();
        }
        Ok(())
    }

    /// Writes what is there and waits until there is something to do; takes what was read. The answer says whether the
    /// alarm rang.
    async fn wait(&mut self) -> Result<bool, End> {
        let Self {
            frontend,
            stream,
            input,
            output,
            unflushed,
            client,
            signal,
            staged,
            alarm,
            active,
            paused,
            ..
        } = self;
        let mut woken = pin!(signal.woken());
        poll_fn(|context| {
            if *unflushed || output.pending() > 0 {
                *unflushed = true;
                match output.poll_write(context, stream) {
                    Poll::Ready(Ok(())) => *unflushed = false,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(End::lost(&error))),
                    Poll::Pending => {}
                }
            }
            let mut happened = false;
            if woken.as_mut().poll(context).is_ready() {
                client.pull_due = true;
                happened = true;
            }
            if client.may_be_read(output) {
                if *paused {
                    *paused = false;
                    *active = alarm.clock.now();
                }
                match input.poll_read(context, stream, &frontend.budget, &mut |bytes| {
                    client.take(bytes, output)
                }) {
                    Poll::Ready(Ok(Some(taken))) => {
                        taken?;
                        *active = alarm.clock.now();
                        happened = true;
                    }
                    Poll::Ready(Ok(None)) => return Poll::Ready(Err(End::Lost("the client closed the connection"))),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(End::lost(&error))),
                    Poll::Pending => {}
                }
            } else {
                *paused = true;
            }
            if happened || staged.is_none() && client.may_pull(output) {
                return Poll::Ready(Ok(false));
            }
            match &mut alarm.sleep {
                Some(sleep) => sleep.as_mut().poll(context).map(|()| Ok(true)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Ends the connection: the session first, then the client is told, if its version can hear it.
    async fn finish(self, end: End) {
        let Self {
            mut stream,
            mut output,
            client,
            ..
        } = self;
        tracing::debug!(client = client.handle.client_name(), "a connection ends: {end}");
        end.encode(&client, output.buffer());
        client.handle.end(end.ending());
        if !matches!(end, End::Lost(_)) {
            write_all(&mut stream, &mut output).await;
        }
    }
}

/// Writes what is left, ends the stream, and waits a moment for the client to do the same: what it has sent meanwhile
/// would otherwise make the system forget what we wrote last.
pub(super) async fn write_all<S>(stream: &mut S, output: &mut Output)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let last = async {
        poll_fn(|context| output.poll_write(context, stream)).await?;
        stream.shutdown().await?;
        let mut rest = [0; 256];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whoever does not listen any more need not be told.
    drop(tokio::time::timeout(LAST_WRITE, last).await);
}
