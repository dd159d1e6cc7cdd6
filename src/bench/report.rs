//! What was found, as text for people or one line of JSON for machines.

use std::fmt::Write;

use serde::Serialize;

use super::disk::DiskReport;
use super::histogram::Percentiles;
use super::load::Report;
use super::log::LogReport;

#[expect(clippy::print_stdout, reason = "the result is what the tool is started for")]
fn print(text: &str) {
    println!("{}", text.trim_end());
}

fn json(report: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string(report).map_err(|error| format!("cannot print the result: {error}"))?;
    print(&text);
    Ok(())
}

fn micros(value: f64) -> String {
    match value {
        0.0..1_000.0 => format!("{value:.0} us"),
        1_000.0..1_000_000.0 => format!("{:.2} ms", value / 1e3),
        _ => format!("{:.2} s", value / 1e6),
    }
}

fn percentiles(name: &str, percentiles: Option<Percentiles>) -> String {
    percentiles.map_or_else(String::new, |found| {
        format!(
            "{name:<13}p50 {}, p90 {}, p99 {}, p99.9 {}, max {}\n",
            micros(found.p50),
            micros(found.p90),
            micros(found.p99),
            micros(found.p999),
            micros(found.max)
        )
    })
}

/// Prints what a load has shown.
///
/// # Errors
/// It cannot be printed.
pub(super) fn load(report: &Report, as_json: bool) -> Result<(), String> {
    if as_json {
        return json(report);
    }
    let mut text = format!(
        "{}, QoS {}: {} publishers, {} subscribers, {} topics, {} B, {:.1} s\n",
        report.preset, report.qos, report.publishers, report.subscribers, report.topics, report.size, report.seconds
    );
    let mut line = |line: String| {
        // Writing into a String cannot fail.
        text.write_str(&line).unwrap_or_default();
    };
    line(format!("published    {:.0}/s acknowledged\n", report.acked_per_second));
    if report.subscribers > 0 {
        line(format!("delivered    {:.0}/s\n", report.delivered_per_second));
    }
    line(percentiles("acknowledged", report.ack_us));
    line(percentiles("end to end", report.end_to_end_us));
    line(format!(
        "all in all   {} published, {} acknowledged, {} refused; {} of {} delivered, {} lost, {} again, {} out of order\n",
        report.published,
        report.acked,
        report.refused,
        report.delivered,
        report.expected,
        report.lost,
        report.duplicates,
        report.disordered
    ));
    if let (Some(cpu), Some(cores), Some(mib)) = (report.broker_cpu_us, report.broker_cores, report.broker_mib) {
        line(format!(
            "broker       {cpu:.2} us CPU a message, {cores:.2} cores, {mib:.1} MiB resident\n"
        ));
    }
    if let Some(cpu) = report.tool_cpu_us {
        line(format!("this tool    {cpu:.2} us CPU a message\n"));
    }
    print(&text);
    Ok(())
}

/// Prints what the disk has shown.
///
/// # Errors
/// It cannot be printed.
pub(super) fn disk(report: &DiskReport, as_json: bool) -> Result<(), String> {
    if as_json {
        return json(report);
    }
    let times = percentiles("write + sync", report.sync_us);
    print(&format!(
        "disk, {} B a sync: {:.0} syncs/s\n{times}",
        report.bytes, report.syncs_per_second
    ));
    Ok(())
}

/// Prints what the bare log has shown.
///
/// # Errors
/// It cannot be printed.
pub(super) fn log(report: &LogReport, as_json: bool) -> Result<(), String> {
    if as_json {
        return json(report);
    }
    print(&format!(
        "bare log, {} B, {} on their way, runs of {}: {:.0} records/s, {:.0} rounds/s, {:.0} records a round, \
         {:.2} us CPU a record\n{}",
        report.size,
        report.outstanding,
        report.run,
        report.records_per_second,
        report.rounds_per_second,
        report.records_per_round,
        report.cpu_us,
        percentiles("durable", report.durable_us)
    ));
    Ok(())
}
