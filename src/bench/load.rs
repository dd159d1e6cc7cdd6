//! A run: sets the clients up, lets the workers work, watches, and adds up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::LoadArgs;
use super::histogram::{Histogram, Percentiles};
use super::link::Link;
use super::plan::Plan;
use super::process::Process;
use super::stamp::Ledger;
use super::wire::Connect;
use super::worker::{Counters, Outcome, Peer, Publisher, Role, Shared, Worker};

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// After so long without anything arriving what is missing is lost.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// What a run has shown.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Name of the preset.
    pub(super) preset: &'static str,
    /// Quality of service.
    pub(super) qos: u8,
    /// Publishers.
    pub(super) publishers: usize,
    /// Subscribers.
    pub(super) subscribers: usize,
    /// Topics.
    pub(super) topics: usize,
    /// Bytes of a payload.
    pub(super) size: usize,
    /// Seconds that were measured.
    pub(super) seconds: f64,
    /// Messages acknowledged a second.
    pub(super) acked_per_second: f64,
    /// Deliveries a second.
    pub(super) delivered_per_second: f64,
    /// Microseconds from due to acknowledged.
    pub(super) ack_us: Option<Percentiles>,
    /// Microseconds from due to delivered.
    pub(super) end_to_end_us: Option<Percentiles>,
    /// Messages published in all.
    pub(super) published: u64,
    /// Of them, acknowledged.
    pub(super) acked: u64,
    /// Of them, refused.
    pub(super) refused: u64,
    /// Deliveries that should have come.
    pub(super) expected: u64,
    /// Deliveries that came, each once.
    pub(super) delivered: u64,
    /// Deliveries that did not come.
    pub(super) lost: u64,
    /// Deliveries that came again.
    pub(super) duplicates: u64,
    /// Deliveries that came behind a later one of their topic and publisher.
    pub(super) disordered: u64,
    /// Microseconds of the broker's CPU for each message: each delivery, or each publish where nobody subscribes.
    pub(super) broker_cpu_us: Option<f64>,
    /// Cores the broker kept busy.
    pub(super) broker_cores: Option<f64>,
    /// The broker's resident memory at the end of what was measured, in MiB.
    pub(super) broker_mib: Option<f64>,
    /// Microseconds of this tool's CPU for each message.
    pub(super) tool_cpu_us: Option<f64>,
}

/// Sums of all workers at one moment.
#[derive(Clone, Copy, Default)]
struct Sums {
    at: u64,
    published: u64,
    acked: u64,
    refused: u64,
    expected: u64,
    delivered: u64,
    duplicates: u64,
    disordered: u64,
    own_cpu: Duration,
    broker_cpu: Option<Duration>,
}

impl Sums {
    fn of(shared: &Shared) -> Self {
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
            ..Self::default()
        }
    }

    fn with_cpu(mut self, broker: Option<Process>) -> Self {
        self.own_cpu = Process::Own.cpu().unwrap_or_default();
        self.broker_cpu = broker.and_then(Process::cpu);
        self
    }
}

/// Sets clients up, runs the load, takes it down.
///
/// # Errors
/// The broker cannot be reached, refuses a client, or ends a connection.
pub(super) fn run(name: &'static str, args: &LoadArgs) -> Result<Report, String> {
    let plan = Plan::new(name, args)?;
    let broker = args.pid.map(Process::Pid);
    if let Some(broker) = broker
        && broker.cpu().is_none()
    {
        return Err("there is no process with this id".into());
    }
    if plan.persistent {
        forget_sessions(&plan)?;
    }
    let shared = Shared {
        born: Instant::now(),
        stopping: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        measure_from: AtomicU64::new(u64::MAX),
        counters: (0..plan.threads).map(|_| Counters::default()).collect(),
        delivered_of: (0..plan.publishers).map(|_| AtomicU64::new(0)).collect(),
    };
    let mut shares: Vec<Vec<Peer>> = (0..plan.threads).map(|_| Vec::new()).collect();
    // A publisher and its subscriber are on one thread where there is one of each.
    for number in 0..plan.subscribers {
        let mut link = open(&plan, "s", number, plan.persistent)?;
        link.subscribe(&plan.filters(number), plan.qos)?;
        link.go()?;
        let ledger = Role::Subscriber(Box::new(Ledger::new(plan.keys())));
        if let Some(share) = shares.get_mut(number % plan.threads) {
            share.push(Peer::new(link, ledger));
        }
    }
    for number in 0..plan.publishers {
        let mut link = open(&plan, "p", number, false)?;
        link.go()?;
        if let Some(share) = shares.get_mut(number % plan.threads) {
            share.push(Peer::new(
                link,
                Role::Publisher(Box::new(Publisher::new(&plan, number))),
            ));
        }
    }
    let mut workers = Vec::new();
    for (share, counters) in shares.into_iter().zip(&shared.counters) {
        workers.push(Worker::new(&plan, &shared, counters, share)?);
    }
    let (outcomes, begun, stopped, end) = std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .into_iter()
            .map(|worker| scope.spawn(move || worker.run()))
            .collect();
        let (begun, stopped) = watch(&plan, &shared, broker, !args.json, || {
            threads.iter().any(std::thread::ScopedJoinHandle::is_finished)
        });
        shared.ended.store(true, Ordering::Relaxed);
        let outcomes: Vec<Outcome> = threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Outcome {
                    failed: Some("a thread of the tool has failed".into()),
                    ..Outcome::default()
                })
            })
            .collect();
        (outcomes, begun, stopped, Sums::of(&shared))
    });
    let resident = broker.and_then(Process::resident);
    let mut ack = Histogram::default();
    let mut end_to_end = Histogram::default();
    for outcome in outcomes {
        if let Some(failed) = outcome.failed {
            return Err(failed);
        }
        ack.add(&outcome.ack);
        end_to_end.add(&outcome.end_to_end);
        outcome.links.into_iter().for_each(Link::close);
    }
    if plan.persistent {
        forget_sessions(&plan)?;
    }
    let seconds = (stopped.at - begun.at) as f64 / 1e9;
    let (acked, delivered) = (stopped.acked - begun.acked, stopped.delivered - begun.delivered);
    let messages = if plan.subscribers == 0 { acked } else { delivered };
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / messages.max(1) as f64;
    let broker_cpu = stopped
        .broker_cpu
        .zip(begun.broker_cpu)
        .map(|(stopped, begun)| stopped.saturating_sub(begun));
    Ok(Report {
        preset: plan.name,
        qos: plan.qos,
        publishers: plan.publishers,
        subscribers: plan.subscribers,
        topics: plan.topics,
        size: plan.size,
        seconds,
        acked_per_second: acked as f64 / seconds,
        delivered_per_second: delivered as f64 / seconds,
        ack_us: ack.percentiles(),
        end_to_end_us: end_to_end.percentiles(),
        published: end.published,
        acked: end.acked,
        refused: end.refused,
        expected: end.expected,
        delivered: end.delivered,
        lost: end.expected.saturating_sub(end.delivered),
        duplicates: end.duplicates,
        disordered: end.disordered,
        broker_cpu_us: broker_cpu.map(each),
        broker_cores: broker_cpu.map(|cpu| cpu.as_secs_f64() / seconds),
        broker_mib: resident.map(|bytes| bytes as f64 / f64::from(1 << 20)),
        tool_cpu_us: Some(each(stopped.own_cpu.saturating_sub(begun.own_cpu))),
    })
}

fn open(plan: &Plan, role: &str, number: usize, persistent: bool) -> Result<Link, String> {
    Link::open(
        plan.broker,
        &Connect {
            client: &plan.client(role, number),
            version: plan.version,
            clean: true,
            persistent,
            username: plan.username.as_deref(),
            password: plan.password.as_deref(),
        },
    )
}

/// Takes down what an earlier run, or this one, has left with the broker.
fn forget_sessions(plan: &Plan) -> Result<(), String> {
    for number in 0..plan.subscribers {
        open(plan, "s", number, false)?.close();
    }
    Ok(())
}

/// Watches a run from its first message to its last. Answers with the sums where measuring began and ended.
fn watch(
    plan: &Plan,
    shared: &Shared,
    broker: Option<Process>,
    progress: bool,
    has_failed: impl Fn() -> bool,
) -> (Sums, Sums) {
    let start = Instant::now();
    let mut begun = None;
    let mut shown = (start, Sums::of(shared));
    let warmup = if plan.count.is_some() {
        Duration::ZERO
    } else {
        plan.warmup
    };
    let begun = loop {
        let begun = *begun.get_or_insert_with(|| Sums::of(shared).with_cpu(broker));
        let elapsed = start.elapsed();
        if shared.measure_from.load(Ordering::Relaxed) == u64::MAX {
            if elapsed >= warmup {
                let sums = Sums::of(shared).with_cpu(broker);
                shared
                    .measure_from
                    .store(if plan.count.is_some() { 0 } else { sums.at }, Ordering::Relaxed);
                break sums;
            }
        } else {
            break begun;
        }
        if has_failed() {
            break begun;
        }
        show(progress, "warming up", &mut shown, shared);
        std::thread::sleep(LOOK);
    };
    let mut last = (Instant::now(), Sums::default());
    let mut stopped = None;
    loop {
        std::thread::sleep(LOOK);
        let sums = Sums::of(shared);
        if plan.count.is_none() && stopped.is_none() && start.elapsed() >= warmup + plan.measured {
            stopped = Some(sums.with_cpu(broker));
            shared.stopping.store(true, Ordering::Relaxed);
        }
        if (sums.acked, sums.delivered, sums.published) != (last.1.acked, last.1.delivered, last.1.published) {
            last = (Instant::now(), sums);
        }
        let all_sent = match plan.count {
            Some(count) => sums.published == count * plan.publishers as u64,
            None => stopped.is_some(),
        };
        let complete = all_sent && sums.acked == sums.published && sums.delivered >= sums.expected;
        // What a publisher had in hand when it was told to stop must be seen before the end is.
        let settled = last.0.elapsed() >= LOOK * 4;
        let quiet = last.0.elapsed() >= QUIET_MAX && (all_sent || plan.interval.is_none());
        if (complete && (settled || plan.count.is_some())) || quiet || has_failed() {
            return (begun, stopped.unwrap_or_else(|| sums.with_cpu(broker)));
        }
        show(
            progress,
            if all_sent { "draining" } else { "measuring" },
            &mut shown,
            shared,
        );
    }
}

#[expect(clippy::print_stderr, reason = "the progress line is for the person who waits")]
fn show(progress: bool, phase: &str, shown: &mut (Instant, Sums), shared: &Shared) {
    if !progress || shown.0.elapsed() < Duration::from_secs(1) {
        return;
    }
    let sums = Sums::of(shared);
    let seconds = (sums.at - shown.1.at) as f64 / 1e9;
    eprintln!(
        "{phase}: {:.0} acknowledged/s, {:.0} delivered/s, {} to come, {} again, {} out of order",
        (sums.acked - shown.1.acked) as f64 / seconds,
        (sums.delivered - shown.1.delivered) as f64 / seconds,
        sums.expected.saturating_sub(sums.delivered),
        sums.duplicates,
        sums.disordered
    );
    *shown = (Instant::now(), sums);
}
