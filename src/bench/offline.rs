//! Subscribers go away, messages are published, subscribers come back: what it costs to keep messages, and how fast
//! they come out again.

use serde::Serialize;

use super::args::OfflineArgs;
use super::crew::{Crew, forget_sessions, subscribed};
use super::gauge::{Gauge, Usage, Work};
use super::histogram::Percentiles;
use super::plan::Plan;
use super::shared::{Shared, Sums};
use super::watch::{Goal, Watch};

/// What was seen of both phases.
#[derive(Debug, Serialize)]
pub(super) struct OfflineReport {
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
    /// While the subscribers are away.
    pub(super) enqueue: Enqueue,
    /// After their return.
    pub(super) drain: Drain,
    /// The broker's resident memory before the first message, in MiB.
    pub(super) mib_before: Option<f64>,
    /// With all messages kept.
    pub(super) mib_backlog: Option<f64>,
    /// When all were delivered.
    pub(super) mib_after: Option<f64>,
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
}

/// What was seen while the subscribers were away.
#[derive(Debug, Serialize)]
pub(super) struct Enqueue {
    /// Messages published.
    pub(super) published: u64,
    /// Of them, acknowledged.
    pub(super) acked: u64,
    /// Of them, refused.
    pub(super) refused: u64,
    /// From the first message to the last acknowledgement.
    pub(super) seconds: f64,
    /// Messages acknowledged a second.
    pub(super) acked_per_second: f64,
    /// Microseconds from due to acknowledged.
    pub(super) ack_us: Option<Percentiles>,
    /// CPU time and the log, for each message published.
    #[serde(flatten)]
    pub(super) usage: Usage,
}

/// What was seen of the return.
#[derive(Debug, Serialize)]
pub(super) struct Drain {
    /// From the first CONNECT to the last message.
    pub(super) seconds: f64,
    /// Deliveries a second.
    pub(super) delivered_per_second: f64,
    /// Milliseconds from the first CONNECT to the first message.
    pub(super) first_ms: Option<f64>,
    /// CPU time and the log, for each message delivered.
    #[serde(flatten)]
    pub(super) usage: Usage,
}

/// Runs both phases.
///
/// # Errors
/// The broker cannot be reached, refuses a client, or ends a connection.
pub(super) fn run(args: &OfflineArgs) -> Result<OfflineReport, String> {
    let plan = Plan::offline(args)?;
    let gauge = Gauge::new(&args.target.watch)?;
    let is_talking = !args.target.watch.json;
    forget_sessions(&plan)?;
    for number in 0..plan.subscribers {
        subscribed(&plan, number)?.close();
    }
    let mib_before = gauge.read().mib();
    let (enqueue, expected) = enqueue(&plan, &gauge, is_talking.then_some("subscribers away"))?;
    let mib_backlog = gauge.read().mib();
    let (drain, end) = drain(&plan, &gauge, expected, is_talking.then_some("subscribers back"))?;
    let mib_after = gauge.read().mib();
    forget_sessions(&plan)?;
    Ok(OfflineReport {
        preset: plan.name,
        qos: plan.qos,
        publishers: plan.publishers,
        subscribers: plan.subscribers,
        topics: plan.topics,
        size: plan.size,
        enqueue,
        drain,
        mib_before,
        mib_backlog,
        mib_after,
        expected,
        delivered: end.delivered,
        lost: expected.saturating_sub(end.delivered),
        duplicates: end.duplicates,
        disordered: end.disordered,
    })
}

/// Publishes everything. Answers with the deliveries that are owed by then, too.
fn enqueue(plan: &Plan, gauge: &Gauge, progress: Option<&'static str>) -> Result<(Enqueue, u64), String> {
    let shared = Shared::new(plan);
    let mut crew = Crew::new(plan, &shared);
    crew.add_publishers()?;
    let watch = Watch {
        plan,
        shared: &shared,
        gauge,
        goal: Goal::Acknowledged,
        progress,
    };
    let ((begun, stopped), mut haul) = crew.work(|has_failed| watch.until_done(has_failed))?;
    haul.close();
    let seconds = (stopped.sums.at - begun.sums.at) as f64 / 1e9;
    let end = Sums::of(&shared);
    let work = Work {
        messages: end.acked,
        accepted: end.acked,
        seconds,
    };
    let enqueue = Enqueue {
        published: end.published,
        acked: end.acked,
        refused: end.refused,
        seconds,
        acked_per_second: end.acked as f64 / seconds,
        ack_us: haul.ack.percentiles(),
        usage: stopped.reading.since(&begun.reading, work),
    };
    Ok((enqueue, end.expected))
}

/// Lets the subscribers return and take what they are owed.
fn drain(plan: &Plan, gauge: &Gauge, expected: u64, progress: Option<&'static str>) -> Result<(Drain, Sums), String> {
    let before = gauge.read();
    let shared = Shared::new(plan);
    let mut crew = Crew::new(plan, &shared);
    crew.add_returning()?;
    let watch = Watch {
        plan,
        shared: &shared,
        gauge,
        goal: Goal::Delivered(expected),
        progress,
    };
    let ((_, stopped), mut haul) = crew.work(|has_failed| watch.until_done(has_failed))?;
    let end = Sums::of(&shared);
    haul.close();
    let seconds = haul.last_at as f64 / 1e9;
    let work = Work {
        messages: end.delivered,
        accepted: 0,
        seconds,
    };
    let usage = stopped.reading.since(&before, work);
    let drain = Drain {
        seconds,
        delivered_per_second: if seconds > 0.0 {
            end.delivered as f64 / seconds
        } else {
            0.0
        },
        first_ms: haul.first_at.map(|first| first as f64 / 1e6),
        usage: Usage {
            messages_per_round: None,
            log_bytes_per_message: None,
            ..usage
        },
    };
    Ok((drain, end))
}
