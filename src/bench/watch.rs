//! Watches a run from its first message to its last: when measuring begins and ends, when all is there, and the
//! progress line.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::gauge::{Gauge, Reading};
use super::plan::Plan;
use super::shared::{Shared, Sums};

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Nothing has moved for so long: what a publisher had in hand when it was told to stop has been counted.
const SETTLED: Duration = Duration::from_millis(20);
/// After so long without anything arriving what is missing is lost.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// What ends a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Goal {
    /// All that was published is acknowledged and delivered.
    Everything,
    /// It is acknowledged.
    Acknowledged,
    /// So many deliveries have come; nothing is published.
    Delivered(u64),
}

/// One who watches.
pub(super) struct Watch<'a> {
    /// What is run.
    pub(super) plan: &'a Plan,
    /// Its counters.
    pub(super) shared: &'a Shared,
    /// The broker's.
    pub(super) gauge: &'a Gauge,
    /// What ends it.
    pub(super) goal: Goal,
    /// What the progress line calls it, if there is one.
    pub(super) progress: Option<&'static str>,
}

/// What was seen at one moment.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// The tool's counters.
    pub(super) sums: Sums,
    /// The broker's.
    pub(super) reading: Reading,
}

impl Watch<'_> {
    fn moment(&self, sums: Sums) -> Moment {
        let reading = self.gauge.read();
        Moment { sums, reading }
    }

    /// Watches until the end. Answers with where measuring began and ended.
    pub(super) fn until_done(&self, has_failed: &dyn Fn() -> bool) -> (Moment, Moment) {
        let start = Instant::now();
        let mut shown = (start, Sums::of(self.shared));
        let plan = self.plan;
        let warmup = if plan.count.is_some() {
            Duration::ZERO
        } else {
            plan.warmup
        };
        while start.elapsed() < warmup && !has_failed() {
            self.show("warming up", &mut shown);
            std::thread::sleep(LOOK);
        }
        let begun = self.moment(Sums::of(self.shared));
        let measure_from = match self.goal {
            // Their latency would be the time they were kept for.
            Goal::Delivered(_) => u64::MAX,
            _ if plan.count.is_some() => 0,
            _ => begun.sums.at,
        };
        self.shared.measure_from.store(measure_from, Ordering::Relaxed);
        let mut last = (Instant::now(), Sums::default());
        let mut stopped = None;
        loop {
            std::thread::sleep(LOOK);
            let sums = Sums::of(self.shared);
            if plan.count.is_none() && stopped.is_none() && start.elapsed() >= warmup + plan.measured {
                stopped = Some(self.moment(sums));
                self.shared.stopping.store(true, Ordering::Relaxed);
            }
            if sums.moved(&last.1) {
                last = (Instant::now(), sums);
            }
            let all_sent = match (self.goal, plan.count) {
                (Goal::Delivered(_), _) => true,
                (_, Some(count)) => sums.published == count * plan.publishers as u64,
                (_, None) => stopped.is_some(),
            };
            let is_complete = all_sent
                && match self.goal {
                    Goal::Everything => sums.acked == sums.published && sums.delivered >= sums.expected,
                    Goal::Acknowledged => sums.acked == sums.published,
                    Goal::Delivered(wanted) => sums.delivered >= wanted,
                };
            let is_settled = last.0.elapsed() >= SETTLED || (plan.count.is_some() && self.goal == Goal::Acknowledged);
            let is_quiet = last.0.elapsed() >= QUIET_MAX && (all_sent || plan.interval.is_none());
            if is_complete && stopped.is_none() {
                stopped = Some(self.moment(sums));
            }
            if (is_complete && is_settled) || is_quiet || has_failed() {
                return (begun, stopped.unwrap_or_else(|| self.moment(sums)));
            }
            let phase = if all_sent && self.goal == Goal::Everything {
                "draining"
            } else {
                self.progress.unwrap_or_default()
            };
            self.show(phase, &mut shown);
        }
    }

    #[expect(clippy::print_stderr, reason = "the progress line is for the person who waits")]
    fn show(&self, phase: &str, shown: &mut (Instant, Sums)) {
        if self.progress.is_none() || shown.0.elapsed() < Duration::from_secs(1) {
            return;
        }
        let sums = Sums::of(self.shared);
        let seconds = (sums.at - shown.1.at) as f64 / 1e9;
        let expected = match self.goal {
            Goal::Everything => sums.expected,
            Goal::Acknowledged => 0,
            Goal::Delivered(wanted) => wanted,
        };
        eprintln!(
            "{phase}: {:.0} acknowledged/s, {:.0} delivered/s, {} to come, {} again, {} out of order",
            (sums.acked - shown.1.acked) as f64 / seconds,
            (sums.delivered - shown.1.delivered) as f64 / seconds,
            expected.saturating_sub(sums.delivered),
            sums.duplicates,
            sums.disordered
        );
        *shown = (Instant::now(), sums);
    }
}
