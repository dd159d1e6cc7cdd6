//! One thread of the tool: an epoll loop over its share of publishers and subscribers.
//!
//! **Invariants**
//! - Each connection is read once and written once a round, whatever number of packets that is.
//! - One look at the clock a round and connection, none a message.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::histogram::Histogram;
use super::link::Link;
use super::plan::Plan;
use super::stamp::{Ledger, STAMP_BYTES, Stamp};
use super::wire::{self, Incoming};

/// A publisher fills at most so much at once, then others have their turn.
const FILL_BYTES: usize = 64 << 10;
/// How long a round waits at most, so that the end is noticed.
const ROUND_MAX: Duration = Duration::from_millis(50);
/// And when another thread's progress is waited for.
const ROUND_AHEAD: Duration = Duration::from_micros(200);

/// What everybody counts; each worker writes its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Counters {
    /// Messages written into a connection's buffer.
    pub(super) published: AtomicU64,
    /// Of them, completed: PUBACK, PUBCOMP; with `QoS` 0 as `published`.
    pub(super) acked: AtomicU64,
    /// Of them, refused.
    pub(super) refused: AtomicU64,
    /// Deliveries that must follow from what was published.
    pub(super) expected: AtomicU64,
    /// Deliveries, each once.
    pub(super) delivered: AtomicU64,
    /// Deliveries again.
    pub(super) duplicates: AtomicU64,
    /// Deliveries out of order.
    pub(super) disordered: AtomicU64,
}

/// What all threads of a run share.
pub(super) struct Shared {
    /// The tool's beginning of time.
    pub(super) born: Instant,
    /// Nothing more is published.
    pub(super) stopping: AtomicBool,
    /// Everything ends.
    pub(super) ended: AtomicBool,
    /// Latencies count for messages due from here on, nanoseconds since `born`.
    pub(super) measure_from: AtomicU64,
    /// By worker.
    pub(super) counters: Vec<Counters>,
    /// Deliveries by publisher.
    pub(super) delivered_of: Vec<AtomicU64>,
}

impl Shared {
    /// Nanoseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        self.born.elapsed().as_nanos() as u64
    }
}

/// What a worker brings home.
#[derive(Default)]
pub(super) struct Outcome {
    /// From due to acknowledged.
    pub(super) ack: Histogram,
    /// From due to delivered.
    pub(super) end_to_end: Histogram,
    /// Why it ended early.
    pub(super) failed: Option<String>,
    /// Connections, for an orderly goodbye.
    pub(super) links: Vec<Link>,
}

/// A publisher.
pub(super) struct Publisher {
    number: usize,
    heads: Vec<(Vec<u8>, u64)>,
    numbers: Vec<u32>,
    turn: usize,
    first_key: u32,
    /// When the message of a packet id was due; 0: the id is free.
    due_of: Vec<u64>,
    next_id: usize,
    outstanding: u32,
    published: u64,
    expected: u64,
    next_due: u64,
    interval: Option<u64>,
}

impl Publisher {
    /// Publisher `number` of a plan.
    pub(super) fn new(plan: &Plan, number: usize) -> Self {
        let heads: Vec<_> = plan
            .topics_of(number)
            .map(|topic| {
                let head = wire::publish_head(plan.version, plan.qos, &plan.topic(topic), plan.size);
                (head, plan.fan_out(topic))
            })
            .collect();
        let ids = (plan.window as usize * 2).next_power_of_two().min(65_535);
        Self {
            number,
            numbers: vec![0; heads.len()],
            heads,
            turn: 0,
            first_key: (number * plan.keys_each()) as u32,
            due_of: vec![0; ids],
            next_id: 0,
            outstanding: 0,
            published: 0,
            expected: 0,
            next_due: 0,
            interval: plan.interval.map(|interval| interval.as_nanos() as u64),
        }
    }

    /// Writes what may go out now into the buffer. Answers when more may follow by the clock alone.
    fn fill(&mut self, plan: &Plan, shared: &Shared, filling: &[u8], out: &mut Vec<u8>, now: u64) -> Fill {
        let stop = shared.stopping.load(Ordering::Relaxed);
        let delivered = shared
            .delivered_of
            .get(self.number)
            .map_or(0, |delivered| delivered.load(Ordering::Relaxed));
        if self.next_due == 0 {
            // Not all at once: each publisher begins at its own part of the interval.
            let part = self.interval.unwrap_or(0) * self.number as u64 / plan.publishers as u64;
            self.next_due = now + part;
        }
        loop {
            if stop || plan.count.is_some_and(|count| self.published >= count) {
                return Fill::Done;
            }
            if self.interval.is_some() && self.next_due > now {
                return Fill::At(self.next_due);
            }
            if plan.qos > 0 && self.outstanding >= plan.window {
                return Fill::Waits;
            }
            let Some((head, fan_out)) = self.heads.get(self.turn) else {
                return Fill::Done;
            };
            if plan.ahead > 0 && self.expected.saturating_sub(delivered) >= plan.ahead * (*fan_out).max(1) {
                return Fill::Ahead;
            }
            if out.len() >= FILL_BYTES {
                return Fill::More;
            }
            let due = if self.interval.is_some() { self.next_due } else { now };
            let mut packet_id = 0;
            if plan.qos > 0 {
                let Some(slot) = self.due_of.get_mut(self.next_id) else {
                    return Fill::Done;
                };
                if *slot != 0 {
                    return Fill::Waits;
                }
                *slot = due;
                packet_id = self.next_id as u16 + 1;
                self.next_id = if self.next_id + 1 == self.due_of.len() {
                    0
                } else {
                    self.next_id + 1
                };
                self.outstanding += 1;
            }
            let Some(number) = self.numbers.get_mut(self.turn) else {
                return Fill::Done;
            };
            *number += 1;
            out.extend_from_slice(head);
            wire::publish_middle(out, plan.version, plan.qos, packet_id);
            let stamp = Stamp {
                run: plan.run,
                publisher: self.number as u32,
                key: self.first_key + self.turn as u32,
                number: *number,
                due,
            };
            stamp.put(out);
            out.extend_from_slice(filling);
            self.published += 1;
            self.expected += fan_out;
            self.turn = if self.turn + 1 == self.heads.len() {
                0
            } else {
                self.turn + 1
            };
            self.next_due += self.interval.unwrap_or(0);
        }
    }

    /// Frees a packet id; answers when its message was due.
    fn complete(&mut self, packet_id: u16) -> Option<u64> {
        let slot = self.due_of.get_mut(usize::from(packet_id).wrapping_sub(1))?;
        let due = std::mem::take(slot);
        (due != 0).then(|| {
            self.outstanding -= 1;
            due
        })
    }
}

/// Why a publisher has stopped filling.
enum Fill {
    /// For good.
    Done,
    /// For an acknowledgement.
    Waits,
    /// For its subscribers.
    Ahead,
    /// Until then.
    At(u64),
    /// For others to have their turn.
    More,
}

/// What a connection does.
pub(super) enum Role {
    /// It publishes.
    Publisher(Box<Publisher>),
    /// It subscribes.
    Subscriber(Box<Ledger>),
}

/// A connection and what it does.
pub(super) struct Peer {
    link: Link,
    role: Role,
    /// The loop is told when it can be written again.
    watched: bool,
}

impl Peer {
    /// A connection that is set up.
    pub(super) const fn new(link: Link, role: Role) -> Self {
        Self {
            link,
            role,
            watched: false,
        }
    }
}

/// A worker.
pub(super) struct Worker<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    counters: &'a Counters,
    peers: Vec<Peer>,
    epoll: OwnedFd,
    outcome: Outcome,
    tally: Tally,
    scratch: Vec<u8>,
    filling: Vec<u8>,
}

/// Counts of the round that are published at its end.
#[derive(Default)]
struct Tally {
    acked: u64,
    refused: u64,
    delivered: u64,
    duplicates: u64,
    disordered: u64,
    /// A publisher and its deliveries, until another one's come.
    run: (u32, u64),
}

impl Tally {
    fn delivered_of(&mut self, publisher: u32, shared: &Shared) {
        if self.run.0 != publisher {
            self.flush_run(shared);
            self.run.0 = publisher;
        }
        self.run.1 += 1;
    }

    fn flush_run(&mut self, shared: &Shared) {
        let (publisher, count) = std::mem::take(&mut self.run);
        if count > 0
            && let Some(delivered) = shared.delivered_of.get(publisher as usize)
        {
            delivered.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl<'a> Worker<'a> {
    /// Makes a worker of connections that are set up.
    ///
    /// # Errors
    /// The system has no more files.
    pub(super) fn new(
        plan: &'a Plan,
        shared: &'a Shared,
        counters: &'a Counters,
        peers: Vec<Peer>,
    ) -> Result<Self, String> {
        let failed = |error: rustix::io::Errno| format!("cannot watch connections: {error}");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        for (number, peer) in peers.iter().enumerate() {
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, &peer.link.stream, data, epoll::EventFlags::IN).map_err(failed)?;
        }
        Ok(Self {
            plan,
            shared,
            counters,
            peers,
            epoll,
            outcome: Outcome::default(),
            tally: Tally::default(),
            scratch: Vec::new(),
            filling: vec![b'.'; plan.size.saturating_sub(STAMP_BYTES)],
        })
    }

    /// Works until the run ends.
    pub(super) fn run(mut self) -> Outcome {
        if let Err(failed) = self.rounds() {
            self.outcome.failed = Some(failed);
        }
        self.outcome.links = self.peers.into_iter().map(|peer| peer.link).collect();
        self.outcome
    }

    fn rounds(&mut self) -> Result<(), String> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(1_024);
        while !self.shared.ended.load(Ordering::Relaxed) {
            let wait = self.publish()?;
            self.wait(wait, &mut events)?;
            let measure_from = self.shared.measure_from.load(Ordering::Relaxed);
            for event in &events {
                let data = event.data;
                self.serve(data.u64() as usize, measure_from)?;
            }
            self.count();
        }
        Ok(())
    }

    /// Lets every publisher write what it may. Answers how long the round may wait.
    fn publish(&mut self) -> Result<Duration, String> {
        let now = self.shared.now();
        let mut wait = ROUND_MAX;
        let (mut published, mut expected) = (0, 0);
        for (number, peer) in self.peers.iter_mut().enumerate() {
            let Role::Publisher(publisher) = &mut peer.role else {
                continue;
            };
            if !peer.watched {
                let fill = publisher.fill(self.plan, self.shared, &self.filling, &mut peer.link.out, now);
                peer.link.write()?;
                let more = match fill {
                    Fill::Done | Fill::Waits => ROUND_MAX,
                    Fill::Ahead => ROUND_AHEAD,
                    Fill::At(due) => Duration::from_nanos(due.saturating_sub(now)),
                    Fill::More => Duration::ZERO,
                };
                if peer.link.is_blocked() {
                    watch(&self.epoll, number, &peer.link, &mut peer.watched, true)?;
                } else {
                    wait = wait.min(more);
                }
            }
            published += publisher.published;
            expected += publisher.expected;
        }
        self.counters.published.store(published, Ordering::Relaxed);
        self.counters.expected.store(expected, Ordering::Relaxed);
        if self.plan.qos == 0 {
            self.counters.acked.store(published, Ordering::Relaxed);
        }
        Ok(wait)
    }

    /// Waits for connections; to the microsecond, which `epoll_wait` alone cannot.
    fn wait(&self, wait: Duration, events: &mut Vec<epoll::Event>) -> Result<(), String> {
        let failed = |error: rustix::io::Errno| format!("cannot wait for connections: {error}");
        if !wait.is_zero() {
            let time = Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: i64::from(wait.subsec_nanos()),
            };
            match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&time)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        events.clear();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&now)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Reads a connection once, and writes what follows from it.
    fn serve(&mut self, number: usize, measure_from: u64) -> Result<(), String> {
        let Some(peer) = self.peers.get_mut(number) else {
            return Ok(());
        };
        let Self {
            plan,
            shared,
            outcome,
            tally,
            scratch,
            epoll,
            ..
        } = self;
        let mut now = 0;
        let mut clock = || {
            if now == 0 {
                now = shared.now();
            }
            now
        };
        match &mut peer.role {
            Role::Publisher(publisher) => {
                peer.link.read(scratch, |packet, out| {
                    let (done, refused) = match packet {
                        Incoming::Puback(id, refused) => (publisher.complete(id), refused),
                        Incoming::Pubrec(id, true) => (publisher.complete(id), true),
                        Incoming::Pubrec(id, false) => {
                            wire::ack(out, 0x62, id);
                            (None, false)
                        }
                        Incoming::Pubcomp(id) => (publisher.complete(id), false),
                        Incoming::Disconnect(reason) => {
                            return Err(format!("the broker disconnects a publisher with code {reason}"));
                        }
                        _ => (None, false),
                    };
                    if let Some(due) = done {
                        tally.acked += 1;
                        tally.refused += u64::from(refused);
                        if due >= measure_from {
                            outcome.ack.record(clock().saturating_sub(due));
                        }
                    }
                    Ok(())
                })?;
                if peer.watched {
                    peer.link.write()?;
                }
            }
            Role::Subscriber(ledger) => {
                let (duplicates, disordered) = (ledger.duplicates, ledger.disordered);
                peer.link.read(scratch, |packet, out| {
                    match packet {
                        Incoming::Publish {
                            qos,
                            packet_id,
                            payload,
                        } => {
                            match qos {
                                1 => wire::ack(out, 0x40, packet_id),
                                2 => wire::ack(out, 0x50, packet_id),
                                _ => {}
                            }
                            if let Some(stamp) = Stamp::take(payload)
                                && stamp.run == plan.run
                                && ledger.note(&stamp)
                            {
                                tally.delivered += 1;
                                tally.delivered_of(stamp.publisher, shared);
                                if stamp.due >= measure_from {
                                    outcome.end_to_end.record(clock().saturating_sub(stamp.due));
                                }
                            }
                        }
                        Incoming::Pubrel(id) => wire::ack(out, 0x70, id),
                        Incoming::Disconnect(reason) => {
                            return Err(format!("the broker disconnects a subscriber with code {reason}"));
                        }
                        _ => {}
                    }
                    Ok(())
                })?;
                tally.duplicates += ledger.duplicates - duplicates;
                tally.disordered += ledger.disordered - disordered;
                peer.link.write()?;
            }
        }
        if peer.link.is_blocked() != peer.watched {
            let blocked = peer.link.is_blocked();
            // A publisher writes with its next fill; only one that is blocked already is watched here.
            if peer.watched || matches!(peer.role, Role::Subscriber(_)) {
                watch(epoll, number, &peer.link, &mut peer.watched, blocked)?;
            }
        }
        Ok(())
    }

    /// Shows the round's counts to the others.
    fn count(&mut self) {
        self.tally.flush_run(self.shared);
        let add = |counter: &AtomicU64, value: &mut u64| {
            if *value > 0 {
                counter.fetch_add(std::mem::take(value), Ordering::Relaxed);
            }
        };
        add(&self.counters.acked, &mut self.tally.acked);
        add(&self.counters.refused, &mut self.tally.refused);
        add(&self.counters.delivered, &mut self.tally.delivered);
        add(&self.counters.duplicates, &mut self.tally.duplicates);
        add(&self.counters.disordered, &mut self.tally.disordered);
    }
}

fn watch(epoll: &OwnedFd, number: usize, link: &Link, watched: &mut bool, blocked: bool) -> Result<(), String> {
    let flags = if blocked {
        epoll::EventFlags::IN | epoll::EventFlags::OUT
    } else {
        epoll::EventFlags::IN
    };
    *watched = blocked;
    let data = epoll::EventData::new_u64(number as u64);
    epoll::modify(epoll, &link.stream, data, flags).map_err(|error| format!("cannot watch a connection: {error}"))
}
