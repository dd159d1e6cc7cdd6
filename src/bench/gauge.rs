//! What a broker costs: CPU time and memory of its process, and the counters of its log if it shows them.

use std::time::Duration;

use serde::Serialize;

use super::args::WatchArgs;
use super::http::{self, Url};
use super::process::Process;

/// Where the broker is read.
pub(super) struct Gauge {
    process: Option<Process>,
    metrics: Option<Url>,
}

/// What was read at one moment.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Reading {
    own_cpu: Duration,
    broker_cpu: Option<Duration>,
    /// Resident bytes of the broker.
    pub(super) resident: Option<u64>,
    log: Option<LogCounters>,
}

/// Counters of a log since the broker's start.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct LogCounters {
    batches: f64,
    records: f64,
    syncs: f64,
    bytes: f64,
}

impl LogCounters {
    /// Reads them from the Prometheus text format; `None` if they are not all there.
    fn find(text: &str) -> Option<Self> {
        let value = |name: &str| -> Option<f64> {
            let mut values = text.lines().filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let rest = match rest.strip_prefix('{') {
                    Some(labeled) => labeled.split_once('}')?.1,
                    None => rest,
                };
                rest.strip_prefix(' ')?.split_ascii_whitespace().next()?.parse().ok()
            });
            let first: f64 = values.next()?;
            Some(first + values.sum::<f64>())
        };
        Some(Self {
            batches: value("evermq_log_batches_total")?,
            records: value("evermq_log_records_total")?,
            syncs: value("evermq_log_syncs_total")?,
            bytes: value("evermq_log_bytes_total")?,
        })
    }
}

/// What a run has cost.
#[derive(Clone, Copy, Default, Debug, Serialize)]
pub(super) struct Usage {
    /// Microseconds of the broker's CPU for each message.
    pub(super) broker_cpu_us: Option<f64>,
    /// Cores the broker kept busy.
    pub(super) broker_cores: Option<f64>,
    /// The broker's resident memory at the end of what was measured, in MiB.
    pub(super) broker_mib: Option<f64>,
    /// Messages the broker accepted in each batch of its log.
    pub(super) messages_per_round: Option<f64>,
    /// Records in each batch.
    pub(super) records_per_round: Option<f64>,
    /// Batches a second.
    pub(super) rounds_per_second: Option<f64>,
    /// Syncs a second.
    pub(super) syncs_per_second: Option<f64>,
    /// Bytes written to the log for each message the broker accepted.
    pub(super) log_bytes_per_message: Option<f64>,
    /// Microseconds of this tool's CPU for each message.
    pub(super) tool_cpu_us: Option<f64>,
}

/// What was done between two readings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Messages by which CPU time is divided: deliveries, or publishes where nobody subscribes.
    pub(super) messages: u64,
    /// Messages the broker accepted.
    pub(super) accepted: u64,
    /// How long it took.
    pub(super) seconds: f64,
}

impl Gauge {
    /// Of the broker the arguments name.
    ///
    /// # Errors
    /// There is no such process, or no such counters.
    pub(super) fn new(args: &WatchArgs) -> Result<Self, String> {
        let gauge = Self {
            process: args.pid.map(Process::Pid),
            metrics: args.metrics.as_deref().map(Url::parse).transpose()?,
        };
        if gauge.process.is_some_and(|process| process.cpu().is_none()) {
            return Err("there is no process with this id".into());
        }
        if let Some(url) = &gauge.metrics {
            let text = http::get(url)?;
            if LogCounters::find(&text).is_none() {
                return Err(format!("`{url}` shows no evermq_log_..._total"));
            }
        }
        Ok(gauge)
    }

    /// What the broker shows now. What cannot be read is left out.
    pub(super) fn read(&self) -> Reading {
        let metrics = self.metrics.as_ref().and_then(|url| http::get(url).ok());
        Reading {
            own_cpu: Process::Own.cpu().unwrap_or_default(),
            broker_cpu: self.process.and_then(Process::cpu),
            resident: self.process.and_then(Process::resident),
            log: metrics.and_then(|text| LogCounters::find(&text)),
        }
    }
}

impl Reading {
    /// Resident memory in MiB.
    pub(super) fn mib(&self) -> Option<f64> {
        self.resident.map(|bytes| bytes as f64 / f64::from(1 << 20))
    }

    /// What happened since `before`.
    pub(super) fn since(&self, before: &Self, work: Work) -> Usage {
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / work.messages.max(1) as f64;
        let cpu = self
            .broker_cpu
            .zip(before.broker_cpu)
            .map(|(now, before)| now.saturating_sub(before));
        let log = self.log.zip(before.log);
        let log = |of: fn(&LogCounters) -> f64| log.map(|(now, before)| of(&now) - of(&before));
        let (batches, records) = (log(|log| log.batches), log(|log| log.records));
        let ratio = |part: Option<f64>, whole: Option<f64>| {
            let (part, whole) = part.zip(whole)?;
            (whole > 0.0).then_some(part / whole)
        };
        let accepted = Some(work.accepted as f64);
        let seconds = Some(work.seconds);
        Usage {
            broker_cpu_us: cpu.map(each),
            broker_cores: ratio(cpu.map(|cpu| cpu.as_secs_f64()), seconds),
            broker_mib: self.mib(),
            messages_per_round: ratio(accepted, batches),
            records_per_round: ratio(records, batches),
            rounds_per_second: ratio(batches, seconds),
            syncs_per_second: ratio(log(|log| log.syncs), seconds),
            log_bytes_per_message: ratio(log(|log| log.bytes), accepted),
            tool_cpu_us: Some(each(self.own_cpu.saturating_sub(before.own_cpu))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_with_labels_and_without_and_added_up() {
        let text = "# TYPE evermq_log_batches_total counter\n\
            evermq_log_batches_total 7\n\
            evermq_log_records_total{kind=\"data\"} 30\n\
            evermq_log_records_total{kind=\"row\"} 12 1700000000\n\
            evermq_log_records_total_other 99\n\
            evermq_log_syncs_total 1e1\n";
        assert_eq!(LogCounters::find(text), None, "bytes are missing");
        let found = LogCounters::find(&format!("{text}evermq_log_bytes_total 8192\n"));
        let expected = LogCounters {
            batches: 7.0,
            records: 42.0,
            syncs: 10.0,
            bytes: 8192.0,
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn usage_is_what_lies_between_two_readings() {
        let before = Reading {
            broker_cpu: Some(Duration::from_secs(1)),
            log: Some(LogCounters {
                batches: 10.0,
                records: 100.0,
                syncs: 10.0,
                bytes: 0.0,
            }),
            ..Reading::default()
        };
        let after = Reading {
            broker_cpu: Some(Duration::from_secs(3)),
            log: Some(LogCounters {
                batches: 20.0,
                records: 400.0,
                syncs: 15.0,
                bytes: 20_000.0,
            }),
            ..Reading::default()
        };
        let usage = after.since(
            &before,
            Work {
                messages: 1_000,
                accepted: 200,
                seconds: 4.0,
            },
        );
        let close = |found: Option<f64>, wanted: f64| (found.unwrap() - wanted).abs() < 1e-9;
        assert!(close(usage.broker_cpu_us, 2_000.0));
        assert!(close(usage.broker_cores, 0.5));
        assert!(close(usage.messages_per_round, 20.0));
        assert!(close(usage.records_per_round, 30.0));
        assert!(close(usage.rounds_per_second, 2.5));
        assert!(close(usage.syncs_per_second, 1.25));
        assert!(close(usage.log_bytes_per_message, 100.0));
        assert!(usage.broker_mib.is_none());
    }
}
