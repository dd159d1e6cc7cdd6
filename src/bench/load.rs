//! A live run: everybody is there while messages are published.

use serde::Serialize;

use super::args::LoadArgs;
use super::crew::{Crew, forget_sessions};
use super::gauge::{Gauge, Usage, Work};
use super::histogram::Percentiles;
use super::plan::Plan;
use super::shared::{Shared, Sums};
use super::watch::{Goal, Watch};

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
    /// CPU time and the log.
    #[serde(flatten)]
    pub(super) usage: Usage,
}

/// Sets clients up, runs the load, takes it down.
///
/// # Errors
/// The broker cannot be reached, refuses a client, or ends a connection.
pub(super) fn run(name: &'static str, args: &LoadArgs) -> Result<Report, String> {
    let plan = Plan::new(name, args)?;
    let gauge = Gauge::new(&args.target.watch)?;
    if plan.persistent {
        forget_sessions(&plan)?;
    }
    let shared = Shared::new(&plan);
    let mut crew = Crew::new(&plan, &shared);
    crew.add_subscribers()?;
    crew.add_publishers()?;
    let watch = Watch {
        plan: &plan,
        shared: &shared,
        gauge: &gauge,
        goal: Goal::Everything,
        progress: (!args.target.watch.json).then_some("measuring"),
    };
    let ((begun, stopped), mut haul) = crew.work(|has_failed| watch.until_done(has_failed))?;
    let end = Sums::of(&shared);
    haul.close();
    if plan.persistent {
        forget_sessions(&plan)?;
    }
    let seconds = (stopped.sums.at - begun.sums.at) as f64 / 1e9;
    let acked = stopped.sums.acked - begun.sums.acked;
    let delivered = stopped.sums.delivered - begun.sums.delivered;
    let work = Work {
        messages: if plan.subscribers == 0 { acked } else { delivered },
        accepted: acked,
        seconds,
    };
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
        ack_us: haul.ack.percentiles(),
        end_to_end_us: haul.end_to_end.percentiles(),
        published: end.published,
        acked: end.acked,
        refused: end.refused,
        expected: end.expected,
        delivered: end.delivered,
        lost: end.expected.saturating_sub(end.delivered),
        duplicates: end.duplicates,
        disordered: end.disordered,
        usage: stopped.reading.since(&begun.reading, work),
    })
}
