//! `evermq bench` against the program itself: each preset runs briefly, and its JSON says that nothing was lost,
//! repeated or out of order. Nothing here looks at how long anything took.

#![expect(clippy::unwrap_used, reason = "a tool that does not answer is a failed test")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A program of ours that was started.
struct Running {
    child: Child,
    /// Words that followed each first word of its greeting.
    greeting: Vec<(String, String)>,
}

impl Running {
    /// Starts it and reads its greeting until a line begins with `last`.
    fn start(args: &[&str], last: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evermq"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut greeting = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some((first, rest)) = line.trim().split_once(' ') else {
                continue;
            };
            greeting.push((first.to_owned(), rest.trim().to_owned()));
            if first == last {
                break;
            }
        }
        Self { child, greeting }
    }

    fn word(&self, first: &str) -> &str {
        let found = self.greeting.iter().find(|(word, _)| word == first);
        &found.unwrap_or_else(|| panic!("no {first} in {:?}", self.greeting)).1
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // If it has ended already there is nothing to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A broker with a scratch directory.
struct Broker {
    running: Running,
    _dir: TempDir,
}

impl Broker {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        let data = data.to_str().unwrap();
        let args = ["--data-dir", data, "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let running = Running::start(&args, "start");
        Self { running, _dir: dir }
    }

    fn mqtt(&self) -> SocketAddr {
        self.running.word("MQTT").parse().unwrap()
    }

    fn http(&self) -> SocketAddr {
        let url = self.running.word("HTTP");
        let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/api"));
        address.unwrap().parse().unwrap()
    }

    /// What a preset says about it.
    fn bench(&self, args: &str) -> Value {
        bench(&format!(
            "{args} --port {} --pid {}",
            self.mqtt().port(),
            self.running.child.id()
        ))
    }
}

/// What a preset says.
fn bench(args: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evermq"));
    command.arg("bench").args(args.split_whitespace()).arg("--json");
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args}: {complaint}");
    assert_eq!(text.lines().count(), 1, "one line, no progress: {text} {complaint}");
    serde_json::from_str(&text).unwrap()
}

/// All of `count` messages were published and acknowledged, `expected` came, and none of them wrong.
#[track_caller]
fn nothing_is_wrong(report: &Value, expected: u64) {
    assert_eq!(report["expected"], expected, "{report}");
    assert_eq!(report["delivered"], expected, "{report}");
    for wrong in ["lost", "duplicates", "disordered"] {
        assert_eq!(report[wrong], 0, "{report}");
    }
}

#[test]
fn live_presets_deliver_everything_once_and_in_order_with_every_qos_and_version() {
    let broker = Broker::start();
    for (args, expected) in [
        ("live --qos 0 --count 300 --publishers 3", 900),
        ("live --qos 1 --count 300 --publishers 3 --persistent", 900),
        ("live --qos 2 --count 100 --publishers 3 --topics 7 --mqtt 3.1.1", 300),
        ("live --qos 1 --count 40 --publishers 2 --rate 2000 --threads 2", 80),
        ("fan-out --count 50 --subscribers 7 --size 1024", 350),
        ("fan-in --count 50 --publishers 7", 350),
    ] {
        let report = broker.bench(args);
        nothing_is_wrong(&report, expected);
        assert_eq!(report["acked"], report["published"], "{report}");
        assert!(report["ack_us"]["p50"].as_f64().unwrap_or(1.0) > 0.0, "{report}");
        assert!(report["end_to_end_us"]["p99"].as_f64().unwrap() > 0.0, "{report}");
        assert!(report["broker_mib"].as_f64().unwrap() > 0.0, "{report}");
    }
}

#[test]
fn publish_needs_no_subscriber() {
    let report = Broker::start().bench("publish --count 200 --publishers 4 --window 5");
    nothing_is_wrong(&report, 0);
    assert_eq!(report["acked"], 800, "{report}");
}

#[test]
fn a_run_of_some_time_ends_with_everything_delivered() {
    let report = Broker::start().bench("live --publishers 2 --seconds 0.2 --warmup 0.1 --persistent");
    nothing_is_wrong(&report, report["published"].as_u64().unwrap());
    assert_ne!(report["published"], 0, "{report}");
}

#[test]
fn what_is_published_to_absent_subscribers_comes_when_they_return() {
    let broker = Broker::start();
    for (args, expected) in [
        ("--count 1000 --publishers 4 --subscribers 3", 1_000),
        (
            "--count 300 --publishers 3 --subscribers 4 --all --qos 2 --mqtt 3.1.1",
            1_200,
        ),
    ] {
        let report = broker.bench(&format!("offline {args}"));
        nothing_is_wrong(&report, expected);
        assert_eq!(report["enqueue"]["acked"], report["enqueue"]["published"], "{report}");
        assert!(report["drain"]["first_ms"].as_f64().unwrap() > 0.0, "{report}");
        assert!(report["mib_backlog"].as_f64().unwrap() > 0.0, "{report}");
    }
}

#[test]
fn connections_are_opened_and_ended_or_kept() {
    let broker = Broker::start();
    for args in [
        "connect --connections 50 --concurrency 7",
        "connect --connections 20 --concurrency 30 --persistent --mqtt 3.1.1",
        "connect --connections 20 --concurrency 3 --reset",
        "idle --connections 60 --seconds 0.05 --subscribe --persistent",
    ] {
        let report = broker.bench(args);
        assert_eq!(report["opened"], report["connections"], "{report}");
        assert_eq!(report["lost"], 0, "{report}");
        assert!(report["connack_us"]["p50"].as_f64().unwrap() > 0.0, "{report}");
    }
    let report = broker.bench("idle --connections 30 --seconds 0.05 --live-rate 500");
    assert!(report["bytes_per_connection"].as_f64().unwrap() >= 0.0, "{report}");
    for live in ["live_before", "live_beside"] {
        nothing_is_wrong(&report[live], report[live]["published"].as_u64().unwrap());
    }
}

#[test]
fn http_presets_publish_fetch_and_create_sessions() {
    let broker = Broker::start();
    let http = |args: &str| bench(&format!("http {args} --port {}", broker.http().port()));
    let report = http("publish --callers 3 --batch 5 --count 20");
    assert_eq!(report["requests"], 60, "{report}");
    assert_eq!(report["messages"], 300, "{report}");
    assert_eq!(report["refused"], 0, "{report}");
    assert!(report["latency_us"]["p50"].as_f64().unwrap() > 0.0, "{report}");
    for (args, messages) in [
        ("fetch --callers 3 --batch 20 --count 5", 300),
        ("fetch --callers 4 --topics 2 --batch 7 --count 10", 560),
    ] {
        let report = http(args);
        assert_eq!(report["messages"], messages, "{report}");
        for wrong in ["refused", "lost", "duplicates", "disordered"] {
            assert_eq!(report[wrong], 0, "{report}");
        }
    }
    let report = http("sessions --callers 2 --count 10");
    assert_eq!(
        (&report["requests"], &report["refused"]),
        (&20.into(), &0.into()),
        "{report}"
    );
    let report = http("publish --callers 1 --seconds 0.1 --warmup 0.05");
    assert_ne!(report["messages"], 0, "{report}");
}

#[test]
fn the_sink_acknowledges_and_forwards() {
    let sink = Running::start(&["bench", "sink", "--listen", "127.0.0.1:0"], "sink");
    let address: SocketAddr = sink.word("sink").parse().unwrap();
    for (args, expected) in [
        ("live --qos 0 --count 300 --publishers 3", 900),
        ("live --qos 1 --count 300 --publishers 3 --mqtt 3.1.1", 900),
        ("live --qos 2 --count 100 --publishers 3 --threads 2", 300),
        ("fan-out --count 100 --subscribers 5 --size 1000", 500),
    ] {
        let report = bench(&format!("{args} --port {}", address.port()));
        nothing_is_wrong(&report, expected);
    }
}

#[test]
fn controls_measure_the_disk_and_the_bare_log() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    let disk = bench(&format!("disk {path} --seconds 0.05 --bytes 4096"));
    assert!(disk["sync_us"]["p50"].as_f64().unwrap() > 0.0, "{disk}");
    let log = bench(&format!("log {path} --seconds 0.05 --round 7"));
    assert!(log["records_per_round"].as_f64().unwrap() >= 7.0, "{log}");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn a_broker_that_is_not_there_is_an_error_and_no_measurement() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evermq"));
    let output = command.args(["bench", "live", "--port", "1"]).output().unwrap();
    assert!(!output.status.success());
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(
        complaint.contains("evermq: cannot connect to 127.0.0.1:1"),
        "{complaint}"
    );
}
