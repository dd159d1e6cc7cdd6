//! What was found, as text for people or one line of JSON for machines.

use serde::Serialize;

use super::disk::DiskReport;
use super::gauge::Usage;
use super::histogram::Percentiles;
use super::load::Report;
use super::log::LogReport;
use super::offline::OfflineReport;

/// What each kind of measurement says.
pub(super) trait Text: Serialize {
    /// It, for people.
    fn text(&self) -> Vec<String>;
}

/// Prints a result.
///
/// # Errors
/// It cannot be printed.
#[expect(clippy::print_stdout, reason = "the result is what the tool is started for")]
pub(super) fn print(report: &impl Text, as_json: bool) -> Result<(), String> {
    if as_json {
        let text = serde_json::to_string(report).map_err(|error| format!("cannot print the result: {error}"))?;
        println!("{text}");
    } else {
        println!("{}", report.text().join("\n"));
    }
    Ok(())
}

fn micros(value: f64) -> String {
    match value {
        0.0..1_000.0 => format!("{value:.0} us"),
        1_000.0..1_000_000.0 => format!("{:.2} ms", value / 1e3),
        _ => format!("{:.2} s", value / 1e6),
    }
}

/// A line of percentiles, if there is anything.
pub(super) fn percentiles(name: &str, percentiles: Option<Percentiles>) -> Option<String> {
    percentiles.map(|found| {
        format!(
            "{name:<13}p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            micros(found.p50),
            micros(found.p90),
            micros(found.p99),
            micros(found.p999),
            micros(found.max)
        )
    })
}

/// What it has cost, a line each; `what` is counted.
pub(super) fn usage(usage: &Usage, what: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(cpu), Some(cores), Some(mib)) = (usage.broker_cpu_us, usage.broker_cores, usage.broker_mib) {
        lines.push(format!(
            "broker       {cpu:.2} us CPU a {what}, {cores:.2} cores, {mib:.1} MiB resident"
        ));
    }
    if let (Some(rounds), Some(syncs)) = (usage.rounds_per_second, usage.syncs_per_second) {
        let mut parts = vec![format!("log          {rounds:.0} rounds/s, {syncs:.0} syncs/s")];
        parts.extend(
            usage
                .records_per_round
                .map(|records| format!("{records:.1} records a round")),
        );
        parts.extend(
            usage
                .messages_per_round
                .map(|messages| format!("{messages:.1} messages a round")),
        );
        parts.extend(
            usage
                .log_bytes_per_message
                .map(|bytes| format!("{bytes:.0} B a message")),
        );
        lines.push(parts.join(", "));
    }
    lines.extend(
        usage
            .tool_cpu_us
            .map(|cpu| format!("this tool    {cpu:.2} us CPU a {what}")),
    );
    lines
}

impl Text for Report {
    fn text(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{}, QoS {}: {} publishers, {} subscribers, {} topics, {} B, {:.1} s",
                self.preset, self.qos, self.publishers, self.subscribers, self.topics, self.size, self.seconds
            ),
            format!("published    {:.0}/s acknowledged", self.acked_per_second),
        ];
        if self.subscribers > 0 {
            lines.push(format!("delivered    {:.0}/s", self.delivered_per_second));
        }
        lines.extend(percentiles("acknowledged", self.ack_us));
        lines.extend(percentiles("end to end", self.end_to_end_us));
        lines.push(format!(
            "all in all   {} published, {} acknowledged, {} refused; {} of {} delivered, {} lost, {} again, {} out of order",
            self.published,
            self.acked,
            self.refused,
            self.delivered,
            self.expected,
            self.lost,
            self.duplicates,
            self.disordered
        ));
        lines.extend(usage(&self.usage, "message"));
        lines
    }
}

impl Text for OfflineReport {
    fn text(&self) -> Vec<String> {
        let (enqueue, drain) = (&self.enqueue, &self.drain);
        let mut lines = vec![
            format!(
                "{}, QoS {}: {} publishers, {} subscribers, {} topics, {} B",
                self.preset, self.qos, self.publishers, self.subscribers, self.topics, self.size
            ),
            String::new(),
            format!("subscribers away, {:.1} s", enqueue.seconds),
            format!("published    {:.0}/s acknowledged", enqueue.acked_per_second),
        ];
        lines.extend(percentiles("acknowledged", enqueue.ack_us));
        lines.extend(usage(&enqueue.usage, "message"));
        lines.push(String::new());
        lines.push(format!("subscribers back, {:.1} s", drain.seconds));
        lines.push(format!("delivered    {:.0}/s", drain.delivered_per_second));
        lines.extend(
            drain
                .first_ms
                .map(|first| format!("the first    {first:.1} ms after the first CONNECT")),
        );
        lines.extend(usage(&drain.usage, "message"));
        lines.push(String::new());
        if let (Some(before), Some(backlog), Some(after)) = (self.mib_before, self.mib_backlog, self.mib_after) {
            lines.push(format!(
                "memory       {before:.1} MiB before, {backlog:.1} MiB with all kept, {after:.1} MiB after"
            ));
        }
        lines.push(format!(
            "all in all   {} published, {} acknowledged, {} refused; {} of {} delivered, {} lost, {} again, {} out of order",
            enqueue.published,
            enqueue.acked,
            enqueue.refused,
            self.delivered,
            self.expected,
            self.lost,
            self.duplicates,
            self.disordered
        ));
        if self.lost > 0 {
            lines.push(
                "a broker that bounds its queues drops what is beyond: for mosquitto, set max_queued_messages 0".into(),
            );
        }
        lines
    }
}

impl Text for DiskReport {
    fn text(&self) -> Vec<String> {
        let head = format!("disk, {} B a sync: {:.0} syncs/s", self.bytes, self.syncs_per_second);
        let times = percentiles("write + sync", self.sync_us);
        std::iter::once(head).chain(times).collect()
    }
}

impl Text for LogReport {
    fn text(&self) -> Vec<String> {
        let how = match self.round {
            Some(round) => format!("rounds of {round}"),
            None => format!("{} on their way, runs of {}", self.outstanding, self.run),
        };
        let head = format!(
            "bare log, {} B, {how}: {:.0} records/s, {:.0} rounds/s, {:.0} records a round, {:.2} us CPU a record",
            self.size, self.records_per_second, self.rounds_per_second, self.records_per_round, self.cpu_us
        );
        let times = percentiles("durable", self.durable_us);
        std::iter::once(head).chain(times).collect()
    }
}
