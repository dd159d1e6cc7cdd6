//! What all threads of a run share: the clock, the flags that end it, and the counters.
//!
//! **Invariants**
//! - Each worker writes counters of its own; nobody waits for anybody.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::plan::Plan;

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
    /// The beginning of time.
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
    /// At the beginning of a run.
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            born: Instant::now(),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            measure_from: AtomicU64::new(u64::MAX),
            counters: (0..plan.threads).map(|_| Counters::default()).collect(),
            delivered_of: (0..plan.publishers).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Nanoseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        self.born.elapsed().as_nanos() as u64
    }
}

/// Sums of all workers at one moment.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    /// When, nanoseconds since the beginning.
    pub(super) at: u64,
    /// See [`Counters`].
    pub(super) published: u64,
    /// See [`Counters`].
    pub(super) acked: u64,
    /// See [`Counters`].
    pub(super) refused: u64,
    /// See [`Counters`].
    pub(super) expected: u64,
    /// See [`Counters`].
    pub(super) delivered: u64,
    /// See [`Counters`].
    pub(super) duplicates: u64,
    /// See [`Counters`].
    pub(super) disordered: u64,
}

impl Sums {
    /// Sums of now.
    pub(super) fn of(shared: &Shared) -> Self {
        let sum = |counter: fn(&Counters) -> &AtomicU64| -> u64 {
            let values = shared.counters.iter();
            values.map(|counters| counter(counters).load(Ordering::Relaxed)).sum()
        };
        Self {
            at: shared.now(),
            published: sum(|c| &c.published),
            acked: sum(|c| &c.acked),
            refused: sum(|c| &c.refused),
            expected: sum(|c| &c.expected),
            delivered: sum(|c| &c.delivered),
            duplicates: sum(|c| &c.duplicates),
            disordered: sum(|c| &c.disordered),
        }
    }

    /// Whether something has moved since `before`.
    pub(super) const fn moved(&self, before: &Self) -> bool {
        self.acked != before.acked || self.delivered != before.delivered || self.published != before.published
    }
}
