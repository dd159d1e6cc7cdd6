//! `bench connect` and `bench idle`: what opening connections costs, and what those that are open and do nothing cost.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::args::{ConnectArgs, IdleArgs, LoadArgs};
use super::gauge::{Gauge, Usage, Work};
use super::histogram::Percentiles;
use super::load;
use super::plan::{MQTT_PORT, address, seconds, version};
use super::report::{Text, percentiles, usage};
use super::storm::{End, Passed, Storm, allow_files};
use super::wire;

/// Connections at once when sessions are removed.
const REMOVERS: usize = 100;

/// What a storm has shown.
#[derive(Debug, Serialize)]
pub(super) struct ConnectReport {
    /// Name of the preset.
    pub(super) preset: &'static str,
    /// Connections that were to be opened.
    pub(super) connections: usize,
    /// How many at once.
    pub(super) concurrency: usize,
    /// Sessions that stay.
    pub(super) persistent: bool,
    /// From the first to the last.
    pub(super) seconds: f64,
    /// Connections a second.
    pub(super) connects_per_second: f64,
    /// Microseconds from connecting to CONNACK.
    pub(super) connack_us: Option<Percentiles>,
    /// Connections that were opened.
    pub(super) opened: u64,
    /// The broker said no.
    pub(super) refused: u64,
    /// No answer came.
    pub(super) lost: u64,
    /// The first reason for either.
    pub(super) reason: Option<String>,
    /// CPU time and the log.
    #[serde(flatten)]
    pub(super) usage: Usage,
}

impl ConnectReport {
    fn of(preset: &'static str, storm: &Storm<'_>, passed: &Passed, usage: Usage) -> Self {
        Self {
            preset,
            connections: storm.connections,
            concurrency: storm.concurrency,
            persistent: storm.persistent,
            seconds: passed.seconds,
            connects_per_second: passed.opened as f64 / passed.seconds,
            connack_us: passed.connack.percentiles(),
            opened: passed.opened,
            refused: passed.refused,
            lost: passed.lost,
            reason: passed.reason.clone(),
            usage: Usage {
                messages_per_round: None,
                log_bytes_per_message: None,
                ..usage
            },
        }
    }
}

impl Text for ConnectReport {
    fn text(&self) -> Vec<String> {
        let kind = if self.persistent { "persistent" } else { "clean" };
        let mut lines = vec![
            format!(
                "{}: {} {kind} connections, {} at once, {:.1} s",
                self.preset, self.connections, self.concurrency, self.seconds
            ),
            format!("connected    {:.0}/s", self.connects_per_second),
        ];
        lines.extend(percentiles("CONNACK", self.connack_us));
        let mut sum = format!(
            "all in all   {} opened, {} refused, {} lost",
            self.opened, self.refused, self.lost
        );
        if let Some(reason) = &self.reason {
            sum = format!("{sum}; first: {reason}");
        }
        lines.push(sum);
        lines.extend(usage(&self.usage, "connection"));
        lines
    }
}

/// Opens and ends connections.
///
/// # Errors
/// The broker cannot be reached, or refuses everybody.
pub(super) fn connect(args: &ConnectArgs) -> Result<ConnectReport, String> {
    allow_files(args.concurrency)?;
    let gauge = Gauge::new(&args.target.watch)?;
    let storm = Storm {
        broker: address(&args.target, MQTT_PORT)?,
        version: version(args.mqtt),
        prefix: &args.target.prefix,
        username: args.target.username.as_deref(),
        password: args.target.password.as_deref(),
        connections: args.connections,
        concurrency: args.concurrency,
        persistent: args.persistent,
        subscribe: false,
        end: if args.reset { End::Reset } else { End::Disconnect },
        progress: (!args.target.watch.json).then_some("connecting"),
    };
    let (passed, usage) = open(&storm, &gauge)?;
    forget(&storm)?;
    Ok(ConnectReport::of("connect", &storm, &passed, usage))
}

fn open(storm: &Storm<'_>, gauge: &Gauge) -> Result<(Passed, Usage), String> {
    let before = gauge.read();
    let passed = storm.run()?;
    let work = Work {
        messages: passed.opened,
        accepted: 0,
        seconds: passed.seconds,
    };
    let usage = gauge.read().since(&before, work);
    Ok((passed, usage))
}

/// Removes the sessions that stayed.
fn forget(storm: &Storm<'_>) -> Result<(), String> {
    if storm.persistent {
        Storm {
            persistent: false,
            subscribe: false,
            concurrency: REMOVERS,
            end: End::Disconnect,
            progress: storm.progress.map(|_| "removing sessions"),
            ..*storm
        }
        .run()?;
    }
    Ok(())
}

/// What idle connections have shown.
#[derive(Debug, Serialize)]
pub(super) struct IdleReport {
    /// Opening them.
    #[serde(flatten)]
    pub(super) opening: ConnectReport,
    /// The broker's resident memory before, in MiB.
    pub(super) mib_before: Option<f64>,
    /// With them.
    pub(super) mib_open: Option<f64>,
    /// Resident bytes for each.
    pub(super) bytes_per_connection: Option<f64>,
    /// Share of a core the broker uses while nobody does anything.
    pub(super) idle_cores: Option<f64>,
    /// A load before them.
    pub(super) live_before: Option<load::Report>,
    /// The same load beside them.
    pub(super) live_beside: Option<load::Report>,
}

impl Text for IdleReport {
    fn text(&self) -> Vec<String> {
        let mut lines = self.opening.text();
        if let (Some(before), Some(open), Some(bytes)) = (self.mib_before, self.mib_open, self.bytes_per_connection) {
            lines.push(format!(
                "memory       {before:.1} MiB before, {open:.1} MiB with them: {bytes:.0} B a connection"
            ));
        }
        lines.extend(self.idle_cores.map(|cores| format!("at rest      {cores:.3} cores")));
        for (when, report) in [("before", &self.live_before), ("beside", &self.live_beside)] {
            if let Some(report) = report {
                lines.push(String::new());
                lines.push(format!("a load {when} them:"));
                lines.extend(report.text());
            }
        }
        lines
    }
}

/// Opens connections and leaves them alone.
///
/// # Errors
/// The broker cannot be reached, or refuses everybody.
pub(super) fn idle(args: &IdleArgs) -> Result<IdleReport, String> {
    allow_files(args.connections)?;
    let gauge = Gauge::new(&args.target.watch)?;
    let pause = seconds(args.seconds)?;
    let storm = Storm {
        broker: address(&args.target, MQTT_PORT)?,
        version: version(args.mqtt),
        prefix: &args.target.prefix,
        username: args.target.username.as_deref(),
        password: args.target.password.as_deref(),
        connections: args.connections,
        concurrency: args.concurrency,
        persistent: args.persistent,
        subscribe: args.subscribe,
        end: End::Hold,
        progress: (!args.target.watch.json).then_some("opening"),
    };
    let live_before = live(args)?;
    let before = gauge.read();
    let (passed, usage) = open(&storm, &gauge)?;
    let begun = gauge.read();
    std::thread::sleep(pause);
    let open = gauge.read();
    let rest = Work {
        messages: 1,
        accepted: 0,
        seconds: pause.max(Duration::from_millis(1)).as_secs_f64(),
    };
    let live_beside = live(args)?;
    let grown = open
        .resident
        .zip(before.resident)
        .map(|(open, before)| open.saturating_sub(before));
    let report = IdleReport {
        opening: ConnectReport::of("idle", &storm, &passed, usage),
        mib_before: before.mib(),
        mib_open: open.mib(),
        bytes_per_connection: grown.map(|bytes| bytes as f64 / passed.opened.max(1) as f64),
        idle_cores: open.since(&begun, rest).broker_cores,
        live_before,
        live_beside,
    };
    for mut stream in passed.held {
        // One that is gone already needs no goodbye.
        drop(stream.write_all(&wire::DISCONNECT));
    }
    forget(&storm)?;
    Ok(report)
}

/// The small load, if it is wanted.
fn live(args: &IdleArgs) -> Result<Option<load::Report>, String> {
    if args.live_rate <= 0.0 {
        return Ok(None);
    }
    let load = LoadArgs {
        target: args.target.clone(),
        mqtt: args.mqtt,
        qos: 1,
        publishers: None,
        subscribers: None,
        topics: None,
        size: 64,
        window: 100,
        ahead: 0,
        rate: Some(args.live_rate),
        count: None,
        seconds: 2.0,
        warmup: 0.3,
        persistent: false,
        threads: 1,
    };
    load::run("live", &load).map(Some)
}
