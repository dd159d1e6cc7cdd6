//! One thread of the tool: an epoll loop over its share of publishers and subscribers.
//!
//! **Invariants**
//! - Each connection is read once and written once a round, whatever number of packets that is.
//! - One look at the clock a round and connection, none a message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::Histogram;
use super::link::Link;
use super::plan::Plan;
use super::poller::{Interest, Poller};
use super::publisher::{Fill, Publisher};
use super::shared::{Counters, Shared};
use super::stamp::{Ledger, STAMP_BYTES, Stamp};
use super::wire::{self, Incoming};

/// How long a round waits at most, so that the end is noticed.
const ROUND_MAX: Duration = Duration::from_millis(50);
/// And when another thread's progress is waited for.
const ROUND_AHEAD: Duration = Duration::from_micros(200);

/// What a worker brings home.
#[derive(Default)]
pub(super) struct Outcome {
    /// From due to acknowledged.
    pub(super) ack: Histogram,
    /// From due to delivered.
    pub(super) end_to_end: Histogram,
    /// Why it ended early.
    pub(super) failed: Option<String>,
    /// When the first message came, nanoseconds since the beginning.
    pub(super) first_at: Option<u64>,
    /// When the last one came.
    pub(super) last_at: u64,
    /// Connections, for an orderly goodbye.
    pub(super) links: Vec<Link>,
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
    poller: Poller,
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
        let poller = Poller::new()?;
        for (number, peer) in peers.iter().enumerate() {
            poller.add(number, &peer.link.stream, Interest::Read)?;
        }
        Ok(Self {
            plan,
            shared,
            counters,
            peers,
            poller,
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
        // What came together with the last answer of the setup is in no socket any more.
        for number in 0..self.peers.len() {
            self.serve(number, self.shared.measure_from.load(Ordering::Relaxed))?;
        }
        while !self.shared.ended.load(Ordering::Relaxed) {
            let wait = self.publish()?;
            self.poller.wait(wait)?;
            let measure_from = self.shared.measure_from.load(Ordering::Relaxed);
            for at in 0..self.poller.ready_count() {
                if let Some(number) = self.poller.ready(at) {
                    self.serve(number, measure_from)?;
                }
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
                    watch(&self.poller, number, &peer.link, &mut peer.watched, true)?;
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
            poller,
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
                let (unique, duplicates, disordered) = (ledger.unique, ledger.duplicates, ledger.disordered);
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
                if ledger.unique > unique {
                    outcome.last_at = clock();
                    outcome.first_at.get_or_insert(outcome.last_at);
                }
                tally.duplicates += ledger.duplicates - duplicates;
                tally.disordered += ledger.disordered - disordered;
                peer.link.write()?;
            }
        }
        if peer.link.is_blocked() != peer.watched {
            let blocked = peer.link.is_blocked();
            // A publisher writes with its next fill; only one that is blocked already is watched here.
            if peer.watched || matches!(peer.role, Role::Subscriber(_)) {
                watch(poller, number, &peer.link, &mut peer.watched, blocked)?;
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

fn watch(poller: &Poller, number: usize, link: &Link, watched: &mut bool, blocked: bool) -> Result<(), String> {
    let interest = if blocked { Interest::ReadWrite } else { Interest::Read };
    *watched = blocked;
    poller.change(number, &link.stream, interest)
}
